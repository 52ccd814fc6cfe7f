//! The latest changes, as this process saw them: the feed's memory.
//!
//! Owns: their numbers, which begin with the time that the store was opened, so that a cursor of
//! an earlier life is never taken for one of this.
//! May fail: never.
//! Must not know: how a change was noticed.

use std::collections::VecDeque;

use crate::backend::{Change, Changes};
use crate::model::{MessageId, Timestamp};

/// How many changes are kept: some ten megabytes of them.
const KEPT: usize = 1 << 16;

/// The log.
#[derive(Debug)]
pub struct Log {
    /// Changes, each with the Updated that it ended.
    changes: VecDeque<(Change, Option<Timestamp>)>,
    /// The number of the first change that is kept, or would be.
    first: u64,
}

impl Log {
    /// An empty log.
    pub fn new() -> Log {
        let now = Timestamp::now();
        let micros = now.seconds().max(0) as u64 * 1_000_000 + u64::from(now.nanos() / 1000);
        Log {
            changes: VecDeque::new(),
            first: micros + 1,
        }
    }

    /// The number of the newest change.
    pub fn newest(&self) -> u64 {
        self.first + self.changes.len() as u64 - 1
    }

    /// Adds a change; its number is given here.
    pub fn push(&mut self, mut change: Change, before: Option<Timestamp>) {
        change.seq = self.newest() + 1;
        self.changes.push_back((change, before));
        if self.changes.len() > KEPT {
            self.changes.pop_front();
            self.first += 1;
        }
    }

    /// Changes were missed: every cursor so far has lost its place.
    pub fn reset(&mut self) {
        self.first = self.newest() + 2;
        self.changes.clear();
    }

    /// What follows the cursor.
    pub fn after(&self, cursor: u64, limit: usize) -> Changes {
        let newest = self.newest();
        if cursor + 1 < self.first || cursor > newest {
            return Changes {
                cursor: newest,
                lost: true,
                ..Changes::default()
            };
        }
        let skip = (cursor + 1 - self.first) as usize;
        let found = self.changes.iter().skip(skip).take(limit);
        let changes: Vec<Change> = found.map(|(change, _)| change.clone()).collect();
        Changes {
            cursor: cursor + changes.len() as u64,
            changes,
            lost: false,
        }
    }

    /// Whether a change made or ended that Updated of the message.
    pub fn knows(&self, id: &MessageId, updated: Timestamp) -> bool {
        self.changes.iter().any(|(change, before)| {
            change.id == *id && (change.revision.updated == updated || *before == Some(updated))
        })
    }
}
