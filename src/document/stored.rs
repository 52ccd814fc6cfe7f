//! The document in a file of RetrySpool's own, read as RetrySpool reads it.
//!
//! What people write is refused where it looks like a mistake (see [`parse`](super::parse)); what
//! a RetrySpool release wrote is taken as that release takes it: unknown keys are passed over,
//! keys may differ in case, an absent one is Go's zero value, and what follows the object counts
//! for nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};

use super::KEYS;
use crate::model::{MessageId, MessageMetadata, QueueState, Timestamp};

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The message; its state is that of the directory.
    pub metadata: MessageMetadata,
    /// Whether the document names that state too. RetrySpool moves no message whose document
    /// doesn't.
    pub names_its_state: bool,
}

/// Reads the file of the message `id` in the directory of `state`; the error tells what is wrong.
///
/// ```
/// use retryspoolfs::{QueueState, document};
/// let text = br#"{"ID": "a", "State": 2, "LastError": "\u003cbob@example.org\u003e"}"#;
/// let kept = document::read_kept(text, &"a".parse().unwrap(), QueueState::Deferred).unwrap();
/// assert_eq!(kept.metadata.last_error, "<bob@example.org>");
/// assert!(kept.names_its_state);
/// ```
pub fn read_kept(bytes: &[u8], id: &MessageId, state: QueueState) -> Result<Kept, String> {
    // Go's decoder replaces what is not UTF-8.
    let text = String::from_utf8_lossy(bytes);
    let mut json = serde_json::Deserializer::from_str(&text);
    json.deserialize_map(Keys { id, state })
        .map_err(|error| error.to_string())
}

struct Keys<'a> {
    id: &'a MessageId,
    state: QueueState,
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = Kept;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the document of a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kept, A::Error> {
        let mut metadata = MessageMetadata {
            state: self.state,
            max_attempts: 0,
            created: Timestamp::ZERO,
            updated: Timestamp::ZERO,
            priority: 0,
            ..MessageMetadata::new(self.id.clone())
        };
        let m = &mut metadata;
        let mut named = 0;
        while let Some(key) = map.next_key::<Cow<str>>()? {
            let known = KEYS
                .into_iter()
                .find(|known| known.eq_ignore_ascii_case(&key));
            match known {
                Some("ID") => {
                    let found: Option<Cow<str>> = map.next_value()?;
                    // A document that names no ID is the one of its file.
                    let found = found.filter(|found| !found.is_empty());
                    if found.is_some_and(|found| found != self.id.as_str()) {
                        return Err(A::Error::custom("it is the document of another message"));
                    }
                }
                Some("State") => set(&mut map, &mut named)?,
                Some("Attempts") => set(&mut map, &mut m.attempts)?,
                Some("MaxAttempts") => set(&mut map, &mut m.max_attempts)?,
                Some("NextRetry") => set_time(&mut map, &mut m.next_retry)?,
                Some("Created") => set_time(&mut map, &mut m.created)?,
                Some("Updated") => set_time(&mut map, &mut m.updated)?,
                Some("LastError") => set(&mut map, &mut m.last_error)?,
                Some("Size") => set(&mut map, &mut m.size)?,
                Some("Priority") => set(&mut map, &mut m.priority)?,
                Some("Headers") => {
                    let headers: Option<BTreeMap<String, Option<String>>> = map.next_value()?;
                    let headers = headers.unwrap_or_default().into_iter();
                    m.headers = headers.map(|(k, v)| (k, v.unwrap_or_default())).collect();
                }
                Some("RetryPolicyName") => set(&mut map, &mut m.retry_policy_name)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Kept {
            names_its_state: named == i64::from(self.state.number()),
            metadata,
        })
    }
}

/// Reads a value; null leaves what is there, as in Go.
fn set<'de, A: MapAccess<'de>, T: serde::Deserialize<'de>>(
    map: &mut A,
    value: &mut T,
) -> Result<(), A::Error> {
    if let Some(found) = map.next_value()? {
        *value = found;
    }
    Ok(())
}

fn set_time<'de, A: MapAccess<'de>>(map: &mut A, value: &mut Timestamp) -> Result<(), A::Error> {
    let mut text = Cow::Borrowed("");
    set(map, &mut text)?;
    if !text.is_empty() {
        *value = Timestamp::parse(&text)
            .ok_or_else(|| A::Error::custom("a time is not as RFC 3339 writes it"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> MessageId {
        "a".parse().unwrap()
    }

    fn read(text: &str) -> Result<Kept, String> {
        read_kept(text.as_bytes(), &id(), QueueState::Deferred)
    }

    #[test]
    fn what_go_reads_is_read() {
        let zero = read(r#"{"State": 2}"#).unwrap();
        assert!(zero.names_its_state);
        let m = &zero.metadata;
        assert_eq!((m.max_attempts, m.priority, m.attempts), (0, 0, 0));
        assert_eq!((m.created, m.updated), (Timestamp::ZERO, Timestamp::ZERO));

        let odd = r#"{"id": "a", "STATE": 1, "attempts": -3, "Later": [{}], "Headers": {"to": null},
            "LastError": null, "Created": "2026-01-02T03:04:05.5+01:00", "Size": 7, "Size": 8} rest"#;
        let odd = read(odd).unwrap();
        assert!(!odd.names_its_state);
        let m = odd.metadata;
        assert_eq!((m.state, m.attempts, m.size), (QueueState::Deferred, -3, 8));
        assert_eq!(m.headers["to"], "");
        assert_eq!(m.created.to_string(), "2026-01-02T02:04:05.5Z");
        let bytes = b"{\"LastError\": \"\xff\"}";
        let lossy = read_kept(bytes, &id(), QueueState::Hold).unwrap();
        assert_eq!(lossy.metadata.last_error, "\u{fffd}");
    }

    #[test]
    fn what_go_does_not_read_is_none() {
        for text in [
            "",
            "{",
            r#"{"ID": "a""#,
            "[]",
            "null",
            r#"{"Attempts": 1.5}"#,
            r#"{"Attempts": "1"}"#,
            r#"{"Headers": {"a": 1}}"#,
            r#"{"Updated": "yesterday"}"#,
            r#"{"Size": 9223372036854775808}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(read(r#"{"ID": "b"}"#).unwrap_err().contains("another"));
    }
}
