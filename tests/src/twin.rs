//! One act, outside and inside.

use crate::{Answer, Cmd};
use std::ffi::{OsStr, OsString};

/// One act of the probe that is allowed outside and denied inside, or allowed in
/// both. A denial alone proves nothing: the act may be impossible for other reasons.
pub struct Twin<'a> {
    outside: Cmd,
    inside: Cmd,
    allowed_by: Vec<OsString>,
    act: Vec<OsString>,
    prepare: Box<dyn Fn() + 'a>,
}

impl<'a> Twin<'a> {
    /// `outside` and `inside` are commands whose own command is not yet set.
    pub fn new(outside: Cmd, inside: Cmd) -> Twin<'a> {
        Twin { outside, inside, allowed_by: Vec::new(), act: Vec::new(), prepare: Box::new(|| ()) }
    }

    /// Words of the act.
    pub fn act<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, words: I) -> Self {
        self.act.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    pub fn arg(self, word: impl AsRef<OsStr>) -> Self {
        self.act([word])
    }

    /// Options of `remount-run`.
    pub fn options<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, options: I) -> Self {
        self.inside = self.inside.options(options);
        self
    }

    /// The command inside, if not that of the sandbox as it is.
    pub fn inside(mut self, inside: Cmd) -> Self {
        self.inside = inside;
        self
    }

    /// Outside, does the act with all capabilities of a new user and mount namespace:
    /// where an ordinary user may mount at all. As root too, so that nothing of the
    /// host is mounted over.
    pub fn with_user_namespace(mut self) -> Self {
        self.allowed_by = vec!["--userns".into()];
        self
    }

    /// Runs before each of the two, so that the first does not spoil the second
    /// (remove the file that `create` made).
    pub fn prepare(mut self, prepare: impl Fn() + 'a) -> Self {
        self.prepare = Box::new(prepare);
        self
    }

    /// Panics unless the act succeeds outside and fails inside with this errno.
    #[track_caller]
    pub fn denied(self, errno: &str) {
        assert_eq!(self.check_outside(), Answer::Errno(errno.to_owned()), "inside");
    }

    /// Panics unless the act succeeds outside and inside. Answers the text from inside.
    #[track_caller]
    pub fn allowed(self) -> String {
        match self.check_outside() {
            Answer::Ok(text) => text,
            other => panic!("inside: expected success, got {other:?}"),
        }
    }

    /// Does both; the answer from inside.
    #[track_caller]
    fn check_outside(self) -> Answer {
        (self.prepare)();
        let words: Vec<OsString> = self.allowed_by.iter().chain(&self.act).cloned().collect();
        let outside = self.outside.probe(words);
        assert!(matches!(outside, Answer::Ok(_)), "outside, {:?} gave {outside:?}", self.act);
        (self.prepare)();
        self.inside.probe(self.act)
    }
}
