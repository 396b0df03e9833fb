//! An agent that ends, or is stopped, while it plans: files and modes are right afterwards.

use remount_tests::agent::{Driven, LONG, Tools, World};
use remount_tests::model::{Model, say};
use remount_tests::{Sandbox, Snapshot, Tmux, wait_until};
use rustix::process::{Pid, Signal, kill_process};

const REFUSED: &str = "Read-only file system";

/// Claude Code, planning, with a project that it could not write to.
struct Planning {
    model: Model,
    world: World,
}

impl Planning {
    fn new() -> Planning {
        let model = Model::start();
        let world = World::new("claude", &model);
        let project = world.sandbox.project();
        let tools = Tools { agent: "claude", project: &project };
        let tries = ["by-shell", "once-more"].map(|file| tools.shell(&format!("echo x >{file}")));
        let [first, second] = tries;
        let steps = [first, say("one done"), second, say("two done")];
        let after = [tools.shell("echo three >after"), say("all is done")];
        model.script("main", steps.into_iter().chain(after));
        Planning { model, world }
    }

    fn project(&self) -> Snapshot {
        Snapshot::of(self.world.sandbox.project())
    }

    #[track_caller]
    fn was_refused(&self, times: usize) {
        let results = self.model.results("main");
        assert_eq!(results.len(), times, "{results:#?}");
        assert!(results.iter().all(|result| result.contains(REFUSED)), "{results:#?}");
    }
}

/// A process and all below it, parents first.
fn family(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(parent) = found.get(at) {
        for task in
            std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten()
        {
            // One that ends meanwhile has none.
            let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(text.split_whitespace().map(|pid| pid.parse::<i32>().expect("a number")));
        }
        at += 1;
    }
    found
}

/// The process of the agent itself: the child of the sandbox's first process.
fn agent(launcher: i32) -> i32 {
    let is = |pid: &&i32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|words| words.starts_with(b"claude"))
    };
    *family(launcher).iter().find(is).expect("the agent runs")
}

fn signal(pid: i32, signal: Signal) -> Result<(), rustix::io::Errno> {
    kill_process(Pid::from_raw(pid).expect("a process id"), signal)
}

/// The next sandbox there is as any other: its project can be written to.
#[track_caller]
fn the_next_one_can_write(sandbox: &Sandbox) {
    sandbox.remount().sh("echo next >next && rm next").run().success();
}

#[test]
fn heavy_killed_while_it_plans() {
    let planning = Planning::new();
    let before = planning.project();
    let mut driven = Driven::start(&planning.world, &planning.model, "plan");
    driven.prompt("SCRIPT:main go");
    planning.was_refused(1);
    signal(agent(driven.running.pid()), Signal::KILL).expect("the agent still runs");
    driven.running.wait().exits(128 + 9);
    assert!(before.differences(&planning.project()).is_empty());
    the_next_one_can_write(&planning.world.sandbox);
    assert!(before.differences(&planning.project()).is_empty());
}

#[test]
fn heavy_the_terminal_is_closed_while_it_plans() {
    let planning = Planning::new();
    let before = planning.project();
    let run = planning.world.start(&planning.model).command(["--permission-mode", "plan"]);
    let screen = Tmux::start(&planning.world.sandbox, run);
    screen.expect("plan mode on");
    screen.enter("SCRIPT:main go");
    screen.expect("one done");
    planning.was_refused(1);
    drop(screen);
    // The processes of the launcher are named by the words that it was started with.
    let root = planning.world.sandbox.root().to_str().expect("UTF-8").to_owned();
    wait_until("everything has ended", LONG, || {
        let entries = std::fs::read_dir("/proc").expect("read /proc").flatten();
        let mut words =
            entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        !words.any(|words| words.windows(root.len()).any(|part| part == root.as_bytes()))
    });
    assert!(before.differences(&planning.project()).is_empty());
    the_next_one_can_write(&planning.world.sandbox);
}

/// As when the machine sleeps.
#[test]
fn heavy_everything_stops_and_goes_on() {
    let planning = Planning::new();
    let mut driven = Driven::start(&planning.world, &planning.model, "plan");
    // With what stands in it while a sandbox runs.
    let before = planning.project();
    driven.prompt("SCRIPT:main go");
    let all = family(driven.running.pid());
    assert!(all.len() >= 4, "launcher, init, broker, agent: {all:?}");
    for pid in &all {
        // Some helper of the agent may have ended meanwhile.
        let _ = signal(*pid, Signal::STOP);
    }
    for pid in &all {
        wait_until("stopped", LONG, || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
            matches!(state, None | Some(b'T' | b'Z' | b'X'))
        });
    }
    for pid in all.iter().rev() {
        let _ = signal(*pid, Signal::CONT);
    }
    driven.prompt("once more");
    planning.was_refused(2);
    assert!(before.differences(&planning.project()).is_empty());
    driven.mode("acceptEdits");
    driven.prompt("now do it");
    driven.running.close_stdin();
    driven.running.wait().success();
    let written = std::fs::read_to_string(planning.world.sandbox.project().join("after"));
    assert_eq!(written.expect("written"), "three\n");
}
