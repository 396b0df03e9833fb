//! From a filter to a classic BPF program.
//!
//! The program is written from its end to its beginning. Jumps only lead forwards, so
//! whatever an instruction jumps to is already there when it is written, and its
//! distance is known.

use super::{Action, Arg, Condition, Filter, Program, Rule};
use crate::sys::seccomp::Instruction;

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_endian = "little"))))]
compile_error!("system call numbers and argument layout are known for x86-64 and aarch64 only");

/// This architecture in `seccomp_data.arch` (include/uapi/linux/audit.h).
#[cfg(target_arch = "x86_64")]
pub(super) const NATIVE_ARCH: u32 = 0xC000_003E;
/// This architecture in `seccomp_data.arch` (include/uapi/linux/audit.h).
#[cfg(target_arch = "aarch64")]
pub(super) const NATIVE_ARCH: u32 = 0xC000_00B7;

/// The first number of the x32 table (`__X32_SYSCALL_BIT`, arch/x86/include/uapi/asm/unistd.h).
pub(super) const X32_START: u32 = 0x4000_0000;

// Offsets in struct seccomp_data (include/uapi/linux/seccomp.h).
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// How far a conditional jump reaches: its distances are bytes.
const REACH: usize = u8::MAX as usize;

impl Filter {
    /// The program that decides as this filter says.
    #[must_use]
    pub fn compile(&self) -> Program {
        self.assemble().finish()
    }

    /// The same for a process that is not there for long. When a program is loaded the kernel
    /// finds out which calls it always allows, and does not run it for those later: it runs it
    /// for each number that there is, up to where it asks for more than number and architecture
    /// (`seccomp_is_const_allow`, kernel/seccomp.c). That takes some 40 us, more than a few
    /// calls ever win; so this one asks for an argument first of all.
    #[must_use]
    pub fn compile_for_a_few_calls(&self) -> Program {
        let mut asm = self.assemble();
        asm.push(LOAD, OFFSET_ARGS);
        asm.finish()
    }

    fn assemble(&self) -> Assembler {
        let mut asm = Assembler { code: Vec::with_capacity(256), returns: Vec::with_capacity(8) };
        let foreign = asm.action(self.foreign);
        let native = asm.search(&self.segments());
        asm.fall_through_to(native);
        let native = asm.push(LOAD, OFFSET_NR);
        asm.branch(IF_EQUAL, NATIVE_ARCH, native, foreign);
        asm.push(LOAD, OFFSET_ARCH);
        asm
    }

    /// All system call numbers from 0 on, as runs that are treated alike: the start of
    /// each and its rule. Never empty.
    fn segments(&self) -> Vec<(u32, Rule)> {
        let mut segments: Vec<(u32, Rule)> = Vec::with_capacity(2 * self.rules.len() + 2);
        let mut append = |start: u32, rule: Rule| match segments.last() {
            Some((_, last)) if *last == rule => {}
            _ => segments.push((start, rule)),
        };
        let default = Rule::Always(self.default);
        let end = if cfg!(target_arch = "x86_64") { X32_START } else { u32::MAX };
        let mut next = 0;
        for (&nr, &rule) in self.rules.range(..end) {
            if nr > next {
                append(next, default);
            }
            append(nr, rule);
            next = nr + 1;
        }
        append(next, default);
        if cfg!(target_arch = "x86_64") {
            append(X32_START, Rule::Always(self.x32));
        }
        segments
    }
}

/// A place in the program: how many instructions come after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label(usize);

/// A program under construction, last instruction first.
struct Assembler {
    code: Vec<Instruction>,
    /// Where each value was last returned.
    returns: Vec<(u32, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u16, k: u32) -> Label {
        self.push_jump(code, k, 0, 0)
    }

    fn push_jump(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> Label {
        self.code.push(Instruction { code, jt, jf, k });
        Label(self.code.len() - 1)
    }

    /// The distance to `label` from the instruction that is written next.
    fn distance(&self, label: Label) -> usize {
        self.code.len() - label.0 - 1
    }

    /// Where `action` is returned; one that a jump can reach is used again.
    fn action(&mut self, action: Action) -> Label {
        let k = match action {
            Action::Allow => libc::SECCOMP_RET_ALLOW,
            Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Action::Ask => libc::SECCOMP_RET_USER_NOTIF,
            Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        };
        match self.returns.iter().find(|(value, _)| *value == k) {
            // Room is left for what is written before the jump to it.
            Some(&(_, label)) if self.distance(label) < REACH / 2 => label,
            _ => self.give_back(k),
        }
    }

    fn give_back(&mut self, k: u32) -> Label {
        let label = self.push(RETURN, k);
        match self.returns.iter_mut().find(|(value, _)| *value == k) {
            Some(known) => known.1 = label,
            None => self.returns.push((k, label)),
        }
        label
    }

    /// `label`, or a stand-in for it, no further than a conditional jump reaches even
    /// when `room` more instructions are written first.
    fn within_reach(&mut self, label: Label, room: usize) -> Label {
        if self.distance(label) + room <= REACH { label } else { self.stand_in(label) }
    }

    /// A copy of what is at `label` if that is a return, else a jump to it.
    fn stand_in(&mut self, label: Label) -> Label {
        match self.code.get(label.0) {
            Some(target) if target.code == RETURN => self.give_back(target.k),
            // A distance fits 32 bits: there are at most 4096 instructions.
            _ => self.push(JUMP, self.distance(label) as u32),
        }
    }

    /// Makes the instruction that is written next be followed by `label`.
    fn fall_through_to(&mut self, label: Label) {
        if self.distance(label) != 0 {
            self.stand_in(label);
        }
    }

    /// `if (A test k) goto yes; else goto no;`
    fn branch(&mut self, test: u16, k: u32, yes: Label, no: Label) -> Label {
        // The second stand-in may push the first target one further away.
        let yes = self.within_reach(yes, 1);
        let no = self.within_reach(no, 0);
        // Both fit: `within_reach` says so.
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push_jump(test, k, jt, jf)
    }

    /// Binary search for the segment that the number in A is in.
    fn search(&mut self, segments: &[(u32, Rule)]) -> Label {
        match segments {
            [] => self.action(Action::KillProcess),
            [(_, rule)] => self.rule(rule),
            // One number amid others that are treated alike: one comparison, not two.
            [(_, around), (nr, rule), (next, other)] if around == other && nr + 1 == *next => {
                let no = self.rule(around);
                let yes = self.rule(rule);
                self.branch(IF_EQUAL, *nr, yes, no)
            }
            _ => {
                let (low, high) = segments.split_at(segments.len() / 2);
                let start = high.first().map_or(0, |segment| segment.0);
                let yes = self.search(high);
                let no = self.search(low);
                self.branch(IF_AT_LEAST, start, yes, no)
            }
        }
    }

    fn rule(&mut self, rule: &Rule) -> Label {
        match rule {
            Rule::Always(action) => self.action(*action),
            Rule::If { all, then, otherwise } => {
                let fail = self.action(*otherwise);
                let pass = self.action(*then);
                all.iter().rev().fold(pass, |pass, condition| self.condition(condition, pass, fail))
            }
        }
    }

    fn condition(&mut self, condition: &Condition, pass: Label, fail: Label) -> Label {
        match *condition {
            Condition::MaskedEq { arg, mask, value } => {
                let pass = self.masked_eq(arg.low(), mask as u32, value as u32, pass, fail);
                self.masked_eq(arg.high(), (mask >> 32) as u32, (value >> 32) as u32, pass, fail)
            }
            Condition::LowIn { values: [], .. } => fail,
            Condition::LowIn { arg, values } => {
                values.iter().rev().fold(fail, |no, &v| self.branch(IF_EQUAL, v, pass, no));
                self.push(LOAD, arg.low())
            }
            Condition::ThenLowIn { arg, is, other, values } => {
                let test = self.condition(&Condition::LowIn { arg: other, values }, pass, fail);
                self.branch(IF_EQUAL, is, test, pass);
                self.push(LOAD, arg.low())
            }
            Condition::NonZero { arg } => {
                self.branch(IF_ANY_BIT, u32::MAX, pass, fail);
                let low = self.push(LOAD, arg.low());
                self.branch(IF_ANY_BIT, u32::MAX, pass, low);
                self.push(LOAD, arg.high())
            }
        }
    }

    /// Tests one half of an argument; nothing is written if it does not count.
    fn masked_eq(&mut self, at: u32, mask: u32, value: u32, pass: Label, fail: Label) -> Label {
        match (mask, value) {
            (0, 0) => return pass,
            (_, 0) => self.branch(IF_ANY_BIT, mask, fail, pass),
            (u32::MAX, _) => self.branch(IF_EQUAL, value, pass, fail),
            _ => {
                self.branch(IF_EQUAL, value, pass, fail);
                self.push(AND, mask)
            }
        };
        self.push(LOAD, at)
    }

    fn finish(mut self) -> Program {
        self.code.reverse();
        self.code
    }
}

impl Arg {
    /// The offset of the low half of this argument; both architectures are little-endian.
    const fn low(self) -> u32 {
        OFFSET_ARGS + 8 * self as u32
    }

    const fn high(self) -> u32 {
        self.low() + 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a jump over `distance` instructions from the first of `program` ends.
    fn target(program: &[Instruction], distance: u8) -> u32 {
        let mut at = 1 + usize::from(distance);
        while program[at].code == JUMP {
            at += 1 + program[at].k as usize;
        }
        program[at].k
    }

    #[test]
    fn a_branch_ends_where_it_should_at_any_distance() {
        for (far, between, near) in (0..600).map(|n| (n % 3, n % 2, n)) {
            for swap in [false, true] {
                let mut asm = Assembler { code: Vec::new(), returns: Vec::new() };
                // Loads, so that what cannot be reached needs a jump, not a copy.
                let first = asm.push(LOAD, 100);
                (0..far).for_each(|_| _ = asm.push(LOAD, 0));
                let second = asm.push(if between == 0 { LOAD } else { RETURN }, 200);
                (0..near).for_each(|_| _ = asm.push(LOAD, 0));
                let (yes, no) = if swap { (second, first) } else { (first, second) };
                asm.branch(IF_EQUAL, 7, yes, no);
                let program = asm.finish();
                let ends = [program[0].jt, program[0].jf].map(|jump| target(&program, jump));
                assert_eq!(ends, if swap { [200, 100] } else { [100, 200] }, "{far} {near}");
            }
        }
    }
}
