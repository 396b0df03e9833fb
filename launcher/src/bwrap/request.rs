//! What bubblewrap's command line asks for. Nothing here opens a file or changes
//! anything but what `--args`, `--seccomp` and their like say is to be read.

use super::caps::Requested;
use super::environment::Environment;
use super::fds::{Named, Registry};
use super::narrow::Narrowing;
use super::toggle::{Targets, Toggle};
use crate::hold::Hold;
use crate::plan::Identity;
use std::ffi::OsString;

/// All of a command line.
#[derive(Debug)]
pub(super) struct Request {
    /// Who called.
    pub(super) caller: Identity,
    /// Every descriptor that was named: what no option uses goes to the command.
    pub(super) registry: Registry,
    pub(super) unshare: Unshare,
    /// The user namespace to join, and the one to join in the end.
    pub(super) userns: Option<Named>,
    pub(super) userns2: Option<Named>,
    pub(super) pidns: Option<Named>,
    pub(super) disable_userns: bool,
    pub(super) assert_userns_disabled: bool,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) hostname: Option<OsString>,
    pub(super) argv0: Option<OsString>,
    pub(super) chdir: Option<OsString>,
    pub(super) environment: Environment,
    pub(super) lock_files: Vec<OsString>,
    pub(super) sync_fd: Option<Named>,
    pub(super) block_fd: Option<Named>,
    pub(super) userns_block_fd: Option<Named>,
    pub(super) info_fd: Option<Named>,
    pub(super) json_status_fd: Option<Named>,
    pub(super) seccomp_fd: Option<Named>,
    /// Filters, in the order of the command line.
    pub(super) filters: Vec<super::seccomp::Program>,
    pub(super) exec_label: Option<OsString>,
    pub(super) file_label: Option<OsString>,
    pub(super) new_session: bool,
    pub(super) die_with_parent: bool,
    pub(super) as_pid_1: bool,
    pub(super) capabilities: Requested,
    /// What is done to the file system, in order.
    pub(super) ops: Vec<Op>,
    /// What may not be shown writable; `None` if there is nowhere to look.
    pub(super) hold: Option<Hold>,
    /// Profiles that are to take something away.
    pub(super) profiles: Vec<OsString>,
    /// What they do.
    pub(super) narrowing: Option<Narrowing>,
    /// Binds that were named to be targets.
    pub(super) toggles: Vec<Toggle>,
    /// What can be switched while the sandbox runs; `None` without any target.
    pub(super) targets: Option<Targets>,
    /// The command and its arguments.
    pub(super) command: Vec<OsString>,
}

/// Which namespaces are to be new.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Unshare {
    pub(super) user: bool,
    pub(super) user_try: bool,
    pub(super) ipc: bool,
    pub(super) pid: bool,
    pub(super) net: bool,
    pub(super) uts: bool,
    pub(super) cgroup: bool,
    pub(super) cgroup_try: bool,
}

/// One step of building the sandbox's file tree.
#[derive(Debug)]
pub(super) struct Op {
    /// Where, as typed; a host name for [`Kind::Hostname`].
    pub(super) dest: OsString,
    pub(super) kind: Kind,
}

/// What a step does.
#[derive(Debug)]
pub(super) enum Kind {
    Bind { source: Source, access: Access, optional: bool },
    Overlay { store: Store, layers: Vec<OsString> },
    RemountRo,
    Proc,
    Dev,
    Tmpfs { permissions: u32, size: Option<u64> },
    Mqueue,
    Directory { permissions: u32 },
    File { from: Named, permissions: u32 },
    BindData { from: Named, permissions: u32, access: Access },
    Symlink { target: OsString },
    Chmod { permissions: u32 },
    Hostname,
}

/// What of the host a bind shows.
#[derive(Debug)]
pub(super) enum Source {
    /// The file at a path, as typed.
    Path(OsString),
    /// What a descriptor is open on.
    Descriptor(Named),
}

/// What can be done through a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    ReadOnly,
    Write,
    /// Write, and device files work.
    Devices,
}

/// Where an overlay keeps what is written.
#[derive(Debug)]
pub(super) enum Store {
    /// On the host; the second directory is overlayfs's own.
    Host { upper: OsString, work: OsString },
    /// In memory, thrown away.
    Memory,
    /// Nowhere: it is read-only.
    Nowhere,
}
