//! Agents on a screen, used with keys: they draw, follow its size, can be interrupted,
//! stopped and continued, and plan.

use remount_tests::agent::{LONG, Tools, World};
use remount_tests::model::{Model, say};
use remount_tests::{Snapshot, Tmux, wait_until};

/// A shell outside, in which the agent runs in its sandbox, as at home.
fn on_a_screen<'a>(world: &'a World, model: &Model, arguments: &[&str]) -> Tmux<'a> {
    let run = world.start(model).command(arguments);
    let words: Vec<_> =
        run.words().iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let quoted = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    world.sandbox.file("home/.shrc", format!("PS1='outside> '\nagent() {{ {quoted}; }}\n"));
    let rc = world.sandbox.home().join(".shrc");
    let rc = rc.to_str().expect("UTF-8");
    Tmux::start(&world.sandbox, run.instead("/bin/bash", &["--rcfile", rc, "-i"]))
}

/// Whether the last line of Claude Code, or of Codex, says that it plans.
fn is_planning(screen: &str) -> bool {
    screen.contains("plan mode on") || screen.contains("Plan mode (shift+tab")
}

#[track_caller]
fn can_be_used_with_keys(agent: &'static str, ready: &str, arguments: &[&str]) {
    let model = Model::start();
    let world = World::new(agent, &model);
    let project = world.sandbox.project();
    let tools = Tools { agent, project: &project };
    model.script(
        "main",
        [
            tools.shell("echo one >before"),
            say("work is done"),
            tools.shell("echo two >planned; cat before"),
            say("planning is done"),
            tools.shell("echo three >after"),
            say("all is done"),
            tools.shell("touch begun; sleep 60"),
        ],
    );
    let screen = on_a_screen(&world, &model, arguments);
    screen.expect("outside>");
    screen.press(["agent", "Enter"]);
    screen.expect(ready);
    screen.enter("SCRIPT:main go");
    screen.expect("work is done");
    assert!(project.join("before").exists());
    // Stopped, the shell outside has the terminal; continued, the agent draws again.
    screen.press(["C-z"]);
    screen.wait("stopped", |shown| shown.contains("Stopped"));
    screen.press(["clear; fg", "Enter"]);
    screen.resize(120, 40);
    screen.wait("drawn again", |shown| shown.contains(ready));
    // The key for planning, and again.
    screen.press_until("BTab", "planning", is_planning);
    let before = Snapshot::of(&project);
    screen.enter("think about it");
    screen.expect("planning is done");
    assert!(before.differences(&Snapshot::of(&project)).is_empty());
    let results = model.results("main").concat();
    assert!(results.contains("Read-only file system"), "{}", screen.screen());
    // Codex has another last line as long as it works.
    screen.wait("the end of the turn", is_planning);
    screen.press_until("BTab", "not planning", |shown| !is_planning(shown));
    screen.enter("go on");
    screen.expect("all is done");
    assert_eq!(std::fs::read_to_string(project.join("after")).unwrap(), "three\n");
    // A tool is interrupted, then the agent ends, and the shell outside is as it was.
    screen.enter("once more");
    wait_until("the tool runs", LONG, || project.join("begun").exists());
    screen.press(["C-c"]);
    screen.expect("nterrupted");
    screen.wait("ended", |shown| {
        let ended = shown.trim_end().ends_with("outside>");
        if !ended {
            screen.press(["C-c"]);
        }
        ended
    });
    screen.press(["echo so $((40 + 2)); stty -a | grep -c ' icanon'", "Enter"]);
    screen.expect("so 42\n1");
}

#[test]
fn heavy_claude_on_a_screen() {
    can_be_used_with_keys("claude", "accept edits on", &["--permission-mode", "acceptEdits"]);
}

#[test]
fn heavy_codex_on_a_screen() {
    can_be_used_with_keys("codex", "script", &["--dangerously-bypass-hook-trust", "-m", "script"]);
}
