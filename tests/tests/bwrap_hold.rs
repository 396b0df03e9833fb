//! `remountctl ro --path`: a directory held read-only in sandboxes made under the name
//! `bwrap`, in those that run and in those that start later.

use remount_tests::{Cmd, Outcome, PATH, Running, Sandbox, bin, require};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

struct World(Sandbox);

impl World {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        symlink(bin("remount-run"), sandbox.dir("bin").join("bwrap")).expect("link bwrap");
        sandbox.dir("project/sub");
        sandbox.dir("outside/work");
        World(sandbox)
    }

    fn script(&self, script: &str) -> Cmd {
        let path = format!("{}:{PATH}", self.0.root().join("bin").display());
        let ours = self.0.host(require("bash")).env("PATH", path);
        ours.env("P", self.0.project()).env("O", self.0.outside()).arg("-c").arg(script)
    }

    fn run(&self, script: &str) -> Outcome {
        self.script(script).run()
    }

    #[track_caller]
    fn writes(&self, script: &str) {
        self.run(script).success();
    }

    #[track_caller]
    fn is_refused(&self, script: &str) {
        let outcome = self.run(script);
        assert_ne!(outcome.code(), Some(0), "{script}");
        assert!(outcome.stderr().contains("Read-only file system"), "{script}: {outcome}");
    }

    fn ctl(&self, words: &[&str]) -> Outcome {
        self.0.ctl().command(words).arg(self.0.project()).run()
    }

    fn store(&self) -> PathBuf {
        self.0.state().join("remount/held")
    }

    /// Holds the project. What other tests run at the same time may show all of the host
    /// writable, which is told.
    #[track_caller]
    fn hold(&self) {
        let outcome = self.ctl(&["ro", "--path"]);
        assert!(outcome.stdout().contains("held read-only"), "{outcome}");
        let other = outcome.stderr().lines().all(|line| {
            line.contains("writable as a whole") || line.starts_with("hint: end the process")
        });
        assert!(other, "{outcome}");
    }

    /// A sandbox that stays; it answers each line with whether it could write.
    fn stays(&self, name: &str) -> Running {
        let inside = "cd $P/sub; echo ready; while read -r line; do if echo x >written; then echo wrote; \
                      else echo refused; fi; done";
        let words = format!("exec {name} --ro-bind / / --dev /dev --bind $P $P sh -c '{inside}'");
        let mut running = self.script(&words).start_interactive();
        running.line_with("ready");
        running
    }
}

#[track_caller]
fn asks(running: &mut Running, answer: &str) {
    running.send("again\n");
    assert_eq!(running.line_with(answer).trim(), answer);
}

/// All ways to show the project writable.
const WAYS: [&str; 6] = [
    "bwrap --ro-bind / / --bind $P $P touch $P/new",
    "bwrap --ro-bind / / --bind $P/sub $P/sub touch $P/sub/new",
    "bwrap --ro-bind / / --dev-bind $P /mnt touch /mnt/new",
    "bwrap --bind / / touch $P/new",
    "bwrap --dev-bind / / --unshare-user --unshare-pid touch $P/sub/new",
    "bwrap --ro-bind / / --bind-fd 5 /mnt touch /mnt/new 5<$P",
];

#[test]
fn what_starts_later_cannot_write() {
    let world = World::new();
    for way in WAYS {
        world.writes(way);
    }
    world.hold();
    for way in WAYS {
        world.is_refused(way);
        world.writes(&way.replace("$P", "$O").replace("/sub", "/work"));
    }
    // Nor below an overlay, nor what is written down.
    let overlay = "bwrap --ro-bind / / --overlay-src $O --overlay $P $O/work /mnt true";
    world.run(overlay).exits(1).says("held read-only");
    world.is_refused("bwrap --bind / / rm -f $XDG_STATE_HOME/remount/held");
    // The parents may be moved; it stays closed.
    world.is_refused(
        "bwrap --bind / / sh -c 'mv $P/.. $P/../../moved-$$ 2>/dev/null; echo x >$P/new'",
    );
    let shown = world.0.ctl().arg("ps").run().stdout();
    assert!(shown.contains(&format!("held read-only: {}", world.0.project().display())), "{shown}");
    world.ctl(&["rw", "--path"]).success();
    for way in WAYS {
        world.writes(way);
    }
}

#[test]
fn what_runs_stops_writing_and_may_again() {
    let world = World::new();
    // Debian's as well.
    let theirs = require("bwrap").display().to_string();
    let mut all = [world.stays("bwrap"), world.stays(&theirs)];
    for running in &mut all {
        asks(running, "wrote");
    }
    world.hold();
    for running in &mut all {
        asks(running, "refused");
    }
    let mut later = world.stays("bwrap");
    asks(&mut later, "refused");
    world.ctl(&["rw", "--path"]).success();
    for running in &mut all {
        asks(running, "wrote");
    }
    // It was made without: what starts after it has it again.
    asks(&mut later, "refused");
    for mut running in all.into_iter().chain([later]) {
        running.close_stdin();
        running.wait();
    }
}

#[test]
fn a_busy_sandbox_is_told_and_what_is_later_is_closed() {
    let world = World::new();
    let words = "exec bwrap --ro-bind / / --bind $P $P sh -c 'exec 7>$P/open; echo ready; read -r line; \
                 exec 7>&-; echo closed; read -r line'";
    let mut running = world.script(words).start_interactive();
    running.line_with("ready");
    world.ctl(&["ro", "--path"]).says("open for writing");
    world.is_refused(WAYS[0]);
    running.send("close\n");
    running.line_with("closed");
    world.hold();
    running.close_stdin();
    running.wait();
}

#[test]
fn what_is_writable_as_a_whole_is_told() {
    let world = World::new();
    let mut running = world
        .script("exec bwrap --dev-bind / / sh -c 'echo ready; read -r line'")
        .start_interactive();
    running.line_with("ready");
    world.ctl(&["ro", "--path"]).says("writable as a whole");
    running.close_stdin();
    running.wait();
    world.hold();
}

#[test]
fn an_unreadable_store_starts_nothing() {
    let world = World::new();
    world.hold();
    let store = world.store();
    let whole = std::fs::read(&store).expect("the store");
    let start = "bwrap --ro-bind / / true";
    world.writes(start);
    std::fs::write(&store, &whole[..whole.len() - 1]).expect("damage it");
    world.run(start).exits(1).says("Can't read which directories are held read-only");
    std::fs::write(&store, &whole).expect("mend it");
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(&store, mode(0o666)).expect("open it to others");
    world.run(start).exits(1).says("Operation not permitted");
    std::fs::set_permissions(&store, mode(0o600)).expect("close it");
    world.writes(start);
    std::fs::remove_file(&store).expect("remove it");
    std::fs::create_dir(&store).expect("put something else there");
    world.run(start).exits(1);
}

/// Sandboxes of `remount-run` itself.
#[test]
fn what_is_held_a_profile_does_not_show_writable() {
    let world = World::new();
    let write = |name: &str| world.0.remount().command(["touch", name]).run();
    write("new").success();
    let mut before = world.0.remount().serve();
    world.hold();
    // One that runs is closed, and cannot be opened from inside.
    before.act(["create", "x"]).errno("EROFS");
    assert!(before.ctl("rw workspace", 5).contains("is held read-only"));
    before.act(["create", "x"]).errno("EROFS");
    // One that starts begins so.
    write("newer").exits(1).says("Read-only file system");
    let mut after = world.0.remount().serve();
    after.act(["create", "x"]).errno("EROFS");
    assert!(after.ctl("rw --all", 5).contains("is held read-only"));
    after.act(["create", "x"]).errno("EROFS");
    let outside = world.0.ctl().command(["rw", "workspace", "-s"]).arg(world.0.project()).run();
    assert_ne!(outside.code(), Some(0), "{outside}");
    let plan = world.0.remount().option("--dry-run").arg("true").run();
    assert!(plan.success().stdout().contains("workspace"), "{plan}");
    world.ctl(&["rw", "--path"]).success();
    for inside in [&mut before, &mut after] {
        inside.ctl("rw workspace", 0);
        inside.act(["create", "x"]).ok();
        inside.act(["unlink", "x"]).ok();
    }
    before.end();
    after.end();
    write("newest").success();
}

#[test]
fn what_is_held_in_a_project_stays_read_only_there() {
    let world = World::new();
    let hold = |mode: &str| {
        let dir = world.0.project().join("sub");
        world.0.ctl().command([mode, "--path"]).arg(dir).run()
    };
    assert!(hold("ro").stdout().contains("held read-only"));
    let mut inside = world.0.remount().serve();
    inside.act(["create", "new"]).ok();
    inside.act(["create", "sub/new"]).errno("EROFS");
    inside.act(["rename", "sub", "moved"]).errno("EBUSY");
    // Of the project itself nothing is held.
    inside.ctl("ro workspace", 0);
    inside.ctl("rw workspace", 0);
    inside.act(["create", "other"]).ok();
    inside.act(["create", "sub/new"]).errno("EROFS");
    assert!(hold("rw").stdout().contains("no longer held"));
    inside.act(["create", "sub/new"]).errno("EROFS");
    inside.end();
    let mut later = world.0.remount().serve();
    later.act(["create", "sub/new"]).ok();
    later.end();
}

#[test]
fn an_unreadable_store_starts_no_profile_either() {
    let world = World::new();
    world.hold();
    std::fs::write(world.store(), "odd").expect("damage it");
    let start = || world.0.remount().arg("true").run();
    start().exits(125).says("read what is held read-only").says("hint: mend or remove");
    std::fs::remove_file(world.store()).expect("remove it");
    start().success();
}
