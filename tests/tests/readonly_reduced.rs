//! The profile `readonly` where no namespace can be made, as in a container: what is missing is
//! said, what can be enforced is. Two stand-ins for such a host: a user namespace that may have
//! no further one, without capabilities, and a filter like Docker's default.

use remount_tests::{Answer, Cmd, LIMIT, Outcome, Sandbox, Tmux, bin, landlock_abi, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// What Docker's default profile refuses without `CAP_SYS_ADMIN`, then a command.
const LIKE_DOCKER: &str = r#"
import ctypes, os, platform, struct, sys
refused = {'x86_64': [165, 166, 155, 272, 308, 428, 429, 430, 431, 432, 433, 442],
           'aarch64': [40, 39, 41, 97, 268, 428, 429, 430, 431, 432, 433, 442]}[platform.machine()]
clone = {'x86_64': 56, 'aarch64': 220}[platform.machine()]
def code(op, k, yes=0, no=0): return struct.pack('HBBI', op, yes, no, k)
program = code(0x20, 0)
for nr in refused: program += code(0x15, nr, 0, 1) + code(0x06, 0x50001)
program += code(0x15, 435, 0, 1) + code(0x06, 0x50026)
program += code(0x15, clone, 0, 3) + code(0x20, 16) + code(0x45, 0x7e020000, 0, 1) + code(0x06, 0x50001)
program += code(0x06, 0x7fff0000)
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(program, len(program))
class Prog(ctypes.Structure): _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
prog = Prog(len(program) // 8, ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(prog), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;

const NO_MORE_NAMESPACES: &str = "echo 0 >/proc/sys/user/max_user_namespaces && \
    exec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all \"$@\"";

/// The commands that a command is run by, to be on such a host.
fn hosts(sandbox: &Sandbox) -> Vec<Vec<String>> {
    let docker = sandbox.file("outside/docker.py", LIKE_DOCKER);
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    vec![
        words(&["python3", docker.to_str().unwrap()]),
        words(&["unshare", "--user", "--map-root-user", "sh", "-ec", NO_MORE_NAMESPACES, "sh"]),
        words(&[
            "unshare",
            "--user",
            "--map-current-user",
            "--keep-caps",
            "sh",
            "-ec",
            NO_MORE_NAMESPACES,
            "sh",
        ]),
    ]
}

fn on(host: &[String], cmd: Cmd) -> Cmd {
    let options: Vec<&str> = host[1..].iter().map(String::as_str).collect();
    let words = cmd.words();
    cmd.instead(&host[0], &options).command(words)
}

fn readonly(sandbox: &Sandbox, host: &[String], options: &[&str], script: &str) -> Outcome {
    let remount = sandbox.remount().options(["--profile", "readonly"]).options(options);
    on(host, remount.sh(script)).run()
}

#[test]
fn what_is_missing_is_said_and_the_rest_enforced() {
    let sandbox = Sandbox::new();
    let precious = sandbox.file("outside/precious", "data");
    let path = precious.to_str().unwrap();
    let new = sandbox.outside().join("new");
    let new = new.to_str().unwrap();
    for host in hosts(&sandbox) {
        let script = "echo here; cat \"$TMPDIR/x\" 2>/dev/null; echo y >\"$TMPDIR/x\" && \
                      cat \"$TMPDIR/x\" && echo \"$TMPDIR\"; cat ../outside/precious; exit 7";
        let said = readonly(&sandbox, &host, &[], script);
        said.exits(7);
        let printed = said.stdout();
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!((lines[0], lines[1], lines[3]), ("here", "y", "data"), "{said}");
        assert!(!std::path::Path::new(lines[2]).exists(), "{said}");
        for lost in
            ["mount namespace", "PID namespace", "IPC namespace", "private /tmp", "broker", "shims"]
        {
            said.says(&format!("remount-run: warning: no {lost}"));
        }
        // A tool that would have had a shim.
        let tool = sandbox.remount().options(["--profile", "readonly"]);
        on(&host, tool.command(["git", "--version"])).run().success();
        // The same acts on that host, outside of any sandbox.
        for (act, errno) in [
            (&["open-write", path][..], "EACCES"),
            (&["truncate", path], "EACCES"),
            (&["create", new], "EACCES"),
            (&["mkdir", new], "EACCES"),
            (&["symlink", "x", new], "EACCES"),
            (&["mkfifo", new], "EACCES"),
            (&["link", path, new], "EACCES"),
            (&["chmod", path, "0644"], "EPERM"),
            (&["chown", path], "EPERM"),
            (&["utime", path], "EPERM"),
            (&["setxattr", path], "EPERM"),
            (&["set-flags", path], "ENOTTY"),
            (&["socket", "unix"], "EAFNOSUPPORT"),
            (&["socketpair", "unix", "dgram"], "EAFNOSUPPORT"),
            (&["socketpair", "unix", "raw"], "EAFNOSUPPORT"),
            (&["unlink", path], "EACCES"),
        ] {
            let outside = on(&host, sandbox.host_probe()).probe(act);
            assert!(matches!(outside, Answer::Ok(_)), "{act:?}: {outside:?}");
            if std::fs::symlink_metadata(new).is_ok_and(|meta| meta.is_dir()) {
                std::fs::remove_dir(new).unwrap();
            }
            std::fs::remove_file(new).unwrap_or(());
            std::fs::write(path, "data").unwrap();
            let remount = sandbox.remount().options(["--profile", "readonly"]);
            let inside = on(&host, remount.arg(bin("probe")).command(act)).run().answer();
            assert_eq!(inside, Answer::Errno(errno.into()), "{act:?}, {host:?}");
        }
    }
}

#[test]
fn processes_outside_are_left_alone_and_ones_own_end() {
    let sandbox = Sandbox::new();
    let other = sandbox.host("cat").start_interactive();
    let pid = other.pid().to_string();
    for host in hosts(&sandbox) {
        let probe = bin("probe");
        let tries = format!(
            "for act in 'kill {pid} 0' 'ptrace {pid}' 'read /proc/{pid}/environ' \
             'list /proc/{pid}/root/' 'open-write /proc/{pid}/comm'; do {} $act; done; \
             prlimit --pid {pid} --nofile=99:99 2>&1; renice -n 5 -p {pid} 2>&1; \
             ps -o comm= -p {pid}; sleep 600 & kill $!; wait $!; echo $?; \
             (setsid sleep 600 &) ; setsid sh -c 'sleep 600 & sleep 600 &' & wait $!; \
             strace -o /dev/null true && echo traced",
            probe.display()
        );
        let said = readonly(&sandbox, &host, &[], &tries);
        let printed = said.success().stdout();
        // Signals: Linux 6.12.
        let signal = if landlock_abi() >= 6 { "errno EPERM" } else { "ok" };
        let expected = [signal, "errno EPERM", "errno EACCES", "errno EACCES", "errno EACCES"];
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines[..5], expected, "{said}");
        assert!(lines[5].ends_with("Operation not permitted"), "{said}");
        assert!(lines[6].ends_with("Operation not permitted"), "{said}");
        assert_eq!(lines[7..], ["cat", "143", "traced"], "{said}");
    }
    // On a host that permits all, all of it is done to the stand-in.
    for act in [&["kill", &pid, "0"][..], &["ptrace", &pid]] {
        sandbox.host_probe().probe(act).ok();
    }
    let limit = ["--pid", &pid, "--nofile=99:99"];
    sandbox.host("prlimit").command(limit).run().success();
    drop(other);
}

/// By number: the real-time signals have no names.
#[test]
fn signals_are_passed_on() {
    let sandbox = Sandbox::new();
    let script = "trap 'echo usr' USR1; trap 'echo real; exit 3' 40; echo ready; \
                  while :; do sleep 0.02; done";
    for host in hosts(&sandbox) {
        let remount = sandbox.remount().options(["--profile", "readonly"]);
        let mut running = on(&host, remount.command(["bash", "-c", script])).start();
        assert_eq!(running.line(), "ready");
        running.kill(rustix::process::Signal::USR1);
        assert_eq!(running.line(), "usr");
        let pid = running.pid().to_string();
        sandbox.host("kill").command(["-40", &pid]).run().success();
        assert_eq!(running.line(), "real");
        running.wait().exits(3);
    }
}

#[test]
fn secrets_are_not_read_there_either() {
    let sandbox = Sandbox::new();
    sandbox.file("home/.ssh/key", "secret");
    sandbox.file("home/notes", "notes\n");
    std::os::unix::fs::symlink("../.ssh/key", sandbox.home().join("link")).unwrap();
    let read = "cd; cat notes; cat .ssh/key link; ls .ssh";
    for host in hosts(&sandbox) {
        let said = readonly(&sandbox, &host, &[], read);
        assert_eq!(said.success().stdout(), "notes\nkey\n", "{said}");
        said.says("cat: .ssh/key: Permission denied").says("warning: no masks");
        let said = readonly(&sandbox, &host, &["--no-mask"], "cat ~/.ssh/key");
        assert_eq!(said.success().stdout(), "secret", "{said}");
    }
}

#[test]
fn what_cannot_be_had_is_refused() {
    let sandbox = Sandbox::new();
    let scratch = sandbox.dir("outside/scratch");
    let scratch = scratch.to_str().unwrap();
    for host in hosts(&sandbox) {
        for options in [
            &["--profile", "readonly", "--require"][..],
            &["--profile", "readonly", "--unshare-net"],
            &["--profile", "readonly", "--hostname", "x"],
            &["--profile", "readonly", "--tmpfs", scratch],
            &["--profile", "readonly", "--bind", scratch, scratch],
            &[],
        ] {
            let cmd = sandbox.remount().options(options).sh("echo ran");
            let said = on(&host, cmd).run();
            said.exits(125).says("create namespaces (");
            assert_eq!(said.stdout(), "", "{options:?}: {said}");
        }
    }
}

#[test]
fn a_window_that_is_closed_ends_the_command() {
    let sandbox = Sandbox::new();
    for host in hosts(&sandbox) {
        let remount = sandbox.remount().options(["--profile", "readonly"]);
        let run = on(&host, remount.sh("echo be\"\"gun; exec sleep 6000"));
        let screen = Tmux::start(&sandbox, run);
        screen.expect("begun");
        // Panics if not everything has ended.
        drop(screen);
    }
}

/// Not while anything that was started in it lives; then by the next start, or by the doctor.
#[test]
fn what_was_killed_leaves_no_directory() {
    let sandbox = Sandbox::new();
    let tmp = sandbox.dir("tmp");
    let others = ["remount-mine", "remount-abcd2345"].map(|name| {
        sandbox.file(format!("tmp/{name}/file"), "");
        tmp.join(name)
    });
    let doctor =
        |words: &[&str]| sandbox.ctl().env("TMPDIR", &tmp).option("doctor").options(words).run();
    let nothing = "nothing is left over\n";
    for (host, by_doctor) in hosts(&sandbox).iter().zip([true, false]) {
        let remount = || sandbox.remount().options(["--profile", "readonly"]).env("TMPDIR", &tmp);
        let script = "setsid sleep 6000 >&- 2>&- & echo \"$!\"; echo x >\"$TMPDIR/x\"; mkdir \"$TMPDIR/dir\"; \
                      echo \"$TMPDIR\"; wait";
        let command = on(host, remount().sh(script)).may_leave_processes();
        let mut running = command.start();
        let background: i32 = running.line().parse().unwrap();
        let left = std::path::PathBuf::from(running.line());
        assert_eq!(left.parent(), Some(&*tmp));
        assert_eq!(doctor(&["--clean"]).success().stdout(), nothing, "its launcher lives");
        running.kill(Signal::KILL);
        assert_eq!(running.wait().code(), None);
        assert_eq!(doctor(&["--clean"]).success().stdout(), nothing, "{background} lives");
        kill_process(Pid::from_raw(background).unwrap(), Signal::KILL).unwrap();
        // The shell is killed as well, at its own time.
        let said = format!("left over: {}\n", left.display());
        wait_until("nobody uses it", LIMIT, || doctor(&[]).stdout().starts_with(&said));
        doctor(&[]).exits(1);
        if by_doctor {
            let removed = format!("removed: {}\n", left.display());
            assert_eq!(doctor(&["--clean"]).success().stdout(), removed);
        } else {
            on(host, remount().sh("test -d \"$TMPDIR\"")).run().success();
        }
        assert!(!left.exists());
    }
    assert!(others.iter().all(|other| other.join("file").exists()));
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 2);
}
