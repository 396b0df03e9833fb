//! A Docker API on a unix socket that records what it is asked, with as much behind it as
//! the `docker` command needs to show something: one container, `web`.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

/// A running server. Its threads end with the test.
pub struct Docker {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The head of each request, as it came.
    asked: Mutex<Vec<String>>,
    /// How many parts of streams may be sent after the first.
    parts: Mutex<usize>,
    more: Condvar,
}

impl Docker {
    /// Starts to serve at `path`.
    #[track_caller]
    pub fn start(path: &Path) -> Docker {
        let listener = UnixListener::bind(path).expect("listen");
        let shared = Arc::new(Shared::default());
        let server = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&server);
                // A client may hang up at any time.
                std::thread::spawn(move || drop(serve(&stream, &shared)));
            }
        });
        Docker { shared }
    }

    /// The heads of all requests since this was last asked for.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.asked.lock().expect("a lock"))
    }

    /// Lets a stream that waits (`logs -f`, `events`) send its next part.
    pub fn go_on(&self) {
        *self.shared.parts.lock().expect("a lock") += 1;
        self.shared.more.notify_all();
    }
}

impl Shared {
    fn wait_for_part(&self) {
        let mut parts = self.parts.lock().expect("a lock");
        while *parts == 0 {
            parts = self.more.wait(parts).expect("a lock");
        }
        *parts -= 1;
    }
}

/// Reads as leniently as any server might: whatever looks like a request is recorded.
fn serve(stream: &UnixStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\n\r\n") && !head.ends_with(b"\n\n") {
            if reader.read_until(b'\n', &mut head)? == 0 {
                break;
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        if head.is_empty() {
            return Ok(());
        }
        shared.asked.lock().expect("a lock").push(head.clone());
        let mut words = head.split_ascii_whitespace();
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let closes = head.to_ascii_lowercase().contains("connection: close");
        respond(stream, shared, method, target, closes)?;
        if method == "POST" && head.to_ascii_lowercase().contains("\ntransfer-encoding: chunked") {
            // What is built: it still comes when the answer is there, and nothing follows it.
            std::io::copy(&mut reader, &mut std::io::sink())?;
            return Ok(());
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        std::io::copy(&mut reader.by_ref().take(length.unwrap_or(0)), &mut std::io::sink())?;
        if closes {
            return Ok(());
        }
    }
}

fn respond(
    mut stream: &UnixStream,
    shared: &Shared,
    method: &str,
    target: &str,
    closes: bool,
) -> std::io::Result<()> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let versioned = path.strip_prefix("/v1.").and_then(|rest| rest.find('/').map(|at| &rest[at..]));
    let path = versioned.unwrap_or(path).replace(ID, "web");
    let path = path.as_str();
    let connection = if closes { "Connection: close\r\n" } else { "" };
    let reads = method == "GET" || method == "HEAD";
    if let Some(parts) = stream_of(path).filter(|_| reads) {
        write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{connection}\r\n")?;
        let follows = path == "/events" || query.contains("follow=1");
        for (number, part) in parts.into_iter().enumerate() {
            if follows && number > 0 {
                shared.wait_for_part();
            }
            write!(stream, "{:x}\r\n", part.len())?;
            stream.write_all(&part)?;
            stream.write_all(b"\r\n")?;
        }
        return stream.write_all(b"0\r\n\r\n");
    }
    let (status, body) = match body_of(path).filter(|_| reads) {
        Some(Value::String(text)) => ("200 OK", text),
        Some(body) => ("200 OK", body.to_string()),
        None if reads => ("404 Not Found", json!({ "message": "no such thing" }).to_string()),
        None => ("501 Not Implemented", json!({ "message": "recorded" }).to_string()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nApi-Version: 1.41\r\nDocker-Experimental: false\r\nOstype: linux\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n{connection}\r\n"
    )?;
    if method == "HEAD" { Ok(()) } else { stream.write_all(body.as_bytes()) }
}

/// What comes in parts.
fn stream_of(path: &str) -> Option<Vec<Vec<u8>>> {
    // Of standard output, with its length (ContainerAttach in the API's documentation).
    let line = |text: &str| {
        let length = u32::try_from(text.len()).expect("a short line").to_be_bytes();
        [&[1, 0, 0, 0], &length[..], text.as_bytes()].concat()
    };
    let event = |action: &str| {
        let actor = json!({ "ID": ID, "Attributes": { "name": "web" } });
        let event = json!({
            "Type": "container", "Action": action, "status": action, "id": ID, "from": "img",
            "Actor": actor, "scope": "local", "time": 1, "timeNano": 1_000_000_000,
        });
        format!("{event}\n").into_bytes()
    };
    match path {
        "/containers/web/logs" => Some(vec![line("first line\n"), line("second line\n")]),
        "/events" => Some(vec![event("start"), event("die")]),
        _ => None,
    }
}

const ID: &str = "0123456789ab0123456789ab0123456789ab0123456789ab0123456789ab0123";

fn body_of(path: &str) -> Option<Value> {
    let image = json!({
        "Id": format!("sha256:{ID}"), "RepoTags": ["img:latest"], "RepoDigests": [], "Created": 1,
        "Size": 1, "SharedSize": 0, "Containers": 1, "Labels": {},
    });
    let usage = json!({
        "cpu_usage": { "total_usage": 1, "percpu_usage": [1] }, "system_cpu_usage": 2,
        "online_cpus": 1,
    });
    let state = json!({ "Status": "running", "Running": true, "Pid": 1 });
    Some(match path {
        "/_ping" => json!("OK"),
        "/version" => json!({ "Version": "0.recorded", "ApiVersion": "1.41", "Os": "linux" }),
        "/info" => json!({ "ID": "recorded", "Containers": 1, "ServerVersion": "0.recorded" }),
        "/containers/json" => json!([{
            "Id": ID, "Names": ["/web"], "Image": "img", "Command": "sleep", "Created": 1,
            "Ports": [], "State": "running", "Status": "Up",
        }]),
        "/containers/web/json" => json!({
            "Id": ID, "Name": "/web", "State": state, "Image": "img",
            "Config": { "Tty": false, "Image": "img" },
            "HostConfig": { "LogConfig": { "Type": "json-file" } },
            "NetworkSettings": { "Ports": { "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "8080" }] } },
        }),
        "/containers/web/top" => {
            json!({ "Titles": ["PID", "CMD"], "Processes": [["1", "sleep 9"]] })
        }
        "/containers/web/changes" => json!([{ "Path": "/changed", "Kind": 1 }]),
        "/containers/web/stats" => json!({
            "name": "/web", "id": ID, "cpu_stats": usage, "precpu_stats": usage,
            "memory_stats": { "usage": 1 << 20, "limit": 1 << 30 }, "pids_stats": { "current": 7 },
        }),
        "/images/json" => json!([image]),
        "/images/img/json" => json!({
            "Id": format!("sha256:{ID}"), "RepoTags": ["img:latest"], "Size": 1, "Os": "linux",
        }),
        "/images/img/history" => {
            json!([{ "Id": ID, "Created": 1, "CreatedBy": "COPY", "Size": 1 }])
        }
        "/networks" => {
            json!([{ "Id": ID, "Name": "bridge", "Driver": "bridge", "Scope": "local" }])
        }
        "/volumes" => json!({ "Volumes": [{ "Name": "vol", "Driver": "local" }] }),
        _ => return None,
    })
}
