//! One change of one message: its one conditional statement, and what zero rows mean.
//!
//! Owns: the SQL that writes `messages`; the exact times beside it; settling doubtful rows.
//! May fail: with SQLite's error, after which the caller rolls back; a refusal (not found,
//! conflict) is an answer, and has changed nothing.
//! Must not know: transactions, locks, threads. It runs inside whatever transaction is open, and
//! may run again in another.
//!
//! It is long because all statements that write `messages` are to be read side by side.

use std::sync::LazyLock;

use rusqlite::{Connection, OptionalExtension, named_params};

use super::recount::Mend;
use super::{audit, reader, row, schema};
use crate::backend::{AuditLimits, Error, Proposal, Result};
use crate::model::{MessageId, MessageMetadata, QueueState, Revision, Timestamp};

/// What a caller gets: the revision that its change made.
pub type Answer = Result<Revision>;

/// A change that a caller asks for. See [`Backend`](crate::Backend) for what each promises.
#[derive(Debug)]
pub enum Change {
    /// `store_meta`
    Store(MessageMetadata),
    /// `update_meta`
    Update(MessageMetadata),
    /// `delete_meta`
    Delete(MessageId),
    /// `insert`
    Insert(MessageMetadata),
    /// `insert`, unless the log has a change of this ID behind `known`
    Restore {
        metadata: MessageMetadata,
        known: u64,
    },
    /// `replace`
    Replace {
        from: QueueState,
        seen: Revision,
        metadata: MessageMetadata,
    },
    /// `relocate`
    Relocate {
        id: MessageId,
        from: QueueState,
        seen: Option<Revision>,
        to: QueueState,
    },
    /// `remove`
    Remove {
        id: MessageId,
        from: QueueState,
        seen: Option<Revision>,
    },
    /// Moves doubtful rows to the bucket they belong to; the answer means nothing.
    Settle,
    /// Takes account of what was changed past the triggers; the answer means nothing.
    Mend(Mend),
    /// `set_limits` of the audit log; the answer means nothing.
    Limit(AuditLimits),
    /// Removes some of what the audit log keeps no longer; the answer means nothing.
    Trim,
}

/// The answer of what is no change of a message.
const NO_REVISION: Answer = Ok(Revision {
    updated: Timestamp::ZERO,
    tag: 0,
});

impl From<Proposal> for Change {
    fn from(proposal: Proposal) -> Change {
        match proposal {
            Proposal::Insert(metadata) => Change::Insert(metadata),
            Proposal::Restore { metadata, known } => Change::Restore { metadata, known },
            Proposal::Replace {
                from,
                seen,
                metadata,
            } => Change::Replace {
                from,
                seen,
                metadata,
            },
            Proposal::Move { id, from, seen, to } => Change::Relocate {
                id,
                from,
                seen: Some(seen),
                to,
            },
            Proposal::Remove { id, from, seen } => Change::Remove {
                id,
                from,
                seen: Some(seen),
            },
        }
    }
}

/// How many doubtful rows one [`Change::Settle`] moves: about a millisecond's worth.
const SETTLED_AT_ONCE: u32 = 64;

impl Change {
    /// Whether it may store more than there was; all else must work on a full disk.
    pub fn grows(&self) -> bool {
        matches!(
            self,
            Change::Store(_)
                | Change::Update(_)
                | Change::Insert(_)
                | Change::Restore { .. }
                | Change::Replace { .. }
        )
    }

    /// Whether it is a change of a message, which the audit log tells of.
    pub fn is_audited(&self) -> bool {
        !matches!(
            self,
            Change::Settle | Change::Mend(_) | Change::Limit(_) | Change::Trim
        )
    }

    /// Runs the change's statement and tells what came of it.
    pub fn run(&self, conn: &Connection) -> rusqlite::Result<Answer> {
        match self {
            Change::Store(metadata) => store(conn, metadata),
            Change::Update(metadata) => update(conn, metadata),
            Change::Delete(id) => delete(conn, id),
            Change::Insert(metadata) => insert(conn, metadata),
            Change::Restore { metadata, known } => restore(conn, metadata, *known),
            Change::Replace {
                from,
                seen,
                metadata,
            } => replace(conn, *from, *seen, metadata),
            Change::Relocate { id, from, seen, to } => relocate(conn, id, *from, *seen, *to),
            Change::Remove { id, from, seen } => remove(conn, id, *from, *seen),
            Change::Settle => settle_some(conn).map(|()| NO_REVISION),
            Change::Mend(mend) => mend.run(conn).map(|()| NO_REVISION),
            Change::Limit(limits) => audit::set_limits(conn, *limits).map(|()| NO_REVISION),
            Change::Trim => audit::trim(conn).map(|()| NO_REVISION),
        }
    }
}

/// What the side tables know of the row: NULL if nothing.
const KNOWN_SECS: &str = "(SELECT max(r.secs) FROM rs_message r WHERE r.id = :id AND r.state IN (0, 1, 2, 3, 4, 5, 6, 7))";

/// Holds at the revision that the caller saw, or if it names none.
const AT_SEEN: &str = "(:seen_secs IS NULL OR EXISTS (SELECT 1 FROM rs_message r \
     WHERE r.state = :from AND r.id = :id AND r.secs = :seen_secs AND r.nanos = :seen_nanos))";

/// RetrySpool's `updated` never goes back, so that its readers see each change: it becomes the
/// proposed second, or that of the revision so far if this is later.
fn updated() -> String {
    format!("max(:updated, coalesce({KNOWN_SECS}, :updated))")
}

const COLUMNS: &str = "(id, state, attempts, max_attempts, next_retry, created, updated, last_error, size, \
     priority, headers, retry_policy_name)";
const VALUES: &str = "(:id, :state, :attempts, :max_attempts, :next_retry, :created, :updated, :last_error, :size, \
     :priority, :headers, :retry_policy_name)";

/// An update of a message, with what else it assigns and on what condition.
fn update_sql(and: &str, on: &str) -> String {
    format!(
        "UPDATE messages SET state = :state, attempts = :attempts, max_attempts = :max_attempts, \
         next_retry = :next_retry, updated = {}, last_error = :last_error, size = :size, \
         priority = :priority, headers = :headers, retry_policy_name = :retry_policy_name{and} \
         WHERE id = :id{on}",
        updated()
    )
}

static INSERT: LazyLock<String> = LazyLock::new(|| {
    format!("INSERT INTO messages {COLUMNS} VALUES {VALUES} ON CONFLICT (id) DO NOTHING")
});
static UPDATE: LazyLock<String> = LazyLock::new(|| update_sql("", ""));
static UPDATE_ALL: LazyLock<String> = LazyLock::new(|| update_sql(", created = :created", ""));
static REPLACE: LazyLock<String> = LazyLock::new(|| {
    let on = format!(" AND state = :from AND {AT_SEEN}");
    update_sql(", created = :created", &on)
});
static REMOVE: LazyLock<String> = LazyLock::new(|| {
    format!("DELETE FROM messages WHERE id = :id AND state = :from AND {AT_SEEN}")
});

/// Runs a statement with all of a message's columns bound to their names; those that the
/// statement does not name are passed over.
fn execute(
    conn: &Connection,
    sql: &str,
    metadata: &MessageMetadata,
    seen: Option<(QueueState, Revision)>,
) -> rusqlite::Result<usize> {
    let headers = row::headers_text(&metadata.headers);
    let (from, seen) = match seen {
        Some((from, seen)) => (Some(from.number()), Some(seen.updated)),
        None => (None, None),
    };
    let values = named_params! {
        ":id": metadata.id.as_str(),
        ":state": metadata.state.number(),
        ":attempts": metadata.attempts,
        ":max_attempts": metadata.max_attempts,
        ":next_retry": metadata.next_retry.seconds(),
        ":created": metadata.created.seconds(),
        ":updated": metadata.updated.seconds(),
        ":last_error": metadata.last_error,
        ":size": metadata.size,
        ":priority": metadata.priority,
        ":headers": headers,
        ":retry_policy_name": metadata.retry_policy_name,
        ":from": from,
        ":seen_secs": seen.map(Timestamp::seconds),
        ":seen_nanos": seen.map(Timestamp::nanos),
    };
    let mut statement = conn.prepare_cached(sql)?;
    for (name, value) in values {
        if let Some(at) = statement.parameter_index(name)? {
            statement.raw_bind_parameter(at, value)?;
        }
    }
    statement.raw_execute()
}

fn insert(conn: &Connection, metadata: &MessageMetadata) -> rusqlite::Result<Answer> {
    if execute(conn, &INSERT, metadata, None)? == 0 {
        let state: Option<i64> = conn
            .prepare_cached("SELECT CASE typeof(state) WHEN 'integer' THEN state END FROM messages WHERE id = ?1")?
            .query_row([metadata.id.as_str()], |row| row.get(0))?;
        return Ok(Err(match state.and_then(QueueState::from_number) {
            Some(state) => Error::AlreadyExists { state },
            None => Error::Corrupt(
                "the ID is in use: a message of this ID is stored in a state that has no directory"
                    .into(),
            ),
        }));
    }
    made(conn, metadata.updated, Exact::both(metadata), &metadata.id).map(Ok)
}

fn restore(conn: &Connection, metadata: &MessageMetadata, known: u64) -> rusqlite::Result<Answer> {
    // The log has no index by ID: the caller names the newest change, and few are behind it.
    let since = conn
        .prepare_cached(
            "SELECT secs, nanos FROM rs_log WHERE seq > ?1 AND id = ?2 ORDER BY seq DESC LIMIT 1",
        )?
        .query_row(
            (
                i64::try_from(known).unwrap_or(i64::MAX),
                metadata.id.as_str(),
            ),
            |row| row::revision(row, 0),
        )
        .optional()?;
    match since {
        Some(Revision { updated, .. }) if reader::locate(conn, &metadata.id)?.is_none() => {
            Ok(Err(Error::StaleRevision { current: updated }))
        }
        _ => insert(conn, metadata),
    }
}

fn store(conn: &Connection, metadata: &MessageMetadata) -> rusqlite::Result<Answer> {
    let metadata = &proposed_now(metadata);
    let sql = match metadata.created {
        Timestamp::ZERO => &UPDATE,
        _ => &UPDATE_ALL,
    };
    if execute(conn, sql, metadata, None)? > 0 {
        return made(conn, metadata.updated, Exact::given(metadata), &metadata.id).map(Ok);
    }
    let mut metadata = metadata.clone();
    if metadata.created == Timestamp::ZERO {
        metadata.created = Timestamp::now();
    }
    insert(conn, &metadata)
}

fn update(conn: &Connection, metadata: &MessageMetadata) -> rusqlite::Result<Answer> {
    let metadata = &proposed_now(metadata);
    match execute(conn, &UPDATE, metadata, None)? {
        0 => Ok(Err(Error::NotFound)),
        _ => made(conn, metadata.updated, Exact::retry(metadata), &metadata.id).map(Ok),
    }
}

fn replace(
    conn: &Connection,
    from: QueueState,
    seen: Revision,
    metadata: &MessageMetadata,
) -> rusqlite::Result<Answer> {
    settle(conn, &metadata.id)?;
    match execute(conn, &REPLACE, metadata, Some((from, seen)))? {
        0 => diagnose(conn, &metadata.id, from, Some(seen)),
        _ => made(conn, metadata.updated, Exact::both(metadata), &metadata.id).map(Ok),
    }
}

/// Appends the move to the log, which makes it in the side tables, and then moves the row of
/// `messages`: its trigger finds the log's newest row to be this move. So what the triggers would
/// have to find out, which is half of what a move costs, is known here. OR FAIL, because SQLite else
/// keeps a copy of each page to undo the statement alone, and a failure undoes the transaction.
fn relocate(
    conn: &Connection,
    id: &MessageId,
    from: QueueState,
    seen: Option<Revision>,
    to: QueueState,
) -> rusqlite::Result<Answer> {
    settle(conn, id)?;
    let found = conn
        .prepare_cached(
            "SELECT r.secs, r.nanos, m.rowid, CAST(m.created AS INTEGER), CAST(m.next_retry AS INTEGER) \
             FROM rs_message r JOIN messages m ON m.id = r.id AND m.state = r.state \
             WHERE r.state = ?1 AND r.id = ?2",
        )?
        .query_row((from.number(), id.as_str()), |row| {
            let times: (Option<i64>, Option<i64>) = (row.get(3)?, row.get(4)?);
            Ok((row::revision(row, 0)?, row.get::<_, i64>(2)?, times))
        })
        .optional()?;
    let (before, place, (created, retry)) = match found {
        Some(found) if from != to && seen.is_none_or(|seen| seen == found.0) => found,
        _ => return diagnose(conn, id, from, seen),
    };
    let now = Timestamp::now();
    let updated = now.max(before.updated.next());
    conn.prepare_cached(
        "INSERT OR FAIL INTO rs_log (id, old, new, secs, nanos, at_ms, created, retry) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute((
        id.as_str(),
        from.number(),
        to.number(),
        updated.seconds(),
        updated.nanos(),
        now.seconds() * 1000 + i64::from(now.nanos() / 1_000_000),
        created,
        retry,
    ))?;
    let moved = conn
        .prepare_cached("UPDATE OR FAIL messages SET state = ?1, updated = ?2 WHERE rowid = ?3")?
        .execute((to.number(), updated.seconds(), place))?;
    match moved {
        1 => Ok(Ok(Revision::from(updated))),
        // A trigger that somebody added keeps it where it is. The transaction is undone.
        moved => Err(rusqlite::Error::StatementChangedRows(moved)),
    }
}

fn remove(
    conn: &Connection,
    id: &MessageId,
    from: QueueState,
    seen: Option<Revision>,
) -> rusqlite::Result<Answer> {
    settle(conn, id)?;
    let values = named_params! {
        ":id": id.as_str(),
        ":from": from.number(),
        ":seen_secs": seen.map(|seen| seen.updated.seconds()),
        ":seen_nanos": seen.map(|seen| seen.updated.nanos()),
    };
    match conn.prepare_cached(&REMOVE)?.execute(values)? {
        0 => diagnose(conn, id, from, seen),
        _ => Ok(Ok(newest(conn)?.revision)),
    }
}

fn delete(conn: &Connection, id: &MessageId) -> rusqlite::Result<Answer> {
    let removed = conn
        .prepare_cached("DELETE FROM messages WHERE id = ?1")?
        .execute([id.as_str()])?;
    match removed {
        0 => Ok(Err(Error::NotFound)),
        _ => Ok(Ok(newest(conn)?.revision)),
    }
}

/// An Updated of "never" proposes this moment.
fn proposed_now(metadata: &MessageMetadata) -> MessageMetadata {
    let mut metadata = metadata.clone();
    if metadata.updated == Timestamp::ZERO {
        metadata.updated = Timestamp::now();
    }
    metadata
}

/// Why a conditional statement found no row; or, if it is there as asked for, its revision.
fn diagnose(
    conn: &Connection,
    id: &MessageId,
    expected: QueueState,
    seen: Option<Revision>,
) -> rusqlite::Result<Answer> {
    let found = conn
        .prepare_cached(
            "SELECT m.state, r.secs, r.nanos FROM messages m \
             LEFT JOIN rs_message r ON r.id = m.id AND r.state = m.state \
             WHERE m.id = ?1 AND m.state IN (0, 1, 2, 3, 4, 5)",
        )?
        .query_row([id.as_str()], |row| {
            let known = row.get::<_, Option<i64>>(1)?.is_some();
            let revision = if known {
                Some(row::revision(row, 1)?)
            } else {
                None
            };
            Ok((row.get(0)?, revision))
        })
        .optional()?;
    let Some((state, revision)) = found else {
        return Ok(Err(Error::NotFound));
    };
    Ok(match (QueueState::from_number(state), revision) {
        (Some(actual), _) if actual != expected => Err(Error::StateConflict { expected, actual }),
        (_, Some(current)) if seen.is_some_and(|seen| seen != current) => Err(Error::StaleRevision {
            current: current.updated,
        }),
        (_, Some(current)) => Ok(current),
        (_, None) => Err(Error::Corrupt(
            "the store's side tables do not know the message: another program changed it without their triggers".into(),
        )),
    })
}

/// The log's newest row, which the statement just made, and the nanoseconds of Created and NextRetry
/// beside the message.
struct Newest {
    seq: i64,
    bucket: Option<i64>,
    revision: Revision,
    created_nanos: Option<i64>,
    retry_nanos: Option<i64>,
}

fn newest(conn: &Connection) -> rusqlite::Result<Newest> {
    conn.prepare_cached(
        "SELECT l.seq, l.new, l.secs, l.nanos, r.created_nanos, r.retry_nanos \
         FROM rs_log l LEFT JOIN rs_message r ON r.state = l.new AND r.id = l.id \
         WHERE l.seq = (SELECT max(seq) FROM rs_log)",
    )?
    .query_row([], |row| {
        Ok(Newest {
            seq: row.get(0)?,
            bucket: row.get(1)?,
            revision: row::revision(row, 2)?,
            created_nanos: row.get(4)?,
            retry_nanos: row.get(5)?,
        })
    })
}

/// Times that RetrySpool's columns hold in whole seconds only; those that the statement wrote.
#[derive(Default)]
struct Exact {
    created: Option<Timestamp>,
    retry: Option<Timestamp>,
}

impl Exact {
    fn both(metadata: &MessageMetadata) -> Exact {
        Exact {
            created: Some(metadata.created),
            ..Exact::retry(metadata)
        }
    }

    fn retry(metadata: &MessageMetadata) -> Exact {
        Exact {
            created: None,
            retry: Some(metadata.next_retry),
        }
    }

    fn given(metadata: &MessageMetadata) -> Exact {
        match metadata.created {
            Timestamp::ZERO => Exact::retry(metadata),
            _ => Exact::both(metadata),
        }
    }
}

/// Adds what the triggers could not know of the change just made: the proposed nanoseconds, if
/// the proposed second became the revision's; they only ever raise it, so it stays greater than
/// the revision before.
fn made(
    conn: &Connection,
    proposed: Timestamp,
    exact: Exact,
    id: &MessageId,
) -> rusqlite::Result<Revision> {
    let made = newest(conn)?;
    let mut revision = made.revision;
    if revision.updated.seconds() == proposed.seconds() && revision.updated < proposed {
        revision = Revision::from(proposed);
        conn.prepare_cached("UPDATE rs_log SET nanos = ?2 WHERE seq = ?1")?
            .execute((made.seq, proposed.nanos()))?;
    }
    if revision != made.revision {
        conn.prepare_cached("UPDATE rs_message SET nanos = ?3 WHERE state = ?1 AND id = ?2")?
            .execute((made.bucket, id.as_str(), revision.updated.nanos()))?;
    }
    // The triggers have set the seconds.
    let nanos = |time: Timestamp| i64::from(time.nanos());
    let created_nanos = exact.created.map(nanos).or(made.created_nanos);
    let retry_nanos = exact.retry.map(nanos).or(made.retry_nanos);
    if (created_nanos, retry_nanos) != (made.created_nanos, made.retry_nanos) {
        conn.prepare_cached(
            "UPDATE rs_message SET created_nanos = ?3, retry_nanos = ?4 WHERE state = ?1 AND id = ?2",
        )?
        .execute((made.bucket, id.as_str(), created_nanos, retry_nanos))?;
    }
    if made.bucket == Some(schema::DOUBTFUL) {
        settle(conn, id)?;
    }
    Ok(revision)
}

/// Moves a doubtful row to its bucket; its revision stays. A side row without a message (another
/// program wrote without the triggers) must not stay doubtful either.
const SETTLE: &str = "INSERT INTO rs_log (id, old, new, secs, nanos, at_ms, created, retry) \
     SELECT r.id, 7, CASE WHEN ?2 AND m.state IN (0, 1, 2, 3, 4, 5) THEN m.state ELSE 6 END, r.secs, r.nanos, \
     CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), r.created_secs, r.retry_secs \
     FROM rs_message r LEFT JOIN messages m ON m.id = r.id WHERE r.state = 7 AND r.id = ?1";

/// This ID's row is no longer doubtful: a [`MessageId`] can always be a file's name.
fn settle(conn: &Connection, id: &MessageId) -> rusqlite::Result<()> {
    // The triggers' own rule: of such an ID they have no doubt.
    let plain = |byte: u8| byte.is_ascii() && byte != 0;
    if id.as_str().len() <= 83 && id.as_str().bytes().all(plain) {
        return Ok(());
    }
    conn.prepare_cached(SETTLE)?
        .execute((id.as_str(), true))
        .map(drop)
}

fn settle_some(conn: &Connection) -> rusqlite::Result<()> {
    let mut doubtful =
        conn.prepare_cached("SELECT CAST(id AS BLOB) FROM rs_message WHERE state = 7 LIMIT ?1")?;
    let doubtful: Vec<Vec<u8>> = doubtful
        .query_map([SETTLED_AT_ONCE], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in doubtful {
        let expressible = schema::bucket(Some(&id), Some(0)) == 0;
        // Bound as text whatever its bytes: a doubtful ID is text, if not always UTF-8.
        let id = rusqlite::types::ToSqlOutput::Borrowed(rusqlite::types::ValueRef::Text(&id));
        conn.prepare_cached(SETTLE)?.execute((id, expressible))?;
    }
    Ok(())
}
