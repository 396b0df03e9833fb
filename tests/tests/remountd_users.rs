//! Who may ask remountd for what: the keys of its configuration, with users that are not each
//! other. An ordinary user cannot be a second one; its daemon serves nobody else at all.

use remount_tests::daemon::{Daemon, configure, remountd, socket};
use remount_tests::{Cmd, LIMIT, Outcome, Running, Sandbox, as_root, require, uid, wait_until};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Two members of the daemon's group, one who is not, and their group.
const ADA: &str = "61301";
const BOB: &str = "61302";
const EVE: &str = "61303";
const MEMBERS: &str = "61310";

/// The system's daemon, in a mount namespace in which there is a group `remountd`, and in
/// which its target is a mount.
struct System<'a> {
    daemon: Daemon<'a>,
}

impl<'a> System<'a> {
    fn new(sandbox: &'a Sandbox, more: &str) -> Self {
        let config = configure(sandbox, more);
        let target = sandbox.root().join("outside/w");
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o777)).unwrap();
        let group = format!("root:x:0:\nremountd:x:{MEMBERS}:\n");
        let group = sandbox.file("outside/group", group);
        let script =
            r#"mount --bind "$1" /etc/group && mount --bind "$2" "$2" && exec "$3" --config "$4""#;
        let running = sandbox
            .host(require("unshare"))
            .command(["--mount", "--", "/bin/sh", "-c", script, "sh"])
            .command([group, target, remount_tests::bin("remountd"), config])
            .start();
        let path = socket(sandbox);
        wait_until("the daemon listens", LIMIT, || UnixStream::connect(&path).is_ok());
        // The group comes after the name.
        wait_until("the mode is set", LIMIT, || {
            path.metadata().unwrap().permissions().mode() & 0o777 == 0o660
        });
        Self { daemon: Daemon { sandbox, running } }
    }

    /// A command of one of the users, on the host: that is where the daemon is.
    fn of(&self, user: &str, words: Vec<std::ffi::OsString>) -> Cmd {
        let groups =
            if user == EVE { "--clear-groups".to_owned() } else { format!("--groups={MEMBERS}") };
        let pid = self.daemon.running.pid().to_string();
        let command = self.daemon.sandbox.host(require("nsenter"));
        self.daemon
            .with_variables(command)
            .options(["--mount", "--target", &pid, "--", "setpriv"])
            .options(["--reuid", user, "--regid", user, groups.as_str(), "--"])
            .command(words)
    }

    fn ctl(&self, user: &str, words: &[&str]) -> Outcome {
        self.of(user, self.daemon.ctl().command(words).words()).run()
    }

    /// In a sandbox of that user's.
    fn inside(&self, user: &str, script: &str) -> Outcome {
        self.of(user, self.bwrap(script).words()).run()
    }

    fn bwrap(&self, script: &str) -> Cmd {
        let target = self.daemon.target();
        self.daemon.bwrap([&PathBuf::from("--ro-bind"), &target, &target]).sh(script)
    }

    /// A sandbox of that user's that stays, and a process in it.
    fn stays(&self, user: &str) -> (Running, String) {
        let words = self.bwrap("echo $$; read line; echo x >\"$W/by\" && echo WROTE").words();
        let mut running = self.of(user, words).start_interactive();
        let pid = running.line();
        (running, pid)
    }
}

const RW: &str = "\"$CTL\" --socket \"$S\" rw w; echo \"code $?\"";

#[test]
fn only_members_of_the_group_connect() {
    let sandbox = Sandbox::new();
    if !as_root() {
        let _daemon = Daemon::new(&sandbox, "");
        let meta = socket(&sandbox).metadata().unwrap();
        assert_eq!((meta.permissions().mode() & 0o777, meta.uid()), (0o600, uid()));
        return;
    }
    let system = System::new(&sandbox, "");
    let meta = socket(&sandbox).metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid().to_string()), (0, MEMBERS.to_owned()));
    assert_eq!(system.inside(ADA, RW).stdout(), "w: rw\ncode 0\n");
    let refused = system.inside(EVE, RW);
    assert_eq!(refused.stdout(), "code 4\n", "{refused}");
    refused.says("permission denied").says("group of the socket");
}

#[test]
fn users_and_groups_say_who_knows_of_a_target() {
    let sandbox = Sandbox::new();
    if !as_root() {
        let others = Daemon::new(&sandbox, "users = [\"root\"]\n");
        others.sandboxed(RW).says("unknown target");
        drop(others);
        let daemon = Daemon::new(&sandbox, &format!("users = [{}]\n", uid()));
        assert_eq!(daemon.sandboxed(RW).stdout(), "w: rw\ncode 0\n");
        return;
    }
    for more in [format!("users = [{ADA}]\n"), format!("users = [\"root\"]\ngroups = [{ADA}]\n")] {
        let system = System::new(&sandbox, &more);
        assert_eq!(system.inside(ADA, RW).stdout(), "w: rw\ncode 0\n", "{more}");
        let refused = system.inside(BOB, RW);
        assert_eq!(refused.stdout(), "code 2\n", "{refused}");
        refused.says("unknown target w");
        let listed = system.inside(BOB, "\"$CTL\" --socket \"$S\" list");
        assert!(!listed.success().stdout().contains("outside/w"), "{listed}");
    }
    // By a supplementary group: both are members.
    let system = System::new(&sandbox, "users = [0]\ngroups = [\"remountd\"]\n");
    assert_eq!(system.inside(BOB, RW).stdout(), "w: rw\ncode 0\n");
}

#[test]
fn a_process_is_named_by_its_own_user_only() {
    let sandbox = Sandbox::new();
    if !as_root() {
        // The one process of another user that is there wherever this runs.
        let daemon = Daemon::new(&sandbox, "");
        let named = daemon.ctl().command(["rw", "w", "--pid", "1"]).run();
        named.exits(5).says("find the sandbox of process 1: it is another user's");
        return;
    }
    let system = System::new(&sandbox, "authority = \"host\"\n");
    let (mut adas, pid) = system.stays(ADA);
    for stranger in [BOB, "0"] {
        for mode in ["ro", "rw"] {
            let refused = system.ctl(stranger, &["--pid", &pid, mode, "w"]);
            refused.exits(5).says(&format!("process {pid}: it is another user's"));
        }
    }
    // Not from inside either, whatever the number is.
    let refused = system.inside(ADA, &format!("\"$CTL\" --socket \"$S\" --pid {pid} rw w"));
    refused.exits(5).says("only from outside");
    let refused = system.inside(ADA, RW);
    assert_eq!(refused.stdout(), "code 5\n", "{refused}");
    refused.says("authority is host");
    let outcome = system.ctl(ADA, &["--pid", &pid, "rw", "w"]);
    assert_eq!(outcome.success().stdout(), "w: rw\n");
    adas.send("\n");
    assert_eq!(adas.line(), "WROTE");
    adas.close_stdin();
    adas.wait().success();
}

#[test]
fn the_owner_of_the_sandbox_is_the_one_who_asks() {
    let sandbox = Sandbox::new();
    if !as_root() {
        // No sandbox of another user's can be entered by an ordinary one.
        let daemon = Daemon::new(&sandbox, "any-owner = true\n");
        assert_eq!(daemon.sandboxed(RW).stdout(), "w: rw\ncode 0\n");
        return;
    }
    // Root made it, Ada is in it.
    let as_ada = |daemon: &Daemon<'_>| {
        let target = daemon.target();
        let words = ["--reuid", ADA, "--regid", ADA, "--groups", MEMBERS, "--"];
        daemon
            .bwrap([
                "--cap-add".as_ref(),
                "ALL".as_ref(),
                "--ro-bind".as_ref(),
                target.as_os_str(),
                target.as_os_str(),
            ])
            .arg(require("setpriv"))
            .command(words)
            .sh(RW)
            .run()
    };
    let system = System::new(&sandbox, "");
    let refused = as_ada(&system.daemon);
    assert_eq!(refused.stdout(), "code 5\n", "{refused}");
    refused.says(&format!("the sandbox belongs to uid 0, the request came from uid {ADA}"));
    drop(system);
    let system = System::new(&sandbox, "any-owner = true\n");
    let allowed = as_ada(&system.daemon);
    assert_eq!(allowed.stdout(), "w: rw\ncode 0\n", "{allowed}");
}

#[test]
fn the_host_is_switched_only_if_the_configuration_says_so() {
    let sandbox = Sandbox::new();
    if !as_root() {
        let daemon = Daemon::new(&sandbox, "host-namespace = true\n");
        // Nothing there is this user's to change, and nothing is changed.
        let refused = daemon.ctl().command(["ro", "w"]).run();
        refused.exits(6).says("no mount of its own");
        return;
    }
    let in_its_namespace = |system: &System<'_>, script: &str| {
        let pid = system.daemon.running.pid().to_string();
        let command = sandbox.host(require("nsenter"));
        let command = system.daemon.with_variables(command);
        command.options(["--mount", "--target", &pid, "--"]).sh(script).run()
    };
    let script = "\"$CTL\" --socket \"$S\" ro w; echo \"code $?\"; (echo x >\"$W/a\") 2>/dev/null && echo WROTE";
    let system = System::new(&sandbox, "");
    let refused = in_its_namespace(&system, script);
    assert_eq!(refused.stdout(), "code 5\nWROTE\n", "{refused}");
    refused.says("the request came from the host");
    drop(system);
    let system = System::new(&sandbox, "host-namespace = true\n");
    let outcome = in_its_namespace(&system, script);
    assert_eq!(outcome.stdout(), "w: ro\ncode 0\n", "{outcome}");
}

#[test]
fn nothing_stays_writable_longer_than_it_may() {
    let sandbox = Sandbox::new();
    let script = r#"
        "$CTL" --socket "$S" rw w --for 1h; echo "code $?"
        echo x >"$W/first" && echo WROTE
        while echo x 2>/dev/null >"$W/a"; do sleep 0.05; done
        "$CTL" --socket "$S" rw w; while echo x 2>/dev/null >"$W/a"; do sleep 0.05; done
        echo closed"#;
    let (outcome, more) = if as_root() {
        let system = System::new(&sandbox, "max-lease = \"5s\"\n");
        let long = system.inside(ADA, script);
        (long, "root")
    } else {
        (Daemon::new(&sandbox, "max-lease = \"5s\"\n").sandboxed(script), "user")
    };
    assert_eq!(outcome.stdout(), "w: rw\ncode 0\nWROTE\nw: rw\nclosed\n", "{more}: {outcome}");
}

/// With the capabilities that the unit leaves to the service, and no others.
#[test]
fn the_units_capabilities_are_enough() {
    let unit = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/remountd.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let names = line.split(' ').map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase());
    let mut set = "-all".to_owned();
    names.for_each(|name| set.extend([",+", &name]));
    let sandbox = Sandbox::new();
    let config = configure(&sandbox, "");
    if !as_root() {
        // The user's needs none.
        assert!(set.contains("+sys_admin"), "{set}");
        let words = remountd(&sandbox).option("--config").option(config).words();
        let running =
            sandbox.host(require("setpriv")).option("--no-new-privs").command(words).start();
        let path = socket(&sandbox);
        wait_until("the daemon listens", LIMIT, || UnixStream::connect(&path).is_ok());
        let daemon = Daemon { sandbox: &sandbox, running };
        assert_eq!(daemon.sandboxed(RW).stdout(), "w: rw\ncode 0\n");
        return;
    }
    let words = remountd(&sandbox).option("--config").option(config).words();
    let running = sandbox
        .host(require("setpriv"))
        .options(["--no-new-privs", &format!("--bounding-set={set}"), "--inh-caps=-all", "--"])
        .command(words)
        .start();
    let path = socket(&sandbox);
    wait_until("the daemon listens", LIMIT, || UnixStream::connect(&path).is_ok());
    let system = System { daemon: Daemon { sandbox: &sandbox, running } };
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::set_permissions(system.daemon.target(), std::fs::Permissions::from_mode(0o777))
        .unwrap();
    for user in [ADA, EVE] {
        let script = format!("{RW}; exec 9>\"$W/held.{user}\"; \"$CTL\" --socket \"$S\" ro w");
        let busy = system.inside(user, &script);
        assert_eq!(busy.stdout(), "w: rw\ncode 0\n", "{busy}");
        // Who holds it is found, too.
        busy.exits(3).says(&format!("held.{user}"));
    }
}
