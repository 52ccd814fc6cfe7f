//! A full disk: messages can still be moved and removed.

use retryspoolfs::QueueState::{Bounce, Deferred, Hold};
use retryspoolfs::backend::Actor;
use retryspoolfs::{Backend, Context, Error, MessageMetadata};

use super::support::{assert_exact, open};
use crate::contract::{ctx, id, message};
use crate::small_disk::SmallDisk;

#[test]
fn messages_are_moved_and_removed_on_a_full_disk() {
    moved_and_removed(ctx);
}

/// The audit log gives way: what it tells is less, and no operation fails for its sake.
#[test]
fn an_audited_spool_is_cleared_on_a_full_disk() {
    moved_and_removed(|| {
        ctx().by(Actor {
            uid: 1000,
            pid: 4711,
            command: "mv".repeat(200),
        })
    });
}

fn moved_and_removed(ctx: impl Fn() -> Context) {
    let disk = SmallDisk::mount(28);
    let path = disk.path().join("queue.db");
    let store = open(&path);
    let name = |n: u32| format!("m{n:05}");
    for n in 0..4000 {
        store.insert(&ctx(), &message(&name(n), Deferred)).unwrap();
    }
    disk.fill();
    // New messages take what room there is, but not what moves and removals need.
    let mut added = 0;
    let refused = loop {
        let big = MessageMetadata {
            last_error: "x".repeat(50_000),
            ..message(&format!("big{added}"), Hold)
        };
        match store.insert(&ctx(), &big) {
            Ok(_) => added += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(refused, Error::StorageFull(_)), "{refused}");
    assert_eq!(store.space().unwrap().available, 0);
    for n in 0..4000 {
        store
            .relocate(&ctx(), &id(&name(n)), Deferred, Hold)
            .unwrap();
    }
    for n in 0..4000 {
        match n % 2 {
            0 => drop(store.remove(&ctx(), &id(&name(n)), Hold, None).unwrap()),
            _ => drop(store.relocate(&ctx(), &id(&name(n)), Hold, Bounce).unwrap()),
        }
    }
    store.sync(&ctx()).unwrap();
    assert_exact(&store, &path);
    let count = |state| store.state_info(&ctx(), state).unwrap().count;
    assert_eq!(
        (count(Deferred), count(Hold), count(Bounce)),
        (0, added, 2000)
    );
}
