//! What the file of a project may say.

use super::*;

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
