//! What holds for every call: closing, deadlines, the log, syncing, and races with one winner.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use retryspoolfs::QueueState::{Active, Bounce, Deferred, Hold};
use retryspoolfs::{Context, Error, MessageListOptions, MessageMetadata, SortBy};

use super::{Spool, all, count, ctx, id, message};

pub fn a_closed_store_refuses(spool: &Spool) {
    let store = spool.open();
    let first = store.insert(&ctx(), &message("a", Hold)).unwrap();
    store.close().unwrap();
    store.close().unwrap();
    let (ctx, a, metadata) = (ctx(), id("a"), message("a", Hold));
    let refused: Vec<(&str, Option<Error>)> = vec![
        ("store_meta", store.store_meta(&ctx, &a, &metadata).err()),
        ("get_meta", store.get_meta(&ctx, &a).err()),
        ("update_meta", store.update_meta(&ctx, &a, &metadata).err()),
        ("delete_meta", store.delete_meta(&ctx, &a).err()),
        (
            "list_messages",
            store.list_messages(&ctx, Hold, &all()).err(),
        ),
        (
            "move_to_state",
            store.move_to_state(&ctx, &a, Hold, Active).err(),
        ),
        ("get", store.get(&ctx, &a).err()),
        ("insert", store.insert(&ctx, &metadata).err()),
        ("replace", store.replace(&ctx, Hold, first, &metadata).err()),
        ("relocate", store.relocate(&ctx, &a, Hold, Active).err()),
        ("remove", store.remove(&ctx, &a, Hold, None).err()),
        ("scan", store.scan(&ctx, Hold, None, 1).err()),
        ("scan_stored", store.scan_stored(&ctx, Hold, None, 1).err()),
        ("state_info", store.state_info(&ctx, Hold).err()),
        (
            "was_revision",
            store.was_revision(&ctx, &a, first.updated).err(),
        ),
        ("sync", store.sync(&ctx).err()),
        ("space", store.space().err()),
    ];
    for (call, error) in refused {
        assert!(matches!(error, Some(Error::Closed)), "{call}: {error:?}");
    }
    assert_eq!(spool.open().get_meta(&ctx, &a).unwrap(), metadata);
}

pub fn a_passed_deadline_ends_a_call(spool: &Spool) {
    let store = spool.open();
    let passed = Context::within(Duration::ZERO);
    let start = Instant::now();
    for n in 0..50 {
        let call = store.insert(&passed, &message(&format!("m{n}"), Hold));
        assert!(matches!(call, Ok(_) | Err(Error::Busy(_))), "{call:?}");
        let call = store.list_messages(
            &passed,
            Hold,
            &MessageListOptions {
                sort_by: SortBy::Priority,
                ..all()
            },
        );
        assert!(matches!(call, Ok(_) | Err(Error::Busy(_))), "{call:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(10));
}

pub fn the_log_knows_earlier_revisions(spool: &Spool) {
    let store = spool.open();
    let was = |updated| store.was_revision(&ctx(), &id("a"), updated).unwrap();
    let first = store.insert(&ctx(), &message("a", Hold)).unwrap().updated;
    assert!(!was(first), "it still is");
    let second = store
        .relocate(&ctx(), &id("a"), Hold, Active)
        .unwrap()
        .updated;
    assert!(was(first));
    assert!(!was(second));
    assert!(!was(first.next()));
    assert!(!store.was_revision(&ctx(), &id("b"), first).unwrap());
    store.delete_meta(&ctx(), &id("a")).unwrap();
    assert!(was(second));
}

pub fn sync_and_space_answer(spool: &Spool) {
    let store = spool.open();
    store.sync(&ctx()).unwrap();
    store.insert(&ctx(), &message("a", Hold)).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| store.sync(&ctx()).unwrap());
        }
    });
    let space = store.space().unwrap();
    assert!(
        space.total >= space.free && space.free >= space.available && space.total > 0,
        "{space:?}"
    );
}

/// Runs both at once, and gives both results.
fn race<T: Send>(runners: [&(dyn Fn() -> T + Sync); 2]) -> [T; 2] {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let running = runners.map(|run| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                run()
            })
        });
        running.map(|thread| thread.join().unwrap())
    })
}

pub fn one_of_two_racing_movers_wins(spool: &Spool) {
    let store = &*spool.open();
    for n in 0..100 {
        let id = id(&format!("m{n}"));
        store
            .insert(&ctx(), &message(id.as_str(), Deferred))
            .unwrap();
        let mover = |to| store.relocate(&ctx(), &id, Deferred, to);
        let results = race([&|| mover(Hold), &|| mover(Bounce)]);
        let winner = match &results {
            [
                Ok(_),
                Err(Error::StateConflict {
                    expected: Deferred,
                    actual: Hold,
                }),
            ] => Hold,
            [
                Err(Error::StateConflict {
                    expected: Deferred,
                    actual: Bounce,
                }),
                Ok(_),
            ] => Bounce,
            _ => panic!("not one winner: {results:?}"),
        };
        assert_eq!(store.get_meta(&ctx(), &id).unwrap().state, winner);
    }
    assert_eq!(count(store, Hold) + count(store, Bounce), 100);
}

pub fn one_of_two_racing_inserters_wins(spool: &Spool) {
    let store = &*spool.open();
    for n in 0..50 {
        let name = format!("m{n}");
        let inserter = |state| store.insert(&ctx(), &message(&name, state));
        let results = race([&|| inserter(Hold), &|| inserter(Active)]);
        assert!(
            matches!(
                results,
                [Ok(_), Err(Error::AlreadyExists { state: Hold })]
                    | [Err(Error::AlreadyExists { state: Active }), Ok(_)]
            ),
            "{results:?}"
        );
    }
    assert_eq!(count(store, Hold) + count(store, Active), 50);
}

pub fn one_of_two_racing_editors_wins(spool: &Spool) {
    let store = &*spool.open();
    let mut revision = store.insert(&ctx(), &message("a", Hold)).unwrap();
    for n in 0..50 {
        let editor = |attempts| {
            let edited = MessageMetadata {
                attempts,
                ..message("a", Hold)
            };
            store
                .replace(&ctx(), Hold, revision, &edited)
                .map(|revision| (attempts, revision))
        };
        let results = race([&|| editor(2 * n), &|| editor(2 * n + 1)]);
        let won = match results {
            [Ok(won), Err(Error::StaleRevision { current })]
            | [Err(Error::StaleRevision { current }), Ok(won)] => {
                assert_eq!(current, won.1.updated);
                won
            }
            results => panic!("not one winner: {results:?}"),
        };
        let stored = store.get(&ctx(), &id("a")).unwrap().unwrap();
        assert_eq!((stored.metadata.attempts, stored.revision), won);
        revision = won.1;
    }
}
