//! Limits that a monitoring system watches: `deferred=5000,20000,oldest=4h`.

use std::str::FromStr;
use std::time::Duration;

use super::Status;
use crate::model::{QueueState, parse_duration};

/// How bad it is, in the order and with the exit codes of monitoring plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Exit code 0.
    Ok,
    /// Exit code 1.
    Warning,
    /// Exit code 2.
    Critical,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Count(QueueState),
    /// All messages.
    Total,
    /// The age of the oldest message that waits for delivery, in seconds.
    Oldest,
    /// For how long the next retry has been due, in seconds.
    Overdue,
}

/// Limits, in the order that they were written in.
///
/// ```
/// use retryspoolfs::overview::Thresholds;
/// assert!("deferred=5000,20000,oldest=4h".parse::<Thresholds>().is_ok());
/// assert!("deferred=20000,5000".parse::<Thresholds>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds(Vec<Threshold>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Threshold {
    what: What,
    warning: u64,
    critical: Option<u64>,
}

/// One limit's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// As it was written: `deferred`, `oldest`.
    pub name: &'static str,
    /// A number of messages, or seconds.
    pub value: u64,
    /// Whether it is seconds.
    pub seconds: bool,
    /// More than this is a warning.
    pub warning: u64,
    /// More than this is critical.
    pub critical: Option<u64>,
    pub level: Level,
}

impl Thresholds {
    /// Each limit with its value.
    pub fn measure(&self, status: &Status) -> Vec<Measured> {
        let measured = |limit: &Threshold| {
            let value = limit.what.value(status);
            let level = match limit.critical {
                Some(critical) if value > critical => Level::Critical,
                _ if value > limit.warning => Level::Warning,
                _ => Level::Ok,
            };
            Measured {
                name: limit.what.name(),
                value,
                seconds: limit.what.is_time(),
                warning: limit.warning,
                critical: limit.critical,
                level,
            }
        };
        self.0.iter().map(measured).collect()
    }
}

impl What {
    fn named(name: &str) -> Option<What> {
        match name {
            "total" => Some(What::Total),
            "oldest" => Some(What::Oldest),
            "overdue" => Some(What::Overdue),
            state => state.parse().ok().map(What::Count),
        }
    }

    fn name(self) -> &'static str {
        match self {
            What::Count(state) => state.as_str(),
            What::Total => "total",
            What::Oldest => "oldest",
            What::Overdue => "overdue",
        }
    }

    fn is_time(self) -> bool {
        matches!(self, What::Oldest | What::Overdue)
    }

    fn value(self, status: &Status) -> u64 {
        let age = |since: Option<_>| since.map_or(Duration::ZERO, |since| status.at.since(since));
        match self {
            What::Count(state) => status.states[usize::from(state.number())].info.count,
            What::Total => status.total(),
            What::Oldest => age(status.oldest_waiting()).as_secs(),
            What::Overdue => age(status.next_due()).as_secs(),
        }
    }

    fn limit(self, text: &str) -> Result<u64, String> {
        if self.is_time() {
            return parse_duration(text).map(|span| span.as_secs());
        }
        text.parse()
            .map_err(|_| format!("{}: {text:?} is no number of messages", self.name()))
    }
}

impl FromStr for Thresholds {
    type Err = String;

    fn from_str(text: &str) -> Result<Thresholds, String> {
        let mut limits: Vec<Threshold> = Vec::new();
        for part in text.split(',') {
            if let Some((name, value)) = part.split_once('=') {
                let what = What::named(name).ok_or_else(|| {
                    format!("{name:?} is nothing to check: there are the states, total, oldest and overdue")
                })?;
                if limits.iter().any(|limit| limit.what == what) {
                    return Err(format!("{name} is there twice"));
                }
                limits.push(Threshold {
                    what,
                    warning: what.limit(value)?,
                    critical: None,
                });
                continue;
            }
            match limits.last_mut() {
                Some(limit) if limit.critical.is_none() => {
                    let critical = limit.what.limit(part)?;
                    if critical < limit.warning {
                        return Err(format!(
                            "{}: the critical limit {part} is below the warning's",
                            limit.what.name()
                        ));
                    }
                    limit.critical = Some(critical);
                }
                _ => {
                    return Err(format!(
                        "{part:?}: write NAME=WARNING or NAME=WARNING,CRITICAL, as in \
                         deferred=5000,20000,oldest=4h"
                    ));
                }
            }
        }
        Ok(Thresholds(limits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Ages, StateInfo};
    use crate::model::Timestamp;
    use crate::overview::StateStatus;

    fn status(deferred: u64, oldest: Option<u64>, due: Option<u64>) -> Status {
        let at = Timestamp::new(1_800_000_000, 0).unwrap();
        let ago = |seconds: u64| at.saturating_sub(Duration::from_secs(seconds));
        Status {
            at,
            states: QueueState::ALL.map(|state| {
                let here = state == QueueState::Deferred;
                StateStatus {
                    state,
                    info: StateInfo {
                        count: deferred * u64::from(here),
                        changed: at,
                    },
                    ages: Ages {
                        oldest: oldest.map(ago).filter(|_| here),
                        next_due: due.map(ago).filter(|_| here),
                    },
                }
            }),
            inexpressible: 0,
            traffic: None,
            audit: None,
        }
    }

    #[test]
    fn more_than_a_limit_is_a_warning_or_critical() {
        for (limits, deferred, oldest, due, level) in [
            ("deferred=5,10", 5, None, None, Level::Ok),
            ("deferred=5,10", 6, None, None, Level::Warning),
            ("deferred=5,10", 10, None, None, Level::Warning),
            ("deferred=5,10", 11, None, None, Level::Critical),
            ("total=5", 100, None, None, Level::Warning),
            ("hold=0,0", 100, None, None, Level::Ok),
            ("oldest=1m,1h", 1, Some(60), None, Level::Ok),
            ("oldest=1m,1h", 1, Some(61), None, Level::Warning),
            ("oldest=1m,1h", 1, Some(3601), None, Level::Critical),
            ("oldest=1m,1h", 0, None, None, Level::Ok),
            ("overdue=5m", 1, Some(900), Some(301), Level::Warning),
            (
                "deferred=5,10,oldest=4h",
                1,
                Some(14_401),
                None,
                Level::Warning,
            ),
        ] {
            let measured = limits
                .parse::<Thresholds>()
                .unwrap()
                .measure(&status(deferred, oldest, due));
            let worst = measured.iter().map(|measured| measured.level).max();
            assert_eq!(worst, Some(level), "{limits} {deferred} {oldest:?} {due:?}");
        }
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        for text in [
            "",
            "5",
            "deferred",
            "deferred=",
            "deferred=x",
            "deferred=-1",
            "deferred=4h",
            "oldest=5",
            "nosuch=5",
            "deferred=1,2,3",
            "deferred=2,1",
            "deferred=1,deferred=2",
            "deferred=1,",
            "deferred=1,2,",
        ] {
            assert!(text.parse::<Thresholds>().is_err(), "{text}");
        }
    }
}
