//! Whether somebody has a file open for writing.

use super::mount::last_errno;
use rustix::io::{Errno, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Whether anybody on this machine can write to `file`, a regular one that is open for reading,
/// by a descriptor or a mapping. The kernel says so to who asks for a lease (fcntl(2),
/// `F_SETLEASE`), which is given back at once. SIGIO is ignored from now on: it would come if
/// somebody opened the file in that moment.
///
/// # Errors
/// `EACCES`: it belongs to another user. `EINVAL`: its filesystem has no leases.
pub fn are_there(file: BorrowedFd<'_>) -> Result<bool> {
    // SAFETY: SIG_IGN is no handler: no code of ours can run because of it.
    if unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(last_errno());
    }
    let lease = |kind: libc::c_int| {
        // SAFETY: fcntl reads no memory, and the descriptor is open for the whole call.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
            0.. => Ok(()),
            _ => Err(last_errno()),
        }
    };
    match lease(libc::F_RDLCK) {
        Ok(()) => lease(libc::F_UNLCK).map(|()| false),
        Err(Errno::AGAIN) => Ok(true),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsFd;

    #[test]
    fn who_can_write_is_noticed_and_who_reads_is_not() {
        let path = std::env::temp_dir().join(format!("remount-writers.{}", std::process::id()));
        std::fs::write(&path, "x").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(are_there(file.as_fd()), Ok(false));
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(are_there(file.as_fd()), Ok(true));
        drop(writer);
        let reader = File::open(&path).unwrap();
        assert_eq!(are_there(file.as_fd()), Ok(false));
        // Nothing of it stays: somebody else can open it.
        drop((reader, OpenOptions::new().write(true).open(&path).unwrap()));
        std::fs::remove_file(&path).unwrap();
    }
}
