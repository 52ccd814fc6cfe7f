//! What the kernel may remember, and how it is told to forget.
//!
//! Owns: for how long names and attributes are valid; the names that it still has to be told of.
//! May fail: never; a kernel that can't be told remembers less.
//! Must not know: how a kernel is told ([`Invalidator`]), who changes what (see
//! [`follow`](super::follow)).
//!
//! Three things keep a change from being overtaken by a reply that was read before it:
//! - what was read before the latest word may not be remembered at all ([`Cache::validity`]); for
//!   that an inode is counted as known before the store is read for it;
//! - a reply that was judged just before a word may reach the kernel just after it, so each word
//!   is given again a moment later;
//! - should the kernel be even slower, what is remembered ends after [`VALID`].

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Spool;
use super::tree::{Dir, Fixed};
use crate::model::{MessageId, QueueState};

/// How long the kernel may remember what nobody changes, where it is told of changes. It costs one
/// request a minute for each file that is looked at all the time.
pub const VALID: Duration = Duration::from_secs(60);
/// How long it may remember attributes where changes can't be told.
pub const UNTOLD: Duration = Duration::from_secs(1);
/// Names that wait to be dropped one by one. Dropping more is slower than looking all up again.
const NAMES_MAX: usize = 256;
/// How long a name waits before all names are dropped instead.
const NAME_WAITS: Duration = Duration::from_millis(20);

/// Tells the kernel to forget.
pub trait Invalidator: Send + Sync {
    /// Forget a name in a directory. Waits for operations under way in that directory.
    fn name(&self, dir: u64, name: &OsStr);
    /// Forget an inode's attributes. Waits for nothing.
    fn attributes(&self, ino: u64);
    /// Forget all names at once. Waits for nothing.
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

/// When something was read from the store, by the words that the kernel had been given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadAt(u64);

/// The kernel's cache, as far as this side knows it.
#[derive(Default)]
pub(super) struct Cache {
    validity: OnceLock<Validity>,
    invalidator: OnceLock<Box<dyn Invalidator>>,
    /// Grows with each word, before it is given.
    words: AtomicU64,
    /// Whether changes can't be followed at present.
    blind: AtomicBool,
    names: Mutex<Names>,
    named: Condvar,
}

/// Names that the kernel has to forget, each with the time that it was told of.
#[derive(Default)]
struct Names {
    waiting: VecDeque<(Instant, QueueState, MessageId)>,
    /// Since when the one that is being dropped has waited.
    current: Option<Instant>,
}

impl Names {
    fn oldest(&self) -> Option<Instant> {
        self.current
            .or_else(|| self.waiting.front().map(|(since, ..)| *since))
    }
}

impl Cache {
    /// To be asked for before the store is read.
    pub fn reading(&self) -> ReadAt {
        ReadAt(self.words.load(Relaxed))
    }

    /// For how long what was read then may be remembered, to be asked for after the inode was
    /// counted as known: what changes from here on it is told of.
    pub fn validity(&self, read: ReadAt) -> Validity {
        if read != self.reading() {
            return Validity::default();
        }
        self.allowed()
    }

    /// What holds at present for what nobody changes. Until it is set, nothing may be remembered.
    pub fn allowed(&self) -> Validity {
        let set = self.validity.get().copied().unwrap_or_default();
        match self.is_blind() {
            true => Validity {
                names: Duration::ZERO,
                attributes: set.attributes.min(UNTOLD),
            },
            false => set,
        }
    }

    /// Whether changes can't be followed at present.
    pub fn is_blind(&self) -> bool {
        self.blind.load(Relaxed)
    }

    /// Sets whether changes can be followed, and tells whether that is news.
    pub fn set_blind(&self, blind: bool) -> bool {
        self.blind.swap(blind, Relaxed) != blind
    }

    /// A word is about to be given.
    pub fn begin_word(&self) {
        self.words.fetch_add(1, Relaxed);
    }

    /// Drops an inode's attributes.
    pub fn drop_attributes(&self, ino: u64) {
        if let Some(kernel) = self.invalidator.get() {
            kernel.attributes(ino);
        }
    }

    /// Has names dropped, one by one or all at once.
    pub fn drop_names(&self, names: impl IntoIterator<Item = (QueueState, MessageId)>) {
        let now = Instant::now();
        let mut queue = self.names.lock();
        let names = names.into_iter().map(|(state, id)| (now, state, id));
        queue.waiting.extend(names);
        let too_many = queue.waiting.len() > NAMES_MAX;
        drop(queue);
        match too_many {
            true => self.drop_all_names(),
            false => drop(self.named.notify_one()),
        }
    }

    /// Drops all names. Also to be done before a reply after which the kernel would take one for
    /// another.
    pub fn drop_all_names(&self) {
        *self.names.lock() = Names::default();
        if let Some(kernel) = self.invalidator.get() {
            kernel.all_names();
        }
    }

    /// Drops all names if one of them waits for too long: its directory is locked by an operation
    /// that waits for something itself.
    pub fn hurry_names(&self) {
        let oldest = self.names.lock().oldest();
        if oldest.is_some_and(|since| since.elapsed() >= NAME_WAITS) {
            self.drop_all_names();
        }
    }

    /// How long until [`hurry_names`](Self::hurry_names) has something to do, if any name waits.
    pub fn names_wait(&self) -> Option<Duration> {
        let oldest = self.names.lock().oldest();
        oldest.map(|since| NAME_WAITS.saturating_sub(since.elapsed()))
    }

    /// Drops the names that wait, one by one; waits up to `limit` for one.
    fn drop_waiting_names(&self, limit: Duration) {
        let until = Instant::now() + limit;
        loop {
            let mut queue = self.names.lock();
            queue.current = None;
            while queue.waiting.is_empty() {
                if self.named.wait_until(&mut queue, until).timed_out() {
                    return;
                }
            }
            let Some((since, state, id)) = queue.waiting.pop_front() else {
                continue;
            };
            queue.current = Some(since);
            drop(queue);
            if let Some(kernel) = self.invalidator.get() {
                kernel.name(dir(state), id.file_name().as_ref());
            }
        }
    }
}

/// The inode number of a state's directory.
pub(super) fn dir(state: QueueState) -> u64 {
    Fixed::Dir(Dir::State(state)).ino()
}

impl Spool {
    /// Sets for how long the kernel may remember, once, before the first request.
    pub fn set_validity(&self, validity: Validity) {
        let _ = self.cache.validity.set(validity);
    }

    /// For how long the kernel may remember at present what nobody changes.
    pub fn validity(&self) -> Validity {
        self.cache.allowed()
    }

    /// Sets who tells the kernel, once.
    pub fn set_invalidator(&self, invalidator: Box<dyn Invalidator>) {
        let _ = self.cache.invalidator.set(invalidator);
    }

    /// Drops names that others took away, and waits up to `limit` for more. To be called over and
    /// over from one thread of its own: it may have to wait for operations under way.
    pub fn drop_names(&self, limit: Duration) {
        self.cache.drop_waiting_names(limit);
    }
}
