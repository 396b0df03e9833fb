//! Directories for one test.

use crate::{Cmd, LIMIT, Twin, bin, mounts, require, wait_until};
use std::ffi::OsStr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A small world of one test's own: a project, a home, and a place that is in
/// neither. Beside it, for what sandboxes leave on purpose, is `$XDG_STATE_HOME`.
/// Dropped, it is removed, and no mount may lie in it any more.
#[derive(Debug)]
pub struct Sandbox {
    root: PathBuf,
}

impl Sandbox {
    /// With an empty project that is no repository.
    #[track_caller]
    pub fn new() -> Sandbox {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        crate::check_uid();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // `/var/tmp` and not `/tmp`, which the default profile replaces.
        let root = PathBuf::from(format!(
            "/var/tmp/remount-test.{}.{}.{number}",
            crate::uid(),
            std::process::id()
        ));
        std::fs::create_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
        let sandbox = Sandbox { root };
        // As it is from the second start on.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(sandbox.state().join("remount"))
            .expect("make a test directory");
        for dir in ["", "project", "home", "outside"] {
            let dir = sandbox.root.join(dir);
            if !dir.exists() {
                std::fs::create_dir(&dir).expect("make a test directory");
            }
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))
                .expect("set a test directory's mode");
        }
        sandbox
    }

    /// With a project that is a git repository of one commit, on branch `main`.
    #[track_caller]
    pub fn git() -> Sandbox {
        let sandbox = Sandbox::new();
        let config = "[user]\n\tname = Test\n\temail = test@example.org\n";
        sandbox.file("home/.gitconfig", config);
        sandbox.file("project/README", "a project\n");
        let git = || sandbox.host(require("git"));
        git().command(["init", "-q", "-b", "main"]).run().success();
        git().command(["add", "."]).run().success();
        git().command(["commit", "-qm", "first"]).run().success();
        sandbox
    }

    /// What git outside prints, in `cwd`.
    #[track_caller]
    pub fn git_prints(&self, cwd: &Path, words: &[&str]) -> String {
        // Submodules that are directories.
        let options = ["-c", "protocol.file.allow=always"];
        let git = self.host(require("git")).cwd(cwd).options(options);
        git.command(words).run().success().stdout()
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where commands start; the default profile makes it the target `workspace`.
    pub fn project(&self) -> PathBuf {
        self.root.join("project")
    }

    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// In neither project nor home: writable on the host, not in a sandbox.
    pub fn outside(&self) -> PathBuf {
        self.root.join("outside")
    }

    /// `$XDG_STATE_HOME`: not below [`Self::root`], whose tree starts are to leave alone.
    pub fn state(&self) -> PathBuf {
        PathBuf::from(format!("{}.state", self.root.display()))
    }

    /// The control sockets of the sandboxes that run, where there is no `$XDG_RUNTIME_DIR`.
    pub fn sockets(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.state().join("remount/run")).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|end| end == "sock")).collect()
    }

    /// The control socket of the one sandbox, as soon as it is there: after the agent has
    /// started, perhaps.
    #[track_caller]
    pub fn socket(&self) -> PathBuf {
        wait_until("the control socket", LIMIT, || !self.sockets().is_empty());
        let mut sockets = self.sockets();
        assert_eq!(sockets.len(), 1, "{sockets:?}");
        sockets.remove(0)
    }

    /// Writes a file, making directories on the way; `path` is below the root
    /// (`project/…`, `home/…`, `outside/…`). Answers its absolute path.
    #[track_caller]
    pub fn file(&self, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.root.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).expect("make the file's directory");
        }
        std::fs::write(&path, contents).expect("write a test file");
        path
    }

    /// Makes a directory below the root, and answers its absolute path.
    #[track_caller]
    pub fn dir(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = self.root.join(path);
        std::fs::create_dir_all(&path).expect("make a test directory");
        path
    }

    /// `remount-run … -- COMMAND`, in the project.
    pub fn remount(&self) -> Cmd {
        self.host(bin("remount-run")).separated()
    }

    /// `remountctl`, on the host, as the same user in the same environment.
    pub fn ctl(&self) -> Cmd {
        self.host(bin("remountctl"))
    }

    /// A program on the host, in the project, in this world's environment.
    pub fn host(&self, program: impl AsRef<Path>) -> Cmd {
        let user = if crate::as_root() { "root" } else { "tester" };
        Cmd::plain(program)
            .cwd(self.project())
            .env("HOME", self.home())
            .env("XDG_STATE_HOME", self.state())
            .env("USER", user)
            .env("LOGNAME", user)
            .env("SHELL", "/bin/sh")
            .env("TERM", "xterm-256color")
    }

    /// A command on the host that runs the probe: the sandbox's twin.
    pub fn host_probe(&self) -> Cmd {
        // The command's words follow `exec`, as they follow `--` in a sandbox.
        self.host(bin("probe")).option("exec")
    }

    /// An act (its words, and a path as the last) to be done outside and inside.
    pub fn twin<I: IntoIterator<Item: AsRef<OsStr>>>(
        &self,
        act: I,
        path: impl AsRef<OsStr>,
    ) -> Twin<'_> {
        Twin::new(self.host_probe(), self.remount()).act(act).arg(path)
    }
}

impl Default for Sandbox {
    fn default() -> Sandbox {
        Sandbox::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let removed = std::fs::remove_dir_all(&self.root)
            .and_then(|()| std::fs::remove_dir_all(self.state()));
        if !std::thread::panicking() {
            let root = self.root.to_string_lossy().into_owned();
            let left: Vec<String> =
                mounts().lines().filter(|line| line.contains(&root)).map(str::to_owned).collect();
            assert!(left.is_empty(), "mounts were left behind: {left:#?}");
            removed.expect("remove the test's directories");
        }
    }
}
