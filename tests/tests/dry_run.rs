//! What is printed is true: the plan is what is then done, and printing it does nothing.

use remount_tests::{Cmd, LEAVES_A_MARK, Sandbox, Snapshot, as_root, mounts, require};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A repository with some of what profiles name.
fn world() -> Sandbox {
    let sandbox = Sandbox::git();
    for dir in ["home/.ssh", "home/.cache", "home/.cargo", "project/.vscode", "project/sub"] {
        sandbox.dir(dir);
    }
    sandbox.file("home/.ssh/id", "secret");
    sandbox.file("home/.netrc", "secret");
    sandbox
}

/// Everything at once, for each of the agents' profiles.
fn full(sandbox: &Sandbox, profile: &str) -> Cmd {
    sandbox
        .remount()
        .options(["--profile", profile, "--ro-bind", "/etc", "/mnt", "--tmpfs", "/tmp/x"])
        .options(["--hostname", "inside", "--unshare-net", "--setenv", "NEW", "a 'b'\n"])
        .options(["--toggle", "sub"])
        .option(sandbox.project().join("sub"))
        .option("--mask")
        .option(sandbox.home().join(".gitconfig"))
}

#[track_caller]
fn json(run: Cmd) -> Value {
    let outcome = run.option("--dry-run=json").run();
    assert_eq!(outcome.success().stderr(), "", "{outcome}");
    serde_json::from_str(&outcome.stdout()).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("{key}: {}", value[key]))
}

const PROFILES: [&str; 5] = ["default", "claude", "codex", "gemini", "opencode"];

#[test]
fn nothing_is_done() {
    let sandbox = world();
    let before = Snapshot::of(sandbox.root());
    let mounted = mounts();
    for profile in PROFILES {
        for format in ["--dry-run", "--dry-run=text", "--dry-run=json"] {
            let run = full(&sandbox, profile).option(format).command(LEAVES_A_MARK);
            let outcome = run.run();
            assert_eq!(outcome.success().stderr(), "", "{outcome}");
        }
    }
    before.unchanged(sandbox.root());
    assert_eq!(mounts(), mounted);
}

/// What the kernel says of the sandbox's mounts: path to options and file system, the
/// topmost at each place.
fn mounted_inside(run: Cmd) -> BTreeMap<String, (bool, String)> {
    let outcome = run.command(["cat", "/proc/self/mountinfo"]).run();
    let table = outcome.success().stdout();
    let entry = |line: &str| {
        let (left, right) = line.split_once(" - ").expect("a separator");
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let writable = left[5].split(',').any(|option| option == "rw")
            && right[2].split(',').any(|option| option == "rw");
        (left[4].replace("\\040", " "), (writable, right[0].to_owned()))
    };
    table.lines().map(entry).collect()
}

#[test]
fn the_mounts_are_those_of_the_plan() {
    for profile in PROFILES {
        let sandbox = world();
        let plan = json(full(&sandbox, profile));
        let inside = mounted_inside(full(&sandbox, profile));
        for op in list(&plan, "mounts") {
            let (verb, dest) = (op["op"].as_str().unwrap(), op["dest"].as_str().unwrap());
            let Some((writable, kind)) = inside.get(dest) else {
                // Not every kernel has every file in /proc.
                assert!(dest.starts_with("/proc/"), "{profile}: {op} is not mounted");
                assert!(!Path::new(dest).exists(), "{profile}: {op} is not mounted");
                continue;
            };
            let expected = match verb {
                "tmpfs" | "dev" | "control" => Some("tmpfs"),
                "overlay" => Some("overlay"),
                "proc" => Some("proc"),
                _ => None,
            };
            assert!(expected.is_none_or(|expected| expected == kind), "{profile}: {op}: {kind}");
            if dest != "/proc" {
                let rw = op["mode"] == "rw";
                assert_eq!(*writable, rw, "{profile}: {op}");
            }
        }
        // And no other, but what belongs to /dev, to remountctl, or was mounted below
        // what is bound.
        let planned = |path: &str| {
            list(&plan, "mounts").iter().any(|op| {
                let dest = op["dest"].as_str().unwrap();
                dest == path
                    || ["dev", "control"].contains(&op["op"].as_str().unwrap())
                        && Path::new(path).starts_with(dest)
            })
        };
        let host = mounts();
        let on_host = |path: &str| host.lines().any(|line| line.split(' ').nth(4) == Some(path));
        for path in inside.keys() {
            let below_mnt = path.strip_prefix("/mnt").map(|rest| format!("/etc{rest}"));
            assert!(
                planned(path) || on_host(path) || below_mnt.is_some_and(|path| on_host(&path)),
                "{profile}: {path} is mounted and not in the plan"
            );
        }
    }
}

#[test]
fn the_rest_of_the_plan_is_true() {
    let sandbox = world();
    let plan = json(full(&sandbox, "default").command(["sh", "-c", "true"]));
    let profiles: Vec<&str> =
        list(&plan, "profiles").iter().filter_map(|name| name.as_str()).collect();
    assert_eq!(profiles.last(), Some(&"built-in default"));
    assert_eq!(plan["cwd"], *sandbox.project().to_string_lossy());
    assert_eq!(plan["command"], serde_json::json!(["sh", "-c", "true"]));
    let seen = |script: &str| {
        let outcome = full(&sandbox, "default").sh(script).run();
        outcome.success().stdout()
    };
    assert_eq!(seen("hostname"), format!("{}\n", plan["hostname"].as_str().unwrap()));
    let namespaces = list(&plan, "namespaces");
    assert_eq!(namespaces.contains(&"user".into()), !as_root());
    for (name, file) in [
        ("mount", "mnt"),
        ("pid", "pid"),
        ("ipc", "ipc"),
        ("user", "user"),
        ("uts", "uts"),
        ("network", "net"),
    ] {
        let path = format!("/proc/self/ns/{file}");
        let host = std::fs::read_link(&path).unwrap();
        let inside = seen(&format!("readlink {path}"));
        let is_new = inside.trim() != host.to_string_lossy();
        assert_eq!(namespaces.contains(&name.into()), is_new, "{name}");
    }
    // The environment, but for the connection to the broker and what the shell adds.
    let environment = plan["environment"].as_object().expect("an object");
    let raw = full(&sandbox, "default").command(["env", "-0"]).run();
    let inside: BTreeMap<String, String> = raw
        .stdout_bytes()
        .split(|byte| *byte == 0)
        .filter_map(|entry| str::from_utf8(entry).ok()?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .filter(|(name, _)| !["REMOUNT_CHANNEL", "REMOUNT_TEST_ID"].contains(&name.as_str()))
        .collect();
    let planned: BTreeMap<String, String> = environment
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .filter(|(name, _)| name != "REMOUNT_TEST_ID")
        .collect();
    assert_eq!(inside, planned);
    // The targets, as the broker has them.
    let status = seen("remountctl status --json");
    for target in list(&plan, "targets") {
        let name = target["name"].as_str().unwrap();
        assert!(status.contains(&format!("\"{name}\"")), "{name}: {status}");
    }
    assert_eq!(list(&plan, "targets").len(), 3);
    assert_eq!(plan["landlock"]["abi"], remount_tests::landlock_abi());
}

#[test]
fn the_text_is_for_people() {
    let sandbox = world();
    let run = full(&sandbox, "default").option("--dry-run").command(["ls", "a b", "it's"]);
    let text = run.run().success().stdout();
    let project = sandbox.project();
    let project = project.display();
    for line in [
        "command: ls 'a b' 'it'\\''s'".to_owned(),
        "executes: /usr/bin/ls".to_owned(),
        format!("in: {project}"),
        "  bind       ro  /  (sandbox)".to_owned(),
        "  bind       ro  /mnt from /etc  (--ro-bind)".to_owned(),
        format!("  bind       rw  {project}/sub [target sub]  (--toggle)"),
        format!("  workspace  rw  {project} (rw: self)"),
        "capabilities: none, no_new_privs".to_owned(),
        "  NEW=a 'b'\\n".to_owned(),
    ] {
        assert!(text.lines().any(|shown| shown == line), "no line {line:?} in {text}");
    }
    assert!(text.lines().all(|line| !line.chars().any(char::is_control)), "{text}");
    // A name of any bytes stays on its line.
    let odd = sandbox.outside().join(std::ffi::OsStr::from_bytes(b"new\nline\xff"));
    std::fs::create_dir(&odd).unwrap();
    let run = sandbox.remount().option("--ro-bind").option(&odd).option("/mnt");
    let text = run.option("--dry-run").run().success().stdout();
    assert!(text.contains(r"/new\nline\xff  (--ro-bind)"), "{text}");
    // Read by something that wants only the beginning.
    let script = "\"$0\" --dry-run true | head -1";
    let head =
        sandbox.host("/bin/sh").command(["-c", script]).arg(remount_tests::bin("remount-run"));
    assert_eq!(head.run().success().stderr(), "");
}

#[test]
fn what_an_agent_may_make_is_announced() {
    let sandbox = world();
    for (profile, dirs) in [
        ("default", &[][..]),
        ("claude", &[".claude"]),
        ("codex", &[".codex"]),
        ("gemini", &[".gemini"]),
        ("opencode", &["STATE/opencode", ".config/opencode", ".local/share/opencode"]),
    ] {
        let plan = json(sandbox.remount().options(["--profile", profile]));
        let made: Vec<&str> = list(&plan, "create").iter().filter_map(Value::as_str).collect();
        let place = |dir: &&str| match dir.strip_prefix("STATE/") {
            Some(dir) => sandbox.state().join(dir),
            None => sandbox.home().join(dir),
        };
        let expected: Vec<String> =
            dirs.iter().map(|dir| place(dir).display().to_string()).collect();
        assert_eq!(made, expected, "{profile}");
    }
}

#[test]
fn profiles_are_listed() {
    let sandbox = world();
    sandbox.file("home/.config/remount/profiles/mine.toml", "description = \"My\\u001b own\"\n");
    sandbox.file("home/.config/remount/profiles/broken.toml", "descrption = \"x\"\n");
    let outcome = sandbox.remount().unseparated().option("--list-profiles").run();
    let listed = outcome.success().stdout();
    for name in PROFILES {
        let line = listed.lines().find(|line| line.starts_with(name)).expect(name);
        assert!(line.ends_with("(built in)"), "{line}");
    }
    let mine = listed.lines().find(|line| line.starts_with("mine ")).expect("mine");
    assert!(mine.contains("My\\u{1b} own  (/") && mine.ends_with("/mine.toml)"), "{mine}");
    let broken = listed.lines().find(|line| line.starts_with("broken ")).expect("broken");
    assert!(broken.contains("cannot be used: ") && broken.contains("unknown key"), "{broken}");
}

#[test]
fn verbose_says_what_is_enforced() {
    let sandbox = world();
    let outcome = sandbox.remount().option("--verbose").arg("true").run();
    outcome.success().says("remount-run: profiles: ").says("built-in default\n");
    let project = sandbox.project();
    outcome.says(&format!("remount-run: target workspace: {} rw, rw by self", project.display()));
    outcome.says(&format!("remount-run: Landlock ABI {}, ", remount_tests::landlock_abi()));
    let quiet = sandbox.remount().arg("true").run();
    assert_eq!(quiet.success().stderr(), "");
}

#[test]
fn help_fits_a_terminal() {
    let sandbox = world();
    require("sh");
    for option in ["--help", "-h"] {
        let outcome = sandbox.remount().unseparated().option(option).run();
        let help = outcome.success().stdout();
        for word in ["--ro-bind <SRC> <DEST>", "--toggle <NAME> <DEST>", "remountctl", "125"] {
            assert!(help.contains(word), "no {word} in {help}");
        }
        let longest = help.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(100), "{longest:?}: {help}");
    }
    let version = sandbox.remount().unseparated().option("--version").run();
    assert!(version.success().stdout().starts_with("remount-run "), "{version}");
}
