//! The audit log: a row for each change that came with an actor, beside the log of all changes.
//!
//! Owns: the table rs_audit and its limits; what is kept of a message before it is changed.
//! May fail: as SQLite does; inside a change's transaction that undoes the change as well.
//! Must not know: transactions, locks, threads.

use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::change::Change;
use super::{feed, reader, row};
use crate::backend::{Actor, AuditEntry, AuditLimits, AuditQuery, AuditSize};
use crate::document;
use crate::model::{MessageId, QueueState, Revision, Timestamp};

/// After how many entries those that are too many or too old go, and twice as many at most.
const TRIM_EVERY: i64 = 256;

/// What the log tells of a message before a change.
#[derive(Default)]
pub struct Before {
    state: Option<QueueState>,
    revision: Option<Revision>,
    document: Option<String>,
}

impl Before {
    /// Looks at the message that the change is about to be made of.
    pub fn look(conn: &Connection, change: &Change) -> rusqlite::Result<Before> {
        match change {
            Change::Store(metadata) | Change::Update(metadata) => whole(conn, &metadata.id),
            Change::Replace { metadata, .. } => whole(conn, &metadata.id),
            Change::Delete(id) | Change::Remove { id, .. } => whole(conn, id),
            // What it is on condition of is what was there.
            Change::Relocate {
                from,
                seen: Some(seen),
                ..
            } => Ok(Before {
                state: Some(*from),
                revision: Some(*seen),
                document: None,
            }),
            Change::Relocate { id, from, .. } => revision(conn, id, *from),
            Change::Insert(_)
            | Change::Restore { .. }
            | Change::Settle
            | Change::Mend(_)
            | Change::Limit(_)
            | Change::Trim => Ok(Before::default()),
        }
    }

    /// The same without the document, where there is no room for one.
    pub fn brief(self) -> Before {
        Before {
            document: None,
            ..self
        }
    }
}

fn whole(conn: &Connection, id: &MessageId) -> rusqlite::Result<Before> {
    Ok(match reader::get(conn, id)? {
        Some(Ok(stored)) => Before {
            state: Some(stored.metadata.state),
            revision: Some(stored.revision),
            document: String::from_utf8(document::render(&stored.metadata)).ok(),
        },
        // What can't be read can't be kept either; that it was there still can.
        Some(Err(_)) => match reader::locate(conn, id)? {
            Some(state) => revision(conn, id, state)?,
            None => Before::default(),
        },
        None => Before::default(),
    })
}

fn revision(conn: &Connection, id: &MessageId, state: QueueState) -> rusqlite::Result<Before> {
    let revision = conn
        .prepare_cached(
            "SELECT secs, nanos FROM rs_message WHERE id = ?2 AND state = coalesce( \
               (SELECT state FROM rs_message WHERE state = ?1 AND id = ?2), 7)",
        )?
        .query_row((state.number(), id.as_str()), |row| row::revision(row, 0))
        .optional()?;
    Ok(Before {
        state: Some(state),
        revision,
        document: None,
    })
}

/// Enters the change just made, which is the newest of rs_log.
pub fn sign(conn: &Connection, actor: &Actor, before: &Before) -> rusqlite::Result<()> {
    let was = before.revision.map(|revision| revision.updated);
    let kept = actor.command.len() + before.document.as_ref().map_or(0, String::len);
    // Plain values: an INSERT of a SELECT that reads its own table goes through a temporary one.
    let (nth, bytes) = conn
        .prepare_cached("SELECT nth, bytes FROM rs_audit ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .optional()?
        .unwrap_or_default();
    let nth = nth + 1;
    let mut newest = conn.prepare_cached(
        "SELECT seq, id, new, secs, nanos, at_ms, length(CAST(id AS BLOB)) FROM rs_log ORDER BY seq DESC LIMIT 1",
    )?;
    let mut newest = newest.query([])?;
    let Some(change) = newest.next()? else {
        return Ok(());
    };
    conn.prepare_cached(
        "INSERT INTO rs_audit (seq, id, new, secs, nanos, at_ms, nth, bytes, old, was_secs, \
         was_nanos, uid, pid, command, document) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
    )?
    .execute(params![
        change.get::<_, Value>(0)?,
        change.get::<_, Value>(1)?,
        change.get::<_, Value>(2)?,
        change.get::<_, Value>(3)?,
        change.get::<_, Value>(4)?,
        change.get::<_, Value>(5)?,
        nth,
        bytes + change.get::<_, i64>(6)? + kept as i64,
        before.state.map(QueueState::number),
        was.map(Timestamp::seconds),
        was.map(Timestamp::nanos),
        actor.uid,
        actor.pid,
        &actor.command,
        &before.document,
    ])?;
    match nth % TRIM_EVERY {
        0 => trim(conn),
        _ => Ok(()),
    }
}

/// Removes some of the oldest entries that are too many or too old.
pub fn trim(conn: &Connection) -> rusqlite::Result<()> {
    let Some(newest) = end(conn, "DESC")? else {
        return Ok(());
    };
    let limits = limits(conn)?;
    conn.prepare_cached(
        "DELETE FROM rs_audit WHERE seq IN (SELECT seq FROM rs_audit ORDER BY seq LIMIT ?1) \
         AND (nth <= ?2 OR at_ms < ?3)",
    )?
    .execute((
        2 * TRIM_EVERY,
        newest.nth.saturating_sub(limits.rows as i64),
        oldest_kept(limits),
    ))
    .map(drop)
}

/// The same when there is no room: more goes than one change adds.
pub fn give_way(conn: &Connection) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "DELETE FROM rs_audit WHERE seq IN (SELECT seq FROM rs_audit ORDER BY seq LIMIT 4)",
    )?
    .execute([])
    .map(drop)
}

/// Whether entries are there that [`trim`] would remove.
pub fn is_overdue(conn: &Connection) -> rusqlite::Result<bool> {
    let limits = limits(conn)?;
    Ok(match (end(conn, "ASC")?, end(conn, "DESC")?) {
        (Some(oldest), Some(newest)) => {
            oldest.nth <= newest.nth.saturating_sub(limits.rows as i64)
                || oldest.at_ms < oldest_kept(limits)
        }
        _ => false,
    })
}

fn oldest_kept(limits: AuditLimits) -> i64 {
    let now = Timestamp::now();
    let age = i64::try_from(limits.age.as_millis()).unwrap_or(i64::MAX);
    (now.seconds() * 1000 + i64::from(now.nanos() / 1_000_000)).saturating_sub(age)
}

/// The oldest or the newest entry's running totals.
struct End {
    nth: i64,
    bytes: i64,
    /// The bytes of this entry alone.
    own: i64,
    at_ms: i64,
}

fn end(conn: &Connection, order: &str) -> rusqlite::Result<Option<End>> {
    conn.prepare_cached(&format!(
        "SELECT nth, bytes, length(CAST(id AS BLOB)) + length(CAST(command AS BLOB)) \
         + coalesce(length(CAST(document AS BLOB)), 0), at_ms FROM rs_audit ORDER BY seq {order} LIMIT 1"
    ))?
    .query_row([], |row| {
        Ok(End {
            nth: row.get(0)?,
            bytes: row.get(1)?,
            own: row.get(2)?,
            at_ms: row.get(3)?,
        })
    })
    .optional()
}

/// How much the log holds.
pub fn size(conn: &Connection) -> rusqlite::Result<AuditSize> {
    Ok(match (end(conn, "ASC")?, end(conn, "DESC")?) {
        (Some(oldest), Some(newest)) => AuditSize {
            rows: (newest.nth - oldest.nth + 1).max(0) as u64,
            bytes: (newest.bytes - oldest.bytes + oldest.own).max(0) as u64,
            oldest: Some(feed::time(oldest.at_ms)),
        },
        _ => AuditSize::default(),
    })
}

/// How long entries are kept.
pub fn limits(conn: &Connection) -> rusqlite::Result<AuditLimits> {
    conn.prepare_cached("SELECT rows, seconds FROM rs_audit_limit")?
        .query_row([], |row| {
            Ok(AuditLimits {
                rows: row.get::<_, i64>(0)?.max(0) as u64,
                age: Duration::from_secs(row.get::<_, i64>(1)?.max(0) as u64),
            })
        })
}

/// Keeps entries for that long from now on.
pub fn set_limits(conn: &Connection, limits: AuditLimits) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE rs_audit_limit SET rows = ?1, seconds = ?2")?
        .execute((
            i64::try_from(limits.rows).unwrap_or(i64::MAX),
            i64::try_from(limits.age.as_secs()).unwrap_or(i64::MAX),
        ))
        .map(drop)
}

/// See [`AuditLog::entries`](crate::backend::AuditLog::entries).
pub fn entries(
    conn: &Connection,
    query: &AuditQuery,
    after: u64,
    limit: usize,
) -> rusqlite::Result<Vec<AuditEntry>> {
    let since = query
        .since
        .map(|since| since.seconds() * 1000 + i64::from(since.nanos() / 1_000_000));
    conn.prepare_cached(
        "SELECT seq, id, old, new, secs, nanos, at_ms, uid, pid, command, was_secs, was_nanos, \
         document IS NOT NULL FROM rs_audit WHERE seq > ?1 AND (?2 IS NULL OR at_ms >= ?2) \
         AND (?3 IS NULL OR id = ?3) AND (?4 IS NULL OR uid = ?4) AND (?5 IS NULL OR pid = ?5) \
         AND (?6 IS NULL OR command = ?6) ORDER BY seq LIMIT ?7",
    )?
    .query_map(
        (
            i64::try_from(after).unwrap_or(i64::MAX),
            since,
            query.id.as_ref().map(MessageId::as_str),
            query.uid,
            query.pid,
            &query.command,
            i64::try_from(limit).unwrap_or(i64::MAX),
        ),
        entry,
    )?
    .collect()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    let before = match row.get::<_, Option<i64>>(10)? {
        Some(_) => Some(row::revision(row, 10)?),
        None => None,
    };
    Ok(AuditEntry {
        change: feed::change(row, row::id_at(row, 1)?)?,
        before,
        has_document: row.get(12)?,
    })
}

/// See [`AuditLog::later`](crate::backend::AuditLog::later).
pub fn later(
    conn: &Connection,
    after: u64,
    each: &mut dyn FnMut(MessageId, u64),
) -> rusqlite::Result<u64> {
    // What the log of all changes has forgotten, this one may still have.
    let mut later = conn.prepare_cached(
        "SELECT seq, id FROM rs_audit WHERE seq > ?1 AND seq < (SELECT min(seq) FROM rs_log) \
         UNION ALL SELECT seq, id FROM rs_log WHERE seq > ?1",
    )?;
    let mut rows = later.query([i64::try_from(after).unwrap_or(i64::MAX)])?;
    let mut newest = after;
    while let Some(row) = rows.next()? {
        let seq = row.get::<_, i64>(0)?.max(0) as u64;
        newest = newest.max(seq);
        // No other ID is any message's.
        let id = row.get_ref(1)?.as_str().ok();
        if let Some(id) = id.and_then(|id| id.parse().ok()) {
            each(id, seq);
        }
    }
    Ok(newest)
}

/// The document that a change replaced or removed.
pub fn old_document(conn: &Connection, seq: u64) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT document FROM rs_audit WHERE seq = ?1")?
        .query_row([i64::try_from(seq).unwrap_or(i64::MAX)], |row| row.get(0))
        .optional()
        .map(Option::flatten)
}
