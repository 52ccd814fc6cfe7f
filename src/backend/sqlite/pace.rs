//! How many changes of one caller share the lock with other processes, which see no queue: they try
//! again when SQLite's busy timeout lets them.
//!
//! Owns: how long the lock is held and how long it is left; the page cache for such work.
//! May fail: never.
//! Must not know: what is changed.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;

/// How long one transaction goes on taking changes. With its commit it takes some 4 ms.
pub const HOLD: Duration = Duration::from_millis(3);

/// How often they take the lock. A writer with SQLite's busy timeout tries
/// again 1, 3, 8, 18 and 33 ms after its first try; one of these six meets a gap of 2.5 ms that
/// comes each 6.5 ms (and up to 7 ms, if it comes late), whenever the first try was.
const PERIOD: Duration = Duration::from_micros(6500);

/// The shortest pause between two such transactions, and the longest, which follows one that took
/// as long.
const GAPS: [Duration; 2] = [Duration::from_micros(2500), Duration::from_millis(10)];

/// The page cache of their connection, in KiB: they come to each page again.
const CACHE: i64 = 65_536;

/// The pace of one writer.
#[derive(Default)]
pub struct Pace {
    /// When the last transaction of many changes ended, and how long it took.
    last: Mutex<Option<(Instant, Duration)>>,
    /// Whether the connection has the larger page cache.
    widened: AtomicBool,
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

    /// Gives the connection the larger page cache, once.
    pub fn widen(&self, conn: &Connection) {
        if !self.widened.swap(true, Relaxed)
            && let Err(e) = conn.pragma_update(None, "cache_size", -CACHE)
        {
            tracing::debug!("a larger page cache: {e}");
        }
    }
}
