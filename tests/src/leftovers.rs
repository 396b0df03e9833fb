//! What a run left behind: processes.

use crate::cmd::ID;
use std::time::{Duration, Instant};

/// The processes of the group `group`, or with the command's id in their
/// environment, that are still there after `limit`: `PID COMMAND STATE`.
///
/// The group finds processes whose environment may not be read (a broker or an init
/// that is not dumpable); the environment finds those that left the group.
pub fn after(group: i32, id: &str, limit: Duration) -> Vec<String> {
    let end = Instant::now() + limit;
    loop {
        let found = processes(group, id);
        if found.is_empty() || Instant::now() >= end {
            return found;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn processes(group: i32, id: &str) -> Vec<String> {
    let mark = format!("{ID}={id}\0").into_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("read /proc").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        // Gone meanwhile, or of a hidden user: not one of ours.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((command, rest)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let (state, process_group) = (fields[0], fields[2]);
        if matches!(state, "Z" | "X") {
            continue;
        }
        let marked = || {
            std::fs::read(entry.path().join("environ")).is_ok_and(|environ| {
                environ.split_inclusive(|byte| *byte == 0).any(|entry| entry == mark)
            })
        };
        if process_group == group.to_string() || marked() {
            found.push(format!("{command}) {state}"));
        }
    }
    found
}
