//! `[[overlay]]` and `[[tmp-overlay]]`: directories of the host that can be written to and
//! do not change.

use remount_tests::{Cmd, Inside, Sandbox, Snapshot};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

struct World(Sandbox);

impl World {
    fn new(overlay: &str) -> World {
        let sandbox = Sandbox::new();
        sandbox.file("home/lib/both", "low\n");
        sandbox.file("home/lib/sub/gone", "low\n");
        let text = format!("extends = ['default']\n{overlay}");
        sandbox.file("home/.config/remount/profiles/own.toml", text);
        World(sandbox)
    }

    fn run(&self) -> Cmd {
        self.0.remount().option("--profile").option("own").timeout(Duration::from_secs(100))
    }

    fn inside(&self) -> Inside {
        self.run().serve()
    }

    fn lib(&self) -> PathBuf {
        self.0.home().join("lib")
    }

    fn script(&self, script: &str) -> String {
        let outcome = self.run().sh(script).run();
        assert_eq!(outcome.success().stderr(), "", "{outcome}");
        outcome.stdout()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Overlayfs leaves a directory that its owner may not look into.
        let work = self.0.root().join("changes/work").join("work");
        if work.exists() {
            let open = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(work, open).expect("open a directory");
        }
    }
}

const WRITE: &str = "cd ~/lib && echo new >both && echo new >made && rm -r sub && ls && cat both";

#[test]
fn what_is_written_is_thrown_away() {
    let world = World::new("[[tmp-overlay]]\npath = '~/lib'\n");
    let before = Snapshot::of(world.lib());
    for _ in 0..2 {
        assert_eq!(world.script(WRITE), "both\nmade\nnew\n");
        before.unchanged(world.lib());
    }
}

#[test]
fn what_is_written_is_kept_apart() {
    let world = World::new("[[overlay]]\npath = '~/lib'\nchanges = '~/../changes'\n");
    // `..` is no path of a profile's.
    let outcome = world.run().arg("true").run();
    assert_eq!(outcome.code(), Some(125), "{outcome}");
    let world = World::new("[[overlay]]\npath = '~/lib'\nchanges = '~/changes'\n");
    let before = Snapshot::of(world.lib());
    assert_eq!(world.script(WRITE), "both\nmade\nnew\n");
    before.unchanged(world.lib());
    let changes = world.0.home().join("changes");
    let kept = std::fs::read_to_string(changes.join("upper/made")).expect("what was written");
    assert_eq!(kept, "new\n");
    // The next one finds it, and what the host changes is seen through it.
    world.0.file("home/lib/later", "low\n");
    assert_eq!(world.script("cd ~/lib && ls && cat both"), "both\nlater\nmade\nnew\n");
    // Inside, it is changed through the overlay only.
    let mut inside = world.inside();
    inside.act(["create", changes.join("upper/x").to_str().expect("UTF-8")]).errno("EROFS");
    inside.act(["create", world.lib().join("x").to_str().expect("UTF-8")]).ok();
    // Two at a time may not.
    let second = world.run().arg("true").run();
    second.exits(125).says("another sandbox has it").says("hint: ");
    inside.end();
    assert!(changes.join("upper/x").exists() && !world.lib().join("x").exists());
    world.run().arg("true").run().success();
    let open = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(changes.join("work/work"), open).expect("open a directory");
}

#[test]
fn it_can_be_shown_elsewhere_and_taken_back() {
    let world = World::new(
        "[[tmp-overlay]]\npath = '~/lib'\ndest = '/tmp/lib'\n[[tmp-overlay]]\npath = '~/lib'\n",
    );
    let both = "echo x >/tmp/lib/made; cat /tmp/lib/both; ls /tmp/lib ~/lib | grep -c made";
    assert_eq!(world.script(both), "low\n1\n");
    let text = "extends = ['own']\n[remove]\noverlay = ['/tmp/lib']\n";
    world.0.file("home/.config/remount/profiles/less.toml", text);
    let run = world.0.remount().option("--profile").option("less").sh("ls /tmp/lib").run();
    assert_ne!(run.code(), Some(0), "{run}");
    let plan = world.run().option("--dry-run=json").arg("true").run().success().stdout();
    assert!(plan.contains("overlay"), "{plan}");
}

#[test]
fn what_cannot_be_is_said() {
    for (overlay, said) in [
        ("[[overlay]]\npath = '~/lib'\n", "changes"),
        ("[[overlay]]\npath = '~/lib'\nchanges = '{workspace}/c'\n", "shown writable"),
        ("[[overlay]]\npath = '~/lib'\nchanges = '~/lib/c'\n", "lie in each other"),
        (
            "[[overlay]]\npath = '~/lib'\nchanges = '~/c'\n\
             [[overlay]]\npath = '~/lib'\ndest = '/tmp/b'\nchanges = '~/c'\n",
            "another overlay keeps its changes there",
        ),
        ("[[tmp-overlay]]\npath = '~/lib/both'\n", "not a directory"),
        ("[[tmp-overlay]]\npath = '~/none'\n", "no such file or directory"),
        ("[[tmp-overlay]]\npath = '~/lib'\ndest = '/opt/none'\n", "/opt/none"),
    ] {
        let world = World::new(overlay);
        let outcome = world.run().arg("true").run();
        assert_eq!(outcome.code(), Some(125), "{overlay}: {outcome}");
        assert!(outcome.stderr().to_lowercase().contains(said), "{overlay}: {outcome}");
        assert!(!world.0.project().join("c").exists());
    }
}
