//! Codex and sandbox-runtime, unmodified, which run `bwrap` for each command: with our
//! program under that name they give what they give with Debian's.

use remount_tests::agent::LONG;
use remount_tests::{Outcome, PATH, Sandbox, bin, require};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// What a command inside sees, and what it can do.
const LOOK: &str = "id -u; pwd; grep -E 'NoNewPrivs|Seccomp:|CapEff|CapBnd' /proc/self/status; \
                    ls /dev | sort; cat /proc/self/uid_map; ls /proc/self/fd | sort; echo made >made; \
                    cat made; touch /etc/made; echo x >.git/config; cat /proc/net/dev | wc -l; exit 7";

/// Where `scripts/agents` put them.
fn installed(command: &str) -> PathBuf {
    let dir = std::env::var_os("REMOUNT_AGENTS")
        .expect("REMOUNT_AGENTS is not set: scripts/test does it, or run scripts/agents DIRECTORY");
    PathBuf::from(dir).join("node_modules/.bin").join(command)
}

/// A project, and three programs of the name `bwrap`, each in a directory of its own.
struct World {
    sandbox: Sandbox,
    theirs: PathBuf,
    ours: PathBuf,
    /// Ours, with a note that it was called.
    noted: PathBuf,
}

impl World {
    fn new() -> Self {
        let sandbox = Sandbox::git();
        let dir = |name: &str| sandbox.dir(name);
        let (theirs, ours, noted) = (dir("theirs"), dir("ours"), dir("noted"));
        symlink(require("bwrap"), theirs.join("bwrap")).expect("link bwrap");
        symlink(bin("remount-run"), ours.join("bwrap")).expect("link bwrap");
        let script = format!(
            "#!/bin/bash\necho called >>{}/calls\nexec -a bwrap {} \"$@\"\n",
            sandbox.root().display(),
            bin("remount-run").display()
        );
        let file = sandbox.file("noted/bwrap", script);
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(file, executable).expect("make it executable");
        let settings = r#"{"network": {"allowedDomains": [], "deniedDomains": []},
            "filesystem": {"denyRead": [], "allowWrite": ["."], "denyWrite": []}}"#;
        sandbox.file("home/.srt-settings.json", settings);
        World { sandbox, theirs, ours, noted }
    }

    fn run(&self, name: &Path, command: &[&str]) -> Outcome {
        let program = installed(command[0]);
        let path = format!("{}:{PATH}", name.display());
        let run = self.sandbox.host(program).env("PATH", path);
        let outcome = run.command(&command[1..]).timeout(LONG).run();
        let made = self.sandbox.project().join("made");
        if made.exists() {
            std::fs::remove_file(made).expect("remove what was made");
        }
        outcome
    }

    #[track_caller]
    fn same(&self, command: &[&str]) {
        let theirs = self.run(&self.theirs, command);
        let ours = self.run(&self.ours, command);
        assert_eq!(ours.code(), Some(7), "{ours}");
        assert!(ours.stdout().contains("made\n"), "{ours}");
        assert!(ours.stderr().contains("/etc/made"), "{ours}");
        assert_eq!(ours.code(), theirs.code(), "{theirs}");
        assert_eq!(ours.stdout(), theirs.stdout());
        assert_eq!(ours.stderr(), theirs.stderr());
        // And it is ours that they run.
        self.run(&self.noted, command).exits(7);
        let calls = self.sandbox.root().join("calls");
        assert!(calls.exists(), "{} does not run bwrap", command[0]);
    }
}

#[test]
fn heavy_codex_runs_commands_on_ours_as_on_debians() {
    let mode = "sandbox_mode=\"workspace-write\"";
    World::new().same(&["codex", "sandbox", "-c", mode, "--", "sh", "-c", LOOK]);
}

#[test]
fn heavy_sandbox_runtime_runs_commands_on_ours_as_on_debians() {
    World::new().same(&["srt", "-c", LOOK]);
}

/// What `remountctl ro --path` says of the project is so for the next command.
#[track_caller]
fn holds_the_next_command(command: &[&str]) {
    let world = World::new();
    let wrote = world.run(&world.ours, command);
    assert_eq!((wrote.code(), wrote.stdout().trim()), (Some(0), "made"), "{wrote}");
    let hold = world.sandbox.ctl().arg("ro").arg("--path").arg(world.sandbox.project()).run();
    assert!(hold.stdout().contains("held read-only"), "{hold}");
    let held = world.run(&world.ours, command);
    assert_ne!(held.code(), Some(0), "{held}");
    assert!(held.stderr().contains("Read-only file system"), "{held}");
    world.sandbox.ctl().arg("rw").arg("--path").arg(world.sandbox.project()).run().success();
    assert_eq!(world.run(&world.ours, command).code(), Some(0));
}

#[test]
fn heavy_what_is_held_codex_cannot_write() {
    let mode = "sandbox_mode=\"workspace-write\"";
    let write = "echo made >made && cat made";
    holds_the_next_command(&["codex", "sandbox", "-c", mode, "--", "sh", "-c", write]);
}

#[test]
fn heavy_what_is_held_sandbox_runtime_cannot_write() {
    holds_the_next_command(&["srt", "-c", "echo made >made && cat made"]);
}

#[test]
fn heavy_what_runs_in_sandbox_runtime_stops_writing() {
    let world = World::new();
    let path = format!("{}:{PATH}", world.ours.display());
    let inside = "echo ready; while read -r line; do if echo x >made; then echo wrote; else echo refused; fi; done";
    let run = world.sandbox.host(installed("srt")).env("PATH", path).arg("-c").arg(inside);
    let mut running = run.timeout(LONG).start_interactive();
    running.line_with("ready");
    let project = world.sandbox.project();
    for (mode, said, answer) in [
        ("rw", "no longer held", "wrote"),
        ("ro", "held read-only", "refused"),
        ("rw", "no longer held", "wrote"),
    ] {
        let outcome = world.sandbox.ctl().arg(mode).arg("--path").arg(&project).run();
        assert!(outcome.stdout().contains(said), "{outcome}");
        running.send("again\n");
        running.line_with(answer);
    }
    running.close_stdin();
    running.wait();
}
