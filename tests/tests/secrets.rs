//! Keys and logins cannot be read under any profile; with the agent for ssh keys, they
//! can be used.

use remount_tests::agent::{LONG, SECRET, SECRETS};
use remount_tests::{Cmd, Running, Sandbox, as_root, bin, require, uid, wait_until};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The login of each agent that has a profile, below the home directory.
const LOGINS: [(&str, &str); 11] = [
    ("aider", ".aider/oauth-keys.env"),
    ("amp", ".local/share/amp/secrets.json"),
    ("claude", ".claude/.credentials.json"),
    ("codex", ".codex/auth.json"),
    ("copilot", ".copilot/config.json"),
    ("crush", ".local/share/crush/crush.json"),
    ("cursor-agent", ".config/cursor/auth.json"),
    ("gemini", ".gemini/oauth_creds.json"),
    ("goose", ".config/goose/secrets.yaml"),
    ("opencode", ".local/share/opencode/auth.json"),
    ("qwen", ".qwen/oauth_creds.json"),
];

/// Prints, sorted, each file below the home directory with a secret in it, and whether
/// the keyring answers.
const SEARCH: &str = "cd ~ && grep -rls SECRET- . | sort; \
    python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])' \
        \"$XDG_RUNTIME_DIR/keyring/control\" 2>/dev/null && echo keyring; true";

fn planted() -> (Sandbox, UnixListener, PathBuf) {
    let sandbox = Sandbox::git();
    for file in SECRETS.into_iter().chain(LOGINS.map(|(_, file)| file)) {
        sandbox.file(format!("home/{file}"), format!("{SECRET}{file}\n"));
    }
    let runtime = sandbox.dir("run");
    std::fs::set_permissions(&runtime, PermissionsExt::from_mode(0o700)).unwrap();
    sandbox.dir("run/keyring");
    let keyring = UnixListener::bind(runtime.join("keyring/control")).unwrap();
    (sandbox, keyring, runtime)
}

#[test]
fn no_profile_shows_a_secret_but_an_agents_own_login() {
    let (sandbox, _keyring, runtime) = planted();
    let search = |run: Cmd| {
        let outcome = run.env("XDG_RUNTIME_DIR", &runtime).run();
        let text = outcome.success().stdout();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let outside = search(sandbox.host("/bin/sh").command(["-c", SEARCH]));
    assert_eq!(outside.len(), SECRETS.len() + LOGINS.len() + 1, "{outside:#?}");
    assert!(outside.contains(&"keyring".to_owned()));
    let listed = sandbox.host(bin("remount-run")).option("--list-profiles").run();
    let names = listed.success().stdout();
    let names = names.lines().filter_map(|line| line.split_whitespace().next());
    // One needs an agent for keys, and is tested below.
    let names: Vec<_> = names.filter(|name| !name.contains('/') && *name != "ssh-agent").collect();
    // And `default`, `generic-agent`, `readonly`, `shims`.
    assert_eq!(names.len(), LOGINS.len() + 4, "{names:?}");
    for name in names {
        let inside = search(sandbox.remount().options(["--profile", name]).sh(SEARCH));
        let own = LOGINS.iter().find(|(agent, _)| *agent == name);
        let expected: Vec<_> = own.iter().map(|(_, file)| format!("./{file}")).collect();
        assert_eq!(inside, expected, "{name}");
    }
}

/// ssh and its server want a user with a name; in a sandbox this one has one.
fn named(sandbox: &Sandbox, run: Cmd) -> Cmd {
    run.option("--ro-bind").option(passwd(sandbox)).option("/etc/passwd")
}

/// A table of users with this one in it.
fn passwd(sandbox: &Sandbox) -> PathBuf {
    let name = if as_root() { "root" } else { "tester" };
    let home = sandbox.home();
    // The last is whom root's sshd makes the process that talks to strangers.
    let entry = format!(
        "{name}:x:{0}:{0}::{1}:/bin/sh\nsshd:x:65534:65534::/run/sshd:/usr/sbin/nologin\n",
        uid(),
        home.display()
    );
    sandbox.file("outside/passwd", entry)
}

/// A key in `~/.ssh`, an agent that holds it, and a server that lets it in. The user
/// without a name has them in a sandbox of their own; to the test they are outside.
const SERVER: &str = r#"
    cd && umask 077 && mkdir .ssh && PATH=$PATH:/usr/sbin
    ssh-keygen -q -t ed25519 -N '' -C test -f .ssh/id_ed25519
    cp .ssh/id_ed25519.pub .ssh/authorized_keys
    ssh-keygen -q -t ed25519 -N '' -f .ssh/host_key
    echo "[127.0.0.1]:$1 $(cat .ssh/host_key.pub)" >.ssh/known_hosts
    ssh-agent -D -a "$2" >/dev/null &
    until SSH_AUTH_SOCK=$2 ssh-add -l >/dev/null 2>&1 || test $? = 1; do sleep 0.01; done
    SSH_AUTH_SOCK=$2 ssh-add -q .ssh/id_ed25519
    git init -q --bare remote.git
    echo ready
    exec "$(command -v sshd)" -D -e -f /dev/null -h "$PWD/.ssh/host_key" -o "ListenAddress=127.0.0.1:$1" \
        -o PidFile=none -o UsePAM=no -o StrictModes=no -o PasswordAuthentication=no \
        -o KbdInteractiveAuthentication=no -o "AuthorizedKeysFile=$PWD/.ssh/authorized_keys""#;

/// A port that nobody else is given as long as the socket is there. A server that says
/// `SO_REUSEADDR`, as they do, may have it beside this one, which does not listen.
fn reserved_port() -> (OwnedFd, u16) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};
    let reserved = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&reserved, true).unwrap();
    bind(&reserved, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = SocketAddrV4::try_from(getsockname(&reserved).unwrap()).unwrap();
    (reserved, address.port())
}

fn serve(sandbox: &Sandbox, port: u16, agent: &Path) -> Running {
    let words = |run: Cmd| run.command(["-ec", SERVER, "sh", &port.to_string()]).arg(agent).start();
    let mut server = if as_root() {
        // Its keys are where the system says that root's home is: here, for this server.
        let mount = "mount --bind \"$PASSWD\" /etc/passwd; mount -t tmpfs none /run; \
                     mkdir -m 755 /run/sshd; exec \"$@\"";
        let run = sandbox.host(require("unshare")).env("PASSWD", passwd(sandbox));
        words(run.command(["-m", "sh", "-ec", mount, "sh", "/bin/sh"]))
    } else {
        let profile = sandbox.file("outside/server.toml", "description = \"all is visible\"\n");
        std::fs::set_permissions(&profile, PermissionsExt::from_mode(0o644)).unwrap();
        let run = sandbox.remount().option("--profile").option(profile);
        let run = [sandbox.home(), sandbox.outside()]
            .into_iter()
            .fold(run, |run, dir| run.option("--bind").option(&dir).option(&dir));
        words(named(sandbox, run).arg("/bin/sh"))
    };
    server.line_with("ready");
    wait_until("the server listens", LONG, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    server
}

#[test]
fn git_pushes_with_the_agent_for_keys_and_no_key_is_seen() {
    let sandbox = Sandbox::git();
    let (_reserved, port) = reserved_port();
    let agent = sandbox.outside().join("agent");
    let _server = serve(&sandbox, port, &agent);
    let remote = format!("ssh://127.0.0.1:{port}{}/remote.git", sandbox.home().display());
    let push = format!(
        "git push -q --receive-pack={} {remote} HEAD:refs/heads/pushed",
        require("git-receive-pack").display()
    );
    let inside = |profiles: &[&str], script: &str| {
        let run = profiles.iter().fold(sandbox.remount(), |run, it| run.options(["--profile", it]));
        named(&sandbox, run).env("SSH_AUTH_SOCK", &agent).sh(script).run()
    };
    // Not granted, it is not there.
    let outcome = inside(&["claude"], &push);
    assert_ne!(outcome.code(), Some(0), "{outcome}");
    let granted = ["claude", "ssh-agent"];
    let script = format!("{push} && ssh-add -l && ls -A ~/.ssh && grep -rs 'PRIVATE KEY' ~; true");
    let outcome = inside(&granted, &script);
    let printed = outcome.success().stdout();
    assert!(printed.contains("test (ED25519)") && printed.ends_with("known_hosts\n"), "{outcome}");
    assert!(!printed.contains("PRIVATE"), "{outcome}");
    let head = sandbox.host(require("git")).command(["rev-parse", "HEAD"]).run().stdout();
    let remote = sandbox.home().join("remote.git/refs/heads/pushed");
    assert_eq!(std::fs::read_to_string(remote).ok(), Some(head), "{outcome}");
    // Where no agent for keys runs it says so.
    let run = sandbox.remount().options(["--profile", "ssh-agent"]).sh("true").run();
    run.exits(125).says("SSH_AUTH_SOCK is not set");
}
