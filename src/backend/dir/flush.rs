//! One flush of the disk for all who ask for one at the same time.
//!
//! Owns: which flush began late enough for whom.
//! May fail: as the flush does, for all who share it; [`Busy`](crate::Error::Busy) at the deadline.
//! Must not know: what is flushed.

use parking_lot::{Condvar, Mutex};

use crate::backend::{Context, Error, Result};

/// The flush that callers who arrive together share.
#[derive(Default)]
pub struct Flush {
    state: Mutex<(u64, u64, Option<Error>)>,
    ended: Condvar,
}

impl Flush {
    /// Returns when a flush that began after this call has ended.
    pub fn run(&self, ctx: &Context, flush: impl Fn() -> Result<()>) -> Result<()> {
        let mut state = self.state.lock();
        let wanted = state.0 + 1;
        while state.1 < wanted {
            if state.0 == state.1 {
                state.0 += 1;
                drop(state);
                let result = flush();
                state = self.state.lock();
                *state = (state.0, state.0, result.err());
                self.ended.notify_all();
            } else if self
                .ended
                .wait_until(&mut state, ctx.deadline())
                .timed_out()
            {
                return Err(Error::Busy("the disk was slow".into()));
            }
        }
        state.2.clone().map_or(Ok(()), Err)
    }
}
