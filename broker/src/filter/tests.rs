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
            };
            if all.iter().all(holds) { *then } else { *otherwise }
        }
    }
}

fn encoded(action: Action) -> u32 {
    match action {
        Action::Allow => 0x7fff_0000,
        Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
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
    let program = filter.compile();
    let samples = argument_samples(filter);
    for nr in numbers() {
        for arch in [NATIVE_ARCH, I386_ARCH, 0, NATIVE_ARCH ^ 1] {
            agree(filter, &program, &Call { arch, nr, args: [0; 6] });
        }
        if filter.rules.contains_key(&nr) {
            for &value in &samples {
                agree(filter, &program, &Call::native(nr, [value; 6]));
            }
        }
    }
}

#[test]
fn the_agents_program_decides_as_declared() {
    agree_everywhere(&agent_filter());
    agree_everywhere(&agent_filter_without_chmod());
}

#[test]
fn the_brokers_program_decides_as_declared() {
    agree_everywhere(&broker_filter());
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
        if self.below(2) == 0 {
            let mask = self.bits();
            // Mostly satisfiable.
            let value = if self.below(8) == 0 { self.bits() } else { self.bits() & mask };
            Condition::MaskedEq { arg, mask, value }
        } else {
            let longest = if self.below(10) == 0 { 400 } else { 6 };
            let values: Vec<u32> = (0..self.below(longest)).map(|_| self.bits() as u32).collect();
            Condition::LowIn { arg, values: values.leak() }
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

/// The compiled programs in the kernel.
#[allow(unsafe_code)]
mod kernel {
    use super::*;
    use crate::sys::seccomp;

    /// Runs `act` in a child of its own and returns its wait status. `act` must neither
    /// allocate nor panic: the child of a process with threads may not.
    fn in_child(act: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child calls only `act`, which by the contract above makes nothing
        // but system calls, and _exit.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            let code = act();
            // SAFETY: _exit reads no memory and does not return.
            unsafe { libc::_exit(code) }
        }
        let mut status = 0;
        // SAFETY: `status` outlives the call and is what waitpid writes.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        status
    }

    /// The result of a system call whose arguments are numbers or null pointers:
    /// negative is an error number.
    fn call(nr: libc::c_long, args: [u64; 3]) -> i64 {
        // SAFETY: every use below passes numbers, null pointers, or pointers to static
        // memory that the call only reads.
        let result = unsafe { libc::syscall(nr, args[0], args[1], args[2], 0, 0, 0) };
        // SAFETY: errno's address is valid for the calling thread.
        if result < 0 { i64::from(-unsafe { *libc::__errno_location() }) } else { result }
    }

    /// `getpid` by the 32-bit table.
    #[cfg(target_arch = "x86_64")]
    fn getpid_i386() -> i64 {
        let result: i64;
        // SAFETY: getpid (20 in the 32-bit table) touches no memory; the kernel may
        // clobber r8 to r11, which is declared; rax carries number and result.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("rax") 20_i64 => result,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        i64::from(result as i32)
    }

    fn exit_code(status: i32) -> Result<i32, i32> {
        if libc::WIFEXITED(status) { Ok(libc::WEXITSTATUS(status)) } else { Err(status) }
    }

    fn load(program: &[Instruction]) -> bool {
        call(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0]) == 0
            && seccomp::load(program).is_ok()
    }

    /// One step: what a call gives before the filter, and what with it.
    struct Step {
        what: &'static str,
        nr: libc::c_long,
        args: [u64; 3],
        before: fn(i64) -> bool,
        after: i64,
    }

    const EPERM: i64 = -(libc::EPERM as i64);
    const ENOSYS: i64 = -(libc::ENOSYS as i64);
    const EFAULT: i64 = -(libc::EFAULT as i64);
    const EINVAL: i64 = -(libc::EINVAL as i64);
    const EAFNOSUPPORT: i64 = -(libc::EAFNOSUPPORT as i64);

    /// Calls that are harmless and, in a user namespace of one's own, permitted.
    const STEPS: &[Step] = &[
        Step {
            what: "keyctl(KEYCTL_GET_KEYRING_ID, session)",
            nr: libc::SYS_keyctl,
            args: [0, u64::MAX - 2, 0],
            // A kernel without keys, or a process without a session keyring.
            before: |r| r > 0 || r == ENOSYS || r == -(libc::ENOKEY as i64),
            after: EPERM,
        },
        Step {
            what: "clone3(NULL, 0)",
            nr: libc::SYS_clone3,
            args: [0; 3],
            before: |r| r == EINVAL,
            after: ENOSYS,
        },
        Step {
            what: "unshare(CLONE_NEWUTS)",
            nr: libc::SYS_unshare,
            args: [libc::CLONE_NEWUTS as u64, 0, 0],
            before: |r| r == 0,
            after: EPERM,
        },
        Step {
            what: "unshare(CLONE_FILES)",
            nr: libc::SYS_unshare,
            args: [libc::CLONE_FILES as u64, 0, 0],
            before: |r| r == 0,
            after: 0,
        },
        Step {
            what: "unshare(CLONE_NEWNET)",
            nr: libc::SYS_unshare,
            args: [libc::CLONE_NEWNET as u64, 0, 0],
            before: |r| r == 0,
            after: EPERM,
        },
        Step {
            what: "socket(AF_VSOCK, SOCK_STREAM)",
            nr: libc::SYS_socket,
            args: [libc::AF_VSOCK as u64, libc::SOCK_STREAM as u64, 0],
            // A kernel without it gives the error that the filter imitates.
            before: |r| r > 0 || r == EAFNOSUPPORT,
            after: EAFNOSUPPORT,
        },
        Step {
            what: "socketpair(AF_UNIX, SOCK_STREAM, 0, NULL)",
            nr: libc::SYS_socketpair,
            args: [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0],
            before: |r| r == EFAULT,
            after: EFAULT,
        },
        Step {
            what: "socketpair(AF_ALG)",
            nr: libc::SYS_socketpair,
            args: [libc::AF_ALG as u64, libc::SOCK_STREAM as u64, 0],
            before: |r| r != 0,
            after: EAFNOSUPPORT,
        },
        Step {
            what: "socket(AF_UNIX, SOCK_STREAM)",
            nr: libc::SYS_socket,
            args: [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0],
            before: |r| r > 0,
            after: i64::MAX,
        },
        Step {
            what: "open_tree(-1, NULL)",
            nr: libc::SYS_open_tree,
            args: [u64::MAX, 0, 0],
            before: |r| r == EFAULT,
            after: ENOSYS,
        },
        Step {
            what: "io_uring_setup(0, NULL)",
            nr: libc::SYS_io_uring_setup,
            args: [0; 3],
            // Compiled in or not, switched off or not.
            before: |r| r == EFAULT || r == ENOSYS || r == EPERM,
            after: ENOSYS,
        },
        Step {
            what: "personality(READ_IMPLIES_EXEC)",
            nr: libc::SYS_personality,
            args: [0x40_0000, 0, 0],
            before: |r| r >= 0,
            after: EPERM,
        },
        Step {
            what: "personality(0xffffffff)",
            nr: libc::SYS_personality,
            args: [0xFFFF_FFFF, 0, 0],
            before: |r| r >= 0,
            after: i64::MAX,
        },
        Step {
            what: "getpid by the x32 table",
            nr: libc::SYS_getpid | X32_START as i64,
            args: [0; 3],
            // Few kernels have it compiled in.
            before: |r| r > 0 || r == ENOSYS,
            after: ENOSYS,
        },
    ];

    /// 0, or which step failed: 1.. before the filter, 101.. with it; 98 for the 32-bit
    /// table, 99 for what the steps stand on.
    fn walk(program: &[Instruction]) -> i32 {
        // Makes the caller root in a user namespace, so that the positive half of the
        // steps works for any user.
        if call(libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0]) != 0 {
            return 99;
        }
        for (step, code) in STEPS.iter().zip(1..) {
            if !(step.before)(call(step.nr, step.args)) {
                return code;
            }
        }
        if !load(program) {
            return 99;
        }
        for (step, code) in STEPS.iter().zip(101..) {
            let result = call(step.nr, step.args);
            if !(result == step.after || step.after == i64::MAX && result >= 0) {
                return code;
            }
        }
        #[cfg(target_arch = "x86_64")]
        if getpid_i386() != ENOSYS {
            return 98;
        }
        0
    }

    #[test]
    fn the_agents_filter_denies_what_was_allowed_before() {
        let program = agent_filter().compile();
        let code = exit_code(in_child(|| walk(&program)));
        let what = |code: i32| STEPS.get(code as usize % 100 - 1).map(|step| step.what);
        assert_eq!(code, Ok(0), "{:?}", code.ok().and_then(what));
    }

    /// The twin of the last check above: without the filter the 32-bit table answers.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_32_bit_table_answers_without_a_filter() {
        let pid = i64::from(std::process::id());
        let result = exit_code(in_child(|| {
            let answer = getpid_i386();
            i32::from(!(answer > 0 && answer != pid))
        }));
        // A kernel without 32-bit emulation raises a fault instead.
        assert!(matches!(result, Ok(0) | Err(libc::SIGSEGV)), "{result:?}");
    }

    /// The kernel checks every jump of a program that it loads.
    #[test]
    fn the_kernel_takes_a_program_with_long_jumps() {
        let mut filter = agent_filter();
        for nr in (1000..2200_u32).step_by(2) {
            filter.rules.insert(nr, Rule::Always(Action::Errno((nr % 7) as u16 + 1)));
        }
        let program = filter.compile();
        assert!((1000..4096).contains(&program.len()), "{}", program.len());
        let code = exit_code(in_child(|| {
            if !load(&program) {
                return 1;
            }
            let wrong = |nr: i64| call(nr, [0; 3]) != -(nr % 7 + 1);
            i32::from((1000..2200).step_by(2).any(wrong))
        }));
        assert_eq!(code, Ok(0));
    }

    #[test]
    fn the_brokers_filter_lets_it_work_and_kills_what_else() {
        let program = broker_filter().compile();
        let allowed = exit_code(in_child(|| {
            if !load(&program) {
                return 1;
            }
            let calls = [
                (libc::SYS_getpid, [0; 3]),
                (libc::SYS_sched_yield, [0; 3]),
                (libc::SYS_fcntl, [0, libc::F_GETFD as u64, 0]),
                (libc::SYS_mprotect, [0, 0, libc::PROT_READ as u64]),
                (libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as u64, 0]),
            ];
            calls.iter().position(|&(nr, args)| call(nr, args) < 0).map_or(0, |i| i as i32 + 2)
        }));
        assert_eq!(allowed, Ok(0));
        for (nr, args) in [
            (libc::SYS_kill, [0, 0, 0]),
            (libc::SYS_socket, [1, 1, 0]),
            (libc::SYS_execve, [0, 0, 0]),
            (libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0]),
            (libc::SYS_mount_setattr, [u64::MAX, 0, libc::AT_RECURSIVE as u64]),
            (libc::SYS_mprotect, [0, 0, libc::PROT_EXEC as u64]),
            (libc::SYS_fcntl, [0, libc::F_SETOWN as u64, 0]),
            (libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as u64, 8]),
        ] {
            let before = in_child(|| i32::from(call(nr, args) == ENOSYS));
            assert_eq!(exit_code(before), Ok(0), "system call {nr} without the filter");
            let status = in_child(|| if load(&program) { call(nr, args) as i32 & 1 } else { 1 });
            assert!(libc::WIFSIGNALED(status), "system call {nr}: {status:#x}");
            assert_eq!(libc::WTERMSIG(status), libc::SIGSYS, "system call {nr}");
        }
    }
}
