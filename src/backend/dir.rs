//! RetrySpool's own directory as a store: `incoming/ID.json` and so on, as its filesystem store
//! writes them, beside that store's processes or without them.
//!
//! Owns: the store's life; which call looks at the directory and which at the index.
//! May fail: with [`Error`]; see each call's contract at [`Backend`]. Beyond it: an ID that can't
//! be a file's name there is [`Error::InvalidId`] where it would be stored, and in no state; what
//! another program writes keeps the Updated that it was given.
//! Must not know: SQL, files of a mount.
//!
//! Every change is decided by the directory at the moment it is made (`change`, `remove`).
//! Listings, counts and the feed come from an index in memory (`index`, `log`), which is filled
//! when it is first needed and follows the directory from then on (`watch`): a call that reads it
//! first takes in all that the kernel has told so far, so it is never behind a change that had
//! returned. The parts below: `place` (the directory), `lock`, `file` (one file), `patch` (its
//! document, rewritten where it lies), `find` (one message), `many` (new ones together), `compare`
//! and `settle` (what nobody told of, and what was left half-done).

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;
use parking_lot::{Condvar, Mutex};

use super::check::Check;
use super::{
    Actor, Ages, Backend, Change, ChangeFeed, Changes, Context, Error, Proposal, Result, Space,
    StateCounterBackend, StateInfo, bulk,
};
use crate::model::{
    MessageId, MessageListOptions, MessageListResult, MessageMetadata, PlainName, QueueState,
    Revision, Stored, Timestamp,
};

mod change;
mod check;
mod compare;
mod factory;
mod file;
mod find;
mod flush;
mod index;
mod lock;
mod log;
mod many;
mod names;
mod patch;
mod place;
mod remove;
mod settle;
mod watch;

pub use factory::DirFactory;
use file::Look;
use find::everywhere;
use flush::Flush;
use index::{Entry, Index};
use lock::Locks;
use log::Log;
use place::Place;
use watch::Watch;

/// How long every caller waits for the follower.
const SHORT: Duration = Duration::from_millis(200);

/// What is known without looking.
struct Known {
    /// `None` until it is first needed.
    index: Option<Index>,
    log: Log,
    /// Messages that moved without their documents.
    unmended: Vec<MessageId>,
    closed: bool,
}

impl Known {
    fn entry(&self, id: &MessageId) -> Option<(QueueState, Entry)> {
        self.index.as_ref().and_then(|index| index.find(id))
    }
}

/// The directory, and what is known of it: what the store and its follower share.
struct Directory {
    place: Place,
    locks: Locks,
    read_only: bool,
    notified: bool,
    known: Mutex<Known>,
    /// The log has grown.
    grown: Condvar,
    /// `None` until it is first needed, and after the end. Taken before every other lock.
    watch: Mutex<Option<Watch>>,
    /// Wakes the follower.
    wake: EventFd,
    flush: Flush,
}

impl Directory {
    /// A message was seen like that, or nowhere. Nobody is told before somebody listens.
    fn observe(&self, id: &MessageId, now: Option<&Stored>) {
        if self.known.lock().index.is_some() {
            self.note(id, now, None, None);
        }
    }

    /// A message is like that since a change: one of ours, which found it as `before` says.
    fn note(
        &self,
        id: &MessageId,
        now: Option<&Stored>,
        before: Option<(QueueState, Revision)>,
        actor: Option<&Actor>,
    ) {
        let at = Timestamp::now();
        let mut known = self.known.lock();
        let entry = now.map(|stored| (stored.metadata.state, Entry::of(stored)));
        let before = match &mut known.index {
            Some(index) => {
                let before = index.put(id, entry, at);
                if before == entry {
                    return;
                }
                let revision = |entry: Entry| Revision {
                    updated: entry.updated(),
                    tag: entry.mark,
                };
                before.map(|(state, entry)| (state, revision(entry)))
            }
            None => before,
        };
        let revision = now.map(|stored| stored.revision);
        let Some(revision) = revision.or(before.map(|(_, revision)| revision)) else {
            return;
        };
        let change = Change {
            seq: 0,
            id: id.clone(),
            from: before.map(|(state, _)| state),
            to: entry.map(|(state, _)| state),
            revision,
            at,
            actor: actor.cloned(),
        };
        known.log.push(change, before.map(|(_, r)| r.updated));
        self.grown.notify_all();
    }

    /// Changes were missed.
    fn reset(&self) {
        self.known.lock().log.reset();
        self.grown.notify_all();
    }
}

/// A store over one directory.
pub struct DirBackend {
    directory: Arc<Directory>,
    follower: Mutex<Option<thread::JoinHandle<()>>>,
}

impl DirBackend {
    fn enter(&self) -> Result<&Directory> {
        if self.directory.known.lock().closed {
            return Err(Error::Closed);
        }
        Ok(&self.directory)
    }

    /// Reads the index as it is now.
    fn read<T>(&self, ctx: &Context, read: impl FnOnce(&Index, &Log) -> T) -> Result<T> {
        let directory = self.enter()?;
        directory.place.check()?;
        let busy = || Error::Busy("the directory is being read, and has many messages".into());
        {
            // A caller that does not want to wait does not find it busy only because the follower
            // takes in a change just now.
            let until = ctx.deadline().max(Instant::now() + SHORT);
            let mut watch = directory.watch.try_lock_until(until).ok_or_else(busy)?;
            match &mut *watch {
                Some(watch) => directory.catch_up(watch)?,
                None => {
                    *watch = Some(directory.begin_watch()?);
                    let directory = Arc::clone(&self.directory);
                    *self.follower.lock() = Some(thread::spawn(move || directory.follow()));
                }
            }
        }
        let known = directory.known.lock();
        match &known.index {
            Some(index) if !known.closed => Ok(read(index, &known.log)),
            _ => Err(Error::Closed),
        }
    }

    /// The files that are in the way of nobody, and no messages: told of once, and left alone.
    /// Each with its state, its name, and why it is no message.
    pub fn foreign(&self, ctx: &Context) -> Result<Vec<(QueueState, std::ffi::OsString, String)>> {
        self.read(ctx, |_, _| ())?;
        let watch = self.directory.watch.lock();
        let told = watch.iter().flat_map(|watch| watch.foreign());
        Ok(told
            .map(|(s, name, why)| (s, name.clone(), why.to_owned()))
            .collect())
    }
}

impl Backend for DirBackend {
    fn store_meta(&self, ctx: &Context, id: &MessageId, metadata: &MessageMetadata) -> Result<()> {
        self.enter()?.store(ctx, &named(id, metadata)).map(drop)
    }

    fn update_meta(&self, ctx: &Context, id: &MessageId, metadata: &MessageMetadata) -> Result<()> {
        self.enter()?.update(ctx, &named(id, metadata)).map(drop)
    }

    fn delete_meta(&self, ctx: &Context, id: &MessageId) -> Result<()> {
        self.enter()?.delete(ctx, id)
    }

    fn list_messages(
        &self,
        ctx: &Context,
        state: QueueState,
        options: &MessageListOptions,
    ) -> Result<MessageListResult> {
        self.read(ctx, |index, _| index.list(state, options))
    }

    fn close(&self) -> Result<()> {
        let directory = &self.directory;
        {
            let mut known = directory.known.lock();
            if std::mem::replace(&mut known.closed, true) {
                return Ok(());
            }
            directory.grown.notify_all();
        }
        let _ = directory.wake.write(1);
        if let Some(follower) = self.follower.lock().take() {
            // Its panic was printed; nothing of it is left to do.
            let _ = follower.join();
        }
        *directory.watch.lock() = None;
        directory.known.lock().index = None;
        Ok(())
    }

    fn state_counter(&self) -> Option<&dyn StateCounterBackend> {
        Some(self)
    }

    fn change_feed(&self) -> Option<&dyn ChangeFeed> {
        Some(self)
    }

    fn get(&self, ctx: &Context, id: &MessageId) -> Result<Option<Stored>> {
        let directory = self.enter()?;
        directory.place.check()?;
        let Ok(name) = PlainName::of_id(id) else {
            return Ok(None);
        };
        let hint = directory.known.lock().entry(id);
        if let Some(dir) = hint.and_then(|(state, _)| directory.place.state(state))
            && let Look::Message(found) = file::read(dir, &name, id)?
        {
            return Ok(Some(found.stored));
        }
        let seen = everywhere(&directory.place, id, &name)?;
        if let Some(found) = seen.best {
            return Ok(Some(found.stored));
        }
        // It may be moving to and fro: while it is held, it is somewhere or nowhere.
        let _held = directory.locks.lock(id, ctx.deadline())?;
        let seen = everywhere(&directory.place, id, &name)?;
        Ok(seen.best.map(|found| found.stored))
    }

    fn locate(&self, ctx: &Context, id: &MessageId) -> Result<Option<QueueState>> {
        Ok(self.get(ctx, id)?.map(|stored| stored.metadata.state))
    }

    fn insert(&self, ctx: &Context, metadata: &MessageMetadata) -> Result<Revision> {
        self.enter()?.insert(ctx, metadata)
    }

    fn insert_all(&self, ctx: &Context, messages: &[MessageMetadata]) -> Vec<Result<Revision>> {
        match self.enter() {
            Ok(directory) => directory.insert_all(ctx, messages),
            Err(error) => vec![Err(error); messages.len()],
        }
    }

    fn apply(&self, ctx: &Context, proposals: &[Proposal]) -> Vec<Result<Revision>> {
        let mut answers = Vec::with_capacity(proposals.len());
        while let [next, ..] = &proposals[answers.len()..] {
            let new = many::new_ones(&proposals[answers.len()..]);
            match new.is_empty() {
                true => answers.push(bulk::one(self, ctx, next)),
                false => answers.extend(self.insert_all(ctx, &new)),
            }
        }
        answers
    }

    fn replace(
        &self,
        ctx: &Context,
        from: QueueState,
        seen: Revision,
        metadata: &MessageMetadata,
    ) -> Result<Revision> {
        self.enter()?.replace(ctx, from, seen, metadata)
    }

    fn relocate(
        &self,
        ctx: &Context,
        id: &MessageId,
        from: QueueState,
        to: QueueState,
    ) -> Result<Revision> {
        self.enter()?.relocate(ctx, id, from, to)
    }

    fn remove(
        &self,
        ctx: &Context,
        id: &MessageId,
        from: QueueState,
        seen: Option<Revision>,
    ) -> Result<Revision> {
        self.enter()?.remove(ctx, id, from, seen)
    }

    fn scan(
        &self,
        ctx: &Context,
        state: QueueState,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<Vec<MessageId>> {
        self.read(ctx, |index, _| {
            let ids = index.after(state, after).take(limit);
            ids.map(|(id, _)| id.clone()).collect()
        })
    }

    fn scan_stored(
        &self,
        ctx: &Context,
        state: QueueState,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<Vec<(MessageId, Result<Stored>)>> {
        let mut found = Vec::new();
        let mut cursor = after.cloned();
        while found.len() < limit {
            let wanted = limit - found.len();
            let ids = self.scan(ctx, state, cursor.as_ref(), wanted)?;
            let is_end = ids.len() < wanted;
            cursor = ids.last().cloned();
            let directory = self.enter()?;
            let Some(dir) = directory.place.state(state) else {
                break;
            };
            for id in ids {
                // What has left the state since, or is no message any more, is in no listing.
                if let Ok(name) = PlainName::of_id(&id)
                    && let Look::Message(message) = file::read(dir, &name, &id)?
                {
                    found.push((id, Ok(message.stored)));
                }
            }
            if is_end {
                break;
            }
        }
        Ok(found)
    }

    fn state_info(&self, ctx: &Context, state: QueueState) -> Result<StateInfo> {
        self.read(ctx, |index, _| index.info(state))
    }

    fn ages(&self, ctx: &Context, state: QueueState) -> Result<Ages> {
        self.read(ctx, |index, _| index.ages(state))
    }

    fn was_revision(&self, ctx: &Context, id: &MessageId, updated: Timestamp) -> Result<bool> {
        let directory = self.enter()?;
        let known = directory.known.lock().log.knows(id, updated);
        Ok(known
            && self
                .get(ctx, id)?
                .is_none_or(|now| now.metadata.updated != updated))
    }

    fn sync(&self, ctx: &Context) -> Result<()> {
        let directory = self.enter()?;
        directory.place.check()?;
        directory.flush.run(ctx, || directory.place.sync())
    }

    fn space(&self) -> Result<Space> {
        self.enter()?.place.space()
    }

    fn check(&self, ctx: &Context, check: &mut Check<'_>) -> Result<()> {
        self.check_directory(ctx, check)
    }

    /// What inotify did not tell of, though it never should.
    fn recount(&self, ctx: &Context, going: &dyn Fn() -> bool) -> Result<u64> {
        self.read(ctx, |_, _| ())?;
        let mut missed = 0;
        for state in QueueState::ALL {
            if going()
                && let Some(watch) = &mut *self.directory.watch.lock()
            {
                missed += self.directory.compare_state(watch, state)?;
            }
        }
        if missed > 0 && self.directory.notified {
            self.directory.reset();
        }
        Ok(missed)
    }
}

impl StateCounterBackend for DirBackend {}

impl ChangeFeed for DirBackend {
    fn newest(&self, ctx: &Context) -> Result<u64> {
        self.read(ctx, |_, log| log.newest())
    }

    fn changes(&self, ctx: &Context, after: u64, limit: usize) -> Result<Changes> {
        loop {
            let found = match self.read(ctx, |_, log| log.after(after, limit)) {
                // There may be something new, but not in time.
                Err(Error::Busy(_)) if ctx.expired() => Changes {
                    cursor: after,
                    ..Changes::default()
                },
                found => found?,
            };
            if found.lost || found.cursor != after {
                return Ok(found);
            }
            let mut known = self.directory.known.lock();
            if known.closed {
                return Err(Error::Closed);
            }
            if known.log.newest() == after {
                let wait = self.directory.grown.wait_until(&mut known, ctx.deadline());
                if wait.timed_out() {
                    return Ok(found);
                }
            } else if ctx.expired() {
                return Ok(found);
            }
        }
    }
}

impl Drop for DirBackend {
    fn drop(&mut self) {
        // Nothing of it can fail.
        let _ = self.close();
    }
}

/// The metadata under the ID that the caller names.
fn named(id: &MessageId, metadata: &MessageMetadata) -> MessageMetadata {
    MessageMetadata {
        id: id.clone(),
        ..metadata.clone()
    }
}
