//! The event log: every request is a line, outside, before it is answered.

use remount_tests::{Inside, LIMIT, Sandbox, wait_until};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const CTL: &str = "/run/remount/bin/remountctl";

fn logs(sandbox: &Sandbox) -> Vec<PathBuf> {
    let dir = sandbox.state().join("remount/log");
    std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

fn events(sandbox: &Sandbox) -> Vec<serde_json::Value> {
    let outcome = sandbox.ctl().command(["log", "--json"]).run();
    let text = outcome.success().stdout();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn serve(sandbox: &Sandbox, options: &[&str]) -> Inside {
    let inside = sandbox.remount().options(options).serve();
    wait_until("the sandbox is there", LIMIT, || {
        sandbox.ctl().command(["list"]).run().code() == Some(0)
    });
    inside
}

#[test]
fn every_request_is_a_line_with_who_and_what() {
    let sandbox = Sandbox::new();
    sandbox.remount().command(["true"]).run().success();
    assert_eq!(logs(&sandbox), Vec::<PathBuf>::new(), "nobody asked for anything");
    let script = format!("{CTL} ro workspace; {CTL} rw workspace; {CTL} ro none; true");
    sandbox.remount().options(["--authority", "host"]).sh(&script).run().success();
    let file = logs(&sandbox).remove(0);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let events = events(&sandbox);
    let words: Vec<_> = events.iter().map(|it| it["event"].as_str().unwrap()).collect();
    assert_eq!(words, ["start", "granted", "refused", "refused", "exit"]);
    assert_eq!(events[2]["error"], "not-authorised");
    assert_eq!(events[2]["origin"], "inside");
    assert_eq!(events[2]["uid"], remount_tests::uid());
    assert!(events[2]["command"].as_str().unwrap().contains("remountctl rw workspace"));
    assert_eq!(events[3]["error"], "unknown-target");
    assert!(events.iter().enumerate().all(|(n, it)| it["seq"] == n as u64 + 1));
}

#[test]
fn no_answered_request_is_lost_with_the_launcher() {
    let sandbox = Sandbox::new();
    let inside = serve(&sandbox, &[]);
    sandbox.ctl().command(["ro", "workspace"]).run().success();
    // Kills the launcher at once.
    drop(inside);
    let events = events(&sandbox);
    let ro = events.iter().find(|it| it["event"] == "granted").expect("the line is there");
    assert_eq!((ro["mode"].as_str(), ro["origin"].as_str()), (Some("ro"), Some("outside")));
}

#[test]
fn it_cannot_be_reached_from_inside() {
    let sandbox = Sandbox::new();
    let mut inside = serve(&sandbox, &[]);
    sandbox.ctl().command(["ro", "workspace"]).run().success();
    let file = logs(&sandbox).remove(0);
    let file = file.to_str().unwrap();
    sandbox.host(remount_tests::bin("probe")).command(["append", file]).run().answer().ok();
    for act in ["open-read", "append", "unlink", "truncate"] {
        inside.act([act, file]).errno("ENOENT");
    }
    inside.end();
}

#[test]
fn events_are_followed_as_they_happen() {
    let sandbox = Sandbox::new();
    let inside = serve(&sandbox, &[]);
    sandbox.ctl().command(["ro", "workspace"]).run().success();
    let mut follower = sandbox.ctl().command(["events", "--follow"]).start();
    follower.line_with("granted ro workspace");
    sandbox.ctl().command(["rw", "workspace", "--for", "100ms"]).run().success();
    follower.line_with("granted rw workspace");
    follower.line_with("lease-ended ro workspace");
    inside.end();
    follower.wait().success();
}

#[test]
fn a_target_that_was_moved_away_is_an_event() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("project/dir");
    let inside = serve(&sandbox, &["--toggle", "dir", dir.to_str().unwrap()]);
    sandbox.ctl().command(["ro", "dir"]).run().success();
    let moved = dir.with_file_name("moved");
    std::fs::rename(&dir, &moved).unwrap();
    for _ in 0..2 {
        sandbox.ctl().command(["rw", "dir"]).run().exits(6);
    }
    sandbox.ctl().command(["ro", "dir"]).run().exits(6);
    inside.end();
    let events = events(&sandbox);
    let stale = events.iter().filter(|it| it["event"] == "stale");
    let mut stale: Vec<_> = stale.map(|it| it["targets"][0].as_str().unwrap()).collect();
    stale.sort_unstable();
    // Once each; where the one was there is nothing now that keeps the other from being written to.
    assert_eq!(stale, ["dir", "workspace"], "{events:?}");
}

/// Neither the mount table nor a watch tells of a directory far above that is moved.
#[test]
fn a_move_that_nobody_tells_of_is_noticed_without_being_asked() {
    let sandbox = Sandbox::new();
    let project = sandbox.dir("outside/a/b/c/project");
    let mut inside = sandbox.remount().cwd(&project).serve();
    inside.act(["create", "file"]).ok();
    sandbox.socket();
    let (here, there) = (sandbox.outside().join("a"), sandbox.outside().join("z"));
    let stale = "\"event\":\"stale\",\"targets\":[\"workspace\"]".to_owned();
    let path = project.display();
    let about = |event: &str| format!("\"event\":\"protection-{event}\",\"message\":\"{path}\"");
    let (lost, back) = (about("lost"), about("restored"));
    let count = |event: &str| {
        let file = logs(&sandbox).pop();
        let text = file.map_or(String::new(), |file| std::fs::read_to_string(file).unwrap());
        text.matches(event).count()
    };
    for turn in 1..=2 {
        std::fs::rename(&here, &there).unwrap();
        wait_until("it is written down", LIMIT, || count(&stale) == turn && count(&lost) == turn);
        std::fs::rename(&there, &here).unwrap();
        wait_until("it is seen to be back", LIMIT, || count(&back) == turn);
    }
    assert_eq!(count(&stale), 2, "once each time");
    sandbox.ctl().command(["-s", project.to_str().unwrap(), "ro", "workspace"]).run().success();
    inside.end();
}
