//! The filter of the sandboxed command.

use super::{Action, Arg, Condition, Filter, Group, Rule};
use crate::sys::process::NEW_NAMESPACES;

/// What no sandboxed command may do; everything else is allowed.
///
/// The filter is the last of several layers: capabilities, namespaces, read-only mounts
/// and Landlock hold without it. It closes what they do not: a mount namespace or a
/// detached mount of the payload's own keeps a writable copy of a target that was made
/// read-only; keyctl has been a way out of Landlock; terminal injection types into the
/// user's shell. It never kills: runtimes probe for calls, and take an error well.
///
/// Left alone on purpose:
/// - `ptrace` and `process_vm_*`: debuggers work, and reach only what the PID namespace,
///   Landlock and the lack of capabilities leave.
/// - `statmount`, `listmount`: they tell what `/proc/self/mountinfo` tells.
/// - `adjtimex`, `clock_adjtime`: what they are asked to do lies behind a pointer, where
///   a filter cannot look. Without `CAP_SYS_TIME` they only read the clock.
/// - `seccomp`, `landlock_*`: a command may confine itself further.
#[must_use]
pub fn agent_filter() -> Filter {
    Filter::new(Action::Allow, Action::NO_SYS, GROUPS)
}

/// As [`agent_filter`], with other rules for the calls of `groups`: [`PERMISSIONS`],
/// [`PROFILING`].
#[must_use]
pub fn agent_filter_with(groups: &[Group]) -> Filter {
    let groups: Vec<Group> = GROUPS.iter().chain(groups).copied().collect();
    Filter::new(Action::Allow, Action::NO_SYS, &groups)
}

/// `fchmodat2` (Linux 6.6) and `setxattrat` (6.13), on both architectures.
const FCHMODAT2: libc::c_long = 452;
const SETXATTRAT: libc::c_long = 463;

/// Who looks for what is slow may measure: his own processes, as far as the kernel lets him
/// without a capability (`kernel.perf_event_paranoid`).
pub const PROFILING: Group =
    Group { name: "perf", rule: Rule::Always(Action::Allow), calls: &[libc::SYS_perf_event_open] };

/// Nobody changes the permissions of a file that exists, since a filter cannot tell one file
/// from another; access control lists are attributes.
pub const PERMISSIONS: Group = denied(
    "permissions",
    &[
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        FCHMODAT2,
        libc::SYS_setxattr,
        libc::SYS_lsetxattr,
        libc::SYS_fsetxattr,
        SETXATTRAT,
    ],
);

const fn absent(name: &'static str, calls: &'static [libc::c_long]) -> Group {
    Group { name, rule: Rule::Always(Action::NO_SYS), calls }
}

pub(super) const fn denied(name: &'static str, calls: &'static [libc::c_long]) -> Group {
    Group { name, rule: Rule::Always(Action::NOT_PERMITTED), calls }
}

pub(super) const fn only_if(
    name: &'static str,
    calls: &'static [libc::c_long],
    all: &'static [Condition],
    otherwise: Action,
) -> Group {
    Group { name, rule: Rule::If { all, then: Action::Allow, otherwise }, calls }
}

const fn pretended(
    name: &'static str,
    calls: &'static [libc::c_long],
    all: &'static [Condition],
) -> Group {
    Group { name, rule: Rule::If { all, then: Action::PRETEND, otherwise: Action::Allow }, calls }
}

/// Makes a time namespace, in `unshare` only: in `clone` the bit belongs to the signal
/// number (include/uapi/linux/sched.h).
const NEW_TIME_NAMESPACE: u64 = 0x80;

/// `open_tree` with attributes (Linux 6.15; arch/x86/entry/syscalls/syscall_64.tbl and
/// scripts/syscall.tbl have the same number).
const OPEN_TREE_ATTR: libc::c_long = 467;

/// The groups that [`agent_filter`] is made of.
pub const GROUPS: &[Group] = &[
    // Its flags are behind a pointer, where a filter cannot look. ENOSYS and never
    // EPERM: only then do C libraries fall back to clone, and threads work.
    absent("clone3", &[libc::SYS_clone3]),
    // A detached copy of a target made while it is writable stays writable
    // (CVE-2021-41133 was this). Tools fall back to mount(2), whose EPERM is clear.
    absent(
        "mount-api",
        &[
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_fsopen,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fspick,
            libc::SYS_mount_setattr,
            OPEN_TREE_ATTR,
        ],
    ),
    // Opens sockets and files where no filter sees it. ENOSYS is what runtimes expect
    // of a kernel without it.
    absent(
        "io-uring",
        &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register],
    ),
    // Nothing to mount with anyway; the filter holds if a capability were left.
    denied("mount", &[libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root]),
    denied("chroot", &[libc::SYS_chroot]),
    // A mount namespace made while a target is writable keeps it writable, and a user
    // namespace opens much of the kernel to an unprivileged process.
    denied("enter-namespace", &[libc::SYS_setns]),
    only_if(
        "unshare-namespace",
        &[libc::SYS_unshare],
        &[Condition::MaskedEq {
            arg: Arg::A0,
            mask: NEW_NAMESPACES | NEW_TIME_NAMESPACE,
            value: 0,
        }],
        Action::NOT_PERMITTED,
    ),
    // The flags are the first argument on x86-64 and aarch64 (not everywhere).
    only_if(
        "clone-namespace",
        &[libc::SYS_clone],
        &[Condition::MaskedEq { arg: Arg::A0, mask: NEW_NAMESPACES, value: 0 }],
        Action::NOT_PERMITTED,
    ),
    // Opening by handle goes past every mount and path check.
    denied("file-handles", &[libc::SYS_name_to_handle_at, libc::SYS_open_by_handle_at]),
    // Keyrings are not namespaced, and KEYCTL_SESSION_TO_PARENT once took a Landlock
    // domain away (CVE-2024-42318).
    denied("keyrings", &[libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key]),
    denied("bpf", &[libc::SYS_bpf]),
    denied("perf", &[libc::SYS_perf_event_open]),
    // Makes kernel races easy to win.
    denied("userfaultfd", &[libc::SYS_userfaultfd]),
    denied(
        "modules",
        &[
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            #[cfg(target_arch = "x86_64")]
            x86::CREATE_MODULE,
            #[cfg(target_arch = "x86_64")]
            x86::QUERY_MODULE,
            #[cfg(target_arch = "x86_64")]
            x86::GET_KERNEL_SYMS,
        ],
    ),
    denied("reboot", &[libc::SYS_reboot, libc::SYS_kexec_load, libc::SYS_kexec_file_load]),
    // Settings of the whole machine.
    denied(
        "machine",
        &[
            libc::SYS_swapon,
            libc::SYS_swapoff,
            libc::SYS_acct,
            libc::SYS_quotactl,
            libc::SYS_quotactl_fd,
            libc::SYS_syslog,
            libc::SYS_sethostname,
            libc::SYS_setdomainname,
            libc::SYS_vhangup,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
        ],
    ),
    // Old calls that nothing current needs and nobody reviews.
    denied(
        "obsolete",
        &[
            libc::SYS_nfsservctl,
            libc::SYS_lookup_dcookie,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_uselib,
            #[cfg(target_arch = "x86_64")]
            libc::SYS__sysctl,
        ],
    ),
    #[cfg(target_arch = "x86_64")]
    denied("x86-hardware", &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt]),
    // Watches whole mounts and filesystems.
    denied("fanotify", &[libc::SYS_fanotify_init, libc::SYS_fanotify_mark]),
    denied("reap-memory", &[libc::SYS_process_mrelease]),
    // At a limit of 0 a handler on the host, run by root, reads what crashed; at 1, which it
    // is, none is started. Programs that guard keys set it to 0 and give up if they cannot.
    pretended(
        "core-limit",
        &[libc::SYS_setrlimit],
        &[Condition::LowIn { arg: Arg::A0, values: &[libc::RLIMIT_CORE] }],
    ),
    pretended(
        "core-limit-of-process",
        &[libc::SYS_prlimit64],
        &[
            Condition::LowIn { arg: Arg::A1, values: &[libc::RLIMIT_CORE] },
            Condition::NonZero { arg: Arg::A2 },
        ],
    ),
    // Personalities weaken memory protection or take old kernel paths. Those that are
    // left: the native one, 32-bit addresses (8), the 2.6 version number (0x20000), both,
    // no address randomisation (0x40000, debuggers), and the question which one it is.
    only_if(
        "personality",
        &[libc::SYS_personality],
        &[Condition::LowIn {
            arg: Arg::A0,
            values: &[0, 8, 0x2_0000, 0x2_0008, 0x4_0000, u32::MAX],
        }],
        Action::NOT_PERMITTED,
    ),
    // A process group may reach out of the PID namespace: the command begins in its caller's.
    Group {
        name: "priority-of-groups",
        rule: Rule::If {
            all: &[Condition::LowIn { arg: Arg::A0, values: &[libc::PRIO_PGRP] }],
            then: Action::NOT_PERMITTED,
            otherwise: Action::Allow,
        },
        calls: &[libc::SYS_setpriority],
    },
    Group {
        name: "io-priority-of-groups",
        rule: Rule::If {
            // IOPRIO_WHO_PGRP, include/uapi/linux/ioprio.h
            all: &[Condition::LowIn { arg: Arg::A0, values: &[2] }],
            then: Action::NOT_PERMITTED,
            otherwise: Action::Allow,
        },
        calls: &[libc::SYS_ioprio_set],
    },
    // The first two put text into the terminal's input, and so into the shell outside
    // (CVE-2017-5226, CVE-2023-28100); the third loads line disciplines, seldom reviewed. The kernel takes the command as 32 bits; filters
    // that compared 64 were passed by a bit set above (CVE-2019-10063).
    Group {
        name: "terminal-input",
        rule: Rule::If {
            all: &[Condition::LowIn {
                arg: Arg::A1,
                values: &[libc::TIOCSTI as u32, libc::TIOCLINUX as u32, libc::TIOCSETD as u32],
            }],
            then: Action::NOT_PERMITTED,
            otherwise: Action::Allow,
        },
        calls: &[libc::SYS_ioctl],
    },
    // Families beyond these reach the hypervisor (VSOCK) or seldom reviewed kernel
    // code (ALG, TIPC, RXRPC, ...). The error is the one of a kernel without them.
    only_if(
        "socket-families",
        &[libc::SYS_socket, libc::SYS_socketpair],
        &[Condition::LowIn {
            arg: Arg::A0,
            values: &[
                libc::AF_UNIX as u32,
                libc::AF_INET as u32,
                libc::AF_INET6 as u32,
                libc::AF_NETLINK as u32,
            ],
        }],
        Action::Errno(libc::EAFNOSUPPORT as u16),
    ),
];

/// Calls that left the kernel long ago and `libc` never had
/// (arch/x86/entry/syscalls/syscall_64.tbl).
#[cfg(target_arch = "x86_64")]
mod x86 {
    pub(super) const CREATE_MODULE: libc::c_long = 174;
    pub(super) const GET_KERNEL_SYMS: libc::c_long = 177;
    pub(super) const QUERY_MODULE: libc::c_long = 178;
}
