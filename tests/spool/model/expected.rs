//! What the store must hold, and what is known of handles and names: plain maps, and the rules
//! that decide.

use std::collections::BTreeMap;

use retryspoolfs::spool::Errno::{self, EEXIST, ESTALE};
use retryspoolfs::{QueueState, Timestamp};

/// A message as it must be stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message {
    pub state: QueueState,
    pub priority: i64,
    pub attempts: i64,
    pub created: Timestamp,
    pub updated: Timestamp,
}

/// A legal document: the keys that it gives.
#[derive(Clone, Copy, Debug)]
pub struct Doc {
    pub priority: Option<i64>,
    pub attempts: Option<i64>,
    pub created: Option<Timestamp>,
    pub updated: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
pub enum Content {
    Empty,
    Incomplete,
    Hopeless,
    Legal(Doc),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Opened {
    Not,
    Absent,
    NotHere,
    At(Timestamp),
}

pub struct Handle {
    pub fh: u64,
    pub writes: bool,
    pub id: usize,
    pub state: QueueState,
    pub opener: usize,
    pub opened: Opened,
    pub content: Content,
    /// What it reads.
    pub bytes: Vec<u8>,
    pub changed: bool,
    pub refused: Option<Errno>,
    pub incomplete: bool,
    pub reported: bool,
    pub uncommitted: bool,
    pub dropped: bool,
    /// What its process removed before it created the name.
    pub replaces: Option<Removed>,
}

/// What a process removed.
#[derive(Clone, Copy)]
pub struct Removed {
    pub message: Message,
    /// How often a message of that ID had been stored or changed by then.
    pub stored: usize,
}

pub struct Aside {
    pub process: usize,
    pub revision: Timestamp,
    /// The handle that created the name again.
    pub created: Option<u64>,
}

#[derive(Clone, Copy)]
pub struct Own {
    pub process: usize,
    pub made: Timestamp,
    pub copy: Timestamp,
}

#[derive(Default)]
pub struct Model {
    pub messages: BTreeMap<usize, Message>,
    /// All Updated of a message's life.
    pub revisions: BTreeMap<usize, Vec<Timestamp>>,
    pub own: BTreeMap<usize, Own>,
    pub asides: BTreeMap<(u8, usize), Aside>,
    /// What was removed, and the process that did it last.
    pub removed: BTreeMap<usize, (usize, Removed)>,
    /// How often a message was stored or changed, by anybody.
    pub stored: BTreeMap<usize, usize>,
    pub scratches: BTreeMap<usize, (usize, Content)>,
    pub handles: Vec<Handle>,
    /// Lines in `errors`.
    pub lines: usize,
    /// The last rename that was refused with ESTALE, which the kernel sends twice.
    pub stale: Option<(usize, usize, usize, QueueState, Timestamp)>,
}

/// What a commit must do.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    Nothing,
    Store,
    Refuse(Errno),
}

impl Model {
    /// SPEC's table of the Updated rule.
    pub fn decide(
        &self,
        id: usize,
        state: QueueState,
        doc: &Doc,
        opened: Opened,
        by: usize,
    ) -> Verdict {
        let Some(stored) = self.messages.get(&id) else {
            return match opened {
                Opened::At(_) => Verdict::Refuse(ESTALE),
                _ => Verdict::Store,
            };
        };
        if opened == Opened::NotHere && stored.state == state {
            return Verdict::Refuse(EEXIST);
        }
        let same = |given: Option<i64>, stored| given.is_none_or(|given| given == stored);
        let same_rest = stored.state == state
            && same(doc.priority, stored.priority)
            && same(doc.attempts, stored.attempts)
            && doc.created.is_none_or(|given| given == stored.created);
        if same_rest && doc.updated.is_none_or(|given| given <= stored.updated) {
            return Verdict::Nothing;
        }
        match opened {
            Opened::Absent => return Verdict::Refuse(EEXIST),
            Opened::At(seen) if seen != stored.updated => return Verdict::Refuse(ESTALE),
            _ => {}
        }
        let is_own = |given| {
            let own = self.own.get(&id).filter(|own| own.process == by);
            own.is_some_and(|own| own.made == stored.updated && own.copy <= given)
        };
        match doc.updated {
            Some(given) if given < stored.updated && !is_own(given) => Verdict::Refuse(ESTALE),
            _ => Verdict::Store,
        }
    }

    pub fn hides(&self, id: usize, state: QueueState, process: usize) -> bool {
        let aside = self.asides.get(&(state.number(), id));
        aside.is_some_and(|aside| aside.process == process && aside.created.is_none())
    }

    /// The name that a handle created looks free again, unless it was created anew since.
    pub fn free_again(&mut self, at: usize) {
        let h = &self.handles[at];
        let (key, fh) = ((h.state.number(), h.id), h.fh);
        if let Some(aside) = self.asides.get_mut(&key)
            && aside.created == Some(fh)
        {
            aside.created = None;
        }
    }

    /// What the process removed under that ID, for whoever writes it now.
    pub fn take_removed(&mut self, id: usize, process: usize) -> Option<Removed> {
        let (by, removed) = *self.removed.get(&id)?;
        (by == process).then(|| self.removed.remove(&id))?;
        Some(removed)
    }

    pub fn own_writer(
        &self,
        id: usize,
        state: QueueState,
        process: usize,
        wanted: impl Fn(&Handle) -> bool,
    ) -> Option<usize> {
        self.handles.iter().rposition(|h| {
            h.writes && h.id == id && h.opener == process && h.state == state && wanted(h)
        })
    }

    pub fn sees(&self, id: usize, state: QueueState, process: usize) -> bool {
        let stored = self.messages.get(&id).is_some_and(|m| m.state == state);
        stored && !self.hides(id, state, process)
            || self
                .own_writer(id, state, process, |h| !h.dropped)
                .is_some()
    }
}
