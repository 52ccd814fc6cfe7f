//! How writes share a commit, how flushes are shared, and what happens when either fails.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use retryspoolfs::QueueState::{Active, Deferred, Hold};
use retryspoolfs::backend::Proposal;
use retryspoolfs::backend::sqlite::faults::Point;
use retryspoolfs::backend::sqlite::{SqliteBackend, SqliteFactory};
use retryspoolfs::{Backend, Context, Error};

use super::support::{assert_exact, connect, open};
use crate::contract::{ctx, id, message};

fn spool() -> (tempfile::TempDir, SqliteBackend) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("queue.db"));
    (directory, store)
}

#[test]
fn a_lone_write_is_one_commit_at_once() {
    let (_directory, store) = spool();
    for n in 0..20 {
        let before = store.counters().commits;
        store
            .insert(&ctx(), &message(&format!("m{n}"), Hold))
            .unwrap();
        assert_eq!(store.counters().commits, before + 1);
    }
    // What changes nothing is no commit.
    let before = store.counters().commits;
    assert!(store.delete_meta(&ctx(), &id("none")).is_err());
    assert!(store.insert(&ctx(), &message("m1", Hold)).is_err());
    store.relocate(&ctx(), &id("m1"), Hold, Hold).unwrap();
    assert_eq!(store.counters().commits, before);
}

/// Keeps the write lock, as another process would, while `run` gathers the callers; lets go when
/// all of them are in the queue.
fn gathered(
    directory: &tempfile::TempDir,
    store: &SqliteBackend,
    callers: u64,
    run: impl Fn(u64) + Sync,
) {
    let blocker = connect(&directory.path().join("queue.db"));
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let before = store.counters().operations;
    thread::scope(|scope| {
        for n in 0..callers {
            let run = &run;
            scope.spawn(move || run(n));
        }
        while store.counters().operations < before + callers {
            thread::yield_now();
        }
        blocker.execute_batch("COMMIT").unwrap();
    });
}

#[test]
fn concurrent_writes_share_a_commit_and_have_their_own_results() {
    let (directory, store) = spool();
    store.insert(&ctx(), &message("taken", Active)).unwrap();
    let before = store.counters();
    gathered(&directory, &store, 16, |n| match n % 4 {
        0 => drop(
            store
                .insert(&ctx(), &message(&format!("m{n}"), Hold))
                .unwrap(),
        ),
        1 => assert!(matches!(
            store.insert(&ctx(), &message("taken", Hold)),
            Err(Error::AlreadyExists { state: Active })
        )),
        2 => assert!(matches!(
            store.delete_meta(&ctx(), &id("none")),
            Err(Error::NotFound)
        )),
        _ => assert!(matches!(
            store.relocate(&ctx(), &id("taken"), Hold, Deferred),
            Err(Error::StateConflict { actual: Active, .. })
        )),
    });
    let after = store.counters();
    assert_eq!(after.operations - before.operations, 16);
    // One, but for a machine so slow that the transaction's time was over first.
    assert!(after.commits - before.commits < 4, "{before:?} {after:?}");
    assert_eq!(store.state_info(&ctx(), Hold).unwrap().count, 4);
}

#[test]
fn many_changes_leave_others_their_turn() {
    let (directory, store) = spool();
    let mut seen: Vec<_> = (0..1000)
        .map(|n| {
            let message = message(&format!("m{n:04}"), Deferred);
            let seen = store.insert(&ctx(), &message).unwrap();
            (message.id, seen)
        })
        .collect();
    let before = store.counters();
    let came_between = AtomicBool::new(false);
    let ended = AtomicBool::new(false);
    let mut rounds = 0;
    let mut refused = None;
    thread::scope(|scope| {
        scope.spawn(|| {
            let other = connect(&directory.path().join("queue.db"));
            // Each of its transactions that ran between two of ours has seen some moved, not all.
            while !ended.load(Ordering::Relaxed) {
                other.execute_batch("BEGIN IMMEDIATE").unwrap();
                let held = "SELECT count(*) FROM messages WHERE state = 3";
                let held: i64 = other.query_row(held, [], |row| row.get(0)).unwrap();
                other.execute_batch("COMMIT").unwrap();
                if (1..1000).contains(&held) {
                    came_between.store(true, Ordering::Relaxed);
                }
            }
        });
        // A fast machine moves them all before the first rest, and there and back again.
        let ways = [(Deferred, Hold), (Hold, Deferred)].into_iter().cycle();
        for (from, to) in ways.take(40) {
            let moves: Vec<_> = seen
                .drain(..)
                .map(|(id, seen)| Proposal::Move { id, from, seen, to })
                .collect();
            let answers = store.apply(&Context::within(Duration::from_secs(120)), &moves);
            for (moved, answer) in std::iter::zip(moves, answers) {
                match (moved, answer) {
                    (Proposal::Move { id, .. }, Ok(revision)) => seen.push((id, revision)),
                    (_, answer) => refused = Some(answer),
                }
            }
            rounds += 1;
            if came_between.load(Ordering::Relaxed) || refused.is_some() {
                break;
            }
        }
        ended.store(true, Ordering::Relaxed);
    });
    assert!(refused.is_none(), "{refused:?}");
    assert!(came_between.into_inner(), "no other writer came between");
    let commits = store.counters().commits - before.commits;
    assert!(
        (rounds + 1..1000 * rounds).contains(&commits),
        "{commits} transactions in {rounds} rounds"
    );
    let held = store.state_info(&ctx(), Hold).unwrap().count;
    assert_eq!(held, 1000 * (rounds % 2));
}

#[test]
fn a_failed_commit_runs_each_write_again_alone() {
    let (directory, store) = spool();
    store.insert(&ctx(), &message("taken", Active)).unwrap();
    store.faults().arm(Point::Commit);
    gathered(&directory, &store, 6, |n| match n {
        0 => assert!(matches!(
            store.insert(&ctx(), &message("taken", Hold)),
            Err(Error::AlreadyExists { .. })
        )),
        _ => drop(
            store
                .insert(&ctx(), &message(&format!("m{n}"), Hold))
                .unwrap(),
        ),
    });
    assert_eq!(store.state_info(&ctx(), Hold).unwrap().count, 5);
    // The shared one and one of those that ran again fail: that caller alone hears of it.
    store.faults().arm(Point::Commit);
    store.faults().arm(Point::Commit);
    let failed = std::sync::atomic::AtomicU64::new(0);
    gathered(&directory, &store, 6, |n| {
        if let Err(e) = store.insert(&ctx(), &message(&format!("n{n}"), Deferred)) {
            assert!(matches!(e, Error::Unavailable(_)), "{e}");
            failed.fetch_add(1, Ordering::Relaxed);
        }
    });
    let failed = failed.into_inner();
    assert_eq!(
        (failed, store.state_info(&ctx(), Deferred).unwrap().count),
        (1, 5)
    );
    // A lone write that fails has changed nothing.
    store.faults().arm(Point::Commit);
    assert!(matches!(
        store.delete_meta(&ctx(), &id("taken")),
        Err(Error::Unavailable(_))
    ));
    assert!(store.get(&ctx(), &id("taken")).unwrap().is_some());
    assert_exact(&store, &directory.path().join("queue.db"));
}

#[test]
fn a_busy_store_answers_each_caller_at_its_deadline() {
    let (directory, store) = spool();
    let blocker = connect(&directory.path().join("queue.db"));
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    thread::scope(|scope| {
        // The first leads; its end must not end the others' wait.
        for limit in [50, 100, 400] {
            let store = &store;
            scope.spawn(move || {
                let start = Instant::now();
                let limit = Duration::from_millis(limit);
                let busy = store
                    .insert(&Context::within(limit), &message("a", Hold))
                    .unwrap_err();
                assert!(matches!(busy, Error::Busy(_)), "{busy}");
                let took = start.elapsed();
                assert!(
                    took >= limit && took < limit + Duration::from_secs(5),
                    "{took:?}"
                );
            });
        }
    });
    // Readers are not kept waiting.
    assert!(store.get(&ctx(), &id("a")).unwrap().is_none());
    blocker.execute_batch("COMMIT").unwrap();
    store.insert(&ctx(), &message("a", Hold)).unwrap();
}

#[test]
fn callers_that_arrive_together_share_a_flush() {
    let (_directory, store) = spool();
    store.insert(&ctx(), &message("a", Hold)).unwrap();
    let start = Barrier::new(8);
    let before = store.counters().flushes;
    for n in 0..20 {
        let name = format!("b{n}");
        store.insert(&ctx(), &message(&name, Hold)).unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    store.sync(&ctx()).unwrap();
                });
            }
        });
    }
    // Also who comes while it runs: what it waits for was committed before.
    assert_eq!(store.counters().flushes - before, 20);
}

/// The disk is waited for where anybody has committed, this store or another, and only there.
#[test]
fn what_is_flushed_is_not_flushed_again() {
    let (directory, store) = spool();
    let theirs = connect(&directory.path().join("queue.db"));
    let flushes_of = |sync: &dyn Fn()| {
        let before = store.counters().flushes;
        sync();
        store.counters().flushes - before
    };
    let sync = || store.sync(&ctx()).unwrap();
    store.insert(&ctx(), &message("a", Hold)).unwrap();
    assert_eq!(flushes_of(&sync), 1);
    assert_eq!(flushes_of(&sync), 0);
    store.relocate(&ctx(), &id("a"), Hold, Active).unwrap();
    assert_eq!(flushes_of(&sync), 1);
    theirs.execute("DELETE FROM messages", []).unwrap();
    assert_eq!(flushes_of(&sync), 1);
    assert_eq!(flushes_of(&sync), 0);
    // What brings the log over, or lets it begin anew, commits nothing; what follows it does.
    let restart = "PRAGMA wal_checkpoint(RESTART)";
    theirs.query_row(restart, [], |_| Ok(())).unwrap();
    store.insert(&ctx(), &message("b", Hold)).unwrap();
    assert_eq!(flushes_of(&sync), 1);
    store.faults().arm(Point::Flush);
    store.insert(&ctx(), &message("c", Hold)).unwrap();
    assert!(store.sync(&ctx()).is_err());
    assert_eq!(flushes_of(&sync), 1, "after one that failed");
    assert_eq!(flushes_of(&sync), 0);
}

#[test]
fn after_a_failed_flush_only_a_checkpoint_helps() {
    let (directory, store) = spool();
    store.insert(&ctx(), &message("a", Hold)).unwrap();
    store.faults().arm(Point::Flush);
    assert!(matches!(store.sync(&ctx()), Err(Error::Durability(_))));
    // The change stands.
    assert!(store.get(&ctx(), &id("a")).unwrap().is_some());
    store.faults().arm(Point::Checkpoint);
    let again = store.sync(&ctx()).unwrap_err();
    assert!(
        matches!(&again, Error::Durability(why) if why.contains("checkpoint")),
        "{again}"
    );
    store.sync(&ctx()).unwrap();
    // It is in the database file, without the log.
    let copy = directory.path().join("copy.db");
    std::fs::copy(directory.path().join("queue.db"), &copy).unwrap();
    let rows: i64 = connect(&copy)
        .query_row("SELECT count(*) FROM messages", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 1);
    store.sync(&ctx()).unwrap();
}

#[test]
fn a_store_with_sync_commits_to_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let factory = SqliteFactory::create_if_missing(directory.path().join("queue.db")).sync(true);
    let store = factory.open().unwrap();
    store.insert(&ctx(), &message("a", Hold)).unwrap();
    store.relocate(&ctx(), &id("a"), Hold, Active).unwrap();
    assert_eq!(store.counters().commits, 2);
}

#[test]
fn a_long_query_ends_at_its_deadline() {
    let (directory, store) = spool();
    let theirs = connect(&directory.path().join("queue.db"));
    theirs
        .execute_batch(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)
             INSERT INTO messages (id, state, max_attempts, next_retry, created, updated, priority)
             SELECT 'm' || n, 3, 1, 0, 0, 0, n % 10 FROM n",
        )
        .unwrap();
    let options = retryspoolfs::MessageListOptions {
        sort_by: retryspoolfs::SortBy::Priority,
        ..Default::default()
    };
    let ended = store.list_messages(&Context::within(Duration::ZERO), Hold, &options);
    assert!(matches!(ended, Err(Error::Busy(_))), "{ended:?}");
    assert_eq!(
        store
            .list_messages(&ctx(), Hold, &options)
            .unwrap()
            .message_ids
            .len(),
        20_000
    );
}

/// No commit stops to bring the log's pages over: that is done beside them, to the last page.
#[test]
fn the_log_is_brought_over_beside_the_writer() {
    let (directory, store) = spool();
    let watcher = connect(&directory.path().join("queue.db"));
    let log = || -> (i64, i64) {
        let noop = "PRAGMA wal_checkpoint(NOOP)";
        watcher
            .query_row(noop, [], |row| Ok((row.get(1)?, row.get(2)?)))
            .unwrap()
    };
    // Other tests of this process slow the disk down: it may be behind for a while.
    let mut n = 0;
    while log().0 < 1000 {
        store
            .insert(&ctx(), &message(&format!("m{n}"), Hold))
            .unwrap();
        n += 1;
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while log().0 != log().1 {
        assert!(Instant::now() < deadline, "{:?}", log());
        thread::yield_now();
    }
    store.close().unwrap();
}

/// Readers that overlap, so that one is in the log at each commit, and none for long: the log begins
/// anew all the same.
#[test]
fn the_log_stays_bounded_under_saturation() {
    let (directory, store) = spool();
    store.insert(&ctx(), &message("m", Hold)).unwrap();
    let open = || connect(&directory.path().join("queue.db"));
    let (moved, is_moved) = channel();
    let (read, is_read) = channel();
    let begins_anew = thread::scope(|scope| {
        scope.spawn(move || {
            let readers = [open(), open()];
            let begin = |turn: usize| {
                let sql = "BEGIN; SELECT count(*) FROM messages";
                readers[turn % 2].execute_batch(sql).unwrap();
            };
            begin(0);
            for turn in 0.. {
                // Also in the middle of a move that waits for readers.
                let order = is_moved.recv_timeout(Duration::from_millis(6));
                if order == Err(RecvTimeoutError::Disconnected) {
                    break;
                }
                begin(turn + 1);
                readers[turn % 2].execute_batch("COMMIT").unwrap();
                if order.is_ok() {
                    read.send(()).unwrap();
                }
            }
        });
        let watcher = open();
        let mut most = 0;
        let begins_anew = (0..6000).any(|n| {
            let (from, to) = [(Hold, Active), (Active, Hold)][n % 2];
            store.relocate(&ctx(), &id("m"), from, to).unwrap();
            moved.send(()).unwrap();
            is_read.recv().unwrap();
            let noop = "PRAGMA wal_checkpoint(NOOP)";
            let pages: i64 = watcher.query_row(noop, [], |row| row.get(1)).unwrap();
            most = most.max(pages);
            pages < most && most > 4000
        });
        drop(moved);
        begins_anew
    });
    assert!(begins_anew);
}
