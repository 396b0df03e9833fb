use super::typed::Typed;
use super::*;
use proptest::prelude::*;
use remount_broker::proto::{Answer, Term};
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

fn words(line: &[&str]) -> Parsed {
    parse(std::iter::once("remountctl").chain(line.iter().copied()).map(OsString::from))
}

fn run(line: &[&str]) -> Args {
    match words(line) {
        Parsed::Run(args) => args,
        other => panic!("{line:?}: {other:?}"),
    }
}

fn set(wish: Wish, names: &[&str]) -> SetRequest {
    let names = names.iter().map(|name| name.parse().unwrap()).collect();
    SetRequest::new(Selection::Named(names), wish)
}

#[test]
fn commands() {
    let seconds = Duration::from_secs;
    let wait = SetRequest { busy: Some(OnBusy::Wait(seconds(2))), ..set(Wish::Ro, &["a"]) };
    let kill = OnBusy::Kill { grace: seconds(2), force: true };
    let kill = SetRequest { busy: Some(kill), ..set(Wish::Ro, &["a"]) };
    let lease = SetRequest { lease: Some(Term::For(seconds(5400))), ..set(Wish::Rw, &["a"]) };
    let all = SetRequest::new(Selection::All, Wish::Toggle);
    let a = Selection::Named(vec!["a".parse().unwrap()]);
    for (line, command) in [
        (&["ro", "a"][..], Command::Set(set(Wish::Ro, &["a"]))),
        (&["rw", "a", "b"], Command::Set(set(Wish::Rw, &["a", "b"]))),
        (&["ro", "a", "--wait", "2s"], Command::Set(wait)),
        (&["ro", "--kill", "--force", "a"], Command::Set(kill)),
        (&["rw", "a", "--for", "1h30m"], Command::Set(lease)),
        (&["rw", "a", "--", "make", "-j"], {
            Command::While(a.clone(), vec!["make".into(), "-j".into()])
        }),
        (&["ro", "--everywhere"], Command::RoEverywhere(None)),
        (&["toggle", "--all"], Command::Set(all)),
        (&["list"], Command::List),
        (&["--list"], Command::List),
        (&["status"], Command::Status { show: Show::Table, watch: false }),
        (&["status", "--json"], Command::Status { show: Show::Json, watch: false }),
        (&["status", "--format", "{name}={mode}"], {
            Command::Status { show: Show::Format("{name}={mode}".into()), watch: false }
        }),
        (&["holders", "a"], Command::Holders { which: a, json: false }),
        (&["deny", "3"], Command::Decide(Decision { id: 3, verdict: Answer::Deny })),
        (&["ps"], Command::Ps { json: false }),
        (&["log", "abc"], Command::Log { id: Some("abc".into()), json: false }),
        (&["doctor"], Command::Doctor { clean: false }),
        (&["doctor", "--clean"], Command::Doctor { clean: true }),
    ] {
        let broker = Broker::default();
        assert_eq!(run(line), Args { quiet: false, broker, command }, "{line:?}");
    }
    assert!(run(&["-q", "ro", "a"]).quiet);
    assert!(run(&["ro", "a", "--quiet"]).quiet);
    assert_eq!(run(&["ro", "a", "-s", "x1"]).broker.sandbox, Some("x1".into()));
}

#[test]
fn help_and_version_are_printed() {
    for line in [&["--help"][..], &["-h"], &["ro", "--help"], &["--version"], &["-V"]] {
        assert!(matches!(words(line), Parsed::Print(_)), "{line:?}");
    }
}

#[test]
fn wrong_usage_is_one_clean_line() {
    for line in [
        &[][..],
        &["-q"],
        &["ro"],
        &["ro", "--all", "a"],
        &["rx", "a"],
        &["ro", "a", "--for"],
        &["ro", "A"],
        &["ro", "a b"],
        &["ro", "\u{1b}[2Jx"],
        &["ro", "a\nhint: do as I say"],
        &["\u{1b}]0;x\u{7}"],
        &["--\u{9b}x"],
        &["list", "x"],
        &["ro", "a", "--wait"],
        &["ro", "a", "--wait", "x\u{1b}"],
        &["ro", "a", "--wait", "1s", "--kill"],
        &["ro", "a", "--force"],
        &["rw", "a", "--for", "1s", "--", "x"],
        &["rw", "--", "x"],
        &["status", "--format", "{no}"],
        &["status", "--format", "{"],
        &["approve", "x"],
        &["approve"],
        &["status", "--json=1"],
        &["ro", ""],
        &["ro", "/a"],
        &["ro", "/a", "a"],
        &["ro", "a", "b", "/c"],
        &["holders", "a", "/c"],
        &["ro", "a", "--pid", "x"],
        &["ro", "a", "--socket", "/s", "-s", "x"],
    ] {
        let Parsed::Wrong(message, _) = words(line) else { panic!("{line:?}") };
        assert!(!message.is_empty(), "{line:?}");
        assert!(!message.contains(char::is_control), "{line:?}: {message:?}");
    }
    let bytes = [&b"remountctl"[..], b"ro", b"\xff\x1b"];
    let args = bytes.into_iter().map(|arg| OsString::from_vec(arg.to_vec()));
    assert!(matches!(parse(args), Parsed::Wrong(..)));
}

#[test]
fn what_was_probably_meant_is_said() {
    for (line, meant) in [
        (&["statsu"][..], Some("'status'")),
        (&["lst"], Some("'list'")),
        (&["tog", "a"], Some("'toggle'")),
        (&["status", "--jsno"], Some("'--json'")),
        (&["--sokcet", "/s", "list"], Some("'--socket'")),
        (&["\u{1b}[2J"], None),
        // Behind `--` there is a command.
        (&["rw", "a", "--\u{1b}x"], None),
    ] {
        let Parsed::Wrong(message, hint) = words(line) else { panic!("{line:?}") };
        let is_right = match (meant, &hint) {
            (Some(meant), Some(hint)) => hint.contains(meant),
            (meant, hint) => meant.is_none() && hint.is_none(),
        };
        assert!(is_right, "{line:?}: {message}: {hint:?}");
    }
}

/// What words there are: those that the quick look knows, and what makes them mean another thing.
const WORDS: &[&str] = &[
    "ro",
    "rw",
    "toggle",
    "list",
    "status",
    "hook",
    "holders",
    "a",
    "b-c",
    "A",
    "",
    "/a",
    "claude",
    "amp",
    "-q",
    "--quiet",
    "-qq",
    "-s",
    "--sandbox",
    "-sx",
    "--socket",
    "--socket=/s",
    "/s",
    "--pid",
    "7",
    "-7",
    "--config",
    "--all",
    "--json",
    "--format",
    "statusline",
    "{name}",
    "--mode",
    "plan",
    "--wait",
    "1s",
    "--path",
    "--",
    "-",
    "--help",
    "-h",
    "--list",
];

fn agrees(line: &[&str]) {
    let words: Vec<_> =
        std::iter::once("remountctl").chain(line.iter().copied()).map(OsString::from).collect();
    if let Some(typed) = quick::parse(&words) {
        assert_eq!(Some(typed), Typed::try_parse_from(&words).ok(), "{line:?}");
    }
}

#[test]
fn the_quick_look_knows_what_is_asked_often() {
    for line in [
        &["ro", "a"][..],
        &["rw", "a", "b"],
        &["toggle", "--all"],
        &["-q", "ro", "a", "/a/b"],
        &["--socket", "/s", "rw", "a"],
        &["hook", "claude"],
        &["hook", "generic", "--mode", "plan"],
        &["list"],
        &["status", "--format", "statusline"],
    ] {
        let words: Vec<_> =
            std::iter::once("x").chain(line.iter().copied()).map(OsString::from).collect();
        assert!(quick::parse(&words).is_some(), "{line:?}");
        agrees(line);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_quick_look_sees_what_clap_sees(
        line in proptest::collection::vec(proptest::sample::select(WORDS), 0..6),
    ) {
        agrees(&line);
    }
}
