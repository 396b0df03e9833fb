//! One request: read strictly, and written anew.
//!
//! Smuggling lives on two programs that read the same bytes differently. Here nothing is
//! read in a way that anybody could read differently: whatever is unusual is refused, and
//! what goes on is made of a method, a path of plain characters and a query, with headers
//! of our own.

use super::api;
use serde_json::json;

/// The longest head of a request, in bytes.
pub(super) const LONGEST_HEAD: usize = 16 << 10;

/// The most headers of a request.
const MOST_HEADERS: usize = 64;

/// What is asked of the program outside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Whether the method is `HEAD`; else it is `GET`.
    is_head: bool,
    /// One that [`api`] allows.
    path: String,
    query: Option<String>,
}

/// Why a request is not passed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: &'static str,
    message: String,
    is_head: bool,
}

impl Refusal {
    pub(super) fn new(status: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), is_head: false }
    }

    fn malformed(what: &str) -> Self {
        Self::new("400 Bad Request", format!("remount: refused a request with {what}"))
    }

    fn too_large() -> Self {
        let message = "remount: refused a request whose head is too large";
        Self::new("431 Request Header Fields Too Large", message)
    }

    /// Nothing came in time.
    pub(super) fn too_slow() -> Self {
        Self::new("408 Request Timeout", "remount: the request was not complete in time")
    }

    /// The answer, as Docker's clients expect errors.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let body = json!({ "message": self.message }).to_string();
        let (status, length) = (self.status, body.len());
        let mut answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n"
        );
        if !self.is_head {
            answer.push_str(&body);
        }
        answer.into_bytes()
    }
}

impl Request {
    /// What is written to the program outside. It closes the connection after its answer.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let method = if self.is_head { "HEAD" } else { "GET" };
        let query = self.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
        format!(
            "{method} {}{query} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: remount-run\r\n\
             Accept: */*\r\nConnection: close\r\n\r\n",
            self.path
        )
        .into_bytes()
    }

    /// What `bytes`, all that has come so far, ask for; `None` if that is not all yet.
    ///
    /// # Errors
    /// Whatever is not a complete, plain request that [`api`] allows, and nothing after it.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, Refusal> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        let head = &bytes[..end.unwrap_or(bytes.len())];
        check_bytes(head)?;
        if head.len() > LONGEST_HEAD {
            return Err(Refusal::too_large());
        }
        if end.is_none() {
            return Ok(None);
        }
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::too_large()),
            _ => return Err(Refusal::malformed("a head that is not HTTP/1.1")),
        }
        let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
            return Err(Refusal::malformed("no method or no path"));
        };
        // Its first line is what the parser took it for, to the last byte.
        if !head.starts_with(format!("{method} {target} HTTP/1.1\r\n").as_bytes()) {
            let message = "remount: only HTTP/1.1 is spoken here";
            return Err(Refusal::new("505 HTTP Version Not Supported", message));
        }
        let (path, query) = read_target(target)?;
        let is_head = method == "HEAD";
        if !(is_head || method == "GET") || !api::is_allowed(&path) {
            let path = api::without_version(&path);
            let message = format!("remount: {method} {path} is blocked (read-only sandbox)");
            return Err(Refusal { is_head, ..Refusal::new("403 Forbidden", message) });
        }
        check_headers(parsed.headers)?;
        match bytes.len() == head.len() {
            true => Ok(Some(Self { is_head, path, query })),
            false => Err(Refusal::malformed("something after its head")),
        }
    }
}

/// Nothing but printable ASCII in lines that end as they should. Said as soon as it can be,
/// as a head with other line ends would never be complete.
fn check_bytes(head: &[u8]) -> Result<(), Refusal> {
    if head.first().is_some_and(|byte| !byte.is_ascii_uppercase()) {
        return Err(Refusal::malformed("no method at its beginning"));
    }
    for (at, byte) in head.iter().enumerate() {
        let next = head.get(at + 1);
        let is_fine = match byte {
            b'\n' => at > 0 && head[at - 1] == b'\r' && !matches!(next, Some(b' ')),
            b'\r' => matches!(next, None | Some(b'\n')),
            byte => (b' '..=b'~').contains(byte),
        };
        if !is_fine {
            return Err(Refusal::malformed("control characters or folded lines"));
        }
    }
    Ok(())
}

/// A plain path and the query.
fn read_target(target: &str) -> Result<(String, Option<String>), Refusal> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let path = decode_path(path).ok_or_else(|| Refusal::malformed("a path that is not plain"))?;
    let is_fine =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@!$&'()*+,;=/?%".contains(&byte);
    match query {
        Some(text) if !(text.bytes().all(is_fine) && has_plain_escapes(text)) => {
            Err(Refusal::malformed("a query that is not plain"))
        }
        query => Ok((path, query.map(str::to_owned))),
    }
}

/// The path, if each of its segments is a name. Clients encode `@` and `:`; nothing else that
/// is needed has to be encoded.
fn decode_path(path: &str) -> Option<String> {
    let path = path.replace("%40", "@").replace("%3A", ":").replace("%3a", ":");
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@+-".contains(&byte);
    let is_name =
        |segment: &str| segment.bytes().all(is_plain) && segment.bytes().any(|byte| byte != b'.');
    path.strip_prefix('/')?.split('/').all(is_name).then_some(path)
}

/// Whether each `%` stands before two digits, of no control character.
fn has_plain_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| {
        let digits = rest.get(..2).filter(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        byte.is_some_and(|byte| !byte.is_ascii_control())
    })
}

/// No body, no other protocol, and one host.
fn check_headers(headers: &[httparse::Header<'_>]) -> Result<(), Refusal> {
    let (mut hosts, mut lengths) = (0, 0);
    for header in headers {
        let value = header.value;
        match header.name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "content-length" if value == b"0" => lengths += 1,
            "connection" if is_plain_connection(value) => {}
            name @ ("content-length" | "transfer-encoding" | "trailer" | "te" | "expect") => {
                return Err(Refusal::malformed(&format!("a body (the header {name})")));
            }
            name @ ("connection" | "upgrade" | "http2-settings" | "keep-alive") => {
                return Err(Refusal::malformed(&format!("another protocol (the header {name})")));
            }
            _ => {}
        }
    }
    match (hosts, lengths) {
        (1, 0 | 1) => Ok(()),
        (1, _) => Err(Refusal::malformed("several lengths")),
        _ => Err(Refusal::malformed("no host, or several")),
    }
}

fn is_plain_connection(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"close") || value.eq_ignore_ascii_case(b"keep-alive")
}

#[cfg(test)]
mod tests;
