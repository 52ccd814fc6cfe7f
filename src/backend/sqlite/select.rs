//! Which messages a filter means: three ways to find them, the cheapest of which is taken.
//!
//! Owns: the ways, and the choice between them.
//! May fail: with SQLite's errors.
//! Must not know: what is done with the messages.
//!
//! IDs and times are in `rs_message`, in the order of IDs. For anything else `messages` has to be
//! read; row by row in that order it is three to five times as dear as in the order in which the
//! rows lie there, which pays as soon as a good part of them is in the state that is asked for.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::row;
use crate::backend::{Cursor, Error, Result, Selected};
use crate::model::{
    Filter, Glob, MessageId, MessageMetadata, QueueState, Revision, Stored, Timestamp,
};

/// How many messages are looked at in one call, in the order of IDs: some 50 ms.
const BY_ID: i64 = 20_000;
/// How many in the order of places: as much time.
const BY_PLACE: i64 = 100_000;
/// A state that has at least this part of all messages is looked for in the order of places.
const GOOD_PART: i64 = 4;

/// See [`Backend::select`](crate::backend::Backend::select).
pub fn select(
    conn: &Connection,
    state: QueueState,
    filter: &Filter,
    after: Option<&Cursor>,
    limit: usize,
) -> rusqlite::Result<Selected<(MessageId, Revision)>> {
    let (first, by_place) = match after {
        Some(Cursor::Place(place)) => (*place, true),
        Some(Cursor::Id(_)) => (0, false),
        None => (
            i64::MIN,
            !is_in_side_table(filter) && is_good_part(conn, state)?,
        ),
    };
    if by_place {
        return select_by_place(conn, state, filter, first, limit);
    }
    let found = if is_in_side_table(filter) {
        let mut query = conn.prepare_cached(
            "SELECT id, secs, nanos, created_secs, created_nanos, retry_secs, retry_nanos \
             FROM rs_message WHERE state = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
        )?;
        let rows = query.query((state.number(), first_id(after), BY_ID))?;
        choose(rows, 0, filter, limit, |row| side_row(row, filter))?
    } else {
        // Headers are read only for a filter that names them: they take most of a row's time.
        let read = match filter.headers.is_empty() {
            true => row::without_headers,
            false => row::stored,
        };
        let mut query = conn.prepare_cached(&whole_rows())?;
        let rows = query.query((state.number(), first_id(after), BY_ID))?;
        choose(rows, row::COUNT, filter, limit, read)?
    };
    Ok(found.map(|stored| (stored.metadata.id, stored.revision)))
}

/// See [`Backend::select_stored`](crate::backend::Backend::select_stored): in the order of IDs.
pub fn select_stored(
    conn: &Connection,
    state: QueueState,
    filter: &Filter,
    after: Option<&Cursor>,
    limit: usize,
) -> rusqlite::Result<Selected<Stored>> {
    let mut query = conn.prepare_cached(&whole_rows())?;
    let rows = query.query((state.number(), first_id(after), BY_ID))?;
    choose(rows, row::COUNT, filter, limit, |row| {
        // Most rows are none of the chosen.
        if filter.headers.is_empty()
            && let Ok(stored) = row::without_headers(row)?
            && !filter.matches(&stored.metadata)
        {
            return Ok(Ok(stored));
        }
        row::stored(row)
    })
}

/// Behind which ID to begin. No ID is empty.
fn first_id(after: Option<&Cursor>) -> &str {
    match after {
        Some(Cursor::Id(id)) => id.as_str(),
        _ => "",
    }
}

/// Messages of a state behind an ID, whole, and then their IDs.
fn whole_rows() -> String {
    [
        "SELECT ",
        row::COLUMNS,
        ", r.id FROM rs_message r LEFT JOIN messages m ON m.id = r.id \
         WHERE r.state = ?1 AND r.id > ?2 ORDER BY r.id LIMIT ?3",
    ]
    .concat()
}

/// Takes from rows in the order of IDs what the filter means; `id` is the column of the ID.
fn choose(
    mut rows: rusqlite::Rows<'_>,
    id: usize,
    filter: &Filter,
    limit: usize,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<Result<Stored>>,
) -> rusqlite::Result<Selected<Stored>> {
    let mut found = Selected::default();
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        looked_at += 1;
        match read(row)? {
            Ok(stored) if filter.matches(&stored.metadata) => found.messages.push(stored),
            Ok(_) => {}
            Err(_) => found.unreadable.push(row::id_at(row, id)?),
        }
        if found.messages.len() >= limit || looked_at == BY_ID {
            found.next = Some(Cursor::Id(row::id_at(row, id)?));
            break;
        }
    }
    Ok(found)
}

/// Whether `rs_message` has all that the filter looks at.
fn is_in_side_table(filter: &Filter) -> bool {
    // A condition that is added has to be thought of here.
    let Filter {
        created_before: _,
        created_since: _,
        updated_before: _,
        touched_since: _,
        due_by: _,
        id: _,
        attempts,
        priority,
        error,
        headers,
        policy,
    } = filter;
    let texts = error.is_none() && policy.is_none() && headers.is_empty();
    texts && attempts.is_none() && priority.is_none()
}

fn looks_at_times(filter: &Filter) -> bool {
    looks_at_created(filter) || filter.updated_before.is_some() || filter.due_by.is_some()
}

fn looks_at_created(filter: &Filter) -> bool {
    let Filter {
        created_before,
        created_since,
        touched_since,
        ..
    } = filter;
    created_before.is_some() || created_since.is_some() || touched_since.is_some()
}

/// Whether the state has so many of all messages that `messages` is best read as it lies.
pub fn is_good_part(conn: &Connection, state: QueueState) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT (SELECT count FROM rs_state WHERE state = ?1) * ?2 >= sum(count) FROM rs_state",
    )?
    .query_row((state.number(), GOOD_PART), |row| row.get(0))
}

/// A message with what `rs_message` has of it.
fn side_row(row: &Row<'_>, filter: &Filter) -> rusqlite::Result<Result<Stored>> {
    let id = row::id_at(row, 0)?;
    let revision = row::revision(row, 1)?;
    let time = |at: usize, looked_at: bool| -> rusqlite::Result<Option<Timestamp>> {
        let seconds: Option<i64> = row.get(at)?;
        let nanos = u32::try_from(row.get::<_, i64>(at + 1)?).unwrap_or(0);
        let time = seconds.and_then(|seconds| Timestamp::new(seconds, nanos));
        // What nobody looks at may be anything.
        Ok(time.or((!looked_at).then_some(Timestamp::ZERO)))
    };
    let created = looks_at_created(filter);
    let (created, next_retry) = (time(3, created)?, time(5, filter.due_by.is_some())?);
    let (Some(created), Some(next_retry)) = (created, next_retry) else {
        return Ok(Err(Error::Corrupt("its times can't be read".into())));
    };
    Ok(Ok(Stored {
        metadata: MessageMetadata {
            created,
            next_retry,
            updated: revision.updated,
            ..MessageMetadata::new(id)
        },
        revision,
    }))
}

/// Whether the filter means a row of `messages`, as far as that row alone tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    No,
    Yes,
    /// Fractions of seconds decide, or a value is of the wrong type.
    Unsure,
}

/// What [`judge`] reads.
const JUDGED: &str = "SELECT rowid, state, id, attempts, priority, last_error, retry_policy_name, \
     headers, created, next_retry FROM messages WHERE rowid > ?1 ORDER BY rowid LIMIT ?2";

fn select_by_place(
    conn: &Connection,
    state: QueueState,
    filter: &Filter,
    after: i64,
    limit: usize,
) -> rusqlite::Result<Selected<(MessageId, Revision)>> {
    let mut query = conn.prepare_cached(JUDGED)?;
    // One snapshot: while this query has a row, the others see what it sees.
    let mut rows = query.query((after, BY_PLACE))?;
    let mut revision =
        conn.prepare_cached("SELECT secs, nanos FROM rs_message WHERE state = ?1 AND id = ?2")?;
    let mut whole = conn.prepare_cached(
        &[
            "SELECT ",
            row::COLUMNS,
            " FROM rs_message r JOIN messages m ON m.id = r.id WHERE r.state = ?1 AND r.id = ?2",
        ]
        .concat(),
    )?;
    let mut found = Selected::default();
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        looked_at += 1;
        let verdict = judge(row, state, filter)?;
        if verdict != Verdict::No
            && let Ok(id) = row::id_at(row, 2)
        {
            // Only what has a row in `rs_message` in this state is a message of it.
            let key = (state.number(), id.as_str());
            let revision = match verdict {
                Verdict::Yes => revision
                    .query_row(key, |row| row::revision(row, 0))
                    .optional()?,
                _ => match whole.query_row(key, row::stored).optional()? {
                    Some(Ok(stored)) => filter.matches(&stored.metadata).then_some(stored.revision),
                    Some(Err(_)) => {
                        found.unreadable.push(id.clone());
                        None
                    }
                    None => None,
                },
            };
            found
                .messages
                .extend(revision.map(|revision| (id, revision)));
        }
        if found.messages.len() >= limit || looked_at == BY_PLACE {
            found.next = Some(Cursor::Place(row.get(0)?));
            break;
        }
    }
    Ok(found)
}

fn judge(row: &Row<'_>, state: QueueState, filter: &Filter) -> rusqlite::Result<Verdict> {
    if !matches!(row.get_ref(1)?, ValueRef::Integer(n) if n == i64::from(state.number())) {
        return Ok(Verdict::No);
    }
    let number = |at: usize, test: &dyn Fn(i64) -> bool| {
        Ok(match row.get_ref(at)? {
            ValueRef::Integer(number) => Some(test(number)),
            _ => None,
        })
    };
    let range = |at: usize, range: &Option<std::ops::RangeInclusive<i64>>| match range {
        None => Ok(Some(true)),
        Some(range) => number(at, &|number| range.contains(&number)),
    };
    let text = |at: usize, glob: &Option<Glob>| -> rusqlite::Result<Option<bool>> {
        let Some(glob) = glob else {
            return Ok(Some(true));
        };
        Ok(match row.get_ref(at)? {
            ValueRef::Null => Some(glob.matches("")),
            ValueRef::Text(text) => std::str::from_utf8(text)
                .ok()
                .map(|text| glob.matches(text)),
            _ => None,
        })
    };
    let seconds =
        |at: usize, limit: &Option<Timestamp>, test: &dyn Fn(i64, i64) -> bool| match limit {
            None => Ok(Some(true)),
            Some(limit) => number(at, &|seconds| test(seconds, limit.seconds())),
        };
    let mut verdict = match looks_at_times(filter) {
        true => Verdict::Unsure,
        false => Verdict::Yes,
    };
    let holds: [rusqlite::Result<Option<bool>>; 8] = [
        text(2, &filter.id),
        range(3, &filter.attempts),
        range(4, &filter.priority),
        text(5, &filter.error),
        text(6, &filter.policy),
        seconds(8, &filter.created_before, &|created, limit| {
            created <= limit
        }),
        seconds(8, &filter.created_since, &|created, limit| created >= limit),
        seconds(9, &filter.due_by, &|retry, limit| retry <= limit),
    ];
    for holds in holds {
        match holds? {
            Some(true) => {}
            Some(false) => return Ok(Verdict::No),
            None => verdict = Verdict::Unsure,
        }
    }
    // Last, because it is dear.
    if !filter.headers.is_empty() {
        match row::headers(row, 7) {
            Ok(headers) if filter.matches_headers(&headers) => {}
            Ok(_) => return Ok(Verdict::No),
            Err(_) => verdict = Verdict::Unsure,
        }
    }
    Ok(verdict)
}
