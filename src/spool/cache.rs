//! What the kernel may remember, and how it is told to forget.
//!
//! Owns: for how long names and attributes are valid; the feed of changes by all writers, and
//! what follows from each; the control file `events`.
//! Must not know: how a kernel is told ([`Invalidator`]).
//!
//! Names are dropped all at once, by the epoch, and never one by one: to drop one name the kernel
//! waits for its directory's lock, whose holder waits for this process. If this process is killed
//! in between, that wait keeps the connection alive with nobody to serve it, and everybody who
//! uses the mount hangs until it is aborted by hand. A name that is asked for again costs its
//! reader one request.
//!
//! A reply that was read from the store before a change may reach the kernel after the word of
//! that change. So each word is given again a moment later ([`AGAIN`]); and what is remembered
//! ends after [`VALID`] whatever happens.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Spool;
use super::tree::{Dir, Fixed};
use crate::backend::{Change, Context, Error};
use crate::model::{MessageId, QueueState, Revision};

/// How long the kernel may remember what nobody changes, where it is told of changes.
pub const VALID: Duration = Duration::from_secs(60);
/// After how long a word is given again.
const AGAIN: Duration = Duration::from_millis(60);
/// Changes that are read at once. So many at once are a backlog: everything is dropped.
const BATCH: usize = 2048;

/// Tells the kernel to forget. No call may wait for an operation under way: its answer could be
/// this process's to give.
pub trait Invalidator: Send + Sync {
    /// Forget an inode's attributes.
    fn attributes(&self, ino: u64);
    /// Forget all names at once.
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
    /// What the kernel itself took out of a directory, and needs no word of.
    pub own: OwnMoves,
}

/// Renames and unlinks of messages that came from this mount's kernel, until the feed has told of
/// them. Their names are right there already.
#[derive(Default)]
pub(super) struct OwnMoves(Mutex<HashMap<MessageId, Revision>>);

impl OwnMoves {
    /// The kernel gets this change's answer next. The feed may have told of it before, which only
    /// drops more than it must.
    pub fn note(&self, id: &MessageId, revision: Revision) {
        let mut moves = self.0.lock();
        // Some that nobody ever takes are such that the feed was faster with.
        if moves.len() >= BATCH {
            moves.clear();
        }
        moves.insert(id.clone(), revision);
    }

    fn take(&self, id: &MessageId, revision: Revision) -> bool {
        let mut moves = self.0.lock();
        let is_own = moves.get(id) == Some(&revision);
        if is_own {
            moves.remove(id);
        }
        is_own
    }
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
    /// A message left its directory, and the kernel did not do it itself.
    names: bool,
    /// The messages that changed.
    messages: HashSet<MessageId>,
    /// The states whose count or time changed.
    states: HashSet<QueueState>,
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
        for change in &found.changes {
            self.publish(change);
        }
        if found.lost {
            self.report.events.push(r#"{"lost":true}"#);
        }
        let word = Word {
            all: found.lost || found.changes.len() == BATCH,
            ..self.word_of(&found.changes)
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

    fn word_of(&self, changes: &[Change]) -> Word {
        let mut word = Word::default();
        for change in changes {
            let left = change.from.is_some() && change.from != change.to;
            word.names |= left && !self.cache.own.take(&change.id, change.revision);
            word.messages.insert(change.id.clone());
            word.states.extend(change.from.into_iter().chain(change.to));
        }
        word
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
        if word.names {
            kernel.all_names();
        }
        word.states.iter().for_each(|s| kernel.attributes(dir(*s)));
        let known = word.messages.iter().filter_map(|id| self.inodes.known(id));
        known.for_each(|ino| kernel.attributes(ino));
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
