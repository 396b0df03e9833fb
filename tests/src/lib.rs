//! What the tests share: worlds to run in, commands with time limits, the probe,
//! and the checks that a run left nothing behind.
//!
//! A test starts with a [`Sandbox`] (directories of its own), builds a [`Cmd`] on
//! it ([`Sandbox::remount`] inside, [`Sandbox::host`] outside) and runs it:
//!
//! ```no_run
//! use remount_tests::Sandbox;
//!
//! let sandbox = Sandbox::new();
//! let file = sandbox.file("outside/precious", "contents");
//! // A denial: the same act outside must succeed, inside it must give this error.
//! sandbox.twin(["open-write"], &file).denied("EROFS");
//! // A whole command.
//! let outcome = sandbox.remount().command(["sh", "-c", "echo hello"]).run();
//! outcome.success();
//! assert_eq!(outcome.stdout(), "hello\n");
//! // A process that stays, asked one act after another.
//! let mut inside = sandbox.remount().serve();
//! inside.act(["create", "new"]).ok();
//! ```
//!
//! The rules: a missing tool or binary fails the test ([`require`]), nothing skips.
//! Nothing is mounted in the host's namespace, since [`mounts`] is compared. Dangerous
//! acts use stand-ins (see the probe). Directories are under `/var/tmp`: a sandbox has
//! a `/tmp` of its own.

pub mod agent;
mod answer;
mod cmd;
pub mod daemon;
pub mod docker;
pub mod leftovers;
pub mod model;
mod pty;
mod refusal;
mod running;
mod sandbox;
mod snapshot;
mod tmux;
mod twin;
pub mod wire;

pub use answer::Answer;
pub use cmd::Cmd;
pub use pty::Pty;
pub use refusal::LEAVES_A_MARK;
pub use running::{Inside, Outcome, Running, children};
pub use sandbox::Sandbox;
pub use snapshot::Snapshot;
pub use tmux::Tmux;
pub use twin::Twin;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a test waits for what has to come. Nothing that works takes as long, on
/// whatever machine; that it does not come is all that this is for.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The search path of every command that a test runs, whatever the caller's is.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The user id that the test runs as.
pub fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether the test runs as root.
pub fn as_root() -> bool {
    uid() == 0
}

/// Panics unless the test runs as the user that `scripts/test` meant it to.
pub fn check_uid() {
    if let Ok(expected) = std::env::var("REMOUNT_EXPECT_UID") {
        assert_eq!(uid().to_string(), expected, "this pass runs as the wrong user");
    }
}

/// The absolute path of a program that a test needs. A missing one fails the test.
pub fn require(tool: &str) -> PathBuf {
    PATH.split(':')
        .map(|dir| Path::new(dir).join(tool))
        .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok())
        .unwrap_or_else(|| {
            panic!("`{tool}` is missing from {PATH}; scripts/test installs what the tests need")
        })
}

/// The absolute path of one of the project's own binaries, or of the probe:
/// in `$REMOUNT_BIN_DIR`, else the newest one beside the running test.
pub fn bin(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("REMOUNT_BIN_DIR") {
        let path = Path::new(&dir).join(name);
        assert!(path.is_file(), "{} is missing", path.display());
        return path;
    }
    let test = std::env::current_exe().expect("this test has a path");
    test.ancestors()
        .skip(1)
        .flat_map(|dir| [dir.join(name), dir.join("release").join(name)])
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .unwrap_or_else(|| panic!("{name} is not built: `cargo build --release --bins`"))
}

/// A Rust toolchain's root that this user may read (`bin/cargo` is in it).
pub fn toolchain() -> PathBuf {
    let root = std::env::var_os("REMOUNT_TOOLCHAIN")
        .expect("REMOUNT_TOOLCHAIN is not set: scripts/test does it, or set it to a sysroot");
    let root = PathBuf::from(root);
    assert!(root.join("bin/cargo").is_file(), "{} has no bin/cargo", root.display());
    root
}

/// The directory of the agents' commands, where `scripts/agents` put them.
pub fn agents() -> PathBuf {
    let dir = std::env::var_os("REMOUNT_AGENTS")
        .expect("REMOUNT_AGENTS is not set: scripts/test does it, or run scripts/agents DIRECTORY");
    PathBuf::from(dir).join("node_modules/.bin")
}

/// The mount table of this process, as the kernel writes it.
pub fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").expect("read /proc/self/mountinfo")
}

/// The version of Landlock's interface, 0 if the kernel has none.
pub fn landlock_abi() -> i64 {
    match Cmd::plain(bin("probe")).command(["landlock-abi"]).run().answer() {
        Answer::Ok(version) => version.parse().expect("a number"),
        _ => 0,
    }
}

/// The running kernel's version: major and minor.
pub fn kernel() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether somebody listens at `path`: between `bind(2)`, which makes the file, and
/// `listen(2)` a client is refused. Unlike a connection, looking is noticed by nobody.
pub fn listens(path: &Path) -> bool {
    // `Num RefCount Protocol Flags Type St Inode Path`; the flag is __SO_ACCEPTCON.
    let sockets = std::fs::read_to_string("/proc/net/unix").expect("read /proc/net/unix");
    let path = path.to_str().expect("UTF-8");
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(3) == Some("00010000") && fields.nth(3) == Some(path)
    })
}

/// Waits until `done` is true. Panics with `what` after `limit`.
pub fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < end, "after {limit:?} still not so: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
