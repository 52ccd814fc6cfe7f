//! Reading ahead in a listing: while the kernel takes in one batch, another thread reads the next.
//!
//! Owns: which batches are wanted, and their way to that thread and back.
//! May fail: by leaving a batch to the one that needs it.
//! Must not know: offsets, what the kernel is given.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Spool;
use super::listing::Item;
use crate::model::{MessageId, QueueState};

/// What was read longer ago is read again: a listing is of now.
const FRESH: Duration = Duration::from_secs(1);

/// A batch that is read before it is asked for.
pub struct Ahead {
    state: QueueState,
    after: MessageId,
    plus: bool,
    slot: Mutex<Slot>,
    changed: Condvar,
}

enum Slot {
    Wanted,
    Reading,
    Read(Vec<Item>, Instant),
    /// It was taken, or could not be read.
    Over,
}

impl Ahead {
    /// The batch, if it was read by now or is being read, and is with attributes or not as it is
    /// wanted now.
    pub fn take(&self, plus: bool) -> Option<Vec<Item>> {
        let mut slot = self.slot.lock();
        while matches!(*slot, Slot::Reading) {
            self.changed.wait(&mut slot);
        }
        match std::mem::replace(&mut *slot, Slot::Over) {
            Slot::Read(items, at) if plus == self.plus && at.elapsed() < FRESH => Some(items),
            _ => None,
        }
    }
}

/// The batches that are wanted, for the one thread that reads them.
#[derive(Default)]
pub struct ReadAhead {
    wanted: Mutex<VecDeque<Arc<Ahead>>>,
    thread: OnceLock<Thread>,
}

impl ReadAhead {
    /// Has the batch after this message read; not where nobody reads ahead.
    pub fn want(&self, state: QueueState, after: &MessageId, plus: bool) -> Option<Arc<Ahead>> {
        let thread = self.thread.get()?;
        let ahead = Arc::new(Ahead {
            state,
            after: after.clone(),
            plus,
            slot: Mutex::new(Slot::Wanted),
            changed: Condvar::new(),
        });
        self.wanted.lock().push_back(ahead.clone());
        thread.unpark();
        Some(ahead)
    }
}

impl Spool {
    /// Reads what listings are about to need, for as long as `going` says so: to be called from a
    /// thread of its own, which may be unparked to ask `going`.
    pub fn read_ahead(&self, going: &dyn Fn() -> bool) {
        let _ = self.ahead.thread.set(thread::current());
        while going() {
            let next = self.ahead.wanted.lock().pop_front();
            match next {
                Some(ahead) => self.read_batch_ahead(&ahead),
                None => thread::park(),
            }
        }
    }

    fn read_batch_ahead(&self, ahead: &Ahead) {
        {
            let mut slot = ahead.slot.lock();
            if !matches!(*slot, Slot::Wanted) {
                return;
            }
            *slot = Slot::Reading;
        }
        let mut reading = Reading(ahead, Slot::Over);
        if let Ok(items) = self.read_batch(ahead.state, Some(&ahead.after), ahead.plus) {
            reading.1 = Slot::Read(items, Instant::now());
        }
    }
}

/// Who waits for the batch is told when this ends, also by a panic.
struct Reading<'a>(&'a Ahead, Slot);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut slot = self.0.slot.lock();
        *slot = std::mem::replace(&mut self.1, Slot::Over);
        self.0.changed.notify_all();
    }
}
