//! Single files: nothing but the file is shown, and it is the host's, also when that replaces it.

use remount_tests::{Answer, Cmd, Inside, LIMIT, Sandbox, Snapshot, bin, wait_until};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn remount(sandbox: &Sandbox, options: &[&str]) -> Cmd {
    sandbox.remount().options(options)
}

/// What an editor does: a new file is written, and renamed over the old one.
fn replace(path: &Path, contents: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, contents).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn with_profile(sandbox: &Sandbox, profile: &str) -> Cmd {
    sandbox.file("home/.config/remount/profiles/test.toml", profile);
    sandbox.host(bin("remount-run")).options(["--profile", "test"]).separated()
}

#[track_caller]
fn shows(inside: &mut Inside, path: &str, contents: &str) {
    let expected = Answer::Ok(contents.to_owned());
    wait_until(path, LIMIT, || inside.act(["read", path]) == expected);
}

/// microsandbox's three checks of volumes that are files: only the file is seen, `..` from it
/// shows nothing of the host, and its permissions stay as they are. For two files whose
/// places differ by `/` and `_` only, and in two runs.
#[test]
fn only_the_file_is_shown_and_nothing_is_shared() {
    let sandbox = Sandbox::new();
    let one = sandbox.file("outside/one/file", "one");
    let two = sandbox.file("outside/two/file", "two");
    for path in [&one, &two] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }
    sandbox.file("outside/one/secret", "secret");
    let entry = |path: &Path, dest: &str, name: &str| {
        let path = text(path);
        format!(
            "[[bind]]\npath = '{path}'\ndest = '{dest}'\nmode = 'rw'\ntoggle = '{name}'\nchmod = false\n"
        )
    };
    let profile = "extends = ['default']\n".to_owned()
        + &entry(&one, "/tmp/a/b", "one")
        + &entry(&two, "/tmp/a_b", "two");
    for round in ["1", "2"] {
        let before = Snapshot::of(sandbox.outside());
        let mut inside = with_profile(&sandbox, &profile).serve();
        assert_eq!(inside.act(["list", "/tmp"]).ok(), "a\na_b");
        assert_eq!(inside.act(["list", "/tmp/a"]).ok(), "b");
        for path in ["/tmp/a/b/..", "/tmp/a/b/../secret", "/tmp/a_b/.", "/tmp/a_b/../../secret"] {
            let answer = inside.act(["read", path]);
            assert!(matches!(answer, Answer::Errno(_)), "{path}: {answer:?}");
        }
        inside.act(["read", "/tmp/a/b/../secret"]).errno("ENOTDIR");
        for (path, at) in [("/tmp/a/b", &one), ("/tmp/a_b", &two)] {
            inside.act(["chmod", path]).errno("EPERM");
            inside.act(["setxattr", path]).errno("EPERM");
            assert_eq!(std::fs::metadata(at).unwrap().mode() & 0o7777, 0o600);
            inside.act(["append", path, round]).ok();
        }
        inside.end().success();
        let contents = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert!(contents(&one).ends_with(round) && contents(&two).ends_with(round));
        assert!(contents(&one).starts_with("one") && contents(&two).starts_with("two"));
        // Nothing but what was written.
        std::fs::write(&one, if round == "1" { "one" } else { "one1" }).unwrap();
        std::fs::write(&two, if round == "1" { "two" } else { "two1" }).unwrap();
        before.unchanged(sandbox.outside());
        std::fs::write(&one, "one1").unwrap();
        std::fs::write(&two, "two1").unwrap();
    }
}

#[test]
fn chmod_is_refused_where_a_target_says_so_and_nowhere_else() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("outside/file", "");
    let profile = |more: &str| {
        let path = text(&file);
        format!(
            "extends = ['default']\n[[bind]]\npath = '{path}'\nmode = 'rw'\ntoggle = 't'\n{more}"
        )
    };
    with_profile(&sandbox, &profile("")).probe(["chmod", text(&file)]).ok();
    let run = with_profile(&sandbox, &profile("chmod = false\n"));
    let mut inside = run.serve();
    inside.act(["chmod", text(&file)]).errno("EPERM");
    inside.act(["append", text(&file), "x"]).ok();
    let (code, printed) = inside.run(["sh", "-c", "umask 0; touch new; chmod 777 new"]);
    assert!(code != 0 && printed.contains("not permitted"), "{printed}");
    inside.end().success();
    let wrong = "[[bind]]\npath = '/etc'\nchmod = false\n";
    let outcome = sandbox.refused(125, with_profile(&sandbox, wrong).sh("true"));
    assert!(outcome.stderr().contains("`chmod` without `toggle`"), "{outcome}");
}

#[test]
fn a_file_that_is_bound_read_only_cannot_be_made_writable() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("outside/file", "text");
    let own = sandbox.file("project/file", "text");
    let options = ["--ro-bind", text(&file), "/tmp/x/file", "--ro-bind", text(&own), text(&own)];
    let mut inside = remount(&sandbox, &options).serve();
    sandbox.host_probe().probe(["open-write", text(&file)]).ok();
    for path in ["/tmp/x/file", "file", text(&file)] {
        for act in ["open-write", "truncate", "chmod", "utime"] {
            inside.act([act, path]).errno("EROFS");
        }
    }
    inside.act(["unlink", "file"]).errno("EBUSY");
    inside.act(["unlink", "/tmp/x/file"]).errno("EBUSY");
    inside.act(["create", "/tmp/x/other"]).ok();
    inside.end().success();
    assert_eq!(std::fs::read(file).unwrap(), b"text");
}

/// Whether there is a mount at a path.
fn is_mounted(inside: &mut Inside, path: &str) -> bool {
    let table = inside.act(["read", "/proc/self/mountinfo"]).ok();
    table.lines().any(|line| line.split(' ').nth(4) == Some(path))
}

/// Read-only and writable, at its own path and at others, in a private directory and in one
/// that only the sandbox sees: what the host renames over it is seen, in its mode.
#[test]
fn a_file_that_the_host_replaces_is_followed() {
    let sandbox = Sandbox::new();
    let ro = sandbox.file("outside/ro", "0");
    let rw = sandbox.file("outside/rw", "0");
    let here = sandbox.file("outside/here", "0");
    let covered = sandbox.file("outside/covered/file", "0");
    let options = [
        "--tmpfs",
        text(covered.parent().unwrap()),
        "--ro-bind",
        text(&covered),
        text(&covered),
        "--ro-bind",
        text(&ro),
        "/tmp/ro",
        "--bind",
        text(&rw),
        "/tmp/sub/rw",
        "--bind",
        text(&here),
        text(&here),
    ];
    let mut inside = remount(&sandbox, &options).serve();
    let shown = [
        (&ro, "/tmp/ro", false),
        (&rw, "/tmp/sub/rw", true),
        (&here, text(&here), true),
        (&covered, text(&covered), false),
    ];
    for round in 1..=20 {
        let contents = &format!("round {round}");
        for (path, dest, is_writable) in shown {
            replace(path, contents);
            shows(&mut inside, dest, contents);
            if is_writable {
                // It is seen before it is mounted where that is its own path.
                let done = Answer::Ok(String::new());
                wait_until(dest, LIMIT, || inside.act(["append", dest, "+"]) == done);
                assert_eq!(std::fs::read_to_string(path).unwrap(), format!("{contents}+"));
            } else {
                inside.act(["open-write", dest]).errno("EROFS");
            }
            // Beside it nothing can be changed, or it is a mountpoint.
            let errno = if path == &here { "EROFS" } else { "EBUSY" };
            wait_until(dest, LIMIT, || is_mounted(&mut inside, dest));
            inside.act(["unlink", dest]).errno(errno);
        }
    }
    // One mount for each, however often it was replaced.
    let table = inside.act(["read", "/proc/self/mountinfo"]).ok();
    for (_, dest, _) in shown {
        let count = table.lines().filter(|line| line.split(' ').nth(4) == Some(dest)).count();
        assert_eq!(count, 1, "{dest}: {table}");
    }
    // Removed for a while, and there again.
    std::fs::remove_file(&ro).unwrap();
    assert_eq!(inside.act(["read", "/tmp/ro"]).ok(), "round 20");
    std::fs::write(&ro, "again").unwrap();
    shows(&mut inside, "/tmp/ro", "again");
    inside.end().success();
    assert!(!covered.parent().unwrap().join("new").exists());
}

/// How long it takes is measured; on a quiet machine it is below 10 ms.
#[test]
fn following_is_soon() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("outside/file", "0");
    let mut inside = remount(&sandbox, &["--ro-bind", text(&file), "/tmp/file"]).serve();
    let mut times: Vec<_> = (1..=30)
        .map(|round| {
            let contents = round.to_string();
            replace(&file, &contents);
            let start = Instant::now();
            let end = start + LIMIT;
            while inside.act(["read", "/tmp/file"]) != Answer::Ok(contents.clone()) {
                assert!(Instant::now() < end, "round {round}");
            }
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("median {:?}, longest {:?}", times[15], times[29]);
    inside.end().success();
}

#[test]
fn a_target_that_is_a_file_follows_in_the_mode_of_now() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("outside/file", "0");
    let options = ["--bind", text(&file), "/tmp/file", "--toggle", "notes", "/tmp/file"];
    let mut inside = remount(&sandbox, &options).serve();
    for (round, mode) in ["ro", "rw", "ro", "rw"].into_iter().enumerate() {
        inside.ctl(&format!("{mode} notes"), 0);
        let contents = &format!("round {round}");
        replace(&file, contents);
        shows(&mut inside, "/tmp/file", contents);
        match mode {
            "ro" => inside.act(["append", "/tmp/file", "+"]).errno("EROFS"),
            _ => drop(inside.act(["append", "/tmp/file", "+"]).ok()),
        }
        let other = if mode == "ro" { "rw" } else { "ro" };
        inside.ctl(&format!("{other} notes"), 0);
        match other {
            "ro" => inside.act(["append", "/tmp/file", "-"]).errno("EROFS"),
            _ => drop(inside.act(["append", "/tmp/file", "-"]).ok()),
        }
        assert!(!inside.ctl("status", 0).contains("stale"));
    }
    inside.end().success();
}

#[test]
fn a_profile_may_keep_the_file_that_was_there() {
    let sandbox = Sandbox::new();
    let (kept, other) = (sandbox.file("outside/kept", "0"), sandbox.file("outside/other", "0"));
    let entry = |path: &PathBuf, dest: &str, more: &str| {
        format!("[[bind]]\npath = '{}'\ndest = '{dest}'\n{more}\n", text(path))
    };
    let profile = "extends = ['default']\n".to_owned()
        + &entry(&kept, "/tmp/kept", "follow = false")
        + &entry(&other, "/tmp/other", "");
    let mut inside = with_profile(&sandbox, &profile).serve();
    replace(&kept, "1");
    replace(&other, "1");
    shows(&mut inside, "/tmp/other", "1");
    assert_eq!(inside.act(["read", "/tmp/kept"]).ok(), "0");
    inside.end().success();
}

/// The one thing that does not work with a file that is bound: why says so.
#[test]
fn why_tells_that_it_cannot_be_replaced_inside() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("outside/file", "0");
    let mut inside = remount(&sandbox, &["--bind", text(&file), text(&file)]).serve();
    inside.act(["create", "new"]).ok();
    let answer = format!("{:?}", inside.act(["rename", "new", text(&file)]));
    assert!(["EBUSY", "EXDEV"].iter().any(|errno| answer.contains(errno)), "{answer}");
    let why = inside.ctl(&format!("why {}", text(&file)), 0);
    assert!(why.contains("EBUSY") && why.contains("bind its directory"), "{why}");
    assert!(!inside.ctl("why new", 0).contains("EBUSY"));
    inside.end().success();
}
