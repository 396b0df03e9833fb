//! Under the name `bwrap`: `--profile` takes away what the profile does, and gives nothing.

use remount_tests::{Outcome, PATH, Sandbox, bin, require};
use std::os::unix::fs::symlink;

struct World(Sandbox);

impl World {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        symlink(bin("remount-run"), sandbox.dir("bin").join("bwrap")).expect("link bwrap");
        sandbox.file("home/.ssh/key", "SECRET\n");
        sandbox.file("home/.netrc", "SECRET\n");
        sandbox.file("home/plain", "plain\n");
        sandbox.file("elsewhere/key", "SECRET\n");
        symlink(sandbox.root().join("elsewhere"), sandbox.home().join(".aws")).expect("a link");
        let text = "mask = ['~/.ssh', '~/.netrc', '~/.aws', '~/.none']\n\
                    [sandbox]\nnetwork = 'none'\n[environment]\nunset = ['TOKEN_*']\n\
                    [[bind]]\npath = '~/plain'\nmode = 'rw'\n";
        sandbox.file("home/.config/remount/profiles/less.toml", text);
        World(sandbox)
    }

    fn run(&self, script: &str) -> Outcome {
        let path = format!("{}:{PATH}", self.0.root().join("bin").display());
        let run = self.0.host(require("bash")).env("PATH", path).env("TOKEN_A", "SECRET");
        run.env("E", self.0.root().join("elsewhere")).arg("-c").arg(script).run()
    }
}

/// Each way to see a secret.
const WAYS: [&str; 7] = [
    "--bind / / cat $HOME/.ssh/key $HOME/.netrc $HOME/.aws/key",
    "--bind / / --tmpfs /mnt --bind $HOME /mnt sh -c 'cat /mnt/.ssh/key /mnt/.netrc'",
    "--bind / / --bind $HOME/.ssh /mnt cat /mnt/key",
    "--bind / / --tmpfs /mnt --ro-bind $HOME/.ssh/key /mnt/key cat /mnt/key",
    "--bind / / --bind-fd 5 /mnt cat /mnt/key 5<$HOME/.ssh",
    "--bind / / cat $E/key",
    "--bind / / --overlay-src $HOME --tmp-overlay /mnt sh -c 'cat /mnt/.ssh/key /mnt/.netrc'",
];

#[test]
fn what_is_masked_is_seen_nowhere() {
    let world = World::new();
    for way in WAYS {
        let seen = world.run(&format!("bwrap {way}"));
        assert!(seen.success().stdout().contains("SECRET"), "{way}: {seen}");
        let masked = world.run(&format!("bwrap --profile less {way}"));
        assert!(!masked.stdout().contains("SECRET"), "{way}: {masked}");
    }
    let plain = world.run("bwrap --profile less --ro-bind / / cat $HOME/plain");
    assert_eq!(plain.success().stdout(), "plain\n");
}

#[test]
fn variables_network_and_calls_are_taken_away() {
    let world = World::new();
    let base = "--ro-bind / / --dev /dev";
    let net = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '";
    let look =
        "sh -c 'echo [$TOKEN_A]; grep Seccomp: /proc/self/status; unshare -Um true && echo made'";
    let with = world.run(&format!("bwrap --unshare-user {base} {look}"));
    assert_eq!(with.success().stdout(), "[SECRET]\nSeccomp:\t0\nmade\n");
    let without = world.run(&format!("bwrap --unshare-user --profile less {base} {look}"));
    assert_eq!(without.stdout(), "[]\nSeccomp:\t2\n", "{without}");
    let lines = |text: &str| world.run(&format!("bwrap {text} {base} sh -c \"{net}\"")).stdout();
    assert_eq!(lines("--profile less"), "lo\n");
    assert_eq!(lines("--share-net --profile less"), "lo\n");
    let caps = "--unshare-user --cap-add ALL --ro-bind / / grep CapEff /proc/self/status";
    let none = "CapEff:\t0000000000000000\n";
    assert_ne!(world.run(&format!("bwrap {caps}")).success().stdout(), none);
    assert_eq!(world.run(&format!("bwrap --profile less {caps}")).success().stdout(), none);
}

#[test]
fn nothing_is_given() {
    let world = World::new();
    let write = "bwrap --profile less --ro-bind / / sh -c 'echo x >$HOME/plain'";
    let outcome = world.run(write);
    assert_ne!(outcome.code(), Some(0));
    assert!(outcome.stderr().contains("Read-only file system"), "{outcome}");
    let text = "bwrap: --profile: ";
    for words in ["--profile none --ro-bind / / true", "--profile ./no.toml --ro-bind / / true"] {
        let outcome = world.run(&format!("bwrap {words}"));
        outcome.exits(1);
        assert!(outcome.stderr().starts_with(text), "{outcome}");
    }
    world.run("bwrap --profile").exits(1).says("--profile takes an argument");
}

#[test]
fn that_there_are_no_shims_is_said() {
    let world = World::new();
    let run = |profile: &str| {
        world.run(&format!("bwrap --profile {profile} --ro-bind / / true")).success().stderr()
    };
    assert_eq!(run("less"), "");
    let said = run("shims/git");
    assert!(said.contains("--profile: no shims under the name bwrap"), "{said}");
}
