//! Planning mode of real agents: the project is read-only as long as it lasts.

use remount_tests::agent::{CHILD, COMMIT, Driven, Taken, Tools, World, tries};
use remount_tests::model::{Model, call, say};
use remount_tests::{Snapshot, Tmux, require};
use serde_json::json;

/// An agent, and a script of three turns for it: work, planning, work.
struct Plan {
    model: Model,
    world: World,
    home: Snapshot,
    before: Taken,
    after: Taken,
}

impl Plan {
    fn new(agent: &'static str) -> Plan {
        let model = Model::start();
        let world = World::new(agent, &model);
        let project = world.sandbox.project();
        let (before, after) = (Taken::of(project.clone()), Taken::of(project.clone()));
        let home = Snapshot::of(world.sandbox.home());
        let plan = Plan { model, world, home, before, after };
        plan.write_scripts(&Tools { agent, project: &project });
        plan
    }

    fn write_scripts(&self, tools: &Tools<'_>) {
        let work = "echo one >before; echo edited >README";
        let mut steps = vec![tools.shell(work), tools.shell(CHILD), say("worked")];
        // What planning begins with, and for Qwen Code the first that a hook hears of it.
        steps.push(tools.read("README"));
        let first = steps.len();
        steps.extend(tries(tools).into_iter().map(|(step, _)| step));
        steps[first] = self.before.before(steps[first].clone());
        steps.push(self.after.before(say("planned")));
        steps.push(tools.shell(&format!("echo two >after && {COMMIT} later")));
        steps.push(tools.write("by-tool-after", "text"));
        steps.push(say("the very last word"));
        let sub = [tools.shell("echo x >by-sub 2>/tmp/sub; cat /tmp/sub"), say("sub done")];
        self.model.script("main", steps);
        self.model.script("sub", sub);
    }

    /// It worked before and after; in between nothing was written, and each try of the
    /// shell was refused by the kernel.
    #[track_caller]
    fn held(&self) {
        let project = self.world.sandbox.project();
        let tools = Tools { agent: self.world.agent, project: &project };
        let results = self.model.results("main");
        let shown = format!("{results:#?}");
        let read = |name: &str| std::fs::read_to_string(project.join(name)).expect(&shown);
        assert_eq!(read("before"), "one\n");
        assert_eq!(read("after"), "two\n");
        assert_eq!(read("by-tool-after").trim(), "text");
        let log = self.world.sandbox.host(require("git")).command(["log", "--format=%s"]).run();
        // Codex's profile leaves all of git's to the person outside.
        let commits = if tools.agent == "codex" { "first\n" } else { "later\nfirst\n" };
        assert_eq!(log.success().stdout(), commits, "{shown}");
        let differences = self.before.get().differences(&self.after.get());
        assert!(differences.is_empty(), "{differences:#?}\n{shown}");
        for ((_, words), result) in tries(&tools).iter().zip(&results[3..]) {
            // The own plan mode of Qwen Code comes before the kernel, and that of Claude's tools.
            let its_own = ["Plan mode is active", "while in plan mode"];
            let refused = result.contains(words) || its_own.iter().any(|it| result.contains(it));
            assert!(refused, "{words:?} is not in {result}\n{shown}");
        }
        self.world.left_only_its_state(&self.home, "the very last word");
    }

    /// The model was told, with the prompt.
    #[track_caller]
    fn model_was_told(&self) {
        let asked = self.model.asked();
        let told = |text: &str| asked.iter().any(|asked| asked.body.to_string().contains(text));
        assert!(told("Planning mode: the project is read-only now"), "closed");
        assert!(told("The user left planning mode"), "opened");
    }
}

/// An editor changes the mode in the middle of the conversation.
fn an_editor_lets_it_plan(agent: &'static str, working: &str) -> Plan {
    let plan = Plan::new(agent);
    let mut driven = Driven::start(&plan.world, &plan.model, working);
    driven.prompt("SCRIPT:main go");
    driven.mode("plan");
    driven.prompt("plan something");
    driven.mode(working);
    driven.prompt("go on");
    driven.running.close_stdin();
    driven.running.wait().success();
    plan.held();
    plan
}

#[test]
fn heavy_claude_cannot_write_while_it_plans() {
    an_editor_lets_it_plan("claude", "acceptEdits").model_was_told();
}

#[test]
fn heavy_qwen_cannot_write_while_it_plans() {
    an_editor_lets_it_plan("qwen", "yolo");
}

/// Codex has no other way to plan than its key. Its hooks hear of the mode by the record of the
/// session that they are shown.
#[test]
fn heavy_codex_cannot_write_while_it_plans() {
    let plan = Plan::new("codex");
    let run = plan.world.start(&plan.model).arg("--dangerously-bypass-hook-trust");
    let screen = Tmux::start(&plan.world.sandbox, run);
    let plans = |shown: &str| shown.contains("Plan mode (shift+tab");
    screen.expect("GPT-5.5");
    screen.enter("SCRIPT:main go");
    screen.expect("worked");
    screen.press_until("BTab", "planning", plans);
    screen.enter("plan something");
    screen.expect("planned");
    // Its last line is another as long as it works.
    screen.wait("the end of the turn", plans);
    screen.press_until("BTab", "not planning", |shown| !plans(shown));
    screen.enter("go on");
    screen.expect("the very last word");
    drop(screen);
    plan.held();
    plan.model_was_told();
}

/// opencode runs once for each turn, in one sandbox; its plugin tells which agent it is.
#[test]
fn heavy_opencode_cannot_write_while_it_plans() {
    let plan = Plan::new("opencode");
    let script = "
        opencode run --agent build 'SCRIPT:main go'
        opencode run --continue --agent plan 'plan something'
        opencode run --continue --agent build 'go on'";
    plan.world.shell(&plan.model, script).run().success();
    plan.held();
}

/// Gemini's hook hears of plan mode when the model enters and leaves it.
#[test]
fn heavy_gemini_cannot_write_while_it_plans() {
    let model = Model::start();
    let world = World::new("gemini", &model);
    let project = world.sandbox.project();
    let tools = Tools { agent: "gemini", project: &project };
    let (before, after) = (Taken::of(project.clone()), Taken::of(project.clone()));
    let home = Snapshot::of(world.sandbox.home());
    let sub = [tools.shell("echo x >by-sub 2>/tmp/sub; cat /tmp/sub"), say("sub done")];
    model.script("sub", sub);
    model.script(
        "main",
        [
            tools.shell("echo one >before"),
            tools.shell(CHILD),
            call("enter_plan_mode", json!({ "reason": "to think" })),
            before.before(tools.read("README")),
            tools.write("by-tool", "x"),
            tools.subagent("sub").remove(0),
            call("write_file", json!({ "file_path": "plan.md", "content": "the plan" })),
            after.before(call("exit_plan_mode", json!({ "plan_filename": "plan.md" }))),
            tools.shell("cat /tmp/child.err | tail -n 1"),
            tools.shell("echo two >after"),
            say("the very last word"),
        ],
    );
    let outcome = world.prompt(&model, "SCRIPT:main go").run();
    let shown = format!("{outcome}\n{:#?}", model.results("main"));
    outcome.success();
    let differences = before.get().differences(&after.get());
    assert!(differences.is_empty(), "{differences:#?}\n{shown}");
    assert_eq!(std::fs::read_to_string(project.join("after")).expect(&shown), "two\n");
    assert!(model.results("main").concat().contains("Read-only file system"), "{shown}");
    world.left_only_its_state(&home, "the plan");
}
