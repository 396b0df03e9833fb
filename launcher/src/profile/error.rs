//! What can be wrong with a profile, said so that it can be mended.

use super::source::{Excerpt, Origin, Source};
use super::text::{Escaped, nearest};
use remount_broker::reason::IoReason;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why there is no profile. The text is safe to print on a terminal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// No file and no built-in profile has this name.
    #[error("profile `{}`: there is no profile of this name{}", Escaped(name), wanted(wanted_by))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The `extends` that asked, unless it was the command line.
        wanted_by: Option<Origin>,
        /// The names there are.
        known: Vec<String>,
    },
    /// A word that can be neither the name of a profile nor a path to one.
    #[error("profile `{}`: not a profile's name{}", Escaped(name), wanted(wanted_by))]
    BadName {
        /// The word.
        name: String,
        /// The `extends` that asked, unless it was the command line.
        wanted_by: Option<Origin>,
    },
    /// A file or directory cannot be read.
    #[error("read profile {}: {}", show(path), IoReason(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A profile is no regular file.
    #[error("read profile {}: it is {kind}", show(path))]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is instead.
        kind: &'static str,
    },
    /// A file is larger than [`super::MAX_PROFILE_SIZE`].
    #[error("read profile {}: it is larger than 1 MiB", show(path))]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file is not text.
    #[error("read profile {}:{line}:{column}: it is not UTF-8", show(path))]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line of the first wrong byte, from 1.
        line: usize,
        /// Its column, from 1.
        column: usize,
    },
    /// Someone else owns a profile and could change it.
    #[error(
        "refuse profile {}: it belongs to uid {owner}, who could change what the sandbox may do; \
         it must belong to you (uid {uid}) or root",
        show(path)
    )]
    ForeignOwner {
        /// The file, or a directory it was found in.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it may be, besides root's.
        uid: u32,
    },
    /// A profile's permissions let others change it.
    #[error(
        "refuse profile {}: others than its owner can write to it (mode {mode:04o})",
        show(path)
    )]
    OthersCanWrite {
        /// The file, or a directory it was found in.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Something in a profile is wrong.
    #[error("profile {}: {reason}\n{excerpt}", excerpt.place)]
    Invalid {
        /// The place.
        excerpt: Box<Excerpt>,
        /// What is wrong there.
        reason: String,
        /// How to mend it, if that is known.
        hint: Option<String>,
    },
    /// A project's file says something that is not its to say.
    #[error(
        "project file {}: `{key}` is not allowed here: {why}\n{excerpt}",
        excerpt.place
    )]
    Widens {
        /// The place.
        excerpt: Box<Excerpt>,
        /// The key, with its table.
        key: String,
        /// Why not.
        why: &'static str,
    },
    /// Profiles extend each other in a circle.
    #[error("profile {}: `extends` goes in a circle: {}", excerpt.place, chain.join(" → "))]
    Cycle {
        /// The `extends` that closes it.
        excerpt: Box<Excerpt>,
        /// From a profile back to itself.
        chain: Vec<String>,
    },
    /// Profiles extend each other in too long a chain.
    #[error("profile {}: more than {limit} profiles extend each other", excerpt.place)]
    TooDeep {
        /// The `extends` that is one too many.
        excerpt: Box<Excerpt>,
        /// How many may.
        limit: usize,
    },
    /// Two targets have one name.
    #[error("two targets are called `{name}`: {first} and {second}")]
    DuplicateTarget {
        /// The name.
        name: String,
        /// Where it was said first.
        first: Origin,
        /// Where it was said again.
        second: Origin,
    },
    /// Two profiles of one directory want the same command.
    #[error("command `{}`: profiles `{first}` and `{second}` both name it", Escaped(command))]
    Ambiguous {
        /// The command.
        command: String,
        /// A profile that names it.
        first: String,
        /// Another.
        second: String,
    },
}

impl ProfileError {
    pub(super) fn invalid(
        source: &Arc<Source>,
        span: &Range<usize>,
        reason: impl Into<String>,
        hint: Option<String>,
    ) -> Self {
        let excerpt = Box::new(Excerpt::new(source, span));
        Self::Invalid { excerpt, reason: Escaped(&reason.into()).to_string(), hint }
    }

    /// A file's parse error, with the accepted keys as a hint where they are the matter.
    pub(super) fn parse(source: &Arc<Source>, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        let message = error.message().trim_end().replace('\n', "; ");
        let Some((key, known)) = unknown_key(&message) else {
            return Self::invalid(source, &span, message, None);
        };
        let reason = format!("unknown key `{key}`");
        let hint = match nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if TOP_LEVEL_LISTS.contains(&key) => {
                format!("`{key}` belongs at the top of the file, before the first [table]")
            }
            None => format!("the keys here are {}", known.join(", ")),
        };
        Self::invalid(source, &span, reason, Some(hint))
    }

    /// What to do about it, if that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { name, known, .. } => {
                // Who extends a profile of his own name means the one that it hides.
                let others = known.iter().map(String::as_str).filter(|other| other != name);
                let near = nearest(name, others);
                let question = near.map(|near| format!("did you mean `{near}`? "));
                Some(format!("{}profiles are {}", question.unwrap_or_default(), known.join(", ")))
            }
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Some("make it readable, or set HOME or XDG_CONFIG_HOME to your own".to_owned())
            }
            Self::BadName { .. } => Some(
                "a name is letters, digits, '.', '_' and '-', with '/' between parts; \
                 a path begins with '/', './' or '../', or ends in .toml"
                    .to_owned(),
            ),
            Self::ForeignOwner { path, .. } => {
                Some(format!("if you trust what it says, copy it and use the copy: {}", show(path)))
            }
            Self::OthersCanWrite { path, .. } => Some(format!("chmod go-w {}", show(path))),
            Self::Invalid { hint, .. } => hint.clone(),
            Self::Widens { .. } => Some(
                "write it to a profile in your own configuration directory, and pass --profile"
                    .to_owned(),
            ),
            Self::DuplicateTarget { .. } => Some("give one of them another name".to_owned()),
            Self::Ambiguous { first, .. } => Some(format!("choose one: --profile {first}")),
            _ => None,
        }
    }

    /// Whether the one thing wrong is that there is no such file.
    pub(super) fn is_not_found(&self) -> bool {
        use std::io::ErrorKind::{NotADirectory, NotFound};
        matches!(self, Self::Read { source, .. } if matches!(source.kind(), NotFound | NotADirectory))
    }
}

/// Keys that TOML hands to a table when they are written below its header.
const TOP_LEVEL_LISTS: [&str; 5] = ["mask", "protect", "extends", "commands", "description"];

/// Takes serde's message on an unknown field apart: the field, and the known ones.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let (key, rest) = message.strip_prefix("unknown field `")?.split_once("`, expected ")?;
    Some((key, rest.split('`').skip(1).step_by(2).collect()))
}

fn wanted(by: &Option<Origin>) -> String {
    by.as_ref().map(|origin| format!(" (extended at {origin})")).unwrap_or_default()
}

fn show(path: &Path) -> String {
    Escaped(&path.to_string_lossy()).to_string()
}
