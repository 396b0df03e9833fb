//! Any bytes as a request line, and as a reply.

#![no_main]

use libfuzzer_sys::fuzz_target;
use remount_broker::proto::{Dialect, Reply, parse};

fuzz_target!(|line: &[u8]| {
    if let (Dialect::Json, Ok(request)) = parse(line)
        && let Some(again) = request.to_line()
    {
        assert_eq!(parse(&again[..again.len() - 1]).1, Ok(request));
    }
    drop(Reply::from_json(line));
});
