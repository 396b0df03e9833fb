//! Under the name `bwrap`: what a profile protects stays as it is wherever a bind shows it, what is
//! missing cannot be made, and Landlock holds what mounts do not.

use remount_tests::{Cmd, LIMIT, Outcome, PATH, Running, Sandbox, bin, require, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::symlink;
use std::path::Path;

struct World(Sandbox);

impl World {
    /// With a project that is a repository, in which a submodule's git directory is.
    fn new() -> Self {
        let sandbox = Sandbox::git();
        let dir = sandbox.dir("bin");
        symlink(bin("remount-run"), dir.join("bwrap")).expect("link bwrap");
        symlink(bin("remountctl"), dir.join("remountctl")).expect("link remountctl");
        sandbox.file("project/.git/modules/sub/HEAD", "ref: refs/heads/main\n");
        sandbox.file("project/.git/modules/sub/hooks/post-commit", "");
        sandbox.file("project/dir/kept", "kept\n");
        let text = "extends = ['default']\nprotect = ['dir/kept', 'absent/deep']\n";
        sandbox.file("home/.config/remount/profiles/mine.toml", text);
        World(sandbox)
    }

    /// `$P` is the project, `$R` the directory of this test, all of which is writable but for
    /// what a profile protects; the rest of the host is read-only.
    fn script(&self, script: &str) -> Cmd {
        let path = format!("{}:{PATH}", self.0.root().join("bin").display());
        let run = self.0.host(require("bash")).env("PATH", path);
        run.env("P", self.0.project()).env("R", self.0.root()).arg("-c").arg(script)
    }

    #[track_caller]
    fn run(&self, script: &str) -> Outcome {
        self.script(script).run()
    }

    /// Panics unless the act succeeds without the profile and fails with it, saying `why`.
    #[track_caller]
    fn refused(&self, options: &str, act: &str, why: &str) {
        let line = |profile: &str| {
            format!("bwrap {profile} --ro-bind / / --dev /dev {options} sh -c '{act}'")
        };
        let saved = format!(
            "cp -a $P $R/saved; {}; code=$?; find $P -mindepth 1 -delete; cp -a $R/saved/. $P; \
             rm -r $R/saved; exit $code",
            line("")
        );
        let outcome = self.run(&saved);
        assert_eq!(outcome.code(), Some(0), "without a profile, {options} {act}: {outcome}");
        let outcome = self.run(&line("--profile mine"));
        assert_ne!(outcome.code(), Some(0), "{options} {act}: {outcome}");
        assert!(outcome.stderr().contains(why), "{options} {act}: {outcome}");
    }

    /// Waits until nothing is left of what stood in for missing paths.
    #[track_caller]
    fn is_clean(&self) {
        let made = [".vscode", ".mcp.json", ".git/commondir", "absent"];
        wait_until("the placeholders' removal", LIMIT, || {
            made.iter().all(|name| !self.0.project().join(name).exists())
        });
    }

    /// A sandbox that stays.
    #[track_caller]
    fn stays(&self, words: &str) -> Running {
        let script = format!("exec bwrap {words} sh -c 'echo ready; read -r line; true'");
        let mut running = self.script(&script).start_interactive();
        running.line_with("ready");
        running
    }
}

const EROFS: &str = "Read-only file system";
const EBUSY: &str = "Device or resource busy";

#[test]
fn what_is_protected_cannot_be_changed() {
    let world = World::new();
    let here = "--bind $P $P";
    for (options, act, why) in [
        (here, "echo x >>.git/config", EROFS),
        (here, "touch .git/hooks/new", EROFS),
        (here, "mv .git elsewhere", EBUSY),
        (here, "mv .git/hooks elsewhere", EROFS),
        (here, "echo x >dir/kept", EROFS),
        (here, "rm dir/kept", EBUSY),
        (here, "mv dir elsewhere", EBUSY),
        (here, "mkdir .git/modules/new", EROFS),
        (here, "touch .git/modules/sub/hooks/new", EROFS),
        (here, "rm -r .git", EBUSY),
        ("--dev-bind $R $R", "echo x >dir/kept", EROFS),
        ("--tmpfs /mnt --bind $P /mnt/p", "echo x >/mnt/p/dir/kept", EROFS),
        ("--bind-try $P/.git /mnt", "echo x >>/mnt/config", EROFS),
        ("--bind $P/.git/hooks /mnt", "touch /mnt/new", EROFS),
        ("--tmpfs /mnt --bind $P/dir/kept /mnt/f", "echo x >/mnt/f", EROFS),
        ("--bind-fd 5 /mnt 5<$P", "echo x >/mnt/dir/kept", EROFS),
    ] {
        world.refused(options, act, why);
    }
    world.is_clean();
}

#[test]
fn what_is_missing_cannot_be_made() {
    let world = World::new();
    for act in [
        "mkdir -p .vscode/x",
        "mkdir -p .mcp.json/x",
        "mkdir -p absent/deep/x",
        "echo . >.git/commondir",
        "mkdir -p .claude/hooks/x",
    ] {
        world.refused("--bind $P $P --unshare-pid", act, EROFS);
    }
    world.refused("--bind $P $P", "mkdir -p absent && mv absent elsewhere", EBUSY);
    world.is_clean();
    // What the start of one needs the end of another leaves.
    let mut first = world.stays("--profile mine --ro-bind / / --bind $P $P");
    let outcome = world.run("bwrap --profile mine --ro-bind / / --bind $P $P true");
    outcome.success();
    assert!(world.0.project().join(".vscode").is_dir());
    first.close_stdin();
    first.wait().success();
    world.is_clean();
}

#[test]
fn what_was_killed_leaves_nothing() {
    let world = World::new();
    for options in ["--unshare-pid --die-with-parent", "--die-with-parent"] {
        let words = format!("--profile mine {options} --ro-bind / / --bind $P $P");
        let running = world.stays(&words);
        assert!(world.0.project().join(".vscode").is_dir());
        kill_process(Pid::from_raw(running.pid()).unwrap(), Signal::KILL).unwrap();
        assert_eq!(running.wait().signal(), Some(9));
        world.is_clean();
    }
}

#[test]
fn work_goes_on() {
    let world = World::new();
    for options in ["", "--unshare-all --new-session", "--unshare-pid --as-pid-1"] {
        let outcome = world.run(&format!(
            "bwrap --profile mine --ro-bind / / --dev /dev --proc /proc --tmpfs /mnt {options} --bind $P $P bash -c '
             set -e; echo x >>README; git commit -qam more; mkdir -p new; mv README new/; mv new/README .
             touch .git/modules/sub/index; echo x >/mnt/x; ln /mnt/x /mnt/y; echo x >/dev/null
             echo x >/dev/shm/x; echo 500 >/proc/self/oom_score_adj; rmdir new; git status --short'"
        ));
        assert_eq!(outcome.success().stdout(), "?? dir/\n", "{options}: {outcome}");
    }
    world.is_clean();
}

#[test]
fn landlock_refuses_what_mounts_allow() {
    let world = World::new();
    let fifo = "test -p $R/outside/fifo || mkfifo $R/outside/fifo; bwrap";
    // Opening for both does not wait, and no mount refuses it.
    let open = "--ro-bind / / --dev /dev --bind $P $P bash -c 'echo x 1<>$R/outside/fifo'";
    world.run(&format!("{fifo} {open}")).success();
    let outcome = world.run(&format!("{fifo} --profile mine {open}"));
    assert_ne!(outcome.code(), Some(0));
    assert!(outcome.stderr().contains("Permission denied"), "{outcome}");
    // One that the caller shows writable is the command's to use.
    let shown = "--ro-bind / / --bind $R/outside /mnt bash -c 'echo x 1<>/mnt/fifo'";
    world.run(&format!("{fifo} --profile mine {shown}")).success();
}

#[test]
fn targets_are_switched_and_what_is_protected_is_not() {
    let world = World::new();
    let line = "bwrap --profile mine --ro-bind / / --dev /dev --bind $P $P --toggle work $P bash -c '
        try() { (echo x >>README) 2>/dev/null && echo wrote || echo refused; }
        kept() { (echo x >>dir/kept) 2>/dev/null && echo wrote || echo refused; }
        try; kept; remountctl ro work; try; mkdir dir/x 2>/dev/null && echo made
        remountctl rw work; try; kept; mkdir dir/x && echo made; mv dir gone 2>/dev/null || echo held'";
    let said = "wrote\nrefused\nwork: ro\nrefused\nwork: rw\nwrote\nrefused\nmade\nheld\n";
    assert_eq!(world.run(line).success().stdout(), said);
    // The profile's words on requests hold as well.
    let text = "extends = ['mine']\n[sandbox]\nauthority = 'host'\n";
    world.0.file("home/.config/remount/profiles/strict.toml", text);
    let line = "bwrap --profile strict --ro-bind / / --bind $P $P --toggle work $P bash -c '
        remountctl ro work; remountctl rw work'";
    world.run(line).exits(5).says("authority is host");
    world.is_clean();
}

#[test]
fn the_users_file_names_a_profile() {
    let world = World::new();
    let line = |options: &str| {
        let act = "(echo x >dir/kept) 2>/dev/null && echo wrote || echo refused";
        let line = format!("bwrap {options} --ro-bind / / --dev /dev --bind $P $P sh -c '{act}'");
        world.run(&line).success().stdout()
    };
    assert_eq!(line(""), "wrote\n");
    world.0.file("home/.config/remount/bwrap.toml", "profile = 'mine'\n");
    assert_eq!(line(""), "refused\n");
    // Named ones take its place, as they take that of the command's with remount-run.
    assert_eq!(line("--profile default"), "wrote\n");
    // Neither the file nor the profiles are for a command to change.
    for name in ["bwrap.toml", "profiles/mine.toml", "profiles/new.toml"] {
        let act = format!("echo x >$R/home/.config/remount/{name}");
        let line = format!("bwrap --ro-bind / / --bind $R $R sh -c '{act}'");
        let outcome = world.run(&line);
        assert!(outcome.stderr().contains(EROFS), "{name}: {outcome}");
    }
    world.0.file("home/.config/remount/bwrap.toml", "profile = './mine.toml'\n");
    let outcome = world.run("bwrap --ro-bind / / true");
    outcome.exits(1).says("absolute path");
}

#[test]
fn a_project_can_take_away_more() {
    let world = World::new();
    let line = "bwrap --profile mine --ro-bind / / --bind $P $P sh -c 'echo x >>README'";
    world.run(line).success();
    world.0.file("project/.remount.toml", "[workspace]\nmode = 'ro'\n");
    let outcome = world.run(line);
    assert!(outcome.stderr().contains(EROFS), "{outcome}");
    world.is_clean();
}

#[test]
fn the_environment_and_the_session_are_taken_away() {
    let world = World::new();
    let text = "[sandbox]\nnew-session = true\n[environment]\nclear = true\n";
    world.0.file("home/.config/remount/profiles/clear.toml", text);
    let look = "/bin/sh -c 'echo $HOME $A; ps -o sid=,pid= -p $$ | (read s p; test $s = $p && echo leads); true'";
    let base = "--setenv A a --setenv PATH $PATH --ro-bind / /";
    let home = world.0.home();
    let outcome = world.run(&format!("bwrap {base} {look}"));
    assert_eq!(outcome.success().stdout(), format!("{} a\n", home.display()));
    let outcome = world.run(&format!("bwrap --profile clear {base} {look}"));
    assert_eq!(outcome.success().stdout(), "a\nleads\n");
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let world = World::new();
    // An overlay writes where no mount's flag holds it back.
    world.0.dir("work");
    let overlay = "--ro-bind / / --overlay-src $R/outside --overlay $P $R/work /mnt true";
    world.run(&format!("bwrap {overlay}")).success();
    let outcome = world.run(&format!("bwrap --profile mine {overlay}"));
    outcome.exits(1).says("the profile protects");
    // Overlayfs leaves a directory that its owner may not look into.
    let work = world.0.root().join("work/work");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&work, open).expect("open a directory");
    world.0.file("home/.config/remount/profiles/odd.toml", "protect = ['~no/x']\n");
    let outcome = world.run("bwrap --profile odd --ro-bind / / true");
    outcome.exits(1).says("--profile: ");
    assert!(!Path::new("/no").exists());
}
