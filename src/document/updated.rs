//! Which write of a document wins: the table of the Updated rule.
//!
//! Updated is a message's revision. A document that is written carries the Updated of the copy
//! that its writer read, so an edit of a copy that somebody overtook is refused and undoes
//! nothing.

use std::time::Duration;

use super::Document;
use crate::model::{MessageId, MessageMetadata, QueueState, Revision, Stored, Timestamp};

/// How the writer came to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Without opening the message: a file was renamed onto its name.
    Not,
    /// It created the file: no message was there.
    Absent,
    /// A file was renamed onto its name on the condition that the directory has no such name: the
    /// message may be in another one.
    NotHere,
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
    /// The Updated of the message that the writing process removed to make this one.
    pub replaces: Option<Timestamp>,
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
    stored: Option<&Stored>,
    write: &Write,
    was_revision: impl FnOnce() -> Result<bool, E>,
) -> Result<Verdict, E> {
    let (document, now) = (write.document.clone(), write.now);
    let given = document.updated;
    let later = |updated: Timestamp| match write.replaces {
        Some(removed) => updated.max(removed.next()),
        None => updated,
    };

    let Some(stored) = stored else {
        return Ok(match write.opened {
            // What it opened is gone.
            Opened::At(_) => Verdict::Stale,
            Opened::Not | Opened::Absent | Opened::NotHere => {
                let updated = given.filter(|given| *given <= now).unwrap_or(now);
                Verdict::Insert(MessageMetadata {
                    updated: later(updated),
                    ..document.into_new(write.id.clone(), write.state, now)
                })
            }
        });
    };

    if write.opened == Opened::NotHere && stored.metadata.state == write.state {
        return Ok(Verdict::Exists);
    }
    let current = stored.metadata.updated;
    // `over` keeps the stored Updated, so this compares all the rest.
    let replacement = document.over(&stored.metadata, write.state);
    if replacement == stored.metadata && given.is_none_or(|given| given <= current) {
        return Ok(Verdict::Nothing);
    }
    match write.opened {
        Opened::Absent => return Ok(Verdict::Exists),
        Opened::At(revision) if revision != stored.revision => return Ok(Verdict::Stale),
        Opened::Not | Opened::NotHere | Opened::At(_) => {}
    }

    let replace = |updated| {
        Ok(Verdict::Replace(MessageMetadata {
            updated: later(updated),
            ..replacement
        }))
    };
    let moved_on = now.max(current.next());
    let Some(given) = given.filter(|given| *given != current) else {
        return replace(moved_on);
    };
    if given > current {
        return replace(if given > now { moved_on } else { given });
    }
    let is_own = |own: Own| own.made == stored.revision && own.copy <= given;
    if write.own.is_some_and(is_own) {
        return replace(moved_on);
    }
    if current > now && near(given, now) && !was_revision()? {
        return replace(moved_on);
    }
    Ok(Verdict::Stale)
}

/// Whether two times are within the ten seconds that clocks may differ by.
fn near(a: Timestamp, b: Timestamp) -> bool {
    const MARGIN: Duration = Duration::from_secs(10);
    a.max(b) <= a.min(b).saturating_add(MARGIN)
}

#[cfg(test)]
mod tests;
