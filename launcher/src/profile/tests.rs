//! Whole files: merging, errors, narrowing, and the built-in profiles.

use super::built_in::BUILT_IN;
use super::*;
use remount_broker::name::{Authority, Mode};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A configuration directory, removed at the end.
struct Config {
    dir: PathBuf,
    loader: Loader,
}

impl Config {
    fn new(files: &[(&str, &str)]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("remount-test-profile-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(dir.join("sub")).unwrap();
        for made in [&dir, &dir.join("sub")] {
            fs::set_permissions(made, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let uid = fs::metadata(&dir).unwrap().uid();
        let config = Self { loader: Loader { config_dirs: vec![dir.clone()], uid }, dir };
        for (name, text) in files {
            config.write(name, text.as_bytes());
        }
        config
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    fn load(&self, names: &[&str]) -> Result<Profile, ProfileError> {
        let names: Vec<OsString> = names.iter().map(|name| (*name).into()).collect();
        self.loader.load(&names)
    }

    fn error(&self, name: &str) -> String {
        self.load(&[name]).unwrap_err().to_string()
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// The one profile `p`.
fn one(text: &str) -> Result<Profile, ProfileError> {
    Config::new(&[("p.toml", text)]).load(&["p"])
}

fn masks(profile: &Profile) -> Vec<&str> {
    profile.masks.iter().map(|mask| mask.value.as_str()).collect()
}

fn protects(profile: &Profile) -> Vec<(&str, MissingProtect)> {
    let entries = profile.protects.iter();
    entries.map(|entry| (entry.value.path.as_str(), entry.value.missing)).collect()
}

fn hooks(profile: &Profile) -> Vec<String> {
    let tables = profile.hooks.iter().flat_map(|(agent, modes)| {
        let agent = agent.as_str();
        modes.iter().map(move |(mode, to)| format!("{agent} {} {}", mode.as_str(), to.value))
    });
    tables.collect()
}

fn binds(profile: &Profile) -> Vec<(&str, Mode)> {
    profile.binds.iter().map(|bind| (bind.value.path.as_str(), bind.value.mode)).collect()
}

#[test]
fn every_key_is_understood() {
    let profile = one(r#"
        description = "all of it"
        commands = ["x"]
        mask = ["~/.a"]
        protect = [".b/", { path = "/c", missing = "error" }]
        [sandbox]
        network = "none"
        hostname = "box"
        authority = "confirm"
        landlock = "optional"
        seccomp = "optional"
        new-session = true
        user-namespace = "always"
        [workspace]
        path = "{cwd}/x"
        name = "w"
        mode = "ro"
        authority = "host"
        git = "ro"
        [[bind]]
        path = "~/.d"
        dest = "/e"
        mode = "rw"
        devices = true
        missing = "create"
        toggle = "d"
        authority = "host"
        [[tmpfs]]
        path = "/t"
        size = "64M"
        mode = "1777"
        [[cache]]
        path = "~/.npm"
        env = "npm_config_cache"
        [environment]
        set = { A = "{home}/x" }
        unset = ["B", "C_*"]
        clear = true
        [arguments]
        x = ["-a", "b c"]
        [hooks.x]
        plan = "ro"
        acceptEdits = "rw"
        [remove]
        bind = []
    "#)
    .unwrap();
    assert_eq!(profile.arguments["x"].value, ["-a", "b c"]);
    assert_eq!(hooks(&profile), ["x acceptEdits rw", "x plan ro"]);
    assert_eq!(profile.description.as_deref(), Some("all of it"));
    assert_eq!(profile.sandbox.network.value, Network::None);
    assert_eq!(profile.sandbox.hostname.unwrap().value.as_str(), "box");
    assert_eq!(profile.sandbox.authority.value, Authority::Confirm);
    assert_eq!(profile.sandbox.landlock.value, Need::Optional);
    assert_eq!(profile.sandbox.seccomp.value, Need::Optional);
    assert!(profile.sandbox.new_session.value);
    assert_eq!(profile.sandbox.user_namespace.value, UserNamespace::Always);
    assert_eq!(profile.workspace.path.value.as_str(), "{cwd}/x");
    assert_eq!(profile.workspace.name.value.as_str(), "w");
    assert_eq!(profile.workspace.mode.value, Mode::Ro);
    assert_eq!(profile.workspace.authority.unwrap().value, Authority::Host);
    assert_eq!(profile.workspace.git.value, GitPolicy::Ro);
    let bind = &profile.binds[0].value;
    assert_eq!((bind.path.as_str(), bind.destination().as_str()), ("~/.d", "/e"));
    assert_eq!((bind.mode, bind.devices, bind.missing), (Mode::Rw, true, Missing::Create));
    let toggle = bind.toggle.as_ref().unwrap();
    assert_eq!((toggle.name.as_str(), toggle.authority), ("d", Some(Authority::Host)));
    let tmpfs = &profile.tmpfs[0].value;
    assert_eq!((tmpfs.size, tmpfs.mode), (Some(Size(64 << 20)), FileMode(0o1777)));
    let cache = &profile.caches[0].value;
    assert_eq!(cache.env.as_ref().unwrap().as_str(), "npm_config_cache");
    assert_eq!(profile.masks[0].value.as_str(), "~/.a");
    assert!(profile.protects[0].value.path.names_directory());
    assert_eq!(profile.protects[0].value.missing, MissingProtect::Guard);
    assert_eq!(profile.protects[1].value.missing, MissingProtect::Error);
    assert_eq!(profile.environment.set.len(), 1);
    assert!(profile.environment.unset_by("C_X".as_ref()).is_some());
    assert!(profile.environment.clear.value);
}

#[test]
fn a_profile_that_says_nothing_means_the_defaults() {
    let profile = one("").unwrap();
    assert!(profile.sandbox.network.origin.is_default());
    assert_eq!(profile.sandbox.network.value, Network::Host);
    assert_eq!(profile.sandbox.landlock.value, Need::Required);
    assert_eq!(profile.workspace.path.value.as_str(), "{project}");
    assert_eq!(profile.workspace.name.value.as_str(), "workspace");
    assert_eq!(profile.workspace.mode.value, Mode::Rw);
    assert_eq!(profile.workspace.git.value, GitPolicy::Hooks);
    assert!(profile.binds.is_empty() && profile.masks.is_empty());
}

#[test]
fn lists_unite_scalars_override_and_remove_hits_only_what_came_before() {
    let config = Config::new(&[
        (
            "base.toml",
            "mask = ['~/.a', '~/.b']\nprotect = ['.x/', '.y']\n[sandbox]\nnetwork = 'none'\nhostname = 'base'\n\
             [[bind]]\npath = '/d'\n[[bind]]\npath = '/e'\n[[tmpfs]]\npath = '/t'\n[[cache]]\npath = '/c'\n\
             [environment]\nset = { A = '1', B = '2' }\nunset = ['U', 'V']",
        ),
        (
            "top.toml",
            "extends = ['base']\nmask = ['~/.c', '{home}//.a/']\nprotect = ['.x', { path = '{workspace}/.y', missing = 'skip' }]\n\
             [sandbox]\nhostname = 'top'\n[[bind]]\npath = '/d/'\nmode = 'rw'\n[[bind]]\npath = '/t'\n\
             [environment]\nset = { A = '3', V = '4' }\nunset = ['B']\n\
             [remove]\nmask = ['~/.b', '~/.c']\nbind = ['/e']\ncache = ['/c']\nprotect = ['{workspace}/.x']\nunset = ['U']",
        ),
    ]);
    let profile = config.load(&["top"]).unwrap();
    assert_eq!(masks(&profile), ["~/.c", "{home}//.a/"]);
    assert_eq!(
        protects(&profile),
        [(".x", MissingProtect::Guard), ("{workspace}/.y", MissingProtect::Skip)]
    );
    assert_eq!(binds(&profile), [("/d/", Mode::Rw), ("/t", Mode::Ro)]);
    assert!(profile.tmpfs.is_empty() && profile.caches.is_empty());
    assert_eq!(profile.sandbox.network.value, Network::None);
    assert_eq!(profile.sandbox.hostname.unwrap().value.as_str(), "top");
    let set: Vec<_> =
        profile.environment.set.iter().map(|(k, v)| (k.as_str(), v.value.as_str())).collect();
    assert_eq!(set, [("A", "3"), ("V", "4")]);
    let unset: Vec<_> = profile.environment.unset.iter().map(|it| it.value.as_str()).collect();
    assert_eq!(unset, ["V", "B"]);
    // `~/.c` was not inherited, so removing it is worth a word.
    let notes: Vec<_> = profile.notes.iter().map(|note| note.value.as_str()).collect();
    assert_eq!(notes, ["remove mask ~/.c: nothing inherited is written this way"]);

    // Several names are merged in their order, as if one profile extended them all.
    let config = Config::new(&[
        ("a.toml", "mask = ['/a']\n[sandbox]\nhostname = 'a'"),
        ("b.toml", "[sandbox]\nhostname = 'b'\n[remove]\nmask = ['/a']"),
    ]);
    let both = config.load(&["a", "b"]).unwrap();
    assert_eq!((masks(&both).len(), both.sandbox.hostname.unwrap().value.as_str()), (0, "b"));
    let both = config.load(&["b", "a"]).unwrap();
    assert_eq!((masks(&both).len(), both.sandbox.hostname.unwrap().value.as_str()), (1, "a"));
}

#[test]
fn a_diamond_is_merged_once_and_a_circle_is_shown() {
    let config = Config::new(&[
        ("root.toml", "mask = ['/r']"),
        ("l.toml", "extends = ['root']\n[remove]\nmask = ['/r']"),
        ("r.toml", "extends = ['root', './root.toml']"),
        ("top.toml", "extends = ['l', 'r']"),
        ("a.toml", "extends = ['b']"),
        ("b.toml", "\nextends = ['root', 'sub/c']"),
        ("sub/c.toml", "extends = ['../a.toml']"),
        ("self.toml", "extends = ['self']"),
    ]);
    let profile = config.load(&["top"]).unwrap();
    assert_eq!(profile.sources.len(), 4);
    assert!(masks(&profile).is_empty(), "merged again after l removed it");

    let error = config.load(&["a"]).unwrap_err();
    let ProfileError::Cycle { ref chain, .. } = error else { panic!("{error}") };
    let names: Vec<_> = chain.iter().map(|it| it.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["a.toml", "b.toml", "c.toml", "a.toml"]);
    assert!(error.to_string().contains("sub/c.toml:1:12: `extends` goes in a circle"), "{error}");

    let error = config.load(&["self"]).unwrap_err();
    assert!(matches!(error, ProfileError::Unknown { .. }), "{error}");
    assert!(error.to_string().contains("self.toml:1:12)"), "{error}");

    let long: Vec<_> =
        (0..40).map(|i| (format!("x{i}.toml"), format!("extends = ['x{}']", i + 1))).collect();
    let files: Vec<_> = long.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert!(matches!(Config::new(&files).load(&["x0"]), Err(ProfileError::TooDeep { .. })));
}

#[test]
fn a_user_profile_hides_the_built_in_one_and_can_extend_it() {
    let config = Config::new(&[("claude.toml", "extends = ['claude']\nmask = ['/mine']")]);
    let profile = config.load(&["claude"]).unwrap();
    assert!(masks(&profile).contains(&"/mine") && masks(&profile).contains(&"~/.ssh"));
    let config = Config::new(&[("default.toml", "")]);
    let profile = config.load(&["claude"]).unwrap();
    assert!(masks(&profile).is_empty(), "the built-in default was used");
    assert!(profile.notes.is_empty(), "{:?}", profile.notes);
}

#[test]
fn names_and_paths_are_told_apart() {
    let config = Config::new(&[("p.toml", "mask = ['/p']"), ("sub/q.toml", "mask = ['/q']")]);
    let absolute = config.dir.join("p.toml");
    for word in ["p", absolute.to_str().unwrap()] {
        assert_eq!(masks(&config.load(&[word]).unwrap()), ["/p"], "{word}");
    }
    assert_eq!(masks(&config.load(&["sub/q"]).unwrap()), ["/q"]);
    for word in ["", "a/../p", ".hidden", "a b", "-x", "a//b", "p\u{1b}"] {
        let error = config.load(&[word]).unwrap_err();
        assert!(matches!(error, ProfileError::BadName { .. }), "{word}: {error}");
        assert!(!error.to_string().contains('\u{1b}') && error.hint().is_some());
    }
    let error = config.load(&["./nope.toml"]).unwrap_err();
    assert!(error.to_string().starts_with("read profile ./nope.toml: "), "{error}");
}

#[test]
fn hooks_and_arguments_are_merged_by_name() {
    let config = Config::new(&[
        ("base.toml", "arguments = { x = ['a'], y = ['b'] }\n[hooks.x]\nplan = 'ro'\nold = 'rw'"),
        (
            "p.toml",
            "extends = ['base']\narguments.x = []\n[hooks.x]\nold = 'ro'\n[hooks.z]\na-b = 'rw'",
        ),
    ]);
    let profile = config.load(&["p"]).unwrap();
    assert_eq!(hooks(&profile), ["x old ro", "x plan ro", "z a-b rw"]);
    assert!(profile.arguments["x"].value.is_empty());
    assert_eq!(profile.arguments["y"].value, ["b"]);
    for text in ["[hooks.x]\nplan = 'no'", "[hooks.x]\n'a b' = 'ro'", "[hooks.'x\u{1b}']\na = 'ro'"]
    {
        assert!(one(text).is_err(), "{text}");
    }
}

#[test]
fn every_agent_has_a_table_and_what_it_cannot_tell_is_not_in_it() {
    for name in ["claude", "codex", "gemini", "opencode", "qwen"] {
        let profile = built_in().load(&[name.into()]).unwrap();
        let hooks = hooks(&profile);
        assert!(hooks.contains(&format!("{name} plan ro")), "{hooks:?}");
        assert!(hooks.iter().any(|line| line.starts_with(name) && line.ends_with(" rw")));
    }
    for name in ["aider", "amp", "copilot", "crush", "cursor-agent", "goose", "generic-agent"] {
        let profile = built_in().load(&[name.into()]).unwrap();
        assert_eq!(hooks(&profile), ["generic default rw", "generic plan ro"], "{name}");
    }
    assert!(built_in().load(&["default".into()]).unwrap().hooks.is_empty());
}

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

#[test]
fn a_command_chooses_its_profile() {
    let config = Config::new(&[
        ("mine.toml", "commands = ['tool', 'codex']"),
        ("other.toml", "commands = ['twice']"),
        ("third.toml", "commands = ['twice']"),
        ("broken.toml", "= brokenword"),
    ]);
    let choose = |command: &str| config.loader.choose(command.as_ref());
    for (command, profile) in [
        ("claude", "claude"),
        ("/usr/bin/claude", "claude"),
        ("codex", "mine"),
        ("./tool", "mine"),
        ("bash", "default"),
        ("", "default"),
        ("..", "default"),
    ] {
        assert_eq!(choose(command).unwrap(), profile, "{command}");
    }
    assert!(matches!(choose("twice"), Err(ProfileError::Ambiguous { .. })));
    // Only files in which the command occurs are parsed.
    assert!(matches!(choose("brokenword"), Err(ProfileError::Invalid { .. })));
    let nowhere = Loader { config_dirs: vec!["/nonexistent".into()], uid: 0 };
    assert_eq!(nowhere.choose("gemini".as_ref()).unwrap(), "gemini");
}

#[test]
fn the_list_has_every_profile_once_and_says_what_is_broken() {
    let config = Config::new(&[
        ("claude.toml", "description = 'mine'\ncommands = ['claude']"),
        ("broken.toml", "x"),
        ("sub/q.toml", ""),
        ("readme.md", "no profile"),
    ]);
    let listed = config.loader.list().unwrap();
    let names: Vec<_> = listed.iter().map(|it| it.name.as_str()).collect();
    assert!(names.is_sorted() && names.contains(&"toolchain/rust") && names.contains(&"sub/q"));
    assert_eq!(listed.len(), BUILT_IN.len() + 2);
    let claude = listed.iter().find(|it| it.name == "claude").unwrap();
    assert_eq!(claude.description.as_deref(), Some("mine"));
    assert!(matches!(claude.source, SourceName::File(_)));
    let broken: Vec<_> = listed.iter().filter(|it| it.problem.is_some()).collect();
    assert_eq!((broken.len(), broken[0].name.as_str()), (1, "broken"));
}

fn narrow(profile: &str, project: &str) -> Result<Profile, ProfileError> {
    let config = Config::new(&[("p.toml", profile)]);
    let profile = config.load(&["p"]).unwrap();
    config.loader.narrow(profile, Path::new("/w/.remount.toml"), project.as_bytes())
}

#[test]
fn a_project_file_narrows() {
    let profile = narrow(
        "mask = ['/m']\nprotect = ['.g', { path = '.s', missing = 'skip' }]\n\
         [[bind]]\npath = '/rw'\nmode = 'rw'\ndevices = true\ntoggle = 't'\n[[bind]]\npath = '/ro'\n\
         [[bind]]\npath = '/src'\ndest = '/dest'\nmode = 'rw'\n[[bind]]\npath = '/kept'\nmode = 'rw'\n\
         [[cache]]\npath = '/c'\nenv = 'C'",
        "mask = ['{home}/x', '/m']\nprotect = ['/y', { path = '.g', missing = 'skip' }, { path = '.s' }]\n\
         [workspace]\nmode = 'ro'\n[sandbox]\nnetwork = 'none'\n\
         [remove]\nbind = ['/rw', '/ro', '/src']\ncache = ['/c']",
    )
    .unwrap();
    assert_eq!(profile.workspace.mode.value, Mode::Ro);
    assert_eq!(profile.sandbox.network.value, Network::None);
    // Everything stays mounted, without its rights.
    assert_eq!(
        binds(&profile),
        [
            ("/kept", Mode::Rw),
            ("/rw", Mode::Ro),
            ("/ro", Mode::Ro),
            ("/src", Mode::Ro),
            ("/c", Mode::Ro)
        ]
    );
    let narrowed = profile.binds.iter().skip(1).map(|bind| &bind.value);
    assert!(narrowed.clone().all(|bind| !bind.devices && bind.toggle.is_none()));
    assert!(narrowed.clone().any(|bind| bind.destination().as_str() == "/dest"));
    assert!(profile.caches.is_empty());
    assert_eq!(masks(&profile), ["/m", "/ro", "{home}/x"]);
    // An inherited guard cannot be made laxer.
    assert_eq!(
        protects(&profile),
        [
            (".g", MissingProtect::Guard),
            (".s", MissingProtect::Guard),
            ("/y", MissingProtect::Guard)
        ]
    );
    assert!(profile.masks[2].origin.to_string().starts_with("/w/.remount.toml:1:9"));
}

#[test]
fn a_project_file_cannot_widen() {
    narrow("", "").unwrap();
    for (text, key, place) in [
        ("description = 'x'", "description", "1:1"),
        ("extends = ['default']", "extends", "1:1"),
        ("commands = ['x']", "commands", "1:1"),
        ("bind = []", "bind", "1:1"),
        ("[[bind]]\npath = '/x'", "bind", "1:3"),
        ("[[tmpfs]]\npath = '/x'", "tmpfs", "1:3"),
        ("[[cache]]\npath = '/x'", "cache", "1:3"),
        ("[environment]\nset = { A = 'x' }", "environment", "1:2"),
        ("environment.unset = []", "environment", "1:1"),
        ("[arguments]\nx = []", "arguments", "1:2"),
        ("[hooks.x]\nplan = 'rw'", "hooks", "1:2"),
        ("[remove]\nmask = ['/x']", "remove.mask", "2:1"),
        ("[remove]\nshims = ['x']", "remove.shims", "2:1"),
        ("[remove]\nprotect = ['x']", "remove.protect", "2:1"),
        ("[remove]\ntmpfs = ['/x']", "remove.tmpfs", "2:1"),
        ("[remove]\nunset = ['X']", "remove.unset", "2:1"),
        ("remove = { bind = [], mask = [] }", "remove.mask", "1:23"),
        ("[workspace]\nmode = 'rw'", "workspace.mode", "2:1"),
        ("[workspace]\npath = '/'", "workspace.path", "2:1"),
        ("[workspace]\nname = 'x'", "workspace.name", "2:1"),
        ("[workspace]\ngit = 'ro'", "workspace.git", "2:1"),
        ("[workspace]\nauthority = 'self'", "workspace.authority", "2:1"),
        ("[sandbox]\nnetwork = 'host'", "sandbox.network", "2:1"),
        ("sandbox.network = 'host'", "sandbox.network", "1:9"),
        ("[sandbox]\nhostname = 'x'", "sandbox.hostname", "2:1"),
        ("[sandbox]\nauthority = 'self'", "sandbox.authority", "2:1"),
        ("[sandbox]\nlandlock = 'optional'", "sandbox.landlock", "2:1"),
        ("[sandbox]\nseccomp = 'optional'", "sandbox.seccomp", "2:1"),
        ("[sandbox]\nnew-session = false", "sandbox.new-session", "2:1"),
        ("[sandbox]\nuser-namespace = 'auto'", "sandbox.user-namespace", "2:1"),
        ("unheard-of = 1", "unheard-of", "1:1"),
    ] {
        let error = narrow("", text).unwrap_err();
        let ProfileError::Widens { key: refused, .. } = &error else { panic!("{text}: {error}") };
        assert_eq!(refused, key, "{text}");
        let shown = error.to_string();
        assert!(
            shown.starts_with(&format!("project file /w/.remount.toml:{place}: `{key}` is")),
            "{shown}"
        );
        assert!(error.hint().is_some());
    }
    for text in
        ["mask = 1", "remove = 1", "workspace = []", "[sandbox]\nnetwork = 1", "x", "mask = ['a']"]
    {
        narrow("", text).unwrap_err();
    }
}

#[test]
fn a_project_file_is_read_with_suspicion() {
    let config = Config::new(&[(".remount.toml", "mask = []"), ("secret", "key")]);
    let read = |name: &str| config.loader.read_project_file(&config.dir.join(name));
    assert_eq!(read(".remount.toml").unwrap().unwrap(), b"mask = []");
    assert!(read("none.toml").unwrap().is_none());
    symlink("secret", config.dir.join("link.toml")).unwrap();
    assert!(read("link.toml").is_err());
    assert!(read("sub").is_err());
}

fn built_in() -> Loader {
    Loader { config_dirs: Vec::new(), uid: 0 }
}

#[test]
fn every_built_in_profile_loads_and_agrees_with_the_table() {
    for profile in &BUILT_IN {
        let loaded = built_in().load(&[profile.name.into()]).unwrap();
        assert!(loaded.notes.is_empty(), "{}: {:?}", profile.name, loaded.notes);
        assert!(loaded.description.is_some(), "{}", profile.name);
    }
    for listed in built_in().list().unwrap() {
        let known = BUILT_IN.iter().find(|it| it.name == listed.name).unwrap();
        assert!(listed.problem.is_none());
        assert_eq!(listed.commands, known.commands, "{}", listed.name);
    }
    // No file is forgotten.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiles");
    let files = |dir: PathBuf| {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|it| it == "toml")).count()
    };
    let parts = files(root.join("toolchain")) + files(root.join("shims"));
    assert_eq!(files(root.clone()) + parts, BUILT_IN.len());
    // Removing something that is not there is a mistake in a built-in profile, too.
    for profile in &BUILT_IN {
        let config = Config::new(&[("copy.toml", profile.text)]);
        let loaded = config.load(&["copy"]).unwrap();
        assert!(loaded.notes.is_empty(), "{}: {:?}", profile.name, loaded.notes);
    }
}

#[test]
fn an_embedded_tree_is_what_parsing_its_text_gives() {
    for profile in &BUILT_IN {
        let parsed: super::schema::File = toml::from_str(profile.text).unwrap();
        assert_eq!(format!("{:?}", profile.file().unwrap()), format!("{parsed:?}"));
    }
}

#[test]
fn a_merged_profile_is_what_merging_its_parts_gives() {
    for profile in &BUILT_IN {
        let merged = built_in().merge(&[profile.name.into()]).unwrap();
        assert_eq!(format!("{:#?}", profile.merged().unwrap()), format!("{merged:#?}"));
        let parts = profile.parts.iter().map(|name| format!("built-in {name}"));
        assert_eq!(merged.sources, parts.collect::<Vec<_>>());
    }
}

#[test]
fn a_file_hides_a_part_of_a_built_in_profile() {
    let config = Config::new(&[("unrelated.toml", "mask = ['/m']")]);
    for profile in &BUILT_IN {
        assert_eq!(config.load(&[profile.name]).unwrap().sources.len(), profile.parts.len());
    }
    // A part far down, by a link that leads nowhere and by one that leads somewhere.
    fs::create_dir(config.dir.join("toolchain")).unwrap();
    fs::set_permissions(config.dir.join("toolchain"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("nowhere", config.dir.join("toolchain/go.toml")).unwrap();
    assert!(!masks(&config.load(&["claude"]).unwrap()).contains(&"/m"));
    config.write("nowhere", b"");
    fs::rename(config.dir.join("nowhere"), config.dir.join("toolchain/nowhere")).unwrap();
    let profile = config.load(&["claude"]).unwrap();
    assert!(profile.sources.iter().any(|source| source.ends_with("toolchain/go.toml")));
    // What cannot be read is not passed over.
    fs::remove_file(config.dir.join("toolchain/go.toml")).unwrap();
    symlink("go.toml", config.dir.join("toolchain/go.toml")).unwrap();
    assert!(config.error("claude").starts_with("read profile "));
}

#[test]
fn every_built_in_path_expands() {
    let variables =
        Variables::new("/w".into(), "/home/u".into(), Some("/w".into()), 1000, |name| {
            (name == "SSH_AUTH_SOCK").then(|| "/tmp/ssh-x/agent.1".into())
        });
    for profile in &BUILT_IN {
        let loaded = built_in().load(&[profile.name.into()]).unwrap();
        let binds = loaded.binds.iter().map(|it| it.value.destination());
        let tmpfs = loaded.tmpfs.iter().map(|it| &it.value.path);
        let caches = loaded.caches.iter().map(|it| &it.value.path);
        let protects = loaded.protects.iter().map(|it| &it.value.path);
        let masks = loaded.masks.iter().map(|it| &it.value);
        for path in binds.chain(tmpfs).chain(caches).chain(protects).chain(masks) {
            assert!(path.expand(&variables).unwrap().is_absolute(), "{path}");
        }
    }
}

#[test]
fn the_default_profile_hides_and_protects() {
    let profile = built_in().load(&["default".into()]).unwrap();
    let masks = masks(&profile);
    for path in ["~/.ssh", "~/.gnupg", "~/.aws", "~/.kube", "~/.netrc", "~/.mozilla", "~/.claude"] {
        assert!(masks.contains(&path), "{path}");
    }
    for path in [".vscode/", ".idea/", ".envrc", ".mcp.json", ".claude/", ".github/copilot/"] {
        assert!(protects(&profile).contains(&(path, MissingProtect::Guard)), "{path}");
    }
    for name in ["SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "LD_PRELOAD", "GH_TOKEN", "DISPLAY"] {
        assert!(profile.environment.unset_by(name.as_ref()).is_some(), "{name}");
    }
    for name in ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "PATH", "HOME", "TERM"] {
        assert!(profile.environment.unset_by(name.as_ref()).is_none(), "{name}");
    }
    let tmpfs: Vec<_> = profile.tmpfs.iter().map(|it| it.value.path.as_str()).collect();
    assert_eq!(tmpfs, ["/tmp", "/run", "{xdg-runtime-dir}"]);
    assert!(profile.binds.iter().all(|bind| bind.value.mode == Mode::Ro));
    assert_eq!(profile.workspace.mode.value, Mode::Rw);
    let origin = profile.masks[0].origin.to_string();
    assert!(origin.starts_with("built-in default:"), "{origin}");
}

#[test]
fn an_agent_sees_its_own_state_and_no_other_agents() {
    let states = [
        ("claude", "~/.claude"),
        ("codex", "~/.codex"),
        ("gemini", "~/.gemini"),
        ("opencode", "{xdg-data-home}/opencode"),
        ("qwen", "~/.qwen"),
        ("copilot", "~/.copilot"),
        ("amp", "{xdg-data-home}/amp"),
        ("aider", "~/.aider"),
        ("cursor-agent", "~/.cursor"),
        ("goose", "{xdg-data-home}/goose"),
        ("crush", "{xdg-data-home}/crush"),
    ];
    for (agent, own) in states {
        let profile = built_in().load(&[agent.into()]).unwrap();
        assert!(binds(&profile).contains(&(own, Mode::Rw)), "{agent}");
        for (_, state) in states {
            assert_eq!(masks(&profile).contains(&state), state != own, "{agent}: {state}");
        }
        for bind in profile.binds.iter().filter(|bind| bind.value.mode == Mode::Rw) {
            assert!(!masks(&profile).contains(&bind.value.path.as_str()), "{agent}");
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

#[test]
fn shims_are_united_and_taken_back() {
    let config = Config::new(&[
        ("a.toml", "[shims.x]\nallow = ['ls']\nflags = ['-a']\n[shims.y]\nallow = ['ls']"),
        ("b.toml", "extends = ['a']\n[shims.x]\nallow = ['show', 'ls']\nwhen = 'ro:workspace'"),
        ("c.toml", "extends = ['b']\n[remove]\nshims = ['x', 'none']"),
        ("d.toml", "extends = ['c']\n[shims.x]\nallow = ['only']"),
    ]);
    let rows = |profile: &Profile, tool: &str| -> Option<Vec<String>> {
        let found = profile.shims.iter().find(|(name, _)| name.as_str() == tool);
        found.map(|(_, shim)| shim.value.allow.iter().map(|row| row.as_str().to_owned()).collect())
    };
    let b = config.load(&["b"]).unwrap();
    assert_eq!(rows(&b, "x").unwrap(), ["ls", "show"]);
    let when = b.shims.values().next().unwrap().value.when.clone();
    assert_eq!(when.unwrap().target().as_str(), "workspace");
    let c = config.load(&["c"]).unwrap();
    assert_eq!((rows(&c, "x"), rows(&c, "y").unwrap().len()), (None, 1));
    assert!(c.notes[0].value.contains("remove shims none"), "{:?}", c.notes);
    assert_eq!(rows(&config.load(&["d"]).unwrap(), "x").unwrap(), ["only"]);
}

#[test]
fn a_shim_is_checked_where_it_is_said() {
    for (text, place, why) in [
        ("[shims.'a/b']", "1:8", "must be 1 to 64"),
        ("[shims.bwrap]", "1:8", "another program"),
        ("[shims.x]\nallow = ['a', 'b  c']", "2:15", "one space"),
        ("[shims.x]\nflags = ['a']", "2:10", "such as"),
        ("[shims.x]\nwhen = 'rw:w'", "2:8", "ro:workspace"),
        ("[shims.x]\nalow = []", "2:1", "unknown key"),
    ] {
        let config = Config::new(&[("p.toml", text)]);
        let error = config.load(&["p"]).unwrap_err().to_string();
        assert!(error.contains(place) && error.contains(why), "{text}: {error}");
    }
}

#[test]
fn a_project_file_narrows_shims_only() {
    let profile = "[shims.x]\nallow = ['ls']";
    let narrowed = narrow(
        profile,
        "[shims.x]\ndeny = ['ls a']\ndeny-flags = ['-b']\n[shims.y]\nallow = ['*']",
    );
    let shims = narrowed.unwrap().shims;
    let x = &shims.values().next().unwrap().value;
    assert_eq!((shims.len(), x.allow.len(), x.deny.len(), x.deny_flags.len()), (2, 1, 1, 1));
    for text in [
        "allow = ['rm']",
        "flags = ['-x']",
        "flags-with-value = ['-x']",
        "when = 'ro:w'",
        "flags-anywhere = true",
    ] {
        let error = narrow(profile, &format!("[shims.x]\n{text}")).unwrap_err();
        assert!(error.to_string().contains("`shims.x` is not allowed here"), "{text}: {error}");
    }
}

#[test]
fn a_file_of_shims_says_nothing_else() {
    let config = Config::new(&[
        ("p.toml", "[shims.x]\nallow = ['ls']"),
        ("sub/a.toml", "description = 'd'\n[shims.x]\nallow = ['show']"),
        ("sub/b.toml", "[remove]\nshims = ['x']\n[shims.x]\nallow = ['b']"),
        ("bind.toml", "[[bind]]\npath = '/x'"),
        ("remove.toml", "[remove]\nmask = ['/x']"),
    ]);
    let add =
        |name: &str| config.loader.shims(config.load(&["p"]).unwrap(), &config.dir.join(name));
    assert_eq!(add("sub/a.toml").unwrap().shims.values().next().unwrap().value.allow.len(), 2);
    assert_eq!(add("sub").unwrap().shims.values().next().unwrap().value.allow.len(), 1);
    for name in ["bind.toml", "remove.toml", "none"] {
        assert!(add(name).is_err(), "{name}");
    }
}
