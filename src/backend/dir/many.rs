//! Many new messages at once, as a copy or an import brings them.
//!
//! Owns: that they share flushes: the content of each is on the disk before it gets its name, the
//! names of a batch are before the call returns, and batches are flushed beside each other. Each
//! message has its own condition and answer.
//! May fail: each by itself; those of a directory whose names can't be brought to the disk.
//! Must not know: where they come from.

use std::collections::HashSet;
use std::thread;

use super::Directory;
use super::change::{Attempt, Step, in_use};
use super::file::{Temporary, sync_names};
use super::find::stats;
use crate::backend::{Context, Error, Proposal, Result};
use crate::model::{MessageMetadata, Revision};

/// Batches under way at the same time: their flushes share the journal's commits.
const TOGETHER: usize = 8;
/// Messages of a batch; each keeps a file open until it has its name, and a process may have 1,024
/// of them.
const BATCH: usize = 32;

/// What is to be done for one message.
enum New<'a> {
    /// It is on the disk, and waits for its name.
    Written(Step<'a>, Temporary<'a>),
    /// Something has its name: what that is, is found out by trying.
    Taken,
}

impl Directory {
    /// See [`Backend::insert_all`](crate::Backend::insert_all).
    pub fn insert_all(&self, ctx: &Context, new: &[MessageMetadata]) -> Vec<Result<Revision>> {
        let share = new.len().div_ceil(TOGETHER).max(1);
        let some = |part: &[MessageMetadata]| -> Vec<_> {
            let batches = part.chunks(BATCH);
            batches.flat_map(|some| self.batch(ctx, some)).collect()
        };
        thread::scope(|scope| {
            let parts: Vec<_> = new
                .chunks(share)
                .map(|part| (part.len(), scope.spawn(move || some(part))))
                .collect();
            let failed = || Err(Error::Unavailable("an insert failed in the middle".into()));
            parts
                .into_iter()
                .flat_map(|(count, part)| part.join().unwrap_or_else(|_| vec![failed(); count]))
                .collect()
        })
    }

    fn batch(&self, ctx: &Context, messages: &[MessageMetadata]) -> Vec<Result<Revision>> {
        let written: Vec<_> = messages.iter().map(|one| self.written(ctx, one)).collect();
        let named = written.into_iter().zip(messages);
        let mut answers: Vec<_> = named
            .map(|(new, metadata)| self.named(ctx, new?, metadata))
            .collect();
        for dir in self.place.states() {
            let mut placed: Vec<_> = answers
                .iter_mut()
                .zip(messages)
                .filter(|(answer, metadata)| answer.is_ok() && metadata.state == dir.state)
                .collect();
            if !placed.is_empty()
                && let Err(error) = sync_names(&self.place, dir)
            {
                for (answer, _) in &mut placed {
                    **answer = Err(error.clone());
                }
            }
        }
        answers
    }

    fn written<'a>(&'a self, ctx: &'a Context, metadata: &'a MessageMetadata) -> Result<New<'a>> {
        let step = self.step(ctx, &metadata.id)?;
        if !stats(&self.place, &step.name)?.is_empty() {
            return Ok(New::Taken);
        }
        let dir = self.place.to(metadata.state)?;
        let new = Temporary::write(&self.place, dir, &step.name, metadata, None)?;
        Ok(New::Written(step, new))
    }

    fn named(&self, ctx: &Context, new: New, metadata: &MessageMetadata) -> Result<Revision> {
        if let New::Written(step, new) = new {
            let _held = self.locks.lock(step.id, ctx.deadline())?;
            if let Some(used) = in_use(&self.look(&step)?) {
                return Err(used);
            }
            if let Attempt::Done(stored) = self.name_new(&step, new, metadata)? {
                return Ok(stored.revision);
            }
        }
        self.insert(ctx, metadata)
    }
}

/// The new messages that proposals begin with, each of another ID: those can be made in any order.
pub fn new_ones(proposals: &[Proposal]) -> Vec<MessageMetadata> {
    let mut ids = HashSet::new();
    let news = proposals.iter().map_while(|one| match one {
        Proposal::Insert(metadata) => ids.insert(&metadata.id).then(|| metadata.clone()),
        _ => None,
    });
    news.collect()
}
