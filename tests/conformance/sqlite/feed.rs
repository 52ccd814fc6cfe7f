//! The feed where the log was trimmed or gone around, or the file is another.

use std::time::Duration;

use retryspoolfs::QueueState::{Deferred, Hold};
use retryspoolfs::backend::sqlite::schema;
use retryspoolfs::{Backend, Context, Error};

use super::support::{assert_exact, connect, open, retryspool_move, retryspool_store};
use crate::contract::{ctx, id, message};

const T0: i64 = 1_700_000_000;

#[test]
fn changes_by_retryspools_statements_are_told_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let (store, theirs) = (open(&path), connect(&path));
    let feed = store.change_feed().unwrap();
    let cursor = feed.newest(&ctx()).unwrap();
    retryspool_store(&theirs, "a", 2, T0).unwrap();
    retryspool_store(&theirs, "a", 2, T0).unwrap();
    retryspool_move(&theirs, "a", 2, 3, T0).unwrap();
    theirs.execute("DELETE FROM messages", []).unwrap();
    let found = feed.changes(&ctx(), cursor, 10).unwrap();
    let states: Vec<_> = found.changes.iter().map(|c| (c.from, c.to)).collect();
    let (deferred, hold) = (Some(Deferred), Some(Hold));
    let expected = [
        (None, deferred),
        (deferred, deferred),
        (deferred, hold),
        (hold, None),
    ];
    assert_eq!(states, expected);
    assert!(found.changes.iter().all(|c| c.actor.is_none()));
}

#[test]
fn who_falls_behind_the_log_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = open(&path);
    let feed = store.change_feed().unwrap();
    let cursor = feed.newest(&ctx()).unwrap();
    for name in ["a", "b", "c"] {
        store.insert(&ctx(), &message(name, Hold)).unwrap();
    }
    // As trimming does.
    let sql = "DELETE FROM rs_log WHERE seq = (SELECT min(seq) FROM rs_log)";
    connect(&path).execute(sql, []).unwrap();
    let found = feed.changes(&ctx(), cursor, 10).unwrap();
    assert!(found.lost && found.changes.is_empty());
    assert_eq!(found.cursor, feed.newest(&ctx()).unwrap());
}

#[test]
fn a_reset_comes_after_what_was_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let (store, theirs) = (open(&path), connect(&path));
    let feed = store.change_feed().unwrap();
    let start = feed.newest(&ctx()).unwrap();
    store.insert(&ctx(), &message("a", Hold)).unwrap();
    schema::append_reset(&theirs).unwrap();
    store.insert(&ctx(), &message("b", Hold)).unwrap();
    let before = feed.changes(&ctx(), start, 10).unwrap();
    assert!(!before.lost && before.changes.len() == 1);
    let reset = feed.changes(&ctx(), before.cursor, 10).unwrap();
    assert!(reset.lost && reset.changes.is_empty());
    let after = feed.changes(&ctx(), reset.cursor, 10).unwrap();
    assert!(!after.lost);
    assert_eq!(after.changes[0].id, id("b"));
    // It counts nothing, and lends its revision to nobody.
    schema::append_reset(&theirs).unwrap();
    retryspool_store(&theirs, "", 3, -5).unwrap();
    let sql = "SELECT secs FROM rs_message WHERE id = ''";
    let secs: i64 = theirs.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(secs, -5);
    assert_exact(&store, &path);
}

#[test]
fn a_file_that_was_replaced_is_an_error_while_it_waits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = open(&path);
    let feed = store.change_feed().unwrap();
    let cursor = feed.newest(&ctx()).unwrap();
    std::fs::remove_file(&path).unwrap();
    let long = Context::within(Duration::from_secs(60));
    let found = feed.changes(&long, cursor, 10);
    assert!(matches!(found, Err(Error::Unavailable(_))), "{found:?}");
    assert!(!long.expired());
}
