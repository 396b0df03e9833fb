//! Times as people write them.

use std::time::Duration;

/// The longest time there is: a year.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Reads `500ms`, `30s`, `30m`, `2h`, `1h30m`, `1d`; a plain number is in seconds.
///
/// # Errors
/// What is expected instead, for a person.
pub fn parse(text: &str) -> Result<Duration, String> {
    let time = text.parse().map(Duration::from_secs).ok().or_else(|| parts(text));
    time.filter(|time| !text.is_empty() && *time <= LONGEST)
        .ok_or_else(|| "expected a time such as 500ms, 30s, 30m, 2h or 1h30m".to_owned())
}

fn parts(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let unit = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        let ms = number.parse::<u64>().ok()?.checked_mul(unit)?;
        total = total.checked_add(Duration::from_millis(ms))?;
        rest = tail;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, ms) in [
            ("5", 5000),
            ("500ms", 500),
            ("2s", 2000),
            ("1h30m", 5_400_000),
            ("0", 0),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "s", "5x", "-1", "1.5s", "5m3", "99999999999999999999", "400d", "é"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
