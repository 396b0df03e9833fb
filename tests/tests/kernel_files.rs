//! What of the kernel a sandbox shares with the host: files below `/proc`, the limit that
//! decides about handlers of crashes.

use remount_tests::{Sandbox, as_root, bin};

const CORE_LIMIT: &str = "ulimit -c 0 && sed -n '/core file/s/[^0-9]\\+/ /gp' /proc/self/limits";

/// At 0 the kernel starts the handler of cores, which is root outside. Programs that guard
/// keys set it and give up if they cannot.
#[test]
fn the_limit_of_cores_seems_to_be_lowered_and_is_not() {
    let sandbox = Sandbox::new();
    let lowered = sandbox.host("sh").command(["-c", CORE_LIMIT]).run().success().stdout();
    assert_eq!(lowered.trim(), "0 0");
    let inside = sandbox.remount().sh(CORE_LIMIT).run().success().stdout();
    assert_eq!(inside.trim(), "1 1");
    // Reading it, and every other limit, is as it was.
    let others = sandbox.remount().sh("ulimit -c; ulimit -n 77 && ulimit -n").run();
    assert!(others.success().stdout().ends_with("\n77\n"));
}

/// All process file systems show the same files of the machine, and of a network: in one
/// that the test made, nobody else sees what becomes of them.
#[test]
fn root_cannot_change_the_permissions_of_what_the_kernel_shows() {
    let sandbox = Sandbox::new();
    if !as_root() {
        // They are not this user's; his processes are.
        let inside = sandbox.remount().sh("chmod 0400 /proc/self/net/dev").run();
        inside.exits(1).says("Operation not permitted");
        sandbox.remount().sh("echo 500 > /proc/self/oom_score_adj").run().success();
        return;
    }
    let always = "extends = [\"default\"]\n[sandbox]\nuser-namespace = \"always\"\n";
    let always = sandbox.file("outside/always.toml", always);
    let change = |cmd: remount_tests::Cmd| cmd.within("unshare", &["--net"]).run();
    let chmod = ["chmod", "0400", "/proc/self/net/dev"];
    change(sandbox.host("env").command(chmod)).success();
    for options in [&[][..], &["--profile", always.to_str().unwrap()]] {
        let inside = change(sandbox.remount().options(options).command(chmod));
        inside.exits(1).says("Read-only file system");
    }
}

/// An ordinary user may write to nothing there as it is: the mount refuses before the kernel
/// looks whose it is. No permission of a switch can be changed anywhere, not even to the same.
#[test]
fn the_kernels_switches_are_on_a_read_only_mount() {
    let sandbox = Sandbox::new();
    let mut inside = sandbox.remount().serve();
    for path in ["/proc/sys/kernel/hostname", "/proc/sys/vm/panic_on_oom"] {
        sandbox.host_probe().probe(["chmod", path]).errno("EPERM");
        inside.act(["chmod", path]).errno("EROFS");
    }
    // What is a process's own is beside it; for root all of /proc is read-only.
    let own = inside.act(["open-write", "/proc/self/comm"]);
    if as_root() {
        own.errno("EROFS")
    } else {
        drop(own.ok())
    }
    inside.end().success();
}

/// In a mount namespace of the test's own: whoever makes files in the host's `/dev` could put one
/// in a device's place.
#[test]
fn a_file_in_the_place_of_a_device_is_none() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("outside/file", "text");
    let beside = |mounts: &[&str]| {
        let probe = sandbox.host(bin("probe")).option("--userns").options(mounts).option("exec");
        probe.option(bin("remount-run")).separated().command(["head", "-c1", "/dev/zero"]).run()
    };
    assert_eq!(beside(&[]).success().stdout(), "\0");
    let outcome = beside(&["--bind", file.to_str().unwrap(), "/dev/zero"]);
    outcome.exits(125).says("bind a device in /dev: ").says("ENODEV");
    assert_eq!(outcome.stdout(), "");
}
