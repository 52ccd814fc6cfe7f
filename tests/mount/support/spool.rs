//! A spool in a directory of its own, and what is stored in it, seen past every mount.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use retryspoolfs::backend::locator::{Locator, OpenOptions};
use retryspoolfs::{Backend, Context, MessageId, MessageMetadata, QueueState, Timestamp};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tempfile::TempDir;

use super::{DEADLINE, Mount, Output, Script, program};

/// A time that lies so many seconds back.
pub fn ago(seconds: i64) -> Timestamp {
    let now = Timestamp::now();
    Timestamp::new(now.seconds() - seconds, 123_456_789).unwrap()
}

/// A message as a spool has many: tried once an hour ago.
pub fn message(id: &str, state: QueueState) -> MessageMetadata {
    MessageMetadata {
        state,
        attempts: 1,
        next_retry: ago(-900),
        created: ago(10_800),
        updated: ago(3_600),
        last_error: "451 4.7.1 <bob@example.org> try again later".into(),
        size: 2048,
        headers: [("from", "a@example.org"), ("to", "user@example.com")]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        ..MessageMetadata::new(id.parse().unwrap())
    }
}

/// A spool; its directory goes when the last handle of it does.
#[derive(Clone)]
pub struct Spool {
    dir: Arc<TempDir>,
    kind: Kind,
}

/// The kinds of spools.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sqlite,
    /// RetrySpool's own directory.
    Directory,
}

impl Spool {
    /// An empty one.
    pub fn new() -> Spool {
        Spool::with([])
    }

    /// A SQLite spool with these messages.
    pub fn with(messages: impl IntoIterator<Item = MessageMetadata>) -> Spool {
        Spool::of(Kind::Sqlite, messages)
    }

    /// RetrySpool's own directory with these messages.
    pub fn directory(messages: impl IntoIterator<Item = MessageMetadata>) -> Spool {
        Spool::of(Kind::Directory, messages)
    }

    fn of(kind: Kind, messages: impl IntoIterator<Item = MessageMetadata>) -> Spool {
        let spool = Spool {
            dir: Arc::new(tempfile::tempdir().unwrap()),
            kind,
        };
        std::fs::create_dir(spool.work()).unwrap();
        let options = OpenOptions {
            create: true,
            ..OpenOptions::default()
        };
        let store = spool.locator().open(options).unwrap();
        for message in messages {
            store.insert(&ctx(), &message).unwrap();
        }
        store.close().unwrap();
        spool
    }

    /// Its file or directory.
    pub fn path(&self) -> PathBuf {
        self.dir().join(match self.kind {
            Kind::Sqlite => "queue.db",
            Kind::Directory => "meta",
        })
    }

    fn locator(&self) -> Locator {
        match self.kind {
            Kind::Sqlite => Locator::Sqlite(self.path()),
            Kind::Directory => Locator::Dir(self.path()),
        }
    }

    /// The directory that all of a test's files are in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A directory outside the mount, for drafts.
    pub fn work(&self) -> PathBuf {
        self.dir().join("work")
    }

    /// Mounts it, with these `-o` options.
    pub fn mount(&self, options: &str) -> Mount {
        Mount::new(self.clone(), options)
    }

    /// Runs a script with bash beside the spool, with the variables that [`Mount::bash`] has.
    #[track_caller]
    pub fn bash(&self, script: &str) -> Output {
        self.start_in(&["bash"], script, self.dir()).wait()
    }

    /// Starts a script in a directory and does not wait.
    pub fn start_in(&self, shell: &[&str], script: &str, directory: &Path) -> Script {
        let (spool, work) = (self.path(), self.work());
        let env = [("SPOOL", &*spool), ("WORK", &*work), ("PROGRAM", program())];
        Script::start(shell, script, directory, &env)
    }

    /// The library's view of it.
    pub fn open(&self) -> Box<dyn Backend> {
        self.locator().open(OpenOptions::default()).unwrap()
    }

    /// Another process's view of it.
    pub fn sql(&self) -> Connection {
        let sql = Connection::open(self.path()).unwrap();
        sql.busy_timeout(DEADLINE).unwrap();
        sql
    }

    /// Runs statements as another writer of the file would.
    #[track_caller]
    pub fn execute(&self, statements: &str) {
        self.sql().execute_batch(statements).unwrap();
    }

    /// The message of that ID, wherever it is.
    #[track_caller]
    pub fn get(&self, id: &str) -> Option<MessageMetadata> {
        let id: MessageId = id.parse().unwrap();
        let stored = self.open().get(&ctx(), &id).unwrap();
        stored.map(|stored| stored.metadata)
    }

    /// Where the message is.
    #[track_caller]
    pub fn state(&self, id: &str) -> Option<QueueState> {
        self.get(id).map(|message| message.state)
    }

    /// Every column of every row, for a comparison.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let sql = self.sql();
        let mut rows = sql.prepare("SELECT * FROM messages ORDER BY id").unwrap();
        let columns = rows.column_count();
        let text = |value: ValueRef| match value {
            ValueRef::Text(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
            other => format!("{other:?}"),
        };
        rows.query_map([], |row| {
            (0..columns)
                .map(|column| row.get_ref(column).map(text))
                .collect()
        })
        .unwrap()
        .map(Result::unwrap)
        .collect()
    }

    /// How many rows SQL counts in the state, or how many files there are.
    pub fn count(&self, state: QueueState) -> u64 {
        if self.kind == Kind::Directory {
            let files = std::fs::read_dir(self.path().join(state.as_str())).unwrap();
            let names = files.map(|file| file.unwrap().file_name());
            let messages = names.filter(|n| n.to_str().unwrap().ends_with(".json"));
            return messages.count() as u64;
        }
        let query = "SELECT count(*) FROM messages WHERE state = ?";
        let count: i64 = self
            .sql()
            .query_row(query, [state.number()], |row| row.get(0))
            .unwrap();
        count as u64
    }
}

/// Time enough for a call.
pub fn ctx() -> Context {
    Context::within(DEADLINE.max(Duration::from_secs(10)))
}
