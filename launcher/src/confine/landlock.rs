//! Landlock: which files the command may use, beyond what mounts and permissions say.
//!
//! The ruleset handles every right of the kernel's ABI, so what no rule grants is
//! denied. Rules cannot be widened later: whatever may become writable while the
//! sandbox runs is granted write for good, and the mount flag is the gate.
//! Network rights are not handled; the network namespace is the means for that.

use super::ConfineError;
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath,
    RestrictSelf, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
    make_bitflags,
};
use rustix::fs::{FileType, Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// What may be done with a file, or with a directory and all below it. Several rules for
/// one file add up, and so do those for the directories above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read, list, execute.
    ReadExecute,
    /// Read, list, and write what is there, but make, remove and rename nothing: `/proc`.
    WriteExisting,
    /// As [`Access::WriteExisting`], and control by `ioctl`: `/dev`.
    Device,
    /// Everything with ordinary files, also moving and linking them between directories.
    /// Not the making of device nodes: no command in a sandbox may do that.
    Full,
    /// The names in directories, and nothing else.
    List,
    /// Use of a unix socket that someone outside made, on kernels that tell (ABI 9).
    Socket,
}

impl Access {
    /// The rights that this is in `abi`, for a directory or for anything else.
    fn rights(self, abi: ABI, is_dir: bool) -> BitFlags<AccessFs> {
        use AccessFs as Fs;
        let write = make_bitflags!(Fs::{ReadFile | ReadDir | WriteFile | Truncate});
        let rights = match self {
            Self::ReadExecute => make_bitflags!(Fs::{ReadFile | ReadDir | Execute}),
            Self::WriteExisting => write,
            Self::Device => write | Fs::IoctlDev,
            Self::Full => !make_bitflags!(Fs::{MakeChar | MakeBlock | IoctlDev | ResolveUnix}),
            Self::List => Fs::ReadDir.into(),
            Self::Socket => make_bitflags!(Fs::{ReadFile | WriteFile | ResolveUnix}),
        };
        let possible = if is_dir { Fs::from_all(abi) } else { Fs::from_file(abi) };
        rights & possible
    }
}

/// One file or directory and what is granted there.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// Where it is inside, for messages.
    pub path: &'a Path,
    /// A descriptor of it (`O_PATH` is enough). It must be opened through the final
    /// mounts: the rule is for this file and does not follow the path.
    pub at: BorrowedFd<'a>,
    /// What is granted.
    pub access: Access,
}

/// Why a kernel has no Landlock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// `ENOSYS`.
    #[error("this kernel is built without Landlock")]
    NotBuilt,
    /// `EOPNOTSUPP`.
    #[error("Landlock is built into this kernel but was not enabled at boot")]
    NotEnabled,
}

impl Unavailable {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::NotBuilt => {
                "use a kernel of 5.13 or newer with CONFIG_SECURITY_LANDLOCK=y, \
                 or check that no outer sandbox forbids landlock_create_ruleset"
            }
            Self::NotEnabled => {
                "add landlock to the lsm= list of the kernel command line \
                 (see /sys/kernel/security/lsm for the present list) and reboot"
            }
        }
    }
}

/// The newest Landlock ABI that both this kernel and this program know. Changes nothing.
///
/// # Errors
/// [`Unavailable`] on a kernel without Landlock.
pub fn detect() -> Result<u32, Unavailable> {
    // Without flags this only asks for the version.
    let status = RestrictSelf::default().no_new_privs(false).apply();
    match status.map(|status| status.landlock) {
        Ok(LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi as u32),
        Ok(LandlockStatus::NotEnabled) => Err(Unavailable::NotEnabled),
        Ok(LandlockStatus::NotImplemented) | Err(_) => Err(Unavailable::NotBuilt),
    }
}

/// What each ABI brought, as what is lost below it
/// (Documentation/userspace-api/landlock.rst).
const LOST_BELOW: [(u32, &str); 5] = [
    (2, "moving or linking a file into another directory is always refused (needs Linux 5.19)"),
    (3, "truncating a file is not restricted (needs Linux 6.2)"),
    (5, "ioctl on devices is not restricted (needs Linux 6.10)"),
    (6, "abstract unix sockets and signals are not restricted (needs Linux 6.12)"),
    (9, "connecting to unix sockets by path is not restricted (needs Linux 7.1)"),
];

/// What Landlock of `abi` cannot do that a newer one can.
#[must_use]
pub fn missing_below(abi: u32) -> Vec<&'static str> {
    LOST_BELOW.iter().filter(|(since, _)| abi < *since).map(|&(_, what)| what).collect()
}

/// Confines the calling thread, and all it starts, to `rules`, with every right and
/// scope that `abi` has. Sets `no_new_privs`.
///
/// `abi` is what [`detect`] found when the plan was made. Less than that is an error,
/// never silently a weaker sandbox.
///
/// # Errors
/// [`ConfineError::LandlockRuleset`] if the kernel does not support `abi`;
/// [`ConfineError::LandlockRule`] with the path of the rule that failed;
/// [`ConfineError::LandlockEnforce`], [`ConfineError::LandlockIncomplete`].
pub fn restrict(abi: u32, rules: &[Rule<'_>]) -> Result<(), ConfineError> {
    let mut ruleset = Unfinished::new(abi)?;
    for rule in rules {
        ruleset = ruleset.with(rule)?;
    }
    ruleset.enforce()
}

/// As [`restrict`], and each path is opened only when it is granted, so that there may be
/// more than a process may have open. One that is gone or a symlink is left out.
///
/// # Errors
/// As [`restrict`].
pub fn restrict_paths(abi: u32, rules: &[(PathBuf, Access)]) -> Result<(), ConfineError> {
    let mut ruleset = Unfinished::new(abi)?;
    for (path, access) in rules {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) else { continue };
        let stat = rustix::fs::fstat(&fd);
        let is_link = stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_symlink());
        if !is_link {
            ruleset = ruleset.with(&Rule { path, at: fd.as_fd(), access: *access })?;
        }
    }
    ruleset.enforce()
}

/// A ruleset to which rules are added.
struct Unfinished {
    ruleset: RulesetCreated,
    level: ABI,
}

impl Unfinished {
    fn new(abi: u32) -> Result<Self, ConfineError> {
        let level = i32::try_from(abi).map_or(ABI::V9, ABI::from);
        let created = || {
            let mut ruleset = Ruleset::default()
                .set_compatibility(CompatLevel::HardRequirement)
                .handle_access(AccessFs::from_all(level))?;
            let scopes = Scope::from_all(level);
            if !scopes.is_empty() {
                ruleset = ruleset.scope(scopes)?;
            }
            ruleset.create()
        };
        let ruleset = created()
            .map_err(|source| ConfineError::LandlockRuleset { abi, source: Box::new(source) })?;
        Ok(Self { ruleset, level })
    }

    fn with(self, rule: &Rule<'_>) -> Result<Self, ConfineError> {
        let Self { ruleset, level } = self;
        let failed = |source| ConfineError::LandlockRule { path: rule.path.to_owned(), source };
        let is_dir = is_dir(rule.at).map_err(|errno| failed(errno.into()))?;
        let rights = rule.access.rights(level, is_dir);
        let ruleset = ruleset
            .add_rule(PathBeneath::new(rule.at, rights))
            .map_err(|source| failed(source.into()))?;
        Ok(Self { ruleset, level })
    }

    fn enforce(self) -> Result<(), ConfineError> {
        let status = self
            .ruleset
            .restrict_self()
            .map_err(|source| ConfineError::LandlockEnforce(Box::new(source)))?;
        match (status.ruleset, status.no_new_privs) {
            (RulesetStatus::FullyEnforced, true) => Ok(()),
            _ => Err(ConfineError::LandlockIncomplete),
        }
    }
}

fn is_dir(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

#[cfg(test)]
mod tests;
