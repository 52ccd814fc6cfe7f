//! From a path to connections: which file is accepted, and how a connection is set.
//!
//! Owns: opening, creating, refusing; the settings of every connection; the watch on the path.
//! May fail: with a refusal that leaves the file as it was.
//! Must not know: messages, queries.
//!
//! Nothing here opens the database file or its -shm by hand: closing any descriptor of them would
//! drop this process's POSIX locks. The one exception is a file that this process just made.

use std::ffi::CString;
use std::fs::Metadata;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::{from_sqlite, is_busy};
use super::schema::{self, Verdict};
use crate::backend::{Error, Result, Space};

/// How long opening waits for others' locks.
pub const OPEN_WAIT: Duration = Duration::from_secs(30);

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The one that writes; each commit is on the disk when it returns if `durable`.
    Write {
        /// Whether commits wait for the disk.
        durable: bool,
    },
    /// Queries, in a store that also writes.
    Read,
    /// Queries, in a store that never writes.
    ReadOnly,
}

/// The database file, and which one it was when the store was opened.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Place {
    /// Looks at the file; its path becomes absolute, so that a change of directory does not lead
    /// to another file, and a name such as `file:x` is no URI.
    pub fn find(path: &Path) -> Result<Place> {
        let path = std::path::absolute(path).map_err(|e| unreachable_file(path, e))?;
        let found = look(&path)?;
        Ok(Place {
            device: found.dev(),
            inode: found.ino(),
            path,
        })
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The write-ahead log's path.
    pub fn wal(&self) -> PathBuf {
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        wal.into()
    }

    /// Refuses a file that was deleted or replaced: SQLite would go on with the one it has open,
    /// and what it then commits nobody sees again.
    pub fn check(&self) -> Result<()> {
        let gone = |what: &str| {
            let path = self.path.display();
            Err(Error::Unavailable(format!(
                "{path} was {what} while it was open; open the spool again"
            )))
        };
        match std::fs::metadata(&self.path) {
            Ok(found) if found.dev() == self.device && found.ino() == self.inode => Ok(()),
            Ok(_) => gone("replaced"),
            Err(e) if e.kind() == io::ErrorKind::NotFound => gone("deleted"),
            Err(e) => Err(unreachable_file(&self.path, e)),
        }
    }
}

fn look(path: &Path) -> Result<Metadata> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(found),
        Ok(_) => Err(Error::Unavailable(format!("{} is no file", path.display()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(missing(path)),
        Err(e) => Err(unreachable_file(path, e)),
    }
}

/// The error of a spool that is not there.
pub fn missing(path: &Path) -> Error {
    let path = path.display();
    Error::Missing(format!(
        "there is no spool at {path}: make one with `retryspoolfs init {path}`"
    ))
}

fn unreachable_file(path: &Path, error: io::Error) -> Error {
    Error::Unavailable(format!("{}: {error}", path.display()))
}

/// Makes an empty file of mode 0600, unless there is one; an existing file's mode stays.
pub fn touch(path: &Path) -> Result<()> {
    let made = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(unreachable_file(path, e)),
    }
}

/// Judges the file without changing it. It is opened for reading only; where SQLite can't read it
/// so (a crashed writer left a journal that must be undone first), with a connection that at
/// least brings nothing over from the log when it closes.
pub fn examine(place: &Place) -> Result<Verdict> {
    let verdict = open_for(place, OpenFlags::SQLITE_OPEN_READ_ONLY).and_then(|conn| judge(&conn));
    let verdict = match verdict {
        Err(e) if needs_recovery(&e) => {
            open_for(place, OpenFlags::SQLITE_OPEN_READ_WRITE).and_then(|conn| judge(&conn))
        }
        verdict => verdict,
    };
    match verdict {
        Ok(verdict) => Ok(verdict),
        Err(e) => {
            let path = place.path().display();
            Err(match from_sqlite(e) {
                Error::Corrupt(why) => {
                    Error::Corrupt(format!("{path}: {why}; it was left as it is"))
                }
                Error::Unavailable(why) => Error::Unavailable(format!("{path}: {why}")),
                other => other,
            })
        }
    }
}

fn judge(conn: &Connection) -> rusqlite::Result<Verdict> {
    conn.busy_timeout(OPEN_WAIT)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    schema::examine(conn)
}

fn needs_recovery(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen)
    )
}

fn open_for(place: &Place, mode: OpenFlags) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(place.path(), mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

/// A connection of an accepted file, set for its work.
pub fn connect(place: &Place, access: Access) -> rusqlite::Result<Connection> {
    let mode = match access {
        Access::ReadOnly => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Access::Read | Access::Write { .. } => OpenFlags::SQLITE_OPEN_READ_WRITE,
    };
    let conn = open_for(place, mode)?;
    conn.busy_timeout(OPEN_WAIT)?;
    conn.set_prepared_statement_cache_capacity(64);
    // A plan that may depend on bound values (a partial index makes it so) would be made again for
    // each call, with all triggers: ten times the cost of the statement.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // A file that another process truncates would be a SIGBUS if it were mapped.
    conn.pragma_update(None, "mmap_size", 0)?;
    conn.pragma_update(None, "temp_store", "memory")?;
    match access {
        Access::Write { durable } => {
            conn.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" })?;
            // The log keeps its size: its space is what a full disk leaves.
            conn.pragma_update(None, "journal_size_limit", -1)?;
            conn.pragma_update(None, "cache_size", -8192)?;
            // Our statements' REPLACE never relies on it; a delete trigger fires once either way.
            conn.pragma_update(None, "recursive_triggers", false)?;
        }
        Access::Read | Access::ReadOnly => {
            conn.pragma_update(None, "cache_size", -2048)?;
        }
    }
    Ok(conn)
}

/// Turns the write-ahead log on, and tells whether it was off.
pub fn enable_wal(conn: &Connection) -> Result<bool> {
    let mode = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, String>(0));
    if mode("PRAGMA journal_mode").map_err(from_sqlite)? == "wal" {
        return Ok(false);
    }
    // SQLite does not wait for this lock by itself.
    let turned = until(Instant::now() + OPEN_WAIT, || {
        mode("PRAGMA journal_mode = WAL")
    })
    .map_err(from_sqlite)?;
    match turned.as_str() {
        "wal" => Ok(true),
        mode => Err(Error::Unavailable(format!(
            "the write-ahead log can't be turned on (journal mode {mode}); is the file on a network filesystem?"
        ))),
    }
}

/// Tries again while others hold a lock, until the deadline.
pub fn until<T>(
    deadline: Instant,
    mut attempt: impl FnMut() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let mut pause = Duration::from_micros(100);
    loop {
        match attempt() {
            Err(e) if is_busy(&e) && Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(10));
            }
            done => return done,
        }
    }
}

/// Brings the directory's entry of the file to the disk.
pub fn sync_directory(place: &Place) -> Result<()> {
    let directory = place.path().parent().unwrap_or(Path::new("/"));
    let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|e| Error::Durability(format!("{}: {e}", directory.display())))
}

/// Makes the schema in an empty file, unless another process did so meanwhile.
pub fn create(conn: &Connection) -> rusqlite::Result<()> {
    let transaction =
        rusqlite::Transaction::new_unchecked(conn, rusqlite::TransactionBehavior::Immediate)?;
    if schema::examine(conn)? == Verdict::Empty {
        schema::create(conn)?;
    }
    transaction.commit()
}

/// The disk that the file is on.
pub fn space(place: &Place) -> Result<Space> {
    let path = CString::new(place.path().as_os_str().as_bytes())
        .map_err(|e| unreachable_file(place.path(), e.into()))?;
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in NUL, and `found` has room for what statvfs writes.
    if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(unreachable_file(place.path(), io::Error::last_os_error()));
    }
    // SAFETY: statvfs succeeded, so it has filled it.
    let found = unsafe { found.assume_init() };
    Ok(Space {
        total: found.f_blocks * found.f_frsize,
        free: found.f_bfree * found.f_frsize,
        available: found.f_bavail * found.f_frsize,
    })
}
