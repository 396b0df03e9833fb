//! What can be wrong with arguments, profiles and the host they meet.

use crate::confine::landlock::Unavailable;
use crate::profile::{ExpandError, ProfileError};
use remount_broker::escape::Escaped;
use remount_broker::name::TargetName;
use rustix::io::Errno;
use std::path::PathBuf;

/// A specification that cannot be carried out. Nothing has been done.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A profile could not be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The working directory is gone.
    #[error("find the working directory: it was removed or cannot be reached")]
    NoCwd,
    /// The project would be the whole home directory or more.
    #[error("make {0:?} the project: it holds the home directory, and all of it would be writable")]
    ProjectTooLarge(PathBuf),
    /// A path that must be absolute is not.
    #[error("{origin}: {path:?} is not an absolute path")]
    Relative {
        /// The path as given.
        path: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// A path with `..`.
    #[error("{origin}: {path:?} contains '..'")]
    DotDot {
        /// The path as given.
        path: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// A file that is needed cannot be found.
    #[error("{origin}: find {path:?}: {errno}")]
    Find {
        /// The path as given.
        path: PathBuf,
        /// Who gave it.
        origin: String,
        /// Why.
        errno: Errno,
    },
    /// A destination that does not exist.
    #[error("{origin}: mount on {path:?}: there is no such file or directory in the sandbox")]
    NoMountpoint {
        /// The destination.
        path: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// Directory on file or the other way round.
    #[error("{origin}: mount {from:?} on {path:?}: one is a directory and the other is not")]
    Shape {
        /// The source.
        from: PathBuf,
        /// The destination.
        path: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// A destination that the sandbox makes itself.
    #[error("{origin}: mount on {path:?}: the sandbox makes it itself")]
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
    /// A source on a process file system.
    #[error("{origin}: bind {path:?}: it would show the host's processes")]
    ProcSource {
        /// The source.
        path: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// A source that a sandboxed agent could have redirected.
    #[error(
        "{origin}: bind {path:?}: it passes through the symbolic link {link:?}, which is in a writable directory"
    )]
    PlantedLink {
        /// The source as given.
        path: PathBuf,
        /// The link.
        link: PathBuf,
        /// Who gave it.
        origin: String,
    },
    /// The same files writable at two places.
    #[error(
        "{first_origin} and {second_origin}: {first:?} and {second:?} are the same files at two places, so that one could undo the other's mode"
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
    #[error("{origin}: mount on {dest:?}: {mask_origin} masks {mask:?}")]
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
    /// Two targets of one name.
    #[error("{origin}: target {name} at {second:?}: the name is taken by {first:?}")]
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
    /// A target that can never be switched.
    #[error("{origin}: make {path:?} a target: {why}")]
    NotToggleable {
        /// The destination.
        path: PathBuf,
        /// What is there instead of a bind.
        why: &'static str,
        /// Who asked.
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
    #[error("--setenv {0:?}: a variable's name has no '=' and is not empty")]
    Variable(String),
    /// A host name the kernel does not take.
    #[error("--hostname: {0}")]
    Hostname(String),
    /// The kernel has no Landlock.
    #[error("use Landlock: {0}")]
    Landlock(Unavailable),
    /// The program's own file is gone.
    #[error("find this program's own file {0:?}: {1}")]
    Program(PathBuf, Errno),
    /// No such command.
    #[error("{0:?}: command not found")]
    CommandNotFound(std::ffi::OsString),
    /// The command exists, but not in the sandbox.
    #[error("{0:?}: command not found in the sandbox: it is hidden there")]
    CommandHidden(PathBuf),
    /// A command that cannot be executed.
    #[error("execute {path:?}: {errno}")]
    CommandNotExecutable {
        /// The file.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
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
            Self::ProjectTooLarge(_) => {
                "change to a project's directory first, or set [workspace] path in a profile"
            }
            Self::Relative { .. } => "write it from the root, beginning with /",
            Self::DotDot { .. } => "write the path without '..'",
            Self::Find { .. } => {
                "check the spelling; --bind-try and --ro-bind-try skip what does not exist"
            }
            Self::NoMountpoint { .. } => {
                "the host's directories are read-only and nothing is created in them: \
                 choose a destination that exists, or one below a --tmpfs"
            }
            Self::Shape { .. } => "bind a directory on a directory and a file on a file",
            Self::Reserved { .. } => {
                "choose another destination; / /dev /proc /run/remount are taken"
            }
            Self::OutsideOnly { .. } => "leave it out: an agent must not reach it",
            Self::ProcSource { .. } => "the sandbox has a /proc of its own",
            Self::PlantedLink { .. } => {
                "name the file the link leads to, if it is the one you mean"
            }
            Self::MaskHides { .. } => {
                "take the mask back with [remove] mask in a profile, or choose another place"
            }
            Self::Alias { .. } => "bind one of them, or make one of them read-only",
            Self::TargetName { .. } => "give every target a name of its own",
            Self::NotToggleable { .. } => {
                "only files and directories of the host can be switched: --bind it first"
            }
            Self::Size(_) => "for example --size 64M --tmpfs /scratch",
            Self::Landlock(error) => {
                let optional = "or set landlock = \"optional\" under [sandbox] in a profile to go on without it";
                return Some(format!("{}, {optional}", error.hint()));
            }
            Self::CommandNotFound(_) => "check the spelling and PATH",
            Self::CommandHidden(_) => {
                "it is below a directory that is private in the sandbox: --ro-bind it"
            }
            Self::CommandNotExecutable { errno, .. } if *errno == Errno::ISDIR => {
                "name a program, not a directory"
            }
            Self::CommandNotExecutable { .. } => "chmod +x it, or name its interpreter",
            Self::DirectoryOnStdio(_) => "redirect it from or to a file",
            Self::Program(..) => "it was replaced while it ran: start again",
            Self::Expand { .. } | Self::Variable(_) | Self::Hostname(_) => return None,
        };
        Some(hint.to_owned())
    }
}
