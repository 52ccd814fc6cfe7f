//! Which write of a document wins: the table of the Updated rule.
//!
//! Updated is a message's revision. A document that is written carries the Updated of the copy
//! that its writer read, so an edit of a copy that somebody overtook is refused and undoes
//! nothing.

use super::Document;
use crate::model::{MessageId, MessageMetadata, QueueState, Revision, Stored, Timestamp};

/// How the writer came to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Without opening the message: a file was renamed onto its name.
    Not,
    /// It created the file: no message was there.
    Absent,
    /// It opened the message's file at this revision.
    At(Revision),
}

/// What the writing process itself last made of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// The revision that its write made.
    pub made: Revision,
    /// The Updated of the copy it wrote then.
    pub copy: Timestamp,
}

/// One write of a document.
#[derive(Clone, Debug)]
pub struct Write<'a> {
    pub id: &'a MessageId,
    /// The directory that it is written to.
    pub state: QueueState,
    pub document: &'a Document,
    pub opened: Opened,
    pub own: Option<Own>,
    /// This host's clock.
    pub now: Timestamp,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The message is stored like that already.
    Nothing,
    /// Store it: no message has the ID.
    Insert(MessageMetadata),
    /// Replace the stored revision by it.
    Replace(MessageMetadata),
    /// Refused: the ID is in use.
    Exists,
    /// Refused: the message was changed, moved or removed since the writer read it.
    Stale,
}

/// The table. `was_revision` tells whether the store's log knows the written Updated as an earlier
/// revision of the message; it is asked only where the rule needs it.
pub fn decide<E>(
    _stored: Option<&Stored>,
    _write: &Write,
    _was_revision: impl FnOnce() -> Result<bool, E>,
) -> Result<Verdict, E> {
    todo!()
}
