//! Many changes at once, each with its own condition and its own answer.
//!
//! Owns: what one of them is, and how a store makes them that has nothing better than one by one.
//! May fail: each by itself; see [`Backend::apply`].
//! Must not know: why they are made.

use super::{Backend, Context, Error, Result};
use crate::model::{MessageId, MessageMetadata, QueueState, Revision, Timestamp};

/// A change of one message, on the condition that nobody changed it since it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// [`Backend::insert`].
    Insert(MessageMetadata),
    /// [`Backend::insert`] of a message that was removed, unless the store's log knows of a change
    /// of this ID after the one of this number: [`Error::StaleRevision`], with the last revision.
    Restore {
        /// What it was.
        metadata: MessageMetadata,
        /// The newest change that the caller knows of.
        known: u64,
    },
    /// [`Backend::replace`].
    Replace {
        /// The state that the message is in.
        from: QueueState,
        /// Its revision.
        seen: Revision,
        /// What it becomes.
        metadata: MessageMetadata,
    },
    /// [`Backend::relocate`], at that revision only.
    Move {
        /// The message.
        id: MessageId,
        /// The state that it is in.
        from: QueueState,
        /// Its revision.
        seen: Revision,
        /// The state that it moves to.
        to: QueueState,
    },
    /// [`Backend::remove`].
    Remove {
        /// The message.
        id: MessageId,
        /// The state that it is in.
        from: QueueState,
        /// Its revision.
        seen: Revision,
    },
}

impl Proposal {
    /// The message that it is about.
    pub fn id(&self) -> &MessageId {
        match self {
            Proposal::Insert(metadata)
            | Proposal::Restore { metadata, .. }
            | Proposal::Replace { metadata, .. } => &metadata.id,
            Proposal::Move { id, .. } | Proposal::Remove { id, .. } => id,
        }
    }
}

/// Makes one proposal by the store's other calls.
pub(super) fn one<B: Backend + ?Sized>(
    store: &B,
    ctx: &Context,
    proposal: &Proposal,
) -> Result<Revision> {
    match proposal {
        // A store that does better than this keeps a log.
        Proposal::Insert(metadata) | Proposal::Restore { metadata, .. } => {
            store.insert(ctx, metadata)
        }
        Proposal::Replace {
            from,
            seen,
            metadata,
        } => store.replace(ctx, *from, *seen, metadata),
        Proposal::Remove { id, from, seen } => store.remove(ctx, id, *from, Some(*seen)),
        Proposal::Move { id, from, seen, to } => {
            let stored = store.get(ctx, id)?.ok_or(Error::NotFound)?;
            let moved = MessageMetadata {
                state: *to,
                updated: Timestamp::now(),
                ..stored.metadata
            };
            store.replace(ctx, *from, *seen, &moved)
        }
    }
}
