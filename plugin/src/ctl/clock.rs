//! Times as people and programs read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bpf::trace::monotonic;
use crate::fault::Outcome;

const DAY: u64 = 86_400;

/// What the monotonic clock's time is as a date. Taken anew for each use: the date may be set meanwhile.
pub(super) fn date_of(nanoseconds: u64) -> Outcome<Duration> {
    let ago = Duration::from_nanos(monotonic()?.saturating_sub(nanoseconds));
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(ago))
}

/// Now.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `12:34:56.789`, UTC.
pub(super) fn time(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs() % DAY;
    format!(
        "{:02}:{:02}:{:02}.{:03}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since_epoch.subsec_millis()
    )
}

/// `2026-01-31T12:34:56.789012Z`
pub(super) fn rfc3339(since_epoch: Duration) -> String {
    // From days to a date of the Gregorian calendar, in years that begin with March.
    let days = since_epoch.as_secs() / DAY + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let seconds = since_epoch.as_secs() % DAY;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since_epoch.subsec_micros()
    )
}

/// A length of time: `90`, `90s`, `1.5m`, `500ms`, `2h`.
pub(super) fn length(text: &str) -> Option<Duration> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000007Z"),
            (951_868_799, "2000-02-29T23:59:59.000007Z"),
            (951_868_800, "2000-03-01T00:00:00.000007Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000007Z"),
        ] {
            assert_eq!(rfc3339(Duration::new(seconds, 7000)), text);
        }
        assert_eq!(time(Duration::new(951_868_799, 1_234_000)), "23:59:59.001");
    }

    #[test]
    fn lengths() {
        for (text, milliseconds) in [
            ("2", Some(2000)),
            ("500ms", Some(500)),
            ("1.5m", Some(90_000)),
            ("2h", Some(7_200_000)),
            ("3s", Some(3000)),
        ] {
            assert_eq!(length(text).map(|length| length.as_millis()), milliseconds, "{text}");
        }
        for text in ["", "s", "-1", "1d", "1 s", "nan", "1e3", "99999999999999999999999h"] {
            assert_eq!(length(text), None, "{text}");
        }
    }
}
