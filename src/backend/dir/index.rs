//! What is known of each state's messages without looking: their IDs in order, and what listings
//! sort and filter by.
//!
//! Owns: some 135 bytes for each message with an ID of 36 bytes (`cargo bench --bench directory`
//! measures it): an entry of a B-tree, and the ID. 200 are the limit.
//! May fail: never.
//! Must not know: files. It is right as far as it was told, and nothing is done because of it:
//! each action looks at the directory itself.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::backend::{Ages, StateInfo};
use crate::model::{
    MessageId, MessageListOptions, MessageListResult, QueueState, SortBy, SortOrder, Stored,
    Timestamp,
};

/// A time in twelve bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packed {
    /// Seconds since 1970, divided by 2^32, and the rest.
    high: i32,
    low: u32,
    nanos: u32,
}

impl From<Timestamp> for Packed {
    fn from(time: Timestamp) -> Packed {
        Packed {
            high: (time.seconds() >> 32) as i32,
            low: time.seconds() as u32,
            nanos: time.nanos(),
        }
    }
}

impl From<Packed> for Timestamp {
    fn from(packed: Packed) -> Timestamp {
        let seconds = (i64::from(packed.high) << 32) | i64::from(packed.low);
        Timestamp::new(seconds, packed.nanos).unwrap_or_default()
    }
}

fn to_the_second(time: Packed) -> Option<Timestamp> {
    Timestamp::new(Timestamp::from(time).seconds(), 0)
}

impl Packed {
    /// In an order with numbers of other fields.
    fn key(self) -> i128 {
        let time = Timestamp::from(self);
        i128::from(time.seconds()) * 1_000_000_000 + i128::from(time.nanos())
    }
}

/// What is kept of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    created: Packed,
    updated: Packed,
    next_retry: Packed,
    priority: i64,
    attempts: i64,
    /// The file's mark.
    pub mark: u64,
}

impl Entry {
    /// Of a message that was read.
    pub fn of(stored: &Stored) -> Entry {
        let m = &stored.metadata;
        Entry {
            created: m.created.into(),
            updated: m.updated.into(),
            next_retry: m.next_retry.into(),
            priority: m.priority,
            attempts: m.attempts,
            mark: stored.revision.tag,
        }
    }

    /// Its Updated.
    pub fn updated(&self) -> Timestamp {
        self.updated.into()
    }
}

/// All messages.
#[derive(Debug, Default)]
pub struct Index {
    states: [BTreeMap<MessageId, Entry>; 6],
    changed: [Timestamp; 6],
}

fn at(state: QueueState) -> usize {
    usize::from(state.number())
}

impl Index {
    /// A state's messages, all at once and sorted, and when the state changed last.
    pub fn fill(
        &mut self,
        state: QueueState,
        messages: Vec<(MessageId, Entry)>,
        changed: Timestamp,
    ) {
        self.states[at(state)] = messages.into_iter().collect();
        self.changed[at(state)] = changed;
    }

    /// Where the message is.
    pub fn find(&self, id: &MessageId) -> Option<(QueueState, Entry)> {
        let mut states = QueueState::ALL.into_iter();
        states.find_map(|state| Some((state, *self.states[at(state)].get(id)?)))
    }

    /// The message is there now, or nowhere; gives where it was.
    pub fn put(
        &mut self,
        id: &MessageId,
        now: Option<(QueueState, Entry)>,
        time: Timestamp,
    ) -> Option<(QueueState, Entry)> {
        let before = self.find(id);
        if let Some((state, _)) = before.filter(|(s, _)| now.is_none_or(|(now, _)| now != *s)) {
            self.states[at(state)].remove(id);
            self.changed[at(state)] = time;
        }
        if let Some((state, entry)) = now {
            match self.states[at(state)].get_mut(id) {
                Some(place) => *place = entry,
                None => drop(self.states[at(state)].insert(id.clone(), entry)),
            }
            self.changed[at(state)] = time;
        }
        before
    }

    /// The IDs of a state after a cursor, in order.
    pub fn after<'a>(
        &'a self,
        state: QueueState,
        after: Option<&MessageId>,
    ) -> impl Iterator<Item = (&'a MessageId, &'a Entry)> + use<'a> {
        let start = match after {
            Some(after) => Bound::Excluded(after.clone()),
            None => Bound::Unbounded,
        };
        self.states[at(state)].range((start, Bound::Unbounded))
    }

    /// A state's count and last change.
    pub fn info(&self, state: QueueState) -> StateInfo {
        StateInfo {
            count: self.states[at(state)].len() as u64,
            changed: self.changed[at(state)],
        }
    }

    /// A state's oldest message and next retry.
    pub fn ages(&self, state: QueueState) -> Ages {
        let entries = || self.states[at(state)].values();
        let never = Packed::from(Timestamp::ZERO);
        let waits = |_: &Packed| state == QueueState::Deferred;
        let due = entries().map(|e| e.next_retry).filter(waits);
        Ages {
            oldest: entries().map(|e| e.created).min().and_then(to_the_second),
            next_due: due.filter(|due| *due > never).min().and_then(to_the_second),
        }
    }

    /// A page of a listing.
    pub fn list(&self, state: QueueState, options: &MessageListOptions) -> MessageListResult {
        let all = &self.states[at(state)];
        let since = options.since.map(Packed::from);
        let matches =
            |e: &Entry| since.is_none_or(|since| e.created >= since || e.updated >= since);
        let total = match since {
            None => all.len(),
            Some(_) => all.values().filter(|e| matches(e)).count(),
        };
        let start = usize::try_from(options.offset).map_or(total, |offset| offset.min(total));
        let limit = options
            .limit
            .map_or(total, |l| usize::try_from(l).unwrap_or(total));
        let end = start.saturating_add(limit).min(total);
        let matching = || all.iter().filter(|(_, e)| matches(e));
        let key: fn(&Entry) -> i128 = match options.sort_by {
            SortBy::Id => {
                let page = |ids: &mut dyn Iterator<Item = &MessageId>| {
                    ids.skip(start).take(end - start).cloned().collect()
                };
                let message_ids = match options.sort_order {
                    SortOrder::Asc => page(&mut matching().map(|(id, _)| id)),
                    SortOrder::Desc => page(&mut matching().rev().map(|(id, _)| id)),
                };
                return MessageListResult {
                    message_ids,
                    total: total as u64,
                    has_more: end < total,
                };
            }
            SortBy::Created => |e| e.created.key(),
            SortBy::Updated => |e| e.updated.key(),
            SortBy::Priority => |e| e.priority.into(),
            SortBy::Attempts => |e| e.attempts.into(),
        };
        let message_ids = match start < end {
            true => page(
                matching().map(|(id, e)| (key(e), id)).collect(),
                start..end,
                options,
            ),
            false => Vec::new(),
        };
        MessageListResult {
            message_ids,
            total: total as u64,
            has_more: end < total,
        }
    }
}

/// The page of a listing by a key: what lies before and after it is set apart, and only the page
/// is sorted.
fn page(
    mut all: Vec<(i128, &MessageId)>,
    range: std::ops::Range<usize>,
    options: &MessageListOptions,
) -> Vec<MessageId> {
    let order = |a: &(i128, &MessageId), b: &(i128, &MessageId)| match options.sort_order {
        SortOrder::Asc => a.cmp(b),
        SortOrder::Desc => b.cmp(a),
    };
    if range.start > 0 {
        all.select_nth_unstable_by(range.start, order);
    }
    let rest = &mut all[range.start..];
    if range.len() < rest.len() {
        rest.select_nth_unstable_by(range.len(), order);
    }
    let page = &mut rest[..range.len()];
    page.sort_unstable_by(order);
    page.iter().map(|(_, id)| (*id).clone()).collect()
}
