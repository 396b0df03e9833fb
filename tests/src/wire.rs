//! How the harness and the probe write bytes into one line of text.

/// One field of a line: printable ASCII only, no tab, no newline.
pub fn escape(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// The bytes that [`escape`] was given. `None` if `text` is not its output.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match rest.next()? {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'x' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other @ (b'\\' | b'\'' | b'"') => other,
            _ => return None,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let text = escape(&all);
        assert!(!text.contains(['\n', '\t']) && text.is_ascii());
        assert_eq!(unescape(&text), Some(all));
    }

    #[test]
    fn what_escape_never_writes_is_refused() {
        for bad in ["\\", "\\q", "\\x0", "\\xzz"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }
}
