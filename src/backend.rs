//! The store's contract: the traits that every store implements, their errors, and the context
//! of a call.
//!
//! Owns: what a store promises. Each sentence of the traits' documentation has a case in
//! `tests/conformance`, which every store runs.
//! May fail: with [`Error`], which callers match by variant, never by text.
//! Must not know: files, FUSE, JSON.
//!
//! It is long because whoever writes a store reads it as one text.

use std::path::Path;
use std::time::{Duration, Instant};

use check::Check;

use crate::model::{
    Filter, InvalidId, MessageId, MessageListOptions, MessageListResult, MessageMetadata,
    QueueState, Revision, Stored, Timestamp,
};

mod audit;
mod bulk;
pub mod check;
pub mod dir;
pub mod locator;
mod selection;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use audit::{AuditEntry, AuditLimits, AuditLog, AuditQuery, AuditSize};
pub use bulk::Proposal;
pub use selection::{Cursor, Pages, Selected};

/// What every call of a store returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a store did not do what it was asked to. Nothing was changed, except after
/// [`Error::Unavailable`] and [`Error::Durability`], which say so.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No message has this ID.
    #[error("no message has this ID")]
    NotFound,
    /// A message of this ID is stored already.
    #[error("the ID is in use: a message of this ID is in {state}")]
    AlreadyExists {
        /// Where that message is.
        state: QueueState,
    },
    /// The message is not in the state that the caller named.
    #[error("the message is in {actual}, not in {expected}")]
    StateConflict {
        /// The state that the caller named.
        expected: QueueState,
        /// Where the message is.
        actual: QueueState,
    },
    /// The message was changed since the caller read it.
    #[error("the message was changed meanwhile; it is at {current} now")]
    StaleRevision {
        /// The Updated of the stored message.
        current: Timestamp,
    },
    /// There is no spool at that place; the text tells how to make one.
    #[error("{0}")]
    Missing(String),
    /// The text is no ID.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// The document is not legal.
    #[error("{0}")]
    InvalidDocument(crate::document::Problem),
    /// Others kept the store busy until the deadline.
    #[error("the store was busy until the deadline: {0}")]
    Busy(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// What is stored can't be read.
    #[error("{0}")]
    Corrupt(String),
    /// The disk is full, or a quota is reached.
    #[error("no space is left: {0}")]
    StorageFull(String),
    /// The store was opened for reading only, or its file can't be written.
    #[error("the spool is read-only")]
    ReadOnly,
    /// The change is committed, but could not be brought to the disk.
    #[error("committed, but not on disk: {0}")]
    Durability(String),
    /// The store can't be reached, or failed in the middle; a change may or may not be made.
    #[error("{0}")]
    Unavailable(String),
}

impl Error {
    /// Whether it is the store's rather than the message's: what is asked for next would fail as
    /// well.
    pub fn is_of_the_store(&self) -> bool {
        match self {
            Error::NotFound
            | Error::AlreadyExists { .. }
            | Error::StateConflict { .. }
            | Error::StaleRevision { .. }
            | Error::InvalidId(_)
            | Error::InvalidDocument(_)
            | Error::Corrupt(_) => false,
            Error::Missing(_)
            | Error::Busy(_)
            | Error::Closed
            | Error::StorageFull(_)
            | Error::ReadOnly
            | Error::Durability(_)
            | Error::Unavailable(_) => true,
        }
    }
}

/// What a caller gives with each call: how long it will wait. Go's `ctx`, in Rust's form.
///
/// ```
/// use std::time::Duration;
/// use retryspoolfs::Context;
/// let ctx = Context::within(Duration::from_secs(10));
/// assert!(!ctx.expired());
/// ```
#[derive(Clone, Debug)]
pub struct Context {
    deadline: Instant,
    actor: Option<Actor>,
}

/// The process that asks for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub uid: u32,
    pub pid: u32,
    /// The name of its program.
    pub command: String,
}

impl Context {
    /// A context whose calls end by `limit` from now.
    pub fn within(limit: Duration) -> Context {
        Context {
            deadline: Instant::now() + limit,
            actor: None,
        }
    }

    /// The same, for changes that this process asks for: the log tells so.
    pub fn by(self, actor: Actor) -> Context {
        Context {
            actor: Some(actor),
            ..self
        }
    }

    /// Who asks, where that is known.
    pub fn actor(&self) -> Option<&Actor> {
        self.actor.as_ref()
    }

    /// When a call must have ended.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the deadline has passed.
    pub fn expired(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// What is known of a state without listing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateInfo {
    /// How many messages are in it, exactly.
    pub count: u64,
    /// When a message last entered it, left it, or changed in it; [`Timestamp::ZERO`] where the
    /// store has seen none.
    pub changed: Timestamp,
}

/// How long messages have waited in a state, and when one is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    /// The earliest Created in it; `None` in an empty state.
    pub oldest: Option<Timestamp>,
    /// Of `deferred`, the earliest NextRetry that is not "never"; `None` where there is none, and
    /// of every other state: nothing waits for a retry there.
    pub next_due: Option<Timestamp>,
}

/// One change of one message, by whomever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its number in the store's log. Numbers grow in the order of commits.
    pub seq: u64,
    /// The message.
    pub id: MessageId,
    /// Where it was before; `None` if it was not there.
    pub from: Option<QueueState>,
    /// Where it is since; `None` if it was removed.
    pub to: Option<QueueState>,
    /// The revision that the change made; of a removed message the last one it had.
    pub revision: Revision,
    /// When it was made, by the clock of the host that made it, to the millisecond.
    pub at: Timestamp,
    /// Who made it, where that is known: RetrySpool's own writers do not say.
    pub actor: Option<Actor>,
}

impl Change {
    /// What it did: `store`, `delete`, `update` or `move`.
    pub fn operation(&self) -> &'static str {
        match (self.from, self.to) {
            (None, _) => "store",
            (_, None) => "delete",
            (Some(from), Some(to)) if from == to => "update",
            (Some(_), Some(_)) => "move",
        }
    }
}

/// What a feed tells at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The changes, in the order of their commits.
    pub changes: Vec<Change>,
    /// Where to go on from.
    pub cursor: u64,
    /// Changes were missed: the log no longer has what followed the caller's cursor, was begun
    /// anew, or was found to have been gone around. Whatever was remembered of the store has to be
    /// read again. `changes` is empty then.
    pub lost: bool,
}

/// The changes of a store by all its writers, in the order of their commits.
///
/// A caller begins with [`newest`](ChangeFeed::newest) and goes on from the cursor that each call
/// gives. The log is bounded: who falls behind is told so ([`Changes::lost`]).
pub trait ChangeFeed: Send + Sync {
    /// The cursor behind the newest change.
    fn newest(&self, ctx: &Context) -> Result<u64>;

    /// At most `limit` changes after the cursor. If there are none yet it waits for one, and
    /// gives none if the deadline passes first.
    fn changes(&self, ctx: &Context, after: u64, limit: usize) -> Result<Changes>;
}

/// The disk or service that a store is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Its size in bytes.
    pub total: u64,
    /// Bytes that nobody uses.
    pub free: u64,
    /// Bytes that are left for this user.
    pub available: u64,
}

/// How many callers insert many messages at once, where a store has no better way.
const TOGETHER: usize = 8;

/// A store of message metadata: RetrySpool's interface, in its names, and below them what a
/// mount needs besides.
///
/// What a call returned is committed. A call ends by its context's deadline, with
/// [`Error::Busy`] if others kept the store busy until then. After [`close`](Backend::close)
/// every call but another `close` is [`Error::Closed`]. Calls of many threads may run at once.
///
/// Every change makes the message's Updated strictly greater: it becomes the later of the time
/// that the caller proposes and one nanosecond past the stored one.
pub trait Backend: Send + Sync {
    /// Stores `metadata` under `id`, whatever was there, in the state that it names. An Updated of
    /// [`Timestamp::ZERO`] becomes now, and so does a Created of it in a new message.
    fn store_meta(&self, ctx: &Context, id: &MessageId, metadata: &MessageMetadata) -> Result<()>;

    /// The message of that ID, in whatever state; [`Error::NotFound`] if there is none,
    /// [`Error::Corrupt`] if what is stored is no metadata.
    fn get_meta(&self, ctx: &Context, id: &MessageId) -> Result<MessageMetadata> {
        match self.get(ctx, id)? {
            Some(stored) => Ok(stored.metadata),
            None => Err(Error::NotFound),
        }
    }

    /// Replaces the metadata of a stored message, its state included; Created stays as stored. An
    /// Updated of [`Timestamp::ZERO`] becomes now. [`Error::NotFound`] if there is none.
    fn update_meta(&self, ctx: &Context, id: &MessageId, metadata: &MessageMetadata) -> Result<()>;

    /// Removes the message, in whatever state; [`Error::NotFound`] if there is none.
    fn delete_meta(&self, ctx: &Context, id: &MessageId) -> Result<()>;

    /// A page of the state's message IDs, how many match in all, and whether more follow.
    /// Messages that no file name can express are left out.
    fn list_messages(
        &self,
        ctx: &Context,
        state: QueueState,
        options: &MessageListOptions,
    ) -> Result<MessageListResult>;

    /// Moves the message from one state to another in one atomic step: of two racing callers
    /// exactly one wins, and the other gets [`Error::StateConflict`]. [`Error::NotFound`] if there
    /// is no message of that ID. With `from` and `to` the same, the message is only looked for.
    fn move_to_state(
        &self,
        ctx: &Context,
        id: &MessageId,
        from: QueueState,
        to: QueueState,
    ) -> Result<()> {
        self.relocate(ctx, id, from, to).map(drop)
    }

    /// Waits for calls that are under way and closes the store. A second close does nothing.
    fn close(&self) -> Result<()>;

    /// This store's counter, if it can count without listing.
    fn state_counter(&self) -> Option<&dyn StateCounterBackend>;

    /// This store's feed of changes, if it knows what other writers do.
    fn change_feed(&self) -> Option<&dyn ChangeFeed>;

    /// This store's audit log, if it keeps one.
    fn audit(&self) -> Option<&dyn AuditLog> {
        None
    }

    /// The message of that ID with its revision, or `None`.
    fn get(&self, ctx: &Context, id: &MessageId) -> Result<Option<Stored>>;

    /// The state of the message of that ID, also of one whose metadata can't be read, or `None`.
    fn locate(&self, ctx: &Context, id: &MessageId) -> Result<Option<QueueState>>;

    /// Stores a message whose ID is in no state, and gives its revision;
    /// [`Error::AlreadyExists`] if it is in any, the hidden one included.
    fn insert(&self, ctx: &Context, metadata: &MessageMetadata) -> Result<Revision>;

    /// [`insert`](Backend::insert) of many, each with its own answer, in their order, as fast as the
    /// store can: into a store that nobody else writes, where [`apply`](Backend::apply) would leave
    /// gaps for nobody. They are inserted in any order, and share commits and flushes.
    fn insert_all(&self, ctx: &Context, messages: &[MessageMetadata]) -> Vec<Result<Revision>> {
        let share = messages.len().div_ceil(TOGETHER).max(1);
        std::thread::scope(|scope| {
            let started: Vec<_> = messages
                .chunks(share)
                .map(|some| {
                    let run = || some.iter().map(|one| self.insert(ctx, one)).collect();
                    (some.len(), scope.spawn(run))
                })
                .collect();
            started
                .into_iter()
                .flat_map(
                    |(count, thread): (_, std::thread::ScopedJoinHandle<Vec<_>>)| {
                        let failed =
                            || Err(Error::Unavailable("an insert failed in the middle".into()));
                        thread
                            .join()
                            .unwrap_or_else(|_| (0..count).map(|_| failed()).collect())
                    },
                )
                .collect()
        })
    }

    /// Replaces the message if it is in state `from` at revision `seen`, and gives the new
    /// revision; the metadata may name another state. [`Error::NotFound`],
    /// [`Error::StateConflict`] or [`Error::StaleRevision`] if somebody was faster.
    fn replace(
        &self,
        ctx: &Context,
        from: QueueState,
        seen: Revision,
        metadata: &MessageMetadata,
    ) -> Result<Revision>;

    /// [`move_to_state`](Backend::move_to_state), giving the message's revision after it.
    fn relocate(
        &self,
        ctx: &Context,
        id: &MessageId,
        from: QueueState,
        to: QueueState,
    ) -> Result<Revision>;

    /// Removes the message if it is in state `from` (and, where given, at revision `seen`), and
    /// gives the last revision it had. [`Error::NotFound`], [`Error::StateConflict`] or
    /// [`Error::StaleRevision`] otherwise.
    fn remove(
        &self,
        ctx: &Context,
        id: &MessageId,
        from: QueueState,
        seen: Option<Revision>,
    ) -> Result<Revision>;

    /// Makes many changes, and gives the answer of each in the same order: one that is refused or
    /// fails says nothing of the others. In a store that batches, what succeeded is committed in
    /// transactions that are short and leave other writers their turn between them. The deadline
    /// is that of all of them together.
    fn apply(&self, ctx: &Context, proposals: &[Proposal]) -> Vec<Result<Revision>> {
        let made = proposals.iter().map(|one| bulk::one(self, ctx, one));
        made.collect()
    }

    /// At most `limit` IDs of the state that come after `after`, in the order of their bytes.
    /// Fewer than `limit` only at the end. The memory it takes does not grow with the state.
    /// Messages that no file name can express are left out.
    fn scan(
        &self,
        ctx: &Context,
        state: QueueState,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<Vec<MessageId>>;

    /// Like [`scan`](Backend::scan), with what is stored of each; `Err` in place of one whose
    /// metadata can't be read ([`Error::Corrupt`]), so that it is listed all the same.
    fn scan_stored(
        &self,
        ctx: &Context,
        state: QueueState,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<Vec<(MessageId, Result<Stored>)>>;

    /// The messages of the state that the filter means, behind `after`, each with the revision that
    /// was looked at: at most `limit` of them, in the order in which the store finds them fastest.
    /// One call looks at a bounded number of messages, so it may give few or none and still say
    /// where to go on. A message that is in the state throughout is met once; more often only if
    /// RetrySpool replaces it meanwhile. Only what the filter looks at is read: a message whose
    /// headers can't be read is [unreadable](Selected::unreadable) at most to a filter that names
    /// headers.
    fn select(
        &self,
        ctx: &Context,
        state: QueueState,
        filter: &Filter,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Selected<(MessageId, Revision)>> {
        let found = self.select_stored(ctx, state, filter, after, limit)?;
        Ok(found.map(|stored| (stored.metadata.id, stored.revision)))
    }

    /// Like [`select`](Backend::select), with all that is stored of each message, and in the order
    /// of IDs.
    fn select_stored(
        &self,
        ctx: &Context,
        state: QueueState,
        filter: &Filter,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Selected<Stored>> {
        let after = after.and_then(Cursor::id);
        let scanned = self.scan_stored(ctx, state, after, limit)?;
        Ok(Selected::of(filter, scanned, limit))
    }

    /// The state's count and the time of its last change.
    fn state_info(&self, ctx: &Context, state: QueueState) -> Result<StateInfo>;

    /// The state's oldest message and the next retry that is due, to the second.
    fn ages(&self, ctx: &Context, state: QueueState) -> Result<Ages>;

    /// How many messages are stored that no file name or directory can express: they are in no
    /// listing and in no count. Zero for a store that can hold none.
    fn inexpressible(&self, _ctx: &Context) -> Result<u64> {
        Ok(0)
    }

    /// Whether the store's log of changes knows that the message once was at this Updated and
    /// has changed since. The log is bounded: `false` may also mean that it was too long ago.
    fn was_revision(&self, ctx: &Context, id: &MessageId, updated: Timestamp) -> Result<bool>;

    /// Brings everything committed so far, by other processes too, to the disk. Calls that arrive
    /// together share one flush. After [`Error::Durability`] the changes stand, but may not
    /// survive a power failure.
    fn sync(&self, ctx: &Context) -> Result<()>;

    /// The disk or service that the store is on.
    fn space(&self) -> Result<Space>;

    /// Looks at everything that has to hold in the store, beside its writers, and mends what it
    /// can if that is asked for. Where something was mended past the feed, the feed says that
    /// changes were missed ([`Changes::lost`]).
    fn check(&self, ctx: &Context, check: &mut Check<'_>) -> Result<()> {
        check::by_contract(self, ctx, check)
    }

    /// Looks for what other programs changed past this store's notice, in short steps beside its
    /// writers, and takes account of it as a repairing [`check`](Backend::check) does. Gives how
    /// much there was. `going` is asked between steps, with a pause after each; `false` ends it.
    fn recount(&self, ctx: &Context, going: &dyn Fn() -> bool) -> Result<u64> {
        let _ = (ctx, going);
        Ok(0)
    }

    /// Writes the store as it is at one moment to a new file, of mode 0600, that can be opened as
    /// a store; beside its writers, who need not wait. The file is there whole, and on the disk,
    /// or not at all. `going` is asked now and then; `false` ends it with [`Error::Busy`].
    fn snapshot(
        &self,
        ctx: &Context,
        file: &Path,
        going: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        let _ = (ctx, file, going);
        Err(Error::Unavailable(
            "this kind of store makes no snapshots; `retryspoolfs copy` copies it to one that does"
                .into(),
        ))
    }

    /// The store as it was at one moment during the call, for reading; `None` if this kind of
    /// store can't give that.
    fn frozen(
        &self,
        ctx: &Context,
        going: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Box<dyn Backend>>> {
        let _ = (ctx, going);
        Ok(None)
    }
}

/// A [`Backend`] that counts fast.
pub trait StateCounterBackend: Backend {
    /// How many messages are in the state, exactly, without listing them.
    fn get_state_count(&self, ctx: &Context, state: QueueState) -> Result<u64> {
        Ok(self.state_info(ctx, state)?.count)
    }
}

/// Makes a store.
pub trait Factory {
    /// Opens the store.
    fn create(&self) -> Result<Box<dyn Backend>>;

    /// The kind of store, as a locator spells it: `sqlite`.
    fn name(&self) -> &'static str;
}
