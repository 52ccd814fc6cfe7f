//! Messages removed by a process that may be about to replace them: `install`, `tar -x`, `cpio`
//! and a `mv` from another filesystem unlink a file and create it again.
//!
//! Owns: what such a process removed within the last [`PERIOD`], and what is still owed: messages
//! to put back that the store would not take.
//! May fail: never; what there is no room for is forgotten, as if the tool had taken too long.
//! Must not know: files.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Spool;
use super::caller::{Caller, Process};
use crate::backend::{Context, Error};
use crate::document;
use crate::model::{MessageId, MessageMetadata, Revision};

/// For how long a removed message is remembered.
pub const PERIOD: Duration = Duration::from_secs(10);
/// How many are remembered at most, and with how many bytes of text together: `find -delete`
/// removes a million that nobody will write again.
const MESSAGES_MAX: usize = 1024;
const BYTES_MAX: usize = 16 << 20;
/// How many changes of others are read at once.
const CHANGES: usize = 1024;

/// What was removed.
#[derive(Default)]
pub struct Removals {
    recent: Mutex<Recent>,
    owed: Mutex<Vec<Removed>>,
}

#[derive(Default)]
struct Recent {
    /// The oldest first.
    removals: VecDeque<Removal>,
    bytes: usize,
}

struct Removal {
    process: Process,
    at: Instant,
    removed: Removed,
}

/// A message that was removed.
#[derive(Clone, Debug, PartialEq)]
pub struct Removed {
    /// What it was.
    pub message: MessageMetadata,
    /// Where the feed of changes stood before, in a store that has one.
    pub since: Option<u64>,
}

impl Recent {
    fn remove(&mut self, at: usize) -> Option<Removal> {
        let removal = self.removals.remove(at)?;
        self.bytes -= text_len(&removal.removed.message);
        Some(removal)
    }
}

/// The bytes of a message that have no bound of their own.
fn text_len(message: &MessageMetadata) -> usize {
    let headers = message.headers.iter();
    let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
    headers + message.last_error.len() + message.retry_policy_name.len()
}

impl Removals {
    /// The process removed the message.
    pub fn note(&self, process: Process, removed: Removed) {
        self.add(process, Instant::now(), removed);
    }

    fn add(&self, process: Process, at: Instant, removed: Removed) {
        // Who can't be told from others may not be the one who writes the name next.
        if !process.is_known() {
            return;
        }
        let mut recent = self.recent.lock();
        recent.bytes += text_len(&removed.message);
        recent.removals.push_back(Removal {
            process,
            at,
            removed,
        });
        while recent.removals.len() > MESSAGES_MAX || recent.bytes > BYTES_MAX {
            recent.remove(0);
        }
    }

    /// What the caller's process removed under that ID, if it was the last to remove it, and not
    /// too long ago. From now on it is the caller's to put back.
    pub fn take(&self, id: &MessageId, caller: &Caller) -> Option<Removed> {
        let of_id = |removal: &&Removal| removal.removed.message.id == *id;
        // Where nothing was removed, nobody needs to know who asks.
        let process = self.recent.lock().removals.iter().rfind(of_id)?.process;
        if process != caller.process() {
            return None;
        }
        let mut recent = self.recent.lock();
        let at = recent.removals.iter().rposition(|r| of_id(&r))?;
        let removal = &recent.removals[at];
        if removal.process != process || removal.at.elapsed() >= PERIOD {
            return None;
        }
        recent.remove(at).map(|removal| removal.removed)
    }

    /// What is still to be put back.
    fn take_owed(&self) -> Vec<Removed> {
        std::mem::take(&mut *self.owed.lock())
    }

    /// Forgets what was removed too long ago.
    fn expire(&self) {
        let mut recent = self.recent.lock();
        while recent
            .removals
            .front()
            .is_some_and(|removal| removal.at.elapsed() >= PERIOD)
        {
            recent.remove(0);
        }
    }
}

impl Spool {
    /// What replaced a removed message was refused: the message is stored again, in one write,
    /// unless somebody else has stored its ID since. Gives the revision if it is back. What the
    /// store would not take is tried again later.
    pub(super) fn put_back(&self, removed: Removed, ctx: &Context) -> Option<Revision> {
        let message = MessageMetadata {
            // As after every change.
            updated: removed.message.updated.next(),
            ..removed.message.clone()
        };
        let path = format!("{}/{}", message.state, message.id.file_name());
        let stored = match self.was_stored_since(&removed, ctx) {
            Ok(true) => return None,
            Ok(false) => self.store.insert(ctx, &message),
            Err(error) => Err(error),
        };
        match stored {
            Ok(revision) => {
                self.inodes.moved(&message.id, message.state);
                self.report.note(&format!(
                    "unlink {path}: what replaced it was refused; the message was put back"
                ));
                Some(revision)
            }
            Err(Error::AlreadyExists { .. } | Error::Corrupt(_)) => None,
            Err(error) => {
                self.report.note(&format!(
                    "unlink {path}: what replaced it was refused, and the message can't be put back \
                     yet: {error}; it is tried again each second"
                ));
                self.removals.owed.lock().push(removed);
                None
            }
        }
    }

    /// Whether anybody has stored a message of that ID since, which may be gone again.
    fn was_stored_since(&self, removed: &Removed, ctx: &Context) -> crate::backend::Result<bool> {
        let (Some(feed), Some(mut after)) = (self.store.change_feed(), removed.since) else {
            return Ok(false);
        };
        let newest = feed.newest(ctx)?;
        let id = &removed.message.id;
        while after < newest {
            let found = feed.changes(ctx, after, CHANGES)?;
            if found.changes.iter().any(|c| c.id == *id && c.to.is_some()) {
                return Ok(true);
            }
            after = found.cursor;
        }
        Ok(false)
    }

    /// Forgets what is over, and puts back what is owed.
    pub(super) fn settle_removals(&self) {
        self.removals.expire();
        for removed in self.removals.take_owed() {
            self.put_back(removed, &self.hurried());
        }
    }

    /// The mount ends: what is still owed becomes a scratch file, and so is put on disk.
    pub(super) fn rescue_removals(&self) {
        self.settle_removals();
        for Removed { message, .. } in self.removals.take_owed() {
            let (state, document) = (message.state, document::render(&message));
            let name = format!("{}.removed", message.id.file_name());
            let name = name.as_ref();
            if let Err(refusal) = self.scratches.create(state, name, &document) {
                let document = String::from_utf8_lossy(&document);
                tracing::error!(target: "retryspoolfs", "{}: {document}", refusal.reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(pid: u32) -> Caller {
        let (uid, gid) = (0, 0);
        Caller { uid, gid, pid }
    }

    fn removed(id: &str) -> Removed {
        Removed {
            message: MessageMetadata::new(id.parse().unwrap()),
            since: None,
        }
    }

    #[test]
    fn a_removed_message_is_remembered_for_ten_seconds_for_the_process_that_removed_it() {
        let (removals, me) = (Removals::default(), caller(std::process::id()));
        let id = removed("x").message.id;
        removals.note(me.process(), removed("x"));
        assert_eq!(removals.take(&id, &caller(1)), None);
        assert!(removals.take(&id, &me).is_some());
        assert!(removals.take(&id, &me).is_none());
        let ago = |period| Instant::now().checked_sub(period).unwrap();
        removals.add(me.process(), ago(PERIOD), removed("x"));
        assert_eq!(removals.take(&id, &me), None);
        removals.add(
            me.process(),
            ago(PERIOD - Duration::from_secs(5)),
            removed("y"),
        );
        removals.expire();
        let recent = removals.recent.lock();
        assert_eq!(recent.removals.len(), 1);
    }

    #[test]
    fn who_removed_it_last_counts_and_who_is_not_known_does_not() {
        let (removals, me) = (Removals::default(), caller(std::process::id()));
        let id = removed("x").message.id;
        removals.note(me.process(), removed("x"));
        removals.note(caller(1).process(), removed("x"));
        assert_eq!(removals.take(&id, &me), None);
        removals.note(caller(0).process(), removed("y"));
        assert_eq!(removals.take(&removed("y").message.id, &caller(0)), None);
    }

    #[test]
    fn a_million_removals_take_little_room() {
        let (removals, me) = (Removals::default(), caller(std::process::id()));
        let long = |n: usize| {
            let mut long = removed(&n.to_string());
            long.message.last_error = "x".repeat(1 << 20);
            long
        };
        (0..20).for_each(|n| removals.note(me.process(), long(n)));
        assert_eq!(removals.recent.lock().removals.len(), 16);
        (0..2000).for_each(|n| removals.note(me.process(), removed(&n.to_string())));
        let recent = removals.recent.lock();
        assert_eq!((recent.removals.len(), recent.bytes), (MESSAGES_MAX, 0));
    }
}
