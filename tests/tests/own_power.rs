//! What the programs themselves can do while a sandbox runs: no more than they need. What their
//! filters allow, the unit tests of those show; that they are in force, the kernel says here.

use remount_tests::daemon::Daemon;
use remount_tests::{LIMIT, Sandbox, as_root, children, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// Bits of `CAP_SYS_CHROOT`, `CAP_SYS_PTRACE`, `CAP_SYS_ADMIN` and, where there is a user
/// namespace, `CAP_SYS_RESOURCE` (include/uapi/linux/capability.h).
const BROKER: u64 = 1 << 18 | 1 << 19 | 1 << 21;
const BROKER_IN_USER_NAMESPACE: u64 = BROKER | 1 << 24;

/// A number of `/proc/PID/status`; `None` if the process is gone.
fn field(pid: i32, name: &str, radix: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    Some(u64::from_str_radix(value.expect(name), radix).expect(name))
}

fn filters(pid: i32) -> Option<u64> {
    field(pid, "Seccomp_filters", 10)
}

fn capabilities(pid: i32) -> [Option<u64>; 4] {
    ["CapEff", "CapPrm", "CapInh", "CapAmb"].map(|name| field(pid, name, 16))
}

#[test]
fn broker_and_init_have_what_they_need_and_no_more() {
    let sandbox = Sandbox::new();
    let always = "extends = [\"default\"]\n[sandbox]\nuser-namespace = \"always\"\n";
    let always = sandbox.file("outside/always.toml", always);
    for own_users in [!as_root(), true] {
        let run = sandbox.remount();
        let run = if own_users { run.option("--profile").option(&always) } else { run };
        let mut inside = run.serve();
        let launcher = inside.running().pid();
        let (init, broker) = inside.running().init_and_broker();
        let (init, broker) = (init.expect("init"), broker.expect("a broker"));
        // The command starts before they have given all up, and is heard only then.
        inside.ctl("list", 0);
        wait_until("init is confined", LIMIT, || capabilities(init) == [Some(0); 4]);
        assert_eq!(field(init, "NoNewPrivs", 10), Some(1));
        let kept = Some(if own_users { BROKER_IN_USER_NAMESPACE } else { BROKER });
        assert_eq!(capabilities(broker), [kept, kept, Some(0), Some(0)]);
        assert_eq!(field(broker, "NoNewPrivs", 10), Some(1));
        let around = filters(launcher).expect("a launcher");
        assert_eq!(filters(broker), Some(around + 1));
        inside.end().success();
    }
}

/// A helper of remountd waits for its errand with the filter that it has then.
#[test]
fn a_helper_of_remountd_is_confined_before_it_is_needed() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let pid = daemon.running.pid();
    let around = filters(pid).expect("a daemon");
    // One that has done its errand ends at some time, and has been confined like this one.
    wait_until("a helper is confined", LIMIT, || {
        children(pid).into_iter().any(|helper| filters(helper) == Some(around + 1))
    });
}

/// Whoever may signal the daemon's processes can end the one that waits: nothing is left of it,
/// and the next request has another.
#[test]
fn a_helper_that_ends_before_it_is_needed_is_not_kept() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let pid = daemon.running.pid();
    let around = filters(pid).expect("a daemon");
    let mut waiting = None;
    wait_until("one waits", LIMIT, || {
        let all = children(pid);
        // One that has done its errand has another filter.
        waiting = all.iter().copied().find(|helper| filters(*helper) == Some(around + 1));
        waiting.is_some() && all.len() == 1
    });
    let waiting = waiting.and_then(Pid::from_raw).expect("a helper");
    kill_process(waiting, Signal::KILL).unwrap();
    wait_until("it is gone", LIMIT, || children(pid).is_empty());
    assert_eq!(daemon.sandboxed("\"$CTL\" --socket \"$S\" rw w").stdout(), "w: rw\n");
    wait_until("another waits", LIMIT, || children(pid).len() == 1);
}
