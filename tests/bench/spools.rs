//! What is measured: the same messages behind this mount, in the floor, in plain directories, in
//! the library and in raw SQLite.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use retryspoolfs::backend::sqlite::{SqliteFactory, schema};
use retryspoolfs::{Backend, MessageMetadata, QueueState, Timestamp, document};
use rusqlite::Connection;

/// The directories; every message begins in the first.
pub const DIRS: [&str; 5] = ["deferred", "hold", "active", "bounce", "incoming"];

/// RetrySpool's own indexes.
const INDEXES: &str = "
CREATE INDEX idx_messages_state ON messages(state, created);
CREATE INDEX idx_messages_state_priority ON messages(state, priority DESC, created);
CREATE INDEX idx_messages_next_retry ON messages(next_retry) WHERE state = 2;
CREATE INDEX idx_messages_created ON messages(created);
CREATE INDEX idx_messages_updated ON messages(updated);
";

/// At this size only what must not depend on it is measured.
pub const HUGE: u64 = 5_000_000;

/// When the first message was made; one came each tenth of a second.
const BEGIN: i64 = 1_790_000_000;

fn mixed(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// The ID of a message, by its number: a random UUID's form.
pub fn name(n: u64) -> String {
    let (a, b) = (mixed(n + 1), mixed(!n));
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}

/// The message of that number.
pub fn message(n: u64) -> MessageMetadata {
    let created = BEGIN + n as i64 / 10;
    let time = |seconds, nanos| Timestamp::new(seconds, nanos).expect("a time of this century");
    MessageMetadata {
        state: QueueState::Deferred,
        attempts: (n % 7) as i64 + 1,
        next_retry: time(created + 900, 0),
        created: time(created, 0),
        updated: time(created + 60, 0),
        last_error: "451 4.7.1 Greylisted, try again in 300 seconds".into(),
        size: 2048 + (n % 977) as i64,
        priority: (n % 10) as i64,
        headers: [
            ("from", format!("sender{}@example.org", n % 1000)),
            ("subject", format!("Weekly report {n}")),
            ("to", format!("user{n}@example.com")),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
        ..MessageMetadata::new(name(n).parse().expect("a UUID is an ID"))
    }
}

/// The document of a message.
pub fn document_of(n: u64) -> Vec<u8> {
    document::render(&message(n))
}

/// Without an Updated: it is accepted whatever is stored.
pub fn edited(n: u64, round: u64) -> Vec<u8> {
    let text = String::from_utf8(document_of(n)).expect("JSON is text");
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("\"Updated\""));
    let text: Vec<&str> = lines.collect();
    let text = text.join("\n") + "\n";
    text.replace(
        "\"Attempts\": ",
        &format!("\"Attempts\": {}", round % 9 + 1),
    )
    .into_bytes()
}

/// Where the files of one size are; what is there already is used again.
pub struct Place {
    pub dir: PathBuf,
    pub messages: u64,
}

impl Place {
    /// A SQLite spool of all messages, a copy of its own for each `purpose`.
    pub fn spool(&self, purpose: &str, indexes: bool) -> PathBuf {
        let base = self.dir.join("base.db");
        if !base.exists() {
            let making = self.dir.join("making.db");
            let _ = fs::remove_file(&making);
            fill(&making, self.messages);
            fs::rename(&making, &base).expect("the spool gets its name");
        }
        let copy = self.dir.join(format!("{purpose}.db"));
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(self.dir.join(format!("{purpose}.db{suffix}")));
        }
        fs::copy(&base, &copy).expect("a copy of the spool");
        if indexes {
            let conn = Connection::open(&copy).expect("the copy");
            conn.execute_batch(INDEXES).expect("RetrySpool's indexes");
        }
        // What the copies left to write would slow down whoever is measured first.
        // SAFETY: no preconditions.
        unsafe { libc::sync() };
        copy
    }

    /// Bytes that the disk below has been given so far, by anybody; `None` where there is no one disk.
    /// What a process is said to have written is the kernel's pages that it touched, whole large ones.
    pub fn written_bytes(&self) -> Option<u64> {
        // SAFETY: no preconditions.
        unsafe { libc::sync() };
        let device = fs::metadata(&self.dir).ok()?.dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let counters = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
        let sectors: u64 = counters.split_whitespace().nth(6)?.parse().ok()?;
        Some(sectors * 512)
    }

    /// A directory with the same files.
    pub fn plain(&self, root: &Path) -> PathBuf {
        let done = root.join("complete");
        if !done.exists() {
            eprintln!("making {} files below {}", self.messages, root.display());
            for dir in DIRS {
                fs::create_dir_all(root.join(dir)).expect("a directory");
            }
            for n in 0..self.messages {
                let path = root.join(DIRS[0]).join(name(n) + ".json");
                File::create(path)
                    .and_then(|mut file| file.write_all(&document_of(n)))
                    .expect("a file");
            }
            File::create(done).expect("a file");
        }
        root.to_owned()
    }
}

fn fill(path: &Path, messages: u64) {
    eprintln!("making a spool of {messages} messages");
    let store = SqliteFactory::create_if_missing(path)
        .open()
        .expect("a new spool");
    store.close().expect("the spool is closed");
    // As they come to a queue: the rows lie in the order of age, and in none of IDs.
    let mut numbers: Vec<u64> = (0..messages).collect();
    if messages >= HUGE {
        // In the order of IDs, which fills the tables in their own order and takes minutes, not hours.
        numbers.sort_by_cached_key(|n| name(*n));
    }
    let mut conn = Connection::open(path).expect("the spool");
    conn.pragma_update(None, "cache_size", -262_144)
        .expect("a setting");
    let sql = "INSERT INTO messages VALUES (?1, 2, ?2, 10, ?3, ?4, ?5, ?6, ?7, ?8, ?9, '')";
    for some in numbers.chunks(50_000) {
        let transaction = conn.transaction().expect("a transaction");
        for n in some {
            let m = message(*n);
            let headers = serde_json::to_string(&m.headers).expect("JSON");
            let mut insert = transaction.prepare_cached(sql).expect("the statement");
            insert
                .execute((
                    m.id.as_str(),
                    m.attempts,
                    m.next_retry.seconds(),
                    m.created.seconds(),
                    m.updated.seconds(),
                    m.last_error,
                    m.size,
                    m.priority,
                    headers,
                ))
                .expect("a row");
        }
        transaction.commit().expect("a commit");
    }
    let checkpoint = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    checkpoint.expect("a checkpoint");
    assert_eq!(schema::VERSION, version(&conn));
}

fn version(conn: &Connection) -> i64 {
    conn.query_row("PRAGMA user_version", [], |row| row.get(0))
        .expect("the version")
}

/// A mounted filesystem and the process behind it.
pub struct Mounted {
    pub point: PathBuf,
    daemon: Child,
}

impl Mounted {
    /// This program's mount of a spool.
    pub fn spool(spool: &Path, point: &Path) -> Mounted {
        let mut command = Command::new(env!("CARGO_BIN_EXE_retryspoolfs"));
        command
            .args(["mount", "--foreground"])
            .arg(spool)
            .arg(point);
        Mounted::start(command, point)
    }

    /// The floor, which is this very program.
    pub fn floor(messages: u64, point: &Path) -> Mounted {
        let program = std::env::current_exe().expect("this program's path");
        let mut command = Command::new(program);
        command
            .arg("--floor")
            .arg(point)
            .args(["--messages", &messages.to_string()]);
        Mounted::start(command, point)
    }

    fn start(mut command: Command, point: &Path) -> Mounted {
        fs::create_dir_all(point).expect("the mountpoint");
        let daemon = command
            .stdin(Stdio::null())
            .spawn()
            .expect("the daemon starts");
        let start = Instant::now();
        while !point.join(DIRS[0]).exists() {
            assert!(
                start.elapsed() < Duration::from_secs(120),
                "nothing is mounted on {}",
                point.display()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Mounted {
            point: point.to_owned(),
            daemon,
        }
    }

    /// Bytes of private pages of the process.
    pub fn private_bytes(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.daemon.id());
        let text = fs::read_to_string(path).expect("the daemon's memory");
        let number = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
        let private = text.lines().filter(|line| line.starts_with("Private_"));
        private.filter_map(number).sum::<u64>() * 1024
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.point).status();
        let _ = self.daemon.wait();
    }
}
