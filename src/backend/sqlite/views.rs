//! What a store that never writes reads instead of side tables that it can't make or settle:
//! temporary views of the same names and columns, which hide the tables.
//!
//! Owns: those views, and the SQL function that decides a row's bucket.
//! May fail: as SQLite does.
//! Must not know: the queries that run over them.

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;

use super::schema;

/// Makes `rs_bucket(id, state)` known to the connection.
pub fn register(conn: &Connection) -> rusqlite::Result<()> {
    conn.create_scalar_function(
        "rs_bucket",
        2,
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC,
        |ctx| {
            let id = match ctx.get_raw(0) {
                ValueRef::Text(id) => Some(id),
                _ => None,
            };
            let state = match ctx.get_raw(1) {
                ValueRef::Integer(state) => Some(state),
                _ => None,
            };
            Ok(schema::bucket(id, state))
        },
    )
}

/// For a file that was never prepared: everything from RetrySpool's table alone.
pub fn unprepared(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "CREATE TEMP VIEW rs_message AS
         SELECT rs_bucket(id, state) AS state, id,
           max(-62135596800, min(CAST(updated AS INTEGER), 253402300799)) AS secs, 0 AS nanos,
           CAST(created AS INTEGER) AS created_secs, 0 AS created_nanos,
           CAST(next_retry AS INTEGER) AS retry_secs, 0 AS retry_nanos
         FROM main.messages WHERE id IS NOT NULL;
         CREATE TEMP VIEW rs_state AS
         SELECT column1 AS state, (SELECT count(*) FROM main.messages WHERE id IS NOT NULL
             AND (messages.state = column1 OR column1 = 6) AND rs_bucket(id, messages.state) = column1) AS count,
           0 AS changed_ms
         FROM (VALUES (0), (1), (2), (3), (4), (5), (6), (7));
         CREATE TEMP VIEW rs_log AS
         SELECT NULL AS seq, NULL AS id, NULL AS old, NULL AS new, NULL AS secs, NULL AS nanos,
           NULL AS at_ms WHERE 0;",
    )
}

/// For a prepared file with doubtful rows that nobody has settled.
pub fn doubtful(conn: &Connection) -> rusqlite::Result<()> {
    conn.pragma_update(None, "query_only", false)?;
    conn.execute_batch(
        "CREATE TEMP VIEW rs_message AS
         SELECT state, id, secs, nanos, created_secs, created_nanos, retry_secs, retry_nanos
         FROM main.rs_message WHERE state <> 7
         UNION ALL
         SELECT rs_bucket(r.id, m.state), r.id, r.secs, r.nanos, r.created_secs, r.created_nanos,
           r.retry_secs, r.retry_nanos
         FROM main.rs_message r JOIN main.messages m ON m.id = r.id WHERE r.state = 7;
         CREATE TEMP VIEW rs_state AS
         SELECT s.state AS state, s.count + (SELECT count(*) FROM main.rs_message r
             JOIN main.messages m ON m.id = r.id
             WHERE r.state = 7 AND rs_bucket(r.id, m.state) = s.state) AS count,
           s.changed_ms AS changed_ms
         FROM main.rs_state s WHERE s.state <> 7;",
    )?;
    conn.pragma_update(None, "query_only", true)
}

/// Shows the tables again.
pub fn drop(conn: &Connection) -> rusqlite::Result<()> {
    conn.pragma_update(None, "query_only", false)?;
    conn.execute_batch("DROP VIEW temp.rs_message; DROP VIEW temp.rs_state;")?;
    conn.pragma_update(None, "query_only", true)
}
