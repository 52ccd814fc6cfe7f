//! Checkpoints beside the writer: the log's pages go to the database file in a thread of their own,
//! so that no change waits for the disk because it was the one that made the log long.
//!
//! Owns: when pages are brought over, the thread, and its connection.
//! May fail: never for a caller; what was not brought over is tried again.
//! Must not know: what is written.
//!
//! A checkpoint does not hold the write lock. The log begins anew when a writer finds all of it
//! brought over, and no reader in it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use rusqlite::{Connection, ffi};

use super::open::{self, Access, Place};

/// From how many pages of the log (4 MiB) on they are brought over: SQLite's own measure, by which
/// other programs' commits stop to do it.
const ENOUGH: i64 = 1000;

/// And how many at a time, at least, while one caller makes many changes: so few are left at any
/// moment for another program's commit. Else as many as that: fewer would be the same pages again.
const AT_A_TIME_IN_BULK: i64 = 250;

/// Writers that never pause keep the log from beginning anew, and so do readers that overlap. From
/// so many pages on (16 MiB) the writer itself brings over the rest before it goes on, and waits for
/// the readers: those that begin meanwhile read the database file alone.
const LONG: i64 = 4096;

/// The same while one caller makes many changes (64 MiB): they come to the same pages again, which
/// then are brought over once.
const LONG_IN_BULK: i64 = 4 * LONG;

/// How long it waits for readers. Nobody else can write meanwhile, so it is as long as a transaction;
/// it tries again when the log has grown.
const READERS_WAIT: Duration = Duration::from_millis(4);

/// The checkpoints of one store.
pub struct Checkpointer {
    place: Place,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    log: Mutex<Log>,
    /// The log has grown, or the store is closed.
    changed: Condvar,
    /// Whoever brings pages over has it.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Log {
    /// How many pages it had after the last commit.
    pages: i64,
    /// How many of them had been brought over by the last checkpoint.
    done: i64,
    /// How many it had at the last try.
    tried_at: i64,
    /// How many it had when the writer last tried to shorten it.
    shortened_at: i64,
    /// Whether the last commit was of one caller's many changes.
    in_bulk: bool,
    is_closed: bool,
}

impl Log {
    /// From how many pages on it is the writer's.
    fn long(&self) -> i64 {
        if self.in_bulk { LONG_IN_BULK } else { LONG }
    }

    fn is_due(&self) -> bool {
        let at_a_time = if self.in_bulk {
            AT_A_TIME_IN_BULK
        } else {
            ENOUGH
        };
        let are_enough = self.pages >= ENOUGH && self.pages - self.done >= at_a_time;
        are_enough && self.pages != self.tried_at && self.pages <= self.long()
    }

    /// A reader that stays is not waited for at each commit.
    fn is_too_long(&self) -> bool {
        self.pages > self.long() && self.pages - self.shortened_at >= AT_A_TIME_IN_BULK
    }
}

impl Checkpointer {
    /// Of the store at `place`. Its thread begins when there is something to do.
    pub fn new(place: Place) -> Checkpointer {
        Checkpointer {
            place,
            shared: Arc::default(),
            thread: Mutex::default(),
        }
    }

    /// Hears of this connection's commits from now on.
    pub fn follow(&self, conn: &mut Connection) -> rusqlite::Result<()> {
        let shared = Arc::clone(&self.shared);
        conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
            let mut log = shared.log.lock();
            if i64::from(pages) < log.pages {
                // It has begun anew.
                (log.done, log.tried_at, log.shortened_at) = (0, 0, 0);
            }
            log.pages = pages.into();
            if log.is_due() {
                shared.changed.notify_one();
            }
            Ok(())
        }))
    }

    /// To be called after a commit, with no transaction open: sees that there is a thread when there
    /// is work for it, and lets a log begin anew that has become too long.
    pub fn after_commit(&self, conn: &Connection, in_bulk: bool) {
        let (is_due, is_too_long) = {
            let mut log = self.shared.log.lock();
            log.in_bulk = in_bulk;
            (log.is_due(), log.is_too_long())
        };
        if is_due {
            self.begin();
        }
        if is_too_long && let Err(e) = self.shorten(conn) {
            tracing::debug!("checkpoint of a long log: {e}");
        }
    }

    fn begin(&self) {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let (shared, place) = (Arc::clone(&self.shared), self.place.clone());
            *thread = std::thread::Builder::new()
                .name("checkpoint".into())
                .spawn(move || shared.run(&place))
                .inspect_err(|e| tracing::warn!("no thread for checkpoints: {e}"))
                .ok();
        }
    }

    fn shorten(&self, conn: &Connection) -> rusqlite::Result<()> {
        {
            let mut log = self.shared.log.lock();
            log.shortened_at = log.pages;
        }
        {
            // The disk is waited for before anybody is kept from writing.
            let _turn = self.hold_off();
            conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        }
        self.restart(conn)
    }

    /// Nobody of this process brings pages over while the guard lives.
    pub fn hold_off(&self) -> MutexGuard<'_, ()> {
        self.shared.turn.lock()
    }

    /// Brings all over, with this connection, and lets the log begin anew; waits for readers.
    pub fn restart(&self, conn: &Connection) -> rusqlite::Result<()> {
        let _turn = self.hold_off();
        conn.busy_timeout(READERS_WAIT)?;
        let checkpoint = conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], counts);
        conn.busy_timeout(Duration::ZERO)?;
        self.shared.note(checkpoint?);
        Ok(())
    }

    /// Ends the thread.
    pub fn close(&self) {
        self.shared.log.lock().is_closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread for checkpoints failed");
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn run(&self, place: &Place) {
        let conn = match open::connect(place, Access::Write { durable: false }) {
            Ok(conn) => conn,
            Err(e) => return tracing::warn!("no connection for checkpoints: {e}"),
        };
        while self.wait() {
            let _turn = self.turn.lock();
            match conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], counts) {
                Ok(counts) => self.note(counts),
                Err(e) => tracing::debug!("checkpoint: {e}"),
            }
            // SQLite does so only when nothing is left; whoever comes to that waits for all of it.
            if let Err(e) = sync_file(&conn) {
                tracing::debug!("checkpoint: {e}");
            }
        }
    }

    /// Until there is something to do; `false` when there never will be.
    fn wait(&self) -> bool {
        let mut log = self.log.lock();
        while !log.is_closed && !log.is_due() {
            self.changed.wait(&mut log);
        }
        log.tried_at = log.pages;
        !log.is_closed
    }

    fn note(&self, (pages, done): (i64, i64)) {
        let mut log = self.log.lock();
        // It may have begun anew since.
        if log.pages >= pages {
            log.done = done;
        }
    }
}

/// The pages of the log, and those that have been brought over.
fn counts(row: &rusqlite::Row<'_>) -> rusqlite::Result<(i64, i64)> {
    Ok((row.get(1)?, row.get(2)?))
}

/// Brings the database file's pages to the disk. SQLite's own descriptor is asked for that: closing
/// another one would drop this process's locks.
fn sync_file(conn: &Connection) -> rusqlite::Result<()> {
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    // SAFETY: the handle is the open connection's, the name ends in NUL, and this operation writes
    // one pointer, which is good as long as the connection is open.
    let result = unsafe {
        ffi::sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_FILE_POINTER,
            (&raw mut file).cast(),
        )
    };
    check(result)?;
    // SAFETY: the file is null, not yet open (without methods), or open with those of its kind; no
    // other thread uses this connection.
    unsafe {
        let methods = file.as_ref().and_then(|file| file.pMethods.as_ref());
        match methods.and_then(|methods| methods.xSync) {
            Some(sync) => check(sync(file, ffi::SQLITE_SYNC_NORMAL)),
            None => Ok(()),
        }
    }
}

fn check(result: i32) -> rusqlite::Result<()> {
    match result {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}
