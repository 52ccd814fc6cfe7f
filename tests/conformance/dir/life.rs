//! Opening, other processes, the end of the directory, and a full disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use retryspoolfs::QueueState::{Bounce, Deferred, Hold};
use retryspoolfs::backend::dir::DirFactory;
use retryspoolfs::{Backend, Error, QueueState, Timestamp, document};

use crate::contract::{ctx, id, message};
use crate::small_disk::SmallDisk;

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_no_spool_is_said_to_be_none() {
    let directory = tempfile::tempdir().unwrap();
    let missing = |path: &Path| match DirFactory::new(path).open().map(drop) {
        Err(Error::Missing(why)) => why,
        other => panic!("{other:?}"),
    };
    let why = missing(&directory.path().join("nothing"));
    assert!(why.contains("retryspoolfs init dir:"), "{why}");
    let why = missing(directory.path());
    assert!(why.contains("no directories of states"), "{why}");
    assert!(names(directory.path()).is_empty());
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(
        DirFactory::new(&file).open(),
        Err(Error::Unavailable(_))
    ));
}

#[test]
fn a_store_that_never_writes_leaves_no_trace() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    // As an older release of RetrySpool makes it, with a message in two states.
    for state in &QueueState::ALL[..5] {
        fs::create_dir(path.join(state.as_str())).unwrap();
    }
    for state in [Hold, Deferred] {
        let mut message = message("x", state);
        message.updated = Timestamp::new(1_700_000_000 + i64::from(state.number()), 0).unwrap();
        let bytes = document::render(&message);
        fs::write(path.join(state.as_str()).join("x.json"), bytes).unwrap();
    }
    let before = names(path);
    let store = DirFactory::new(path).read_only(true).open().unwrap();
    let listed = store.scan(&ctx(), Hold, None, 9).unwrap();
    assert_eq!(listed, [id("x")]);
    assert!(
        store
            .scan(&ctx(), QueueState::Archived, None, 9)
            .unwrap()
            .is_empty()
    );
    assert_eq!(store.get(&ctx(), &id("y")).unwrap(), None);
    for refused in [
        store.delete_meta(&ctx(), &id("x")),
        store.move_to_state(&ctx(), &id("x"), Hold, Deferred),
        store.store_meta(&ctx(), &id("x"), &message("x", Hold)),
    ] {
        assert!(matches!(refused, Err(Error::ReadOnly)), "{refused:?}");
    }
    // Not even after a while.
    std::thread::sleep(Duration::from_millis(900));
    assert_eq!(names(path), before);
    assert!(path.join("deferred/x.json").exists());
}

#[test]
fn what_another_process_changed_is_seen_at_once_or_within_a_second() {
    for notified in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("meta");
        let other = DirFactory::create_if_missing(&path).open().unwrap();
        let store = DirFactory::new(&path).notified(notified).open().unwrap();
        assert_eq!(store.state_info(&ctx(), Hold).unwrap().count, 0);
        let counts = |states: [QueueState; 2]| {
            states.map(|state| store.state_info(&ctx(), state).unwrap().count)
        };
        let seen = |expected: [u64; 2]| {
            let start = Instant::now();
            while !notified && counts([Hold, Deferred]) != expected {
                assert!(start.elapsed() < Duration::from_secs(30), "never seen");
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(counts([Hold, Deferred]), expected);
        };
        for n in 0..100 {
            other
                .insert(&ctx(), &message(&format!("m{n}"), Hold))
                .unwrap();
        }
        seen([100, 0]);
        for n in 0..50 {
            let id = id(&format!("m{n}"));
            other.relocate(&ctx(), &id, Hold, Deferred).unwrap();
            if n % 5 == 0 {
                other.delete_meta(&ctx(), &id).unwrap();
            }
        }
        seen([50, 40]);
        // Actions need no notice.
        other.relocate(&ctx(), &id("m99"), Hold, Bounce).unwrap();
        let late = store.relocate(&ctx(), &id("m99"), Hold, Deferred);
        assert!(
            matches!(late, Err(Error::StateConflict { actual: Bounce, .. })),
            "{late:?}"
        );
        assert_eq!(store.get_meta(&ctx(), &id("m99")).unwrap().state, Bounce);
    }
}

#[test]
fn a_recount_finds_what_nobody_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta");
    let store = DirFactory::create_if_missing(&path).open().unwrap();
    let messages: Vec<_> = (0..30).map(|n| message(&format!("m{n}"), Hold)).collect();
    for stored in store.insert_all(&ctx(), &messages) {
        stored.unwrap();
    }
    assert_eq!(store.recount(&ctx(), &|| true).unwrap(), 0);
    let feed = store.change_feed().unwrap();
    let cursor = feed.newest(&ctx()).unwrap();
    // inotify is not asked to tell of this, and the revision is another one.
    let file = path.join("hold/m7.json");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    fs::set_permissions(file, mode).unwrap();
    assert_eq!(store.recount(&ctx(), &|| true).unwrap(), 1);
    assert!(feed.changes(&ctx(), cursor, 9).unwrap().lost);
    assert_eq!(store.recount(&ctx(), &|| true).unwrap(), 0);
    // Where nothing tells of anything, the counts are right at once, and not a second later.
    let store = DirFactory::new(&path).notified(false).open().unwrap();
    assert_eq!(store.state_info(&ctx(), Hold).unwrap().count, 30);
    let other = DirFactory::new(&path).open().unwrap();
    other.delete_meta(&ctx(), &id("m8")).unwrap();
    other.relocate(&ctx(), &id("m9"), Hold, Deferred).unwrap();
    store.recount(&ctx(), &|| true).unwrap();
    let count = |state| store.state_info(&ctx(), state).unwrap().count;
    assert_eq!((count(Hold), count(Deferred)), (28, 1));
}

#[test]
fn many_new_messages_are_stored_beside_a_retryspool_that_starts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta");
    let store = DirFactory::create_if_missing(&path).open().unwrap();
    let messages: Vec<_> = (0..1000)
        .map(|n| message(&format!("m{n}"), QueueState::ALL[n % 6]))
        .collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    let removed = std::thread::scope(|scope| {
        // It takes every half-written file for one that a crash has left.
        let starts = scope.spawn(|| {
            let mut removed = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for name in names(&path.join("hold")) {
                    let is_half = name.contains(".tmp.");
                    let file = path.join("hold").join(name);
                    removed += u32::from(is_half && fs::remove_file(file).is_ok());
                }
            }
            removed
        });
        let stored = store.insert_all(&ctx(), &messages);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(stored.iter().filter(|stored| stored.is_err()).count(), 0);
        starts.join().unwrap()
    });
    for message in &messages {
        let stored = store.get(&ctx(), &message.id).unwrap().unwrap();
        assert_eq!(stored.metadata, *message);
    }
    assert_eq!(names(&path.join("hold")).len(), messages.len().div_ceil(6));
    // Otherwise nothing was tried.
    assert!(removed > 0);
}

#[test]
fn a_move_changes_state_and_updated_in_the_file_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta");
    let store = DirFactory::create_if_missing(&path).open().unwrap();
    // As RetrySpool writes it, and a later release with one key more.
    let old = String::from_utf8(document::render(&message("x", Hold))).unwrap();
    let old = old
        .replace("\n  \"LastError\"", "\n  \"Later\": [],\n  \"LastError\"")
        .replace('<', "\\u003c");
    let file = |state: QueueState| path.join(state.as_str()).join("x.json");
    fs::write(file(Hold), &old).unwrap();
    let before = fs::metadata(file(Hold)).unwrap();
    let first = store.get(&ctx(), &id("x")).unwrap().unwrap();
    let revision = store.relocate(&ctx(), &id("x"), Hold, Deferred).unwrap();
    let stored = store.get(&ctx(), &id("x")).unwrap().unwrap();
    assert_eq!(stored.revision, revision);
    assert!(revision.updated > first.revision.updated);
    assert_eq!(names(&path.join("deferred")), ["x.json"]);
    assert_eq!(fs::metadata(file(Deferred)).unwrap().ino(), before.ino());
    let expected = old.replace("\"State\": 3", "\"State\": 2").replace(
        &first.revision.updated.to_string(),
        &revision.updated.to_string(),
    );
    let new = fs::read_to_string(file(Deferred)).unwrap();
    // The last digits of a time may be zeros here.
    let updated = new.split("\"Updated\": \"").nth(1).unwrap();
    let updated = &updated[..updated.find('"').unwrap()];
    assert_eq!(Timestamp::parse(updated), Some(revision.updated));
    assert_eq!(
        new.replace(updated, &revision.updated.to_string()),
        expected
    );

    // Another link to the file stays as it is, and so does what is laid out otherwise.
    let backup = directory.path().join("backup.json");
    fs::hard_link(file(Deferred), &backup).unwrap();
    store.relocate(&ctx(), &id("x"), Deferred, Bounce).unwrap();
    assert_eq!(fs::read_to_string(&backup).unwrap(), new);
    let compact = document::render_line(&message("y", Hold));
    fs::write(path.join("hold/y.json"), compact).unwrap();
    store.relocate(&ctx(), &id("y"), Hold, Bounce).unwrap();
    for name in ["x", "y"] {
        let stored = store.get(&ctx(), &id(name)).unwrap().unwrap();
        let bytes = fs::read(path.join(format!("bounce/{name}.json"))).unwrap();
        assert_eq!(stored.metadata.state, Bounce);
        assert_eq!(bytes, document::render(&stored.metadata));
    }
}

#[test]
fn of_two_processes_that_move_a_message_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta");
    let [one, two] = [(); 2].map(|()| DirFactory::create_if_missing(&path).open().unwrap());
    for n in 0..200 {
        one.insert(&ctx(), &message(&format!("m{n}"), Deferred))
            .unwrap();
    }
    let mover = |store: &dyn Backend, to| -> u64 {
        let moved = (0..200).filter(|n| {
            let moved = store.relocate(&ctx(), &id(&format!("m{n}")), Deferred, to);
            assert!(
                matches!(moved, Ok(_) | Err(Error::StateConflict { .. })),
                "{moved:?}"
            );
            moved.is_ok()
        });
        moved.count() as u64
    };
    let (by_one, by_two) = std::thread::scope(|scope| {
        let by_one = scope.spawn(|| mover(&one, Hold));
        let by_two = mover(&two, Bounce);
        (by_one.join().unwrap(), by_two)
    });
    let count = |state| one.state_info(&ctx(), state).unwrap().count;
    assert_eq!(
        (count(Hold), count(Bounce), count(Deferred)),
        (by_one, by_two, 0)
    );
    assert_eq!(by_one + by_two, 200);
}

#[test]
fn a_directory_that_was_replaced_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta");
    let store = DirFactory::create_if_missing(&path).open().unwrap();
    store.insert(&ctx(), &message("x", Hold)).unwrap();
    fs::rename(&path, directory.path().join("old")).unwrap();
    DirFactory::create_if_missing(&path).open().unwrap();
    // The paths are looked at ten times a second.
    std::thread::sleep(Duration::from_millis(110));
    for refused in [
        store.store_meta(&ctx(), &id("y"), &message("y", Hold)),
        store.get_meta(&ctx(), &id("x")).map(drop),
        store.state_info(&ctx(), Hold).map(drop),
    ] {
        assert!(
            matches!(&refused, Err(Error::Unavailable(why)) if why.contains("replaced")),
            "{refused:?}"
        );
    }
    assert!(names(&path.join("hold")).is_empty());
}

#[test]
fn on_a_full_disk_messages_are_moved_and_removed() {
    let disk = SmallDisk::mount(2);
    let path = disk.path().join("meta");
    let store = DirFactory::create_if_missing(&path).open().unwrap();
    for n in 0..40 {
        store
            .insert(&ctx(), &message(&format!("m{n}"), Deferred))
            .unwrap();
    }
    // One whose document can be rewritten where it lies, and one that needs a new file for it.
    fs::hard_link(path.join("deferred/m0.json"), path.join("backup")).unwrap();
    disk.fill();
    let full = store.insert(&ctx(), &message("more", Hold));
    assert!(matches!(full, Err(Error::StorageFull(_))), "{full:?}");
    let edited = store.get(&ctx(), &id("m0")).unwrap().unwrap();
    let full = store.replace(&ctx(), Deferred, edited.revision, &edited.metadata);
    assert!(matches!(full, Err(Error::StorageFull(_))), "{full:?}");
    assert_eq!(store.get(&ctx(), &id("m0")).unwrap().unwrap(), edited);
    let names_hold = |name: &str| {
        let file = path.join("hold").join(name);
        let document = fs::read_to_string(file).unwrap();
        document.contains("\"State\": 3,")
    };
    for name in ["m0", "m39"] {
        store.relocate(&ctx(), &id(name), Deferred, Hold).unwrap();
        assert_eq!(store.get_meta(&ctx(), &id(name)).unwrap().state, Hold);
    }
    assert!(names_hold("m39.json") && !names_hold("m0.json"));
    for n in 1..20 {
        store
            .remove(&ctx(), &id(&format!("m{n}")), Deferred, None)
            .unwrap();
    }
    let count = |state| store.state_info(&ctx(), state).unwrap().count;
    assert_eq!((count(Hold), count(Deferred)), (2, 19));
    // Now that there is room, the document gets the state of its directory.
    let start = Instant::now();
    while !names_hold("m0.json") {
        assert!(start.elapsed() < Duration::from_secs(30), "never mended");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(names(&path.join("hold")), ["m0.json", "m39.json"]);
}
