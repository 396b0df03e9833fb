//! What is lent through remountd is taken back, whatever whoever has it does meanwhile: none of
//! this takes a capability.

use remount_tests::daemon::{Daemon, configure, remountd, socket};
use remount_tests::{LIMIT, Outcome, Sandbox, require, wait_until};
use std::os::unix::net::UnixStream;

/// Asks for a lease that lasts as long as its holder, gives it up after having done something,
/// and waits until nothing can be written any more.
const HOLDER: &str = r#"
import errno, json, os, resource, socket, sys, time
listens, target, act = sys.argv[1:]
outside = os.path.dirname(target); root = os.path.dirname(outside)
def lend():
    s = socket.socket(socket.AF_UNIX); s.connect(listens)
    s.sendall(b'{"op":"set","targets":["w"],"mode":"rw","hold":true}\n')
    return s, json.loads(s.recv(4096))
def is_writable(at):
    try: open(at + "/a", "w").close()
    except OSError as error:
        assert error.errno == errno.EROFS, error
        return False
    return True
def fill():
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
    null, pairs = os.open("/dev/null", 0), []
    while len(pairs) < 40:
        pairs.append(socket.socketpair()); pairs[-1][0].setblocking(False)
        try: socket.send_fds(pairs[-1][0], [b"x"], [null] * 64)
        except OSError as error:
            assert error.errno == errno.ETOOMANYREFS, error
            break
    return pairs
assert not is_writable(target)
held, answer = lend()
assert answer["ok"] and is_writable(target), answer
at = target
if act == "rename":
    os.rename(outside, root + "/gone"); at = root + "/gone/w"
if act == "chmod":
    inside = os.open(target, os.O_PATH); os.chmod(outside, 0); at = f"/proc/self/fd/{inside}"
if act == "fill":
    pairs = fill()
    other, answer = lend()
    print(answer.get("message", "granted")); other.close()
held.close()
while is_writable(at): time.sleep(0.02)
print("closed")
if act == "rename": os.rename(root + "/gone", outside)
if act == "chmod": os.chmod(outside, 0o755)
if act == "fill": del pairs
again, answer = lend()
assert answer["ok"] and is_writable(target), answer
again.close()
while is_writable(target): time.sleep(0.02)
print("closed again")
"#;

fn hold(daemon: &Daemon<'_>, act: &str) -> Outcome {
    let (root, target) = (daemon.sandbox.root(), daemon.target());
    let binds = ["--bind".as_ref(), root, root, "--ro-bind".as_ref(), &target, &target];
    let command = daemon.bwrap(binds).command(["/usr/bin/python3", "-c", HOLDER]);
    command.arg(socket(daemon.sandbox)).arg(target).arg(act).run()
}

#[test]
fn a_lease_ends_whatever_becomes_of_the_path() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    for act in ["nothing", "rename", "chmod"] {
        let outcome = hold(&daemon, act);
        assert_eq!(outcome.success().stdout(), "closed\nclosed again\n", "{act}: {outcome}");
    }
}

/// The kernel lets processes of one user send one another only so many descriptors: what is sent
/// and not received counts for all of them, the daemon and its helpers among them.
#[test]
fn a_lease_ends_though_no_descriptor_can_be_sent() {
    let sandbox = Sandbox::new();
    let config = configure(&sandbox, "").display().to_string();
    let words = remountd(&sandbox).option("--config").option(config).words();
    let script = ["-c", "ulimit -n 256; exec \"$@\"", "sh"];
    let running = sandbox.host(require("sh")).command(script).command(words).start();
    let path = socket(&sandbox);
    wait_until("the daemon listens", LIMIT, || UnixStream::connect(&path).is_ok());
    let daemon = Daemon { sandbox: &sandbox, running };
    let outcome = hold(&daemon, "fill");
    // Root may send as many as there are.
    let lent = match remount_tests::as_root() {
        true => "granted",
        // What could not be closed again without its path is not opened.
        false => {
            "lend w: keep hold of its mount: too many references: cannot splice (ETOOMANYREFS)"
        }
    };
    let expected = format!("{lent}\nclosed\nclosed again\n");
    assert_eq!(outcome.success().stdout(), expected, "{outcome}");
}
