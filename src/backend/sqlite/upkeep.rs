//! What the writer looks after between its transactions: the log's length, and the room for a full
//! disk.
//!
//! Owns: how often.
//! May fail: never; it is tried again later.
//! Must not know: what is changed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rusqlite::Connection;

use super::checkpoint::Checkpointer;
use super::open::Place;
use super::reserve;

/// How many commits pass between two looks at the room for a full disk.
const ROOM_EVERY: u64 = 1024;

/// What it looks after, and when it last did.
pub struct Upkeep {
    place: Place,
    checkpointer: Checkpointer,
    room_checked: AtomicU64,
}

impl Upkeep {
    /// Of the store at `place`.
    pub fn new(place: Place, checkpointer: Checkpointer) -> Upkeep {
        Upkeep {
            place,
            checkpointer,
            room_checked: AtomicU64::new(0),
        }
    }

    /// Whose turn it is to bring the log's pages over.
    pub fn checkpointer(&self) -> &Checkpointer {
        &self.checkpointer
    }

    /// Looks. No transaction is open.
    pub fn after(&self, commits: u64, in_bulk: bool, conn: &Connection) {
        self.checkpointer.after_commit(conn, in_bulk);
        if commits >= self.room_checked.load(Relaxed) + ROOM_EVERY {
            self.room_checked.store(commits, Relaxed);
            reserve::reserve(conn, &self.place, &self.checkpointer);
        }
    }
}
