//! The embedded store: one SQLite file, RetrySpool's table `messages` in it, and beside that what
//! makes counts, listings, revisions and the log of changes exact whoever writes.
//!
//! Owns: the store's life, from a path to its end; which call goes to the writer and which to the
//! readers.
//! May fail: with [`Error`]; see each call's contract at [`Backend`].
//! Must not know: files of a mount.
//!
//! The parts: `schema` (the tables), `factory` and `open` (which files are accepted), `prepare` (a RetrySpool
//! file's first time), `reserve` (room for a full disk), `change`, `writer`, `pace`, `upkeep` and `checkpoint` (what is written, and how writes share a commit and the lock),
//! `reader`, `page`, `select`, `views` and `row` (what is read), `feed` (what changed), `audit` (who changed it),
//! `flush` (what is on the disk), `recount` and `check` (whether all of it agrees), `snapshot` (a
//! copy of one moment), `error`.

use std::path::Path;
use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard};

use super::check::Check;
use super::{
    Ages, AuditEntry, AuditLimits, AuditLog, AuditQuery, AuditSize, Backend, ChangeFeed, Context,
    Cursor, Error, Proposal, Result, Selected, Space, StateCounterBackend, StateInfo,
};
use crate::model::{
    Filter, MessageId, MessageListOptions, MessageListResult, MessageMetadata, QueueState,
    Revision, Stored, Timestamp,
};
use crate::newfile::NewFile;

mod audit;
mod change;
mod check;
mod checkpoint;
mod error;
mod factory;
#[doc(hidden)]
pub mod faults;
mod feed;
mod flush;
mod open;
mod pace;
mod page;
mod prepare;
mod reader;
mod recount;
mod reserve;
mod row;
#[doc(hidden)]
pub mod schema;
mod select;
mod snapshot;
mod upkeep;
mod views;
mod writer;

use change::Change;
use faults::Faults;
use feed::Feed;
use flush::Flusher;
use open::{Access, Place};
use reader::Readers;
use recount::Walk;
use writer::Writer;

pub use factory::SqliteFactory;
pub use snapshot::compact;

/// What a store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Transactions that changed something.
    pub commits: u64,
    /// Changes that callers asked for.
    pub operations: u64,
    /// Flushes to the disk that callers asked for, shared ones once.
    pub flushes: u64,
}

/// A store over one SQLite file.
pub struct SqliteBackend {
    place: Place,
    /// `None` in a store that never writes.
    writer: Option<Writer>,
    readers: Readers,
    flusher: Flusher,
    /// `None` for a file that has no log.
    feed: Option<Feed>,
    faults: Arc<Faults>,
    /// The file itself, of a store over a copy that ends with it.
    temporary: Option<NewFile>,
    /// Whether the store is open. Every call holds it for reading, and closing for writing.
    is_open: RwLock<bool>,
}

impl SqliteBackend {
    /// How a connection for reading alone is opened.
    fn reading(&self) -> Access {
        match &self.writer {
            Some(_) => Access::Read,
            None => Access::ReadOnly,
        }
    }

    /// What the store has done since it was opened.
    pub fn counters(&self) -> Counters {
        let (commits, operations) = self.writer.as_ref().map_or((0, 0), Writer::counters);
        Counters {
            commits,
            operations,
            flushes: self.flusher.count(),
        }
    }

    /// The steps that a test can make fail.
    #[doc(hidden)]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The store stays open while this is held.
    fn enter(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let is_open = self.is_open.read();
        match *is_open {
            true => Ok(is_open),
            false => Err(Error::Closed),
        }
    }

    fn change(&self, ctx: &Context, change: Change) -> Result<Revision> {
        let _open = self.enter()?;
        match &self.writer {
            Some(writer) => writer.submit(change, ctx),
            None => Err(Error::ReadOnly),
        }
    }

    fn read<T>(
        &self,
        ctx: &Context,
        query: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let _open = self.enter()?;
        self.readers.run(ctx.deadline(), query)
    }

    /// Runs a query of a few pages, on whatever connection is the quickest now.
    fn read_one<T>(
        &self,
        ctx: &Context,
        query: impl Fn(&rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let _open = self.enter()?;
        if let Some(writer) = &self.writer {
            self.readers.watch()?;
            if let Some(found) = writer.try_read(&query) {
                return Ok(found);
            }
        }
        self.readers.run(ctx.deadline(), query)
    }

    /// Runs a query that needs every row in its bucket.
    fn read_settled<T>(
        &self,
        ctx: &Context,
        query: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let _open = self.enter()?;
        if let Some(writer) = &self.writer {
            while self.readers.doubtful(ctx.deadline())? {
                writer.submit(Change::Settle, ctx)?;
                if ctx.expired() {
                    let why = "other programs add IDs faster than they are looked at";
                    return Err(Error::Busy(why.into()));
                }
            }
        }
        self.readers.run_settled(ctx.deadline(), query)
    }
}

impl Backend for SqliteBackend {
    fn store_meta(&self, ctx: &Context, id: &MessageId, metadata: &MessageMetadata) -> Result<()> {
        self.change(ctx, Change::Store(named(id, metadata)))
            .map(drop)
    }

    fn update_meta(&self, ctx: &Context, id: &MessageId, metadata: &MessageMetadata) -> Result<()> {
        self.change(ctx, Change::Update(named(id, metadata)))
            .map(drop)
    }

    fn delete_meta(&self, ctx: &Context, id: &MessageId) -> Result<()> {
        self.change(ctx, Change::Delete(id.clone())).map(drop)
    }

    fn list_messages(
        &self,
        ctx: &Context,
        state: QueueState,
        options: &MessageListOptions,
    ) -> Result<MessageListResult> {
        self.read_settled(ctx, |conn| page::list(conn, state, options))
    }

    fn close(&self) -> Result<()> {
        let mut is_open = self.is_open.write();
        if !std::mem::replace(&mut *is_open, false) {
            return Ok(());
        }
        // Readers first: the last connection to close writes the log into the file.
        self.readers.close();
        if let Some(feed) = &self.feed {
            feed.close();
        }
        self.flusher.close();
        self.writer.as_ref().map_or(Ok(()), Writer::close)
    }

    fn state_counter(&self) -> Option<&dyn StateCounterBackend> {
        Some(self)
    }

    fn change_feed(&self) -> Option<&dyn ChangeFeed> {
        self.feed.as_ref().map(|feed| feed as &dyn ChangeFeed)
    }

    fn audit(&self) -> Option<&dyn AuditLog> {
        // A file that was never prepared has no side tables at all.
        self.feed.as_ref().map(|_| self as &dyn AuditLog)
    }

    fn get(&self, ctx: &Context, id: &MessageId) -> Result<Option<Stored>> {
        self.read_one(ctx, |conn| reader::get(conn, id))?
            .transpose()
    }

    fn locate(&self, ctx: &Context, id: &MessageId) -> Result<Option<QueueState>> {
        self.read_one(ctx, |conn| reader::locate(conn, id))
    }

    fn insert(&self, ctx: &Context, metadata: &MessageMetadata) -> Result<Revision> {
        self.change(ctx, Change::Insert(metadata.clone()))
    }

    fn insert_all(&self, ctx: &Context, messages: &[MessageMetadata]) -> Vec<Result<Revision>> {
        let refused = |error: Error| messages.iter().map(|_| Err(error.clone())).collect();
        let _open = match self.enter() {
            Ok(open) => open,
            Err(error) => return refused(error),
        };
        match &self.writer {
            Some(writer) => {
                writer.submit_all(messages.iter().cloned().map(Change::Insert), false, ctx)
            }
            None => refused(Error::ReadOnly),
        }
    }

    fn replace(
        &self,
        ctx: &Context,
        from: QueueState,
        seen: Revision,
        metadata: &MessageMetadata,
    ) -> Result<Revision> {
        let metadata = metadata.clone();
        self.change(
            ctx,
            Change::Replace {
                from,
                seen,
                metadata,
            },
        )
    }

    fn relocate(
        &self,
        ctx: &Context,
        id: &MessageId,
        from: QueueState,
        to: QueueState,
    ) -> Result<Revision> {
        let id = id.clone();
        let seen = None;
        self.change(ctx, Change::Relocate { id, from, seen, to })
    }

    fn apply(&self, ctx: &Context, proposals: &[Proposal]) -> Vec<Result<Revision>> {
        let refused = |error: Error| vec![Err(error); proposals.len()];
        let _open = match self.enter() {
            Ok(open) => open,
            Err(error) => return refused(error),
        };
        match &self.writer {
            Some(writer) => {
                writer.submit_all(proposals.iter().cloned().map(Change::from), true, ctx)
            }
            None => refused(Error::ReadOnly),
        }
    }

    fn remove(
        &self,
        ctx: &Context,
        id: &MessageId,
        from: QueueState,
        seen: Option<Revision>,
    ) -> Result<Revision> {
        let id = id.clone();
        self.change(ctx, Change::Remove { id, from, seen })
    }

    fn scan(
        &self,
        ctx: &Context,
        state: QueueState,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<Vec<MessageId>> {
        self.read_settled(ctx, |conn| reader::scan(conn, state, after, limit))
    }

    fn scan_stored(
        &self,
        ctx: &Context,
        state: QueueState,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<Vec<(MessageId, Result<Stored>)>> {
        self.read_settled(ctx, |conn| reader::scan_stored(conn, state, after, limit))
    }

    fn select(
        &self,
        ctx: &Context,
        state: QueueState,
        filter: &Filter,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Selected<(MessageId, Revision)>> {
        self.read_settled(ctx, |conn| {
            select::select(conn, state, filter, after, limit)
        })
    }

    fn select_stored(
        &self,
        ctx: &Context,
        state: QueueState,
        filter: &Filter,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Selected<Stored>> {
        self.read_settled(ctx, |conn| {
            select::select_stored(conn, state, filter, after, limit)
        })
    }

    fn state_info(&self, ctx: &Context, state: QueueState) -> Result<StateInfo> {
        // Whoever walks a path below the directory may ask for this, after each change.
        if self.writer.is_some()
            && let Some(info) =
                self.read_one(ctx, |conn| reader::settled_state_info(conn, state))?
        {
            return Ok(info);
        }
        self.read_settled(ctx, |conn| reader::state_info(conn, state))
    }

    fn ages(&self, ctx: &Context, state: QueueState) -> Result<Ages> {
        self.read_settled(ctx, |conn| reader::ages(conn, state))
    }

    fn inexpressible(&self, ctx: &Context) -> Result<u64> {
        self.read_settled(ctx, reader::inexpressible)
    }

    fn was_revision(&self, ctx: &Context, id: &MessageId, updated: Timestamp) -> Result<bool> {
        self.read(ctx, |conn| reader::was_revision(conn, id, updated))
    }

    fn sync(&self, ctx: &Context) -> Result<()> {
        let _open = self.enter()?;
        self.flusher.sync(self.writer.as_ref(), ctx.deadline())
    }

    fn space(&self) -> Result<Space> {
        let _open = self.enter()?;
        open::space(&self.place)
    }

    fn check(&self, ctx: &Context, check: &mut Check<'_>) -> Result<()> {
        self.check_all(ctx, check)
    }

    fn recount(&self, ctx: &Context, going: &dyn Fn() -> bool) -> Result<u64> {
        let Some(writer) = &self.writer else {
            return Ok(0);
        };
        let walk = Walk {
            readers: &self.readers,
            writer: Some(writer),
            ctx,
            going,
            gently: true,
        };
        let shown = self.place.path().display();
        walk.run(&mut |what| tracing::warn!("{shown}: {what}; it is counted anew"))
    }

    fn snapshot(&self, _: &Context, file: &Path, going: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        let _open = self.enter()?;
        snapshot::write(&self.place, self.reading(), file, going)
    }

    fn frozen(
        &self,
        _: &Context,
        going: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Box<dyn Backend>>> {
        let _open = self.enter()?;
        let frozen = snapshot::freeze(&self.place, self.reading(), going)?;
        Ok(Some(Box::new(frozen)))
    }
}

impl StateCounterBackend for SqliteBackend {}

impl AuditLog for SqliteBackend {
    fn entries(
        &self,
        ctx: &Context,
        query: &AuditQuery,
        after: u64,
        limit: usize,
    ) -> Result<Vec<AuditEntry>> {
        self.read(ctx, |conn| audit::entries(conn, query, after, limit))
    }

    fn old_document(&self, ctx: &Context, seq: u64) -> Result<Option<String>> {
        self.read(ctx, |conn| audit::old_document(conn, seq))
    }

    fn later(
        &self,
        ctx: &Context,
        after: u64,
        each: &mut dyn FnMut(MessageId, u64),
    ) -> Result<u64> {
        self.read(ctx, |conn| audit::later(conn, after, each))
    }

    fn size(&self, ctx: &Context) -> Result<AuditSize> {
        self.read(ctx, audit::size)
    }

    fn limits(&self, ctx: &Context) -> Result<AuditLimits> {
        self.read(ctx, audit::limits)
    }

    fn set_limits(&self, ctx: &Context, limits: AuditLimits) -> Result<()> {
        self.change(ctx, Change::Limit(limits))?;
        while self.read(ctx, audit::is_overdue)? {
            self.change(ctx, Change::Trim)?;
        }
        Ok(())
    }
}

impl Drop for SqliteBackend {
    fn drop(&mut self) {
        if let Err(e) = self.close() {
            tracing::warn!("{}: {e}", self.place.path().display());
        }
    }
}

/// The metadata under the ID that the caller names.
fn named(id: &MessageId, metadata: &MessageMetadata) -> MessageMetadata {
    MessageMetadata {
        id: id.clone(),
        ..metadata.clone()
    }
}
