//! The feed of changes. A store without one has nothing to promise here.

use std::thread;
use std::time::{Duration, Instant};

use retryspoolfs::QueueState::{Active, Deferred, Hold};
use retryspoolfs::backend::{Actor, Change, ChangeFeed};
use retryspoolfs::{Context, Timestamp};

use super::{Spool, ctx, id, message};

/// What a feed has now, without waiting.
fn rest(feed: &dyn ChangeFeed, cursor: &mut u64) -> Vec<Change> {
    let found = feed
        .changes(&Context::within(Duration::ZERO), *cursor, 1000)
        .unwrap();
    assert!(!found.lost);
    *cursor = found.cursor;
    found.changes
}

pub fn a_feed_tells_each_change_once_and_in_order(spool: &Spool) {
    let (store, other) = (spool.open(), spool.open());
    let Some(feed) = store.change_feed() else {
        return;
    };
    other.insert(&ctx(), &message("before", Hold)).unwrap();
    let mut cursor = feed.newest(&ctx()).unwrap();
    assert_eq!(rest(feed, &mut cursor), []);
    // By whomever: by a connection of another store, and by this one.
    let actor = Actor {
        uid: 1000,
        pid: 42,
        command: "mv".into(),
    };
    let made = [
        other.insert(&ctx(), &message("a", Deferred)).unwrap(),
        store
            .relocate(&ctx().by(actor.clone()), &id("a"), Deferred, Hold)
            .unwrap(),
        {
            let seen = other.get(&ctx(), &id("a")).unwrap().unwrap().revision;
            let changed = message("a", Hold);
            other.replace(&ctx(), Hold, seen, &changed).unwrap()
        },
        store.remove(&ctx(), &id("a"), Hold, None).unwrap(),
    ];
    let told = rest(feed, &mut cursor);
    let states: Vec<_> = told.iter().map(|c| (c.from, c.to)).collect();
    let expected = [
        (None, Some(Deferred)),
        (Some(Deferred), Some(Hold)),
        (Some(Hold), Some(Hold)),
        (Some(Hold), None),
    ];
    assert_eq!(states, expected);
    let now = Timestamp::now();
    for (change, revision) in told.iter().zip(made) {
        assert_eq!((&change.id, change.revision), (&id("a"), revision));
        let age = now.seconds() - change.at.seconds();
        assert!((0..60).contains(&age), "{change:?}");
    }
    assert!(told.windows(2).all(|two| two[0].seq < two[1].seq));
    assert_eq!(
        told.iter().map(|c| c.actor.clone()).collect::<Vec<_>>(),
        [None, Some(actor), None, None]
    );
    assert_eq!(rest(feed, &mut cursor), [], "once");
    assert_eq!(feed.newest(&ctx()).unwrap(), cursor);
    // A refused change is none.
    other
        .relocate(&ctx(), &id("before"), Active, Hold)
        .unwrap_err();
    assert_eq!(rest(feed, &mut cursor), []);
}

pub fn a_feed_gives_pages_that_meet(spool: &Spool) {
    let store = spool.open();
    let Some(feed) = store.change_feed() else {
        return;
    };
    let first = feed.newest(&ctx()).unwrap();
    for n in 0..20 {
        let message = message(&format!("m{n}"), Hold);
        store.insert(&ctx(), &message).unwrap();
    }
    let (mut cursor, mut ids) = (first, Vec::new());
    while ids.len() < 20 {
        let found = feed.changes(&ctx(), cursor, 7).unwrap();
        assert!(!found.lost && (1..=7).contains(&found.changes.len()));
        cursor = found.cursor;
        ids.extend(found.changes.into_iter().map(|c| c.id.to_string()));
    }
    let expected: Vec<_> = (0..20).map(|n| format!("m{n}")).collect();
    assert_eq!(ids, expected);
    // A cursor can be gone back to.
    let again = feed.changes(&ctx(), first, 1).unwrap();
    assert_eq!(again.changes[0].id, id("m0"));
}

pub fn a_feed_waits_for_a_change_and_no_longer_than_its_deadline(spool: &Spool) {
    let store = spool.open();
    let Some(feed) = store.change_feed() else {
        return;
    };
    let cursor = feed.newest(&ctx()).unwrap();
    let short = Context::within(Duration::from_millis(30));
    let nothing = feed.changes(&short, cursor, 10).unwrap();
    assert_eq!((nothing.changes.len(), nothing.cursor), (0, cursor));
    assert!(short.expired() && !nothing.lost);
    let other = spool.open();
    thread::scope(|scope| {
        let long = Context::within(Duration::from_secs(60));
        let waits = scope.spawn(move || {
            let start = Instant::now();
            (feed.changes(&long, cursor, 10).unwrap(), start.elapsed())
        });
        other.insert(&ctx(), &message("a", Hold)).unwrap();
        let (found, took) = waits.join().unwrap();
        assert_eq!(found.changes[0].id, id("a"));
        assert!(took < Duration::from_secs(50), "it sat the deadline out");
    });
    store.close().unwrap();
    assert!(feed.changes(&ctx(), cursor, 10).is_err());
}

pub fn a_cursor_of_another_log_is_lost(spool: &Spool) {
    let store = spool.open();
    let Some(feed) = store.change_feed() else {
        return;
    };
    store.insert(&ctx(), &message("a", Hold)).unwrap();
    let newest = feed.newest(&ctx()).unwrap();
    let found = feed.changes(&ctx(), newest + 1000, 10).unwrap();
    assert!(found.lost && found.changes.is_empty());
    assert_eq!(found.cursor, newest);
    store.insert(&ctx(), &message("b", Hold)).unwrap();
    let found = feed.changes(&ctx(), found.cursor, 10).unwrap();
    assert!(!found.lost && found.changes[0].id == id("b"));
}
