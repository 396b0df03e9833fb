//! As much of HTTP/1.1 as the agents' clients need.

use super::{Asked, Shared, wire};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// Answers the requests of one connection, until the client hangs up.
pub(super) fn serve(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some((path, body)) = request(&mut reader, stream)? {
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let asked = Asked { path: path.clone(), body: body.clone() };
        shared.asked.lock().expect("a lock").push(asked);
        let answer = match wire::Api::of(&path) {
            Some(api) => api.answer(&path, &body, &shared.next(api, &body)),
            None => other(&path),
        };
        respond(stream, &answer)?;
    }
    Ok(())
}

/// An answer to be sent.
pub(super) struct Answer {
    pub status: &'static str,
    pub kind: &'static str,
    /// Sent one after the other, as chunks.
    pub parts: Vec<String>,
}

impl Answer {
    pub fn json(value: &Value) -> Answer {
        Answer { status: "200 OK", kind: "application/json", parts: vec![value.to_string()] }
    }

    pub fn events(parts: Vec<String>) -> Answer {
        Answer { status: "200 OK", kind: "text/event-stream", parts }
    }
}

/// What is asked for besides answers of the model.
fn other(path: &str) -> Answer {
    if path.contains("count") {
        return Answer::json(&json!({ "input_tokens": 10, "totalTokens": 10 }));
    }
    if path.ends_with("/models") {
        return Answer::json(&json!({ "object": "list", "data": [], "models": [] }));
    }
    let body = json!({ "error": { "type": "not_found_error", "message": "not found" } });
    Answer { status: "404 Not Found", ..Answer::json(&body) }
}

/// The path and the body of the next request.
fn request(
    reader: &mut BufReader<&TcpStream>,
    mut writer: &TcpStream,
) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim().to_ascii_lowercase();
        match header.split_once(':') {
            None => break,
            Some(("content-length", value)) => length = value.trim().parse().unwrap_or(0),
            Some(("transfer-encoding", value)) => chunked = value.contains("chunked"),
            Some(("expect", _)) => writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?,
            Some(_) => {}
        }
    }
    let mut body = Vec::new();
    if !chunked {
        reader.take(length).read_to_end(&mut body)?;
        return Ok(Some((path, body)));
    }
    loop {
        let mut size = String::new();
        reader.read_line(&mut size)?;
        let size = u64::from_str_radix(size.trim(), 16).unwrap_or(0);
        reader.by_ref().take(size).read_to_end(&mut body)?;
        reader.read_line(&mut String::new())?;
        if size == 0 {
            return Ok(Some((path, body)));
        }
    }
}

fn respond(mut stream: &TcpStream, answer: &Answer) -> std::io::Result<()> {
    let Answer { status, kind, parts } = answer;
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    for part in parts.iter().filter(|part| !part.is_empty()) {
        stream.write_all(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes())?;
        stream.flush()?;
    }
    stream.write_all(b"0\r\n\r\n")
}
