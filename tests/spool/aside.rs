//! Messages set aside: what editors and `mv -b` do with a backup's name.

use super::common::*;
use retryspoolfs::spool::Caller;
use retryspoolfs::spool::Errno::{EBADMSG, EEXIST, ENOENT, ESTALE};

fn set_aside(m: &Mounted, caller: &Caller, name: &str, copy: &str) {
    m.rename(caller, (Hold, name), (Hold, copy), PLAIN).unwrap();
}

#[test]
fn the_name_looks_free_to_the_renaming_process_alone() {
    let m = mounted();
    let before = m.put("a", Hold);
    let other = Other::start();
    set_aside(&m, &me(), "a.json", "a.json~");
    assert!(!m.sees(&me(), Hold, "a.json"));
    assert!(m.sees(&other.caller(), Hold, "a.json"));
    assert_eq!(m.list(Hold), ["a.json"]);
    assert_eq!(m.read(&me(), Hold, "a.json~").unwrap(), m.text("a"));
    assert_eq!(m.stored("a"), Some(before));
    // The copy is a scratch file like any other.
    m.unlink(&me(), Hold, "a.json~").unwrap();
    assert!(m.stored("a").is_some());
}

#[test]
fn vim_writes_and_is_accepted() {
    let m = mounted();
    m.put("a", Hold);
    let text = m.text("a").replace("\"Priority\": 5", "\"Priority\": 9");
    for _ in 0..2 {
        set_aside(&m, &me(), "a.json", "a.json~");
        let fh = m.create(&me(), Hold, "a.json", WRITE).unwrap();
        m.spool.truncate(&me(), 0, Some(fh), 0).unwrap();
        m.spool.write(fh, 0, text.as_bytes()).unwrap();
        m.spool.fsync(&me(), fh).unwrap();
        assert!(m.sees(&me(), Hold, "a.json"));
        m.close(&me(), fh).unwrap();
        m.unlink(&me(), Hold, "a.json~").unwrap();
        assert_eq!(m.stored("a").unwrap().priority, 9);
        // The second time, with the Updated of the first copy, nothing is left to do; and the
        // name does not look free.
        assert!(m.sees(&me(), Hold, "a.json"));
    }
    assert_eq!(m.errors(), "");
    assert_eq!(m.spool.inode_count(), 0);
}

/// After a refusal vim removes what it created and puts its backup back, before or after the
/// kernel's release of the file. The message must outlive both.
#[test]
fn vim_writes_and_is_refused() {
    for released_first in [true, false] {
        let m = mounted();
        let before = m.put("a", Hold);
        set_aside(&m, &me(), "a.json", "a.json~");
        let fh = m.create(&me(), Hold, "a.json", WRITE).unwrap();
        m.spool.truncate(&me(), 0, Some(fh), 0).unwrap();
        m.spool
            .write(fh, 0, b"{\"ID\": \"a\", \"Priorty\": 1}")
            .unwrap();
        assert_eq!(errno(m.spool.fsync(&me(), fh)), EBADMSG);
        assert_eq!(errno(m.spool.flush(&me(), fh)), EBADMSG);
        if released_first {
            m.spool.release(fh);
            assert!(!m.sees(&me(), Hold, "a.json"));
            assert_eq!(errno(m.unlink(&me(), Hold, "a.json")), ENOENT);
        } else {
            m.unlink(&me(), Hold, "a.json").unwrap();
            assert!(!m.sees(&me(), Hold, "a.json"));
        }
        m.rename(&me(), (Hold, "a.json~"), (Hold, "a.json"), PLAIN)
            .unwrap();
        assert!(m.sees(&me(), Hold, "a.json"));
        if !released_first {
            m.spool.release(fh);
        }
        assert_eq!(m.stored("a"), Some(before));
        let refusals = m.errors();
        let refusals = refusals.lines().filter(|line| line.contains("EBADMSG"));
        assert_eq!(refusals.count(), 1);
        assert_eq!(m.spool.inode_count(), 0);
    }
}

/// The kernel's release of a file comes when it likes; an editor that was refused may be back
/// with another try by then.
#[test]
fn after_a_refusal_the_name_can_be_created_again() {
    let m = mounted();
    m.put("a", Hold);
    set_aside(&m, &me(), "a.json", "a.json~");
    let first = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    assert_eq!(errno(m.create(&me(), Hold, "a.json", EXCLUSIVE)), EEXIST);
    m.spool.write(first, 0, b"{}").unwrap();
    assert_eq!(errno(m.spool.flush(&me(), first)), EBADMSG);
    let second = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.release(first);
    assert_eq!(errno(m.create(&me(), Hold, "a.json", EXCLUSIVE)), EEXIST);
    m.spool
        .write(second, 0, new_document("a").as_bytes())
        .unwrap();
    m.close(&me(), second).unwrap();
    assert_eq!(m.stored("a").unwrap().priority, 7);
}

#[test]
fn vim_removes_an_unfinished_draft_and_never_the_message() {
    let m = mounted();
    let before = m.put("a", Hold);
    set_aside(&m, &me(), "a.json", "a.json~");
    let fh = m.create(&me(), Hold, "a.json", WRITE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    m.unlink(&me(), Hold, "a.json").unwrap();
    m.close(&me(), fh).unwrap();
    assert_eq!(m.stored("a"), Some(before));
    assert_eq!(m.errors(), "");
}

#[test]
fn a_change_by_another_meanwhile_is_not_undone() {
    let m = mounted();
    m.put("a", Hold);
    let other = Other::start();
    set_aside(&m, &me(), "a.json", "a.json~");
    let changed = {
        let text = m.text("a").replace("\"Size\": 0", "\"Size\": 5");
        m.overwrite(&other.caller(), Hold, "a.json", &text).unwrap();
        m.stored("a").unwrap()
    };
    let fh = m.create(&me(), Hold, "a.json", WRITE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    assert_eq!(errno(m.close(&me(), fh)), ESTALE);
    assert_eq!(m.stored("a"), Some(changed));
}

#[test]
fn a_message_that_was_removed_meanwhile_does_not_come_back() {
    let m = mounted();
    m.put("a", Hold);
    let other = Other::start();
    set_aside(&m, &me(), "a.json", "a.json~");
    m.unlink(&other.caller(), Hold, "a.json").unwrap();
    let fh = m.create(&me(), Hold, "a.json", WRITE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    assert_eq!(errno(m.close(&me(), fh)), ESTALE);
    assert_eq!(m.stored("a"), None);
}

/// `mv -b new hold/a.json`: the backup, and a rename onto the name that looks free.
#[test]
fn mv_b_renames_onto_the_name() {
    let m = mounted();
    m.put("a", Hold);
    let fh = m.create(&me(), Hold, "new", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    m.close(&me(), fh).unwrap();
    let onto = || m.rename(&me(), (Hold, "new"), (Hold, "a.json"), NO_REPLACE);
    assert_eq!(errno(onto()), EEXIST);
    set_aside(&m, &me(), "a.json", "a.json~");
    onto().unwrap();
    assert_eq!(m.stored("a").unwrap().priority, 7);
    assert!(m.sees(&me(), Hold, "a.json"));
    assert!(m.sees(&me(), Hold, "a.json~") && !m.sees(&me(), Hold, "new"));
}

#[test]
fn a_name_that_looks_free_in_one_directory_is_not_free_in_another() {
    let m = mounted();
    m.put("a", Hold);
    let fh = m.create(&me(), Hold, "new", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    m.close(&me(), fh).unwrap();
    set_aside(&m, &me(), "a.json", "a.json~");
    m.shift("a", Hold, Active);
    let onto = m.rename(&me(), (Hold, "new"), (Hold, "a.json"), NO_REPLACE);
    assert_eq!(errno(onto), EEXIST);
    assert_eq!(m.state("a"), Some(Active));
}

/// `cp --backup new hold/a.json`: the backup, and an exclusive create.
#[test]
fn cp_backup_creates_the_name() {
    let m = mounted();
    m.put("a", Hold);
    set_aside(&m, &me(), "a.json", "a.json~");
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    m.close(&me(), fh).unwrap();
    assert_eq!(m.stored("a").unwrap().priority, 7);
    assert_eq!(m.list(Hold), ["a.json"]);
}

/// `cp --backup=numbered` sees no scratch names in the listing, and would look for a free number
/// for ever if one process found another's.
#[test]
fn numbered_copies_are_found_by_their_maker_alone() {
    let m = mounted();
    m.put("a", Hold);
    let other = Other::start();
    let copy = |caller: &Caller| {
        let (from, to) = ((Hold, "a.json"), (Hold, "a.json.~1~"));
        m.rename(caller, from, to, NO_REPLACE)
    };
    copy(&me()).unwrap();
    assert!(m.sees(&me(), Hold, "a.json.~1~"));
    assert!(!m.sees(&other.caller(), Hold, "a.json.~1~"));
    m.rename(&me(), (Hold, "a.json.~1~"), (Hold, "a.json"), PLAIN)
        .unwrap();
    copy(&me()).unwrap();
    copy(&other.caller()).unwrap();
    assert!(m.sees(&other.caller(), Hold, "a.json.~1~"));
    assert!(!m.sees(&me(), Hold, "a.json.~1~"));
}

#[test]
fn renaming_the_copy_back_changes_nothing() {
    let m = mounted();
    let before = m.put("a", Hold);
    set_aside(&m, &me(), "a.json", "a.json.bak");
    m.rename(&me(), (Hold, "a.json.bak"), (Hold, "a.json"), PLAIN)
        .unwrap();
    assert_eq!(m.stored("a"), Some(before));
    assert!(m.sees(&me(), Hold, "a.json"));
    m.spool.tidy();
    assert_eq!(m.errors(), "");
}

#[test]
fn nothing_written_to_the_created_name_leaves_it_free() {
    let m = mounted();
    let before = m.put("a", Hold);
    set_aside(&m, &me(), "a.json", "a.json~");
    let fh = m.create(&me(), Hold, "a.json", WRITE).unwrap();
    m.close(&me(), fh).unwrap();
    assert!(!m.sees(&me(), Hold, "a.json"));
    assert_eq!(m.stored("a"), Some(before));
}
