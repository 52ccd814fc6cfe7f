//! What is in the directory and should not be there so: copies, documents of another state, files
//! that are no messages.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use retryspoolfs::QueueState::{Active, Deferred, Hold};
use retryspoolfs::backend::dir::{DirBackend, DirFactory};
use retryspoolfs::{Backend, Error, MessageMetadata, QueueState, document};

use crate::contract::{ctx, id, message, time};

/// An empty spool, its path, and the directory that it is in.
fn spool() -> (DirBackend, PathBuf, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta");
    let store = DirFactory::create_if_missing(&path).open().unwrap();
    (store, path, directory)
}

fn file(path: &Path, state: QueueState, name: &str) -> PathBuf {
    path.join(state.as_str()).join(name)
}

/// Writes a message's file past the store, Updated so many seconds after its usual time.
fn write(path: &Path, state: QueueState, name: &str, later: i64) -> Vec<u8> {
    let message = MessageMetadata {
        updated: time(1_700_000_000 + later, 5),
        ..message(name, state)
    };
    let bytes = document::render(&message);
    fs::write(file(path, state, &format!("{name}.json")), &bytes).unwrap();
    bytes
}

fn listed(store: &DirBackend, state: QueueState) -> Vec<String> {
    let ids = store.scan(&ctx(), state, None, 99).unwrap();
    assert_eq!(
        store.state_info(&ctx(), state).unwrap().count,
        ids.len() as u64
    );
    ids.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn eventually(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn aside(path: &Path, state: QueueState) -> Vec<Vec<u8>> {
    let kept = fs::read_dir(path.join(".retryspool/aside").join(state.as_str()));
    kept.map_or_else(
        |_| Vec::new(),
        |files| {
            files
                .map(|f| fs::read(f.unwrap().path()).unwrap())
                .collect()
        },
    )
}

#[test]
fn of_two_copies_the_newer_one_stays_and_the_other_is_kept_aside() {
    for (older_in, newer_in) in [(Hold, Deferred), (Deferred, Hold)] {
        let (store, path, _directory) = spool();
        let old = write(&path, older_in, "x", 0);
        assert_eq!(listed(&store, older_in), ["x"]);
        write(&path, newer_in, "x", 9);
        // It counts once from the first moment on.
        assert_eq!(listed(&store, newer_in), ["x"]);
        assert!(listed(&store, older_in).is_empty());
        assert_eq!(store.locate(&ctx(), &id("x")).unwrap(), Some(newer_in));
        eventually("the older copy goes", || {
            !file(&path, older_in, "x.json").exists()
        });
        assert_eq!(aside(&path, older_in), [old]);
        assert_eq!(listed(&store, newer_in), ["x"]);
        // One that was there before the store was opened, too.
        store.close().unwrap();
        let old = write(&path, older_in, "x", 1);
        let store = DirFactory::new(&path).open().unwrap();
        assert_eq!(listed(&store, newer_in), ["x"]);
        eventually("the older copy goes", || {
            !file(&path, older_in, "x.json").exists()
        });
        assert!(aside(&path, older_in).contains(&old));
    }
}

#[test]
fn a_message_does_not_move_onto_a_copy_that_somebody_may_be_about_to_remove() {
    let (store, path, _directory) = spool();
    let old = write(&path, Hold, "x", 0);
    write(&path, Deferred, "x", 9);
    store.relocate(&ctx(), &id("x"), Deferred, Hold).unwrap();
    assert_eq!(
        aside(&path, Hold),
        [old],
        "it was waited for, and did not go"
    );
    assert_eq!(listed(&store, Hold), ["x"]);
    assert!(listed(&store, Deferred).is_empty());
    // What is deleted is gone in both.
    write(&path, Active, "x", 1);
    store.delete_meta(&ctx(), &id("x")).unwrap();
    assert_eq!(store.get(&ctx(), &id("x")).unwrap(), None);
}

#[test]
fn a_document_that_names_another_state_is_mended() {
    let (store, path, _directory) = spool();
    let first = store.insert(&ctx(), &message("x", Hold)).unwrap();
    fs::rename(file(&path, Hold, "x.json"), file(&path, Active, "x.json")).unwrap();
    assert_eq!(listed(&store, Active), ["x"]);
    assert_eq!(store.get_meta(&ctx(), &id("x")).unwrap().state, Active);
    eventually("it names its state", || {
        let text = fs::read_to_string(file(&path, Active, "x.json")).unwrap();
        text.contains("\"State\": 1,")
    });
    let mended = store.get(&ctx(), &id("x")).unwrap().unwrap();
    assert!(mended.revision.updated > first.updated);
    assert_eq!(mended.metadata.created, message("x", Hold).created);
}

#[test]
fn what_is_no_message_is_told_of_once_and_left_alone() {
    let (store, path, directory) = spool();
    let half = &document::render(&message("half", Hold))[..99];
    let hold = |name: &str| file(&path, Hold, name);
    fs::write(hold("half.json"), half).unwrap();
    fs::write(hold("other.json"), document::render(&message("b", Hold))).unwrap();
    fs::write(hold("notes.txt"), "call Bob").unwrap();
    fs::create_dir(hold("dir.json")).unwrap();
    fs::write(directory.path().join("elsewhere"), "{}").unwrap();
    symlink(directory.path().join("elsewhere"), hold("link.json")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(hold("fifo.json"))
        .status();
    assert!(made.unwrap().success());
    // RetrySpool's own, which no one is told of.
    fs::write(hold("a.json.tmp.1a2b3c4d"), "").unwrap();
    store.insert(&ctx(), &message("good", Hold)).unwrap();
    assert_eq!(listed(&store, Hold), ["good"]);
    for name in ["half", "other", "dir", "link", "fifo"] {
        assert_eq!(store.get(&ctx(), &id(name)).unwrap(), None, "{name}");
        assert_eq!(store.locate(&ctx(), &id(name)).unwrap(), None, "{name}");
        // Its name is taken, in every state.
        for state in [Hold, Deferred] {
            let stored = store.insert(&ctx(), &message(name, state));
            assert!(matches!(stored, Err(Error::Corrupt(_))), "{stored:?}");
        }
        let moved = store.relocate(&ctx(), &id(name), Hold, Deferred);
        assert!(matches!(moved, Err(Error::NotFound)), "{moved:?}");
        assert!(matches!(
            store.delete_meta(&ctx(), &id(name)),
            Err(Error::NotFound)
        ));
    }
    let mut expected = [
        "dir.json",
        "fifo.json",
        "half.json",
        "link.json",
        "notes.txt",
        "other.json",
    ];
    expected.sort_unstable();
    eventually("all are told of", || {
        let told = store.foreign(&ctx()).unwrap();
        let names: Vec<_> = told
            .iter()
            .map(|(_, name, _)| name.to_str().unwrap())
            .collect();
        names == expected
    });
    assert_eq!(fs::read(hold("half.json")).unwrap(), half);
    assert!(hold("a.json.tmp.1a2b3c4d").exists() && hold("notes.txt").exists());
    // A message that goes to a state where its name is taken stays.
    fs::write(file(&path, Deferred, "good.json"), "").unwrap();
    let moved = store.relocate(&ctx(), &id("good"), Hold, Deferred);
    assert!(matches!(moved, Err(Error::Corrupt(_))), "{moved:?}");
    // What is written to its end is a message.
    fs::write(hold("half.json"), document::render(&message("half", Hold))).unwrap();
    assert_eq!(listed(&store, Hold), ["good", "half"]);
    fs::write(hold("half.json"), "").unwrap();
    assert_eq!(listed(&store, Hold), ["good"]);
}
