//! On a real terminal: job control, Ctrl-C, Ctrl-Z, window size, and who owns it.

use remount_tests::{LIMIT, Pty, Sandbox, Tmux, bin, require, wait_until};

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_Z: &str = "\x1a";

/// An interactive bash that reads no files and prompts with `name> `.
fn shell(name: &str) -> [String; 6] {
    let prompt = format!("PS1={name}> ");
    let words = ["env", &prompt, "PS2=", "bash", "--norc", "-i"];
    words.map(str::to_owned)
}

/// An interactive bash outside, as a person has it, at its prompt.
fn outer(sandbox: &Sandbox) -> Pty {
    let [env, rest @ ..] = shell("outer");
    let mut pty = sandbox.host(require(&env)).command(rest).pty(80, 24);
    pty.expect("outer> ");
    pty
}

/// The launcher's words, for a shell to run.
fn launch(command: &str) -> String {
    format!("'{}' -- {command}\n", bin("remount-run").display())
}

fn inner(sandbox: &Sandbox) -> Pty {
    let mut pty = sandbox.remount().command(shell("inner")).pty(80, 24);
    let greeting = pty.expect("inner> ");
    assert!(!greeting.contains("job control") && !greeting.contains("process group"), "{greeting}");
    pty
}

/// Runs the probe's `cat`-like wait inside and waits until it has the terminal: a word
/// that is not in what was typed says so.
fn start(pty: &mut Pty, command: &str) {
    pty.send(&format!("sh -c 'echo be\"\"gun; exec {command}'\n"));
    pty.expect("begun");
}

#[test]
fn ctrl_c_ends_the_program_in_the_foreground_and_not_the_shell() {
    let sandbox = Sandbox::new();
    let mut pty = inner(&sandbox);
    for _ in 0..3 {
        start(&mut pty, "sleep 600");
        pty.send(CTRL_C);
        pty.expect("inner> ");
        pty.send("echo code $?\n");
        pty.expect("code 130");
        pty.expect("inner> ");
    }
    pty.send("exit 5\n");
    assert_eq!(pty.wait().0.code(), Some(5));
}

#[test]
fn ctrl_c_ends_a_plain_command_with_130() {
    let sandbox = Sandbox::new();
    let mut pty = sandbox.remount().sh("echo begun; exec sleep 600").pty(80, 24);
    pty.expect("begun");
    pty.send(CTRL_C);
    assert_eq!(pty.wait().0.code(), Some(130));
}

#[test]
fn a_key_is_one_signal() {
    let sandbox = Sandbox::new();
    // A shell may take a signal for its child's, and forget it.
    let script = "import signal\n\
                  keys = {signal.SIGINT, signal.SIGQUIT}\n\
                  signal.pthread_sigmask(signal.SIG_BLOCK, keys)\n\
                  print('begun', flush=True)\n\
                  while signal.sigwait(keys) == signal.SIGINT: print('got it', flush=True)\n\
                  raise SystemExit(4)";
    let mut pty = sandbox.remount().command(["python3", "-c", script]).pty(80, 24);
    pty.expect("begun");
    for _ in 0..5 {
        pty.send(CTRL_C);
        pty.expect("got it");
    }
    pty.send("\x1c");
    let (status, shown) = pty.wait();
    assert_eq!(status.code(), Some(4));
    assert_eq!(shown.matches("got it").count(), 5, "{shown}");
}

#[test]
fn a_shell_inside_has_job_control() {
    let sandbox = Sandbox::new();
    let mut pty = inner(&sandbox);
    start(&mut pty, "sleep 600");
    pty.send(CTRL_Z);
    pty.expect("Stopped");
    pty.expect("inner> ");
    pty.send("jobs; bg; kill %1; wait; echo d\"\"one\n");
    pty.expect("done");
    start(&mut pty, "cat");
    pty.send(CTRL_Z);
    pty.expect("Stopped");
    pty.expect("inner> ");
    pty.send("fg\n");
    pty.expect("exec cat");
    pty.send("echoed\n");
    pty.expect("echoed\r\nechoed");
    pty.send(CTRL_D);
    pty.expect("inner> ");
    pty.send("exit\n");
    assert!(pty.wait().0.success());
}

#[test]
fn ctrl_z_stops_the_job_of_the_outer_shell_and_fg_resumes_it() {
    let sandbox = Sandbox::new();
    let mut pty = outer(&sandbox);
    for _ in 0..3 {
        pty.send(&launch("sh -c 'echo be\"\"gun; exec cat'"));
        pty.expect("begun");
        pty.send(CTRL_Z);
        pty.expect("Stopped");
        pty.expect("outer> ");
        // The outer shell has the terminal again.
        pty.send("echo still h\"\"ere\n");
        pty.expect("still here");
        pty.send("fg\n");
        pty.expect("cat");
        pty.send("echoed\n");
        pty.expect("echoed\r\nechoed");
        pty.send(CTRL_D);
        pty.expect("outer> ");
        pty.send("echo code $?\n");
        pty.expect("code 0");
    }
    pty.send("exit\n");
    assert!(pty.wait().0.success());
}

#[test]
fn a_stopped_job_can_be_killed_or_go_on_in_the_background() {
    let sandbox = Sandbox::new();
    let mut pty = outer(&sandbox);
    pty.send(&launch("sh -c 'echo be\"\"gun; read line; exit 6'"));
    pty.expect("begun");
    pty.send(CTRL_Z);
    pty.expect("Stopped");
    pty.send("bg\n");
    // It reads, in the background: stopped again, and so is the job.
    pty.expect("outer> ");
    pty.send("while ! jobs | grep -q Stopped; do :; done; echo st\"\"opped\n");
    pty.expect("stopped");
    let launcher = children(pty.pid())[0];
    pty.send("kill %1\n");
    wait_until("the job has ended", LIMIT, || has_ended(launcher));
    pty.send("\n");
    pty.expect("Exit 143");
    pty.send("exit\n");
    assert!(pty.wait().0.success());
}

#[test]
fn a_job_in_the_background_ends_without_taking_the_terminal() {
    let sandbox = Sandbox::new();
    let mut pty = outer(&sandbox);
    let script = "echo be\"\"gun; while [ ! -e go ]; do sleep 0.01; done; exit 6";
    for _ in 0..3 {
        // Not dash: one that is just starting a child (vfork) does not stop, anywhere.
        pty.send(&launch(&format!("bash -c '{script}'")));
        pty.expect("begun");
        pty.send(CTRL_Z);
        pty.expect("Stopped");
        pty.expect("outer> ");
        pty.send("bg\n");
        pty.expect("outer> ");
        // The shell waits at its prompt while the job ends.
        let go = sandbox.file("project/go", "");
        let launcher = *children(pty.pid()).last().expect("the job");
        wait_until("the job has ended", LIMIT, || has_ended(launcher));
        pty.send("echo still h\"\"ere\n");
        pty.expect("still here");
        pty.send("read word; echo got $word\nabc\n");
        pty.expect("got abc");
        pty.expect("outer> ");
        std::fs::remove_file(go).unwrap();
    }
    pty.send("exit\n");
    pty.wait();
}

#[test]
fn suspend_in_an_inner_shell_comes_back_to_the_outer() {
    let sandbox = Sandbox::new();
    let mut pty = outer(&sandbox);
    pty.send(&launch("env PS1='in\"\"ner> ' bash --norc -i"));
    pty.expect("ner> ");
    for _ in 0..2 {
        pty.send("suspend\n");
        pty.expect("Stopped");
        pty.send("echo out $$\n");
        pty.expect("outer> ");
        pty.send("fg\n");
        pty.expect("bash --norc -i");
        pty.send("echo al\"\"ive\n");
        pty.expect("alive");
    }
    pty.send("exit 7\n");
    pty.expect("outer> ");
    pty.send("echo code $?\n");
    pty.expect("code 7");
    pty.send("exit\n");
    assert!(pty.wait().0.success());
}

#[test]
fn a_suspended_agent_can_still_be_switched() {
    let sandbox = Sandbox::new();
    sandbox.file("project/file", "");
    let mut pty = outer(&sandbox);
    // A process of another session goes on when the job is stopped.
    let script = "(setsid sh -c 'echo >/tmp/apart; while [ ! -e go ]; do sleep 0.01; done; \
                  remountctl ro workspace >/tmp/log 2>&1; echo $? >/tmp/code' </dev/null &); \
                  while [ ! -e /tmp/apart ]; do sleep 0.01; done; \
                  echo be\"\"gun; read line; while [ ! -e /tmp/code ]; do sleep 0.01; done; cat /tmp/code; echo x >file; cat /tmp/log";
    pty.send(&launch(&format!("bash -c '{}'", script.replace('\'', "'\\''"))));
    pty.expect("begun");
    pty.send(CTRL_Z);
    pty.expect("Stopped");
    sandbox.file("project/go", "");
    // Read-only inside, from the outside: mountinfo of the sandbox's init.
    let wanted = format!(" {} ro,", sandbox.project().display());
    let launcher = children(pty.pid())[0];
    wait_until("the target is switched", LIMIT, || {
        // Launcher, init, agent: who may read whose table depends on who we are.
        let below = |pid: i32| std::iter::once(pid).chain(children(pid));
        let table = |pid| std::fs::read_to_string(format!("/proc/{pid}/mountinfo"));
        let mut tables =
            children(launcher).into_iter().flat_map(below).filter_map(|p| table(p).ok());
        tables.any(|table| table.contains(&wanted))
    });
    pty.send("fg\n");
    pty.send("\n");
    pty.expect("Read-only file system");
    pty.expect("workspace: ro");
    pty.expect("outer> ");
    pty.send("exit\n");
    pty.wait();
}

fn has_ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    text.unwrap_or_default().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn the_window_size_arrives_and_so_does_its_change() {
    let sandbox = Sandbox::new();
    let script = "trap 'stty size' WINCH; stty size; echo begun; while :; do sleep 0.05; done";
    let mut pty = sandbox.remount().sh(script).pty(80, 24);
    pty.expect("24 80");
    pty.expect("begun");
    pty.resize(132, 50);
    pty.expect("50 132");
    pty.send(CTRL_C);
    assert_eq!(pty.wait().0.code(), Some(130));
}

#[test]
fn the_terminal_is_the_outer_scripts_again_afterwards() {
    let sandbox = Sandbox::new();
    let launcher = bin("remount-run");
    let run = format!("'{}' -- env PS1='inner> ' bash --norc -i", launcher.display());
    let script = format!(
        "echo first; {run}; read word; echo \"got $word\"; {run}; read word; echo \"got $word\""
    );
    let mut pty = sandbox.host(require("bash")).command(["-c", &script]).pty(80, 24);
    let before = pty.settings();
    for word in ["one", "two"] {
        pty.expect("inner> ");
        start(&mut pty, "sleep 600");
        pty.send(CTRL_C);
        pty.expect("inner> ");
        pty.send("exit\n");
        pty.expect("exit");
        pty.send(&format!("{word}\n"));
        pty.expect(&format!("got {word}"));
    }
    let after = pty.settings();
    assert!(pty.wait().0.success());
    assert_eq!(after, before);
}

#[test]
fn a_launcher_in_a_pipeline_leaves_the_terminal_alone() {
    let sandbox = Sandbox::new();
    let mut pty = outer(&sandbox);
    let run = launch("sh -c 'echo one; echo two'");
    pty.send(&format!("echo in | {} | sed s/^/out:/; read w; echo \"got $w\"\n", run.trim()));
    pty.expect("out:two");
    pty.send("word\n");
    pty.expect("got word");
    pty.send("exit\n");
    assert!(pty.wait().0.success());
}

#[test]
fn kill_0_inside_stays_inside() {
    let sandbox = Sandbox::new();
    let launcher = bin("remount-run");
    for kill in ["trap \"kill 0\" EXIT", "kill 0", "kill -9 0", "kill -9 -1"] {
        // A script is in one group with what it runs.
        let script = format!("'{}' -- bash -c '{kill}'; echo survived", launcher.display());
        let mut pty = sandbox.host(require("bash")).command(["-c", &script]).pty(80, 24);
        pty.expect("survived");
        assert!(pty.wait().0.success(), "{kill}");
        let outcome = sandbox.host(require("bash")).command(["-c", &script]).run();
        assert_eq!(outcome.success().stdout(), "survived\n", "{kill}");
    }
}

#[test]
fn dev_tty_and_console_are_the_terminal() {
    let sandbox = Sandbox::new();
    for device in ["/dev/tty", "/dev/console"] {
        let script =
            format!("echo to the device >{device}; read line <{device}; echo \"got $line\"");
        let mut pty = sandbox.remount().sh(&script).pty(80, 24);
        pty.expect("to the device");
        pty.send("word\n");
        pty.expect("got word");
        assert!(pty.wait().0.success(), "{device}");
    }
    let mut pty = sandbox.remount().sh("tty; test -t 0 && echo yes").pty(80, 24);
    pty.expect("yes");
    assert!(pty.wait().0.success());
}

#[test]
fn hang_up_ends_everything() {
    let sandbox = Sandbox::new();
    let mut pty = outer(&sandbox);
    pty.send(&launch("sh -c 'echo be\"\"gun; exec sleep 600'"));
    pty.expect("begun");
    // As when the window is closed: the shell passes the hang-up on to its jobs.
    pty.send(CTRL_Z);
    pty.expect("Stopped");
    pty.send("exit\nexit\n");
    pty.wait();
}

/// A window that runs nothing else: no shell is there to pass it on.
#[test]
fn a_command_is_told_once_that_its_window_was_closed() {
    let sandbox = Sandbox::new();
    for options in [&[][..], &["--new-session"]] {
        let script = "trap 'echo hung up >>said' HUP; echo be\"\"gun
            until test -e said; do sleep 0.05; done; sleep 0.5";
        let screen = Tmux::start(&sandbox, sandbox.remount().options(options).sh(script));
        screen.expect("begun");
        // Everything has ended afterwards.
        drop(screen);
        let said = sandbox.project().join("said");
        assert_eq!(std::fs::read_to_string(&said).unwrap(), "hung up\n", "{options:?}");
        std::fs::remove_file(said).unwrap();
    }
}
