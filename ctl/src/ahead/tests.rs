use crate::cli::{self, Args, Command, Parsed};
use proptest::prelude::*;
use remount_broker::proto::Request;
use std::ffi::{CString, OsString};
use std::path::Path;

/// An address and a request, as the kernel takes them.
type Message = (Vec<u8>, Vec<u8>);

/// What would be sent if a process began with these words.
fn composed(words: &[String]) -> Option<Message> {
    #[repr(C)]
    struct Lengths {
        address: usize,
        line: usize,
    }
    unsafe extern "C" {
        fn remount_ahead_compose(stack: *const usize, room: *mut u8) -> Lengths;
    }
    let words = words.iter().map(|word| CString::new(word.as_str()).ok());
    let words = words.collect::<Option<Vec<_>>>()?;
    let addresses = words.iter().map(|word| word.as_ptr().expose_provenance());
    let stack: Vec<usize> = [words.len()].into_iter().chain(addresses).chain([0]).collect();
    let mut room = [0xAA_u8; 256];
    // SAFETY: the stack is laid out as a new process's, and the room is as large as is said.
    let lengths = unsafe { remount_ahead_compose(stack.as_ptr(), room.as_mut_ptr()) };
    assert!(room[240..].iter().chain(&room[110..112]).all(|byte| *byte == 0xAA), "{room:?}");
    (lengths.address != 0)
        .then(|| (room[..lengths.address].to_vec(), room[112..112 + lengths.line].to_vec()))
}

/// What the program itself would send first, to the socket that the line names.
fn meant(words: &[String]) -> Option<Message> {
    let Parsed::Run(Args { broker, command: Command::Set(set), .. }) =
        cli::parse(words.iter().map(OsString::from))
    else {
        return None;
    };
    let address = address(&broker.socket?)?;
    Some((address, Request::Set(set).to_line()?))
}

fn address(path: &Path) -> Option<Vec<u8>> {
    let path = path.to_str()?.as_bytes();
    // unix(7): sun_path has 108 bytes, the last of which is the end.
    (path.len() < 108).then(|| [&[1, 0], path, &[0]].concat())
}

fn line(words: &[&str]) -> Vec<String> {
    ["remountctl"].iter().chain(words).map(|word| (*word).to_owned()).collect()
}

#[test]
fn a_line_that_says_all_is_a_message() {
    let (longest, name) = ("/".repeat(107), "n".repeat(64));
    for words in [
        ["--socket", "/run/s", "ro", "work"],
        ["--socket", "s", "rw", "a-b_9"],
        ["--socket", &longest, "toggle", &name],
    ] {
        let words = line(&words);
        let message = composed(&words);
        assert!(message.is_some(), "{words:?}");
        assert_eq!(message, meant(&words), "{words:?}");
    }
}

#[test]
fn any_other_line_is_none() {
    let (too_long, name) = ("/".repeat(108), "n".repeat(65));
    for words in [
        &["--socket", "/run/s", "ro"][..],
        &["--socket", "/run/s", "ro", "a", "b"],
        &["--socket", "/run/s", "ro", ""],
        &["--socket", "/run/s", "ro", "-a"],
        &["--socket", "/run/s", "ro", "--all"],
        &["--socket", "/run/s", "ro", "a\""],
        &["--socket", "/run/s", "ro", "a/"],
        &["--socket", "/run/s", "ro", "a:"],
        &["--socket", "/run/s", "ro", "a`"],
        &["--socket", "/run/s", "ro", "a{"],
        &["--socket", "/run/s", "ro", "A"],
        &["--socket", "/run/s", "ro", "é"],
        &["--socket", "/run/s", "ro", &name],
        &["--socket", "/run/s", "row", "a"],
        &["--socket", "/run/s", "r", "a"],
        &["--socket", "/run/s", "list", "a"],
        &["--socket", "", "ro", "a"],
        &["--socket", "-s", "ro", "a"],
        &["--socket", &too_long, "ro", "a"],
        &["--sockets", "/run/s", "ro", "a"],
        &["--socke", "/run/s", "ro", "a"],
        &["--config", "/run/s", "ro", "a"],
        &["ro", "a", "--socket", "/run/s"],
        &["ro", "a"],
        &[],
    ] {
        assert_eq!(composed(&line(words)), None, "{words:?}");
    }
    assert_eq!(composed(&[]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn what_is_sent_is_what_the_line_means(
        option in "--socket|--socket|--socket|--config|--pid|-q",
        path in "[ -~é]{0,120}|/[a-z]{1,106}",
        mode in "ro|rw|toggle|list|why|[a-z]{0,8}",
        name in "[a-z0-9_-]{0,66}|[ -~é]{0,3}",
        more in proptest::collection::vec("[a-z-]{0,8}", 0..2),
    ) {
        let mut words = line(&[&option, &path, &mode, &name]);
        words.extend(more);
        if let Some(message) = composed(&words) {
            prop_assert_eq!(Some(message), meant(&words));
        }
    }
}
