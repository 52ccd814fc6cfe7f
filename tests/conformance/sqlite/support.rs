//! Spools of SQLite files, and files as RetrySpool makes them.

use std::path::Path;

use retryspoolfs::backend::sqlite::{SqliteBackend, SqliteFactory, schema};
use retryspoolfs::{Factory, QueueState};
use rusqlite::Connection;

use crate::contract::{Spool, ctx};

/// An empty spool.
pub fn spool() -> Spool {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    Spool::new(directory, move || {
        SqliteFactory::create_if_missing(&path).create().unwrap()
    })
}

/// Opens the store at `path`, making it if there is none.
pub fn open(path: &Path) -> SqliteBackend {
    SqliteFactory::create_if_missing(path).open().unwrap()
}

/// RetrySpool's own indexes.
pub const INDEXES: &str = "
CREATE INDEX IF NOT EXISTS idx_messages_state ON messages(state, created);
CREATE INDEX IF NOT EXISTS idx_messages_state_priority ON messages(state, priority DESC, created);
CREATE INDEX IF NOT EXISTS idx_messages_next_retry ON messages(next_retry) WHERE state = 2;
CREATE INDEX IF NOT EXISTS idx_messages_created ON messages(created);
CREATE INDEX IF NOT EXISTS idx_messages_updated ON messages(updated);
";

/// RetrySpool's columns, by the names it writes them with.
pub const COLUMNS: &str = "id, state, attempts, max_attempts, next_retry, created, updated, last_error, size, \
     priority, headers, retry_policy_name";

/// A file as RetrySpool makes it.
pub fn retryspool_file(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(schema::MESSAGES).unwrap();
    conn.execute_batch(INDEXES).unwrap();
    conn
}

/// A connection as another process would have it.
pub fn connect(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(20))
        .unwrap();
    conn
}

/// RetrySpool's `INSERT OR REPLACE`.
pub fn retryspool_store(
    conn: &Connection,
    id: impl rusqlite::ToSql,
    state: i64,
    updated: i64,
) -> rusqlite::Result<usize> {
    let sql = format!(
        "INSERT OR REPLACE INTO messages ({COLUMNS}) VALUES (?1, ?2, 0, 10, 0, ?3, ?3, '', 10, 5, '{{}}', '')"
    );
    conn.prepare_cached(&sql)?.execute((id, state, updated))
}

/// RetrySpool's move.
pub fn retryspool_move(
    conn: &Connection,
    id: &str,
    from: i64,
    to: i64,
    updated: i64,
) -> rusqlite::Result<usize> {
    conn.prepare_cached(
        "UPDATE messages SET state = ?1, updated = ?2, headers = ?3 WHERE id = ?4 AND state = ?5",
    )?
    .execute((to, updated, "{}", id, from))
}

/// Counts, listings and the rows themselves agree, with no ID listed twice.
pub fn assert_exact(store: &dyn retryspoolfs::Backend, path: &Path) {
    let conn = connect(path);
    for state in QueueState::ALL {
        let mut rows = conn
            .prepare(
                "SELECT CAST(id AS BLOB) FROM messages WHERE state = ?1 AND typeof(id) = 'text'",
            )
            .unwrap();
        let rows = rows
            .query_map([state.number()], |row| row.get::<_, Vec<u8>>(0))
            .unwrap();
        let mut expected: Vec<retryspoolfs::MessageId> = rows
            .filter_map(|id| String::from_utf8(id.unwrap()).ok()?.parse().ok())
            .collect();
        expected.sort();
        let count = store.state_info(&ctx(), state).unwrap().count;
        let listed = store
            .list_messages(&ctx(), state, &Default::default())
            .unwrap();
        assert_eq!(
            (count, listed.total),
            (expected.len() as u64, expected.len() as u64),
            "{state}"
        );
        assert!(
            listed.message_ids == expected,
            "the listing of {state} is not its rows"
        );
        assert!(
            store.scan(&ctx(), state, None, usize::MAX).unwrap() == expected,
            "{state}"
        );
    }
}
