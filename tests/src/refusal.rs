//! Commands that must be refused.

use crate::{Cmd, Outcome, Sandbox, Snapshot, mounts};

/// A shell that leaves a file in the project: the payload that must not have run.
pub const LEAVES_A_MARK: [&str; 3] = ["sh", "-c", "echo ran >ran"];

impl Sandbox {
    /// Runs what must fail with `code`. Panics unless it says so in one message,
    /// and leaves project, home and mount table as they were.
    #[track_caller]
    pub fn refused(&self, code: i32, command: Cmd) -> Outcome {
        let (project, home) = (Snapshot::of(self.project()), Snapshot::of(self.home()));
        let mounted = mounts();
        let outcome = command.run();
        outcome.exits(code);
        assert_eq!(outcome.stdout(), "", "{outcome}");
        project.unchanged(self.project());
        home.unchanged(self.home());
        assert_eq!(mounts(), mounted);
        let stderr = outcome.stderr();
        let starts = |word: &str| stderr.lines().filter(|line| line.starts_with(word)).count();
        assert!(stderr.starts_with("remount-run: "), "{outcome}");
        assert_eq!(starts("remount-run: "), 1, "more than one message: {outcome}");
        assert!(starts("hint: ") <= 1, "more than one hint: {outcome}");
        for noise in ["os error", "Error", "panicked", "\u{1b}", "RUST_BACKTRACE"] {
            assert!(!stderr.contains(noise), "{noise:?} in {outcome}");
        }
        outcome
    }
}

impl Outcome {
    /// Panics unless the message is just `remount-run: MESSAGE`, and `hint` is in the hint.
    #[track_caller]
    pub fn explains(&self, message: &str, hint: &str) {
        let stderr = self.stderr();
        assert_eq!(stderr.lines().next(), Some(&*format!("remount-run: {message}")), "{self}");
        let given = stderr.lines().find_map(|line| line.strip_prefix("hint: "));
        assert!(given.is_some_and(|given| given.contains(hint)), "no {hint:?} hinted: {self}");
    }
}
