//! The launcher: from arguments and profiles to a confined agent.
//!
//! `Args + Profile → Spec → Plan → Entered → Mounted → Confined → exec`; each
//! arrow consumes its input, and nothing after [`plan`] reads configuration,
//! environment or `PATH`.

#![forbid(unsafe_code)]

mod audit;
mod bwrap;
pub mod cli;
pub mod confine;
mod confirm;
pub mod enter;
mod exec;
mod hold;
pub mod host;
mod mount;
pub mod outside;
mod paths;
pub mod plan;
pub mod profile;
mod proxy;
mod reduced;
pub mod report;
mod shim;
pub mod spec;
pub mod supervise;

mod front;

pub use bwrap::bwrap;
pub use front::{is_called, run, say};
pub use report::Failure;
pub use shim::run as shim;
