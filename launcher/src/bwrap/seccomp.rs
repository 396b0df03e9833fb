//! System call filters that the caller compiled, read from descriptors.

use super::error::{Die, OrDie, Result};
use super::fds::Named;
use remount_broker::sys::seccomp::{self, Instruction};
use rustix::io::Errno;

/// The size of an instruction: `struct sock_filter` of linux/filter.h.
const INSTRUCTION: usize = 8;

/// A filter, as the kernel takes it.
#[derive(Debug)]
pub(super) struct Program(Vec<Instruction>);

impl Program {
    /// One of ours.
    pub(super) fn new(instructions: Vec<Instruction>) -> Self {
        Self(instructions)
    }

    /// Reads one to the end of the descriptor, and closes it.
    pub(super) fn read(from: &Named) -> Result<Self> {
        let data = from.read_to_end().or_die(|| "Can't read seccomp data")?;
        from.close();
        let (instructions, rest) = data.as_chunks::<INSTRUCTION>();
        if !rest.is_empty() {
            return Err(Die::new("Invalid seccomp data, must be multiple of 8"));
        }
        Ok(Self(instructions.iter().map(instruction).collect()))
    }

    /// Filters this process and all that it starts.
    pub(super) fn load(&self) -> Result<()> {
        match seccomp::load(&self.0) {
            Err(Errno::INVAL) => Err(Die::new(
                "Unable to set up system call filtering as requested: prctl(PR_SET_SECCOMP) \
                 reported EINVAL. (Hint: this requires a kernel configured with CONFIG_SECCOMP and \
                 CONFIG_SECCOMP_FILTER.)",
            )),
            result => result.or_die(|| "prctl(PR_SET_SECCOMP)"),
        }
    }
}

fn instruction(bytes: &[u8; INSTRUCTION]) -> Instruction {
    let [c0, c1, jt, jf, k0, k1, k2, k3] = *bytes;
    Instruction {
        code: u16::from_ne_bytes([c0, c1]),
        jt,
        jf,
        k: u32::from_ne_bytes([k0, k1, k2, k3]),
    }
}
