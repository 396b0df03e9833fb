//! System calls, typed: the only module of the project that may use `unsafe`.
//!
//! Most calls come from `rustix` and `nix`, which are safe to use from anywhere;
//! what stands here is what they lack, or what needs a promise that the types
//! cannot express.

pub mod memory;
pub mod mount;
pub mod namespace;
pub mod net;
pub mod notify;
pub mod patience;
pub mod process;
pub mod seccomp;
pub mod socket;
pub mod start;
pub mod writers;
