//! What can be wrong with arguments, profiles and the host they meet.

use super::git::MOST_REPOSITORIES;
use crate::confine::landlock::Unavailable;
use crate::profile::{ExpandError, ProfileError};
use remount_broker::escape::Escaped;
use remount_broker::name::TargetName;
use remount_broker::reason::Reason;
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// A specification that cannot be carried out. Nothing has been done.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A profile could not be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The working directory is gone.
    #[error("find the working directory: it was removed or cannot be reached")]
    NoCwd,
    /// An overlay cannot keep its changes there.
    #[error("{origin}: keep changes in {}: {why}", show(path))]
    Changes {
        /// Where.
        path: PathBuf,
        /// Who asked for it.
        origin: String,
        /// Why not.
        why: &'static str,
    },
    /// It cannot be found out what a person holds read-only.
    #[error("read what is held read-only, in {}: {}", show(.0), Reason::from(*.1))]
    Held(PathBuf, Errno),
    /// The project would be the whole home directory or more.
    #[error("make {} the project: it holds the home directory, and all of it would be writable", show(.0))]
    ProjectTooLarge(PathBuf),
    /// The project would be a directory that no sandbox may have.
    #[error("make {path:?} the project: {why}")]
    ProjectUnsuitable {
        /// The directory.
        path: PathBuf,
        /// What it is.
        why: &'static str,
    },
    /// The index names more repositories than are protected.
    #[error("make {} the project, with git = \"ro\": its index names more than {MOST_REPOSITORIES} other repositories", show(.0))]
    TooManyRepositories(PathBuf),
    /// A path that must be absolute is not.
    #[error("{origin}: {}: not an absolute path", show(path))]
    Relative {
        /// The path as given.
        path: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// A path with `..`.
    #[error("{origin}: {}: contains '..'", show(path))]
    DotDot {
        /// The path as given.
        path: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// A shim is to be in force while a target is read-only that there is not.
    #[error("{origin}: [shims.{tool}] when = \"ro:{target}\": there is no target {target}")]
    ShimTarget {
        /// The tool.
        tool: String,
        /// The target.
        target: TargetName,
        /// Who asked for it.
        origin: String,
    },
    /// A file that is needed cannot be found.
    #[error("{origin}: find {}: {}", show(path), Reason::from(*errno))]
    Find {
        /// The path as given.
        path: PathBuf,
        /// Who gave it.
        origin: String,
        /// Why.
        errno: Errno,
    },
    /// A destination that does not exist.
    #[error("{origin}: mount on {}: there is no such file or directory in the sandbox", show(path))]
    NoMountpoint {
        /// The destination.
        path: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// Directory on file or the other way round.
    #[error(
        "{origin}: mount {} on {}: one is a directory and the other is not",
        show(from),
        show(path)
    )]
    Shape {
        /// The source.
        from: PathBuf,
        /// The destination.
        path: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// A destination that the sandbox makes itself.
    #[error("{origin}: mount on {}: the sandbox makes it itself", show(path))]
    Reserved {
        /// The destination.
        path: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// A source where the control sockets or event logs of sandboxes are.
    #[error("{origin}: bind {path:?}: sandboxes are controlled from there")]
    OutsideOnly {
        /// The source.
        path: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// A source that profiles are read from, to be writable.
    #[error("{origin}: bind {path:?} writable: profiles of remount-run are read from there")]
    Configuration {
        /// The source.
        path: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// A source on a process file system, or that has one in it.
    #[error("{origin}: bind {}: it would show the host's processes", show(path))]
    ProcSource {
        /// The source.
        path: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// A source that a sandboxed agent could have redirected.
    #[error(
        "{origin}: bind {}: it passes through the symbolic link {}, which is in a writable directory",
        show(path),
        show(link)
    )]
    PlantedLink {
        /// The source as given.
        path: PathBuf,
        /// The link.
        link: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// A file of `--audit` that the command could change, or choose.
    #[error("--audit: write to {}: {why}", show(path))]
    Record {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// A socket that a sandboxed agent could have replaced, or that cannot be reached.
    #[error("{origin}: let the sandbox read from {}: {why}", show(path))]
    Upstream {
        /// The socket as given.
        path: PathBuf,
        /// Why not.
        why: &'static str,
        /// Who asked for it.
        origin: String,
    },
    /// The same files writable at two places.
    #[error(
        "{first_origin} and {second_origin}: {} and {} are the same files at two places, so that one could undo the other's mode",
        show(first),
        show(second)
    )]
    Alias {
        /// One destination.
        first: PathBuf,
        /// Who gave it.
        first_origin: String,
        /// The other destination.
        second: PathBuf,
        /// Who gave it.
        second_origin: String,
    },
    /// Something mounted where a mask hides everything.
    #[error("{origin}: mount on {}: {mask_origin} masks {}", show(dest), show(mask))]
    MaskHides {
        /// What is masked.
        mask: PathBuf,
        /// Who masks it.
        mask_origin: String,
        /// What is mounted below.
        dest: PathBuf,
        /// Who mounts it.
        origin: String,
    },
    /// A missing path to protect, where nothing can be made in its place.
    #[error(
        "{origin}: keep {} from being created: {} is this user's, but cannot be written to",
        show(path),
        show(parent)
    )]
    Guard {
        /// The path.
        path: PathBuf,
        /// The directory on the host that it would be in.
        parent: PathBuf,
        /// Who wants it protected.
        origin: String,
    },
    /// Two targets of one name.
    #[error("{origin}: target {name} at {}: the name is taken by {}", show(second), show(first))]
    TargetName {
        /// The name.
        name: TargetName,
        /// The first target's destination.
        first: PathBuf,
        /// The second's.
        second: PathBuf,
        /// Who gave the second.
        origin: String,
    },
    /// A target of which every mount is read-only on the host.
    #[error("{origin}: make {} the target {name}: it is read-only on the host", show(path))]
    ReadOnlyTarget {
        /// The name.
        name: TargetName,
        /// Where it is on the host.
        path: PathBuf,
        /// Who asked.
        origin: String,
    },
    /// A target that can never be switched.
    #[error("{origin}: make {} a target: {why}", show(path))]
    NotToggleable {
        /// The destination.
        path: PathBuf,
        /// What is there instead of a bind.
        why: &'static str,
        /// Who asked.
        origin: String,
    },
    /// Something to protect, where something else is mounted.
    #[error("{origin}: protect {}: {by} mounts something there", show(path))]
    ProtectTaken {
        /// What was to be protected.
        path: PathBuf,
        /// Who mounts something there.
        by: String,
        /// Who protects it.
        origin: String,
    },
    /// A size that is none.
    #[error("--size: {0}")]
    Size(String),
    /// A path of a profile that cannot be expanded.
    #[error("{origin}: {}: {error}", Escaped::text(text))]
    Expand {
        /// As written.
        text: String,
        /// Who gave it.
        origin: String,
        /// Why.
        error: ExpandError,
    },
    /// An environment variable that cannot be set.
    #[error("--setenv {}: a variable's name has no '=' and is not empty", Escaped::text(.0))]
    Variable(String),
    /// A host name the kernel does not take.
    #[error("--hostname: {0}")]
    Hostname(String),
    /// The kernel has no Landlock.
    #[error("use Landlock: {0}")]
    Landlock(Unavailable),
    /// The kernel has no seccomp.
    #[error("use seccomp: {:#}", Reason::from(*.0))]
    Seccomp(Errno),
    /// `chmod = false` without seccomp.
    #[error("refuse changes of permissions (chmod = false): {:#}", Reason::from(*.0))]
    Chmod(Errno),
    /// The program's own file is gone.
    #[error("find this program's own file {}: {}", show(.0), Reason::from(*.1))]
    Program(PathBuf, Errno),
    /// No such command.
    #[error("{}: command not found", Escaped::os(.0))]
    CommandNotFound(std::ffi::OsString),
    /// The command exists, but not in the sandbox.
    #[error("{}: command not found in the sandbox: it is hidden there", show(.0))]
    CommandHidden(PathBuf),
    /// A command that cannot be executed.
    #[error("execute {}: {}", show(path), Reason::from(*errno))]
    CommandNotExecutable {
        /// The file.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// A sandbox that is read-only, and could open itself.
    #[error(
        "--authority self: in a read-only sandbox no process inside may make a target writable"
    )]
    OpenedFromInside,
    /// A read-only profile for a sandbox whose binds are given by options.
    #[error("a read-only profile takes no bind of the options away")]
    ReadOnlyGiven,
    /// A standard descriptor that is a way around every mount.
    #[error("standard descriptor {0} is a directory: it would be a way around the sandbox")]
    DirectoryOnStdio(i32),
}

impl SpecError {
    /// A path of a profile that cannot be expanded.
    pub(super) fn expand(origin: &str, text: &str, error: ExpandError) -> Self {
        Self::Expand { text: text.to_owned(), origin: origin.to_owned(), error }
    }

    /// The exit code of `remount-run` for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::CommandNotExecutable { .. } => 126,
            Self::CommandNotFound(_) | Self::CommandHidden(_) => 127,
            _ => 125,
        }
    }

    /// What to do about it, if that is known.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Profile(error) => return error.hint(),
            Self::NoCwd => "change to a directory that exists",
            Self::Changes { .. } => "name a directory of its own, outside of the project",
            Self::ShimTarget { .. } => "name a target of this sandbox, such as workspace",
            Self::Held(..) => {
                "mend or remove the file 'held' there, which 'remountctl ro --path' wrote"
            }
            Self::ProjectTooLarge(_) | Self::ProjectUnsuitable { .. } => {
                "change to a project's directory first, or set [workspace] path in a profile"
            }
            Self::TooManyRepositories(_) => {
                "take some out of it, or set git = \"hooks\" under [workspace] in a profile"
            }
            Self::Relative { .. } => "write it from the root, beginning with /",
            Self::DotDot { .. } => "write the path without '..'",
            Self::Find { origin, errno: Errno::NOENT, .. } => match origin.as_str() {
                "--bind" => "check the spelling; --bind-try skips what does not exist",
                "--ro-bind" => "check the spelling; --ro-bind-try skips what does not exist",
                "--chdir" => "name a directory that exists in the sandbox",
                _ => "check the spelling",
            },
            Self::Find { errno: Errno::ACCESS, .. } => {
                "it takes the right to enter every directory on the way"
            }
            Self::Find { errno: Errno::LOOP, .. } => "symbolic links lead in a circle there",
            Self::Find { .. } => "check what is there with ls -ld",
            Self::NoMountpoint { .. } => {
                "the host's directories are read-only and nothing is created in them: \
                 choose a destination that exists, or one below a --tmpfs"
            }
            Self::Shape { .. } => "bind a directory on a directory and a file on a file",
            Self::Reserved { .. } => {
                "choose another destination; /, /dev, /proc, /run and /run/remount are taken"
            }
            Self::OutsideOnly { .. } => "leave it out: an agent must not reach it",
            Self::Configuration { .. } => {
                "an agent must not decide what the next start allows: bind it read-only"
            }
            Self::ProcSource { .. } => {
                "the sandbox has a /proc of its own; of /, bind the directories that are needed"
            }
            Self::PlantedLink { .. } => {
                "name the file the link leads to, if it is the one you mean"
            }
            Self::MaskHides { .. } => {
                "take the mask back with [remove] mask in a profile, or choose another place"
            }
            Self::Alias { .. } => "bind one of them, or make one of them read-only",
            Self::TargetName { .. } => "give every target a name of its own",
            Self::ReadOnlyTarget { .. } => {
                "a sandbox makes nothing writable that the host has read-only: mount it writable there"
            }
            Self::ProtectTaken { .. } => {
                "take the protection back with [remove] protect in a profile, or bind something else"
            }
            Self::Guard { .. } => {
                "chmod u+w the directory, create what is missing, or give it missing = \"skip\""
            }
            Self::NotToggleable { .. } => {
                "only files and directories of the host can be switched: --bind it first"
            }
            Self::Record { .. } => "name a file in a directory that is read-only in the sandbox",
            Self::Upstream { .. } => {
                "let the program listen elsewhere, and name that as `upstream`"
            }
            Self::Size(_) => "for example --size 64M --tmpfs /scratch",
            Self::Landlock(error) => {
                let optional = "or set landlock = \"optional\" under [sandbox] in a profile to go on without it";
                return Some(format!("{}, {optional}", error.hint()));
            }
            Self::Seccomp(_) => {
                "use a kernel with CONFIG_SECCOMP_FILTER=y, or set seccomp = \"optional\" under \
                 [sandbox] in a profile to go on without it"
            }
            Self::Chmod(_) => "it rests on seccomp: use a kernel with CONFIG_SECCOMP_FILTER=y",
            Self::CommandNotFound(_) => "check the spelling and PATH",
            Self::CommandHidden(_) => {
                "it is below a directory that is private in the sandbox: --ro-bind it"
            }
            Self::CommandNotExecutable { errno, .. } if *errno == Errno::ISDIR => {
                "name a program, not a directory"
            }
            Self::CommandNotExecutable { .. } => "chmod +x it, or name its interpreter",
            Self::ReadOnlyGiven => "start it without the name bwrap, or use --ro-bind",
            Self::OpenedFromInside => "leave it out: 'remountctl rw NAME', outside, opens a target",
            Self::DirectoryOnStdio(_) => "redirect it from or to a file",
            Self::Program(..) => "it was replaced while it ran: start again",
            Self::Variable(_) => "write --setenv NAME VALUE, two words",
            Self::Hostname(_) => "for example --hostname sandbox",
            Self::Expand { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

fn show(path: &Path) -> Escaped<'_> {
    Escaped::path(path)
}
