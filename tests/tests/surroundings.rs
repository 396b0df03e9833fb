//! What the agent finds around it: descriptors, environment, directories, /dev, /proc.

use remount_tests::{Answer, Cmd, Sandbox, as_root, bin, require};

/// A command that `sh` starts after `script`, as a user's shell would.
fn after(sandbox: &Sandbox, script: &str) -> Cmd {
    let script = format!("{script}; exec \"$0\" \"$@\"");
    sandbox.host(require("bash")).options(["-c", &script]).option(bin("remount-run")).separated()
}

/// The numbers of the open descriptors, and what the first three are.
fn descriptors(answer: Answer) -> (Vec<String>, Vec<String>) {
    let text = answer.ok();
    text.lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(number, what)| (number.to_owned(), what.to_owned()))
        .unzip()
}

#[test]
fn no_descriptor_of_the_caller_gets_in_but_the_standard_three() {
    let sandbox = Sandbox::new();
    let open = "exec 5</etc/passwd 9<. 11>opened 57<>/dev/null 200</";
    let (outside, _) = descriptors(
        after(&sandbox, &format!("{open}; shift 0; set -- \"$@\""))
            .option("--verbose")
            .arg(bin("probe"))
            .arg("fds")
            .run()
            .answer(),
    );
    let mut inside = outside.clone();
    inside.sort_by_key(|number| number.parse::<i32>().unwrap());
    assert_eq!(inside, ["0", "1", "2", "100"]);
    // The twin: what any other program inherits.
    let native = format!("{open}; exec \"$0\" \"$@\"");
    let command = sandbox.host(require("bash")).options(["-c", &native]).option(bin("probe"));
    let (outside, _) = descriptors(command.arg("fds").run().answer());
    for number in ["5", "9", "11", "57", "200"] {
        assert!(outside.contains(&number.to_owned()), "{outside:?}");
    }
}

#[test]
fn the_standard_three_go_through_and_may_be_closed() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.remount().sh("cat; echo err >&2").stdin("typed").run();
    assert_eq!(outcome.success().stdout(), "typed");
    assert_eq!(outcome.stderr(), "err\n");
    for (closed, script) in [
        ("exec 0<&-", "cat"),
        ("exec 1>&-", "echo lost || :"),
        ("exec 2>&-", "echo lost >&2 || :"),
        ("exec 0<&- 1>&- 2>&-", "cat; echo lost; echo lost >&2; :"),
        ("exec 0</dev/full 1>/dev/full 2>/dev/full", "echo lost 2>/dev/null || :"),
    ] {
        let outcome = after(&sandbox, closed).sh(&format!("{script}; exit 9")).run();
        outcome.exits(9);
        assert_eq!(
            (outcome.stdout(), outcome.stderr()),
            (String::new(), String::new()),
            "{closed}"
        );
        // None of our own took a free number.
        let probe = bin("probe");
        let fds = format!("{} fds >seen 2>/dev/null </dev/null", probe.display());
        after(&sandbox, closed).sh(&fds).run().success();
        let seen = std::fs::read_to_string(sandbox.project().join("seen")).unwrap();
        assert_eq!(seen.matches("socket:").count(), 1, "{closed}: {seen}");
    }
}

#[test]
fn the_environment_is_the_callers_as_far_as_nothing_else_is_said() {
    let sandbox = Sandbox::new();
    let env = |options: &[&str]| {
        let command = sandbox.remount().env("KEPT", "a b\nc").env("GONE", "1").options(options);
        command.arg(require("env")).arg("-0").run().success().stdout()
    };
    let has = |env: &str, entry: &str| env.split('\0').any(|line| line == entry);
    let plain = env(&[]);
    assert!(has(&plain, "KEPT=a b\nc") && has(&plain, "GONE=1"), "{plain}");
    assert!(has(&plain, &format!("HOME={}", sandbox.home().display())), "{plain}");
    let path = plain.split('\0').find_map(|line| line.strip_prefix("PATH=")).unwrap().to_owned();
    assert!(path.split(':').any(|dir| dir == "/run/remount/bin"), "{path}");
    assert!(path.starts_with(remount_tests::PATH), "{path}");
    let set = env(&["--unsetenv", "GONE", "--setenv", "NEW", "-x=y z", "--setenv", "KEPT", ""]);
    assert!(!set.contains("GONE=") && has(&set, "NEW=-x=y z") && has(&set, "KEPT="), "{set}");
    // In the order in which they were typed.
    let last = env(&["--setenv", "A", "1", "--setenv", "A", "2", "--unsetenv", "A"]);
    assert!(!last.contains("\0A="), "{last}");
    let clear = env(&["--setenv", "EARLY", "1", "--clearenv", "--setenv", "LATE", "1"]);
    assert!(has(&clear, "LATE=1"), "{clear}");
    for name in ["EARLY=", "KEPT=", "HOME=", "LANG="] {
        assert!(!clear.contains(name), "{clear}");
    }
    // A toggle still finds the broker.
    let ctl = ["/run/remount/bin/remountctl", "-q", "ro", "workspace"];
    sandbox.remount().option("--clearenv").command(ctl).run().success();
}

#[test]
fn the_working_directory_is_the_same_or_the_one_asked_for() {
    let sandbox = Sandbox::new();
    let sub = sandbox.dir("project/sub dir/deeper");
    let cwd = |command: Cmd| command.probe(["cwd"]).ok();
    assert_eq!(cwd(sandbox.remount()), sandbox.project().to_str().unwrap());
    assert_eq!(cwd(sandbox.remount().cwd(&sub)), sub.to_str().unwrap());
    assert_eq!(cwd(sandbox.remount().option("--chdir").option(&sub)), sub.to_str().unwrap());
    assert_eq!(cwd(sandbox.remount().options(["--chdir", "/"])), "/");
    let pwd = |command: Cmd| command.sh("echo $PWD; pwd -P").run().success().stdout();
    assert_eq!(pwd(sandbox.remount().cwd(&sub)), format!("{0}\n{0}\n", sub.display()));
    assert_eq!(pwd(sandbox.remount().options(["--chdir", "/usr"])), "/usr\n/usr\n");
}

#[test]
fn hostname_and_network_are_the_hosts_unless_asked_for() {
    let sandbox = Sandbox::new();
    let name = |command: Cmd| command.arg(require("uname")).arg("-n").run().success().stdout();
    let host = name(sandbox.host(require("env")));
    assert_eq!(name(sandbox.remount()), host);
    assert_eq!(name(sandbox.remount().options(["--hostname", "den"])), "den\n");
    assert_eq!(name(sandbox.host(require("env"))), host);
    let interfaces = |command: Cmd| {
        let text = command.command(["cat", "/proc/net/dev"]).run().success().stdout();
        text.lines().skip(2).filter_map(|l| Some(l.trim().split_once(':')?.0.to_owned())).collect()
    };
    let host: Vec<String> = interfaces(sandbox.host(require("env")));
    let shared: Vec<String> = interfaces(sandbox.remount());
    assert_eq!(shared, host);
    let own: Vec<String> = interfaces(sandbox.remount().option("--unshare-net"));
    assert_eq!(own, ["lo"]);
    let talk = r#"
import socket
for family, address in [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]:
    server = socket.socket(family); server.bind((address, 0)); server.listen()
    client = socket.create_connection(server.getsockname()[:2]); client.send(b"x")
    assert server.accept()[0].recv(1) == b"x"
"#;
    sandbox
        .remount()
        .option("--unshare-net")
        .arg(require("python3"))
        .command(["-c", talk])
        .run()
        .success();
}

#[test]
fn dev_is_minimal_and_works() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    let mut names: Vec<String> =
        inside.act(["list", "/dev"]).ok().lines().map(Into::into).collect();
    names.retain(|name| name != "console" && name != "mqueue" && name != "core");
    let expected = [
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    ];
    assert_eq!(names, expected);
    inside.act(["append", "/dev/null"]).ok();
    inside.act(["append", "/dev/full"]).errno("ENOSPC");
    inside.act(["write", "/dev/shm/mine", "x"]).ok();
    assert!(!std::path::Path::new("/dev/shm/mine").exists());
    // No terminal here: the device is there, and says so.
    inside.act(["open-rw", "/dev/tty"]).errno("ENXIO");
    // No new devices, whoever asks; a FIFO is none.
    inside.act(["mkfifo", "/dev/shm/fifo"]).ok();
    inside.act(["mknod", "/dev/shm/null"]).errno("EACCES");
    if as_root() {
        sandbox.host(bin("probe")).command(["mknod", "null"]).run().answer().ok();
    }
    let pty = "import os, pty, sys\n\
               a, b = pty.openpty(); os.write(a, b'x\\n'); assert os.read(b, 9) == b'x\\n'\n\
               assert os.ttyname(b).startswith('/dev/pts/'), os.ttyname(b)\n\
               assert os.stat('/dev/pts/ptmx').st_mode & 0o666 == 0o666";
    for _ in 0..3 {
        assert_eq!(inside.run(["python3", "-c", pty]), (0, String::new()));
    }
    inside.end().success();
}

#[test]
fn proc_shows_the_sandbox_only() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    let pids: Vec<i32> =
        inside.act(["list", "/proc"]).ok().lines().filter_map(|name| name.parse().ok()).collect();
    let agent: i32 = inside.act(["hello"]).ok().parse().unwrap();
    assert!(pids.contains(&1) && pids.contains(&agent), "{pids:?}");
    // Init, the probe, and the probe's child that lists.
    assert_eq!(pids.len(), 3, "{pids:?}");
    assert_eq!(
        inside.act(["readlink", "/proc/self/cwd"]).ok(),
        sandbox.project().to_str().unwrap()
    );
    inside.end().success();
}

#[test]
fn tmp_run_and_ipc_are_private() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    for dir in ["/tmp", "/run"] {
        let outside: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !matches!(name.as_str(), "user" | "remount" | "systemd" | "resolvconf"))
            .collect();
        let seen = inside.act(["list", dir]).ok();
        for name in seen.lines() {
            assert!(!outside.iter().any(|other| other == name), "{dir}/{name} is the host's");
        }
    }
    let name = format!("/tmp/remount-test.{}", std::process::id());
    inside.act(["write", &name, "x"]).ok();
    assert!(!std::path::Path::new(&name).exists());
    std::fs::write(&name, "the host's").unwrap();
    assert_eq!(inside.act(["read", &name]).ok(), "x");
    std::fs::remove_file(&name).unwrap();
    for kind in ["ipc", "mnt", "pid"] {
        let host = sandbox.host(bin("probe")).command(["namespace", kind]).run().answer().ok();
        assert_ne!(inside.act(["namespace", kind]).ok(), host, "{kind}");
    }
    // System V shared memory of the host is not there, and the other way round.
    let make = [
        "python3",
        "-c",
        "import ctypes; c = ctypes.CDLL(None); \
        assert c.shmget(0x5ca1ab1e, 4096, 0o1600) >= 0",
    ];
    assert_eq!(inside.run(make), (0, String::new()));
    let table = |text: String| text.lines().filter(|line| line.contains("1554098974")).count();
    assert_eq!(table(inside.act(["read", "/proc/sysvipc/shm"]).ok()), 1);
    assert_eq!(table(std::fs::read_to_string("/proc/sysvipc/shm").unwrap()), 0);
    inside.end().success();
    // Nor is it when the next one starts.
    let answer = sandbox.remount().probe(["read", "/proc/sysvipc/shm"]);
    assert_eq!(table(answer.ok()), 0);
}

#[test]
fn user_and_group_are_the_callers() {
    let sandbox = Sandbox::new();
    let ids = |command: Cmd| command.probe(["ids"]).ok();
    let outside = ids(sandbox.host_probe());
    let inside = ids(sandbox.remount());
    let first_two = |text: &str| text.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(first_two(&inside), first_two(&outside));
    let made = sandbox.remount().sh("echo x >made; stat -c '%u %g' made").run();
    assert_eq!(made.success().stdout().trim(), first_two(&outside).join(" "));
}

#[test]
fn a_new_session_is_one_and_else_it_is_the_callers() {
    let sandbox = Sandbox::new();
    // `PARENT SESSION`; 0 is one that is not in the sandbox.
    assert!(sandbox.remount().probe(["pids"]).ok().ends_with(" 0"));
    let own = sandbox.remount().option("--new-session").probe(["pids"]).ok();
    assert!(!own.ends_with(" 0"), "{own}");
}

/// Logins without a session manager set it to what nobody has made.
#[test]
fn a_runtime_directory_that_is_not_there_does_not_matter() {
    let sandbox = Sandbox::new();
    let file = sandbox.home().join("file");
    std::fs::write(&file, "").unwrap();
    for value in [sandbox.home().join("missing"), file] {
        let outcome = sandbox.remount().env("XDG_RUNTIME_DIR", &value).sh("echo ran").run();
        assert_eq!(outcome.success().stdout(), "ran\n", "{}", value.display());
    }
}
