//! JSON to what a writer meant: which documents are legal.
//!
//! The JSON itself is read by serde_json; what this file adds is the keys, each known and given
//! once, with its type and range, and a refusal that a person can act on.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Deserializer;
use serde_json::error::Category;

use super::MAX_LEN;
use crate::model::{MessageId, MessageMetadata, QueueState, Timestamp};

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
    json.deserialize_map(Keys { id })
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
const KEYS: [&str; 12] = [
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

/// Reads the object, for the file of this ID.
struct Keys<'a> {
    id: &'a MessageId,
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with the keys of a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        const NATURAL: (i64, &str) = (0, "a whole number from 0 to 2^63-1");
        const SIGNED: (i64, &str) = (i64::MIN, "a whole number from -2^63 to 2^63-1");
        let mut seen = Vec::with_capacity(KEYS.len());
        let mut document = Document::default();
        while let Some(key) = map.next_key_seed(Key)? {
            if seen.contains(&key) {
                return Err(A::Error::custom(format!("repeated key {key:?}")));
            }
            seen.push(key);
            let d = &mut document;
            match key {
                "ID" => self.check_id(&text(&mut map, key)?)?,
                "State" => d.state = Some(state(&mut map, key)?),
                "Attempts" => d.attempts = Some(number(&mut map, key, NATURAL)?),
                "MaxAttempts" => d.max_attempts = Some(number(&mut map, key, NATURAL)?),
                "NextRetry" => d.next_retry = Some(time(&mut map, key)?),
                "Created" => d.created = Some(time(&mut map, key)?),
                "Updated" => d.updated = Some(time(&mut map, key)?),
                "LastError" => d.last_error = Some(text(&mut map, key)?),
                "Size" => d.size = Some(number(&mut map, key, NATURAL)?),
                "Priority" => d.priority = Some(number(&mut map, key, SIGNED)?),
                "Headers" => d.headers = Some(map.next_value_seed(Headers)?),
                // `Key` gives no key but those of `KEYS`, and this is the last of them.
                _ => d.retry_policy_name = Some(text(&mut map, key)?),
            }
        }
        if !seen.contains(&"ID") {
            return Err(A::Error::custom("there is no \"ID\""));
        }
        Ok(document)
    }
}

impl Keys<'_> {
    fn check_id<E: serde::de::Error>(&self, found: &str) -> Result<(), E> {
        if found == self.id.as_str() {
            return Ok(());
        }
        let (found, name) = (quoted(found), self.id.file_name());
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

/// A writer's text for a one-line message: quoted, and not longer than a person reads.
fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text, 60))
}

fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// A value that is neither an array nor an object.
enum Scalar {
    Text(String),
    Number(i128),
}

/// Reads a [`Scalar`]; every other value is refused with the name of its type.
struct Wanted<'a> {
    /// The key, as a message shows it.
    subject: &'a str,
    /// What it wants.
    wanted: &'static str,
}

impl Wanted<'_> {
    fn refuse<T, E: serde::de::Error>(&self, found: &str) -> Result<T, E> {
        let (subject, wanted) = (self.subject, self.wanted);
        Err(E::custom(format!("{subject} is {found}, not {wanted}")))
    }
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Scalar;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Scalar, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.wanted)
    }

    fn visit_str<E: serde::de::Error>(self, found: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(found.to_owned()))
    }

    fn visit_i64<E: serde::de::Error>(self, found: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(found.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, found: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(found.into()))
    }

    /// serde_json's reading of a fraction, of an exponent, of what 64 bits can't hold, and of
    /// `-0`, which jq writes for a negated 0 and which Go takes.
    fn visit_f64<E: serde::de::Error>(self, found: f64) -> Result<Scalar, E> {
        if found == 0.0 && found.is_sign_negative() {
            return Ok(Scalar::Number(0));
        }
        self.refuse(match found.fract() == 0.0 && found.abs() >= 2f64.powi(63) {
            true => "a number beyond 64 bits",
            false => "a number with a fraction or an exponent",
        })
    }

    fn visit_bool<E: serde::de::Error>(self, found: bool) -> Result<Scalar, E> {
        self.refuse(&found.to_string())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Scalar, E> {
        self.refuse("null")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Scalar, A::Error> {
        self.refuse("an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Scalar, A::Error> {
        self.refuse("an object")
    }
}

fn text<'de, A: MapAccess<'de>>(map: &mut A, key: &str) -> Result<String, A::Error> {
    text_of(map, &format!("{key:?}"))
}

fn text_of<'de, A: MapAccess<'de>>(map: &mut A, subject: &str) -> Result<String, A::Error> {
    let wanted = "a string";
    match map.next_value_seed(Wanted { subject, wanted })? {
        Scalar::Text(text) => Ok(text),
        Scalar::Number(_) => Wanted { subject, wanted }.refuse("a number"),
    }
}

/// A number that is no less than the least one.
fn number<'de, A: MapAccess<'de>>(
    map: &mut A,
    key: &str,
    (least, wanted): (i64, &'static str),
) -> Result<i64, A::Error> {
    let subject = &format!("{key:?}");
    match map.next_value_seed(Wanted { subject, wanted })? {
        Scalar::Number(number) => match i64::try_from(number) {
            Ok(number) if number >= least => Ok(number),
            _ => Wanted { subject, wanted }.refuse(&number.to_string()),
        },
        Scalar::Text(_) => Wanted { subject, wanted }.refuse("a string"),
    }
}

fn time<'de, A: MapAccess<'de>>(map: &mut A, key: &str) -> Result<Timestamp, A::Error> {
    let subject = &format!("{key:?}");
    let wanted = "an RFC 3339 time with its zone, in the years 1 to 9999";
    match map.next_value_seed(Wanted { subject, wanted })? {
        Scalar::Text(text) => match Timestamp::parse(&text) {
            Some(time) => Ok(time),
            None => Wanted { subject, wanted }.refuse(&quoted(&text)),
        },
        Scalar::Number(_) => Wanted { subject, wanted }.refuse("a number"),
    }
}

fn state<'de, A: MapAccess<'de>>(map: &mut A, key: &str) -> Result<QueueState, A::Error> {
    let subject = &format!("{key:?}");
    let wanted = "the number (0 to 5) or name of a state";
    let (state, found) = match map.next_value_seed(Wanted { subject, wanted })? {
        Scalar::Text(text) => (text.parse().ok(), quoted(&text)),
        Scalar::Number(number) => {
            let state = i64::try_from(number).ok().and_then(QueueState::from_number);
            (state, number.to_string())
        }
    };
    state.map_or_else(|| Wanted { subject, wanted }.refuse(&found), Ok)
}

/// Reads the headers: an object of strings, or the null that Go writes for a map never made.
struct Headers;

impl<'de> DeserializeSeed<'de> for Headers {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Headers {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of headers")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut headers = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let subject = format!("header {}", quoted(&name));
            if headers.contains_key(&name) {
                return Err(A::Error::custom(format!("repeated {subject}")));
            }
            headers.insert(name, text_of(&mut map, &subject)?);
        }
        Ok(headers)
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
mod tests;
