//! What a change of one message does, and what it refuses.

use std::time::Duration;

use retryspoolfs::QueueState::{Active, Archived, Bounce, Deferred, Hold, Incoming};
use retryspoolfs::{Error, MessageMetadata, QueueState, Revision, Timestamp};

use super::{Spool, T0, count, ctx, id, message, time};

pub fn what_was_stored_is_what_is_read(spool: &Spool) {
    let store = spool.open();
    assert!(store.get(&ctx(), &id("msg-1")).unwrap().is_none());
    assert!(matches!(
        store.get_meta(&ctx(), &id("msg-1")),
        Err(Error::NotFound)
    ));
    for (n, state) in QueueState::ALL.into_iter().enumerate() {
        let mut stored = message(&format!("msg-{n}"), state);
        if n == 0 {
            stored.next_retry = Timestamp::ZERO;
            stored.headers.clear();
            stored.last_error.clear();
        }
        store.store_meta(&ctx(), &stored.id, &stored).unwrap();
        assert_eq!(store.get_meta(&ctx(), &stored.id).unwrap(), stored);
        let got = store.get(&ctx(), &stored.id).unwrap().unwrap();
        assert_eq!(got.revision.updated, stored.updated);
        assert_eq!(got.metadata, stored);
    }
    // The ID that the call names counts.
    store
        .store_meta(&ctx(), &id("other"), &message("msg-1", Hold))
        .unwrap();
    assert_eq!(
        store.get_meta(&ctx(), &id("other")).unwrap().id,
        id("other")
    );
}

pub fn what_was_stored_is_there_after_reopening(spool: &Spool) {
    let store = spool.open();
    let stored = message("msg-1", Bounce);
    let revision = store.insert(&ctx(), &stored).unwrap();
    store.close().unwrap();
    let store = spool.open();
    let got = store.get(&ctx(), &stored.id).unwrap().unwrap();
    assert_eq!((got.metadata, got.revision), (stored, revision));
    assert_eq!(count(&*store, Bounce), 1);
}

pub fn store_meta_overwrites(spool: &Spool) {
    let store = spool.open();
    store
        .store_meta(&ctx(), &id("a"), &message("a", Incoming))
        .unwrap();
    let second = MessageMetadata {
        attempts: 5,
        created: time(T0 + 5, 0),
        next_retry: time(T0 + 7, 1),
        updated: time(T0 + 100, 0),
        ..message("a", Hold)
    };
    store.store_meta(&ctx(), &id("a"), &second).unwrap();
    assert_eq!(store.get_meta(&ctx(), &id("a")).unwrap(), second);
    assert_eq!((count(&*store, Incoming), count(&*store, Hold)), (0, 1));
}

pub fn store_meta_takes_now_for_never(spool: &Spool) {
    let store = spool.open();
    let before = Timestamp::now();
    let never = MessageMetadata {
        created: Timestamp::ZERO,
        updated: Timestamp::ZERO,
        ..message("a", Hold)
    };
    store.store_meta(&ctx(), &id("a"), &never).unwrap();
    let first = store.get_meta(&ctx(), &id("a")).unwrap();
    assert!(before <= first.created && first.created <= Timestamp::now());
    assert!(before <= first.updated && first.updated <= Timestamp::now());
    store.store_meta(&ctx(), &id("a"), &never).unwrap();
    let second = store.get_meta(&ctx(), &id("a")).unwrap();
    assert_eq!(
        second.created, first.created,
        "only a new message's Created is now"
    );
    assert!(second.updated > first.updated);
}

pub fn update_meta_keeps_created(spool: &Spool) {
    let store = spool.open();
    let update = MessageMetadata {
        created: time(T0 + 9, 9),
        updated: time(T0 + 90, 9),
        attempts: 2,
        ..message("a", Deferred)
    };
    assert!(matches!(
        store.update_meta(&ctx(), &id("a"), &update),
        Err(Error::NotFound)
    ));
    assert_eq!(count(&*store, Deferred), 0);
    store
        .store_meta(&ctx(), &id("a"), &message("a", Active))
        .unwrap();
    store.update_meta(&ctx(), &id("a"), &update).unwrap();
    let created = message("a", Active).created;
    assert_eq!(
        store.get_meta(&ctx(), &id("a")).unwrap(),
        MessageMetadata { created, ..update }
    );
    assert_eq!((count(&*store, Active), count(&*store, Deferred)), (0, 1));
    let (before, never) = (Timestamp::now(), message("a", Deferred));
    let never = MessageMetadata {
        updated: Timestamp::ZERO,
        ..never
    };
    store.update_meta(&ctx(), &id("a"), &never).unwrap();
    assert!(store.get_meta(&ctx(), &id("a")).unwrap().updated >= before);
}

pub fn delete_meta_removes_from_any_state(spool: &Spool) {
    let store = spool.open();
    assert!(matches!(
        store.delete_meta(&ctx(), &id("a")),
        Err(Error::NotFound)
    ));
    for state in QueueState::ALL {
        store.insert(&ctx(), &message("a", state)).unwrap();
        store.delete_meta(&ctx(), &id("a")).unwrap();
        assert!(store.get(&ctx(), &id("a")).unwrap().is_none());
        assert_eq!(count(&*store, state), 0);
    }
}

pub fn insert_refuses_an_id_in_use(spool: &Spool) {
    let store = spool.open();
    for state in [Deferred, Archived] {
        let name = format!("in-{state}");
        let first = message(&name, state);
        let revision = store.insert(&ctx(), &first).unwrap();
        assert_eq!(revision.updated, first.updated);
        let refused = store.insert(&ctx(), &message(&name, Hold)).unwrap_err();
        assert!(
            matches!(refused, Error::AlreadyExists { state: found } if found == state),
            "{refused}"
        );
        assert_eq!(store.get_meta(&ctx(), &first.id).unwrap(), first);
    }
    assert_eq!(count(&*store, Hold), 0);
}

pub fn replace_needs_state_and_revision(spool: &Spool) {
    let store = spool.open();
    let edited = MessageMetadata {
        created: time(T0 - 5, 5),
        attempts: 9,
        ..message("a", Deferred)
    };
    let nowhere = store.replace(&ctx(), Deferred, time(T0, 0).into(), &edited);
    assert!(matches!(nowhere, Err(Error::NotFound)));
    let first = store.insert(&ctx(), &message("a", Deferred)).unwrap();

    let elsewhere = store.replace(&ctx(), Hold, first, &edited).unwrap_err();
    assert!(
        matches!(
            elsewhere,
            Error::StateConflict {
                expected: Hold,
                actual: Deferred
            }
        ),
        "{elsewhere}"
    );
    let stale = Revision::from(time(T0 + 60, 987_654_320));
    let stale = store.replace(&ctx(), Deferred, stale, &edited).unwrap_err();
    assert!(
        matches!(stale, Error::StaleRevision { current } if current == first.updated),
        "{stale}"
    );
    assert_eq!(
        store.get_meta(&ctx(), &id("a")).unwrap(),
        message("a", Deferred)
    );

    let second = store.replace(&ctx(), Deferred, first, &edited).unwrap();
    assert_eq!(
        second.updated,
        first.updated.next(),
        "the same Updated moves on"
    );
    let updated = second.updated;
    assert_eq!(
        store.get_meta(&ctx(), &id("a")).unwrap(),
        MessageMetadata {
            updated,
            ..edited.clone()
        }
    );
    assert!(matches!(
        store.replace(&ctx(), Deferred, first, &edited),
        Err(Error::StaleRevision { .. })
    ));
}

pub fn replace_may_move(spool: &Spool) {
    let store = spool.open();
    let first = store.insert(&ctx(), &message("a", Deferred)).unwrap();
    store
        .replace(&ctx(), Deferred, first, &message("a", Archived))
        .unwrap();
    assert_eq!((count(&*store, Deferred), count(&*store, Archived)), (0, 1));
    assert_eq!(store.get_meta(&ctx(), &id("a")).unwrap().state, Archived);
}

pub fn relocate_is_compare_and_swap(spool: &Spool) {
    let store = spool.open();
    assert!(matches!(
        store.relocate(&ctx(), &id("a"), Hold, Active),
        Err(Error::NotFound)
    ));
    let first = store.insert(&ctx(), &message("a", Deferred)).unwrap();
    let conflict = store.relocate(&ctx(), &id("a"), Hold, Active).unwrap_err();
    assert!(
        matches!(
            conflict,
            Error::StateConflict {
                expected: Hold,
                actual: Deferred
            }
        ),
        "{conflict}"
    );
    let before = Timestamp::now();
    let moved = store.relocate(&ctx(), &id("a"), Deferred, Hold).unwrap();
    assert!(moved.updated > first.updated && moved.updated >= before);
    let (state, updated) = (Hold, moved.updated);
    let expected = MessageMetadata {
        state,
        updated,
        ..message("a", Deferred)
    };
    assert_eq!(store.get_meta(&ctx(), &id("a")).unwrap(), expected);
    store
        .move_to_state(&ctx(), &id("a"), Hold, Archived)
        .unwrap();
    assert!(matches!(
        store.move_to_state(&ctx(), &id("a"), Hold, Archived),
        Err(Error::StateConflict {
            expected: Hold,
            actual: Archived
        })
    ));
}

pub fn relocate_to_the_same_state_only_looks(spool: &Spool) {
    let store = spool.open();
    let first = store.insert(&ctx(), &message("a", Deferred)).unwrap();
    assert_eq!(
        store
            .relocate(&ctx(), &id("a"), Deferred, Deferred)
            .unwrap(),
        first
    );
    assert_eq!(
        store.get(&ctx(), &id("a")).unwrap().unwrap().revision,
        first
    );
    assert!(matches!(
        store.relocate(&ctx(), &id("a"), Hold, Hold),
        Err(Error::StateConflict {
            expected: Hold,
            actual: Deferred
        })
    ));
    assert!(matches!(
        store.relocate(&ctx(), &id("b"), Hold, Hold),
        Err(Error::NotFound)
    ));
}

pub fn remove_is_compare_and_swap(spool: &Spool) {
    let store = spool.open();
    assert!(matches!(
        store.remove(&ctx(), &id("a"), Hold, None),
        Err(Error::NotFound)
    ));
    let first = store.insert(&ctx(), &message("a", Deferred)).unwrap();
    assert!(matches!(
        store.remove(&ctx(), &id("a"), Hold, Some(first)),
        Err(Error::StateConflict {
            expected: Hold,
            actual: Deferred
        })
    ));
    let stale = Revision::from(first.updated.next());
    let stale = store
        .remove(&ctx(), &id("a"), Deferred, Some(stale))
        .unwrap_err();
    assert!(
        matches!(stale, Error::StaleRevision { current } if current == first.updated),
        "{stale}"
    );
    assert_eq!(count(&*store, Deferred), 1);
    assert_eq!(
        store
            .remove(&ctx(), &id("a"), Deferred, Some(first))
            .unwrap(),
        first
    );
    assert_eq!(count(&*store, Deferred), 0);
    let again = store.insert(&ctx(), &message("a", Hold)).unwrap();
    assert_eq!(store.remove(&ctx(), &id("a"), Hold, None).unwrap(), again);
}

pub fn every_change_makes_updated_greater(spool: &Spool) {
    let store = spool.open();
    // Ahead of this host's clock, so that no change can win by the clock.
    let ahead = Timestamp::now().saturating_add(Duration::from_secs(1000));
    // With fewer digits than the next one has.
    let ahead = Timestamp::new(ahead.seconds(), 123_456_780).unwrap();
    let mut metadata = MessageMetadata {
        updated: ahead,
        ..message("a", Deferred)
    };
    let mut last = store.insert(&ctx(), &metadata).unwrap();
    assert_eq!(last.updated, ahead);
    let mut changed = |what: &str| {
        let now = store.get(&ctx(), &id("a")).unwrap().unwrap();
        assert_eq!(now.revision.updated, last.updated.next(), "{what}");
        assert_eq!(now.metadata.updated, now.revision.updated, "{what}");
        last = now.revision;
        now.revision
    };
    store.relocate(&ctx(), &id("a"), Deferred, Hold).unwrap();
    let revision = changed("relocate");
    metadata.updated = time(T0, 0);
    store.replace(&ctx(), Hold, revision, &metadata).unwrap();
    changed("replace");
    store.update_meta(&ctx(), &id("a"), &metadata).unwrap();
    changed("update_meta");
    store.store_meta(&ctx(), &id("a"), &metadata).unwrap();
    changed("store_meta");
    store
        .move_to_state(&ctx(), &id("a"), Deferred, Archived)
        .unwrap();
    changed("move_to_state");
    // Over the end of a second.
    let end = time(ahead.seconds() + 5, 999_999_999);
    store
        .store_meta(
            &ctx(),
            &id("a"),
            &MessageMetadata {
                updated: end,
                ..metadata.clone()
            },
        )
        .unwrap();
    store.store_meta(&ctx(), &id("a"), &metadata).unwrap();
    let over = store.get_meta(&ctx(), &id("a")).unwrap().updated;
    assert_eq!(over, time(end.seconds() + 1, 0));
}

pub fn a_proposed_updated_wins_if_it_is_later(spool: &Spool) {
    let store = spool.open();
    store.insert(&ctx(), &message("a", Deferred)).unwrap();
    let mut metadata = message("a", Deferred);
    for later in [
        metadata.updated.next().next(),
        time(T0 + 61, 0),
        time(T0 + 61, 500),
        time(T0 + 90, 1),
    ] {
        metadata.updated = later;
        store.store_meta(&ctx(), &id("a"), &metadata).unwrap();
        assert_eq!(
            store
                .get(&ctx(), &id("a"))
                .unwrap()
                .unwrap()
                .revision
                .updated,
            later
        );
    }
}
