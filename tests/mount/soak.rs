//! A mount over a file that a writer with RetrySpool's statements changes at full speed, while
//! others list, cat and move through it. What is right is known from the store's own log of
//! changes, read beside the mount.
//!
//! `RETRYSPOOLFS_SOAK_SECONDS=600` for the long run. `RETRYSPOOLFS_SOAK_WORKER` names a program that
//! writes in place of the one here: it gets the spool's file, and the name of a file whose appearance
//! ends it.
//!
//! It is long because what is right of all that is done at once is known from one log.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use retryspoolfs::QueueState::{Active, Bounce, Deferred, Hold, Incoming};
use retryspoolfs::backend::{Change, ChangeFeed};
use retryspoolfs::{Backend, Context, MessageId, QueueState, Timestamp};
use serde_json::Value;

use crate::support::{DEADLINE, Mount, Spool, eventually, message, soak};

const MESSAGES: usize = 1000;
/// For how long what was is kept: a look takes less.
const KEPT_MS: i64 = 60_000;
/// How long SQLite's log may become, by README.
const LONGEST_WAL_MIB: u64 = 80;
/// The clock of a change is that of SQLite, to the millisecond.
const CLOCK_MS: i64 = 5;

/// RetrySpool's statements, with the remedy that the README names: the lock before the first
/// statement, and a busy timeout.
const WORKER: &str = r#"
import os, random, sqlite3, time
random.seed(7)
file = sqlite3.connect(os.environ["SPOOL"], timeout=30, isolation_level=None)
file.execute("PRAGMA synchronous=NORMAL")
done, stop = 0, os.environ["WORK"] + "/stop"
while done % 100 or not os.path.exists(stop):
    id, now = f"m-{random.randrange(1000)}", int(time.time())
    a, b = random.choice((0, 2, 2, 3, 4)), random.choice((0, 2, 2, 3, 4))
    file.execute("BEGIN IMMEDIATE")
    match random.choice("smmmmuud"):
        case "s":
            file.execute("""INSERT OR REPLACE INTO messages (id, state, attempts, max_attempts,
                next_retry, created, updated, last_error, size, priority, headers, retry_policy_name)
                VALUES (?, ?, 0, 3, -62135596800, ?, ?, '', ?, 5, '{"to":"b"}', '')""",
                (id, a, now, now, done))
        case "m":
            file.execute("UPDATE messages SET state=?, updated=?, headers=? WHERE id=? AND state=?",
                (b, now, '{"moved":"yes"}', id, a))
        case "u":
            file.execute("UPDATE messages SET attempts=?, updated=?, last_error=? WHERE id=?",
                (done, now, "421 later", id))
        case "d":
            if random.random() < 0.3: file.execute("DELETE FROM messages WHERE id=?", (id,))
    file.execute("COMMIT")
    done += 1
print(done)
"#;

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis() as i64
}

/// What a message became, and when: not before `made` by the writer's clock, and by `seen` it was
/// committed.
#[derive(Clone, Copy)]
struct Step {
    made: i64,
    seen: i64,
    state: Option<QueueState>,
    updated: Timestamp,
}

/// The log of changes, as far as it was read.
#[derive(Default)]
struct Truth {
    messages: HashMap<MessageId, VecDeque<Step>>,
    /// By their numbers, as a reader of `events` will find them.
    changes: VecDeque<Change>,
    /// Moves by mv(1), and how often each was made.
    moves: HashMap<Move, u64>,
    total: u64,
    /// Everything that was committed by then was read.
    covered: i64,
}

/// A message, the state that it was in, and the one that it went to.
type Move = (MessageId, QueueState, QueueState);

struct Log {
    truth: Mutex<Truth>,
    grew: Condvar,
}

impl Log {
    /// Begins with what is stored now.
    fn of(store: &dyn Backend) -> Log {
        let mut truth = Truth::default();
        for state in QueueState::ALL {
            let found = store.scan_stored(&ctx(), state, None, usize::MAX).unwrap();
            for (id, stored) in found {
                let step = Step {
                    made: 0,
                    seen: 0,
                    state: Some(state),
                    updated: stored.unwrap().revision.updated,
                };
                truth.messages.insert(id, [step].into());
            }
        }
        Log {
            truth: Mutex::new(truth),
            grew: Condvar::new(),
        }
    }

    /// Reads the log until `over`, and then to its end.
    fn follow(&self, feed: &dyn ChangeFeed, mut cursor: u64, over: &AtomicBool) {
        const MOST: usize = 4096;
        loop {
            let (last, asked) = (over.load(Relaxed), now_ms());
            let short = Context::within(Duration::from_millis(20));
            let found = feed.changes(&short, cursor, MOST).unwrap();
            assert!(!found.lost, "the test fell behind the log");
            let seen = now_ms();
            cursor = found.cursor;
            let complete = found.changes.len() < MOST;
            let mut truth = self.truth.lock().unwrap();
            for change in found.changes {
                truth.take(change, seen);
            }
            if complete {
                truth.covered = asked;
            }
            drop(truth);
            self.grew.notify_all();
            if last && complete {
                return;
            }
        }
    }

    /// Looks at the log when it tells of everything up to `until`.
    fn after<T>(&self, until: i64, look: impl FnOnce(&mut Truth) -> T) -> T {
        self.once(|truth| truth.covered > until, look)
    }

    /// Looks at the log when it has grown so far.
    fn once<T>(&self, far: impl Fn(&Truth) -> bool, look: impl FnOnce(&mut Truth) -> T) -> T {
        let truth = self.truth.lock().unwrap();
        let waited = self.grew.wait_timeout_while(truth, DEADLINE, |t| !far(t));
        let (mut truth, waited) = waited.unwrap();
        assert!(!waited.timed_out(), "nobody reads the log any more");
        look(&mut truth)
    }
}

impl Truth {
    fn take(&mut self, change: Change, seen: i64) {
        let steps = self.messages.entry(change.id.clone()).or_default();
        let before = steps.back().and_then(|step| step.state);
        assert_eq!(before, change.from, "no change is missing: {change:?}");
        let made = change.at.seconds() * 1000 + i64::from(change.at.nanos() / 1_000_000);
        steps.push_back(Step {
            made,
            seen,
            state: change.to,
            updated: change.revision.updated,
        });
        while steps.get(1).is_some_and(|next| next.seen < seen - KEPT_MS) {
            steps.pop_front();
        }
        let by_mv = change.actor.as_ref().is_some_and(|a| a.command == "mv");
        if let (true, Some(from), Some(to)) = (by_mv, change.from, change.to) {
            let made = self.moves.entry((change.id.clone(), from, to));
            *made.or_default() += 1;
        }
        self.total += 1;
        self.changes.push_back(change);
    }

    /// A listing that took from `begun` to `ended` is right.
    fn check_listing(&self, state: QueueState, names: &[MessageId], begun: i64, ended: i64) {
        let listed: HashSet<&MessageId> = names.iter().collect();
        assert_eq!(listed.len(), names.len(), "a message was listed twice");
        for (id, steps) in &self.messages {
            let is_listed = listed.contains(id);
            let (throughout, at_any_time) = was_in(steps, state, begun, ended);
            assert!(
                !throughout || is_listed,
                "{id} was in {state} and not listed"
            );
            assert!(
                !is_listed || at_any_time,
                "{id} was listed and not in {state}"
            );
        }
    }

    /// A message that was not found between `begun` and `ended` was not there all the time.
    fn check_absent(&self, state: QueueState, name: &str, begun: i64, ended: i64) {
        let id: MessageId = name.strip_suffix(".json").unwrap().parse().unwrap();
        if let Some(steps) = self.messages.get(&id) {
            let (throughout, _) = was_in(steps, state, begun, ended);
            assert!(!throughout, "{id} was in {state} and not found");
        }
    }

    /// A document that was opened after `begun` was current then, or later.
    fn check_document(&self, text: &str, path: &str, begun: i64) {
        let document: Value = serde_json::from_str(text).expect("a document is whole");
        let id = document["ID"].as_str().unwrap();
        assert!(path.ends_with(&format!("/{id}.json")));
        let updated = document["Updated"].as_str().unwrap();
        let steps = &self.messages[&id.parse::<MessageId>().unwrap()];
        let state = QueueState::from_number(document["State"].as_i64().unwrap());
        // A message that was deleted and made again may have had this Updated in both lives.
        let is_current = |(nth, step): (usize, &Step)| {
            let replaced = steps.get(nth + 1);
            step.updated.to_string() == updated
                && step.state == state
                && replaced.is_none_or(|next| next.seen >= begun)
        };
        assert!(
            steps.iter().enumerate().any(is_current),
            "{id} at {updated} was out of date"
        );
    }
}

/// Whether a message was in the state throughout, and whether it was at any time.
fn was_in(steps: &VecDeque<Step>, state: QueueState, begun: i64, ended: i64) -> (bool, bool) {
    let (mut throughout, mut at_any_time) = (false, false);
    for (nth, step) in steps.iter().enumerate() {
        if step.state != Some(state) {
            continue;
        }
        // It may have stayed through changes that left it where it was.
        let mut rest = steps.iter().skip(nth);
        let left = rest.find(|later| later.state != Some(state));
        throughout |= step.seen < begun && left.is_none_or(|left| left.made - CLOCK_MS > ended);
        at_any_time |= step.made - CLOCK_MS <= ended && left.is_none_or(|left| left.seen >= begun);
    }
    (throughout, at_any_time)
}

fn ctx() -> Context {
    Context::within(DEADLINE)
}

/// Runs a program in the mount; gives its output if it succeeded, and its complaint if not.
fn run(mount: &Mount, program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(mount.point())
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    // The last one is mv(1)'s, of a message that it found under its old name and then its new one.
    let fine = [
        "No such file or directory",
        "resource busy",
        "are the same file",
    ];
    assert!(
        output.status.success() || fine.iter().any(|errno| complaint.contains(errno)),
        "{program} {arguments:?}: {complaint}"
    );
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(complaint.into_owned()),
    }
}

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn state(&mut self) -> QueueState {
        [Incoming, Deferred, Deferred, Hold, Bounce][self.below(5)]
    }
}

/// Lists with the names alone, and with `ls -l`.
fn list(mount: &Mount, log: &Log, over: &AtomicBool) -> u64 {
    let (mut dice, mut done) = (Dice(1), 0);
    while !over.load(Relaxed) {
        let state = dice.state();
        let begun = now_ms();
        // A file that goes while `ls -l` looks at it is a complaint of its own, or has no attributes.
        let form = ["-1U", "-lU"][dice.below(2)];
        let output = Command::new("ls")
            .args([form, state.as_str()])
            .current_dir(mount.point())
            .output()
            .unwrap();
        let ended = now_ms();
        let text = String::from_utf8(output.stdout).unwrap();
        let names: Vec<MessageId> = text
            .lines()
            .filter_map(|line| {
                line.split(' ')
                    .next_back()?
                    .strip_suffix(".json")?
                    .parse()
                    .ok()
            })
            .collect();
        log.after(ended, |truth| {
            truth.check_listing(state, &names, begun, ended);
        });
        done += 1;
    }
    done
}

fn cat(mount: &Mount, log: &Log, over: &AtomicBool) -> u64 {
    let (mut dice, mut done) = (Dice(2), 0);
    while !over.load(Relaxed) {
        let (state, name) = (dice.state(), format!("m-{}.json", dice.below(MESSAGES)));
        let path = format!("{state}/{name}");
        let begun = now_ms();
        let shown = run(mount, "cat", &[&path]);
        let ended = now_ms();
        log.after(ended, |truth| match &shown {
            Ok(text) => truth.check_document(text, &path, begun),
            Err(_) => truth.check_absent(state, &name, begun, ended),
        });
        done += u64::from(shown.is_ok());
    }
    done
}

/// Moves messages, and gives what it moved.
fn move_some(mount: &Mount, log: &Log, seed: u64, over: &AtomicBool) -> Vec<Move> {
    let (mut dice, mut done) = (Dice(seed), Vec::new());
    while !over.load(Relaxed) {
        let name = format!("m-{}.json", dice.below(MESSAGES));
        let (from, to) = (dice.state(), [Hold, Deferred, Active][dice.below(3)]);
        if from == to {
            continue;
        }
        let begun = now_ms();
        let moved = run(mount, "mv", &[&format!("{from}/{name}"), to.as_str()]);
        let ended = now_ms();
        match moved {
            Ok(_) => done.push((
                name.strip_suffix(".json").unwrap().parse().unwrap(),
                from,
                to,
            )),
            Err(why) if why.contains("No such file") => {
                log.after(ended, |truth| truth.check_absent(from, &name, begun, ended));
            }
            Err(_) => {}
        }
    }
    done
}

/// Reads `events` as they come until the change of number `last`, and compares them with the log.
/// How many there were, and how many are missing where the reader was told so.
fn read_events(mount: &Mount, log: &Log, first: u64, last: &AtomicU64) -> (u64, u64) {
    let mut file = File::open(mount.path(".retryspool/events")).unwrap();
    let (mut pending, mut buffer) = (Vec::new(), vec![0; 1 << 17]);
    let (mut seq, mut count, mut missing, mut lost) = (first, 0, 0, false);
    while seq < last.load(Relaxed) {
        let mut wait = libc::pollfd {
            fd: file.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, as said.
        assert!(unsafe { libc::poll(&mut wait, 1, 1000) } >= 0);
        let read = file.read(&mut buffer).unwrap();
        pending.extend_from_slice(&buffer[..read]);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if line.len() == 1 {
                continue;
            }
            let Ok(event) = serde_json::from_slice::<Value>(&line) else {
                // What was begun before a gap.
                missing += 1;
                continue;
            };
            if event["op"] == "lost" {
                lost = true;
                continue;
            }
            let next = event["seq"].as_u64().unwrap();
            let gap = next - seq - 1;
            assert!(next > seq && (gap == 0 || lost), "{seq} then {next}");
            (missing, lost, seq) = (missing + gap, false, next);
            count += 1;
            let is_there = |truth: &Truth| truth.changes.back().is_some_and(|c| c.seq >= next);
            let change = log.once(is_there, |truth| {
                while truth.changes.front().is_some_and(|c| c.seq < next) {
                    truth.changes.pop_front();
                }
                truth.changes.pop_front().unwrap()
            });
            let text = |state: Option<QueueState>| state.map(|s| s.as_str().to_owned());
            assert_eq!(change.seq, next);
            assert_eq!(event["id"], change.id.as_str());
            assert_eq!(event["from"].as_str().map(str::to_owned), text(change.from));
            assert_eq!(event["to"].as_str().map(str::to_owned), text(change.to));
        }
    }
    (count, missing)
}

#[test]
fn beside_a_writer_at_full_speed_nothing_is_missed_or_stale() {
    let spool = Spool::with((0..MESSAGES).map(|n| message(&format!("m-{n}"), Deferred)));
    let mount = spool.mount("");
    let store = spool.open();
    let feed = store.change_feed().unwrap();
    let first = feed.newest(&ctx()).unwrap();
    let log = Log::of(&*store);
    let limit = soak() + DEADLINE;
    let worker = match std::env::var("RETRYSPOOLFS_SOAK_WORKER") {
        Ok(program) => {
            let script = format!("exec {program} \"$SPOOL\" \"$WORK/stop\"");
            mount.start_in(&["bash"], &script)
        }
        Err(_) => mount.start_in(&["python3"], WORKER),
    };
    let worker = worker.within(limit);
    let (over, written) = (AtomicBool::new(false), AtomicBool::new(false));
    let last = AtomicU64::new(u64::MAX);
    let end = || {
        over.store(true, Relaxed);
        written.store(true, Relaxed);
        last.store(0, Relaxed);
        let _ = File::create(spool.work().join("stop"));
    };
    let (lists, cats, moves, events) = thread::scope(|scope| {
        let _end = End(&end);
        scope.spawn(|| log.follow(feed, first, &written));
        let lists = scope.spawn(|| list(&mount, &log, &over));
        let cats = scope.spawn(|| cat(&mount, &log, &over));
        let movers = [3, 4].map(|seed| {
            let (mount, log, over) = (&mount, &log, &over);
            scope.spawn(move || move_some(mount, log, seed, over))
        });
        let events = scope.spawn(|| read_events(&mount, &log, first, &last));
        let ends = now_ms() + soak().as_millis() as i64;
        eventually_within(limit, "the time is over", || now_ms() > ends);
        over.store(true, Relaxed);
        let (lists, cats) = (lists.join(), cats.join());
        let moves = movers.map(|mover| mover.join().unwrap());
        File::create(spool.work().join("stop")).unwrap();
        worker.wait().ok();
        last.store(feed.newest(&ctx()).unwrap(), Relaxed);
        let events = events.join().unwrap();
        written.store(true, Relaxed);
        (lists.unwrap(), cats.unwrap(), moves.concat(), events)
    });
    let truth = log.truth.into_inner().unwrap();
    // SQLite writes its log anew from the beginning and never makes the file shorter.
    let wal = std::fs::metadata(spool.dir().join("queue.db-wal")).unwrap();
    let wal = wal.len() >> 20;
    println!(
        "{} changes; {lists} listings, {cats} documents, {} moves; {} events, {} missed by their \
         reader; SQLite's log had {wal} MiB at most",
        truth.total,
        moves.len(),
        events.0,
        events.1
    );
    assert!(wal <= LONGEST_WAL_MIB, "{wal} MiB");
    assert!(lists > 0 && cats > 0 && !moves.is_empty() && events.0 > 0);
    let mut made: HashMap<Move, u64> = HashMap::new();
    for one in moves {
        *made.entry(one).or_default() += 1;
    }
    assert_eq!(truth.moves, made, "each mv that succeeded is one change");
    assert_eq!(events.0 + events.1, truth.total);
    for state in [Incoming, Active, Deferred, Hold, Bounce] {
        let is = |steps: &&VecDeque<Step>| steps.back().unwrap().state == Some(state);
        let count = truth.messages.values().filter(is).count() as u64;
        let counter = store.state_counter().unwrap();
        assert_eq!(counter.get_state_count(&ctx(), state).unwrap(), count);
        assert_eq!(spool.count(state), count, "{state}");
        let counted = format!("ls -A {state} | wc -l; stat -c %s {state}");
        eventually("the mount counts the same", || {
            mount.bash(&counted).ok() == format!("{count}\n{count}")
        });
    }
}

/// A test that fails ends all that it began.
struct End<'a>(&'a dyn Fn());

impl Drop for End<'_> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn eventually_within(limit: Duration, what: &str, mut is: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is() {
        assert!(begun.elapsed() < limit, "never came true: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
