//! Messages set aside: what editors mean when they rename a file to a backup's name.
//!
//! After `A/x.json` was renamed to a scratch name, the message is untouched, listed and visible;
//! only to the process that renamed it does the name look free, until that process creates it
//! (which is an update then), renames onto it, or [`PERIOD`] has passed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::caller::{Caller, Process};
use super::handle::Writer;
use crate::model::{MessageId, QueueState, Revision};

/// For how long a name looks free.
pub const PERIOD: Duration = Duration::from_secs(10);

/// The messages that are set aside.
#[derive(Default)]
pub struct Asides {
    table: Mutex<HashMap<(QueueState, MessageId), Aside>>,
    creations: AtomicU64,
}

/// One creation of a name that looked free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creation(u64);

#[derive(Clone, Debug)]
struct Aside {
    process: Process,
    since: Instant,
    /// The revision that was copied, and that an update has to be of.
    revision: Revision,
    /// The name of the copy.
    copy: String,
    /// The process has created the name again: it is no longer free, unless that is refused.
    created: Option<Creation>,
}

impl Asides {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.table.lock().len()
    }

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
            created: None,
        };
        self.table.lock().insert((state, id.clone()), aside);
    }

    /// Whether the name looks free to the caller.
    pub fn hides(&self, state: QueueState, id: &MessageId, caller: &Caller) -> bool {
        self.find(state, id, caller)
            .is_some_and(|aside| aside.created.is_none())
    }

    /// Whether the name means one thing to one process and another to all others: nobody may
    /// remember it then.
    pub fn is_aside(&self, state: QueueState, id: &MessageId) -> bool {
        let table = self.table.lock();
        !table.is_empty() && table.contains_key(&(state, id.clone()))
    }

    /// The caller creates the name: the revision that it updates. The name is not free any more.
    pub fn create(
        &self,
        state: QueueState,
        id: &MessageId,
        caller: &Caller,
    ) -> Option<(Revision, Creation)> {
        let aside = self
            .find(state, id, caller)
            .filter(|aside| aside.created.is_none())?;
        let creation = Creation(self.creations.fetch_add(1, Ordering::Relaxed));
        self.change(state, id, aside.process, |aside| {
            aside.created = Some(creation);
        });
        Some((aside.revision, creation))
    }

    /// What was created was refused: the name looks free again, from now on for as long as
    /// before, so that the editor can put its backup back however long the refusal took.
    pub fn refused(&self, writer: &Writer) {
        self.free(writer, |aside| aside.since = Instant::now());
    }

    /// What was created was closed without a word in it: the name looks free again.
    pub fn abandoned(&self, writer: &Writer) {
        self.free(writer, |_| {});
    }

    /// The name that the writer created looks free again, unless it was created anew since.
    fn free(&self, writer: &Writer, change: impl FnOnce(&mut Aside)) {
        let Some(creation) = writer.aside else {
            return;
        };
        self.change(writer.state, &writer.id, writer.opener.process, |aside| {
            if aside.created == Some(creation) {
                aside.created = None;
                change(aside);
            }
        });
    }

    /// The process committed the message: nothing of it is set aside any more.
    pub fn end(&self, state: QueueState, id: &MessageId, process: Process) {
        let mut table = self.table.lock();
        let key = (state, id.clone());
        if table
            .get(&key)
            .is_some_and(|aside| aside.process == process)
        {
            table.remove(&key);
        }
    }

    fn change(
        &self,
        state: QueueState,
        id: &MessageId,
        process: Process,
        change: impl FnOnce(&mut Aside),
    ) {
        let mut table = self.table.lock();
        let aside = table.get_mut(&(state, id.clone()));
        if let Some(aside) = aside.filter(|aside| aside.process == process) {
            change(aside);
        }
    }

    /// What the caller's process set aside. Where nothing is, nobody needs to know who asks.
    fn find(&self, state: QueueState, id: &MessageId, caller: &Caller) -> Option<Aside> {
        let aside = {
            let table = self.table.lock();
            if table.is_empty() {
                return None;
            }
            table.get(&(state, id.clone()))?.clone()
        };
        (!aside.is_over() && aside.process == caller.process()).then_some(aside)
    }

    /// Forgets what is over, and gives a line for each message whose process never came back for
    /// it: an operator may have meant to hide it.
    pub fn expired(&self) -> Vec<(MessageId, String)> {
        let mut lines = Vec::new();
        self.table.lock().retain(|(state, id), aside| {
            if !aside.is_over() {
                return true;
            }
            let (name, copy) = (id.file_name(), &aside.copy);
            let line = format!("rename {state}/{name}: copied to {copy}; still queued");
            lines.push((id.clone(), line));
            false
        });
        lines
    }
}

impl Aside {
    /// While the process has the file open that it created, its time does not run out.
    fn is_over(&self) -> bool {
        self.created.is_none() && self.since.elapsed() >= PERIOD
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    const HOLD: QueueState = QueueState::Hold;

    fn caller() -> Caller {
        Caller {
            uid: 0,
            gid: 0,
            pid: std::process::id(),
        }
    }

    /// A message that was set aside that long ago.
    fn aside(ago: Duration) -> (Asides, MessageId) {
        let (asides, id) = (Asides::default(), "x".parse::<MessageId>().unwrap());
        let process = caller().process();
        asides.set(HOLD, &id, process, Timestamp::ZERO.into(), "x~".into());
        asides.change(HOLD, &id, process, |aside| {
            aside.since = Instant::now().checked_sub(ago).unwrap();
        });
        (asides, id)
    }

    #[test]
    fn a_name_looks_free_for_ten_seconds() {
        let (asides, id) = aside(PERIOD - Duration::from_secs(5));
        assert!(asides.hides(HOLD, &id, &caller()));
        assert!(asides.expired().is_empty());
        let (asides, id) = aside(PERIOD);
        assert!(!asides.hides(HOLD, &id, &caller()));
        assert_eq!(asides.create(HOLD, &id, &caller()), None);
        let (of, line) = asides.expired().remove(0);
        assert_eq!(of, id);
        assert_eq!(line, "rename hold/x.json: copied to x~; still queued");
        assert!(asides.expired().is_empty());
    }

    #[test]
    fn while_the_created_file_is_open_the_time_stands_still() {
        let (asides, id) = aside(Duration::ZERO);
        let process = caller().process();
        assert!(asides.create(HOLD, &id, &caller()).is_some());
        asides.change(HOLD, &id, process, |aside| {
            aside.since = Instant::now().checked_sub(PERIOD).unwrap();
        });
        assert!(asides.expired().is_empty());
        assert!(!asides.hides(HOLD, &id, &caller()));
        asides.end(HOLD, &id, process);
        assert!(!asides.hides(HOLD, &id, &caller()));
    }
}
