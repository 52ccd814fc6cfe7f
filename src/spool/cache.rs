//! What the kernel may remember, and how it is told to forget.
//!
//! Owns: for how long names and attributes are valid; the feed of changes by all writers, and
//! what follows from each; the control file `events`.
//! Must not know: how a kernel is told ([`Invalidator`]).
//!
//! A reply that was read from the store before a change may reach the kernel after the word of
//! that change. So each word is given again a moment later ([`AGAIN`]); and what is remembered
//! ends after [`VALID`] whatever happens.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Spool;
use super::tree::{Dir, Fixed};
use crate::backend::{Change, Context, Error};
use crate::model::{MessageId, QueueState};

/// How long the kernel may remember what nobody changes, where it is told of changes.
pub const VALID: Duration = Duration::from_secs(60);
/// After how long a word is given again.
const AGAIN: Duration = Duration::from_millis(60);
/// Changes that are read at once. So many at once are a backlog: everything is dropped.
const BATCH: usize = 2048;

/// Tells the kernel to forget. Calls may wait for operations under way, so they come from one
/// thread that holds no lock.
pub trait Invalidator: Send + Sync {
    /// Forget a name in a directory.
    fn name(&self, dir: u64, name: &OsStr);
    /// Forget an inode's attributes.
    fn attributes(&self, ino: u64);
    /// Forget all names at once. Waits for nothing, so it may be called from any thread.
    fn all_names(&self);
}

/// For how long the kernel may remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validity {
    /// That a name exists.
    pub names: Duration,
    /// Attributes.
    pub attributes: Duration,
}

/// The kernel's cache, as far as this side knows it.
#[derive(Default)]
pub(super) struct Cache {
    validity: OnceLock<Validity>,
    invalidator: OnceLock<Box<dyn Invalidator>>,
    /// Grows with each word, before it is given.
    generation: AtomicU64,
    /// Up to where changes were read, and when they were last asked for.
    followed: Mutex<Option<(u64, Instant)>>,
}

impl Cache {
    /// What holds for a name and inode that nothing special is known of. Until it is set, nothing
    /// may be remembered.
    pub fn validity(&self) -> Validity {
        self.validity.get().copied().unwrap_or_default()
    }

    /// Changes with each word of a change: what was read at another one may be out of date.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Up to where changes were read, and when they were last asked for with success.
    pub fn followed(&self) -> Option<(u64, Instant)> {
        *self.followed.lock()
    }

    /// Drops all names, before a reply after which the kernel would take one for another.
    pub fn drop_all_names(&self) {
        if let Some(invalidator) = self.invalidator.get() {
            invalidator.all_names();
        }
    }
}

/// Where the follower of the feed is.
#[derive(Default)]
pub struct Follower {
    cursor: Option<u64>,
    again: VecDeque<(Instant, Word)>,
}

/// What the kernel is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Word {
    /// Everything: there was too much to tell one by one.
    all: bool,
    /// The messages that changed, and the states that they left.
    messages: HashMap<MessageId, HashSet<QueueState>>,
    /// The states whose count or time changed.
    states: HashSet<QueueState>,
}

impl Word {
    fn of(changes: &[Change]) -> Word {
        let mut word = Word::default();
        for change in changes {
            let left = word.messages.entry(change.id.clone()).or_default();
            left.extend(change.from.filter(|from| change.to != Some(*from)));
            word.states.extend(change.from.into_iter().chain(change.to));
        }
        word
    }
}

impl Spool {
    /// Sets for how long the kernel may remember, once, before the first request.
    pub fn set_validity(&self, validity: Validity) {
        let _ = self.cache.validity.set(validity);
    }

    /// Sets who tells the kernel, once.
    pub fn set_invalidator(&self, invalidator: Box<dyn Invalidator>) {
        let _ = self.cache.invalidator.set(invalidator);
    }

    /// Makes the kernel ask for each name again, where what others change can't be told.
    pub fn forget_all(&self) {
        self.cache.drop_all_names();
    }

    /// Whether the store tells what other writers change.
    pub fn has_feed(&self) -> bool {
        self.store.change_feed().is_some()
    }

    /// Waits up to `limit` for changes, publishes them, and tells the kernel. To be called over
    /// and over from one thread. An error is one of the store.
    pub fn follow(&self, follower: &mut Follower, limit: Duration) -> Result<(), Error> {
        let Some(feed) = self.store.change_feed() else {
            std::thread::sleep(limit);
            return Ok(());
        };
        let limit = match follower.again.front() {
            Some((due, _)) => limit.min(due.saturating_duration_since(Instant::now())),
            None => limit,
        };
        let ctx = Context::within(limit);
        let cursor = match follower.cursor {
            Some(cursor) => cursor,
            None => *follower.cursor.insert(feed.newest(&ctx)?),
        };
        let found = feed.changes(&ctx, cursor, BATCH)?;
        follower.cursor = Some(found.cursor);
        *self.cache.followed.lock() = Some((found.cursor, Instant::now()));
        for change in &found.changes {
            self.publish(change);
        }
        if found.lost {
            self.report.events.push(r#"{"lost":true}"#);
        }
        let backlog = found.lost || found.changes.len() == BATCH;
        let word = Word {
            all: backlog,
            ..Word::of(&found.changes)
        };
        while follower
            .again
            .front()
            .is_some_and(|(due, _)| *due <= Instant::now())
        {
            if let Some((_, word)) = follower.again.pop_front() {
                self.tell(&word);
            }
        }
        if word != Word::default() {
            self.cache.generation.fetch_add(1, Ordering::Relaxed);
            self.tell(&word);
            follower.again.push_back((Instant::now() + AGAIN, word));
        }
        Ok(())
    }

    fn tell(&self, word: &Word) {
        let Some(kernel) = self.cache.invalidator.get() else {
            return;
        };
        let dir = |state| Fixed::Dir(Dir::State(state)).ino();
        if word.all {
            kernel.all_names();
            self.options
                .states()
                .for_each(|s| kernel.attributes(dir(s)));
            self.inodes
                .open()
                .into_iter()
                .for_each(|ino| kernel.attributes(ino));
            return;
        }
        word.states.iter().for_each(|s| kernel.attributes(dir(*s)));
        for (id, left) in &word.messages {
            let Some(ino) = self.inodes.known(id) else {
                continue;
            };
            kernel.attributes(ino);
            let name = id.file_name();
            left.iter()
                .for_each(|s| kernel.name(dir(*s), name.as_ref()));
        }
    }

    fn publish(&self, change: &Change) {
        let actor = change.actor.as_ref();
        let event = Event {
            seq: change.seq,
            time: change.at.to_string(),
            op: operation(change),
            id: change.id.as_str(),
            from: change.from.map(QueueState::as_str),
            to: change.to.map(QueueState::as_str),
            revision: change.revision.updated.to_string(),
            uid: actor.map(|actor| actor.uid),
            pid: actor.map(|actor| actor.pid),
            command: actor.map(|actor| actor.command.as_str()),
        };
        // Numbers and texts: no serializer refuses them.
        let line = serde_json::to_string(&event).unwrap_or_default();
        self.report.events.push(&line);
    }
}

/// A line of `events`.
#[derive(serde::Serialize)]
struct Event<'a> {
    seq: u64,
    time: String,
    op: &'static str,
    id: &'a str,
    from: Option<&'static str>,
    to: Option<&'static str>,
    revision: String,
    uid: Option<u32>,
    pid: Option<u32>,
    command: Option<&'a str>,
}

fn operation(change: &Change) -> &'static str {
    match (change.from, change.to) {
        (None, _) => "store",
        (_, None) => "delete",
        (Some(from), Some(to)) if from == to => "update",
        (Some(_), Some(_)) => "move",
    }
}
