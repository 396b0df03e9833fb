//! How a sandbox ends: exit codes, signals, and nothing left of it.

use remount_tests::{Answer, Cmd, LIMIT, Running, Sandbox, Snapshot, mounts, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

fn kill(pid: i32, signal: Signal) {
    // It may have ended already: what is to be seen is that it has.
    let _ = kill_process(Pid::from_raw(pid).expect("a process id"), signal);
}

fn children(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Launcher, init, broker and agent, as the host numbers them, as far as they are there.
/// Init is the one in a PID namespace of its own.
fn chain(launcher: i32) -> [Option<i32>; 4] {
    let is_first = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let mut numbers = status.lines().filter(|line| line.starts_with("NSpid:"));
        numbers.next().is_some_and(|line| line.ends_with("\t1"))
    };
    let (init, broker): (Vec<i32>, Vec<i32>) = children(launcher).into_iter().partition(is_first);
    let agent = init.first().and_then(|init| children(*init).first().copied());
    [Some(launcher), init.first().copied(), broker.first().copied(), agent]
}

/// All four, of a sandbox that runs.
fn whole_chain(running: &Running) -> [i32; 4] {
    chain(running.pid()).map(|pid| pid.expect("the sandbox has all its processes"))
}

#[test]
fn every_exit_code_comes_back() {
    let sandbox = Sandbox::new();
    for code in 0..=255 {
        sandbox.remount().sh(&format!("exit {code}")).run().exits(code);
    }
}

#[test]
fn a_signal_that_ends_the_agent_comes_back_as_128_and_its_number() {
    let sandbox = Sandbox::new();
    for signal in [
        "HUP", "INT", "ILL", "ABRT", "BUS", "FPE", "KILL", "SEGV", "USR1", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "XCPU", "SYS",
    ] {
        let native = sandbox.host("/bin/bash").command(["-c", &format!("kill -{signal} $$")]).run();
        let number = native.signal().expect("it is killed by it outside too");
        let outcome =
            sandbox.remount().command(["bash", "-c", &format!("kill -{signal} $$")]).run();
        outcome.exits(128 + number);
    }
    assert_eq!(std::fs::read_dir(sandbox.project()).unwrap().count(), 0, "a core dump");
}

#[test]
fn a_real_time_signal_is_one_too() {
    let sandbox = Sandbox::new();
    for number in [34, 35, 50, 64] {
        let script = format!("kill -{number} $$");
        sandbox.remount().command(["bash", "-c", &script]).run().exits(128 + number);
        // That of an orphan is init's to see, and nobody else's business.
        let script = format!("(sh -c 'kill -{number} $$' &); sleep 0.2; echo still here; exit 5");
        let outcome = sandbox.remount().command(["bash", "-c", &script]).run();
        assert_eq!(outcome.exits(5).stdout(), "still here\n");
    }
}

#[test]
fn our_own_failures_have_their_codes() {
    let sandbox = Sandbox::new();
    sandbox.file("project/data", "no program");
    sandbox.remount().command(["no-such-command"]).run().exits(127).says("no-such-command");
    sandbox.remount().command(["/no/such/command"]).run().exits(127).says("/no/such/command");
    sandbox.remount().command(["./data"]).run().exits(126).says("data");
    sandbox.remount().command(["/"]).run().exits(126);
    sandbox
        .remount()
        .option("--no-such-option")
        .arg("true")
        .run()
        .exits(125)
        .says("--no-such-option");
    sandbox
        .remount()
        .options(["--profile", "no-such"])
        .arg("true")
        .run()
        .exits(125)
        .says("no-such");
    sandbox
        .remount()
        .options(["--chdir", "/no/such"])
        .arg("true")
        .run()
        .exits(125)
        .says("/no/such");
}

#[test]
fn an_error_that_nobody_can_read_keeps_its_code() {
    let sandbox = Sandbox::new();
    let launcher = remount_tests::bin("remount-run");
    let launcher = launcher.to_str().unwrap();
    for closed in [">/dev/full 2>&1", ">&- 2>&-", "2>&1 | :; exit ${PIPESTATUS[0]}"] {
        let script = format!("'{launcher}' --profile no-such -- true {closed}");
        sandbox.host("/bin/bash").command(["-c", &script]).run().exits(125);
    }
    let script = format!("'{launcher}' --verbose -- sh -c 'exit 7' 2>/dev/full");
    sandbox.host("/bin/bash").command(["-c", &script]).run().exits(7);
}

/// An agent that says which signals reach it.
const TRAPS: &str = "for s in TERM INT HUP USR1 USR2 WINCH CONT ALRM RTMIN RTMAX; do \
    trap \"echo got $s\" $s; done; echo ready; while :; do sleep 0.05; done";

#[test]
fn signals_to_the_launcher_reach_the_agent() {
    let sandbox = Sandbox::new();
    let mut running = sandbox.remount().command(["bash", "-c", TRAPS]).start_interactive();
    running.line_with("ready");
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
        (Signal::CONT, "CONT"),
        (Signal::ALARM, "ALRM"),
    ] {
        running.kill(signal);
        assert_eq!(running.line(), format!("got {name}"));
    }
    for (number, name) in [(34, "RTMIN"), (64, "RTMAX")] {
        let pid = running.pid().to_string();
        let words = ["-c", "kill -$0 $1", &number.to_string(), &pid];
        sandbox.host("/bin/bash").command(words).run().success();
        assert_eq!(running.line(), format!("got {name}"));
    }
    running.kill(Signal::KILL);
    assert_eq!(running.wait().signal(), Some(9));
}

#[test]
fn a_signal_ends_the_whole_sandbox_with_its_code() {
    let sandbox = Sandbox::new();
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2), (Signal::HUP, 1)] {
        let script = "sleep 600 & (setsid sleep 601 &) ; echo ready; wait";
        let mut running = sandbox.remount().sh(script).start();
        running.line_with("ready");
        running.kill(signal);
        running.wait().exits(128 + number);
    }
}

#[test]
fn a_signal_at_any_moment_of_the_start_ends_it() {
    let sandbox = Sandbox::new();
    for moment in 0..50 {
        let running = sandbox.remount().command(["sleep", "600"]).start();
        std::thread::sleep(Duration::from_micros(moment * 400));
        running.kill(Signal::TERM);
        let outcome = running.wait();
        // By the signal itself, before the launcher has begun to listen.
        assert!(outcome.signal() == Some(15) || outcome.code() == Some(143), "{outcome}");
    }
}

#[test]
fn ignored_and_blocked_signals_are_passed_on_as_they_were() {
    let sandbox = Sandbox::new();
    let launcher = remount_tests::bin("remount-run");
    let status = |command: &str| {
        let script = format!("trap '' USR1; {command} grep -E '^Sig(Blk|Ign)' /proc/self/status");
        sandbox.host("/bin/bash").command(["-c", &script]).run().success().stdout()
    };
    assert_eq!(status(&format!("{} --", launcher.display())), status(""));
}

#[test]
fn stop_and_continue_reach_the_agent_and_show_outside() {
    let sandbox = Sandbox::new();
    let mut running = sandbox.remount().sh("echo ready; read line; exit 7").start_interactive();
    running.line_with("ready");
    let [launcher, _, _, agent] = whole_chain(&running);
    let state = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").map_or("gone".to_owned(), |(_, rest)| rest[..1].to_owned())
    };
    for _ in 0..5 {
        kill(launcher, Signal::TSTP);
        wait_until("the agent stops", LIMIT, || state(agent) == "T");
        wait_until("the launcher stops", LIMIT, || state(launcher) == "T");
        kill(launcher, Signal::CONT);
        wait_until("the launcher runs", LIMIT, || state(launcher) != "T");
        wait_until("the agent runs", LIMIT, || state(agent) != "T");
    }
    running.send("\n");
    running.wait().exits(7);
}

#[test]
fn orphans_are_buried() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    // Each ends with init for a parent.
    inside.run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do (sh -c 'sleep 0.1; exit 3' &); done"]);
    let states = "for f in /proc/[0-9]*/stat; do sed 's/.*) //; s/ .*//' $f 2>/dev/null; done";
    let mut zombies = || inside.run(["sh", "-c", states]).1.matches('Z').count();
    wait_until("all orphans are gone", LIMIT, || zombies() == 0);
    // That they would have been seen: one whose living parent does not bury it.
    let mut inside_again = sandbox.remount().serve();
    inside_again.act(["spawn", "sh", "-c", "sh -c 'exit 3' & exec sleep 600"]).ok();
    let mut seen = || inside_again.run(["sh", "-c", states]).1.matches('Z').count();
    wait_until("a zombie is seen as one", LIMIT, || seen() == 1);
    inside.end().success();
    inside_again.end().success();
}

#[test]
fn background_processes_end_with_the_agent() {
    let sandbox = Sandbox::new();
    let script = "trap '' TERM HUP; (setsid sleep 601 >/dev/null 2>&1 &); \
                  nohup sleep 602 >/dev/null 2>&1 & exit 3";
    sandbox.remount().sh(script).run().exits(3);
}

#[test]
fn output_written_at_the_very_end_is_not_lost() {
    let sandbox = Sandbox::new();
    for _ in 0..20 {
        let outcome = sandbox.remount().sh("seq 20000; seq 20000 >&2").run();
        assert_eq!(outcome.success().stdout().lines().count(), 20000);
        assert_eq!(outcome.stderr().lines().count(), 20000);
    }
}

/// A sandbox with a process that has left its group and session.
fn busy(sandbox: &Sandbox) -> Cmd {
    sandbox.remount().sh("sleep 600 & (setsid sleep 601 &); echo ready; wait")
}

/// Removes what only a launcher that lives can.
#[track_caller]
fn clean(sandbox: &Sandbox) {
    sandbox.ctl().options(["doctor", "--clean"]).run().success();
}

#[test]
fn whoever_is_killed_takes_everything_along() {
    let sandbox = Sandbox::new();
    let (table, before) = (mounts(), Snapshot::of(sandbox.root()));
    for victim in 0..4 {
        let mut running = busy(&sandbox).start();
        running.line_with("ready");
        kill(whole_chain(&running)[victim], Signal::KILL);
        // The harness fails if anything still runs.
        let outcome = running.wait();
        match victim {
            0 => assert_eq!(outcome.signal(), Some(9)),
            3 => drop(outcome.exits(137)),
            _ => drop(outcome.exits(125).says("sandbox")),
        }
        clean(&sandbox);
        before.unchanged(sandbox.root());
    }
    assert_eq!(mounts(), table);
}

#[test]
fn two_killed_in_any_order_take_everything_along() {
    let sandbox = Sandbox::new();
    for first in 0..4 {
        for second in 0..4 {
            let mut running = busy(&sandbox).start();
            running.line_with("ready");
            let chain = whole_chain(&running);
            kill(chain[first], Signal::KILL);
            kill(chain[second], Signal::KILL);
            assert_ne!(running.wait().code(), Some(0));
        }
    }
}

#[test]
fn whoever_is_killed_during_the_start_leaves_nothing() {
    let sandbox = Sandbox::new();
    let (table, before) = (mounts(), Snapshot::of(sandbox.root()));
    for victim in 0..4 {
        for moment in 0..50 {
            let running = sandbox.remount().command(["sleep", "600"]).start();
            std::thread::sleep(Duration::from_micros(moment * 300));
            // Whoever there is, if the victim is not there yet.
            let pids = chain(running.pid());
            let pid = pids[victim].or(pids[1]).unwrap_or(running.pid());
            kill(pid, Signal::KILL);
            assert_ne!(running.wait().code(), Some(0));
        }
    }
    clean(&sandbox);
    before.unchanged(sandbox.root());
    assert_eq!(mounts(), table);
}

#[test]
fn a_stopped_broker_holds_up_nobody_and_a_dead_one_ends_all() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    let broker = whole_chain(inside.running())[2];
    kill(broker, Signal::STOP);
    assert_eq!(inside.act(["write", "file", "x"]), Answer::Ok(String::new()));
    kill(broker, Signal::CONT);
    inside.ctl("ro workspace", 0);
    inside.act(["write", "file", "x"]).errno("EROFS");
    kill(broker, Signal::KILL);
    wait_until("the sandbox ends with its broker", LIMIT, || !inside.running().runs());
    inside.end().exits(125);
}

/// Opens a file for writing and leaves the descriptor under way in a socket, where it is in
/// no process's table: nobody is found who holds the target, so the broker holds the whole
/// sandbox still to try again, and tries in vain.
const UNDER_WAY: &str = r#"
import array, os, socket, time
a, b = socket.socketpair()
fd = os.open("log", os.O_WRONLY | os.O_CREAT)
a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
os.close(fd)
print("ready", flush=True)
time.sleep(600)
"#;

fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Stops the broker while init and agent stand still for it. False if `asking` was answered
/// before that.
fn caught([_, init, broker, agent]: [i32; 4], asking: &mut Running) -> bool {
    while asking.runs() {
        if is_stopped(init) && is_stopped(agent) {
            kill(broker, Signal::STOP);
            wait_until("the broker stands still", LIMIT, || is_stopped(broker));
            if is_stopped(init) && is_stopped(agent) {
                return true;
            }
            kill(broker, Signal::CONT);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    false
}

#[test]
fn whoever_is_killed_while_all_stand_still_takes_everything_along() {
    for victim in [0, 1, 2] {
        let sandbox = Sandbox::new();
        let file = sandbox.file("project/hold.py", UNDER_WAY);
        let python = remount_tests::require("python3");
        let mut running = sandbox.remount().arg(python).arg(&file).start();
        running.line_with("ready");
        sandbox.socket();
        let chain = whole_chain(&running);
        let ask = || sandbox.ctl().command(["ro", "workspace"]).start();
        let mut asking = ask();
        while !caught(chain, &mut asking) {
            assert_ne!(asking.wait().code(), Some(0), "it is held");
            asking = ask();
        }
        kill(chain[victim], Signal::KILL);
        kill(chain[2], Signal::CONT);
        // The harness fails if anything is left, running or not.
        assert_ne!(running.wait().code(), Some(0));
        // Where the agent is gone and the broker is not yet, nothing holds the target.
        asking.wait();
    }
}
