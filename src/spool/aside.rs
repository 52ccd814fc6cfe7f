//! Messages set aside: what editors mean when they rename a file to a backup's name.
//!
//! After `A/x.json` was renamed to a scratch name, the message is untouched, listed and visible;
//! only to the process that renamed it does the name look free, until that process creates it
//! (which is an update then), renames onto it, or [`PERIOD`] has passed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::caller::{Caller, Process};
use crate::model::{MessageId, QueueState, Revision};

/// For how long a name looks free.
pub const PERIOD: Duration = Duration::from_secs(10);

/// The messages that are set aside.
#[derive(Default)]
pub struct Asides {
    table: Mutex<HashMap<(QueueState, MessageId), Aside>>,
}

#[derive(Clone, Debug)]
struct Aside {
    process: Process,
    since: Instant,
    /// The revision that was copied, and that an update has to be of.
    revision: Revision,
    /// The name of the copy.
    copy: String,
    /// The process has created the name again: it is no longer free, unless that is refused.
    created: bool,
}

impl Asides {
    /// The caller's process copied the message to the scratch name `copy`.
    pub fn set(
        &self,
        state: QueueState,
        id: &MessageId,
        process: Process,
        revision: Revision,
        copy: String,
    ) {
        let aside = Aside {
            process,
            since: Instant::now(),
            revision,
            copy,
            created: false,
        };
        self.table.lock().insert((state, id.clone()), aside);
    }

    /// Whether the name looks free to the caller.
    pub fn hides(&self, state: QueueState, id: &MessageId, caller: &Caller) -> bool {
        self.find(state, id, caller)
            .is_some_and(|aside| !aside.created)
    }

    /// Whether the name means one thing to one process and another to all others: nobody may
    /// remember it then.
    pub fn is_aside(&self, state: QueueState, id: &MessageId) -> bool {
        let table = self.table.lock();
        !table.is_empty() && table.contains_key(&(state, id.clone()))
    }

    /// The caller creates the name: the revision that it updates. The name is not free any more.
    pub fn create(&self, state: QueueState, id: &MessageId, caller: &Caller) -> Option<Revision> {
        let aside = self
            .find(state, id, caller)
            .filter(|aside| !aside.created)?;
        if let Some(aside) = self.table.lock().get_mut(&(state, id.clone())) {
            aside.created = true;
        }
        Some(aside.revision)
    }

    /// What was created was refused: the name looks free again.
    pub fn refused(&self, state: QueueState, id: &MessageId, process: Process) {
        let mut table = self.table.lock();
        if let Some(aside) = table.get_mut(&(state, id.clone())) {
            if aside.process == process {
                aside.created = false;
            }
        }
    }

    /// What was created was committed, or the message is no longer there: nothing is set aside.
    pub fn end(&self, state: QueueState, id: &MessageId) {
        self.table.lock().remove(&(state, id.clone()));
    }

    /// Whether anything is set aside: where not, nobody needs to know who asks.
    fn find(&self, state: QueueState, id: &MessageId, caller: &Caller) -> Option<Aside> {
        let aside = {
            let table = self.table.lock();
            if table.is_empty() {
                return None;
            }
            table.get(&(state, id.clone()))?.clone()
        };
        (aside.since.elapsed() < PERIOD && aside.process == caller.process()).then_some(aside)
    }

    /// Forgets what is over, and gives a line for each message whose process never came back for
    /// it: an operator may have meant to hide it.
    pub fn expired(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.table.lock().retain(|(state, id), aside| {
            if aside.since.elapsed() < PERIOD {
                return true;
            }
            let (name, copy) = (id.file_name(), &aside.copy);
            lines.push(format!(
                "rename {state}/{name}: copied to {copy}; still queued"
            ));
            false
        });
        lines
    }
}
