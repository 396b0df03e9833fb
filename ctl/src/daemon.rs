//! remountd, the broker of sandboxes that others made.

use super::cli::Broker;
use super::{Failure, Way, render};
use remount_broker::channel::Connection;
use remount_broker::client::{Client, ClientError, TIMEOUT};
use remount_broker::proto::{ErrorCode, Refusal, Selection, SetRequest, Wish};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Where the system's daemon listens.
const SYSTEM: &str = "/run/remountd/remountd.sock";

/// The socket that the command line names.
pub(super) fn named(wanted: &Broker) -> Result<Option<PathBuf>, Failure> {
    if let Some(socket) = &wanted.socket {
        return Ok(Some(socket.clone()));
    }
    let Some(config) = &wanted.config else { return Ok(None) };
    let tried = |error| Failure::Io(format!("read {}", render::path(config)), error);
    let text = std::fs::read_to_string(config).map_err(tried)?;
    match socket_in(&text) {
        Some(socket) => Ok(Some(socket)),
        None => Ok(Some(PathBuf::from(SYSTEM))),
    }
}

/// The socket that a configuration names, in YAML or in TOML: for this one line no parser
/// is worth it.
fn socket_in(text: &str) -> Option<PathBuf> {
    let value = text.lines().find_map(|line| {
        let rest = line.strip_prefix("socket")?.trim_start();
        rest.strip_prefix([':', '=']).map(str::trim)
    })?;
    let value = match value.chars().next()? {
        quote @ ('"' | '\'') => value[1..].split(quote).next()?,
        _ => value.split(" #").next()?.trim_end(),
    };
    value.starts_with('/').then(|| value.into())
}

/// Where a daemon may listen: the user's own, then the system's.
pub(super) fn places() -> Vec<PathBuf> {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let user = dir.filter(|dir| dir.is_absolute()).map(|dir| dir.join("remountd.sock"));
    user.into_iter().chain([SYSTEM.into()]).collect()
}

/// Connects to the first that answers.
pub(super) fn connect(places: &[PathBuf], pid: Option<u32>) -> Result<Way, Failure> {
    let mut last = Failure::NotOne(remount_broker::host::NotOne::None);
    for place in places {
        match Connection::open_at(place, TIMEOUT) {
            Ok(connection) => {
                let client = Client::from(connection);
                let client = match pid {
                    Some(pid) => client.of_process(pid),
                    None => client,
                };
                return Ok(Way { daemon: Some(place.clone()), ..client.into() });
            }
            Err(error) => last = ClientError::from(error).into(),
        }
    }
    Err(last)
}

/// The connection on which the request was sent before this program began.
pub(super) fn asked(wanted: &Broker, stream: OwnedFd) -> Way {
    let client = Client::from(Connection::of_stream(stream)).after_sending();
    // Only a line that names a socket is sent so early.
    Way { daemon: wanted.socket.clone(), ..client.into() }
}

/// Whether this may be the first version's answer to what it does not know: it hangs up.
pub(super) fn is_first(way: &Way, error: &ClientError) -> bool {
    let unknown = matches!(error, ClientError::BadReply(_) | ClientError::Closed);
    unknown && way.daemon.is_some()
}

/// Asks once more, in the words that remountd's first version understands; `error` is what
/// became of the others.
pub(super) fn classic(way: Way, set: &SetRequest, error: ClientError) -> Result<String, Failure> {
    let daemon = place(way).ok_or(error)?;
    let names = match &set.targets {
        Selection::Named(names) => &names[..],
        Selection::All => &[],
    };
    let plain = *set
        == SetRequest { path: set.path.clone(), ..SetRequest::new(set.targets.clone(), set.wish) };
    let ([name], Wish::Ro | Wish::Rw, true) = (names, set.wish, plain) else {
        let hint = "it ended, or is of the first version, which knows 'ro NAME [PATH]', \
                    'rw NAME [PATH]' and 'list'";
        return Err(refused("carry out the request: remountd does not answer it", hint));
    };
    let verb = if set.wish == Wish::Ro { "ro" } else { "rw" };
    // It has two forms: in one a path may be named, in the other it has to be, and `/` is the
    // target itself.
    let (path, otherwise) = match &set.path {
        Some(path) => (format!("{} ", path.as_str()), None),
        None => (String::new(), Some("/ ")),
    };
    let ask = |path: &str| ask(&daemon, &format!("{verb} {name} {path}{}", std::process::id()));
    let mut lines = ask(&path)?;
    if let (Some(path), Some("ERROR: invalid command format.")) =
        (otherwise, lines.first().map(String::as_str))
    {
        lines = ask(path)?;
    }
    match lines.first().map(String::as_str) {
        Some("OK") => Ok(format!("{name}: {verb}\n")),
        Some(line) => Err(refused(line.strip_prefix("ERROR: ").unwrap_or(line), "")),
        None => Err(ClientError::Closed.into()),
    }
}

/// Asks for the targets in those words, and shows them as they come.
pub(super) fn classic_list(way: Way, error: ClientError) -> Result<String, Failure> {
    let lines = ask(&place(way).ok_or(error)?, "list")?;
    Ok(lines.iter().map(|line| format!("{}\n", render::line(line))).collect())
}

fn refused(message: &str, hint: &str) -> Failure {
    let hint = (!hint.is_empty()).then(|| hint.to_owned());
    let (error, message) = (ErrorCode::Failed, message.to_owned());
    ClientError::Refused(Refusal { error, message, hint, holders: None }).into()
}

/// Where the daemon listens. The connection that there is ends: it may serve one at a time.
fn place(way: Way) -> Option<PathBuf> {
    way.daemon
}

/// Makes a request of one line; all that the daemon says to it until it hangs up, which
/// `quit` asks for: the end of an answer is not marked in all of them.
fn ask(daemon: &Path, request: &str) -> Result<Vec<String>, Failure> {
    let tried = |error: io::Error| {
        // What a socket says whose time is over (socket(7), SO_RCVTIMEO).
        let is_late = error.kind() == io::ErrorKind::WouldBlock;
        let error = if is_late { io::ErrorKind::TimedOut.into() } else { error };
        Failure::Io(format!("ask {}", render::path(daemon)), error)
    };
    let mut stream = UnixStream::connect(daemon).map_err(tried)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(tried)?;
    stream.write_all(format!("{request}\nquit\n").as_bytes()).map_err(tried)?;
    let lines = BufReader::new(io::Read::take(stream, 1 << 16)).lines();
    lines.collect::<Result<_, _>>().map_err(tried)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_found_in_both_languages() {
        for (text, socket) in [
            ("# x\nsocket: /run/a.sock\nallow:\n", Some("/run/a.sock")),
            ("socket: '/run/a b.sock' # x\n", Some("/run/a b.sock")),
            ("socket: /run/a.sock # x\n", Some("/run/a.sock")),
            ("socket = \"/run/a.sock\"\n", Some("/run/a.sock")),
            ("sockets = \"/x\"\n[targets.a]\n socket = 1\n", None),
            ("socket: x\n", None),
            ("socket:\n", None),
        ] {
            assert_eq!(socket_in(text), socket.map(PathBuf::from), "{text}");
        }
    }
}
