//! What the kernel may remember, and how it is told to forget.
//!
//! Owns: for how long names and attributes are valid.
//! May fail: never; a kernel that can't be told remembers less.
//! Must not know: how a kernel is told ([`Invalidator`]), who changes what (see
//! [`follow`](super::follow)).
//!
//! Names are dropped all at once, by the epoch, and never one by one: to drop one name the kernel
//! waits for its directory's lock, whose holder waits for this process. If this process is killed
//! in between, that wait keeps the connection alive with nobody to serve it, and everybody who
//! uses the mount hangs until it is aborted by hand. A name that is asked for again costs its
//! reader one request; so they are dropped only if the kernel asked for one that is no more, since
//! they were dropped last. (An answer to what it asked before that it does not remember.)
//!
//! Three things keep a change from being overtaken by a reply that was read before it:
//! - what was read before the latest word is not to be remembered ([`Cache::validity`]); for that
//!   an inode is counted as known before that is asked, and mostly before the store is read;
//! - a reply that was judged just before a word may reach the kernel just after it, so each word
//!   is given again a moment later;
//! - should the kernel be slower still, what is remembered ends after [`VALID`].

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Spool;
use super::recent::Recent;
use crate::model::{MessageId, Revision};

/// How long the kernel may remember what nobody changes, where it is told of changes. The limit
/// costs one request a minute for each file that is looked at all the time.
pub const VALID: Duration = Duration::from_secs(60);
/// How long it may remember attributes where it can't be told.
pub const UNTOLD: Duration = Duration::from_secs(1);
/// How many of the kernel's own moves are kept in mind.
const OWN_MAX: usize = 2048;

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
    /// Up to where changes were read, and when they were last asked for.
    followed: Mutex<Option<(u64, Instant)>>,
    /// What the kernel itself took out of a directory, and needs no word of.
    pub own: OwnMoves,
    pub recent: Recent,
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
        if moves.len() >= OWN_MAX {
            moves.clear();
        }
        moves.insert(id.clone(), revision);
    }

    /// Whether this change is one of them; it is asked for once.
    pub fn take(&self, id: &MessageId, revision: Revision) -> bool {
        let mut moves = self.0.lock();
        let is_own = moves.get(id) == Some(&revision);
        if is_own {
            moves.remove(id);
        }
        is_own
    }
}

impl Cache {
    /// To be asked for before the store is read.
    pub fn reading(&self) -> ReadAt {
        ReadAt(self.words.load(Relaxed))
    }

    /// For how long what was read then may be remembered, to be asked for after the inode was
    /// counted as known: what changes from here on the kernel is told of.
    pub fn validity(&self, read: ReadAt) -> Validity {
        if read != self.reading() {
            return Validity::default();
        }
        self.allowed()
    }

    /// What holds at present for what nobody changes. Until it is set, nothing may be remembered.
    pub fn allowed(&self) -> Validity {
        let set = self.validity.get().copied().unwrap_or_default();
        match self.blind.load(Relaxed) {
            true => Validity {
                names: Duration::ZERO,
                attributes: set.attributes.min(UNTOLD),
            },
            false => set,
        }
    }

    /// Changes were read up to there.
    pub fn follow_to(&self, cursor: u64) {
        *self.followed.lock() = Some((cursor, Instant::now()));
    }

    /// Up to where changes were read, and when they were last asked for with success.
    pub fn followed(&self) -> Option<(u64, Instant)> {
        *self.followed.lock()
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
}

impl Spool {
    /// Sets for how long the kernel may remember, once, before the first request.
    pub fn set_validity(&self, validity: Validity) {
        let _ = self.cache.validity.set(validity);
    }

    /// For how long the kernel may remember, at present, what nobody changes.
    pub fn validity(&self) -> Validity {
        self.cache.allowed()
    }

    /// Drops all names. Also to be done before a reply after which the kernel would take one for
    /// another.
    pub(super) fn drop_all_names(&self) {
        self.inodes.unname_all();
        if let Some(kernel) = self.cache.invalidator.get() {
            kernel.all_names();
        }
    }

    /// Sets who tells the kernel, once.
    pub fn set_invalidator(&self, invalidator: Box<dyn Invalidator>) {
        let _ = self.cache.invalidator.set(invalidator);
    }
}
