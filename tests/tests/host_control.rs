//! Control from outside: sandboxes are found, chosen and switched; nothing inside reaches
//! the way there.

use remount_tests::{Inside, LIMIT, Sandbox, wait_until};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

fn run_dir(sandbox: &Sandbox) -> PathBuf {
    sandbox.state().join("remount/run")
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
    let socket = sandbox.socket();
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
    assert_eq!(sandbox.sockets(), Vec::<PathBuf>::new());
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
    wait_until("both are there", LIMIT, || sandbox.sockets().len() == 2);
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
    let socket = sandbox.socket();
    drop(inside);
    wait_until("nobody listens", LIMIT, || {
        std::os::unix::net::UnixStream::connect(&socket).is_err()
    });
    assert!(socket.exists());
    // One that was killed just before it listened, and one that is about to.
    let unfinished = |id: &str| run_dir(&sandbox).join(format!("{id}.new"));
    let now = std::time::SystemTime::now();
    let file = std::fs::File::create(unfinished("old")).unwrap();
    file.set_modified(now - Duration::from_secs(60)).unwrap();
    let file = std::fs::File::create(unfinished("fresh")).unwrap();
    file.set_modified(now + Duration::from_secs(60)).unwrap();
    sandbox.ctl().command(["ps"]).run().success();
    assert!(!socket.exists() && !unfinished("old").exists() && unfinished("fresh").exists());
}

#[test]
fn nothing_inside_reaches_the_control_socket() {
    let sandbox = Sandbox::new();
    let run = run_dir(&sandbox);
    let share = sandbox.state();
    let dest = sandbox.dir("dest");
    let (share, dest) = (share.to_str().unwrap().to_owned(), dest.to_str().unwrap().to_owned());
    let mut inside = serve(&sandbox, &["--authority", "host", "--ro-bind", &share, &dest]);
    let socket = sandbox.socket();
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

/// Whoever gets at the control socket from a PID namespace below has the rights of one
/// inside, whatever its user id: the kernel's word decides.
#[test]
fn a_process_in_a_namespace_of_its_own_is_inside() {
    let sandbox = Sandbox::new();
    let inside = serve(&sandbox, &["--authority", "host"]);
    let ctl = remount_tests::bin("remountctl").display().to_string();
    sandbox.ctl().command(["ro", "workspace"]).run().success();
    let apart = |words: &[&str]| {
        let unshare = sandbox.host(remount_tests::require("unshare"));
        let namespaces = ["--user", "--map-current-user", "--pid", "--fork"];
        unshare.command(namespaces).command([&ctl]).command(words).run()
    };
    let origin = |status: String| {
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["origin"].as_str().unwrap().to_owned()
    };
    let outside = sandbox.ctl().command(["status", "--json"]).run();
    assert_eq!(origin(outside.success().stdout()), "outside");
    assert_eq!(origin(apart(&["status", "--json"]).success().stdout()), "inside");
    apart(&["rw", "workspace"]).exits(5).says("authority is host");
    apart(&["ro", "workspace"]).success();
    apart(&["approve", "1"]).exits(5);
    sandbox.ctl().command(["rw", "workspace"]).run().success();
    inside.end();
}

#[test]
fn why_names_mount_rule_target_and_the_way_to_change_it() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("project/file", "").display().to_string();
    let kept = sandbox.file("project/.vscode/tasks.json", "").display().to_string();
    let inside = serve(&sandbox, &["--authority", "host"]);
    let why = |path: &str| sandbox.ctl().command(["why", path]).run().success().stdout();
    let project = sandbox.project().display().to_string();
    let said = why(&file);
    for part in [
        "can be read and written\n",
        &format!("mount: {project} "),
        "target: workspace\n",
        &format!("Landlock: grants reading and writing beneath {project}\n"),
        "remountctl ro workspace\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    sandbox.ctl().command(["ro", "workspace"]).run().success();
    let said = why(&file);
    assert!(said.contains("not written\n") && said.contains("remountctl rw workspace"), "{said}");
    let said = why(&kept);
    assert!(said.contains("default:") && said.contains("not written"), "{said}");
    let said = why("/etc/passwd");
    assert!(said.contains("Landlock: grants reading beneath /\n"), "{said}");
    // Not every name is text, and not every path fits in a request.
    let odd = OsStr::from_bytes(b"odd\n\xff");
    std::fs::write(sandbox.project().join(odd), "").unwrap();
    let asked = sandbox.ctl().arg("why").arg(odd).run().success().stdout();
    let said = format!("{project}/odd\\n\\xff: can be read, not written\nmount: {project} ");
    assert!(asked.starts_with(&said), "{asked}");
    let long = format!("/{}", "long/".repeat(815));
    let asked = sandbox.ctl().arg("why").arg(&long).run();
    asked.exits(2).says("longer than 4096 bytes").says("a shorter path");
    inside.end();
}
