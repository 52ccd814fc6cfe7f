//! The feed of changes: the log, read as it grows.
//!
//! Owns: one reading connection of its own, and how a commit of any process is noticed.
//! May fail: with SQLite's errors, mapped.
//! Must not know: what anybody does with a change.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::error::from_sqlite;
use super::open::{self, Access, Place};
use super::{row, schema};
use crate::backend::{Actor, Change, ChangeFeed, Changes, Context, Error, Result};
use crate::model::{MessageId, QueueState, Timestamp};

/// How often a waiting feed asks whether anybody has committed. `PRAGMA data_version` takes one or
/// two microseconds, so this costs less than half a percent of a core.
const POLL: Duration = Duration::from_millis(10);

/// The feed of one file.
pub struct Feed {
    place: Place,
    access: Access,
    connection: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` until it is first used, and again after an error.
    connection: Option<Connection>,
    closed: bool,
}

impl Feed {
    /// A feed; nothing is opened yet.
    pub fn new(place: Place, read_only: bool) -> Feed {
        Feed {
            place,
            access: if read_only {
                Access::ReadOnly
            } else {
                Access::Read
            },
            connection: Mutex::default(),
        }
    }

    /// Closes the connection; whoever waits is told so.
    pub fn close(&self) {
        *self.connection.lock() = State {
            connection: None,
            closed: true,
        };
    }

    fn run<T>(
        &self,
        ctx: &Context,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let mut state = self.connection.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        let conn = match state.connection.take() {
            Some(conn) => conn,
            None => {
                self.place.check()?;
                let conn = open::connect(&self.place, self.access).map_err(from_sqlite)?;
                conn.pragma_update(None, "query_only", true)
                    .map_err(from_sqlite)?;
                conn
            }
        };
        // Readers of a write-ahead log wait for nobody, but while it is recovered or made.
        let left = ctx.deadline().saturating_duration_since(Instant::now());
        let result = conn.busy_timeout(left).and_then(|()| query(&conn));
        let result = result.map_err(from_sqlite)?;
        state.connection = Some(conn);
        Ok(result)
    }
}

impl ChangeFeed for Feed {
    fn newest(&self, ctx: &Context) -> Result<u64> {
        self.run(ctx, newest)
    }

    fn changes(&self, ctx: &Context, after: u64, limit: usize) -> Result<Changes> {
        loop {
            // Read before the log is: a commit between the two is found by the next look.
            let (version, found) = self.run(ctx, |conn| {
                Ok((data_version(conn)?, read(conn, after, limit)?))
            })?;
            if found.lost || found.cursor != after {
                return Ok(found);
            }
            while self.run(ctx, data_version)? == version {
                let left = ctx.deadline().saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(found);
                }
                std::thread::sleep(left.min(POLL));
                self.place.check()?;
            }
        }
    }
}

/// Moves with each commit of any other connection, of this process or another.
fn data_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("PRAGMA data_version")?
        .query_row([], |row| row.get(0))
}

fn newest(conn: &Connection) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT coalesce(max(seq), 0) FROM rs_log")?
        .query_row([], |row| row.get::<_, i64>(0))
        .map(|seq| seq.max(0) as u64)
}

/// Who made a change, of one that says so.
fn actor(row: &rusqlite::Row) -> rusqlite::Result<Option<Actor>> {
    let (uid, pid, command) = (row.get(7)?, row.get(8)?, row.get(9)?);
    Ok(match (uid, pid, command) {
        (Some(uid), Some(pid), Some(command)) => Some(Actor { uid, pid, command }),
        _ => None,
    })
}

/// The change in a row of seq, id, old, new, secs, nanos, at_ms, uid, pid, command.
pub fn change(row: &rusqlite::Row, id: MessageId) -> rusqlite::Result<Change> {
    let state = |at| -> rusqlite::Result<Option<QueueState>> {
        let bucket: Option<i64> = row.get(at)?;
        Ok(bucket.and_then(QueueState::from_number))
    };
    Ok(Change {
        seq: row.get::<_, i64>(0)?.max(0) as u64,
        id,
        from: state(2)?,
        to: state(3)?,
        revision: row::revision(row, 4)?,
        at: time(row.get(6)?),
        actor: actor(row)?,
    })
}

/// The time of so many milliseconds since 1970.
pub fn time(ms: i64) -> Timestamp {
    let nanos = ms.rem_euclid(1000) as u32 * 1_000_000;
    Timestamp::new(ms.div_euclid(1000), nanos).unwrap_or_default()
}

/// What follows the cursor. Sequence numbers have no gaps, so a gap is what was trimmed, and a log
/// that ends before the cursor is another log. A reset is told by itself, after what came before it.
fn read(conn: &Connection, after: u64, limit: usize) -> rusqlite::Result<Changes> {
    let mut query = conn.prepare_cached(
        "SELECT l.seq, l.id, l.old, l.new, l.secs, l.nanos, l.at_ms, a.uid, a.pid, a.command \
         FROM rs_log l LEFT JOIN rs_audit a ON a.seq = l.seq WHERE l.seq > ?1 ORDER BY l.seq LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = query.query((after as i64, limit))?;
    let mut found = Changes {
        cursor: after,
        ..Changes::default()
    };
    while let Some(row) = rows.next()? {
        let seq = row.get::<_, i64>(0)?.max(0) as u64;
        if seq != found.cursor + 1 {
            found.lost = true;
            found.changes.clear();
            break;
        }
        if row.get::<_, Option<i64>>(2)? == Some(schema::RESET) {
            if found.cursor == after {
                return Ok(Changes {
                    cursor: seq,
                    lost: true,
                    ..Changes::default()
                });
            }
            return Ok(found);
        }
        found.cursor = seq;
        // What no directory shows, no one is told of.
        let id = row.get_ref(1)?.as_str().ok();
        let id = id.and_then(|id| id.parse::<MessageId>().ok());
        if let Some(id) = id {
            let change = change(row, id)?;
            if change.from.is_some() || change.to.is_some() {
                found.changes.push(change);
            }
        }
    }
    drop(rows);
    let newest = newest(conn)?;
    if found.lost || newest < after {
        found.lost = true;
        found.cursor = newest;
    }
    Ok(found)
}
