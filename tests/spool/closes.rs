//! SPEC's table "When a write commits", with other processes that are alive or have ended.

use super::common::*;
use retryspoolfs::spool::Errno::{EBADMSG, EEXIST, ESTALE};

#[test]
fn nothing_written_is_nothing_to_close() {
    let m = mounted();
    m.put("a", Hold);
    let before = m.stored("a");
    let (old, new) = (
        m.open(&me(), Hold, "a.json", WRITE).unwrap(),
        m.create(&me(), Hold, "b.json", EXCLUSIVE).unwrap(),
    );
    let other = Other::start();
    for fh in [old, new] {
        m.spool.flush(&other.caller(), fh).unwrap();
        m.spool.flush(&me(), fh).unwrap();
        m.spool.fsync(&me(), fh).unwrap();
        m.spool.release(fh);
    }
    assert_eq!((m.stored("a"), m.stored("b")), (before, None));
    assert_eq!(m.spool.inode_count(), 0);
}

#[test]
fn the_opener_commits_a_legal_document() {
    let m = mounted();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    m.spool.flush(&me(), fh).unwrap();
    assert_eq!(m.stored("a").unwrap().priority, 7);
    let stored = m.stored("a");
    m.spool.flush(&me(), fh).unwrap();
    m.spool.release(fh);
    assert_eq!(m.stored("a"), stored, "one commit for one document");
}

#[test]
fn the_opener_is_refused_anything_else_and_may_go_on() {
    let m = mounted();
    let text = new_document("a");
    let (first, rest) = text.split_at(9);
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, first.as_bytes()).unwrap();
    assert_eq!(errno(m.spool.flush(&me(), fh)), EBADMSG);
    assert_eq!(
        errno(m.spool.flush(&me(), fh)),
        EBADMSG,
        "unchanged, refused again"
    );
    assert_eq!(m.spool.read(fh, 0, 100).unwrap(), first.as_bytes());
    m.spool.write(fh, 9, rest.as_bytes()).unwrap();
    m.close(&me(), fh).unwrap();
    assert_eq!(m.state("a"), Some(Hold));
    assert_eq!(m.errors(), "");
}

#[test]
fn another_process_commits_nothing_while_the_opener_lives() {
    let m = mounted();
    let other = Other::start();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    let text = new_document("a");
    m.spool.write(fh, 0, &text.as_bytes()[..9]).unwrap();
    m.spool.flush(&other.caller(), fh).unwrap();
    m.spool.write(fh, 9, &text.as_bytes()[9..]).unwrap();
    m.spool.flush(&other.caller(), fh).unwrap();
    assert_eq!(m.stored("a"), None);
    m.close(&me(), fh).unwrap();
    assert!(m.stored("a").is_some());
}

#[test]
fn another_process_is_told_what_would_be_refused() {
    let m = mounted();
    let other = Other::start();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    m.put("a", Active);
    assert_eq!(errno(m.spool.flush(&other.caller(), fh)), EEXIST);
    assert_eq!(errno(m.close(&me(), fh)), EEXIST);

    m.put("b", Hold);
    let fh = m.open(&me(), Hold, "b.json", TRUNCATE).unwrap();
    m.spool.write(fh, 0, new_document("b").as_bytes()).unwrap();
    let changed = m.change("b");
    assert_eq!(errno(m.spool.flush(&other.caller(), fh)), ESTALE);
    assert_eq!(errno(m.close(&me(), fh)), ESTALE);
    assert_eq!(m.stored("b"), Some(changed));

    let fh = m.create(&me(), Hold, "c.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, b"{\"ID\": \"x\"").unwrap();
    assert_eq!(errno(m.spool.flush(&other.caller(), fh)), EBADMSG);
    m.spool.truncate(&me(), 0, Some(fh), 0).unwrap();
    m.spool.write(fh, 0, new_document("c").as_bytes()).unwrap();
    m.close(&me(), fh).unwrap();
    assert_eq!(m.errors().lines().count(), 3, "{}", m.errors());
}

#[test]
fn after_the_openers_end_anyone_is_the_opener() {
    let m = mounted();
    let mut opener = Other::start();
    let caller = opener.caller();
    let fh = m.create(&caller, Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, b"{").unwrap();
    opener.end();
    assert_eq!(errno(m.spool.flush(&me(), fh)), EBADMSG);
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    m.spool.flush(&me(), fh).unwrap();
    assert!(m.stored("a").is_some());
    m.spool.release(fh);
}

#[test]
fn the_last_close_commits_what_has_no_verdict() {
    let m = mounted();
    let other = Other::start();
    for name in ["a", "b"] {
        let fh = m
            .create(&me(), Hold, &format!("{name}.json"), EXCLUSIVE)
            .unwrap();
        // The opener closed its copy before anything was written; its child writes.
        m.spool.flush(&me(), fh).unwrap();
        m.spool.write(fh, 0, new_document(name).as_bytes()).unwrap();
        if name == "b" {
            m.put("b", Bounce);
            assert_eq!(errno(m.spool.flush(&other.caller(), fh)), EEXIST);
        } else {
            m.spool.flush(&other.caller(), fh).unwrap();
        }
        m.spool.release(fh);
    }
    assert_eq!((m.state("a"), m.state("b")), (Some(Hold), Some(Bounce)));
    assert_eq!(m.errors().lines().count(), 1, "{}", m.errors());
}

#[test]
fn fsync_is_a_close_by_the_opener_whoever_asks() {
    let m = mounted();
    let other = Other::start();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, b"{}").unwrap();
    assert_eq!(errno(m.spool.fsync(&other.caller(), fh)), EBADMSG);
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    m.spool.fsync(&other.caller(), fh).unwrap();
    assert!(m.stored("a").is_some());
    m.spool.release(fh);
    assert!(m.errors().starts_with("fsync hold/a.json EBADMSG: "));
}

#[test]
fn a_write_after_a_commit_is_against_the_revision_it_made() {
    let m = mounted();
    let text = new_document("a");
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, text.as_bytes()).unwrap();
    m.spool.flush(&me(), fh).unwrap();
    let first = m.stored("a").unwrap();
    let text = text.replace('7', "8");
    m.spool.write(fh, 0, text.as_bytes()).unwrap();
    m.spool.flush(&me(), fh).unwrap();
    let second = m.stored("a").unwrap();
    assert!(second.priority == 8 && second.updated > first.updated);
    let changed = m.change("a");
    m.spool
        .write(fh, 0, text.replace('8', "9").as_bytes())
        .unwrap();
    assert_eq!(errno(m.close(&me(), fh)), ESTALE);
    assert_eq!(m.stored("a"), Some(changed));
}

/// A shell's `: > x.json`, and a writer that was killed at once.
#[test]
fn truncating_and_nothing_more_is_refused() {
    let m = mounted();
    let before = m.put("a", Hold);
    let fh = m.open(&me(), Hold, "a.json", TRUNCATE).unwrap();
    assert_eq!(errno(m.close(&me(), fh)), EBADMSG);
    assert_eq!(m.stored("a"), Some(before));
    assert_eq!(
        m.errors(),
        "close hold/a.json EBADMSG: the document is empty; nothing was changed\n"
    );
}

#[test]
fn truncate_by_path_is_judged_at_once() {
    let m = mounted();
    let before = m.put("a", Hold);
    let ino = m.lookup(&me(), Hold, "a.json").unwrap().ino;
    let size = m.text("a").len() as u64;
    let cut = |size| m.spool.setattr(&me(), ino, None, Some(size));
    assert_eq!(errno(cut(0)), EBADMSG);
    assert_eq!(errno(cut(size - 3)), EBADMSG);
    cut(size - 1).unwrap();
    cut(size).unwrap();
    assert_eq!(m.stored("a"), Some(before));
    let lines = m.errors();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.starts_with("truncate hold/a.json EBADMSG: the document is empty"));
    m.spool.forget(ino, 1);
    assert_eq!(m.spool.inode_count(), 0);
}
