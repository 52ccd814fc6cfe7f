//! What the writer looks after between its transactions: the log's length, and the room for a full
//! disk.
//!
//! Owns: how often.
//! May fail: never; it is tried again later.
//! Must not know: what is changed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rusqlite::Connection;

use super::open::Place;
use super::reserve;

/// A checkpoint on the way leaves the log as it is while any reader is in it, so readers that
/// overlap let it grow for ever. From so many pages on (16 MiB) the writer waits for them: those
/// that begin meanwhile read the database file alone.
const LONGEST_LOG: i64 = 4096;

/// How long it waits. Nobody else can write meanwhile.
const READERS_WAIT: Duration = Duration::from_millis(20);

/// How many commits pass between two looks at the log's length.
const LOG_EVERY: u64 = 64;

/// How many commits pass between two looks at the room for a full disk.
const ROOM_EVERY: u64 = 1024;

/// When a writer last looked, in commits.
#[derive(Default)]
pub struct Upkeep {
    room_checked: AtomicU64,
    log_checked: AtomicU64,
}

impl Upkeep {
    /// Looks, if enough commits have passed. No transaction is open.
    pub fn after(&self, commits: u64, conn: &Connection, place: &Place) {
        if is_due(&self.log_checked, commits, LOG_EVERY)
            && let Err(e) = bound_log(conn)
        {
            tracing::debug!("checkpoint of a long log: {e}");
        }
        if is_due(&self.room_checked, commits, ROOM_EVERY) {
            reserve::reserve(conn, place);
        }
    }
}

/// Whether so many commits have passed since; then it is from now on.
fn is_due(checked: &AtomicU64, commits: u64, every: u64) -> bool {
    let is_due = commits >= checked.load(Relaxed) + every;
    if is_due {
        checked.store(commits, Relaxed);
    }
    is_due
}

/// Lets a log begin anew that has become too long.
fn bound_log(conn: &Connection) -> rusqlite::Result<()> {
    // It only tells.
    let pages: i64 = conn
        .prepare_cached("PRAGMA wal_checkpoint(NOOP)")?
        .query_row([], |row| row.get(1))?;
    if pages <= LONGEST_LOG {
        return Ok(());
    }
    conn.busy_timeout(READERS_WAIT)?;
    let checkpoint = conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
    conn.busy_timeout(Duration::ZERO)?;
    checkpoint
}
