//! Many new messages at once, as a copy or an import brings them.
//!
//! Owns: that they share flushes: the content of a batch is on the disk before one of it gets a
//! name, and their names are before the call returns. Each has its own condition and answer.
//! May fail: each by itself; all of a batch where the disk does.
//! Must not know: where they come from.

use super::Directory;
use super::change::{Attempt, Step, in_use};
use super::file::{Temporary, sync_names};
use super::find::stats;
use crate::backend::{Context, Result};
use crate::model::{MessageMetadata, Revision};

/// Messages that share a flush; each keeps a file open until it has its name, and a process may
/// have 1,024 of them.
const BATCH: usize = 250;
/// So few are brought to the disk by themselves: the shared flush is one of the whole disk.
const FEW: usize = 8;

/// What is to be done for one message.
enum New<'a> {
    /// It is written, and waits for its name.
    Written(Step<'a>, Temporary<'a>),
    /// Something has its name: what that is, is found out by trying.
    Taken,
}

impl Directory {
    /// See [`Backend::insert_all`](crate::Backend::insert_all); in the order in which they are given.
    pub fn insert_all(&self, ctx: &Context, new: &[MessageMetadata]) -> Vec<Result<Revision>> {
        let batches = new.chunks(BATCH);
        batches.flat_map(|some| self.batch(ctx, some)).collect()
    }

    fn batch(&self, ctx: &Context, messages: &[MessageMetadata]) -> Vec<Result<Revision>> {
        if messages.len() <= FEW {
            return messages.iter().map(|one| self.insert(ctx, one)).collect();
        }
        let written: Vec<_> = messages.iter().map(|one| self.written(ctx, one)).collect();
        if let Err(error) = self.place.sync() {
            return vec![Err(error); messages.len()];
        }
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
        let new = Temporary::write_unsynced(&self.place, dir, &step.name, metadata, None)?;
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
