//! The launcher: from arguments and profiles to a confined agent.
//!
//! `Args + Profile → Spec → Plan → Entered → Mounted → Confined → exec`; each
//! arrow consumes its input, and nothing after [`plan`] reads configuration,
//! environment or `PATH`.

#![forbid(unsafe_code)]

pub mod confine;
pub mod profile;
