//! The file of `--audit`: where nothing inside can write, and not to be seen.

use super::super::{Asker, SpecError};
use super::{Layout, find_error};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

impl Layout<'_> {
    /// Where the file is that `asked` means, which need not exist yet, without symlinks; it is
    /// hidden. `cwd` is what a relative path begins at.
    ///
    /// Refused is what a sandbox could change, also another one of the same profile: a file that
    /// is hidden here can be emptied there, and a link on the way to it would choose which of
    /// the person's files is written to.
    ///
    /// # Errors
    /// Also if its directory is not there.
    pub fn hide_record(&mut self, asked: &Path, cwd: &Path) -> Result<PathBuf, SpecError> {
        let origin = Asker::Option("--audit");
        let asked = cwd.join(asked);
        let (Some(dir), Some(name)) = (asked.parent(), asked.file_name()) else {
            return Err(find_error(&asked, &origin, Errno::ISDIR));
        };
        let found = self.host.files.find(dir).map_err(|errno| find_error(dir, &origin, errno))?;
        let path = found.path.join(name);
        if self.host.files.lstat(&path).is_ok_and(|stat| stat.is_dir()) {
            return Err(find_error(&path, &origin, Errno::ISDIR));
        }
        let refuse = |path: PathBuf, why| Err(SpecError::Record { path, why });
        if self.view.planted_link(&asked).is_some() {
            return refuse(
                asked,
                "its path has a symbolic link in it that the command can replace",
            );
        }
        let mut places = self.elsewhere(&path);
        places.extend(self.view.locate(&path).ok());
        let is_open = |place: &std::rc::Rc<super::Place>| {
            let shown = place.on_host().is_some_and(|shown| shown == path);
            place.is_writable() && (shown || place.path != path) && !place.is_fresh()
        };
        if places.iter().any(is_open) {
            return refuse(path, "it is where the command can write, now or after a toggle");
        }
        self.hide_outside(std::slice::from_ref(&path))?;
        Ok(path)
    }
}
