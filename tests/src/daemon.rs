//! A remountd of a test's own, and sandboxes that bwrap makes for it.

use crate::{Cmd, LIMIT, Outcome, Running, Sandbox, bin, require, wait_until};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// A daemon that serves a world's directory `outside/w` as the target `w`: as root the
/// system's kind, else the user's. It ends with this value.
pub struct Daemon<'a> {
    pub sandbox: &'a Sandbox,
    pub running: Running,
}

/// Where the daemon of a world listens.
pub fn socket(sandbox: &Sandbox) -> PathBuf {
    sandbox.root().join("outside/s.sock")
}

/// Writes the configuration of a world's daemon; `more` follows what it says of `w`.
pub fn configure(sandbox: &Sandbox, more: &str) -> PathBuf {
    let target = sandbox.dir("outside/w");
    let (socket, target) = (socket(sandbox), target.display().to_string());
    let text = format!("socket = {socket:?}\n[targets.w]\npath = {target:?}\n{more}");
    sandbox.file("outside/remountd.toml", text)
}

/// Has a daemon answer something: it has then opened all that it keeps open.
fn answers(socket: &Path) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"{\"op\":\"list\"}\n")?;
    stream.read_exact(&mut [0])
}

/// The program, as this pass's user has to start it.
pub fn remountd(sandbox: &Sandbox) -> Cmd {
    let command = sandbox.host(bin("remountd"));
    if crate::as_root() { command } else { command.option("--user") }
}

impl<'a> Daemon<'a> {
    #[track_caller]
    pub fn new(sandbox: &'a Sandbox, more: &str) -> Self {
        let config = configure(sandbox, more);
        let running = remountd(sandbox).option("--config").option(config).start();
        let daemon = Daemon { sandbox, running };
        let path = socket(sandbox);
        wait_until("the daemon answers", LIMIT, || answers(&path).is_ok());
        daemon
    }

    /// The target's directory.
    pub fn target(&self) -> PathBuf {
        self.sandbox.root().join("outside/w")
    }

    /// bwrap with the host's tree, read-only, and `options` on top.
    pub fn bwrap<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, options: I) -> Cmd {
        let base = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"];
        let command = self.sandbox.host(require("bwrap"));
        self.with_variables(command.options(base).options(options).separated())
    }

    /// What scripts call the socket, the target, the client and socat.
    pub fn with_variables(&self, command: Cmd) -> Cmd {
        command
            .env("S", socket(self.sandbox))
            .env("W", self.target())
            .env("CTL", bin("remountctl"))
            .env("SOCAT", require("socat"))
    }

    /// As [`Self::bwrap`], with the target there, read-only.
    pub fn sandboxed(&self, script: &str) -> Outcome {
        let target = self.target();
        self.bwrap([Path::new("--ro-bind"), &target, &target]).sh(script).run()
    }

    /// Every user can connect, and write to the target's directory.
    pub fn let_everybody_in(&self) {
        use std::os::unix::fs::PermissionsExt;
        for (path, mode) in [(socket(self.sandbox), 0o666), (self.target(), 0o777)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    /// As [`Self::sandboxed`], by another user; only root can.
    pub fn as_user(&self, uid: &str, script: &str) -> Outcome {
        let target = self.target();
        let inside = self.bwrap([Path::new("--ro-bind"), &target, &target]).sh(script).words();
        self.with_variables(self.sandbox.host(require("setpriv")))
            .options(["--reuid", uid, "--regid", uid, "--clear-groups", "--"])
            .command(inside)
            .run()
    }

    /// `remountctl` on the host.
    pub fn ctl(&self) -> Cmd {
        self.sandbox.ctl().option("--socket").option(socket(self.sandbox))
    }
}
