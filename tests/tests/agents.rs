//! Real agents with a scripted model: what they do all day works, and none of it once
//! the project is read-only.
//!
//! Each agent is the unmodified program that `scripts/agents` installed, under its own
//! profile, chosen by its name, in a fresh home, with its hook installed.

use remount_tests::agent::{CHILD, COMMIT, SECRET, Taken, Tools, World, tries};
use remount_tests::model::{Model, say};
use remount_tests::{Snapshot, require};

/// All in one conversation: work, then read-only, then work again.
#[track_caller]
fn works_until_it_is_read_only(agent: &'static str) {
    let model = Model::start();
    let world = World::new(agent, &model);
    let project = world.sandbox.project();
    let tools = Tools { agent, project: &project };
    let (before, after) = (Taken::of(project.clone()), Taken::of(project.clone()));
    let mut steps = vec![
        tools.shell("echo one >by-shell-before"),
        tools.write("by-tool-before", "text"),
        tools.read("README"),
        tools.edit("README", "a project", "edited"),
        tools.shell(&format!("{COMMIT} work && git log --format=%s")),
        // Nothing of it is to be seen; the last one is an act that succeeds all the same.
        tools.shell(
            "cat ~/.ssh/id_ed25519; grep -rs SECRE[T]- ~ /run/user; cat ~/.netrc; echo searched",
        ),
        tools.shell(CHILD),
        tools.shell("/run/remount/bin/remountctl ro --all"),
    ];
    let tries = tries(&tools);
    let first = steps.len();
    steps.extend(tries.iter().map(|(step, _)| step.clone()));
    steps[first] = before.before(steps[first].clone());
    steps.push(after.before(tools.shell("/run/remount/bin/remountctl rw --all && echo opened")));
    steps.push(tools.shell(&format!("echo two >by-shell-after && {COMMIT} later")));
    steps.push(say("the very last word"));
    let sub = [tools.shell("echo x >by-sub 2>/tmp/sub; cat /tmp/sub"), say("sub done")];
    model.script("main", steps);
    model.script("sub", sub);
    let home = Snapshot::of(world.sandbox.home());

    let outcome = world.prompt(&model, "SCRIPT:main go").run();
    let results = model.results("main");
    let shown = format!("{outcome}\n{results:#?}");
    outcome.success();
    assert!(outcome.stdout().contains("the very last word"), "{shown}");
    // It worked before and after.
    let read = |name: &str| std::fs::read_to_string(project.join(name)).expect(&shown);
    assert_eq!(read("by-shell-before"), "one\n");
    assert_eq!(read("by-tool-before").trim(), "text");
    assert!(read("README").starts_with("edited"), "{shown}");
    assert_eq!(read("by-shell-after"), "two\n");
    let log = world.sandbox.host(require("git")).command(["log", "--format=%s"]).run();
    // Codex's profile leaves all of git's to the person outside.
    let commits = if agent == "codex" { "first\n" } else { "later\nwork\nfirst\n" };
    assert_eq!(log.success().stdout(), commits, "{shown}");
    assert!(!results.concat().contains(SECRET) && results[5].contains("searched"), "{shown}");
    // In between nothing did, and each try was told why.
    let differences = before.get().differences(&after.get());
    assert!(differences.is_empty(), "{differences:#?}\n{shown}");
    for ((_, words), result) in tries.iter().zip(&results[first..]) {
        assert!(result.contains(words), "{words:?} is not in {result}\n{shown}");
    }
    assert!(model.results("sub").concat().contains("Read-only file system"), "{shown}");
    world.left_only_its_state(&home, "the very last word");
}

#[test]
fn heavy_claude_works_until_it_is_read_only() {
    works_until_it_is_read_only("claude");
}

#[test]
fn heavy_codex_works_until_it_is_read_only() {
    works_until_it_is_read_only("codex");
}

#[test]
fn heavy_copilot_works_until_it_is_read_only() {
    works_until_it_is_read_only("copilot");
}

#[test]
fn heavy_gemini_works_until_it_is_read_only() {
    works_until_it_is_read_only("gemini");
}

#[test]
fn heavy_opencode_works_until_it_is_read_only() {
    works_until_it_is_read_only("opencode");
}

#[test]
fn heavy_qwen_works_until_it_is_read_only() {
    works_until_it_is_read_only("qwen");
}

/// In an empty home, in which it cannot make what a later one outside would obey.
#[track_caller]
fn starts_in_an_empty_home(agent: &'static str, guarded: &[&str]) {
    let model = Model::start();
    let world = World::fresh(agent, &model);
    let project = world.sandbox.project();
    let tools = Tools { agent, project: &project };
    let tries: Vec<_> = guarded.iter().map(|path| format!("echo '{{}}' >~/{path}")).collect();
    let script =
        format!("echo one >new; {} echo tried", tries.join(" && echo made; ") + " && echo made;");
    model.script("main", [tools.shell(&script), say("the very last word")]);
    let outcome = world.prompt(&model, "SCRIPT:main go").run();
    let results = model.results("main");
    let shown = format!("{outcome}\n{results:#?}");
    outcome.success();
    assert!(outcome.stdout().contains("the very last word"), "{shown}");
    assert_eq!(std::fs::read_to_string(project.join("new")).expect(&shown), "one\n");
    let said = results.concat();
    assert!(said.contains("tried") && !said.contains("made"), "{shown}");
    assert_eq!(said.matches("Read-only file system").count(), guarded.len(), "{shown}");
    for path in guarded {
        assert!(!world.sandbox.home().join(path).exists(), "{path} is left: {shown}");
    }
}

#[test]
fn heavy_codex_starts_in_an_empty_home() {
    let own = [".codex/hooks.json", ".codex/rules/default.rules", ".codex/.env"];
    starts_in_an_empty_home("codex", &own);
}

#[test]
fn heavy_gemini_starts_in_an_empty_home() {
    let own = [".gemini/settings.json", ".gemini/policies/own.toml", ".gemini/commands/own.toml"];
    starts_in_an_empty_home("gemini", &own);
}

#[test]
fn heavy_opencode_starts_in_an_empty_home() {
    let own = ["opencode.json", "opencode.jsonc", "config.json", "plugins/own.js", "agents/own.md"];
    let own = own.map(|name| format!(".config/opencode/{name}"));
    starts_in_an_empty_home("opencode", &own.each_ref().map(String::as_str));
}
