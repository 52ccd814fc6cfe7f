//! How many changes of one caller share the lock with other processes, which see no queue: they try
//! again when SQLite's busy timeout lets them.
//!
//! Owns: how long the lock is held and how long it is left.
//! May fail: never.
//! Must not know: what is changed.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long one transaction goes on taking changes. With its commit it takes some 4.5 ms.
pub const HOLD: Duration = Duration::from_micros(3500);

/// How long such transactions follow each other closely, the last one not counted.
const RUN: Duration = Duration::from_millis(20);

/// How long the lock is left after that. A writer with SQLite's busy timeout tries again 1, 3, 8, 18
/// and 33 ms after its first try: so whenever that was in a run of up to 33 ms, one of these meets a
/// rest that is longer than the 15 ms between two of them. Many short rests would be as good if all
/// came in time, and are not on a busy machine.
const REST: Duration = Duration::from_micros(17_500);

/// The pace of one writer.
#[derive(Default)]
pub struct Pace(Mutex<Option<Run>>);

/// Transactions that follow each other.
#[derive(Clone, Copy)]
struct Run {
    began: Instant,
    /// When the last one ended.
    ended: Instant,
}

impl Pace {
    /// A transaction of many changes that began then has ended.
    pub fn ended(&self, began: Instant) {
        let mut run = self.0.lock();
        *run = Some(Run {
            began: run.map_or(began, |run| run.began),
            ended: Instant::now(),
        });
    }

    /// Lets other processes have the lock, if it is time for that.
    pub fn leave_a_gap(&self) {
        let run = *self.0.lock();
        let Some(Run { began, ended }) = run else {
            return;
        };
        if ended.duration_since(began) >= RUN {
            std::thread::sleep(REST.saturating_sub(ended.elapsed()));
        }
        if ended.elapsed() >= REST {
            *self.0.lock() = None;
        }
    }
}
