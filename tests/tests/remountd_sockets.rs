//! The ways in which remountd gets its socket, and what may be in the way.

use remount_tests::daemon::{Daemon, configure, remountd, socket};
use remount_tests::{Cmd, LIMIT, Sandbox, bin, listens, require, wait_until};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

#[test]
fn a_stale_socket_makes_way_and_nothing_else_does() {
    let sandbox = Sandbox::new();
    let (config, path) = (configure(&sandbox, ""), socket(&sandbox));
    let start = || remountd(&sandbox).option("--config").option(&config);
    sandbox.file("outside/s.sock", "precious");
    start().run().exits(1).says("no socket").says("hint: ");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
    // Bound, and nobody listens any more.
    drop(UnixListener::bind(&path).unwrap());
    let daemon = Daemon::new(&sandbox, "");
    start().run().exits(1).says("another daemon already serves there");
    assert!(UnixStream::connect(&path).is_ok(), "the first one serves on");
    let mode = path.symlink_metadata().unwrap();
    assert!(mode.file_type().is_socket());
    assert_eq!(mode.permissions().mode() & 0o7, 0, "others cannot connect");
    daemon.running.kill(Signal::TERM);
    daemon.running.wait().success();
    assert!(!path.exists(), "its socket goes with it");
}

#[test]
fn the_configuration_is_read_again_without_dropping_anybody() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let target = daemon.target();
    let script =
        "(echo 'rw w'; read line; echo 'rw w'; sleep 0.5) | \"$SOCAT\" -t60 - UNIX-CONNECT:\"$S\"";
    let target = target.to_str().unwrap();
    let mut inside = daemon.bwrap(["--ro-bind", target, target]).sh(script).start_interactive();
    assert_eq!(inside.line().trim(), "OK");
    configure(&sandbox, "modes = [\"ro\"]\n");
    daemon.running.kill(Signal::HUP);
    wait_until("the new rules hold", LIMIT, || {
        !daemon.sandboxed("\"$CTL\" --socket \"$S\" rw w").stdout().contains("rw")
    });
    inside.send("\n");
    assert!(inside.line().contains("does not allow"));
    // One that makes no sense changes nothing.
    sandbox.file("outside/remountd.toml", "nonsense");
    daemon.running.kill(Signal::HUP);
    daemon.sandboxed("\"$CTL\" --socket \"$S\" ro w").success();
}

#[test]
fn a_socket_of_systemds_is_served() {
    let sandbox = Sandbox::new();
    let (config, path) = (configure(&sandbox, ""), socket(&sandbox));
    let program = bin("remountd");
    let mut words = vec![program.into_os_string()];
    if !remount_tests::as_root() {
        words.push("--user".into());
    }
    words.extend(["--config".into(), config.into_os_string()]);
    let running = sandbox
        .host(require("systemd-socket-activate"))
        .option("-l")
        .option(&path)
        .command(words)
        .start();
    wait_until("systemd listens", LIMIT, || listens(&path));
    let daemon = Daemon { sandbox: &sandbox, running };
    let outcome = daemon.sandboxed(
        "\"$CTL\" --socket \"$S\" rw w && echo x >\"$W/a\" && \"$CTL\" --socket \"$S\" ro w",
    );
    assert_eq!(outcome.stdout(), "w: rw\nw: ro\n", "{outcome}");
}

#[test]
fn one_connection_is_served_as_inetd_hands_it_over() {
    let sandbox = Sandbox::new();
    let (config, path) = (configure(&sandbox, ""), socket(&sandbox));
    let user = if remount_tests::as_root() { "" } else { "--user " };
    let command =
        format!("{} {user}--inetd --config {}", bin("remountd").display(), config.display());
    let running = sandbox
        .host(require("socat"))
        .option(format!("UNIX-LISTEN:{},fork", path.display()))
        .option(format!("EXEC:\"{command}\",nofork"))
        .start();
    wait_until("socat listens", LIMIT, || listens(&path));
    let daemon = Daemon { sandbox: &sandbox, running };
    let outcome = daemon.sandboxed(
        "\"$CTL\" --socket \"$S\" rw w && echo x >\"$W/a\" && \"$CTL\" --socket \"$S\" ro w",
    );
    assert_eq!(outcome.stdout(), "w: rw\nw: ro\n", "{outcome}");
    remountd(&sandbox)
        .options(["--inetd", "--config"])
        .option(&config)
        .run()
        .exits(1)
        .says("no unix socket");
}

#[test]
fn a_configuration_that_others_can_change_is_refused() {
    let sandbox = Sandbox::new();
    let config = configure(&sandbox, "");
    let start = || remountd(&sandbox).option("--config").option(&config);
    let listed = start().option("--list").run();
    assert_eq!(listed.stdout(), format!("w {}\n", sandbox.root().join("outside/w").display()));
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o666)).unwrap();
    start().option("--list").run().exits(1).says("others can change it");
    Cmd::plain(bin("remountd")).option("--version").run().success();
}

/// Whoever makes a FIFO there, nobody writes to it, and nobody waits for that.
#[test]
fn a_configuration_that_is_no_file_is_refused() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let config = sandbox.root().join("outside/remountd.toml");
    let at = |path: &Path| remountd(&sandbox).option("--config").option(path).run();
    std::fs::remove_file(&config).unwrap();
    let fifo = |path: &Path| {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
    };
    fifo(&config);
    daemon.running.kill(Signal::HUP);
    // The rules are those that there were.
    assert_eq!(daemon.sandboxed("\"$CTL\" --socket \"$S\" rw w").stdout(), "w: rw\n");
    daemon.running.kill(Signal::TERM);
    let outcome = daemon.running.wait();
    outcome.success().says("the rules stay as they are: read the configuration").says("a FIFO");
    let yaml = sandbox.root().join("outside/remountd.yaml");
    fifo(&yaml);
    for path in [&config, &yaml] {
        at(path).exits(1).says(": it is a FIFO\nhint: ");
    }
    at(&sandbox.dir("outside/config.toml")).exits(1).says(": it is a directory\nhint: ");
    at(Path::new("/dev/null")).exits(1).says(": it is a device\nhint: ");
    at(&sandbox.file("outside/nul.toml", "[targets.w]\npath = \"/x\\u0000y\"\n"))
        .exits(1)
        .says("target w: path: must not have a NUL byte in it");
}

#[test]
fn without_a_configuration_it_says_where_one_may_be() {
    let sandbox = Sandbox::new();
    let base = sandbox.dir("outside/none");
    let start = || sandbox.host(bin("remountd")).env("XDG_CONFIG_HOME", &base);
    let outcome = start().options(["--user", "--list"]).run();
    for said in ["none/remount/remountd.toml", "none/remount/remountd.yaml", "hint: write one"] {
        outcome.exits(1).says(said);
    }
    // Either will do; the first of them counts.
    sandbox.file("outside/none/remount/remountd.yaml", "socket: /x\n");
    start().options(["--user", "--list"]).run().success();
    sandbox.file("outside/none/remount/remountd.toml", "nonsense");
    start().options(["--user", "--list"]).run().exits(1).says("remountd.toml");
}

#[test]
fn what_cannot_be_printed_is_said() {
    let sandbox = Sandbox::new();
    let config = configure(&sandbox, "");
    for words in [format!("--list --config '{}'", config.display()), "--help".to_owned()] {
        let to = |file: &str| {
            let script = format!("'{}' {words} >{file}", bin("remountd").display());
            sandbox.host(require("sh")).command(["-c", &script]).run()
        };
        to("/dev/full").exits(1).says("remountd: write to standard output: no space left");
        to("/dev/null").success();
    }
}

#[test]
fn few_descriptors_are_survived() {
    let sandbox = Sandbox::new();
    let config = configure(&sandbox, "");
    let user = if remount_tests::as_root() { "" } else { "--user" };
    let script = format!(
        "ulimit -n 64; exec {} {user} --config {}",
        bin("remountd").display(),
        config.display()
    );
    let running = sandbox.host(require("sh")).command(["-c", &script]).start();
    let path = socket(&sandbox);
    wait_until("the daemon listens", LIMIT, || UnixStream::connect(&path).is_ok());
    let daemon = Daemon { sandbox: &sandbox, running };
    let crowd: Vec<_> = (0..200).filter_map(|_| UnixStream::connect(&path).ok()).collect();
    assert!(crowd.len() >= 64, "{}", crowd.len());
    let outcome = daemon.sandboxed("\"$CTL\" --socket \"$S\" rw w");
    assert_eq!(outcome.stdout(), "w: rw\n", "{outcome}");
}
