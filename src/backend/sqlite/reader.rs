//! The queries, and the connections they run on.
//!
//! Owns: a pool of reading connections, opened on demand; the SQL that reads.
//! May fail: with SQLite's errors, mapped; [`Busy`](crate::Error::Busy) when a query passes its deadline.
//! Must not know: how changes are made.
//!
//! No snapshot outlives a call: a reader that stays in the log keeps it from being used again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};

use super::error::from_sqlite;
use super::open::{self, Access, Place};
use super::{row, schema, views};
use crate::backend::{Ages, Result, StateInfo};
use crate::model::{MessageId, QueueState, Stored, Timestamp};

/// How many idle connections are kept.
const KEPT: usize = 8;

/// How many steps of SQLite's machine pass between two looks at the deadline: some 0.1 ms.
const STEPS: i32 = 10_000;

/// How often the path is looked at.
const WATCH: Duration = Duration::from_millis(100);

/// The reading connections of a store.
pub struct Readers {
    place: Place,
    access: Access,
    /// Whether the file has our tables; if not (only in a store that never writes), temporary
    /// views compute them.
    prepared: bool,
    idle: Mutex<Vec<Reader>>,
    epoch: Instant,
    /// When the path was last looked at, in milliseconds since `epoch`.
    watched: AtomicU64,
}

/// A connection, and when its query must end, in microseconds since the pool's epoch.
struct Reader {
    conn: Connection,
    deadline: Arc<AtomicU64>,
}

impl Readers {
    /// An empty pool.
    pub fn new(place: Place, read_only: bool, prepared: bool) -> Readers {
        Readers {
            place,
            access: if read_only {
                Access::ReadOnly
            } else {
                Access::Read
            },
            prepared,
            idle: Mutex::default(),
            epoch: Instant::now(),
            watched: AtomicU64::new(0),
        }
    }

    /// Closes the idle connections; no call is under way.
    pub fn close(&self) {
        self.idle.lock().clear();
    }

    /// Runs queries on a connection that nobody else has, until the deadline.
    pub fn run<T>(
        &self,
        deadline: Instant,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.watch()?;
        let idle = self.idle.lock().pop();
        let reader = match idle {
            Some(reader) => reader,
            None => self.connect().map_err(from_sqlite)?,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        reader
            .deadline
            .store((self.epoch.elapsed() + left).as_micros() as u64, Relaxed);
        let result = reader
            .conn
            .busy_timeout(left)
            .and_then(|()| query(&reader.conn));
        match result {
            Ok(value) => {
                let mut idle = self.idle.lock();
                if idle.len() < KEPT && reader.conn.is_autocommit() {
                    idle.push(reader);
                }
                Ok(value)
            }
            // The connection goes with the error: another one starts clean.
            Err(e) => Err(from_sqlite(e)),
        }
    }

    /// Refuses a file that is not the one any more that was opened; looks ten times a second.
    pub fn watch(&self) -> Result<()> {
        let now = self.epoch.elapsed().as_millis() as u64;
        if now.saturating_sub(self.watched.load(Relaxed)) >= WATCH.as_millis() as u64 {
            self.place.check()?;
            self.watched.store(now, Relaxed);
        }
        Ok(())
    }

    fn connect(&self) -> rusqlite::Result<Reader> {
        let mut conn = open::connect(&self.place, self.access)?;
        if self.access == Access::ReadOnly {
            views::register(&conn)?;
            if !self.prepared {
                views::unprepared(&conn)?;
            }
        }
        conn.pragma_update(None, "query_only", true)?;
        let deadline = Arc::new(AtomicU64::new(u64::MAX));
        let (limit, epoch) = (Arc::clone(&deadline), self.epoch);
        let expired = move || epoch.elapsed().as_micros() as u64 > limit.load(Relaxed);
        conn.progress_handler(STEPS, Some(expired))?;
        Ok(Reader { conn, deadline })
    }

    /// Whether rows wait to be settled before counts and listings are right.
    pub fn doubtful(&self, deadline: Instant) -> Result<bool> {
        self.run(deadline, is_doubtful)
    }

    /// Runs a query that needs every row in its bucket, in a store that can't settle: views
    /// show doubtful rows where they belong.
    pub fn run_settled<T>(
        &self,
        deadline: Instant,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.run(deadline, |conn| {
            if self.access != Access::ReadOnly || !self.prepared {
                return query(conn);
            }
            let snapshot = conn.unchecked_transaction()?;
            if !is_doubtful(conn)? {
                let result = query(conn)?;
                snapshot.finish()?;
                return Ok(result);
            }
            snapshot.finish()?;
            views::doubtful(conn)?;
            let result = query(conn);
            views::drop(conn)?;
            result
        })
    }
}

fn is_doubtful(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT count FROM rs_state WHERE state = 7")?
        .query_row([], |row| row.get::<_, i64>(0))
        .optional()
        .map(|count| count.unwrap_or(0) > 0)
}

/// One message. Its ID is legal, so a row that nobody has settled yet is shown as well.
pub fn get(conn: &Connection, id: &MessageId) -> rusqlite::Result<Option<Result<Stored>>> {
    static GET: LazyLock<String> = LazyLock::new(|| {
        [
            "SELECT ",
            row::COLUMNS,
            " FROM messages m JOIN rs_message r ON r.id = m.id AND r.state = coalesce( \
               (SELECT state FROM rs_message WHERE state = m.state AND id = m.id), 7) \
             WHERE m.id = ?1 AND m.state BETWEEN 0 AND 5",
        ]
        .concat()
    });
    conn.prepare_cached(&GET)?
        .query_row([id.as_str()], row::stored)
        .optional()
}

/// IDs of a state after a cursor.
pub fn locate(conn: &Connection, id: &MessageId) -> rusqlite::Result<Option<QueueState>> {
    let mut query = conn.prepare_cached("SELECT state FROM messages WHERE id = ?1")?;
    let state: Option<i64> = query
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    Ok(state.and_then(QueueState::from_number))
}

/// See [`Backend::scan`](crate::backend::Backend::scan).
pub fn scan(
    conn: &Connection,
    state: QueueState,
    after: Option<&MessageId>,
    limit: usize,
) -> rusqlite::Result<Vec<MessageId>> {
    // No ID is empty.
    let after = after.map_or("", MessageId::as_str);
    conn.prepare_cached(
        "SELECT id FROM rs_message WHERE state = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
    )?
    .query_map((state.number(), after, limit_of(limit)), row::id)?
    .collect()
}

/// Messages of a state after a cursor.
pub fn scan_stored(
    conn: &Connection,
    state: QueueState,
    after: Option<&MessageId>,
    limit: usize,
) -> rusqlite::Result<Vec<(MessageId, Result<Stored>)>> {
    let after = after.map_or("", MessageId::as_str);
    let sql = [
        "SELECT ",
        row::COLUMNS,
        ", r.id FROM rs_message r LEFT JOIN messages m ON m.id = r.id \
         WHERE r.state = ?1 AND r.id > ?2 ORDER BY r.id LIMIT ?3",
    ]
    .concat();
    conn.prepare_cached(&sql)?
        .query_map((state.number(), after, limit_of(limit)), |row| {
            Ok((row::id_at(row, 18)?, row::stored(row)?))
        })?
        .collect()
}

fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// A state's count and last change.
pub fn state_info(conn: &Connection, state: QueueState) -> rusqlite::Result<StateInfo> {
    conn.prepare_cached("SELECT count, changed_ms FROM rs_state WHERE state = ?1")?
        .query_row([state.number()], info)
}

/// The same; nothing while rows wait to be settled.
pub fn settled_state_info(
    conn: &Connection,
    state: QueueState,
) -> rusqlite::Result<Option<StateInfo>> {
    conn.prepare_cached(
        "SELECT count, changed_ms FROM rs_state WHERE state = ?1 \
         AND NOT EXISTS (SELECT 1 FROM rs_state WHERE state = 7 AND count > 0)",
    )?
    .query_row([state.number()], info)
    .optional()
}

fn info(row: &rusqlite::Row<'_>) -> rusqlite::Result<StateInfo> {
    let ms: i64 = row.get(1)?;
    let changed = Timestamp::new(ms.div_euclid(1000), ms.rem_euclid(1000) as u32 * 1_000_000);
    Ok(StateInfo {
        count: u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0),
        changed: if ms == 0 {
            Timestamp::ZERO
        } else {
            changed.unwrap_or(Timestamp::ZERO)
        },
    })
}

/// How many rows no directory or file name can express.
pub fn inexpressible(conn: &Connection) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT count FROM rs_state WHERE state = ?1")?
        .query_row([schema::INEXPRESSIBLE], |row| row.get::<_, i64>(0))
        .map(|count| u64::try_from(count).unwrap_or(0))
}

/// A state's oldest message and next retry.
pub fn ages(conn: &Connection, state: QueueState) -> rusqlite::Result<Ages> {
    let first = |sql: &str| -> rusqlite::Result<Option<Timestamp>> {
        let mut query = conn.prepare_cached(sql)?;
        let seconds: Option<i64> = query.query_row([state.number()], |row| row.get(0))?;
        Ok(seconds.and_then(|seconds| Timestamp::new(seconds, 0)))
    };
    // The planner would read the whole state: it has no statistics, and takes the primary key's
    // first column for the better index. Views, which stand in for a table that is not there, have
    // none to name.
    let [indexed, any] = ["INDEXED BY rs_due ", ""].map(|index| {
        format!(
            "SELECT min(retry_secs) FROM rs_message {index}\
             WHERE ?1 = 2 AND state = 2 AND retry_secs > -62135596800"
        )
    });
    Ok(Ages {
        oldest: first("SELECT min(created_secs) FROM rs_message WHERE state = ?1")?,
        next_due: first(&indexed).or_else(|_| first(&any))?,
    })
}

/// Whether the log knows the revision as one that the message had and has no more.
pub fn was_revision(
    conn: &Connection,
    id: &MessageId,
    updated: Timestamp,
) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM rs_log WHERE id = ?1 AND secs = ?2 AND nanos = ?3) \
         AND NOT EXISTS (SELECT 1 FROM rs_message WHERE id = ?1 AND state IN (0, 1, 2, 3, 4, 5, 7) AND secs = ?2 AND nanos = ?3)",
    )?
    .query_row((id.as_str(), updated.seconds(), updated.nanos()), |row| row.get(0))
}
