//! A check of the directory: that everything in it is a message, in one state, whose document
//! says so.
//!
//! Owns: what is looked at, and in which words it is told.
//! May fail: as reading does.
//! Must not know: who asked.

use std::time::Duration;

use super::DirBackend;
use super::file::{self, Look};
use super::find::{everywhere, stats};
use super::names::names;
use crate::backend::check::{Check, Remedy};
use crate::backend::{Context, Result};
use crate::model::{MessageId, PlainName, QueueState, Timestamp};

/// A half-written file that is older than this was left by a crash.
const LEFT: Duration = Duration::from_secs(3600);

impl DirBackend {
    pub(super) fn check_directory(&self, ctx: &Context, check: &mut Check<'_>) -> Result<()> {
        let directory = self.enter()?;
        for dir in directory.place.states() {
            let found = names(dir)?;
            for name in found.foreign {
                let what = directory.place.shown(dir.state, &name.to_string_lossy());
                let what = format!("{what}: its name is not one that RetrySpool gives");
                check.tell("foreign", what, Remedy::Person);
            }
            for name in found.temporary {
                let name = name.to_string_lossy();
                let stat = file::stat(dir, &name)?;
                let written = stat.and_then(|s| Timestamp::new(s.st_mtime, 0));
                if written.is_some_and(|w| w.saturating_add(LEFT) < Timestamp::now()) {
                    let what = directory.place.shown(dir.state, &name);
                    let what = format!(
                        "{what}: half-written, and left so; RetrySpool removes it when it starts"
                    );
                    check.tell("temporary", what, Remedy::Note);
                }
            }
            for id in found.messages {
                if !(check.going)() {
                    return Ok(());
                }
                self.check_message(ctx, check, dir.state, &id)?;
            }
        }
        let aside = directory.place.path().join(".retryspool/aside");
        let states = QueueState::ALL.into_iter();
        let kept = states.filter_map(|state| std::fs::read_dir(aside.join(state.as_str())).ok());
        let kept: usize = kept.map(Iterator::count).sum();
        if kept > 0 {
            let what = format!(
                "{kept} older copies of messages that were in two states are kept in {}",
                aside.display()
            );
            check.tell("aside", what, Remedy::Note);
        }
        Ok(())
    }

    fn check_message(
        &self,
        ctx: &Context,
        check: &mut Check<'_>,
        state: QueueState,
        id: &MessageId,
    ) -> Result<()> {
        let directory = self.enter()?;
        let (Some(dir), Ok(name)) = (directory.place.state(state), PlainName::of_id(id)) else {
            return Ok(());
        };
        let shown = directory.place.shown(state, &name);
        let names_its_state = match file::read(dir, &name, id)? {
            Look::Absent => return Ok(()),
            Look::Foreign(why) => {
                check.tell("unreadable", format!("{shown}: {why}"), Remedy::Person);
                return Ok(());
            }
            Look::Message(found) => found.names_its_state,
        };
        if stats(&directory.place, &name)?.len() > 1 {
            let seen = everywhere(&directory.place, id, &name)?;
            // Told once, of where it stays; one that RetrySpool is moving just now is in one again.
            let settled = || match check.repair {
                true => directory.settle(ctx, id),
                false => directory.is_double(ctx, id),
            };
            if seen.state() == Some(state) && !seen.doubles.is_empty() && settled()? {
                let others: Vec<&str> = seen.doubles.iter().map(|s| s.as_str()).collect();
                let what = format!("{shown}: it is in {} too", others.join(" and "));
                check.mendable(
                    "two-states",
                    what,
                    "keeps the older copy in .retryspool/aside",
                );
            }
        } else if !names_its_state {
            if check.repair {
                directory.mend(ctx, id)?;
            }
            let what = format!(
                "{shown}: its document names another state, so RetrySpool would not move it"
            );
            check.mendable(
                "state",
                what,
                "writes the directory's state into the document",
            );
        }
        Ok(())
    }
}
