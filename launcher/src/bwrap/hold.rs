//! What a person holds read-only, under the name `bwrap`.

use super::error::{Die, OrDie, Result, bytes};
use crate::hold::{Hold, Since};
use remount_broker::held;
use remount_broker::host::Places;
use remount_broker::sys::mount::{self, Attributes, Reach};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

fn unreadable(state: &Path, errno: Errno) -> Die {
    let file = state.join(held::FILE);
    let text = bytes!("Can't read which directories are held read-only, ", &file);
    Die::errno(text, errno)
}

/// Reads it. Who has no home directory holds nothing.
pub(super) fn read(places: Option<&Places>) -> Result<Option<Hold>> {
    let read = |state: &Path| Hold::read(state).map_err(|errno| unreadable(state, errno));
    places.map(|places| read(&places.state)).transpose()
}

/// Ends the start if something else is held by now.
pub(super) fn check(since: &Since) -> Result<()> {
    match since.is_over() {
        Ok(false) => Ok(()),
        Ok(true) => {
            let text = "What is held read-only was changed while the sandbox started: try again";
            Err(Die::new(text))
        }
        Err(errno) => Err(unreadable(&since.state, errno)),
    }
}

/// Covers `path` in an attached mount by itself, read-only; what is not there need not be.
pub(super) fn cover(tree: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let place = match mount::open_exact(tree, path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        result => result.or_die(|| bytes!("Can't hold read-only ", path))?,
    };
    let cover = || {
        let cover = mount::clone_tree(place.as_fd())?;
        mount::set_attributes(cover.as_fd(), Attributes::READ_ONLY, Reach::Tree)?;
        mount::attach(cover.as_fd(), place.as_fd())
    };
    cover().or_die_mounting(|| bytes!("Can't hold read-only ", path))
}
