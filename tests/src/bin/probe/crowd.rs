//! Clients of remountd, many at once or for long.

use crate::{Answer, Args, errno, usage};
use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::Instant;

pub(crate) fn act(name: &str, args: &Args) -> Option<Answer> {
    Some(match name {
        // `crowd SOCKET CONNECTIONS REQUESTS LINE…`: each connection makes the next request,
        // the lines in turn, when the one before is answered. Answers the microseconds
        // that all of them took; EPROTO if an answer is not OK.
        "crowd" => crowd(args),
        // `attend SOCKET LINE…`: makes a request of each line of its own input that comes,
        // over one connection, the lines in turn, and prints the answers.
        "attend" => attend(args),
        // `classic-daemon SOCKET DIRECTORY [OPTION…]`: does what the first version of remountd
        // does for a toggle of the directory: runs nsenter, with these options too, and mount.
        "classic-daemon" => classic_daemon(args),
        // `classic-ask SOCKET LINE`: what its client does, the line ending in its own pid.
        "classic-ask" => classic_ask(args),
        _ => return None,
    })
}

fn classic_daemon(args: &Args) -> Answer {
    let listener = UnixListener::bind(args.at(0)).map_err(errno)?;
    for stream in listener.incoming() {
        let mut stream = stream.map_err(errno)?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).map_err(errno)?;
        let mut words = line.split_ascii_whitespace();
        let (mode, pid) = (words.next().unwrap_or(""), words.next_back().unwrap_or(""));
        let done = Command::new("nsenter")
            .args(["-t", pid, "-m"])
            .args(args.rest(2))
            .args(["--", "mount", "-o", &format!("remount,{mode},bind")])
            .arg(args.at(1))
            .output()
            .map_err(errno)?;
        let answer = if done.status.success() { b"OK\n".to_vec() } else { done.stderr };
        stream.write_all(&answer).map_err(errno)?;
    }
    Ok(String::new())
}

fn classic_ask(args: &Args) -> Answer {
    let mut stream = UnixStream::connect(args.at(0)).map_err(errno)?;
    let line = format!("{} {}\n", args.text(1), std::process::id());
    stream.write_all(line.as_bytes()).map_err(errno)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(errno)?;
    if answer == "OK\n" { Ok(String::new()) } else { Err(Errno::EPROTO) }
}

struct Client {
    stream: UnixStream,
    next: usize,
    /// What has come of an answer.
    answer: Vec<u8>,
}

impl Client {
    fn ask(&mut self, lines: &[&str]) -> Result<(), Errno> {
        let line = format!("{}\n", lines[self.next % lines.len()]);
        self.next += 1;
        self.stream.write_all(line.as_bytes()).map_err(errno)
    }

    /// Reads; whether the answer is there.
    fn hear(&mut self) -> Result<bool, Errno> {
        let mut chunk = [0; 256];
        let read = self.stream.read(&mut chunk).map_err(errno)?;
        self.answer.extend_from_slice(&chunk[..read]);
        match self.answer.as_slice() {
            b"OK\n" => {
                self.answer.clear();
                Ok(true)
            }
            unfinished if read > 0 && b"OK\n".starts_with(unfinished) => Ok(false),
            other => {
                eprintln!("probe: answered {:?}", String::from_utf8_lossy(other));
                Err(Errno::EPROTO)
            }
        }
    }
}

fn lines<'a>(args: &'a Args, from: usize) -> Vec<&'a str> {
    let lines: Vec<_> = args.rest(from).iter().filter_map(|line| line.to_str()).collect();
    if lines.is_empty() {
        usage("a LINE is missing");
    }
    lines
}

fn crowd(args: &Args) -> Answer {
    let (connections, mut left) = (args.number(1), args.number(2));
    let lines = lines(args, 3);
    let client = |_| {
        let stream = UnixStream::connect(args.at(0)).map_err(errno)?;
        Ok(Client { stream, next: 0, answer: Vec::new() })
    };
    let mut clients = (0..connections).map(client).collect::<Result<Vec<Client>, Errno>>()?;
    let begin = Instant::now();
    let mut open = 0;
    for client in &mut clients {
        if left > 0 {
            client.ask(&lines)?;
            (left, open) = (left - 1, open + 1);
        }
    }
    while open > 0 {
        let fd = |client| PollFd::new(client, PollFlags::IN);
        let mut fds: Vec<_> = clients.iter().map(|it| fd(&it.stream)).collect();
        poll(&mut fds, None).map_err(|error| Errno::from_raw(error.raw_os_error()))?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (client, _) in clients.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            if !client.hear()? {
                continue;
            }
            open -= 1;
            if left > 0 {
                client.ask(&lines)?;
                (left, open) = (left - 1, open + 1);
            }
        }
    }
    Ok(begin.elapsed().as_micros().to_string())
}

fn attend(args: &Args) -> Answer {
    let stream = UnixStream::connect(args.at(0)).map_err(errno)?;
    let mut answers = BufReader::new(stream.try_clone().map_err(errno)?);
    let mut client = Client { stream, next: 0, answer: Vec::new() };
    let lines = lines(args, 1);
    for word in std::io::stdin().lock().lines() {
        word.map_err(errno)?;
        client.ask(&lines)?;
        let mut answer = String::new();
        answers.read_line(&mut answer).map_err(errno)?;
        crate::say(answer.trim_end());
    }
    Ok(String::new())
}
