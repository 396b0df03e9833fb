//! Whoever is killed, and whenever: after the next start and clean end the project is what it
//! was, with what the agent wrote.

use remount_tests::{Running, Sandbox, Snapshot, children};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::time::{Duration, Instant};

/// Cuts with one sandbox and as many with three: `$REMOUNT_POWER_CUTS` (200 is the full test),
/// else a few.
fn cuts() -> u32 {
    let cuts = std::env::var("REMOUNT_POWER_CUTS");
    cuts.map_or(8, |text| text.parse().expect("a number of cuts"))
}

/// Who is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Launcher,
    Broker,
    Agent,
    All,
}

const VICTIMS: [Victim; 4] = [Victim::Launcher, Victim::Broker, Victim::Agent, Victim::All];

/// Moments that differ from run to run; the seed is printed.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = std::env::var("REMOUNT_SEED").map_or(u64::from(now.subsec_nanos()), |text| {
            text.parse().expect("a number as the seed")
        });
        println!("REMOUNT_SEED={seed}");
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Kills those who are there by now, all in one go. A number is not used again before its
/// parent has been told, and this process is nobody's here.
fn kill(sandboxes: &[Running], victim: Victim) {
    let mut pids = Vec::new();
    for running in sandboxes {
        let (init, broker) = running.init_and_broker();
        let agent = init.and_then(|init| children(init).first().copied());
        match victim {
            Victim::Launcher => pids.push(running.pid()),
            Victim::Broker => pids.extend(broker),
            Victim::Agent => pids.extend(agent),
            Victim::All => pids.extend([Some(running.pid()), init, broker].into_iter().flatten()),
        }
    }
    for pid in pids {
        // One that has ended needs no killing.
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap_or(());
    }
}

fn start(sandbox: &Sandbox, name: &str) -> Running {
    let script = format!("printf written >{name}; mkdir {name}.d; sleep 0.02; rmdir {name}.d");
    sandbox.remount().sh(&script).start()
}

/// What an agent may have left, whole or in the middle.
fn take_away(project: &Path) {
    for entry in std::fs::read_dir(project).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if let Some(rest) = name.strip_prefix("agent-") {
            if rest.ends_with(".d") {
                std::fs::remove_dir(entry.path()).unwrap();
            } else {
                let contents = std::fs::read_to_string(entry.path()).unwrap();
                assert!("written".starts_with(&contents), "{contents}");
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

fn cut(sandboxes: usize) {
    let mut chance = Chance::new();
    let sandbox = Sandbox::git();
    let project = sandbox.project();
    // A tree with some of what is protected there already, and in it somebody's own.
    sandbox.file("project/.vscode/tasks.json", "{}");
    sandbox.dir("project/.claude");
    let before = Snapshot::of(&project);
    let begun = Instant::now();
    start(&sandbox, "agent-first").wait().success();
    let whole = begun.elapsed();
    take_away(&project);
    before.unchanged(&project);
    let mut after_the_end = 0;
    for round in 0..cuts() {
        let victim = VICTIMS[chance.below(4) as usize];
        let mut running: Vec<_> = (0..sandboxes)
            .map(|number| start(&sandbox, &format!("agent-{round}-{number}")))
            .collect();
        let moment = chance.below(u64::try_from(whole.as_micros()).unwrap() * 5 / 4);
        std::thread::sleep(Duration::from_micros(moment));
        // All of them, or one: the others go on with what they share.
        let several = chance.below(2) == 0;
        kill(if several { &running } else { &running[..1] }, victim);
        for running in running.drain(..) {
            let outcome = running.wait();
            after_the_end += u32::from(outcome.code() == Some(0));
        }
        // The next one, in the same project or in another.
        let there = if chance.below(2) == 0 { project.clone() } else { sandbox.outside() };
        sandbox.remount().cwd(there).command(["true"]).run().success();
        take_away(&project);
        let differences = before.differences(&Snapshot::of(&project));
        assert!(differences.is_empty(), "{round}, {victim:?} at {moment} us: {differences:#?}");
    }
    println!("{} cuts, {after_the_end} sandboxes had their end all the same", cuts());
}

#[test]
fn with_one_sandbox() {
    cut(1);
}

#[test]
fn with_three_on_the_same_tree() {
    cut(3);
}
