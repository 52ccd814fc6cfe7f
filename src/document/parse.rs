//! JSON to what a writer meant: which documents are legal.

use std::collections::BTreeMap;
use std::fmt;

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
pub fn parse(_bytes: &[u8], _id: &MessageId) -> Result<Document, Problem> {
    todo!()
}

impl Document {
    /// The new message that this document makes in `state`: what is absent takes its default, and
    /// Created is `now` if absent. Updated is the caller's to decide.
    pub fn into_new(self, id: MessageId, _state: QueueState, _now: Timestamp) -> MessageMetadata {
        MessageMetadata::new(id)
    }

    /// What this document makes of a stored message in `state`: what is absent stays as stored,
    /// and so does Updated.
    pub fn over(self, stored: &MessageMetadata, _state: QueueState) -> MessageMetadata {
        stored.clone()
    }
}
