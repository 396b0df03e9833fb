//! Does one act and says what the kernel answered.
//!
//! `probe [PREFIX…] ACT [ARGUMENT…]` prints `ok [TEXT]`, `errno NAME` or
//! `signal N`, and exits 0, 1 or 1; a wrong command line exits 2. Each act runs in
//! a child of its own, so that one that kills or changes its process leaves the
//! probe as it was. `probe serve` reads acts from stdin, one a line, fields
//! separated by tabs and escaped as in `remount_tests::wire`; the acts of
//! [`held`] keep descriptors, mappings and a working directory between lines.
//!
//! Prefixes: `--userns` (first enter a new user and mount namespace, mapping
//! the present ids), `--tmpfs DIR` (with an empty `file`), `--read-only DIR`, `--bind SOURCE
//! DIR` (mount so, after `--userns`: seen by this process and what it executes),
//! `--as-user UID` (first become that user; only root can), `--close-descriptors` and
//! `--no-connect` (first lose a way to the broker), `--no-peer-pidfd` (first lose what kernels
//! before Linux 6.5 do not have).

mod channel;
mod crowd;
mod files;
mod held;
mod kernel;
mod namespaces;
mod process;
mod sockets;

use nix::errno::Errno;
use remount_tests::wire;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

/// What an act answers: text for the `ok` line, or the kernel's error.
pub(crate) type Answer = Result<String, Errno>;

/// What an act is given.
pub(crate) struct Args<'a>(&'a [OsString]);

impl Args<'_> {
    /// The argument at `index`; the probe exits 2 if there is none.
    pub(crate) fn at(&self, index: usize) -> &OsStr {
        self.0.get(index).unwrap_or_else(|| usage(&format!("argument {} is missing", index + 1)))
    }

    pub(crate) fn text(&self, index: usize) -> &str {
        self.at(index).to_str().unwrap_or_else(|| usage("an argument is not UTF-8"))
    }

    pub(crate) fn get(&self, index: usize) -> Option<&str> {
        (index < self.0.len()).then(|| self.text(index))
    }

    /// A decimal, hexadecimal (`0x…`) or octal (`0o…`) number.
    pub(crate) fn number(&self, index: usize) -> i64 {
        parse_number(self.text(index))
    }

    pub(crate) fn rest(&self, from: usize) -> &[OsString] {
        self.0.get(from..).unwrap_or_default()
    }
}

pub(crate) fn parse_number(text: &str) -> i64 {
    let parsed = if let Some(hex) = text.strip_prefix("0x") {
        u64::from_str_radix(hex, 16).map(u64::cast_signed)
    } else if let Some(octal) = text.strip_prefix("0o") {
        i64::from_str_radix(octal, 8)
    } else {
        text.parse()
    };
    parsed.unwrap_or_else(|_| usage(&format!("not a number: {text}")))
}

pub(crate) fn usage(why: &str) -> ! {
    eprintln!("probe: {why}");
    std::process::exit(2)
}

/// The error of the standard library as the kernel's.
pub(crate) fn errno(error: std::io::Error) -> Errno {
    match error.raw_os_error() {
        Some(code) => Errno::from_raw(code),
        None => usage(&format!("not a kernel error: {error}")),
    }
}

/// A raw system call's return value, judged.
pub(crate) fn checked(value: libc::c_long) -> Result<libc::c_long, Errno> {
    Errno::result(value)
}

/// Turns an error that shows the kernel's own code was reached into success: for
/// acts that are too dangerous, or that need too much, to be done for real.
pub(crate) fn reached(value: libc::c_long, proof: &[Errno]) -> Answer {
    match checked(value) {
        Ok(_) => Ok(String::new()),
        Err(errno) if proof.contains(&errno) => Ok(format!("reached {errno:?}")),
        Err(errno) => Err(errno),
    }
}

fn act(name: &str, args: &Args) -> Answer {
    None.or_else(|| files::act(name, args))
        .or_else(|| sockets::act(name, args))
        .or_else(|| namespaces::act(name, args))
        .or_else(|| kernel::act(name, args))
        .or_else(|| process::act(name, args))
        .or_else(|| channel::act(name, args))
        .or_else(|| crowd::act(name, args))
        .unwrap_or_else(|| usage(&format!("unknown act: {name}")))
}

fn report(answer: &Answer) -> String {
    match answer {
        Ok(text) if text.is_empty() => "ok".to_owned(),
        Ok(text) => format!("ok {}", wire::escape(text.as_bytes())),
        Err(errno) => format!("errno {errno:?}"),
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(3);
    }
}

/// Runs the act in a child; true if it succeeded.
fn run(words: &[OsString]) -> bool {
    // SAFETY: the probe has one thread, so that the child may do anything.
    let child = match unsafe { libc::fork() } {
        -1 => usage(&format!("fork: {}", std::io::Error::last_os_error())),
        0 => {
            let name = Args(words).text(0).to_owned();
            let answer = act(&name, &Args(&words[1..]));
            say(&report(&answer));
            std::process::exit(i32::from(answer.is_err()))
        }
        pid => pid,
    };
    let mut status = 0;
    // SAFETY: `status` outlives the call, and `child` is this process's own child.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        if Errno::last() != Errno::EINTR {
            usage("waitpid failed");
        }
    }
    if libc::WIFSIGNALED(status) {
        say(&format!("signal {}", libc::WTERMSIG(status)));
        return false;
    }
    match libc::WEXITSTATUS(status) {
        0 => true,
        1 => false,
        code => std::process::exit(code),
    }
}

fn serve() -> ExitCode {
    let mut held = held::Held::default();
    let mut clients = channel::Clients::default();
    for line in std::io::stdin().lock().split(b'\n') {
        let Ok(line) = line else { return ExitCode::from(3) };
        let words: Option<Vec<OsString>> = String::from_utf8_lossy(&line)
            .split('\t')
            .map(|field| wire::unescape(field).map(OsString::from_vec))
            .collect();
        let Some(words) = words else { usage("a line of bad escapes") };
        let (name, args) = (words[0].as_bytes(), Args(&words[1..]));
        match held.act(name, &args).or_else(|| clients.act(name, &args)) {
            Some(answer) => say(&report(&answer)),
            None => {
                run(&words);
            }
        }
    }
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    let mut words: Vec<OsString> = std::env::args_os().skip(1).collect();
    loop {
        match words.first().map(|word| word.as_bytes()) {
            None => usage("probe [PREFIX…] ACT [ARGUMENT…]"),
            Some(b"--userns") => {
                if let Err(errno) = namespaces::enter_user_namespace() {
                    usage(&format!("--userns: {errno:?}"));
                }
                words.remove(0);
            }
            Some(b"--tmpfs") => {
                if let Err(errno) = namespaces::mount_tmpfs(Args(&words).at(1)) {
                    usage(&format!("--tmpfs: {errno:?}"));
                }
                words.drain(..2);
            }
            Some(b"--bind") => {
                let args = Args(&words);
                if let Err(errno) = namespaces::bind_all(args.at(1), args.at(2)) {
                    usage(&format!("{:?}: {errno:?}", &words[..3]));
                }
                words.drain(..3);
            }
            Some(b"--as-user") => {
                let uid = u32::try_from(Args(&words).number(1));
                let uid = uid.unwrap_or_else(|_| usage("--as-user: not a uid"));
                if let Err(errno) = process::become_user(uid) {
                    usage(&format!("--as-user: {errno:?}"));
                }
                words.drain(..2);
            }
            Some(b"--read-only") => {
                let path = Args(&words).at(1).to_owned();
                if let Err(errno) = namespaces::make_read_only(&path) {
                    usage(&format!("--read-only: {errno:?}"));
                }
                words.drain(..2);
            }
            Some(b"--close-descriptors") => {
                channel::close_descriptors();
                words.remove(0);
            }
            Some(b"--no-connect") => {
                if let Err(errno) = channel::forbid_connect() {
                    usage(&format!("--no-connect: {errno:?}"));
                }
                words.remove(0);
            }
            Some(b"--no-peer-pidfd") => {
                if let Err(errno) = channel::forget_peer_pidfd() {
                    usage(&format!("--no-peer-pidfd: {errno:?}"));
                }
                words.remove(0);
            }
            Some(b"serve") => return serve(),
            Some(b"exec") => {
                usage(&format!("exec: {:?}", process::exec(&Args(&words[1..]))));
            }
            Some(_) => return ExitCode::from(u8::from(!run(&words))),
        }
    }
}
