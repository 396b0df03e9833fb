//! Profiles: what an agent may do, as TOML files that extend each other.
//!
//! [`Loader`] finds and merges them to a [`Profile`], in which every entry still knows the
//! line that says so ([`Origin`]), and paths are still text with variables
//! ([`PathText`]). Nothing here looks at the paths that a profile names; only profile
//! files are read.
//!
//! # Merging
//!
//! What a profile extends comes first, depth first and in order, every file at most once.
//! Each file first takes back what its `[remove]` names from all that was merged before it,
//! then adds its own: lists are united (the later entry for one path wins, and
//! a bind, tmpfs or cache replaces any other of these at its destination), scalars overridden.
//!
//! A built-in profile was merged by the same code when the program was built; a start reads
//! the result, unless a file hides a part of it.
//!
//! # Project files
//!
//! `.remount.toml` in the project is within the agent's reach, so [`Loader::narrow`] takes only
//! `protect`, `mask`, `remove` of binds and caches, `[workspace] mode = "ro"` and
//! `[sandbox] network = "none"` from it. What it removes stays mounted without its rights, and
//! it cannot make an inherited entry laxer.

mod built_in;
mod error;
mod expand;
mod load;
mod merge;
mod model;
mod policy;
mod project;
mod schema;
mod source;
#[allow(dead_code, reason = "the build script writes, the program reads")]
mod stored;
#[cfg(test)]
mod tests;
mod text;
mod types;

pub use error::ProfileError;
pub use expand::{ExpandError, PathText, ValueText, Variables, expand, expand_below, expand_value};
pub use load::{Listed, Loader};
pub use model::{
    Bind, Cache, Environment, Overlay, Profile, Protect, Sandbox, Socket, Tmpfs, Toggle, Workspace,
};
pub use policy::{BwrapPolicy, Rule};
pub use source::{Excerpt, Located, MAX_PROFILE_SIZE, Origin, SourceName};
pub use types::{
    EnvironmentPattern, FileMode, GitPolicy, HookWord, Hostname, Missing, MissingProtect, Need,
    Network, Proc, Size, SocketAccess, UserNamespace, VariableName,
};
