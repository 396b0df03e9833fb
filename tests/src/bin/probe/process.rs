//! Acts on processes, and what the probe sees of itself.

use crate::{Answer, Args, checked, errno, reached, usage};
use nix::errno::Errno;
use std::os::unix::process::CommandExt;

pub(crate) fn act(name: &str, args: &Args) -> Option<Answer> {
    Some(match name {
        // `kill PID SIGNAL`: use signal 0, which only asks.
        "kill" => {
            // SAFETY: the call touches no memory of this process.
            checked(unsafe { libc::syscall(libc::SYS_kill, args.number(0), args.number(1)) })
                .map(|_| String::new())
        }
        // Attaches without stopping, and lets go by ending.
        "ptrace" => {
            const SEIZE: i64 = 0x4206;
            // SAFETY: PTRACE_SEIZE takes no address, and zero options.
            checked(unsafe { libc::syscall(libc::SYS_ptrace, SEIZE, args.number(0), 0, 0) })
                .map(|_| String::new())
        }
        // Reads a byte at address 0: EFAULT if it was let near the process at all.
        "vm-read" => vm_read(args.number(0)),
        "pidfd-open" => {
            // SAFETY: the call touches no memory of this process.
            checked(unsafe { libc::syscall(libc::SYS_pidfd_open, args.number(0), 0) })
                .map(|_| String::new())
        }
        // `pidfd-getfd PID FD`
        "pidfd-getfd" => {
            // SAFETY: neither call touches memory of this process.
            checked(unsafe { libc::syscall(libc::SYS_pidfd_open, args.number(0), 0) })
                .and_then(|pidfd| {
                    // SAFETY: as above.
                    checked(unsafe {
                        libc::syscall(libc::SYS_pidfd_getfd, pidfd, args.number(1), 0)
                    })
                })
                .map(|_| String::new())
        }
        // `status-field NAME [PID]`, of /proc/PID/status
        "status-field" => status_field(args.text(0), args.get(1).unwrap_or("self")),
        // `limit core|nofile|nproc`: `SOFT HARD`
        "limit" => limit(args.text(0)),
        // `NUMBER TARGET`, a line each
        "fds" => fds(),
        "env" => std::env::var_os(args.at(0))
            .map(|value| value.to_string_lossy().into_owned())
            .ok_or(Errno::ENOENT),
        "cwd" => {
            std::env::current_dir().map(|path| path.to_string_lossy().into_owned()).map_err(errno)
        }
        // `UID GID GROUP,GROUP…`, effective
        "ids" => {
            // SAFETY: these only return numbers.
            let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
            status_field("Groups", "self")
                .map(|groups| format!("{uid} {gid} {}", groups.replace(' ', ",")))
        }
        // `namespace mnt|user|pid|…`: the kernel's name of it
        "namespace" => std::fs::read_link(format!("/proc/self/ns/{}", args.text(0)))
            .map(|link| link.to_string_lossy().into_owned())
            .map_err(errno),
        // The version of Landlock's interface; an errno if it is not there.
        "landlock-abi" => {
            // SAFETY: a null attribute with this flag only asks for the version.
            checked(unsafe {
                libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, 1)
            })
            .map(|version| version.to_string())
        }
        "pids" => {
            // SAFETY: these only return numbers.
            let (pid, session) = unsafe { (libc::getppid(), libc::getsid(0)) };
            Ok(format!("{pid} {session}"))
        }
        // `sleep SECONDS`
        "sleep" => {
            let seconds = u64::try_from(args.number(0)).unwrap_or_else(|_| usage("sleep SECONDS"));
            std::thread::sleep(std::time::Duration::from_secs(seconds));
            Ok(String::new())
        }
        // `run COMMAND…`: `CODE`, then all that it printed; 128+N for signal N.
        "run" => run(args),
        // `spawn COMMAND…`: starts it and leaves it alone; its process id.
        "spawn" => {
            let command = std::process::Command::new(args.at(0)).args(args.rest(1)).spawn();
            command.map(|child| child.id().to_string()).map_err(errno)
        }
        // `ask PROGRAM [ARGUMENT…]`: its exit code 0 is `ok` with what it printed; of
        // remountctl, 3 is EBUSY and 5 EACCES; all else is EIO.
        "ask" => ask(args),
        // Nothing: that the probe can be run at all.
        "nothing" => Ok(String::new()),
        _ => return None,
    })
}

fn run(args: &Args) -> Answer {
    use std::os::unix::process::ExitStatusExt;
    let output =
        std::process::Command::new(args.at(0)).args(args.rest(1)).output().map_err(errno)?;
    let code = output.status.code().or(output.status.signal().map(|signal| 128 + signal));
    let (out, err) = (&output.stdout, &output.stderr);
    let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    Ok(format!("{}\n{out}{err}", code.unwrap_or(-1)))
}

fn ask(args: &Args) -> Answer {
    let output =
        std::process::Command::new(args.at(0)).args(args.rest(1)).output().map_err(errno)?;
    eprintln!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Some(3) => Err(Errno::EBUSY),
        Some(5) => Err(Errno::EACCES),
        _ => Err(Errno::EIO),
    }
}

/// Replaces this process by the command; returns only why it could not.
pub(crate) fn exec(args: &Args) -> Errno {
    errno(std::process::Command::new(args.at(0)).args(args.rest(1)).exec())
}

/// Becomes `uid`, with the group of the same number and no others.
pub(crate) fn become_user(uid: u32) -> Result<(), Errno> {
    // SAFETY: raw calls, so that no thread is told; the process has one. The first
    // reads no memory when the count is 0.
    unsafe {
        checked(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()))?;
        checked(libc::syscall(libc::SYS_setresgid, uid, uid, uid))?;
        checked(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

fn vm_read(pid: i64) -> Answer {
    let mut byte = 0u8;
    // As wide as registers: what of an argument is left unwritten is not zero.
    let (one, flags) = (1_u64, 0_u64);
    let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 1 };
    // SAFETY: `local` names one byte that outlives the call; `remote` is an address
    // in another process.
    let value = unsafe {
        libc::syscall(
            libc::SYS_process_vm_readv,
            pid,
            &raw const local,
            one,
            &raw const remote,
            one,
            flags,
        )
    };
    reached(value, &[Errno::EFAULT])
}

fn status_field(name: &str, pid: &str) -> Answer {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(errno)?;
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.split_whitespace().collect::<Vec<_>>().join(" "))
        .ok_or(Errno::ENOENT)
}

fn limit(name: &str) -> Answer {
    let resource = match name {
        "core" => libc::RLIMIT_CORE,
        "nofile" => libc::RLIMIT_NOFILE,
        "nproc" => libc::RLIMIT_NPROC,
        _ => usage("limit core|nofile|nproc"),
    };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call, which fills it in.
    checked(unsafe { libc::getrlimit(resource, &raw mut limit) }.into())?;
    let text = |value| match value {
        libc::RLIM_INFINITY => "unlimited".to_owned(),
        value => value.to_string(),
    };
    Ok(format!("{} {}", text(limit.rlim_cur), text(limit.rlim_max)))
}

fn fds() -> Answer {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").map_err(errno)? {
        let entry = entry.map_err(errno)?;
        // The listing's own descriptor is gone, or its link names this directory.
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        if !(target.starts_with("/proc/") && target.ends_with("/fd")) {
            lines.push(format!("{} {target}", entry.file_name().to_string_lossy()));
        }
    }
    lines.sort();
    Ok(lines.join("\n"))
}
