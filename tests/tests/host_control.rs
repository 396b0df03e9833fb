//! Control from outside: sandboxes are found, chosen and switched; nothing inside reaches
//! the way there.

use remount_tests::{Inside, Sandbox, wait_until};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

fn run_dir(sandbox: &Sandbox) -> PathBuf {
    sandbox.state().join("remount/run")
}

fn sockets(sandbox: &Sandbox) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(run_dir(sandbox)).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn serve(sandbox: &Sandbox, options: &[&str]) -> Inside {
    let before = sandbox.ctl().command(["ps", "--json"]).run().stdout().lines().count();
    let inside = sandbox.remount().options(options).serve();
    wait_until("the sandbox is there", LIMIT, || {
        sandbox.ctl().command(["ps", "--json"]).run().stdout().lines().count() > before
    });
    inside
}

#[test]
fn a_sandbox_is_listed_switched_and_gone() {
    let sandbox = Sandbox::new();
    sandbox.ctl().command(["ro", "workspace"]).run().exits(4).says("none of yours is running");
    let mut inside = serve(&sandbox, &[]);
    let socket = sockets(&sandbox).remove(0);
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(run_dir(&sandbox).metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let id = socket.file_stem().unwrap().to_str().unwrap().to_owned();
    let ps = sandbox.ctl().command(["ps"]).run();
    let ps = ps.success().stdout();
    assert!(ps.contains(&id) && ps.contains("workspace:rw") && ps.contains("default"), "{ps}");
    let project = sandbox.project();
    for which in
        [vec!["-s", &id], vec!["-s", &id[..3]], vec!["-s", project.to_str().unwrap()], vec![]]
    {
        sandbox.ctl().command(["ro", "workspace"]).command(&which).cwd("/").run().success();
        inside.act(["create", "a"]).errno("EROFS");
        sandbox.ctl().command(["rw", "workspace"]).command(&which).cwd("/").run().success();
        inside.act(["create", "a"]).ok();
        inside.act(["unlink", "a"]).ok();
    }
    sandbox.ctl().command(["ro", "workspace", "-s", "nosuch"]).run().exits(2).says("nosuch");
    let format = ["status", "--format", "{sandbox} {name}={mode}"];
    let shown = sandbox.ctl().command(format).run().success().stdout();
    assert_eq!(shown, format!("{id} workspace=rw\n"));
    inside.end();
    assert_eq!(sockets(&sandbox), Vec::<PathBuf>::new());
}

/// On a machine on which there never was one.
#[test]
fn the_first_start_makes_its_directories_and_one_that_fails_leaves_none() {
    let sandbox = Sandbox::new();
    let (state, runtime) = (sandbox.home().join(".local/state"), sandbox.dir("runtime"));
    let start = |program: &str| {
        let home = [("XDG_STATE_HOME", &state), ("XDG_RUNTIME_DIR", &runtime)];
        let cmd = home.iter().fold(sandbox.remount(), |cmd, (name, dir)| cmd.env(name, dir));
        cmd.command([program]).run()
    };
    // It can be executed as far as the plan sees, and then cannot.
    let script = sandbox.file("project/script", "#!/no/such/interpreter\n");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    start(script.to_str().unwrap()).exits(127);
    // Placeholders have their records there, for good.
    for dir in [state.join("remount/log"), state.join("remount/run"), runtime.join("remount")] {
        assert!(!dir.exists(), "{dir:?}");
    }
    start("true").success();
    for dir in [state.join("remount"), state.join("remount/log"), runtime.join("remount")] {
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{dir:?}");
        // Nobody asked for anything: there is nothing to tell.
        let files =
            std::fs::read_dir(&dir).unwrap().filter(|it| !it.as_ref().unwrap().path().is_dir());
        assert_eq!(files.count(), 0, "{dir:?}");
    }
}

#[test]
fn of_two_one_is_chosen_and_all_are_closed_at_once() {
    let sandbox = Sandbox::new();
    let other = sandbox.dir("other");
    let mut first = serve(&sandbox, &[]);
    let second = sandbox.remount().cwd(&other).serve();
    wait_until("both are there", LIMIT, || sockets(&sandbox).len() == 2);
    let ctl = |words: &[&str], cwd: &std::path::Path| sandbox.ctl().command(words).cwd(cwd).run();
    ctl(&["ro", "workspace"], "/".as_ref()).exits(2).says("use -s with one of");
    ctl(&["ro", "workspace"], &other).success();
    first.act(["create", "a"]).ok();
    let all = ctl(&["ro", "--everywhere"], "/".as_ref());
    assert_eq!(all.success().stdout().matches("workspace: ro").count(), 2);
    first.act(["create", "b"]).errno("EROFS");
    first.end();
    second.end();
}

#[test]
fn what_a_killed_launcher_left_is_removed() {
    let sandbox = Sandbox::new();
    let inside = serve(&sandbox, &[]);
    let socket = sockets(&sandbox).remove(0);
    drop(inside);
    // As old as one must be that is not just starting.
    wait_until("nobody listens", LIMIT, || {
        std::os::unix::net::UnixStream::connect(&socket).is_err()
    });
    let old = std::time::SystemTime::now() - Duration::from_secs(60);
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec {
            tv_sec: old.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64,
            tv_nsec: 0,
        },
    };
    if socket.exists() {
        let here = rustix::fs::CWD;
        rustix::fs::utimensat(here, &socket, &times, rustix::fs::AtFlags::empty()).unwrap();
    }
    sandbox.ctl().command(["ps"]).run().success();
    assert!(!socket.exists());
}

#[test]
fn nothing_inside_reaches_the_control_socket() {
    let sandbox = Sandbox::new();
    let run = run_dir(&sandbox);
    let share = sandbox.state();
    let dest = sandbox.dir("dest");
    let (share, dest) = (share.to_str().unwrap().to_owned(), dest.to_str().unwrap().to_owned());
    let mut inside = serve(&sandbox, &["--authority", "host", "--ro-bind", &share, &dest]);
    let socket = sockets(&sandbox).remove(0);
    let name = socket.file_name().unwrap().to_str().unwrap();
    sandbox
        .host(remount_tests::bin("probe"))
        .command(["connect-unix", socket.to_str().unwrap()])
        .run()
        .answer()
        .ok();
    inside.act(["list", &dest]).ok();
    for path in [
        socket.to_str().unwrap().to_owned(),
        format!("{dest}/remount/run/{name}"),
        format!("/proc/1/root{}", socket.display()),
    ] {
        let answer = inside.act(["connect-unix", &path]);
        assert!(!matches!(answer, remount_tests::Answer::Ok(_)), "{path}: {answer:?}");
    }
    inside.act(["exists", run.to_str().unwrap()]).errno("ENOENT");
    if !remount_tests::as_root() {
        inside.act(["list", "/proc/1/fd"]).errno("EACCES");
    }
    inside.end();
    let bind = run.to_str().unwrap();
    let refused = sandbox.remount().options(["--ro-bind", bind, &dest]).command(["true"]).run();
    refused.exits(125).says("controlled from there");
}

/// Clients by chance for a while, some of which vanish in the middle of a request or say
/// one byte a second: every answer is true, nobody waits for another, and the broker has
/// in the end what it had before.
#[test]
fn a_crowd_of_clients_gets_true_answers_and_costs_nothing() {
    let sandbox = Sandbox::new();
    let dirs: Vec<_> = (0..4).map(|n| sandbox.dir(format!("project/t{n}"))).collect();
    let mut options = Vec::new();
    for (n, dir) in dirs.iter().enumerate() {
        options.extend(["--toggle".to_owned(), format!("t{n}"), dir.to_str().unwrap().to_owned()]);
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let inside = serve(&sandbox, &options);
    let socket = sockets(&sandbox).remove(0);
    let descriptors = || {
        let status = sandbox.ctl().command(["status", "--json"]).run().success().stdout();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let launcher = status["sandbox"]["pid"].to_string();
        let children =
            std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children"));
        let broker = children.unwrap().split_whitespace().next().unwrap().to_owned();
        // Only the number: what they are is hidden from an ordinary user.
        let fds = std::fs::read_to_string(format!("/proc/{broker}/status")).unwrap();
        fds.lines().find(|line| line.starts_with("FDSize")).unwrap().to_owned()
    };
    let before = descriptors();
    let end = std::time::Instant::now() + Duration::from_secs(5);
    let clients: Vec<_> = (0..60)
        .map(|n| {
            let socket = socket.clone();
            std::thread::spawn(move || client(n, &socket, end))
        })
        .collect();
    let done: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(done > 500, "{done}");
    assert_eq!(descriptors(), before);
    inside.end();
}

/// The number of answers, each of which said what was asked for.
fn client(number: u64, socket: &std::path::Path, end: std::time::Instant) -> usize {
    use std::io::{BufRead, BufReader, Write};
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number + 1) | 1;
    let mut below = |bound: u64| {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        chance % bound
    };
    let mut done = 0;
    while std::time::Instant::now() < end {
        let Ok(mut stream) = std::os::unix::net::UnixStream::connect(socket) else { continue };
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        for _ in 0..below(20) {
            let mode = ["ro", "rw"][below(2) as usize];
            let line =
                format!("{{\"op\":\"set\",\"targets\":[\"t{}\"],\"mode\":\"{mode}\"}}\n", below(4));
            let cut = if below(10) == 0 { below(line.len() as u64) as usize } else { line.len() };
            if stream.write_all(&line.as_bytes()[..cut]).is_err() || cut < line.len() {
                break;
            }
            if number == 0 {
                // A slow one: it must hold up nobody but itself.
                std::thread::sleep(Duration::from_secs(1));
            }
            if below(20) == 0 {
                break;
            }
            let started = std::time::Instant::now();
            let mut answer = String::new();
            // One that was the longest idle may have been sent away.
            if reader.read_line(&mut answer).unwrap_or(0) == 0 {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(2), "somebody was waited for");
            let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(answer["ok"], true, "{answer}");
            assert_eq!(answer["targets"][0]["mode"], mode, "{answer}");
            done += 1;
        }
    }
    done
}
