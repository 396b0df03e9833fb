//! The standalone broker, remountd: one for many sandboxes, which others have made.
//!
//! It acts in the mount namespace of the process that asks, as the kernel names it
//! (`place`), and on what its rules name (`rules`). It never goes there itself: a
//! process forked for the purpose, and before it is needed, is told where to go and what
//! for (`errand`), enters, looks, changes one mount, answers over a socket and ends
//! (`visit`). If a file system there does not answer, that process is given up
//! (`helpers`); nobody else notices.

mod clients;
mod errand;
mod helpers;
mod jobs;
mod place;
mod records;
mod requests;
mod rules;
mod serve;
mod visit;

pub use rules::{Modes, Rule, Rules};
pub use serve::{DaemonError, Log, Setup, Signalled, serve};
