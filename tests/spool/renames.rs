//! The table of renames, through the filesystem.

use std::ffi::OsStr;
use std::sync::Barrier;

use super::common::*;
use retryspoolfs::spool::Errno::{EBADMSG, EEXIST, EINVAL, ENAMETOOLONG, ENOENT, EPERM, ESTALE};
use retryspoolfs::spool::RenameFlags;

fn scratch(m: &Mounted, name: &str, text: &str) {
    let fh = m.create(&me(), Hold, name, TRUNCATE).unwrap();
    m.spool.write(fh, 0, text.as_bytes()).unwrap();
    m.close(&me(), fh).unwrap();
}

#[test]
fn a_move_is_one_conditional_move() {
    let m = mounted();
    let before = m.put("a", Hold);
    let go = |from, to| m.rename(&me(), (from, "a.json"), (to, "a.json"), NO_REPLACE);
    go(Hold, Deferred).unwrap();
    let after = m.stored("a").unwrap();
    assert!(after.state == Deferred && after.updated > before.updated);
    assert_eq!(errno(go(Hold, Active)), ENOENT);
    m.shift("a", Deferred, Archived);
    assert_eq!(errno(go(Deferred, Active)), ENOENT, "whoever moved it");
    m.assert_counts_agree();
}

#[test]
fn of_two_who_move_one_wins() {
    let m = mounted();
    let second = again(&m, |_| {});
    let names: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    for name in &names {
        m.put(name, Hold);
    }
    let barrier = Barrier::new(2);
    let race = |spool: &retryspoolfs::spool::Spool, to| {
        barrier.wait();
        let won = names.iter().filter(|name| {
            let file = format!("{name}.json");
            let file = OsStr::new(&file);
            let moved = spool.rename(&me(), (dir_of(Hold), file), (dir_of(to), file), PLAIN);
            assert!(moved.as_ref().is_ok_and(|()| true) || errno(moved.clone()) == ENOENT);
            moved.is_ok()
        });
        won.count()
    };
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(|| race(&second, Active));
        (race(&m.spool, Deferred), other.join().unwrap())
    });
    assert_eq!(a + b, 50);
    assert_eq!((m.list(Deferred).len(), m.list(Active).len()), (a, b));
    m.assert_counts_agree();
}

#[test]
fn a_message_keeps_its_id_and_directories_their_places() {
    let m = mounted();
    let before = m.put("a", Hold);
    let other_id = m.rename(&me(), (Hold, "a.json"), (Active, "b.json"), PLAIN);
    assert_eq!(errno(other_id), EPERM);
    let name = OsStr::new;
    let hold = dir_of(Hold);
    let rename = |from, to| m.spool.rename(&me(), from, to, PLAIN);
    let (a, root) = ((hold, name("a.json")), (ROOT, name("a.json")));
    assert_eq!(errno(rename(a, root)), EPERM);
    assert_eq!(
        errno(rename((ROOT, name("hold")), (ROOT, name("x")))),
        EPERM
    );
    assert_eq!(errno(rename(a, (hold, name("%2f.json")))), EINVAL);
    assert_eq!(errno(rename((hold, name("%2f.json")), a)), ENOENT);
    for other in [false, true] {
        let flags = RenameFlags {
            no_replace: !other,
            other: true,
        };
        let exchanged = m.rename(&me(), (Hold, "a.json"), (Active, "a.json"), flags);
        assert_eq!(errno(exchanged), EINVAL);
    }
    assert_eq!(m.stored("a"), Some(before));
}

#[test]
fn a_scratch_file_becomes_a_message() {
    let m = mounted();
    scratch(&m, "a.json.tmp.1a2b3c4d", &new_document("a"));
    let place = |flags| {
        let (from, to) = ((Hold, "a.json.tmp.1a2b3c4d"), (Deferred, "a.json"));
        m.rename(&me(), from, to, flags)
    };
    place(NO_REPLACE).unwrap();
    assert_eq!(m.state("a"), Some(Deferred));
    assert!(!m.sees(&me(), Hold, "a.json.tmp.1a2b3c4d"));
    assert_eq!(errno(place(PLAIN)), ENOENT);
    assert_eq!(m.spool.inode_count(), 0);
}

/// How RetrySpool's filesystem store moves: a new document in the new state.
#[test]
fn placing_a_document_in_another_state_moves_the_message() {
    // mv(1) asks for no replacement first: the name is free there.
    for flags in [PLAIN, NO_REPLACE] {
        let m = mounted();
        m.put("a", Hold);
        let text = m.text("a").replace("\"Attempts\": 0", "\"Attempts\": 4");
        scratch(&m, "a.json.tmp.1", &text);
        m.rename(&me(), (Hold, "a.json.tmp.1"), (Deferred, "a.json"), flags)
            .unwrap();
        let after = m.stored("a").unwrap();
        assert_eq!((after.state, after.attempts), (Deferred, 4));
        assert_eq!(errno(m.unlink(&me(), Hold, "a.json")), ENOENT);
        m.assert_counts_agree();
    }
}

#[test]
fn a_document_that_is_refused_stays_a_scratch_file() {
    let m = mounted();
    m.put("a", Hold);
    let old = m.text("a").replace("\"Priority\": 5", "\"Priority\": 1");
    let changed = m.change("a");
    for (text, flags, refused) in [
        (old.as_str(), PLAIN, ESTALE),
        ("{\"ID\":\"b\"}", PLAIN, EBADMSG),
        ("", PLAIN, EBADMSG),
        ("{\"ID\":\"a\"}", NO_REPLACE, EEXIST),
    ] {
        scratch(&m, "new", text);
        let placed = m.rename(&me(), (Hold, "new"), (Hold, "a.json"), flags);
        assert_eq!(errno(placed), refused, "{text}");
        assert_eq!(m.read(&me(), Hold, "new").unwrap(), text);
    }
    assert_eq!(m.stored("a"), Some(changed));
    let kept = m.read(&me(), Hold, "a.json.refused").unwrap();
    assert_eq!(kept, "{\"ID\":\"b\"}");
}

#[test]
fn scratch_files_are_renamed_and_replaced() {
    let m = mounted();
    scratch(&m, "s", "s");
    scratch(&m, "t", "t");
    let (s, t) = ((Hold, "s"), (Deferred, "t"));
    m.rename(&me(), (Hold, "t"), t, PLAIN).unwrap();
    assert_eq!(errno(m.rename(&me(), s, t, NO_REPLACE)), EEXIST);
    m.rename(&me(), s, t, PLAIN).unwrap();
    assert_eq!(m.read(&me(), Deferred, "t").unwrap(), "s");
    assert!(!m.sees(&me(), Hold, "s"));
    let long = "x".repeat(256);
    let renamed = m.rename(&me(), t, (Hold, &long), PLAIN);
    assert_eq!(errno(renamed), ENAMETOOLONG);
    assert_eq!(m.spool.inode_count(), 0);
}

#[test]
fn a_copy_replaces_a_scratch_file_unless_it_must_not() {
    let m = mounted();
    m.put("a", Hold);
    scratch(&m, "a.json~", "old");
    let copy = |flags| m.rename(&me(), (Hold, "a.json"), (Hold, "a.json~"), flags);
    assert_eq!(errno(copy(NO_REPLACE)), EEXIST);
    assert!(m.sees(&me(), Hold, "a.json"));
    copy(PLAIN).unwrap();
    assert_eq!(m.read(&me(), Hold, "a.json~").unwrap(), m.text("a"));
    let gone = m.rename(&me(), (Active, "a.json"), (Active, "a.json~"), PLAIN);
    assert_eq!(errno(gone), ENOENT);
}

#[test]
fn a_name_is_never_replaced_by_itself_where_that_was_forbidden() {
    let m = mounted();
    let before = m.put("a", Hold);
    let same = |flags| m.rename(&me(), (Hold, "a.json"), (Hold, "a.json"), flags);
    assert_eq!(errno(same(NO_REPLACE)), EEXIST);
    same(PLAIN).unwrap();
    assert_eq!(m.stored("a"), Some(before));
}
