//! Counting again: what was changed past the triggers is found, and taken account of.
//!
//! Owns: comparing `messages` with the side rows and these with the counts, in steps; the
//! statements that mend a difference.
//! May fail: as SQLite does; every step stands by itself.
//! Must not know: what a trigger does with a row that it is shown.
//!
//! No trigger sees a REPLACE by another row's rowid, nor a writer that turned triggers off. A
//! difference can only be made so: within one statement's snapshot, rows, side rows and counts
//! agree whatever all others do.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

use rusqlite::types::{ToSql, ToSqlOutput, Type, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row};

use super::change::Change;
use super::reader::Readers;
use super::schema;
use super::writer::Writer;
use crate::backend::{Context, Result};
use crate::model::QueueState;

/// Rows of one step: a few milliseconds of reading, under no lock that a writer meets.
const ROWS: i64 = 1000;

/// Rows that one transaction mends.
const MENDED_AT_ONCE: usize = 16;

/// How often a step's own time passes before the next one, where nobody waits for the result.
const GENTLY: u32 = 9;

/// An ID as it is stored, which may be no text, or no UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    is_text: bool,
    bytes: Vec<u8>,
}

impl Key {
    /// The ID in a column.
    pub fn at(row: &Row<'_>, at: usize) -> rusqlite::Result<Key> {
        let (is_text, bytes) = match row.get_ref(at)? {
            ValueRef::Text(bytes) => (true, bytes),
            ValueRef::Blob(bytes) => (false, bytes),
            other => return Err(no_id(at, other.data_type())),
        };
        let bytes = bytes.to_vec();
        Ok(Key { is_text, bytes })
    }

    /// Its bytes, if it is text.
    pub fn text(&self) -> Option<&[u8]> {
        self.is_text.then_some(self.bytes.as_slice())
    }

    /// What no ID is less than.
    fn least() -> Key {
        Key {
            is_text: true,
            bytes: Vec::new(),
        }
    }
}

fn no_id(at: usize, found: Type) -> rusqlite::Error {
    rusqlite::Error::InvalidColumnType(at, "id".into(), found)
}

impl ToSql for Key {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.is_text {
            true => ValueRef::Text(&self.bytes),
            false => ValueRef::Blob(&self.bytes),
        }))
    }
}

/// For a line of text.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: Cow<str> = String::from_utf8_lossy(&self.bytes);
        match self.is_text {
            true => write!(f, "{text:?}"),
            false => write!(f, "the blob {text:?}"),
        }
    }
}

/// What one transaction mends.
#[derive(Debug, Default)]
pub struct Mend {
    /// Rows and side rows of these IDs that may differ.
    pub ids: Vec<Key>,
    /// What the counts of these buckets lack.
    pub counts: Vec<(i64, i64)>,
}

impl Mend {
    /// Looks again, under the write lock, and mends. With counts it also tells every feed that
    /// changes were missed.
    pub fn run(&self, conn: &Connection) -> rusqlite::Result<()> {
        self.ids.iter().try_for_each(|id| mend(conn, id))?;
        for (state, lacks) in &self.counts {
            conn.prepare_cached("INSERT OR IGNORE INTO rs_state (state) VALUES (?1)")?
                .execute([state])?;
            conn.prepare_cached("UPDATE rs_state SET count = count + ?2 WHERE state = ?1")?
                .execute((state, lacks))?;
        }
        match self.counts.is_empty() {
            true => Ok(()),
            false => schema::append_reset(conn),
        }
    }
}

/// `updated` as the triggers take it.
const UPDATED: &str = "max(-62135596800, min(CAST(m.updated AS INTEGER), 253402300799))";

/// The other times that a side row repeats.
const TIMES: &str = "CAST(m.created AS INTEGER), CAST(m.next_retry AS INTEGER)";

fn mend(conn: &Connection, id: &Key) -> rusqlite::Result<()> {
    let stored: Option<Stored> = conn
        .prepare_cached(&format!(
            "SELECT m.id, m.state, {UPDATED}, {TIMES} FROM messages m WHERE m.id = ?1"
        ))?
        .query_row([id], Stored::read)
        .optional()?;
    let mut sides = conn.prepare_cached(
        "SELECT state, secs, created_secs, retry_secs FROM rs_message \
         WHERE id = ?1 AND state IN (0, 1, 2, 3, 4, 5, 6, 7)",
    )?;
    let sides: Vec<Side> = sides
        .query_map([id], |row| Side::read(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    for Side { bucket: state, .. } in sides.iter().skip(1) {
        // The counts are compared after the rows.
        conn.prepare_cached("DELETE FROM rs_message WHERE state = ?1 AND id = ?2")?
            .execute((state, id))?;
    }
    match (stored, sides.first()) {
        (None, None) => Ok(()),
        (None, Some(_)) => conn
            .prepare_cached("INSERT INTO rs_change (id) VALUES (?1)")?
            .execute([id])
            .map(drop),
        (Some(stored), side) if stored.differs(side).is_none() => Ok(()),
        // Shows the row to the triggers.
        (Some(_), _) => conn
            .prepare_cached("UPDATE messages SET state = state WHERE id = ?1")?
            .execute([id])
            .map(drop),
    }
}

/// What decides of a row of `messages` whether its side row is right.
struct Stored {
    bucket: i64,
    updated: i64,
    /// Created and NextRetry.
    times: [Option<i64>; 2],
}

/// The same of a side row.
struct Side {
    bucket: i64,
    secs: i64,
    times: [Option<i64>; 2],
}

impl Stored {
    /// From the ID, the state, `UPDATED` and `TIMES`.
    fn read(row: &Row<'_>) -> rusqlite::Result<Stored> {
        Ok(Stored {
            bucket: bucket(row, 0, 1)?,
            updated: row.get(2)?,
            times: [row.get(3)?, row.get(4)?],
        })
    }

    /// How it differs from its side row, if it does.
    fn differs(&self, side: Option<&Side>) -> Option<String> {
        match side {
            None => Some("is not counted".into()),
            Some(side) if side.bucket == schema::DOUBTFUL => None,
            Some(side) if side.bucket != self.bucket => Some(format!(
                "is {}, and counted {}",
                place(self.bucket),
                place(side.bucket)
            )),
            Some(side) if side.secs < self.updated || side.times != self.times => {
                Some("was changed without a new revision".into())
            }
            Some(_) => None,
        }
    }
}

impl Side {
    fn read(row: &Row<'_>, at: usize) -> rusqlite::Result<Side> {
        Ok(Side {
            bucket: row.get(at)?,
            secs: row.get(at + 1)?,
            times: [row.get(at + 2)?, row.get(at + 3)?],
        })
    }
}

fn place(bucket: i64) -> String {
    match QueueState::from_number(bucket) {
        Some(state) => format!("in {state}"),
        None => "where no directory is".into(),
    }
}

fn bucket(row: &Row<'_>, id: usize, state: usize) -> rusqlite::Result<i64> {
    let state = match row.get_ref(state)? {
        ValueRef::Integer(state) => Some(state),
        _ => None,
    };
    Ok(schema::bucket(Key::at(row, id)?.text(), state))
}

/// A walk over the store that counts again.
pub struct Walk<'a> {
    pub readers: &'a Readers,
    /// Mends what is found, where there is one.
    pub writer: Option<&'a Writer>,
    pub ctx: &'a Context,
    /// Asked between steps.
    pub going: &'a dyn Fn() -> bool,
    /// Whether each step is followed by a pause nine times as long.
    pub gently: bool,
}

impl Walk<'_> {
    /// Compares everything, tells of each difference, and gives how many there were.
    pub fn run(&self, found: &mut dyn FnMut(String)) -> Result<u64> {
        let mut differences = self.rows(found)?;
        for state in 0..=schema::DOUBTFUL {
            differences += self.side_rows(state, found)?;
        }
        if !(self.going)() {
            return Ok(differences);
        }
        let counts = self.read(counts)?;
        for (state, lacks) in &counts {
            let too = if *lacks < 0 { "many" } else { "few" };
            found(format!(
                "{} too {too} messages are counted {}",
                lacks.unsigned_abs(),
                place(*state)
            ));
        }
        differences += counts.len() as u64;
        if let Some(writer) = self.writer
            && differences > 0
        {
            // Followers are told also where each row was mended by itself.
            let counts = match counts.is_empty() {
                true => vec![(0, 0)],
                false => counts,
            };
            let ids = Vec::new();
            writer.submit(Change::Mend(Mend { ids, counts }), self.ctx)?;
        }
        Ok(differences)
    }

    /// From each row of `messages` to its side row.
    fn rows(&self, found: &mut dyn FnMut(String)) -> Result<u64> {
        let (mut after, mut differences) = (i64::MIN, 0);
        while (self.going)() {
            let (end, odd) = self.read(|conn| rows(conn, after))?;
            differences += self.take(odd, found)?;
            match end {
                Some(end) => after = end,
                None => break,
            }
        }
        Ok(differences)
    }

    /// From each side row of a bucket to its row: one without a row, or one too many.
    fn side_rows(&self, state: i64, found: &mut dyn FnMut(String)) -> Result<u64> {
        let (mut after, mut differences) = (None, 0);
        while (self.going)() {
            let (end, odd) = self.read(|conn| side_rows(conn, state, after.as_ref()))?;
            differences += self.take(odd, found)?;
            match end {
                Some(end) => after = Some(end),
                None => break,
            }
        }
        Ok(differences)
    }

    fn take(&self, odd: Vec<(Key, String)>, found: &mut dyn FnMut(String)) -> Result<u64> {
        let count = odd.len() as u64;
        odd.iter()
            .for_each(|(id, what)| found(format!("{id} {what}")));
        if let Some(writer) = self.writer {
            for some in odd.chunks(MENDED_AT_ONCE) {
                let ids = some.iter().map(|(id, _)| id.clone()).collect();
                let counts = Vec::new();
                writer.submit(Change::Mend(Mend { ids, counts }), self.ctx)?;
            }
        }
        Ok(count)
    }

    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = self.readers.run(self.ctx.deadline(), query);
        if self.gently {
            let pause = (start.elapsed() * GENTLY).min(Duration::from_secs(1));
            std::thread::sleep(pause);
        }
        result
    }
}

/// What is odd, and the cursor behind the rows looked at; `None` behind the last.
type Step<T> = (Option<T>, Vec<(Key, String)>);

fn rows(conn: &Connection, after: i64) -> rusqlite::Result<Step<i64>> {
    let end: Option<i64> = conn
        .prepare_cached(
            "SELECT max(rowid) FROM \
             (SELECT rowid FROM messages WHERE rowid > ?1 ORDER BY rowid LIMIT ?2)",
        )?
        .query_row((after, ROWS), |row| row.get(0))?;
    let mut odd = conn.prepare_cached(&format!(
        "SELECT m.id, m.state, {UPDATED}, {TIMES}, r.state, r.secs, r.created_secs, r.retry_secs FROM messages m \
         LEFT JOIN rs_message r ON r.id = m.id AND r.state IN (0, 1, 2, 3, 4, 5, 6, 7) \
         WHERE m.rowid > ?1 AND m.rowid <= ?2 AND m.id IS NOT NULL AND NOT EXISTS (\
         SELECT 1 FROM rs_message s WHERE s.state = m.state AND s.id = m.id AND s.state < 6 \
         AND s.secs >= {UPDATED} AND (s.created_secs, s.retry_secs) IS ({TIMES}))"
    ))?;
    let mut rows = odd.query((after, end))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let stored = Stored::read(row)?;
        let side = match row.get::<_, Option<i64>>(5)? {
            Some(_) => Some(Side::read(row, 5)?),
            None => None,
        };
        if let Some(what) = stored.differs(side.as_ref()) {
            found.push((Key::at(row, 0)?, what));
        }
    }
    Ok((end, found))
}

fn side_rows(conn: &Connection, state: i64, after: Option<&Key>) -> rusqlite::Result<Step<Key>> {
    // The empty text comes first, but for itself.
    let least = Key::least();
    let (operator, after) = match after {
        Some(after) => (">", after),
        None => (">=", &least),
    };
    let end = conn
        .prepare_cached(&format!(
            "SELECT id FROM (SELECT id FROM rs_message WHERE state = ?1 AND id {operator} ?2 \
             ORDER BY id LIMIT ?3) ORDER BY id DESC LIMIT 1"
        ))?
        .query_row((state, after, ROWS), |row| Key::at(row, 0))
        .optional()?;
    let Some(end) = end else {
        return Ok((None, Vec::new()));
    };
    let mut odd = conn.prepare_cached(&format!(
        "SELECT r.id, m.state, m.id IS NULL FROM rs_message r LEFT JOIN messages m ON m.id = r.id \
         WHERE r.state = ?1 AND r.id {operator} ?2 AND r.id <= ?3 \
         AND (m.id IS NULL OR EXISTS (SELECT 1 FROM rs_message s WHERE s.id = r.id \
         AND s.state IN (0, 1, 2, 3, 4, 5, 6, 7) AND s.state <> r.state))"
    ))?;
    let mut rows = odd.query((state, after, &end))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id = Key::at(row, 0)?;
        if row.get::<_, bool>(2)? {
            found.push((id, format!("is counted {}, and not there", place(state))));
        } else if bucket(row, 0, 1)? != state {
            found.push((id, format!("is counted {} as well", place(state))));
        }
    }
    Ok((Some(end), found))
}

/// Buckets, and how many messages their counts lack.
fn counts(conn: &Connection) -> rusqlite::Result<Vec<(i64, i64)>> {
    let mut counts = conn.prepare_cached(
        "SELECT b.column1, (SELECT count(*) FROM rs_message r WHERE r.state = b.column1) \
         - coalesce((SELECT count FROM rs_state s WHERE s.state = b.column1), 0) \
         FROM (VALUES (0), (1), (2), (3), (4), (5), (6), (7)) b",
    )?;
    let counts: Vec<(i64, i64)> = counts
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(counts
        .into_iter()
        .filter(|(_, lacks)| *lacks != 0)
        .collect())
}
