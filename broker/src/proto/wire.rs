//! The protocol's bytes: parsing and printing, for both ends.

use serde::Serialize;
use std::time::Duration;

mod reply;
mod request;

pub use reply::BadReply;
pub use request::parse;

/// As the protocol counts time.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// `value` as a line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> Vec<u8> {
    let mut line = Vec::with_capacity(256);
    // The types above hold no map with other keys than text and no foreign Serialize,
    // and a Vec takes every byte, so this cannot fail; should it ever, an empty line
    // tells the peer that there is no answer.
    if serde_json::to_writer(&mut line, value).is_err() {
        line.clear();
    }
    line.push(b'\n');
    line
}
