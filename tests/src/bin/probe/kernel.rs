//! Acts on kernel interfaces that a filter closes. Where the real thing is
//! dangerous or needs privileges, the act is one that the kernel's own code refuses
//! with an error that no filter here gives; the answer is then `ok reached ERROR`.

use crate::namespaces::c_path;
use crate::{Answer, Args, checked, reached};
use nix::errno::Errno;
use std::ptr::null;

const HIGH_BITS: libc::c_ulong = 0x1_0000_0000;
const TIOCLINUX: libc::c_ulong = 0x541c;

pub(crate) fn act(name: &str, args: &Args) -> Option<Answer> {
    let high = || args.get(0) == Some("high");
    Some(match name {
        // `tiocsti [high]`: types a character into the terminal on stdin; with bits
        // above the 32 that the kernel looks at.
        "tiocsti" => ioctl_stdin(libc::TIOCSTI, high()),
        // Asks the virtual console on stdin for its shift state; ENOTTY elsewhere.
        "tioclinux" => ioctl_stdin(TIOCLINUX, high()),
        "io-uring" => io_uring(),
        // Asks for the id of the session keyring.
        "keyctl" => plain([libc::SYS_keyctl, 0, -3, 0, 0, 0, 0]),
        "add-key" => key(libc::SYS_add_key),
        "request-key" => key(libc::SYS_request_key),
        "bpf" => bpf(),
        "perf" => perf(),
        // For faults of user space only, which needs no privilege.
        "userfaultfd" => plain([libc::SYS_userfaultfd, libc::O_CLOEXEC.into(), 0, 0, 0, 0, 0])
            .or_else(|errno| match errno {
                Errno::EPERM => plain([libc::SYS_userfaultfd, 1, 0, 0, 0, 0, 0]),
                other => Err(other),
            }),
        // `personality N`; 0xffffffff only asks.
        "personality" => {
            // SAFETY: the call touches no memory; the process ends after it.
            checked(unsafe { libc::syscall(libc::SYS_personality, args.number(0)) })
                .map(|before| format!("{before:#x}"))
        }
        "x32-getpid" => x32_getpid(),
        "i386-getpid" => i386_getpid(),
        "name-to-handle" => name_to_handle(args),
        // With a bad descriptor: EBADF from kernels that look at it first.
        "open-by-handle" => {
            let handle = [0u32; 8];
            // SAFETY: `handle` is a whole `struct file_handle` of length 0.
            reached(
                unsafe { libc::syscall(libc::SYS_open_by_handle_at, -1, handle.as_ptr(), 0) },
                &[Errno::EBADF, Errno::EINVAL, Errno::ESTALE],
            )
        }
        "sethostname" => sethostname(),
        "fanotify" => plain([libc::SYS_fanotify_init, 0, 0, 0, 0, 0, 0]),
        // Only reads the clock's state.
        "adjtimex-read" => {
            let mut state = [0u8; 512];
            // SAFETY: `state` is larger than `struct timex`; zero modes change nothing.
            checked(unsafe { libc::syscall(libc::SYS_adjtimex, state.as_mut_ptr()) })
                .map(|_| String::new())
        }
        // Bad magic numbers: EINVAL if the kernel's own code looked at them.
        "reboot" => reached(raw([libc::SYS_reboot, 0, 0, 0, 0, 0, 0]), &[Errno::EINVAL]),
        // `syscall NUMBER [ARGUMENT…]`: any call with numbers for arguments.
        "syscall" => {
            let mut words = [0; 7];
            for (index, word) in words.iter_mut().enumerate() {
                *word = args.get(index).map_or(0, crate::parse_number);
            }
            checked(raw(words)).map(|value| value.to_string())
        }
        _ => return None,
    })
}

/// One call whose arguments are all numbers, none an address of this process.
fn raw([number, a, b, c, d, e, f]: [libc::c_long; 7]) -> libc::c_long {
    // SAFETY: callers pass numbers that name no memory of this process that is in use,
    // or (`syscall`) what the person typed, in a child that ends after it.
    unsafe { libc::syscall(number, a, b, c, d, e, f) }
}

fn plain(words: [libc::c_long; 7]) -> Answer {
    checked(raw(words)).map(|_| String::new())
}

fn ioctl_stdin(request: libc::c_ulong, high: bool) -> Answer {
    let request = if high { request | HIGH_BITS } else { request };
    let mut argument = if request & 0xffff_ffff == TIOCLINUX { 6u8 } else { b'#' };
    // SAFETY: both requests read, and TIOCLINUX 6 writes, one byte at the address.
    checked(unsafe { libc::syscall(libc::SYS_ioctl, 0, request, &raw mut argument) })
        .map(|_| String::new())
}

fn io_uring() -> Answer {
    let mut parameters = [0u8; 120];
    // SAFETY: `struct io_uring_params` is 120 bytes, all zero is valid.
    checked(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })
        .map(|_| String::new())
}

fn key(call: libc::c_long) -> Answer {
    let (kind, name) = (c"user", c"remount-probe");
    let keyring = libc::c_long::from(-3i32);
    // SAFETY: the strings are NUL-terminated; add_key reads one byte of payload, and
    // request_key takes the third as an optional string, whose first byte this is.
    let value = unsafe {
        if call == libc::SYS_add_key {
            libc::syscall(call, kind.as_ptr(), name.as_ptr(), c"x".as_ptr(), 1, keyring)
        } else {
            libc::syscall(call, kind.as_ptr(), name.as_ptr(), null::<u8>(), keyring)
        }
    };
    reached(value, &[Errno::ENOKEY])
}

/// An attribute block larger than a page: E2BIG comes before any privilege check.
fn bpf() -> Answer {
    const OBJ_GET: libc::c_long = 7;
    let block = vec![0u8; 1 << 20];
    // SAFETY: `block` has the length given.
    reached(
        unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, block.as_ptr(), block.len()) },
        &[Errno::E2BIG],
    )
}

/// A software counter of this process, user space only.
fn perf() -> Answer {
    let mut attributes = [0u8; 128];
    attributes[0..4].copy_from_slice(&1u32.to_ne_bytes());
    attributes[4..8].copy_from_slice(&64u32.to_ne_bytes());
    // exclude_kernel and exclude_hv, bits 5 and 6 of the flags at offset 40.
    attributes[40..48].copy_from_slice(&(0b110_0000u64).to_ne_bytes());
    // SAFETY: `struct perf_event_attr` says in its size field that it is 64 bytes long.
    checked(unsafe { libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 0) })
        .map(|_| String::new())
}

fn name_to_handle(args: &Args) -> Answer {
    let path = c_path(args.at(0));
    let mut handle = [0u32; 34];
    handle[0] = 128;
    let mut mount = 0;
    // SAFETY: `handle` has its header and the 128 bytes that it announces; `mount`
    // and `path` outlive the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            handle.as_mut_ptr(),
            &raw mut mount,
            0,
        )
    })
    .map(|_| String::new())
}

/// To the name it has.
fn sethostname() -> Answer {
    let name = rustix::system::uname().nodename().to_owned();
    let bytes = name.to_bytes();
    // SAFETY: the name has the length given and outlives the call.
    checked(unsafe { libc::syscall(libc::SYS_sethostname, bytes.as_ptr(), bytes.len()) })
        .map(|_| String::new())
}

#[cfg(target_arch = "x86_64")]
fn x32_getpid() -> Answer {
    plain([0x4000_0000 | libc::SYS_getpid, 0, 0, 0, 0, 0, 0])
}

/// `getpid` by the 32-bit gate. A kernel without it sends SIGSEGV.
#[cfg(target_arch = "x86_64")]
fn i386_getpid() -> Answer {
    let value: i32;
    // SAFETY: system call 20 of the i386 table takes no argument and touches no
    // memory; the gate clobbers r8 to r11 and the flags, which the options say.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("eax") 20i32 => value,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if value < 0 { Err(Errno::from_raw(-value)) } else { Ok(value.to_string()) }
}

#[cfg(not(target_arch = "x86_64"))]
fn x32_getpid() -> Answer {
    crate::usage("x86-64 only")
}

#[cfg(not(target_arch = "x86_64"))]
fn i386_getpid() -> Answer {
    crate::usage("x86-64 only")
}
