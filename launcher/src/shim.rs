//! This program in the place of a tool: it looks at the command line, and executes the tool
//! or says why not.
//!
//! Which tool is meant is decided by the file that is executed, as the kernel names it
//! (`/proc/self/exe`), never by what the caller says; so `exec -a` and symlinks change nothing.
//! What is allowed was resolved when the sandbox was planned, and is in one file ([`TABLE`]).
//!
//! It runs with the rights of its caller, who can do without it: a shim is a guide, and no
//! boundary. SECURITY.md says what is.

pub(crate) mod rules;
#[cfg(test)]
mod tests;

use crate::front::say;
use crate::plan::CONTROL_DIR;
use nix::errno::Errno;
use remount_broker::channel::Connection;
use remount_broker::client::{Client, TIMEOUT};
use remount_broker::escape::Escaped;
use remount_broker::name::Mode;
use remount_broker::reason::Reason;
use remount_broker::sys::start;
use rules::{Place, Rules, Table};
use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

/// The tools, what is allowed of each, and where it is; below [`CONTROL_DIR`].
pub(crate) const TABLE: &str = "shims.table";

/// The directory of shims that is first in `PATH`; below [`CONTROL_DIR`].
pub(crate) const DIRECTORY: &str = "shims";

/// Below it the tools are that a shim covers; below [`CONTROL_DIR`].
pub(crate) const REAL: &str = "real";

/// How many shims have led to one another, in the environment: a script that looks for the
/// next tool of its own name in `PATH` finds its own shim again.
const DEPTH: &str = "REMOUNT_SHIM_DEPTH";
const MOST: usize = 64;

/// What shells answer for what they may not execute.
const BLOCKED: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Is the tool in whose place this program is executed, if it is: executes it, or answers
/// why not.
pub fn run(args: &[OsString]) -> Option<ExitCode> {
    let own = std::fs::read_link("/proc/self/exe").ok()?;
    let text = std::fs::read(Path::new(CONTROL_DIR).join(TABLE)).ok()?;
    let table = Table(&text);
    let refusal = match table.place(own.as_os_str().as_bytes()) {
        Some(place) => match table.rules(place.tool) {
            Some(rules) => refusal(&place, &rules, args),
            // No way of this program's leads there.
            None => Refusal::blocked(&[place.tool], "its table is damaged", None),
        },
        None => {
            let name = own.file_name()?.as_bytes();
            table.rules(name)?;
            Refusal::blocked(&[name], "this is a copy of its shim, and not the tool", None)
        }
    };
    say(&format!("remount: {}", refusal.message));
    if let Some(hint) = refusal.hint {
        say(&format!("hint: {hint}"));
    }
    Some(ExitCode::from(refusal.code))
}

/// Why nothing was executed.
struct Refusal {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Refusal {
    fn blocked(words: &[&[u8]], why: &str, hint: Option<String>) -> Self {
        let words: Vec<_> =
            words.iter().map(|word| Escaped::os(OsStr::from_bytes(word)).to_string()).collect();
        let message = format!("{} is blocked ({why})", words.join(" "));
        Self { message, hint, code: BLOCKED }
    }
}

/// Executes the tool if that is allowed; the answer is why it was not executed.
fn refusal(place: &Place<'_>, rules: &Rules<'_>, args: &[OsString]) -> Refusal {
    let words: Vec<&[u8]> = args.iter().skip(1).map(|word| word.as_bytes()).collect();
    if let Err(shown) = rules.judge(&words) {
        let shown = [&[place.tool][..], &shown].concat();
        let (why, hint) = match rules.when {
            None => ("read-only sandbox".to_owned(), rules.hint(place.tool)),
            Some(target) => match mode_of(target) {
                Ok(Mode::Rw) => return never(execute(place, args), place),
                Ok(Mode::Ro) => {
                    let hint = format!("remountctl rw {target} makes it writable, if you may");
                    (format!("{target} is read-only"), hint)
                }
                Err(why) => (
                    format!("whether {target} is read-only cannot be asked: {why}"),
                    "the broker of the sandbox must be reachable".to_owned(),
                ),
            },
        };
        return Refusal::blocked(&shown, &why, Some(hint));
    }
    never(execute(place, args), place)
}

/// The mode of a target, as the broker says. Through the socket at its own path only: what
/// the environment names could be anybody's.
fn mode_of(target: &str) -> Result<Mode, String> {
    let path = Path::new(CONTROL_DIR).join("socket");
    let connection = Connection::open_at(&path, TIMEOUT).map_err(|error| error.to_string())?;
    let targets = Client::from(connection).list().map_err(|error| error.to_string())?;
    let found = targets.into_iter().find(|it| it.name.as_str() == target);
    found.map(|it| it.mode).ok_or_else(|| "it is not there".to_owned())
}

/// Becomes the tool, under its own path.
fn execute(place: &Place<'_>, args: &[OsString]) -> Result<Infallible, Errno> {
    if place.real.is_empty() {
        return Err(Errno::ENOENT);
    }
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::EINVAL);
    let rest = args.iter().skip(1).map(|word| text(word.as_bytes()));
    let args = [text(place.name)].into_iter().chain(rest).collect::<Result<Vec<_>, _>>()?;
    let real = text(place.real)?;
    let environment = environment()?;
    start::give_back().map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
    nix::unistd::execve(&real, &args, &environment)
}

/// The caller's environment, and how deep this is.
fn environment() -> Result<Vec<CString>, Errno> {
    let depth = std::env::var(DEPTH).ok().and_then(|depth| depth.parse::<usize>().ok());
    let depth = depth.unwrap_or(0).saturating_add(1);
    if depth > MOST {
        return Err(Errno::ELOOP);
    }
    let others = std::env::vars_os().filter(|(name, _)| name != DEPTH);
    let all = others.chain([(DEPTH.into(), depth.to_string().into())]);
    let text = |(name, value): (OsString, OsString)| {
        CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).map_err(|_| Errno::EINVAL)
    };
    all.map(text).collect()
}

fn never(result: Result<Infallible, Errno>, place: &Place<'_>) -> Refusal {
    let errno = match result {
        Ok(never) => match never {},
        Err(errno) => errno,
    };
    let tool = Escaped::os(OsStr::from_bytes(place.tool));
    if errno == Errno::ENOENT {
        return Refusal {
            message: format!("{tool}: command not found"),
            hint: None,
            code: NOT_FOUND,
        };
    }
    let path = Escaped::os(OsStr::from_bytes(place.name)).to_string();
    if errno == Errno::ELOOP {
        let message = format!("execute {path}: its shim and it find one another in PATH");
        let hint = Some(format!("[remove] shims = [\"{tool}\"] in a profile, or --no-shims"));
        return Refusal { message, hint, code: BLOCKED };
    }
    let errno = rustix::io::Errno::from_raw_os_error(errno as i32);
    let message = format!("execute {path}: {:#}", Reason::from(errno));
    Refusal { message, hint: None, code: BLOCKED }
}
