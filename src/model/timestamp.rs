//! Points in time with nanoseconds, over the years that RFC 3339 can write, and the revision.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::SignedDuration;
use jiff::civil::DateTime;

/// A point in time: seconds since 1970 and nanoseconds, in the years 1 to 9999.
///
/// Its default is Go's zero time, 0001-01-01T00:00:00Z, which in RetrySpool means "never".
///
/// ```
/// use retryspoolfs::Timestamp;
/// let t = Timestamp::parse("2026-11-23T10:15:00.5+01:00").unwrap();
/// assert_eq!(t.to_string(), "2026-11-23T09:15:00.5Z");
/// assert_eq!(Timestamp::ZERO.to_string(), "0001-01-01T00:00:00Z");
/// assert!(Timestamp::parse("2026-11-23 10:15:00").is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
}

impl Timestamp {
    /// Go's zero time, "never": -62135596800 seconds.
    pub const ZERO: Timestamp = Timestamp {
        seconds: -62_135_596_800,
        nanos: 0,
    };
    /// The last nanosecond of the year 9999.
    pub const MAX: Timestamp = Timestamp {
        seconds: 253_402_300_799,
        nanos: 999_999_999,
    };

    /// The time at `seconds` and `nanos`; `None` outside the years 1 to 9999 or from 10^9
    /// nanoseconds on.
    pub fn new(seconds: i64, nanos: u32) -> Option<Timestamp> {
        let in_range = (Self::ZERO.seconds..=Self::MAX.seconds).contains(&seconds);
        (in_range && nanos < 1_000_000_000).then_some(Timestamp { seconds, nanos })
    }

    /// This host's clock.
    pub fn now() -> Timestamp {
        Timestamp::from(SystemTime::now())
    }

    /// Whole seconds since 1970, what RetrySpool's SQLite store keeps.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds past [`seconds`](Self::seconds), below 10^9.
    pub fn nanos(self) -> u32 {
        self.nanos
    }

    /// One nanosecond later: the least time that a change of a message may carry. The very last
    /// nanosecond stays.
    pub fn next(self) -> Timestamp {
        if self.nanos < 999_999_999 {
            Timestamp {
                nanos: self.nanos + 1,
                ..self
            }
        } else {
            Timestamp::new(self.seconds + 1, 0).unwrap_or(Self::MAX)
        }
    }

    /// The time that lies `by` later, or the last nanosecond of the year 9999.
    pub fn saturating_add(self, by: Duration) -> Timestamp {
        let nanos = u64::from(self.nanos) + u64::from(by.subsec_nanos());
        let seconds = i64::try_from(by.as_secs())
            .ok()
            .and_then(|s| s.checked_add(self.seconds))
            .and_then(|s| s.checked_add((nanos / 1_000_000_000) as i64));
        seconds
            .and_then(|s| Timestamp::new(s, (nanos % 1_000_000_000) as u32))
            .unwrap_or(Self::MAX)
    }

    /// The time that lies `by` earlier, or the first of the year 1.
    pub fn saturating_sub(self, by: Duration) -> Timestamp {
        let borrow = self.nanos < by.subsec_nanos();
        let nanos = self.nanos + u32::from(borrow) * 1_000_000_000 - by.subsec_nanos();
        let seconds = i64::try_from(by.as_secs())
            .ok()
            .and_then(|s| self.seconds.checked_sub(s))
            .and_then(|s| s.checked_sub(borrow.into()));
        seconds
            .and_then(|s| Timestamp::new(s, nanos))
            .unwrap_or(Self::ZERO)
    }

    /// How long after `earlier` this is; nothing if it is not later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        let span = |time: Timestamp| SignedDuration::new(time.seconds, time.nanos as i32);
        let span = span(self) - span(earlier);
        Duration::try_from(span).unwrap_or(Duration::ZERO)
    }

    /// Reads RFC 3339: `2026-11-23T10:15:00Z`, with a fraction of at most nine digits, with `Z`
    /// or an offset. `None` for anything else, also for a time without a zone.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let zone = rfc3339_zone(text.as_bytes())?;
        let (local, zone) = text.split_at(zone);
        let local: DateTime = local.parse().ok()?;
        let since_1970 = local.duration_since(EPOCH) - SignedDuration::from_secs(offset(zone)?);
        let nanos = since_1970.as_nanos();
        Timestamp::new(
            i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?,
            nanos.rem_euclid(1_000_000_000) as u32,
        )
    }
}

/// Where seconds are counted from. Calendar times are used throughout: the library's own points
/// in time end a day before the year 9999 does.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// The seconds that a zone of the right shape is ahead of UTC.
fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let hours: i64 = zone[1..3].parse().ok()?;
    let minutes: i64 = zone[4..6].parse().ok()?;
    let ahead = hours * 3600 + minutes * 60;
    let in_range = hours < 24 && minutes < 60;
    in_range.then_some(if zone.starts_with('-') { -ahead } else { ahead })
}

/// The library that reads the time is lenient about separators, missing seconds and what may
/// follow; a document may only hold what RFC 3339 calls a date-time, without a leap second, as
/// Go. Gives the place of the zone.
fn rfc3339_zone(text: &[u8]) -> Option<usize> {
    let digits = |range: std::ops::Range<usize>| {
        text.get(range)
            .is_some_and(|part| part.iter().all(u8::is_ascii_digit))
    };
    let mark = |at: usize, mark: u8| text.get(at) == Some(&mark);
    let date = digits(0..4) && mark(4, b'-') && digits(5..7) && mark(7, b'-') && digits(8..10);
    let time = mark(10, b'T')
        && digits(11..13)
        && mark(13, b':')
        && digits(14..16)
        && mark(16, b':')
        && digits(17..19)
        && text[17] < b'6';
    if !(date && time) {
        return None;
    }
    let mut zone = 19;
    if mark(19, b'.') {
        let fraction = text[20..].iter().take_while(|b| b.is_ascii_digit()).count();
        if fraction == 0 || fraction > 9 {
            return None;
        }
        zone = 20 + fraction;
    }
    let whole = match text.get(zone) {
        Some(b'Z') => text.len() == zone + 1,
        Some(b'+' | b'-') => {
            digits(zone + 1..zone + 3)
                && mark(zone + 3, b':')
                && digits(zone + 4..zone + 6)
                && text.len() == zone + 6
        }
        _ => false,
    };
    whole.then_some(zone)
}

impl Default for Timestamp {
    fn default() -> Timestamp {
        Timestamp::ZERO
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, with as many digits of the fraction as are needed, like Go's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since_1970 = SignedDuration::new(self.seconds, self.nanos as i32);
        match EPOCH.checked_add(since_1970) {
            Ok(time) => write!(f, "{time}Z"),
            Err(_) => Err(fmt::Error),
        }
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        let (seconds, nanos) = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => (after.as_secs() as i64, after.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                let whole = -(before.as_secs() as i64);
                match before.subsec_nanos() {
                    0 => (whole, 0),
                    nanos => (whole - 1, 1_000_000_000 - nanos),
                }
            }
        };
        Timestamp::new(seconds, nanos).unwrap_or(if seconds < 0 { Self::ZERO } else { Self::MAX })
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> SystemTime {
        let seconds = Duration::from_secs(time.seconds.unsigned_abs());
        let start = if time.seconds < 0 {
            UNIX_EPOCH - seconds
        } else {
            UNIX_EPOCH + seconds
        };
        start + Duration::from_nanos(time.nanos.into())
    }
}

/// What tells one version of a message from the next: its Updated, and what the store adds where
/// foreign writers may leave Updated as it was (0 where it adds nothing).
///
/// Every change by anyone makes the revision another one; within the life of a message, Updated
/// only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Revision {
    /// The message's Updated.
    pub updated: Timestamp,
    /// The store's own mark.
    pub tag: u64,
}

impl From<Timestamp> for Revision {
    fn from(updated: Timestamp) -> Revision {
        Revision { updated, tag: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rfc3339_is_a_time() {
        for good in [
            "2026-11-23T10:15:00Z",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999999Z",
            "2026-11-23T10:15:00.123456789+14:00",
            "2026-11-23T10:15:00.5-23:59",
        ] {
            assert!(Timestamp::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "2026-11-23",
            "2026-11-23T10:15Z",
            "2026-12-31T23:59:60Z",
            "2026-11-23T10:15:00+24:00",
            "2026-11-23T10:15:00-01:60",
            "2026-11-23T10:15:00\u{661}Z",
            "2026-11-23T10:15:00",
            "2026-11-23T10:15:00z",
            "2026-11-23t10:15:00Z",
            "2026-11-23 10:15:00Z",
            "2026-11-23T10:15:00,5Z",
            "2026-11-23T10:15:00.Z",
            "2026-11-23T10:15:00.1234567890Z",
            "2026-11-23T10:15:00+0100",
            "2026-11-23T10:15:00Z[UTC]",
            "2026-13-23T10:15:00Z",
            "2026-02-30T10:15:00Z",
            "2026-11-23T24:15:00Z",
            "10000-01-01T00:00:00Z",
            "+010000-01-01T00:00:00Z",
            "0000-12-31T23:59:59Z",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
        ] {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_survive_text_and_system_time() {
        for time in [
            Timestamp::ZERO,
            Timestamp::MAX,
            Timestamp::new(0, 0).unwrap(),
            Timestamp::new(-1, 999_999_999).unwrap(),
            Timestamp::new(1_800_000_000, 120_000_000).unwrap(),
        ] {
            assert_eq!(Timestamp::parse(&time.to_string()), Some(time), "{time}");
            assert_eq!(Timestamp::from(SystemTime::from(time)), time);
        }
    }

    #[test]
    fn a_fraction_has_as_many_digits_as_it_needs() {
        // The right-hand side is what Go's time.RFC3339Nano prints.
        for (nanos, text) in [
            (0, "2027-01-15T08:00:00Z"),
            (120_000_000, "2027-01-15T08:00:00.12Z"),
            (100_000_000, "2027-01-15T08:00:00.1Z"),
            (1_000, "2027-01-15T08:00:00.000001Z"),
            (10, "2027-01-15T08:00:00.00000001Z"),
            (1, "2027-01-15T08:00:00.000000001Z"),
            (999_999_999, "2027-01-15T08:00:00.999999999Z"),
        ] {
            let time = Timestamp::new(1_800_000_000, nanos).unwrap();
            assert_eq!(time.to_string(), text);
            assert_eq!(Timestamp::parse(text), Some(time));
        }
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999999999Z");
        let offset = Timestamp::parse("2027-01-15T13:30:00.5+05:30");
        assert_eq!(offset, Timestamp::new(1_800_000_000, 500_000_000));
    }

    #[test]
    fn next_is_one_nanosecond_later() {
        let end_of_second = Timestamp::new(7, 999_999_999).unwrap();
        assert_eq!(end_of_second.next(), Timestamp::new(8, 0).unwrap());
        assert_eq!(Timestamp::MAX.next(), Timestamp::MAX);
        assert_eq!(
            end_of_second.saturating_add(Duration::from_nanos(2)),
            Timestamp::new(8, 1).unwrap()
        );
        assert_eq!(Timestamp::MAX.saturating_add(Duration::MAX), Timestamp::MAX);
    }

    #[test]
    fn earlier_and_later() {
        let time = Timestamp::new(7, 1).unwrap();
        let two = Duration::from_nanos(2);
        let earlier = Timestamp::new(6, 999_999_999).unwrap();
        assert_eq!(time.saturating_sub(two), earlier);
        assert_eq!(
            (time.since(earlier), earlier.since(time)),
            (two, Duration::ZERO)
        );
        assert_eq!(time.saturating_sub(Duration::MAX), Timestamp::ZERO);
        assert_eq!(
            Timestamp::MAX.since(Timestamp::ZERO).subsec_nanos(),
            999_999_999
        );
    }
}
