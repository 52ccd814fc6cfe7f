//! Files that are not ours to touch: each is refused with its reason, and stays as it is.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use retryspoolfs::backend::locator::{Locator, OpenOptions};
use retryspoolfs::backend::sqlite::{SqliteFactory, schema};
use retryspoolfs::{Backend, Error};
use rusqlite::Connection;

use super::support::{open, retryspool_file};
use crate::contract::{ctx, id, message};

/// Opens the file in every way, and sees it refused and unchanged, with nothing left beside it.
fn assert_refused(path: &Path, reason: &str) {
    let before = std::fs::read(path).unwrap();
    for factory in [
        SqliteFactory::new(path),
        SqliteFactory::create_if_missing(path),
        SqliteFactory::new(path).read_only(true),
    ] {
        let error = factory.open().err().expect("refused").to_string();
        assert!(
            error.contains(reason) && error.contains(path.to_str().unwrap()),
            "{error}"
        );
        assert!(
            std::fs::read(path).unwrap() == before,
            "{reason}: the file was changed"
        );
    }
    let beside: Vec<PathBuf> = std::fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|entry| {
            entry != path
                && std::fs::metadata(entry).unwrap().len() > 0
                && !entry.ends_with("queue.db-shm")
        })
        .collect();
    assert!(beside.is_empty(), "{beside:?}");
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    (directory, path)
}

#[test]
fn a_missing_spool_names_init() {
    let (_directory, path) = file();
    for read_only in [false, true] {
        let error = SqliteFactory::new(&path)
            .read_only(read_only)
            .open()
            .err()
            .unwrap();
        assert!(matches!(error, Error::Missing(_)));
        assert!(error.to_string().contains("retryspoolfs init"), "{error}");
    }
    assert!(!path.exists());
    // A file without any table is no spool either, unless one is to be made.
    std::fs::write(&path, "").unwrap();
    assert!(matches!(
        SqliteFactory::new(&path).open(),
        Err(Error::Missing(_))
    ));
    SqliteFactory::create_if_missing(&path).open().unwrap();
    let nowhere = path.parent().unwrap().join("no/queue.db");
    assert!(matches!(
        SqliteFactory::create_if_missing(nowhere).open(),
        Err(Error::Unavailable(_))
    ));
}

#[test]
fn a_file_of_a_newer_version() {
    let (_directory, path) = file();
    open(&path).close().unwrap();
    let conn = Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", schema::VERSION + 1)
        .unwrap();
    conn.close().unwrap();
    assert_refused(&path, "newer retryspoolfs");
}

#[test]
fn files_of_other_programs() {
    for (sql, reason) in [
        ("CREATE TABLE songs (title TEXT)", "another program's"),
        (
            "CREATE VIEW messages AS SELECT 1 AS id",
            "another program's",
        ),
        (
            "CREATE TABLE messages (id TEXT PRIMARY KEY, body BLOB)",
            "other columns",
        ),
        (
            "PRAGMA user_version = 7; CREATE TABLE songs (title TEXT)",
            "another program's",
        ),
        (
            "PRAGMA journal_mode = WAL; CREATE TABLE songs (title TEXT)",
            "another program's",
        ),
    ] {
        let (_directory, path) = file();
        Connection::open(&path)
            .unwrap()
            .execute_batch(sql)
            .unwrap_or_else(|e| match e {
                // `PRAGMA journal_mode` gives a row.
                rusqlite::Error::ExecuteReturnedResults => {}
                e => panic!("{e}"),
            });
        assert_refused(&path, reason);
    }
    let (_directory, path) = file();
    let extended = format!(
        "{}ALTER TABLE messages ADD COLUMN tenant TEXT;",
        schema::MESSAGES
    );
    Connection::open(&path)
        .unwrap()
        .execute_batch(&extended)
        .unwrap();
    assert_refused(&path, "other columns");
    let (_directory, path) = file();
    let utf16 = format!("PRAGMA encoding = 'UTF-16';{}", schema::MESSAGES);
    Connection::open(&path)
        .unwrap()
        .execute_batch(&utf16)
        .unwrap();
    assert_refused(&path, "UTF-16");
}

#[test]
fn a_file_of_an_older_retryspool_says_what_to_do() {
    let (_directory, path) = file();
    let older = schema::MESSAGES.replace(",\n  retry_policy_name TEXT", "");
    assert_ne!(older, schema::MESSAGES);
    Connection::open(&path)
        .unwrap()
        .execute_batch(&older)
        .unwrap();
    assert_refused(&path, "start the current RetrySpool on it once");
}

#[test]
fn what_is_no_database() {
    let (_directory, path) = file();
    std::fs::write(&path, "From bob@example.org Mon Nov 23\n".repeat(500)).unwrap();
    assert_refused(&path, "not a database");
    std::fs::write(&path, b"SQLite format 3\0").unwrap();
    assert_refused(&path, "");
    let (_directory, path) = file();
    retryspool_file(&path).close().unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in [60, 99, 100, 1000, 4096] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert_refused(&path, "");
    }
    let (directory, _) = file();
    let error = SqliteFactory::new(directory.path()).open().err().unwrap();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
}

#[test]
fn a_file_whose_side_tables_are_gone() {
    let (_directory, path) = file();
    open(&path).close().unwrap();
    Connection::open(&path)
        .unwrap()
        .execute_batch("DROP TRIGGER rs_updated")
        .unwrap();
    assert_refused(&path, "rs_updated is missing");
}

#[test]
fn a_new_file_is_private_and_an_old_one_keeps_its_mode() {
    let (_directory, path) = file();
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    open(&path);
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    open(&path);
    assert_eq!(mode(), 0o640);
}

#[test]
fn a_file_that_is_deleted_or_replaced_is_noticed() {
    let (directory, path) = file();
    let store = open(&path);
    store
        .insert(&ctx(), &message("a", retryspoolfs::QueueState::Hold))
        .unwrap();
    std::fs::rename(&path, directory.path().join("moved.db")).unwrap();
    let gone = store.delete_meta(&ctx(), &id("a")).unwrap_err();
    assert!(
        matches!(&gone, Error::Unavailable(why) if why.contains("deleted")),
        "{gone}"
    );
    std::fs::write(&path, "").unwrap();
    let replaced = store.delete_meta(&ctx(), &id("a")).unwrap_err();
    assert!(
        matches!(&replaced, Error::Unavailable(why) if why.contains("replaced")),
        "{replaced}"
    );
    assert!(matches!(store.sync(&ctx()), Err(Error::Unavailable(_))));
}

#[test]
fn locators_open_what_they_spell() {
    let (directory, path) = file();
    let locator = Locator::parse(path.as_os_str()).unwrap();
    assert!(matches!(
        locator.open(OpenOptions::default()),
        Err(Error::Missing(_))
    ));
    let create = OpenOptions {
        create: true,
        ..OpenOptions::default()
    };
    locator.open(create).unwrap().close().unwrap();
    let spelled: Locator = locator.to_string().parse().unwrap();
    let read_only = OpenOptions {
        read_only: true,
        sync: true,
        ..OpenOptions::default()
    };
    let store = spelled.open(read_only).unwrap();
    assert!(matches!(
        store.delete_meta(&ctx(), &id("a")),
        Err(Error::ReadOnly)
    ));
    // A name that SQLite would take for a URI is a name.
    let uri = directory.path().join("file:x?mode=memory");
    Locator::Sqlite(uri.clone()).open(create).unwrap();
    assert!(uri.exists());
    assert!(Locator::parse("".as_ref()).is_err() && Locator::parse("sqlite:".as_ref()).is_err());
    assert!(Locator::parse("dir:".as_ref()).is_err());
    assert!(Locator::parse("postgres://h/q".as_ref()).is_err());
    let dir = directory.path();
    let bare = Locator::parse(dir.as_os_str()).unwrap();
    assert_eq!(bare, Locator::Dir(dir.into()));
    assert_eq!(bare, bare.to_string().parse().unwrap());
}
