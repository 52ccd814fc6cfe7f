//! Labelled points of failure, so that a test can make exactly one step fail.

use std::collections::VecDeque;

use parking_lot::Mutex;
use rusqlite::ffi;

/// A step that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The COMMIT of a transaction.
    Commit,
    /// Bringing the log to the disk.
    Flush,
    /// The checkpoint that must succeed after a failed flush.
    Checkpoint,
}

/// The failures that are to come, of one store. Empty but in tests.
#[derive(Debug, Default)]
pub struct Faults(Mutex<VecDeque<Point>>);

impl Faults {
    /// Makes the step fail, once, when it is next taken.
    pub fn arm(&self, point: Point) {
        self.0.lock().push_back(point);
    }

    /// Fails if the step was armed.
    pub(super) fn check(&self, point: Point) -> rusqlite::Result<()> {
        let mut armed = self.0.lock();
        let Some(at) = armed.iter().position(|armed| *armed == point) else {
            return Ok(());
        };
        armed.remove(at);
        let error = ffi::Error::new(ffi::SQLITE_IOERR);
        Err(rusqlite::Error::SqliteFailure(
            error,
            Some(format!("{point:?} was made to fail")),
        ))
    }
}
