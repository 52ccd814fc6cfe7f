//! Many at once, checks, and views of one moment.

use retryspoolfs::backend::check::{Check, Finding};
use retryspoolfs::{Backend, Error, MessageMetadata, QueueState};

use super::{Spool, count, ctx, id, message};

fn many(count: usize) -> Vec<MessageMetadata> {
    (0..count)
        .map(|nth| message(&format!("m{nth:03}"), QueueState::ALL[nth % 6]))
        .collect()
}

pub fn insert_all_answers_each(spool: &Spool) {
    let store = spool.open();
    store
        .insert(&ctx(), &message("m007", QueueState::Hold))
        .unwrap();
    let messages = many(100);
    let answers = store.insert_all(&ctx(), &messages);
    assert_eq!(answers.len(), 100);
    for (nth, (answer, metadata)) in answers.into_iter().zip(&messages).enumerate() {
        match (nth, answer) {
            (7, Err(Error::AlreadyExists { state })) => assert_eq!(state, QueueState::Hold),
            (_, answer) => {
                let stored = store.get(&ctx(), &metadata.id).unwrap().unwrap();
                assert_eq!(
                    (answer.unwrap(), &stored.metadata),
                    (stored.revision, metadata)
                );
            }
        }
    }
    assert_eq!(store.insert_all(&ctx(), &[]).len(), 0);
    store.close().unwrap();
    let refused = store.insert_all(&ctx(), &messages);
    assert!(
        refused
            .iter()
            .all(|answer| matches!(answer, Err(Error::Closed)))
    );
    assert_eq!(refused.len(), 100);
}

fn findings(store: &dyn Backend, repair: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut check = Check {
        repair,
        found: &mut |finding| found.push(finding),
        going: &|| true,
    };
    store.check(&ctx(), &mut check).unwrap();
    found
}

pub fn a_sound_store_has_no_findings(spool: &Spool) {
    let store = spool.open();
    assert_eq!(findings(&*store, false), []);
    store.insert_all(&ctx(), &many(60));
    store
        .relocate(&ctx(), &id("m002"), QueueState::Deferred, QueueState::Hold)
        .unwrap();
    store
        .remove(&ctx(), &id("m003"), QueueState::Hold, None)
        .unwrap();
    for repair in [false, true] {
        assert_eq!(findings(&*store, repair), []);
    }
    assert_eq!(store.recount(&ctx(), &|| true).unwrap(), 0);
    assert_eq!(count(&*store, QueueState::Hold), 10);
}

pub fn what_is_frozen_stays_as_it_was(spool: &Spool) {
    let store = spool.open();
    store.insert_all(&ctx(), &many(12));
    let Some(frozen) = store.frozen(&ctx(), &|| true).unwrap() else {
        // Such a store says so when it is asked for a file of one moment.
        let file = std::env::temp_dir().join("no-such-snapshot");
        let refused = store.snapshot(&ctx(), &file, &|| true);
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
        assert!(!file.exists());
        return;
    };
    store
        .remove(&ctx(), &id("m003"), QueueState::Hold, None)
        .unwrap();
    store
        .insert(&ctx(), &message("new", QueueState::Hold))
        .unwrap();
    assert!(frozen.get(&ctx(), &id("m003")).unwrap().is_some());
    assert_eq!(frozen.locate(&ctx(), &id("new")).unwrap(), None);
    assert_eq!(count(&*frozen, QueueState::Hold), 2);
    let refused = frozen.insert(&ctx(), &message("other", QueueState::Hold));
    assert!(matches!(refused, Err(Error::ReadOnly)), "{refused:?}");
}
