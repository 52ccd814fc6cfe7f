//! Refusals that come again and again: of each kind some are logged, and the rest is counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::Errno;

/// For how long the lines of a kind are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// How many lines of a kind are logged in that time.
const LINES: u32 = 10;

/// What was logged lately, by operation and errno.
#[derive(Default)]
pub struct Repeats(Mutex<HashMap<(String, Errno), Kind>>);

struct Kind {
    since: Instant,
    logged: u32,
    silent: u64,
}

impl Repeats {
    /// Whether one more refusal of that kind is to be logged.
    pub fn admit(&self, operation: &str, errno: Errno, now: Instant) -> bool {
        let mut kinds = self.0.lock();
        let kind = kinds
            .entry((operation.to_owned(), errno))
            .or_insert_with(|| Kind {
                since: now,
                logged: 0,
                silent: 0,
            });
        let admitted = kind.logged < LINES;
        match admitted {
            true => kind.logged += 1,
            false => kind.silent += 1,
        }
        admitted
    }

    /// A line for each kind whose time is over and of which some were not logged.
    pub fn summaries(&self, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        self.0.lock().retain(|(operation, errno), kind| {
            let over = now.saturating_duration_since(kind.since) >= WINDOW;
            if over && kind.silent > 0 {
                let (silent, seconds) = (kind.silent, WINDOW.as_secs());
                lines.push(format!(
                    "{operation} {errno:?}: {silent} more in {seconds} seconds; see .retryspool/errors"
                ));
            }
            !over
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_counted_and_told_once() {
        let repeats = Repeats::default();
        let start = Instant::now();
        let admitted = |errno| {
            (0..25)
                .filter(|_| repeats.admit("close", errno, start))
                .count()
        };
        assert_eq!(admitted(Errno::EBADMSG), 10);
        // Another kind is another matter.
        assert_eq!(admitted(Errno::ESTALE), 10);
        assert!(repeats.summaries(start).is_empty());
        let mut told = repeats.summaries(start + WINDOW);
        told.sort();
        let more = "15 more in 10 seconds; see .retryspool/errors";
        assert_eq!(
            told,
            [
                format!("close EBADMSG: {more}"),
                format!("close ESTALE: {more}")
            ]
        );
        assert!(repeats.summaries(start + WINDOW * 2).is_empty());
        assert!(repeats.admit("close", Errno::EBADMSG, start + WINDOW));
    }
}
