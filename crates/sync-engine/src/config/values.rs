//! Values as people write them: durations, addresses, names, levels. Owns their syntax; says what is wrong and what to do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use replication::message::unfit_name;
use sqlite_store::nearest::nearest;
use tracing_subscriber::EnvFilter;

/// What is wrong with a value, and what to do.
pub(super) type Wrong = (String, String);

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Whether a key holds a duration.
pub(super) fn is_duration_key(path: &str) -> bool {
    matches!(
        path,
        "poll_interval"
            | "max_clock_skew"
            | "tombstone_horizon"
            | "upkeep_interval"
            | "close_after"
            | "shutdown_grace"
            | "health.max_lag"
    )
}

/// A whole number with its unit.
pub(super) fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, Wrong> {
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = (&trimmed[..digits], trimmed[digits..].trim_start());
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let (Ok(number), Some(factor)) = (number.parse::<u64>(), factor) else {
        let remedy = "write a whole number with its unit ms, s, m, h or d, as \"500ms\" or \"2m\"";
        return Err((format!("{text:?} is no duration"), remedy.to_owned()));
    };
    let duration = number.checked_mul(factor).map(Duration::from_millis).unwrap_or(Duration::MAX);
    if duration < least || duration > most {
        let what = format!("{text:?} is out of range");
        return Err((what, format!("choose from {} to {}", duration_text(least), duration_text(most))));
    }
    Ok(duration)
}

/// A duration in the syntax of [`duration`], in the largest unit that holds it exactly.
pub(crate) fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    let fits = |(_, factor): &&(&str, u64)| millis > 0 && millis.is_multiple_of(u128::from(*factor));
    let (unit, factor) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
    format!("{}{unit}", millis / u128::from(*factor))
}

/// Pieces between commas, without blanks around them; empty ones do not count.
pub(super) fn comma_separated(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|piece| !piece.is_empty()).map(str::to_owned).collect()
}

/// An address to listen on.
pub(super) fn address(text: &str) -> Result<SocketAddr, Wrong> {
    let address = match text.trim().strip_prefix("localhost:").map(str::parse::<u16>) {
        Some(Ok(port)) => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        _ => text.trim().parse::<SocketAddr>(),
    };
    let Ok(address) = address else {
        let remedy = "write an IP address and a port, as \"127.0.0.1:7420\" or \"[::1]:7420\"";
        return Err((format!("{text:?} is no address to listen on"), remedy.to_owned()));
    };
    Ok(address)
}

const PEER_REMEDY: &str = "write it as \"ws://host:7420\" or \"wss://host:7420\"";

/// The URL of a peer.
pub(super) fn peer_url(text: &str) -> Result<String, Wrong> {
    let text = text.trim();
    match peer_link::check_url(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(peer_link::DialError::Url { url, reason }) => {
            Err((format!("{url:?} is not a peer's URL: {reason}"), PEER_REMEDY.to_owned()))
        }
        Err(other) => Err((other.to_string(), PEER_REMEDY.to_owned())),
    }
}

/// A name of a node, a cluster, a database or a table.
pub(super) fn name(text: &str) -> Result<String, Wrong> {
    match unfit_name(text) {
        Some(reason) => Err((reason, "give it a short name".to_owned())),
        None => Ok(text.to_owned()),
    }
}

/// A level, or directives of an env-filter. A lone word that is no level would be taken for the name of a target, and
/// everything but that target would fall silent: it is refused.
pub(super) fn level(text: &str) -> Result<String, Wrong> {
    let lower = text.trim().to_lowercase();
    if LEVELS.contains(&lower.as_str()) {
        return Ok(lower);
    }
    let general =
        "use error, warn, info, debug, trace or off, or directives such as \"info,peer_link=debug\"".to_owned();
    let is_word = |piece: &&str| !piece.contains(['=', '[']) && !LEVELS.contains(&piece.to_lowercase().as_str());
    if let Some(word) = text.split(',').map(str::trim).find(is_word) {
        let remedy = nearest(LEVELS.into_iter(), word).map_or(general, |near| format!("did you mean {near:?}?"));
        return Err((format!("{word:?} is no level"), remedy));
    }
    match EnvFilter::try_new(text.trim()) {
        Ok(_) => Ok(text.trim().to_owned()),
        Err(error) => Err((format!("{text:?} is neither a level nor a filter: {error}"), general)),
    }
}

/// One of a few words.
pub(super) fn choice<T: Copy>(text: &str, words: &[(&'static str, T)]) -> Result<T, Wrong> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let remedy = match nearest(words.iter().map(|(word, _)| *word), text) {
        Some(near) => format!("did you mean {near:?}?"),
        None => {
            let quoted: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            format!("use {}", quoted.join(" or "))
        }
    };
    Err((format!("{text:?} is not one of the values it can have"), remedy))
}

/// A number within limits.
pub(super) fn count(number: i64, least: usize, most: usize) -> Result<usize, Wrong> {
    match usize::try_from(number) {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err((format!("{number} is out of range"), format!("choose from {least} to {most}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{address, duration, duration_text, level};

    #[test]
    fn durations_read_back() {
        for text in ["0ms", "1ms", "1500ms", "2s", "90s", "3m", "5h", "2d"] {
            let read = duration(text, Duration::ZERO, Duration::MAX).unwrap();
            assert_eq!(duration_text(read), text);
        }
        for text in ["", "5", "s", "1.5s", "-1s", "1 fortnight", "99999999999999999999s"] {
            assert!(duration(text, Duration::ZERO, Duration::from_secs(1)).is_err(), "{text}");
        }
    }

    #[test]
    fn levels_and_filters() {
        assert_eq!(level("INFO").unwrap(), "info");
        assert_eq!(level("warn,sync_engine=debug").unwrap(), "warn,sync_engine=debug");
        assert_eq!(level("inof").unwrap_err().0, "\"inof\" is no level");
        assert!(level("sync_engine=loud").is_err());
        assert!(level("").is_err());
    }

    #[test]
    fn addresses_to_listen_on() {
        assert_eq!(address("localhost:7").unwrap().to_string(), "127.0.0.1:7");
        for text in ["[::1]:7", "0.0.0.0:7", "192.168.1.2:7"] {
            assert_eq!(address(text).unwrap().to_string(), text);
        }
        for text in [":7", "7", "host:7", "127.0.0.1"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
