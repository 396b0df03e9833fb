//! `remountctl hook`: an agent's mode switches the targets.

use remount_tests::{Cmd, Outcome, Sandbox, Snapshot, bin, require};
use rustix::process::{Pid, Signal};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

/// A shell function `hook MODE [EVENT [MORE]]`, as Claude Code would call it, and `try`,
/// which says whether the project can be written.
const SHELL: &str = r#"
hook() {
    printf '{"cwd":"/p","permission_mode":"%s","hook_event_name":"%s"%s}' \
        "$1" "${2:-PreToolUse}" "${3:-}" | remountctl hook claude
}
try() { if sh -c ': >new' 2>/dev/null; then rm new; echo writable; else echo read-only; fi; }
"#;

fn inside(sandbox: &Sandbox, script: &str) -> Cmd {
    sandbox.remount().options(["--profile", "claude"]).sh(&format!("{SHELL}{script}"))
}

#[track_caller]
fn prints(sandbox: &Sandbox, script: &str) -> Vec<String> {
    let outcome = inside(sandbox, script).run();
    assert_eq!(outcome.success().stderr(), "", "{outcome}");
    outcome.stdout().lines().map(str::to_owned).collect()
}

#[test]
fn a_mode_switches_all_targets_and_is_silent() {
    let sandbox = Sandbox::git();
    let script = "
        try; hook default; try; hook plan; try; hook plan; try
        git commit -q --allow-empty -m x 2>/dev/null || echo no commit
        remountctl list | awk '{ print $1, $2 }'
        hook nonsense; try; hook acceptEdits; try
        git commit -q --allow-empty -m x && echo commit";
    let expected = "writable writable read-only read-only no_commit NAME_MODE workspace_ro git_ro \
                    read-only writable commit";
    let printed: Vec<_> = prints(&sandbox, script).iter().map(|l| l.replace(' ', "_")).collect();
    assert_eq!(printed.join(" "), expected);
}

#[test]
fn leaving_planning_mode_undoes_what_entering_did_and_no_more() {
    let sandbox = Sandbox::git();
    let script = "
        remountctl -q ro git; hook plan; hook default
        remountctl list | awk 'NR > 1 { print $1, $2 }'
        remountctl -q rw git; remountctl -q ro workspace; hook default; try";
    assert_eq!(prints(&sandbox, script), ["workspace rw", "git ro", "read-only"]);
}

#[test]
fn a_status_line_says_it_in_a_word() {
    let sandbox = Sandbox::git();
    let script = "
        line() { remountctl status --format statusline; }
        line; remountctl -q ro git; line; hook plan; line";
    assert_eq!(prints(&sandbox, script), ["writable", "read-only: git", "read-only"]);
    let outside = sandbox.ctl().command(["status", "--format", "statusline"]).run();
    assert_eq!((outside.success().stdout(), outside.stderr()), Default::default());
}

/// Whoever ends it, or stops it for a while: what was read-only stays so, and after the end
/// the host is as it was.
#[test]
fn an_agent_that_is_killed_or_stopped_in_planning_mode_leaves_all_as_it_was() {
    for signal in [Signal::KILL, Signal::TERM, Signal::HUP] {
        let sandbox = Sandbox::git();
        let project = Snapshot::of(sandbox.project());
        let script =
            "hook plan; echo planning; while :; do echo x >new; sleep 0.01; done 2>/dev/null";
        let mut agent = inside(&sandbox, script).start();
        agent.line_with("planning");
        // A machine that is suspended and wakes up.
        let group = |signal| {
            let pid = Pid::from_raw(agent.pid()).unwrap();
            rustix::process::kill_process_group(pid, signal).unwrap();
        };
        group(Signal::STOP);
        std::thread::sleep(Duration::from_millis(50));
        group(Signal::CONT);
        std::thread::sleep(Duration::from_millis(50));
        if !agent.runs() {
            panic!("ended: {}", agent.wait());
        }
        agent.kill(signal);
        agent.wait();
        // The next one begins anew, and puts away what one that was killed could not.
        assert_eq!(prints(&sandbox, "try; ls /run | grep -c hook; true"), ["writable", "0"]);
        project.unchanged(sandbox.project());
    }
}

#[test]
fn a_terminal_that_is_closed_in_planning_mode_ends_the_sandbox() {
    let sandbox = Sandbox::git();
    let project = Snapshot::of(sandbox.project());
    let script = "hook plan; echo planning; while :; do echo x >new; sleep 0.01; done 2>/dev/null";
    let mut terminal = inside(&sandbox, script).pty(80, 24);
    terminal.expect("planning");
    // As when the window is closed.
    let pid = Pid::from_raw(terminal.pid()).unwrap();
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    terminal.wait();
    project.unchanged(sandbox.project());
}

#[test]
fn a_subagent_can_close_but_not_open() {
    let sandbox = Sandbox::new();
    let agent = r#"',"agent_id":"a1"'"#;
    let script = format!(
        "hook plan PreToolUse {agent}; try; hook default PreToolUse {agent}; try; hook default; try"
    );
    assert_eq!(prints(&sandbox, &script), ["read-only", "read-only", "writable"]);
}

#[test]
fn the_model_is_told_with_the_prompt_when_something_changed() {
    let sandbox = Sandbox::new();
    let script = "
        hook plan UserPromptSubmit; echo; hook plan UserPromptSubmit; hook plan
        hook default UserPromptSubmit; hook default UserPromptSubmit";
    let printed = prints(&sandbox, script);
    assert!(printed[0].starts_with("Planning mode: the project is read-only now"), "{printed:?}");
    assert_eq!(printed[1], "");
    assert!(printed[2].contains("writable again"), "{printed:?}");
    assert_eq!(printed.len(), 3, "{printed:?}");
}

#[test]
fn the_tool_is_denied_while_the_project_cannot_be_made_read_only() {
    let sandbox = Sandbox::new();
    let script = "
        exec 9>held; hook plan; echo $?; try
        hook plan UserPromptSubmit; echo $?
        exec 9>&-; hook plan; echo $?; try";
    let outcome = inside(&sandbox, script).run();
    let lines: Vec<_> = outcome.success().stdout().lines().map(str::to_owned).collect();
    assert_eq!(lines[..2], ["2", "writable"], "{outcome}");
    assert!(lines[2].contains("could not be made read-only"), "{outcome}");
    assert_eq!(lines[lines.len() - 3..], ["0", "0", "read-only"], "{outcome}");
    outcome.says("this is planning mode, and the project could not be made read-only: ");
    let project = sandbox.project();
    outcome.says(project.to_str().unwrap());
    outcome.says("open for writing");
    // And who it is.
    outcome.says("INSIDE");
    outcome.says("held");
    outcome.says("hint: ");
}

#[test]
fn who_may_not_open_a_target_cannot_by_a_hook() {
    let sandbox = Sandbox::new();
    let script = "hook plan; hook default; try; hook default UserPromptSubmit; try";
    let run = inside(&sandbox, script);
    let outcome = run.options(["--authority", "host"]).run();
    let lines: Vec<_> = outcome.success().stdout().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "read-only", "{outcome}");
    assert!(lines[1].starts_with("The project is still read-only: "), "{outcome}");
    assert_eq!(lines[2], "read-only", "{outcome}");
}

#[test]
fn outside_of_a_sandbox_and_without_a_table_nothing_happens() {
    let sandbox = Sandbox::new();
    let event = r#"{"permission_mode":"plan","hook_event_name":"PreToolUse"}"#;
    let outside = sandbox.ctl().command(["hook", "claude"]).stdin(event).run();
    assert_eq!((outside.success().stdout(), outside.stderr()), Default::default());
    let script = format!("{SHELL} hook plan; echo $?; try; ls /run/remount; echo $REMOUNT_README");
    let outcome = sandbox.remount().sh(&script).run();
    let expected = "0\nwritable\nbin\nempty\nnothing\nsocket\n\n";
    assert_eq!(outcome.success().stdout(), expected, "{outcome}");
}

#[test]
fn what_is_no_event_is_no_reason_to_stop_and_changes_nothing() {
    let sandbox = Sandbox::new();
    for input in ["", "{}", "[1]", "{\"hook_event_name\":\"X\"", "\u{0}"] {
        let script = "remountctl hook claude; echo $?; remountctl -q rw workspace; : >new";
        let run = sandbox.remount().options(["--profile", "claude"]).sh(script).stdin(input);
        let outcome = run.run();
        assert_eq!(outcome.success().stdout(), "1\n", "{input:?}: {outcome}");
        outcome.says("understand the event");
    }
    // A tool's input may be long; what matters stands behind it.
    let long = format!(
        r#"{{"tool_input":{{"content":"{}"}},"permission_mode":"plan","hook_event_name":"PreToolUse"}}"#,
        "x".repeat(20 << 20)
    );
    let script = "remountctl hook claude; echo $?; : 2>/dev/null >late";
    let run = sandbox.remount().options(["--profile", "claude"]).sh(script).stdin(long);
    let outcome = run.run();
    assert_eq!(outcome.stdout(), "0\n", "{outcome}");
    assert!(!sandbox.project().join("late").exists());
}

#[test]
fn a_mode_can_be_named_and_a_profile_of_ones_own_says_what_it_means() {
    let sandbox = Sandbox::new();
    let profile = "extends = ['default']\n[hooks.generic]\nreview = 'ro'\nwork = 'rw'\n";
    let profile = sandbox.file("outside/mine.toml", profile);
    std::fs::set_permissions(&profile, PermissionsExt::from_mode(0o644)).unwrap();
    let script = format!(
        "{SHELL} hook() {{ remountctl hook generic --mode \"$1\"; }}
         hook plan; try; hook review; try; hook --work; hook work; try
         cat /run/remount/hooks; exec 9>held; hook review; echo $?"
    );
    let outcome = sandbox.remount().option("--profile").option(&profile).sh(&script).run();
    let expected = "writable\nread-only\nwritable\ngeneric review ro\ngeneric work rw\n2\n";
    assert_eq!(outcome.success().stdout(), expected, "{outcome}");
}

#[test]
fn the_agent_finds_out_why_a_write_is_refused() {
    let sandbox = Sandbox::new();
    let script = "cat \"$REMOUNT_README\"; : >/run/remount/hooks";
    let outcome = inside(&sandbox, script).run();
    assert!(outcome.stdout().contains("Read-only file system"), "{outcome}");
    outcome.says("Read-only file system");
}

#[test]
fn hooks_that_run_at_once_agree() {
    let sandbox = Sandbox::git();
    let script = "
        for i in 1 2 3 4 5 6 7 8 9; do hook plan & done; wait; try
        for i in 1 2 3 4 5 6 7 8 9; do hook default & done; wait; try
        remountctl list | grep -c ' rw '; ls /run";
    let printed = prints(&sandbox, script);
    assert_eq!(printed[..3], ["read-only", "writable", "2"], "{printed:?}");
    assert!(!printed.iter().any(|name| name.contains("hook")), "left behind: {printed:?}");
}

/// `remountctl hook AGENT --ACTION`, on the host.
#[track_caller]
fn configure(sandbox: &Sandbox, agent: &str, action: &str) -> Outcome {
    sandbox.ctl().command(["hook", agent, action]).run()
}

#[test]
fn installing_and_uninstalling_leaves_everything_else_as_it_was() {
    for (agent, file) in [
        ("claude", ".claude/settings.json"),
        ("codex", ".codex/hooks.json"),
        ("gemini", ".gemini/settings.json"),
        ("qwen", ".qwen/settings.json"),
    ] {
        let sandbox = Sandbox::new();
        let theirs = "{\n  \"b\": 1.50,\n  \"a\": {\n    \"x\": [1,2]\n  }\n}\n";
        let path = sandbox.file(format!("home/{file}"), theirs);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        configure(&sandbox, agent, "--install").success();
        let installed = std::fs::read_to_string(&path).unwrap();
        assert!(installed.starts_with("{\n  \"b\": 1.50,\n  \"a\": {"), "{installed}");
        let parsed: serde_json::Value = serde_json::from_str(&installed).unwrap();
        assert!(parsed["hooks"].to_string().contains("remountctl"), "{installed}");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let backup = sandbox.home().join(format!("{file}.before-remount"));
        assert_eq!(std::fs::read_to_string(&backup).unwrap(), theirs);
        // Again changes nothing, and keeps the backup.
        let again = Snapshot::of(sandbox.home());
        assert!(configure(&sandbox, agent, "--install").stdout().contains("nothing to change"));
        again.unchanged(sandbox.home());
        configure(&sandbox, agent, "--uninstall").success();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), theirs);
        let outcome = configure(&sandbox, agent, "--uninstall");
        assert_eq!(outcome.success().stdout(), "nothing to remove\n");
        // What is printed is what is installed.
        let printed = configure(&sandbox, agent, "--print").success().stdout();
        let (_, json) = printed.split_once(":\n").unwrap();
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(json["hooks"], parsed["hooks"]);
    }
}

#[test]
fn a_file_that_is_not_understood_is_left_alone() {
    for text in ["{\n  // mine\n}\n", "", "{\"hooks\": []}", "[]", "{\"a\": tru"] {
        let sandbox = Sandbox::new();
        sandbox.file("home/.claude/settings.json", text);
        let before = Snapshot::of(sandbox.home());
        let outcome = configure(&sandbox, "claude", "--install");
        if text.is_empty() {
            outcome.success();
            continue;
        }
        outcome.exits(1).says("left as it is");
        before.unchanged(sandbox.home());
    }
    // A directory that cannot be written to, and a file in the way.
    let sandbox = Sandbox::new();
    sandbox.file("home/.claude", "a file");
    let before = Snapshot::of(sandbox.home());
    configure(&sandbox, "claude", "--install").exits(1).says("settings.json");
    before.unchanged(sandbox.home());
}

#[test]
fn a_symbolic_link_stays_one_and_a_missing_file_is_made() {
    let sandbox = Sandbox::new();
    let real = sandbox.file("home/dotfiles/claude.json", "{}");
    sandbox.dir("home/.claude");
    let link = sandbox.home().join(".claude/settings.json");
    symlink("../dotfiles/claude.json", &link).unwrap();
    configure(&sandbox, "claude", "--install").success();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(std::fs::read_to_string(&real).unwrap().contains("remountctl"));
    configure(&sandbox, "qwen", "--install").success();
    let made = sandbox.home().join(".qwen/settings.json");
    assert!(std::fs::read_to_string(&made).unwrap().contains("remountctl hook qwen"));
    configure(&sandbox, "qwen", "--uninstall").success();
    assert_eq!(std::fs::read_to_string(&made).unwrap(), "{}\n");
}

#[test]
fn opencodes_plugin_comes_and_goes() {
    let sandbox = Sandbox::new();
    let plugin = sandbox.home().join(".config/opencode/plugins/remount.js");
    configure(&sandbox, "opencode", "--install").success();
    let text = std::fs::read_to_string(&plugin).unwrap();
    assert!(text.contains("remountctl"));
    let check = sandbox.host(require("node")).arg("--check").arg(&plugin).run();
    check.success();
    configure(&sandbox, "opencode", "--uninstall").success();
    assert!(!plugin.exists());
    sandbox.file("home/.config/opencode/plugins/remount.js", "// somebody's own\n");
    configure(&sandbox, "opencode", "--uninstall").exits(1).says("not what was installed");
    assert!(plugin.exists());
}

#[test]
fn agents_that_cannot_tell_are_named_with_what_to_do_instead() {
    let sandbox = Sandbox::new();
    for agent in ["goose", "copilot", "aider"] {
        let outcome = sandbox.ctl().command(["hook", agent, "--print"]).run();
        outcome.exits(2).says("remountctl toggle workspace");
    }
    sandbox.ctl().command(["hook", "vi"]).run().exits(2).says("known are");
    sandbox.ctl().command(["hook", "claude", "--print", "--install"]).run().exits(2);
    assert!(bin("remountctl").is_file());
}
