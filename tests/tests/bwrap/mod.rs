//! The same command line through Debian's bubblewrap and through ours.

use remount_tests::{PATH, Sandbox, bin, require};
use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOOK: &str = include_str!("look");
const NAMESPACES: &str = include_str!("namespaces");

/// A command line, and what of it is known to differ.
#[derive(Debug, Default, Clone)]
pub struct Case {
    pub script: String,
    /// `stdout`, `stderr` or `status`.
    pub differs: Vec<String>,
}

/// What came of a command line.
#[derive(Debug, PartialEq, Eq)]
struct Result {
    status: String,
    stdout: String,
    stderr: String,
    /// What is in the directory afterwards.
    left: String,
}

/// Two programs of the name `bwrap`, and a place to run them in.
pub struct World {
    sandbox: Sandbox,
    theirs: PathBuf,
    ours: PathBuf,
}

impl World {
    pub fn new() -> Self {
        let sandbox = Sandbox::new();
        let program = |dir: &str, program: PathBuf| {
            let dir = sandbox.dir(dir);
            symlink(program, dir.join("bwrap")).expect("link bwrap");
            dir
        };
        let theirs = program("theirs", require("bwrap"));
        let ours = program("ours", bin("remount-run"));
        sandbox.file("look", LOOK);
        sandbox.file("namespaces", NAMESPACES);
        World { sandbox, theirs, ours }
    }

    /// A fresh directory, the same for both.
    pub fn populate(&self) -> PathBuf {
        let dir = self.sandbox.root().join("w");
        if dir.exists() {
            let closed = dir.join("closed");
            if closed.exists() {
                let open = std::fs::Permissions::from_mode(0o700);
                std::fs::set_permissions(closed, open).expect("open a directory");
            }
            std::fs::remove_dir_all(&dir).expect("remove the last one's");
        }
        self.sandbox.file("w/dir/a", "A\n");
        self.sandbox.file("w/dir/sub/b", "B\n");
        self.sandbox.file("w/data", "DATA\n");
        symlink("dir", dir.join("link")).expect("link");
        symlink(dir.join("dir"), dir.join("absolute")).expect("link");
        let closed = self.sandbox.dir("w/closed");
        std::fs::set_permissions(closed, std::fs::Permissions::from_mode(0o0)).expect("close");
        dir
    }

    fn run(&self, program: &Path, script: &str) -> Result {
        let dir = self.populate();
        let path = format!("{}:{PATH}", program.display());
        let bash = |name: &str| format!("bash {}", self.sandbox.root().join(name).display());
        let script = script
            .replace("$namespaces", &bash("namespaces"))
            .replace("$look2", "/usr/bin/sh -c \"$LOOK\" look")
            .replace("$look", &format!("sh {}", self.sandbox.root().join("look").display()));
        let outcome = self
            .sandbox
            .host(require("bash"))
            .env("PATH", path)
            .env("LOOK", LOOK)
            .cwd(&dir)
            .timeout(Duration::from_secs(60))
            .may_leave_processes()
            .arg("-c")
            .arg(script)
            .run();
        Result {
            status: format!("{:?} {:?}", outcome.code(), outcome.signal()),
            stdout: normal(&outcome.stdout(), program),
            // Two processes may speak at once.
            stderr: sorted(&normal(&outcome.stderr(), program)),
            left: left(&dir),
        }
    }

    /// What differs between the two, and is not known to.
    pub fn compare(&self, case: &Case) -> Option<String> {
        let theirs = self.run(&self.theirs, &case.script);
        let ours = self.run(&self.ours, &case.script);
        let mut report = String::new();
        for (what, theirs, ours) in [
            ("status", &theirs.status, &ours.status),
            ("stdout", &theirs.stdout, &ours.stdout),
            ("stderr", &theirs.stderr, &ours.stderr),
            ("left", &theirs.left, &ours.left),
        ] {
            let known = case.differs.iter().any(|known| known == what);
            if (theirs != ours) != known {
                let (theirs, ours) = lines_that_differ(theirs, ours);
                let known = if known { " (known to differ, and does not)" } else { "" };
                write!(report, "  {what}{known}\n  - {theirs}\n  + {ours}\n").expect("memory");
            }
        }
        (!report.is_empty()).then(|| format!("{}\n{report}", case.script))
    }
}

/// The lines of one that the other has not, and the other way round.
fn lines_that_differ(theirs: &str, ours: &str) -> (String, String) {
    let only = |of: &str, other: &str| {
        let other: Vec<&str> = other.lines().collect();
        let lines: Vec<_> = of.lines().filter(|line| !other.contains(line)).collect();
        lines.join("\n    ")
    };
    (only(theirs, ours), only(ours, theirs))
}

/// Without what is never the same twice: numbers of mounts, devices and namespaces, names
/// of temporary files, identities that the test gives to each process.
fn normal(text: &str, program: &Path) -> String {
    let mut normal = String::new();
    // What another mount covers cannot be reached; bubblewrap leaves its flags.
    let covers: Vec<(&str, &str)> =
        text.lines().filter_map(mount_words).map(|words| (words[1], words[4])).collect();
    for line in text.lines() {
        let line = line.replace(&*program.to_string_lossy(), "BWRAP");
        if line.starts_with("REMOUNT_TEST_ID=") || line.starts_with("LOOK=") {
            continue;
        }
        match mount_words(&line) {
            Some(words) if covers.contains(&(words[0], words[4])) => continue,
            Some(words) => normal.push_str(&normal_mount(&words)),
            None => normal.push_str(&normal_line(&line)),
        }
        normal.push('\n');
    }
    normal
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// The words of a line of `mountinfo`, if it is one.
fn mount_words(line: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = line.split(' ').collect();
    (words.len() > 8 && words.contains(&"-") && words[2].contains(':')).then_some(words)
}

/// A line of `mountinfo`.
fn normal_mount(words: &[&str]) -> String {
    let device = if words[2].starts_with("0:") { "0:n" } else { words[2] };
    let root = match words[3].strip_prefix("/bindfile") {
        Some(_) => "/bindfile",
        None => words[3],
    };
    let rest: Vec<_> = words[4..]
        .iter()
        .map(|word| if word.starts_with("master:") { "master:n" } else { word })
        .collect();
    format!("{device} {root} {}", rest.join(" "))
}

fn normal_line(line: &str) -> String {
    // 0.11 says what is in the way.
    if let Some((what, _)) =
        line.strip_prefix("bwrap: Can't make symlink at ").and_then(|it| it.split_once(": "))
    {
        return format!("bwrap: Can't make symlink at {what}");
    }
    // Whether a namespace is the host's or another is what counts.
    if let Some(rest) = line.strip_prefix("namespace ") {
        let (kind, _) = rest.split_once(':').unwrap_or((rest, ""));
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap_or_default();
        let which = if host.as_os_str() == rest { "the host's" } else { "new" };
        return format!("namespace {kind} {which}");
    }
    line.to_owned()
}

/// What is below a directory, with its permissions.
fn left(dir: &Path) -> String {
    let mut lines = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            let stat = path.symlink_metadata().expect("what is there");
            lines.push(format!("{:o} {}", stat.permissions().mode(), path.display()));
            if stat.is_dir() {
                open.push(path);
            }
        }
    }
    lines.sort();
    lines.join("\n")
}

impl Drop for World {
    fn drop(&mut self) {
        // A directory that nobody may look into cannot be removed.
        let closed = self.sandbox.root().join("w/closed");
        if closed.exists() {
            let open = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(closed, open).expect("open a directory");
        }
    }
}
