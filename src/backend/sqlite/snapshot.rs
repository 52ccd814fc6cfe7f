//! A copy of the file at one moment, and the file made small.
//!
//! Owns: `VACUUM INTO` for a snapshot, `VACUUM` for compacting, and what surrounds them.
//! May fail: with the file that was to be made gone again, and the spool as it was.
//! Must not know: tables.
//!
//! A snapshot reads in one transaction, which lets writers go on and keeps the log from being used
//! again until it ends: for as long as a disk writes the copy, never for as long as a slow reader
//! of the copy takes. The copy has no log of its own, so it can be read where nothing can be
//! written.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::error::{from_sqlite, is_busy};
use super::open::{self, Access, Place};
use super::{SqliteBackend, SqliteFactory};
use crate::backend::{Backend, Error, Result};
use crate::newfile::NewFile;

/// How many steps of SQLite's machine pass between two questions whether to go on. A message is a
/// dozen, however long it is: some messages of a megabyte each must not be asked too late.
const STEPS: i32 = 200;

/// How long compacting waits for others to close the file.
const ALONE_WAIT: Duration = Duration::from_millis(500);

/// Writes the store to a new file.
pub fn write(
    place: &Place,
    access: Access,
    file: &Path,
    going: &(dyn Fn() -> bool + Sync),
) -> Result<()> {
    let failed = |error: io::Error| unavailable(file, error);
    let (new, empty) = NewFile::create(file).map_err(failed)?;
    drop(empty);
    copy(place, access, new.temporary(), going)?;
    new.finish().map_err(failed)
}

/// A store over a copy that ends with it.
pub fn freeze(
    place: &Place,
    access: Access,
    going: &(dyn Fn() -> bool + Sync),
) -> Result<SqliteBackend> {
    let failed = |error: io::Error| unavailable(place.path(), error);
    let made = NewFile::beside(place.path()).or_else(|error| match error.kind() {
        // Who may only read the spool still has room elsewhere.
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            let name = place.path().file_name().unwrap_or_default();
            NewFile::beside(&std::env::temp_dir().join(name))
        }
        _ => Err(error),
    });
    let (temporary, empty) = made.map_err(failed)?;
    drop(empty);
    copy(place, access, temporary.temporary(), going)?;
    let mut store = SqliteFactory::new(temporary.temporary())
        .read_only(true)
        .open()?;
    store.temporary = Some(temporary);
    Ok(store)
}

fn unavailable(path: &Path, error: io::Error) -> Error {
    let path = path.display();
    Error::Unavailable(match error.kind() {
        io::ErrorKind::AlreadyExists => format!("{path} is there already; give another name"),
        _ => format!("{path}: {error}"),
    })
}

fn copy(
    place: &Place,
    access: Access,
    file: &Path,
    going: &(dyn Fn() -> bool + Sync),
) -> Result<()> {
    place.check()?;
    let mut conn = open::connect(place, access).map_err(from_sqlite)?;
    let Some(name) = file.to_str() else {
        let file = file.display();
        let why = format!("{file}: SQLite takes no name that is not UTF-8; give another name");
        return Err(Error::Unavailable(why));
    };
    while_going(&mut conn, going, |conn| {
        conn.execute("VACUUM INTO ?1", [name]).map(drop)
    })
    .map_err(from_sqlite)
}

/// Runs a long statement, which ends early when `going` says so: it is asked from a thread of its
/// own, because SQLite asks only a question that it may keep.
fn while_going<T>(
    conn: &mut Connection,
    going: &(dyn Fn() -> bool + Sync),
    run: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    conn.progress_handler(STEPS, Some(move || stopped.load(Relaxed)))?;
    let ended = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            while !ended.load(Relaxed) {
                if !going() {
                    stop.store(true, Relaxed);
                }
                std::thread::park_timeout(Duration::from_millis(50));
            }
        });
        // Ends the asker also by a panic.
        let _end = End(&ended, asker.thread());
        run(conn)
    });
    conn.progress_handler(0, None::<fn() -> bool>)?;
    result
}

struct End<'a>(&'a AtomicBool, &'a std::thread::Thread);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
        self.1.unpark();
    }
}

/// Gives the space of removed messages back to the disk; the sizes before and after in bytes.
/// [`Error::Busy`] if any other process, or this one, has the file open: rewriting it beside
/// writers would keep their lock for seconds.
pub fn compact(path: &Path, going: &(dyn Fn() -> bool + Sync)) -> Result<(u64, u64)> {
    // What it is, prepared and with its log brought over.
    SqliteFactory::new(path).open()?.close()?;
    let place = Place::find(path)?;
    let size = || fs::metadata(place.path()).map(|file| file.len());
    let before = size().map_err(|error| unavailable(path, error))?;
    let available = open::space(&place)?.available;
    if available < 2 * before {
        return Err(Error::StorageFull(format!(
            "compacting may take {} MiB for a while, and {} MiB are free",
            (2 * before) >> 20,
            available >> 20
        )));
    }
    let mut conn = Connection::open_with_flags(
        place.path(),
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(from_sqlite)?;
    let alone = || -> rusqlite::Result<()> {
        conn.busy_timeout(ALONE_WAIT)?;
        // In this mode the first access takes the file for this connection alone, or fails.
        conn.pragma_update(None, "locking_mode", "exclusive")?;
        conn.pragma_update(None, "synchronous", "full")?;
        conn.execute_batch("BEGIN EXCLUSIVE; COMMIT")
    };
    match alone() {
        Err(error) if is_busy(&error) => {
            let path = path.display();
            return Err(Error::Busy(format!(
                "another process has {path} open; unmount it and stop RetrySpool first (who it is: fuser {path})"
            )));
        }
        done => done.map_err(from_sqlite)?,
    }
    while_going(&mut conn, going, |conn| conn.execute_batch("VACUUM")).map_err(from_sqlite)?;
    // Brings the log over and takes it away: it has grown as large as the file.
    conn.close().map_err(|(_, error)| from_sqlite(error))?;
    let after = size().map_err(|error| unavailable(path, error))?;
    Ok((before, after))
}
