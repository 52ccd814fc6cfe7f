//! Following the store's changes, by whomever: the kernel is told of each, and so is the reader of
//! `events`.
//!
//! Owns: the place in the feed; what follows from a change.
//! May fail: with the store's errors; until they pass the kernel remembers next to nothing.
//! Must not know: how a kernel is told.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::Spool;
use super::tree::{Dir, Fixed};
use crate::backend::{Change, Context, Error};
use crate::model::{MessageId, QueueState};
use crate::overview::{event_line, lost_line};

/// After how long a word is given again: replies that the first one met on their way to the kernel
/// have arrived, and there is time left to the 100 ms that are promised.
const AGAIN: Duration = Duration::from_millis(60);
/// Changes that are read at once.
const BATCH: usize = 2048;

/// Where the follower of the feed is.
#[derive(Default)]
pub struct Follower {
    cursor: Option<u64>,
    again: VecDeque<(Instant, Word)>,
}

impl Follower {
    /// Whether every word was given twice: nothing is left to be said of what was read so far.
    pub fn is_done(&self) -> bool {
        self.again.is_empty()
    }
}

/// What the kernel is told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Word {
    /// Everything may have changed.
    all: bool,
    /// Those of them that left their directories, and that the kernel did not take out itself.
    left: HashSet<MessageId>,
    /// The messages that changed.
    messages: HashSet<MessageId>,
    /// The states whose count or time changed.
    states: HashSet<QueueState>,
}

impl Word {
    fn all() -> Word {
        Word {
            all: true,
            ..Word::default()
        }
    }
}

impl Spool {
    /// Whether the store tells what other writers change.
    pub fn has_feed(&self) -> bool {
        self.store.change_feed().is_some()
    }

    /// Whether nobody changed the message lately, and no change waits to be followed.
    pub(super) fn is_settled(&self, id: &MessageId) -> bool {
        let feed = self.store.change_feed();
        let newest = feed.and_then(|feed| feed.newest(&self.patient()).ok());
        newest.is_some_and(|newest| self.cache.recent.is_settled(id, newest))
    }

    /// Waits up to `limit` for changes, tells the kernel, and publishes them. To be called over
    /// and over from one thread. An error is one of the store; until a call succeeds again, the
    /// kernel may remember names not at all and attributes for a second.
    pub fn follow(&self, follower: &mut Follower, limit: Duration) -> Result<(), Error> {
        let followed = self.follow_feed(follower, limit);
        if self.cache.set_blind(followed.is_err()) {
            self.give(follower, Word::all());
        }
        followed
    }

    fn follow_feed(&self, follower: &mut Follower, limit: Duration) -> Result<(), Error> {
        self.give_again(follower);
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
        self.cache.follow_to(found.cursor);
        let word = match found.lost {
            true => Word::all(),
            false => self.word_of(&found.changes),
        };
        let recent = &self.cache.recent;
        recent.note(word.messages.iter(), word.all, found.cursor);
        self.give(follower, word);
        for change in &found.changes {
            self.report.events.push(&event_line(change));
        }
        if found.lost {
            let line = lost_line("changes were missed; look at everything afresh");
            self.report.events.push(&line);
        }
        Ok(())
    }

    /// Gives a word for the first time.
    fn give(&self, follower: &mut Follower, word: Word) {
        if word == Word::default() {
            return;
        }
        self.cache.begin_word();
        self.tell(&word);
        follower.again.push_back((Instant::now() + AGAIN, word));
    }

    fn give_again(&self, follower: &mut Follower) {
        let now = Instant::now();
        while let Some((due, _)) = follower.again.front()
            && *due <= now
            && let Some((_, word)) = follower.again.pop_front()
        {
            self.tell(&word);
        }
    }

    fn word_of(&self, changes: &[Change]) -> Word {
        let mut word = Word::default();
        for change in changes {
            let left = change.from.is_some() && change.from != change.to;
            if left && !self.cache.own.take(&change.id, change.revision) {
                word.left.insert(change.id.clone());
            }
            word.messages.insert(change.id.clone());
            word.states.extend(change.from.into_iter().chain(change.to));
        }
        word
    }

    fn tell(&self, word: &Word) {
        if word.all {
            self.rendered.clear();
        }
        for id in &word.messages {
            // Also of one that the kernel does not know: it may come to know it again.
            self.rendered.forget(self.inodes.number(id));
        }
        let dir = |state| Fixed::Dir(Dir::State(state)).ino();
        // A name that the kernel does not hold costs the others nothing.
        if word.all || word.left.iter().any(|id| self.inodes.is_named(id)) {
            self.drop_all_names();
        }
        let (states, inodes): (Vec<QueueState>, Vec<u64>) = match word.all {
            true => (self.options.states().collect(), self.inodes.all()),
            false => {
                // What the kernel does not know, it need not forget.
                let known = word.messages.iter().filter_map(|id| self.inodes.known(id));
                (word.states.iter().copied().collect(), known.collect())
            }
        };
        let inodes = states.into_iter().map(dir).chain(inodes);
        inodes.for_each(|ino| {
            self.inodes.outdate(ino);
            self.cache.drop_attributes(ino);
        });
    }
}
