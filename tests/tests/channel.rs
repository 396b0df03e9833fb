//! The broker is reached from every kind of process, and no process keeps it from
//! another.

use remount_tests::{Cmd, Inside, Sandbox, bin, require};

const SHELL_ROUND: &str = "remountctl ro workspace && ! (echo x >file) 2>err.log; \
                           remountctl rw workspace && echo x >file && cat file";

/// A project with a script in it, and the sandbox's command line to run it.
fn with_script(name: &str, script: &str) -> (Sandbox, Cmd) {
    let sandbox = Sandbox::new();
    sandbox.file(format!("project/{name}"), script);
    let command = sandbox.remount();
    (sandbox, command)
}

/// Toggles both ways and checks that it was done. Panics unless all is as it should be.
fn toggles(inside: &mut Inside) {
    inside.ctl("ro workspace", 0);
    inside.act(["write", "file", "x"]).errno("EROFS");
    inside.ctl("rw workspace", 0);
    inside.act(["write", "file", "x"]).ok();
}

#[test]
fn from_a_shell() {
    for shell in ["sh", "bash"] {
        let sandbox = Sandbox::new();
        let script = SHELL_ROUND.replace("2>err.log", "2>/dev/null");
        let outcome = sandbox.remount().command([shell, "-c", &script]).run();
        assert_eq!(outcome.success().stdout(), "workspace: ro\nworkspace: rw\nx\n");
    }
}

#[test]
fn from_python_that_closes_descriptors() {
    let script = r#"
import subprocess, errno
def ctl(mode, **options):
    subprocess.run(["remountctl", mode, "workspace"], check=True, **options)
for options in [{}, {"close_fds": False}, {"start_new_session": True}, {"shell": False, "env": {"PATH": "/run/remount/bin"}}]:
    ctl("ro", **options)
    try:
        open("file", "w")
        raise SystemExit("written while ro")
    except OSError as error:
        assert error.errno == errno.EROFS, error
    ctl("rw", **options)
    open("file", "w").close()
print("done")
"#;
    let (_sandbox, command) = with_script("try.py", script);
    let outcome = command.arg(require("python3")).arg("try.py").run();
    assert!(outcome.success().stdout().ends_with("done\n"), "{outcome}");
}

#[test]
fn from_node() {
    let script = r#"
const { execFileSync, spawnSync, spawn } = require("node:child_process");
const { writeFileSync } = require("node:fs");
function refused() {
  try { writeFileSync("file", "x"); } catch (error) { return error.code; }
  return "written";
}
function expect(got, wanted) { if (got !== wanted) { console.error(got); process.exit(1); } }
execFileSync("remountctl", ["ro", "workspace"]);
expect(refused(), "EROFS");
expect(spawnSync("remountctl", ["rw", "workspace"], { stdio: "inherit" }).status, 0);
expect(refused(), "written");
spawn("sh", ["-c", "remountctl ro workspace"], { detached: true }).on("exit", (code) => {
  expect(code, 0);
  expect(refused(), "EROFS");
  console.log("done");
});
"#;
    let (_sandbox, command) = with_script("try.js", script);
    let outcome = command.arg(require("node")).arg("try.js").run();
    assert!(outcome.success().stdout().ends_with("done\n"), "{outcome}");
}

#[test]
fn with_one_way_shut_the_other_serves_and_with_both_shut_none_does() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    let probe = bin("probe");
    for (prefixes, code) in [
        (&[][..], 0),
        (&["--close-descriptors"], 0),
        (&["--no-connect"], 0),
        (&["--close-descriptors", "--no-connect"], 4),
    ] {
        let start = ["run".as_ref(), probe.as_os_str()].into_iter();
        let words = start.chain(prefixes.iter().map(AsRef::as_ref));
        for mode in ["ro", "rw"] {
            let ctl = ["exec", "remountctl", mode, "workspace"].map(AsRef::as_ref);
            let text = inside.act(words.clone().chain(ctl)).ok();
            assert!(text.starts_with(&format!("{code}\n")), "{prefixes:?}: {text}");
        }
    }
    // That the filter does what it says: the same connection without it.
    let dial = |inside: &mut Inside, prefix: &[&str]| {
        let act = ["connect-unix", "/run/remount/socket"];
        let start = ["run".as_ref(), probe.as_os_str()].into_iter();
        let words = prefix.iter().chain(&act).map(AsRef::<std::ffi::OsStr>::as_ref);
        inside.act(start.chain(words)).ok()
    };
    assert_eq!(dial(&mut inside, &[]), "0\nok\n");
    assert_eq!(dial(&mut inside, &["--no-connect"]), "1\nerrno EPERM\n");
    inside.end().success();
}

#[test]
fn without_the_environment_too() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    for variables in [
        "-i",
        "REMOUNT_CHANNEL=",
        "REMOUNT_CHANNEL=0:1",
        "REMOUNT_CHANNEL=1:0",
        "REMOUNT_CHANNEL=-1:7",
        "REMOUNT_CHANNEL=100:1",
        "REMOUNT_CHANNEL=99999999999999999999:1",
    ] {
        let ctl = "/run/remount/bin/remountctl";
        let (code, text) = inside.run(["env", variables, ctl, "-q", "ro", "workspace"]);
        assert_eq!((code, text.as_str()), (0, ""), "{variables}");
        inside.act(["write", "file", "x"]).errno("EROFS");
        inside.ctl("rw workspace", 0);
    }
    inside.end().success();
}

#[test]
fn after_another_process_has_shut_the_shared_connection_down() {
    for abuse in ["channel-shutdown", "channel-nonblocking"] {
        let sandbox = Sandbox::new();
        let mut inside = sandbox.remount().serve();
        inside.act([abuse]).ok();
        for _ in 0..3 {
            toggles(&mut inside);
        }
        inside.act(["dial", "socket"]).ok();
        inside.act(["client-send", "1", "list\n"]).ok();
        assert!(inside.act(["client-hear", "1"]).ok().starts_with("workspace rw "));
        inside.end().success();
    }
}

#[test]
fn while_the_shared_connection_is_flooded() {
    let sandbox = Sandbox::new();
    // So few descriptors that a broker which kept what it was sent would run out.
    let limited = "ulimit -n 150; exec \"$0\" \"$@\"";
    let command =
        sandbox.host(require("sh")).options(["-c", limited]).option(bin("remount-run")).separated();
    let mut inside = command.serve();
    for round in 0..5 {
        assert_eq!(inside.act(["channel-garbage", "3000"]).ok(), "3000", "round {round}");
        toggles(&mut inside);
        assert_eq!(inside.act(["channel-descriptors", "400"]).ok(), "400", "round {round}");
        toggles(&mut inside);
    }
    // Through the shared connection, not only through the socket beside it.
    inside.act(["dial", "channel", "3"]).ok();
    inside.act(["client-send", "3", "rw workspace\n"]).ok();
    assert_eq!(inside.act(["client-hear", "3"]).ok(), "OK");
    inside.end().success();
}

#[test]
fn the_broker_keeps_no_descriptor_of_those_that_left() {
    let sandbox = Sandbox::new();
    let limited = "ulimit -n 100; exec \"$0\" \"$@\"";
    let command =
        sandbox.host(require("sh")).options(["-c", limited]).option(bin("remount-run")).separated();
    let mut inside = command.serve();
    for way in ["socket", "channel"] {
        // Far more than it may have open, and more than it would have the time to serve.
        for _ in 0..20 {
            inside.act(["dial", way, "30"]).ok();
            inside.act(["hang-up-all"]).ok();
        }
        toggles(&mut inside);
    }
    inside.end().success();
}

#[test]
fn a_crowd_of_silent_clients_starves_nobody() {
    for way in ["socket", "channel"] {
        let sandbox = Sandbox::new();
        let mut inside = sandbox.remount().serve();
        inside.act(["dial", way, "100"]).ok();
        toggles(&mut inside);
        inside.act(["dial", way, "100"]).ok();
        for _ in 0..10 {
            toggles(&mut inside);
        }
        // The newest of them is still served.
        inside.act(["client-send", "200", "ro workspace\n"]).ok();
        assert_eq!(inside.act(["client-hear", "200"]).ok(), "OK");
        inside.end().success();
    }
}

#[test]
fn a_client_that_sends_byte_after_byte_is_served_and_holds_up_nobody() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    for way in ["socket", "channel"] {
        let client = inside.act(["dial", way]).ok();
        for byte in "ro workspace".split("").filter(|byte| !byte.is_empty()) {
            inside.act(["client-send", &client, byte]).ok();
            toggles(&mut inside);
        }
        inside.act(["client-send", &client, "\n"]).ok();
        assert_eq!(inside.act(["client-hear", &client]).ok(), "OK");
        inside.act(["write", "file", "x"]).errno("EROFS");
        inside.ctl("rw workspace", 0);
    }
    inside.end().success();
}

#[test]
fn a_client_that_is_done_sending_still_gets_its_answer() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    for way in ["socket", "channel"] {
        let client = inside.act(["dial", way]).ok();
        inside.act(["client-send", &client, "ro workspace\nrw workspace\nlist\n"]).ok();
        inside.act(["client-half-close", &client]).ok();
        for line in ["OK", "OK"] {
            assert_eq!(inside.act(["client-hear", &client]).ok(), line);
        }
        assert!(inside.act(["client-hear", &client]).ok().starts_with("workspace rw "));
        assert_eq!(inside.act(["client-hear", &client]).ok(), "OK");
        assert_eq!(inside.act(["client-hear", &client]).ok(), "END");
        // A request that was never ended is none.
        let client = inside.act(["dial", way]).ok();
        inside.act(["client-send", &client, "ro workspace"]).ok();
        inside.act(["client-half-close", &client]).ok();
        assert_eq!(inside.act(["client-hear", &client]).ok(), "END");
        inside.act(["write", "file", "x"]).ok();
    }
    inside.end().success();
}

#[test]
fn nonsense_is_answered_and_ends_the_connection_of_its_sender_only() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    let bystander = inside.act(["dial", "socket"]).ok();
    let long = "x".repeat(4096);
    let exact = format!("{}\n", "y".repeat(4095));
    for nonsense in
        [&long, &exact, "{\n", "{\"op\":\"set\"}\n", "bake it\n", "\n", "ro\n", "\u{1}\n"]
    {
        let client = inside.act(["dial", "socket"]).ok();
        inside.act(["client-send", &client, nonsense]).ok();
        let answer = inside.act(["client-hear", &client]).ok();
        let refused = answer.starts_with("ERROR: ") || answer.starts_with("{\"ok\":false");
        assert!(refused, "{nonsense:?}: {answer}");
        assert_eq!(inside.act(["client-hear", &client]).ok(), "END", "{nonsense:?}");
    }
    inside.act(["client-send", &bystander, "ro workspace\n"]).ok();
    assert_eq!(inside.act(["client-hear", &bystander]).ok(), "OK");
    inside.end().success();
}

#[test]
fn the_pid_and_the_path_in_a_classic_line_are_only_claims() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    let project = sandbox.project();
    let project = project.to_str().unwrap();
    let client = inside.act(["dial", "socket"]).ok();
    for (line, fine) in [
        (format!("ro workspace {project}\n"), true),
        (format!("rw workspace {project} 1\n"), true),
        (format!("ro workspace {project} 999999\n"), true),
        (format!("rw workspace {project}\n"), true),
        (format!("ro workspace {project}/other\n"), false),
        ("ro workspace /\n".to_owned(), false),
    ] {
        inside.act(["client-send", &client, &line]).ok();
        let answer = inside.act(["client-hear", &client]).ok();
        assert_eq!(answer == "OK", fine, "{line}: {answer}");
    }
    inside.act(["write", "file", "x"]).ok();
    inside.end().success();
}
