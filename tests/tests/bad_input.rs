//! What is typed wrong gives one clear message, a hint and the right code, and leaves
//! nothing behind; what only looks wrong works.

use remount_tests::{LEAVES_A_MARK, Outcome, Sandbox, as_root};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Refused with 125 before anything is done.
#[track_caller]
fn refused<I: IntoIterator<Item: AsRef<OsStr>>>(sandbox: &Sandbox, options: I) -> Outcome {
    sandbox.refused(125, sandbox.remount().options(options).command(LEAVES_A_MARK))
}

#[test]
fn what_is_refused_runs_otherwise() {
    let sandbox = Sandbox::new();
    sandbox.remount().command(LEAVES_A_MARK).run().success();
    assert!(sandbox.project().join("ran").exists());
}

#[test]
fn options_that_are_none() {
    let sandbox = Sandbox::new();
    let lists = "remount-run --help lists the options";
    for (options, message, hint) in [
        (&["--bnid", "/a", "/b"][..], "unexpected argument '--bnid' found", "'--bind'"),
        (&["--unshare-nte"], "unexpected argument '--unshare-nte' found", "'--unshare-net'"),
        (&["-q"], "unexpected argument '-q' found", lists),
        (
            &["--dry-run=bogus"],
            "invalid value 'bogus' for '--dry-run[=<text|json>]': must be text or json",
            lists,
        ),
        (
            &["--authority", "nobody"],
            "invalid value 'nobody' for '--authority <self|confirm|host>': must be self, confirm or host",
            lists,
        ),
        (
            &["--chdir", "/tmp", "--chdir", "/"],
            "the argument '--chdir <DIR>' cannot be used multiple times",
            lists,
        ),
        (&["--tmpfs", "/tmp", "--size", "5"], "--size 5: no --tmpfs follows it", "--tmpfs"),
        (
            &["--size", "5x", "--tmpfs", "/tmp"],
            "--size: size \"5x\": must be bytes, such as \"65536\", \"64M\" or \"2G\"",
            "--size 64M --tmpfs /scratch",
        ),
        (
            &["--hostname", "a b"],
            "--hostname: hostname \"a b\": must be 1 to 64 letters, digits, '-' and '.'",
            "--hostname sandbox",
        ),
        (
            &["--setenv", "a=b", "c"],
            "--setenv a=b: a variable's name has no '=' and is not empty",
            "--setenv NAME VALUE",
        ),
    ] {
        refused(&sandbox, options).explains(message, hint);
    }
    let outcome = sandbox.refused(125, sandbox.remount().unseparated().option("--bind").arg("/a"));
    outcome.explains(
        "2 values required for '--bind <SRC> <DEST>' but 1 was provided",
        "--help lists the options",
    );
    // Words of others do not reach the terminal as they are.
    let outcome = refused(&sandbox, ["--\u{1b}[2J\nremount-run: lies"]);
    outcome.says(r"\u{1b}[2J");
}

#[test]
fn names_of_targets_that_are_none() {
    let sandbox = Sandbox::new();
    let long = "a".repeat(65);
    for name in ["A", "a b", "", "a/b", "a\nb", "ä", "all.", &long] {
        let option = OsString::from("--toggle");
        let project = sandbox.project().into_os_string();
        let outcome = refused(&sandbox, [option, name.into(), project]);
        outcome.says("must be 1 to 64 characters of a-z, 0-9, '_' and '-'").says("\nhint: ");
    }
    // A name that looks like an option is taken for one.
    refused(&sandbox, ["--toggle", "-a", "/"]).says("unexpected argument '-a' found");
    let outside = sandbox.outside();
    let allowed = "a".repeat(64);
    for name in ["0", "_", "a-b_9", &allowed] {
        let run = sandbox.remount().options(["--toggle", name]).option(&outside);
        run.command(["true"]).run().success();
    }
}

#[test]
fn paths_that_are_relative_or_climb() {
    let sandbox = Sandbox::new();
    let rule = "beginning with /";
    for option in ["--mask", "--protect", "--tmpfs", "--chdir"] {
        for path in ["relative", "./relative"] {
            let outcome = refused(&sandbox, [option, path]);
            outcome.explains(&format!("{option}: {path}: not an absolute path"), rule);
        }
    }
    for option in ["--bind", "--bind-try", "--ro-bind", "--ro-bind-try", "--dev-bind"] {
        for [source, dest] in [["relative", "/tmp/x"], ["/etc", "relative"]] {
            let outcome = refused(&sandbox, [option, source, dest]);
            outcome.explains(&format!("{option}: relative: not an absolute path"), rule);
        }
    }
    refused(&sandbox, ["--toggle", "x", "relative"])
        .explains("--toggle: relative: not an absolute path", rule);
    for options in [["--ro-bind", "/etc/../etc", "/tmp/x"], ["--ro-bind", "/etc", "/tmp/../tmp/x"]]
    {
        refused(&sandbox, options).explains(
            &format!(
                "--ro-bind: {}: contains '..'",
                options.iter().find(|path| path.contains("..")).unwrap()
            ),
            "without '..'",
        );
    }
}

#[test]
fn paths_that_are_missing() {
    let sandbox = Sandbox::new();
    let missing = sandbox.outside().join("missing");
    let shown = missing.display();
    for (option, hint) in [
        ("--bind", "--bind-try skips"),
        ("--ro-bind", "--ro-bind-try skips"),
        ("--dev-bind", "check the spelling"),
    ] {
        let words = [option.as_ref(), missing.as_os_str(), "/tmp/x".as_ref()];
        refused(&sandbox, words)
            .explains(&format!("{option}: find {shown}: no such file or directory"), hint);
        let words = [option.as_ref(), "/etc".as_ref(), missing.as_os_str()];
        refused(&sandbox, words).explains(
            &format!(
                "{option}: mount on {shown}: there is no such file or directory in the sandbox"
            ),
            "choose a destination that exists, or one below a --tmpfs",
        );
    }
    for option in ["--mask", "--protect", "--chdir"] {
        let outcome = refused(&sandbox, [option.as_ref(), missing.as_os_str()]);
        let message = format!("{option}: find {shown}: no such file or directory");
        outcome.explains(
            &message,
            if option == "--chdir" { "exists in the sandbox" } else { "check the spelling" },
        );
    }
    refused(&sandbox, ["--toggle".as_ref(), "x".as_ref(), missing.as_os_str()]).explains(
        &format!("--toggle: find {shown}: no such file or directory"),
        "check the spelling",
    );
    refused(&sandbox, ["--tmpfs".as_ref(), missing.as_os_str()])
        .says("there is no such file or directory in the sandbox");
    for option in ["--bind-try", "--ro-bind-try"] {
        let run = sandbox.remount().option(option).option(&missing).option("/tmp/x");
        run.sh("test ! -e /tmp/x").run().success();
    }
    let file = sandbox.file("outside/file", "");
    refused(&sandbox, ["--chdir".as_ref(), file.as_os_str()])
        .explains(&format!("--chdir: find {}: not a directory", file.display()), "ls -ld");
}

#[test]
fn paths_that_may_not_be_read() {
    let sandbox = Sandbox::new();
    sandbox.file("outside/closed/dir/file", "secret");
    let closed = sandbox.outside().join("closed");
    let path = closed.join("dir");
    let set = |mode| std::fs::set_permissions(&closed, PermissionsExt::from_mode(mode)).unwrap();
    set(0);
    let options: [&[&OsStr]; 5] = [
        &["--bind".as_ref(), path.as_ref(), "/tmp/x".as_ref()],
        &["--ro-bind".as_ref(), path.as_ref(), "/tmp/x".as_ref()],
        &["--toggle".as_ref(), "x".as_ref(), path.as_ref()],
        &["--mask".as_ref(), path.as_ref()],
        &["--chdir".as_ref(), path.as_ref()],
    ];
    for words in options {
        if as_root() {
            // Mounts are made with root's rights; the agent then has no capability.
            sandbox.remount().options(words).arg("true").run().success();
            let list = sandbox.remount().options(words).arg("ls").arg(&path).run();
            list.says("Permission denied");
            continue;
        }
        let outcome = refused(&sandbox, words);
        outcome.says(&format!("find {}: permission denied\n", path.display()));
        outcome.says("hint: it takes the right to enter every directory on the way");
    }
    set(0o755);
}

#[test]
fn destinations_that_are_taken() {
    let sandbox = Sandbox::new();
    for dest in ["/", "/proc", "/proc/sys", "/dev", "/run", "/run/remount", "/run/remount/bin"] {
        for option in ["--bind", "--ro-bind", "--dev-bind"] {
            refused(&sandbox, [option, "/etc", dest]).explains(
                &format!("{option}: mount on {dest}: the sandbox makes it itself"),
                "/, /dev, /proc, /run and /run/remount are taken",
            );
        }
        for option in ["--tmpfs", "--mask"] {
            if option == "--tmpfs" && dest == "/run" {
                // The one that may have another: it is memory already.
                continue;
            }
            refused(&sandbox, [option, dest]).says("the sandbox makes it itself");
        }
        refused(&sandbox, ["--toggle", "x", dest]).says(dest).says("\nhint: ");
    }
    for source in ["/proc", "/proc/self", "/proc/sys/kernel", "/proc/self/fd"] {
        for option in ["--bind", "--ro-bind", "--dev-bind", "--ro-bind-try"] {
            refused(&sandbox, [option, source, "/tmp/x"]).says(
                "it would show the host's processes\nhint: the sandbox has a /proc of its own",
            );
        }
    }
    let file = sandbox.file("outside/file", "");
    let dir = sandbox.outside();
    for (source, dest) in [(file.as_os_str(), dir.as_os_str()), (dir.as_os_str(), file.as_os_str())]
    {
        refused(&sandbox, ["--ro-bind".as_ref(), source, dest])
            .says("one is a directory and the other is not")
            .says("hint: bind a directory on a directory");
    }
}

/// A name that is hard on every parser on its way, and how messages show it.
const ODD: [(&[u8], &str); 6] = [
    (b"two  words", "two  words"),
    (b"new\nline", r"new\nline"),
    (b"not\xffutf-8", r"not\xffutf-8"),
    (b"esc\x1b[2J", r"esc\u{1b}[2J"),
    (b"back\\slash,comma:colon", r"back\\slash,comma:colon"),
    (b"\"q\" 'q' $HOME * (deleted)", "\"q\" 'q' $HOME * (deleted)"),
];

#[test]
fn odd_names_work_and_are_shown_escaped() {
    let sandbox = Sandbox::new();
    for (name, shown) in ODD {
        let name = OsStr::from_bytes(name);
        let source = sandbox.outside().join(name);
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join(name), "contents").unwrap();
        std::fs::create_dir(sandbox.project().join(name)).unwrap();
        let dest = Path::new("/tmp").join(name);
        let cat = |dir: &Path| {
            let words = ["cat".into(), dir.join(name).into_os_string()];
            sandbox.remount().options(["--toggle", "odd"]).option(&source).command(words)
        };
        // As source, as destination, as target, as working directory.
        let run = cat(&dest).option("--ro-bind").option(&source).option(&dest);
        let outcome = run.cwd(sandbox.project().join(name)).run();
        assert_eq!(outcome.success().stdout(), "contents");
        let outcome = cat(&source).option("--chdir").option(&source).run();
        assert_eq!(outcome.success().stdout(), "contents");
        let masked = cat(&source).option("--mask").option(source.join(name)).run();
        assert_eq!(masked.success().stdout(), "");
        // As an argument and in the environment.
        let echo = ["sh", "-c", "printf %s \"$1:$ODD\"", "sh"];
        let run = sandbox.remount().options(["--setenv", "ODD"]).option(name);
        let outcome = run.command(echo).arg(name).run();
        let expected = [name.as_bytes(), b":", name.as_bytes()].concat();
        assert_eq!(outcome.success().stdout_bytes(), expected);
        // In a message.
        let missing = source.join("missing");
        let words = ["--ro-bind".as_ref(), missing.as_os_str(), "/tmp/x".as_ref()];
        refused(&sandbox, words).explains(
            &format!(
                "--ro-bind: find {}/{shown}/missing: no such file or directory",
                sandbox.outside().display()
            ),
            "check the spelling",
        );
        let words: [&OsStr; 2] = ["--profile".as_ref(), missing.as_os_str()];
        refused(&sandbox, words);
        let outcome = sandbox.refused(127, sandbox.remount().arg(missing.as_os_str()));
        outcome.says(&format!("/{shown}/missing: command not found"));
    }
}

#[test]
fn symlinks_are_followed_where_nobody_could_have_planted_them() {
    let sandbox = Sandbox::new();
    let real = sandbox.dir("outside/real");
    sandbox.file("outside/real/file", "contents");
    let link = sandbox.outside().join("link");
    symlink("real", &link).unwrap();
    // A source.
    let run = sandbox.remount().option("--ro-bind").option(&link).option("/tmp/x");
    assert_eq!(run.command(["cat", "/tmp/x/file"]).run().success().stdout(), "contents");
    // A destination: the mount is where the link leads, and is seen through both.
    let other = sandbox.dir("outside/other");
    sandbox.file("outside/other/seen", "through");
    let run = sandbox.remount().option("--ro-bind").option(&other).option(&link);
    let cat = ["cat".into(), real.join("seen").into_os_string(), link.join("seen").into()];
    assert_eq!(run.command(cat).run().success().stdout(), "throughthrough");
    // One in the project: an agent could have made it lead anywhere.
    let planted = sandbox.project().join("planted");
    symlink(&real, &planted).unwrap();
    refused(&sandbox, ["--bind".as_ref(), planted.as_os_str(), "/tmp/x".as_ref()]).explains(
        &format!(
            "--bind: bind {0}: it passes through the symbolic link {0}, which is in a writable directory",
            planted.display()
        ),
        "name the file the link leads to",
    );
    // One that leads nowhere, and one in a circle.
    symlink("nowhere", sandbox.outside().join("dangling")).unwrap();
    symlink("circle", sandbox.outside().join("circle")).unwrap();
    for (name, why) in [
        ("dangling", "no such file or directory"),
        ("circle", "too many symbolic links encountered"),
    ] {
        let path = sandbox.outside().join(name);
        let words = ["--ro-bind".as_ref(), path.as_os_str(), "/tmp/x".as_ref()];
        refused(&sandbox, words).says(&format!("{}: {why}\nhint: ", path.display()));
    }
}

#[test]
fn a_target_inside_another_is_independent() {
    let sandbox = Sandbox::new();
    let inner = sandbox.dir("project/inner");
    let script = "
        try() { sh -c \"echo x >$1\" 2>/dev/null && echo $1 yes || echo $1 no; }
        both() { try outer; try inner/file; try inner/../other; }
        both
        remountctl ro workspace; both
        remountctl ro inner; remountctl rw workspace; both
        remountctl ro --all; both
        remountctl rw inner; both";
    let run = sandbox.remount().options(["--toggle", "inner"]).option(&inner).sh(script);
    let outcome = run.run();
    let stdout = outcome.success().stdout();
    let answers: Vec<&str> = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("outer ").or(line.strip_prefix("inner/file ")))
        .collect();
    let expected = ["yes", "yes", "no", "yes", "yes", "no", "no", "no", "no", "yes"];
    assert_eq!(answers, expected, "{outcome}");
}

#[test]
fn two_targets_of_one_name() {
    let sandbox = Sandbox::new();
    let (one, two) = (sandbox.dir("outside/one"), sandbox.dir("outside/two"));
    let toggle = |name: &str, path: &Path| ["--toggle".into(), name.into(), path.into()];
    let words: Vec<OsString> = [toggle("x", &one), toggle("x", &two)].concat();
    refused(&sandbox, words).explains(
        &format!("--toggle: target x at {}: the name is taken by {}", two.display(), one.display()),
        "a name of its own",
    );
    refused(&sandbox, toggle("workspace", &one)).says("target workspace at ");
}
