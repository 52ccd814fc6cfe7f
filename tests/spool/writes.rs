//! Creating, opening, writing: what the store does and what it refuses.

use super::common::*;
use retryspoolfs::spool::Errno::{
    self, EBADF, EBADMSG, EEXIST, EFBIG, EINVAL, EIO, ENOENT, EROFS, ESTALE,
};
use retryspoolfs::spool::OpenMode;
use retryspoolfs::{Timestamp, document};

fn with_priority(text: &str, priority: i64) -> String {
    let at = text.find("\"Priority\": ").unwrap() + 12;
    let end = at + text[at..].find(',').unwrap();
    format!("{}{priority}{}", &text[..at], &text[end..])
}

#[test]
fn a_new_message_takes_its_defaults_and_its_directorys_state() {
    let m = mounted();
    let text = "{\"ID\":\"a\",\"State\":\"bounce\"}";
    let before = Timestamp::now();
    m.overwrite(&me(), Deferred, "a.json", text).unwrap();
    let stored = m.stored("a").unwrap();
    assert_eq!(stored.state, Deferred);
    assert_eq!((stored.max_attempts, stored.priority), (10, 5));
    assert!(stored.created >= before && stored.updated >= before);
}

#[test]
fn an_id_is_in_use_wherever_it_is() {
    let m = mounted();
    m.put("a", Archived);
    m.put("b", Active);
    for name in ["a.json", "b.json"] {
        assert_eq!(errno(m.create(&me(), Hold, name, EXCLUSIVE)), EEXIST);
        assert_eq!(errno(m.create(&me(), Hold, name, WRITE)), EEXIST);
        assert!(!m.sees(&me(), Hold, name));
    }
    assert_eq!(errno(m.create(&me(), Active, "b.json", EXCLUSIVE)), EEXIST);
    assert_eq!(m.spool.inode_count(), 0);
    m.assert_counts_agree();
}

#[test]
fn an_update_keeps_what_it_does_not_name() {
    let m = mounted();
    let before = m.put("a", Hold);
    m.overwrite(&me(), Hold, "a.json", "{\"ID\":\"a\",\"Attempts\":3}")
        .unwrap();
    let after = m.stored("a").unwrap();
    assert!(after.updated > before.updated);
    assert_eq!((after.attempts, after.created), (3, before.created));
}

#[test]
fn the_same_document_again_changes_nothing() {
    let m = mounted();
    let before = m.put("a", Hold);
    let text = m.text("a");
    m.overwrite(&me(), Hold, "a.json", &text).unwrap();
    assert_eq!(m.stored("a"), Some(before));
}

#[test]
fn what_somebody_changed_moved_or_removed_is_stale() {
    let m = mounted();
    for case in 0..3 {
        m.put("a", Hold);
        let text = with_priority(&m.text("a"), 9);
        let fh = m.open(&me(), Hold, "a.json", TRUNCATE).unwrap();
        m.spool.write(fh, 0, text.as_bytes()).unwrap();
        match case {
            0 => drop(m.change("a")),
            1 => m.shift("a", Hold, Active),
            _ => m.store.delete_meta(&ctx(), &id("a")).unwrap(),
        }
        let now = m.stored("a");
        assert_eq!(errno(m.close(&me(), fh)), ESTALE);
        assert_eq!(m.stored("a"), now);
        if now.is_some() {
            m.store.delete_meta(&ctx(), &id("a")).unwrap();
        }
    }
    assert_eq!(m.errors().lines().count(), 3);
}

#[test]
fn a_copy_that_somebody_overtook_is_stale() {
    let m = mounted();
    m.put("a", Hold);
    let copy = with_priority(&m.text("a"), 9);
    let changed = m.change("a");
    assert_eq!(errno(m.overwrite(&me(), Hold, "a.json", &copy)), ESTALE);
    assert_eq!(m.stored("a"), Some(changed));
}

/// The second `:w`: the editor still holds the first Updated.
#[test]
fn a_process_may_write_its_own_copy_again() {
    let m = mounted();
    m.put("a", Hold);
    let copy = m.text("a");
    let other = Other::start();
    for priority in 7..10 {
        let text = with_priority(&copy, priority);
        m.overwrite(&me(), Hold, "a.json", &text).unwrap();
        assert_eq!(m.stored("a").unwrap().priority, priority);
    }
    let text = with_priority(&copy, 1);
    let refused = m.overwrite(&other.caller(), Hold, "a.json", &text);
    assert_eq!(errno(refused), ESTALE);
}

/// Its own copies, but somebody else changed the message between them.
#[test]
fn a_process_may_not_undo_what_another_did_between_its_writes() {
    let m = mounted();
    m.put("a", Hold);
    let first_copy = m.text("a");
    let text = with_priority(&first_copy, 7);
    m.overwrite(&me(), Hold, "a.json", &text).unwrap();
    m.change("a");
    let second_copy = with_priority(&m.text("a"), 8);
    m.overwrite(&me(), Hold, "a.json", &second_copy).unwrap();
    let stored = m.stored("a").unwrap();
    assert_eq!((stored.attempts, stored.priority), (1, 8));
    let again = with_priority(&first_copy, 9);
    assert_eq!(errno(m.overwrite(&me(), Hold, "a.json", &again)), ESTALE);
    assert_eq!(m.stored("a"), Some(stored));
}

#[test]
fn readers_see_whole_documents_and_writers_their_own_bytes() {
    let m = mounted();
    m.put("a", Hold);
    let before = m.text("a");
    let reader = m.open(&me(), Hold, "a.json", READ).unwrap();
    let writer = m.open(&me(), Hold, "a.json", TRUNCATE).unwrap();
    m.spool.write(writer, 0, b"{\"ID\":").unwrap();
    assert_eq!(m.spool.read(writer, 0, 99).unwrap(), b"{\"ID\":");
    assert_eq!(m.read(&me(), Hold, "a.json").unwrap(), before);
    m.spool.write(writer, 6, b"\"a\",\"Size\":1}").unwrap();
    m.close(&me(), writer).unwrap();
    assert_eq!(m.spool.read(reader, 0, 4096).unwrap(), before.as_bytes());
    assert_eq!(
        m.spool.read(reader, 2, 4).unwrap(),
        &before.as_bytes()[2..6]
    );
    assert_eq!(m.spool.read(reader, 1 << 40, 4).unwrap(), b"");
    assert_eq!(errno(m.spool.write(reader, 0, b"x")), EBADF);
    m.spool.release(reader);
    assert_eq!(errno(m.spool.read(reader, 0, 1)), EBADF);
    assert_ne!(m.read(&me(), Hold, "a.json").unwrap(), before);
}

#[test]
fn a_draft_is_there_for_its_process_alone() {
    let m = mounted();
    let other = Other::start();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, b"{\"ID\"").unwrap();
    let attr = m.lookup(&me(), Hold, "a.json").unwrap();
    assert_eq!(attr.size, 5);
    m.spool.forget(attr.ino, 1);
    assert!(!m.sees(&other.caller(), Hold, "a.json"));
    assert!(!m.sees(&me(), Deferred, "a.json"));
    assert!(m.list(Hold).is_empty());
    m.assert_counts_agree();
    m.spool.release(fh);
    assert!(!m.sees(&me(), Hold, "a.json"));
}

/// As with any file: what was unlinked while it was open is gone when it is closed.
#[test]
fn a_draft_whose_name_was_removed_stores_nothing() {
    let m = mounted();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    let text = new_document("a");
    m.spool.write(fh, 0, text.as_bytes()).unwrap();
    m.unlink(&me(), Hold, "a.json").unwrap();
    assert!(!m.sees(&me(), Hold, "a.json"));
    assert_eq!(
        m.spool.getattr(&me(), 0, Some(fh)).err().unwrap().errno,
        ESTALE
    );
    m.spool.fsync(&me(), fh).unwrap();
    m.close(&me(), fh).unwrap();
    assert_eq!((m.stored("a"), m.errors()), (None, String::new()));
    // Somebody else's message of that name is not the creator's to remove with its draft.
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.put("a", Hold);
    m.unlink(&me(), Hold, "a.json").unwrap();
    m.close(&me(), fh).unwrap();
    assert!(m.stored("a").is_some());
    m.unlink(&me(), Hold, "a.json").unwrap();
    assert_eq!(m.stored("a"), None);
}

#[test]
fn appending_adds_to_the_handles_own_bytes() {
    let m = mounted();
    let append = OpenMode {
        append: true,
        ..EXCLUSIVE
    };
    let fh = m.create(&me(), Hold, "a.json", append).unwrap();
    for part in new_document("a").as_bytes().chunks(3) {
        m.spool.write(fh, 0, part).unwrap();
    }
    m.close(&me(), fh).unwrap();
    assert!(m.stored("a").is_some());
}

/// rsync --inplace: writes over what is there, and cuts it to its length at the end.
#[test]
fn writing_in_place_and_cutting() {
    let m = mounted();
    m.put("a", Hold);
    let text = new_document("a");
    let fh = m.open(&me(), Hold, "a.json", WRITE).unwrap();
    m.spool.write(fh, 0, text.as_bytes()).unwrap();
    m.spool
        .truncate(&me(), 0, Some(fh), text.len() as u64)
        .unwrap();
    m.close(&me(), fh).unwrap();
    assert_eq!(m.stored("a").unwrap().priority, 7);
}

#[test]
fn every_prefix_of_a_document_is_refused_and_changes_nothing() {
    let m = mounted();
    let before = m.put("a", Hold);
    let text = with_priority(&m.text("a"), 9);
    let text = text.trim_end();
    for cut in 0..text.len() {
        let refused = m.overwrite(&me(), Hold, "a.json", &text[..cut]);
        assert_eq!(errno(refused), EBADMSG, "{cut}");
    }
    assert_eq!(m.stored("a"), Some(before));
    assert_eq!(m.errors().lines().count(), text.len());
    assert_eq!(m.spool.inode_count(), 0);
}

#[test]
fn a_document_may_have_a_mebibyte_and_no_more() {
    let m = mounted();
    let document = |length: usize| {
        let text = new_document("a");
        " ".repeat(length - text.len()) + &text
    };
    let too_long = document(document::MAX_LEN + 1);
    assert_eq!(
        errno(m.overwrite(&me(), Hold, "a.json", &too_long)),
        EBADMSG
    );
    assert!(m.errors().contains("1048577 bytes"));
    m.overwrite(&me(), Hold, "a.json", &document(document::MAX_LEN))
        .unwrap();
    assert!(m.stored("a").is_some());
    let fh = m.open(&me(), Hold, "a.json", WRITE).unwrap();
    m.spool.write(fh, 1 << 40, b"far").unwrap();
    assert_eq!(errno(m.spool.write(fh, u64::MAX, b"x")), EFBIG);
    assert_eq!(errno(m.close(&me(), fh)), EBADMSG);
}

/// `echo > x.json` twice in one shell: the kernel finds the name of the first file, whose last
/// close is still on its way, and opens that.
#[test]
fn a_file_that_is_not_committed_can_be_opened_again_by_its_writer() {
    let m = mounted();
    let first = m.create(&me(), Hold, "new.json", TRUNCATE).unwrap();
    m.spool.write(first, 0, b"{}").unwrap();
    assert_eq!(errno(m.spool.flush(&me(), first)), EBADMSG);
    let second = m.open(&me(), Hold, "new.json", TRUNCATE).unwrap();
    let text = new_document("new");
    m.spool.write(second, 0, text.as_bytes()).unwrap();
    m.spool.release(first);
    m.close(&me(), second).unwrap();
    assert_eq!(m.stored("new").unwrap().priority, 7);
    // Without cutting it, what is there is gone on with; by nobody else.
    let first = m.create(&me(), Hold, "next.json", EXCLUSIVE).unwrap();
    m.spool.write(first, 0, b"{\"ID\": \"next\"").unwrap();
    let (second, other) = (m.open(&me(), Hold, "next.json", WRITE), Other::start());
    let second = second.unwrap();
    assert_eq!(
        errno(m.open(&other.caller(), Hold, "next.json", WRITE)),
        ENOENT
    );
    assert_eq!(m.spool.read(second, 0, 99).unwrap(), b"{\"ID\": \"next\"");
    m.spool.write(second, 13, b"}").unwrap();
    m.close(&me(), second).unwrap();
    m.unlink(&me(), Hold, "next.json").unwrap();
    m.spool.release(first);
    assert!(m.stored("next").is_some(), "its own draft was withdrawn");
    assert_eq!(m.spool.inode_count(), 0);
}

#[test]
fn names_that_are_no_messages_cannot_be_created() {
    let m = mounted();
    for name in ["%2f.json", "a%41.json", "%zz.json"] {
        assert_eq!(
            errno(m.create(&me(), Hold, name, EXCLUSIVE)),
            EINVAL,
            "{name}"
        );
    }
    let long = "x".repeat(251) + ".json";
    assert_eq!(errno(m.create(&me(), Hold, &long, EXCLUSIVE)), EINVAL);
    let name = "x".repeat(250);
    let stored = m.overwrite(&me(), Hold, &(name.clone() + ".json"), &new_document(&name));
    match holds(&name) {
        true => stored.unwrap(),
        false => assert_eq!(errno(stored), EINVAL),
    }
    for parent in [ROOT, 8, 9, 10 + 3] {
        let created = m
            .spool
            .create(&me(), parent, std::ffi::OsStr::new("new"), WRITE);
        assert_eq!(errno(created), Errno::EPERM);
    }
}

#[test]
fn refused_bytes_of_a_long_name_are_kept_too() {
    let m = mounted();
    let name = "y".repeat(250);
    let file = name.clone() + ".json";
    assert_eq!(errno(m.overwrite(&me(), Hold, &file, "{}")), EBADMSG);
    let kept = format!("{}.refused", &file[..247]);
    assert_eq!(m.read(&me(), Hold, &kept).unwrap(), "{}");
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let m = mounted();
    let before = m.put("a", Hold);
    let spool = again(&m, |options| options.read_only = true);
    let hold = dir_of(Hold);
    let name = std::ffi::OsStr::new;
    let ino = spool.lookup(&me(), hold, name("a.json")).unwrap().ino;
    assert_eq!(errno(spool.open(&me(), ino, WRITE)), EROFS);
    assert_eq!(
        errno(spool.create(&me(), hold, name("b.json"), WRITE)),
        EROFS
    );
    assert_eq!(errno(spool.create(&me(), hold, name("b~"), WRITE)), EROFS);
    assert_eq!(errno(spool.setattr(&me(), ino, None, Some(0))), EROFS);
    assert_eq!(errno(spool.unlink(&me(), hold, name("a.json"))), EROFS);
    let (from, to) = ((hold, name("a.json")), (dir_of(Active), name("a.json")));
    assert_eq!(errno(spool.rename(&me(), from, to, PLAIN)), EROFS);
    let fh = spool.open(&me(), ino, READ).unwrap();
    assert_eq!(spool.read(fh, 0, 4096).unwrap(), m.text("a").as_bytes());
    spool.release(fh);
    assert_eq!(list(&spool, hold), ["a.json"]);
    assert_eq!(m.stored("a"), Some(before));
}

#[test]
fn after_the_end_of_the_mount_open_files_have_had_their_last_close() {
    let m = mounted();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    m.spool.release_all();
    assert!(m.stored("a").is_some());
    m.spool.close();
    assert_eq!(errno(m.lookup(&me(), Hold, "a.json")), EIO);
}
