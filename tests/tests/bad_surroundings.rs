//! What the caller or the kernel lacks: it works without, or it is refused whole. A
//! payload never runs half-confined.

use remount_tests::{Cmd, LEAVES_A_MARK, Outcome, Sandbox, as_root, bin, require, uid};
use std::ffi::{OsStr, OsString};
use std::time::Duration;

/// `remount-run`, started by a shell that does `first` before.
fn after(sandbox: &Sandbox, first: &str) -> Cmd {
    let script = format!("{first}; exec \"$@\"");
    sandbox.host("/bin/sh").options(["-c", &script, "sh"]).option(bin("remount-run"))
}

#[test]
fn a_working_directory_that_was_removed() {
    let sandbox = Sandbox::new();
    let gone = "mkdir gone && cd gone && rmdir ../gone";
    let run = after(&sandbox, gone).command(LEAVES_A_MARK);
    sandbox.refused(125, run).explains(
        "find the working directory: it was removed or cannot be reached",
        "change to a directory that exists",
    );
    // Only asking works from anywhere.
    after(&sandbox, gone).option("--list-profiles").run().success();
}

#[test]
fn closed_standard_descriptors() {
    let sandbox = Sandbox::new();
    for closed in 0..8 {
        let mut redirections = String::from("exec");
        for (bit, text) in [(1, " <&-"), (2, " >&-"), (4, " 2>&-")] {
            if closed & bit != 0 {
                redirections.push_str(text);
            }
        }
        // Whatever is closed, the payload writes to its own files only, and the three
        // are there: none is a descriptor that something else was opened on.
        let script =
            "echo ran >ran; for fd in 0 1 2; do readlink /proc/self/fd/$fd; done >fds; exit 7";
        let outcome = after(&sandbox, &redirections).command(["sh", "-c", script]).run();
        outcome.exits(7);
        assert_eq!(outcome.stderr(), "", "{redirections}");
        assert_eq!(std::fs::read(sandbox.project().join("ran")).unwrap(), b"ran\n");
        let fds = std::fs::read_to_string(sandbox.project().join("fds")).unwrap();
        for link in fds.lines() {
            let harmless =
                ["/dev/null", "pipe:", &*sandbox.project().join("fds").to_string_lossy()]
                    .iter()
                    .any(|start| link.starts_with(start));
            assert!(harmless, "{redirections}: {fds}");
        }
        // A failure has its code, and a message where one can be.
        let failing = after(&sandbox, &redirections).arg("/no/such/command").run();
        failing.exits(127);
        let heard = closed & 4 == 0;
        assert_eq!(failing.stderr().contains("command not found"), heard, "{redirections}");
    }
}

#[test]
fn a_directory_as_standard_descriptor() {
    let sandbox = Sandbox::new();
    sandbox.file("outside/secret", "secret");
    let dir = sandbox.outside();
    for (number, redirection) in [(0, "exec 0<"), (1, "exec 1<"), (2, "exec 2<")] {
        let first = format!("{redirection} '{}'", dir.display());
        let run = after(&sandbox, &first).command(LEAVES_A_MARK);
        if number == 2 {
            // Nobody hears why.
            run.run().exits(125);
            assert!(!sandbox.project().join("ran").exists());
            continue;
        }
        sandbox.refused(125, run).explains(
            &format!(
                "standard descriptor {number} is a directory: it would be a way around the sandbox"
            ),
            "redirect it from or to a file",
        );
    }
    // Higher ones are not handed down at all.
    let first = format!("exec 7< '{}'", dir.display());
    let seen = after(&sandbox, &first).command(["ls", "/proc/self/fd/7"]).run();
    seen.says("No such file or directory");
}

/// `--ro-bind` of one directory at `count` places.
fn binds(sandbox: &Sandbox, count: usize) -> Vec<OsString> {
    let source = sandbox.file("outside/many/file", "contents");
    let source = source.parent().unwrap();
    let bind = |n: usize| ["--ro-bind".into(), source.into(), format!("/tmp/{n}").into()];
    (0..count).flat_map(bind).collect()
}

#[test]
fn five_thousand_binds_with_few_descriptors() {
    let sandbox = Sandbox::new();
    let binds = binds(&sandbox, 5000);
    let count = "cat /tmp/*/file | wc -c; touch /tmp/4999/x";
    for limit in ["true", "ulimit -n 256"] {
        let run = after(&sandbox, limit).options(&binds).command(["sh", "-c", count]);
        let outcome = run.timeout(Duration::from_secs(150)).run();
        assert_eq!(outcome.stdout(), "40000\n", "{outcome}");
        outcome.says("Read-only file system");
    }
    // So few that nothing works is said.
    let run = after(&sandbox, "ulimit -n 12").command(LEAVES_A_MARK);
    let outcome = run.run();
    if outcome.code() != Some(0) {
        outcome.exits(125).says("too many open files").says("ulimit -n");
    }
}

#[test]
fn a_command_line_that_is_too_long_for_a_message() {
    let sandbox = Sandbox::new();
    let long = format!("/{}", "x".repeat(100_000));
    let words: [&OsStr; 3] = ["--ro-bind".as_ref(), long.as_ref(), "/tmp/x".as_ref()];
    let run = sandbox.remount().options(words).command(LEAVES_A_MARK);
    sandbox.refused(125, run).says("file name too long\nhint: ");
    sandbox.refused(126, sandbox.remount().arg(&long)).says("file name too long");
}

/// A profile that wants a user namespace, also for root, who needs none.
fn always(sandbox: &Sandbox) -> OsString {
    let text = "extends = [\"default\"]\n[sandbox]\nuser-namespace = \"always\"\n";
    sandbox.file("outside/always.toml", text).into()
}

/// `remount-run` in a user namespace of its own, whose limits can be set without the
/// host's being touched.
fn in_user_namespace(sandbox: &Sandbox, limit: &str) -> Cmd {
    let setpriv = require("setpriv");
    let drop = format!("exec {} --ambient-caps=-all --inh-caps=-all \"$@\"", setpriv.display());
    let script = format!("{limit}\n{drop}");
    sandbox
        .host(require("unshare"))
        .options(["--user", "--map-current-user", "--keep-caps", "/bin/sh", "-ec", &script, "sh"])
        .option(bin("remount-run"))
        .option("--profile")
        .option(always(sandbox))
}

#[test]
fn user_namespaces_that_are_forbidden() {
    let sandbox = Sandbox::new();
    let run = |limit: &str| in_user_namespace(&sandbox, limit).command(LEAVES_A_MARK);
    run("true").run().success();
    std::fs::remove_file(sandbox.project().join("ran")).unwrap();
    for limit in ["user", "mnt", "pid", "ipc"] {
        let run = run(&format!("echo 0 >/proc/sys/user/max_{limit}_namespaces"));
        let outcome = sandbox.refused(125, run);
        outcome.says("create namespaces (").says("no space left on device (ENOSPC)");
        outcome.says(
            "\nhint: the host allows no more namespaces: raise the sysctl user.max_user_namespaces",
        );
    }
}

#[test]
fn namespaces_that_something_else_refuses() {
    let sandbox = Sandbox::new();
    let run = without(&sandbox, "clone", "EPERM", "").command(LEAVES_A_MARK);
    let outcome = sandbox.refused(125, run);
    outcome.says("create namespaces (").says("operation not permitted (EPERM)");
    if as_root() {
        outcome.says("hint: root has no CAP_SYS_ADMIN here").says("user-namespace = \"always\"");
    } else {
        outcome.says("hint: the host forbids").says("kernel.apparmor_restrict_unprivileged_userns");
    }
}

/// `remount-run` under strace, which answers a system call in the kernel's place.
fn without(sandbox: &Sandbox, call: &str, errno: &str, sandbox_settings: &str) -> Cmd {
    let text = format!("extends = [\"default\"]\n[sandbox]\n{sandbox_settings}\n");
    let profile = sandbox.file("outside/mine.toml", text);
    sandbox
        .host(require("strace"))
        .options(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .options(["-e", &format!("inject={call}:error={errno}")])
        .option(bin("remount-run"))
        .option("--profile")
        .option(profile)
}

/// Whichever process is one too many.
#[test]
fn too_many_processes() {
    let sandbox = Sandbox::new();
    let refused = |step: &str, run: Cmd| {
        let outcome = sandbox.refused(125, run.command(LEAVES_A_MARK));
        outcome.explains(
            &format!("{step}: resource temporarily unavailable (EAGAIN)"),
            "raise the limit of the user (ulimit -u)",
        );
    };
    let own = if as_root() { "" } else { ", user" };
    let namespaces = format!("create namespaces (mount, pid, ipc{own})");
    refused(&namespaces, without(&sandbox, "clone", "EAGAIN", ""));
    // Each process has a count of its own.
    refused("fork the broker", without(&sandbox, "clone", "EAGAIN:when=2", ""));
    without(&sandbox, "clone", "EAGAIN:when=7", "").command(["true"]).run().success();
    for profile in ["default", "readonly"] {
        let limited = |limit: &str| {
            let run = sandbox.remount().options(["--profile", profile]).command(LEAVES_A_MARK);
            run.within("prlimit", &[limit]).unseparated()
        };
        // There is one already. The limit is none for root. What is too much for a sandbox is
        // no reason for one without namespaces.
        if !as_root() {
            let outcome = sandbox.refused(125, limited("--nproc=1"));
            outcome.says(&namespaces).says("raise the limit of the user (ulimit -u)");
            assert_eq!(outcome.stderr().lines().count(), 2, "{outcome}");
        }
    }
}

/// Where the home directory is decides what is hidden and kept.
#[test]
fn a_home_directory_that_is_said_oddly() {
    let sandbox = Sandbox::new();
    sandbox.file("home/.ssh/id_ed25519", "secret");
    let home = sandbox.home().display().to_string();
    let reads = |run: Cmd| run.sh(&format!("cat {home}/.ssh/id_ed25519")).run();
    let key = std::fs::read_to_string(sandbox.home().join(".ssh/id_ed25519"));
    assert_eq!(key.unwrap(), "secret");
    for same in [
        home.clone(),
        format!("{home}/"),
        format!("/{home}//."),
        format!("{home}/.ssh/.."),
        format!("{}/../home", sandbox.project().display()),
    ] {
        let outcome = reads(sandbox.remount().env("HOME", &same));
        outcome.exits(1).says("id_ed25519");
        assert!(!outcome.stdout().contains("secret"), "{same}: {outcome}");
    }
    for (bad, why) in [
        ("home", "it is not absolute"),
        ("../home", "it is not absolute"),
        ("/no/such/../home", "no such file or directory"),
    ] {
        let outcome = reads(sandbox.remount().env("HOME", bad));
        outcome.exits(125).explains(&format!("use HOME={bad}: {why}"), "set HOME");
    }
    // Without `HOME` it is the account's. Here nobody has one.
    let accounts = sandbox.file("outside/passwd", "");
    let hide = "mount --bind \"$0\" /etc/passwd && exec \"$@\"";
    let own: &[&str] =
        if as_root() { &[] } else { &["--user", "--map-current-user", "--keep-caps"] };
    let options = [own, &["--mount", "sh", "-c", hide, accounts.to_str().unwrap()]].concat();
    for none in [sandbox.remount().unset("HOME"), sandbox.remount().env("HOME", "")] {
        let run = none.command(LEAVES_A_MARK).within("unshare", &options).unseparated();
        sandbox.refused(125, run).explains(
            &format!(
                "find the home directory: HOME is not set, and /etc/passwd does not know user {}",
                uid()
            ),
            "set HOME",
        );
    }
}

#[test]
fn a_kernel_without_landlock() {
    let sandbox = Sandbox::new();
    let call = "landlock_create_ruleset";
    for (errno, message, hint) in [
        ("ENOSYS", "this kernel is built without Landlock", "CONFIG_SECURITY_LANDLOCK=y"),
        ("EOPNOTSUPP", "Landlock is built into this kernel but was not enabled at boot", "lsm="),
    ] {
        let run = without(&sandbox, call, errno, "").command(LEAVES_A_MARK);
        let outcome = sandbox.refused(125, run);
        outcome.explains(&format!("use Landlock: {message}"), hint);
        outcome.says("landlock = \"optional\"");
        goes_on(without(&sandbox, call, errno, "landlock = \"optional\""), "Landlock");
    }
    // One that promises it and then does not keep the promise.
    let run = without(&sandbox, "landlock_restrict_self", "EPERM", "landlock = \"optional\"");
    let outcome = sandbox.refused(125, run.command(LEAVES_A_MARK));
    outcome.says("enforce the Landlock ruleset: operation not permitted (EPERM)");
}

#[test]
fn a_kernel_without_seccomp() {
    let sandbox = Sandbox::new();
    let run = without(&sandbox, "seccomp", "ENOSYS", "").command(LEAVES_A_MARK);
    sandbox.refused(125, run).explains(
        "use seccomp: function not implemented (ENOSYS)",
        "seccomp = \"optional\" under [sandbox]",
    );
    goes_on(without(&sandbox, "seccomp", "ENOSYS", "seccomp = \"optional\""), "seccomp");
}

/// It runs, and says on stderr what it lacks; mounts still hold.
#[track_caller]
fn goes_on(run: Cmd, lacks: &str) {
    let outcome: Outcome = run.sh("remountctl ro workspace && echo ran >ran").run();
    outcome.says(&format!("remount-run: warning: this kernel has no {lacks}: "));
    outcome.says("Read-only file system");
}

#[test]
fn every_step_that_fails_stops_the_start() {
    let sandbox = Sandbox::new();
    let calls = [
        "clone",
        "pivot_root",
        "umount2",
        "mount_setattr",
        "move_mount",
        "open_tree",
        "fsopen",
        "fsmount",
        "capset",
        "landlock_add_rule",
        "landlock_restrict_self",
        "sethostname",
        "setsid",
        "close_range",
    ];
    for call in calls {
        let settings = "hostname = \"inside\"\nnew-session = true";
        println!("{call}");
        let run = without(&sandbox, call, "EIO", settings).command(LEAVES_A_MARK);
        let outcome = sandbox.refused(125, run);
        outcome.says(" (EIO)\n");
    }
}
