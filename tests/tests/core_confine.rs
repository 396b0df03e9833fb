//! What the command in a sandbox has no power to do, whatever it is allowed to write:
//! privileges, system calls, processes, sockets, devices.
//!
//! Each denial has its twin: the same act outside, where the kernel permits it.

use remount_tests::{Answer, Cmd, Inside, Sandbox, as_root, bin, kernel, landlock_abi};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

/// One act outside, in a user namespace of its own with all capabilities.
fn in_user_namespace(sandbox: &Sandbox, act: &[&str]) -> Answer {
    sandbox.host(bin("probe")).option("--userns").command(act).run().answer()
}

fn outside(sandbox: &Sandbox, act: &[&str]) -> Answer {
    sandbox.host(bin("probe")).command(act).run().answer()
}

/// A profile that has a user namespace for root too.
fn with_user_namespace(sandbox: &Sandbox) -> Cmd {
    let text = "extends = [\"default\"]\n[sandbox]\nuser-namespace = \"always\"\n";
    let profile = sandbox.file("outside/always.toml", text);
    sandbox.host(bin("remount-run")).option("--profile").option(profile).separated()
}

#[test]
fn no_capability_and_no_new_privilege_is_left() {
    let sandbox = Sandbox::new();
    let none = "0000000000000000";
    for mut inside in [sandbox.remount().serve(), with_user_namespace(&sandbox).serve()] {
        for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(inside.act(["status-field", field]).ok(), none, "{field}");
        }
        assert_eq!(inside.act(["status-field", "NoNewPrivs"]).ok(), "1");
        assert_eq!(inside.act(["status-field", "Seccomp"]).ok(), "2");
        inside.end().success();
    }
    assert_ne!(outside(&sandbox, &["status-field", "CapBnd"]).ok(), none);
    assert_eq!(outside(&sandbox, &["status-field", "NoNewPrivs"]).ok(), "0");
}

/// Exactly 1: at 0 the kernel still starts the handler of cores, which is root outside.
#[test]
fn a_crash_starts_no_handler() {
    let sandbox = Sandbox::new();
    let hard = outside(&sandbox, &["limit", "core"]).ok();
    let hard = hard.split(' ').nth(1).unwrap();
    let expected = if hard == "0" { "0 0" } else { "1 1" };
    assert_eq!(sandbox.remount().probe(["limit", "core"]).ok(), expected);
}

#[test]
fn the_mount_interface_is_closed() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("project/dir");
    let dir = dir.to_str().unwrap();
    let mut inside = sandbox.remount().serve();
    for (act, errno) in [
        (&["mount-tmpfs", dir][..], "EPERM"),
        (&["bind-mount", dir, dir], "EPERM"),
        (&["chroot", dir], "EPERM"),
        (&["open-tree-clone", dir], "ENOSYS"),
        (&["fsmount", "tmpfs"], "ENOSYS"),
        (&["fsopen", "tmpfs"], "ENOSYS"),
        (&["setns", "/proc/self/ns/mnt", "mnt"], "EPERM"),
    ] {
        in_user_namespace(&sandbox, act).ok();
        inside.act(act).errno(errno);
    }
    // Not privileged at all, and closed for what else it can do.
    outside(&sandbox, &["open-tree", dir]).ok();
    inside.act(["open-tree", dir]).errno("ENOSYS");
    // What a process with capabilities would use to open a protection again.
    for act in [["remount-rw", "/"], ["umount", "/proc/sys"], ["umount", "/run"]] {
        inside.act(act).errno("EPERM");
    }
    inside.act(["pivot-root", dir, dir]).errno("EPERM");
    inside.act(["mount-setattr", "/", "rw"]).errno("ENOSYS");
    inside.act(["mount-setattr", "/", "rw", "recursive"]).errno("ENOSYS");
    inside.act(["mount-setattr", dir, "ro"]).errno("ENOSYS");
    inside.act(["move-mount", "/proc", dir]).errno("ENOSYS");
    inside.act(["fspick", dir]).errno("ENOSYS");
    inside.end().success();
}

#[test]
fn no_namespace_can_be_made() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    for namespace in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        in_user_namespace(&sandbox, &["unshare", namespace]).ok();
        in_user_namespace(&sandbox, &["clone", namespace]).ok();
        inside.act(["unshare", namespace]).errno("EPERM");
        inside.act(["clone", namespace]).errno("EPERM");
        // ENOSYS and never EPERM, with whatever flags: C libraries then use clone.
        inside.act(["clone3", namespace]).errno("ENOSYS");
    }
    in_user_namespace(&sandbox, &["unshare", "time"]).ok();
    inside.act(["unshare", "time"]).errno("EPERM");
    inside.act(["unshare", "user,mnt"]).errno("EPERM");
    inside.act(["clone", "0x100020000"]).errno("EPERM");
    inside.act(["clone3"]).errno("ENOSYS");
    outside(&sandbox, &["own-mount-namespace"]).ok();
    inside.act(["own-mount-namespace"]).errno("EPERM");
    // A process and a thread like any other.
    inside.act(["clone"]).ok();
    inside.end().success();
}

/// The second reason why there is no other mount namespace, for a process that had no
/// filter: one that kept a target's writable copy would make `ro` a lie.
#[test]
fn the_user_namespace_allows_one_mount_namespace() {
    let sandbox = Sandbox::new();
    let read = ["read", "/proc/sys/user/max_mnt_namespaces"];
    let before = outside(&sandbox, &read).ok();
    assert!(before.trim().parse::<u64>().unwrap() > 1);
    assert_eq!(with_user_namespace(&sandbox).probe(read).ok(), "1\n");
    if !as_root() {
        assert_eq!(sandbox.remount().probe(read).ok(), "1\n");
    }
    assert_eq!(outside(&sandbox, &read).ok(), before, "the host's own limit");
    // Without capabilities nobody may raise it, and the mount is read-only besides.
    with_user_namespace(&sandbox).probe(["open-write", read[1]]).errno("EACCES");
}

#[test]
fn dangerous_interfaces_are_closed() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("project/file", "");
    let file = file.to_str().unwrap();
    let mut inside = sandbox.remount().serve();
    for (act, errno) in [
        (&["io-uring"][..], "ENOSYS"),
        (&["keyctl"], "EPERM"),
        (&["add-key"], "EPERM"),
        (&["request-key"], "EPERM"),
        (&["bpf"], "EPERM"),
        (&["userfaultfd"], "EPERM"),
        (&["name-to-handle", file], "EPERM"),
        (&["personality", "0x400000"], "EPERM"),
    ] {
        outside(&sandbox, act).ok();
        inside.act(act).errno(errno);
    }
    for (act, errno) in [
        (&["perf"][..], "EPERM"),
        (&["fanotify"], "EPERM"),
        (&["open-by-handle"], "EPERM"),
        (&["sethostname"], "EPERM"),
        (&["reboot"], "EPERM"),
    ] {
        if as_root() {
            outside(&sandbox, act).ok();
        }
        inside.act(act).errno(errno);
    }
    // What debuggers need, and reading the clock's state.
    for act in [&["personality", "0x40000"][..], &["personality", "0xffffffff"], &["adjtimex-read"]]
    {
        inside.act(act).ok();
    }
    inside.end().success();
}

/// Calls that would be dangerous if they worked: with arguments that the kernel's own code
/// refuses with another error, which is what root gets outside.
#[test]
fn calls_for_administrators_are_closed() {
    let sandbox = Sandbox::new();
    let bad = "0xffffffffffffff00";
    let calls: &[(libc::c_long, &[&str])] = &[
        (libc::SYS_swapon, &[bad]),
        (libc::SYS_swapoff, &[bad]),
        (libc::SYS_acct, &[bad]),
        (libc::SYS_quotactl, &["-1", bad, "0", "0"]),
        (libc::SYS_syslog, &["99"]),
        (libc::SYS_setdomainname, &[bad, "-1"]),
        (libc::SYS_settimeofday, &[bad, "0"]),
        (libc::SYS_clock_settime, &["99", bad]),
        (libc::SYS_init_module, &[bad, "0", bad]),
        (libc::SYS_finit_module, &["-1", bad, "0"]),
        (libc::SYS_delete_module, &[bad, "0"]),
        (libc::SYS_kexec_load, &["0", "0", "0", "-1"]),
        (libc::SYS_process_mrelease, &["-1", "0"]),
        (libc::SYS_nfsservctl, &["0"]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_iopl, &["99"]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_ioperm, &["-1", "-1", "1"]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_modify_ldt, &["99"]),
    ];
    let mut inside = sandbox.remount().serve();
    for (number, arguments) in calls {
        let number = number.to_string();
        let act: Vec<&str> =
            ["syscall", &number].into_iter().chain(arguments.iter().copied()).collect();
        if as_root() {
            let answer = outside(&sandbox, &act);
            assert_ne!(answer, Answer::Errno("EPERM".to_owned()), "call {number} outside");
        }
        assert_eq!(inside.act(&act), Answer::Errno("EPERM".to_owned()), "call {number}");
    }
    inside.end().success();
}

#[test]
fn other_tables_of_system_calls_are_closed() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    inside.act(["x32-getpid"]).errno("ENOSYS");
    // A kernel built without the table answers ENOSYS or SIGSEGV by itself.
    match outside(&sandbox, &["i386-getpid"]) {
        Answer::Ok(_) => inside.act(["i386-getpid"]).errno("ENOSYS"),
        answer => {
            let denied = [Answer::Signal(libc::SIGSEGV), Answer::Errno("ENOSYS".to_owned())];
            assert!(denied.contains(&answer), "{answer:?}");
            assert!(denied.contains(&inside.act(["i386-getpid"])));
        }
    }
    inside.end().success();
}

#[test]
fn only_ordinary_socket_families_are_there() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    for family in ["unix", "inet", "inet6"] {
        assert_eq!(outside(&sandbox, &["socket", family]), inside.act(["socket", family]));
    }
    inside.act(["socket", "netlink", "raw"]).ok();
    inside.act(["socketpair", "unix"]).ok();
    for family in ["packet", "vsock", "alg", "bluetooth", "xdp", "tipc", "rxrpc", "0x100000028"] {
        for act in ["socket", "socketpair"] {
            inside.act([act, family]).errno("EAFNOSUPPORT");
        }
    }
    if as_root() {
        outside(&sandbox, &["socket", "packet", "raw"]).ok();
    }
    inside.end().success();
}

/// Text put into a terminal's input is run by the shell outside (CVE-2017-5226). The kernel
/// looks at 32 bits of the request: bits above them must not help (CVE-2019-10063).
#[test]
fn nothing_is_typed_into_the_terminal() {
    let sandbox = Sandbox::new();
    for act in ["tiocsti", "tioclinux"] {
        for more in [&[][..], &["high"]] {
            let probe = |command: Cmd| {
                let (_, shown) = command.arg(act).command(more).pty(80, 24).wait();
                shown
            };
            let outside = probe(sandbox.host(bin("probe")));
            assert!(!outside.contains("EPERM"), "{act} {more:?} outside: {outside}");
            let inside = probe(sandbox.remount().arg(bin("probe")));
            assert!(inside.contains("errno EPERM"), "{act} {more:?}: {inside}");
        }
    }
}

/// The processes of a running sandbox as the host numbers them: all but the launcher.
fn processes_of(inside: &mut Inside) -> Vec<i32> {
    let launcher = inside.running().pid();
    let parent = |pid: i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let children: Vec<i32> = pids.filter(|pid| parent(*pid) == Some(launcher)).collect();
    assert!(!children.is_empty(), "the launcher has no child");
    children
}

#[test]
fn init_cannot_be_inspected() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    // Of itself a process may see all of it.
    for link in ["cwd", "root", "exe", "fd/0", "ns/mnt", "ns/user"] {
        inside.act(["readlink", &format!("/proc/self/{link}")]).ok();
        inside.act(["readlink", &format!("/proc/1/{link}")]).errno("EACCES");
        inside.act(["open-path", &format!("/proc/1/{link}")]).errno("EACCES");
    }
    // For root, all of /proc is read-only.
    let open = if remount_tests::as_root() { "open-read" } else { "open-rw" };
    for (file, act) in [("environ", "read"), ("maps", "read"), ("mem", open)] {
        inside.act([act, &format!("/proc/self/{file}")]).ok();
        inside.act([act, &format!("/proc/1/{file}")]).errno("EACCES");
    }
    inside.act(["list", "/proc/1/root/"]).errno("EACCES");
    inside.act(["list", "/proc/1/task/1/cwd/"]).errno("EACCES");
    for act in [&["ptrace", "1"][..], &["vm-read", "1"], &["pidfd-getfd", "1", "0"]] {
        inside.act(act).errno("EPERM");
    }
    inside.end().success();
}

#[test]
fn processes_outside_are_not_there() {
    let sandbox = Sandbox::new();
    let stand_in = sandbox.host_probe().arg(bin("probe")).command(["sleep", "600"]).start();
    let mut inside = sandbox.remount().serve();
    let mut pids = processes_of(&mut inside);
    pids.extend([stand_in.pid(), inside.running().pid()]);
    // Numbers are given anew inside: small ones are in use there too.
    let own = inside.act(["list", "/proc"]).ok();
    let highest = own.lines().filter_map(|name| name.parse::<i32>().ok()).max().unwrap();
    pids.retain(|pid| *pid > highest + 50);
    assert!(pids.len() >= 2, "{pids:?} outside, up to {highest} inside");
    for pid in pids.iter().map(i32::to_string) {
        outside(&sandbox, &["kill", &pid, "0"]).ok();
        for act in ["kill", "ptrace", "vm-read", "pidfd-open"] {
            inside.act([act, &pid, "0"]).errno("ESRCH");
        }
        inside.act(["list", &format!("/proc/{pid}")]).errno("ENOENT");
    }
    drop(stand_in);
    inside.end().success();
}

/// Broker and init have the agent's user id, and stand in reach of the user's other
/// processes: neither can be read or traced without privileges.
#[test]
fn broker_and_init_are_closed_to_the_same_user() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    let pids = processes_of(&mut inside);
    for pid in &pids {
        let pid = pid.to_string();
        let links = format!("/proc/{pid}/fd");
        if as_root() {
            outside(&sandbox, &["list", &links]).ok();
        } else {
            outside(&sandbox, &["list", &links]).errno("EACCES");
            outside(&sandbox, &["ptrace", &pid]).errno("EPERM");
            outside(&sandbox, &["vm-read", &pid]).errno("EPERM");
        }
    }
    inside.end().success();
}

/// `kill(0)` names the process group, and that reaches out of the PID namespace: to the
/// script that started the sandbox.
#[test]
fn a_signal_to_the_process_group_stays_inside() {
    let sandbox = Sandbox::new();
    let inner = "trap '' USR1; kill -USR1 0; sleep 0.1; echo sent";
    let script = |command: &str| format!("trap 'echo hit' USR1; {command}; echo end");
    let run = |command: String| {
        let outcome = sandbox.host("/bin/sh").arg("-c").arg(script(&command)).run();
        outcome.success();
        outcome.stdout()
    };
    assert_eq!(run(format!("sh -c \"{inner}\"")), "sent\nhit\nend\n");
    let remount = bin("remount-run");
    let said = run(format!("{} -- sh -c \"{inner}\"", remount.display()));
    if landlock_abi() >= 6 {
        assert_eq!(said, "sent\nend\n");
    } else {
        // SECURITY.md says so of such a kernel.
        assert!(said.ends_with("end\n"), "{said}");
    }
}

/// What was opened outside is not on the sandbox's mounts: Landlock alone keeps a
/// read-only descriptor from being opened again for writing.
#[test]
fn a_standard_descriptor_gives_no_more_than_it_has() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("outside/input", "x");
    let redirected = |program: &Path, words: &str| {
        let script = format!("exec {} {words} <{}", program.display(), file.display());
        sandbox.host("/bin/sh").arg("-c").arg(script).run().answer()
    };
    let probe = bin("probe");
    redirected(&probe, "open-write /proc/self/fd/0").ok();
    let inside =
        |act: &str| redirected(&bin("remount-run"), &format!("-- {} {act}", probe.display()));
    inside("open-read /proc/self/fd/0").ok();
    inside("open-write /proc/self/fd/0").errno("EACCES");
    inside("open-rw /dev/stdin").errno("EACCES");
}

/// Through a directory, `openat` would go past every mount.
#[test]
fn a_directory_on_a_standard_descriptor_is_refused() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("project/file", "");
    for number in [0, 1, 2] {
        let run = |words: &str| {
            let script = format!("exec {words} {number}<{}", sandbox.project().display());
            sandbox.host("/bin/sh").arg("-c").arg(script).run()
        };
        let outcome = run(&format!("{} -- true", bin("remount-run").display()));
        assert_eq!(outcome.code(), Some(125), "{outcome}");
        if number != 2 {
            outcome.says(&format!("standard descriptor {number} is a directory"));
        }
        if number == 0 {
            let path = format!("/proc/self/fd/0/{}", file.file_name().unwrap().display());
            run(&format!("{} open-write {path}", bin("probe").display())).answer().ok();
        }
    }
}

#[test]
fn descriptors_from_outside_do_not_come_along() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("outside/held");
    let run = |words: String| {
        let script = format!("exec 9<{0} 7<{0}; exec {words}", dir.display());
        sandbox.host("/bin/sh").arg("-c").arg(script)
    };
    let probe = bin("probe");
    let held = dir.to_str().unwrap();
    assert!(run(format!("{} fds", probe.display())).run().answer().ok().contains(held));
    let remount = format!("{} -- {}", bin("remount-run").display(), probe.display());
    let fds = run(format!("{remount} fds")).run().answer().ok();
    let numbers: Vec<&str> = fds.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(numbers, ["0", "1", "100", "2"], "{fds}");
    let inside_cwd = run(format!("{remount} cwd")).run().answer().ok();
    assert_eq!(Path::new(&inside_cwd), sandbox.project());
    if as_root() {
        // Nor do broker and init keep them: nobody inside could reach those, but why.
        let mut running =
            run(format!("{} -- sh -c 'echo up; read line'", bin("remount-run").display()))
                .start_interactive();
        assert_eq!(running.line(), "up");
        let parent = |pid: &str| -> Option<String> {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some(stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned())
        };
        let mut seen = 0;
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if parent(&pid) != Some(running.pid().to_string()) {
                continue;
            }
            for fd in std::fs::read_dir(entry.path().join("fd")).unwrap().flatten() {
                let target = std::fs::read_link(fd.path()).unwrap_or_default();
                assert_ne!(target, dir, "process {pid}");
                seen += 1;
            }
        }
        assert!(seen > 3, "{seen} descriptors seen");
        running.send("\n");
        running.wait().success();
    }
}

#[test]
fn abstract_sockets_outside_are_out_of_reach() {
    let sandbox = Sandbox::new();
    let name = format!("remount-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    outside(&sandbox, &["connect-abstract", &name]).ok();
    let mut inside = sandbox.remount().serve();
    let answer = inside.act(["connect-abstract", &name]);
    if landlock_abi() >= 6 {
        answer.errno("EPERM");
    }
    // A network of one's own has abstract names of its own, on every kernel.
    let alone = sandbox.host(bin("remount-run")).option("--unshare-net").separated();
    alone.probe(["connect-abstract", &name]).errno("ECONNREFUSED");
    inside.end().success();
}

#[test]
fn sockets_in_run_and_tmp_are_not_there() {
    let sandbox = Sandbox::new();
    let mut paths = vec![format!("/tmp/remount-test-{}.socket", std::process::id())];
    if as_root() {
        paths.push(format!("/run/remount-test-{}.socket", std::process::id()));
    }
    let mut inside = sandbox.remount().serve();
    for path in &paths {
        let _listener = UnixListener::bind(path).unwrap();
        let answer = outside(&sandbox, &["connect-unix", path]);
        let hidden = inside.act(["connect-unix", path]);
        std::fs::remove_file(path).unwrap();
        answer.ok();
        hidden.errno("ENOENT");
    }
    let run = inside.act(["list", "/run"]).ok();
    assert!(
        run.lines().all(|name| ["remount", "user"].contains(&name) || is_resolver(name)),
        "{run}"
    );
    assert_eq!(inside.act(["list", "/tmp"]).ok(), "");
    inside.end().success();
}

/// The default profile binds these back: files and trees of programs, no sockets.
fn is_resolver(name: &str) -> bool {
    let known = ["systemd", "NetworkManager", "resolvconf", "connman", "netconfig"];
    known.contains(&name) || ["current-system", "booted-system", "opengl-driver"].contains(&name)
}

/// A read-only mount lets anyone write to a FIFO.
#[test]
fn fifos_outside_cannot_be_written_to() {
    let sandbox = Sandbox::new();
    let fifo = sandbox.outside().join("fifo");
    let fifo = fifo.to_str().unwrap();
    outside(&sandbox, &["mkfifo", fifo]).ok();
    let reader = std::fs::OpenOptions::new().read(true).write(true).open(fifo).unwrap();
    outside(&sandbox, &["fifo-write", fifo]).ok();
    sandbox.remount().probe(["fifo-write", fifo]).errno("EACCES");
    drop(reader);
}

#[test]
fn devices_are_the_few_that_every_program_needs() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    let expected = [
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    ];
    assert_eq!(inside.act(["list", "/dev"]).ok().lines().collect::<Vec<_>>(), expected);
    for device in ["null", "zero", "full", "random", "urandom", "pts/ptmx"] {
        let path = format!("/dev/{device}");
        inside.act(["open-rw", &path]).ok();
        let kind = inside.act(["stat", &path]).ok();
        assert!(kind.starts_with("char "), "{path}: {kind}");
    }
    inside.act(["create", "/dev/shm/file"]).ok();
    for dir in [&sandbox.project().display().to_string(), "/dev/shm", "/dev", "/tmp"] {
        let node = format!("{dir}/node");
        let answer = inside.act(["mknod", &node]);
        // EACCES is Landlock's word, EPERM that of the missing capability.
        let denied = ["EPERM", "EACCES"].map(|name| Answer::Errno(name.to_owned()));
        assert!(denied.contains(&answer), "{node}: {answer:?}");
    }
    if as_root() {
        let node = sandbox.project().join("node");
        outside(&sandbox, &["mknod", node.to_str().unwrap()]).ok();
        std::fs::remove_file(node).unwrap();
    }
    inside.end().success();
}

/// Root owns the host's nodes, and changing a mode needs no capability.
#[test]
fn the_hosts_device_nodes_cannot_be_changed() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    for act in ["chmod", "chown", "utime"] {
        for path in ["/dev/null", "/dev/zero", "/dev/urandom"] {
            if as_root() {
                // To the mode and owner that it has.
                outside(&sandbox, &[act, path]).ok();
            }
            inside.act([act, path]).errno("EROFS");
        }
    }
    // Nor through the one that standard input was opened on outside.
    for act in ["chmod", "utime"] {
        sandbox.remount().probe([act, "/proc/self/fd/0"]).errno("EROFS");
    }
    inside.end().success();
}

#[test]
fn no_mount_honours_set_user_id_or_devices() {
    let sandbox = Sandbox::new();
    let table = sandbox.remount().probe(["read", "/proc/self/mountinfo"]).ok();
    assert!(table.lines().count() > 10, "{table}");
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (point, options) = (fields[4], format!(",{},", fields[5]));
        assert!(options.contains(",nosuid,"), "{line}");
        let is_device = point.starts_with("/dev/") && !point.starts_with("/dev/shm");
        assert!(options.contains(",nodev,") || is_device, "{line}");
    }
    if as_root() {
        let node = sandbox.project().join("node");
        outside(&sandbox, &["mknod", node.to_str().unwrap()]).ok();
        sandbox.twin(["open-write"], &node).denied("EACCES");
        let program = sandbox.project().join("program");
        std::fs::copy(bin("probe"), &program).unwrap();
        chown(&program, Some(61234), Some(61234)).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o6755)).unwrap();
        let ids = |command: Cmd| command.arg(&program).arg("ids").run().answer().ok();
        assert!(ids(sandbox.host_probe()).starts_with("61234 61234"));
        assert!(ids(sandbox.remount()).starts_with("0 0"));
    }
}

/// A file under `/proc` that is not a process's own and can be written to is a switch.
#[test]
fn nothing_of_the_kernel_can_be_written() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    for path in
        ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/panic_on_oom"]
    {
        if as_root() {
            outside(&sandbox, &["open-write", path]).ok();
        }
        inside.act(["open-write", path]).errno(if as_root() { "EROFS" } else { "EACCES" });
        inside.act(["open-read", path]).ok();
    }
    for path in ["/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/sys/power/state"] {
        if !Path::new(path).exists() {
            continue;
        }
        if as_root() {
            outside(&sandbox, &["open-write", path]).ok();
            inside.act(["open-write", path]).errno("EROFS");
        } else {
            inside.act(["open-write", path]).errno("EACCES");
        }
    }
    if as_root() {
        for name in ["kcore", "keys", "timer_list"] {
            let path = format!("/proc/{name}");
            if Path::new(&path).exists() {
                assert_eq!(inside.act(["read", &path]).ok(), "", "{path}");
            }
        }
    }
    inside.end().success();
}

#[test]
fn variables_that_lead_outside_are_taken_away() {
    let sandbox = Sandbox::new();
    let gone = [
        "SSH_AUTH_SOCK",
        "DBUS_SESSION_BUS_ADDRESS",
        "DISPLAY",
        "WAYLAND_DISPLAY",
        "XAUTHORITY",
        "TMUX",
        "LD_PRELOAD",
        "LD_AUDIT",
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "DOCKER_HOST",
        "KUBECONFIG",
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_TOKEN",
        "GPG_AGENT_INFO",
        "REMOUNT_SOCKET",
    ];
    let mut command = sandbox.remount().env("KEPT", "1");
    for name in gone {
        command = command.env(name, "/nonexistent/x");
    }
    let mut inside = command.serve();
    assert_eq!(inside.act(["env", "KEPT"]).ok(), "1");
    for name in gone {
        assert_eq!(inside.act(["env", name]), Answer::Errno("ENOENT".to_owned()), "{name}");
    }
    inside.end().success();
}

/// All that runs inside ends with the sandbox, however far it has run away.
#[test]
fn nothing_outlives_the_sandbox() {
    let sandbox = Sandbox::new();
    let probe = bin("probe");
    let script = format!(
        "(setsid sh -c 'trap \"\" HUP TERM INT; {0} sleep 100' >/dev/null 2>&1 &) ; \
         (trap '' TERM; exec {0} sleep 101) >/dev/null 2>&1 & sleep 0.1; exit 3",
        probe.display()
    );
    // The harness fails the run if a process is left.
    let outcome = sandbox.remount().sh(&script).run();
    assert_eq!(outcome.code(), Some(3), "{outcome}");
}

/// What the kernel at hand is known to lack is lacking for the reason that is named.
#[test]
fn the_kernel_is_one_of_those_that_are_known() {
    let (major, minor) = kernel();
    let abi = landlock_abi();
    assert!(abi >= 1, "Linux {major}.{minor} has no Landlock");
    if (major, minor) >= (6, 12) {
        assert!(abi >= 6, "Linux {major}.{minor}: {abi}");
    }
}
