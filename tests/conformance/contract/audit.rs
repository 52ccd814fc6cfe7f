//! The audit log, of a store that keeps one.

use std::time::Duration;

use retryspoolfs::QueueState::{Deferred, Hold};
use retryspoolfs::backend::{
    Actor, AuditEntry, AuditLimits, AuditLog, AuditQuery, AuditSize, Proposal,
};
use retryspoolfs::{Backend, Context, Error, MessageMetadata, Timestamp, document};

use super::{Spool, ctx, id, message};

fn anna() -> Context {
    by(1000, 17, "mv")
}

fn by(uid: u32, pid: u32, command: &str) -> Context {
    let command = command.to_owned();
    ctx().by(Actor { uid, pid, command })
}

fn log(store: &dyn Backend) -> &dyn AuditLog {
    store.audit().expect("this store keeps an audit log")
}

fn all(store: &dyn Backend) -> Vec<AuditEntry> {
    let query = AuditQuery::default();
    log(store).entries(&ctx(), &query, 0, usize::MAX).unwrap()
}

pub fn the_audit_log_tells_who_changed_what(spool: &Spool) {
    let store = spool.open();
    let before = Timestamp::now();
    // Changes that nobody signed are not in it.
    let first = store.insert(&ctx(), &message("a", Deferred)).unwrap();
    store.insert(&ctx(), &message("b", Deferred)).unwrap();
    store.remove(&ctx(), &id("b"), Deferred, None).unwrap();
    let moved = store.relocate(&anna(), &id("a"), Deferred, Hold).unwrap();
    let new = store
        .insert(&by(0, 1, "cp"), &message("mögen", Hold))
        .unwrap();
    // What changed nothing is in it neither.
    store
        .relocate(&anna(), &id("a"), Deferred, Hold)
        .unwrap_err();
    store.relocate(&anna(), &id("a"), Hold, Hold).unwrap();
    store.insert(&anna(), &message("a", Hold)).unwrap_err();
    store.remove(&anna(), &id("c"), Hold, None).unwrap_err();

    let entries = all(&*store);
    assert_eq!(entries.len(), 2, "{entries:?}");
    let [a, m] = [&entries[0], &entries[1]];
    assert_eq!(
        (&a.change.id, a.change.from, a.change.to),
        (&id("a"), Some(Deferred), Some(Hold))
    );
    assert_eq!((a.before, a.change.revision), (Some(first), moved));
    assert_eq!(a.change.actor.as_ref(), anna().actor());
    assert!(!a.has_document, "a move needs none");
    assert_eq!(
        (&m.change.id, m.change.from, m.change.to),
        (&id("mögen"), None, Some(Hold))
    );
    assert_eq!((m.before, m.change.revision), (None, new));
    assert!(a.change.seq < m.change.seq);
    // To the millisecond.
    assert!(a.change.at.saturating_add(Duration::from_millis(1)) >= before);
    assert!(m.change.at <= Timestamp::now());

    // The feed names the same changes by the same numbers.
    let changes = store
        .change_feed()
        .unwrap()
        .changes(&ctx(), 0, 100)
        .unwrap();
    let signed: Vec<_> = changes
        .changes
        .into_iter()
        .filter(|c| c.actor.is_some())
        .collect();
    assert_eq!(signed, [a.change.clone(), m.change.clone()]);

    drop(store);
    assert_eq!(all(&*spool.open()), entries, "they outlive the process");
}

pub fn the_audit_log_keeps_what_was_replaced(spool: &Spool) {
    let store = spool.open();
    let names = [
        "replaced", "updated", "stored", "removed", "deleted", "böse",
    ];
    let old: Vec<MessageMetadata> = names.map(|name| message(name, Deferred)).into();
    for message in &old {
        store.insert(&ctx(), message).unwrap();
    }
    let seen = |name| store.get(&ctx(), &id(name)).unwrap().unwrap().revision;
    let new = |name| MessageMetadata {
        attempts: 9,
        ..message(name, Hold)
    };
    let before: Vec<_> = names.map(seen).into();
    store
        .replace(&anna(), Deferred, before[0], &new("replaced"))
        .unwrap();
    store
        .update_meta(&anna(), &id("updated"), &new("updated"))
        .unwrap();
    store
        .store_meta(&anna(), &id("stored"), &new("stored"))
        .unwrap();
    store
        .remove(&anna(), &id("removed"), Deferred, None)
        .unwrap();
    store.delete_meta(&anna(), &id("deleted")).unwrap();
    store
        .remove(&anna(), &id("böse"), Deferred, Some(before[5]))
        .unwrap();

    let entries = all(&*store);
    assert_eq!(entries.len(), names.len());
    for (n, entry) in entries.iter().enumerate() {
        assert_eq!(entry.change.id, old[n].id);
        assert_eq!(entry.change.from, Some(Deferred), "{}", names[n]);
        assert_eq!(entry.before, Some(before[n]), "{}", names[n]);
        assert!(entry.has_document);
        let text = log(&*store).old_document(&ctx(), entry.change.seq).unwrap();
        let expected = document::render(&old[n]);
        assert_eq!(text.unwrap().as_bytes(), expected, "{}", names[n]);
    }
    assert_eq!(log(&*store).old_document(&ctx(), u64::MAX).unwrap(), None);
}

pub fn the_audit_log_is_searched(spool: &Spool) {
    let store = spool.open();
    for name in ["a", "b", "c"] {
        store
            .insert(&by(0, 1, "cp"), &message(name, Deferred))
            .unwrap();
        store.relocate(&anna(), &id(name), Deferred, Hold).unwrap();
    }
    let find = |query: &AuditQuery| -> Vec<String> {
        let mut found = Vec::new();
        let mut after = 0;
        // Page by page.
        loop {
            let page = log(&*store).entries(&ctx(), query, after, 2).unwrap();
            after = page.last().map_or(after, |entry| entry.change.seq);
            let is_last = page.len() < 2;
            found.extend(page.iter().map(|e| {
                let command = &e.change.actor.as_ref().unwrap().command;
                format!("{command} {}", e.change.id)
            }));
            if is_last {
                return found;
            }
        }
    };
    let query = AuditQuery::default();
    let everything = ["cp a", "mv a", "cp b", "mv b", "cp c", "mv c"];
    assert_eq!(find(&query), everything);
    let by_id = AuditQuery {
        id: Some(id("b")),
        ..query.clone()
    };
    assert_eq!(find(&by_id), ["cp b", "mv b"]);
    let by_uid = AuditQuery {
        uid: Some(1000),
        ..query.clone()
    };
    assert_eq!(find(&by_uid), ["mv a", "mv b", "mv c"]);
    let by_pid = AuditQuery {
        pid: Some(1),
        ..query.clone()
    };
    assert_eq!(find(&by_pid), ["cp a", "cp b", "cp c"]);
    let by_command = AuditQuery {
        command: Some("mv".into()),
        id: Some(id("c")),
        ..query.clone()
    };
    assert_eq!(find(&by_command), ["mv c"]);
    let since = |since| AuditQuery {
        since: Some(since),
        ..query.clone()
    };
    assert_eq!(find(&since(all(&*store)[0].change.at)), everything);
    let later = Timestamp::now().saturating_add(Duration::from_secs(1));
    assert!(find(&since(later)).is_empty());
}

pub fn the_audit_log_is_bounded(spool: &Spool) {
    let store = spool.open();
    let log = log(&*store);
    let week = AuditLimits {
        rows: 1_000_000,
        age: Duration::from_secs(7 * 86_400),
    };
    assert_eq!(log.limits(&ctx()).unwrap(), week);
    assert_eq!(log.size(&ctx()).unwrap(), AuditSize::default());

    store.insert(&anna(), &message("a", Deferred)).unwrap();
    let one = log.size(&ctx()).unwrap();
    assert_eq!((one.rows, one.bytes), (1, 3), "the ID and the command");
    assert!(one.oldest.is_some());
    for _ in 0..500 {
        store.relocate(&anna(), &id("a"), Deferred, Hold).unwrap();
        store.relocate(&anna(), &id("a"), Hold, Deferred).unwrap();
    }
    let size = log.size(&ctx()).unwrap();
    assert_eq!((size.rows, size.bytes), (1001, 3003));
    assert_eq!(size.oldest, one.oldest);

    // Those that are too many go at once, and those that come later as they come.
    let few = AuditLimits {
        rows: 100,
        age: week.age,
    };
    log.set_limits(&ctx(), few).unwrap();
    assert_eq!(spool.open().audit().unwrap().limits(&ctx()).unwrap(), few);
    let newest = all(&*store).last().cloned();
    assert_eq!(
        (all(&*store).len(), log.size(&ctx()).unwrap().rows),
        (100, 100)
    );
    assert!(newest.is_some_and(|e| e.change.to == Some(Deferred)));
    for _ in 0..2000 {
        store.relocate(&anna(), &id("a"), Deferred, Hold).unwrap();
        store.relocate(&anna(), &id("a"), Hold, Deferred).unwrap();
        assert!(log.size(&ctx()).unwrap().rows < 100 + 512);
    }
    assert!(all(&*store).len() >= 100);

    // Nothing is kept for less than no time.
    log.set_limits(
        &ctx(),
        AuditLimits {
            rows: 100,
            age: Duration::ZERO,
        },
    )
    .unwrap();
    assert!(
        all(&*store).len() <= 1,
        "but for one of this very millisecond"
    );
}

pub fn what_came_back_meanwhile_is_not_restored(spool: &Spool) {
    let store = spool.open();
    let later = |after| {
        let mut told = Vec::new();
        let newest = log(&*store)
            .later(&ctx(), after, &mut |id, seq| told.push((seq, id)))
            .unwrap();
        told.sort();
        (told, newest)
    };
    for name in ["a", "b", "c"] {
        store.insert(&ctx(), &message(name, Deferred)).unwrap();
        store.remove(&anna(), &id(name), Deferred, None).unwrap();
    }
    let (told, known) = later(0);
    assert_eq!(told.len(), 6, "{told:?}");
    assert_eq!(later(known), (Vec::new(), known));
    // One is stored and removed by nobody known, one is there again.
    store.insert(&ctx(), &message("b", Hold)).unwrap();
    let last = store.remove(&ctx(), &id("b"), Hold, None).unwrap();
    store.insert(&ctx(), &message("c", Hold)).unwrap();
    let (told, newest) = later(known);
    let ids: Vec<&str> = told.iter().map(|(_, id)| id.as_str()).collect();
    assert_eq!(ids, ["b", "b", "c"]);
    let restore = |name, known| Proposal::Restore {
        metadata: message(name, Deferred),
        known,
    };
    let proposals = ["a", "b", "c"].map(|name| restore(name, known));
    let answers = store.apply(&anna(), &proposals);
    assert!(answers[0].is_ok(), "{answers:?}");
    assert!(
        matches!(answers[1], Err(Error::StaleRevision { current }) if current == last.updated),
        "{answers:?}"
    );
    assert!(
        matches!(answers[2], Err(Error::AlreadyExists { state: Hold })),
        "{answers:?}"
    );
    // Who knows of it all the same is the one to decide.
    assert!(store.apply(&anna(), &[restore("b", newest)])[0].is_ok());
}
