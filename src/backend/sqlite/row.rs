//! A row and a message: how metadata is spelled in RetrySpool's columns and beside them.
//!
//! Owns: the column list of every query that reads whole messages, and the values of every
//! statement that writes them.
//! May fail: with [`Error::Corrupt`] for a row that is no metadata.
//! Must not know: connections, transactions.

use std::collections::BTreeMap;

use rusqlite::Row;
use rusqlite::types::ValueRef;

use crate::backend::{Error, Result};
use crate::model::{MessageId, MessageMetadata, QueueState, Revision, Stored, Timestamp};

/// What [`stored`] reads: `m` is `messages`, `r` is `rs_message`.
pub const COLUMNS: &str = "m.id, m.state, m.attempts, m.max_attempts, m.next_retry, m.created, \
     m.last_error, m.size, m.priority, m.headers, m.retry_policy_name, m.updated, r.secs, r.nanos, \
     r.created_secs, r.created_nanos, r.retry_secs, r.retry_nanos";

/// How many columns that is.
pub const COUNT: usize = 18;

/// The message in a row of [`COLUMNS`]. The outer error is SQLite's, the inner one the row's.
pub fn stored(row: &Row<'_>) -> rusqlite::Result<Result<Stored>> {
    read(row, true)
}

/// The same without the message's headers, which take most of the time.
pub fn without_headers(row: &Row<'_>) -> rusqlite::Result<Result<Stored>> {
    read(row, false)
}

fn read(row: &Row<'_>, headers: bool) -> rusqlite::Result<Result<Stored>> {
    let fields = Fields(row);
    let read = || -> std::result::Result<Stored, String> {
        let state = fields.number(1, "state")?;
        let updated = fields.exact(12, "revision", 13)?;
        // The revision is ours and in range; what RetrySpool wrote may be anything.
        fields.seconds(11, "updated")?;
        Ok(Stored {
            metadata: MessageMetadata {
                id: fields.id(0)?,
                state: QueueState::from_number(state)
                    .ok_or_else(|| format!("its state is {state}"))?,
                attempts: fields.number(2, "attempts")?,
                max_attempts: fields.number(3, "max_attempts")?,
                next_retry: fields.time(4, "next_retry", 16)?,
                created: fields.time(5, "created", 14)?,
                updated,
                last_error: fields.text(6, "last_error")?,
                size: fields.number(7, "size")?,
                priority: fields.number(8, "priority")?,
                headers: match headers {
                    true => fields.headers(9)?,
                    false => BTreeMap::new(),
                },
                retry_policy_name: fields.text(10, "retry_policy_name")?,
            },
            revision: Revision::from(updated),
        })
    };
    Ok(read().map_err(|why| Error::Corrupt(format!("the stored message can't be read: {why}"))))
}

/// The headers in a column; an error tells why they can't be read.
pub fn headers(row: &Row<'_>, at: usize) -> std::result::Result<BTreeMap<String, String>, String> {
    Fields(row).headers(at)
}

/// The ID in column 0, which the side tables found expressible.
pub fn id(row: &Row<'_>) -> rusqlite::Result<MessageId> {
    id_at(row, 0)
}

/// The ID in a column.
pub fn id_at(row: &Row<'_>, at: usize) -> rusqlite::Result<MessageId> {
    let text = row.get_ref(at)?.as_str()?;
    text.parse().map_err(|e| no_id(at, e))
}

/// The ID in the bytes of a text.
pub fn id_of(bytes: &[u8]) -> rusqlite::Result<MessageId> {
    let text = std::str::from_utf8(bytes)?;
    text.parse().map_err(|e| no_id(0, e))
}

fn no_id(at: usize, error: crate::model::InvalidId) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, Box::new(error))
}

/// The revision in two columns.
pub fn revision(row: &Row<'_>, at: usize) -> rusqlite::Result<Revision> {
    let (secs, nanos): (i64, u32) = (row.get(at)?, row.get(at + 1)?);
    match Timestamp::new(secs, nanos) {
        Some(updated) => Ok(Revision::from(updated)),
        None => Err(rusqlite::Error::IntegralValueOutOfRange(at, secs)),
    }
}

struct Fields<'a, 'stmt>(&'a Row<'stmt>);

impl Fields<'_, '_> {
    fn value(&self, at: usize, name: &str) -> std::result::Result<ValueRef<'_>, String> {
        self.0.get_ref(at).map_err(|e| format!("{name}: {e}"))
    }

    fn id(&self, at: usize) -> std::result::Result<MessageId, String> {
        id_at(self.0, at).map_err(|e| format!("its ID: {e}"))
    }

    fn number(&self, at: usize, name: &str) -> std::result::Result<i64, String> {
        match self.value(at, name)? {
            ValueRef::Integer(number) => Ok(number),
            _ => Err(format!("its {name} is no whole number")),
        }
    }

    fn text(&self, at: usize, name: &str) -> std::result::Result<String, String> {
        self.text_ref(at, name).map(str::to_owned)
    }

    /// Text that may be absent.
    fn text_ref(&self, at: usize, name: &str) -> std::result::Result<&str, String> {
        match self.value(at, name)? {
            ValueRef::Null => Ok(""),
            ValueRef::Text(text) => {
                std::str::from_utf8(text).map_err(|_| format!("its {name} is not UTF-8"))
            }
            _ => Err(format!("its {name} is no text")),
        }
    }

    fn seconds(&self, at: usize, name: &str) -> std::result::Result<Timestamp, String> {
        let seconds = self.number(at, name)?;
        Timestamp::new(seconds, 0)
            .ok_or_else(|| format!("its {name} is outside the years 1 to 9999"))
    }

    fn exact(&self, at: usize, name: &str, nanos: usize) -> std::result::Result<Timestamp, String> {
        let whole = self.seconds(at, name)?;
        let nanos = u32::try_from(self.number(nanos, name)?).ok();
        nanos
            .and_then(|nanos| Timestamp::new(whole.seconds(), nanos))
            .ok_or_else(|| format!("the nanoseconds of its {name} are out of range"))
    }

    /// A time of RetrySpool's column, with the nanoseconds of the side columns if they still
    /// belong to the same second.
    fn time(&self, at: usize, name: &str, side: usize) -> std::result::Result<Timestamp, String> {
        let whole = self.seconds(at, name)?;
        match self.value(side, name)? {
            ValueRef::Integer(seconds) if seconds == whole.seconds() => {
                self.exact(at, name, side + 1)
            }
            _ => Ok(whole),
        }
    }

    /// Go writes `null` for a map that was never made.
    fn headers(&self, at: usize) -> std::result::Result<BTreeMap<String, String>, String> {
        let text = self.text_ref(at, "headers")?;
        if text.is_empty() || text == "{}" {
            return Ok(BTreeMap::new());
        }
        let headers: Option<BTreeMap<String, String>> =
            serde_json::from_str(text).map_err(|e| format!("its headers: {e}"))?;
        Ok(headers.unwrap_or_default())
    }
}

/// The headers as RetrySpool's column holds them.
pub fn headers_text(headers: &BTreeMap<String, String>) -> String {
    let entries = headers.iter().map(|(k, v)| (k.clone(), v.clone().into()));
    serde_json::Value::Object(entries.collect()).to_string()
}
