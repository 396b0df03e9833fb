//! A command on a screen that can be read.

use crate::agent::LONG;
use crate::{Cmd, LIMIT, Sandbox, require, wait_until};
use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A terminal of tmux, with a server of its own; dropped, all in it ends.
pub struct Tmux<'a> {
    sandbox: &'a Sandbox,
    socket: PathBuf,
}

impl Tmux<'_> {
    /// Starts `run` on a screen of 100 by 30.
    #[track_caller]
    pub fn start(sandbox: &Sandbox, run: Cmd) -> Tmux<'_> {
        let socket = sandbox.outside().join("tmux");
        let path = socket.to_str().expect("UTF-8");
        let options = ["-S", path, "-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30"];
        let run = run.within(require("tmux"), &options);
        run.may_leave_processes().run().success();
        Tmux { sandbox, socket }
    }

    fn tmux(&self) -> Cmd {
        self.sandbox.host(require("tmux")).option("-S").option(&self.socket)
    }

    /// Presses keys, by the names that tmux has for them.
    #[track_caller]
    pub fn press<const N: usize>(&self, keys: [&str; N]) {
        self.tmux().arg("send-keys").command(keys).run().success();
        // Some programs take keys that come at once for something pasted.
        std::thread::sleep(Duration::from_millis(300));
    }

    /// Types a line, and ends it once it is to be seen: a program that reads both at once may
    /// take them for something pasted.
    #[track_caller]
    pub fn enter(&self, line: &str) {
        self.press([line]);
        self.expect(line);
        self.press(["Enter"]);
    }

    /// Presses a key until the screen is as `is` says: a program may not heed it while it is
    /// busy. Again only after a while, as a key that is pressed twice may undo itself.
    #[track_caller]
    pub fn press_until(&self, key: &str, what: &str, is: impl Fn(&str) -> bool) {
        let pressed = Cell::new(None);
        self.wait(what, |shown| {
            let done = is(shown);
            if !done && pressed.get().is_none_or(|last: Instant| last.elapsed() > LIMIT / 12) {
                self.press([key]);
                pressed.set(Some(Instant::now()));
            }
            done
        });
    }

    /// Gives the screen another size.
    #[track_caller]
    pub fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.tmux().command(["resize-window", "-x", &columns, "-y", &rows]).run().success();
    }

    /// What is on the screen.
    #[track_caller]
    pub fn screen(&self) -> String {
        self.tmux().command(["capture-pane", "-p"]).run().stdout()
    }

    /// Waits until the screen is as `is` says. Panics, showing it, if it never is.
    #[track_caller]
    pub fn wait(&self, what: &str, is: impl Fn(&str) -> bool) {
        let mut last;
        let end = Instant::now() + LONG;
        loop {
            last = self.screen();
            if is(&last) {
                return;
            }
            assert!(Instant::now() < end, "never {what}:\n{last}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    pub fn expect(&self, text: &str) {
        self.wait(text, |screen| screen.contains(text));
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        let panes = ["list-panes", "-a", "-F", "#{pid} #{pane_pid}"];
        let pids = self.tmux().may_leave_processes().command(panes).run().stdout();
        // If it has ended by itself, just as well.
        self.tmux().may_leave_processes().arg("kill-server").run();
        // A shell writes its history then.
        let runs = |pid: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
        };
        if !std::thread::panicking() {
            wait_until("all in it has ended", LONG, || !pids.split_whitespace().any(runs));
        }
    }
}
