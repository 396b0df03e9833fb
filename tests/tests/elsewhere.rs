//! What is hidden or protected, seen through a bind at another place; and the files that
//! this program is configured by.

use remount_tests::Sandbox;

const SECRET: &str = "s3cret";

#[test]
fn a_mask_holds_at_every_place_to_which_the_file_is_bound() {
    let sandbox = Sandbox::new();
    sandbox.file("home/.ssh/id", SECRET);
    sandbox.file("home/.netrc", SECRET);
    sandbox.file("home/plain", "plain");
    let (home, mnt) = (sandbox.home(), sandbox.dir("outside/mnt"));
    let (home, mnt) = (home.to_str().unwrap(), mnt.to_str().unwrap());
    let options = ["--ro-bind", home, mnt];
    let read = |path: &str| {
        let path = format!("{mnt}/{path}");
        sandbox.remount().options(options).probe(["read", &path])
    };
    assert_eq!(read("plain").ok(), "plain");
    assert_eq!(read(".netrc").ok(), "");
    read(".ssh/id").errno("ENOENT");
    // Its own place is hidden by something else.
    let hidden = [&["--tmpfs", home][..], &options].concat();
    let inside = sandbox.remount().options(hidden).probe(["read", &format!("{mnt}/.netrc")]);
    assert_eq!(inside.ok(), "");
    // Who names it means it.
    let ssh = format!("{home}/.ssh");
    let named = sandbox.remount().options(["--ro-bind", &ssh, mnt]);
    assert_eq!(named.probe(["read", &format!("{mnt}/id")]).ok(), SECRET);
}

#[test]
fn the_whole_host_is_not_bound_anywhere() {
    let sandbox = Sandbox::new();
    let mnt = sandbox.dir("outside/mnt");
    let outcome = sandbox.remount().options(["--ro-bind", "/", mnt.to_str().unwrap()]);
    outcome.command(["true"]).run().exits(125).says("it would show the host's processes");
}

/// What the next start does, outside, the agent of this one does not say.
#[test]
fn profiles_stay_as_they_are_wherever_they_are_writable() {
    let sandbox = Sandbox::new();
    sandbox.file("home/.config/remount/profiles/mine.toml", "extends = [\"default\"]\n");
    let config = sandbox.home().join(".config");
    let config = config.to_str().unwrap();
    let mnt = sandbox.dir("outside/mnt");
    let mnt = mnt.to_str().unwrap();
    for dest in [config, mnt] {
        let create = |path: &str| {
            let path = format!("{dest}/{path}");
            sandbox.remount().options(["--bind", config, dest]).probe(["create", &path])
        };
        create("other").ok();
        std::fs::remove_file(format!("{config}/other")).unwrap();
        create("remount/profiles/evil.toml").errno("EROFS");
    }
    let inner = format!("{config}/remount/profiles");
    let outcome = sandbox.remount().options(["--bind", &inner, mnt]).command(["true"]).run();
    outcome.exits(125).says("profiles of remount-run are read from there");
    // It cannot be made where there is none, nor is it left there.
    std::fs::remove_dir_all(format!("{config}/remount")).unwrap();
    let mut inside = sandbox.remount().options(["--bind", config, config]).serve();
    inside.act(["create", &format!("{config}/remount/x")]).errno("EROFS");
    inside.act(["rename", &format!("{config}/remount"), &format!("{config}/away")]).errno("EBUSY");
    inside.end().success();
    assert_eq!(std::fs::read_dir(config).unwrap().count(), 0);
}

#[test]
fn a_profile_named_by_its_path_is_not_rewritten() {
    let sandbox = Sandbox::new();
    let profile = sandbox.file("project/p.toml", "extends = [\"default\"]\n");
    let write = |options: &[&str]| {
        sandbox.remount().options(options).probe(["open-write", profile.to_str().unwrap()])
    };
    write(&[]).ok();
    write(&["--profile", profile.to_str().unwrap()]).errno("EROFS");
    write(&["--profile", "./p.toml"]).errno("EROFS");
}
