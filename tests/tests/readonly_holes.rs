//! Ways out of a read-only sandbox, each tried: by an ordinary user, by root, and by root in a
//! user namespace. The same act succeeds outside, on a stand-in.

use remount_tests::{Answer, Cmd, Inside, Running, Sandbox, as_root, bin};
use std::path::{Path, PathBuf};

fn outside(sandbox: &Sandbox, act: &[&str]) -> Answer {
    sandbox.host(bin("probe")).command(act).run().answer()
}

fn in_user_namespace(sandbox: &Sandbox, act: &[&str]) -> Answer {
    sandbox.host(bin("probe")).option("--userns").command(act).run().answer()
}

/// `remount-run --profile readonly`: for root also with a user namespace.
fn kinds(sandbox: &Sandbox) -> Vec<Cmd> {
    let text = "extends = [\"readonly\"]\n[sandbox]\nuser-namespace = \"always\"\n";
    let always = sandbox.file("outside/always.toml", text);
    let command = |profile: &Path| sandbox.remount().option("--profile").option(profile);
    let mut kinds = vec![command(Path::new("readonly"))];
    if as_root() {
        kinds.push(command(&always));
    }
    kinds
}

/// A process outside that reads its standard input, whose number no process inside has.
fn stand_in(sandbox: &Sandbox, inside: &mut Inside) -> Running {
    let own = inside.act(["status-field", "NSpid"]).ok();
    let own: i32 = own.split_whitespace().last().unwrap().parse().unwrap();
    loop {
        let cat = sandbox.host("cat").start_interactive();
        // Each act inside takes a number or two.
        if cat.pid() > own + 1000 {
            return cat;
        }
    }
}

/// The files of a kind that there are, at least one.
fn some(paths: &[&str], dir: &str, name: &str) -> Vec<PathBuf> {
    let below = std::fs::read_dir(dir).into_iter().flatten();
    let below = below.map(|entry| entry.unwrap().path().join(name));
    let all = paths.iter().map(PathBuf::from).chain(below);
    let found: Vec<PathBuf> = all.filter(|path| path.is_file()).collect();
    assert!(!found.is_empty(), "{paths:?}, {dir}/*/{name}");
    found
}

/// Not only the root: what the host has mounted below it, and what takes a host's place.
#[test]
fn every_mount_is_read_only_but_the_scratch_space() {
    let sandbox = Sandbox::new();
    for mut inside in kinds(&sandbox).into_iter().map(Cmd::serve) {
        let table = inside.act(["read", "/proc/self/mountinfo"]).ok();
        let mut writable = Vec::new();
        for line in table.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            if fields[5].split(',').any(|option| option == "rw") {
                writable.push(fields[4]);
            }
            assert!(fields[5].contains("nosuid"), "{line}");
        }
        writable.sort_unstable();
        assert_eq!(writable, ["/dev", "/dev/pts", "/tmp"], "{table}");
        for dir in ["/run", "/run/lock", "/home", "/mnt", "/var/tmp", "/root", "/dev"] {
            let answer = inside.act(["create", &format!("{dir}/new")]);
            let Answer::Errno(errno) = &answer else { panic!("{dir}: {answer:?}") };
            let allowed: &[&str] = match dir {
                "/dev" => &["EACCES"],
                "/root" if !as_root() => &["EACCES", "EROFS"],
                _ => &["EROFS", "ENOENT"],
            };
            assert!(allowed.contains(&errno.as_str()), "{dir}: {errno}");
        }
        inside.end().success();
    }
}

/// What undoes a read-only root for whoever keeps `CAP_SYS_ADMIN`.
#[test]
fn no_mount_is_changed_from_inside() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("outside/dir");
    let dir = dir.to_str().unwrap();
    for mut inside in kinds(&sandbox).into_iter().map(Cmd::serve) {
        for (act, errno) in [
            (&["mount-tmpfs", dir][..], "EPERM"),
            (&["bind-mount", dir, dir], "EPERM"),
            (&["chroot", dir], "EPERM"),
            (&["unshare", "mnt"], "EPERM"),
            (&["unshare", "user"], "EPERM"),
            (&["clone", "mnt"], "EPERM"),
            (&["open-tree-clone", dir], "ENOSYS"),
            (&["fsmount", "tmpfs"], "ENOSYS"),
        ] {
            in_user_namespace(&sandbox, act).ok();
            inside.act(act).errno(errno);
        }
        for place in ["/", "/proc", "/run", "/sys", "/home"] {
            inside.act(["remount-rw", place]).errno("EPERM");
            inside.act(["umount", place]).errno("EPERM");
            inside.act(["mount-setattr", place, "rw"]).errno("ENOSYS");
        }
        for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(inside.act(["status-field", field]).ok(), "0000000000000000");
        }
        inside.end().success();
    }
}

#[test]
fn the_kernels_switches_are_not_written() {
    let sandbox = Sandbox::new();
    let mut switches =
        some(&["/proc/sys/kernel/core_pattern", "/proc/sys/vm/panic_on_oom"], "", "");
    switches.extend(some(&["/sys/kernel/mm/transparent_hugepage/enabled"], "/sys/block", "uevent"));
    // Who writes a release_agent has a program run as root (CVE-2022-0492).
    switches.extend(some(&["/sys/fs/cgroup/cgroup.procs"], "/sys/fs/cgroup", "cgroup.procs"));
    let may_be = ["/proc/sysrq-trigger", "/sys/fs/cgroup/cpu/release_agent"].map(PathBuf::from);
    switches.extend(may_be.into_iter().filter(|path| path.exists()));
    for mut inside in kinds(&sandbox).into_iter().map(Cmd::serve) {
        for path in switches.iter().map(|path| path.to_str().unwrap()) {
            // Opened, and nothing written.
            match (outside(&sandbox, &["open-write", path]), as_root()) {
                (Answer::Ok(_), _) => inside.act(["open-write", path]).errno("EROFS"),
                (_, false) => inside.act(["open-write", path]).errno("EACCES"),
                (answer, true) => panic!("outside, {path}: {answer:?}"),
            }
        }
        // What of its own a process may change elsewhere: the host's are beside it.
        for file in ["oom_score_adj", "comm", "coredump_filter"] {
            let path = format!("/proc/self/{file}");
            outside(&sandbox, &["open-write", &path]).ok();
            inside.act(["open-write", &path]).errno("EROFS");
        }
        inside.end().success();
    }
}

/// The numbers and command lines of the host's processes are seen, and nothing in them.
#[test]
fn processes_outside_are_looked_at_and_no_more() {
    let sandbox = Sandbox::new();
    for mut inside in kinds(&sandbox).into_iter().map(Cmd::serve) {
        let other = stand_in(&sandbox, &mut inside);
        let pid = other.pid().to_string();
        let at = |file: &str| format!("/proc/{pid}/{file}");
        assert_eq!(inside.act(["read", &at("cmdline")]).ok(), "cat\0");
        inside.act(["read", &at("status")]).ok();
        for (act, file) in [
            ("list", "root/"),
            ("list", "cwd/"),
            ("open-read", "fd/0"),
            ("list", "map_files"),
            ("readlink", "exe"),
            ("readlink", "ns/mnt"),
            ("readlink", "fd/0"),
            ("read", "environ"),
            ("read", "maps"),
            ("open-read", "mem"),
            ("read", "auxv"),
        ] {
            outside(&sandbox, &[act, &at(file)]).ok();
            inside.act([act, &at(file)]).errno("EACCES");
            // Of itself a process may see it all.
            inside.act([act, &format!("/proc/self/{file}")]).ok();
        }
        for file in ["mem", "oom_score_adj", "clear_refs"] {
            outside(&sandbox, &["open-write", &at(file)]).ok();
            inside.act(["open-write", &at(file)]).errno("EROFS");
        }
        // By number there is no such process.
        for act in [&["kill", &pid, "0"][..], &["ptrace", &pid], &["pidfd-open", &pid]] {
            outside(&sandbox, act).ok();
            inside.act(act).errno("ESRCH");
        }
        outside(&sandbox, &["vm-read", &pid]).ok();
        inside.act(["vm-read", &pid]).errno("ESRCH");
        // A directory of /proc can stand for its process (pidfd_send_signal(2)).
        let signal = "import os, signal, sys\n\
                      fd = os.open('/proc/' + sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)\n\
                      try: signal.pidfd_send_signal(fd, 0)\n\
                      except OSError as error: print(error.errno)\n";
        let said = sandbox.host("python3").command(["-c", signal, &pid]).run();
        assert_eq!(said.success().stdout(), "");
        let said = inside.act(["run", "python3", "-c", signal, &pid]).ok();
        assert_eq!(said, format!("0\n{}\n", rustix::io::Errno::INVAL.raw_os_error()));
        for file in ["root/", "cwd/"] {
            inside.act(["list", &format!("/proc/1/{file}")]).errno("EACCES");
        }
        inside.end().success();
    }
}

#[test]
fn root_reads_no_memory_of_the_kernel() {
    let sandbox = Sandbox::new();
    for mut inside in kinds(&sandbox).into_iter().map(Cmd::serve) {
        for name in ["kcore", "keys", "timer_list", "kpagecount"] {
            let path = format!("/proc/{name}");
            let text = match inside.act(["read", &path]) {
                Answer::Ok(text) => text,
                Answer::Errno(errno) if ["ENOENT", "EACCES"].contains(&&*errno) => continue,
                other => panic!("{path}: {other:?}"),
            };
            // For everybody: only what concerns him. For root it is masked.
            assert!(text.is_empty() || (name == "keys" && !as_root()), "{path}");
        }
        inside.end().success();
    }
}

#[test]
fn devices_are_the_few_that_every_program_needs() {
    let sandbox = Sandbox::new();
    let node = sandbox.outside().join("node");
    for kind in kinds(&sandbox) {
        let listed = kind.clone().command(["ls", "/dev"]).run().success().stdout();
        let expected = [
            "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
            "tty", "urandom", "zero",
        ];
        assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), expected);
        if as_root() {
            outside(&sandbox, &["mknod", node.to_str().unwrap()]).ok();
            std::fs::remove_file(&node).unwrap();
        }
        kind.clone().probe(["mknod", "/tmp/node"]).errno("EACCES");
        kind.probe(["chmod", "/dev/null", "0600"]).errno("EROFS");
    }
}

/// In a namespace of the test's own, with another `/run`: what is in it is seen, and no
/// socket or FIFO leads out, whether it was there before or is made later.
#[test]
fn sockets_of_the_hosts_run_lead_nowhere() {
    const DRIVER: &str = r#"
import os, socket, subprocess, sys
launcher, probe = sys.argv[1:]
held = []
def listen(path):
    s = socket.socket(socket.AF_UNIX); s.bind(path); s.listen(); held.append(s)
def act(*words):
    print(subprocess.run([probe, *words], stdout=subprocess.PIPE, text=True).stdout, end='')
os.mkdir('/run/dir'); os.mkfifo('/run/fifo'); open('/run/some.pid', 'w').write('7')
held.append(os.open('/run/fifo', os.O_RDONLY | os.O_NONBLOCK))
listen('/run/docker.sock'); listen('/run/dir/early')
tries = [['connect-unix', '/run/docker.sock'], ['connect-unix', '/run/dir/early']]
for words in tries: act(*words)
act('fifo-write', '/run/fifo')
run = subprocess.Popen([launcher, '--profile', 'readonly', '--', probe, 'serve'], text=True,
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def ask(*words):
    run.stdin.write('\t'.join(words) + '\n'); run.stdin.flush()
    print(run.stdout.readline(), end='')
for words in tries: ask(*words)
ask('fifo-write', '/run/fifo')
ask('read', '/run/some.pid')
listen('/run/dir/late')
act('connect-unix', '/run/dir/late')
ask('connect-unix', '/run/dir/late')
for path in '/run/new', '/run/dir/new', '/run/remount/new': ask('create', path)
run.stdin.close(); sys.exit(run.wait())
"#;
    let sandbox = Sandbox::new();
    let driver = sandbox.file("outside/driver.py", DRIVER);
    let unshare = ["--user", "--map-root-user", "--mount", "--", "sh", "-c"];
    let script = "mount -t tmpfs t /run && exec python3 \"$@\"";
    let said = sandbox
        .host("unshare")
        .command(unshare)
        .command([script, "sh"])
        .arg(driver)
        .arg(bin("remount-run"))
        .arg(bin("probe"))
        .run();
    // Landlock does not let write to a FIFO; that nobody would read comes after.
    let expected = "ok\nok\nok\n\
                    errno ECONNREFUSED\nerrno ECONNREFUSED\nerrno EACCES\nok 7\n\
                    ok\nerrno ECONNREFUSED\nerrno EROFS\nerrno EROFS\nerrno EROFS\n";
    assert_eq!(said.success().stdout(), expected, "{said}");
}
