//! What `scripts/install` puts where, and that it takes all of it away again.

use remount_tests::{Outcome, Sandbox, bin, require};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn install(sandbox: &Sandbox, words: &[&str]) -> Outcome {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/install");
    let programs = bin("remountd").parent().unwrap().to_owned();
    let command = sandbox.host(require("bash")).arg(script).arg("--from").arg(programs);
    command.command(words).run()
}

fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn everything_is_installed_and_removed() {
    let sandbox = Sandbox::new();
    let package = sandbox.dir("outside/package");
    let destdir = format!("--destdir={}", package.display());
    let words = ["--prefix", "/usr", &destdir, "--bwrap"];
    install(&sandbox, &words).success();
    let there = files(&package);
    for (path, mode) in [
        ("bin/remount-run", 0o755),
        ("bin/remountctl", 0o755),
        ("bin/remountd", 0o755),
        ("lib/remount/bwrap/bwrap", 0o755),
        ("lib/systemd/system/remountd.service", 0o644),
        ("lib/systemd/system/remountd.socket", 0o644),
        ("lib/systemd/user/remountd.service", 0o644),
        ("lib/systemd/user/remountd.socket", 0o644),
        ("share/remount/profiles/default.toml", 0o644),
        ("share/man/man1/remountctl.1", 0o644),
        ("share/man/man8/remountd.8", 0o644),
    ] {
        let path = Path::new("usr").join(path);
        assert!(there.contains(&path), "{} is not in {there:?}", path.display());
        let permissions = package.join(&path).metadata().unwrap().permissions();
        assert_eq!(permissions.mode() & 0o7777, mode, "{}", path.display());
    }
    // The name is another one, the file is the same; whoever resolves it finds that name.
    let name = package.join("usr/lib/remount/bwrap/bwrap");
    let version = sandbox.host(name.canonicalize().unwrap()).arg("--version").run();
    assert_eq!(version.success().stdout(), "bubblewrap 0.11.1\n");
    let inside = sandbox.host(name).command(["--ro-bind", "/", "/", "echo", "inside"]).run();
    assert_eq!(inside.success().stdout(), "inside\n");
    let unit = package.join("usr/lib/systemd/system/remountd.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    assert!(unit.contains("\nExecStart=/usr/bin/remountd\n"), "{unit}");
    let mut words = words.to_vec();
    words.push("--uninstall");
    install(&sandbox, &words).success();
    assert!(files(&package).is_empty(), "{:?}", files(&package));
}

/// What systemd itself finds wrong with the units; and that the service is shut off from what
/// it does not need.
#[test]
fn the_units_are_what_systemd_wants() {
    let sandbox = Sandbox::new();
    let prefix = sandbox.dir("outside/prefix");
    install(&sandbox, &["--prefix", prefix.to_str().unwrap()]).success();
    let run = sandbox.dir("outside/run");
    let analyze = || {
        let command = sandbox.host(require("systemd-analyze")).env("SYSTEMD_PAGER", "");
        command.env("XDG_RUNTIME_DIR", &run)
    };
    for (place, more) in [("system", None), ("user", Some("--user"))] {
        let dir = prefix.join("lib/systemd").join(place);
        let units = ["remountd.socket", "remountd.service"].map(|it| dir.join(it));
        let verified = analyze().options(more).options(["verify", "--man=no"]).options(units).run();
        verified.success();
        assert!(!verified.stderr().contains("remountd"), "{verified}");
    }
    let words = ["security", "--offline=yes", "--threshold=40", "--no-pager"];
    let unit = prefix.join("lib/systemd/system/remountd.service");
    analyze().options(words).option(&unit).run().success();
    // What that means is seen only under a real systemd: scripts/systemd-test.
    let unit = std::fs::read_to_string(unit).unwrap();
    assert!(!unit.contains("\nRestrictSUIDSGID=yes"), "it takes openat2(2) away");
}
