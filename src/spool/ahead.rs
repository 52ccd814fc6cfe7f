//! Reading ahead: while one batch is taken in, another thread reads the next.
//!
//! Owns: which batches are wanted, and their way to that thread and back.
//! May fail: by leaving a batch to the one that needs it.
//! Must not know: what a batch is, and how it is read.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// What was read longer ago is read again: a listing is of now.
const FRESH: Duration = Duration::from_secs(1);

/// So many batches may wait to be read; who wants more reads his own.
const WAITING: usize = 16;

/// A batch that is read before it is asked for.
pub struct Ahead<W, B> {
    /// Which one it is.
    pub wanted: W,
    slot: Mutex<Slot<B>>,
    changed: Condvar,
}

enum Slot<B> {
    Wanted,
    Reading,
    Read(B, Instant),
    /// It was taken, or could not be read.
    Over,
}

impl<W, B> Ahead<W, B> {
    /// The batch, if it was read just now or is being read.
    pub fn take(&self) -> Option<B> {
        let mut slot = self.slot.lock();
        while matches!(*slot, Slot::Reading) {
            self.changed.wait(&mut slot);
        }
        match std::mem::replace(&mut *slot, Slot::Over) {
            Slot::Read(batch, at) if at.elapsed() < FRESH => Some(batch),
            _ => None,
        }
    }

    fn read(&self, read: impl FnOnce(&W) -> Option<B>) {
        {
            let mut slot = self.slot.lock();
            if !matches!(*slot, Slot::Wanted) {
                return;
            }
            *slot = Slot::Reading;
        }
        let mut reading = Reading {
            ahead: self,
            ends: Slot::Over,
        };
        if let Some(batch) = read(&self.wanted) {
            reading.ends = Slot::Read(batch, Instant::now());
        }
    }
}

/// Who waits for the batch is told when this ends, also by a panic.
struct Reading<'a, W, B> {
    ahead: &'a Ahead<W, B>,
    ends: Slot<B>,
}

impl<W, B> Drop for Reading<'_, W, B> {
    fn drop(&mut self) {
        *self.ahead.slot.lock() = std::mem::replace(&mut self.ends, Slot::Over);
        self.ahead.changed.notify_all();
    }
}

/// The batches that are wanted, for the one thread that reads them.
pub struct ReadAhead<W, B> {
    wanted: Mutex<VecDeque<Arc<Ahead<W, B>>>>,
    thread: OnceLock<Thread>,
}

impl<W, B> Default for ReadAhead<W, B> {
    fn default() -> ReadAhead<W, B> {
        ReadAhead {
            wanted: Mutex::default(),
            thread: OnceLock::new(),
        }
    }
}

impl<W, B> ReadAhead<W, B> {
    /// Has this batch read; not where nobody reads ahead.
    pub fn want(&self, wanted: W) -> Option<Arc<Ahead<W, B>>> {
        let thread = self.thread.get()?;
        let mut waiting = self.wanted.lock();
        if waiting.len() >= WAITING {
            return None;
        }
        let ahead = Arc::new(Ahead {
            wanted,
            slot: Mutex::new(Slot::Wanted),
            changed: Condvar::new(),
        });
        waiting.push_back(ahead.clone());
        thread.unpark();
        Some(ahead)
    }

    /// Reads what is wanted, in this thread, for as long as `going` says so; it is asked when the
    /// thread is unparked.
    pub fn serve(&self, going: &dyn Fn() -> bool, read: impl Fn(&W) -> Option<B>) {
        let _ = self.thread.set(thread::current());
        while going() {
            let next = self.wanted.lock().pop_front();
            match next {
                Some(ahead) => ahead.read(&read),
                None => thread::park(),
            }
        }
    }
}
