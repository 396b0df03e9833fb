//! The profile `readonly`, used as one would: everything is seen, nothing can be changed, and
//! a person outside can open a directory for a while.

use remount_tests::{Cmd, LIMIT, Sandbox, bin, wait_until};
use std::os::unix::fs::PermissionsExt;

/// `remount-run --profile readonly`, in the project.
fn readonly(sandbox: &Sandbox) -> Cmd {
    sandbox.remount().options(["--profile", "readonly"])
}

/// Does nothing, and has a name of its own.
fn stand_in(sandbox: &Sandbox) -> remount_tests::Running {
    sandbox.host_probe().arg(bin("probe")).command(["sleep", "600"]).start()
}

#[test]
fn logs_and_the_hosts_processes_are_read() {
    let sandbox = Sandbox::new();
    let log = sandbox.file("outside/app.log", "it began\n");
    let running = stand_in(&sandbox);
    let pid = running.pid().to_string();
    let script = format!(
        "cat {log} && cat /proc/loadavg /proc/meminfo >/dev/null && hostname && id -un 0 && \
         ps -o args= -p {pid} && top -bn1 -p {pid} | tail -n 1 && cat /proc/{pid}/stat",
        log = log.display()
    );
    let said = readonly(&sandbox).sh(&script).run();
    let said = said.success().stdout();
    let lines: Vec<&str> = said.lines().collect();
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(lines[..3], ["it began", &name, "root"], "{said}");
    assert!(lines[3].ends_with("probe sleep 600"), "{said}");
    assert!(lines[4].trim_start().starts_with(&pid) && lines[4].ends_with("probe"), "{said}");
    assert!(lines[5].starts_with(&pid), "{said}");
    // The default profile shows none of it.
    let other = sandbox.remount().command(["ps", "-o", "args=", "-p", &pid]).run();
    assert!(!other.stdout().contains("sleep 600"), "{other}");
}

#[test]
fn nothing_is_removed_changed_or_made() {
    let sandbox = Sandbox::new();
    // Of the one who runs it: of root, if root does.
    let precious = sandbox.file("outside/precious", "data");
    let home = sandbox.file("home/notes", "data");
    let inside = || readonly(&sandbox);
    for path in [&precious, &home] {
        sandbox.twin(["open-write"], path).inside(inside()).denied("EROFS");
        let path = path.to_str().unwrap();
        sandbox.twin(["chmod", path], "0600").inside(inside()).denied("EROFS");
        sandbox.twin(["utime"], path).inside(inside()).denied("EROFS");
    }
    let made = sandbox.outside().join("new");
    let twin = sandbox.twin(["create"], &made).inside(inside());
    twin.prepare(|| std::fs::remove_file(&made).unwrap_or(())).denied("EROFS");
    let removed = inside().command(["rm", "-f"]).arg(&precious).run();
    removed.exits(1).says("Read-only file system");
    // Nor where one stands: the project.
    let made = sandbox.project().join("new");
    let twin = sandbox.twin(["mkdir"], &made).inside(inside());
    twin.prepare(|| std::fs::remove_dir(&made).unwrap_or(())).denied("EROFS");
    sandbox
        .twin(["unlink"], &precious)
        .inside(inside())
        .prepare(|| {
            std::fs::write(&precious, "data").unwrap();
        })
        .denied("EROFS");
    // A placeholder in the project would be a change of the host.
    let left: Vec<_> = std::fs::read_dir(sandbox.project()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn shared_memory_and_the_temporary_directory_are_its_own() {
    let sandbox = Sandbox::new();
    let name = format!("remount-test.{}.{}", remount_tests::uid(), std::process::id());
    for dir in ["/dev/shm", "/tmp"] {
        let path = std::path::Path::new(dir).join(&name);
        std::fs::write(&path, "outside").unwrap();
        let script = format!("test ! -e {0} && echo inside > {0} && cat {0}", path.display());
        let said = readonly(&sandbox).sh(&script).run().success().stdout();
        assert_eq!((said.as_str(), &*std::fs::read(&path).unwrap()), ("inside\n", &b"outside"[..]));
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn scratch_space_has_a_size() {
    let sandbox = Sandbox::new();
    // Renaming and removing in it are nothing special.
    let work =
        "cd /tmp && mkdir d && echo x > d/a && mv d/a b && mv b d/c && cp d/c e && rm -r d e";
    readonly(&sandbox).sh(work).run().success();
    let fill = "dd if=/dev/zero of=/tmp/fill bs=64k; stat -c %s /tmp/fill; rm /tmp/fill";
    for (options, size) in [
        (&[][..], 64 << 20),
        (&["--size", "1M"], 1 << 20),
        (&["--size", "2M", "--tmpfs", "/tmp"], 2 << 20),
    ] {
        let filled = readonly(&sandbox).options(options).sh(fill).run();
        filled.says("No space left on device");
        assert_eq!(filled.stdout().trim(), size.to_string(), "{options:?}: {filled}");
    }
    let scratch = sandbox.dir("outside/scratch");
    let scratch = scratch.to_str().unwrap();
    let script = format!("echo x > {scratch}/x && cat {scratch}/x");
    readonly(&sandbox).options(["--tmpfs", scratch]).sh(&script).run().success();
    assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 0);
    readonly(&sandbox).sh(&script).run().exits(2).says("Read-only file system");
}

#[test]
fn one_command_ends_with_its_own_code() {
    let sandbox = Sandbox::new();
    readonly(&sandbox).sh("exit 7").run().exits(7);
    readonly(&sandbox).sh("kill -TERM $$").run().exits(128 + 15);
    readonly(&sandbox).command(["no-such-command"]).run().exits(127);
    readonly(&sandbox).command(["/etc/passwd"]).run().exits(126);
    let shell = sandbox.file("outside/shell", "#!/bin/sh\necho \"the shell, $#\"\n");
    std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o755)).unwrap();
    let said = readonly(&sandbox).unseparated().env("SHELL", &shell).run().success().stdout();
    assert_eq!(said, "the shell, 0\n");
}

#[test]
fn the_network_is_the_hosts_unless_it_is_taken_away() {
    let sandbox = Sandbox::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    readonly(&sandbox).probe(["connect-tcp", &address]).ok();
    readonly(&sandbox)
        .option("--unshare-net")
        .probe(["connect-tcp", &address])
        .errno("ECONNREFUSED");
}

#[test]
fn ones_own_children_are_signalled_and_traced() {
    let sandbox = Sandbox::new();
    let script = "sleep 600 & kill $!; wait $!; echo $?; sh -c 'kill -KILL $$'; echo $?; \
                  set -m; sleep 600 & kill %1; wait %1; echo $?";
    let said = readonly(&sandbox).command(["bash", "-c", script]).run().stdout();
    assert_eq!(said, "143\n137\n143\n");
    let traced = readonly(&sandbox).command(["strace", "-f", "-e", "trace=execve", "true"]).run();
    traced.success().says("+++ exited with 0 +++");
    // It is let through; whether it works is the host's to say.
    let perf = |cmd: Cmd| cmd.probe(["perf"]);
    assert_eq!(perf(readonly(&sandbox)), perf(sandbox.host_probe()));
    // The host's numbers: `proc = "own"` is for debuggers.
    let own =
        sandbox.file("outside/debug.toml", "extends = [\"readonly\"]\n[sandbox]\nproc = \"own\"\n");
    let program = "int f(int x) { return x; } int main() { return f(41); }";
    let source = sandbox.file("outside/t.c", program);
    let built = sandbox.outside().join("t");
    let gcc = ["gcc", "-g", "-o", built.to_str().unwrap(), source.to_str().unwrap()];
    sandbox.host("env").command(gcc).run().success();
    let gdb = ["gdb", "-nx", "-batch", "-ex", "break f", "-ex", "run", "-ex", "print x"];
    let inside = sandbox.remount().option("--profile").option(own);
    let said = inside.command(gdb).arg(&built).run();
    assert!(said.stdout().contains("$1 = 41"), "{said}");
}

#[test]
fn a_person_outside_opens_a_directory_for_a_while() {
    let sandbox = Sandbox::new();
    let docs = sandbox.dir("outside/docs");
    let toggle = ["--toggle", "docs", docs.to_str().unwrap()];
    let mut inside = readonly(&sandbox).options(toggle).serve();
    sandbox.socket();
    let (in_docs, here) = (docs.join("new"), "new");
    let in_docs = in_docs.to_str().unwrap();
    for (name, path) in [("workspace", here), ("docs", in_docs)] {
        inside.act(["create", path]).errno("EROFS");
        inside.act(["ask", "/run/remount/bin/remountctl", "rw", name]).errno("EACCES");
        inside.act(["create", path]).errno("EROFS");
        sandbox.ctl().command(["rw", name, "--for", "60s"]).run().success();
        inside.act(["create", path]).ok();
        inside.act(["unlink", path]).ok();
        sandbox.ctl().command(["ro", name]).run().success();
        inside.act(["create", path]).errno("EROFS");
        sandbox.ctl().command(["rw", name, "--for", "100ms"]).run().success();
        wait_until("the lease ends", LIMIT, || {
            let shown = sandbox.ctl().command(["list"]).run().success().stdout();
            shown.lines().all(|line| !line.contains(" rw"))
        });
        inside.act(["create", path]).errno("EROFS");
    }
    inside.end().success();
    let refused = readonly(&sandbox).options(["--authority", "self"]).command(["true"]);
    sandbox.refused(125, refused).explains(
        "--authority self: in a read-only sandbox no process inside may make a target writable",
        "remountctl rw NAME",
    );
}

/// One looks around from anywhere: what can be no project is no target.
#[test]
fn it_starts_wherever_one_stands() {
    let sandbox = Sandbox::new();
    for (dir, expected) in [
        (sandbox.project(), "workspace"),
        (sandbox.home(), ""),
        ("/".into(), ""),
        ("/tmp".into(), ""),
        ("/etc".into(), "workspace"),
        ("/proc/self".into(), ""),
        ("/sys".into(), ""),
    ] {
        let said = readonly(&sandbox)
            .cwd(&dir)
            .command(["remountctl", "status", "--format", "{name}"])
            .run();
        assert_eq!(said.success().stdout().trim(), expected, "{}", dir.display());
    }
}

/// What a profile makes writable is not, whichever is named first.
#[test]
fn other_profiles_do_not_open_it() {
    let sandbox = Sandbox::new();
    let (state, cache) = (sandbox.dir("home/state"), sandbox.dir("home/.cache"));
    let text = "extends = [\"default\"]\n[sandbox]\nauthority = \"self\"\n[workspace]\nmode = \"rw\"\n\
                authority = \"self\"\n[[bind]]\npath = \"~/state\"\nmode = \"rw\"\ntoggle = \"state\"\n\
                authority = \"self\"\n[[bind]]\npath = \"~/made\"\nmode = \"rw\"\nmissing = \"create\"\n";
    let other = sandbox.file("outside/other.toml", text);
    let other = other.to_str().unwrap();
    for order in [[other, "readonly"], ["readonly", other]] {
        let options = ["--profile", order[0], "--profile", order[1]];
        let mut inside = sandbox.remount().options(options).serve();
        for dir in [&state, &cache, &sandbox.project()] {
            inside.act(["create", dir.join("x").to_str().unwrap()]).errno("EROFS");
        }
        for name in ["state", "workspace"] {
            inside.act(["ask", "/run/remount/bin/remountctl", "rw", name]).errno("EACCES");
        }
        inside.end().success();
        assert!(!sandbox.home().join("made").exists());
    }
    // Where options give the binds, they are as given.
    let words = ["--bwrap", "--profile", "readonly", "--bind", "/", "/", "true"];
    let refused = sandbox.host(bin("remount-run")).command(words).run();
    refused
        .exits(1)
        .says("bwrap: --profile: a read-only profile takes no bind of the options away\n");
}

#[test]
fn secrets_are_masked_unless_one_says_no() {
    let sandbox = Sandbox::new();
    let key = sandbox.file("home/.ssh/id_ed25519", "secret");
    let read = |cmd: Cmd| cmd.command(["cat"]).arg(&key).run();
    read(readonly(&sandbox)).exits(1).says("No such file or directory");
    assert_eq!(read(readonly(&sandbox).option("--no-mask")).success().stdout(), "secret");
    // The sandbox's own stay hidden, and what the command line hides.
    let outside = readonly(&sandbox).option("--no-mask").command(["ls"]);
    let listed = outside.arg(sandbox.state().join("remount")).run().success().stdout();
    assert_eq!(listed, "");
    let masked = readonly(&sandbox).option("--no-mask").option("--mask").option(&key);
    assert_eq!(read(masked).success().stdout(), "");
}
