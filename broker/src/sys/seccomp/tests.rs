//! The programs that the filters are compiled to, in the kernel: what was allowed before is
//! denied, and what is needed is not.

use super::Instruction;
use crate::filter::{Action, Rule, agent_filter, broker_filter};
use std::os::fd::AsRawFd;

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

fn confine(program: &[Instruction]) -> bool {
    call(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0]) == 0
        && super::load(program).is_ok()
}

/// In the number of a call by the x32 table (`__X32_SYSCALL_BIT`,
/// arch/x86/include/uapi/asm/unistd.h).
const X32_BIT: libc::c_long = 0x4000_0000;

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
        nr: libc::SYS_getpid | X32_BIT,
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
    if !confine(program) {
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
        if !confine(&program) {
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
    let path = std::env::temp_dir().join(format!("remount-filter.{}", std::process::id()));
    std::fs::write(&path, "").unwrap();
    let file = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    let own = file.as_raw_fd() as u64;
    let allowed = exit_code(in_child(|| {
        if !confine(&program) {
            return 1;
        }
        let calls = [
            (libc::SYS_getpid, [0; 3]),
            (libc::SYS_sched_yield, [0; 3]),
            (libc::SYS_fcntl, [0, libc::F_GETFD as u64, 0]),
            (libc::SYS_fcntl, [own, libc::F_SETLEASE as u64, libc::F_RDLCK as u64]),
            (libc::SYS_fcntl, [own, libc::F_SETLEASE as u64, libc::F_UNLCK as u64]),
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
        (libc::SYS_fcntl, [0, libc::F_SETLEASE as u64, libc::F_WRLCK as u64]),
        (libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as u64, 8]),
    ] {
        let before = in_child(|| i32::from(call(nr, args) == ENOSYS));
        assert_eq!(exit_code(before), Ok(0), "system call {nr} without the filter");
        let status = in_child(|| if confine(&program) { call(nr, args) as i32 & 1 } else { 1 });
        assert!(libc::WIFSIGNALED(status), "system call {nr}: {status:#x}");
        assert_eq!(libc::WTERMSIG(status), libc::SIGSYS, "system call {nr}");
    }
}
