//! A socket of Docker's in a sandbox whose profile says `access = "read"`: the real client,
//! and bytes that no client would send, against an API that records what it sees.
//!
//! `REMOUNT_SEED` sets the first number of the random requests, `REMOUNT_REQUESTS` how many.

use remount_tests::docker::Docker;
use remount_tests::{Cmd, LIMIT, Outcome, Sandbox, require, wait_until};
use std::path::{Path, PathBuf};

/// The profile of a world.
const LOOK: &str = "home/.config/remount/profiles/look.toml";

/// Where clients look for it.
const SOCKET: &str = "/var/run/docker.sock";

struct World {
    sandbox: Sandbox,
    docker: Docker,
}

impl World {
    fn new() -> World {
        let sandbox = Sandbox::new();
        let path = upstream(&sandbox);
        let docker = Docker::start(&path);
        profile(&sandbox, "look", &format!("access = \"read\"\nupstream = {path:?}\n"));
        World { sandbox, docker }
    }

    fn inside(&self) -> Cmd {
        self.sandbox.remount().options(["--profile", "look"])
    }

    /// The client, inside.
    fn docker(&self, words: &str) -> Cmd {
        let docker = self.inside().env("DOCKER_BUILDKIT", "0").arg(require("docker"));
        docker.command(words.split(' '))
    }

    /// The client, outside, at the API itself.
    fn docker_outside(&self, words: &str) -> Outcome {
        let host = format!("unix://{}", upstream(&self.sandbox).display());
        let docker = self.sandbox.host(require("docker")).env("DOCKER_BUILDKIT", "0");
        docker.env("DOCKER_HOST", host).command(words.split(' ')).run()
    }
}

fn upstream(sandbox: &Sandbox) -> PathBuf {
    sandbox.root().join("outside/docker.sock")
}

/// A profile of the user's own: the default, and this of `[sockets.docker]`.
fn profile(sandbox: &Sandbox, name: &str, socket: &str) {
    let path = format!("home/.config/remount/profiles/{name}.toml");
    let text = format!("extends = [\"default\"]\n[sockets.docker]\n{socket}");
    sandbox.file(path, text);
}

/// Whether a request only reads, judged by its first line and by other means than the
/// filter's.
fn only_reads(head: &str) -> bool {
    let line = head.lines().next().unwrap_or("");
    let words: Vec<&str> = line.split(' ').collect();
    let ["GET" | "HEAD", target, "HTTP/1.1"] = words.as_slice() else { return false };
    let path = target.split('?').next().unwrap_or("");
    let path = path.strip_prefix("/v1.41").unwrap_or(path);
    let first = path.split('/').nth(1).unwrap_or("");
    let known = [
        "_ping",
        "version",
        "info",
        "events",
        "system",
        "containers",
        "images",
        "networks",
        "volumes",
        "plugins",
        "nodes",
        "services",
        "tasks",
        "libpod",
    ];
    let last = path.rsplit('/').next().unwrap_or("");
    let opens = [
        "archive", "attach", "ws", "exec", "export", "get", "start", "session", "create", "search",
    ];
    let lower = head.to_ascii_lowercase();
    known.contains(&first)
        && !opens.contains(&last)
        && !["..", "%", "\\", "//"].iter().any(|odd| path.contains(odd))
        && !["upgrade", "transfer-encoding", "content-length"].iter().any(|it| lower.contains(it))
}

#[test]
fn commands_that_read_work() {
    let world = World::new();
    for (words, shows) in [
        ("ps", "web"),
        ("ps --no-trunc -a --filter name=web", "web"),
        ("images", "img"),
        ("inspect web", "\"Name\": \"/web\""),
        ("image inspect img", "img:latest"),
        ("history img", "COPY"),
        ("logs web", "second line"),
        ("top web", "sleep 9"),
        ("diff web", "A /changed"),
        ("port web", "80/tcp"),
        ("stats --no-stream web", "1MiB / 1GiB"),
        ("version", "0.recorded"),
        ("info", "Server Version: 0.recorded"),
        ("network ls", "bridge"),
        ("volume ls", "vol"),
    ] {
        let outcome = world.docker(words).run();
        assert!(outcome.success().stdout().contains(shows), "{words}: {outcome}");
        let asked = world.docker.take();
        assert!(!asked.is_empty() && asked.iter().all(|head| only_reads(head)), "{asked:#?}");
    }
}

#[test]
fn in_a_read_only_machine_the_filter_is_all_there_is() {
    let world = World::new();
    let text = std::fs::read_to_string(world.sandbox.root().join(LOOK)).unwrap();
    let text = text.replace("default", "readonly");
    world.sandbox.file(LOOK, &text);
    // The shim answers first, for who calls the tool.
    let shim = "remount: docker rm is blocked (read-only sandbox)";
    world.docker("rm web").run().exits(126).says(shim);
    world.sandbox.file(LOOK, text + "[remove]\nshims = ['docker']\n");
    let outcome = world.docker("ps").run();
    assert!(outcome.success().stdout().contains("web"), "{outcome}");
    world.docker("rm web").run().says("remount: DELETE /containers/web is blocked");
    let asked = world.docker.take();
    assert!(!asked.is_empty() && asked.iter().all(|head| only_reads(head)), "{asked:#?}");
}

#[test]
fn what_is_followed_comes_when_it_is_made() {
    let world = World::new();
    for (words, first, second) in [
        ("logs -f web", "first line", "second line"),
        ("events --format {{.Action}}", "start", "die"),
    ] {
        let mut running = world.docker(words).start();
        // The second is made when the first has come.
        assert_eq!(running.line(), first);
        world.docker.go_on();
        assert_eq!(running.line(), second);
        running.wait().success();
    }
}

#[test]
fn commands_that_change_or_open_something_never_get_there() {
    let world = World::new();
    world.sandbox.file("project/Dockerfile", "FROM scratch\n");
    world.sandbox.file("project/large", vec![b'x'; 1 << 20]);
    for (words, blocked) in [
        ("run img true", "POST /containers/create"),
        ("create img", "POST /containers/create"),
        ("rm -f web", "DELETE /containers/web"),
        ("rmi img", "DELETE /images/img"),
        ("stop web", "POST /containers/web/stop"),
        ("kill web", "POST /containers/web/kill"),
        ("restart web", "POST /containers/web/restart"),
        ("rename web other", "POST /containers/web/rename"),
        ("exec web true", "POST /containers/web/exec"),
        ("attach --no-stdin web", "unable to upgrade to tcp, received 403"),
        ("commit web other", "POST /commit"),
        ("cp web:/etc/passwd -", "GET /containers/web/archive"),
        ("export web", "GET /containers/web/export"),
        ("save img", "GET /images/get"),
        ("search img", "GET /images/search"),
        ("pull img", "POST /images/create"),
        ("tag img other", "POST /images/img/tag"),
        ("network create n", "POST /networks/create"),
        ("network rm bridge", "DELETE /networks/bridge"),
        ("volume create v", "POST /volumes/create"),
        ("volume rm vol", "DELETE /volumes/vol"),
        ("system prune -f", "POST /containers/prune"),
        ("swarm init", "POST /swarm/init"),
        ("config ls", "GET /configs"),
        ("secret ls", "GET /secrets"),
        ("build .", "POST /build"),
    ] {
        // The twin: so it gets to the API itself.
        world.docker_outside(words);
        let recorded = world.docker.take();
        assert!(!recorded.iter().all(|head| only_reads(head)), "{words}: {recorded:#?}");
        let outcome = world.docker(words).run();
        assert_ne!(outcome.code(), Some(0), "{words}: {outcome}");
        match blocked.contains(" /") {
            true => outcome.says(&format!("remount: {blocked} is blocked (read-only sandbox)")),
            // The client does not show what it is told.
            false => outcome.says(blocked),
        };
        let seen = world.docker.take();
        assert!(seen.iter().all(|head| only_reads(head)), "{words}: {seen:#?}");
    }
}

/// Connects to a socket for each line of its input, sends the bytes that it is in hexadecimal,
/// and prints the first line of what comes back.
const SEND: &str = "
import socket, sys
for line in sys.stdin:
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    try:
        s.sendall(bytes.fromhex(line))
        # What is not complete is so for ever.
        s.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    answer = b''
    while not answer.endswith(b'\\r\\n'):
        try:
            byte = s.recv(1)
        except ConnectionResetError:
            break
        if not byte:
            break
        answer += byte
    print(answer.decode('latin-1').strip(), flush=True)
    s.close()
";

/// Each request's answer, sent by `command` (inside or outside) to `socket`.
fn send_all(command: Cmd, socket: &Path, requests: &[Vec<u8>]) -> Vec<String> {
    let hex = |bytes: &Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n";
    let input: String = requests.iter().map(hex).collect();
    let command = command.arg(require("python3")).command(["-c", SEND]).arg(socket).stdin(input);
    let outcome = command.run();
    let answers: Vec<String> = outcome.success().stdout().lines().map(str::to_owned).collect();
    assert_eq!(answers.len(), requests.len(), "{outcome}");
    answers
}

#[test]
fn smuggled_requests_are_seen_by_nobody() {
    let world = World::new();
    let get = |rest: &str| format!("GET /info HTTP/1.1\r\nHost: a\r\n{rest}\r\n");
    let post = "POST /containers/create HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    let chunked = format!("0\r\n\r\n{post}");
    let mut requests = vec![
        post.to_owned(),
        get("Content-Length: 0\r\nContent-Length: 90\r\n") + post,
        get("Content-Length: 90\r\nTransfer-Encoding: chunked\r\n") + &chunked,
        get("Transfer-Encoding: chunked\r\n") + &chunked,
        get("Transfer-Encoding : chunked\r\n") + &chunked,
        get("Transfer-Encoding: xchunked\r\n") + &chunked,
        get("Transfer-Encoding:\r\n chunked\r\n") + &chunked,
        get("X: a\r\n\tTransfer-Encoding: chunked\r\n") + &chunked,
        get("X: a\0\r\n"),
        get("X: a\rb\r\n"),
        get("X: a\nTransfer-Encoding: chunked\r\n") + &chunked,
        get("Upgrade: tcp\r\nConnection: Upgrade\r\n"),
        get("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n"),
        get("Expect: 100-continue\r\n"),
        get(&format!("X: {}\r\n", "x".repeat(1 << 20))),
        get("") + post,
        get("") + &get(""),
        "GET /info HTTP/1.1\nHost: a\n\n".to_owned(),
        "GET /info\r\n\r\n".to_owned(),
        "GET /info HTTP/1.0\r\nHost: a\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ];
    for target in [
        "http://localhost/info",
        "localhost:80",
        "*",
        "//info",
        "/containers/%2e%2e/info",
        "/containers/../info",
        "/info/.",
        "/containers/a%2f..%2f..%2finfo",
        "/info%00",
        "/info#/containers/create",
        "/info?a=%0d%0aX:b",
        "/containers/web/attach/ws?stream=1",
        "/containers/web/archive?path=/",
        "/containers/web/export",
        "/images/get?names=img",
        "/exec/e/json",
        "/session",
        "/grpc",
        "/swarm/unlockkey",
        "/configs",
        "/secrets",
        "/distribution/a/json",
    ] {
        requests.push(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    let requests: Vec<Vec<u8>> = requests.into_iter().map(String::into_bytes).collect();
    let answers = send_all(world.inside(), Path::new(SOCKET), &requests);
    for (request, answer) in requests.iter().zip(answers) {
        let refused = ["400", "403", "431", "505"];
        let shown = request[..request.len().min(200)].escape_ascii();
        assert!(refused.contains(&answer.get(9..12).unwrap_or("")), "{shown}: {answer}");
    }
    assert_eq!(world.docker.take(), [""; 0]);
    // The twins: what is plain gets there, by the same means, and all of it outside.
    let plain = [get("").into_bytes()];
    assert_eq!(send_all(world.inside(), Path::new(SOCKET), &plain), ["HTTP/1.1 200 OK"]);
    let heads = world.docker.take();
    assert_eq!(heads.len(), 1);
    assert!(heads[0].starts_with("GET /info HTTP/1.1\r\nHost: localhost\r\n"), "{heads:?}");
    send_all(world.sandbox.host("/usr/bin/env"), &upstream(&world.sandbox), &requests[..1]);
    assert_eq!(world.docker.take(), [post]);
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    usize::try_from((z ^ (z >> 31)) >> 1).expect("63 bits")
}

#[test]
fn whatever_is_sent_only_reading_requests_arrive() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
    };
    let (seed, count) = (number("REMOUNT_SEED", 1), number("REMOUNT_REQUESTS", 600));
    let pieces = [
        "GET ",
        "HEAD ",
        "POST ",
        "/info",
        "/v1.41",
        "/containers/web/json",
        "/exec",
        "/..",
        "/%2e%2e",
        "/containers/web/archive",
        "?a=b",
        "#",
        " HTTP/1.1",
        "\r\n",
        "\n",
        "\r",
        "\0",
        " ",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Upgrade: tcp\r\n",
        "Connection: Upgrade\r\n",
        "\r\n\r\nPOST /containers/create HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    let mut state = seed;
    let mut one = || {
        let mut bytes =
            b"GET /v1.41/containers/web/json?a=1 HTTP/1.1\r\nHost: a\r\nX: y\r\n".to_vec();
        for _ in 0..next(&mut state) % 4 {
            let at = next(&mut state) % bytes.len();
            match next(&mut state) % 3 {
                0 => bytes[at] = next(&mut state).to_le_bytes()[0],
                1 => drop(bytes.remove(at)),
                _ => {
                    let piece = pieces[next(&mut state) % pieces.len()];
                    bytes.splice(at..at, piece.bytes());
                }
            }
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    };
    let requests: Vec<_> = (0..count).map(|_| one()).collect();
    let world = World::new();
    let answers = send_all(world.inside(), Path::new(SOCKET), &requests);
    let passed = answers.iter().filter(|answer| !answer.starts_with("HTTP/1.1 4")).count();
    let seen = world.docker.take();
    for head in &seen {
        assert!(only_reads(head), "seed {seed}: {head:?}");
    }
    assert!(passed > 0 && passed < answers.len() && !seen.is_empty(), "{passed} of {count}");
}

#[test]
fn the_socket_itself_is_nowhere() {
    let world = World::new();
    let path = upstream(&world.sandbox);
    let connect = |cmd: Cmd, to: &Path| cmd.probe([Path::new("connect-unix"), to]);
    connect(world.sandbox.host_probe(), &path).ok();
    connect(world.inside(), &path).errno("EACCES");
    connect(world.inside(), Path::new(SOCKET)).ok();
    // Seen at another place.
    let (dir, mnt) = (path.parent().unwrap(), world.sandbox.dir("mnt"));
    let bound = || world.inside().option("--ro-bind").option(dir).option(&mnt);
    bound().sh("ls -A $0").arg(&mnt).run().success();
    connect(bound(), &mnt.join("docker.sock")).errno("EACCES");
    // What the filter has of its own is its socket, and cannot be changed.
    let own = "/run/remount/sockets/docker";
    world.inside().probe(["unlink", own]).errno("EROFS");
    world.inside().probe(["unlink", "/run/docker.sock"]).errno("EBUSY");
}

#[test]
fn a_socket_may_be_hidden_without_a_filter() {
    let sandbox = Sandbox::new();
    let path = upstream(&sandbox);
    let _docker = Docker::start(&path);
    profile(&sandbox, "none", &format!("access = \"none\"\npath = [{path:?}]\n"));
    let connect = |cmd: Cmd| cmd.probe([Path::new("connect-unix"), &path]);
    connect(sandbox.host_probe()).ok();
    connect(sandbox.remount()).ok();
    connect(sandbox.remount().options(["--profile", "none"])).errno("EACCES");
}

#[test]
fn a_socket_that_the_command_could_replace_is_refused() {
    let sandbox = Sandbox::new();
    let path = sandbox.project().join("docker.sock");
    let _docker = Docker::start(&path);
    profile(&sandbox, "look", &format!("access = \"read\"\nupstream = {path:?}\n"));
    let outcome = sandbox.remount().options(["--profile", "look"]).arg("true").run();
    outcome.exits(125).says("it is in a directory that is writable in the sandbox");
    profile(&sandbox, "look", "access = \"read\"\n[sockets.other]\naccess = \"none\"\n");
    let outcome = sandbox.remount().options(["--profile", "look"]).arg("true").run();
    outcome.exits(125).says("look.toml:5:10").says("add `path = [");
}

/// The process that filters, of the sandbox started by `launcher`: its third child.
fn filter_of(launcher: i32) -> Option<i32> {
    let children = format!("/proc/{launcher}/task/{launcher}/children");
    let children = std::fs::read_to_string(children).ok()?;
    children.split_whitespace().nth(2)?.parse().ok()
}

#[test]
fn the_filter_ends_with_the_sandbox_and_has_no_power() {
    let world = World::new();
    let mut running = world.inside().sh("echo up; read x").start_interactive();
    assert_eq!(running.line(), "up");
    let filter = filter_of(running.pid()).expect("a filter");
    let status = || std::fs::read_to_string(format!("/proc/{filter}/status")).unwrap_or_default();
    wait_until("it is confined", LIMIT, || status().contains("Seccomp:\t2\n"));
    for field in ["CapEff:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "NoNewPrivs:\t1\n"]
    {
        assert!(status().contains(field), "{field}: {}", status());
    }
    running.send("\n");
    running.wait().success();
    assert!(!Path::new(&format!("/proc/{filter}")).exists());
    // No profile that asks for it, no filter.
    let mut running = world.sandbox.remount().sh("echo up; read x").start_interactive();
    assert_eq!(running.line(), "up");
    assert_eq!(filter_of(running.pid()), None);
    running.send("\n");
    running.wait().success();
}

#[test]
fn without_the_filter_nothing_is_open() {
    let world = World::new();
    let script = "echo up; read x; docker ps 2>&1; echo \"code $?\"";
    let mut running = world.inside().sh(script).start_interactive();
    assert_eq!(running.line(), "up");
    let filter = filter_of(running.pid()).expect("a filter");
    let pid = rustix::process::Pid::from_raw(filter).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_until("it has ended", LIMIT, || !Path::new(&format!("/proc/{filter}")).exists());
    running.send("\n");
    assert_eq!(running.line_with("code "), "code 1");
    let outcome = running.wait();
    outcome.success().says("warning: the filter of sockets has ended");
    assert_eq!(world.docker.take(), [""; 0]);
}
