//! The contract of a store, case by case. Nothing here knows which store it runs on.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use retryspoolfs::QueueState::{Active, Archived, Bounce, Deferred, Hold, Incoming};
use retryspoolfs::{
    Backend, Context, Error, MessageId, MessageListOptions, MessageMetadata, QueueState, Revision,
    SortBy, SortOrder, Timestamp,
};

/// A spool that can be opened, closed and opened again; it ends with this value.
pub struct Spool {
    open: Box<dyn Fn() -> Box<dyn Backend>>,
    _directory: tempfile::TempDir,
}

impl Spool {
    pub fn new(
        directory: tempfile::TempDir,
        open: impl Fn() -> Box<dyn Backend> + 'static,
    ) -> Spool {
        Spool {
            open: Box::new(open),
            _directory: directory,
        }
    }

    pub fn open(&self) -> Box<dyn Backend> {
        (self.open)()
    }
}

/// Makes a test of each case for one store.
macro_rules! conformance {
    ($store:ident, $spool:path) => {
        $crate::contract::conformance! { @ $store, $spool,
            what_was_stored_is_what_is_read
            what_was_stored_is_there_after_reopening
            store_meta_overwrites
            store_meta_takes_now_for_never
            update_meta_keeps_created
            delete_meta_removes_from_any_state
            insert_refuses_an_id_in_use
            replace_needs_state_and_revision
            replace_may_move
            relocate_is_compare_and_swap
            relocate_to_the_same_state_only_looks
            remove_is_compare_and_swap
            every_change_makes_updated_greater
            a_proposed_updated_wins_if_it_is_later
            counts_are_exact
            the_counter_is_the_state_info
            a_change_of_a_state_is_dated
            scan_pages_in_byte_order
            scan_stored_gives_what_get_gives
            listings_page_and_sort
            listings_filter_by_since
            a_limit_of_zero_counts
            strange_ids_are_ordinary
            a_closed_store_refuses
            a_passed_deadline_ends_a_call
            the_log_knows_earlier_revisions
            sync_and_space_answer
            one_of_two_racing_movers_wins
            one_of_two_racing_inserters_wins
            one_of_two_racing_editors_wins
        }
    };
    (@ $store:ident, $spool:path, $($case:ident)*) => {
        mod $store {
            $(#[test]
            fn $case() {
                crate::contract::$case(&$spool());
            })*
        }
    };
}
pub(crate) use conformance;

pub fn ctx() -> Context {
    Context::within(Duration::from_secs(20))
}

pub fn id(text: &str) -> MessageId {
    text.parse().unwrap()
}

pub fn time(seconds: i64, nanos: u32) -> Timestamp {
    Timestamp::new(seconds, nanos).unwrap()
}

const T0: i64 = 1_700_000_000;

pub fn message(name: &str, state: QueueState) -> MessageMetadata {
    MessageMetadata {
        state,
        attempts: 1,
        max_attempts: 12,
        next_retry: time(T0 + 900, 250_000_000),
        created: time(T0, 123_456_789),
        updated: time(T0 + 60, 987_654_321),
        last_error: "451 4.7.1 try again later".into(),
        size: i64::MAX,
        priority: -7,
        headers: [
            ("from", "a@example.org"),
            ("to", "<bob@\"example\".com> & 'Ä\u{0}☃'"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        retry_policy_name: "slow".into(),
        ..MessageMetadata::new(id(name))
    }
}

fn all() -> MessageListOptions {
    MessageListOptions::default()
}

fn names(store: &dyn Backend, state: QueueState, options: &MessageListOptions) -> Vec<String> {
    let listed = store.list_messages(&ctx(), state, options).unwrap();
    listed
        .message_ids
        .iter()
        .map(MessageId::to_string)
        .collect()
}

fn count(store: &dyn Backend, state: QueueState) -> u64 {
    store.state_info(&ctx(), state).unwrap().count
}

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

pub fn counts_are_exact(spool: &Spool) {
    let store = spool.open();
    for n in 0..30 {
        let state = QueueState::ALL[n % 6];
        store
            .insert(&ctx(), &message(&format!("m{n:02}"), state))
            .unwrap();
    }
    for n in (0..30).step_by(3) {
        let from = QueueState::ALL[n % 6];
        store
            .relocate(&ctx(), &id(&format!("m{n:02}")), from, Hold)
            .unwrap();
    }
    store.delete_meta(&ctx(), &id("m01")).unwrap();
    let mut seen = 0;
    for state in QueueState::ALL {
        let listed = store.list_messages(&ctx(), state, &all()).unwrap();
        let scanned = store.scan(&ctx(), state, None, 100).unwrap();
        assert_eq!(listed.message_ids, scanned);
        assert_eq!(
            (listed.total, count(&*store, state)),
            (scanned.len() as u64, scanned.len() as u64)
        );
        seen += scanned.len();
    }
    assert_eq!(seen, 29);
    assert_eq!(count(&*store, Hold), 10);
}

pub fn the_counter_is_the_state_info(spool: &Spool) {
    let store = spool.open();
    store.insert(&ctx(), &message("a", Archived)).unwrap();
    if let Some(counter) = store.state_counter() {
        for state in QueueState::ALL {
            assert_eq!(
                counter.get_state_count(&ctx(), state).unwrap(),
                count(&*store, state)
            );
        }
    }
}

pub fn a_change_of_a_state_is_dated(spool: &Spool) {
    let store = spool.open();
    let changed = |state| store.state_info(&ctx(), state).unwrap().changed;
    assert_eq!(changed(Hold), Timestamp::ZERO);
    // The store may keep milliseconds.
    let before = time(Timestamp::now().seconds() - 1, 0);
    store.insert(&ctx(), &message("a", Hold)).unwrap();
    assert!(changed(Hold) >= before && changed(Hold) <= Timestamp::now());
    assert_eq!(changed(Active), Timestamp::ZERO);
    store.relocate(&ctx(), &id("a"), Hold, Active).unwrap();
    assert!(changed(Active) >= before);
    let entered = changed(Active);
    store.delete_meta(&ctx(), &id("a")).unwrap();
    assert!(changed(Active) >= entered);
}

pub fn scan_pages_in_byte_order(spool: &Spool) {
    let store = spool.open();
    let mut expected: Vec<MessageId> = [
        "b", "a", "B", "a/b", "a%", "ä", "☃", "~", "aa", "a\n", ".x", "𝄞", "\u{ffff}", "z z",
    ]
    .map(id)
    .into();
    for id in &expected {
        store.insert(&ctx(), &message(id.as_str(), Hold)).unwrap();
    }
    store.insert(&ctx(), &message("elsewhere", Active)).unwrap();
    expected.sort();
    for limit in [1, 2, 3, 5, 13, 14, 15] {
        let mut got = Vec::new();
        loop {
            let page = store.scan(&ctx(), Hold, got.last(), limit).unwrap();
            assert!(page.len() <= limit);
            let is_last = page.len() < limit;
            got.extend(page);
            if is_last {
                break;
            }
        }
        assert_eq!(got, expected, "{limit} at a time");
    }
    // The cursor need not be there.
    assert_eq!(
        store.scan(&ctx(), Hold, Some(&id("a0")), 1).unwrap(),
        [id("aa")]
    );
    assert!(
        store
            .scan(&ctx(), Hold, Some(&id("𝄞𝄞")), 9)
            .unwrap()
            .is_empty()
    );
}

pub fn scan_stored_gives_what_get_gives(spool: &Spool) {
    let store = spool.open();
    for name in ["c", "a", "b"] {
        store.insert(&ctx(), &message(name, Hold)).unwrap();
    }
    let scanned = store.scan_stored(&ctx(), Hold, Some(&id("a")), 9).unwrap();
    assert_eq!(scanned.len(), 2);
    for (id, stored) in scanned {
        assert_eq!(stored.unwrap(), store.get(&ctx(), &id).unwrap().unwrap());
    }
    assert_eq!(store.scan_stored(&ctx(), Hold, None, 2).unwrap().len(), 2);
}

pub fn listings_page_and_sort(spool: &Spool) {
    let store = spool.open();
    // Ties in every field; `c` and `d` differ in nanoseconds of Created and Updated only.
    for (name, created, updated, priority, attempts) in [
        ("a", (5, 0), (9, 0), -1, 3),
        ("b", (4, 0), (9, 0), 7, 3),
        ("c", (4, 20), (8, 20), 7, 1),
        ("d", (4, 10), (8, 10), 0, 3),
        ("e", (1, 0), (10, 0), 7, 2),
    ] {
        let metadata = MessageMetadata {
            created: time(T0 + created.0, created.1),
            updated: time(T0 + updated.0, updated.1),
            priority,
            attempts,
            ..message(name, Deferred)
        };
        store.insert(&ctx(), &metadata).unwrap();
    }
    for (sort_by, expected) in [
        (SortBy::Id, "abcde"),
        (SortBy::Created, "ebdca"),
        (SortBy::Updated, "dcabe"),
        (SortBy::Priority, "adbce"),
        (SortBy::Attempts, "ceabd"),
    ] {
        let mut expected: Vec<String> = expected.chars().map(String::from).collect();
        for sort_order in [SortOrder::Asc, SortOrder::Desc] {
            let options = MessageListOptions {
                sort_by,
                sort_order,
                ..all()
            };
            assert_eq!(names(&*store, Deferred, &options), expected, "{options:?}");
            for limit in 1..7 {
                let mut pages = Vec::new();
                for page in 0.. {
                    let options = MessageListOptions {
                        limit: Some(limit),
                        offset: page * limit,
                        ..options.clone()
                    };
                    let listed = store.list_messages(&ctx(), Deferred, &options).unwrap();
                    assert_eq!(listed.total, 5);
                    pages.extend(listed.message_ids.iter().map(MessageId::to_string));
                    assert_eq!(listed.has_more, pages.len() < 5);
                    if !listed.has_more {
                        break;
                    }
                }
                assert_eq!(pages, expected, "{options:?}, {limit} at a time");
            }
            expected.reverse();
        }
    }
    let beyond = MessageListOptions { offset: 9, ..all() };
    let beyond = store.list_messages(&ctx(), Deferred, &beyond).unwrap();
    assert_eq!(
        (beyond.message_ids.len(), beyond.total, beyond.has_more),
        (0, 5, false)
    );
    let huge = MessageListOptions {
        limit: Some(u64::MAX),
        offset: u64::MAX,
        ..all()
    };
    assert_eq!(
        store.list_messages(&ctx(), Deferred, &huge).unwrap().total,
        5
    );
    assert_eq!(
        store.list_messages(&ctx(), Bounce, &all()).unwrap(),
        Default::default()
    );
}

pub fn listings_filter_by_since(spool: &Spool) {
    let store = spool.open();
    for (name, created, updated) in [("a", 0, 10), ("b", 20, 20), ("c", 0, 30), ("d", 0, 19)] {
        let (created, updated) = (time(T0 + created, 0), time(T0 + updated, 0));
        store
            .insert(
                &ctx(),
                &MessageMetadata {
                    created,
                    updated,
                    ..message(name, Hold)
                },
            )
            .unwrap();
    }
    for sort_by in [
        SortBy::Id,
        SortBy::Created,
        SortBy::Updated,
        SortBy::Priority,
        SortBy::Attempts,
    ] {
        let options = MessageListOptions {
            since: Timestamp::new(T0 + 20, 0),
            sort_by,
            limit: Some(1),
            ..all()
        };
        let listed = store.list_messages(&ctx(), Hold, &options).unwrap();
        assert_eq!(
            (listed.message_ids.len(), listed.total, listed.has_more),
            (1, 2, true),
            "{sort_by:?}"
        );
        let mut found = names(
            &*store,
            Hold,
            &MessageListOptions {
                limit: None,
                ..options
            },
        );
        found.sort();
        assert_eq!(found, ["b", "c"]);
    }
}

pub fn a_limit_of_zero_counts(spool: &Spool) {
    let store = spool.open();
    for name in ["a", "b", "c"] {
        store.insert(&ctx(), &message(name, Hold)).unwrap();
    }
    let options = MessageListOptions {
        limit: Some(0),
        ..all()
    };
    let listed = store.list_messages(&ctx(), Hold, &options).unwrap();
    assert_eq!(
        (listed.message_ids.len(), listed.total, listed.has_more),
        (0, 3, true)
    );
    let since = MessageListOptions {
        since: Timestamp::new(T0 + 3600, 0),
        ..options
    };
    assert_eq!(
        store.list_messages(&ctx(), Hold, &since).unwrap(),
        Default::default()
    );
}

pub fn strange_ids_are_ordinary(spool: &Spool) {
    let store = spool.open();
    let longest = "x".repeat(250);
    let slashes = "/".repeat(83);
    let umlauts = "ü".repeat(125);
    let strange = [
        "../x",
        "a/b",
        ".hidden",
        "%2f",
        "a%41",
        "\n\"'",
        "msg\0nul",
        "x.json~",
        "4913",
        "grüße",
        "-rf",
        "'; DROP TABLE messages; --",
        &longest,
        &slashes,
        &umlauts,
        "\u{7f}",
        " ",
        "file:x?mode=ro",
        "１",
        "\u{feff}x",
    ];
    for name in strange {
        let first = store.insert(&ctx(), &message(name, Hold)).unwrap();
        assert!(
            matches!(
                store.insert(&ctx(), &message(name, Hold)),
                Err(Error::AlreadyExists { state: Hold })
            ),
            "{name:?}"
        );
        assert_eq!(
            store.get_meta(&ctx(), &id(name)).unwrap(),
            message(name, Hold)
        );
        let moved = store.relocate(&ctx(), &id(name), Hold, Bounce).unwrap();
        assert!(moved.updated > first.updated);
    }
    let mut expected: Vec<MessageId> = strange.map(id).into();
    expected.sort();
    assert_eq!(store.scan(&ctx(), Bounce, None, 99).unwrap(), expected);
    assert_eq!(count(&*store, Bounce), strange.len() as u64);
    for name in strange {
        let revision = store.get(&ctx(), &id(name)).unwrap().unwrap().revision;
        store
            .remove(&ctx(), &id(name), Bounce, Some(revision))
            .unwrap();
    }
    assert_eq!(count(&*store, Bounce), 0);
}

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
