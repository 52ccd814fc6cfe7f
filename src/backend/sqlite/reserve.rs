//! Room for a full disk: `rm` and `mv` must go on working when no byte is left.
//!
//! Owns: the few megabytes of log and of free pages that every store open for writing keeps.
//! May fail: quietly; a disk that is full already has no room to give.
//! Must not know: messages.
//!
//! A change on a full disk writes to the log in place of what a checkpoint has brought over, and
//! a checkpoint writes in place of pages that the file has. So both files only have to be large,
//! and new messages must leave some of it.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::checkpoint::Checkpointer;
use super::open::{Place, space, until};

/// What is kept free in the log, and in the file.
const BYTES: u64 = 8 << 20;

/// One step: under a millisecond of write lock.
const STEP: i64 = 512 << 10;

/// Makes the room unless at least half of it is there, or the disk has none to give: a try that
/// fails could keep what it took. To be asked for again now and then, as new messages take the
/// free pages first.
pub fn reserve(conn: &Connection, place: &Place, checkpointer: &Checkpointer) {
    let failed = |e| {
        tracing::warn!(
            "{}: no room is kept for a full disk: {e}",
            place.path().display()
        )
    };
    // What a store that was killed in the middle left behind.
    clear(conn).unwrap_or_else(failed);
    let log_is_there = std::fs::metadata(place.wal()).is_ok_and(|wal| wal.len() >= BYTES);
    if log_is_there && free_bytes(conn).is_ok_and(|free| free >= BYTES / 2) {
        return;
    }
    if !space(place).is_ok_and(|space| space.available >= 2 * BYTES) {
        tracing::debug!("{}: no room is left to keep", place.path().display());
        return;
    }
    // A checkpoint on the way would let the log start again before it is large.
    let _off = checkpointer.hold_off();
    grow(conn).unwrap_or_else(failed);
    clear(conn).unwrap_or_else(failed);
    let checkpoint = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    checkpoint.unwrap_or_else(failed);
}

/// Whether what is left, in the file and on the disk, is to be kept for moves and removals.
pub fn is_short(conn: &Connection, place: &Place) -> bool {
    // The disk is asked first, which is cheaper, and mostly enough.
    space(place).is_ok_and(|space| space.available < BYTES / 4)
        && free_bytes(conn).is_ok_and(|free| free < BYTES / 4)
}

fn free_bytes(conn: &Connection) -> rusqlite::Result<u64> {
    let number = |sql: &str| {
        let mut statement = conn.prepare_cached(sql)?;
        statement.query_row([], |row| row.get::<_, i64>(0))
    };
    Ok((number("PRAGMA freelist_count")? * number("PRAGMA page_size")?) as u64)
}

fn patiently(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    until(Instant::now() + Duration::from_secs(1), || {
        conn.execute_batch(sql)
    })
}

fn grow(conn: &Connection) -> rusqlite::Result<()> {
    patiently(conn, "CREATE TABLE IF NOT EXISTS rs_reserve (bytes)")?;
    let insert = format!("INSERT INTO rs_reserve VALUES (zeroblob({STEP}))");
    (0..BYTES / STEP as u64).try_for_each(|_| patiently(conn, &insert))
}

fn clear(conn: &Connection) -> rusqlite::Result<()> {
    patiently(conn, "DROP TABLE IF EXISTS rs_reserve")
}
