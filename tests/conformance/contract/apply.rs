//! Many changes at once.

use std::thread;

use retryspoolfs::QueueState::{Active, Bounce, Deferred, Hold, Incoming};
use retryspoolfs::backend::Proposal;
use retryspoolfs::{Error, MessageMetadata, QueueState, Revision};

use super::{Spool, count, ctx, id, message};

fn mv(name: &str, from: QueueState, seen: Revision, to: QueueState) -> Proposal {
    let id = id(name);
    Proposal::Move { id, from, seen, to }
}

pub fn apply_answers_each_by_itself(spool: &Spool) {
    let store = spool.open();
    let insert = |name| store.insert(&ctx(), &message(name, Deferred)).unwrap();
    let [moved, stale, elsewhere, edited, removed, kept] =
        ["moved", "stale", "elsewhere", "edited", "removed", "kept"].map(insert);
    let gone = insert("gone");
    store.remove(&ctx(), &id("gone"), Deferred, None).unwrap();
    let newer = MessageMetadata {
        attempts: 2,
        ..message("stale", Deferred)
    };
    let newer = store.replace(&ctx(), Deferred, stale, &newer).unwrap();
    let to = store
        .relocate(&ctx(), &id("elsewhere"), Deferred, Active)
        .unwrap();
    assert!(to != elsewhere);
    let edit = MessageMetadata {
        attempts: 7,
        ..message("edited", Bounce)
    };
    let remove = |name, seen| Proposal::Remove {
        id: id(name),
        from: Deferred,
        seen,
    };
    let answers = store.apply(
        &ctx(),
        &[
            mv("moved", Deferred, moved, Hold),
            mv("stale", Deferred, stale, Hold),
            mv("elsewhere", Deferred, elsewhere, Hold),
            mv("gone", Deferred, gone, Hold),
            Proposal::Insert(message("new", Incoming)),
            Proposal::Insert(message("kept", Incoming)),
            Proposal::Replace {
                from: Deferred,
                seen: edited,
                metadata: edit.clone(),
            },
            remove("removed", removed),
            remove("stale", stale),
            // One after the other: this one finds what the first one made.
            mv("moved", Deferred, moved, Bounce),
            mv("kept", Deferred, kept, Deferred),
        ],
    );
    assert_eq!(answers.len(), 11);
    let revision = |name| store.get(&ctx(), &id(name)).unwrap().unwrap().revision;
    assert_eq!(*answers[0].as_ref().unwrap(), revision("moved"));
    assert!(
        matches!(answers[1], Err(Error::StaleRevision { current }) if current == newer.updated)
    );
    assert!(matches!(
        answers[2],
        Err(Error::StateConflict {
            expected: Deferred,
            actual: Active
        })
    ));
    assert!(matches!(answers[3], Err(Error::NotFound)));
    assert_eq!(*answers[4].as_ref().unwrap(), revision("new"));
    assert!(matches!(
        answers[5],
        Err(Error::AlreadyExists { state: Deferred })
    ));
    assert_eq!(*answers[6].as_ref().unwrap(), revision("edited"));
    assert_eq!(*answers[7].as_ref().unwrap(), removed);
    assert!(matches!(answers[8], Err(Error::StaleRevision { .. })));
    assert!(matches!(
        answers[9],
        Err(Error::StateConflict { actual: Hold, .. })
    ));
    assert!(answers[10].is_ok(), "{:?}", answers[10]);

    assert!(revision("moved").updated > moved.updated);
    assert!(store.get(&ctx(), &id("removed")).unwrap().is_none());
    let stored = store.get_meta(&ctx(), &id("edited")).unwrap();
    assert_eq!((stored.attempts, stored.state), (7, Bounce));
    let moved = store.get_meta(&ctx(), &id("moved")).unwrap();
    let updated = moved.updated;
    assert_eq!(
        moved,
        MessageMetadata {
            updated,
            ..message("moved", Hold)
        }
    );
    let counts = [Incoming, Active, Deferred, Hold, Bounce].map(|state| count(&*store, state));
    assert_eq!(counts, [1, 1, 2, 1, 1]);
    assert!(store.apply(&ctx(), &[]).is_empty());
}

pub fn apply_makes_many(spool: &Spool) {
    let store = spool.open();
    let name = |n: usize| format!("m{n:04}");
    let inserts: Vec<_> = (0..2000)
        .map(|n| Proposal::Insert(message(&name(n), Deferred)))
        .collect();
    let seen: Vec<Revision> = store
        .apply(&ctx(), &inserts)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(count(&*store, Deferred), 2000);
    let moves: Vec<_> = seen
        .iter()
        .enumerate()
        .map(|(n, seen)| mv(&name(n), Deferred, *seen, Hold))
        .collect();
    let answers = store.apply(&ctx(), &moves);
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!((count(&*store, Deferred), count(&*store, Hold)), (0, 2000));
    let again = store.apply(&ctx(), &moves);
    assert!(
        again
            .iter()
            .all(|answer| matches!(answer, Err(Error::StateConflict { .. })))
    );
    store.close().unwrap();
    let closed = store.apply(&ctx(), &moves[..2]);
    assert!(matches!(
        closed[..],
        [Err(Error::Closed), Err(Error::Closed)]
    ));
}

pub fn of_two_racing_appliers_each_message_has_one_winner(spool: &Spool) {
    let store = spool.open();
    let seen: Vec<_> = (0..500)
        .map(|n| {
            let name = format!("m{n:03}");
            let seen = store.insert(&ctx(), &message(&name, Deferred)).unwrap();
            (name, seen)
        })
        .collect();
    let moves = |to| -> Vec<_> {
        seen.iter()
            .map(|(name, seen)| mv(name, Deferred, *seen, to))
            .collect()
    };
    let run = |to| {
        // Stores of their own, as two processes have.
        let store = spool.open();
        let moves = moves(to);
        move || store.apply(&ctx(), &moves)
    };
    let (hold, bounce) = (run(Hold), run(Bounce));
    let (held, bounced) = thread::scope(|scope| {
        let held = scope.spawn(hold);
        let bounced = scope.spawn(bounce);
        (held.join().unwrap(), bounced.join().unwrap())
    });
    for (held, bounced) in held.iter().zip(&bounced) {
        assert!(held.is_ok() != bounced.is_ok(), "{held:?} {bounced:?}");
    }
    let won = held.iter().filter(|answer| answer.is_ok()).count() as u64;
    assert_eq!(
        (count(&*store, Hold), count(&*store, Bounce)),
        (won, 500 - won)
    );
}
