//! Tools of which a sandbox executes only what a table allows. The tools are stand-ins: scripts
//! and programs that the test makes.

use remount_tests::{Cmd, LIMIT, Outcome, PATH, Sandbox, bin, wait_until};
use std::fmt::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Says what it is executed as, and with what.
const TOOL: &str = "#!/bin/sh\necho \"ran ${0##*/} $*\"\n";

const TABLE: &str = "[shims.tool]\nallow = ['ls', 'group ls']\nflags-with-value = ['--context']\n";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A program that can be executed.
fn program(sandbox: &Sandbox, path: &str, contents: impl AsRef<[u8]>) -> PathBuf {
    let path = sandbox.file(path, contents);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// With the world's `outside/bin` first in the search path.
fn search(sandbox: &Sandbox, command: Cmd) -> Cmd {
    command.env("PATH", format!("{}/bin:{PATH}", text(&sandbox.outside())))
}

/// Under a profile of these shims on top of the default one.
fn shimmed(sandbox: &Sandbox, shims: &str) -> Cmd {
    let profile = format!("extends = ['default']\n{shims}");
    sandbox.file("home/.config/remount/profiles/test.toml", profile);
    search(sandbox, sandbox.remount().options(["--profile", "test"]))
}

#[track_caller]
fn prints(outcome: &Outcome, text: &str) {
    outcome.success();
    assert_eq!(outcome.stdout(), text, "{outcome}");
}

#[track_caller]
fn is_blocked(outcome: &Outcome, message: &str) {
    outcome.exits(126);
    assert_eq!(outcome.stdout(), "", "{outcome}");
    assert_eq!(outcome.stderr().lines().next(), Some(message), "{outcome}");
}

const BLOCKED: &str = "remount: tool rm is blocked (read-only sandbox)";

#[test]
fn a_tool_does_what_its_table_allows_and_no_more() {
    let sandbox = Sandbox::new();
    let tool = program(&sandbox, "outside/bin/tool", TOOL);
    let outside = |words: &[&str]| search(&sandbox, sandbox.host(&tool)).command(words).run();
    prints(&outside(&["rm", "x"]), "ran tool rm x\n");
    let inside = |words: &[&str]| shimmed(&sandbox, TABLE).command(words).run();
    for words in [&["ls"][..], &["ls", "rm"], &["--context", "rm", "ls"], &["group", "ls", "-x"]] {
        let ran = format!("ran tool {}\n", words.join(" "));
        for name in ["tool", text(&tool)] {
            prints(&inside(&[&[name], words].concat()), &ran);
        }
    }
    for (words, shown) in [
        (&["rm", "x"][..], "rm"),
        (&["--context", "ls", "rm"], "rm"),
        (&["--contex", "ls", "ls"], "--contex"),
        (&["group", "rm"], "group rm"),
    ] {
        for name in ["tool", text(&tool)] {
            let message = format!("remount: tool {shown} is blocked (read-only sandbox)");
            let outcome = inside(&[&[name], words].concat());
            is_blocked(&outcome, &message);
            outcome.says("hint: allowed are ls, group ls …; the profile's [shims.tool] has all");
        }
    }
    // A script that looks for the next of its name finds its shim, and not for ever.
    program(&sandbox, "outside/bin/tool", "#!/bin/sh\nexec tool \"$@\"\n");
    inside(&["tool", "ls"]).exits(126).says("its shim and it find one another in PATH");
    // What a caller prints and the exit code are the tool's own.
    let failing = "#!/bin/sh\necho failed >&2\nexit 42\n";
    program(&sandbox, "outside/bin/tool", failing);
    inside(&["tool", "ls"]).exits(42).says("failed");
}

/// By whatever name and path: which tool it is, the file says that is executed.
#[test]
fn no_other_name_leads_past_it() {
    let sandbox = Sandbox::new();
    let tool = program(&sandbox, "outside/bin/tool", TOOL);
    let echo = std::fs::read("/bin/echo").unwrap();
    program(&sandbox, "outside/bin/etool", echo);
    let table = TABLE.to_owned() + "[shims.etool]\nallow = ['ls']\n";
    let etool = tool.with_file_name("etool");
    let (tool, etool) = (text(&tool), text(&etool));
    let linked = sandbox.project().join("linked");
    symlink(tool, &linked).unwrap();
    for script in [
        format!("env -i {tool} rm"),
        format!("PATH=/usr/bin:/bin exec {tool} rm"),
        format!("exec -a other {tool} rm"),
        format!("exec -a {tool} tool rm"),
        format!("exec -a etool {tool} rm"),
        "./linked rm".to_owned(),
        format!("ln -s {tool} /tmp/ls && /tmp/ls rm"),
        format!("cd {}; ../bin/tool rm", text(&sandbox.dir("outside/bin"))),
        format!("/proc/self/root{tool} rm"),
    ] {
        let outside = search(&sandbox, sandbox.host("/bin/bash")).command(["-c", &script]).run();
        assert!(outside.stdout().contains("rm"), "{script}: {outside}");
        std::fs::remove_file("/tmp/ls").unwrap_or(());
        let inside = shimmed(&sandbox, &table).command(["bash", "-c", &script]).run();
        is_blocked(&inside, BLOCKED);
    }
    // Neither the shim copied nor the linker that is to load it: nothing of the tool is there.
    for script in [
        format!("cp {etool} /tmp/etool && /tmp/etool rm"),
        format!("cp {etool} /tmp/copy && exec -a etool /tmp/copy rm"),
        format!("/lib64/ld-linux-x86-64.so.2 {etool} rm"),
    ] {
        let outside = sandbox.host("/bin/bash").command(["-c", &script]).run();
        assert_eq!(outside.stdout(), "rm\n", "{script}: {outside}");
        for copy in ["/tmp/etool", "/tmp/copy"] {
            std::fs::remove_file(copy).unwrap_or(());
        }
        let inside = shimmed(&sandbox, &table).command(["bash", "-c", &script]).run();
        assert_ne!(inside.code(), Some(0), "{script}: {inside}");
        assert_eq!(inside.stdout(), "", "{script}: {inside}");
    }
    let copied = format!("cp {etool} /tmp/etool && /tmp/etool ls");
    let copied = shimmed(&sandbox, &table).command(["bash", "-c", &copied]).run();
    is_blocked(&copied, "remount: etool is blocked (this is a copy of its shim, and not the tool)");
    // Not stopped, as SECURITY.md says: where the tool itself is can be found.
    let past = format!("/run/remount/real{tool} rm");
    prints(&shimmed(&sandbox, &table).command(["sh", "-c", &past]).run(), "ran tool rm\n");
}

/// Tools find what is beside them: a script by `$0`, a link by its own name.
#[test]
fn a_tool_is_at_home_where_it_is_executed() {
    let sandbox = Sandbox::new();
    sandbox.file("outside/lib/part", "echo \"part of ${0##*/} $1\"\n");
    sandbox.file("outside/bin/beside", "echo beside\n");
    let script = "#!/bin/sh\nset -e\ncd \"$(dirname \"$0\")\"\n. ../lib/part\n. ./beside\n";
    program(&sandbox, "outside/bin/tool", script);
    program(&sandbox, "outside/lib/wrapper", TOOL);
    let bin = sandbox.dir("outside/bin");
    for name in ["npm", "other"] {
        symlink("../lib/wrapper", bin.join(name)).unwrap();
    }
    // A link to a file of the same name, which is not in the search path.
    program(&sandbox, "outside/opt/kube/bin/kube", TOOL);
    symlink("../opt/kube/bin/kube", bin.join("kube")).unwrap();
    let table =
        "[shims.tool]\nallow = ['ls']\n[shims.npm]\nallow = ['ls']\n[shims.kube]\nallow = ['ls']\n";
    let inside = |words: &[&str]| shimmed(&sandbox, table).command(words).run();
    prints(&inside(&["tool", "ls"]), "part of tool ls\nbeside\n");
    prints(&inside(&["npm", "ls"]), "ran npm ls\n");
    prints(&inside(&["kube", "ls"]), "ran kube ls\n");
    let outside = text(&sandbox.outside()).to_owned();
    for (path, tool) in [("bin/npm", "npm"), ("bin/kube", "kube"), ("opt/kube/bin/kube", "kube")] {
        let message = format!("remount: {tool} rm is blocked (read-only sandbox)");
        is_blocked(&inside(&[&format!("{outside}/{path}"), "rm"]), &message);
    }
    // What others share is nobody's shim.
    prints(&inside(&["other", "rm"]), "ran other rm\n");
    prints(&inside(&[&format!("{outside}/lib/wrapper"), "rm"]), "ran wrapper rm\n");
}

#[test]
fn a_tool_that_is_not_there_is_answered_alike() {
    let sandbox = Sandbox::new();
    let inside = |words: &[&str]| shimmed(&sandbox, TABLE).command(words).run();
    is_blocked(&inside(&["tool", "rm"]), BLOCKED);
    inside(&["tool", "ls"]).exits(127).says("remount: tool: command not found");
    // One in a writable place is found by the shim; processes inside can make others there.
    let tool = program(&sandbox, "project/bin/tool", TOOL);
    let path = format!("{}:{PATH}", text(tool.parent().unwrap()));
    let inside = |word: &str| shimmed(&sandbox, TABLE).env("PATH", &path).command(["tool", word]);
    is_blocked(&inside("rm").run(), BLOCKED);
    prints(&inside("ls").run(), "ran tool ls\n");
}

/// A condition holds while its target is read-only, as the broker says.
#[test]
fn a_condition_follows_the_mode_of_its_target() {
    let sandbox = Sandbox::new();
    let tool = program(&sandbox, "outside/bin/tool", TOOL);
    let table = TABLE.to_owned() + "when = 'ro:workspace'\n";
    let mut inside = shimmed(&sandbox, &table).serve();
    let pushed = (0, "ran tool push\n".to_owned());
    assert_eq!(inside.run([text(&tool), "push"]), pushed);
    for _ in 0..3 {
        inside.ctl("ro workspace", 0);
        for command in [&["tool", "push"][..], &[text(&tool), "push"]] {
            let forged = ["env", "REMOUNT_SOCKET=/nowhere", "REMOUNT_CHANNEL=0:0"];
            let (code, printed) = inside.run([&forged[..], command].concat());
            let message = "remount: tool push is blocked (workspace is read-only)\n";
            assert!(code == 126 && printed.starts_with(message), "{code} {printed}");
        }
        assert_eq!(inside.run(["tool", "ls"]), (0, "ran tool ls\n".to_owned()));
        inside.ctl("rw workspace", 0);
        assert_eq!(inside.run(["tool", "push"]), pushed);
    }
    inside.end().success();
    let ask = |script: &str| shimmed(&sandbox, &table).command(["sh", "-c", script]).run();
    let outcome = ask("/run/remount/bin/remountctl -q ro workspace && tool push");
    is_blocked(&outcome, "remount: tool push is blocked (workspace is read-only)");
    outcome.says("hint: remountctl rw workspace makes it writable, if you may");
    // Where the broker cannot be asked, nothing but what is always allowed is.
    let probe = bin("probe");
    let asked = |word: &str| ask(&format!("{} --no-connect exec tool {word}", text(&probe)));
    let outcome = asked("push");
    outcome.exits(126).says("whether workspace is read-only cannot be asked: connect to");
    prints(&asked("ls"), "ran tool ls\n");
}

#[test]
fn options_and_the_project_add_and_take_away() {
    let sandbox = Sandbox::new();
    program(&sandbox, "outside/bin/tool", TOOL);
    program(&sandbox, "outside/bin/mine", TOOL);
    let file = sandbox.file("home/mine.toml", "[shims.mine]\nallow = ['ls']\n");
    sandbox.file("home/all/a.toml", "[shims.mine]\nallow = ['ls']\n");
    sandbox.file("home/all/b.toml", "[remove]\nshims = ['tool']\n[shims.tool]\nallow = ['rm']\n");
    let (file, dir) = (text(&file), text(&sandbox.home()).to_owned() + "/all");
    let inside = |options: &[&str], words: &[&str]| {
        shimmed(&sandbox, TABLE).options(options).command(words).run()
    };
    prints(&inside(&[], &["mine", "rm"]), "ran mine rm\n");
    let mine = "remount: mine rm is blocked (read-only sandbox)";
    is_blocked(&inside(&["--shims", file], &["mine", "rm"]), mine);
    is_blocked(&inside(&["--shims", file], &["tool", "rm"]), BLOCKED);
    is_blocked(&inside(&["--shims", &dir], &["mine", "rm"]), mine);
    prints(&inside(&["--shims", &dir], &["tool", "rm"]), "ran tool rm\n");
    prints(&inside(&["--shims", file, "--no-shims"], &["tool", "rm"]), "ran tool rm\n");
    let outcome = inside(&["--shims", "/nowhere.toml"], &["true"]);
    outcome.exits(125).says("read profile /nowhere.toml");
    // The project's own file takes away, and never gives.
    sandbox.file("project/.remount.toml", "[shims.tool]\ndeny = ['ls secret']\n");
    let denied = "remount: tool ls secret is blocked (read-only sandbox)";
    is_blocked(&inside(&[], &["tool", "ls", "secret"]), denied);
    prints(&inside(&[], &["tool", "ls"]), "ran tool ls\n");
    sandbox.file("project/.remount.toml", "[shims.mine]\nallow = ['ls']\n");
    is_blocked(&inside(&[], &["mine", "rm"]), mine);
    sandbox.file("project/.remount.toml", "[shims.tool]\nallow = ['rm']\n");
    inside(&[], &["true"]).exits(125).says("`shims.tool` is not allowed here");
    std::fs::remove_file(sandbox.project().join(".remount.toml")).unwrap();
    let other = TABLE.to_owned() + "when = 'ro:other'\n";
    let outcome = shimmed(&sandbox, &other).command(["true"]).run();
    outcome.exits(125).says("[shims.tool] when = \"ro:other\": there is no target other");
}

/// A package manager outside renames a new file over a tool.
#[test]
fn a_tool_that_the_host_replaces_is_covered_again() {
    let sandbox = Sandbox::new();
    let tool = program(&sandbox, "outside/bin/tool", TOOL);
    let mut inside = shimmed(&sandbox, TABLE).serve();
    let blocked = inside.run([text(&tool), "rm"]);
    assert!(blocked.0 == 126 && blocked.1.starts_with(BLOCKED), "{blocked:?}");
    let new = program(&sandbox, "outside/bin/new", TOOL.replace("ran", "new"));
    std::fs::rename(new, &tool).unwrap();
    wait_until("the cover", LIMIT, || inside.run([text(&tool), "rm"]) == blocked);
    // By its name it was never uncovered.
    assert_eq!(inside.run(["tool", "rm"]), blocked);
    assert_eq!(inside.run([text(&tool), "ls"]), (0, "new tool ls\n".to_owned()));
    inside.end().success();
}

/// It is a link, as package managers make them, and the link is replaced.
#[test]
fn a_link_to_a_tool_that_the_host_replaces_is_covered_again() {
    let sandbox = Sandbox::new();
    program(&sandbox, "outside/lib/wrapper", TOOL);
    program(&sandbox, "outside/lib/other", TOOL.replace("ran", "new"));
    let link = sandbox.dir("outside/bin").join("tool");
    symlink("../lib/wrapper", &link).unwrap();
    let mut inside = shimmed(&sandbox, TABLE).serve();
    let blocked = inside.run([text(&link), "rm"]);
    assert!(blocked.0 == 126 && blocked.1.starts_with(BLOCKED), "{blocked:?}");
    for round in 0..3 {
        let new = link.with_extension("new");
        symlink("../lib/other", &new).unwrap();
        std::fs::rename(&new, &link).unwrap();
        wait_until("the cover", LIMIT, || inside.run([text(&link), "rm"]) == blocked);
        assert_eq!(inside.run([text(&link), "ls"]).1, "new tool ls\n", "{round}");
        // In two steps.
        std::fs::remove_file(&link).unwrap();
        symlink("../lib/wrapper", &link).unwrap();
        wait_until("the cover", LIMIT, || inside.run([text(&link), "rm"]) == blocked);
        assert_eq!(inside.run([text(&link), "ls"]).1, "ran tool ls\n", "{round}");
    }
    assert!(!inside.ctl("status", 0).contains("stale"));
    inside.end().success();
}

/// The directory that is shown a second time shows no more than before.
#[test]
fn what_is_hidden_beside_a_tool_is_hidden_twice() {
    let sandbox = Sandbox::new();
    let tool = program(&sandbox, "outside/bin/tool", TOOL);
    let secret = sandbox.file("outside/bin/secret", "s3cret");
    let (tool, secret) = (text(&tool), text(&secret));
    let read = |table: &str, path: &str| shimmed(&sandbox, table).probe(["read", path]);
    let again = format!("/run/remount/real{secret}");
    assert_eq!(read(TABLE, &again).ok(), "s3cret");
    let masked = format!("mask = ['{secret}']\n{TABLE}");
    assert_eq!(read(&masked, secret).ok(), "");
    assert_eq!(read(&masked, &again).ok(), "");
    let write = |path: &str| shimmed(&sandbox, TABLE).probe(["open-write", path]);
    write(&again).errno("EROFS");
    write(&format!("/run/remount/real{tool}")).errno("EROFS");
    let create = ["create", "/run/remount/shims/new"];
    shimmed(&sandbox, TABLE).probe(create).errno("EROFS");
    // With the whole directory hidden there is no tool.
    let hidden = format!("mask = ['{}']\n{TABLE}", text(&sandbox.dir("outside/bin")));
    read(&hidden, &again).errno("ENOENT");
    let outcome = shimmed(&sandbox, &hidden).command(["tool", "ls"]).run();
    outcome.exits(127).says("remount: tool: command not found");
}

/// For each built-in table something that passes and something that does not.
const BUILT_IN: &[(&str, &str, &str)] = &[
    ("docker", "-H tcp://h ps -a", "run"),
    ("podman", "network ls", "exec"),
    ("kubectl", "-n ns get pods", "apply"),
    ("helm", "list -A", "install"),
    ("systemctl", "status ssh", "restart"),
    ("journalctl", "-u ssh -f", "--rotate"),
    ("git", "-C / log", "push"),
    ("gh", "pr view 1", "api -XPOST"),
    ("terraform", "-chdir=x plan", "apply"),
    ("aws", "--region r ec2 describe-instances", "ec2 run-instances"),
    ("gcloud", "compute instances list", "compute ssh"),
    ("az", "vm list", "vm delete"),
    ("psql", "-h db --list", "-c"),
    ("mysql", "--version", "-e"),
    ("redis-cli", "-h db get key", "set"),
    ("npm", "view x", "publish"),
    ("pip", "list", "install"),
    ("pip3", "show x", "uninstall"),
    ("apt", "list", "install"),
    ("apt-get", "check", "install"),
];

#[test]
fn each_built_in_table_holds_in_a_sandbox() {
    let sandbox = Sandbox::new();
    let mut script = String::new();
    let (mut expected, mut messages) = (String::new(), Vec::new());
    for (tool, passes, blocked) in BUILT_IN {
        let path = program(&sandbox, &format!("outside/bin/{tool}"), TOOL);
        for called in [tool, text(&path)] {
            writeln!(script, "{called} {passes} && {called} {blocked}; echo $?").unwrap();
            writeln!(expected, "ran {tool} {passes}\n126").unwrap();
            messages.push(format!("remount: {tool} {blocked} is blocked (read-only sandbox)"));
        }
    }
    for options in [&["--profile", "default", "--profile", "shims"][..], &["--profile", "readonly"]]
    {
        let inside = search(&sandbox, sandbox.remount().options(options));
        let outcome = inside.command(["bash", "-c", &script]).run();
        prints(&outcome, &expected);
        let stderr = outcome.stderr();
        let told: Vec<&str> = stderr.lines().filter(|line| line.starts_with("remount: ")).collect();
        assert_eq!(told, messages);
    }
}

#[test]
fn the_real_git_reads_and_does_not_write() {
    let sandbox = Sandbox::git();
    let inside = |words: &[&str]| {
        sandbox
            .remount()
            .options(["--profile", "default", "--profile", "shims/git"])
            .command(words)
            .run()
    };
    prints(&inside(&["git", "log", "--format=%s"]), "first\n");
    prints(&inside(&["git", "-C", "..", "--version"]), &inside(&["git", "version"]).stdout());
    let message = "remount: git commit is blocked (read-only sandbox)";
    is_blocked(&inside(&["git", "commit", "--allow-empty", "-m", "x"]), message);
}
