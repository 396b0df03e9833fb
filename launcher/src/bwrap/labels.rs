//! SELinux labels, of the command and of files that are made for it.

use super::error::{Die, OrDie, Result, bytes};
use super::fds::write_all;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

/// Where SELinux is mounted, if there is one (selinux(8)).
const SELINUX: &str = "/sys/fs/selinux";

fn write(file: &str, label: &OsStr) -> std::result::Result<(), Errno> {
    let fd = rustix::fs::open(file, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    write_all(fd.as_fd(), &[label.as_bytes(), b"\0"].concat())
}

/// Whether there is SELinux, and the label is one.
pub(super) fn check(label: &OsStr) -> Result<()> {
    let context = format!("{SELINUX}/context");
    match write(&context, label) {
        Err(Errno::NOENT) => Err(Die::new("labeling not supported on this system")),
        result => result.or_die(|| bytes!("invalid label ", label)),
    }
}

/// What this process executes next has the label.
pub(super) fn exec(label: &OsStr, command: &OsStr) -> Result<()> {
    write("/proc/self/attr/exec", label).or_die(|| bytes!("label_exec ", command))
}

/// The files that this process makes have the label.
pub(super) fn files(label: &OsStr) -> Result<()> {
    write("/proc/self/attr/fscreate", label).or_die(|| "--file-label setup failed")
}
