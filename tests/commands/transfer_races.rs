//! Copy and import beside somebody who changes the same messages at the same moment.

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use retryspoolfs::QueueState::{Active, Bounce, Deferred, Hold, Incoming};
use retryspoolfs::transfer::{self, Copied, Imported, Watch};
use retryspoolfs::{Backend, MessageMetadata, QueueState, Timestamp};

use crate::pipe::Pipe;
use crate::steps::{Stepped, Steps};
use crate::support::{Spool, ctx, eventually, message};

/// A message that somebody else stored just now.
fn others(id: &str, state: QueueState) -> MessageMetadata {
    MessageMetadata {
        updated: Timestamp::now(),
        last_error: "somebody else's".into(),
        ..message(id, state)
    }
}

fn stepped(spool: &Spool) -> (Stepped, Arc<dyn Backend>, Arc<Steps>) {
    let inner: Arc<dyn Backend> = spool.open().into();
    let steps = Arc::<Steps>::default();
    let store = Stepped {
        inner: Arc::clone(&inner),
        steps: Arc::clone(&steps),
    };
    (store, inner, steps)
}

/// Copies, with a look after each page; and what is told.
fn copy(
    from: &dyn Backend,
    to: &dyn Backend,
    owned: bool,
    page: &mut dyn FnMut(),
) -> (Copied, Vec<String>) {
    let mut told = Vec::new();
    let mut watch = Watch {
        actor: None,
        done: &mut |_| page(),
        trouble: &mut |what, why| told.push(format!("{what}: {why}")),
        going: &|| true,
    };
    let copied = transfer::copy(from, to, owned, &mut watch).unwrap();
    (copied, told)
}

/// Everything in it.
fn all(store: &dyn Backend) -> Vec<MessageMetadata> {
    let mut all = Vec::new();
    for state in QueueState::ALL {
        let found = store.scan_stored(&ctx(), state, None, usize::MAX).unwrap();
        all.extend(found.into_iter().map(|(_, one)| one.unwrap().metadata));
    }
    all
}

/// That the target has what the source has. Where somebody had changed it, its Updated is later:
/// one that was seen is never taken back.
#[track_caller]
fn are_alike(source: &dyn Backend, target: &dyn Backend) {
    let (source, target) = (all(source), all(target));
    let ids = |all: &[MessageMetadata]| -> Vec<String> {
        all.iter().map(|one| one.id.to_string()).collect()
    };
    assert_eq!(ids(&source), ids(&target));
    for (one, there) in source.into_iter().zip(target) {
        assert!(there.updated >= one.updated, "{one:?} {there:?}");
        let updated = there.updated;
        assert_eq!(MessageMetadata { updated, ..one }, there);
    }
}

/// One change of each kind: of messages that the source has, and of one that it has not.
fn disturb(store: &dyn Backend, some: [&str; 3], own: &str) {
    let [moved, changed, removed] = some.map(|id| id.parse().unwrap());
    store.relocate(&ctx(), &moved, Deferred, Hold).unwrap();
    let there = store.get(&ctx(), &changed).unwrap().unwrap();
    let new = others(changed.as_str(), there.metadata.state);
    store.update_meta(&ctx(), &changed, &new).unwrap();
    store.delete_meta(&ctx(), &removed).unwrap();
    store.insert(&ctx(), &others(own, Bounce)).unwrap();
}

/// What was compared already is changed: by the end that is known.
#[test]
fn a_target_that_is_changed_behind_the_copy() {
    for owned in [true, false] {
        let spool = Spool::with((0..10).map(|n| message(&format!("m{n}"), Deferred)));
        let target = Spool::new();
        let (from, to) = (spool.open(), target.open());
        // A page for each state, copied and then compared.
        let mut pages = 0;
        let (copied, told) = copy(&*from, &*to, owned, &mut || {
            pages += 1;
            if pages == 2 * QueueState::ALL.len() {
                disturb(&*to, ["m1", "m2", "m3"], "own");
            }
        });
        assert!(pages >= 2 * QueueState::ALL.len());
        match owned {
            // The source decides.
            true => {
                assert_eq!((copied.refused, &told[..]), (0, &[] as &[String]));
                are_alike(&*from, &*to);
            }
            // What they did is kept, and told of; what they removed is there again.
            false => {
                let why =
                    "the target has another message of this ID, which is no older; it was kept";
                assert_eq!(told, [format!("m1: {why}"), format!("m2: {why}")]);
                assert_eq!(copied.refused, 2);
                let state = |id| target.state(id);
                let states = ["m1", "m2", "m3", "own"].map(state);
                assert_eq!(
                    states,
                    [Some(Hold), Some(Deferred), Some(Deferred), Some(Bounce)]
                );
                assert_eq!(target.get("m2").unwrap().last_error, "somebody else's");
            }
        }
    }
}

/// Somebody is faster at each step: after the copy has looked and before it writes.
#[test]
fn a_target_that_is_changed_at_every_step_of_the_copy() {
    const CHANGES: u64 = 300;
    for owned in [true, false] {
        let spool = Spool::with((0..1500).map(|n| message(&format!("m{n:04}"), Deferred)));
        let target = Spool::new();
        let from = spool.open();
        let (to, inner, steps) = stepped(&target);
        let calls = Arc::<AtomicU64>::default();
        let (store, seen) = (Arc::clone(&inner), Arc::clone(&calls));
        steps.meanwhile(Box::new(move || {
            let nth = seen.fetch_add(1, Ordering::Relaxed);
            if nth / 5 >= CHANGES || nth % 5 > 0 {
                return;
            }
            // Some are there by then, and some are not yet.
            let id = format!("m{:04}", nth * 7 % 1500);
            let name = id.parse().unwrap();
            let _ = match (nth / 5) % 4 {
                0 => store.insert(&ctx(), &others(&id, Hold)).map(drop),
                1 => store.relocate(&ctx(), &name, Deferred, Active).map(drop),
                2 => store.delete_meta(&ctx(), &name),
                _ => store
                    .insert(&ctx(), &others(&format!("own-{nth}"), Hold))
                    .map(drop),
            };
        }));
        let (copied, told) = copy(&*from, &to, owned, &mut || {});
        assert!(
            calls.load(Ordering::Relaxed) > 5 * CHANGES,
            "it came to all of them"
        );
        let (source, target) = (all(&*from), all(&*inner));
        match owned {
            true => {
                assert_eq!((copied.refused, &told[..]), (0, &[] as &[String]));
                are_alike(&*from, &*inner);
            }
            false => {
                // Nothing of theirs is lost, nothing of the source is missing, and where the two
                // differ it was told.
                let own = target.iter().filter(|m| m.id.as_str().starts_with("own-"));
                assert_eq!(own.count() as u64, CHANGES / 4);
                for one in &source {
                    let there = target.iter().find(|there| there.id == one.id).unwrap();
                    let was_told = || told.iter().any(|l| l.starts_with(&format!("{}: ", one.id)));
                    assert!(there == one || was_told(), "{there:?}");
                }
                assert_eq!(copied.refused as usize, told.len());
                assert!(!told.is_empty());
            }
        }
    }
}

fn import(store: &dyn Backend, text: &str) -> (Imported, Vec<String>) {
    let mut told = Vec::new();
    let mut watch = Watch {
        actor: None,
        done: &mut |_| {},
        trouble: &mut |at, why| told.push(format!("{at}: {why}")),
        going: &|| true,
    };
    let input = Cursor::new(text.to_owned());
    let imported = transfer::import(store, input, &mut watch).unwrap();
    (imported, told)
}

/// Another writer stores an ID while the import waits for the rest of its input.
#[test]
fn an_import_loses_a_race() {
    let spool = Spool::new();
    let mut pipe = Pipe::open(&spool, "import $SPOOL -");
    pipe.write("{\"ID\":\"raced\",\"State\":\"deferred\"}\n{\"ID\":\"same\",\"Priority\":7}\n{\"ID\":\"mine\"}\n");
    pipe.command_waits_for_input();
    let theirs = others("raced", Hold);
    let store = spool.open();
    store.insert(&ctx(), &theirs).unwrap();
    let same = MessageMetadata {
        priority: 7,
        ..others("same", Incoming)
    };
    store.insert(&ctx(), &same).unwrap();
    let output = pipe.close();
    assert_eq!(output.status.code(), Some(3), "{output:#?}");
    for said in [
        "import -: line 1: raced is in hold already, and not as it is here; it was kept",
        "import: 1 stored, 1 there already, 1 not stored",
    ] {
        assert!(output.stderr.contains(said), "{said}: {output:#?}");
    }
    assert_eq!(spool.get("raced"), Some(theirs));
    assert_eq!(spool.state("mine"), Some(Incoming));
}

/// Interrupted while more may come: what it said is stored, and a second one does the rest.
#[test]
fn an_import_is_interrupted_and_goes_on() {
    let spool = Spool::new();
    let mut pipe = Pipe::open(&spool, "import $SPOOL -");
    let lines = |count: u32| -> String {
        (0..count)
            .map(|n| format!("{{\"ID\":\"m{n}\"}}\n"))
            .collect()
    };
    pipe.write(&lines(1500));
    eventually("it has begun", || spool.count(Incoming) > 0);
    pipe.command_waits_for_input();
    pipe.write("{\"ID\":\"half");
    pipe.signal(libc::SIGINT);
    let output = pipe.command.wait();
    assert_eq!(output.status.code(), Some(130), "{output:#?}");
    let stored = spool.count(Incoming);
    let said = format!("import: interrupted: {stored} stored, 0 there already, 0 not stored");
    assert!(output.stderr.contains(&said), "{said}: {output:#?}");
    assert!((1000..=1500).contains(&stored), "{stored}");
    std::fs::write(spool.work().join("many"), lines(1600)).unwrap();
    let output = spool.bash("$PROGRAM import $SPOOL $WORK/many");
    let rest = 1600 - stored;
    let said = format!("import: {rest} stored, {stored} there already, 0 not stored");
    assert!(output.stderr.contains(&said), "{said}: {output:#?}");
    assert_eq!(spool.count(Incoming), 1600);
}

/// The one that was in the way does something else before it is looked at.
#[test]
fn an_import_says_what_is_true_of_what_is_in_its_way() {
    let document = "{\"ID\":\"a\",\"State\":\"hold\"}\n";
    for (is_removed, why) in [
        (
            true,
            "a was in hold already, and is gone since; it was not stored again",
        ),
        (
            false,
            "a is in bounce already, and not as it is here; it was kept",
        ),
    ] {
        let spool = Spool::with([message("a", Hold)]);
        let (store, inner, steps) = stepped(&spool);
        steps.afterwards(
            "insert",
            Box::new(move || {
                let id = "a".parse().unwrap();
                match is_removed {
                    true => inner.delete_meta(&ctx(), &id).unwrap(),
                    false => drop(inner.relocate(&ctx(), &id, Hold, Bounce).unwrap()),
                }
            }),
        );
        let (imported, told) = import(&store, document);
        assert_eq!(
            (imported.refused, told),
            (1, vec![format!("line 1: {why}")])
        );
        let state = if is_removed { None } else { Some(Bounce) };
        assert_eq!(spool.state("a"), state);
    }
    // One that nobody can read.
    let spool = Spool::with([message("a", Hold)]);
    spool.execute("UPDATE messages SET headers = '{' WHERE id = 'a'");
    let (_, told) = import(&*spool.open(), document);
    let why = "line 1: a is in hold already, and can't be compared: ";
    assert!(told[0].starts_with(why), "{told:?}");
    assert_eq!(spool.count(Hold), 1);
}
