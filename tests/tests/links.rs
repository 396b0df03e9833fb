//! Symlinks: those of the host are followed as it does, and no protection is lost behind one.

use remount_tests::{Answer, Inside, LIMIT, Sandbox, Snapshot, bin, require, wait_until};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Neither removed nor replaced, and still a link to the same place.
#[track_caller]
fn link_is_held(inside: &mut Inside, link: &str) {
    inside.act(["unlink", link]).errno("EBUSY");
    inside.act(["rename", link, "elsewhere"]).errno("EBUSY");
    held(inside.act(["rename", "own", link]));
}

/// Refused since there is a mount, or one between the two places.
#[track_caller]
fn held(answer: Answer) {
    let answer = format!("{answer:?}");
    assert!(["EBUSY", "EXDEV"].iter().any(|errno| answer.contains(errno)), "{answer}");
}

/// What editors execute may be kept elsewhere, as dotfile managers do.
#[test]
fn a_link_to_what_is_protected_is_held_itself() {
    let sandbox = Sandbox::new();
    let project = sandbox.project();
    sandbox.file("outside/dotfiles/vscode/tasks.json", "one");
    symlink("../outside/dotfiles/vscode", project.join(".vscode")).unwrap();
    sandbox.file("project/conf/deep/envrc", "one");
    symlink("conf/deep/envrc", project.join(".envrc")).unwrap();
    // Over several links, and one to nowhere.
    symlink("hop", project.join(".idea")).unwrap();
    symlink("conf/idea", project.join("hop")).unwrap();
    let before = Snapshot::of(&project);
    let mut outside = sandbox.host_probe().serve();
    for link in [".vscode", ".envrc", ".idea", "hop"] {
        outside.act(["rename", link, "x"]).ok();
        outside.act(["rename", "x", link]).ok();
    }
    outside.end().success();
    let mut inside = sandbox.remount().serve();
    inside.act(["create", "own"]).ok();
    for link in [".vscode", ".envrc", ".idea", "hop"] {
        link_is_held(&mut inside, link);
    }
    assert_eq!(inside.act(["read", ".vscode/tasks.json"]).ok(), "one");
    assert_eq!(inside.act(["read", ".envrc"]).ok(), "one");
    for path in [".vscode/tasks.json", ".envrc", "conf/deep/envrc"] {
        inside.act(["open-write", path]).errno("EROFS");
    }
    for dir in ["conf", "conf/deep"] {
        held(inside.act(["rename", dir, "x"]));
    }
    inside.act(["mkdir", "conf/idea/x"]).errno("EROFS");
    inside.act(["create", ".idea/x"]).errno("EROFS");
    inside.act(["create", "conf/new"]).ok();
    inside.act(["unlink", "conf/new"]).ok();
    inside.act(["unlink", "own"]).ok();
    inside.end().success();
    before.unchanged(&project);
}

/// An agent's own state, kept with the other dotfiles (`stow`, `chezmoi`): links in the
/// writable directory cannot be bent either.
#[test]
fn dotfiles_may_be_links() {
    let sandbox = Sandbox::new();
    let home = sandbox.home();
    sandbox.file("home/dotfiles/claude/history", "");
    sandbox.file("home/dotfiles/settings.json", "{}");
    symlink("dotfiles/claude", home.join(".claude")).unwrap();
    symlink("../settings.json", home.join("dotfiles/claude/settings.json")).unwrap();
    let run = sandbox.host(bin("remount-run")).separated().options(["--profile", "claude"]);
    let mut inside = run.serve();
    inside.act(["append", text(&home.join(".claude/history")), "+"]).ok();
    let settings = home.join(".claude/settings.json");
    assert_eq!(inside.act(["read", text(&settings)]).ok(), "{}");
    inside.act(["open-write", text(&settings)]).errno("EROFS");
    inside.act(["unlink", text(&settings)]).errno("EBUSY");
    inside.act(["symlink", "/dev/null", text(&home.join(".claude/x"))]).ok();
    inside.act(["rename", text(&home.join(".claude/x")), text(&settings)]).errno("EBUSY");
    inside.end().success();
    let link = std::fs::read_link(home.join("dotfiles/claude/settings.json")).unwrap();
    assert_eq!(link, Path::new("../settings.json"));
}

/// `/home` is `/var/home` on some systems: everything is there under both names.
#[test]
fn the_home_directory_may_be_behind_a_link() {
    let sandbox = Sandbox::git();
    let link = sandbox.root().join("link");
    symlink("home", &link).unwrap();
    let other = sandbox.root().join("other");
    symlink("project", &other).unwrap();
    sandbox.file("home/.ssh/key", "secret");
    let run = sandbox.remount().env("HOME", &link).cwd(&other);
    let mut inside = run.env("PWD", &other).serve();
    for home in [&link, &sandbox.home()] {
        assert_eq!(inside.act(["list", text(&home.join(".ssh"))]).ok(), "");
    }
    for project in [&other, &sandbox.project()] {
        inside.act(["create", text(&project.join("new"))]).ok();
        inside.act(["unlink", text(&project.join("new"))]).ok();
        inside.act(["open-write", text(&project.join(".git/config"))]).errno("EROFS");
        inside.act(["create", text(&project.join(".vscode/x"))]).errno("EROFS");
    }
    inside.ctl("ro workspace", 0);
    inside.act(["create", text(&other.join("new"))]).errno("EROFS");
    inside.end().success();
}

#[test]
fn directories_that_can_only_be_passed_through_are() {
    let sandbox = Sandbox::git();
    sandbox.file("home/.ssh/key", "secret");
    let inner = sandbox.dir("outside/closed/inner");
    let closed = inner.parent().unwrap();
    // For its owner what 0711 is for others.
    for dir in [closed, sandbox.root()] {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o311)).unwrap();
    }
    let options = ["--bind", text(&inner), text(&inner)];
    let mut inside = sandbox.remount().options(options).serve();
    inside.act(["create", text(&inner.join("new"))]).ok();
    inside.act(["create", "new"]).ok();
    inside.act(["create", ".vscode/x"]).errno("EROFS");
    inside.act(["open-write", ".git/config"]).errno("EROFS");
    assert_eq!(inside.act(["list", text(&sandbox.home().join(".ssh"))]).ok(), "");
    // And what the host takes away there comes back.
    let set = ["config", "test.key", "value"];
    sandbox.host(require("git")).command(set).run().success();
    wait_until("the configuration is protected", LIMIT, || {
        inside.act(["open-write", ".git/config"]) == Answer::Errno("EROFS".into())
    });
    inside.end().success();
    for dir in [closed, sandbox.root()] {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    }
}

/// Whether there is a mount at a path; the kernel has taken the old one away before the host's
/// rename returns. Nothing is tried: before the link is held again, that would succeed.
fn is_mounted(inside: &mut Inside, path: &Path) -> bool {
    let table = inside.act(["read", "/proc/self/mountinfo"]).ok();
    table.lines().any(|line| line.split(' ').nth(4) == Some(text(path)))
}

/// The host gives the link another place: it is held again, as it is now.
#[test]
fn a_link_that_is_replaced_outside_is_held_again() {
    let sandbox = Sandbox::new();
    let project = sandbox.project();
    sandbox.file("outside/one/tasks.json", "one");
    sandbox.file("outside/two/tasks.json", "two");
    let link = project.join(".vscode");
    symlink("../outside/one", &link).unwrap();
    let mut inside = sandbox.remount().serve();
    inside.act(["create", "own"]).ok();
    for (place, contents) in [("two", "two"), ("one", "one"), ("two", "two")] {
        symlink(format!("../outside/{place}"), project.join("new")).unwrap();
        std::fs::rename(project.join("new"), &link).unwrap();
        wait_until("it is seen", LIMIT, || {
            inside.act(["read", ".vscode/tasks.json"]) == Answer::Ok(contents.into())
        });
        wait_until("it is held", LIMIT, || is_mounted(&mut inside, &link));
        link_is_held(&mut inside, ".vscode");
    }
    inside.end().success();
}

/// One of them could undo what was said of the other: an error that names both.
#[test]
fn the_same_directory_at_two_places_is_refused() {
    let sandbox = Sandbox::new();
    let project = sandbox.project();
    let dir = sandbox.dir("outside/dir");
    let (inner, file) = (sandbox.dir("outside/dir/inner"), sandbox.file("outside/file", ""));
    let (link, second) = (sandbox.outside().join("link"), sandbox.outside().join("second"));
    symlink(&project, &link).unwrap();
    std::fs::hard_link(&file, &second).unwrap();
    let refused = |options: &[&str], named: [&str; 2]| {
        let outcome = sandbox.refused(125, sandbox.remount().options(options).sh("true"));
        let stderr = outcome.stderr();
        assert!(stderr.contains("the same files at two places"), "{outcome}");
        assert!(named.iter().all(|name| stderr.contains(name)), "{outcome}");
    };
    let (dir, inner) = (text(&dir), text(&inner));
    // The project itself, by its name, by another, and a directory above it.
    refused(&["--bind", text(&project), "/tmp/x"], [text(&project), "/tmp/x"]);
    refused(&["--bind", text(&link), "/tmp/x"], [text(&project), "/tmp/x"]);
    refused(&["--bind", text(sandbox.root()), "/tmp/x"], [text(&project), "/tmp/x"]);
    // A directory, and one in it.
    refused(&["--bind", dir, "/tmp/x", "--bind", inner, "/tmp/y"], ["/tmp/x", "/tmp/y"]);
    let options = ["--bind", dir, "/tmp/x", "--ro-bind", dir, "/tmp/y", "--toggle", "y", "/tmp/y"];
    refused(&options, ["/tmp/x", "/tmp/y"]);
    // One file of two names.
    let options = ["--bind", text(&file), "/tmp/x", "--bind", text(&second), "/tmp/y"];
    refused(&options, ["/tmp/x", "/tmp/y"]);
    // Said to be so: only one of them is ever writable.
    let options = ["--bind", dir, "/tmp/x", "--ro-bind", inner, "/tmp/y"];
    let mut inside = sandbox.remount().options(options).serve();
    inside.act(["create", "/tmp/x/inner/new"]).ok();
    inside.act(["unlink", "/tmp/y/new"]).errno("EROFS");
    inside.end().success();
}

/// The host has a directory mounted a second time, in the project: what is protected is so
/// there too.
#[test]
fn what_the_host_shows_twice_is_protected_twice() {
    let sandbox = Sandbox::git();
    let project = sandbox.project();
    let alias = sandbox.dir("project/alias");
    let git = project.join(".git");
    let options = ["--userns", "--bind", text(&git), text(&alias), "exec"];
    let mut inside = sandbox.remount().within(bin("probe"), &options).unseparated().serve();
    for dir in [".git", "alias"] {
        for path in ["config", "hooks/pre-commit", "commondir", "info/attributes"] {
            let path = &format!("{dir}/{path}");
            let answer = inside.act(["write", path, "x"]);
            assert_eq!(answer, Answer::Errno("EROFS".into()), "{path}");
        }
        held(inside.act(["rename", &format!("{dir}/hooks"), "x"]));
        inside.act(["create", &format!("{dir}/new")]).ok();
        inside.act(["unlink", &format!("{dir}/new")]).ok();
    }
    inside.end().success();
}

/// What the host has read-only below the project never becomes writable, whatever is put
/// back and switched.
#[test]
fn what_the_host_has_read_only_stays_so() {
    let sandbox = Sandbox::git();
    let data = sandbox.dir("project/data");
    sandbox.file("project/data/deep/protected", "");
    let options =
        ["--userns", "--bind", text(&data), text(&data), "--read-only", text(&data), "exec"];
    let run = sandbox.remount().options(["--protect", text(&data.join("deep/protected"))]);
    let mut inside = run.within(bin("probe"), &options).unseparated().serve();
    for round in 0..3 {
        for path in ["data/new", "data/deep/new"] {
            inside.act(["create", path]).errno("EROFS");
        }
        inside.act(["create", &format!("new-{round}")]).ok();
        inside.ctl("ro workspace", 0);
        inside.ctl("rw workspace", 0);
        // Whatever the broker looks at, it has looked by now: it does so before each answer.
    }
    inside.end().success();
}
