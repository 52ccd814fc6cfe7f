//! Counts, scans and listings.
//!
//! It is long because all of them read the same messages in the same orders, to be compared.

use retryspoolfs::QueueState::{Active, Archived, Bounce, Deferred, Hold};
use retryspoolfs::backend::{Pages, Selected};
use retryspoolfs::model::Filter;
use retryspoolfs::{
    Backend, Error, MessageId, MessageListOptions, MessageMetadata, QueueState, Revision, SortBy,
    SortOrder, Timestamp,
};

use super::{Spool, T0, all, count, ctx, id, message, names, time};

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
    expected.retain(|id| spool.holds(id.as_str()));
    for id in &expected {
        store.insert(&ctx(), &message(id.as_str(), Hold)).unwrap();
    }
    store.insert(&ctx(), &message("elsewhere", Active)).unwrap();
    expected.sort();
    let all = expected.len();
    for limit in [1, 2, 3, 5, all - 1, all, all + 1] {
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

pub fn a_selection_is_what_the_filter_means(spool: &Spool) {
    let store = spool.open();
    let messages: Vec<MessageMetadata> = (0..24)
        .map(|n| MessageMetadata {
            attempts: n % 3,
            priority: n % 4 - 2,
            created: time(T0 + n / 4, 500_000_000 * (n % 2) as u32),
            updated: time(T0 + 100 + n, 1),
            next_retry: match n % 5 {
                0 => Timestamp::ZERO,
                _ => time(T0 + 900 + n, 250_000_000),
            },
            last_error: format!("45{} try later", n % 3),
            headers: [("To".to_owned(), format!("m{n}@example{}.org", n % 2))].into(),
            retry_policy_name: ["", "slow"][n as usize % 2].into(),
            ..message(&format!("m{n:02}"), Deferred)
        })
        .collect();
    for message in &messages {
        store.insert(&ctx(), message).unwrap();
    }
    // Among few messages of other states, and among many.
    for elsewhere in [0..1, 1..100] {
        for n in elsewhere {
            let elsewhere = message(&format!("elsewhere-{n}"), Hold);
            store.insert(&ctx(), &elsewhere).unwrap();
        }
        selects_what_is_meant(&*store, &messages);
    }
}

fn selects_what_is_meant(store: &dyn Backend, messages: &[MessageMetadata]) {
    let glob = |text: &str| Some(text.parse().unwrap());
    let all = Filter::default;
    let t = |nanos| Some(time(T0 + 3, nanos));
    for filter in [
        all(),
        Filter {
            created_before: t(500_000_000),
            ..all()
        },
        Filter {
            created_since: t(500_000_000),
            ..all()
        },
        Filter {
            created_since: t(1),
            created_before: t(500_000_001),
            ..all()
        },
        Filter {
            updated_before: Some(time(T0 + 110, 1)),
            ..all()
        },
        Filter {
            updated_before: Some(time(T0 + 110, 2)),
            ..all()
        },
        Filter {
            touched_since: Some(time(T0 + 115, 2)),
            ..all()
        },
        Filter {
            touched_since: Some(time(T0 + 115, 1)),
            error: glob("45*"),
            ..all()
        },
        Filter {
            due_by: Some(time(T0 + 907, 250_000_000)),
            ..all()
        },
        Filter {
            due_by: Some(time(T0 + 907, 249_999_999)),
            ..all()
        },
        Filter {
            attempts: Some(1..=9),
            ..all()
        },
        Filter {
            priority: Some(i64::MIN..=-1),
            ..all()
        },
        Filter {
            error: glob("451*"),
            ..all()
        },
        Filter {
            headers: vec![("to".into(), "*@EXAMPLE1.org".parse().unwrap())],
            ..all()
        },
        Filter {
            id: glob("m1?"),
            ..all()
        },
        Filter {
            policy: glob(""),
            ..all()
        },
        Filter {
            policy: glob("slow"),
            attempts: Some(0..=0),
            ..all()
        },
    ] {
        let meant: Vec<&MessageId> = messages
            .iter()
            .filter(|message| filter.matches(message))
            .map(|message| &message.id)
            .collect();
        assert!(
            !meant.is_empty() && (meant.len() < 24 || filter.is_empty()),
            "{filter:?}"
        );
        let mut found = store.select(&ctx(), Deferred, &filter, None, 100).unwrap();
        found.messages.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!((&found.next, &found.unreadable), (&None, &vec![]));
        let ids: Vec<&MessageId> = found.messages.iter().map(|(id, _)| id).collect();
        assert_eq!(ids, meant, "{filter:?}");
        let stored = store
            .select_stored(&ctx(), Deferred, &filter, None, 100)
            .unwrap();
        for (stored, (id, revision)) in stored.messages.iter().zip(&found.messages) {
            assert_eq!(Some(stored), store.get(&ctx(), id).unwrap().as_ref());
            assert_eq!(stored.revision, *revision);
        }
        assert_eq!(
            stored.map(|stored| (stored.metadata.id, stored.revision)),
            found
        );
    }
}

pub fn a_selection_goes_on_from_its_cursor(spool: &Spool) {
    let store = spool.open();
    let mut expected: Vec<(QueueState, MessageId)> = Vec::new();
    for state in [Hold, Deferred] {
        for n in 0..20 {
            let message = MessageMetadata {
                attempts: n % 2,
                ..message(&format!("{state}-{n:02}"), state)
            };
            store.insert(&ctx(), &message).unwrap();
            if n % 2 == 1 {
                expected.push((state, message.id));
            }
        }
    }
    let odd = Filter {
        attempts: Some(1..=1),
        ..Filter::default()
    };
    let ids =
        |page: Selected<(MessageId, Revision)>| page.messages.into_iter().map(|found| found.0);
    for limit in [1, 3, 10, 100] {
        let mut found = Vec::new();
        for page in Pages::of(&*store, &[Hold, Deferred], &odd, limit) {
            let (state, page) = page.unwrap();
            assert!(page.messages.len() <= limit);
            found.extend(ids(page).map(|id| (state, id)));
        }
        assert_eq!(
            found[..10]
                .iter()
                .filter(|(state, _)| *state == Hold)
                .count(),
            10
        );
        found.sort_by(|a, b| (b.0, &a.1).cmp(&(a.0, &b.1)));
        assert_eq!(found, expected, "{limit} at a time");
        let mut found = Vec::new();
        for page in Pages::stored(&*store, &[Hold, Deferred], &odd, limit) {
            let (state, page) = page.unwrap();
            found.extend(
                page.messages
                    .into_iter()
                    .map(|stored| (state, stored.metadata.id)),
            );
        }
        assert_eq!(found, expected, "whole messages come in the order of IDs");
    }
    // A message that was there when the selection began is met, whatever leaves meanwhile.
    let first = store.select(&ctx(), Hold, &odd, None, 5).unwrap();
    let gone = first.messages.last().unwrap().0.clone();
    store.delete_meta(&ctx(), &gone).unwrap();
    let (mut met, mut next) = (first.messages.len(), first.next);
    while let Some(cursor) = next {
        let page = store
            .select(&ctx(), Hold, &odd, Some(&cursor), 100)
            .unwrap();
        met += page.messages.len();
        next = page.next;
    }
    assert_eq!(met, 10);
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
    // The states before and after it must not show.
    store.insert(&ctx(), &message("c1", Active)).unwrap();
    store.insert(&ctx(), &message("c2", Hold)).unwrap();
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
    let (strange, refused): (Vec<&str>, Vec<&str>) =
        strange.into_iter().partition(|name| spool.holds(name));
    for name in refused {
        let (id, metadata) = (id(name), message(name, Hold));
        for stored in [
            store.insert(&ctx(), &metadata).map(drop),
            store.store_meta(&ctx(), &id, &metadata),
        ] {
            assert!(matches!(stored, Err(Error::InvalidId(_))), "{stored:?}");
        }
        for found in [
            store.update_meta(&ctx(), &id, &metadata),
            store.delete_meta(&ctx(), &id),
            store.move_to_state(&ctx(), &id, Hold, Active),
            store.remove(&ctx(), &id, Hold, None).map(drop),
        ] {
            assert!(matches!(found, Err(Error::NotFound)), "{found:?}");
        }
        assert_eq!(store.get(&ctx(), &id).unwrap(), None);
        assert_eq!(store.locate(&ctx(), &id).unwrap(), None);
    }
    for name in &strange {
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
    let mut expected: Vec<MessageId> = strange.iter().map(|name| id(name)).collect();
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

pub fn ages_are_the_oldest_and_the_next_due(spool: &Spool) {
    let store = spool.open();
    let ages = || {
        let ages = store.ages(&ctx(), Deferred).unwrap();
        [ages.oldest, ages.next_due].map(|at| at.map(Timestamp::seconds))
    };
    assert_eq!(ages(), [None, None]);
    for (name, created, next_retry) in [
        ("a", T0 + 50, time(T0 + 900, 5)),
        ("b", T0 + 20, time(T0 + 700, 250_000_000)),
        ("c", T0 + 90, Timestamp::ZERO),
    ] {
        let message = MessageMetadata {
            created: time(created, 1),
            next_retry,
            ..message(name, Deferred)
        };
        store.insert(&ctx(), &message).unwrap();
    }
    assert_eq!(ages(), [Some(T0 + 20), Some(T0 + 700)]);
    store.relocate(&ctx(), &id("b"), Deferred, Hold).unwrap();
    assert_eq!(ages(), [Some(T0 + 50), Some(T0 + 900)]);
    store.remove(&ctx(), &id("a"), Deferred, None).unwrap();
    assert_eq!(ages(), [Some(T0 + 90), None]);
    // The moved one still has a time, and waits for nothing.
    let held = store.ages(&ctx(), Hold).unwrap();
    assert_eq!((held.oldest, held.next_due), (Some(time(T0 + 20, 0)), None));
}
