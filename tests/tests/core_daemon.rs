//! remountd where nothing but static programs is there, on whatever kernel: before 6.5 it has
//! to find its callers in another way.

use remount_tests::daemon::{Daemon, socket};
use remount_tests::{Sandbox, bin};

#[test]
fn a_sandbox_without_any_tool_is_served() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let target = daemon.target();
    let inside = |words: &[&str]| {
        let probe = sandbox.host(bin("probe")).options(["--userns", "--bind"]).option(&target);
        let probe = probe.option(&target).option("--read-only").option(&target).arg("exec");
        let script =
            r#""$0" --socket "$1" "$2" "$3"; echo "code $?"; (: >"$4") 2>/dev/null && echo WROTE"#;
        let shell = probe.command(["/bin/sh", "-c", script]).arg(bin("remountctl"));
        shell.arg(socket(&sandbox)).command(words).arg(target.join("mark")).run()
    };
    let opened = inside(&["rw", "w"]);
    assert_eq!(opened.stdout(), "w: rw\ncode 0\nWROTE\n", "{opened}");
    std::fs::remove_file(target.join("mark")).unwrap();
    assert_eq!(inside(&["ro", "w"]).stdout(), "w: ro\ncode 0\n");
    let unknown = inside(&["rw", "x"]);
    assert_eq!(unknown.stdout(), "code 2\n", "{unknown}");
    assert!(!target.join("mark").exists());
    // Somebody on the host, who is in none.
    daemon.ctl().command(["rw", "w"]).run().exits(5).says("from the host");
}
