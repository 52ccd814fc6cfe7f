//! How people write spans of time and points in it.

use std::str::FromStr;
use std::time::Duration;

use super::Timestamp;

/// A point in time that is written as one, or as a span from now.
///
/// ```
/// use std::time::Duration;
/// use retryspoolfs::Timestamp;
/// use retryspoolfs::model::When;
/// let now = Timestamp::new(1_800_000_000, 0).unwrap();
/// let when: When = "1h30m".parse().unwrap();
/// assert_eq!(when.ago(now).seconds(), 1_800_000_000 - 5400);
/// assert_eq!(when.ahead(now).seconds(), 1_800_000_000 + 5400);
/// let when: When = "2027-01-15T08:00:00Z".parse().unwrap();
/// assert_eq!(when.ago(now), now);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So long before or after now.
    Span(Duration),
    /// Then.
    At(Timestamp),
}

impl When {
    /// The point in time, a span being one that has passed.
    pub fn ago(self, now: Timestamp) -> Timestamp {
        match self {
            When::Span(span) => now.saturating_sub(span),
            When::At(time) => time,
        }
    }

    /// The point in time, a span being one to come.
    pub fn ahead(self, now: Timestamp) -> Timestamp {
        match self {
            When::Span(span) => now.saturating_add(span),
            When::At(time) => time,
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<When, String> {
        if let Some(time) = Timestamp::parse(text) {
            return Ok(When::At(time));
        }
        parse_duration(text).map(When::Span).map_err(|_| {
            format!(
                "{text:?} is neither a span such as 30m, 4h or 2d nor a time such as \
                 2026-11-23T10:15:00Z"
            )
        })
    }
}

/// Reads a span: whole numbers, each with its unit (`s`, `m`, `h`, `d`, `w`), as in `90s`, `30m`
/// or `1d12h`. At most some 30,000 years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("{text:?} is no span of time: write 30s, 15m, 4h, 2d or 1w");
    let mut seconds: u64 = 0;
    let mut number: Option<u64> = None;
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            let so_far = number.unwrap_or(0).checked_mul(10);
            number = Some(
                so_far
                    .and_then(|n| n.checked_add(digit.into()))
                    .ok_or_else(refused)?,
            );
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(refused()),
        };
        let part = number.take().and_then(|n| n.checked_mul(unit));
        seconds = part
            .and_then(|part| seconds.checked_add(part))
            .ok_or_else(refused)?;
    }
    if text.is_empty() || number.is_some() || seconds > 1_000_000_000_000 {
        return Err(refused());
    }
    Ok(Duration::from_secs(seconds))
}

/// A span for people, in its two largest units: `2d 4h`, `12m 30s`, `0s`.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(retryspoolfs::model::show_duration(Duration::from_secs(187_261)), "2d 4h");
/// ```
pub fn show_duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|part| part.0 > 0).unwrap_or(3);
    let shown = parts.iter().skip(first).take(2);
    let shown = shown
        .enumerate()
        .filter(|(at, part)| *at == 0 || part.0 > 0);
    let shown: Vec<String> = shown.map(|(_, (n, unit))| format!("{n}{unit}")).collect();
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        for (text, seconds) in [
            ("0s", 0),
            ("90s", 90),
            ("30m", 1800),
            ("4h", 14_400),
            ("2d", 172_800),
            ("1w", 604_800),
            ("1d12h", 129_600),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in [
            "",
            "5",
            "h",
            "5x",
            "-5m",
            "1.5h",
            "5 m",
            "4h30",
            "99999999999999999999s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
            assert!(text.parse::<When>().is_err(), "{text}");
        }
    }

    #[test]
    fn spans_are_shown_in_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3661, "1h 1m"),
            (90_061, "1d 1h"),
            (86_460, "1d"),
        ] {
            assert_eq!(show_duration(Duration::from_secs(seconds)), text);
        }
    }
}
