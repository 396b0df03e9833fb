//! Whole files: merging, choosing; and in parts errors, narrowing, and the built-in profiles.

mod embedded;
mod errors;
mod project;
mod shims;

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

fn built_in() -> Loader {
    Loader { config_dirs: Vec::new(), uid: 0 }
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
