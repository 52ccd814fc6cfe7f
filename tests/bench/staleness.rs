//! How old is what a reader of the mount sees, while another program changes the file at a given
//! rate: the age of each stale attribute, by its name and through an open file. `scripts/staleness
//! --help` tells how it is run.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use retryspoolfs::backend::sqlite::SqliteFactory;
use retryspoolfs::{Backend, Context, MessageMetadata, QueueState, Timestamp};
use rusqlite::Connection;

/// Changes a spool at given rates beside a mount of it, and measures how old the times are that
/// stat(2) and fstat(2) tell; prints a table in Markdown.
#[derive(Parser)]
#[command(name = "staleness")]
struct Arguments {
    /// Changes a second; may be given several times [default: 1000, 5000, 20000]
    #[arg(long)]
    rate: Vec<u64>,
    /// How long each rate is kept up, in seconds
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// How many messages there are, all of them looked at and changed
    #[arg(long, default_value_t = 2000)]
    messages: usize,
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

/// Seconds and nanoseconds of an Updated.
type Time = (i64, i64);

/// The revisions of a message, each with the moments just before and just after its commit.
struct History(Mutex<Vec<(Time, Instant, Instant)>>);

impl History {
    /// How long ago, at `now`, a reader that sees `time` should have seen something newer.
    fn age(&self, time: Time, now: Instant) -> Duration {
        let revisions = self.0.lock().expect("no writer panicked");
        let next = revisions.partition_point(|(revision, ..)| *revision <= time);
        match revisions.get(next) {
            Some((_, before, after)) if *after <= now => now - *before,
            _ => Duration::ZERO,
        }
    }
}

/// Ages in tenths of a millisecond.
struct Ages(Vec<u64>);

impl Ages {
    fn new() -> Ages {
        Ages(vec![0; 100_000])
    }

    fn add(&mut self, age: Duration) {
        let at = (age.as_micros() as usize).div_ceil(100);
        let last = self.0.len() - 1;
        self.0[at.min(last)] += 1;
    }

    /// In milliseconds, over the looks that `from` is the first bin of.
    fn percentile(&self, from: usize, share: f64) -> f64 {
        let total: u64 = self.0[from..].iter().sum();
        let mut left = total - (total as f64 * share) as u64;
        for (at, count) in self.0.iter().enumerate().skip(from).rev() {
            if *count > 0 && (*count >= left || left == 0) {
                return at as f64 / 10.0;
            }
            left -= count;
        }
        0.0
    }

    fn line(&self) -> String {
        let all: u64 = self.0.iter().sum();
        let stale = all - self.0[0];
        format!(
            "{all} | {:.2} % | {:.1} | {:.1} | {:.1} | {:.1}",
            stale as f64 * 100.0 / all.max(1) as f64,
            self.percentile(1, 0.5),
            self.percentile(0, 0.999),
            self.percentile(1, 0.999),
            self.percentile(0, 1.0),
        )
    }
}

fn id(n: usize) -> String {
    format!("msg-{n:06}")
}

struct Mount(Child, PathBuf);

impl Mount {
    fn new(spool: &Path, point: PathBuf) -> Mount {
        std::fs::create_dir(&point).expect("a mountpoint");
        let child = Command::new(env!("CARGO_BIN_EXE_retryspoolfs"))
            .args(["mount", "--foreground"])
            .args([spool, &point])
            .stdin(Stdio::null())
            .spawn()
            .expect("the program starts");
        while !point.join("deferred").exists() {
            thread::sleep(Duration::from_millis(10));
        }
        Mount(child, point)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.1).status();
        let _ = self.0.wait();
    }
}

/// Changes `rate` messages a second until `over`; gives how many it changed.
fn write(spool: &Path, histories: &[History], rate: u64, over: &AtomicBool) -> u64 {
    let conn = Connection::open(spool).expect("the spool");
    conn.busy_timeout(Duration::from_secs(30)).expect("set");
    conn.pragma_update(None, "synchronous", "NORMAL")
        .expect("set");
    let (begun, mut done) = (Instant::now(), 0);
    while !over.load(Relaxed) {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        let now = Timestamp::now().seconds();
        // One that fell behind catches up in steps: its commits stay short.
        let batch: Vec<usize> = (done..due.min(done + rate / 50 + 1))
            .map(|n| n as usize % histories.len())
            .collect();
        done += batch.len() as u64;
        conn.execute_batch("BEGIN IMMEDIATE").expect("the lock");
        for n in &batch {
            conn.prepare_cached(
                "UPDATE messages SET attempts = attempts + 1, updated = ? WHERE id = ?",
            )
            .and_then(|mut update| update.execute((now, id(*n))))
            .expect("an update");
        }
        let before = Instant::now();
        conn.execute_batch("COMMIT").expect("the commit");
        let after = Instant::now();
        for n in batch {
            let mut revisions = histories[n].0.lock().expect("no reader panicked");
            let (last, ..) = *revisions.last().expect("it was there before");
            let next = if now > last.0 {
                (now, 0)
            } else {
                (last.0, last.1 + 1)
            };
            revisions.push((next, before, after));
        }
        thread::sleep(TICK);
    }
    done
}

/// Looks at one message after the other until `over`.
fn look(histories: &[History], over: &AtomicBool, time: impl Fn(usize) -> Time) -> Ages {
    let mut ages = Ages::new();
    let mut n = 0;
    while !over.load(Relaxed) {
        // A step that meets every message, and not in the writer's order.
        n = (n + 617) % histories.len();
        let begun = Instant::now();
        ages.add(histories[n].age(time(n), begun));
        thread::sleep(LOOK);
    }
    ages
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if arguments.rate.is_empty() {
        arguments.rate = vec![1000, 5000, 20_000];
    }
    println!(
        "| changes/s | reader | looks | stale | p50 of stale, ms | p99.9 of all, ms | p99.9 of stale, ms | oldest, ms |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for rate in arguments.rate {
        let dir = tempfile::tempdir_in(&arguments.dir).expect("a directory");
        let spool = dir.path().join("queue.db");
        let store = SqliteFactory::create_if_missing(&spool).open();
        let store = store.expect("a new spool");
        let updated = Timestamp::new(1_790_000_000, 0).expect("a time");
        for n in 0..arguments.messages {
            let message = MessageMetadata {
                state: QueueState::Deferred,
                updated,
                ..MessageMetadata::new(id(n).parse().expect("an ID"))
            };
            let ctx = Context::within(Duration::from_secs(10));
            store.insert(&ctx, &message).expect("a message");
        }
        store.close().expect("it closes");
        let mount = Mount::new(&spool, dir.path().join("mount"));
        let path = |n| mount.1.join("deferred").join(id(n) + ".json");
        let now = Instant::now();
        let first = ((updated.seconds(), 0), now, now);
        let histories: Vec<History> = (0..arguments.messages)
            .map(|_| History(Mutex::new(vec![first])))
            .collect();
        let opened: Vec<File> = (0..arguments.messages.min(500))
            .map(|n| File::open(path(n)).expect("a message opens"))
            .collect();
        let time = |found: std::fs::Metadata| (found.mtime(), found.mtime_nsec());
        let over = AtomicBool::new(false);
        let (done, begun) = (Mutex::new(0), Instant::now());
        let (by_name, by_handle) = thread::scope(|scope| {
            scope.spawn(|| *done.lock().expect("ours") = write(&spool, &histories, rate, &over));
            let by_name = scope.spawn(|| {
                look(&histories, &over, |n| {
                    time(path(n).metadata().expect("a message is there"))
                })
            });
            let by_handle = scope.spawn(|| {
                look(&histories[..opened.len()], &over, |n| {
                    time(opened[n].metadata().expect("an open file"))
                })
            });
            thread::sleep(Duration::from_secs(arguments.seconds));
            over.store(true, Relaxed);
            let join = |reader: thread::ScopedJoinHandle<Ages>| reader.join().expect("a reader");
            (join(by_name), join(by_handle))
        });
        let reached = *done.lock().expect("ours") as f64 / begun.elapsed().as_secs_f64();
        println!("| {reached:.0} | stat | {} |", by_name.line());
        println!("| {reached:.0} | fstat | {} |", by_handle.line());
        drop(opened);
    }
    ExitCode::SUCCESS
}
