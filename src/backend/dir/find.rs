//! Where a message is, by looking.
//!
//! Owns: what counts as the message when it is in two states (the newer Updated; RetrySpool's way
//! to move writes the new file before it removes the old one, so for a moment each move looks so).
//! May fail: as reading does.
//! Must not know: what is done about it.

use nix::sys::stat::FileStat;

use super::file::{self, Found, Look};
use super::place::Place;
use crate::backend::Result;
use crate::model::{MessageId, QueueState};

/// What the directories have under a message's name.
#[derive(Debug, Default)]
pub struct Everywhere {
    /// The message.
    pub best: Option<Found>,
    /// Older copies of it in other states.
    pub doubles: Vec<QueueState>,
    /// Files of that name that are no message, and why.
    pub foreign: Vec<(QueueState, String)>,
}

impl Everywhere {
    /// The message's state.
    pub fn state(&self) -> Option<QueueState> {
        self.best.as_ref().map(|found| found.stored.metadata.state)
    }
}

/// What stat(2) tells of a message's name in each state.
pub fn stats(place: &Place, name: &str) -> Result<Vec<(QueueState, FileStat)>> {
    let mut stats = Vec::with_capacity(1);
    // It may have moved from a state not looked at yet to one already passed: nothing found
    // counts when it is nothing twice.
    for _ in 0..2 {
        for dir in place.states() {
            if let Some(stat) = file::stat(dir, name)? {
                stats.push((dir.state, stat));
            }
        }
        if !stats.is_empty() {
            break;
        }
    }
    Ok(stats)
}

/// Looks in all states.
pub fn everywhere(place: &Place, id: &MessageId, name: &str) -> Result<Everywhere> {
    let mut seen = Everywhere::default();
    // A few times, while it goes on between a look at its name and the reading of it.
    for _ in 0..4 {
        seen = Everywhere::default();
        let stats = stats(place, name)?;
        let mut went = false;
        for (state, _) in stats {
            let Some(dir) = place.state(state) else {
                continue;
            };
            match file::read(dir, name, id)? {
                Look::Absent => went = true,
                Look::Foreign(why) => seen.foreign.push((state, why)),
                Look::Message(found) => seen.add(*found),
            }
        }
        if seen.best.is_some() || !went {
            break;
        }
    }
    Ok(seen)
}

impl Everywhere {
    fn add(&mut self, found: Found) {
        let rank = |f: &Found| {
            let s = &f.stat;
            (f.stored.metadata.updated, s.st_ctime, s.st_ctime_nsec)
        };
        let other = match self.best.take() {
            None => {
                self.best = Some(found);
                return;
            }
            Some(best) if rank(&best) >= rank(&found) => {
                self.best = Some(best);
                found
            }
            Some(best) => {
                self.best = Some(found);
                best
            }
        };
        self.doubles.push(other.stored.metadata.state);
    }
}
