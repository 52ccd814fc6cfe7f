//! The first time with a file that RetrySpool made, beside its writers.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use retryspoolfs::QueueState::Deferred;
use retryspoolfs::backend::sqlite::SqliteFactory;
use retryspoolfs::{Backend, Error};
use rusqlite::Connection;

use super::support::{assert_exact, connect, retryspool_file, retryspool_move, retryspool_store};
use crate::contract::{ctx, id, time};

const T0: i64 = 1_700_000_000;
const ROWS: i64 = 20_000;

fn big_file(path: &Path) {
    let mut conn = retryspool_file(path);
    let filling = conn.transaction().unwrap();
    for n in 0..ROWS {
        retryspool_store(&filling, format!("m{n:05}"), n % 5, T0 + n).unwrap();
    }
    for (id, state) in [("", 0), ("ü", 2), ("nine", 9)] {
        retryspool_store(&filling, id, state, T0).unwrap();
    }
    filling.execute("INSERT INTO messages (id, state, max_attempts, next_retry, created, updated) VALUES (NULL, 0, 1, 0, 0, 0)", []).unwrap();
    filling.commit().unwrap();
}

/// RetrySpool's worker, until told to stop.
fn work(path: PathBuf, stop: &AtomicBool, done: &AtomicU64) {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(Duration::from_secs(20)).unwrap();
    let mut n = 1_i64;
    while !stop.load(Ordering::Relaxed) {
        n = (n * 48_271) % 2_147_483_647;
        let name = format!("m{:05}", n % (ROWS + 500));
        match n % 4 {
            0 => drop(retryspool_store(&conn, &name, n % 6, T0).unwrap()),
            1 => drop(
                conn.execute("DELETE FROM messages WHERE id = ?1", [&name])
                    .unwrap(),
            ),
            2 => drop(
                conn.execute(
                    "UPDATE OR REPLACE messages SET id = ?1 || 'x' WHERE id = ?1",
                    [&name],
                )
                .unwrap(),
            ),
            _ => drop(retryspool_move(&conn, &name, n % 5, (n + 1) % 5, T0).unwrap()),
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_big_file_is_prepared_beside_its_writer_stopped_and_resumed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    big_file(&path);
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let furthest = Arc::new(AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| work(path.clone(), &stop, &done));
        // Stopped three times; each time a few steps on.
        for _ in 0..3 {
            let furthest = Arc::clone(&furthest);
            let start = furthest.load(Ordering::Relaxed);
            let factory = SqliteFactory::new(&path).on_progress(Arc::new(move |done, total| {
                assert!(done >= start && done <= total);
                furthest.store(done, Ordering::Relaxed);
                match done > start + 1000 {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            }));
            assert!(matches!(factory.open(), Err(Error::Unavailable(_))));
        }
        // Whoever only reads sees all of it meanwhile.
        let reader = SqliteFactory::new(&path).read_only(true).open().unwrap();
        assert!(reader.state_info(&ctx(), Deferred).unwrap().count > 1000);
        let store = SqliteFactory::new(&path).open().unwrap();
        let worked = done.load(Ordering::Relaxed);
        while done.load(Ordering::Relaxed) < worked + 200 {
            thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        drop(store);
    });
    assert!(furthest.load(Ordering::Relaxed) > 3000);
    let store = SqliteFactory::new(&path).open().unwrap();
    assert_exact(&store, &path);
    assert_exact(
        &SqliteFactory::new(&path).read_only(true).open().unwrap(),
        &path,
    );
    let sides: (i64, i64) = connect(&path)
        .query_row(
            "SELECT (SELECT count(*) FROM rs_message), (SELECT count(*) FROM messages WHERE id IS NOT NULL)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!(sides.0, sides.1, "one side row a row");
}

#[test]
fn what_was_prepared_has_its_times_and_lives_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let theirs = retryspool_file(&path);
    retryspool_store(&theirs, "a", 2, T0).unwrap();
    let store = SqliteFactory::new(&path).open().unwrap();
    let first = store.get(&ctx(), &id("a")).unwrap().unwrap();
    assert_eq!(first.revision.updated, time(T0, 0));
    let info = store.state_info(&ctx(), Deferred).unwrap();
    assert_eq!((info.count, info.changed), (1, time(T0, 0)));
    retryspool_store(&theirs, "a", 2, T0).unwrap();
    assert_eq!(
        store
            .get(&ctx(), &id("a"))
            .unwrap()
            .unwrap()
            .revision
            .updated,
        time(T0, 1)
    );
    // RetrySpool opens it as before, and its indexes are as they were.
    theirs.execute_batch(super::support::INDEXES).unwrap();
    let indexes: i64 = theirs
        .query_row(
            "SELECT count(*) FROM sqlite_master WHERE name LIKE 'idx_messages%'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(indexes, 5);
}

#[test]
fn two_processes_may_prepare_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    big_file(&path);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_exact(&SqliteFactory::new(&path).open().unwrap(), &path));
        }
    });
}
