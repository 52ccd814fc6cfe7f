//! JSON to what a writer meant: which documents are legal.
//!
//! The JSON itself is read by serde_json; what this file adds is the keys, each known and given
//! once, with its type and range, and a refusal that a person can act on.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde_json::Deserializer;
use serde_json::error::Category;

use self::value::{NATURAL, SIGNED, headers, number, quoted, shortened, state, text, time};
use super::MAX_LEN;
use crate::model::{MessageId, MessageMetadata, QueueState, Timestamp};

mod value;

/// A legal document: the keys that its writer gave. Its ID was checked when it was parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The state that the document names; the directory it is written to decides instead.
    pub state: Option<QueueState>,
    pub attempts: Option<i64>,
    pub max_attempts: Option<i64>,
    pub next_retry: Option<Timestamp>,
    pub created: Option<Timestamp>,
    pub updated: Option<Timestamp>,
    pub last_error: Option<String>,
    pub size: Option<i64>,
    pub priority: Option<i64>,
    pub headers: Option<BTreeMap<String, String>>,
    pub retry_policy_name: Option<String>,
}

/// Why bytes are no legal document of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong: `unknown key "Priorty"`.
    pub message: String,
    /// The line, from 1; 0 where the problem has no place.
    pub line: usize,
    /// The column in bytes, from 1.
    pub column: usize,
    /// Whether more bytes at the end could still make it legal.
    pub incomplete: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.line > 0 {
            write!(f, " at line {} column {}", self.line, self.column)?;
        }
        Ok(())
    }
}

/// Reads the document of the message `id`.
pub fn parse(bytes: &[u8], id: &MessageId) -> Result<Document, Problem> {
    read(bytes, Some(id)).map(|(_, document)| document)
}

/// Reads a document that no file name belongs to: whose message it is stands in it alone.
///
/// ```
/// use retryspoolfs::document;
/// let (id, document) = document::parse_any(br#"{"ID": "msg-123", "Size": 7}"#).unwrap();
/// assert_eq!((id.as_str(), document.size), ("msg-123", Some(7)));
/// ```
pub fn parse_any(bytes: &[u8]) -> Result<(MessageId, Document), Problem> {
    read(bytes, None)
}

fn read(bytes: &[u8], expected: Option<&MessageId>) -> Result<(MessageId, Document), Problem> {
    let whole = |message: String, incomplete| Problem {
        message,
        line: 0,
        column: 0,
        incomplete,
    };
    if bytes.len() > MAX_LEN {
        let message = format!(
            "the document has {} bytes, {MAX_LEN} are allowed",
            bytes.len()
        );
        return Err(whole(message, false));
    }
    if bytes.is_empty() {
        return Err(whole("the document is empty".into(), true));
    }
    if bytes.starts_with("\u{feff}".as_bytes()) {
        let message = "the document starts with a byte order mark".into();
        return Err(whole(message, false));
    }
    let mut json = Deserializer::from_slice(bytes);
    json.deserialize_map(Keys { expected })
        .and_then(|document| json.end().map(|()| document))
        .map_err(|error| problem(&error, bytes))
}

/// serde_json's error, with its place apart from its text.
fn problem(error: &serde_json::Error, bytes: &[u8]) -> Problem {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let place = format!(" at line {line} column {column}");
    let message = shortened(text.strip_suffix(&place).unwrap_or(&text), 300);
    // Text that broke off in the middle of a character may go on; other bad bytes stay bad.
    let incomplete = error.classify() == Category::Eof
        && bytes.len() < MAX_LEN
        && matches!(bytes.trim_ascii_start().first(), None | Some(b'{'))
        && std::str::from_utf8(bytes).map_or_else(|e| e.error_len().is_none(), |_| true);
    Problem {
        message: match error.classify() {
            Category::Eof => format!("the document is incomplete: {message}"),
            _ => message,
        },
        line,
        column: column.max(1),
        incomplete,
    }
}

/// The keys of a document.
pub(super) const KEYS: [&str; 12] = [
    "ID",
    "State",
    "Attempts",
    "MaxAttempts",
    "NextRetry",
    "Created",
    "Updated",
    "LastError",
    "Size",
    "Priority",
    "Headers",
    "RetryPolicyName",
];

/// Reads the object; for the file of this ID, if it is of one.
struct Keys<'a> {
    expected: Option<&'a MessageId>,
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = (MessageId, Document);

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with the keys of a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut id = None;
        let mut seen = Vec::with_capacity(KEYS.len());
        let mut document = Document::default();
        while let Some(key) = map.next_key_seed(Key)? {
            if seen.contains(&key) {
                return Err(A::Error::custom(format!("repeated key {key:?}")));
            }
            seen.push(key);
            let d = &mut document;
            match key {
                "ID" => id = Some(self.id(&text(&mut map, key)?)?),
                "State" => d.state = Some(state(&mut map, key)?),
                "Attempts" => d.attempts = Some(number(&mut map, key, NATURAL)?),
                "MaxAttempts" => d.max_attempts = Some(number(&mut map, key, NATURAL)?),
                "NextRetry" => d.next_retry = Some(time(&mut map, key)?),
                "Created" => d.created = Some(time(&mut map, key)?),
                "Updated" => d.updated = Some(time(&mut map, key)?),
                "LastError" => d.last_error = Some(text(&mut map, key)?),
                "Size" => d.size = Some(number(&mut map, key, NATURAL)?),
                "Priority" => d.priority = Some(number(&mut map, key, SIGNED)?),
                "Headers" => d.headers = Some(headers(&mut map)?),
                // `Key` gives no key but those of `KEYS`, and this is the last of them.
                _ => d.retry_policy_name = Some(text(&mut map, key)?),
            }
        }
        match id {
            Some(id) => Ok((id, document)),
            None => Err(A::Error::custom("there is no \"ID\"")),
        }
    }
}

impl Keys<'_> {
    fn id<E: serde::de::Error>(&self, found: &str) -> Result<MessageId, E> {
        let Some(expected) = self.expected else {
            return found.parse().map_err(E::custom);
        };
        if found == expected.as_str() {
            return Ok(expected.clone());
        }
        let (found, name) = (quoted(found), expected.file_name());
        Err(E::custom(format!(
            "the ID is {found}, but the file is {name}'s"
        )))
    }
}

/// A key of [`KEYS`].
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = &'static str;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<&'static str, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = &'static str;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, found: &str) -> Result<&'static str, E> {
        let known = KEYS.into_iter().find(|key| *key == found);
        known.ok_or_else(|| E::custom(format!("unknown key {}", quoted(found))))
    }
}

impl Document {
    /// The new message that this document makes in `state`: what is absent takes its default, and
    /// Created is `now` if absent. Updated is the caller's to decide.
    pub fn into_new(self, id: MessageId, state: QueueState, now: Timestamp) -> MessageMetadata {
        let fresh = MessageMetadata {
            created: now,
            updated: now,
            ..MessageMetadata::new(id)
        };
        self.over(&fresh, state)
    }

    /// What this document makes of a stored message in `state`: what is absent stays as stored,
    /// and so does Updated.
    pub fn over(self, stored: &MessageMetadata, state: QueueState) -> MessageMetadata {
        let stored = stored.clone();
        MessageMetadata {
            id: stored.id,
            state,
            attempts: self.attempts.unwrap_or(stored.attempts),
            max_attempts: self.max_attempts.unwrap_or(stored.max_attempts),
            next_retry: self.next_retry.unwrap_or(stored.next_retry),
            created: self.created.unwrap_or(stored.created),
            updated: stored.updated,
            last_error: self.last_error.unwrap_or(stored.last_error),
            size: self.size.unwrap_or(stored.size),
            priority: self.priority.unwrap_or(stored.priority),
            headers: self.headers.unwrap_or(stored.headers),
            retry_policy_name: self.retry_policy_name.unwrap_or(stored.retry_policy_name),
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
