//! The real programs, each under its own profile, chosen by its name.

use remount_tests::agent::LONG;
use remount_tests::{Cmd, PATH, Sandbox, Snapshot, agents};

/// A real agent: its command, its package, the word of its `--version` that is the
/// version, and what its profile may make in the home directory.
struct Agent {
    command: &'static str,
    package: &'static str,
    word: usize,
    state: &'static [&'static str],
}

/// Qwen Code does not start for a user without a name: `agents.rs` runs it.
const AGENTS: [Agent; 5] = [
    Agent { command: "codex", package: "@openai/codex", word: 1, state: &[".codex"] },
    Agent { command: "claude", package: "@anthropic-ai/claude-code", word: 0, state: &[".claude"] },
    Agent { command: "gemini", package: "@google/gemini-cli", word: 0, state: &[".gemini"] },
    Agent {
        command: "opencode",
        package: "opencode-ai",
        word: 0,
        state: &[".config/opencode", ".local/share/opencode", ".local/state/opencode"],
    },
    Agent {
        command: "amp",
        package: "@sourcegraph/amp",
        word: 0,
        state: &[".config/amp", ".local/share/amp", ".local/state/amp"],
    },
];

impl Agent {
    /// The version that was installed.
    fn pinned(&self) -> String {
        let file = agents().join("..").join(self.package).join("package.json");
        let text = std::fs::read(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let package: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        package["version"].as_str().expect("a version").to_owned()
    }

    fn version(&self, run: Cmd) -> String {
        let path = format!("{}:{PATH}", agents().display());
        let outcome = run.env("PATH", path).timeout(LONG).run();
        let stdout = outcome.success().stdout();
        assert_eq!(outcome.stderr(), "", "{outcome}");
        stdout.trim().to_owned()
    }
}

#[track_caller]
fn prints_its_version(command: &str) {
    let agent = AGENTS.iter().find(|agent| agent.command == command).expect("an agent");
    let elsewhere = Sandbox::git();
    // Their state is where it is if nobody says anything.
    let usual = |run: Cmd| run.unset("XDG_STATE_HOME");
    let program = agents().join(command);
    let outside = agent.version(usual(elsewhere.host(program)).arg("--version"));
    assert_eq!(outside.split(' ').nth(agent.word), Some(&*agent.pinned()), "{outside}");

    let sandbox = Sandbox::git();
    let project = Snapshot::of(sandbox.project());
    let home = Snapshot::of(sandbox.home());
    // Twice: in a fresh home, and in the one that the first start left.
    for _ in 0..2 {
        let inside = agent.version(usual(sandbox.remount()).arg(command).arg("--version"));
        assert_eq!(inside, outside);
    }
    project.unchanged(sandbox.project());
    let later = Snapshot::of(sandbox.home());
    for difference in home.differences(&later) {
        let (path, _) = difference.split_once(':').expect("a path");
        let records = ".local/state/remount";
        let its_own = agent.state.iter().chain([&records]).any(|state| {
            // The directories on the way may be new as well.
            path.starts_with(state) || state.starts_with(&format!("{path}/"))
        });
        // The home directory itself: one link more.
        assert!(its_own || path.is_empty(), "not {command}'s to make: {difference}");
    }
    for state in agent.state {
        assert!(sandbox.home().join(state).is_dir(), "{state} is missing");
    }
    // That the profile was chosen by the name is what the plan says.
    let run = sandbox.remount().option("--dry-run=json").arg(command);
    let path = format!("{}:{PATH}", agents().display());
    let outcome = run.env("PATH", path).run();
    let plan: serde_json::Value = serde_json::from_str(&outcome.success().stdout()).expect("JSON");
    let profiles = plan["profiles"].as_array().expect("a list");
    assert_eq!(
        profiles.last().and_then(|name| name.as_str()),
        Some(&*format!("built-in {command}"))
    );
}

#[test]
fn heavy_codex_prints_its_version() {
    prints_its_version("codex");
}

#[test]
fn heavy_claude_prints_its_version() {
    prints_its_version("claude");
}

#[test]
fn heavy_gemini_prints_its_version() {
    prints_its_version("gemini");
}

#[test]
fn heavy_amp_prints_its_version() {
    prints_its_version("amp");
}

#[test]
fn heavy_opencode_prints_its_version() {
    prints_its_version("opencode");
}
