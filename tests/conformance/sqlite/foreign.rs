//! RetrySpool's workers in the same file, with their own statements.

use std::process::Command;
use std::thread;

use retryspoolfs::QueueState::{Active, Bounce, Deferred, Hold, Incoming};
use retryspoolfs::backend::sqlite::SqliteFactory;
use retryspoolfs::{Backend, Error, Timestamp};

use super::support::{
    assert_exact, connect, open, retryspool_file, retryspool_move, retryspool_store,
};
use crate::contract::{ctx, id, message, time};

const T0: i64 = 1_700_000_000;

#[test]
fn statements_of_another_connection_keep_everything_exact() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = open(&path);
    let theirs = connect(&path);
    retryspool_store(&theirs, "a", 0, T0).unwrap();
    let mut last = store
        .get(&ctx(), &id("a"))
        .unwrap()
        .unwrap()
        .revision
        .updated;
    assert_eq!(last, time(T0, 0));
    let mut grew = |what: &str| {
        let now = store.get(&ctx(), &id("a")).unwrap().unwrap();
        assert!(
            now.revision.updated > last,
            "{what}: {last} {}",
            now.revision.updated
        );
        last = now.revision.updated;
        assert_exact(&store, &path);
    };
    // Within the same second, and with a clock that steps back.
    retryspool_store(&theirs, "a", 0, T0).unwrap();
    grew("INSERT OR REPLACE");
    assert_eq!(retryspool_move(&theirs, "a", 0, 2, T0 - 100).unwrap(), 1);
    grew("UPDATE");
    store.relocate(&ctx(), &id("a"), Deferred, Hold).unwrap();
    grew("relocate");
    theirs
        .pragma_update(None, "recursive_triggers", true)
        .unwrap();
    retryspool_store(&theirs, "a", 4, T0 - 5).unwrap();
    grew("INSERT OR REPLACE with recursive triggers");
    assert_eq!(store.state_info(&ctx(), Bounce).unwrap().count, 1);
    theirs.execute("DELETE FROM messages", []).unwrap();
    assert_exact(&store, &path);
    assert!(store.get(&ctx(), &id("a")).unwrap().is_none());
}

/// This program's move is appended to the log before the row moves, and the row's trigger takes no
/// account of it again: of none but that.
#[test]
fn a_move_that_follows_the_same_move_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = open(&path);
    let theirs = connect(&path);
    retryspool_store(&theirs, "a", 2, T0).unwrap();
    let logged = || {
        let sql = "SELECT group_concat(coalesce(old, '-') || coalesce(new, '-'), ' ') FROM rs_log";
        theirs
            .query_row(sql, [], |row| row.get::<_, String>(0))
            .unwrap()
    };
    store.relocate(&ctx(), &id("a"), Deferred, Hold).unwrap();
    assert_eq!(logged(), "-2 23");
    // An edit in place, with the same second; away and back, and the same move again.
    let sql = "UPDATE messages SET attempts = 7, updated = updated WHERE id = 'a'";
    theirs.execute(sql, []).unwrap();
    assert_eq!(logged(), "-2 23 33");
    store.relocate(&ctx(), &id("a"), Hold, Deferred).unwrap();
    retryspool_move(&theirs, "a", 2, 3, T0).unwrap();
    retryspool_move(&theirs, "a", 3, 2, T0).unwrap();
    store.relocate(&ctx(), &id("a"), Deferred, Hold).unwrap();
    assert_eq!(logged(), "-2 23 33 32 23 32 23");
    theirs
        .execute("UPDATE messages SET state = 2 WHERE id = 'a'", [])
        .unwrap();
    theirs
        .execute("UPDATE messages SET state = 3 WHERE id = 'a'", [])
        .unwrap();
    assert_eq!(logged(), "-2 23 33 32 23 32 23 32 23");
    assert_exact(&store, &path);
}

/// An administrator's own triggers: what they change is counted, and a move that they prevent is
/// an error which has changed nothing.
#[test]
fn triggers_of_others_are_respected() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = open(&path);
    for name in ["a", "b", "c"] {
        store.insert(&ctx(), &message(name, Deferred)).unwrap();
    }
    connect(&path)
        .execute_batch(
            "CREATE TRIGGER theirs AFTER UPDATE ON messages WHEN NEW.id = 'a' BEGIN
               UPDATE messages SET state = 4, priority = 1 WHERE id = 'b';
             END;
             CREATE TRIGGER never BEFORE UPDATE ON messages WHEN NEW.id = 'c' BEGIN
               SELECT RAISE(IGNORE);
             END;",
        )
        .unwrap();
    store.relocate(&ctx(), &id("a"), Deferred, Hold).unwrap();
    assert_exact(&store, &path);
    assert_eq!(store.state_info(&ctx(), Bounce).unwrap().count, 1);
    let prevented = store.relocate(&ctx(), &id("c"), Deferred, Hold);
    assert!(matches!(prevented, Err(Error::Corrupt(_))), "{prevented:?}");
    assert_exact(&store, &path);
    assert_eq!(store.state_info(&ctx(), Deferred).unwrap().count, 1);
}

#[test]
fn what_go_scans_is_never_null_and_grows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = open(&path);
    let theirs = connect(&path);
    let updated = || -> i64 {
        let sql = "SELECT updated FROM messages WHERE id = 'a' AND last_error IS NOT NULL AND retry_policy_name IS NOT NULL";
        theirs.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let mut metadata = message("a", Incoming);
    metadata.last_error.clear();
    metadata.retry_policy_name.clear();
    metadata.updated = time(T0 + 50, 0);
    store.insert(&ctx(), &metadata).unwrap();
    assert_eq!(updated(), T0 + 50);
    metadata.updated = time(T0 + 40, 0);
    store.update_meta(&ctx(), &id("a"), &metadata).unwrap();
    assert_eq!(updated(), T0 + 50, "it never goes back");
    retryspool_move(&theirs, "a", 0, 2, T0 + 10).unwrap();
    metadata.state = Deferred;
    store.store_meta(&ctx(), &id("a"), &metadata).unwrap();
    assert_eq!(
        updated(),
        T0 + 50,
        "the revision's second, which their clock was behind"
    );
    store.relocate(&ctx(), &id("a"), Deferred, Active).unwrap();
    assert!(updated() > T0 + 50);
}

#[test]
fn exact_times_last_as_long_as_their_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = open(&path);
    let theirs = connect(&path);
    let ours = message("a", Incoming);
    store.insert(&ctx(), &ours).unwrap();
    retryspool_move(&theirs, "a", 0, 2, T0 + 500).unwrap();
    let moved = store.get_meta(&ctx(), &id("a")).unwrap();
    assert_eq!(
        (moved.created, moved.next_retry),
        (ours.created, ours.next_retry)
    );
    theirs
        .execute("UPDATE messages SET next_retry = next_retry + 1", [])
        .unwrap();
    let later = store.get_meta(&ctx(), &id("a")).unwrap();
    assert_eq!(later.created, ours.created);
    assert_eq!(later.next_retry, time(ours.next_retry.seconds() + 1, 0));
}

#[test]
fn rows_that_are_no_metadata_are_listed_and_unreadable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = open(&path);
    let theirs = connect(&path);
    for (n, set) in [
        "headers = '{'",
        "headers = '[]'",
        "headers = '{\"a\": 1}'",
        "headers = x'00'",
        "created = 253402300800",
        "next_retry = -62135596801",
        "updated = 253402300800",
        "attempts = 'many'",
        "last_error = CAST(x'ff' AS TEXT)",
    ]
    .iter()
    .enumerate()
    {
        let name = format!("m{n}");
        retryspool_store(&theirs, &name, 3, T0).unwrap();
        theirs
            .execute(&format!("UPDATE messages SET {set} WHERE id = ?1"), [&name])
            .unwrap();
        let read = store.get_meta(&ctx(), &id(&name));
        assert!(matches!(read, Err(Error::Corrupt(_))), "{set}: {read:?}");
    }
    retryspool_store(&theirs, "ok", 3, T0).unwrap();
    theirs.execute("UPDATE messages SET headers = 'null', last_error = NULL, retry_policy_name = NULL WHERE id = 'ok'", []).unwrap();
    assert!(
        store
            .get_meta(&ctx(), &id("ok"))
            .unwrap()
            .headers
            .is_empty()
    );
    let scanned = store.scan_stored(&ctx(), Hold, None, 99).unwrap();
    assert_eq!(scanned.len(), 10);
    assert_eq!(
        scanned.iter().filter(|(_, stored)| stored.is_ok()).count(),
        1
    );
    assert_exact(&store, &path);
    // They can still be moved, and removed.
    store.relocate(&ctx(), &id("m0"), Hold, Active).unwrap();
    store.remove(&ctx(), &id("m1"), Hold, None).unwrap();
    assert_exact(&store, &path);
}

#[test]
fn rows_that_no_name_can_express_are_in_no_count() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = open(&path);
    let theirs = connect(&path);
    let long = "/".repeat(84);
    for (id, state) in [
        ("", 0),
        ("ä", 0),
        (long.as_str(), 0),
        ("nine", 9),
        ("minus", -1),
        ("a/b", 2),
        ("ok", 0),
    ] {
        retryspool_store(&theirs, id, state, T0).unwrap();
    }
    theirs
        .execute(
            "UPDATE messages SET id = CAST(x'6dff' AS TEXT) WHERE id = 'minus'",
            [],
        )
        .unwrap();
    theirs
        .execute("UPDATE messages SET state = 1 WHERE state = -1", [])
        .unwrap();
    // A store that never writes answers right before anyone has settled them.
    let reader = SqliteFactory::new(&path).read_only(true).open().unwrap();
    assert_exact(&reader, &path);
    assert_eq!(reader.inexpressible(&ctx()).unwrap(), 4);
    assert_exact(&store, &path);
    assert_eq!(store.inexpressible(&ctx()).unwrap(), 4);
    assert_exact(&reader, &path);
    let listed = store.scan(&ctx(), Incoming, None, 99).unwrap();
    assert_eq!(listed, [id("ok"), id("ä")]);
    assert!(matches!(
        store.insert(&ctx(), &message("nine", Hold)),
        Err(Error::Corrupt(_))
    ));
    assert!(store.get(&ctx(), &id("nine")).unwrap().is_none());
    // They came in with non-ASCII IDs, doubtful again until settled.
    for n in 0..300 {
        retryspool_store(&theirs, format!("ü{n}"), 1, T0).unwrap();
    }
    assert!(matches!(
        store.insert(&ctx(), &message("ü7", Hold)),
        Err(Error::AlreadyExists { state: Active })
    ));
    store.relocate(&ctx(), &id("ü8"), Active, Hold).unwrap();
    assert!(store.get(&ctx(), &id("ü9")).unwrap().is_some());
    assert_exact(&reader, &path);
    assert_exact(&store, &path);
    assert_eq!(store.state_info(&ctx(), Active).unwrap().count, 299);
}

#[test]
fn a_side_row_without_a_message_stops_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = open(&path);
    let theirs = connect(&path);
    retryspool_store(&theirs, "ü", 0, T0).unwrap();
    // As a writer with triggers off would leave it.
    theirs
        .execute_batch(
            "CREATE TEMP TABLE was AS SELECT sql FROM sqlite_master WHERE name = 'rs_deleted';
             DROP TRIGGER rs_deleted; DELETE FROM messages;",
        )
        .unwrap();
    let trigger: String = theirs
        .query_row("SELECT sql FROM was", [], |row| row.get(0))
        .unwrap();
    theirs.execute_batch(&trigger).unwrap();
    assert_eq!(store.state_info(&ctx(), Incoming).unwrap().count, 0);
    store.insert(&ctx(), &message("ü", Hold)).unwrap();
    assert_exact(&store, &path);
}

#[test]
fn a_read_only_store_computes_what_was_never_prepared() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let theirs = retryspool_file(&path);
    for n in 0..50 {
        retryspool_store(&theirs, format!("m{n}"), n % 7, T0 + n).unwrap();
    }
    retryspool_store(&theirs, "ü", 0, T0).unwrap();
    let before = std::fs::read(&path).unwrap();
    let store = SqliteFactory::new(&path).read_only(true).open().unwrap();
    assert_exact(&store, &path);
    assert_eq!(store.inexpressible(&ctx()).unwrap(), 7);
    assert_eq!(
        store.get_meta(&ctx(), &id("m2")).unwrap().updated,
        time(T0 + 2, 0)
    );
    assert_eq!(
        store.scan_stored(&ctx(), Incoming, None, 99).unwrap().len(),
        9
    );
    assert!(
        !store
            .was_revision(&ctx(), &id("m2"), Timestamp::ZERO)
            .unwrap()
    );
    for refused in [
        store.relocate(&ctx(), &id("m2"), Deferred, Hold).err(),
        store.insert(&ctx(), &message("x", Hold)).err(),
        store.delete_meta(&ctx(), &id("m2")).err(),
    ] {
        assert!(matches!(refused, Some(Error::ReadOnly)), "{refused:?}");
    }
    store.close().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn writers_of_both_kinds_at_once_stay_exact() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = open(&path);
    for n in 0..200 {
        store
            .insert(&ctx(), &message(&format!("m{n}"), Incoming))
            .unwrap();
    }
    thread::scope(|scope| {
        for worker in 0..2 {
            let path = &path;
            scope.spawn(move || {
                let theirs = connect(path);
                for n in 0..300_i64 {
                    let name = format!("m{}", (n * 7 + worker) % 220);
                    if n % 3 == 0 {
                        retryspool_store(&theirs, &name, n % 5, T0 + n % 4).unwrap();
                    } else {
                        retryspool_move(&theirs, &name, n % 5, (n + 1) % 5, T0 - n).unwrap();
                    }
                }
            });
            let store = &store;
            scope.spawn(move || {
                for n in 0..300 {
                    let id = id(&format!("m{}", (n * 11 + worker) % 220));
                    let Some(seen) = store.get(&ctx(), &id).unwrap() else {
                        continue;
                    };
                    match store.relocate(&ctx(), &id, seen.metadata.state, Hold) {
                        Ok(revision) => assert!(revision.updated >= seen.revision.updated),
                        Err(Error::StateConflict { .. }) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
    });
    assert_exact(&store, &path);
}

#[test]
fn another_process_with_another_sqlite_keeps_everything_exact() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = open(&path);
    store.insert(&ctx(), &message("a", Incoming)).unwrap();
    let mut sql = String::from(".timeout 20000\n");
    for n in 0..200 {
        let (id, state) = (n % 20, n % 6);
        sql.push_str(&format!(
            "INSERT OR REPLACE INTO messages (id, state, attempts, max_attempts, next_retry, created, updated, last_error, \
             size, priority, headers, retry_policy_name) VALUES ('m{id}', {state}, 0, 10, 0, 0, {T0}, '', 1, 5, 'null', '');\n\
             UPDATE messages SET state=3, updated={T0}, headers='{{}}' WHERE id='m{id}' AND state=2;\n"
        ));
    }
    sql.push_str("DELETE FROM messages WHERE id = 'm7';\n");
    let script = directory.path().join("worker.sql");
    std::fs::write(&script, sql).unwrap();
    let worker = Command::new("sqlite3")
        .arg(&path)
        .stdin(std::fs::File::open(&script).unwrap())
        .output();
    let worker = worker.expect("this test needs the sqlite3 command");
    assert!(
        worker.status.success() && worker.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&worker.stderr)
    );
    assert_exact(&store, &path);
    assert!(store.get(&ctx(), &id("m7")).unwrap().is_none());
}
