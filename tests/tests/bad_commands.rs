//! Commands that cannot be executed: 127 if there is none, 126 if it is none.

use remount_tests::Sandbox;
use std::os::unix::fs::PermissionsExt;

#[test]
fn no_such_command() {
    let sandbox = Sandbox::new();
    for (command, message) in [
        ("no-such-command", "no-such-command: command not found"),
        ("./no-such-command", "./no-such-command: command not found"),
        ("/no/such/command", "/no/such/command: command not found"),
        ("", ": command not found"),
        ("\u{1b}[2J", "\\u{1b}[2J: command not found"),
    ] {
        let outcome = sandbox.refused(127, sandbox.remount().arg(command));
        outcome.explains(message, "check the spelling and PATH");
    }
    // What is only there outside.
    let script = sandbox.outside().join("program");
    sandbox.file("outside/program", "#!/bin/sh\n");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    sandbox.remount().arg(&script).run().success();
    let masked = sandbox.remount().option("--tmpfs").option(sandbox.outside()).arg(&script);
    sandbox.refused(127, masked).explains(
        &format!("{}: command not found in the sandbox: it is hidden there", script.display()),
        "--ro-bind it",
    );
    // No PATH, an empty one, one with rubbish in it.
    let program = "program";
    for path in ["", ":", "/no/such:relative:", "/etc/passwd"] {
        let run = sandbox.remount().env("PATH", path).arg(program);
        sandbox.refused(127, run).says("program: command not found");
    }
    sandbox.remount().option("--unsetenv").option("PATH").arg("true").run().success();
}

#[test]
fn commands_that_are_not_executable() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("project/file", "#!/bin/sh\n");
    let shown = file.display();
    sandbox
        .refused(126, sandbox.remount().arg(&file))
        .explains(&format!("execute {shown}: permission denied"), "chmod +x it");
    sandbox
        .refused(126, sandbox.remount().arg("./file"))
        .says("permission denied")
        .says("hint: chmod +x it");
    let project = sandbox.project();
    sandbox
        .refused(126, sandbox.remount().arg(&project))
        .explains(&format!("execute {}: is a directory", project.display()), "name a program");
    sandbox.refused(126, sandbox.remount().arg("./")).says("is a directory");
    // Executable, but nothing that the kernel can start.
    let set = |mode| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    set(0o755);
    sandbox.remount().arg(&file).run().success();
    for text in ["", "no interpreter\n", "\u{7f}ELF"] {
        std::fs::write(&file, text).unwrap();
        sandbox
            .refused(126, sandbox.remount().arg(&file))
            .explains(&format!("execute {shown}: exec format error"), "first line");
    }
    std::fs::write(&file, "#!/no/such/interpreter\n").unwrap();
    sandbox
        .refused(127, sandbox.remount().arg(&file))
        .explains(&format!("execute {shown}: no such file or directory"), "interpreter");
}

#[test]
fn a_command_that_fails_keeps_its_own_code() {
    let sandbox = Sandbox::new();
    for code in [0, 1, 2, 124, 125, 126, 127, 128, 255] {
        let outcome = sandbox.remount().sh(&format!("exit {code}")).run();
        assert_eq!((outcome.code(), outcome.stderr()), (Some(code), String::new()));
    }
    let outcome = sandbox.remount().sh("kill -9 $$").run();
    assert_eq!((outcome.code(), outcome.stderr()), (Some(137), String::new()));
}
