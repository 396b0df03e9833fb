//! The built-in profiles.

use super::*;

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
