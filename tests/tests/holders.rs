//! A busy target: who holds it is named, can be waited for, and can be ended.

use remount_tests::{Cmd, Inside, LIMIT, Sandbox, bin, wait_until};
use std::time::{Duration, Instant};

const CTL: &str = "/run/remount/bin/remountctl";

/// A shell in the sandbox, one command a line.
fn shell(sandbox: &Sandbox) -> remount_tests::Running {
    let limit =
        Duration::from_secs(if std::env::var_os("REMOUNT_CHURN").is_some() { 900 } else { 120 });
    let mut shell = sandbox.remount().command(["sh"]).timeout(limit).start_interactive();
    shell.send("echo ready\n");
    assert_eq!(shell.line().trim(), "ready");
    reachable(sandbox);
    shell
}

/// Waits until the sandbox can be reached from outside: that takes a moment longer.
fn reachable(sandbox: &Sandbox) {
    wait_until("the sandbox is there", LIMIT, || {
        !sandbox.ctl().command(["ps", "--json"]).run().stdout().is_empty()
    });
}

/// A process inside that has `path` open for writing; its pid there.
fn hold(shell: &mut remount_tests::Running, path: &str, trap: &str) -> String {
    shell.send(format!(
        "sh -c '{trap} exec 3>>\"$1\"; echo holds; while :; do sleep 1 3>&-; done' holder {path} & echo $!\n"
    ));
    let mut lines = [shell.line(), shell.line()].map(|line| line.trim().to_owned());
    lines.sort();
    assert_eq!(lines[1], "holds");
    lines[0].clone()
}

fn status(sandbox: &Sandbox) -> serde_json::Value {
    let outcome = sandbox.ctl().command(["status", "--json"]).run();
    serde_json::from_str(&outcome.success().stdout()).expect("JSON")
}

#[test]
fn a_holder_is_named_and_nothing_changes() {
    let sandbox = Sandbox::new();
    let mut shell = shell(&sandbox);
    sandbox.ctl().command(["ro", "workspace"]).run().success();
    sandbox.ctl().command(["rw", "workspace"]).run().success();
    let pid = hold(&mut shell, "log", "");
    let outcome = sandbox.ctl().command(["ro", "workspace"]).run();
    outcome.exits(3).says("is open for writing").says("holder").says("open").says("hint:");
    let log = sandbox.project().join("log");
    outcome.says(log.to_str().unwrap());
    let holders = sandbox.ctl().command(["holders", "workspace", "--json"]).run();
    let holders: serde_json::Value = serde_json::from_str(&holders.success().stdout()).unwrap();
    let holder = &holders["holders"][0];
    assert_eq!(holder["pid-inside"].to_string(), pid);
    assert_eq!(
        (holder["kind"].as_str(), holder["target"].as_str()),
        (Some("open"), Some("workspace"))
    );
    assert_eq!(holder["path"].as_str(), log.to_str());
    // The number outside is that of the very process.
    let outside = std::fs::read(format!("/proc/{}/cmdline", holder["pid"])).unwrap();
    assert!(String::from_utf8_lossy(&outside).contains("holder"), "{holder}");
    assert_eq!(status(&sandbox)["targets"][0]["mode"], "rw");
    shell.send(format!("kill {pid}; wait\n{CTL} ro workspace\n"));
    assert_eq!(shell.line().trim(), "workspace: ro");
    shell.close_stdin();
    shell.wait();
}

#[test]
fn a_mapping_is_found_and_a_reader_is_none() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("project/data", vec![0_u8; 8192]);
    let file = file.to_str().unwrap();
    let mut inside = sandbox.remount().serve();
    reachable(&sandbox);
    inside.act(["hold", "read", file]).ok();
    sandbox.ctl().command(["ro", "workspace"]).run().success();
    sandbox.ctl().command(["rw", "workspace"]).run().success();
    inside.act(["map", file]).ok();
    let outcome = sandbox.ctl().command(["ro", "workspace"]).run();
    outcome.exits(3).says("mapped").says(file);
    inside.act(["unmap"]).ok();
    sandbox.ctl().command(["ro", "workspace"]).run().success();
    inside.end();
}

#[test]
fn waiting_ends_in_time_and_with_the_holder() {
    let sandbox = Sandbox::new();
    let mut shell = shell(&sandbox);
    let pid = hold(&mut shell, "log", "");
    let started = Instant::now();
    sandbox.ctl().command(["ro", "workspace", "--wait", "1s"]).run().exits(3);
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    let waiting = sandbox.ctl().command(["ro", "workspace", "--wait", "100s"]).start();
    std::thread::sleep(Duration::from_millis(400));
    // Whoever waits keeps nobody from the target.
    sandbox.ctl().command(["rw", "workspace"]).run().success();
    shell.send(format!("kill {pid}\n"));
    waiting.wait().success();
    assert_eq!(status(&sandbox)["targets"][0]["mode"], "ro");
    shell.close_stdin();
    shell.wait();
}

#[test]
fn killing_ends_holders_of_the_sandbox_only() {
    let sandbox = Sandbox::new();
    // The same name, the same file, outside.
    let twin = sandbox.project().join("log");
    let twin = twin.to_str().unwrap();
    let script = "exec 3>>\"$1\"; echo holds; while :; do sleep 1; done";
    let mut outside =
        Cmd::plain("/bin/sh").command(["-c", script, "holder", twin]).start_interactive();
    assert_eq!(outside.line().trim(), "holds");
    let mut shell = shell(&sandbox);
    hold(&mut shell, "log", "trap \"\" TERM;");
    let started = Instant::now();
    sandbox.ctl().command(["ro", "workspace", "--kill", "--grace", "300ms"]).run().success();
    assert!(started.elapsed() >= Duration::from_millis(300), "SIGTERM is ignored: SIGKILL did it");
    assert_eq!(status(&sandbox)["targets"][0]["mode"], "ro");
    assert!(outside.runs(), "a process outside was ended");
    outside.kill(rustix::process::Signal::KILL);
    outside.wait();
    shell.close_stdin();
    shell.wait();
}

/// A descriptor of the sandbox's own mount, handed to a process outside.
#[test]
fn a_holder_outside_is_never_ended() {
    let sandbox = Sandbox::new();
    let keep = r#"
import array, socket, time
s = socket.socket(socket.AF_UNIX)
s.bind("door")
s.listen()
print("listens", flush=True)
c, _ = s.accept()
message = c.recvmsg(1, socket.CMSG_SPACE(4))
c.sendall(b"x")
print("holds", flush=True)
time.sleep(600)
"#;
    let give = r#"
import array, os, socket, time
fd = os.open("log", os.O_WRONLY | os.O_CREAT)
s = socket.socket(socket.AF_UNIX)
s.connect("door")
s.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
s.recv(1)
os.close(fd)
print("given", flush=True)
time.sleep(600)
"#;
    let [keep, give] = [("keep.py", keep), ("give.py", give)]
        .map(|(name, text)| sandbox.file(format!("project/{name}"), text));
    let python = remount_tests::require("python3");
    let mut outside = sandbox.host(&python).arg(&keep).cwd(sandbox.project()).start();
    assert_eq!(outside.line(), "listens");
    let mut inside = sandbox.remount().arg(&python).arg(&give).start();
    assert_eq!(inside.line(), "given");
    reachable(&sandbox);
    let outcome =
        sandbox.ctl().command(["ro", "workspace", "--kill", "--grace", "100ms", "--force"]).run();
    outcome.exits(3);
    if remount_tests::as_root() {
        outcome.says("is no process of the sandbox");
    }
    assert_eq!(status(&sandbox)["targets"][0]["mode"], "rw");
    assert!(outside.runs(), "a process outside was ended");
    outside.kill(rustix::process::Signal::KILL);
    outside.wait();
    sandbox.ctl().command(["ro", "workspace"]).run().success();
    inside.kill(rustix::process::Signal::TERM);
    inside.wait();
}

#[test]
fn the_asking_process_is_spared_unless_forced() {
    let sandbox = Sandbox::new();
    let script = format!(
        "exec 3>>log; {CTL} ro workspace --kill; echo $?; exec 3>&-; {CTL} ro workspace --kill; echo $?"
    );
    let outcome = sandbox.remount().sh(&script).run();
    outcome.success().says("started, the one that asks").says("--force");
    assert_eq!(outcome.stdout(), "3\nworkspace: ro\n0\n");
    let script = format!(
        "sh -c 'exec 3>>log; {CTL} ro workspace --kill --force; echo not reached'; echo $?
         until {CTL} list | grep -q 'workspace  ro'; do sleep 0.01; done; echo closed"
    );
    let outcome = sandbox.remount().sh(&script).run();
    assert_eq!(outcome.stdout(), "143\nclosed\n", "{outcome}");
}

/// Outside, where the answer to that has nobody left to come from.
#[test]
fn it_is_said_that_the_sandbox_ended_with_its_own_command() {
    let sandbox = Sandbox::new();
    // The target stays busy until the sandbox has ended: there is nothing else to answer.
    let script =
        "exec 3>>log; sh -c 'trap \"\" TERM; echo holds; while :; do sleep 1; done' & wait";
    let mut command = sandbox.remount().sh(script).start();
    assert_eq!(command.line().trim(), "holds");
    reachable(&sandbox);
    let id = sandbox.socket().file_stem().unwrap().to_str().unwrap().to_owned();
    let kill = ["ro", "workspace", "--kill", "--grace", "60s"];
    let outcome = sandbox.ctl().command(kill).run();
    outcome.exits(1).says(&format!("sandbox {id} ended before it answered"));
    outcome.says("hint: its own command seems to be one of those that were ended");
    assert_eq!(command.wait().code(), Some(143));
}

/// How often the modes are switched under churn: 30 times, or `REMOUNT_CHURN` times.
fn times() -> u32 {
    std::env::var("REMOUNT_CHURN").map_or(30, |times| times.parse().expect("a number"))
}

/// On two processors more processes make and remove directories than there are processors,
/// two of them in the same one: without help there is hardly an instant without a writer.
#[test]
fn heavy_churn_is_no_holder_and_nobody_is_left_standing() {
    let sandbox = Sandbox::new();
    let dirs = ["a", "a", "b", "c"].map(|name| sandbox.dir(format!("project/{name}")));
    let mut shell = shell(&sandbox);
    for dir in &dirs {
        let probe = bin("probe").display().to_string();
        shell.send(format!("{probe} churn {} & pids=\"$pids $!\"\n", dir.display()));
    }
    // One that had been stopped before stays so.
    shell.send("sleep 1000 & sleeper=$!; kill -STOP $sleeper; echo stopped\n");
    assert_eq!(shell.line().trim(), "stopped");
    shell.send(format!(
        "i=0; while [ $i -lt {} ]; do \
         {CTL} -q ro workspace || echo ro $i; {CTL} -q rw workspace || echo rw $i; \
         i=$((i+1)); done; echo done\n",
        times()
    ));
    assert_eq!(shell.line().trim(), "done");
    let state = "for p in /proc/[0-9]*/stat; do line=; read -r line <$p; rest=${line##*) }; echo ${rest%% *}; done \
                 | grep -c T; kill -CONT $sleeper; kill $sleeper; echo end\n";
    shell.send(state);
    assert_eq!(shell.line().trim(), "1", "only the one that was stopped before");
    assert_eq!(shell.line().trim(), "end");
    shell.send("n=0; for p in $pids; do kill $p && n=$((n+1)); done; echo $n; exit\n");
    assert_eq!(shell.line().trim(), dirs.len().to_string());
    shell.close_stdin();
    shell.wait();
}

/// One mount of several is busy: all stay as they are, and each has its own mode after
/// every step, by the kernel's word and by writing.
#[test]
fn a_busy_mount_below_a_target_keeps_all_of_it_as_it_was() {
    let sandbox = Sandbox::new();
    let [below, plans, kept] =
        ["below", "plans", "kept"].map(|name| sandbox.dir(format!("project/{name}")));
    let path = |dir: &std::path::Path| dir.to_str().unwrap().to_owned();
    let mut inside = sandbox
        .host(bin("probe"))
        .options(["--userns", "--tmpfs", &path(&below), "exec"])
        .option(bin("remount-run"))
        .options(["--toggle", "plans", &path(&plans), "--protect", &path(&kept)])
        .separated()
        .serve();
    let ctl = |inside: &mut Inside, words: &[&str]| inside.act([&["ask", CTL], words].concat());
    let modes = |inside: &mut Inside, expected: [&str; 4]| {
        let table = inside.act(["read", "/proc/self/mountinfo"]).ok();
        let project = sandbox.project();
        for (dir, mode) in [&project, &below, &plans, &kept].into_iter().zip(expected) {
            let line = table.lines().rfind(|line| line.split(' ').nth(4) == dir.to_str()).unwrap();
            let flags = line.split(' ').nth(5).unwrap();
            assert!(flags.starts_with(mode), "{mode}: {line}");
            let file = path(&dir.join("new"));
            let made = inside.act(["create", &file]);
            if mode == "rw" {
                made.ok();
                inside.act(["unlink", &file]).ok();
            } else {
                made.errno("EROFS");
            }
        }
    };
    modes(&mut inside, ["rw", "rw", "rw", "ro"]);
    inside.act(["create", &path(&below.join("log"))]).ok();
    let log = inside.act(["hold", "write", &path(&below.join("log"))]).ok();
    ctl(&mut inside, &["ro", "workspace"]).errno("EBUSY");
    modes(&mut inside, ["rw", "rw", "rw", "ro"]);
    inside.act(["close", &log]).ok();
    ctl(&mut inside, &["ro", "workspace"]).ok();
    modes(&mut inside, ["ro", "ro", "rw", "ro"]);
    ctl(&mut inside, &["ro", "plans"]).ok();
    modes(&mut inside, ["ro", "ro", "ro", "ro"]);
    ctl(&mut inside, &["rw", "workspace"]).ok();
    modes(&mut inside, ["rw", "rw", "ro", "ro"]);
    ctl(&mut inside, &["rw", "--all"]).ok();
    modes(&mut inside, ["rw", "rw", "rw", "ro"]);
    inside.end().success();
}
