//! Times as people write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// As RFC 3339 has it, in UTC.
#[must_use]
pub fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let ms = crate::proto::milliseconds(since);
    let (day, ms) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = civil(day);
    let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
    let (second, ms) = (ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day of the day that comes `day` days after the first of 1970: counted
/// from the first of March of the year 0, so that leap days come last.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + next, month, day)
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

    #[test]
    fn days_have_their_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (20_778, (2026, 11, 21)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(civil(days), date, "{days}");
        }
        let time = UNIX_EPOCH + Duration::from_millis(1_795_219_445_678);
        assert_eq!(timestamp(time), "2026-11-21T00:04:05.678Z");
    }
}
