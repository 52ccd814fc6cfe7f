//! The first time with a file that RetrySpool made: filling the side tables beside its writers.
//!
//! Owns: the order of the steps, and the cursor `rs_prepare` that is there while they run.
//! May fail: at any point, by a kill as well; the next open goes on at the cursor.
//! Must not know: how the triggers work, but that they count every row that changes from the
//! first step on. So a row belongs to a step only if no side row knows it yet.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::checkpoint::Checkpointer;
use super::error::from_sqlite;
use super::open::{OPEN_WAIT, until};
use super::{schema, views};
use crate::backend::locator::Progress;
use crate::backend::{Error, Result};
use crate::model::Timestamp;

/// How long a step aims to hold the write lock, and how long writers then have it to themselves.
const HOLD: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_millis(2);

/// The least and the most rows of a step.
const ROWS: std::ops::RangeInclusive<i64> = 16..=4096;

/// Prepares the file to the end, or until it is stopped.
pub fn prepare(
    conn: &Connection,
    checkpointer: &Checkpointer,
    progress: Option<&Progress>,
) -> Result<()> {
    views::register(conn).map_err(from_sqlite)?;
    start(conn).map_err(from_sqlite)?;
    let total = conn.query_row("SELECT count(*) FROM messages", [], |row| {
        row.get::<_, i64>(0)
    });
    let total = total.map_err(from_sqlite)? as u64;
    let mut rows = 64;
    while let Some(step) = step(conn, rows).map_err(from_sqlite)? {
        checkpointer.after_commit(conn, false);
        if let Some(progress) = progress
            && progress(step.done.min(total), total).is_break()
        {
            return Err(Error::Unavailable(
                "the preparation was stopped; the next open goes on with it".into(),
            ));
        }
        let aim = rows as f64 * HOLD.as_secs_f64() / step.held.as_secs_f64().max(1e-6);
        rows = (aim as i64).min(rows * 2).clamp(*ROWS.start(), *ROWS.end());
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn immediate(conn: &Connection) -> rusqlite::Result<Transaction<'_>> {
    until(Instant::now() + OPEN_WAIT, || {
        Transaction::new_unchecked(conn, TransactionBehavior::Immediate)
    })
}

/// Tables, triggers and the cursor, in one transaction.
fn start(conn: &Connection) -> rusqlite::Result<()> {
    let transaction = immediate(conn)?;
    if is_finished(conn)? || cursor(conn)?.is_some() {
        return Ok(());
    }
    conn.execute_batch(schema::SIDE_TABLES)?;
    conn.execute_batch(
        "CREATE TABLE rs_prepare (one INTEGER PRIMARY KEY CHECK (one = 1), after NOT NULL, done INTEGER NOT NULL);
         INSERT INTO rs_prepare VALUES (1, -9223372036854775808, 0);",
    )?;
    transaction.commit()
}

fn is_finished(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row(
        "SELECT user_version > 0 FROM pragma_user_version",
        [],
        |row| row.get(0),
    )
}

/// The last row that was looked at, and how many were; `None` if no preparation is under way.
fn cursor(conn: &Connection) -> rusqlite::Result<Option<(i64, i64)>> {
    let sql = "SELECT 1 FROM sqlite_master WHERE name = 'rs_prepare'";
    if conn.query_row(sql, [], |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    conn.prepare_cached("SELECT after, done FROM rs_prepare")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

struct Step {
    /// Rows looked at so far.
    done: u64,
    /// How long the write lock was held.
    held: Duration,
}

/// One step; `None` if that was the last, or another process has finished.
fn step(conn: &Connection, rows: i64) -> rusqlite::Result<Option<Step>> {
    let Some((after, _)) = cursor(conn)? else {
        return Ok(None);
    };
    // Outside the lock: it brings the rows into the system's cache, and finds the step's end.
    // A worker's REPLACE gives its row a new rowid at the end, and the triggers have counted it.
    let (seen, end): (i64, Option<i64>) = conn
        .prepare_cached(
            "SELECT count(length(headers) + length(id)), max(rowid) FROM \
             (SELECT rowid, headers, id FROM messages WHERE rowid > ?1 ORDER BY rowid LIMIT ?2)",
        )?
        .query_row((after, rows), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let transaction = immediate(conn)?;
    let start = Instant::now();
    let Some((now_after, done)) = cursor(conn)? else {
        return Ok(None);
    };
    let Some(end) = end else {
        conn.execute_batch("DROP TABLE rs_prepare")?;
        schema::complete(conn)?;
        transaction.commit()?;
        return Ok(None);
    };
    if now_after != after {
        // Another process made this step.
        return Ok(Some(Step {
            done: done as u64,
            held: HOLD,
        }));
    }
    count(conn, after, end)?;
    conn.prepare_cached("UPDATE rs_prepare SET after = ?1, done = done + ?2")?
        .execute((end, seen))?;
    transaction.commit()?;
    Ok(Some(Step {
        done: (done + seen) as u64,
        held: start.elapsed(),
    }))
}

/// Gives a side row to each row that has none, and counts it.
fn count(conn: &Connection, after: i64, end: i64) -> rusqlite::Result<()> {
    let mut uncounted = conn.prepare_cached(
        "SELECT rowid, rs_bucket(id, state), max(-62135596800, min(CAST(updated AS INTEGER), 253402300799)) \
         FROM messages m WHERE rowid > ?1 AND rowid <= ?2 AND id IS NOT NULL AND NOT EXISTS (\
         SELECT 1 FROM rs_message r WHERE r.id = m.id AND r.state IN (0, 1, 2, 3, 4, 5, 6, 7))",
    )?;
    let uncounted: Vec<(i64, i64, i64)> = uncounted
        .query_map((after, end), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut counts = [(0, i64::MIN); 8];
    let mut add = conn.prepare_cached(
        "INSERT INTO rs_message (state, id, secs, nanos, created_secs, retry_secs) \
         SELECT ?2, id, ?3, 0, CAST(created AS INTEGER), CAST(next_retry AS INTEGER) FROM messages WHERE rowid = ?1",
    )?;
    for (rowid, bucket, secs) in uncounted {
        add.execute((rowid, bucket, secs))?;
        // `rs_bucket` gives 0 to 6.
        let (count, newest) = &mut counts[bucket as usize];
        *count += 1;
        *newest = secs.max(*newest);
    }
    let now = Timestamp::now().seconds();
    for (state, (count, newest)) in counts
        .into_iter()
        .enumerate()
        .filter(|(_, (count, _))| *count > 0)
    {
        conn.prepare_cached("UPDATE rs_state SET count = count + ?2, changed_ms = max(changed_ms, ?3) WHERE state = ?1")?
            .execute((state as i64, count, newest.clamp(0, now) * 1000))?;
    }
    Ok(())
}
