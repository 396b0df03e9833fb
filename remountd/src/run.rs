//! What a command line leads to.

use crate::cli::Args;
use crate::config::{self, Config};
use crate::listen::{self, Reach};
use crate::notify::notify;
use crate::{complain, print};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use remount_broker::daemon::{Rules, Setup, Signalled, serve};
use remount_broker::escape::Escaped;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where things are for the system's daemon.
const SYSTEM: [&str; 2] = ["/etc/remountd/config.toml", "/etc/remountd/config.yaml"];
const SYSTEM_SOCKET: &str = "/run/remountd/remountd.sock";

pub(crate) fn run(args: &Args) -> Result<()> {
    let file = match &args.config {
        Some(file) => file.clone(),
        None if args.user => config::choose(&user_files()?)?,
        None => config::choose(&SYSTEM.map(PathBuf::from))?,
    };
    let Config { socket, rules } = config::load(&file)?;
    if args.list {
        return list(&rules);
    }
    let is_root = rustix::process::geteuid().is_root();
    ensure!(
        is_root || args.user,
        "serve everybody: only root can\nhint: use --user to serve yourself"
    );
    let signals = signals()?;
    let mut owned = None;
    let (mut listeners, mut connection) = (Vec::new(), None);
    if args.inetd {
        connection = Some(listen::connection()?);
    } else {
        listeners = listen::passed()?;
        if listeners.is_empty() {
            let path = match args.socket.clone().or(socket) {
                Some(path) => path,
                None if args.user => runtime_dir()?.join("remountd.sock"),
                None => SYSTEM_SOCKET.into(),
            };
            let reach = if args.user { Reach::User } else { Reach::Members };
            let (socket, own) = listen::own(&path, reach)?;
            listeners.push(socket);
            owned = Some(own);
        }
    }
    notify("READY=1");
    let on_signal = Box::new(|fd: std::os::fd::BorrowedFd<'_>| signalled(fd, &file));
    serve(Setup { listeners, connection, rules, signals, on_signal, log: Box::new(log) })?;
    notify("STOPPING=1");
    drop(owned);
    Ok(())
}

fn list(rules: &Rules) -> Result<()> {
    let line = |rule: &remount_broker::daemon::Rule| {
        format!("{} {}\n", rule.name, Escaped::path(&rule.path))
    };
    let text: String = rules.targets.iter().map(line).collect();
    print(&text)
}

fn user_files() -> Result<Vec<PathBuf>> {
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|it| it.is_absolute());
    let base = dir("XDG_CONFIG_HOME").or_else(|| Some(dir("HOME")?.join(".config")));
    let base = base.context("find a configuration: neither XDG_CONFIG_HOME nor HOME is set")?;
    Ok(["remountd.toml", "remountd.yaml"].map(|name| base.join("remount").join(name)).to_vec())
}

fn runtime_dir() -> Result<PathBuf> {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    dir.filter(|dir| dir.is_absolute())
        .context("choose a socket: XDG_RUNTIME_DIR is not set\nhint: use --socket PATH")
}

/// Signals as something to wait for; from here on they interrupt nothing.
fn signals() -> Result<OwnedFd> {
    let set: SigSet = [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    set.thread_block().context("block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&set, flags).context("wait for signals")?;
    Ok(rustix::io::fcntl_dupfd_cloexec(signals.as_fd(), 3)?)
}

fn signalled(fd: std::os::fd::BorrowedFd<'_>, file: &Path) -> Signalled {
    // A signalfd_siginfo, signalfd(2): the number comes first.
    let mut info = [0_u8; 128];
    if !matches!(rustix::io::read(fd, &mut info), Ok(128)) {
        return Signalled::Nothing;
    }
    let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
    if number != Signal::SIGHUP as i32 {
        return Signalled::End;
    }
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let us = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={us}"));
    let config = config::load(file);
    notify("READY=1");
    match config {
        Ok(config) => Signalled::Reload(config.rules),
        Err(error) => {
            complain(&format!("the rules stay as they are: {error:#}"));
            Signalled::Nothing
        }
    }
}

/// An event, on standard error; if nobody reads there, it is lost rather than waited for.
fn log(line: &[u8]) {
    let stderr = std::io::stderr();
    let mut fds = [PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // A pipe that is ready takes a whole line of PIPE_BUF bytes (pipe(7)).
    if matches!(poll(&mut fds, Some(&now)), Ok(1)) && fds[0].revents().contains(PollFlags::OUT) {
        rustix::io::write(stderr.as_fd(), &line[..line.len().min(4096)]).unwrap_or(0);
    }
}
