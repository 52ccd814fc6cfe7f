//! The directories as they are, compared with what is known of them.
//!
//! Owns: which of a directory's names are worth a look: those that are new, gone or marked
//! otherwise. It is how changes are found that nothing told of.
//! May fail: with [`Error`](crate::Error) when the directory can't be read.
//! Must not know: what is under a name; whoever looks at it does.

use nix::sys::stat::FileStat;

use super::Directory;
use super::file::{self, mark};
use super::names::{names, plain, times};
use super::place::StateDir;
use super::watch::Watch;
use crate::backend::Result;
use crate::model::{MessageId, QueueState, Timestamp};

impl Directory {
    /// Compares a state's directory with what is known, and takes in what differs; gives how much
    /// that was, beyond what the kernel has told.
    pub fn compare_state(&self, watch: &mut Watch, state: QueueState) -> Result<u64> {
        let Some(dir) = self.place.state(state) else {
            return Ok(0);
        };
        self.compare(watch, dir)?;
        let differ = std::mem::take(&mut watch.due);
        self.catch_up(watch)?;
        let known = |id: &MessageId| self.known.lock().entry(id);
        let mut missed = 0;
        for id in differ {
            let before = known(&id);
            self.look_at(watch, id.clone())?;
            missed += u64::from(known(&id) != before);
        }
        Ok(missed)
    }

    /// Compares the directories with what is known.
    pub fn compare_all(&self, watch: &mut Watch) -> Result<()> {
        for dir in self.place.states() {
            self.compare(watch, dir)?;
        }
        self.look_at_due(watch)
    }

    fn compare(&self, watch: &mut Watch, dir: &StateDir) -> Result<()> {
        let found = names(dir)?;
        for name in found.foreign {
            watch.suspect(dir.state, name);
        }
        let marks: Vec<Option<FileStat>> = found
            .messages
            .iter()
            .map(|id| file::stat(dir, &plain(id)).unwrap_or(None))
            .collect();
        let known = self.known.lock();
        let Some(index) = &known.index else {
            return Ok(());
        };
        let mut indexed = index.after(dir.state, None).peekable();
        for (id, stat) in found.messages.iter().zip(&marks) {
            while let Some((gone, _)) = indexed.next_if(|(known, _)| *known < id) {
                watch.due.insert(gone.clone());
            }
            let entry = indexed.next_if(|(known, _)| *known == id);
            let same = match (entry, stat) {
                (Some((_, entry)), Some(stat)) => entry.mark == mark(stat),
                _ => false,
            };
            if !same {
                watch.due.insert(id.clone());
            }
        }
        watch.due.extend(indexed.map(|(gone, _)| gone.clone()));
        Ok(())
    }

    /// Looks at the directories that have changed, where nothing else tells.
    pub fn look_around(&self, watch: &mut Watch) -> Result<()> {
        for dir in self.place.states() {
            let before = times(dir)?;
            let now = Timestamp::now().seconds();
            // A change in the same tick of the clock as the last look has left no trace.
            if watch.looked.get(&dir.state) != Some(&before) || now - before.0 <= 2 {
                self.compare(watch, dir)?;
                watch.looked.insert(dir.state, before);
            }
        }
        self.look_at_due(watch)
    }
}
