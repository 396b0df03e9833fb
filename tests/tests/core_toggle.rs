//! Once `remountctl ro` has answered, nothing is written any more; `rw` gives it back.
//!
//! `core_*` tests need nothing but the project's binaries and a shell with the usual
//! small tools: they also run on an older kernel (`scripts/vm-test`).

use remount_tests::{Answer, Inside, LIMIT, Sandbox, bin, wait_until};
use std::path::Path;
use std::time::Duration;

/// The options of the mount at `path` inside, by mountinfo: `ro` or `rw`.
fn mounted(inside: &mut Inside, path: &Path) -> String {
    let table = inside.act(["read", "/proc/self/mountinfo"]).ok();
    let path = path.to_str().unwrap();
    let line = table.lines().rfind(|line| line.split(' ').nth(4) == Some(path));
    let options = line.unwrap_or_else(|| panic!("{path} is no mount: {table}")).split(' ').nth(5);
    options.unwrap().split(',').next().unwrap().to_owned()
}

/// Every act that changes something, by every way to it, and the files for it, made
/// from outside. `mark` keeps the files of one call from those of another.
fn acts(sandbox: &Sandbox, mark: &str) -> Vec<Vec<String>> {
    let new = |name: &str| format!("{mark}-{name}");
    for name in ["file", "victim", "moved", "twin"] {
        sandbox.file(format!("project/{}", new(name)), "contents");
    }
    sandbox.dir(format!("project/{}", new("empty")));
    let project = sandbox.project().to_str().unwrap().to_owned();
    let file = new("file");
    let absolute = format!("{project}/{file}");
    [
        vec!["open-write", &absolute],
        vec!["open-write", &file],
        vec!["open-rw", &file],
        vec!["append", &absolute],
        vec!["write", &file, "other"],
        vec!["create", &new("new")],
        vec!["create-tmpfile", "."],
        vec!["dirfd-create", &project, &new("by-descriptor")],
        vec!["mkdir", &new("dir")],
        vec!["rmdir", &new("empty")],
        vec!["rename", &new("moved"), &new("renamed")],
        vec!["rename-exchange", &file, &new("twin")],
        vec!["link", &file, &new("link")],
        vec!["symlink", &file, &new("symlink")],
        vec!["mkfifo", &new("fifo")],
        vec!["bind-unix", &new("socket")],
        vec!["unlink", &new("victim")],
        vec!["truncate", &file],
        vec!["chmod", &file, "600"],
        vec!["chown", &file],
        vec!["utime", &file],
        vec!["setxattr", &file],
    ]
    .into_iter()
    .map(|words| words.into_iter().map(str::to_owned).collect())
    .collect()
}

/// What memory files of older kernels do not have.
fn is_not_supported(act: &[String], answer: &Answer) -> bool {
    act[0] == "setxattr" && *answer == Answer::Errno("EOPNOTSUPP".to_owned())
}

#[test]
fn everything_that_changes_a_file_is_refused_while_ro() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    for round in ["first", "second"] {
        for act in acts(&sandbox, &format!("{round}-rw")) {
            let answer = inside.act(&act);
            let fine = matches!(answer, Answer::Ok(_)) || is_not_supported(&act, &answer);
            assert!(fine, "while rw: {act:?}: {answer:?}");
        }
        inside.ctl("ro workspace", 0);
        for act in acts(&sandbox, &format!("{round}-ro")) {
            assert_eq!(inside.act(&act), Answer::Errno("EROFS".to_owned()), "while ro: {act:?}");
        }
        // A reader is not disturbed.
        assert_eq!(inside.act(["read", &format!("{round}-ro-file")]).ok(), "contents");
        inside.ctl("rw workspace", 0);
    }
    inside.end().success();
}

/// One write by each thing that was there before: what `names` are the numbers of.
fn write_by_what_was_there(
    inside: &mut Inside,
    held: &Held,
    mark: &str,
) -> Vec<(&'static str, Answer)> {
    let Held { dir, path, read, process } = held;
    let absolute = inside.act(["cwd"]).ok() + "/file";
    let by_root = format!("/proc/self/root{absolute}");
    let by_dir = format!("/proc/self/fd/{dir}/file");
    let by_process = format!("/proc/{process}/cwd/file");
    let by_child = match inside.run(["sh", "-c", "echo x >>file"]) {
        (0, _) => Answer::Ok(String::new()),
        (_, text) if text.contains("Read-only file system") => Answer::Errno("EROFS".to_owned()),
        other => panic!("a child: {other:?}"),
    };
    vec![
        ("a directory's descriptor", inside.act(["dirfd-make", dir, mark])),
        ("a path descriptor", inside.act(["fd-reopen", path])),
        ("a reading descriptor", inside.act(["fd-reopen", read])),
        ("the working directory", inside.act(["append", "file"])),
        ("a magic link to a descriptor", inside.act(["append", &by_dir])),
        ("a magic link to the root", inside.act(["append", &by_root])),
        ("another's working directory", inside.act(["append", &by_process])),
        ("a shell", by_child),
    ]
}

struct Held {
    dir: String,
    path: String,
    read: String,
    process: String,
}

#[test]
fn what_was_there_before_does_not_help() {
    let sandbox = Sandbox::new();
    sandbox.file("project/sub/file", "contents");
    let mut inside = sandbox.remount().serve();
    inside.act(["cd", "sub"]).ok();
    let held = Held {
        dir: inside.act(["hold", "dir", "."]).ok(),
        path: inside.act(["hold", "path", "file"]).ok(),
        read: inside.act(["hold", "read", "file"]).ok(),
        process: inside.act(["spawn", "sleep", "600"]).ok(),
    };
    for round in ["1", "2"] {
        for (way, answer) in write_by_what_was_there(&mut inside, &held, &format!("rw{round}")) {
            assert!(matches!(answer, Answer::Ok(_)), "{way}: {answer:?}");
        }
        inside.ctl("ro workspace", 0);
        for (way, answer) in write_by_what_was_there(&mut inside, &held, &format!("ro{round}")) {
            assert_eq!(answer, Answer::Errno("EROFS".to_owned()), "{way}");
        }
        inside.ctl("rw workspace", 0);
    }
    inside.end().success();
}

#[test]
fn a_busy_writer_is_stopped_at_once_and_for_good() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("project/file", "");
    let counter = "/tmp/rounds";
    let mut inside = sandbox.remount().serve();
    let probe = bin("probe");
    let project = sandbox.project();
    let words = ["spawn".as_ref(), probe.as_os_str(), "hammer".as_ref(), project.as_os_str()];
    inside.act(words.into_iter().chain(["file".as_ref(), counter.as_ref()])).ok();
    let length = || std::fs::metadata(&file).unwrap().len();
    for _ in 0..30 {
        let before = length();
        wait_until("the writer writes", LIMIT, || length() > before);
        inside.ctl("ro workspace", 0);
        let closed = length();
        // None is there until the first round is done.
        let rounds = |inside: &mut Inside| -> u64 {
            match inside.act(["read", counter]) {
                Answer::Errno(errno) if errno == "ENOENT" => 0,
                answer => answer.ok().parse().expect("a number"),
            }
        };
        let first = rounds(&mut inside);
        // The round under way and two whole ones: each way was tried at least twice.
        wait_until("the writer goes on trying", LIMIT, || rounds(&mut inside) > first + 2);
        assert_eq!(length(), closed, "written after ro was answered");
        inside.ctl("rw workspace", 0);
    }
    let before = length();
    wait_until("the writer writes again", LIMIT, || length() > before);
    inside.end().success();
}

#[test]
fn of_a_thousand_toggles_none_is_wrong() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("project/file", "");
    // Fewer where each takes long: scripts/vm-test.
    let rounds =
        std::env::var("REMOUNT_ROUNDS").map_or(500, |text| text.parse().expect("a number"));
    let mut inside = sandbox.remount().timeout(Duration::from_secs(600)).serve();
    for round in 0..rounds {
        for (mode, wanted) in [("ro", Answer::Errno("EROFS".into())), ("rw", Answer::Ok("".into()))]
        {
            let said = inside.ctl(&format!("{mode} workspace"), 0);
            assert_eq!(said, format!("workspace: {mode}\n"), "round {round}");
            assert_eq!(mounted(&mut inside, &sandbox.project()), mode, "round {round}");
            assert_eq!(inside.act(["append", "file"]), wanted, "round {round}");
        }
    }
    assert_eq!(std::fs::metadata(file).unwrap().len(), rounds);
    inside.end().success();
}

#[test]
fn toggles_from_many_processes_at_once_leave_one_mode() {
    let sandbox = Sandbox::new();
    sandbox.file("project/file", "");
    let mut inside = sandbox.remount().serve();
    let crowd = "for i in 1 2 3 4 5 6 7 8; do (for j in 1 2 3 4 5 6 7 8; do \
                 remountctl -q toggle workspace || echo failed; done) & done; wait";
    assert_eq!(inside.run(["sh", "-c", crowd]), (0, String::new()));
    // An even number of toggles.
    assert_eq!(mounted(&mut inside, &sandbox.project()), "rw");
    inside.act(["append", "file"]).ok();
    inside.end().success();
}

#[test]
fn the_mount_keeps_its_other_flags() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    let project = sandbox.project();
    let options = |inside: &mut Inside| {
        let table = inside.act(["read", "/proc/self/mountinfo"]).ok();
        let path = project.to_str().unwrap();
        let line = table.lines().rfind(|line| line.split(' ').nth(4) == Some(path)).unwrap();
        line.split(' ').nth(5).unwrap().split_once(',').unwrap().1.to_owned()
    };
    let before = options(&mut inside);
    assert!(before.contains("nosuid") && before.contains("nodev"), "{before}");
    for mode in ["ro", "rw", "toggle", "toggle"] {
        inside.ctl(&format!("{mode} workspace"), 0);
        assert_eq!(options(&mut inside), before, "after {mode}");
    }
    inside.end().success();
}

#[test]
fn status_and_list_say_what_is_so() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    for (command, mode) in [("ro", "ro"), ("rw", "rw"), ("toggle", "ro"), ("toggle", "rw")] {
        inside.ctl(&format!("{command} workspace"), 0);
        let list = inside.ctl("list", 0);
        assert!(list.contains(&format!("workspace  {mode}")), "{list}");
        let status: serde_json::Value =
            serde_json::from_str(&inside.ctl("status --json", 0)).unwrap();
        assert_eq!(status["origin"], "inside");
        let target = &status["targets"][0];
        assert_eq!(target["name"], "workspace");
        assert_eq!(target["mode"], mode);
        assert_eq!(target["state"], "ok");
        assert_eq!(target["path"], sandbox.project().to_str().unwrap());
    }
    inside.end().success();
}
