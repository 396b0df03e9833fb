//! What a sandboxed command may not do besides, where no namespace stands around it.

use super::agent::{PERMISSIONS, denied, only_if};
use super::{Action, Arg, Condition, Group};

/// Calls that are younger than `libc` (scripts/syscall.tbl).
const REMOVEXATTRAT: libc::c_long = 466;
const FILE_SETATTR: libc::c_long = 469;

/// The types of sockets that stay connected to one another, with all flags that there are.
const CONNECTED_PAIRS: &[u32] = &{
    const FLAGS: [i32; 4] =
        [0, libc::SOCK_CLOEXEC, libc::SOCK_NONBLOCK, libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK];
    let mut all = [0; 8];
    let mut at = 0;
    while at < FLAGS.len() {
        all[at] = (libc::SOCK_STREAM | FLAGS[at]) as u32;
        all[at + FLAGS.len()] = (libc::SOCK_SEQPACKET | FLAGS[at]) as u32;
        at += 1;
    }
    all
};

/// In place of mounts, for what Landlock does not know: attributes of files; and in place of
/// PID and IPC namespaces, for what it does not keep apart: other processes of the same user.
/// A filter cannot tell one file or process from another, so all are refused, and the
/// command's own with them.
pub const REDUCED: &[Group] = &[
    PERMISSIONS,
    denied(
        "attributes",
        &[
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chown,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_lchown,
            libc::SYS_fchown,
            libc::SYS_fchownat,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_utime,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_utimes,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_futimesat,
            libc::SYS_utimensat,
            libc::SYS_removexattr,
            libc::SYS_lremovexattr,
            libc::SYS_fremovexattr,
            REMOVEXATTRAT,
            FILE_SETATTR,
        ],
    ),
    // Flags of files (chattr), verity, subvolumes and more are set by ioctl on what is open
    // for reading only. Left are those of terminals, pipes and sockets, and questions.
    only_if(
        "ioctl",
        &[libc::SYS_ioctl],
        &[Condition::LowIn { arg: Arg::A1, values: IOCTLS }],
        Action::Errno(libc::ENOTTY as u16),
    ),
    // A socket in any directory can be connected to, and engines for containers listen on some.
    only_if(
        "socket-families",
        &[libc::SYS_socket],
        &[Condition::LowIn {
            arg: Arg::A0,
            values: &[libc::AF_INET as u32, libc::AF_INET6 as u32, libc::AF_NETLINK as u32],
        }],
        Action::Errno(libc::EAFNOSUPPORT as u16),
    ),
    // One end of a pair of datagram sockets can be connected to any socket that has a path.
    only_if(
        "socket-pairs",
        &[libc::SYS_socketpair],
        &[Condition::LowIn { arg: Arg::A1, values: CONNECTED_PAIRS }],
        Action::Errno(libc::EAFNOSUPPORT as u16),
    ),
    // Of another process of the user one could end it, by a limit of processor time. The
    // limit of cores stays as it is.
    only_if(
        "limits",
        &[libc::SYS_prlimit64],
        &[
            Condition::LowIn { arg: Arg::A0, values: &[0] },
            Condition::LowIn {
                arg: Arg::A1,
                values: &[0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            },
        ],
        Action::NOT_PERMITTED,
    ),
    only_if(
        "priority",
        &[libc::SYS_setpriority],
        &[
            Condition::LowIn { arg: Arg::A0, values: &[libc::PRIO_PROCESS] },
            Condition::LowIn { arg: Arg::A1, values: &[0] },
        ],
        Action::NOT_PERMITTED,
    ),
    only_if(
        "io-priority",
        &[libc::SYS_ioprio_set],
        // IOPRIO_WHO_PROCESS, include/uapi/linux/ioprio.h
        &[
            Condition::LowIn { arg: Arg::A0, values: &[1] },
            Condition::LowIn { arg: Arg::A1, values: &[0] },
        ],
        Action::NOT_PERMITTED,
    ),
    only_if(
        "scheduler",
        &[
            libc::SYS_sched_setaffinity,
            libc::SYS_sched_setparam,
            libc::SYS_sched_setscheduler,
            libc::SYS_sched_setattr,
        ],
        &[Condition::LowIn { arg: Arg::A0, values: &[0] }],
        Action::NOT_PERMITTED,
    ),
    denied(
        "ipc",
        &[
            libc::SYS_shmget,
            libc::SYS_shmat,
            libc::SYS_shmctl,
            libc::SYS_semget,
            libc::SYS_semop,
            libc::SYS_semtimedop,
            libc::SYS_semctl,
            libc::SYS_msgget,
            libc::SYS_msgsnd,
            libc::SYS_msgrcv,
            libc::SYS_msgctl,
            libc::SYS_mq_open,
            libc::SYS_mq_unlink,
        ],
    ),
];

/// include/uapi/asm-generic/ioctls.h, and those of sockets and files that only answer.
const IOCTLS: &[u32] = &[
    libc::TCGETS as u32,
    libc::TCSETS as u32,
    libc::TCSETSW as u32,
    libc::TCSETSF as u32,
    libc::TCGETA as u32,
    libc::TCSETA as u32,
    libc::TCSETAW as u32,
    libc::TCSETAF as u32,
    libc::TCSBRK as u32,
    libc::TCXONC as u32,
    libc::TCFLSH as u32,
    libc::TIOCSCTTY as u32,
    libc::TIOCGPGRP as u32,
    libc::TIOCSPGRP as u32,
    libc::TIOCOUTQ as u32,
    libc::TIOCGWINSZ as u32,
    libc::TIOCSWINSZ as u32,
    libc::FIONREAD as u32,
    libc::FIONBIO as u32,
    libc::TIOCNOTTY as u32,
    libc::TCSBRKP as u32,
    libc::TIOCGSID as u32,
    libc::TCGETS2 as u32,
    libc::TCSETS2 as u32,
    libc::TCSETSW2 as u32,
    libc::TCSETSF2 as u32,
    libc::TIOCGPTN as u32,
    libc::TIOCSPTLCK as u32,
    libc::TIOCGPTPEER as u32,
    libc::FIONCLEX as u32,
    libc::FIOCLEX as u32,
    libc::FIOASYNC as u32,
    libc::SIOCGIFNAME as u32,
    libc::SIOCGIFCONF as u32,
    libc::SIOCGIFFLAGS as u32,
    libc::SIOCGIFADDR as u32,
    libc::SIOCGIFBRDADDR as u32,
    libc::SIOCGIFNETMASK as u32,
    libc::SIOCGIFMTU as u32,
    libc::SIOCGIFHWADDR as u32,
    libc::SIOCGIFINDEX as u32,
    libc::FS_IOC_GETFLAGS as u32,
];
