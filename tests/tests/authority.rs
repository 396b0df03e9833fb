//! Who may make a target writable: what is tried from inside fails, and works outside.

use remount_tests::{Inside, LIMIT, Sandbox, wait_until};

const CTL: &str = "/run/remount/bin/remountctl";

fn serve(sandbox: &Sandbox, options: &[&str]) -> Inside {
    let inside = sandbox.remount().options(options).serve();
    wait_until("the sandbox is there", LIMIT, || {
        sandbox.ctl().command(["-q", "ro", "workspace"]).run().code() == Some(0)
    });
    inside
}

/// Null while there is no sandbox.
fn status(sandbox: &Sandbox) -> serde_json::Value {
    let outcome = sandbox.ctl().command(["status", "--json"]).run();
    match outcome.code() {
        Some(4) => serde_json::Value::Null,
        _ => serde_json::from_str(&outcome.success().stdout()).unwrap(),
    }
}

/// A sandbox whose script reports on stdout.
fn script(sandbox: &Sandbox, authority: &str, text: &str) -> remount_tests::Running {
    sandbox.remount().options(["--authority", authority]).sh(text).start()
}

#[test]
fn the_host_alone_opens_what_is_the_hosts() {
    let sandbox = Sandbox::new();
    let ask = format!("{CTL} ro workspace; {CTL} rw workspace; echo $?; read -r x; echo $x");
    let mut own = script(&sandbox, "self", &ask);
    assert_eq!([own.line(), own.line(), own.line()], ["workspace: ro", "workspace: rw", "0"]);
    own.wait();
    let mut inside = serve(&sandbox, &["--authority", "host"]);
    inside.act(["create", "a"]).errno("EROFS");
    sandbox.ctl().command(["rw", "workspace"]).run().success();
    inside.act(["create", "a"]).ok();
    inside.end();
    let outcome = script(&sandbox, "host", &ask).wait();
    assert_eq!(outcome.stdout().lines().nth(1), Some("5"), "{outcome}");
    outcome.says("authority is host");
}

#[test]
fn a_person_outside_approves_or_denies() {
    let sandbox = Sandbox::new();
    let ask = format!(
        "{CTL} ro workspace; {CTL} rw workspace; echo $?; {CTL} ro workspace; {CTL} rw workspace; echo $?"
    );
    let mut agent = script(&sandbox, "confirm", &ask);
    for (word, code, lines) in [("deny", "5", 2), ("approve", "0", 3)] {
        wait_until("a request waits", LIMIT, || status(&sandbox)["pending"][0]["id"].is_u64());
        let request = status(&sandbox)["pending"][0].clone();
        assert_eq!(request["targets"][0], "workspace");
        assert!(request["command"].as_str().unwrap().contains("remountctl rw workspace"));
        assert_eq!(status(&sandbox)["targets"][0]["mode"], "ro", "before it is decided");
        let id = request["id"].to_string();
        sandbox.ctl().command(["approve", "99"]).run().exits(1).says("99");
        sandbox.ctl().command([word, &id]).run().success();
        let seen: Vec<String> = (0..lines).map(|_| agent.line()).collect();
        assert_eq!(seen.last().map(String::as_str), Some(code), "{seen:?}");
    }
    agent.wait().success().says("denied");
}

#[test]
fn nobody_approves_his_own_request_or_asks_twice() {
    let sandbox = Sandbox::new();
    let ask = format!(
        "{CTL} -q ro workspace; {CTL} rw workspace & p=$!
         until {CTL} status --json | grep -q pending; do sleep 0.01; done
         {CTL} rw workspace; echo second $?; {CTL} approve 1; echo approve $?; {CTL} deny 1; echo deny $?
         {CTL} events; echo events $?; {CTL} toggle workspace; echo toggle $?
         {CTL} list; kill $p; echo end; sleep 100"
    );
    let mut agent = script(&sandbox, "confirm", &ask);
    for expected in ["second 5", "approve 5", "deny 5", "events 5", "toggle 5"] {
        assert_eq!(agent.line(), expected);
    }
    assert!(agent.line_with("workspace").contains(" ro "));
    agent.line_with("end");
    // The request went with the one that asked.
    wait_until("nothing waits", LIMIT, || status(&sandbox)["pending"].is_null());
    assert_eq!(status(&sandbox)["targets"][0]["mode"], "ro");
    agent.kill(rustix::process::Signal::TERM);
    agent.wait();
}

#[test]
fn a_request_that_nobody_hears_is_refused_in_time() {
    let sandbox = Sandbox::new();
    let profile = sandbox.file(
        "home/p.toml",
        "extends = [\"default\"]\n[sandbox]\nauthority = \"confirm\"\nconfirm-timeout = \"500ms\"\n",
    );
    let ask = format!("{CTL} -q ro workspace; {CTL} rw workspace; echo $?");
    let outcome = sandbox.remount().option("--profile").option(profile).sh(&ask).run();
    assert_eq!(outcome.says("nobody approved").stdout(), "5\n");
}

#[test]
fn the_confirm_command_runs_outside_and_can_approve() {
    let sandbox = Sandbox::new();
    let ctl = remount_tests::bin("remountctl");
    // It proves that it runs outside by writing where no agent can.
    let helper = sandbox.file(
        "outside/ask",
        format!(
            "#!/bin/sh\necho \"$REMOUNT_REQUEST $REMOUNT_TARGETS $REMOUNT_COMMAND\" >> {0}/asked\n\
             exec {1} -s \"$REMOUNT_SANDBOX\" approve \"$REMOUNT_REQUEST\"\n",
            sandbox.outside().display(),
            ctl.display()
        ),
    );
    let profile = sandbox.file(
        "home/p.toml",
        format!(
            "extends = [\"default\"]\n[sandbox]\nauthority = \"confirm\"\n\
             confirm-command = [\"/bin/sh\", \"{}\"]\n",
            helper.display()
        ),
    );
    let ask = format!("{CTL} -q ro workspace; {CTL} rw workspace; echo $?; : > made");
    let outcome = sandbox.remount().option("--profile").option(profile).sh(&ask).run();
    assert_eq!(outcome.success().stdout(), "workspace: rw\n0\n", "{outcome}");
    let asked = std::fs::read_to_string(sandbox.outside().join("asked")).unwrap();
    assert!(
        asked.starts_with("1 workspace ") && asked.contains("remountctl rw workspace"),
        "{asked}"
    );
}

#[test]
fn a_project_cannot_name_a_command() {
    let sandbox = Sandbox::new();
    sandbox.file("project/.remount.toml", "[sandbox]\nconfirm-command = [\"/bin/true\"]\n");
    sandbox.remount().command(["true"]).run().exits(125).says("confirm-command");
}

#[test]
fn forged_words_give_no_rights() {
    let sandbox = Sandbox::new();
    let script = r#"
import os, socket
def ask(line):
    s = socket.socket(socket.AF_UNIX)
    s.connect("/run/remount/socket")
    s.sendall(line.encode() + b"\n")
    return s.makefile().readline().strip()
print(ask('{"op":"set","targets":["workspace"],"mode":"ro"}')[:10])
for line in ['{"op":"set","targets":["workspace"],"mode":"rw"}',
             '{"op":"set","targets":["workspace"],"mode":"rw","origin":"outside"}',
             '{"op":"set","targets":["workspace"],"mode":"rw","approved":true}',
             '{"op":"set","targets":["workspace"],"mode":"rw","hold":true}',
             '{"op":"set","targets":["workspace"],"mode":"rw","for-ms":1000}',
             '{"op":"approve","id":1}', 'rw workspace 1', 'rw workspace %d' % os.getppid()]:
    answer = ask(line)
    print("refused" if '"ok":false' in answer or answer.startswith("ERROR") else answer)
"#;
    let file = sandbox.file("project/forge.py", script);
    let run = |authority: &str| {
        let python = remount_tests::require("python3");
        let cmd = sandbox.remount().options(["--authority", authority]);
        cmd.arg(python).arg(&file).run().success().stdout()
    };
    let expected = format!("{{\"ok\":true\n{}", "refused\n".repeat(8));
    assert_eq!(run("host"), expected);
    // The same words where they may: the well-formed ones are obeyed.
    assert_eq!(run("self").matches("\"ok\":true").count(), 4);
}
