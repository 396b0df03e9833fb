//! Programs that take the whole terminal, and a terminal in a terminal.

use remount_tests::{Cmd, LIMIT, Sandbox, bin, require, wait_until};
use std::path::Path;

#[test]
fn full_screen_programs_run() {
    let sandbox = Sandbox::new();
    sandbox.file("project/text", "first line\nsecond line\n".repeat(100));
    let mut pty = sandbox.remount().arg(require("less")).arg("text").pty(80, 24);
    pty.expect("second line");
    pty.send("q");
    assert!(pty.wait().0.success());
    let vim = sandbox.remount().arg(require("vim")).command(["-u", "NONE", "-N", "-n", "text"]);
    let mut pty = vim.pty(80, 24);
    pty.expect("second line");
    pty.send(":%s/first/changed/\r:wq\r");
    assert!(pty.wait().0.success());
    let text = std::fs::read_to_string(sandbox.project().join("text")).unwrap();
    assert_eq!(text.matches("changed line").count(), 100);
}

/// A tmux of the test's own; its server ends with it.
struct Tmux<'a> {
    sandbox: &'a Sandbox,
    socket: std::path::PathBuf,
}

impl Tmux<'_> {
    fn run(&self, words: &[&str]) -> String {
        let command: Cmd = self.sandbox.host(require("tmux")).may_leave_processes();
        let socket: &Path = &self.socket;
        let command = command.option("-f").option("/dev/null").option("-S").option(socket);
        command.command(words).run().success().stdout()
    }

    fn shows(&self, text: &str) {
        wait_until(text, LIMIT, || self.run(&["capture-pane", "-p", "-t", "0"]).contains(text));
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        // It has left our group, so that nobody else ends it when the test fails. Where
        // the test passed it is gone already, and this fails.
        let kill = std::process::Command::new(require("tmux"))
            .arg("-S")
            .arg(&self.socket)
            .arg("kill-server")
            .output();
        drop(kill);
    }
}

#[test]
fn in_tmux_it_all_works_together() {
    let sandbox = Sandbox::new();
    let tmux = Tmux { sandbox: &sandbox, socket: sandbox.root().join("tmux") };
    let shell = "env 'PS1=outer> ' bash --norc -i";
    tmux.run(&["new-session", "-d", "-x", "100", "-y", "30", shell]);
    tmux.shows("outer>");
    let type_line = |line: &str| tmux.run(&["send-keys", "-t", "0", line, "Enter"]);
    let launcher = bin("remount-run");
    type_line(&format!("'{}' -- env PS1='inner> ' bash --norc -i", launcher.display()));
    tmux.shows("inner>");
    type_line("stty size; echo x >file && remountctl ro workspace; echo y >file");
    tmux.shows("30 100");
    tmux.shows("Read-only file system");
    type_line("remountctl rw workspace; echo z >file && cat file | tr z w");
    tmux.shows("\nw\n");
    // `exec`: a shell that is just starting a child may lose the signal.
    type_line("sh -c 'echo be\"\"gun; exec sleep 600'");
    tmux.shows("begun");
    tmux.run(&["send-keys", "-t", "0", "C-c"]);
    type_line("echo cod\"\"e $?; exit");
    tmux.shows("code 130");
    tmux.shows("\nexit\n");
    type_line("echo b\"\"ack");
    tmux.shows("back");
    tmux.run(&["kill-server"]);
}
