//! One store made like another, while that one is in use.
//!
//! Owns: the order of the passes, and what becomes of a message that the two have differently.
//!
//! The first pass copies, the second reads everything back and compares it, and what anybody changed
//! on either side since that began comes from their feeds; where the source has no feed, passes are
//! made until one finds nothing. Every pass does the same: it makes a range of the target like the
//! source's. So a copy that was killed goes on by being begun again.

use std::collections::{BTreeMap, BTreeSet};

use super::{STEP, Watch, ctx};
use crate::backend::{Backend, ChangeFeed, Error, Result};
use crate::model::{MessageId, MessageMetadata, QueueState, Stored};

/// What a copy did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Messages that the target did not have.
    pub copied: u64,
    /// Messages that were there, and the same.
    pub same: u64,
    /// Messages that were brought up to date.
    pub updated: u64,
    /// Messages that the source no longer has, removed from the target.
    pub removed: u64,
    /// Messages that were not taken.
    pub refused: u64,
    /// Messages that were read back and compared since the last one was copied.
    pub verified: u64,
    /// Whether it was ended before its end.
    pub interrupted: bool,
}

/// Passes without a feed, and rounds with one, before a source is called too busy.
const PASSES: u32 = 10;

/// How often a message is tried that is changed at the same time.
const TRIES: u32 = 10;

/// Makes `to` like `from`. `owned` says that the target holds nothing but what an earlier copy of
/// the same source put there: then the source decides of every message, and what it no longer has
/// is removed. Otherwise a message of the target that is no older stays as it is, and is told of if
/// the source has it differently.
pub fn copy(
    from: &dyn Backend,
    to: &dyn Backend,
    owned: bool,
    watch: &mut Watch<'_>,
) -> Result<Copied> {
    let mut copy = Copy {
        from,
        to,
        owned,
        watch,
        done: Copied::default(),
        refused: BTreeSet::new(),
    };
    copy.pass()?;
    copy.done.same = 0;
    let mut feeds = Vec::new();
    for (side, store) in [("the source", from), ("the target", to)] {
        if let Some(feed) = store.change_feed() {
            let cursor = feed.newest(&ctx())?;
            feeds.push(Followed { side, feed, cursor });
        }
    }
    let mut pass = 0;
    while copy.goes_on() && copy.pass()? && from.change_feed().is_none() {
        pass += 1;
        if pass == PASSES {
            copy.too_busy("the source");
            break;
        }
    }
    copy.follow(feeds)?;
    to.sync(&ctx())?;
    copy.done.refused += copy.refused.len() as u64;
    Ok(copy.done)
}

/// A side's changes, as far as they are known.
struct Followed<'a> {
    side: &'static str,
    feed: &'a dyn ChangeFeed,
    cursor: u64,
}

struct Copy<'a, 'w> {
    from: &'a dyn Backend,
    to: &'a dyn Backend,
    owned: bool,
    watch: &'a mut Watch<'w>,
    done: Copied,
    /// Messages that were told of, once each.
    refused: BTreeSet<MessageId>,
}

impl Copy<'_, '_> {
    fn goes_on(&mut self) -> bool {
        let going = (self.watch.going)();
        self.done.interrupted |= !going;
        going
    }

    fn refuse(&mut self, id: &MessageId, why: &str) {
        if self.refused.insert(id.clone()) {
            (self.watch.trouble)(&format!("{id}"), why);
        }
    }

    fn too_busy(&mut self, side: &str) {
        self.done.refused += 1;
        let why = "it changes faster than it is copied: stop what writes to it, and copy again";
        (self.watch.trouble)(side, why);
    }

    /// Goes after what was changed since the cursors, up to now: rounds, each to the ends that the
    /// logs have when it comes to them, until one is short.
    fn follow(&mut self, mut feeds: Vec<Followed<'_>>) -> Result<()> {
        let mut busy = None;
        for _ in 0..PASSES {
            busy = None;
            for Followed { side, feed, cursor } in &mut feeds {
                let (start, end) = (*cursor, feed.newest(&ctx())?);
                while *cursor < end {
                    if !self.goes_on() {
                        return Ok(());
                    }
                    let found = feed.changes(&ctx(), *cursor, STEP)?;
                    *cursor = found.cursor;
                    if found.lost {
                        self.pass()?;
                    }
                    let ids: BTreeSet<MessageId> =
                        found.changes.into_iter().map(|c| c.id).collect();
                    ids.iter().try_for_each(|id| self.one(id))?;
                }
                if end.saturating_sub(start) >= STEP as u64 {
                    busy = Some(*side);
                }
            }
            if busy.is_none() {
                return Ok(());
            }
        }
        if let Some(side) = busy {
            self.too_busy(side);
        }
        Ok(())
    }

    /// Goes through all states once; whether anything was to be done.
    fn pass(&mut self) -> Result<bool> {
        let before = self.done;
        let mut seen = 0;
        self.done.verified = 0;
        for state in QueueState::ALL {
            let mut after = None;
            loop {
                if !self.goes_on() {
                    return Ok(false);
                }
                let (next, count) = self.page(state, after.as_ref())?;
                seen += count;
                (self.watch.done)(seen);
                match next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        let now = self.done;
        Ok((now.copied, now.updated, now.removed)
            != (before.copied, before.updated, before.removed))
    }

    /// Makes one range of IDs of a state like the source's. Gives its end, and how many messages
    /// the source has in it.
    fn page(
        &mut self,
        state: QueueState,
        after: Option<&MessageId>,
    ) -> Result<(Option<MessageId>, u64)> {
        let source = self.from.scan_stored(&ctx(), state, after, STEP)?;
        let count = source.len() as u64;
        let end = match source.last() {
            Some((last, _)) if source.len() == STEP => Some(last.clone()),
            _ => None,
        };
        let mut target = self.target(state, after, end.as_ref())?;
        let (mut new, mut odd) = (Vec::new(), Vec::new());
        for (id, stored) in source {
            match (stored, target.remove(&id)) {
                (Err(error), _) => self.refuse(&id, &error.to_string()),
                (Ok(stored), None) => new.push(stored.metadata),
                (Ok(stored), Some(Ok(there))) if there.metadata == stored.metadata => {
                    self.done.same += 1;
                    self.done.verified += 1;
                }
                (Ok(_), Some(_)) => odd.push(id),
            }
        }
        odd.extend(target.into_keys());
        self.insert(new, &mut odd)?;
        odd.iter().try_for_each(|id| self.one(id))?;
        Ok((end, count))
    }

    /// What the target has in that range.
    fn target(
        &self,
        state: QueueState,
        after: Option<&MessageId>,
        end: Option<&MessageId>,
    ) -> Result<BTreeMap<MessageId, Result<Stored>>> {
        let mut found = BTreeMap::new();
        let mut after = after.cloned();
        loop {
            let page = self.to.scan_stored(&ctx(), state, after.as_ref(), STEP)?;
            let is_last = page.len() < STEP;
            let within = |id: &MessageId| end.is_none_or(|end| id <= end);
            let passed = page.last().is_none_or(|(id, _)| !within(id));
            after = page.last().map(|(id, _)| id.clone());
            found.extend(page.into_iter().filter(|(id, _)| within(id)));
            if is_last || passed {
                return Ok(found);
            }
        }
    }

    /// Puts new messages into the target; IDs that are in use there become odd ones.
    fn insert(&mut self, new: Vec<MessageMetadata>, odd: &mut Vec<MessageId>) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let answers = self.to.insert_all(&self.watch.ctx(), &new);
        for (metadata, answer) in new.into_iter().zip(answers) {
            match answer {
                Ok(_) => self.done.copied += 1,
                Err(Error::AlreadyExists { .. }) => odd.push(metadata.id),
                Err(error) if !error.is_of_the_store() => {
                    self.refuse(&metadata.id, &error.to_string())
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes one message of the target what it is in the source, and looks again whether it is.
    fn one(&mut self, id: &MessageId) -> Result<()> {
        for attempt in 0..TRIES {
            match self.step(id, attempt) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // Somebody was faster, or it was not there in the state it was in before.
                Err(
                    Error::AlreadyExists { .. }
                    | Error::NotFound
                    | Error::StateConflict { .. }
                    | Error::StaleRevision { .. },
                ) => {}
                Err(error) if !error.is_of_the_store() => {
                    self.refuse(id, &error.to_string());
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.refuse(id, "it changes faster than it is copied");
        Ok(())
    }

    /// One try; whether both sides are alike now.
    fn step(&mut self, id: &MessageId, attempt: u32) -> Result<bool> {
        let source = self.from.get(&ctx(), id)?;
        let target = self.to.get(&ctx(), id)?;
        match (source, target) {
            (None, None) => Ok(true),
            (Some(source), None) => {
                self.to.insert(&self.watch.ctx(), &source.metadata)?;
                self.done.copied += 1;
                Ok(false)
            }
            (None, Some(_)) if !self.owned => Ok(true),
            (None, Some(target)) => {
                let state = target.metadata.state;
                self.to
                    .remove(&self.watch.ctx(), id, state, Some(target.revision))?;
                self.done.removed += 1;
                Ok(false)
            }
            (Some(source), Some(target)) => self.both(&source, &target, attempt),
        }
    }

    fn both(&mut self, source: &Stored, target: &Stored, attempt: u32) -> Result<bool> {
        let (new, old) = (&source.metadata, &target.metadata);
        if new == old {
            self.done.verified += 1;
            return Ok(true);
        }
        if new.updated > old.updated {
            self.to
                .replace(&self.watch.ctx(), old.state, target.revision, new)?;
            self.done.updated += 1;
            return Ok(false);
        }
        if !self.owned {
            let why = "the target has another message of this ID, which is no older; it was kept";
            self.refuse(&new.id, why);
            return Ok(true);
        }
        // The source's clock was set back. A store's revisions only grow, but a new life begins
        // anew; where not even that helps, all the rest has to be the same.
        let rest = MessageMetadata {
            updated: old.updated,
            ..new.clone()
        };
        if attempt > 1 && rest == *old {
            return Ok(true);
        }
        self.to
            .remove(&self.watch.ctx(), &new.id, old.state, Some(target.revision))?;
        self.to.insert(&self.watch.ctx(), new)?;
        self.done.updated += 1;
        Ok(false)
    }
}
