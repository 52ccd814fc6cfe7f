//! How old is what a reader of the mount sees, while another program changes the file at a given
//! rate: the age of each stale attribute, by its name and through an open file, and of each name
//! that a message has left, or has got, without the reader seeing it. And how many requests it costs
//! a reader of what nobody changes that others' messages are moved. `scripts/staleness --help` tells
//! how it is run.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use retryspoolfs::QueueState::{self, Deferred, Hold};
use retryspoolfs::backend::sqlite::SqliteFactory;
use retryspoolfs::{Backend, Context, MessageMetadata, Timestamp};
use rusqlite::Connection;

use history::{Ages, History};

#[path = "history.rs"]
mod history;

/// Changes and moves messages at given rates beside a mount of their spool, and measures how old is
/// what stat(2) and fstat(2) tell; then counts the requests of a reader of what nobody changes.
/// Prints two tables in Markdown.
#[derive(Parser)]
#[command(name = "staleness")]
struct Arguments {
    /// Changes a second; may be given several times [default: 1000, 5000, 20000]
    #[arg(long)]
    rate: Vec<u64>,
    /// How long each rate is kept up, in seconds
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// How many messages are changed, all of them looked at
    #[arg(long, default_value_t = 2000)]
    messages: usize,
    /// How many messages nobody changes the reader of such looks at
    #[arg(long, default_value_t = 10_000)]
    unchanged: usize,
    /// Where the spool is made
    #[arg(long, default_value = "/tmp")]
    dir: PathBuf,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// How often the writer commits.
const TICK: Duration = Duration::from_millis(5);
/// How often a reader looks.
const LOOK: Duration = Duration::from_micros(100);
/// How many messages the reader of names looks at: so few that it comes back to each before the
/// kernel is told anything.
const NAMED: usize = 16;
/// How often, all together, these are moved: each stays where it is for a while, so that what is
/// stale stays stale.
const NAMED_MOVES: u64 = 80;
/// How often messages are changed beside a reader of what nobody changes.
const OTHERS: u64 = 100;

/// What the writer does to a message, in RetrySpool's words.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    Update,
    Move,
}

fn id(n: usize) -> String {
    format!("msg-{n:06}")
}

fn open(spool: &Path) -> Connection {
    let conn = Connection::open(spool).expect("the spool");
    conn.busy_timeout(Duration::from_secs(30)).expect("set");
    conn.pragma_update(None, "synchronous", "NORMAL")
        .expect("set");
    conn
}

/// The nth change of a message: it begins in `deferred`, and each move is to the other state.
fn change(conn: &Connection, change: Change, message: usize, nth: usize, now: i64) {
    let changed = match change {
        Change::Update => conn
            .prepare_cached("UPDATE messages SET attempts = attempts + 1, updated = ? WHERE id = ?")
            .and_then(|mut update| update.execute((now, id(message)))),
        Change::Move => {
            let [from, to] = [nth - 1, nth].map(|nth| state(nth).number());
            conn.prepare_cached(
                "UPDATE messages SET state = ?, updated = ? WHERE id = ? AND state = ?",
            )
            .and_then(|mut update| update.execute((to, now, id(message), from)))
        }
    };
    assert_eq!(changed.expect("a statement"), 1);
}

/// Where a message is after so many moves.
fn state(moves: usize) -> QueueState {
    [Deferred, Hold][moves % 2]
}

/// Changes `rate` messages a second until `over`; gives how many it changed.
fn write(spool: &Path, histories: &[History], what: Change, rate: u64, over: &AtomicBool) -> u64 {
    let conn = open(spool);
    let (begun, mut done) = (Instant::now(), 0);
    // Of moves, those of the first messages are few.
    let every = (rate / NAMED_MOVES).max(1);
    let pick = |n: u64| match what {
        Change::Move if n.is_multiple_of(every) => (n / every) as usize % NAMED,
        Change::Move => NAMED + n as usize % (histories.len() - NAMED),
        Change::Update => n as usize % histories.len(),
    };
    while !over.load(Relaxed) {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        let now = Timestamp::now().seconds();
        // One that fell behind catches up in steps: its commits stay short.
        let batch = done..due.min(done + rate / 50 + 1);
        conn.execute_batch("BEGIN IMMEDIATE").expect("the lock");
        for n in batch.clone().map(pick) {
            change(&conn, what, n, histories[n].changes() + 1, now);
            histories[n].begin(now);
        }
        let before = Instant::now();
        conn.execute_batch("COMMIT").expect("the commit");
        let after = Instant::now();
        batch
            .clone()
            .map(pick)
            .for_each(|n| histories[n].commit(before, after));
        done = batch.end;
        thread::sleep(TICK);
    }
    done
}

/// Looks at one message after the other until `over`.
fn look(histories: &[History], over: &AtomicBool, mut at: impl FnMut(usize)) {
    let mut n = 0;
    while !over.load(Relaxed) {
        // A step that meets every message, and not in the writer's order.
        n = (n + 617) % histories.len();
        at(n);
        thread::sleep(LOOK);
    }
}

/// The ages of times.
fn times(
    histories: &[History],
    over: &AtomicBool,
    stat: impl Fn(usize) -> std::fs::Metadata,
) -> Ages {
    let mut ages = Ages::new();
    look(histories, over, |n| {
        let begun = Instant::now();
        let found = stat(n);
        ages.add(histories[n].age((found.mtime(), found.mtime_nsec()), begun));
    });
    ages
}

/// The ages of names that are found and should be gone, and of names that should be found.
fn names(mount: &Mount, histories: &[History], over: &AtomicBool) -> [Ages; 2] {
    let mut ages = [Ages::new(), Ages::new()];
    look(&histories[..NAMED], over, |n| {
        for in_state in [0, 1] {
            let path = mount.path(state(in_state), n);
            let begun = Instant::now();
            let found = path.symlink_metadata().is_ok();
            let age = histories[n].age_of_name(in_state, found, begun, Instant::now());
            ages[usize::from(!found)].add(age);
        }
    });
    ages
}

/// A mount of a new spool, both gone in the end.
struct Mount {
    daemon: Child,
    dir: tempfile::TempDir,
}

impl Mount {
    /// With so many messages, all in `deferred`, with an Updated of so many seconds.
    fn new(dir: &Path, messages: usize, updated: i64) -> Mount {
        let dir = tempfile::tempdir_in(dir).expect("a directory");
        let (spool, point) = (dir.path().join("queue.db"), dir.path().join("mount"));
        let store = SqliteFactory::create_if_missing(&spool).open();
        let store = store.expect("a new spool");
        let messages: Vec<MessageMetadata> = (0..messages)
            .map(|n| MessageMetadata {
                state: Deferred,
                updated: Timestamp::new(updated, 0).expect("a time"),
                ..MessageMetadata::new(id(n).parse().expect("an ID"))
            })
            .collect();
        let ctx = Context::within(Duration::from_secs(600));
        for stored in store.insert_all(&ctx, &messages) {
            stored.expect("a message");
        }
        store.close().expect("it closes");
        std::fs::create_dir(&point).expect("a mountpoint");
        let daemon = Command::new(env!("CARGO_BIN_EXE_retryspoolfs"))
            .args(["mount", "--foreground"])
            .args([spool, point])
            .stdin(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mount = Mount { daemon, dir };
        while !mount.point().join("deferred").exists() {
            thread::sleep(Duration::from_millis(10));
        }
        mount
    }

    fn spool(&self) -> PathBuf {
        self.dir.path().join("queue.db")
    }

    fn point(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    fn path(&self, state: QueueState, n: usize) -> PathBuf {
        self.point().join(state.as_str()).join(id(n) + ".json")
    }

    /// How many lookups and getattrs it has answered.
    fn asked(&self) -> u64 {
        let metrics = std::fs::read_to_string(self.point().join(".retryspool/metrics"));
        let metrics = metrics.expect("metrics");
        ["lookup", "getattr"]
            .iter()
            .map(|kind| {
                let name = format!("retryspool_operations_total{{op=\"{kind}\"}} ");
                let mut lines = metrics.lines();
                let number = lines.find_map(|line| line.strip_prefix(&name));
                number.and_then(|number| number.parse().ok()).unwrap_or(0.0) as u64
            })
            .sum()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.point()).status();
        let _ = self.daemon.wait();
    }
}

/// The second in which all messages were stored.
const STORED: i64 = 1_790_000_000;

/// The table's rows of one rate and kind of change.
fn measure(arguments: &Arguments, what: Change, rate: u64) {
    let count = match what {
        Change::Update => arguments.messages.max(rate as usize / 20),
        // None is moved more than once a second, but for the first.
        Change::Move => arguments.messages.max(rate as usize),
    };
    let mount = Mount::new(&arguments.dir, count, STORED);
    let histories: Vec<History> = (0..count).map(|_| History::new(STORED)).collect();
    let opened: Vec<File> = (0..count.min(500))
        .map(|n| File::open(mount.path(Deferred, n)).expect("a message opens"))
        .collect();
    let over = AtomicBool::new(false);
    let (done, begun) = (Mutex::new(0), Instant::now());
    let rows = thread::scope(|scope| {
        let (histories, over, mount) = (&histories, &over, &mount);
        let done = &done;
        scope.spawn(move || {
            *done.lock().expect("ours") = write(&mount.spool(), histories, what, rate, over);
        });
        let readers = match what {
            Change::Update => {
                let by_name = scope.spawn(|| {
                    times(histories, over, |n| {
                        let found = mount.path(Deferred, n).metadata();
                        found.expect("a message is there")
                    })
                });
                let by_handle = scope.spawn(|| {
                    times(&histories[..opened.len()], over, |n| {
                        opened[n].metadata().expect("an open file")
                    })
                });
                vec![("times, stat", by_name), ("times, fstat", by_handle)]
            }
            Change::Move => Vec::new(),
        };
        let named = (what == Change::Move).then(|| scope.spawn(|| names(mount, histories, over)));
        thread::sleep(Duration::from_secs(arguments.seconds));
        over.store(true, Relaxed);
        let mut rows: Vec<(&str, Ages)> = readers
            .into_iter()
            .map(|(what, reader)| (what, reader.join().expect("a reader")))
            .collect();
        if let Some(named) = named {
            let [old, new] = named.join().expect("a reader");
            rows.extend([
                ("names that are gone, found", old),
                ("names that are there, not found", new),
            ]);
        }
        rows
    });
    let reached = *done.lock().expect("ours") as f64 / begun.elapsed().as_secs_f64();
    for (what, ages) in rows {
        println!("| {reached:.0} | {what} | {} |", ages.line());
    }
}

/// The row of a reader of what nobody changes: how many of its looks reach the mount.
fn unchanged(arguments: &Arguments, title: &str, others: Option<Change>, listed: bool) {
    const MESSAGES: usize = 1000;
    let first = arguments.unchanged;
    let mount = Mount::new(&arguments.dir, first + MESSAGES, STORED);
    let paths: Vec<PathBuf> = (0..first).map(|n| mount.path(Deferred, n)).collect();
    let look = || {
        for path in &paths {
            path.symlink_metadata().expect("a message is there");
        }
    };
    if listed {
        let deferred = std::fs::read_dir(mount.point().join("deferred")).expect("a listing");
        for entry in deferred {
            entry.and_then(|entry| entry.metadata()).expect("a message");
        }
    }
    look();
    let over = AtomicBool::new(false);
    let (looks, asked, took) = thread::scope(|scope| {
        scope.spawn(|| {
            let (conn, begun, mut done) = (open(&mount.spool()), Instant::now(), 0);
            while let Some(what) = others.filter(|_| !over.load(Relaxed)) {
                let now = Timestamp::now().seconds();
                change(
                    &conn,
                    what,
                    first + done % MESSAGES,
                    done / MESSAGES + 1,
                    now,
                );
                done += 1;
                let due = Duration::from_secs_f64(done as f64 / OTHERS as f64);
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
        });
        let (before, begun, mut looks) = (mount.asked(), Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(arguments.seconds) {
            look();
            looks += paths.len();
        }
        let took = begun.elapsed();
        over.store(true, Relaxed);
        (looks, mount.asked() - before, took)
    });
    println!(
        "| {title} | {:.0} | {:.0} | {:.2} % |",
        looks as f64 / took.as_secs_f64(),
        asked as f64 / took.as_secs_f64(),
        asked as f64 * 100.0 / looks as f64,
    );
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if arguments.rate.is_empty() {
        arguments.rate = vec![1000, 5000, 20_000];
    }
    println!(
        "| changes/s | what is seen | looks | stale | p50, ms | p99, ms | p99.9, ms | oldest, ms |"
    );
    println!("|--:|---|--:|--:|--:|--:|--:|--:|");
    for rate in &arguments.rate {
        measure(&arguments, Change::Update, *rate);
        measure(&arguments, Change::Move, *rate);
    }
    if arguments.unchanged > 0 {
        println!(
            "\n| beside a reader of {} messages that nobody changes | looks/s | requests/s | share |",
            arguments.unchanged
        );
        println!("|---|--:|--:|--:|");
        unchanged(&arguments, "nothing", None, false);
        unchanged(
            &arguments,
            "100 others a second are updated",
            Some(Change::Update),
            true,
        );
        unchanged(
            &arguments,
            "100 others a second are moved",
            Some(Change::Move),
            false,
        );
        unchanged(
            &arguments,
            "100 others a second that were listed are moved",
            Some(Change::Move),
            true,
        );
    }
    ExitCode::SUCCESS
}
