//! Reads moments as people and scripts write them: RFC 3339, or a day alone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The moment that a text names; a day alone begins at midnight UTC. None for what is no moment since 1970.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let millis = days(date)? * 86_400_000 + time.map_or(Some(0), time_of_day)?;
    Some(UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).ok()?))
}

/// Milliseconds since midnight UTC, of a time with its offset.
fn time_of_day(text: &str) -> Option<i64> {
    let (clock, offset) = match text.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            let (clock, offset) = text.split_at_checked(text.rfind(['+', '-'])?)?;
            let (hours, minutes) = offset[1..].split_once(':')?;
            let minutes = number(hours, 2, 23)? * 60 + number(minutes, 2, 59)?;
            (clock, if offset.starts_with('-') { -minutes } else { minutes })
        }
    };
    let (clock, fraction) = clock.split_once('.').map_or((clock, None), |(clock, rest)| (clock, Some(rest)));
    let mut parts = clock.split(':');
    let hours = number(parts.next()?, 2, 23)?;
    let minutes = number(parts.next()?, 2, 59)?;
    // A leap second counts as the next one.
    let seconds = number(parts.next()?, 2, 60)?;
    let millis = fraction.map_or(Some(0), thousandths)?;
    parts.next().is_none().then_some((hours * 3_600 + minutes * 60 + seconds - offset * 60) * 1_000 + millis)
}

/// The first three digits after the point.
fn thousandths(digits: &str) -> Option<i64> {
    let all = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    let three: String = digits.chars().chain("00".chars()).take(3).collect();
    if all { three.parse().ok() } else { None }
}

/// Days since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`).
fn days(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4, 9_999)?;
    let month = number(parts.next()?, 2, 12).filter(|month| *month > 0)?;
    let day = number(parts.next()?, 2, 31).filter(|day| *day > 0)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if parts.next().is_some() || day > length {
        return None;
    }
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (shifted / 400, shifted % 400);
    let month_index = (month + 9) % 12;
    let day_of_year = (153 * month_index + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// A number of so many digits, not beyond `most`.
fn number(text: &str, digits: usize, most: i64) -> Option<i64> {
    let fits = text.len() == digits && text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|number| fits && *number <= most)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::parse;
    use crate::telemetry::rfc3339;

    #[test]
    fn what_the_log_writes_reads_back() {
        for millis in [0, 951_782_400_001, 1_709_251_199_999, 1_795_428_000_123, 253_402_300_799_999] {
            let moment = UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(parse(&rfc3339(moment)), Some(moment), "{}", rfc3339(moment));
        }
    }

    #[test]
    fn other_forms_mean_the_same_moment() {
        let moment = parse("2026-11-23T00:00:00.000Z");
        assert!(moment.is_some());
        for text in [
            "2026-11-23",
            "2026-11-23T00:00:00Z",
            "2026-11-23t02:30:00+02:30",
            "2026-11-22 19:00:00.0-05:00",
            "2026-11-22T23:59:60Z",
            "2026-11-23T00:00:00.000999Z",
        ] {
            assert_eq!(parse(text), moment, "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "now",
            "2026",
            "2026-11",
            "2026-13-01",
            "2026-02-29",
            "2026-00-10",
            "2026-11-31",
            "2026-11-23T",
            "2026-11-23T10:00Z",
            "2026-11-23T10:00:00",
            "2026-11-23T24:00:00Z",
            "2026-11-23T10:00:00.Z",
            "2026-11-23T10:00:00+2:00",
            "2026-11-23T10:00:00.1x2Z",
            "1969-12-31",
            "2026-11-23-01",
            "+026-11-23",
            "2026-11-23T10:00:00+é0",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
