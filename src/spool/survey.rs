//! What can only be known by looking at every message: how many failed in which way, and how many
//! can't be read.
//!
//! Owns: a slow walk through all messages, a little each second, so that no reader of a metric
//! costs more than the numbers it gets. It goes on only while somebody reads them.
//! May fail: with the store's errors; the walk then begins anew the next time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{PATIENCE, Spool};
use crate::backend::{Context, Error};
use crate::model::{ErrorClass, MessageId, QueueState, Timestamp};

/// For how long a finished walk is young enough.
const FRESH: Duration = Duration::from_secs(60);
/// For how long after a reader came the walk goes on.
const WANTED: Duration = Duration::from_secs(600);
/// How long one step may take, of the second that it is made in.
const STEP: Duration = Duration::from_millis(50);
/// Messages that are read at once.
const BATCH: usize = 256;

/// What a walk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// When it ended.
    pub at: Timestamp,
    /// Messages by state and by how they failed.
    pub classes: BTreeMap<(QueueState, ErrorClass), u64>,
    /// Messages whose metadata can't be read.
    pub unreadable: u64,
}

#[derive(Default)]
pub struct Survey(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    wanted: Option<Instant>,
    found: Option<(Instant, Found)>,
    walk: Option<Walk>,
}

/// A walk under way.
#[derive(Default)]
struct Walk {
    states: Vec<QueueState>,
    after: Option<MessageId>,
    classes: BTreeMap<(QueueState, ErrorClass), u64>,
    unreadable: u64,
}

impl Survey {
    /// What the last walk found. Asking keeps the walk going.
    pub fn found(&self) -> Option<Found> {
        let mut inner = self.0.lock();
        inner.wanted = Some(Instant::now());
        inner.found.as_ref().map(|(_, found)| found.clone())
    }

    /// The walk to go on with, where one is wanted.
    fn take(&self, states: impl Iterator<Item = QueueState>) -> Option<Walk> {
        let mut inner = self.0.lock();
        let within = |since: Instant, limit| since.elapsed() < limit;
        let wanted = inner.wanted.is_some_and(|since| within(since, WANTED));
        let fresh = inner
            .found
            .as_ref()
            .is_some_and(|(at, _)| within(*at, FRESH));
        if !wanted || fresh {
            return None;
        }
        let walk = inner.walk.take();
        Some(walk.unwrap_or_else(|| Walk {
            states: states.collect(),
            ..Walk::default()
        }))
    }

    fn put(&self, walk: Walk) {
        let mut inner = self.0.lock();
        if walk.states.is_empty() {
            let found = Found {
                at: Timestamp::now(),
                classes: walk.classes,
                unreadable: walk.unreadable,
            };
            inner.found = Some((Instant::now(), found));
        } else {
            inner.walk = Some(walk);
        }
    }
}

impl Spool {
    /// Goes on with the walk for a moment. To be called about once a second, from one thread.
    pub(super) fn survey_a_little(&self) {
        let Some(mut walk) = self.survey.take(self.options.states()) else {
            return;
        };
        let begun = Instant::now();
        while let Some(state) = walk.states.last().copied()
            && begun.elapsed() < STEP
        {
            let ctx = Context::within(PATIENCE);
            let Ok(batch) = self
                .store
                .scan_stored(&ctx, state, walk.after.as_ref(), BATCH)
            else {
                return;
            };
            for (_, stored) in &batch {
                match stored {
                    Ok(stored) => {
                        let class = ErrorClass::of(&stored.metadata.last_error);
                        *walk.classes.entry((state, class)).or_default() += 1;
                    }
                    Err(Error::Corrupt(_)) => walk.unreadable += 1,
                    // It is not known what it is.
                    Err(_) => {}
                }
            }
            let ended = batch.len() < BATCH;
            walk.after = batch.into_iter().last().map(|(id, _)| id);
            if ended {
                walk.after = None;
                walk.states.pop();
            }
        }
        self.survey.put(walk);
    }
}
