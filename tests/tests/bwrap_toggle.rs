//! Under the name `bwrap`: binds that are targets, by `--toggle` or by the user's
//! `bwrap.toml`, for callers that know nothing of it.

use remount_tests::{Cmd, Outcome, PATH, Running, Sandbox, bin, require, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::symlink;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(100);

struct World(Sandbox);

impl World {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let dir = sandbox.dir("bin");
        symlink(bin("remount-run"), dir.join("bwrap")).expect("link bwrap");
        symlink(bin("remountctl"), dir.join("remountctl")).expect("link remountctl");
        sandbox.dir("project/sub");
        World(sandbox)
    }

    /// `$P` is the project, `$O` a directory outside of it.
    fn script(&self, script: &str) -> Cmd {
        let path = format!("{}:{PATH}", self.0.root().join("bin").display());
        let run = self.0.host(require("bash")).env("PATH", path).timeout(LONG);
        run.env("P", self.0.project()).env("O", self.0.outside()).arg("-c").arg(script)
    }

    #[track_caller]
    fn run(&self, script: &str) -> Outcome {
        self.script(script).run()
    }

    /// Runs it; panics unless it fails with these words.
    #[track_caller]
    fn fails(&self, script: &str, stderr: &str) {
        let outcome = self.run(script);
        outcome.exits(1);
        assert!(outcome.stderr().starts_with(stderr), "{stderr}: {outcome}");
    }

    #[track_caller]
    fn ctl(&self, words: &[&str]) -> Outcome {
        self.0.ctl().command(words).timeout(LONG).run()
    }

    /// A sandbox that stays. It answers "write" with whether it could write to the project,
    /// and any other line with what that prints as a command, and its code.
    #[track_caller]
    fn stays(&self, options: &str) -> Running {
        let inside = "cd $P; echo ready; while read -r line; do case $line in write) \
                      if echo x >written; then echo wrote; else echo refused; fi;; \
                      *) eval \"$line\" 2>&1; echo code $?;; esac; done";
        let words = format!("exec bwrap --ro-bind / / --dev /dev {options} sh -c '{inside}'");
        let mut running = self.script(&words).start_interactive();
        running.line_with("ready");
        running
    }

    fn rule(&self, text: &str) {
        self.0.file("home/.config/remount/bwrap.toml", text);
    }

    /// A rule for the project's parent, which has the project and more in it.
    fn rule_for_all(&self) {
        let under = self.0.root().display();
        self.rule(&format!("[[toggle]]\nname = \"repo\"\nunder = \"{under}\"\n"));
    }
}

#[track_caller]
fn asks(running: &mut Running, line: &str, answer: &str) {
    running.send(format!("{line}\n"));
    assert_eq!(running.line().trim(), answer, "{line}");
}

/// The lines that a command inside prints, and its code.
#[track_caller]
fn tells(running: &mut Running, command: &str) -> (String, String) {
    running.send(format!("{command}\n"));
    let mut text = String::new();
    loop {
        let line = running.line();
        match line.strip_prefix("code ") {
            Some(code) => return (text, code.to_owned()),
            None => text.push_str(&format!("{line}\n")),
        }
    }
}

#[track_caller]
fn ends(mut running: Running) {
    running.close_stdin();
    running.wait().success();
}

/// Each way to have a target, with what processes inside could do against it.
const WAYS: [&str; 5] = [
    "--bind $P $P --toggle work $P",
    "--toggle work $P/ --bind $P $P --unshare-pid",
    "--unshare-all --dev-bind $P $P --toggle work $P --die-with-parent",
    "--bind-fd 5 $P --toggle work $P --unshare-user --uid 7 --gid 8 5<$P",
    "--bind-try $P $P --toggle work $P --unshare-pid --as-pid-1 --proc /proc",
];

#[test]
fn what_is_named_can_be_switched_from_both_sides() {
    let world = World::new();
    for way in WAYS {
        let mut running = world.stays(way);
        asks(&mut running, "write", "wrote");
        assert_eq!(world.ctl(&["ro", "work"]).success().stdout(), "work: ro\n", "{way}");
        asks(&mut running, "write", "refused");
        assert_eq!(world.ctl(&["rw", "work"]).success().stdout(), "work: rw\n", "{way}");
        asks(&mut running, "write", "wrote");
        // The connection is inherited.
        let said = tells(&mut running, "remountctl ro work");
        assert_eq!(said, ("work: ro\n".into(), "0".into()), "{way}");
        let said = tells(&mut running, "touch new");
        assert!(said.0.contains("Read-only file system"), "{way}: {said:?}");
        assert_eq!(tells(&mut running, "remountctl rw work").1, "0", "{way}");
        assert_eq!(tells(&mut running, "touch new; rm new").1, "0", "{way}");
        ends(running);
    }
}

#[test]
fn what_a_caller_binds_is_switched_by_a_rule() {
    let world = World::new();
    world.rule_for_all();
    let mut running =
        world.stays("--bind $P $P --ro-bind $P/sub $P/sub --bind $O $O --unshare-pid");
    let status = world.ctl(&["status", "--json"]).success().stdout();
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let targets = status["targets"].as_array().expect("targets");
    assert_eq!((targets.len(), targets[0]["name"].as_str()), (1, Some("repo")), "{status}");
    assert!(world.ctl(&["ps"]).success().stdout().contains("bwrap"));
    // Both binds are the target, and what the caller wants read-only stays so.
    let both = "touch $P/new $O/new && rm $P/new $O/new";
    let sub = "touch $P/sub/new";
    assert_eq!(tells(&mut running, both).1, "0");
    assert_ne!(tells(&mut running, sub).1, "0");
    world.ctl(&["ro", "repo"]).success();
    let refused = tells(&mut running, &format!("{both}; touch $O/new"));
    assert_eq!(refused.0.matches("Read-only file system").count(), 3, "{refused:?}");
    world.ctl(&["rw", "repo"]).success();
    assert_eq!(tells(&mut running, both).1, "0");
    assert_ne!(tells(&mut running, sub).1, "0");
    ends(running);
    // Of a caller that binds nothing there, nothing is seen.
    let outcome = world.run("bwrap --ro-bind / / sh -c 'echo [$REMOUNT_CHANNEL]'");
    assert_eq!(outcome.success().stdout(), "[]\n");
}

#[test]
fn authority_is_the_rules_to_give() {
    let world = World::new();
    let under = world.0.project();
    world.rule(&format!("[[toggle]]\nname = \"repo\"\nunder = {under:?}\nauthority = \"host\"\n"));
    let mut running = world.stays("--bind $P $P --unshare-pid");
    assert_eq!(tells(&mut running, "remountctl ro repo").1, "0");
    let refused = tells(&mut running, "remountctl rw repo");
    assert!(refused.0.contains("authority is host"), "{refused:?}");
    assert_eq!(refused.1, "5");
    // What leads to the outside is not there.
    let state = world.0.state();
    let inside = tells(&mut running, &format!("ls -A {}/remount", state.display()));
    assert_eq!(inside, (String::new(), "0".into()));
    world.ctl(&["rw", "repo"]).success();
    asks(&mut running, "write", "wrote");
    ends(running);
}

/// Processes that a process has started and that live.
fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let text = text.expect("the children of a process");
    text.split_whitespace().map(|pid| pid.parse().expect("a process id")).collect()
}

#[test]
fn without_a_target_there_is_no_broker() {
    let world = World::new();
    let start = |options: &str| {
        let running = world.stays(&format!("--bind $P $P --unshare-pid {options}"));
        let count = children(running.pid()).len();
        ends(running);
        count
    };
    assert_eq!(start(""), 1);
    assert_eq!(start("--toggle work $P"), 2);
    // A rule about something else.
    world.rule("[[toggle]]\nname = \"repo\"\nunder = \"/no/such\"\n");
    assert_eq!(start(""), 1);
    world.rule_for_all();
    assert_eq!(start(""), 2);
}

#[test]
fn no_copy_of_a_target_can_be_made() {
    let world = World::new();
    // Root has no user namespace that could be limited if nobody asks for one.
    let base = "bwrap --unshare-user --ro-bind / / --bind $P $P";
    let copy = "unshare -Um true";
    for more in ["", "--dev /dev", "--unshare-pid --cap-add CAP_SYS_ADMIN"] {
        world.run(&format!("{base} {more} {copy}")).success();
        let toggled = format!("{base} {more} --toggle work $P {copy}");
        world.run(&toggled).exits(1).says("No space left");
    }
}

#[test]
fn nothing_else_differs_for_the_caller() {
    let world = World::new();
    let base = "bwrap --ro-bind / / --bind $P $P --unshare-pid --unshare-net";
    for (script, code, stdout) in [
        ("sh -c 'exit 7'", 7, ""),
        ("sh -c 'kill -9 $$'", 137, ""),
        ("--json-status-fd 8 sh -c 'exit 3' 8>info; tail -n 1 info", 0, "{ \"exit-code\": 3 }\n"),
        ("--info-fd 8 true 8>info; grep -c namespace info", 0, "3\n"),
        ("sh -c 'sleep 0.2; echo later' | cat", 0, "later\n"),
        ("--sync-fd 5 true 5<>$P/sub/sync; echo ended", 0, "ended\n"),
    ] {
        for toggle in ["", "--toggle work $P"] {
            let outcome = world.run(&format!("{base} {toggle} {script}"));
            assert_eq!(outcome.code(), Some(code), "{toggle} {script}: {outcome}");
            assert_eq!(outcome.stdout(), stdout, "{toggle} {script}: {outcome}");
            assert_eq!(outcome.stderr(), "", "{toggle} {script}: {outcome}");
        }
    }
    // Whoever waits for the end of what was handed in does not wait for the broker.
    let script = "mkfifo pipe; bwrap --ro-bind / / --bind $P $P --toggle work $P --sync-fd 5 \
                  sh -c 'echo command; exec >&-' 5>pipe & cat pipe; echo end; wait";
    let outcome = world.run(script);
    let mut lines: Vec<_> = outcome.success().stdout().lines().map(str::to_owned).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["command", "end"], "{outcome}");
}

#[test]
fn who_loses_the_broker_ends() {
    let world = World::new();
    let mut running = world.stays("--bind $P $P --toggle work $P --unshare-pid");
    asks(&mut running, "write", "wrote");
    let sandbox = running.pid();
    let started = children(sandbox);
    // The first one is init: it was there before the broker.
    let broker = *started.get(1).expect("a broker");
    kill_process(Pid::from_raw(broker).expect("a pid"), Signal::KILL).expect("kill the broker");
    wait_until("the sandbox has ended", LONG, || !running.runs());
    let outcome = running.wait();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert!(outcome.stderr().contains("broker ended"), "{outcome}");
}

#[test]
fn the_broker_ends_with_the_sandbox() {
    let world = World::new();
    let running = world.stays("--bind $P $P --toggle work $P --unshare-pid");
    let started = children(running.pid());
    assert_eq!(started.len(), 2);
    running.kill(Signal::KILL);
    let gone = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    wait_until("the broker is gone", LONG, || gone(&started[1]));
    // As with bubblewrap, the sandbox itself goes on until its input ends.
    drop(running.wait());
}

#[test]
fn what_cannot_be_a_target_is_said() {
    let world = World::new();
    let base = "bwrap --ro-bind / /";
    for (words, stderr) in [
        ("--toggle work", "bwrap: --toggle takes two arguments\n"),
        ("--toggle 'a b' / true", "bwrap: --toggle takes a name: "),
        ("--toggle work /no/such true", "bwrap: --toggle /no/such: no option binds anything there"),
        ("--tmpfs /mnt --toggle work /mnt true", "bwrap: --toggle /mnt: no option binds"),
        ("--toggle a / --toggle b / true", "bwrap: --toggle /: it has a name already\n"),
        ("--bind $P $P --toggle a / --toggle a $P true", "bwrap: --toggle a: of its binds"),
        ("--ro-bind /proc /mnt --bind-try /no/such $P --toggle a $P true", "bwrap: Can't make "),
    ] {
        world.fails(&format!("{base} {words}"), stderr);
    }
    for (text, said) in [
        ("[[toggle]]\nname = \"a\"\n", "bwrap.toml:1:1"),
        ("[[toggle]]\nname = \"a\"\nunder = \"x\"\n", "bwrap.toml:3:9"),
        ("[[toggle]]\nname = \"a\"\nunder = \"/x\"\nodd = 1\n", "bwrap.toml:4:1"),
    ] {
        world.rule(text);
        let outcome = world.run(&format!("{base} true"));
        outcome.exits(1).says(said);
    }
    world.rule("");
    let file = world.0.home().join(".config/remount/bwrap.toml");
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(&file, mode(0o666)).expect("open it to others");
    world.run(&format!("{base} true")).exits(1).says("others than its owner can write to it");
    std::fs::set_permissions(&file, mode(0o600)).expect("close it");
    world.run(&format!("{base} true")).success();
}

#[test]
fn a_file_can_be_a_target() {
    let world = World::new();
    world.0.file("project/file", "");
    let mut running = world.stays("--bind $P/file $P/file --toggle file $P/file --unshare-pid");
    assert_eq!(tells(&mut running, "echo x >file").1, "0");
    world.ctl(&["ro", "file"]).success();
    assert_ne!(tells(&mut running, "true; (echo y >file)").1, "0");
    world.ctl(&["rw", "file"]).success();
    assert_eq!(tells(&mut running, "echo z >file").1, "0");
    ends(running);
}

#[test]
fn what_is_read_only_can_be_named_too() {
    let world = World::new();
    let mut running = world.stays("--ro-bind $P $P --toggle work $P --unshare-pid");
    assert_ne!(tells(&mut running, "touch new").1, "0");
    world.ctl(&["rw", "work"]).success();
    assert_eq!(tells(&mut running, "touch new && rm new").1, "0");
    ends(running);
}

#[test]
fn what_is_held_no_request_opens() {
    let world = World::new();
    let project = world.0.project();
    let hold = |mode: &str| {
        let outcome = world.0.ctl().command([mode, "--path"]).arg(&project).timeout(LONG).run();
        assert!(outcome.stdout().contains("held"), "{outcome}");
    };
    let mut before = world.stays("--bind $P $P --toggle work $P --unshare-pid");
    asks(&mut before, "write", "wrote");
    hold("ro");
    let mut after = world.stays("--bind $P $P --toggle work $P --unshare-pid");
    for running in [&mut before, &mut after] {
        assert_ne!(tells(running, "touch new").1, "0");
        let refused = tells(running, "remountctl rw work");
        assert!(refused.0.contains("is held read-only"), "{refused:?}");
        assert_eq!(refused.1, "5");
        assert_ne!(tells(running, "touch new").1, "0");
    }
    hold("rw");
    for mut running in [before, after] {
        assert_eq!(tells(&mut running, "remountctl rw work").1, "0");
        asks(&mut running, "write", "wrote");
        ends(running);
    }
}
