//! The same static binaries on Debian 12's stock kernel, booted under emulation.

use remount_tests::{Cmd, bin};
use std::path::Path;
use std::time::Duration;

/// Runs every `core_*` test there, as root and as an ordinary user.
#[test]
fn older_kernel_passes_the_core_tests() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/vm-test");
    let test = std::env::current_exe().expect("this test has a path");
    let bins = bin("probe");
    // If this test is killed, so is the script, and with it the machine.
    let outcome = Cmd::plain("/usr/bin/setpriv")
        .command(["--pdeathsig", "TERM"])
        .command([&script])
        .command(["--bins".as_ref(), bins.parent().expect("a directory").as_os_str()])
        .command(["--tests".as_ref(), test.parent().expect("a directory").as_os_str()])
        .timeout(Duration::from_secs(1700))
        .run();
    outcome.success();
    let stdout = outcome.stdout();
    let last = stdout.lines().last().expect("a closing line");
    assert!(last.starts_with("VM: ") && last.ends_with(" passed, 0 failed"), "{outcome}");
    println!("{stdout}");
}
