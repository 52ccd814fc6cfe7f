//! Pages of a listing in RetrySpool's orders.
//!
//! Owns: the SQL of the orders that an index has, and the others' sorting.
//! May fail: with SQLite's errors.
//! Must not know: deadlines; the connection has one.
//!
//! Each index costs every move, so Updated, Priority and Attempts have none. A page from the middle
//! of such an order needs every key once, but no sorting: what is before the page is only told
//! apart from it, and what is on it is sorted. That, and reading `messages` in the order in which
//! its rows lie, takes a small part of what SQLite's ORDER BY takes.

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::reader::state_info;
use super::{row, schema, select};
use crate::model::{
    MessageId, MessageListOptions, MessageListResult, QueueState, SortBy, SortOrder, Timestamp,
};

/// A page of a listing, and the total, of one moment.
pub fn list(
    conn: &Connection,
    state: QueueState,
    options: &MessageListOptions,
) -> rusqlite::Result<MessageListResult> {
    let snapshot = match conn.is_autocommit() {
        true => Some(conn.unchecked_transaction()?),
        false => None,
    };
    let since = options.since.map(Timestamp::seconds);
    let total = match since {
        None => state_info(conn, state)?.count,
        Some(since) => conn
            .prepare_cached(&format!("SELECT count(*) {FROM_MESSAGES}{SINCE}"))?
            .query_row((state.number(), since), |row| row.get::<_, i64>(0))
            .map(|total| u64::try_from(total).unwrap_or(0))?,
    };
    let wanted = options
        .limit
        .unwrap_or(u64::MAX)
        .min(total.saturating_sub(options.offset));
    let mut message_ids = Vec::new();
    if wanted > 0 {
        message_ids = match (since, options.sort_by) {
            (None, SortBy::Id) => indexed(conn, state, options, wanted, total, &["id"])?,
            (None, SortBy::Created) => {
                let keys = ["created_secs", "created_nanos", "id"];
                indexed(conn, state, options, wanted, total, &keys)?
            }
            (None, SortBy::Updated | SortBy::Priority | SortBy::Attempts) => {
                sorted(conn, state, options)?
            }
            (Some(since), _) => young(conn, state, options, since)?,
        };
    }
    if let Some(snapshot) = snapshot {
        snapshot.finish()?;
    }
    let seen = options.offset.saturating_add(message_ids.len() as u64);
    Ok(MessageListResult {
        message_ids,
        total,
        has_more: seen < total,
    })
}

const FROM_MESSAGES: &str = "FROM rs_message r JOIN messages m ON m.id = r.id WHERE r.state = ?1";
const SINCE: &str = " AND (m.created >= ?2 OR m.updated >= ?2)";

/// A page of an order that an index has: `wanted` messages, which are there, of `total`.
///
/// SQLite passes over the messages before the page one by one, so this begins at the nearer end. And
/// it bounds the state on the side where it begins alone, which only the first row is compared with:
/// each of the others takes two steps of SQLite's machine, where `state = ?1` takes a third, which
/// compares.
fn indexed(
    conn: &Connection,
    state: QueueState,
    options: &MessageListOptions,
    wanted: u64,
    total: u64,
    keys: &[&str],
) -> rusqlite::Result<Vec<MessageId>> {
    let after = total - options.offset - wanted;
    let from_the_end = after < options.offset;
    let skipped = after.min(options.offset);
    let (bound, order) = match (options.sort_order, from_the_end) {
        (SortOrder::Asc, false) | (SortOrder::Desc, true) => (">=", "ASC"),
        (SortOrder::Desc, false) | (SortOrder::Asc, true) => ("<=", "DESC"),
    };
    let keys = keys.join(&format!(" {order}, "));
    let sql = format!(
        "SELECT id, state FROM rs_message WHERE state {bound} ?1 \
         ORDER BY state {order}, {keys} {order} LIMIT ?2 OFFSET ?3"
    );
    let mut page = conn.prepare_cached(&sql)?;
    let mut rows = page.query((state.number(), as_i64(wanted), as_i64(skipped)))?;
    let mut ids = Vec::new();
    while let Some(row) = rows.next()? {
        // Where the count were wrong the next state would follow.
        if row.get::<_, i64>(1)? != i64::from(state.number()) {
            break;
        }
        ids.push(row::id(row)?);
    }
    if from_the_end {
        ids.reverse();
    }
    Ok(ids)
}

/// A page of those alone that were created or updated since.
fn young(
    conn: &Connection,
    state: QueueState,
    options: &MessageListOptions,
    since: i64,
) -> rusqlite::Result<Vec<MessageId>> {
    let order = match options.sort_order {
        SortOrder::Asc => "ASC",
        SortOrder::Desc => "DESC",
    };
    let keys = match options.sort_by {
        SortBy::Id => String::new(),
        SortBy::Created => format!("r.created_secs {order}, r.created_nanos {order}, "),
        SortBy::Updated => format!("r.secs {order}, r.nanos {order}, "),
        SortBy::Priority => format!("m.priority {order}, "),
        SortBy::Attempts => format!("m.attempts {order}, "),
    };
    let sql = format!(
        "SELECT r.id {FROM_MESSAGES}{SINCE} ORDER BY {keys}r.id {order} LIMIT ?3 OFFSET ?4"
    );
    let (limit, offset) = (
        as_i64(options.limit.unwrap_or(u64::MAX)),
        as_i64(options.offset),
    );
    let mut page = conn.prepare_cached(&sql)?;
    let rows = page.query_map((state.number(), since, limit, offset), row::id)?;
    rows.collect()
}

fn as_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What a message is sorted by: its key, then its ID, which is a part of a longer text.
struct Entry {
    key: (i64, i64),
    start: usize,
    len: usize,
}

/// A page of an order that has no index.
fn sorted(
    conn: &Connection,
    state: QueueState,
    options: &MessageListOptions,
) -> rusqlite::Result<Vec<MessageId>> {
    // All IDs in one piece: a million of them would take twice the room one by one.
    let mut ids = Vec::new();
    let mut entries = Vec::new();
    let (sql, by_place) = keys_sql(conn, state, options.sort_by)?;
    let mut query = conn.prepare_cached(&sql)?;
    let mut rows = query.query([state.number()])?;
    while let Some(row) = rows.next()? {
        let (ValueRef::Text(id) | ValueRef::Blob(id)) = row.get_ref(0)? else {
            continue;
        };
        // In the side table's bucket are such alone that a directory can show.
        let number = i64::from(state.number());
        if by_place && schema::bucket(Some(id), Some(number)) != number {
            continue;
        }
        entries.push(Entry {
            key: (key(row.get_ref(1)?), key(row.get_ref(2)?)),
            start: ids.len(),
            len: id.len(),
        });
        ids.extend_from_slice(id);
    }
    let id_of = |entry: &Entry| &ids[entry.start..entry.start + entry.len];
    let order = |a: &Entry, b: &Entry| {
        let ascending = (a.key, id_of(a)).cmp(&(b.key, id_of(b)));
        match options.sort_order {
            SortOrder::Asc => ascending,
            SortOrder::Desc => ascending.reverse(),
        }
    };
    let offset = usize::try_from(options.offset).unwrap_or(usize::MAX);
    if offset >= entries.len() {
        return Ok(Vec::new());
    }
    entries.select_nth_unstable_by(offset, order);
    let mut page = &mut entries[offset..];
    let wanted = options.limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    if wanted < page.len() {
        page.select_nth_unstable_by(wanted, order);
        page = &mut page[..wanted];
    }
    page.sort_unstable_by(order);
    page.iter().map(|entry| row::id_of(id_of(entry))).collect()
}

/// The statement that gives ID and key of each message, and whether its rows still have to be
/// looked at for what no directory can show.
fn keys_sql(
    conn: &Connection,
    state: QueueState,
    sort_by: SortBy,
) -> rusqlite::Result<(String, bool)> {
    let column = match sort_by {
        SortBy::Attempts => "attempts",
        SortBy::Priority => "priority",
        SortBy::Id | SortBy::Created | SortBy::Updated => {
            let sql = "SELECT id, secs, nanos FROM rs_message WHERE state = ?1";
            return Ok((sql.into(), false));
        }
    };
    Ok(match select::is_good_part(conn, state)? {
        true => (
            format!("SELECT id, {column}, 0 FROM messages NOT INDEXED WHERE state = ?1"),
            true,
        ),
        false => (
            format!(
                "SELECT r.id, m.{column}, 0 FROM rs_message r JOIN messages m ON m.id = r.id WHERE r.state = ?1"
            ),
            false,
        ),
    })
}

/// A key as SQLite sorts it: what is no number in a column of numbers comes first or last.
fn key(value: ValueRef<'_>) -> i64 {
    match value {
        ValueRef::Null => i64::MIN,
        ValueRef::Integer(number) => number,
        ValueRef::Real(number) => number as i64,
        ValueRef::Text(_) | ValueRef::Blob(_) => i64::MAX,
    }
}
