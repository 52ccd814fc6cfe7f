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

/// How often they take the lock. A writer with SQLite's busy timeout tries again 1, 3, 8, 18 and
/// 33 ms after its first try. In a period of 6.7 ms these six moments are at most 1.7 ms apart, so
/// one of them meets a gap of 2 ms, whenever the first try was; no other period needs less of a gap.
const PERIOD: Duration = Duration::from_micros(6700);

/// The shortest pause between two such transactions, and the longest, which follows one that took
/// as long.
const GAPS: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(10)];

/// The pace of one writer.
#[derive(Default)]
pub struct Pace {
    /// When the last transaction of many changes ended, and how long it took.
    last: Mutex<Option<(Instant, Duration)>>,
}

impl Pace {
    /// A transaction of many changes ended now, and took that long.
    pub fn ended(&self, took: Duration) {
        *self.last.lock() = Some((Instant::now(), took));
    }

    /// Lets other processes have the lock between two such transactions.
    pub fn leave_a_gap(&self) {
        let last = *self.last.lock();
        if let Some((ended, held)) = last {
            let [shortest, longest] = GAPS;
            let rest = PERIOD.saturating_sub(held);
            let gap = match rest < shortest {
                true => held.clamp(shortest, longest),
                false => rest,
            };
            std::thread::sleep(gap.saturating_sub(ended.elapsed()));
        }
    }
}
