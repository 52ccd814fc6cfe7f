//! What RetrySpool's way to move leaves when it is ended in the middle: put right.
//!
//! Owns: how long a message may be in two states, and what becomes of the older copy; documents
//! that name another state than their directory's.
//! May fail: as changes do; what could not be put right stays as it was.
//! Must not know: who noticed.

use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::sys::stat::FileStat;

use super::Directory;
use super::change::moved;
use super::file::sync_names;
use super::find::{everywhere, stats};
use super::place::{StateDir, failed};
use crate::backend::{Context, Result};
use crate::model::{MessageId, PlainName, Timestamp};

/// How long a message may be in two states. RetrySpool moves by writing the new file and then
/// removing the old one, with a flush in between; what lasts longer than this is no move.
pub const GRACE: Duration = Duration::from_millis(500);

impl Directory {
    /// A message that was in two states for too long is in one: the older copies are kept aside.
    /// `false` if one of them is younger than that.
    pub fn settle(&self, ctx: &Context, id: &MessageId) -> Result<bool> {
        let step = self.step_of(ctx, id)?;
        let _held = self.locks.lock(id, ctx.deadline())?;
        let seen = self.look(&step)?;
        if seen.doubles.is_empty() {
            return Ok(true);
        }
        if !self.is_settled(&step.name)? {
            return Ok(false);
        }
        for double in seen.doubles {
            self.set_aside(self.place.to(double)?, &step.name)?;
        }
        self.look(&step)?;
        Ok(true)
    }

    /// Whether the message is in two states, and not only while RetrySpool moves it.
    pub fn is_double(&self, ctx: &Context, id: &MessageId) -> Result<bool> {
        self.place.check()?;
        let name = PlainName::of_id(id)?;
        let _held = self.locks.lock(id, ctx.deadline())?;
        let seen = everywhere(&self.place, id, &name)?;
        Ok(!seen.doubles.is_empty() && self.is_settled(&name)?)
    }

    /// Whether every copy of the message has had its name for so long that RetrySpool is no longer
    /// in the middle of a move: then it would remove the one that stays.
    pub fn is_settled(&self, name: &str) -> Result<bool> {
        let now = Timestamp::now();
        let is_old = |stat: &FileStat| {
            let named = Timestamp::new(stat.st_ctime, stat.st_ctime_nsec as u32);
            named.is_some_and(|named| named.saturating_add(GRACE) <= now)
        };
        let stats = stats(&self.place, name)?;
        Ok(stats.iter().all(|(_, stat)| is_old(stat)))
    }

    /// Writes the directory's state into a document that names another one: RetrySpool would
    /// never move the message.
    pub fn mend(&self, ctx: &Context, id: &MessageId) -> Result<()> {
        let step = self.step_of(ctx, id)?;
        let _held = self.locks.lock(id, ctx.deadline())?;
        let seen = self.look(&step)?;
        if let Some(found) = seen.best.as_ref().filter(|found| !found.names_its_state) {
            let metadata = moved(&found.stored.metadata, found.stored.metadata.state);
            let state = metadata.state;
            self.exchange(&step, found, metadata)?;
            sync_names(&self.place, self.place.to(state)?)?;
        }
        Ok(())
    }

    /// Keeps an older copy where nobody takes it for a message.
    pub fn set_aside(&self, dir: &StateDir, name: &str) -> Result<()> {
        let aside = self.place.ours(&["aside", dir.state.as_str()])?;
        let mut number = Timestamp::now().seconds();
        let shown = self.place.shown(dir.state, name);
        loop {
            let kept = format!("{name}.{number}");
            let flags = RenameFlags::RENAME_NOREPLACE;
            match renameat2(&dir.file, name, &aside, kept.as_str(), flags) {
                Ok(()) => {
                    let base = self.place.path().display();
                    let state = dir.state;
                    tracing::warn!(target: "retryspoolfs", "{shown}: the message is in another state too, and newer there; this copy was put in {base}/.retryspool/aside/{state}/{kept}");
                    return Ok(());
                }
                Err(Errno::ENOENT) => return Ok(()),
                Err(Errno::EEXIST) => number += 1,
                Err(e) => return Err(failed(&shown, &e.into())),
            }
        }
    }
}
