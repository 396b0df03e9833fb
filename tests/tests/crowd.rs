//! Many clients at once, some of them rude: every answer is true, nobody waits for another's
//! slowness, and the broker has in the end what it had before.

use remount_tests::{LIMIT, Sandbox, wait_until};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

/// As many as a broker keeps of one origin; with the slow one and those that look, now and
/// then the longest idle is sent away.
const CLIENTS: u64 = 64;

/// How long: 5 seconds, or `REMOUNT_CROWD` seconds.
fn duration() -> Duration {
    let seconds = std::env::var("REMOUNT_CROWD").map_or(5, |text| text.parse().expect("a number"));
    Duration::from_secs(seconds)
}

/// What the modes have to be.
struct Model {
    socket: PathBuf,
    dirs: Vec<PathBuf>,
    /// One at a time asks for a target, so that its mode is known after each answer; `None`
    /// before the first.
    modes: Vec<Mutex<Option<String>>>,
    /// Held by each request; who has it alone sees a broker at rest.
    rest: RwLock<()>,
    end: Instant,
    /// True answers, and how often all were compared.
    answers: AtomicUsize,
    compared: AtomicUsize,
}

/// So much has to happen, however slow the machine is.
const ANSWERS: usize = 1000;
const COMPARISONS: usize = 5;

fn ask(stream: &mut UnixStream, line: &str) -> Option<serde_json::Value> {
    stream.write_all(line.as_bytes()).ok()?;
    let mut answer = String::new();
    // One that was the longest idle may have been sent away.
    match BufReader::new(&*stream).read_line(&mut answer) {
        Ok(0) => None,
        Ok(_) => Some(serde_json::from_str(&answer).unwrap()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
        Err(error) => panic!("no answer within {LIMIT:?}: {error}"),
    }
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

impl Model {
    fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    fn goes_on(&self) -> bool {
        let now = Instant::now();
        now < self.end || (!self.is_enough() && now < self.end + LIMIT)
    }

    fn is_enough(&self) -> bool {
        self.answers() >= ANSWERS && self.compared.load(Ordering::Relaxed) >= COMPARISONS
    }

    /// One client after the other, each for some requests.
    fn client(&self, number: u64) {
        let mut chance = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number + 1) | 1;
        let mut below = |bound: u64| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance % bound
        };
        while self.goes_on() {
            let mut stream = connect(&self.socket);
            for _ in 0..below(20) {
                let (target, wish) = (below(4), ["ro", "rw"][below(2) as usize]);
                let line =
                    format!("{{\"op\":\"set\",\"targets\":[\"t{target}\"],\"mode\":\"{wish}\"}}\n");
                if below(10) == 0 {
                    // Killed in the middle of a request: it never was one.
                    let cut = below(line.len() as u64) as usize;
                    stream.write_all(&line.as_bytes()[..cut]).unwrap_or(());
                    break;
                }
                let _working = self.rest.read().unwrap();
                let mut mode = self.modes[target as usize].lock().unwrap();
                if below(20) == 0 {
                    // Killed before the answer: it may be carried out or not.
                    stream.write_all(line.as_bytes()).unwrap_or(());
                    drop(stream);
                    *mode = self.settled(target as usize);
                    break;
                }
                let Some(answer) = ask(&mut stream, &line) else {
                    // Sent away as the longest idle: the same holds.
                    drop(stream);
                    *mode = self.settled(target as usize);
                    break;
                };
                assert_eq!(answer["ok"], true, "{answer}");
                assert_eq!(answer["targets"][0]["mode"], wish, "{answer}");
                *mode = Some(wish.to_owned());
                self.answers.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// One byte a second, all the while; whatever becomes of it.
    fn slow(&self) {
        let mut stream = connect(&self.socket);
        for byte in b"{\"op\":\"list\"}\n".iter().cycle() {
            if !self.goes_on() {
                return;
            }
            if stream.write_all(&[*byte]).is_err() {
                stream = connect(&self.socket);
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    fn mode_in(&self, list: &serde_json::Value, number: usize) -> String {
        let targets = list["targets"].as_array().unwrap();
        let dir = self.dirs[number].to_str().unwrap();
        let told = targets.iter().find(|target| target["path"] == dir).unwrap();
        told["mode"].as_str().unwrap().to_owned()
    }

    /// The mode after a request of somebody who is gone. One who comes later may be answered
    /// in the turn in which that request is heard, which is carried out at the turn's end.
    fn settled(&self, number: usize) -> Option<String> {
        self.told(number)?;
        self.told(number)
    }

    fn told(&self, number: usize) -> Option<String> {
        let list = ask(&mut connect(&self.socket), "{\"op\":\"list\"}\n")?;
        Some(self.mode_in(&list, number))
    }

    /// Whenever all are between two requests: broker, kernel and model say the same.
    fn compare(&self) {
        while self.goes_on() {
            std::thread::sleep(Duration::from_millis(20));
            let _alone = self.rest.write().unwrap();
            let Some(list) = ask(&mut connect(&self.socket), "{\"op\":\"list\"}\n") else {
                continue;
            };
            for (number, mode) in self.modes.iter().enumerate() {
                let Some(mode) = mode.lock().unwrap().clone() else { continue };
                assert_eq!(self.mode_in(&list, number), mode, "{list}");
            }
            self.compared.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A line of the broker's status.
fn status_of(pid: &str, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How many descriptors the broker has open. Only root may know; for others it is none.
fn descriptors(pid: &str) -> usize {
    match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => entries.count(),
        Err(_) => {
            assert!(!remount_tests::as_root());
            0
        }
    }
}

/// The broker's process id: of the launcher's two children the one that is in no PID
/// namespace of its own.
fn broker(launcher: &str) -> String {
    let children = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children"));
    let depth = |pid: &&str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let ids = status.lines().find(|line| line.starts_with("NSpid")).unwrap().to_owned();
        ids.split_whitespace().count()
    };
    children.unwrap().split_whitespace().min_by_key(depth).unwrap().to_owned()
}

#[test]
fn a_crowd_of_clients_gets_true_answers_and_costs_nothing() {
    let sandbox = Sandbox::new();
    let dirs: Vec<_> = (0..4).map(|n| sandbox.dir(format!("project/t{n}"))).collect();
    let mut options = Vec::new();
    for (n, dir) in dirs.iter().enumerate() {
        options.extend(["--toggle".to_owned(), format!("t{n}"), dir.to_str().unwrap().to_owned()]);
    }
    let inside = sandbox.remount().options(&options).serve();
    let socket = sandbox.socket();
    let status = ask(&mut connect(&socket), "{\"op\":\"status\"}\n").unwrap();
    let broker = broker(&status["sandbox"]["pid"].to_string());
    let model = Model {
        socket,
        dirs,
        modes: (0..4).map(|_| Mutex::new(None)).collect(),
        rest: RwLock::new(()),
        end: Instant::now() + duration(),
        answers: AtomicUsize::new(0),
        compared: AtomicUsize::new(0),
    };
    let table = status_of(&broker, "FDSize");
    let open = descriptors(&broker);
    let memory = std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let model = &model;
            scope.spawn(move || model.client(number));
        }
        scope.spawn(|| model.slow());
        scope.spawn(|| model.compare());
        // All that it ever needs it has after a while.
        wait_until("it is busy", LIMIT, || model.answers() > ANSWERS / 4);
        std::thread::sleep(duration() / 4);
        status_of(&broker, "VmRSS")
    });
    let (answers, compared) = (model.answers(), model.compared.load(Ordering::Relaxed));
    println!("{answers} true answers, compared {compared} times");
    assert!(model.is_enough(), "{answers} answers, compared {compared} times");
    assert!(status_of(&broker, "FDSize") <= table.max(128), "descriptors are kept");
    // The event log is one that it has not had before.
    wait_until("only what was open before is open", LIMIT, || descriptors(&broker) <= open + 1);
    let grown = status_of(&broker, "VmRSS").saturating_sub(memory);
    assert!(grown < 256, "the broker has grown by {grown} KiB");
    inside.end();
}
