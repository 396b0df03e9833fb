//! What is no profile, and what is said of it.

use super::*;

#[test]
fn an_unknown_profile_names_the_known() {
    let error = Config::new(&[("mine.toml", "")]).load(&["cluade"]).unwrap_err();
    assert_eq!(error.to_string(), "profile `cluade`: there is no profile of this name");
    let hint = error.hint().unwrap();
    assert!(hint.starts_with("did you mean `claude`? profiles are aider, amp, claude,"));
    assert!(hint.contains("mine"), "{hint}");
}

/// Line, column, reason and hint of errors in the profile `p`.
#[test]
fn errors_name_the_place_and_what_is_accepted() {
    for (text, place, reason, hint) in [
        ("\n[sandbox]\nnetwrok = 'none'\n", "3:1", "unknown key `netwrok`", "`network`"),
        ("nonsense = 1", "1:1", "unknown key `nonsense`", "the keys here are description"),
        ("[workspace]\nmask = []", "2:1", "unknown key `mask`", "top of the file"),
        ("[sandbox]\nnetwork = 'off'", "2:11", "unknown variant `off`", ""),
        ("[[bind]]\nmode = 'rw'", "1:1", "missing field `path`", ""),
        ("[[bind]]\npath = 'x/y'", "2:8", "not an absolute path", ""),
        ("[[bind]]\npath = '~/{nope}'", "2:8", "unknown variable {nope}: known are {cwd}", ""),
        ("[[bind]]\npath = '/x'\nmode = 'w'", "3:8", "unknown variant `w`", ""),
        ("[[bind]]\npath = '/x'\nauthority = 'host'", "3:13", "without `toggle`", "toggle"),
        ("[[bind]]\npath = '/x'\ntoggle = 'A'", "3:10", "target name \"A\"", ""),
        ("mask = ['/ok', '/a/../b']", "1:16", "'..' in a path", ""),
        ("mask = ['/ok', 7]", "1:16", "invalid type: integer `7`", ""),
        ("mask = ['x']", "1:9", "not an absolute path", ""),
        (
            "protect = [{ path = 'a', mising = 'skip' }]",
            "1:26",
            "unknown key `mising`",
            "`missing`",
        ),
        ("protect = [{ path = '../a' }]", "1:21", "'..' in a path", ""),
        ("protect = [true]", "1:12", "a path, or a table", ""),
        ("[[tmpfs]]\npath = '/t'\nsize = '1X'", "3:8", "size \"1X\": must be bytes", ""),
        ("[[tmpfs]]\npath = '/t'\nmode = '99'", "3:8", "octal", ""),
        ("[environment]\nset = { A = '{x}' }", "2:13", "unknown variable {x}", ""),
        ("[environment]\nset = { 'A=' = 'x' }", "2:9", "variable \"A=\"", ""),
        ("[environment]\nunset = ['A*B']", "2:10", "one '*'", ""),
        ("commands = ['/bin/x']", "1:13", "last component", ""),
        ("[workspace]\npath = '{workspace}/x'", "2:8", "cannot be part of it", ""),
        ("[sandbox]\nhostname = 'a b'", "2:12", "hostname", ""),
        ("a = [", "1:6", "", ""),
        ("mask = ['/a']\nmask = ['/b']", "2:1", "duplicate key", ""),
    ] {
        let error = one(text).unwrap_err();
        let shown = error.to_string();
        let at = format!("p.toml:{place}: ");
        assert!(shown.contains(&at), "{text:?} at {place}: {shown}");
        assert!(shown.contains(reason), "{text:?}: {shown}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{text:?}: {:?}", error.hint());
        let line: usize = place.split(':').next().unwrap().parse().unwrap();
        let offending = text.lines().nth(line - 1).unwrap();
        assert!(shown.contains(&format!("\n  {line} | {offending}\n")), "{text:?}: {shown}");
    }
}

#[test]
fn foreign_text_cannot_reach_the_terminal_raw() {
    let long = format!("\"x\u{1b}[2J\u{202e}\" = {}1", " ".repeat(500));
    for text in [long.as_str(), "mask = ['/\u{200b}{\u{9b}}']", "'\u{7}' = '\u{7}'", "\u{1b}"] {
        let error = one(text).unwrap_err();
        let shown = format!("{error}{}", error.hint().unwrap_or_default());
        assert!(
            !shown.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}', '\u{200b}']),
            "{shown:?}"
        );
        assert!(shown.lines().count() <= 3 && shown.len() < 1000, "{shown}");
    }
}

#[test]
fn two_targets_of_one_name_are_refused() {
    for text in [
        "[[bind]]\npath = '/a'\ntoggle = 'x'\n[[bind]]\npath = '/b'\ntoggle = 'x'",
        "[workspace]\nname = 'x'\n[[bind]]\npath = '/b'\ntoggle = 'x'",
    ] {
        let error = one(text).unwrap_err();
        assert!(matches!(error, ProfileError::DuplicateTarget { .. }), "{error}");
        assert!(error.to_string().contains("p.toml:"), "{error}");
    }
}

#[test]
fn what_is_no_readable_profile_is_refused() {
    let config = Config::new(&[("good.toml", "")]);
    config.load(&["good"]).unwrap();
    fs::create_dir(config.dir.join("dir.toml")).unwrap();
    assert!(config.error("dir").ends_with("dir.toml: it is a directory"));
    config.write("latin.toml", b"# ok\n# caf\xe9\n");
    assert!(config.error("latin").ends_with("latin.toml:2:6: it is not UTF-8"));
    config.write("big.toml", &vec![b'\n'; MAX_PROFILE_SIZE as usize + 1]);
    assert!(config.error("big").contains("larger than 1 MiB"));
    config.write("full.toml", &vec![b'\n'; MAX_PROFILE_SIZE as usize]);
    config.load(&["full"]).unwrap();
    symlink("loop.toml", config.dir.join("loop.toml")).unwrap();
    assert!(config.error("loop").starts_with("read profile "));
    symlink("good.toml", config.dir.join("link.toml")).unwrap();
    config.load(&["link"]).unwrap();
    let device = config.load(&["/dev/null"]).unwrap_err().to_string();
    assert!(device.ends_with("not a regular file"), "{device}");
}

#[test]
fn a_profile_that_others_can_change_is_refused() {
    let mut config = Config::new(&[("p.toml", ""), ("sub/q.toml", "")]);
    for mode in [0o664, 0o646, 0o666] {
        let path = config.dir.join("p.toml");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = config.load(&["p"]).unwrap_err();
        assert!(matches!(error, ProfileError::OthersCanWrite { .. }), "{error}");
        assert!(error.hint().unwrap().starts_with("chmod go-w "));
        assert!(config.load(&[path.to_str().unwrap()]).is_err(), "by path");
    }
    fs::set_permissions(config.dir.join("sub"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(config.load(&["sub/q"]), Err(ProfileError::OthersCanWrite { .. })));
    fs::set_permissions(config.dir.join("sub"), fs::Permissions::from_mode(0o755)).unwrap();
    config.load(&["sub/q"]).unwrap();
    // The files of the test are another's as soon as the loader is for another user;
    // root's are anybody's to use.
    let uid = config.loader.uid;
    config.loader.uid = uid + 1;
    match config.load(&["sub/q"]) {
        Ok(_) => assert_eq!(uid, 0),
        Err(error) => {
            assert!(matches!(error, ProfileError::ForeignOwner { owner, .. } if owner == uid))
        }
    }
}

/// A small generator of numbers (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn no_bytes_make_the_loader_panic() {
    let config = Config::new(&[]);
    let words = [
        "[sandbox]",
        "[[bind]]",
        "path",
        "=",
        "'~/x'",
        "\"",
        "'",
        "\n",
        "{home",
        "}",
        "[",
        "]",
        ",",
        "mask",
        "protect",
        "missing",
        "\u{1b}",
        "é",
        "\u{202e}",
        "remove",
        ".",
        "1979-05-27",
        "#",
        "extends",
        "['default']",
        "network",
        "'none'",
        "\\u0000",
        "\"\"\"",
        "\0",
        "\u{feff}",
        "=",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..1000 {
        let mut bytes = Vec::new();
        for _ in 0..random.below(40) {
            if round % 2 == 0 {
                bytes.push(random.below(256) as u8);
            } else {
                bytes.extend_from_slice(words[random.below(words.len())].as_bytes());
            }
        }
        if round % 3 == 0 {
            // A good file with one byte changed.
            bytes = BUILT_IN[round % BUILT_IN.len()].text.as_bytes().to_vec();
            let at = random.below(bytes.len());
            bytes[at] = random.below(256) as u8;
        }
        config.write("p.toml", &bytes);
        let profile = built_in().load(&["toolchain/go".into()]).unwrap();
        let narrowed = config.loader.narrow(profile, Path::new("p"), &bytes);
        for error in [config.load(&["p"]).err(), narrowed.err()].into_iter().flatten() {
            let shown = format!("{error}{}", error.hint().unwrap_or_default());
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        }
    }
}
