//! Profiles that are wrong are refused with the place of what is wrong in them.

use remount_tests::{LEAVES_A_MARK, Outcome, Sandbox, as_root};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Where the user's own profiles are.
const OWN: &str = "home/.config/remount/profiles";

/// A world with the user's own directory of profiles.
fn world() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.dir(OWN);
    sandbox
}

fn write(sandbox: &Sandbox, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = sandbox.file(Path::new(OWN).join(name), text);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    path
}

#[track_caller]
fn refused(sandbox: &Sandbox, profile: &str) -> Outcome {
    let run = sandbox.remount().option("--profile").option(profile).command(LEAVES_A_MARK);
    sandbox.refused(125, run)
}

#[test]
fn profiles_that_are_right_are_used() {
    let sandbox = world();
    let path = write(&sandbox, "mine.toml", "extends = [\"default\"]\ncommands = [\"agent\"]\n");
    let run = |profile: &Path| sandbox.remount().option("--profile").option(profile);
    run(Path::new("mine")).command(["true"]).run().success();
    run(&path).command(["true"]).run().success();
    run(Path::new("../home/.config/remount/profiles/mine.toml")).arg("true").run().success();
}

#[test]
fn names_that_no_profile_has() {
    let sandbox = world();
    write(&sandbox, "mine.toml", "");
    for (name, near) in [("cluade", "claude"), ("defalt", "default"), ("mien", "mine")] {
        refused(&sandbox, name).explains(
            &format!("profile `{name}`: there is no profile of this name"),
            &format!("did you mean `{near}`? profiles are "),
        );
    }
    refused(&sandbox, "something-else-entirely").explains(
        "profile `something-else-entirely`: there is no profile of this name",
        "claude, codex",
    );
    for name in ["", "a b", "a\u{1b}[2J", "*", "-", "a//b"] {
        refused(&sandbox, name).says("profile `").says("hint: ");
    }
    for path in ["/no/such.toml", "./such.toml", "no-such.toml"] {
        refused(&sandbox, path).says("read profile ").says(": no such file or directory\n");
    }
}

/// What is a mistake, and what is said of each, is in the loader's own tests.
#[test]
fn mistakes_have_a_place() {
    let sandbox = world();
    for (text, place, reason, hint) in [
        (
            "[sandbox]\nnetwrok = \"none\"\n",
            "2:1",
            "unknown key `netwrok`",
            "did you mean `network`?",
        ),
        ("mask = [\"~/x\",\n  \"relative\"]", "2:3", "relative", ""),
        ("[[bind]]\npath = 5\n", "2:8", "invalid type: integer `5`", ""),
        ("mask = [\n", "1:9", "unclosed array", ""),
    ] {
        let path = write(&sandbox, "mine.toml", text);
        let outcome = refused(&sandbox, "mine");
        outcome.says(&format!("profile {}:{place}: ", path.display()));
        outcome.says(reason);
        if !hint.is_empty() {
            assert!(
                outcome
                    .stderr()
                    .lines()
                    .any(|line| { line.starts_with("hint: ") && line.contains(hint) }),
                "{outcome}"
            );
        }
    }
    let path = write(&sandbox, "mine.toml", b"# caf\xe9\n");
    refused(&sandbox, "mine").says(&format!("{}:1:6: it is not UTF-8", path.display()));
}

#[test]
fn profiles_that_extend_each_other_in_a_circle() {
    let sandbox = world();
    write(&sandbox, "mine.toml", "extends = [\"other\"]\n");
    let other = write(&sandbox, "other.toml", "\nextends = [\"mine\"]\n");
    refused(&sandbox, "mine")
        .says(&format!("profile {}:2:12: `extends` goes in a circle: ", other.display()));
    // Its own name is that of the profile it hides: there is none.
    write(&sandbox, "other.toml", "extends = [\"other\"]\n");
    refused(&sandbox, "mine").says("there is no profile of this name (extended at ");
    write(&sandbox, "other.toml", "extends = [\"nobody\"]\n");
    refused(&sandbox, "mine").says("there is no profile of this name (extended at ");
    for n in 0..40 {
        write(&sandbox, &format!("chain{n}.toml"), format!("extends = [\"chain{}\"]\n", n + 1));
    }
    refused(&sandbox, "chain0").says("profiles extend each other");
}

#[test]
fn profiles_that_are_no_small_files() {
    let sandbox = world();
    let own = sandbox.root().join(OWN);
    write(&sandbox, "mine.toml", vec![b'#'; (1 << 20) + 1]);
    refused(&sandbox, "mine").says("it is larger than 1 MiB");
    write(&sandbox, "mine.toml", vec![b'#'; 1 << 20]);
    sandbox.remount().options(["--profile", "mine"]).arg("true").run().success();
    std::fs::remove_file(own.join("mine.toml")).unwrap();
    std::fs::create_dir(own.join("mine.toml")).unwrap();
    refused(&sandbox, "mine").says("mine.toml: it is a directory");
    refused(&sandbox, "/dev/zero").says("/dev/zero: it is not a regular file");
    if !as_root() {
        let path = write(&sandbox, "closed.toml", "");
        // The home is compared, and a file that nobody may read could not be.
        let moved = sandbox.outside().join("closed.toml");
        std::fs::rename(&path, &moved).unwrap();
        std::fs::set_permissions(&moved, PermissionsExt::from_mode(0o000)).unwrap();
        refused(&sandbox, moved.to_str().unwrap()).says("closed.toml: permission denied");
    }
}

#[test]
fn profiles_that_others_could_have_written() {
    let sandbox = world();
    let path = write(&sandbox, "mine.toml", "extends = [\"default\"]\n");
    let own = sandbox.root().join(OWN);
    let run = || sandbox.remount().options(["--profile", "mine"]).arg("true").run();
    run().success();
    for (place, bad, good) in [(&path, 0o664, 0o644), (&path, 0o646, 0o644), (&own, 0o777, 0o755)] {
        let set = |mode| std::fs::set_permissions(place, PermissionsExt::from_mode(mode)).unwrap();
        set(bad);
        refused(&sandbox, "mine").explains(
            &format!(
                "refuse profile {}: others than its owner can write to it (mode {bad:04o})",
                place.display()
            ),
            &format!("chmod go-w {}", place.display()),
        );
        set(good);
        run().success();
    }
    if as_root() {
        std::os::unix::fs::chown(&path, Some(61235), None).unwrap();
        refused(&sandbox, "mine").says("it belongs to uid 61235").says("hint: if you trust");
    }
}

#[test]
fn a_project_cannot_grant_itself_anything() {
    let sandbox = world();
    for (text, key) in [
        ("extends = [\"default\"]", "extends"),
        ("commands = [\"sh\"]", "commands"),
        ("[[bind]]\npath = \"/etc\"\nmode = \"rw\"", "bind"),
        ("[[tmpfs]]\npath = \"/etc\"", "tmpfs"),
        ("[[cache]]\npath = \"/etc\"", "cache"),
        ("[environment.set]\nPATH = \"/x\"", "environment"),
        ("[environment]\nclear = true", "environment"),
        ("[workspace]\npath = \"/\"", "workspace.path"),
        ("[workspace]\nmode = \"rw\"", "workspace.mode"),
        ("[workspace]\nname = \"other\"", "workspace.name"),
        ("[workspace]\ngit = \"rw\"", "workspace.git"),
        ("[workspace]\nauthority = \"self\"", "workspace.authority"),
        ("[sandbox]\nnetwork = \"host\"", "sandbox.network"),
        ("[sandbox]\nauthority = \"self\"", "sandbox.authority"),
        ("[sandbox]\nlandlock = \"optional\"", "sandbox.landlock"),
        ("[sandbox]\nseccomp = \"optional\"", "sandbox.seccomp"),
        ("[sandbox]\nhostname = \"x\"", "sandbox.hostname"),
        ("[sandbox]\nnew-session = true", "sandbox.new-session"),
        ("[sandbox]\nuser-namespace = \"auto\"", "sandbox.user-namespace"),
        ("[remove]\nmask = [\"~/.ssh\"]", "remove.mask"),
        ("[remove]\nprotect = [\".vscode/\"]", "remove.protect"),
        ("[remove]\ntmpfs = [\"/tmp\"]", "remove.tmpfs"),
        ("[remove]\nunset = [\"LD_PRELOAD\"]", "remove.unset"),
    ] {
        let path = sandbox.file("project/.remount.toml", text);
        let outcome = sandbox.refused(125, sandbox.remount().command(LEAVES_A_MARK));
        let line = text.lines().count().min(2);
        let line =
            if text.starts_with("[[") || text.starts_with("[environment") { 1 } else { line };
        outcome.says(&format!("project file {}:{line}:", path.display()));
        outcome.says(&format!("`{key}` is not allowed here: "));
        outcome.says("hint: write it to a profile in your own configuration directory");
    }
    // What only takes away is heard.
    sandbox.file("project/.remount.toml", "protect = [\"kept\"]\n[workspace]\nmode = \"ro\"\n");
    let outcome = sandbox.remount().sh("echo ran >ran").run();
    outcome.says("Read-only file system");
    // Nothing but a file of the project's own.
    let file = sandbox.project().join(".remount.toml");
    std::fs::remove_file(&file).unwrap();
    symlink("/etc/passwd", &file).unwrap();
    let outcome = sandbox.refused(125, sandbox.remount().command(LEAVES_A_MARK));
    outcome.says(".remount.toml: it is a symlink");
}

#[test]
fn a_project_that_is_home_or_nothing() {
    let sandbox = world();
    for dir in [sandbox.home(), sandbox.root().to_owned(), "/".into()] {
        let run = sandbox.remount().cwd(&dir).command(LEAVES_A_MARK);
        sandbox.refused(125, run).explains(
            &format!(
                "make {} the project: it holds the home directory, and all of it would be writable",
                dir.display()
            ),
            "change to a project's directory first",
        );
    }
    let path = write(
        &sandbox,
        "mine.toml",
        "extends = [\"default\"]\n[workspace]\npath = \"~/no/such\"\n",
    );
    refused(&sandbox, "mine").explains(
        &format!(
            "{}:3:8: find {}: no such file or directory",
            path.display(),
            sandbox.home().join("no/such").display()
        ),
        "check the spelling",
    );
    let file = sandbox.file("outside/file", "");
    let text = format!("extends = [\"default\"]\n[workspace]\npath = {file:?}\n");
    write(&sandbox, "mine.toml", text);
    refused(&sandbox, "mine").says(&format!("find {}: not a directory", file.display()));
}
