//! Codex and sandbox-runtime, unmodified, which run `bwrap` for each command: with our
//! program under that name they give what they give with Debian's.

use remount_tests::agent::LONG;
use remount_tests::model::{Model, Step, call, say};
use remount_tests::{Cmd, Outcome, PATH, Sandbox, bin, require, wait_until};
use serde_json::json;
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

    fn command(&self, name: &Path, command: &[&str]) -> Cmd {
        let path = format!("{}:{PATH}", name.display());
        let run = self.sandbox.host(installed(command[0])).env("PATH", path);
        // Sockets of theirs are named by process id and stay there if they are killed: in a
        // directory that all share, the next process of that number cannot have its own.
        let run = run.env("TMPDIR", self.sandbox.dir("tmp"));
        run.command(&command[1..]).timeout(LONG)
    }

    fn run(&self, name: &Path, command: &[&str]) -> Outcome {
        let outcome = self.command(name, command).run();
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
    let inside = "echo ready; while read -r line; do if echo x >made; then echo wrote; else echo refused; fi; done";
    let mut running = world.command(&world.ours, &["srt", "-c", inside]).start_interactive();
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

/// A whole conversation of Codex, with a model that plays a script. Each of its commands
/// runs in a sandbox of `bwrap`'s.
const EXEC: [&str; 5] =
    ["codex", "exec", "-c", "sandbox_mode=\"workspace-write\"", "SCRIPT:main go"];

impl World {
    /// Tells Codex where its model is.
    fn model(&self, steps: Vec<Step>) -> Model {
        let model = Model::start();
        let config = format!(
            "model = \"gpt-5.5\"\nmodel_provider = \"script\"\napproval_policy = \"never\"\n\
             [model_providers.script]\nname = \"script\"\nbase_url = \"{}/v1\"\n\
             wire_api = \"responses\"\n[projects.{:?}]\ntrust_level = \"trusted\"\n",
            model.url(),
            self.sandbox.project()
        );
        self.sandbox.file("home/.codex/config.toml", config);
        model.script("main", steps);
        model
    }

    /// What the commands of such a conversation printed.
    #[track_caller]
    fn converses(&self, name: &Path, steps: Vec<Step>) -> Vec<String> {
        let model = self.model(steps);
        let outcome = self.command(name, &EXEC).run();
        self.sandbox.file("project/README", "a project\n");
        assert!(outcome.success().stdout().contains("the very last word"), "{outcome}");
        model.results("main").iter().map(|result| printed(result)).collect()
    }

    fn hold(&self, mode: &str) {
        let hold = self.sandbox.ctl().arg(mode).arg("--path").arg(self.sandbox.project());
        let outcome = hold.timeout(LONG).run();
        assert!(outcome.stdout().contains("held"), "{outcome}");
    }
}

fn shell(script: &str) -> Step {
    call("exec_command", json!({ "cmd": script, "yield_time_ms": 120_000 }))
}

/// What a command printed, of what Codex told the model: its time is another each time.
#[track_caller]
fn printed(result: &str) -> String {
    let result: serde_json::Value = serde_json::from_str(result).expect("JSON");
    let text =
        result["output"].as_str().map_or_else(|| result["output"].to_string(), str::to_owned);
    let (head, output) = text.split_once("Output:\n").unwrap_or(("", &text));
    let code = head.lines().find(|line| line.contains("exited")).unwrap_or("");
    format!("{code}\n{output}")
}

#[test]
fn heavy_a_whole_conversation_of_codex_is_the_same_on_ours() {
    let world = World::new();
    let steps = || {
        let work = "echo two >>README && git diff --stat && python3 -c 'print(6 * 7)'";
        // What goes to two pipes arrives in any order.
        let look = format!("exec 2>&1; {LOOK}");
        vec![shell(work), shell(&look), shell("rm made; ls"), say("the very last word")]
    };
    let theirs = world.converses(&world.theirs, steps());
    let ours = world.converses(&world.ours, steps());
    assert_eq!(ours.len(), 3, "{ours:#?}");
    assert!(ours[0].contains("1 insertion") && ours[0].contains("42"), "{ours:#?}");
    assert!(ours[1].contains("made\n") && ours[1].contains("/etc/made"), "{ours:#?}");
    assert_eq!(ours, theirs);
    world.converses(&world.noted, steps());
    assert!(world.sandbox.root().join("calls").exists(), "codex exec does not run bwrap");
}

#[test]
fn heavy_what_runs_in_codex_stops_writing_and_the_next_command_cannot() {
    let world = World::new();
    let project = world.sandbox.project();
    // It writes until it cannot, or until it is told that all has been tried.
    let write = "echo x >running; while test ! -e /proc/self/none; do echo x >log || break; sleep 0.05; done; \
                 echo stopped";
    let steps = vec![shell(write), shell("echo y >next"), say("the very last word")];
    let model = world.model(steps);
    let running = world.command(&world.ours, &EXEC).start();
    wait_until("Codex's command writes", LONG, || project.join("log").exists());
    world.hold("ro");
    let outcome = running.wait();
    assert!(outcome.success().stdout().contains("the very last word"), "{outcome}");
    let results = model.results("main");
    let shown = format!("{outcome}\n{results:#?}");
    assert_eq!(results.len(), 2, "{shown}");
    assert!(results[0].contains("stopped") && results[0].contains("Read-only"), "{shown}");
    assert!(results[1].contains("Read-only file system"), "{shown}");
    assert!(!project.join("next").exists(), "{shown}");
    drop(model);
    world.hold("rw");
    let again = vec![shell("echo y >next && cat next"), say("the very last word")];
    let results = world.converses(&world.ours, again);
    assert!(results[0].ends_with("y\n"), "{results:?}");
}
