//! Protections that a program outside takes away, and that come back.

use remount_tests::{Answer, Inside, LIMIT, Sandbox, children, require, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What an editor does: a new file is written, and renamed over the old one.
fn replace(path: &Path, contents: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, contents).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn rofs() -> Answer {
    Answer::Errno("EROFS".into())
}

fn done() -> Answer {
    Answer::Ok(String::new())
}

/// Waits until nothing can be written to `path` inside: it is protected, or what holds it
/// is closed.
#[track_caller]
fn protected(inside: &mut Inside, path: &str) {
    wait_until(path, LIMIT, || inside.act(["open-write", path]) == rofs());
}

/// Waits until the kernel refuses the act since there is a mount. Until it is back, what
/// holds it is closed; in between the act never succeeds.
#[track_caller]
fn busy<const N: usize>(inside: &mut Inside, act: [&str; N]) {
    let mut refused = || match inside.act(act) {
        Answer::Errno(errno) if errno == "EROFS" => false,
        answer => {
            answer.errno("EBUSY");
            true
        }
    };
    wait_until("it is a mount", LIMIT, &mut refused);
}

#[track_caller]
fn held(inside: &mut Inside, name: &str) {
    busy(inside, ["rename", name, "elsewhere"]);
}

/// Waits until nothing is missing any more, and all is open that is to be.
#[track_caller]
fn settled(inside: &mut Inside) {
    wait_until("nothing is stale", LIMIT, || !inside.ctl("status", 0).contains("stale"));
}

fn world() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::git();
    sandbox.file("project/.vscode/tasks.json", "one");
    sandbox.file("project/.envrc", "one");
    let project = sandbox.project();
    (sandbox, project)
}

/// What `rm -rf .git` does outside, again if need be.
fn remove_repository(project: &Path) {
    use std::io::ErrorKind::{DirectoryNotEmpty, NotFound};
    wait_until("the repository is gone", LIMIT, || {
        match std::fs::remove_dir_all(project.join(".git")).map_err(|error| error.kind()) {
            Ok(()) | Err(NotFound) => true,
            // It took longer than half a second, and a placeholder was made again.
            Err(DirectoryNotEmpty) => false,
            Err(other) => panic!("{other}"),
        }
    });
}

#[test]
fn what_is_replaced_is_protected_again() {
    let (sandbox, project) = world();
    let mut inside = sandbox.remount().serve();
    inside.act(["create", "other"]).ok();
    for round in 0..20 {
        let contents = &format!("round {round}");
        replace(&project.join(".envrc"), contents);
        protected(&mut inside, ".envrc");
        assert_eq!(&inside.act(["read", ".envrc"]).ok(), contents);
        busy(&mut inside, ["unlink", ".envrc"]);
        busy(&mut inside, ["rename", "other", ".envrc"]);
        let set = ["config", "test.key", contents];
        sandbox.host(require("git")).command(set).run().success();
        protected(&mut inside, ".git/config");
        busy(&mut inside, ["unlink", ".git/config"]);
    }
    settled(&mut inside);
    inside.ctl("ro workspace", 0);
    inside.ctl("rw workspace", 0);
    inside.end().success();
}

#[test]
fn what_is_moved_away_is_held_until_it_is_back() {
    let (sandbox, project) = world();
    let mut inside = sandbox.remount().serve();
    inside.act(["create", "before"]).ok();
    for name in [".vscode", ".envrc", ".git"] {
        let away = sandbox.outside().join("away");
        std::fs::rename(project.join(name), &away).unwrap();
        // Nothing can be created in its place, nor beside it.
        wait_until("the project is closed", LIMIT, || inside.act(["utime", "."]) == rofs());
        inside.act(["create", "x"]).errno("EROFS");
        inside.act(["mkdir", name]).errno("EROFS");
        assert!(inside.ctl("status", 0).contains("stale"));
        inside.ctl("rw workspace", 6);
        std::fs::rename(&away, project.join(name)).unwrap();
        wait_until("the project is open", LIMIT, || inside.act(["utime", "."]) == done());
        settled(&mut inside);
        held(&mut inside, name);
    }
    protected(&mut inside, ".vscode/tasks.json");
    protected(&mut inside, ".envrc");
    protected(&mut inside, ".git/config");
    inside.end().success();
}

#[test]
fn what_is_removed_and_made_again_is_protected() {
    let (sandbox, project) = world();
    let mut inside = sandbox.remount().serve();
    for round in 0..5 {
        std::fs::remove_dir_all(project.join(".vscode")).unwrap();
        std::fs::create_dir(project.join(".vscode")).unwrap();
        std::fs::write(project.join(".vscode/tasks.json"), "two").unwrap();
        std::fs::remove_file(project.join(".envrc")).unwrap();
        std::fs::write(project.join(".envrc"), "two").unwrap();
        protected(&mut inside, ".vscode/tasks.json");
        protected(&mut inside, ".envrc");
        assert_eq!(inside.act(["read", ".envrc"]).ok(), "two", "{round}");
        held(&mut inside, ".vscode");
    }
    // A whole repository: its hooks, and the mode of its target.
    remove_repository(&project);
    sandbox.host(require("git")).command(["init", "-q"]).run().success();
    protected(&mut inside, ".git/config");
    wait_until("commits work", LIMIT, || {
        matches!(inside.act(["create", ".git/index.lock"]), Answer::Ok(_))
    });
    busy(&mut inside, ["rename", ".git/hooks", ".git/elsewhere"]);
    held(&mut inside, ".git");
    settled(&mut inside);
    inside.act(["unlink", ".git/index.lock"]).ok();
    inside.act(["create", ".git/hooks/pre-commit"]).errno("EROFS");
    inside.ctl("ro git", 0);
    inside.act(["create", ".git/index.lock"]).errno("EROFS");
    inside.act(["create", "x"]).ok();
    inside.end().success();
}

/// Writes to what is protected in the git directory, without pause, until it is told to stop.
/// Then says how often that went through. No file is open meanwhile but for these writes.
const SPIN: &str = r#"
{
    n=0
    while [ ! -e stop ]; do
        for file in .git/config .git/hooks/post-checkout .git/commondir; do
            { echo '#evil' >>"$file"; } && n=$((n + 1))
        done
    done
    echo "$n" >writes
} </dev/null >/dev/null 2>&1 &
"#;

/// What the host puts in the place of a directory that it has taken away is closed until all that
/// is protected in it is in its place: in nothing that comes can anybody inside write first.
#[test]
fn what_comes_in_its_place_is_closed_until_all_in_it_is_protected() {
    let (sandbox, project) = world();
    let (git, saved) = (project.join(".git"), sandbox.outside().join("saved"));
    let rounds = std::env::var("REMOUNT_HEAL_ROUNDS")
        .map_or(2, |text| text.parse().expect("a number of rounds"));
    let copy = |from: &Path, to: &Path| {
        let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
        assert!(copied.unwrap().success());
    };
    // With none of what stands in for something: that may be there before a slow copy of it.
    let pristine = sandbox.outside().join("pristine");
    copy(&git, &pristine);
    let mut inside = sandbox.remount().serve();
    assert_eq!(inside.run(["sh", "-c", SPIN]).0, 0);
    let closed = |inside: &mut Inside| {
        wait_until("the project is closed", LIMIT, || inside.act(["utime", "."]) == rofs());
    };
    let comes_back = |inside: &mut Inside| {
        copy(&pristine, &git);
        settled(inside);
        inside.act(["append", ".git/config", "x"]).errno("EROFS");
        inside.act(["create", ".git/index.lock"]).ok();
        inside.act(["unlink", ".git/index.lock"]).ok();
        std::fs::remove_dir_all(&saved).unwrap();
    };
    for round in 0..rounds {
        std::fs::rename(&git, &saved).unwrap();
        closed(&mut inside);
        comes_back(&mut inside);

        // Nothing in it yet: it stays closed, whatever is missing.
        std::fs::rename(&git, &saved).unwrap();
        closed(&mut inside);
        std::fs::create_dir(&git).unwrap();
        wait_until("what stands in is there", LIMIT, || git.join("commondir").exists());
        wait_until("the project is open", LIMIT, || inside.act(["utime", "."]) == done());
        inside.act(["create", ".git/config"]).errno("EROFS");
        inside.act(["create", ".git/index.lock"]).errno("EROFS");
        assert!(inside.ctl("status", 0).contains("git is stale: around "), "{round}");
        // The host is not kept from anything.
        std::fs::remove_dir_all(&git).unwrap();
        closed(&mut inside);
        comes_back(&mut inside);
    }
    let commit = ["commit", "-q", "--allow-empty", "-m", "inside"];
    let words = ["git", "-c", "user.name=a", "-c", "user.email=a@b"];
    assert_eq!(inside.run(words.into_iter().chain(commit)), (0, String::new()));
    std::fs::write(project.join("stop"), "").unwrap();
    let writes = || std::fs::read_to_string(project.join("writes")).unwrap_or_default();
    wait_until("it has stopped", LIMIT, || writes().ends_with('\n'));
    assert_eq!(writes(), "0\n");
    assert!(!std::fs::read_to_string(git.join("config")).unwrap().contains("evil"));
    assert!(!git.join("hooks/post-checkout").exists());
    inside.end().success();
}

/// Something of the user's own, which nobody makes again for him.
#[test]
fn whoever_asks_is_told_what_is_lost() {
    let (sandbox, project) = world();
    let mut inside = sandbox.remount().serve();
    assert!(inside.ctl("why src", 0).contains("can be read and written"));
    std::fs::remove_dir_all(project.join(".vscode")).unwrap();
    wait_until("the project is closed", LIMIT, || inside.act(["utime", "."]) == rofs());
    let lost = project.join(".vscode");
    let note = format!(
        "workspace is stale: around {} it is read-only, since that was moved, removed or replaced outside",
        lost.display()
    );
    let hint = "hint: make it again or move it back, outside";
    for request in ["list", "status"] {
        let said = inside.ctl(request, 0);
        assert!(said.contains(&note) && said.contains(hint), "{said}");
    }
    let why = inside.ctl("why src", 0);
    assert!(why.contains("src: can be read, not written for the moment\n"), "{why}");
    assert!(why.contains(&format!("lost: {}, which is protected", lost.display())), "{why}");
    assert!(why.contains(hint), "{why}");
    inside.ctl("rw workspace", 6);
    std::fs::create_dir(&lost).unwrap();
    settled(&mut inside);
    inside.act(["create", "src"]).ok();
    assert!(inside.ctl("why src", 0).contains("can be read and written"));
    inside.end().success();
}

/// A link in the place of a directory leads to where nothing is protected, and a file in the
/// place of a git directory to another: neither is taken for what was there.
#[test]
fn what_is_of_another_kind_is_not_taken_for_it() {
    let (sandbox, project) = world();
    sandbox.dir("project/evil");
    let mut inside = sandbox.remount().serve();
    // A request makes the broker look: from then on it knows what was there.
    settled(&mut inside);
    inside.act(["create", "evil/before"]).ok();
    std::os::unix::fs::symlink("evil", project.join("link")).unwrap();
    sandbox.file("project/pointer", "gitdir: evil\n");
    for (name, other) in [(".vscode", "link"), (".git", "link"), (".git", "pointer")] {
        sandbox.host_probe().probe(["rename-exchange", name, other]).ok();
        wait_until("the project is closed", LIMIT, || inside.act(["utime", "."]) == rofs());
        inside.act(["create", "evil/tasks.json"]).errno("EROFS");
        if other == "pointer" {
            inside.act(["append", ".git", "x"]).errno("EROFS");
        }
        assert!(inside.ctl("status", 0).contains("stale"), "{name}");
        sandbox.host_probe().probe(["rename-exchange", name, other]).ok();
        wait_until("the project is open", LIMIT, || inside.act(["utime", "."]) == done());
        settled(&mut inside);
    }
    // A file may be one of another kind than what stood in for it.
    std::fs::remove_dir(project.join(".mcp.json")).unwrap();
    std::fs::write(project.join(".mcp.json"), "{}").unwrap();
    protected(&mut inside, ".mcp.json");
    settled(&mut inside);
    assert_eq!(inside.act(["read", ".mcp.json"]).ok(), "{}");
    inside.end().success();
}

/// Starts, and acts on the host when all is mounted and the broker has looked at nothing yet.
fn before_the_first_look(sandbox: &Sandbox, act: impl FnOnce()) -> Inside {
    // What the launcher has to do outside waits for this, and init for that.
    let store = sandbox.dir(sandbox.state().join("remount/placeholders"));
    let lock = std::fs::File::open(store).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let running = sandbox.remount().start_serving();
    let parts = || running.init_and_broker();
    wait_until("both are there", LIMIT, || matches!(parts(), (Some(_), Some(_))));
    let (Some(init), Some(broker)) = parts() else { unreachable!("they wait") };
    let signal = |signal| kill_process(Pid::from_raw(broker).unwrap(), signal).unwrap();
    signal(Signal::STOP);
    drop(lock);
    // Its process waits for the broker's word.
    wait_until("all is mounted", LIMIT, || !children(init).is_empty());
    act();
    signal(Signal::CONT);
    Inside::new(running)
}

/// What belongs there is known from the plan, and not from a first look.
#[test]
fn what_is_of_another_kind_is_known_before_the_first_look() {
    let (sandbox, project) = world();
    sandbox.dir("project/evil");
    std::os::unix::fs::symlink("evil", project.join("link")).unwrap();
    sandbox.file("project/pointer", "gitdir: evil\n");
    for (name, other) in [(".vscode", "link"), (".envrc", "link"), (".git", "pointer")] {
        let exchange = || {
            sandbox.host_probe().probe(["rename-exchange", name, other]).ok();
        };
        let mut inside = before_the_first_look(&sandbox, exchange);
        wait_until("the project is closed", LIMIT, || inside.act(["utime", "."]) == rofs());
        inside.act(["create", "evil/tasks.json"]).errno("EROFS");
        assert!(inside.ctl("status", 0).contains("stale"), "{name}");
        exchange();
        wait_until("the project is open", LIMIT, || inside.act(["utime", "."]) == done());
        settled(&mut inside);
        held(&mut inside, name);
        inside.end().success();
    }
    // What is of the same kind is protected; a link that was one may be another.
    std::os::unix::fs::symlink("vscode", project.join(".idea")).unwrap();
    let mut inside = before_the_first_look(&sandbox, || {
        replace(&project.join(".envrc"), "new");
        std::fs::remove_file(project.join(".idea")).unwrap();
        std::os::unix::fs::symlink("evil", project.join(".idea")).unwrap();
    });
    protected(&mut inside, ".envrc");
    // The look that came to it may not have come to the other one.
    settled(&mut inside);
    held(&mut inside, ".idea");
    assert_eq!(inside.act(["read", ".envrc"]).ok(), "new");
    inside.end().success();
}

/// A placeholder that is cleaned away, as by `git clean -fd`, comes back after a moment,
/// and is gone at the end.
#[test]
fn a_placeholder_that_is_removed_is_made_again() {
    let (sandbox, project) = world();
    let mut inside = sandbox.remount().serve();
    for name in [".idea", ".mcp.json"] {
        std::fs::remove_dir(project.join(name)).unwrap();
    }
    std::fs::remove_file(project.join(".git/commondir")).unwrap();
    wait_until("they are back", LIMIT, || {
        [".idea", ".mcp.json", ".git/commondir"].iter().all(|name| project.join(name).exists())
    });
    for name in [".idea", ".mcp.json"] {
        // Until it is back, all around it is read-only.
        busy(&mut inside, ["rmdir", name]);
        inside.act(["create", &format!("{name}/x")]).errno("EROFS");
        held(&mut inside, name);
    }
    protected(&mut inside, ".git/commondir");
    wait_until("the project is open", LIMIT, || {
        matches!(inside.act(["create", "x"]), Answer::Ok(_))
    });
    inside.end().success();
    assert!(!project.join(".idea").exists() && !project.join(".git/commondir").exists());
}

/// In the mode that the target has now, not in that of the start.
#[test]
fn what_is_put_back_has_the_mode_of_now() {
    let (sandbox, project) = world();
    let mut inside = sandbox.remount().serve();
    sandbox.dir("outside/other");
    for mode in ["ro", "rw", "ro"] {
        inside.ctl(&format!("{mode} git"), 0);
        let (old, new) = (sandbox.outside().join("old"), sandbox.outside().join("new"));
        assert!(
            std::process::Command::new("cp")
                .arg("-a")
                .arg(project.join(".git"))
                .arg(&new)
                .status()
                .unwrap()
                .success()
        );
        std::fs::rename(project.join(".git"), &old).unwrap();
        std::fs::rename(&new, project.join(".git")).unwrap();
        protected(&mut inside, ".git/config");
        let expected = if mode == "ro" { rofs() } else { done() };
        // Leaves nothing: what was created in a moment before would exist for good.
        wait_until("the new one has its mode", LIMIT, || inside.act(["utime", ".git"]) == expected);
        assert!(
            inside
                .ctl("list", 0)
                .lines()
                .any(|line| line.starts_with("git") && line.contains(mode))
        );
        std::fs::remove_dir_all(&old).unwrap();
    }
    inside.end().success();
}

#[test]
fn masks_come_back_too() {
    let sandbox = Sandbox::new();
    let key = sandbox.file("home/.ssh/key", "secret");
    let alone = sandbox.file("home/.netrc", "secret");
    let mut inside = sandbox.remount().serve();
    assert_eq!(inside.act(["read", text(&alone)]).ok(), "");
    replace(&alone, "another secret");
    wait_until("the file is hidden", LIMIT, || inside.act(["read", text(&alone)]).ok().is_empty());
    std::fs::remove_dir_all(key.parent().unwrap()).unwrap();
    sandbox.file("home/.ssh/key", "another secret");
    wait_until("the directory is hidden", LIMIT, || {
        inside.act(["read", text(&key)]) == Answer::Errno("ENOENT".into())
    });
    assert_eq!(inside.act(["list", text(key.parent().unwrap())]).ok(), "");
    inside.end().success();
}

/// A dotfile manager moves what is hidden elsewhere and leaves links.
#[test]
fn masks_cover_links_too() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("home/.ssh");
    let file = sandbox.file("home/.netrc", "secret");
    let mut inside = sandbox.remount().serve();
    for path in [&dir, &file] {
        let other = sandbox.outside().join(path.file_name().unwrap());
        std::fs::rename(path, &other).unwrap();
        std::os::unix::fs::symlink(&other, path).unwrap();
        wait_until("it is hidden", LIMIT, || {
            inside.act(["readlink", text(path)]) == Answer::Errno("EINVAL".into())
        });
        assert_eq!(inside.act(["read", text(path)]).ok(), "");
        // And a directory is one again.
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir(path).unwrap();
        std::fs::write(path.join("key"), "secret").unwrap();
        wait_until("the directory is hidden", LIMIT, || {
            inside.act(["list", text(path)]) == Answer::Ok(String::new())
        });
    }
    settled(&mut inside);
    inside.end().success();
}

/// Whether all processes of the sandbox that a launcher made stand still, init too.
fn stands_still(launcher: i32) -> bool {
    let state = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    // Init has a child, the agent; the broker has none.
    let all = children(launcher).into_iter();
    let inits: Vec<_> = all.filter(|pid| !children(*pid).is_empty()).collect();
    inits.len() == 1 && state(inits[0]) && children(inits[0]).into_iter().all(state)
}

/// A file of the project is open for writing, so that it cannot be made read-only.
#[test]
fn where_what_holds_the_lost_is_busy_the_sandbox_stands_still() {
    let (sandbox, project) = world();
    sandbox.file("project/log", "");
    let mut inside = sandbox.remount().serve();
    let launcher = inside.running().pid();
    for round in 0..3 {
        let held = inside.act(["hold", "write", "log"]).ok();
        let away = sandbox.outside().join("away");
        std::fs::rename(project.join(".envrc"), &away).unwrap();
        wait_until("it stands still", LIMIT, || stands_still(launcher));
        let status = sandbox.ctl().option("status").run();
        assert!(status.success().stdout().contains("stale"), "{status}");
        inside.ask(["write", ".envrc", "mine"]);
        assert!(stands_still(launcher) && !project.join(".envrc").exists());
        std::fs::rename(&away, project.join(".envrc")).unwrap();
        // It goes on once that is protected again.
        assert_eq!(inside.answer(), rofs(), "{round}");
        wait_until("it is open", LIMIT, || matches!(inside.act(["utime", "."]), Answer::Ok(_)));
        assert!(!inside.ctl("status", 0).contains("stale"));
        inside.act(["close", &held]).ok();
    }
    // A placeholder is made again where nobody is there to use the moment.
    inside.act(["hold", "write", "log"]).ok();
    std::fs::remove_dir(project.join(".idea")).unwrap();
    wait_until("it is back", LIMIT, || project.join(".idea").exists());
    inside.act(["create", ".idea/x"]).errno("EROFS");
    inside.end().success();
    let log = sandbox.ctl().option("log").run();
    for event in ["sandbox-halted", "sandbox-resumed"] {
        assert!(log.success().stdout().contains(event), "{log}");
    }
    assert!(!project.join(".idea").exists());
}

/// What `status` says outside: inside nobody may be able to ask.
fn status(sandbox: &Sandbox) -> String {
    sandbox.ctl().option("status").run().success().stdout()
}

/// Somebody inside has a file open before the host renames it to where it is protected.
#[test]
fn what_was_opened_before_it_was_protected_is_not_trusted() {
    let (sandbox, project) = world();
    let mut inside = sandbox.remount().serve();
    let launcher = inside.running().pid();
    sandbox.file("project/new", "planted");
    let held = inside.act(["hold", "write", "new"]).ok();
    std::fs::rename(project.join("new"), project.join(".envrc")).unwrap();
    wait_until("it stands still", LIMIT, || stands_still(launcher));
    wait_until("it is said", LIMIT, || status(&sandbox).contains("changed: "));
    assert!(status(&sandbox).contains("stale"));
    inside.ask(["fd-write", &held, "late"]);
    assert!(stands_still(launcher));
    assert_eq!(std::fs::read_to_string(project.join(".envrc")).unwrap(), "planted");
    // Another file in its place: nobody has that open.
    replace(&project.join(".envrc"), "new");
    inside.answer().ok();
    settled(&mut inside);
    assert!(!status(&sandbox).contains("changed: "));
    assert_eq!(inside.act(["read", ".envrc"]).ok(), "new");
    inside.act(["open-write", ".envrc"]).errno("EROFS");
    // Who only reads, and who has another file open, is nobody to wait for.
    inside.act(["hold", "read", ".envrc"]).ok();
    replace(&project.join(".envrc"), "again");
    wait_until("it is there", LIMIT, || inside.act(["read", ".envrc"]).ok() == "again");
    settled(&mut inside);
    inside.end().success();
    let log = sandbox.ctl().option("log").run().success().stdout();
    assert_eq!(log.matches("changed-before").count(), 1, "{log}");
}

/// The same with another name, which somebody inside gives it.
#[test]
fn another_name_from_before_it_was_protected_is_not_trusted() {
    let (sandbox, project) = world();
    // This one has had two all the time.
    sandbox.file("project/store", "one");
    sandbox.file("project/.lefthook.yml", "one");
    let twice = |from: &str, to: &str| {
        let new = project.join("draft");
        std::fs::hard_link(project.join(from), &new).unwrap();
        std::fs::rename(&new, project.join(to)).unwrap();
    };
    twice("store", ".lefthook.yml");
    let mut inside = sandbox.remount().serve();
    settled(&mut inside);
    sandbox.file("project/other-store", "two");
    twice("other-store", ".lefthook.yml");
    protected(&mut inside, ".lefthook.yml");
    wait_until("it is there", LIMIT, || inside.act(["read", ".lefthook.yml"]).ok() == "two");
    settled(&mut inside);
    inside.act(["create", "more"]).ok();
    assert!(!status(&sandbox).contains("changed: "));

    sandbox.file("project/new", "one");
    inside.act(["link", "new", "name"]).ok();
    std::fs::rename(project.join("new"), project.join(".envrc")).unwrap();
    wait_until("it is said", LIMIT, || status(&sandbox).contains("changed: "));
    inside.act(["open-write", "name"]).errno("EROFS");
    assert!(status(&sandbox).contains(".envrc") && status(&sandbox).contains("stale"));
    std::fs::remove_file(project.join("name")).unwrap();
    settled(&mut inside);
    inside.act(["create", "still-more"]).ok();
    inside.act(["open-write", ".envrc"]).errno("EROFS");
    inside.end().success();
}

/// What the host moves away and back, with names and contents: of the placeholder nothing, of
/// the git directory what is protected in it.
fn moved(project: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let dirs = [".vscode", ".idea", ".git/hooks"].map(|name| project.join(name));
    let files = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).unwrap());
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Prints what an attack came to; answers how many changes there were of each of the originals
/// that were there all the time: the numbers of other files may be used again.
fn attacked(paths: &[&str], lasting: &[&str], report: &str) -> Vec<u64> {
    let (mut all, mut of_originals) = (Vec::new(), Vec::new());
    for (path, line) in paths.iter().zip(report.split(';')) {
        let mut fields = line.split(' ');
        let mut number = || fields.next().unwrap().parse::<u64>().unwrap();
        let (tries, changes, of_original) = (number(), number(), number());
        let times = fields.next().unwrap_or("").split(',');
        let mut times: Vec<u64> = times.filter_map(|time| time.parse().ok()).collect();
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or(0);
        let longest = times.last().copied().unwrap_or(0);
        println!(
            "{path}: {tries} tries, {changes} changes in {} moments, median {median} us, longest {longest} us",
            times.len()
        );
        all.extend(times);
        if lasting.contains(path) {
            println!("{path}: of these, {of_original} of what was moved away and back");
            of_originals.push(of_original);
        }
    }
    all.sort_unstable();
    if let Some(median) = all.get(all.len() / 2) {
        println!("median of all {median} us");
    }
    of_originals
}

/// For `$REMOUNT_ATTACK_SECONDS` (60 is the full test), else for a few, somebody inside
/// tries to change what is protected while programs outside replace, move and remove it.
/// What gets through is counted and printed; at the end everything is protected. In what is
/// moved away and back nothing ever changes: its mount goes along, and what is changed under its
/// name meanwhile is something else.
#[test]
fn an_attacker_gets_moments_and_nothing_lasts() {
    let seconds: u64 = std::env::var("REMOUNT_ATTACK_SECONDS")
        .map_or(3, |text| text.parse().expect("a number of seconds"));
    let (sandbox, project) = world();
    sandbox.file("project/.git/hooks/marker", "one");
    // In the git directory itself files may be created.
    let replaced = [".git/config", ".envrc", ".husky"];
    let moved_and_back = [".vscode", ".vscode/tasks.json", ".idea", ".git/hooks"];
    let paths = [replaced.as_slice(), &moved_and_back].concat();
    let words = ["attack".to_owned(), seconds.to_string()];
    let mut inside = sandbox.remount().timeout(Duration::from_secs(seconds) + 2 * LIMIT).serve();
    let mut attacker = sandbox
        .remount()
        .timeout(Duration::from_secs(seconds) + 2 * LIMIT)
        .arg(remount_tests::bin("probe"))
        .command(words.iter().map(String::as_str).chain(paths.iter().copied()))
        .start();
    assert_eq!(attacker.line(), "attacking");
    let before = moved(&project);
    let end = std::time::Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0;
    while std::time::Instant::now() < end {
        rounds += 1;
        let set = ["config", "test.key", &rounds.to_string()];
        sandbox.host(require("git")).command(set).run().success();
        replace(&project.join(".envrc"), "replaced");
        for name in [".vscode", ".idea", ".git"] {
            let away = sandbox.outside().join("away");
            std::fs::rename(project.join(name), &away).unwrap();
            // Now and then long enough for somebody inside to notice.
            std::thread::sleep(Duration::from_millis(rounds % 2));
            // Somebody inside may have made one meanwhile, and put something in it.
            while std::fs::rename(&away, project.join(name)).is_err() {
                let _ = std::fs::remove_dir_all(project.join(name));
            }
        }
        assert_eq!(moved(&project), before, "round {rounds}");
        let _ = std::fs::remove_dir_all(project.join(".husky"));
        let _ = std::fs::create_dir(project.join(".husky"));
        std::thread::sleep(Duration::from_millis(3));
    }
    println!("{rounds} rounds outside, each of them all acts");
    let outcome = attacker.wait();
    let stdout = outcome.success().stdout();
    let of_originals =
        attacked(&paths, &moved_and_back, stdout.trim().rsplit_once("ok ").expect("an answer").1);
    assert_eq!(of_originals, [0; 4]);
    for path in [".git/config", ".envrc"] {
        protected(&mut inside, path);
    }
    for path in [".vscode", ".idea", ".husky", ".git/hooks"] {
        wait_until(path, LIMIT, || inside.act(["utime", path]) == rofs());
        busy(&mut inside, ["rename", path, &format!("{path}.elsewhere")]);
        inside.act(["create", &format!("{path}/x")]).errno("EROFS");
    }
    held(&mut inside, ".git");
    inside.end().success();
}

/// Neither in a repository that was made again while the sandbox ran, nor in a project that
/// took the place of the one that was given.
#[test]
fn nothing_is_left_in_a_directory_that_took_the_place_of_another() {
    let (sandbox, project) = world();
    let inside = sandbox.remount().serve();
    remove_repository(&project);
    sandbox.host(require("git")).command(["init", "-q"]).run().success();
    wait_until("they are made again", LIMIT, || project.join(".git/commondir").exists());
    inside.end().success();
    for name in [".git/commondir", ".git/modules", ".vscode/settings.json", ".idea"] {
        assert!(!project.join(name).exists(), "{name}");
    }
    let inside = sandbox.remount().serve();
    let away = sandbox.root().join("away");
    std::fs::rename(&project, &away).unwrap();
    std::fs::create_dir(&project).unwrap();
    let of_new = || std::fs::read_dir(&project).unwrap().count();
    // Longer than what is missing is waited for.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(of_new(), 0);
    inside.end();
    assert_eq!(of_new(), 0);
    std::fs::remove_dir(&project).unwrap();
    std::fs::rename(&away, &project).unwrap();
    assert!(!project.join(".idea").exists());
}
