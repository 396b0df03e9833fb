//! The broker's own filter.

use super::{Action, Arg, Condition, Filter, Group, Rule};
use crate::sys::notify::{ANSWER, PIDFD_GET_INFO, RECEIVE, STILL_WAITS};
use crate::sys::process::NS_GET_PARENT;

/// What the broker may do once it is set up; everything else kills it.
///
/// Killing is chosen over an error because the broker's death ends the sandbox, so it
/// fails closed. An error could be taken for a fact ("this file is not there") and
/// acted on, and it would let an attacker who runs code in the broker try again.
#[must_use]
pub fn broker_filter() -> Filter {
    Filter::new(Action::KillProcess, Action::KillProcess, GROUPS)
}

/// What a helper of remountd may do from before its request on; everything else kills it: it
/// executes nothing, connects to nothing, and what it needs to enter a mount namespace
/// [`entered_filter`] takes away once it is there, if that still gives it power.
#[must_use]
pub fn visitor_filter() -> Filter {
    let shared =
        ["descriptor-flags", "toggle", "look", "non-blocking", "memory", "no-new-code", "runtime"];
    let shared = GROUPS.iter().filter(|group| shared.contains(&group.name)).copied();
    let groups: Vec<Group> = shared.chain([VISITOR]).chain(ENTER.iter().copied()).collect();
    Filter::new(Action::KillProcess, Action::KillProcess, &groups)
}

/// What a helper of remountd may no longer do once it is in a mount namespace that is not its
/// own: enter another, take anybody's rights, be sent anything. It is loaded on top of
/// [`visitor_filter`], for a tenth of the time that loading all of that would take then.
#[must_use]
pub fn entered_filter() -> Filter {
    let taken = |group: &Group| Group { rule: Rule::Always(Action::KillProcess), ..*group };
    let groups: Vec<Group> = ENTER.iter().map(taken).collect();
    Filter::new(Action::Allow, Action::KillProcess, &groups)
}

/// What a helper does once between its request and the sandbox.
const ENTER: &[Group] = &[
    allow(
        "enter",
        &[
            // The request, and the namespaces with it.
            libc::SYS_recvmsg,
            libc::SYS_setgroups,
            libc::SYS_setfsuid,
            libc::SYS_setfsgid,
            libc::SYS_capget,
            libc::SYS_capset,
        ],
    ),
    allow_if(
        "namespaces",
        &[libc::SYS_setns],
        &[Condition::LowIn {
            arg: Arg::A1,
            values: &[libc::CLONE_NEWUSER as u32, libc::CLONE_NEWNS as u32],
        }],
    ),
    allow_if(
        "own-process",
        &[libc::SYS_prctl],
        &[Condition::LowIn {
            arg: Arg::A0,
            values: &[libc::PR_SET_DUMPABLE as u32, libc::PR_SET_PDEATHSIG as u32],
        }],
    ),
    allow_if(
        "narrow",
        &[libc::SYS_seccomp],
        &[Condition::LowIn { arg: Arg::A0, values: &[libc::SECCOMP_SET_MODE_FILTER] }],
    ),
];

/// What the launcher's filter of sockets may do once it has its listening sockets;
/// everything else kills it: it opens no file and executes nothing, and no socket is of
/// another family than `AF_UNIX`.
#[must_use]
pub fn relay_filter() -> Filter {
    beside(RELAY)
}

/// What the process may do that writes down what is executed; everything else kills it. It
/// opens mere locations (`openat2`, whose flags a filter cannot see) and files to read.
#[must_use]
pub fn watcher_filter() -> Filter {
    beside(WATCHER)
}

/// For a process outside that serves a sandbox.
fn beside(own: &[Group]) -> Filter {
    let shared = ["descriptor-flags", "memory", "no-new-code", "runtime"];
    let shared = GROUPS.iter().filter(|group| shared.contains(&group.name)).copied();
    let groups: Vec<Group> = shared.chain([SERVE]).chain(own.iter().copied()).collect();
    Filter::new(Action::KillProcess, Action::KillProcess, &groups)
}

const SERVE: Group = allow(
    "serve",
    &[
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_close,
        libc::SYS_ppoll,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        libc::SYS_clock_gettime,
        libc::SYS_restart_syscall,
        libc::SYS_sched_yield,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_tgkill,
        libc::SYS_exit_group,
    ],
);

const RELAY: &[Group] = &[
    allow("relay", &[libc::SYS_sendto, libc::SYS_accept4, libc::SYS_connect, libc::SYS_shutdown]),
    allow_if(
        "unix-sockets",
        &[libc::SYS_socket],
        &[Condition::LowIn { arg: Arg::A0, values: &[libc::AF_UNIX as u32] }],
    ),
];

const WATCHER: &[Group] = &[
    allow(
        "watch-commands",
        &[
            libc::SYS_pread64,
            libc::SYS_recvmsg,
            libc::SYS_openat2,
            libc::SYS_readlinkat,
            libc::SYS_fstatfs,
            libc::SYS_pidfd_open,
            libc::SYS_epoll_create1,
            libc::SYS_epoll_ctl,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_wait,
            libc::SYS_epoll_pwait,
            libc::SYS_epoll_pwait2,
        ],
    ),
    allow_if(
        "read-files",
        &[libc::SYS_openat],
        &[no_bit(Arg::A2, (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u32)],
    ),
    allow_if(
        "answer-commands",
        &[libc::SYS_ioctl],
        &[Condition::LowIn {
            arg: Arg::A1,
            values: &[RECEIVE, ANSWER, STILL_WAITS, PIDFD_GET_INFO],
        }],
    ),
];

const VISITOR: Group = allow(
    "visit",
    &[
        libc::SYS_read,
        libc::SYS_write,
        // A mount that is lent, to the daemon.
        libc::SYS_sendmsg,
        libc::SYS_close,
        libc::SYS_ppoll,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_restart_syscall,
        libc::SYS_sched_yield,
        libc::SYS_gettid,
        libc::SYS_getpid,
        // Whose file it is that says what is held.
        libc::SYS_geteuid,
        libc::SYS_tgkill,
        libc::SYS_exit_group,
    ],
);

const fn allow(name: &'static str, calls: &'static [libc::c_long]) -> Group {
    Group { name, rule: Rule::Always(Action::Allow), calls }
}

const fn allow_if(
    name: &'static str,
    calls: &'static [libc::c_long],
    all: &'static [Condition],
) -> Group {
    let rule = Rule::If { all, then: Action::Allow, otherwise: Action::KillProcess };
    Group { name, rule, calls }
}

/// A kernel interface takes `arg` as a 32-bit number, and no bit of `mask` is in it.
const fn no_bit(arg: Arg, mask: u32) -> Condition {
    Condition::MaskedEq { arg, mask: mask as u64, value: 0 }
}

const GROUPS: &[Group] = &[
    // Talking on connections that exist. No socket, bind, listen or connect: the
    // sockets are made before the filter is loaded.
    allow(
        "connections",
        &[
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_readv,
            libc::SYS_writev,
            libc::SYS_recvmsg,
            libc::SYS_sendmsg,
            libc::SYS_recvfrom,
            libc::SYS_sendto,
            libc::SYS_accept4,
            libc::SYS_getsockopt,
            libc::SYS_setsockopt,
            libc::SYS_shutdown,
            libc::SYS_close,
            libc::SYS_dup,
        ],
    ),
    // Descriptor flags, and nothing of locks, leases, owners and signals.
    allow_if(
        "descriptor-flags",
        &[libc::SYS_fcntl],
        &[Condition::LowIn {
            arg: Arg::A1,
            values: &[
                libc::F_GETFD as u32,
                libc::F_SETFD as u32,
                libc::F_GETFL as u32,
                libc::F_SETFL as u32,
                libc::F_DUPFD_CLOEXEC as u32,
            ],
        }],
    ),
    // How the standard library makes a socket non-blocking (FIONBIO,
    // include/uapi/asm-generic/ioctls.h), and in which PID namespace another one lies: a
    // process in one made inside the sandbox is a process of the sandbox.
    allow_if(
        "non-blocking",
        &[libc::SYS_ioctl],
        &[Condition::LowIn { arg: Arg::A1, values: &[0x5421, NS_GET_PARENT] }],
    ),
    allow(
        "event-loop",
        &[
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll,
            libc::SYS_ppoll,
            libc::SYS_epoll_create1,
            libc::SYS_epoll_ctl,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_wait,
            libc::SYS_epoll_pwait,
            libc::SYS_epoll_pwait2,
            libc::SYS_timerfd_create,
            libc::SYS_timerfd_settime,
            libc::SYS_timerfd_gettime,
            libc::SYS_signalfd4,
            libc::SYS_clock_gettime,
            libc::SYS_clock_nanosleep,
            libc::SYS_nanosleep,
            libc::SYS_restart_syscall,
            libc::SYS_sched_yield,
        ],
    ),
    // The broker's purpose. One mount by descriptor, never a tree of them: a
    // recursive change would make protected mounts below a target writable.
    allow_if(
        "toggle",
        &[libc::SYS_mount_setattr],
        &[Condition::MaskedEq {
            arg: Arg::A2,
            mask: 0xFFFF_FFFF,
            value: libc::AT_EMPTY_PATH as u64,
        }],
    ),
    // A protection that was renamed away on the host is put back; the limit of mount
    // namespaces is raised for as long as that takes.
    allow("heal", &[libc::SYS_open_tree, libc::SYS_move_mount, libc::SYS_pwrite64]),
    allow("watch", &[libc::SYS_inotify_add_watch, libc::SYS_fchdir]),
    // A file that the host has replaced is shown instead of the one before.
    allow_if(
        "replace",
        &[libc::SYS_umount2],
        &[Condition::MaskedEq {
            arg: Arg::A1,
            mask: 0xFFFF_FFFF,
            value: (libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) as u64,
        }],
    ),
    // A placeholder that was removed on the host is made again.
    allow("placeholders", &[libc::SYS_mkdirat, libc::SYS_linkat, libc::SYS_unlinkat]),
    // Which mount is where, and who holds a file of it open (/proc/PID/fd).
    allow(
        "look",
        &[
            libc::SYS_statx,
            libc::SYS_newfstatat,
            libc::SYS_fstat,
            libc::SYS_statfs,
            libc::SYS_fstatfs,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_getdents64,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_readlink,
            libc::SYS_readlinkat,
            libc::SYS_lseek,
            libc::SYS_pread64,
        ],
    ),
    // Ending holders that a client asked to end, by descriptor so that a reused
    // process id is never hit: no kill. tgkill is how abort(3) ends this process.
    allow(
        "processes",
        &[
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_send_signal,
            libc::SYS_waitid,
            libc::SYS_wait4,
            libc::SYS_tgkill,
            libc::SYS_getpid,
            libc::SYS_gettid,
            libc::SYS_getppid,
            libc::SYS_getuid,
            libc::SYS_geteuid,
            libc::SYS_exit,
            libc::SYS_exit_group,
        ],
    ),
    // Limits are read (no new value is passed), of this process or another.
    allow_if(
        "limits",
        &[libc::SYS_prlimit64],
        &[Condition::MaskedEq { arg: Arg::A2, mask: u64::MAX, value: 0 }],
    ),
    // Interrupts a close that a peer makes wait. The timer's signal is this process's own
    // affair: it can be sent to no other.
    allow("patience", &[libc::SYS_timer_create, libc::SYS_timer_settime, libc::SYS_timer_delete]),
    allow(
        "memory",
        &[
            libc::SYS_munmap,
            libc::SYS_mremap,
            libc::SYS_brk,
            libc::SYS_madvise,
            libc::SYS_futex,
            libc::SYS_getrandom,
        ],
    ),
    // The program is static and complete: it never makes more code.
    allow_if(
        "no-new-code",
        &[libc::SYS_mmap, libc::SYS_mprotect],
        &[no_bit(Arg::A2, libc::PROT_EXEC as u32)],
    ),
    allow(
        "runtime",
        &[
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_sigaltstack,
            libc::SYS_set_robust_list,
            libc::SYS_rseq,
        ],
    ),
];
