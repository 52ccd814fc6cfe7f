//! A spool to test: the filesystem, a second connection to its store, and processes that call.
//!
//! It is long because it has a short word for each of the filesystem's calls.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use retryspoolfs::backend::locator::{Locator, OpenOptions};
use retryspoolfs::spool::{
    Attr, Caller, Errno, OpenMode, Options, Ownership, RenameFlags, Result, Spool,
};
use retryspoolfs::{
    Backend, Context, MessageId, MessageMetadata, PlainName, QueueState, Timestamp, document,
};
use rusqlite::Connection;
use tempfile::TempDir;

use super::DIRECTORY;
use super::steps::{Stepped, Steps};
pub use QueueState::{Active, Archived, Bounce, Deferred, Hold, Incoming};

pub const ROOT: u64 = 1;

/// Opened for writing, nothing else.
pub const WRITE: OpenMode = OpenMode {
    write: true,
    append: false,
    truncate: false,
    exclusive: false,
    sync: false,
};
pub const READ: OpenMode = OpenMode {
    write: false,
    ..WRITE
};
pub const TRUNCATE: OpenMode = OpenMode {
    truncate: true,
    ..WRITE
};
pub const EXCLUSIVE: OpenMode = OpenMode {
    exclusive: true,
    ..WRITE
};

pub const PLAIN: RenameFlags = RenameFlags {
    no_replace: false,
    other: false,
};
pub const NO_REPLACE: RenameFlags = RenameFlags {
    no_replace: true,
    other: false,
};

pub fn id(text: &str) -> MessageId {
    text.parse().unwrap()
}

pub fn ctx() -> Context {
    Context::within(Duration::from_secs(10))
}

/// The inode number of a state's directory, as every mount has it.
pub fn dir_of(state: QueueState) -> u64 {
    2 + u64::from(state.number())
}

/// This very process.
pub fn me() -> Caller {
    Caller {
        uid: 0,
        gid: 0,
        pid: std::process::id(),
    }
}

/// Another process, which lives until it is told to end.
pub struct Other(Child);

impl Other {
    /// A process that waits for the end of its input.
    pub fn start() -> Other {
        let child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Other(child)
    }

    pub fn caller(&self) -> Caller {
        Caller {
            pid: self.0.id(),
            ..me()
        }
    }

    /// Ends the process; it is gone when this returns.
    pub fn end(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.end();
    }
}

/// A mounted spool without a kernel.
pub struct Mounted {
    pub spool: Spool,
    /// The same file, opened as another program would.
    pub store: Arc<dyn Backend>,
    pub path: PathBuf,
    pub scratch_dir: PathBuf,
    /// What a test can do to the store of the mount.
    pub steps: Arc<Steps>,
    _file: Arc<StoreFile>,
}

/// The name of a store's file or directory.
const NAME: &str = if DIRECTORY { "meta" } else { "queue.db" };

fn open(path: &Path, create: bool, read_only: bool) -> Arc<dyn Backend> {
    let locator = match DIRECTORY {
        true => Locator::Dir(path.into()),
        false => Locator::Sqlite(path.into()),
    };
    let options = OpenOptions {
        create,
        read_only,
        ..OpenOptions::default()
    };
    locator.open(options).unwrap().into()
}

/// A store's file, opened twice: for the mount, and for another program.
pub struct StoreFile {
    dir: TempDir,
    inner: Arc<dyn Backend>,
    store: Arc<dyn Backend>,
}

impl StoreFile {
    pub fn new() -> StoreFile {
        let dir = tempfile::tempdir().unwrap();
        let open = || open(&dir.path().join(NAME), true, false);
        StoreFile {
            inner: open(),
            store: open(),
            dir,
        }
    }
}

pub fn options() -> Options {
    Options {
        source: "sqlite:test".to_owned(),
        read_only: false,
        no_delete: false,
        archived: false,
        ownership: Ownership {
            uid: 1000,
            gid: 100,
            fmode: 0o600,
            dmode: 0o700,
        },
        control_owner: (0, 0),
        busy_timeout: Duration::from_secs(1),
        scratch_dir: None,
    }
}

pub fn mounted() -> Mounted {
    mounted_with(|_| {})
}

pub fn mounted_with(adjust: impl FnOnce(&mut Options)) -> Mounted {
    mounted_over(Arc::new(StoreFile::new()), adjust)
}

/// A mount over a file that had mounts before.
pub fn mounted_over(file: Arc<StoreFile>, adjust: impl FnOnce(&mut Options)) -> Mounted {
    let scratch_dir = file.dir.path().join(format!("{NAME}.scratch"));
    let mut options = options();
    options.scratch_dir = Some(scratch_dir.clone());
    adjust(&mut options);
    let steps = Arc::new(Steps::default());
    let store = Stepped {
        inner: file.inner.clone(),
        steps: steps.clone(),
    };
    Mounted {
        spool: Spool::new(Box::new(store), options),
        store: file.store.clone(),
        path: file.dir.path().join(NAME),
        scratch_dir,
        steps,
        _file: file,
    }
}

/// The same file mounted once more, with other options.
pub fn again(mounted: &Mounted, adjust: impl FnOnce(&mut Options)) -> Spool {
    let mut options = options();
    adjust(&mut options);
    let store = Stepped {
        inner: open(&mounted.path, false, options.read_only),
        steps: Arc::default(),
    };
    Spool::new(Box::new(store), options)
}

fn behind_now(seconds: i64) -> Timestamp {
    let now = Timestamp::now();
    Timestamp::new(now.seconds() - seconds, now.nanos()).unwrap()
}

/// Whether the store can hold this ID: a directory holds what RetrySpool can name a file by.
pub fn holds(name: &str) -> bool {
    !DIRECTORY || PlainName::of_id(&id(name)).is_ok()
}

/// A message with round times.
pub fn message(name: &str, state: QueueState) -> MessageMetadata {
    MessageMetadata {
        state,
        created: Timestamp::new(1_750_000_000, 0).unwrap(),
        updated: Timestamp::new(1_750_000_100, 0).unwrap(),
        ..MessageMetadata::new(id(name))
    }
}

/// A legal document of a new message.
pub fn new_document(name: &str) -> String {
    format!("{{\"ID\": \"{name}\", \"Priority\": 7}}\n")
}

impl Mounted {
    /// Stores a message as another program would.
    pub fn put(&self, name: &str, state: QueueState) -> MessageMetadata {
        self.store.insert(&ctx(), &message(name, state)).unwrap();
        self.stored(name).unwrap()
    }

    pub fn stored(&self, name: &str) -> Option<MessageMetadata> {
        let found = self.store.get(&ctx(), &id(name)).unwrap();
        found.map(|stored| stored.metadata)
    }

    pub fn state(&self, name: &str) -> Option<QueueState> {
        self.stored(name).map(|stored| stored.state)
    }

    /// The stored document.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8(document::render(&self.stored(name).unwrap())).unwrap()
    }

    /// Another program changes a message: one more attempt.
    pub fn change(&self, name: &str) -> MessageMetadata {
        let mut changed = self.stored(name).unwrap();
        changed.attempts += 1;
        self.store.update_meta(&ctx(), &id(name), &changed).unwrap();
        self.stored(name).unwrap()
    }

    /// Another program moves a message.
    pub fn shift(&self, name: &str, from: QueueState, to: QueueState) {
        self.store.relocate(&ctx(), &id(name), from, to).unwrap();
    }

    /// RetrySpool stores a message whatever is there, by a clock that is so many seconds behind;
    /// gives the Updated that it wrote.
    pub fn retryspool_stores(
        &self,
        name: &str,
        state: QueueState,
        attempts: i64,
        behind: i64,
    ) -> Timestamp {
        if DIRECTORY {
            let updated = behind_now(behind);
            let message = MessageMetadata {
                attempts,
                updated,
                ..message(name, state)
            };
            self.retryspool_writes(&message);
            return updated;
        }
        let sql = "INSERT OR REPLACE INTO messages (id, state, attempts, max_attempts, \
             next_retry, created, updated, last_error, size, priority, headers, \
             retry_policy_name) \
             VALUES (?1, ?2, ?3, 10, -62135596800, 1750000000, ?4, '', 0, 5, '{}', '')";
        let now = Timestamp::now().seconds() - behind;
        let row = (name, state.number(), attempts, now);
        self.sql().execute(sql, row).unwrap();
        self.stored(name).unwrap().updated
    }

    /// RetrySpool moves a message if it is there, and gives the Updated that it wrote.
    pub fn retryspool_moves(
        &self,
        name: &str,
        from: QueueState,
        to: QueueState,
        behind: i64,
    ) -> Option<Timestamp> {
        if DIRECTORY {
            let found = self.stored(name).filter(|found| found.state == from)?;
            let updated = behind_now(behind);
            self.retryspool_writes(&MessageMetadata {
                state: to,
                updated,
                ..found
            });
            return Some(updated);
        }
        let sql = "UPDATE messages SET state=?, updated=?, headers=? WHERE id=? AND state=?";
        let now = Timestamp::now().seconds() - behind;
        let row = (to.number(), now, "{}", name, from.number());
        match self.sql().execute(sql, row).unwrap() {
            0 => None,
            _ => Some(self.stored(name).unwrap().updated),
        }
    }

    /// What RetrySpool's filesystem store does to replace or move: the new file gets its name,
    /// then the old one goes.
    fn retryspool_writes(&self, message: &MessageMetadata) {
        let file = |state: QueueState| {
            let name = PlainName::of_id(&message.id).unwrap();
            self.path.join(state.as_str()).join(name)
        };
        let before = self.stored(message.id.as_str()).map(|found| found.state);
        let new = file(message.state);
        let half = new.with_extension("json.tmp.1a2b3c4d");
        std::fs::write(&half, document::render(message)).unwrap();
        std::fs::rename(&half, &new).unwrap();
        if let Some(old) = before.filter(|old| *old != message.state) {
            std::fs::remove_file(file(old)).unwrap();
        }
    }

    /// Removes every message, past the store where that is faster.
    pub fn clear(&self) {
        if !DIRECTORY {
            self.sql().execute("DELETE FROM messages", []).unwrap();
            return;
        }
        for state in QueueState::ALL {
            for id in self.store.scan(&ctx(), state, None, usize::MAX).unwrap() {
                self.store.delete_meta(&ctx(), &id).unwrap();
            }
        }
    }

    /// A connection of a program that knows nothing of us.
    pub fn sql(&self) -> Connection {
        let conn = Connection::open(&self.path).unwrap();
        conn.busy_timeout(Duration::from_secs(10)).unwrap();
        conn
    }

    pub fn lookup(&self, caller: &Caller, state: QueueState, name: &str) -> Result<Attr> {
        self.spool.lookup(caller, dir_of(state), OsStr::new(name))
    }

    /// Whether the name is there, for this caller; the lookup is forgotten.
    pub fn sees(&self, caller: &Caller, state: QueueState, name: &str) -> bool {
        match self.lookup(caller, state, name) {
            Ok(attr) => {
                self.spool.forget(attr.ino, 1);
                true
            }
            Err(refusal) if refusal.errno == Errno::ENOENT => false,
            Err(refusal) => panic!("{refusal:?}"),
        }
    }

    /// Looks a name up and opens it. The lookup is forgotten: the handle alone is left.
    pub fn open(
        &self,
        caller: &Caller,
        state: QueueState,
        name: &str,
        mode: OpenMode,
    ) -> Result<u64> {
        let attr = self.lookup(caller, state, name)?;
        let opened = self.spool.open(caller, attr.ino, mode);
        self.spool.forget(attr.ino, 1);
        match opened {
            // As the kernel does.
            Err(refusal) if refusal.errno == Errno::ESTALE => {
                let attr = self.lookup(caller, state, name)?;
                let opened = self.spool.open(caller, attr.ino, mode);
                self.spool.forget(attr.ino, 1);
                opened
            }
            opened => opened,
        }
    }

    /// Creates a name, or opens what is there as the kernel would.
    pub fn create(
        &self,
        caller: &Caller,
        state: QueueState,
        name: &str,
        mode: OpenMode,
    ) -> Result<u64> {
        let (attr, fh) = self
            .spool
            .create(caller, dir_of(state), OsStr::new(name), mode)?;
        self.spool.forget(attr.ino, 1);
        Ok(fh)
    }

    /// One close of one descriptor, and the last one.
    pub fn close(&self, caller: &Caller, fh: u64) -> Result<()> {
        let closed = self.spool.flush(caller, fh);
        self.spool.release(fh);
        closed
    }

    /// What `tool > x.json` does: open or create, truncate, write, close.
    pub fn overwrite(
        &self,
        caller: &Caller,
        state: QueueState,
        name: &str,
        text: &str,
    ) -> Result<()> {
        let fh = match self.open(caller, state, name, TRUNCATE) {
            Err(refusal) if refusal.errno == Errno::ENOENT => {
                self.create(caller, state, name, TRUNCATE)?
            }
            opened => opened?,
        };
        self.spool.write(fh, 0, text.as_bytes())?;
        self.close(caller, fh)
    }

    pub fn read(&self, caller: &Caller, state: QueueState, name: &str) -> Result<String> {
        let fh = self.open(caller, state, name, READ)?;
        let bytes = self.spool.read(fh, 0, 1 << 20);
        self.spool.release(fh);
        Ok(String::from_utf8(bytes?).unwrap())
    }

    pub fn rename(
        &self,
        caller: &Caller,
        (from, name): (QueueState, &str),
        (to, new_name): (QueueState, &str),
        flags: RenameFlags,
    ) -> Result<()> {
        let from = (dir_of(from), OsStr::new(name));
        let to = (dir_of(to), OsStr::new(new_name));
        self.spool.rename(caller, from, to, flags)
    }

    pub fn unlink(&self, caller: &Caller, state: QueueState, name: &str) -> Result<()> {
        self.spool.unlink(caller, dir_of(state), OsStr::new(name))
    }

    /// The names in a state's directory, `.` and `..` apart.
    pub fn list(&self, state: QueueState) -> Vec<String> {
        list(&self.spool, dir_of(state))
    }

    /// All of `.retryspool/errors`.
    pub fn errors(&self) -> String {
        let control = self.spool.lookup(&me(), ROOT, OsStr::new(".retryspool"));
        let errors = self
            .spool
            .lookup(&me(), control.unwrap().ino, OsStr::new("errors"));
        let fh = self.spool.open(&me(), errors.unwrap().ino, READ).unwrap();
        let mut text = Vec::new();
        loop {
            let part = self.spool.read(fh, text.len() as u64, 4096).unwrap();
            if part.is_empty() {
                break;
            }
            text.extend(part);
        }
        self.spool.release(fh);
        String::from_utf8(text).unwrap()
    }

    /// The listing, its count and the directory's size are the same, for every state.
    pub fn assert_counts_agree(&self) {
        for state in QueueState::ALL {
            let listed = if state == Archived {
                self.store.scan(&ctx(), state, None, 1 << 20).unwrap().len()
            } else {
                self.list(state).len()
            };
            let size = self.spool.getattr(&me(), dir_of(state), None).unwrap().size;
            let counter = self.store.state_counter().unwrap();
            let count = counter.get_state_count(&ctx(), state).unwrap();
            assert_eq!((listed as u64, size), (count, count), "{state}");
        }
    }
}

/// The names in a directory, `.` and `..` apart.
pub fn list(spool: &Spool, ino: u64) -> Vec<String> {
    let fh = spool.opendir(ino).unwrap();
    let (mut names, mut offset) = (Vec::new(), 0);
    loop {
        let before = names.len();
        spool
            .readdir(fh, offset, false, &mut |entry| {
                offset = entry.offset;
                names.push(entry.name.to_str().unwrap().to_owned());
                true
            })
            .unwrap();
        if names.len() == before {
            break;
        }
    }
    spool.releasedir(fh);
    names.split_off(2)
}

/// The errno of an operation that must fail.
#[track_caller]
pub fn errno<T>(result: Result<T>) -> Errno {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(refusal) => refusal.errno,
    }
}
