//! Seccomp filters: what is decided about each system call, as data, and the
//! program that makes the kernel decide so.
//!
//! One filter is one program. The kernel runs every program that is stacked on a
//! process for every system call, and translates each to machine code when it is
//! loaded; so different verdicts (`ENOSYS` here, `EPERM` there) stand in one program
//! rather than in one each.
//!
//! The programs use only instructions that the kernel can evaluate ahead of time
//! (`seccomp_is_const_allow`, kernel/seccomp.c: absolute loads, `AND`, jumps, returns),
//! so that a system call which is always allowed costs a look at a bitmap.

mod agent;
mod compile;
mod own;
mod reduced;
#[cfg(test)]
mod tests;

pub use agent::{GROUPS as AGENT_GROUPS, PERMISSIONS, PROFILING, agent_filter, agent_filter_with};
pub use own::{broker_filter, entered_filter, relay_filter, visitor_filter, watcher_filter};
pub use reduced::REDUCED;

use crate::sys::seccomp::Instruction;
use std::collections::BTreeMap;

/// A filter as the kernel takes it.
pub type Program = Vec<Instruction>;

/// What becomes of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It runs.
    Allow,
    /// It does not run and fails with this error number (at most 4095).
    Errno(u16),
    /// It waits until another process lets it run ([`crate::sys::notify`]).
    Ask,
    /// The process dies by `SIGSYS`, all its threads with it.
    KillProcess,
}

impl Action {
    /// "This kernel has no such call": callers fall back to an older one.
    pub const NO_SYS: Self = Self::Errno(libc::ENOSYS as u16);
    /// "Done", though nothing was: for what may not happen, and whose failure programs take
    /// for a reason to give up.
    pub const PRETEND: Self = Self::Errno(0);
    /// "You may not."
    pub const NOT_PERMITTED: Self = Self::Errno(libc::EPERM as u16);
}

/// One of the six arguments of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Arg {
    A0,
    A1,
    A2,
    A3,
    A4,
    A5,
}

/// A test of an argument's value. The kernel takes many arguments as 32-bit numbers
/// and ignores the upper half of the register: a test of such an argument must ignore
/// it too, or the caller sets a bit there and passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// `argument & mask == value`. The upper half counts only as far as `mask` has it.
    MaskedEq {
        /// Which argument.
        arg: Arg,
        /// The bits that count.
        mask: u64,
        /// What they must be.
        value: u64,
    },
    /// The low 32 bits of the argument are one of `values`.
    LowIn {
        /// Which argument.
        arg: Arg,
        /// The values that satisfy the test.
        values: &'static [u32],
    },
    /// If the low 32 bits of `arg` are `is`, those of `other` are one of `values`.
    ThenLowIn {
        /// Which argument decides.
        arg: Arg,
        /// When the other one is tested.
        is: u32,
        /// Which argument is tested then.
        other: Arg,
        /// The values that satisfy the test.
        values: &'static [u32],
    },
    /// The argument, all of it, is not 0.
    NonZero {
        /// Which argument.
        arg: Arg,
    },
}

/// What is decided about one system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The same whatever the arguments.
    Always(Action),
    /// `then` if all conditions hold, else `otherwise`.
    If {
        /// The conditions.
        all: &'static [Condition],
        /// What is done when they hold.
        then: Action,
        /// What is done when one does not.
        otherwise: Action,
    },
}

/// System calls that are treated alike for one reason.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// Its name, in lower case with dashes.
    pub name: &'static str,
    /// What is decided.
    pub rule: Rule,
    /// The system calls' numbers on this architecture.
    pub calls: &'static [libc::c_long],
}

/// A whole filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// For system calls without a rule.
    pub default: Action,
    /// The rules, by system call number.
    pub rules: BTreeMap<u32, Rule>,
    /// For calls by another architecture's table: on x86-64 those of 32-bit programs,
    /// and `int 0x80` from any program. The numbers mean other calls there, so no rule
    /// applies to them.
    pub foreign: Action,
    /// For calls by the x32 table, which shares the architecture of x86-64 and differs
    /// by a bit in the number. Without meaning elsewhere.
    pub x32: Action,
}

impl Filter {
    /// A filter of `groups`. A system call that is in two has the rule of the latter.
    #[must_use]
    pub fn new(default: Action, foreign: Action, groups: &[Group]) -> Self {
        let rules = groups
            .iter()
            .flat_map(|group| group.calls.iter().map(|&nr| (nr as u32, group.rule)))
            .collect();
        Self { default, rules, foreign, x32: foreign }
    }

    /// The same, but each execution of a program waits until it is allowed.
    #[must_use]
    pub fn asking_for_execution(mut self) -> Self {
        for call in [libc::SYS_execve, libc::SYS_execveat] {
            self.rules.insert(call as u32, Rule::Always(Action::Ask));
        }
        self
    }
}
