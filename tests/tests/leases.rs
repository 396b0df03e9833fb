//! Write access that ends by itself.

use remount_tests::{LIMIT, Sandbox, wait_until};
use std::time::{Duration, Instant};

const CTL: &str = "/run/remount/bin/remountctl";

fn workspace(sandbox: &Sandbox) -> serde_json::Value {
    let outcome = sandbox.ctl().command(["status", "--json"]).run();
    let status: serde_json::Value = serde_json::from_str(&outcome.success().stdout()).unwrap();
    status["targets"][0].clone()
}

fn is_ro(sandbox: &Sandbox) -> bool {
    workspace(sandbox)["mode"] == "ro"
}

/// A sandbox that stays, read-only.
fn closed(sandbox: &Sandbox) -> remount_tests::Inside {
    let inside = sandbox.remount().serve();
    wait_until("the sandbox is there", LIMIT, || {
        sandbox.ctl().command(["-q", "ro", "workspace"]).run().code() == Some(0)
    });
    inside
}

#[test]
fn a_lease_ends_at_its_time() {
    let sandbox = Sandbox::new();
    let mut inside = closed(&sandbox);
    inside.act(["create", "a"]).errno("EROFS");
    sandbox.ctl().command(["rw", "workspace", "--for", "1h"]).run().success();
    inside.act(["create", "a"]).ok();
    let left = workspace(&sandbox)["lease"]["left-ms"].as_u64().unwrap();
    assert!((1..=3_600_000).contains(&left), "{left}");
    // The last word counts.
    let started = Instant::now();
    sandbox.ctl().command(["rw", "workspace", "--for", "1s"]).run().success();
    wait_until("it is read-only", LIMIT, || is_ro(&sandbox));
    assert!(started.elapsed() >= Duration::from_millis(900));
    inside.act(["create", "b"]).errno("EROFS");
    assert!(workspace(&sandbox)["lease"].is_null());
    inside.end();
}

#[test]
fn a_busy_lease_ends_as_soon_as_it_can_and_says_so() {
    let sandbox = Sandbox::new();
    let mut inside = closed(&sandbox);
    sandbox.ctl().command(["rw", "workspace"]).run().success();
    sandbox.file("project/log", "");
    let fd = inside.act(["hold", "write", "log"]).ok();
    sandbox.ctl().command(["rw", "workspace", "--for", "200ms"]).run().success();
    wait_until("it is closing", LIMIT, || workspace(&sandbox)["lease"]["closing"] == true);
    assert_eq!(workspace(&sandbox)["mode"], "rw");
    let shown = sandbox.ctl().command(["status"]).run();
    assert!(shown.success().stdout().contains("closing"), "{shown}");
    inside.act(["close", &fd]).ok();
    wait_until("it is read-only", LIMIT, || is_ro(&sandbox));
    inside.end();
}

#[test]
fn it_is_writable_while_a_command_runs() {
    let sandbox = Sandbox::new();
    let script = format!(
        "{CTL} -q ro workspace; touch a 2>/dev/null || echo closed; {CTL} rw workspace -- sh -c ': > b && exit 7'; \
         echo $?; touch c 2>/dev/null || echo closed; {CTL} rw workspace -- no-such-command; echo $?; \
         {CTL} rw workspace -- sh -c 'kill -9 $$'; echo $?"
    );
    let outcome = sandbox.remount().sh(&script).run();
    assert_eq!(outcome.success().stdout(), "closed\n7\nclosed\n127\n137\n");
    assert!(sandbox.project().join("b").exists() && !sandbox.project().join("c").exists());
}

#[test]
fn it_ends_with_the_client_however_that_ends() {
    let sandbox = Sandbox::new();
    let inside = closed(&sandbox);
    let mut client = sandbox
        .ctl()
        .command(["rw", "workspace", "--", "sh", "-c", "echo here; exec sleep 100"])
        .may_leave_processes()
        .start();
    assert_eq!(client.line(), "here");
    assert_eq!(workspace(&sandbox)["lease"]["held"], 1);
    // A second one, which ends first: the target stays as it is for the other.
    sandbox.ctl().command(["rw", "workspace", "--", "true"]).run().success();
    assert!(!is_ro(&sandbox));
    client.kill(rustix::process::Signal::KILL);
    wait_until("it is read-only", LIMIT, || is_ro(&sandbox));
    drop(client);
    inside.end();
}

#[test]
fn the_profile_limits_every_lease() {
    let sandbox = Sandbox::new();
    let profile =
        sandbox.file("home/p.toml", "extends = [\"default\"]\n[sandbox]\nmax-lease = \"1s\"\n");
    let inside = sandbox.remount().option("--profile").option(&profile).serve();
    wait_until("the sandbox is there", LIMIT, || {
        sandbox.ctl().command(["-q", "ro", "workspace"]).run().code() == Some(0)
    });
    for words in [&["rw", "workspace"][..], &["rw", "workspace", "--for", "1h"]] {
        sandbox.ctl().command(words).run().success();
        // None if it has ended meanwhile.
        let left = workspace(&sandbox)["lease"]["left-ms"].as_u64();
        assert!(left.is_none_or(|left| left <= 1000), "{left:?}");
        wait_until("it is read-only", LIMIT, || is_ro(&sandbox));
    }
    inside.end();
}
