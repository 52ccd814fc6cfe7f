//! Replaced by delete and create: what `install`, `tar -x`, `cpio` and a `mv` from another
//! filesystem do with a file that is there.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::common::*;
use retryspoolfs::Error;
use retryspoolfs::MessageMetadata;
use retryspoolfs::spool::Errno::{EBADMSG, EEXIST, ENOENT, ETIMEDOUT};

const PUT_BACK: &str = "unlink hold/a.json: what replaced it was refused; the message was put back";
const BAD: &[u8] = b"{\"ID\": \"a\", \"Priorty\": 1}";

/// A mount with a message that this process has just removed.
fn removed() -> (Mounted, MessageMetadata) {
    let m = mounted();
    let before = m.put("a", Hold);
    m.unlink(&me(), Hold, "a.json").unwrap();
    assert_eq!(m.stored("a"), None);
    (m, before)
}

/// The message is stored as it was, and a line says so, once.
#[track_caller]
fn is_back(m: &Mounted, before: &MessageMetadata) {
    let stored = m.stored("a").expect("it was put back");
    assert!(stored.updated > before.updated);
    let updated = before.updated;
    assert_eq!(MessageMetadata { updated, ..stored }, *before);
    let lines = m.errors();
    let told = lines.lines().filter(|line| *line == PUT_BACK);
    assert_eq!(told.count(), 1, "{lines}");
    assert_eq!(m.list(before.state), ["a.json"]);
    assert_eq!(m.spool.inode_count(), 0);
}

#[test]
fn an_accepted_document_is_later_than_the_removed_one() {
    let (m, before) = removed();
    // An older copy, by a tool that doesn't care.
    let text = new_document("a").replace('}', ", \"Updated\": \"2020-01-01T00:00:00Z\"}");
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, text.as_bytes()).unwrap();
    m.close(&me(), fh).unwrap();
    let stored = m.stored("a").unwrap();
    assert_eq!(stored.priority, 7);
    assert!(stored.updated > before.updated, "{}", stored.updated);
    assert_eq!(m.errors(), "");
}

#[test]
fn a_refused_document_brings_the_message_back_at_its_close() {
    let (m, before) = removed();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, BAD).unwrap();
    assert_eq!(errno(m.spool.flush(&me(), fh)), EBADMSG);
    assert!(m.stored("a").is_some(), "back before the tool is told");
    m.spool.release(fh);
    is_back(&m, &before);
}

#[test]
fn a_refusal_that_reaches_nobody_brings_it_back_too() {
    // Empty, cut off, and wrong: by a writer that was killed, or closed nothing itself.
    for bytes in [&b""[..], b"{\"ID\": \"a\", ", BAD] {
        let (m, before) = removed();
        let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
        if !bytes.is_empty() {
            m.spool.write(fh, 0, bytes).unwrap();
        }
        m.spool.release(fh);
        is_back(&m, &before);
    }
}

#[test]
fn a_writer_killed_in_the_middle_brings_it_back() {
    let m = mounted();
    let before = m.put("a", Hold);
    let mut other = Other::start();
    m.unlink(&other.caller(), Hold, "a.json").unwrap();
    let fh = m
        .create(&other.caller(), Hold, "a.json", EXCLUSIVE)
        .unwrap();
    m.spool.write(fh, 0, b"{\"ID\": \"a\"").unwrap();
    other.end();
    assert_eq!(errno(m.close(&other.caller(), fh)), EBADMSG);
    is_back(&m, &before);
}

#[test]
fn a_refused_rename_onto_the_name_brings_it_back() {
    let (m, before) = removed();
    let scratch = |bytes: &[u8]| {
        let fh = m.create(&me(), Hold, "a.tmp", TRUNCATE).unwrap();
        m.spool.write(fh, 0, bytes).unwrap();
        m.close(&me(), fh).unwrap();
    };
    let onto = |flags| m.rename(&me(), (Hold, "a.tmp"), (Hold, "a.json"), flags);
    scratch(BAD);
    assert_eq!(errno(onto(PLAIN)), EBADMSG);
    is_back(&m, &before);
    // And an accepted one is later than what was removed.
    m.unlink(&me(), Hold, "a.json").unwrap();
    let old = new_document("a").replace('}', ", \"Updated\": \"2020-01-01T00:00:00Z\"}");
    scratch(old.as_bytes());
    onto(NO_REPLACE).unwrap();
    assert!(m.stored("a").unwrap().updated > before.updated);
}

/// What it writes after the refusal, it writes to the message that is back.
#[test]
fn a_draft_that_is_mended_after_its_refusal_is_accepted() {
    let (m, before) = removed();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, b"{\"ID\": \"a\", ").unwrap();
    assert_eq!(errno(m.spool.flush(&me(), fh)), EBADMSG);
    assert_eq!(m.stored("a").unwrap().priority, before.priority);
    m.spool.write(fh, 12, b"\"Priority\": 7}").unwrap();
    m.close(&me(), fh).unwrap();
    assert_eq!(m.stored("a").unwrap().priority, 7);
}

/// As vim removes what it created: that is its draft, never the message.
#[test]
fn removing_the_refused_draft_leaves_the_message() {
    let (m, before) = removed();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, BAD).unwrap();
    assert_eq!(errno(m.spool.flush(&me(), fh)), EBADMSG);
    m.unlink(&me(), Hold, "a.json").unwrap();
    m.spool.release(fh);
    is_back(&m, &before);
}

#[test]
fn a_draft_that_was_withdrawn_was_not_refused() {
    let (m, before) = removed();
    let create = || m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    let fh = create();
    m.spool.write(fh, 0, BAD).unwrap();
    m.unlink(&me(), Hold, "a.json").unwrap();
    m.close(&me(), fh).unwrap();
    assert_eq!((m.stored("a"), m.errors()), (None, String::new()));
    // The next one that it creates replaces the message all the same.
    let fh = create();
    m.spool.write(fh, 0, BAD).unwrap();
    assert_eq!(errno(m.close(&me(), fh)), EBADMSG);
    is_back(&m, &before);
}

#[test]
fn another_process_brings_nothing_back() {
    let m = mounted();
    m.put("a", Hold);
    let other = Other::start();
    m.unlink(&other.caller(), Hold, "a.json").unwrap();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, BAD).unwrap();
    assert_eq!(errno(m.close(&me(), fh)), EBADMSG);
    assert_eq!(m.stored("a"), None);
}

/// A handle that was open before the removal is a file without a name, as anywhere.
#[test]
fn what_was_open_before_brings_nothing_back() {
    let m = mounted();
    m.put("a", Hold);
    let fh = m.open(&me(), Hold, "a.json", WRITE).unwrap();
    m.unlink(&me(), Hold, "a.json").unwrap();
    m.spool.write(fh, 0, b"!").unwrap();
    assert_eq!(errno(m.close(&me(), fh)), EBADMSG);
    assert_eq!(m.stored("a"), None);
}

#[test]
fn what_somebody_else_stored_meanwhile_stays() {
    for gone_again in [false, true] {
        let (m, _) = removed();
        let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
        m.put("a", Active);
        if gone_again {
            // A worker stored it, delivered it, and is done with it.
            m.store.delete_meta(&ctx(), &id("a")).unwrap();
        }
        m.spool.write(fh, 0, BAD).unwrap();
        assert_eq!(errno(m.close(&me(), fh)), EBADMSG);
        assert_eq!(m.state("a"), (!gone_again).then_some(Active));
        assert!(!m.errors().contains("put back"), "{}", m.errors());
    }
}

#[test]
fn a_document_for_a_name_that_was_taken_meanwhile_is_refused() {
    let (m, _) = removed();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    let theirs = m.put("a", Active);
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    assert_eq!(errno(m.close(&me(), fh)), EEXIST);
    assert_eq!(m.stored("a"), Some(theirs));
}

/// What goes is what is stored when it goes, whoever changed it a moment before.
#[test]
fn what_comes_back_is_what_was_removed() {
    let m = mounted();
    m.put("a", Hold);
    let (store, calls) = (m.store.clone(), AtomicU32::new(0));
    m.steps.meanwhile(Box::new(move || {
        // The first call reads the message, the second one would remove it.
        if calls.fetch_add(1, Ordering::Relaxed) == 1 {
            let mut message = store.get_meta(&ctx(), &id("a")).unwrap();
            message.attempts += 1;
            store.update_meta(&ctx(), &id("a"), &message).unwrap();
        }
    }));
    m.unlink(&me(), Hold, "a.json").unwrap();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, BAD).unwrap();
    assert_eq!(errno(m.close(&me(), fh)), EBADMSG);
    assert_eq!(m.stored("a").unwrap().attempts, 1);
}

#[test]
fn a_message_that_cannot_be_read_can_be_removed() {
    let m = mounted();
    m.put("a", Hold);
    let sql = "UPDATE messages SET headers = 'none' WHERE id = 'a'";
    m.sql().execute(sql, []).unwrap();
    m.unlink(&me(), Hold, "a.json").unwrap();
    assert_eq!(m.stored("a"), None);
    assert_eq!(errno(m.unlink(&me(), Hold, "a.json")), ENOENT);
}

/// A store that is busy refuses the document, and can't take the message back at once either.
#[test]
fn what_cannot_be_put_back_at_once_is_put_back_later() {
    let busy = || Error::Busy("locked".into());
    let (m, before) = removed();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    m.steps.fail("insert", busy());
    m.steps.fail("insert", busy());
    assert_eq!(errno(m.close(&me(), fh)), ETIMEDOUT);
    assert_eq!(m.stored("a"), None);
    m.steps.fail("insert", busy());
    m.spool.tidy();
    assert_eq!(m.stored("a"), None);
    m.spool.tidy();
    is_back(&m, &before);
    m.spool.tidy();
}

/// The tool may try the same bytes again, and be accepted: then nothing is owed any more.
#[test]
fn a_document_that_is_accepted_after_all_stays() {
    let (m, _) = removed();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    m.steps.fail("insert", Error::Busy("locked".into()));
    m.steps.fail("insert", Error::Busy("locked".into()));
    assert_eq!(errno(m.spool.fsync(&me(), fh)), ETIMEDOUT);
    m.close(&me(), fh).unwrap();
    m.spool.tidy();
    assert_eq!(m.stored("a").unwrap().priority, 7);
}

/// At the end of the mount what is owed is written beside the spool.
#[test]
fn what_can_never_be_put_back_is_saved() {
    let (m, before) = removed();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, BAD).unwrap();
    for _ in 0..2 {
        m.steps.fail("insert", Error::StorageFull("no room".into()));
    }
    assert_eq!(errno(m.close(&me(), fh)), EBADMSG);
    m.spool.close();
    let saved = m.scratch_dir.join("hold.a.json.removed");
    let text = std::fs::read(&saved).unwrap();
    assert_eq!(text, retryspoolfs::document::render(&before));
    let mode = std::fs::metadata(&saved).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
