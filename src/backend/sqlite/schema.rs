//! The tables: RetrySpool's and ours, their version, and whether a file has them.
//!
//! Owns: the text of the schema, `user_version`, and the verdict on a file somebody else made.
//! May fail: as SQLite does; a verdict is a value, not an error.
//! Must not know: paths, connections' settings, queries.

use rusqlite::Connection;

use crate::model::MessageId;

/// The schema version that this build writes, and the newest that it reads. A file that was never
/// prepared, or not to the end, is at 0.
pub const VERSION: i64 = 2;

/// RetrySpool's table, column for column. Its indexes are its own business: it makes them
/// whenever it opens a file, and they cost every change twice its time.
pub const MESSAGES: &str = "\
CREATE TABLE messages (
  id TEXT PRIMARY KEY,
  state INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  max_attempts INTEGER NOT NULL,
  next_retry INTEGER NOT NULL,
  created INTEGER NOT NULL,
  updated INTEGER NOT NULL,
  last_error TEXT,
  size INTEGER NOT NULL DEFAULT 0,
  priority INTEGER NOT NULL DEFAULT 5,
  headers TEXT NOT NULL DEFAULT '{}',
  retry_policy_name TEXT
);
";

/// Our side tables and triggers, at [`VERSION`].
pub const SIDE_TABLES: &str = include_str!("schema.sql");

/// The bucket of what no directory or file name can express.
pub const INEXPRESSIBLE: i64 = 6;
/// The bucket of IDs that SQL can't judge.
pub const DOUBTFUL: i64 = 7;

/// In a row of the log, in place of the bucket before a change: no change, but word that the log
/// missed some.
pub const RESET: i64 = -1;

/// Tells whoever follows the log that changes went around it: to be appended in the transaction
/// that put right what they had left wrong.
pub fn append_reset(conn: &Connection) -> rusqlite::Result<()> {
    // The empty ID, made next, would go on from this revision: it is the oldest there is.
    conn.prepare_cached(
        "INSERT INTO rs_log (id, old, new, secs, nanos, at_ms) VALUES \
         ('', ?1, NULL, -62135596800, 0, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))",
    )?
    .execute([RESET])
    .map(drop)
}

/// The columns of RetrySpool's table.
const COLUMNS: [(&str, &str); 12] = [
    ("attempts", "INTEGER"),
    ("created", "INTEGER"),
    ("headers", "TEXT"),
    ("id", "TEXT"),
    ("last_error", "TEXT"),
    ("max_attempts", "INTEGER"),
    ("next_retry", "INTEGER"),
    ("priority", "INTEGER"),
    ("retry_policy_name", "TEXT"),
    ("size", "INTEGER"),
    ("state", "INTEGER"),
    ("updated", "INTEGER"),
];

/// What leads from one version to the next: triggers that are made anew, in one transaction.
/// A file that has none of ours is made at [`VERSION`], by [`create`] or by preparing it.
struct Migration {
    to: i64,
    triggers: &'static [&'static str],
}

const MIGRATIONS: &[Migration] = &[Migration {
    to: 2,
    triggers: &["rs_updated"],
}];

/// What a file is.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A database without any table.
    Empty,
    /// RetrySpool's file, which this store has not prepared, or not to the end.
    Unprepared,
    /// Ready for this store; older versions are brought forward first.
    Ready,
    /// Prepared, and something of ours was taken out of it since: its name.
    Damaged(String),
    /// Not ours to touch, and why.
    Refused(String),
}

/// Judges the file; reads, and changes nothing.
pub fn examine(conn: &Connection) -> rusqlite::Result<Verdict> {
    let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let mut names = conn.prepare("SELECT name, type FROM sqlite_master ORDER BY name")?;
    let names: Vec<(String, String)> = names
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    if names.is_empty() && version == 0 {
        return Ok(Verdict::Empty);
    }
    let is_table = |(name, kind): &(String, String)| name == "messages" && kind == "table";
    if !names.iter().any(is_table) {
        return Ok(refused(
            "it is another program's database: it has no table \"messages\"",
        ));
    }
    if version > VERSION {
        return Ok(refused(format!(
            "it was made by a newer retryspoolfs (schema version {version}, this build knows {VERSION})"
        )));
    }
    let mut columns =
        conn.prepare("SELECT name, upper(type) FROM pragma_table_info('messages') ORDER BY name")?;
    let columns: Vec<(String, String)> = columns
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let is_column = |want: &(&str, &str)| {
        columns
            .iter()
            .any(|(n, t)| (n.as_str(), t.as_str()) == *want)
    };
    let missing: Vec<&str> = COLUMNS
        .iter()
        .filter(|c| !is_column(c))
        .map(|c| c.0)
        .collect();
    if missing == ["retry_policy_name"] && columns.len() == COLUMNS.len() - 1 {
        // Adding the column is RetrySpool's own migration; two programs doing it would race.
        return Ok(refused(
            "it was made by an older RetrySpool: start the current RetrySpool on it once, \
             which adds the column \"retry_policy_name\"",
        ));
    }
    if !missing.is_empty() || columns.len() != COLUMNS.len() {
        return Ok(refused(
            "its table \"messages\" has other columns than RetrySpool's",
        ));
    }
    let encoding: String = conn.query_row("PRAGMA encoding", [], |row| row.get(0))?;
    if encoding != "UTF-8" {
        return Ok(refused(format!("its text is {encoding}, not UTF-8")));
    }
    if version == 0 {
        return Ok(Verdict::Unprepared);
    }
    let lost = wanted()?
        .into_iter()
        .find(|part| !names.iter().any(|(name, _)| *name == part.name));
    Ok(match lost {
        None => Verdict::Ready,
        Some(lost) => Verdict::Damaged(lost.name),
    })
}

/// A table, view, index or trigger of ours.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    pub kind: String,
    pub name: String,
    /// The text that makes it.
    sql: String,
}

/// What of ours a file has.
fn parts(conn: &Connection) -> rusqlite::Result<Vec<Part>> {
    let mut parts = conn.prepare(
        "SELECT type, name, sql FROM sqlite_master WHERE name LIKE 'rs!_%' ESCAPE '!' AND sql IS NOT NULL",
    )?;
    let parts = parts.query_map([], |row| {
        Ok(Part {
            kind: row.get(0)?,
            name: row.get(1)?,
            sql: row.get(2)?,
        })
    })?;
    parts.collect()
}

/// What of ours a prepared file must have, in the order in which it is made.
fn wanted() -> rusqlite::Result<Vec<Part>> {
    let scratch = Connection::open_in_memory()?;
    create(&scratch)?;
    parts(&scratch)
}

/// What of ours a file lacks or has otherwise.
pub fn differing(conn: &Connection) -> rusqlite::Result<Vec<Part>> {
    let found = parts(conn)?;
    Ok(wanted()?
        .into_iter()
        .filter(|part| !found.contains(part))
        .collect())
}

/// Makes what differs anew, in one transaction. Where that is a table, what the file had of ours
/// goes, the logs as well, and the file has to be prepared again.
pub fn mend(conn: &Connection) -> rusqlite::Result<()> {
    let transaction =
        rusqlite::Transaction::new_unchecked(conn, rusqlite::TransactionBehavior::Immediate)?;
    let differing = differing(conn)?;
    if differing.iter().any(|part| part.kind == "table") {
        // Triggers and indexes of a table go with it; others may name it.
        for kind in ["trigger", "view", "table"] {
            for part in parts(conn)?.iter().filter(|part| part.kind == kind) {
                conn.execute_batch(&format!("DROP {kind} {}", part.name))?;
            }
        }
        conn.pragma_update(None, "user_version", 0)?;
    } else {
        for Part { kind, name, sql } in differing {
            conn.execute_batch(&format!("DROP {kind} IF EXISTS {name}; {sql}"))?;
        }
    }
    transaction.commit()
}

fn refused(why: impl Into<String>) -> Verdict {
    Verdict::Refused(why.into())
}

/// Makes all tables in an empty database; the caller's transaction makes it all or nothing.
pub fn create(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(MESSAGES)?;
    conn.execute_batch(SIDE_TABLES)?;
    conn.pragma_update(None, "user_version", VERSION)
}

/// Brings a prepared file forward to [`VERSION`], one transaction a step. Each step looks again
/// inside its transaction: another process may be doing the same.
pub fn migrate(conn: &Connection) -> rusqlite::Result<()> {
    let version = || conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    let reached = version()?;
    for step in MIGRATIONS.iter().filter(|step| step.to > reached) {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        if version()? + 1 == step.to {
            remake(conn, step.triggers)?;
            conn.pragma_update(None, "user_version", step.to)?;
        }
        conn.execute_batch("COMMIT")?;
    }
    Ok(())
}

fn remake(conn: &Connection, triggers: &[&str]) -> rusqlite::Result<()> {
    for Part { kind, name, sql } in wanted()? {
        if triggers.contains(&name.as_str()) {
            conn.execute_batch(&format!("DROP {kind} IF EXISTS {name}; {sql}"))?;
        }
    }
    Ok(())
}

/// Ends the preparation of a file, in the caller's transaction. An older build may have begun it.
pub fn complete(conn: &Connection) -> rusqlite::Result<()> {
    for step in MIGRATIONS {
        remake(conn, step.triggers)?;
    }
    conn.pragma_update(None, "user_version", VERSION)
}

/// The bucket of a row of `messages`, decided exactly.
pub fn bucket(id: Option<&[u8]>, state: Option<i64>) -> i64 {
    let expressible = id
        .and_then(|id| std::str::from_utf8(id).ok())
        .is_some_and(|id| id.parse::<MessageId>().is_ok());
    match state {
        Some(state @ 0..=5) if expressible => state,
        _ => INEXPRESSIBLE,
    }
}
