//! The audit log: who asked for which change, for as long as the spool keeps it.
//!
//! Owns: what an entry tells, and by what entries are looked for.
//! May fail: as the store does that keeps the log.
//! Must not know: how it is stored.

use std::time::Duration;

use super::{Change, Context, Result};
use crate::model::{MessageId, Revision, Timestamp};

/// A change that some process asked for, with what undoing it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// The change; its actor is always known.
    pub change: Change,
    /// The revision that the message had before; `None` of a new message.
    pub before: Option<Revision>,
    /// Whether the log has the document that the change replaced or removed.
    pub has_document: bool,
}

/// Which entries to look for; the default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Of this message.
    pub id: Option<MessageId>,
    /// Made at this time or later, to the millisecond.
    pub since: Option<Timestamp>,
    /// Asked for by this user.
    pub uid: Option<u32>,
    /// Asked for by this process.
    pub pid: Option<u32>,
    /// Asked for by a program of this name.
    pub command: Option<String>,
}

/// How long entries are kept: until either limit is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditLimits {
    /// At most this many, give or take a few hundred.
    pub rows: u64,
    /// At most this long, in whole seconds; looked at when entries are added.
    pub age: Duration,
}

/// What the log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditSize {
    /// How many entries.
    pub rows: u64,
    /// The bytes of their IDs, commands and documents.
    pub bytes: u64,
    /// When the oldest was made; `None` of an empty log.
    pub oldest: Option<Timestamp>,
}

/// The log of changes that came with an [`Actor`](super::Actor): this program's mounts and
/// commands, not RetrySpool's own writers. An entry is committed together with its change.
///
/// On a full disk moves and removals go on, and the log gives way: entries come without a document,
/// the oldest ones go, and where not even that is enough a change is not entered.
pub trait AuditLog: Send + Sync {
    /// At most `limit` matching entries whose number is greater than `after`, oldest first; fewer
    /// only at the end.
    fn entries(
        &self,
        ctx: &Context,
        query: &AuditQuery,
        after: u64,
        limit: usize,
    ) -> Result<Vec<AuditEntry>>;

    /// The document that the change of this number replaced or removed, as it could be read then;
    /// `None` of a move, of a new message, and where the log has it no more.
    fn old_document(&self, ctx: &Context, seq: u64) -> Result<Option<String>>;

    /// Tells of every change numbered above `after` that the store still knows of, by whomever:
    /// which message, and its number. Gives the newest number, or `after`.
    fn later(&self, ctx: &Context, after: u64, each: &mut dyn FnMut(MessageId, u64))
    -> Result<u64>;

    /// How much the log holds, without counting it.
    fn size(&self, ctx: &Context) -> Result<AuditSize>;

    /// How long entries are kept: a million of them and seven days, unless somebody said otherwise.
    fn limits(&self, ctx: &Context) -> Result<AuditLimits>;

    /// Keeps entries for that long from now on, and removes what is too old already. The limits
    /// are the spool's: every process goes by them.
    fn set_limits(&self, ctx: &Context, limits: AuditLimits) -> Result<()>;
}
