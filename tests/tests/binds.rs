//! Each option of mounting and of the environment does what its word says.

use remount_tests::{Cmd, Sandbox};
use std::path::Path;

/// A shell script inside; it must succeed.
#[track_caller]
fn prints(run: Cmd, script: &str) -> String {
    run.sh(script).run().success().stdout()
}

/// What a shell inside answers to a write: `yes` or the reason.
const WRITE: &str = "(echo new >\"$D/new\") 2>&1 && echo yes";

fn bound(sandbox: &Sandbox, option: &str, source: &Path, dest: &Path) -> Cmd {
    sandbox.remount().option(option).option(source).option(dest).env("D", dest)
}

#[test]
fn binds_of_directories() {
    let sandbox = Sandbox::new();
    let source = sandbox.dir("outside/source");
    sandbox.file("outside/source/file", "contents");
    for (option, writable) in [
        ("--bind", true),
        ("--bind-try", true),
        ("--dev-bind", true),
        ("--ro-bind", false),
        ("--ro-bind-try", false),
    ] {
        for dest in [Path::new("/tmp/deep/er"), Path::new("/mnt"), &source] {
            let run = bound(&sandbox, option, &source, dest);
            let printed = prints(run, &format!("cat \"$D/file\"; {WRITE}; true"));
            let made = std::fs::remove_file(source.join("new")).is_ok();
            assert_eq!(made, writable, "{option} {}", dest.display());
            let answer = if writable { "contentsyes\n" } else { "Read-only file system\n" };
            assert!(printed.starts_with("contents") && printed.ends_with(answer), "{printed}");
        }
    }
}

#[test]
fn binds_of_files() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("outside/source", "contents");
    let dest = sandbox.file("outside/dest", "hidden");
    for (option, writable) in [("--bind", true), ("--ro-bind", false)] {
        for dest in [Path::new("/tmp/deep/er"), &dest] {
            std::fs::write(&source, "contents").unwrap();
            let run = bound(&sandbox, option, &source, dest);
            prints(run, "test \"$(cat $D)\" = contents; echo changed 2>/dev/null >$D; true");
            let contents = std::fs::read_to_string(&source).unwrap();
            assert_eq!(contents, if writable { "changed\n" } else { "contents" });
        }
    }
    assert_eq!(std::fs::read_to_string(&dest).unwrap(), "hidden");
}

#[test]
fn devices_work_where_they_are_bound_so() {
    let sandbox = Sandbox::new();
    let read = "head -c 4 \"$D\" | wc -c";
    let zero = Path::new("/dev/zero");
    let dest = sandbox.file("outside/device", "");
    assert_eq!(prints(bound(&sandbox, "--dev-bind", zero, &dest), read), "4\n");
    let outcome = bound(&sandbox, "--bind", zero, &dest).sh(read).run();
    outcome.says("Permission denied");
}

#[test]
fn the_last_of_two_at_one_place_wins() {
    let sandbox = Sandbox::new();
    let (one, two) = (sandbox.dir("outside/one"), sandbox.dir("outside/two"));
    let run = bound(&sandbox, "--bind", &one, Path::new("/mnt"));
    let run = run.option("--ro-bind").option(&two).option("/mnt");
    assert!(prints(run, &format!("{WRITE}; true")).ends_with("Read-only file system\n"));
    let run = bound(&sandbox, "--ro-bind", &one, Path::new("/mnt")).options(["--tmpfs", "/mnt"]);
    assert_eq!(prints(run, WRITE), "yes\n");
    assert!(std::fs::read_dir(&one).unwrap().next().is_none());
}

#[test]
fn memory_has_its_size_and_is_gone_afterwards() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("outside/memory");
    let run = || sandbox.remount().options(["--size", "1M", "--tmpfs"]).option(&dir).env("D", &dir);
    assert_eq!(prints(run(), WRITE), "yes\n");
    let fill = "head -c 2000000 /dev/zero >$D/big";
    let outcome = run().sh(fill).run();
    outcome.says("No space left on device");
    // The size is that of the next --tmpfs only.
    let other = run().options(["--tmpfs", "/mnt"]).sh("head -c 2000000 /dev/zero >/mnt/big").run();
    other.success();
    assert!(std::fs::read_dir(&dir).unwrap().next().is_none());
}

#[test]
fn masks_and_protections() {
    let sandbox = Sandbox::new();
    let (dir, file) = (sandbox.dir("project/dir"), sandbox.file("project/file", "contents"));
    sandbox.file("project/dir/inner", "contents");
    for option in ["--mask", "--protect"] {
        let run = || sandbox.remount().option(option).option(&dir).option(option).option(&file);
        let shown = if option == "--mask" { "" } else { "contentscontents" };
        let read = "cat file; cat dir/inner 2>/dev/null; true";
        assert_eq!(prints(run(), read), shown);
        let change = "(echo x >file) 2>/dev/null || (echo x >dir/inner) 2>/dev/null \
                      || (echo x >dir/new) 2>/dev/null || rm -rf dir file 2>/dev/null \
                      || mv dir gone 2>/dev/null || mv file gone 2>/dev/null || echo refused";
        assert_eq!(prints(run(), change), "refused\n");
        assert_eq!(prints(run(), "echo x >beside && cat beside"), "x\n");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"contents");
    assert!(dir.join("inner").is_file());
}

#[test]
fn the_environment_is_as_it_is_said() {
    let sandbox = Sandbox::new();
    let run = || sandbox.remount().env("OLD", "1").env("LD_PRELOAD", "");
    let of = |run: Cmd| prints(run, "echo $OLD,$NEW,$HOME,${LD_PRELOAD-none}");
    let home = sandbox.home().display().to_string();
    assert_eq!(of(run()), format!("1,,{home},none\n"));
    let set = ["--setenv", "NEW", "-2 =", "--unsetenv", "OLD"];
    assert_eq!(of(run().options(set)), format!(",-2 =,{home},none\n"));
    // In the order in which it is said.
    let words = ["--setenv", "OLD", "2", "--clearenv", "--setenv", "NEW", "3"];
    assert_eq!(of(run().options(words)), ",3,,none\n");
}

#[test]
fn the_directory_the_name_and_the_network() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("outside/dir");
    let chdir = sandbox.remount().option("--chdir").option(&dir);
    assert_eq!(prints(chdir, "pwd"), format!("{}\n", dir.display()));
    let name = sandbox.remount().options(["--hostname", "inside"]);
    assert_eq!(prints(name, "hostname"), "inside\n");
    let alone = sandbox.remount().option("--unshare-net");
    assert_eq!(
        prints(alone, "ls /sys/class/net >/dev/null; tail -n +3 /proc/net/dev | wc -l"),
        "1\n"
    );
}
