//! What the file tree of a sandbox shows, and what in it can be changed.
//!
//! A project is `git` here by its directories alone: no git is needed to see that a hook
//! cannot be planted.

use remount_tests::{Answer, Cmd, Inside, Outcome, Sandbox, Snapshot, as_root, bin, mounts};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const SECRET: &str = "a secret of this test's own";

/// `remount-run` in a mount namespace where `mounts` (of the probe's prefixes) were made
/// first, since a test mounts nothing in the host's.
fn with_mounts<S: AsRef<OsStr>>(sandbox: &Sandbox, mounts: &[S], options: &[&str]) -> Cmd {
    sandbox
        .host(bin("probe"))
        .option("--userns")
        .options(mounts)
        .option("exec")
        .option(bin("remount-run"))
        .options(options)
        .separated()
}

/// The probe there, with no sandbox: the twin.
fn beside<S: AsRef<OsStr>>(sandbox: &Sandbox, mounts: &[S]) -> Cmd {
    sandbox.host(bin("probe")).option("--userns").options(mounts).option("exec")
}

fn remount(sandbox: &Sandbox, options: &[&str]) -> Cmd {
    sandbox.host(bin("remount-run")).options(options).separated()
}

fn toggle(inside: &mut Inside, mode: &str, target: &str) {
    let ctl = ["ask", "/run/remount/bin/remountctl", mode, target];
    inside.act(ctl).ok();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The directories that make a project a repository, and files in them.
fn repository(sandbox: &Sandbox) -> PathBuf {
    for file in ["HEAD", "config", "hooks/pre-commit", "info/attributes", "info/exclude"] {
        sandbox.file(Path::new("project/.git").join(file), "text");
    }
    for dir in ["objects", "refs/heads"] {
        sandbox.dir(Path::new("project/.git").join(dir));
    }
    sandbox.project().join(".git")
}

/// Panics unless the act failed as it does at a mountpoint: EBUSY, or EXDEV where the two
/// names are on two mounts.
#[track_caller]
fn held(answer: Answer) {
    let denied = ["EBUSY", "EXDEV"].map(|name| Answer::Errno(name.to_owned()));
    assert!(denied.contains(&answer), "{answer:?}");
}

fn refused(outcome: &Outcome, text: &str) {
    outcome.exits(125).says(text);
}

// --- the host's files

#[test]
fn the_host_is_read_only() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("outside/dir/file", "text");
    let dir = file.parent().unwrap();
    for act in ["open-write", "append", "chmod", "chown", "utime", "truncate", "open-rw"] {
        sandbox.twin([act], &file).denied("EROFS");
    }
    sandbox.twin(["open-read"], &file).allowed();
    sandbox.twin(["create-tmpfile"], dir).denied("EROFS");
    let new = dir.join("new");
    for (act, undo) in [("create", "unlink"), ("mkdir", "rmdir"), ("bind-unix", "unlink")] {
        let clean = || drop(sandbox.host_probe().probe([undo, text(&new)]));
        sandbox.twin([act], &new).prepare(clean).denied("EROFS");
        clean();
    }
    let mut inside = sandbox.remount().serve();
    let file = text(&file);
    inside.act(["unlink", file]).errno("EROFS");
    inside.act(["rename", file, text(&new)]).errno("EROFS");
    inside.act(["symlink", file, text(&new)]).errno("EROFS");
    inside.act(["mkfifo", text(&new)]).errno("EROFS");
    // Another mount: neither in nor out.
    inside.act(["link", file, "linked"]).errno("EXDEV");
    inside.act(["rename", file, "moved"]).errno("EXDEV");
    inside.act(["create", "own"]).ok();
    inside.act(["link", "own", text(&new)]).errno("EROFS");
    inside.act(["rename", "own", text(&new)]).errno("EXDEV");
    inside.act(["rename", file, "own"]).errno("EXDEV");
    for dir in ["/", "/usr", "/etc", "/var/tmp", text(&sandbox.home())] {
        let denied = inside.act(["create-tmpfile", dir]);
        assert!(denied == Answer::Errno("EROFS".into()), "{dir}: {denied:?}");
    }
    inside.end().success();
}

#[test]
fn mounts_below_the_host_are_read_only_too() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("outside/mounted");
    let mounts = ["--tmpfs", text(&dir)];
    let file = text(&dir).to_owned() + "/new";
    beside(&sandbox, &mounts).probe(["create", &file]).ok();
    let mut inside = with_mounts(&sandbox, &mounts, &[]).serve();
    let stat = inside.act(["stat", text(&dir)]).ok();
    assert!(stat.ends_with(" root"), "it is a mount inside: {stat}");
    inside.act(["create", &file]).errno("EROFS");
    inside.act(["chmod", text(&dir)]).errno("EROFS");
    inside.end().success();
}

/// What is mounted on one side after the start is not seen on the other.
#[test]
fn mounts_do_not_cross() {
    let sandbox = Sandbox::new();
    let before = mounts();
    let mut inside = sandbox.remount().serve();
    assert_eq!(mounts(), before, "the sandbox's mounts are seen outside");
    let table = inside.act(["read", "/proc/self/mountinfo"]).ok();
    for line in table.lines() {
        let optional: Vec<&str> =
            line.split(' ').skip(6).take_while(|field| *field != "-").collect();
        assert!(optional.is_empty(), "it propagates: {line}");
    }
    inside.end().success();
}

#[test]
fn what_the_kernel_shows_below_the_project_is_read_only() {
    if !as_root() {
        return; // mounting proc needs a PID namespace of one's own
    }
    let sandbox = Sandbox::new();
    let rootfs = sandbox.dir("project/rootfs/proc");
    let mounts = ["--bind", "/proc", text(&rootfs)];
    let file = text(&rootfs).to_owned() + "/self/comm";
    beside(&sandbox, &mounts).arg(bin("probe")).command(["open-write", &file]).run().answer().ok();
    let mut inside = with_mounts(&sandbox, &mounts, &[]).serve();
    for _ in 0..2 {
        inside.act(["open-write", &file]).errno("EROFS");
        inside
            .act(["open-write", &format!("{}/sys/kernel/hostname", text(&rootfs))])
            .errno("EROFS");
        toggle(&mut inside, "ro", "workspace");
        toggle(&mut inside, "rw", "workspace");
    }
    inside.act(["rename", "rootfs", "x"]).errno("EBUSY");
    inside.act(["create", "rootfs/file"]).ok();
    inside.end().success();
}

// --- targets

#[test]
fn mounts_below_a_target_follow_its_mode() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("project/a/b/mounted");
    let mounts = ["--tmpfs", text(&dir)];
    let mut inside = with_mounts(&sandbox, &mounts, &[]).serve();
    inside.act(["create", "a/b/mounted/one"]).ok();
    // Moved away with a parent, it would be beyond the broker's reach.
    for (from, to) in [("a", "x"), ("a/b", "a/x"), ("a/b/mounted", "a/b/x")] {
        inside.act(["rename", from, to]).errno("EBUSY");
    }
    toggle(&mut inside, "ro", "workspace");
    inside.act(["create", "a/b/mounted/two"]).errno("EROFS");
    inside.act(["create", "a/two"]).errno("EROFS");
    toggle(&mut inside, "rw", "workspace");
    inside.act(["create", "a/b/mounted/two"]).ok();
    inside.end().success();
}

#[test]
fn a_mount_that_is_hidden_below_another_is_left_alone() {
    let sandbox = Sandbox::new();
    let (outer, inner) = (sandbox.dir("project/a"), sandbox.dir("project/a/b"));
    let (outer, inner) = (text(&outer), text(&inner));
    let mounts = ["--tmpfs", inner, "--tmpfs", outer];
    let mut inside = with_mounts(&sandbox, &mounts, &[]).serve();
    inside.act(["list", inner]).errno("ENOENT");
    inside.act(["create", "a/new"]).ok();
    toggle(&mut inside, "ro", "workspace");
    inside.act(["create", "a/other"]).errno("EROFS");
    inside.end().success();
}

/// Success of `ro` means that nothing gets through, whatever was opened before.
#[test]
fn a_closed_target_is_closed_for_what_was_opened_before() {
    let sandbox = Sandbox::new();
    sandbox.file("project/file", "contents");
    sandbox.dir("project/dir");
    let mut inside = sandbox.remount().serve();
    let read = inside.act(["hold", "read", "file"]).ok();
    let path = inside.act(["hold", "path", "file"]).ok();
    let dir = inside.act(["hold", "dir", "dir"]).ok();
    inside.act(["dirfd-make", &dir, "before"]).ok();
    inside.act(["cd", "dir"]).ok();
    // While it can be written to through something, `ro` does not succeed.
    let ro = ["ask", "/run/remount/bin/remountctl", "ro", "workspace"];
    let write = inside.act(["hold", "write", "before"]).ok();
    inside.act(ro).errno("EBUSY");
    inside.act(["close", &write]).ok();
    inside.act(["map", "../file"]).ok();
    inside.act(ro).errno("EBUSY");
    inside.act(["map-write"]).ok();
    inside.act(["unmap"]).ok();
    let before = Snapshot::of(sandbox.project());
    inside.act(ro).ok();
    inside.act(["fd-reopen", &read]).errno("EROFS");
    inside.act(["fd-reopen", &path]).errno("EROFS");
    inside.act(["dirfd-make", &dir, "after"]).errno("EROFS");
    for path in ["after", "../after", text(&sandbox.project().join("after"))] {
        for act in ["create", "mkdir", "mkfifo", "bind-unix"] {
            inside.act([act, path]).errno("EROFS");
        }
    }
    let (reopened, read) = (format!("/proc/self/fd/{read}"), "../file");
    for act in ["chmod", "utime", "truncate", "setxattr", "open-write", "append"] {
        inside.act([act, read]).errno("EROFS");
        inside.act([act, &reopened]).errno("EROFS");
    }
    inside.act(["create-tmpfile", "."]).errno("EROFS");
    inside.act(["unlink", read]).errno("EROFS");
    inside.act(["rename", read, "../x"]).errno("EROFS");
    inside.act(["symlink", read, "../x"]).errno("EROFS");
    inside.act(["link", read, "/tmp/x"]).errno("EXDEV");
    before.unchanged(sandbox.project());
    toggle(&mut inside, "rw", "workspace");
    inside.act(["dirfd-make", &dir, "after"]).ok();
    inside.end().success();
}

#[test]
fn who_may_not_open_a_target_cannot() {
    let sandbox = Sandbox::new();
    sandbox.file("project/file", "");
    let mut inside = remount(&sandbox, &["--authority", "host"]).serve();
    inside.act(["open-write", "file"]).ok();
    toggle(&mut inside, "ro", "workspace");
    let ctl = |words: &[&str]| {
        let all = ["ask", "/run/remount/bin/remountctl"];
        all.iter().chain(words).map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    for words in [&["rw", "workspace"][..], &["toggle", "workspace"], &["rw", "--all"]] {
        inside.act(ctl(words)).errno("EACCES");
        inside.act(["open-write", "file"]).errno("EROFS");
    }
    inside.end().success();
}

// --- masks

#[test]
fn masks_hide() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("outside/keys/key", SECRET);
    let alone = sandbox.file("outside/alone", SECRET);
    let dir = file.parent().unwrap();
    let options = ["--mask", text(dir), "--mask", text(&alone)];
    let mut outside = sandbox.host_probe().serve();
    let mut inside = remount(&sandbox, &options).serve();
    assert_eq!(outside.act(["read", text(&file)]).ok(), SECRET);
    inside.act(["read", text(&file)]).errno("ENOENT");
    assert_eq!(inside.act(["list", text(dir)]).ok(), "");
    assert_eq!(inside.act(["read", text(&alone)]).ok(), "");
    inside.act(["open-write", text(&alone)]).errno("EACCES");
    for act in ["chmod", "utime"] {
        inside.act([act, text(&alone)]).errno("EROFS");
    }
    inside.act(["create", text(&file)]).errno("EROFS");
    // By other names of the same place.
    for prefix in ["/proc/self/root", "/proc/self/cwd/../../../..", "/../.."] {
        assert_eq!(inside.act(["read", &format!("{prefix}{}", text(&alone))]).ok(), "", "{prefix}");
        inside.act(["read", &format!("{prefix}{}", text(&file))]).errno("ENOENT");
    }
    inside.act(["link", text(&alone), "linked"]).errno("EXDEV");
    inside.act(["umount", text(&alone)]).errno("EPERM");
    let table = inside.act(["read", "/proc/self/mountinfo"]).ok();
    assert!(!table.contains(SECRET));
    inside.end().success();
    outside.end().success();
}

#[test]
fn a_mask_in_the_project_cannot_be_moved_away() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("project/a/b/key", SECRET);
    let mut inside = remount(&sandbox, &["--mask", text(&file)]).serve();
    assert_eq!(inside.act(["read", "a/b/key"]).ok(), "");
    inside.act(["mkdir", "other"]).ok();
    for (from, to) in [("a", "x"), ("a/b", "a/x"), ("a/b/key", "a/b/x"), ("a/b/key", "x")] {
        held(inside.act(["rename", from, to]));
    }
    for from in ["a", "a/b"] {
        held(inside.act(["rename-exchange", from, "other"]));
    }
    inside.act(["unlink", "a/b/key"]).errno("EBUSY");
    inside.act(["rmdir", "a/b"]).errno("EBUSY");
    // Beside it, everything is as ever.
    inside.act(["create", "a/b/beside"]).ok();
    inside.act(["rename", "a/b/beside", "a/b/renamed"]).ok();
    assert_eq!(inside.act(["read", "a/b/key"]).ok(), "");
    inside.end().success();
    assert_eq!(std::fs::read_to_string(file).unwrap(), SECRET);
}

/// The host may have the same files at a second path: a bind mount, or the filesystem
/// mounted twice.
#[test]
fn a_mask_hides_wherever_the_host_shows_the_file() {
    let sandbox = Sandbox::new();
    let secret = sandbox.file("home/.netrc", SECRET);
    let key = sandbox.file("home/.ssh/id", SECRET);
    let alias = sandbox.dir("outside/alias");
    let part = sandbox.dir("outside/part");
    let mounts = [
        "--bind",
        text(&sandbox.home()).to_owned().leak(),
        text(&alias),
        "--bind",
        text(key.parent().unwrap()),
        text(&part),
    ];
    let read = |path: &Path| ["read".to_owned(), text(path).to_owned()];
    let alias_secret = alias.join(".netrc");
    let probe = || beside(&sandbox, &mounts).arg(bin("probe"));
    assert_eq!(probe().command(read(&alias_secret)).run().answer().ok(), SECRET);
    assert_eq!(probe().command(read(&part.join("id"))).run().answer().ok(), SECRET);
    let mut inside = with_mounts(&sandbox, &mounts, &[]).serve();
    for path in [&secret, &alias_secret] {
        assert_eq!(inside.act(read(path)).ok(), "", "{path:?}");
    }
    for path in [&key, &alias.join(".ssh/id"), &part.join("id")] {
        inside.act(read(path)).errno("ENOENT");
    }
    inside.end().success();
    // For the same reason: one of the two would undo the other's mode.
    let (one, two) = (text(&alias), sandbox.home());
    let both = ["--bind", one, one, "--bind", text(&two), text(&two)];
    let outcome = with_mounts(&sandbox, &mounts, &both).command(["true"]).run();
    refused(&outcome, "the same files at two places");
}

#[test]
fn secrets_in_the_home_directory_are_hidden() {
    let sandbox = Sandbox::new();
    let files = [
        ".ssh/id_ed25519",
        ".gnupg/private-keys-v1.d/x.key",
        ".aws/credentials",
        ".azure/token",
        ".config/gcloud/credentials.db",
        ".kube/config",
        ".docker/config.json",
        ".config/gh/hosts.yml",
        ".password-store/x.gpg",
        ".local/share/keyrings/login.keyring",
        ".mozilla/firefox/x/logins.json",
        ".config/google-chrome/Default/Cookies",
        ".claude/.credentials.json",
        ".codex/auth.json",
        ".gemini/oauth_creds.json",
        ".local/share/opencode/auth.json",
        ".cursor/cli-config.json",
        ".aider/oauth-keys.env",
        ".config/goose/secrets.yaml",
        ".copilot/config.json",
        ".local/share/amp/secrets.json",
        ".qwen/oauth_creds.json",
        ".local/share/crush/crush.json",
        ".pi/agent/auth.json",
        ".vibe/.env",
        ".grok/auth.json",
        ".kimi/token",
        ".config/github-copilot/apps.json",
    ];
    let alone = [
        ".netrc",
        ".git-credentials",
        ".npmrc",
        ".pypirc",
        ".bash_history",
        ".zsh_history",
        ".vault-token",
        ".claude.json",
        ".pgpass",
        ".my.cnf",
        ".config/git/credentials",
        ".m2/settings.xml",
    ];
    for file in files.iter().chain(&alone) {
        sandbox.file(Path::new("home").join(file), SECRET);
    }
    let plain = sandbox.file("home/.bashrc", "plain");
    // Where there are caches, a kernel without overlayfs starts no sandbox.
    let overlay = std::fs::read_to_string("/proc/filesystems").unwrap().contains("overlay");
    let cargo = sandbox.home().join(".cargo/credentials.toml");
    if overlay {
        sandbox.file(&cargo, SECRET);
    }
    let mut inside = sandbox.remount().serve();
    if overlay {
        assert_eq!(inside.act(["read", text(&cargo)]).ok(), "");
    }
    for file in files {
        let path = sandbox.home().join(file);
        inside.act(["read", text(&path)]).errno("ENOENT");
    }
    for file in alone {
        let path = sandbox.home().join(file);
        assert_eq!(inside.act(["read", text(&path)]).ok(), "", "{file}");
    }
    assert_eq!(inside.act(["read", text(&plain)]).ok(), "plain");
    inside.act(["open-write", text(&plain)]).errno("EROFS");
    inside.end().success();
}

// --- protections

#[test]
fn what_git_executes_cannot_be_changed() {
    let sandbox = Sandbox::new();
    let git = repository(&sandbox);
    let mut outside = sandbox.host_probe().serve();
    let mut inside = sandbox.remount().serve();
    for file in ["config", "hooks/pre-commit", "info/attributes"] {
        let path = git.join(file);
        outside.act(["open-write", text(&path)]).ok();
        for act in ["open-write", "chmod", "truncate"] {
            inside.act([act, text(&path)]).errno("EROFS");
        }
        inside.act(["open-read", text(&path)]).ok();
    }
    inside.act(["create", ".git/hooks/post-checkout"]).errno("EROFS");
    inside.act(["mkdir", ".git/other"]).ok();
    // What stands for the protected file stays, and so does every directory above it.
    for (from, to) in [
        (".git", "x"),
        (".git/hooks", ".git/x"),
        (".git/config", ".git/x"),
        (".git/info", ".git/x"),
        (".git/info/attributes", ".git/x"),
        (".git/other", ".git/hooks"),
        (".git/HEAD", ".git/config"),
    ] {
        held(inside.act(["rename", from, to]));
    }
    for from in [".git", ".git/hooks", ".git/info"] {
        held(inside.act(["rename-exchange", from, ".git/other"]));
    }
    inside.act(["unlink", ".git/config"]).errno("EBUSY");
    inside.act(["rmdir", ".git/hooks"]).errno("EBUSY");
    inside.act(["rmdir", ".git/info"]).errno("EBUSY");
    inside.act(["link", ".git/hooks/pre-commit", ".git/x"]).errno("EXDEV");
    inside.act(["rename", ".git/hooks/pre-commit", ".git/x"]).errno("EXDEV");
    // Git's own work goes on.
    inside.act(["create", ".git/index.lock"]).ok();
    inside.act(["rename", ".git/index.lock", ".git/index"]).ok();
    inside.act(["append", ".git/HEAD"]).ok();
    // And after both targets were closed and opened again.
    for target in ["workspace", "git"] {
        toggle(&mut inside, "ro", target);
        toggle(&mut inside, "rw", target);
    }
    inside.act(["open-write", ".git/config"]).errno("EROFS");
    inside.act(["create", ".git/hooks/x"]).errno("EROFS");
    inside.end().success();
    outside.end().success();
}

#[test]
fn rm_rf_leaves_what_is_protected() {
    let sandbox = Sandbox::new();
    let git = repository(&sandbox);
    let kept = sandbox.file("project/.vscode/tasks.json", "text");
    let before = Snapshot::of(git.join("hooks"));
    let outcome = sandbox.remount().sh("rm -rf .git .vscode; exit 0").run();
    outcome.success();
    before.unchanged(git.join("hooks"));
    assert_eq!(std::fs::read(git.join("config")).unwrap(), b"text");
    assert_eq!(std::fs::read(kept).unwrap(), b"text");
}

#[test]
fn a_deep_protection_pins_every_directory_above_it() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("project/a/b/c/d/file", "text");
    let mut inside = remount(&sandbox, &["--protect", text(&file)]).serve();
    inside.act(["mkdir", "other"]).ok();
    for dir in ["a", "a/b", "a/b/c", "a/b/c/d"] {
        held(inside.act(["rename", dir, "x"]));
        held(inside.act(["rename-exchange", dir, "other"]));
        inside.act(["rmdir", dir]).errno("EBUSY");
        // Its other contents are not held.
        let beside = format!("{dir}/beside");
        inside.act(["create", &beside]).ok();
        inside.act(["unlink", &beside]).ok();
    }
    inside.act(["open-write", "a/b/c/d/file"]).errno("EROFS");
    held(inside.act(["rename", "a/b/c/d/file", "x"]));
    inside.act(["create", "own"]).ok();
    inside.act(["rename", "own", "a/b/c/d/file"]).errno("EXDEV");
    inside.act(["unlink", "a/b/c/d/file"]).errno("EBUSY");
    toggle(&mut inside, "ro", "workspace");
    for dir in [".", "a", "a/b/c/d"] {
        inside.act(["create", &format!("{dir}/new")]).errno("EROFS");
    }
    toggle(&mut inside, "rw", "workspace");
    for dir in [".", "a", "a/b/c/d"] {
        inside.act(["create", &format!("{dir}/new")]).ok();
    }
    inside.act(["open-write", "a/b/c/d/file"]).errno("EROFS");
    inside.end().success();
}

#[test]
fn what_editors_and_agents_execute_is_protected() {
    let sandbox = Sandbox::new();
    let files = [
        ".vscode/tasks.json",
        ".idea/workspace.xml",
        ".devcontainer/devcontainer.json",
        ".husky/pre-commit",
        ".envrc",
        ".mcp.json",
        ".claude/settings.json",
        ".claude/hooks/x",
        ".claude/skills/x/run.sh",
        ".codex/config.toml",
        ".cursor/hooks.json",
        ".gemini/settings.json",
        ".qwen/settings.json",
        ".opencode/plugins/x.js",
        ".github/hooks/x",
        ".github/copilot/settings.local.json",
        ".github/mcp.json",
        ".kiro/hooks/x",
        "opencode.json",
        ".githooks/pre-commit",
        "lefthook.yml",
        ".pre-commit-config.yaml",
    ];
    for file in files {
        sandbox.file(Path::new("project").join(file), "text");
    }
    let mut inside = sandbox.remount().serve();
    for file in files {
        sandbox.host_probe().probe(["open-write", file]).ok();
        assert_eq!(inside.act(["open-write", file]), Answer::Errno("EROFS".into()), "{file}");
        let top = file.split('/').next().unwrap();
        assert_eq!(inside.act(["rename", top, "x"]), Answer::Errno("EBUSY".into()), "{file}");
    }
    inside.act(["create", ".github/workflow"]).ok();
    inside.end().success();
}

#[test]
fn a_linked_worktree_has_the_main_repository_and_cannot_leave_it() {
    let sandbox = Sandbox::new();
    for file in ["HEAD", "config", "hooks/pre-commit"] {
        sandbox.file(Path::new("outside/main/.git").join(file), "text");
    }
    for dir in ["objects", "refs"] {
        sandbox.dir(Path::new("outside/main/.git").join(dir));
    }
    let main = sandbox.outside().join("main/.git");
    let own = main.join("worktrees/project");
    let pointer = sandbox.project().join(".git");
    sandbox.file("outside/main/.git/worktrees/project/gitdir", format!("{}\n", text(&pointer)));
    sandbox.file("outside/main/.git/worktrees/project/commondir", "../..\n");
    sandbox.file("project/.git", format!("gitdir: {}\n", text(&own)));
    let mut inside = sandbox.remount().serve();
    for file in
        ["config", "hooks/pre-commit", "worktrees/project/commondir", "worktrees/project/gitdir"]
    {
        inside.act(["open-write", text(&main.join(file))]).errno("EROFS");
    }
    for file in [".git", text(&pointer)] {
        inside.act(["open-write", file]).errno("EROFS");
        inside.act(["unlink", file]).errno("EBUSY");
        inside.act(["rename", file, "x"]).errno("EBUSY");
    }
    inside.act(["create", text(&main.join("objects/new"))]).ok();
    inside.act(["create", text(&own.join("index"))]).ok();
    inside.act(["create", text(&sandbox.outside().join("main/new"))]).errno("EROFS");
    toggle(&mut inside, "ro", "git");
    inside.act(["create", text(&main.join("objects/newer"))]).errno("EROFS");
    inside.end().success();
    // A pointer that an agent wrote leads nowhere.
    sandbox.file("project/.git", format!("gitdir: {}\n", text(&sandbox.home())));
    let mut inside = sandbox.remount().serve();
    inside.act(["create", text(&sandbox.home().join("new"))]).errno("EROFS");
    inside.act(["create", text(&main.join("objects/newest"))]).errno("EROFS");
    inside.act(["open-write", ".git"]).errno("EROFS");
    inside.end().success();
}

// --- binds

#[test]
fn a_file_that_is_bound_is_all_that_is_seen() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("outside/secret/file", "text");
    sandbox.file("outside/secret/other", SECRET);
    let options = ["--tmpfs", "/mnt", "--bind", text(&file), "/mnt/here"];
    let mut inside = remount(&sandbox, &options).serve();
    assert_eq!(inside.act(["list", "/mnt"]).ok(), "here");
    assert_eq!(inside.act(["read", "/mnt/here"]).ok(), "text");
    inside.act(["append", "/mnt/here", "+"]).ok();
    inside.act(["read", "/mnt/here/../other"]).errno("ENOTDIR");
    inside.act(["rename", "/mnt/here", "/mnt/x"]).errno("EBUSY");
    inside.act(["open-write", text(&file)]).errno("EROFS");
    inside.end().success();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "text+");
}

#[test]
fn symlinks_are_followed_as_they_would_be_inside() {
    let sandbox = Sandbox::new();
    let real = sandbox.dir("outside/real");
    symlink(&real, sandbox.outside().join("link")).unwrap();
    symlink("real", sandbox.outside().join("relative")).unwrap();
    for link in ["link", "relative"] {
        let link = sandbox.outside().join(link);
        let options = ["--bind", text(&link), text(&link)];
        let mut inside = remount(&sandbox, &options).serve();
        let new = real.join("new");
        inside.act(["create", text(&new)]).ok();
        inside.act(["unlink", text(&link.join("new"))]).ok();
        inside.end().success();
    }
}

/// An agent of an earlier sandbox could have made the link: what it leads to is not what
/// the user named.
#[test]
fn a_link_in_a_writable_directory_is_refused_as_a_source() {
    let sandbox = Sandbox::new();
    let secret = sandbox.dir("outside/secret");
    let planted = sandbox.project().join("data");
    let source = text(&planted);
    let options = ["--tmpfs", "/mnt", "--ro-bind", source, "/mnt/data"];
    sandbox.dir("project/data");
    remount(&sandbox, &options).command(["true"]).run().success();
    std::fs::remove_dir(&planted).unwrap();
    symlink(&secret, &planted).unwrap();
    refused(&remount(&sandbox, &options).command(["true"]).run(), "symbolic link");
    let below = planted.join("below");
    sandbox.dir("outside/secret/below");
    let options = ["--tmpfs", "/mnt", "--ro-bind", text(&below), "/mnt/data"];
    refused(&remount(&sandbox, &options).command(["true"]).run(), "symbolic link");
    // Nor is it followed where something is mounted: the place is the link's target, and
    // that is read-only as before.
    let mut inside = sandbox.remount().serve();
    inside.act(["create", "data/new"]).errno("EROFS");
    inside.end().success();
}

/// Whether to start once more: up to `count` times, or fewer where one takes long (an
/// emulated machine), if it is enough.
fn starts_again(count: usize, done: usize, begin: std::time::Instant, enough: bool) -> bool {
    done < count && !(enough && begin.elapsed() > std::time::Duration::from_secs(10))
}

/// Somebody exchanges the source with another directory as fast as it goes: it is the
/// right one, or none.
#[test]
fn a_source_that_is_exchanged_is_recognised() {
    let sandbox = Sandbox::new();
    let (one, two) = (sandbox.dir("outside/one"), sandbox.dir("outside/two"));
    sandbox.file("outside/one/right", "");
    sandbox.file("outside/two/wrong", "");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let exchanger = std::thread::spawn({
        let (one, two, stop) = (one.clone(), two.clone(), stop.clone());
        move || {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            let mut rounds = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for _ in 0..2 {
                    renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE).unwrap();
                    rounds += 1;
                }
                std::thread::sleep(std::time::Duration::from_micros(rounds % 7 * 50));
            }
            rounds
        }
    });
    let options = ["--tmpfs", "/mnt", "--ro-bind", text(&one), "/mnt/bound"];
    let begin = std::time::Instant::now();
    let (mut clean, mut started) = (0, 0);
    while starts_again(200, clean + started, begin, started > 0) {
        // Both are the directory at that path at some moment; what was found when the plan
        // was made must be what is mounted.
        let outcome =
            remount(&sandbox, &options).arg(bin("probe")).command(["list", "/mnt/bound"]).run();
        match outcome.code() {
            Some(0) => {
                let seen = outcome.answer().ok();
                assert!(["right", "wrong"].contains(&seen.as_str()), "{outcome}");
                started += 1;
            }
            _ => {
                refused(&outcome, "remount-run: ");
                clean += 1;
            }
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let rounds = exchanger.join().unwrap();
    assert!(rounds > 100 && started > 0, "{rounds} exchanges, {started} starts, {clean} errors");
}

/// The same with a link that leads to what must never be seen: it is never seen.
#[test]
fn a_source_that_turns_into_a_link_is_not_followed() {
    let sandbox = Sandbox::new();
    let source = sandbox.dir("outside/one");
    sandbox.file("outside/one/right", "");
    sandbox.file("outside/secret/wrong", SECRET);
    let link = sandbox.outside().join("link");
    symlink(sandbox.outside().join("secret"), &link).unwrap();
    let options = ["--tmpfs", "/mnt", "--ro-bind", text(&source), "/mnt/bound"];
    let plan =
        || remount(&sandbox, &options).arg(bin("probe")).command(["list", "/mnt/bound"]).run();
    assert_eq!(plan().answer().ok(), "right");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let exchanger = std::thread::spawn({
        let (source, stop) = (source.clone(), stop.clone());
        let parked = sandbox.outside().join("parked");
        move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // For an instant nothing is there, then the link, then the directory again.
                std::fs::rename(&source, &parked).unwrap();
                std::fs::rename(&link, &source).unwrap();
                std::fs::rename(&source, &link).unwrap();
                std::fs::rename(&parked, &source).unwrap();
            }
        }
    });
    let begin = std::time::Instant::now();
    let (mut seen, mut done) = (Vec::new(), 0);
    while starts_again(100, done, begin, true) {
        done += 1;
        let outcome = plan();
        if outcome.code() == Some(0) {
            seen.push(outcome.answer().ok());
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    exchanger.join().unwrap();
    // A link that is there when the plan is made is the user's own, in a directory that no
    // sandbox can change, and is followed then; after that it is not.
    assert!(seen.iter().all(|name| ["right", "wrong"].contains(&name.as_str())), "{seen:?}");
}

#[test]
fn names_are_bytes() {
    let sandbox = Sandbox::new();
    let names: [&[u8]; 5] =
        [b"with space", b"with\nnewline", b"not \xff utf-8", b"back\\slash\\040", b"(deleted)"];
    for name in names {
        let dir = sandbox.outside().join(OsStr::from_bytes(name));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("secret"), SECRET).unwrap();
        let mut options: Vec<OsString> =
            vec!["--bind".into(), dir.clone().into(), dir.clone().into()];
        options.extend(["--mask".into(), dir.join("secret").into_os_string()]);
        let remount = sandbox.host(bin("remount-run")).options(options).separated();
        // From there too: the project is then of that name.
        let mut inside = remount.cwd(&dir).serve();
        inside.act([OsStr::new("create"), dir.join("new").as_os_str()]).ok();
        inside.act(["create", "newer"]).ok();
        assert_eq!(inside.act(["read", "secret"]).ok(), "", "{dir:?}");
        inside.end().success();
        assert!(dir.join("new").exists() && dir.join("newer").exists(), "{dir:?}");
    }
}

#[test]
fn a_search_only_directory_on_the_way_is_enough() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("outside/closed/inner");
    let closed = dir.parent().unwrap();
    std::fs::set_permissions(closed, PermissionsExt::from_mode(0o311)).unwrap();
    let mut inside = remount(&sandbox, &["--bind", text(&dir), text(&dir)]).serve();
    inside.act(["create", text(&dir.join("new"))]).ok();
    inside.end().success();
    std::fs::set_permissions(closed, PermissionsExt::from_mode(0o755)).unwrap();
}

// --- places

#[test]
fn places_that_are_no_project_are_refused() {
    let sandbox = Sandbox::new();
    for (dir, why) in [
        ("/tmp", "private"),
        ("/run", "private"),
        ("/sys", "kernel"),
        ("/proc", "kernel"),
        ("/", "home"),
    ] {
        let outcome = sandbox.remount().cwd(dir).command(["true"]).run();
        refused(&outcome, why);
    }
}

#[test]
fn a_working_directory_that_is_gone_is_refused() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("project/gone");
    let script = format!("rmdir {}; exec {} -- true", text(&dir), text(&bin("remount-run")));
    let outcome = sandbox.host("/bin/sh").arg("-c").arg(script).cwd(&dir).run();
    refused(&outcome, "working directory");
}

/// Nor is there a directory that somebody else could have put there first. Placeholders
/// are gone at the end.
#[test]
fn nothing_is_made_on_the_host_but_placeholders() {
    let sandbox = Sandbox::new();
    repository(&sandbox);
    let names = |dir: &str| -> Vec<OsString> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .map(|all| all.flatten().map(|entry| entry.file_name()).collect())
            .unwrap_or_default();
        names.retain(|name: &OsString| {
            let name = name.to_string_lossy();
            name.contains("remount")
                && !name.starts_with("remount-test")
                && !name.starts_with("remount-home")
        });
        names.sort();
        names
    };
    let dirs = ["/tmp", "/var/tmp", "/run", "/dev/shm"];
    let before = (Snapshot::of(sandbox.root()), dirs.map(names), mounts());
    let mut inside = sandbox.remount().serve();
    let during = (Snapshot::of(sandbox.root()), dirs.map(names), mounts());
    let mut differences = before.0.differences(&during.0);
    let is_placeholder =
        |line: &String| line.contains(": new, directory 1700") || line.contains(": new, file 1644");
    assert!(differences.iter().any(is_placeholder));
    // What is left are the numbers of directories in directories.
    differences.retain(|line| !is_placeholder(line) && !line.contains(": was directory 0755"));
    assert!(differences.is_empty(), "{differences:#?}");
    assert!((&before.1, &before.2) == (&during.1, &during.2));
    inside.act(["create", "/tmp/file"]).ok();
    inside.act(["create", "/run/file"]).ok();
    inside.end().success();
    let after = (Snapshot::of(sandbox.root()), dirs.map(names), mounts());
    assert!(before == after, "{:#?}", before.0.differences(&after.0));
}

#[test]
fn the_programs_own_file_cannot_be_changed() {
    let sandbox = Sandbox::new();
    let own = sandbox.outside().join("remount-run");
    std::fs::copy(bin("remount-run"), &own).unwrap();
    let mut outside = sandbox.host_probe().serve();
    outside.act(["open-write", text(&own)]).ok();
    let mut inside = sandbox.host(&own).separated().serve();
    for path in [text(&own), "/run/remount/bin/remountctl"] {
        for act in ["chmod", "utime", "truncate"] {
            inside.act([act, path]).errno("EROFS");
        }
        // While it runs it cannot be written to anywhere.
        inside.act(["open-write", path]).errno("ETXTBSY");
        let answer = inside.act(["unlink", path]);
        let denied = ["EROFS", "EBUSY"].map(|name| Answer::Errno(name.into()));
        assert!(denied.contains(&answer), "{path}: {answer:?}");
    }
    inside.act(["open-path", "/proc/1/exe"]).errno("EACCES");
    inside.act(["chmod", "/proc/self/exe"]).errno("EROFS");
    for path in ["/run/remount/socket", "/run/remount/nothing", "/run/remount/empty"] {
        inside.act(["chmod", path]).errno("EROFS");
    }
    inside.act(["create", "/run/remount/new"]).errno("EROFS");
    inside.act(["unlink", "/run/remount/socket"]).errno("EROFS");
    inside.act(["rename", "/run/remount", "/run/x"]).errno("EBUSY");
    inside.end().success();
    outside.end().success();
}
