//! What a check finds and mends, counting again beside writers, snapshots, and compacting.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use retryspoolfs::backend::check::{Check, Finding, Remedy};
use retryspoolfs::backend::locator::Locator;
use retryspoolfs::backend::sqlite::SqliteFactory;
use retryspoolfs::{Backend, Error, Factory, QueueState};

use super::support::{assert_exact, connect, open, retryspool_file, retryspool_store};
use crate::contract::{ctx, id, message};

fn findings(store: &dyn Backend, repair: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut check = Check {
        repair,
        found: &mut |finding| findings.push(finding),
        going: &|| true,
    };
    store.check(&ctx(), &mut check).unwrap();
    findings
}

fn kinds(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.kind).collect()
}

fn filled(path: &Path, messages: usize) -> impl Backend + use<> {
    let store = open(path);
    for nth in 0..messages {
        let state = QueueState::ALL[nth % 6];
        store
            .insert(&ctx(), &message(&format!("m{nth:04}"), state))
            .unwrap();
    }
    store
}

/// What triggers don't see: each kind of it.
fn around_the_triggers(path: &Path) {
    let conn = connect(path);
    // SQLite keeps its triggers in the file: another writer without them is one that drops them
    // for a moment.
    let triggers = ["rs_inserted", "rs_updated", "rs_renamed", "rs_deleted"];
    let texts: Vec<String> = triggers
        .iter()
        .map(|name| {
            let sql = "SELECT sql FROM sqlite_master WHERE name = ?1";
            conn.query_row(sql, [name], |row| row.get(0)).unwrap()
        })
        .collect();
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    for name in triggers {
        conn.execute_batch(&format!("DROP TRIGGER {name}")).unwrap();
    }
    conn.execute_batch(
        "DELETE FROM messages WHERE id = 'm0001';
         UPDATE messages SET state = 3 WHERE id = 'm0002';
         UPDATE messages SET updated = updated + 5, attempts = 9 WHERE id = 'm0003';
         UPDATE messages SET next_retry = next_retry + 5 WHERE id = 'm0006';
         INSERT INTO rs_message (state, id, secs, nanos) VALUES (3, 'm0004', 0, 0);
         UPDATE rs_state SET count = count + 1 WHERE state = 3;
         UPDATE rs_state SET count = count - 2 WHERE state = 4;",
    )
    .unwrap();
    retryspool_store(&conn, "new", 2, 1_700_000_000).unwrap();
    retryspool_store(&conn, "grüße", 2, 1_700_000_000).unwrap();
    for text in texts {
        conn.execute_batch(&text).unwrap();
    }
    conn.execute_batch("COMMIT").unwrap();
}

#[test]
fn a_sound_spool_has_no_findings() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = filled(&path, 60);
    // Settled on the way.
    retryspool_store(&connect(&path), "grüße", 2, 1_700_000_000).unwrap();
    assert_eq!(findings(&store, false), []);
    let reader = SqliteFactory::new(&path).read_only(true).open().unwrap();
    assert_eq!(findings(&reader, false), []);
    assert_eq!(store.recount(&ctx(), &|| true).unwrap(), 0);
}

#[test]
fn what_went_around_the_triggers_is_found_and_mended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = filled(&path, 2600);
    around_the_triggers(&path);
    let found = findings(&store, false);
    assert_eq!(kinds(&found), ["count"; 8], "{found:#?}");
    assert!(found.iter().all(|f| matches!(f.remedy, Remedy::Repair(_))));
    let what: Vec<&str> = found.iter().map(|f| f.what.as_str()).collect();
    for expected in [
        "\"m0001\" is counted in active, and not there",
        "\"m0002\" is in hold, and counted in deferred",
        "\"m0003\" was changed without a new revision",
        "\"m0004\" is counted in hold as well",
        "\"m0006\" was changed without a new revision",
        "\"new\" is not counted",
        "\"grüße\" is not counted",
        "2 too few messages are counted in bounce",
    ] {
        assert!(what.contains(&expected), "{what:#?}");
    }
    // Nothing was mended by looking.
    assert_eq!(findings(&store, false), found);
    let repaired = findings(&store, true);
    assert!(
        repaired
            .iter()
            .all(|f| matches!(f.remedy, Remedy::Repaired(_))),
        "{repaired:#?}"
    );
    assert_eq!(findings(&store, false), []);
    assert_exact(&store, &path);
    let stored = store.get(&ctx(), &id("m0003")).unwrap().unwrap();
    assert_eq!(stored.metadata.attempts, 9);
}

#[test]
fn counting_again_tells_the_feed_that_changes_were_missed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = filled(&path, 60);
    let feed = store.change_feed().unwrap();
    let mut cursor = feed.newest(&ctx()).unwrap();
    around_the_triggers(&path);
    assert_eq!(store.recount(&ctx(), &|| true).unwrap(), 8);
    assert_exact(&store, &path);
    let (mut told, mut lost) = (Vec::new(), false);
    while !lost {
        let changes = feed.changes(&ctx(), cursor, 100).unwrap();
        told.extend(changes.changes.iter().map(|c| (c.id.to_string(), c.to)));
        (cursor, lost) = (changes.cursor, changes.lost);
    }
    assert!(told.contains(&("m0001".into(), None)), "{told:?}");
    assert!(told.contains(&("m0002".into(), Some(QueueState::Hold))));
    assert_eq!(store.recount(&ctx(), &|| true).unwrap(), 0);
}

#[test]
fn counting_again_beside_writers_finds_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = filled(&path, 3000);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let conn = connect(&path);
            let mut nth = 0;
            while !ended.load(Relaxed) {
                let name = format!("m{:04}", nth * 7 % 3500);
                retryspool_store(&conn, name.as_str(), nth % 8, 1_800_000_000).unwrap();
                nth += 1;
            }
        });
        let differences: u64 = (0..3)
            .map(|_| {
                let walked = findings(&store, false);
                walked.iter().filter(|f| f.kind == "count").count() as u64
            })
            .sum();
        ended.store(true, Relaxed);
        assert_eq!(differences, 0);
    });
    assert_eq!(store.recount(&ctx(), &|| true).unwrap(), 0);
    assert_exact(&store, &path);
}

#[test]
fn what_nobody_can_mend_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = filled(&path, 6);
    let conn = connect(&path);
    retryspool_store(&conn, "", 2, 0).unwrap();
    retryspool_store(&conn, "far", 9, 0).unwrap();
    retryspool_store(&conn, b"blob".as_slice(), 1, 0).unwrap();
    retryspool_store(&conn, rusqlite::types::Null, 1, 0).unwrap();
    conn.execute("UPDATE messages SET headers = '{' WHERE id = 'm0000'", [])
        .unwrap();
    let found = findings(&store, true);
    let mut sorted = kinds(&found);
    sorted.sort();
    assert_eq!(
        sorted,
        [
            "inexpressible",
            "inexpressible",
            "inexpressible",
            "inexpressible",
            "unreadable"
        ],
        "{found:#?}"
    );
    assert!(found.iter().all(|f| f.remedy == Remedy::Person));
}

#[test]
fn a_file_without_a_trigger_is_refused_and_repaired() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    filled(&path, 60).close().unwrap();
    let conn = connect(&path);
    conn.execute_batch("DROP TRIGGER rs_deleted; DELETE FROM messages WHERE id = 'm0007'")
        .unwrap();
    let refused = SqliteFactory::new(&path).create().map(drop).unwrap_err();
    assert!(
        matches!(&refused, Error::Corrupt(why) if why.contains("rs_deleted") && why.contains("check --repair")),
        "{refused}"
    );
    let store = SqliteFactory::new(&path).repair(true).open().unwrap();
    assert_eq!(kinds(&findings(&store, true)), ["count"]);
    assert_exact(&store, &path);
    // A trigger of another text, beside an open store.
    conn.execute_batch(
        "DROP TRIGGER rs_deleted; CREATE TRIGGER rs_deleted AFTER DELETE ON messages BEGIN SELECT 1; END;
         DELETE FROM messages WHERE id = 'm0008'",
    )
    .unwrap();
    assert_eq!(kinds(&findings(&store, true)), ["schema", "count"]);
    assert_eq!(findings(&store, false), []);
    conn.execute_batch("DELETE FROM messages WHERE id = 'm0009'")
        .unwrap();
    assert_exact(&store, &path);
    store.close().unwrap();
    // A table that is gone: all of ours is made anew.
    conn.execute_batch("DROP TABLE rs_state").unwrap();
    let store = SqliteFactory::new(&path).repair(true).open().unwrap();
    assert_eq!(findings(&store, false), []);
    assert_exact(&store, &path);
}

/// The trigger that version 1 had, and had no exception.
const TRIGGER_OF_1: &str = "DROP TRIGGER rs_updated;
     CREATE TRIGGER rs_updated AFTER UPDATE ON messages WHEN NEW.id IS OLD.id BEGIN
       INSERT INTO rs_change
       VALUES (NEW.id, NEW.state, NEW.updated, NEW.created, NEW.next_retry, OLD.state, OLD.updated, 0);
     END;
     PRAGMA user_version = 1;";

#[test]
fn a_file_of_an_older_version_is_brought_forward() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    drop(open(&path));
    let conn = connect(&path);
    conn.execute_batch(TRIGGER_OF_1).unwrap();
    // Who only reads has no need of it.
    let reading = SqliteFactory::new(&path).read_only(true).open().unwrap();
    assert_eq!(
        reading.state_info(&ctx(), QueueState::Hold).unwrap().count,
        0
    );
    let store = open(&path);
    let version: i64 = conn
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    assert_eq!(version, retryspoolfs::backend::sqlite::schema::VERSION);
    store
        .insert(&ctx(), &message("a", QueueState::Hold))
        .unwrap();
    store
        .relocate(&ctx(), &id("a"), QueueState::Hold, QueueState::Deferred)
        .unwrap();
    assert_exact(&store, &path);
    assert_eq!(findings(&store, false), []);
}

#[test]
fn a_broken_file_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    filled(&path, 600).close().unwrap();
    // A page in the middle loses its bytes.
    let mut bytes = std::fs::read(&path).unwrap();
    let conn = connect(&path);
    let page: i64 = conn
        .query_row(
            "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_messages_1'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    drop(conn);
    let at = (page as usize - 1) * 4096;
    bytes[at..at + 4096].fill(0x55);
    std::fs::write(&path, bytes).unwrap();
    let store = SqliteFactory::new(&path).read_only(true).open().unwrap();
    let mut found = Vec::new();
    let mut check = Check {
        repair: false,
        found: &mut |finding: Finding| found.push(finding),
        going: &|| true,
    };
    // The rest of the check may meet the same page.
    let ended = store.check(&ctx(), &mut check);
    assert!(
        found.iter().any(|f| f.kind == "file"),
        "{found:?} {ended:?}"
    );
}

#[test]
fn a_file_nobody_prepared_is_checked_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let conn = retryspool_file(&path);
    retryspool_store(&conn, "a", 2, 1_700_000_000).unwrap();
    retryspool_store(&conn, "b", 9, 1_700_000_000).unwrap();
    drop(conn);
    let before = std::fs::read(&path).unwrap();
    let store = SqliteFactory::new(&path).read_only(true).open().unwrap();
    assert_eq!(
        kinds(&findings(&store, false)),
        ["unprepared", "inexpressible"]
    );
    store.close().unwrap();
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn a_snapshot_is_one_moment_beside_writers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = filled(&path, 2000);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Two messages that are always in different states.
            let conn = connect(&path);
            for nth in 0.. {
                let (a, b) = (2 + nth % 2, 3 - nth % 2);
                let sql = "UPDATE messages SET state = CASE id WHEN 'm0000' THEN ?1 ELSE ?2 END WHERE id IN ('m0000', 'm0001')";
                conn.execute(sql, (a, b)).unwrap();
                if ended.load(Relaxed) {
                    break;
                }
            }
        });
        for nth in 0..5 {
            let file = directory.path().join(format!("snapshot{nth}"));
            store.snapshot(&ctx(), &file, &|| true).unwrap();
            let copy = SqliteFactory::new(&file).read_only(true).open().unwrap();
            assert_eq!(findings(&copy, false), []);
            assert_exact(&copy, &file);
            let [a, b] = ["m0000", "m0001"]
                .map(|name| copy.locate(&ctx(), &id(name)).unwrap().unwrap().number());
            assert!(nth == 0 || a + b == 5, "{a} {b}");
        }
        ended.store(true, Relaxed);
    });
    let frozen = store.frozen(&ctx(), &|| true).unwrap().unwrap();
    store
        .remove(&ctx(), &id("m0003"), QueueState::Hold, None)
        .unwrap();
    assert!(frozen.get(&ctx(), &id("m0003")).unwrap().is_some());
    frozen.close().unwrap();
    drop(frozen);
    let hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
    let mut names = std::fs::read_dir(directory.path()).unwrap();
    assert!(!names.any(|entry| hidden(&entry.unwrap().file_name())));
}

#[test]
fn a_snapshot_overwrites_nothing_and_can_be_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = filled(&path, 60);
    let file = directory.path().join("snapshot");
    std::fs::write(&file, "mine").unwrap();
    let refused = store.snapshot(&ctx(), &file, &|| true).unwrap_err();
    assert!(
        refused.to_string().contains("is there already"),
        "{refused}"
    );
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    use std::os::unix::fs::PermissionsExt;
    let other = directory.path().join("other");
    store.snapshot(&ctx(), &other, &|| true).unwrap();
    let mode = std::fs::metadata(&other).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn compacting_needs_the_file_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let store = filled(&path, 3000);
    let locator = Locator::Sqlite(path.clone());
    let refused = locator.compact(&|| true).unwrap_err();
    assert!(
        matches!(&refused, Error::Busy(why) if why.contains("open")),
        "{refused}"
    );
    for nth in 100..3000 {
        store
            .delete_meta(&ctx(), &id(&format!("m{nth:04}")))
            .unwrap();
    }
    store.close().unwrap();
    drop(store);
    let (before, after) = locator.compact(&|| true).unwrap();
    assert!(after < before / 2, "{before} {after}");
    assert!(!directory.path().join("queue.db-wal").exists());
    let store = open(&path);
    assert_eq!(findings(&store, false), []);
    assert_exact(&store, &path);
}
