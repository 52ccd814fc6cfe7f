//! Room for a full disk: `rm` and `mv` must go on working when no byte is left.
//!
//! Owns: the few megabytes of log and of free pages that every store open for writing keeps.
//! May fail: quietly; a disk that is full already has no room to give.
//! Must not know: messages.
//!
//! A change on a full disk writes to the log in place of what a checkpoint has brought over, and
//! a checkpoint writes in place of pages that the file has. So both files only have to be large.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::open::{Place, until};

/// What is kept free in the log, and in the file.
const BYTES: u64 = 8 << 20;

/// One step: under a millisecond of write lock.
const STEP: i64 = 512 << 10;

/// Makes the room unless it is there.
pub fn reserve(conn: &Connection, place: &Place) {
    let is_there = std::fs::metadata(place.wal()).is_ok_and(|wal| wal.len() >= BYTES)
        && free_bytes(conn).is_ok_and(|free| free >= BYTES);
    if is_there {
        return;
    }
    // A checkpoint on the way would let the log start again before it is large.
    let made = conn
        .pragma_update(None, "wal_autocheckpoint", 0)
        .and_then(|()| grow(conn));
    if let Err(e) = made {
        tracing::warn!(
            "no room is kept for a full disk at {}: {e}",
            place.path().display()
        );
    }
    let cleared = clear(conn).and_then(|()| conn.pragma_update(None, "wal_autocheckpoint", 1000));
    if let Err(e) = cleared {
        tracing::warn!("{}: {e}", place.path().display());
    }
}

fn free_bytes(conn: &Connection) -> rusqlite::Result<u64> {
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
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

/// Also removes what a store that was killed in the middle left behind.
fn clear(conn: &Connection) -> rusqlite::Result<()> {
    patiently(conn, "DROP TABLE IF EXISTS rs_reserve")?;
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}
