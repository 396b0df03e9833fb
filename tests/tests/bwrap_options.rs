//! Under the name `bwrap`: what Debian's bubblewrap is too old to be compared for, and
//! where it fails in a way of its own.

use remount_tests::{Cmd, Outcome, PATH, Sandbox, bin, require};
use std::os::unix::fs::{PermissionsExt, symlink};

/// A place in which our program has the name `bwrap`.
struct World(Sandbox);

impl World {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let dir = sandbox.dir("bin");
        symlink(bin("remount-run"), dir.join("bwrap")).expect("link bwrap");
        for (file, text) in [
            ("low/a", "low\n"),
            ("low/both", "low\n"),
            ("high/b", "high\n"),
            ("high/both", "high\n"),
        ] {
            sandbox.file(format!("project/{file}"), text);
        }
        sandbox.dir("project/empty");
        sandbox.dir("project/work");
        World(sandbox)
    }

    fn script(&self, script: &str) -> Cmd {
        let path = format!("{}:{PATH}", self.0.root().join("bin").display());
        self.0.host(require("bash")).env("PATH", path).arg("-c").arg(script)
    }

    #[track_caller]
    fn run(&self, script: &str) -> Outcome {
        self.script(script).run()
    }

    /// Runs it; panics if it fails or complains.
    #[track_caller]
    fn out(&self, script: &str) -> String {
        let outcome = self.run(script);
        assert_eq!(outcome.success().stderr(), "", "{outcome}");
        outcome.stdout()
    }

    /// Runs it; panics unless it fails with these words.
    #[track_caller]
    fn fails(&self, script: &str, stderr: &str) {
        let outcome = self.run(script);
        outcome.exits(1);
        assert_eq!(outcome.stderr(), stderr, "{outcome}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Overlayfs leaves a directory that its owner may not look into.
        let work = self.0.project().join("work/work");
        if work.exists() {
            let open = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(work, open).expect("open a directory");
        }
    }
}

#[test]
fn the_options_word_and_the_name_mean_the_same() {
    let world = World::new();
    let run = world.0.host(bin("remount-run")).option("--bwrap");
    let outcome = run.arg("--ro-bind").arg("/").arg("/").arg("echo").arg("inside").run();
    assert_eq!(outcome.success().stdout(), "inside\n");
    assert_eq!(
        world.out("exec -a /anywhere/bwrap \"$(readlink -f \"$(command -v bwrap)\")\" --version"),
        "bubblewrap 0.11.1\n"
    );
}

#[test]
fn help_lists_every_option() {
    let world = World::new();
    let help = world.out("bwrap --help");
    assert!(help.starts_with("usage: bwrap [OPTIONS...] [--] COMMAND [ARGS...]\n\n"), "{help}");
    let theirs = world.0.host(require("bwrap")).arg("--help").run();
    let word = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let ours: Vec<_> = help.lines().skip(2).filter_map(word).collect();
    for option in theirs.success().stdout().lines().skip(2).filter_map(word) {
        assert!(ours.contains(&option), "{option}");
    }
    for option in ["--argv0", "--level-prefix", "--overlay", "--overlay-src", "--bind-fd"] {
        assert!(ours.iter().any(|ours| ours == option), "{option}");
    }
}

#[test]
fn argv0_is_what_is_asked_for() {
    let world = World::new();
    assert_eq!(world.out("bwrap --argv0 named --ro-bind / / sh -c 'echo $0'"), "named\n");
    assert_eq!(world.out("bwrap --unshare-pid --argv0 '' --ro-bind / / sh -c 'echo [$0]'"), "[]\n");
    world.fails("bwrap --argv0 a --argv0 b true", "bwrap: --argv0 used multiple times\n");
    world.fails("bwrap --argv0", "bwrap: --argv0 takes one argument\n");
}

#[test]
fn messages_have_levels_if_asked() {
    let world = World::new();
    world.fails("bwrap --level-prefix --odd", "<3>bwrap: Unknown option --odd\n");
    world.fails("bwrap --odd --level-prefix", "bwrap: Unknown option --odd\n");
    let outcome = world.run("bwrap --level-prefix --chdir / --chdir /usr --ro-bind / / pwd");
    assert_eq!(outcome.success().stdout(), "/usr\n");
    assert_eq!(outcome.stderr(), "<4>bwrap: Only the last --chdir option will take effect\n");
    world.fails(
        "bwrap --level-prefix --unshare-pid --ro-bind / / no-such",
        "<3>bwrap: execvp no-such: No such file or directory\n",
    );
}

#[test]
fn descriptors_can_be_bound() {
    let world = World::new();
    let base = "bwrap --ro-bind / / ";
    assert_eq!(world.out(&format!("{base} --bind-fd 5 /mnt ls /mnt 5<low")), "a\nboth\n");
    world.out(&format!("{base} --bind-fd 5 /mnt touch /mnt/new 5<low; rm low/new"));
    let outcome = world.run(&format!("{base} --ro-bind-fd 5 /mnt touch /mnt/new 5<low"));
    outcome.exits(1);
    assert!(outcome.stderr().contains("Read-only file system"), "{outcome}");
    // A file, and the command is not given the descriptor.
    let file = "--tmpfs /mnt --ro-bind-fd 5 /mnt/f sh -c 'cat /mnt/f; ls /proc/self/fd/5'";
    let outcome = world.run(&format!("{base} {file} 5<low/a"));
    assert_eq!(outcome.exits(2).stdout(), "low\n");
    world.fails(
        &format!("{base} --bind-fd 77 /mnt true"),
        "bwrap: Can't find source path /proc/self/fd/77: No such file or directory\n",
    );
    world.fails("bwrap --ro-bind-fd 5", "bwrap: --bind-fd takes two arguments\n");
    world.fails("bwrap --bind-fd x /mnt", "bwrap: Invalid fd: x\n");
    // Something else stands now where the descriptor was opened.
    world.fails(
        &format!("exec 5<low; mv low moved; mkdir low; mv moved low/moved; {base} --bind-fd 5 /mnt ls /mnt >seen; rm -r seen low; {base} --bind-fd 5 /mnt true"),
        "bwrap: Can't find source path /proc/self/fd/5: No such file or directory\n",
    );
}

#[test]
fn overlays_show_the_last_source_on_top() {
    let world = World::new();
    let base = "bwrap --ro-bind / / --overlay-src low --overlay-src high";
    let both = world.out(&format!("{base} --tmp-overlay /mnt sh -c 'cd /mnt; ls; cat both'"));
    assert_eq!(both, "a\nb\nboth\nhigh\n");
    let read_only = world.run(&format!("{base} --ro-overlay /mnt touch /mnt/new"));
    read_only.exits(1);
    assert!(read_only.stderr().contains("Read-only file system"), "{read_only}");
    // Thrown away.
    let write = "sh -c 'echo new >/mnt/both; rm /mnt/a; cat /mnt/both; ls /mnt'";
    assert_eq!(world.out(&format!("{base} --tmp-overlay /mnt {write}")), "new\nb\nboth\n");
    assert_eq!(world.out("cat low/a low/both high/both"), "low\nlow\nhigh\n");
    // Kept apart.
    let kept = format!("{base} --overlay empty work /mnt {write}");
    assert_eq!(world.out(&kept), "new\nb\nboth\n");
    assert_eq!(world.out("cat low/a low/both high/both empty/both"), "low\nlow\nhigh\nnew\n");
    assert_eq!(world.out(&format!("{base} --overlay empty work /mnt ls /mnt")), "b\nboth\n");
}

#[test]
fn overlays_are_checked() {
    let world = World::new();
    let lonely = "bwrap: --overlay-src must be followed by another --overlay-src or one of \
                  --overlay, --tmp-overlay, or --ro-overlay\n";
    world.fails("bwrap --overlay-src", lonely);
    world.fails("bwrap --overlay-src low", lonely);
    world.fails("bwrap --overlay-src low true", lonely);
    world.fails("bwrap --overlay-src low --ro-bind / / --tmp-overlay /mnt true", lonely);
    for (option, words) in [
        ("--tmp-overlay /mnt", "bwrap: --tmp-overlay requires at least one --overlay-src\n"),
        ("--overlay a b /mnt", "bwrap: --overlay requires at least one --overlay-src\n"),
        (
            "--overlay-src low --ro-overlay /mnt",
            "bwrap: --ro-overlay requires at least two --overlay-src\n",
        ),
        ("--overlay a b", "bwrap: --overlay takes three arguments\n"),
        ("--tmp-overlay", "bwrap: --tmp-overlay takes an argument\n"),
        (
            "--overlay-src none --tmp-overlay /mnt true",
            "bwrap: Can't find source path none: No such file or directory\n",
        ),
    ] {
        world.fails(&format!("bwrap {option}"), words);
    }
    let overlap =
        world.run("bwrap --ro-bind / / --overlay-src empty --overlay empty work /mnt true");
    overlap.exits(1);
    assert!(overlap.stderr().ends_with(": Overlay directories may not overlap\n"), "{overlap}");
}

#[test]
fn a_status_that_nobody_can_get_ends_the_sandbox() {
    // Debian's bubblewrap leaves a process behind that waits for ever.
    let world = World::new();
    for words in ["--info-fd 77", "--json-status-fd 77", "--unshare-pid --info-fd 5"] {
        world.fails(
            &format!("bwrap --ro-bind / / {words} touch made 5</dev/null"),
            "bwrap: Write to info_fd: Bad file descriptor\n",
        );
        assert!(!world.0.project().join("made").exists(), "{words}");
    }
}

#[test]
fn a_namespace_that_cannot_be_joined_ends_the_sandbox() {
    // Here too, Debian's bubblewrap waits for ever.
    let world = World::new();
    for open in ["/dev/null", "/proc/self/ns/user"] {
        for words in ["", "--unshare-user", "--unshare-pid --as-pid-1"] {
            world.fails(
                &format!("bwrap {words} --ro-bind / / --userns2 5 touch made 5<{open}"),
                "bwrap: Setting userns2 failed: Invalid argument\n",
            );
            assert!(!world.0.project().join("made").exists(), "{words}");
        }
    }
}

#[test]
fn a_symlink_that_is_there_may_be_made_again() {
    let world = World::new();
    let base = "bwrap --ro-bind / / --tmpfs /mnt --symlink a /mnt/l";
    assert_eq!(world.out(&format!("{base} --symlink a /mnt/l readlink /mnt/l")), "a\n");
    world.fails(
        &format!("{base} --symlink b /mnt/l true"),
        "bwrap: Can't make symlink at /mnt/l: existing destination is a\n",
    );
    world.fails(
        "bwrap --ro-bind / / --tmpfs /mnt --symlink b /mnt true",
        "bwrap: Can't make symlink at /mnt: destination exists and is not a symlink\n",
    );
}

#[test]
fn all_dies_with_the_caller_if_asked() {
    let world = World::new();
    // The shell that called is killed; what it started may not live to make the file.
    for (option, lives) in [("--die-with-parent", false), ("", true)] {
        for pid in ["", "--unshare-pid"] {
            // The pipe is open as long as anything of it lives.
            let go = if lives { "touch go" } else { ":" };
            let script = format!(
                "mkfifo alive; cat alive & reader=$!
                 bash -c 'exec 9>alive; bwrap {option} {pid} --dev-bind / / sh -c \"touch started; \
                     until test -e go; do sleep 0.01; done; touch late\" & exec 9>&-; wait' & shell=$!
                 until test -e started; do sleep 0.01; done
                 kill -KILL $shell; {go}; wait $reader
                 test -e late; late=$?; rm -f alive started go late; exit $late"
            );
            let outcome = world.run(&script);
            assert_eq!(
                outcome.code(),
                Some(if lives { 0 } else { 1 }),
                "{option} {pid}: {outcome}"
            );
        }
    }
}

#[test]
fn the_lock_lasts_as_long_as_the_sandbox() {
    let world = World::new();
    world.0.file("project/lock", "");
    let script = "bwrap --lock-file lock --dev-bind / / sh -c 'touch started; until test -e go; do sleep 0.01; done' & \
                  until test -e started; do sleep 0.01; done; try() { python3 -c 'import fcntl; \
                  fcntl.lockf(open(\"lock\", \"r+\"), fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null; \
                  echo $?; }; try; touch go; wait; try";
    assert_eq!(world.out(script), "1\n0\n");
}

#[test]
fn who_reads_sync_fd_hears_the_end() {
    let world = World::new();
    let script = "mkfifo pipe; bwrap --sync-fd 5 --dev-bind / / sh -c 'sleep 0.5; echo command' 5>pipe & \
                  cat pipe; echo end";
    assert_eq!(world.out(script), "command\nend\n");
}
