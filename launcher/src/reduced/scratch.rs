//! Where the command may write.

use crate::front::say;
use crate::outside;
use remount_broker::escape::Escaped;
use std::fs::Permissions;
use std::io::{ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A directory of the host; removed with this.
pub(super) struct Scratch(pub PathBuf);

impl Scratch {
    /// A directory of its own in the host's `/tmp`; none if that cannot be written to.
    pub fn new() -> Option<Self> {
        let path = Path::new("/tmp").join(format!("remount-{}", outside::new_id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).ok()?;
        Some(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            say(&format!("remount-run: warning: remove {}: {error}", Escaped::path(&self.0)));
        }
    }
}

/// Removes a directory and all below it, whatever permissions the command gave, and however
/// deep it went: directories move to the top before what holds them is removed.
fn remove(top: &Path) -> Result<()> {
    let mut number = 0;
    loop {
        std::fs::set_permissions(top, Permissions::from_mode(0o700))?;
        let mut is_empty = true;
        for entry in std::fs::read_dir(top)? {
            let entry = entry?;
            is_empty = false;
            if entry.file_type()?.is_dir() {
                empty(&entry.path(), top, &mut number)?;
                std::fs::remove_dir(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        if is_empty {
            return std::fs::remove_dir(top);
        }
    }
}

/// Removes the files in a directory, and moves the directories to `top`.
fn empty(dir: &Path, top: &Path, number: &mut u64) -> Result<()> {
    std::fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            std::fs::remove_file(entry.path())?;
            continue;
        }
        // To move a directory is to write to it.
        std::fs::set_permissions(entry.path(), Permissions::from_mode(0o700))?;
        loop {
            *number += 1;
            match std::fs::rename(entry.path(), top.join(format!("{number}"))) {
                Err(error) if is_taken(error.kind()) => {}
                result => break result?,
            }
        }
    }
    Ok(())
}

fn is_taken(error: ErrorKind) -> bool {
    matches!(
        error,
        ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory | ErrorKind::AlreadyExists
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_was_made_is_removed() {
        let Scratch(top) = &Scratch::new().unwrap();
        let make = |path: &str, mode: u32| {
            std::fs::create_dir(top.join(path)).unwrap();
            std::fs::write(top.join(path).join("file"), "").unwrap();
            std::fs::set_permissions(top.join(path), Permissions::from_mode(mode)).unwrap();
        };
        let dirs = ["1", "2", "2/1", "2/1/1", "a", "a/b"];
        dirs.iter().for_each(|path| make(path, 0o700));
        std::os::unix::fs::symlink("/etc", top.join("a/b/link")).unwrap();
        for path in dirs.iter().rev() {
            std::fs::set_permissions(top.join(path), Permissions::from_mode(0o000)).unwrap();
        }
        remove(top).unwrap();
        assert!(!top.exists() && Path::new("/etc").exists());
        std::fs::create_dir(top).unwrap();
    }

    #[test]
    fn no_depth_is_too_deep() {
        let Scratch(top) = &Scratch::new().unwrap();
        let mut at =
            rustix::fs::open(top, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
                .unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "deeper", rustix::fs::Mode::RWXU).unwrap();
            let flags = rustix::fs::OFlags::DIRECTORY;
            at = rustix::fs::openat(&at, "deeper", flags, rustix::fs::Mode::empty()).unwrap();
        }
        remove(top).unwrap();
        assert!(!top.exists());
        std::fs::create_dir(top).unwrap();
    }
}
