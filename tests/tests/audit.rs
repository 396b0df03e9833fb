//! `--audit FILE`: each command that is executed inside is written down outside.

use remount_tests::{Cmd, LIMIT, Sandbox, bin, kernel, require, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

fn file(sandbox: &Sandbox) -> PathBuf {
    sandbox.outside().join("audit.jsonl")
}

fn audited(sandbox: &Sandbox) -> Cmd {
    sandbox.remount().option("--audit").option(file(sandbox))
}

/// All records of one kind.
#[track_caller]
fn records(sandbox: &Sandbox, event: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(file(sandbox)).expect("the file of --audit");
    // The last one may be under way.
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let lines = lines.map(|line| serde_json::from_str(line).expect(line));
    lines.filter(|record: &Value| record["event"] == event).collect()
}

fn words(record: &Value) -> String {
    let words = record["arguments"].as_array().expect("arguments");
    let words: Vec<&str> = words.iter().map(|word| word.as_str().expect("text")).collect();
    words.join(" ")
}

/// The record of the one command whose last argument this is, and that was found.
#[track_caller]
fn exec(sandbox: &Sandbox, last: &str) -> Value {
    let all = records(sandbox, "exec");
    let is_it = |it: &&Value| {
        let words = it["arguments"].as_array();
        it["error"].is_null() && words.and_then(|words| words.last()).is_some_and(|it| it == last)
    };
    let found: Vec<&Value> = all.iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{last}: {found:#?}");
    found[0].clone()
}

#[track_caller]
fn end_of(sandbox: &Sandbox, exec: &Value) -> Value {
    let all = records(sandbox, "exit");
    all.into_iter().find(|exit| exit["id"] == exec["id"]).expect("an end")
}

fn script(sandbox: &Sandbox, path: &str, text: &str) -> PathBuf {
    let path = sandbox.file(path, text);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[test]
fn every_command_is_written_down_with_its_end() {
    let sandbox = Sandbox::new();
    let shell = "cd /usr; /bin/true a 'b c'; /bin/sh -c 'exit 3'; /bin/sh -c 'kill -9 $$'; :";
    audited(&sandbox).sh(shell).run().success();
    let project = sandbox.project();
    let execs = records(&sandbox, "exec");
    let expected: [(&str, &str, &str); 4] = [
        ("sh -c cd", "/sh", project.to_str().unwrap()),
        ("/bin/true a b c", "/bin/true", "/usr"),
        ("/bin/sh -c exit 3", "/bin/sh", "/usr"),
        ("/bin/sh -c kill -9 $$", "/bin/sh", "/usr"),
    ];
    assert_eq!(execs.len(), expected.len(), "{execs:#?}");
    for (record, (begins, ends, cwd)) in execs.iter().zip(expected) {
        assert!(words(record).starts_with(begins), "{record}");
        assert!(record["path"].as_str().unwrap().ends_with(ends), "{record}");
        assert_eq!(record["cwd"], cwd, "{record}");
        assert!(record["pid"].as_i64().unwrap() > 1 && record["host-pid"].is_i64(), "{record}");
        assert!(record["time"].as_str().unwrap().ends_with('Z'), "{record}");
    }
    // A path with symlinks in it, and where it leads.
    let real = std::fs::canonicalize("/bin/true").unwrap();
    assert_eq!(execs[1]["file"], real.to_str().unwrap());
    let ends: Vec<Value> = execs.iter().map(|exec| end_of(&sandbox, exec)).collect();
    assert!(ends.iter().all(|end| end["seconds"].as_f64().unwrap() >= 0.0), "{ends:#?}");
    // Who was buried before its end was looked at is known from Linux 6.15 on.
    if kernel() >= (6, 15) {
        assert_eq!((&ends[0]["code"], &ends[1]["code"]), (&json!(0), &json!(0)));
        assert_eq!((&ends[2]["code"], &ends[3]["signal"]), (&json!(3), &json!(9)));
    }
    let mode = std::fs::metadata(file(&sandbox)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    // The next sandbox adds to it.
    let before = std::fs::read(file(&sandbox)).unwrap();
    audited(&sandbox).arg("/bin/true").run().success();
    assert!(std::fs::read(file(&sandbox)).unwrap().starts_with(&before));
    let execs = records(&sandbox, "exec");
    assert_eq!(execs.len(), 5);
    assert_ne!(execs[0]["sandbox"], execs[4]["sandbox"]);
}

/// Each with a word of its own at its end.
const WAYS: &str = "
import ctypes, os, subprocess, sys, threading
def forked(act):
    pid = os.fork()
    if not pid:
        try: act()
        finally: os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
subprocess.run(['/bin/true', 'by-subprocess'])
os.spawnv(os.P_WAIT, '/bin/true', ['true', 'by-spawn'])
os.waitpid(os.posix_spawn('/bin/true', ['x', 'by-vfork'], {}), 0)
fd = os.open('/bin/true', os.O_RDONLY)
forked(lambda: os.execve(fd, ['anything', 'by-descriptor'], {}))
dir = os.open('/bin', os.O_RDONLY)
libc = ctypes.CDLL(None)
argv = (ctypes.c_char_p * 3)(b'true', b'by-execveat', None)
forked(lambda: libc.syscall(322 if os.uname().machine == 'x86_64' else 281, dir, b'true', argv, None, 0))
def thread(act):
    it = threading.Thread(target=act); it.start(); it.join()
forked(lambda: thread(lambda: os.execv('/bin/true', ['true', 'by-thread'])))
subprocess.run([sys.argv[1], 'by-script'])
subprocess.run([sys.argv[2], 'exit', 'by-static'])
subprocess.run(['unshare', '-U', 'true', 'by-namespace'])
os.chdir('/usr')
subprocess.run(['bin/true', 'by-relative'])
for path in ['/no/such/file', '/usr/nothing', 'nothing']:
    try: os.execv(path, [path, 'by-error'])
    except FileNotFoundError as error: print(error.errno, flush=True)
try: libc.execve(ctypes.c_char_p(b'/bin/true'), ctypes.c_void_p(8), None); print('failed', flush=True)
finally: pass
os.execv('/bin/true', ['-odd name\\n\\x1b', 'by-\\xff'])
";

#[test]
fn no_way_to_execute_is_left_out() {
    let sandbox = Sandbox::new();
    let tool = script(&sandbox, "project/tool", "#!/bin/sh\nexit 4\n");
    let fixed = bin("remountctl");
    let python = audited(&sandbox).arg(require("python3")).command(["-c", WAYS]);
    let outcome = python.arg(&tool).arg(&fixed).run();
    outcome.success();
    assert_eq!(outcome.stdout(), "2\n2\n2\nfailed\n", "{outcome}");
    let real = |path: &str| std::fs::canonicalize(path).unwrap().to_str().unwrap().to_owned();
    for way in ["subprocess", "spawn", "vfork", "descriptor", "execveat", "thread", "relative"] {
        let record = exec(&sandbox, &format!("by-{way}"));
        assert_eq!(record["file"], real("/bin/true"), "{record}");
        let end = end_of(&sandbox, &record);
        assert!(kernel() < (6, 15) || end["code"] == 0, "{end}");
    }
    let record = exec(&sandbox, "by-script");
    assert_eq!(record["path"], tool.to_str().unwrap());
    let end = end_of(&sandbox, &record);
    assert!(kernel() < (6, 15) || end["code"] == 4, "{end}");
    assert_eq!(exec(&sandbox, "by-static")["path"], fixed.to_str().unwrap());
    assert_eq!(exec(&sandbox, "by-namespace")["arguments"][0], "unshare");
    // What is not there fails as without the record, and is marked.
    let errors: Vec<Value> = records(&sandbox, "exec");
    let errors = errors.iter().filter(|it| it["arguments"][1] == "by-error");
    let errors: Vec<&Value> = errors.collect();
    assert_eq!(errors.len(), 3, "{errors:#?}");
    assert_eq!((&errors[0]["error"], &errors[1]["error"]), (&json!("ENOENT"), &json!("ENOENT")));
    // What cannot be read is not executed.
    let all = records(&sandbox, "exec");
    let unread = all.iter().filter(|it| it["arguments"].is_null()).collect::<Vec<_>>();
    assert_eq!(unread.len(), 1, "{unread:#?}");
    assert!(unread[0]["error"].as_str().unwrap().starts_with("EFAULT"), "{unread:#?}");
    // Bytes that command a terminal, and those that are no text.
    let last = all.last().unwrap();
    assert_eq!(last["arguments"], json!(["-odd name\\n\\u{1b}", "by-ÿ"]), "{last}");
}

#[test]
fn a_line_has_bounds() {
    let sandbox = Sandbox::new();
    let script = "
import subprocess
subprocess.run(['/bin/true', 'short'] + ['x' * 100_000] * 20)
subprocess.run(['/bin/true', 'long'] + ['\\x01'] * 150_000)
";
    audited(&sandbox).arg(require("python3")).command(["-c", script]).run().success();
    for record in records(&sandbox, "exec") {
        let is_long = record["arguments"].as_array().unwrap().len() > 3;
        assert_eq!(
            record["truncated"],
            if is_long { json!(true) } else { Value::Null },
            "{record}"
        );
    }
    let text = std::fs::read_to_string(file(&sandbox)).unwrap();
    assert!(text.matches("\"truncated\":true").count() >= 2, "{text}");
    let longest = text.lines().map(str::len).max().unwrap();
    assert!((4096..160_000).contains(&longest), "{longest}");
}

#[test]
fn what_runs_is_looked_at_afterwards() {
    let sandbox = Sandbox::new();
    let tool = script(&sandbox, "project/tool", "#!/bin/sh\necho up\nread x\nexit 5\n");
    let mut running = audited(&sandbox).arg(&tool).start_interactive();
    assert_eq!(running.line(), "up");
    wait_until("a look at what runs", LIMIT, || !records(&sandbox, "running").is_empty());
    let record = records(&sandbox, "running").remove(0);
    // Of a script, its interpreter.
    let shell = std::fs::canonicalize("/bin/sh").unwrap();
    assert_eq!(record["executable"], shell.to_str().unwrap(), "{record}");
    assert_eq!(record["arguments"], json!(["/bin/sh", tool.to_str().unwrap()]), "{record}");
    assert_eq!(record["id"], 1);
    running.send("\n");
    running.wait().exits(5);
}

#[test]
fn the_file_is_out_of_reach_inside() {
    let sandbox = Sandbox::new();
    let (path, other) = (file(&sandbox), sandbox.file("outside/other", "text"));
    audited(&sandbox).arg("/bin/true").run().success();
    let before = std::fs::read(&path).unwrap();
    for profile in ["default", "readonly"] {
        let inside = || audited(&sandbox).options(["--profile", profile]);
        let at = |act: &str, path: &Path| inside().probe([Path::new(act), path]);
        // The same of its neighbour, and of it in a sandbox without a record.
        assert_eq!(at("read", &other).ok(), "text");
        let plain = sandbox.remount().options(["--profile", profile]);
        assert!(plain.probe([Path::new("read"), &path]).ok().starts_with("{\"time\""));
        assert_eq!(at("read", &path).ok(), "");
        at("open-write", &path).errno("EACCES");
        at("truncate", &path).errno("EACCES");
        at("unlink", &path).errno("EROFS");
    }
    // All of that is possible on the host.
    let host = |act: &str, path: &Path| sandbox.host_probe().probe([Path::new(act), path]);
    host("open-write", &path).ok();
    assert!(std::fs::read(&path).unwrap().starts_with(&before));
    // By its name below the working directory, too; and who writes is nobody's to reach.
    let below = sandbox.remount().cwd("/usr").options(["--audit", "bin/../../var/tmp"]);
    below.arg("true").run().exits(125).says("is a directory");
}

#[test]
fn what_cannot_be_such_a_file_is_refused() {
    let sandbox = Sandbox::new();
    let target = sandbox.file("outside/target", "");
    let link = sandbox.outside().join("link");
    symlink(&target, &link).unwrap();
    let twice = sandbox.file("outside/twice", "");
    std::fs::hard_link(&twice, sandbox.outside().join("second")).unwrap();
    let open = sandbox.file("outside/open", "");
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o622)).unwrap();
    symlink(sandbox.outside(), sandbox.project().join("planted")).unwrap();
    let planted = sandbox.project().join("planted/file");
    let in_project = sandbox.project().join("audit.jsonl");
    for (path, what) in [
        (link.as_path(), "--audit: open"),
        (&twice, "it has another name (a hard link)"),
        (&open, "others may write to it"),
        (&sandbox.outside(), "is a directory"),
        (Path::new("/no/such/file"), "no such file"),
        // Where the command writes, or a link that it can replace says where.
        (&in_project, "it is where the command can write, now or after a toggle"),
        (&sandbox.project().join("../project/audit.jsonl"), "it is where the command can write"),
        (Path::new("audit.jsonl"), "it is where the command can write"),
        (&planted, "a symbolic link in it that the command can replace"),
    ] {
        let outcome = sandbox.remount().option("--audit").option(path).sh("echo ran").run();
        outcome.exits(125).says("--audit").says(what).says("hint: ");
        assert_eq!(outcome.stdout(), "", "{outcome}");
    }
    assert_eq!(std::fs::read(&target).unwrap(), b"");
    assert!(!in_project.exists() && !sandbox.outside().join("file").exists());
    // A directory that only its owner may write to; the same project, held read-only.
    let device = sandbox.remount().options(["--audit", "/dev/null"]).arg("true").run();
    device.exits(125).says("no ordinary file");
    audited(&sandbox).arg("true").run().success();
}

/// The process that writes, of the sandbox started by `launcher`: its last child.
fn writer_of(launcher: i32) -> Option<i32> {
    let children = format!("/proc/{launcher}/task/{launcher}/children");
    let children = std::fs::read_to_string(children).ok()?;
    children.split_whitespace().nth(2)?.parse().ok()
}

fn state_of(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn without_who_writes_nothing_is_executed() {
    let sandbox = Sandbox::new();
    let tries = "
import os, sys
print('up', flush=True); sys.stdin.readline()
try: os.execv('/bin/echo', ['echo', 'ran'])
except OSError as error: print(error.errno, flush=True)
sys.stdin.readline()
";
    let python = || audited(&sandbox).arg(require("python3")).command(["-c", tries]);
    // With it, that works.
    let mut running = python().start_interactive();
    assert_eq!(running.line(), "up");
    running.send("\n");
    assert_eq!(running.line(), "ran");
    running.wait().success();

    let mut running = python().start_interactive();
    assert_eq!(running.line(), "up");
    let writer = writer_of(running.pid()).expect("who writes");
    let status = std::fs::read_to_string(format!("/proc/{writer}/status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
    // The launcher would end the sandbox before anything could be tried.
    running.kill(Signal::STOP);
    wait_until("the launcher stands", LIMIT, || state_of(running.pid()) == Some('T'));
    kill_process(Pid::from_raw(writer).unwrap(), Signal::KILL).unwrap();
    wait_until("who writes has ended", LIMIT, || state_of(writer) == Some('Z'));
    running.send("\n");
    assert_eq!(running.line(), "38", "ENOSYS");
    running.kill(Signal::CONT);
    running.wait().exits(125).says("who writes it has ended");

    // Nobody who is not asked for.
    let mut running = sandbox.remount().sh("echo up; read x").start_interactive();
    assert_eq!(running.line(), "up");
    assert_eq!(writer_of(running.pid()), None);
    running.send("\n");
    running.wait().success();
}

#[test]
fn where_nothing_can_be_written_the_sandbox_ends() {
    let sandbox = Sandbox::new();
    let endless = "while :; do /bin/true; done";
    let limited = |script: &str| {
        let command = audited(&sandbox).sh(script);
        command.within("prlimit", &["--fsize=4096"]).unseparated().run()
    };
    limited("/bin/true").success();
    limited(endless).exits(125).says("write down what is executed").says("hint: ");
    assert!(std::fs::metadata(file(&sandbox)).unwrap().len() <= 4096);
}

#[test]
fn crowds_are_written_down_as_far_as_descriptors_go_and_read_beyond() {
    let sandbox = Sandbox::new();
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do cat <&3 & done; wait";
    let script = format!("exec 3<&0; {script}; /bin/true last");
    let command = audited(&sandbox).sh(&script);
    let limited = command.within("prlimit", &["--nofile=80:80"]).unseparated();
    let mut running = limited.start_interactive();
    wait_until("twelve commands", LIMIT, || {
        file(&sandbox).exists() && records(&sandbox, "exec").len() == 13
    });
    running.close_stdin();
    running.wait().success();
    assert!(records(&sandbox, "exec").iter().all(|it| it["arguments"].is_array()));
    exec(&sandbox, "last");
    let exits = records(&sandbox, "exit");
    let lost = exits.iter().filter(|exit| exit["error"].is_string()).count();
    assert_eq!((exits.len(), lost), (14, 13 - 8), "{exits:#?}");
}

#[test]
fn debuggers_and_many_commands_work() {
    let sandbox = Sandbox::new();
    let script =
        "for i in 1 2 3 4 5 6 7 8 9 10; do (/bin/true $i & /bin/true $i; wait) & done; wait";
    audited(&sandbox).sh(script).run().success();
    assert_eq!(records(&sandbox, "exec").len(), 21);
    assert_eq!(records(&sandbox, "exit").len(), 21);
    let trace = audited(&sandbox).arg(require("strace")).command(["-f", "-e", "trace=execve"]);
    let outcome = trace.command(["sh", "-c", "/bin/true traced"]).run();
    outcome.success().says("traced");
    let record = exec(&sandbox, "traced");
    assert_eq!(record["path"], "/bin/true");
}

const SHIMS: &str = "extends = ['default']
[shims.plain]
allow = ['ls']
[shims.aware]
when = 'ro:workspace'
allow = ['ls']
";

/// What a shim says would be what its caller says: it is found out from outside.
#[test]
fn what_shims_decide_is_written_down() {
    let sandbox = Sandbox::new();
    for name in ["plain", "aware"] {
        script(&sandbox, &format!("outside/bin/{name}"), "#!/bin/sh\nexit 7\n");
    }
    sandbox.file("home/.config/remount/profiles/test.toml", SHIMS);
    let path = format!("{}/bin:{}", sandbox.outside().display(), remount_tests::PATH);
    let run = |script: &str| {
        let command = audited(&sandbox).options(["--profile", "test"]).env("PATH", &path);
        command.sh(script).run().success();
    };
    let real = format!("/run/remount/real{}/bin/plain", sandbox.outside().display());
    run(&format!(
        "plain ls; plain rm; {real} rm by-path; aware ls; aware push open; \
         remountctl ro workspace && aware push closed; :"
    ));
    let decisions = |record: &Value| (record["shim"].clone(), record["decision"].clone());
    let execs = records(&sandbox, "exec");
    let of = |end: &str| -> Vec<(Value, Value)> {
        execs.iter().filter(|it| words(it).ends_with(end)).map(decisions).collect()
    };
    let is = |tool: &str, decision: &str| (json!(tool), json!(decision));
    assert_eq!(of("plain ls"), [is("plain", "allowed"), is("plain", "passed")]);
    assert_eq!(of("plain rm"), [is("plain", "blocked")]);
    assert_eq!(of("rm by-path"), [is("plain", "bypassed")]);
    assert_eq!(of("aware ls"), [is("aware", "allowed"), is("aware", "passed")]);
    assert_eq!(of("push open"), [is("aware", "asks"), is("aware", "passed")]);
    assert_eq!(of("push closed"), [is("aware", "asks")]);
    let end = end_of(&sandbox, &exec(&sandbox, "closed"));
    assert_eq!(decisions(&end), is("aware", "blocked"), "{end}");
}

/// Where no namespaces can be made.
#[test]
fn it_works_without_namespaces() {
    let sandbox = Sandbox::new();
    let no_more = "echo 0 >/proc/sys/user/max_user_namespaces && \
        exec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all \"$@\"";
    let host = ["--user", "--map-current-user", "--keep-caps", "sh", "-ec", no_more, "sh"];
    let run = |command: Cmd| command.within("unshare", &host).unseparated().run();
    let readonly = || audited(&sandbox).options(["--profile", "readonly"]);
    let path = file(&sandbox);
    // Left behind, once it runs.
    let left =
        "sleep 1000 & until read name </proc/$!/comm && [ $name = sleep ]; do :; done; exit 3";
    let script = format!(
        "/bin/true one; cat {0}; echo x >>{0}; true >{0}; /bin/sh -c '{left}'",
        path.display()
    );
    let outcome = run(readonly().sh(&script));
    outcome.exits(3).says("no mount namespace");
    assert_eq!(outcome.stdout(), "", "{outcome}");
    assert_eq!(exec(&sandbox, "one")["path"], "/bin/true");
    let end = end_of(&sandbox, &exec(&sandbox, left));
    assert!(kernel() < (6, 15) || end["code"] == 3, "{end}");
    let end = end_of(&sandbox, &exec(&sandbox, "1000"));
    assert_eq!(end["signal"], if kernel() < (6, 15) { Value::Null } else { json!(9) }, "{end}");
}

/// Is told of the system calls of what it runs: of none, as its filter says.
const WATCHED: &str = "
import ctypes, os, platform, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
class Prog(ctypes.Structure): _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_char_p)]
prog = Prog(1, struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
assert libc.prctl(38, 1, 0, 0, 0) == 0
number = 317 if platform.machine() == 'x86_64' else 277
assert libc.syscall(number, 1, 8, ctypes.byref(prog)) >= 0
sys.exit(subprocess.run(sys.argv[1:]).returncode)
";

/// The kernel tells one process, and no second one.
#[test]
fn who_is_told_already_is_no_reason_to_go_without_a_record() {
    let sandbox = Sandbox::new();
    let run = |command: Cmd| command.within("python3", &["-c", WATCHED]).unseparated().run();
    run(sandbox.remount().sh("exit 3")).exits(3);
    let outcome = run(audited(&sandbox).sh("echo ran"));
    outcome.exits(125).says("another process is told of it already (EBUSY)").says("hint: ");
    assert_eq!(outcome.stdout(), "", "{outcome}");
    // Inside there is one; a program that wants its own is told so, and goes on as it may.
    let script = format!("import sys; sys.argv[1:] = ['true']\n{WATCHED}");
    let inside = || sandbox.remount().arg(require("python3")).command(["-c", &script]);
    inside().run().success();
    let audited = audited(&sandbox).arg(require("python3")).command(["-c", &script]).run();
    audited.exits(1).says("AssertionError");
}
