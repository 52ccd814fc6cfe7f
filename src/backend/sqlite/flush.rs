//! Bringing commits to the disk.
//!
//! Owns: the flush that callers who arrive together share.
//! May fail: with [`Error::Durability`] for all who waited for that flush. After a failed flush
//! the kernel may have dropped what it could not write and call the file clean, so trying again
//! proves nothing: the next one first has to write the whole log into the database file.
//! Must not know: queries, changes.
//!
//! In WAL mode a commit is on the disk once the log's bytes are: what is no longer in the log was
//! synced when a checkpoint brought it over. So a flush is one fdatasync of the log, opened by
//! hand, and covers what other processes committed as well. Where nobody committed since the last
//! one, there is nothing to flush: a writer that syncs its temporary file first, which is no message
//! yet, waits for the disk once.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::error::from_sqlite;
use super::faults::{Faults, Point};
use super::open::{self, Access, Place};
use super::writer::Writer;
use crate::backend::{Error, Result};

/// The flushes of one store.
pub struct Flusher {
    place: Place,
    faults: Arc<Faults>,
    state: Mutex<State>,
    ended: Condvar,
    flushes: AtomicU64,
    /// Tells whether anybody has committed. It never writes.
    probe: Mutex<Option<Connection>>,
}

#[derive(Default)]
struct State {
    started: u64,
    finished: u64,
    last: Option<Error>,
    /// Whether a flush failed and no checkpoint has succeeded since.
    doubt: bool,
    /// What the probe told before the flush that runs.
    running: Option<i64>,
    /// What it told before the last flush that succeeded.
    flushed: Option<i64>,
}

impl Flusher {
    /// None has failed yet.
    pub fn new(place: Place, faults: Arc<Faults>) -> Flusher {
        Flusher {
            place,
            faults,
            state: Mutex::default(),
            ended: Condvar::new(),
            flushes: AtomicU64::new(0),
            probe: Mutex::default(),
        }
    }

    /// Lets the file go.
    pub fn close(&self) {
        *self.probe.lock() = None;
    }

    /// Flushes made so far.
    pub fn count(&self) -> u64 {
        self.flushes.load(Relaxed)
    }

    /// Returns when a flush of all that was committed before this call has ended, or at once if that
    /// is flushed. `writer` is `None` in a store that never writes.
    pub fn sync(&self, writer: Option<&Writer>, deadline: Instant) -> Result<()> {
        self.place.check()?;
        let version = self.version();
        let mut state = self.state.lock();
        if version.is_some() && version == state.flushed && !state.doubt {
            return Ok(());
        }
        let is_running = state.started > state.finished;
        // Those who shared a commit come one after the other, and the first of them began it.
        let is_covered = is_running && version.is_some() && version == state.running;
        let wanted = state.started + u64::from(!is_covered);
        loop {
            if state.finished >= wanted {
                return state.last.clone().map_or(Ok(()), Err);
            }
            if state.started == state.finished {
                state.started += 1;
                state.running = version;
                let doubt = state.doubt;
                drop(state);
                let mut running = Running {
                    flusher: self,
                    result: None,
                };
                running.result = Some(self.flush(writer, doubt, deadline));
                drop(running);
                state = self.state.lock();
            } else if self.ended.wait_until(&mut state, deadline).timed_out() {
                return Err(Error::Busy("the disk was slow".into()));
            }
        }
    }

    /// A number that is another one after each commit, whoever made it; `None` if it can't be had.
    fn version(&self) -> Option<i64> {
        let mut probe = self.probe.lock();
        if probe.is_none() {
            *probe = open::connect(&self.place, Access::Read).ok();
        }
        let version = probe.as_ref().map(|conn| {
            let mut version = conn.prepare_cached("PRAGMA data_version")?;
            version.query_row([], |row| row.get(0))
        });
        version?
            .inspect_err(|e| tracing::debug!("has anything been committed: {e}"))
            .ok()
    }

    fn flush(&self, writer: Option<&Writer>, doubt: bool, deadline: Instant) -> Result<()> {
        self.flushes.fetch_add(1, Relaxed);
        if doubt {
            self.checkpoint(writer, deadline)?;
        }
        let failed = |e: &dyn std::fmt::Display| {
            Error::Durability(format!("{}: {e}", self.place.wal().display()))
        };
        self.faults.check(Point::Flush).map_err(|e| failed(&e))?;
        match File::open(self.place.wal()).and_then(|wal| wal.sync_data()) {
            Ok(()) => Ok(()),
            // Without a log all is in the database file, synced by the checkpoint that ended it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(failed(&e)),
        }
    }

    /// Writes the whole log into the database file, and syncs that.
    fn checkpoint(&self, writer: Option<&Writer>, deadline: Instant) -> Result<()> {
        let failed = |why: String| {
            Error::Durability(format!(
                "an earlier flush failed, and the checkpoint after it: {why}"
            ))
        };
        let Some(writer) = writer else {
            return Err(failed("the store is open for reading only".into()));
        };
        let checkpoint = writer.with_connection(deadline, |conn| {
            let attempt = || {
                self.faults.check(Point::Checkpoint)?;
                conn.query_row("PRAGMA wal_checkpoint(FULL)", [], |row| {
                    Ok((
                        row.get::<_, i64>(0)?,
                        row.get::<_, i64>(1)?,
                        row.get::<_, i64>(2)?,
                    ))
                })
            };
            loop {
                let (blocked, log, done) = attempt().map_err(from_sqlite)?;
                if blocked == 0 && log == done {
                    return Ok(());
                }
                if Instant::now() >= deadline {
                    return Err(Error::Busy("readers or writers kept the log in use".into()));
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        checkpoint.map_err(|e| failed(e.to_string()))
    }
}

/// The flush that runs; it ends for those who wait also by a panic.
struct Running<'a> {
    flusher: &'a Flusher,
    result: Option<Result<()>>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.flusher.state.lock();
        state.finished = state.started;
        state.last = match self.result.take() {
            Some(Ok(())) => None,
            Some(Err(e)) => Some(e),
            None => Some(Error::Durability("the flush failed in the middle".into())),
        };
        match &state.last {
            None => {
                state.doubt = false;
                state.flushed = state.running;
            }
            Some(Error::Durability(_)) => state.doubt = true,
            Some(_) => {}
        }
        self.flusher.ended.notify_all();
    }
}
