use super::*;
use crate::name::{Authority, TargetName};
use crate::proto::{Origin, Selection, SetRequest, Wish};
use crate::target::Target;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Mounts that exist in a table only, by path; read-only and well until told otherwise.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeMounts(Arc<Mutex<BTreeMap<PathBuf, Fake>>>, Arc<Mutex<Vec<PathBuf>>>);

#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) mode: Mode,
    /// How often `ro` will still meet EBUSY.
    pub(crate) busy: u32,
    /// What every change of mode fails with.
    pub(crate) refuses: Option<(Mode, Errno)>,
    /// It is not at its path any more.
    pub(crate) moved: bool,
}

impl FakeMounts {
    pub(crate) fn with<T>(&self, path: impl AsRef<Path>, act: impl FnOnce(&mut Fake) -> T) -> T {
        let mut table = self.0.lock().unwrap();
        let new = || Fake { mode: Mode::Ro, busy: 0, refuses: None, moved: false };
        act(table.entry(path.as_ref().to_owned()).or_insert_with(new))
    }

    /// From now on this is held read-only.
    pub(crate) fn hold(&self, paths: &[&str]) {
        *self.1.lock().unwrap() = paths.iter().map(PathBuf::from).collect();
    }

    pub(crate) fn mode_at(&self, path: impl AsRef<Path>) -> Mode {
        self.with(path, |mount| mount.mode)
    }
}

impl Mounts for FakeMounts {
    fn mode(&self, member: &Member) -> KernelResult<Mode> {
        Ok(self.with(&member.path, |mount| mount.mode))
    }

    fn set(&self, member: &Member, mode: Mode) -> KernelResult<()> {
        self.with(&member.path, |mount| match mount.refuses {
            Some((refused, errno)) if refused == mode => Err(errno),
            _ if mode == Mode::Ro && mount.busy > 0 => {
                mount.busy -= 1;
                Err(Errno::BUSY)
            }
            _ => {
                mount.mode = mode;
                Ok(())
            }
        })
    }

    fn in_place(&self, member: &Member) -> bool {
        self.with(&member.path, |mount| !mount.moved)
    }

    fn held(&self) -> KernelResult<Vec<PathBuf>> {
        Ok(self.1.lock().unwrap().clone())
    }

    fn shows(&self, member: &Member, below: &Path) -> bool {
        let mounts = self.0.lock().unwrap();
        !mounts.contains_key(&member.path.join(below))
    }
}

pub(crate) fn target(name: &str, authority: Authority, members: &[&str]) -> Target {
    let member = |path: &&str| {
        let fd = std::fs::File::open("/dev/null").unwrap().into();
        Member::new(fd, PathBuf::from(path)).showing(Some(PathBuf::from(path)))
    };
    Target {
        name: name.parse().unwrap(),
        path: members.first().copied().unwrap_or("/").into(),
        authority,
        max_lease: None,
        members: members.iter().map(member).collect(),
    }
}

const FOREVER: u32 = u32::MAX;

struct Bench {
    mounts: FakeMounts,
    registry: Registry,
    now: Instant,
}

impl Bench {
    fn new(targets: Vec<Target>) -> Self {
        let mounts = FakeMounts::default();
        let registry = Registry::with_mounts(targets, Box::new(mounts.clone())).unwrap();
        Self { mounts, registry, now: Instant::now() }
    }

    /// Two members, `/a` and `/a/b`, in mode `mode`.
    fn pair(mode: Mode) -> Self {
        let bench = Self::new(vec![target("a", Authority::Inside, &["/a", "/a/b"])]);
        bench.mounts.with("/a", |mount| mount.mode = mode);
        bench.mounts.with("/a/b", |mount| mount.mode = mode);
        bench
    }

    fn operation(&self, wish: Wish) -> Operation {
        let request = SetRequest::new(Selection::All, wish);
        let right = self.registry.authorize(&request, Origin::Outside).unwrap();
        Operation::new(right, &self.registry, self.now + RETRY_FOR)
    }

    fn advance(&mut self, operation: &mut Operation) -> Option<Result<(), Fault>> {
        self.now += RETRY_EVERY;
        match operation.advance(&self.registry, self.now) {
            Progress::Parked => None,
            Progress::Done(outcome) => Some(outcome),
        }
    }

    /// The outcome, and how often the operation was parked before.
    fn run(&mut self, wish: Wish) -> (Result<(), Fault>, u32) {
        let mut operation = self.operation(wish);
        for parked in 0..10_000 {
            if let Some(outcome) = self.advance(&mut operation) {
                return (outcome, parked);
            }
        }
        panic!("never done: {operation:?}");
    }

    fn modes(&self) -> [Mode; 2] {
        [self.mounts.mode_at("/a"), self.mounts.mode_at("/a/b")]
    }
}

#[test]
fn all_members_change_and_what_is_so_stays_so() {
    let mut bench = Bench::pair(Mode::Rw);
    bench.mounts.with("/a", |mount| mount.refuses = Some((Mode::Rw, Errno::PERM)));
    assert_eq!(bench.run(Wish::Rw), (Ok(()), 0), "nothing to do, so nothing to refuse");
    assert_eq!(bench.run(Wish::Ro), (Ok(()), 0));
    assert_eq!(bench.modes(), [Mode::Ro; 2]);
}

#[test]
fn a_passing_writer_is_waited_out() {
    let mut bench = Bench::pair(Mode::Rw);
    bench.mounts.with("/a/b", |mount| mount.busy = 500);
    let (outcome, parked) = bench.run(Wish::Ro);
    assert_eq!(outcome, Ok(()));
    assert!((1..=29).contains(&parked), "{parked}");
    assert_eq!(bench.modes(), [Mode::Ro; 2]);
}

#[test]
fn a_writer_that_stays_is_reported_and_all_is_as_before() {
    let mut bench = Bench::pair(Mode::Rw);
    bench.mounts.with("/a/b", |mount| mount.busy = FOREVER);
    let (outcome, parked) = bench.run(Wish::Ro);
    assert!(
        matches!(&outcome, Err(Fault::Busy { path, .. }) if path == Path::new("/a/b")),
        "{outcome:?}"
    );
    let waited = RETRY_EVERY * parked;
    assert!((RETRY_FOR - RETRY_EVERY * 5..RETRY_FOR * 2).contains(&waited), "{waited:?}");
    assert_eq!(bench.modes(), [Mode::Rw; 2]);
}

#[test]
fn opening_half_way_is_taken_back_even_past_a_writer() {
    let mut bench = Bench::pair(Mode::Ro);
    bench.mounts.with("/a/b", |mount| mount.refuses = Some((Mode::Rw, Errno::PERM)));
    bench.mounts.with("/a", |mount| mount.busy = 20);
    let (outcome, _) = bench.run(Wish::Rw);
    assert!(matches!(outcome, Err(Fault::Failed { .. })), "{outcome:?}");
    assert_eq!(bench.modes(), [Mode::Ro; 2]);
}

#[test]
fn what_cannot_be_taken_back_is_said() {
    let mut bench = Bench::pair(Mode::Ro);
    bench.mounts.with("/a/b", |mount| mount.refuses = Some((Mode::Rw, Errno::PERM)));
    bench.mounts.with("/a", |mount| mount.busy = FOREVER);
    let (outcome, _) = bench.run(Wish::Rw);
    let text = outcome.unwrap_err().to_string();
    assert!(text.contains("/a: ") && text.contains("could not be taken back"), "{text}");
}

#[test]
fn stale_is_never_opened() {
    let mut bench = Bench::pair(Mode::Ro);
    bench.mounts.with("/a/b", |mount| mount.moved = true);
    let (outcome, _) = bench.run(Wish::Rw);
    assert!(matches!(outcome, Err(Fault::Stale { mode: Mode::Rw, .. })), "{outcome:?}");
    assert_eq!(bench.modes(), [Mode::Ro; 2]);
}

#[test]
fn stale_is_closed_but_not_called_done() {
    let mut bench = Bench::pair(Mode::Rw);
    bench.mounts.with("/a", |mount| mount.moved = true);
    let (outcome, _) = bench.run(Wish::Ro);
    assert!(matches!(outcome, Err(Fault::Stale { mode: Mode::Ro, .. })), "{outcome:?}");
    assert_eq!(bench.modes(), [Mode::Ro; 2]);
    // Detached: the kernel does not let it be changed any more.
    let mut bench = Bench::pair(Mode::Rw);
    bench.mounts.with("/a", |mount| {
        mount.moved = true;
        mount.refuses = Some((Mode::Ro, Errno::INVAL));
    });
    let (outcome, _) = bench.run(Wish::Ro);
    assert!(matches!(outcome, Err(Fault::Detached { .. })), "{outcome:?}");
    assert_eq!(bench.mounts.mode_at("/a/b"), Mode::Ro, "the other one is closed");
}

/// A change that the kernel accepts and does not make (a read-only filesystem).
#[test]
fn success_is_read_back() {
    #[derive(Debug)]
    struct Deaf;
    impl Mounts for Deaf {
        fn mode(&self, _: &Member) -> KernelResult<Mode> {
            Ok(Mode::Ro)
        }
        fn set(&self, _: &Member, _: Mode) -> KernelResult<()> {
            Ok(())
        }
        fn in_place(&self, _: &Member) -> bool {
            true
        }
        fn held(&self) -> KernelResult<Vec<PathBuf>> {
            Ok(Vec::new())
        }
        fn shows(&self, _: &Member, _: &Path) -> bool {
            true
        }
    }
    let targets = vec![target("a", Authority::Inside, &["/a"])];
    let registry = Registry::with_mounts(targets, Box::new(Deaf)).unwrap();
    let mut bench = Bench { mounts: FakeMounts::default(), registry, now: Instant::now() };
    let (outcome, _) = bench.run(Wish::Rw);
    assert!(outcome.unwrap_err().to_string().contains("filesystem itself is read-only"));
}

#[test]
fn an_abandoned_operation_is_taken_back() {
    let mut bench = Bench::pair(Mode::Rw);
    bench.mounts.with("/a/b", |mount| mount.busy = FOREVER);
    let mut operation = bench.operation(Wish::Ro);
    assert_eq!(bench.advance(&mut operation), None);
    assert_eq!(bench.modes(), [Mode::Ro, Mode::Rw]);
    operation.abandon(bench.now);
    assert_eq!(bench.advance(&mut operation), Some(Err(Fault::Dropped)));
    assert_eq!(bench.modes(), [Mode::Rw; 2]);
}

#[test]
fn several_targets_are_all_or_nothing() {
    let mut bench = Bench::new(vec![
        target("a", Authority::Inside, &["/a"]),
        target("b", Authority::Inside, &["/a/b"]),
    ]);
    bench.mounts.with("/a", |mount| mount.mode = Mode::Rw);
    bench.mounts.with("/a/b", |mount| (mount.mode, mount.busy) = (Mode::Rw, FOREVER));
    let (outcome, _) = bench.run(Wish::Ro);
    let b: TargetName = "b".parse().unwrap();
    assert!(matches!(outcome, Err(Fault::Busy { name, .. }) if name == b));
    assert_eq!(bench.modes(), [Mode::Rw; 2]);
}

#[test]
fn what_is_held_is_not_opened() {
    for held in ["/a", "/", "/a/sub"] {
        let mut bench = Bench::pair(Mode::Ro);
        bench.mounts.hold(&[held, "/elsewhere"]);
        let mut operation = bench.operation(Wish::Rw);
        let outcome = bench.advance(&mut operation);
        assert!(matches!(outcome, Some(Err(Fault::Held { .. }))), "{held}: {outcome:?}");
        assert_eq!(bench.mounts.mode_at("/a"), Mode::Ro);
        assert_eq!(bench.mounts.mode_at("/a/b"), Mode::Ro);
    }
    // What is held has a mount of its own there, which is none of the target's.
    let mut bench = Bench::new(vec![target("a", Authority::Inside, &["/a"])]);
    bench.mounts.with("/a/own", |mount| mount.mode = Mode::Ro);
    bench.mounts.hold(&["/a/own"]);
    let mut operation = bench.operation(Wish::Rw);
    assert!(matches!(bench.advance(&mut operation), Some(Ok(()))));
    assert_eq!(bench.mounts.mode_at("/a"), Mode::Rw);
}

#[test]
fn what_is_held_meanwhile_stays_closed() {
    // `/a` is closed; `/a/b` stays busy, and in the meantime somebody holds `/a`.
    let mut bench = Bench::pair(Mode::Rw);
    bench.mounts.with("/a/b", |mount| mount.busy = FOREVER);
    let mut operation = bench.operation(Wish::Ro);
    assert!(bench.advance(&mut operation).is_none());
    assert_eq!(bench.mounts.mode_at("/a"), Mode::Ro);
    bench.mounts.hold(&["/a"]);
    bench.now += RETRY_FOR;
    assert!(matches!(bench.advance(&mut operation), Some(Err(Fault::Busy { .. }))));
    assert_eq!(bench.mounts.mode_at("/a"), Mode::Ro);
}
