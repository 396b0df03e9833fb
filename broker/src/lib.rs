//! The broker: the privileged half of a sandbox, which switches preconfigured
//! mounts between read-only and read-write while the sandbox runs.
//!
//! Everything `unsafe` in the project is in [`sys`]; every other module is safe Rust.

pub mod filter;
pub mod name;
#[allow(unsafe_code)]
pub mod sys;
