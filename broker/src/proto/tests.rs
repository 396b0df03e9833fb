use super::*;
use crate::name::{Authority, Mode, TargetName};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn name(text: &str) -> TargetName {
    text.parse().unwrap()
}

fn request(line: &str) -> Result<Request, Malformed> {
    parse(line.as_bytes()).1
}

fn set(names: &[&str], wish: Wish) -> Request {
    let targets = Selection::Named(names.iter().map(|text| name(text)).collect());
    Request::Set(SetRequest::new(targets, wish))
}

/// Enough chance for tests, the same in every run.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn requests_survive_the_round_trip() {
    let all = SetRequest::new(Selection::All, Wish::Toggle);
    for wanted in [
        set(&["a"], Wish::Ro),
        set(&["a", "b-c_9"], Wish::Rw),
        Request::Set(all.clone()),
        Request::Set(SetRequest { busy: Some(OnBusy::Fail), ..all.clone() }),
        Request::Set(SetRequest {
            busy: Some(OnBusy::Wait(Duration::from_millis(7))),
            ..all.clone()
        }),
        Request::Set(SetRequest {
            busy: Some(OnBusy::Kill { grace: Duration::from_secs(1), force: true }),
            ..all.clone()
        }),
        Request::Set(SetRequest {
            lease: Some(Term::For(Duration::from_secs(60))),
            ..SetRequest::new(Selection::All, Wish::Rw)
        }),
        Request::Set(SetRequest {
            lease: Some(Term::Held),
            ..SetRequest::new(Selection::All, Wish::Rw)
        }),
        Request::List,
        Request::Status,
        Request::Holders(Selection::Named(vec![name("a")])),
        Request::Why("/a b".into()),
        Request::Why(OsStr::from_bytes(b"/a\n\xff").into()),
        Request::Decide(Decision { id: 3, verdict: Answer::Deny }),
        Request::Events { follow: true },
        Request::Events { follow: false },
    ] {
        let line = wanted.to_line().unwrap();
        let (&newline, line) = line.split_last().unwrap();
        assert_eq!(newline, b'\n');
        assert_eq!(parse(line), (Dialect::Json, Ok(wanted)));
    }
    assert_eq!(Request::Quit.to_line(), None);
    let long: Vec<_> = (0..1000).map(|n| format!("target{n}")).collect();
    let long: Vec<_> = long.iter().map(String::as_str).collect();
    assert_eq!(set(&long, Wish::Ro).to_line(), None, "does not fit in a line");
}

#[test]
fn json_is_taken_at_its_word_only() {
    for bad in [
        "{",
        "{}",
        r#"{"op":"set"}"#,
        r#"{"op":"set","mode":"ro"}"#,
        r#"{"op":"set","targets":[],"mode":"ro"}"#,
        r#"{"op":"set","targets":["a"],"all":true,"mode":"ro"}"#,
        r#"{"op":"set","all":false,"mode":"ro"}"#,
        r#"{"op":"set","targets":["A"],"mode":"ro"}"#,
        r#"{"op":"set","targets":["../a"],"mode":"ro"}"#,
        r#"{"op":"set","targets":"a","mode":"ro"}"#,
        r#"{"op":"set","targets":["a"],"mode":"RO"}"#,
        r#"{"op":"set","targets":["a"],"mode":"ro","pid":"1"}"#,
        r#"{"op":"set","targets":["a"],"mode":"ro","pid":-1}"#,
        r#"{"op":"events","pid":1}"#,
        r#"{"op":"set","targets":["a"],"mode":"ro","path":"a"}"#,
        r#"{"op":"set","targets":["a"],"mode":"ro","origin":"outside"}"#,
        r#"{"op":"set","targets":["a"],"mode":"ro","mode":"rw"}"#,
        r#"{"op":"list","all":true}"#,
        r#"{"op":"approve"}"#,
        r#"{"op":"deny","id":-1}"#,
        r#"{"op":"approve","id":1,"targets":["a"]}"#,
        r#"{"op":"set","targets":["a"],"mode":"ro","id":1}"#,
        r#"{"op":"set","targets":["a"],"mode":"ro","busy":"wait"}"#,
        r#"{"op":"set","targets":["a"],"mode":"ro","wait-ms":5}"#,
        r#"{"op":"set","targets":["a"],"mode":"ro","busy":"fail","force":true}"#,
        r#"{"op":"set","targets":["a"],"mode":"ro","busy":"wait","wait-ms":18446744073709551615}"#,
        r#"{"op":"set","targets":["a"],"mode":"ro","for-ms":5}"#,
        r#"{"op":"set","targets":["a"],"mode":"rw","for-ms":5,"hold":true}"#,
        r#"{"op":"set","targets":["a"],"mode":"rw","approved":true}"#,
        r#"{"op":"why"}"#,
        r#"{"op":"why","path":"a"}"#,
        r#"{"op":"why","path":[97]}"#,
        r#"{"op":"why","path":[47,256]}"#,
        r#"{"op":"set","targets":["a"],"mode":"ro","path":[47,97]}"#,
        r#"{"op":"holders"}"#,
        r#"{"op":"list"} x"#,
    ] {
        assert!(matches!(request(bad), Err(Malformed::Form(_))), "{bad}");
    }
    let good = r#"{"op":"set","targets":["a","b"],"mode":"ro"}"#;
    assert_eq!(request(good), Ok(set(&["a", "b"], Wish::Ro)));
    for end in 0..good.len() {
        assert!(request(&good[..end]).is_err(), "{}", &good[..end]);
    }
}

#[test]
fn classic_lines() {
    assert_eq!(request("ro a"), Ok(set(&["a"], Wish::Ro)));
    assert_eq!(request("rw a 1234\r"), Ok(set(&["a"], Wish::Rw)), "the pid says nothing");
    assert_eq!(request("list"), Ok(Request::List));
    assert_eq!(request(" quit "), Ok(Request::Quit));
    for bad in
        ["", "ro", "ro A", "ro ../x", "ro a b", "toggle a", "list x", "RO a", "GET / HTTP/1.1"]
    {
        assert!(matches!(request(bad), Err(Malformed::Form(_))), "{bad}");
    }
}

#[test]
fn a_path_claim_is_compared_whole() {
    for (line, path, names) in [
        ("ro a /p/q", "/p/q", true),
        ("ro a /p/q 77", "/p/q", true),
        ("ro a /p/q 77", "/p/q 77", true),
        ("ro a /p q/r", "/p q/r", true),
        ("ro a /p q/r 77", "/p q/r", true),
        ("ro a /p/q/r", "/p/q", false),
        ("ro a /p/q/../r", "/p/r", false),
        ("ro a /p", "/p/q", false),
    ] {
        let Ok(Request::Set(SetRequest { path: Some(claim), .. })) = request(line) else {
            panic!("{line}");
        };
        assert_eq!(claim.names(Path::new(path)), names, "{line} against {path}");
    }
}

#[test]
fn over_long_and_not_text() {
    let longest = format!("ro a /{}", "x".repeat(MAX_LINE - 7));
    assert_eq!(longest.len(), MAX_LINE - 1, "the newline counts");
    assert!(request(&longest).is_ok());
    assert_eq!(request(&format!("{longest}x")), Err(Malformed::TooLong));
    assert_eq!(parse(b"ro a\0").1, Err(Malformed::NotText));
    assert_eq!(parse(b"{\"op\":\"list\"}\0").1, Err(Malformed::NotText));
    assert_eq!(parse(b"ro \xff").1, Err(Malformed::NotText));
    let deep = format!("{{\"op\":{}", "[".repeat(4000));
    assert!(matches!(request(&deep), Err(Malformed::Form(_))));
}

/// Whatever comes, it is a request or a fault, and the answer is one clean line.
#[test]
fn no_bytes_panic() {
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let seeds: [&[u8]; 4] = [
        br#"{"op":"set","targets":["a","b"],"mode":"toggle"}"#,
        br#"{"op":"status"}"#,
        b"rw workspace /home/u/p 4711",
        b"list",
    ];
    for round in 0..50_000_u64 {
        let mut line = seeds[(round % 4) as usize].to_vec();
        if round % 3 == 0 {
            line = (0..chance.below(200)).map(|_| chance.below(256) as u8).collect();
        }
        for _ in 0..chance.below(4) {
            if !line.is_empty() {
                let at = chance.below(line.len() as u64) as usize;
                line[at] = chance.below(256) as u8;
            }
        }
        let (dialect, parsed) = parse(&line);
        if let Err(malformed) = parsed {
            let reply = Reply::Refused(Refusal::from(&Fault::from(malformed)));
            let text = String::from_utf8(reply.to_bytes(dialect)).unwrap();
            let body = text.strip_suffix('\n').unwrap();
            assert!(!body.is_empty() && !body.contains(char::is_control), "{body:?}");
        }
    }
}

#[test]
fn replies_survive_the_round_trip() {
    let report = TargetReport {
        name: name("workspace"),
        path: PathBuf::from("/home/u/a b"),
        mode: Mode::Ro,
        state: State::Stale,
        lost: Some(PathBuf::from("/home/u/a b/.idea")),
        crowded: None,
        authority: Authority::Confirm,
        lease: None,
    };
    let holder = Holder {
        target: name("workspace"),
        pid: 7,
        pid_inside: Some(3),
        command: "c".to_owned(),
        path: "/p".to_owned(),
        kind: Hold::Mapped,
        since: 5,
    };
    let holders = Holders { holders: vec![holder], more: true };
    let refusal = Refusal {
        error: ErrorCode::Busy,
        message: "m\u{1b}".to_owned(),
        hint: Some("h".into()),
        holders: Some(holders.clone()),
    };
    let waiting =
        Waiting { id: 1, targets: vec![name("x")], pid: None, command: "c".into(), left_ms: 9 };
    let lease = Some(Lease { left_ms: Some(4), held: 1, closing: true });
    let status = StatusReport {
        origin: Origin::Inside,
        sandbox: Some(SandboxInfo {
            id: "a1".into(),
            pid: 9,
            profile: "default".into(),
            cwd: "/p".into(),
            started: 8,
        }),
        targets: vec![TargetReport { lease, ..report.clone() }],
        pending: vec![waiting],
        changed: vec!["/p/x".into()],
    };
    for reply in [
        Reply::List(vec![report.clone()]),
        Reply::Status(Box::new(status)),
        Reply::Holders(holders),
        Reply::Events(vec![serde_json::json!({"seq": 1})]),
        Reply::Refused(refusal),
        Reply::Bye,
    ] {
        assert_eq!(Reply::from_json(&reply.to_bytes(Dialect::Json)), Ok(reply));
    }
    let done = Reply::Done(vec![report.clone()]).to_bytes(Dialect::Json);
    assert_eq!(
        String::from_utf8(done).unwrap(),
        "{\"ok\":true,\"targets\":[{\"name\":\"workspace\",\"path\":\"/home/u/a b\",\
         \"mode\":\"ro\",\"state\":\"stale\",\"lost\":\"/home/u/a b/.idea\",\"authority\":\"confirm\"}]}\n"
    );
    let classic = Reply::List(vec![report]).to_bytes(Dialect::Classic);
    assert_eq!(String::from_utf8(classic).unwrap(), "workspace ro /home/u/a b\nOK\n");
    let newer = r#"{"ok":false,"error":"too-early","message":"m","since":3}"#;
    assert!(matches!(
        Reply::from_json(newer.as_bytes()),
        Ok(Reply::Refused(Refusal { error: ErrorCode::Failed, .. }))
    ));
    for bad in ["", "x", "{}", r#"{"ok":false}"#, r#"{"ok":true,"targets":[{}]}"#] {
        assert!(Reply::from_json(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn a_path_of_any_bytes_stays_on_its_line() {
    let path = PathBuf::from(OsStr::from_bytes(b"/a\nb\x1b[2J\xff"));
    let report = TargetReport {
        name: name("x"),
        path,
        mode: Mode::Rw,
        state: State::Ok,
        lost: None,
        crowded: None,
        authority: Authority::Inside,
        lease: None,
    };
    let reply = Reply::List(vec![report]);
    let classic = String::from_utf8(reply.to_bytes(Dialect::Classic)).unwrap();
    assert_eq!(classic, "x rw /a\\nb\\u{1b}[2J\\xff\nOK\n");
    let json = String::from_utf8(reply.to_bytes(Dialect::Json)).unwrap();
    assert!(json.contains(r#""path":"/a\nb\u001b[2J�""#), "{json}");
}

/// Bytes near to requests, by chance: none panics, what is accepted means the same when it
/// is said again, and what is refused is refused in clean words. For `REMOUNT_FUZZ` seconds,
/// as `.ci/run` does it, or some thousand times.
#[test]
fn whatever_comes_is_a_request_or_a_clean_refusal() {
    let seeds: [&[u8]; 8] = [
        br#"{"op":"set","targets":["a","b"],"mode":"ro","busy":"wait","wait-ms":2000}"#,
        br#"{"op":"set","all":true,"mode":"rw","for-ms":1}"#,
        br#"{"op":"set","targets":["a"],"mode":"ro","busy":"kill","grace-ms":1,"force":true}"#,
        br#"{"op":"why","path":"/a"}"#,
        br#"{"op":"approve","id":1}"#,
        br#"{"op":"events","follow":true}"#,
        b"ro workspace /a b 17",
        b"list",
    ];
    let tokens: [&[u8]; 10] = [
        b"\"",
        b"{",
        b"}",
        b",",
        b":",
        b"\0",
        b"\xff",
        b"true",
        b"18446744073709551616",
        b"\\u0000",
    ];
    let seconds = std::env::var("REMOUNT_FUZZ").ok().map(|text| text.parse().unwrap());
    let end = std::time::Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let seed = end.elapsed().subsec_nanos().max(std::process::id());
    let mut chance = Chance(seconds.map_or(0x5eed, |_| u64::from(seed)));
    println!("seed {}", chance.0);
    let mut rounds = 0_u64;
    while rounds < 20_000 || std::time::Instant::now() < end {
        rounds += 1;
        let mut line = seeds[chance.below(8) as usize].to_vec();
        for _ in 0..chance.below(6) {
            let at = chance.below(line.len() as u64 + 1) as usize;
            match chance.below(4) {
                0 => line.truncate(at),
                1 if at < line.len() => line[at] = chance.below(256) as u8,
                2 => {
                    let token = tokens[chance.below(10) as usize];
                    line.splice(at..at, token.iter().copied()).for_each(drop);
                }
                _ => {
                    let from = chance.below(at as u64 + 1) as usize;
                    line.drain(from..at).for_each(drop);
                }
            }
        }
        let (dialect, outcome) = parse(&line);
        match outcome {
            Ok(request) => {
                if let (Dialect::Json, Some(again)) = (dialect, request.to_line()) {
                    assert_eq!(parse(&again[..again.len() - 1]).1, Ok(request), "{line:?}");
                }
            }
            Err(malformed) => {
                let text = malformed.to_string();
                assert!(!text.is_empty() && !text.contains(char::is_control), "{line:?}: {text:?}");
            }
        }
        // A client has the same duty towards what a broker says.
        drop(Reply::from_json(&line));
    }
}
