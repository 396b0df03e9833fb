use super::*;
use proptest::prelude::*;

fn read(text: &str) -> Result<Option<Request>, Refusal> {
    Request::read(text.as_bytes())
}

#[test]
fn a_plain_request_is_written_anew() {
    let request = read(
        "GET /v1.41/images/a%40sha256%3Ab/json?all=1&filters=%7B%22a%22%3A1%7D HTTP/1.1\r\n\
         Host: api\r\nUser-Agent: Docker-Client\r\nX-Evil: POST\r\nConnection: keep-alive\r\n\r\n",
    );
    assert_eq!(
        String::from_utf8(request.unwrap().unwrap().to_bytes()).unwrap(),
        "GET /v1.41/images/a@sha256:b/json?all=1&filters=%7B%22a%22%3A1%7D HTTP/1.1\r\n\
         Host: localhost\r\nUser-Agent: remount-run\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    let head = read("HEAD /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert!(head.unwrap().unwrap().to_bytes().starts_with(b"HEAD /_ping HTTP/1.1\r\n"));
}

#[test]
fn what_is_not_complete_is_waited_for() {
    let whole = "GET /info HTTP/1.1\r\nHost: a\r\n\r\n";
    for end in 0..whole.len() {
        assert_eq!(read(&whole[..end]), Ok(None), "{end}");
    }
    assert!(read(whole).unwrap().is_some());
}

/// Status and message of the refusal of a request.
fn refused(text: &str) -> String {
    let refusal = read(text).expect_err(text);
    let answer = String::from_utf8(refusal.to_bytes()).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    if !body.is_empty() {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(body["message"].as_str().unwrap().starts_with("remount: "), "{body}");
    }
    head.split(' ').nth(1).unwrap().to_owned() + body
}

#[test]
fn what_changes_something_is_blocked_and_named() {
    for method in ["POST", "PUT", "DELETE", "PATCH", "CONNECT", "OPTIONS", "get", "GETX"] {
        let text = format!("{method} /v1.41/containers/json HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = refused(&text);
        let blocked = format!("{method} /containers/json is blocked (read-only sandbox)");
        assert!(answer.contains(&blocked) || method == "get", "{answer}");
    }
    assert_eq!(
        refused(
            "POST /v1.41/containers/create?name=a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
        ),
        "403{\"message\":\"remount: POST /containers/create is blocked (read-only sandbox)\"}"
    );
    assert_eq!(refused("HEAD /containers/a/archive?path=/ HTTP/1.1\r\nHost: a\r\n\r\n"), "403");
}

#[test]
fn nothing_can_be_read_in_two_ways() {
    let get = |rest: &str| format!("GET /info HTTP/1.1\r\nHost: a\r\n{rest}\r\n");
    for text in [
        // Bodies.
        get("Content-Length: 5\r\n"),
        get("Content-Length: 0\r\nContent-Length: 0\r\n"),
        get("Content-Length: 0\r\nContent-Length: 5\r\n"),
        get("Content-Length: +0\r\n"),
        get("Content-Length: 0, 0\r\n"),
        get("Content-Length: 00\r\n"),
        get("Content-Length:\r\n"),
        get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        get("Transfer-Encoding: chunked\r\n"),
        get("Transfer-Encoding : chunked\r\n"),
        get("Transfer-Encoding: xchunked\r\n"),
        get("Transfer-Encoding: identity\r\n"),
        get("Transfer-Encoding:\x0bchunked\r\n"),
        get("Transfer-Encoding:\r\n chunked\r\n"),
        get("X: a\r\n b\r\n"),
        get("X: a\r\n\tb\r\n"),
        get(" X: a\r\n"),
        get("X: a\rb\r\n"),
        get("X: a\nTransfer-Encoding: chunked\r\n"),
        get("X: a\0b\r\n"),
        get("X\0: a\r\n"),
        get("X: \u{e4}\r\n"),
        get("no colon\r\n"),
        get(": no name\r\n"),
        get("Expect: 100-continue\r\n"),
        get("TE: trailers\r\n"),
        get("Trailer: X\r\n"),
        // Other protocols.
        get("Upgrade: tcp\r\nConnection: Upgrade\r\n"),
        get("Connection: Upgrade\r\n"),
        get("Connection: close, upgrade\r\n"),
        get("Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"),
        // Hosts.
        get("Host: b\r\n"),
        "GET /info HTTP/1.1\r\n\r\n".into(),
        // More than one.
        get("\r\nPOST /containers/create HTTP/1.1\r\nHost: a\r\n"),
        get("\r\n "),
        // Lines.
        "GET /info HTTP/1.1\nHost: a\n\n".into(),
        "GET /info HTTP/1.1\r\nHost: a\n\r\n".into(),
        "\r\nGET /info HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        " GET /info HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET  /info HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET /info  HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET /info HTTP/1.1 \r\nHost: a\r\n\r\n".into(),
        "GET\t/info HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET /info\r\n\r\n".into(),
        "GET /info\r\nHost: a\r\n\r\n".into(),
        "GET /info HTTP/1.0\r\nHost: a\r\n\r\n".into(),
        "GET /info HTTP/2.0\r\nHost: a\r\n\r\n".into(),
        "GET /info HTTP/1.2\r\nHost: a\r\n\r\n".into(),
        "GET /info http/1.1\r\nHost: a\r\n\r\n".into(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        "\u{16}\u{3}\u{1}".into(),
    ] {
        let answer = refused(&text);
        assert!(["400", "431", "505"].iter().any(|code| answer.starts_with(code)), "{answer}");
    }
}

#[test]
fn a_path_is_plain_or_refused() {
    for target in [
        "http://localhost/info",
        "//localhost/info",
        "localhost:80",
        "*",
        "info",
        "/",
        "/info/",
        "//info",
        "/./info",
        "/../info",
        "/x/../info",
        "/containers/../info",
        "/containers/%2e%2e/info",
        "/containers/%2E%2e/exec",
        "/%69nfo",
        "/containers/a%2fjson",
        "/containers/a%00/json",
        "/containers/a%/json",
        "/containers/a%4/json",
        "/containers/a%2540/json",
        "/containers/a;b/json",
        "/containers/a\\b/json",
        "/containers/a/archive?/json",
        "/containers/a/archive#/json",
        "/info#",
        "/info?a=%0d%0aHost:b",
        "/info?a=%00",
        "/info?a=%",
        "/info?a=%zz",
        "/info?a=#b",
        "/info?a=\"",
        "/info?a={}",
    ] {
        refused(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    refused("GET /inf\u{f6} HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn a_head_is_bounded() {
    let long = |length: usize| {
        format!("GET /info HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(length))
    };
    assert!(read(&long(LONGEST_HEAD - 50)).unwrap().is_some());
    assert!(refused(&long(LONGEST_HEAD)).starts_with("431"));
    assert!(refused(&long(1 << 20)).starts_with("431"));
    // Before its end has come.
    assert!(refused(&long(1 << 20)[..=LONGEST_HEAD]).starts_with("431"));
    let many =
        |count: usize| format!("GET /info HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count));
    assert!(read(&many(MOST_HEADERS - 1)).unwrap().is_some());
    assert!(refused(&many(MOST_HEADERS)).starts_with("431"));
}

/// Of what goes on, whatever has come: the first line, checked by other means.
fn assert_harmless(bytes: &[u8]) {
    let Ok(Some(request)) = Request::read(bytes) else { return };
    let text = String::from_utf8(request.to_bytes()).unwrap();
    let fixed = " HTTP/1.1\r\nHost: localhost\r\nUser-Agent: remount-run\r\nAccept: */*\r\n\
                 Connection: close\r\n\r\n";
    let line = text.strip_suffix(fixed).expect(&text);
    assert!(line.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{line:?}");
    let (method, target) = line.split_once(' ').unwrap();
    assert!(["GET", "HEAD"].contains(&method) && !target.contains(' '), "{line:?}");
    let path = target.split('?').next().unwrap();
    assert!(api::is_allowed(path) && !path.contains(['%', '#', '\\']), "{line:?}");
    assert!(path.split('/').skip(1).all(|name| !matches!(name, "" | "." | "..")), "{line:?}");
    for word in ["archive", "attach", "exec", "export", "get", "session", "grpc", "start"] {
        assert!(!path.ends_with(&format!("/{word}")), "{line:?}");
    }
}

/// Pieces of requests, of which some put together are one.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words: &[&str] = &[
        "GET ",
        "HEAD ",
        "POST ",
        " ",
        "/",
        "/v1.41",
        "/info",
        "/containers/a/json",
        "/exec/a",
        "/containers/a/archive",
        "/..",
        "/%2e%2e",
        "%40",
        "?a=b",
        "#",
        "http://a",
        " HTTP/1.1",
        " HTTP/1.0",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        "\0",
        "Host: a\r\n",
        "X: y\r\n",
        "Content-Length: 0\r\n",
        "Content-Length: 4\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Connection: Upgrade\r\n",
        "Upgrade: tcp\r\n",
        "GET /info HTTP/1.1\r\nHost: a\r\n",
        "0\r\n\r\n",
    ];
    prop_oneof![
        8 => proptest::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_what_goes_on_only_reads(
        pieces in proptest::collection::vec(piece(), 0..14),
    ) {
        assert_harmless(&pieces.concat());
    }

    #[test]
    fn a_request_with_some_bytes_changed_only_reads(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        more in proptest::collection::vec(piece(), 0..3),
    ) {
        let plain = "GET /v1.41/containers/a/json?size=1 HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
        let mut bytes = plain.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        assert_harmless(&bytes);
        let at = cut.index(bytes.len());
        bytes.splice(at..at, more.concat());
        assert_harmless(&bytes);
    }
}
