//! The broker: the privileged half of a sandbox, which switches preconfigured
//! mounts between read-only and read-write while the sandbox runs.
//!
//! Everything `unsafe` is in [`sys`]; every other module is safe Rust.

pub mod apply;
pub mod channel;
pub mod client;
pub mod daemon;

pub mod escape;
pub mod filter;
pub mod git;
pub mod heal;
pub mod held;
pub mod holders;
pub mod host;
pub mod name;
pub mod placeholder;
pub mod proto;
pub mod reason;
pub mod sandbox;
pub mod scratch;
pub mod server;
#[allow(unsafe_code)]
pub mod sys;
pub mod target;
pub mod time;
