//! How many changes of one caller share the lock with other processes, which see no queue: they try
//! again when SQLite's busy timeout lets them.
//!
//! Owns: how long the lock is held and how long it is left.
//! May fail: never.
//! Must not know: what is changed.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long one transaction is to hold the lock, with its commit. It must not become 5 ms, and a
/// commit may take longer than those before it.
const HELD: Duration = Duration::from_micros(3800);

/// How long a transaction takes changes at least, however long commits take.
const LEAST: Duration = Duration::from_micros(500);

/// What the first commit is expected to take.
const FIRST_COMMIT: Duration = Duration::from_micros(1500);

/// How long such transactions follow each other closely, the last one not counted.
const RUN: Duration = Duration::from_millis(20);

/// How long the lock is left after that. A writer with SQLite's busy timeout tries again 1, 3, 8, 18
/// and 33 ms after its first try: so whenever that was in a run of up to 33 ms, one of these meets a
/// rest that is longer than the 15 ms between two of them. Many short rests would be as good if all
/// came in time, and are not on a busy machine.
const REST: Duration = Duration::from_micros(17_500);

/// The pace of one writer.
pub struct Pace(Mutex<State>);

struct State {
    run: Option<Run>,
    /// What the next commit is expected to take: the longest of late.
    commit: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace(Mutex::new(State {
            run: None,
            commit: FIRST_COMMIT,
        }))
    }
}

/// Transactions that follow each other.
#[derive(Clone, Copy)]
struct Run {
    began: Instant,
    /// When the last one ended.
    ended: Instant,
}

impl Pace {
    /// How long a transaction goes on taking changes: what its commit leaves of the time.
    pub fn hold(&self) -> Duration {
        HELD.saturating_sub(self.0.lock().commit).max(LEAST)
    }

    /// A transaction of many changes has ended: when it began, and since when it was committed.
    pub fn ended(&self, began: Instant, committed: Instant) {
        let ended = Instant::now();
        let mut state = self.0.lock();
        state.commit = (state.commit * 7 / 8).max(ended.duration_since(committed));
        state.run = Some(Run {
            began: state.run.map_or(began, |run| run.began),
            ended,
        });
    }

    /// Lets other processes have the lock, if it is time for that.
    pub fn leave_a_gap(&self) {
        let run = self.0.lock().run;
        let Some(Run { began, ended }) = run else {
            return;
        };
        if ended.duration_since(began) >= RUN {
            std::thread::sleep(REST.saturating_sub(ended.elapsed()));
        }
        if ended.elapsed() >= REST {
            self.0.lock().run = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_a_commit_of(pace: &Pace, took: Duration) -> Duration {
        let now = Instant::now();
        pace.ended(now - HELD, now - took);
        pace.hold()
    }

    #[test]
    fn slow_commits_leave_less_time_for_changes_until_they_are_quick_again() {
        let pace = Pace::default();
        assert_eq!(pace.hold(), HELD - FIRST_COMMIT);
        let slow = Duration::from_millis(3);
        assert!(after_a_commit_of(&pace, slow) <= HELD - slow);
        assert_eq!(after_a_commit_of(&pace, 2 * HELD), LEAST);
        // The next one may be as slow again.
        assert!(after_a_commit_of(&pace, Duration::ZERO) < HELD - slow);
        while after_a_commit_of(&pace, Duration::ZERO) <= HELD - FIRST_COMMIT {}
    }
}
