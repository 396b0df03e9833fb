//! Filters against their own declaration, on an interpreter and in the kernel.

use super::compile::{NATIVE_ARCH, X32_START};
use super::*;
use std::collections::BTreeSet;

const I386_ARCH: u32 = 0x4000_0003;

/// A system call, as `struct seccomp_data` shows it to a filter.
#[derive(Debug, Clone, Copy)]
struct Call {
    arch: u32,
    nr: u32,
    args: [u64; 6],
}

impl Call {
    const fn native(nr: u32, args: [u64; 6]) -> Self {
        Self { arch: NATIVE_ARCH, nr, args }
    }

    fn word(&self, offset: u32) -> u32 {
        assert!(offset.is_multiple_of(4), "unaligned load");
        match offset {
            0 => self.nr,
            4 => self.arch,
            16..64 => {
                let arg = self.args[((offset - 16) / 8) as usize];
                if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
            }
            _ => panic!("load from offset {offset}"),
        }
    }
}

/// Runs `program` as the kernel would; panics where the kernel would refuse to load it.
fn run(program: &[Instruction], call: &Call) -> u32 {
    let mut a = 0;
    let mut pc = 0;
    loop {
        let i = &program[pc];
        pc += 1;
        let jump = |holds: bool| usize::from(if holds { i.jt } else { i.jf });
        match u32::from(i.code) {
            0x20 => a = call.word(i.k),
            0x54 => a &= i.k,
            0x05 => pc += i.k as usize,
            0x15 => pc += jump(a == i.k),
            0x35 => pc += jump(a >= i.k),
            0x45 => pc += jump(a & i.k != 0),
            0x06 => return i.k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

/// What `filter` says of `call`, by its declaration.
fn decide(filter: &Filter, call: &Call) -> Action {
    if call.arch != NATIVE_ARCH {
        return filter.foreign;
    }
    if cfg!(target_arch = "x86_64") && call.nr >= X32_START {
        return filter.x32;
    }
    match filter.rules.get(&call.nr) {
        None => filter.default,
        Some(Rule::Always(action)) => *action,
        Some(Rule::If { all, then, otherwise }) => {
            let holds = |condition: &Condition| match *condition {
                Condition::MaskedEq { arg, mask, value } => call.args[arg as usize] & mask == value,
                Condition::LowIn { arg, values } => {
                    values.contains(&(call.args[arg as usize] as u32))
                }
                Condition::ThenLowIn { arg, is, other, values } => {
                    call.args[arg as usize] as u32 != is
                        || values.contains(&(call.args[other as usize] as u32))
                }
                Condition::NonZero { arg } => call.args[arg as usize] != 0,
            };
            if all.iter().all(holds) { *then } else { *otherwise }
        }
    }
}

fn encoded(action: Action) -> u32 {
    match action {
        Action::Allow => 0x7fff_0000,
        Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
        Action::Ask => 0x7fc0_0000,
        Action::KillProcess => 0x8000_0000,
    }
}

#[track_caller]
fn agree(filter: &Filter, program: &[Instruction], call: &Call) {
    assert_eq!(run(program, call), encoded(decide(filter, call)), "{call:x?}");
}

/// The same values in all arguments, among them all that a rule looks for and what is
/// next to them.
fn argument_samples(filter: &Filter) -> Vec<u64> {
    let mut samples = BTreeSet::from([0, 1, u64::MAX, 1 << 31, 1 << 32, 1 << 63, 0xFFFF_FFFF]);
    for rule in filter.rules.values() {
        let Rule::If { all, .. } = rule else { continue };
        for condition in *all {
            match *condition {
                Condition::MaskedEq { mask, value, .. } => {
                    samples.extend([value, mask, !mask, value | !mask]);
                    samples.extend((0..64).map(|bit| value ^ (1 << bit)));
                }
                Condition::LowIn { values, .. } => {
                    for v in values.iter().copied().map(u64::from) {
                        samples.extend([v, v + 1, v.wrapping_sub(1), v | 1 << 32, v | 1 << 63]);
                    }
                }
                Condition::ThenLowIn { is, values, .. } => {
                    samples.extend([is, is + 1].map(u64::from));
                    samples.extend(values.iter().copied().map(u64::from));
                }
                // 0 and each half alone are among them.
                Condition::NonZero { .. } => {}
            }
        }
    }
    samples.into_iter().collect()
}

fn numbers() -> impl Iterator<Item = u32> {
    let edges = [X32_START - 1, X32_START, u32::MAX / 2, u32::MAX / 2 + 1, u32::MAX];
    (0..600).chain(edges).chain((0..600).map(|nr| nr | X32_START))
}

fn agree_everywhere(filter: &Filter) {
    for program in [filter.compile(), filter.compile_for_a_few_calls()] {
        agree_in(filter, &program);
    }
}

fn agree_in(filter: &Filter, program: &[Instruction]) {
    let samples = argument_samples(filter);
    for nr in numbers() {
        for arch in [NATIVE_ARCH, I386_ARCH, 0, NATIVE_ARCH ^ 1] {
            agree(filter, program, &Call { arch, nr, args: [0; 6] });
        }
        if filter.rules.contains_key(&nr) {
            for &value in &samples {
                agree(filter, program, &Call::native(nr, [value; 6]));
            }
        }
    }
}

#[test]
fn the_agents_program_decides_as_declared() {
    agree_everywhere(&agent_filter());
    agree_everywhere(&agent_filter_with(&[PERMISSIONS, PROFILING]));
    agree_everywhere(&agent_filter_with(REDUCED));
}

#[test]
fn the_brokers_program_decides_as_declared() {
    agree_everywhere(&broker_filter());
    agree_everywhere(&visitor_filter());
    agree_everywhere(&entered_filter());
}

/// Longer programs take longer to load, at every start.
#[test]
fn programs_are_short() {
    let (agent, broker) = (agent_filter().compile().len(), broker_filter().compile().len());
    assert!(agent <= 200 && broker <= 200, "agent {agent}, broker {broker}");
}

#[test]
fn no_group_contradicts_another() {
    for filter in [agent_filter(), broker_filter()] {
        assert!(filter.rules.len() > 40);
    }
    let calls: Vec<_> = AGENT_GROUPS.iter().flat_map(|group| group.calls).collect();
    assert_eq!(calls.iter().collect::<BTreeSet<_>>().len(), calls.len());
    let names: BTreeSet<_> = AGENT_GROUPS.iter().map(|group| group.name).collect();
    assert_eq!(names.len(), AGENT_GROUPS.len());
}

fn agent_verdict(nr: libc::c_long, args: [u64; 6]) -> u32 {
    run(&agent_filter().compile(), &Call::native(nr as u32, args))
}

const ALLOW: u32 = 0x7fff_0000;

fn errno(errno: i32) -> u32 {
    0x0005_0000 | errno as u32
}

#[test]
fn terminal_input_is_denied_whatever_the_upper_bits() {
    for command in [0x5412_u64, 0x541C] {
        for high in [0, 1 << 32, 1 << 63, 0xFFFF_FFFF << 32] {
            let args = [0, command | high, 0, 0, 0, 0];
            assert_eq!(agent_verdict(libc::SYS_ioctl, args), errno(libc::EPERM));
        }
    }
    let get_window_size = [0, 0x5413, 0, 0, 0, 0];
    assert_eq!(agent_verdict(libc::SYS_ioctl, get_window_size), ALLOW);
}

#[test]
fn namespace_flags_are_denied_one_by_one() {
    let flags = [0x2_0000_u64, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000];
    for flag in flags.into_iter().chain([0x4000_0000]) {
        let args = [flag | libc::SIGCHLD as u64, 0, 0, 0, 0, 0];
        assert_eq!(agent_verdict(libc::SYS_clone, args), errno(libc::EPERM), "{flag:#x}");
        assert_eq!(agent_verdict(libc::SYS_unshare, args), errno(libc::EPERM), "{flag:#x}");
    }
    let new_time = [0x80, 0, 0, 0, 0, 0];
    assert_eq!(agent_verdict(libc::SYS_unshare, new_time), errno(libc::EPERM));
    // A thread, as the C library makes it; and what unshare is harmless for.
    let thread = [0x3D_0F00, 0, 0, 0, 0, 0];
    assert_eq!(agent_verdict(libc::SYS_clone, thread), ALLOW);
    let files = [(libc::CLONE_FILES | libc::CLONE_FS) as u64, 0, 0, 0, 0, 0];
    assert_eq!(agent_verdict(libc::SYS_unshare, files), ALLOW);
}

#[test]
fn only_known_personalities_are_allowed() {
    for (persona, verdict) in [
        (0, ALLOW),
        (0xFFFF_FFFF, ALLOW),
        (u64::MAX, ALLOW),
        (0x40_0000, errno(libc::EPERM)),
        (0x4_0008, errno(libc::EPERM)),
    ] {
        assert_eq!(agent_verdict(libc::SYS_personality, [persona; 6]), verdict, "{persona:#x}");
    }
}

#[test]
fn the_broker_changes_one_mount_by_descriptor_only() {
    let program = broker_filter().compile();
    let verdict = |flags: i32| {
        run(&program, &Call::native(libc::SYS_mount_setattr as u32, [0, 0, flags as u64, 0, 32, 0]))
    };
    assert_eq!(verdict(libc::AT_EMPTY_PATH), ALLOW);
    for flags in [0, libc::AT_RECURSIVE, libc::AT_EMPTY_PATH | libc::AT_RECURSIVE] {
        assert_eq!(verdict(flags), encoded(Action::KillProcess), "{flags:#x}");
    }
}

/// xorshift64: the same filters at every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn action(&mut self) -> Action {
        match self.below(3) {
            0 => Action::Allow,
            1 => Action::KillProcess,
            _ => {
                let end = if self.below(2) == 0 { 3 } else { 4096 };
                Action::Errno(self.below(end) as u16)
            }
        }
    }

    fn bits(&mut self) -> u64 {
        match self.below(5) {
            0 => 0,
            1 => self.below(16),
            2 => 0xFFFF_FFFF,
            3 => u64::MAX,
            _ => self.next() & self.next(),
        }
    }

    fn condition(&mut self) -> Condition {
        let arg = [Arg::A0, Arg::A1, Arg::A2, Arg::A3, Arg::A4, Arg::A5][self.below(6) as usize];
        if self.below(8) == 0 {
            return Condition::NonZero { arg };
        }
        if self.below(2) == 0 {
            let mask = self.bits();
            // Mostly satisfiable.
            let value = if self.below(8) == 0 { self.bits() } else { self.bits() & mask };
            Condition::MaskedEq { arg, mask, value }
        } else {
            let longest = if self.below(10) == 0 { 400 } else { 6 };
            let values: Vec<u32> = (0..self.below(longest)).map(|_| self.bits() as u32).collect();
            let values = values.leak();
            match self.below(3) {
                0 => Condition::ThenLowIn { arg, is: self.below(3) as u32, other: Arg::A1, values },
                _ => Condition::LowIn { arg, values },
            }
        }
    }

    fn rule(&mut self) -> Rule {
        if self.below(3) != 0 {
            return Rule::Always(self.action());
        }
        let all: Vec<_> = (0..self.below(4)).map(|_| self.condition()).collect();
        Rule::If { all: all.leak(), then: self.action(), otherwise: self.action() }
    }

    fn filter(&mut self) -> Filter {
        let count = self.below(120);
        let spread = [40, 600, u64::from(X32_START)][self.below(3) as usize];
        let rules = (0..count).map(|_| (self.below(spread) as u32, self.rule())).collect();
        let (default, foreign, x32) = (self.action(), self.action(), self.action());
        Filter { default, rules, foreign, x32 }
    }
}

#[test]
fn random_filters_decide_as_declared() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut longest = 0;
    for _ in 0..300 {
        let filter = random.filter();
        let program = filter.compile();
        longest = longest.max(program.len());
        let samples = argument_samples(&filter);
        let near = filter.rules.keys().flat_map(|&nr| [nr.saturating_sub(1), nr, nr + 1]);
        for nr in near.chain([0, X32_START - 1, X32_START, u32::MAX]) {
            for _ in 0..6 {
                let mut pick = || samples[random.below(samples.len() as u64) as usize];
                let args = [pick(), pick(), pick(), pick(), pick(), pick()];
                agree(&filter, &program, &Call::native(nr, args));
            }
            agree(&filter, &program, &Call { arch: I386_ARCH, nr, args: [0; 6] });
        }
    }
    assert!(longest > 1000, "no program was long enough to need a stand-in: {longest}");
}
