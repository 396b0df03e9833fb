//! The probe does what its acts say, on the kernel at hand, outside any sandbox.
//!
//! `core_*` tests need nothing but the project's binaries and a shell with the usual
//! small tools: they also run on an older kernel (`scripts/vm-test`).

use remount_tests::{Answer, Sandbox, as_root, bin, kernel, landlock_abi};

fn probe(sandbox: &Sandbox, act: &[&str]) -> Answer {
    sandbox.host(bin("probe")).command(act).run().answer()
}

#[test]
fn acts_on_files_succeed_where_they_may() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("project/file", "contents");
    let file = file.to_str().unwrap();
    for act in ["open-read", "open-write", "append", "chmod", "chown", "utime", "truncate"] {
        probe(&sandbox, &[act, file]).ok();
    }
    for act in ["create", "mkdir", "mkfifo", "bind-unix"] {
        probe(&sandbox, &[act, act]).ok();
        assert!(sandbox.project().join(act).exists(), "{act}");
    }
    probe(&sandbox, &["rename", "create", "renamed"]).ok();
    probe(&sandbox, &["link", "renamed", "linked"]).ok();
    probe(&sandbox, &["dirfd-create", ".", "by-descriptor"]).ok();
    assert_eq!(probe(&sandbox, &["read", file]).ok(), "contentsx");
}

#[test]
fn errors_have_their_names() {
    let sandbox = Sandbox::new();
    sandbox.file("project/file", "");
    probe(&sandbox, &["open-read", "missing"]).errno("ENOENT");
    probe(&sandbox, &["create", "file"]).errno("EEXIST");
    probe(&sandbox, &["list", "file"]).errno("ENOTDIR");
    probe(&sandbox, &["mkfifo", "fifo"]).ok();
    probe(&sandbox, &["fifo-write", "fifo"]).errno("ENXIO");
    probe(&sandbox, &["bind-unix", "socket"]).ok();
    probe(&sandbox, &["connect-unix", "socket"]).errno("ECONNREFUSED");
    if !as_root() {
        probe(&sandbox, &["create", "/etc/remount-probe"]).errno("EACCES");
        probe(&sandbox, &["mount-tmpfs", "/mnt"]).errno("EPERM");
    }
}

#[test]
fn acts_on_mounts_succeed_in_a_user_namespace() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("project/dir");
    let dir = dir.to_str().unwrap();
    for act in ["mount-tmpfs", "open-tree-clone"] {
        probe(&sandbox, &["--userns", act, dir]).ok();
    }
    probe(&sandbox, &["--userns", "bind-mount", dir, dir]).ok();
    probe(&sandbox, &["--userns", "fsmount", "tmpfs"]).ok();
    probe(&sandbox, &["own-mount-namespace"]).ok();
    for act in ["clone", "clone3"] {
        probe(&sandbox, &[act]).ok();
        probe(&sandbox, &[act, "user,mnt"]).ok();
    }
}

#[test]
fn what_the_kernel_offers_is_seen() {
    let sandbox = Sandbox::new();
    for act in ["io-uring", "keyctl", "add-key", "bpf", "userfaultfd"] {
        probe(&sandbox, &[act]).ok();
    }
    // Debian's kernels have a level 3, which closes it to ordinary users.
    let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap();
    match paranoid.trim().parse::<i32>() {
        Ok(..=2) => drop(probe(&sandbox, &["perf"]).ok()),
        _ if as_root() => drop(probe(&sandbox, &["perf"]).ok()),
        _ => probe(&sandbox, &["perf"]).errno("EACCES"),
    }
    for family in ["unix", "inet", "inet6"] {
        probe(&sandbox, &["socket", family]).ok();
    }
    probe(&sandbox, &["socket", "netlink", "raw"]).ok();
    let abi = landlock_abi();
    assert_eq!(probe(&sandbox, &["landlock-abi"]), Answer::Ok(abi.to_string()));
    if kernel() == (6, 1) {
        assert_eq!(abi, 2, "Debian 12's kernel");
    }
}

#[test]
fn a_probe_that_serves_keeps_what_it_holds() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("project/sub dir/a\tfile\n", "contents");
    let mut served = sandbox.host_probe().serve();
    served.act(["cd", "sub dir"]).ok();
    let number = served.act(["hold".as_ref(), "append".as_ref(), file.as_os_str()]).ok();
    served.act(["fd-write", &number, "+more"]).ok();
    served.act(["fd-reopen", &number]).ok();
    let dir = served.act(["hold", "dir", "."]).ok();
    served.act(["dirfd-make", &dir, "made"]).ok();
    served.act(["map".as_ref(), file.as_os_str()]).ok();
    served.act(["map-write"]).ok();
    served.act(["close", &number]).ok();
    served.act(["fd-write", &number]).errno("EBADF");
    assert_eq!(std::fs::read(&file).unwrap(), b"montents+more");
    assert!(file.with_file_name("made").exists());
    served.end().success();
}
