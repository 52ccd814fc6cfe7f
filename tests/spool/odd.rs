//! What is stored but looks odd: rows that RetrySpool does not check.

use super::common::*;
use retryspoolfs::spool::Errno::{EEXIST, EIO, ENOENT};

const INSERT: &str = "INSERT OR REPLACE INTO messages (id, state, attempts, max_attempts, next_retry, \
     created, updated, last_error, size, priority, headers, retry_policy_name) \
     VALUES (?1, ?2, 0, 3, -62135596800, 1750000000, 1750000000, '', 0, 5, ?3, '')";

fn broken(m: &Mounted, name: &str) {
    m.sql().execute(INSERT, (name, 3, "not JSON")).unwrap();
}

#[test]
fn headers_that_are_no_json_are_listed_and_counted_and_not_read() {
    let m = mounted();
    broken(&m, "a");
    m.put("b", Hold);
    assert_eq!(m.list(Hold), ["a.json", "b.json"]);
    m.assert_counts_agree();
    let attr = m.lookup(&me(), Hold, "a.json").unwrap();
    assert_eq!(attr.size, 0);
    assert_eq!(m.spool.getattr(&me(), attr.ino, None).unwrap(), attr);
    assert!(!m.sees(&me(), Deferred, "a.json"));
    for mode in [READ, WRITE, TRUNCATE] {
        assert_eq!(errno(m.spool.open(&me(), attr.ino, mode)), EIO);
    }
    let line = m.errors();
    assert!(
        line.starts_with("open hold/a.json EIO: the stored message can't be read"),
        "{line}"
    );
    assert_eq!(errno(m.create(&me(), Deferred, "a.json", WRITE)), EEXIST);
    m.spool.forget(attr.ino, 1);
    assert_eq!(m.spool.inode_count(), 0);
    // Listed with attributes: as what it is.
    let fh = m.spool.opendir(dir_of(Hold)).unwrap();
    let mut sizes = Vec::new();
    m.spool
        .readdir(fh, 2, true, &mut |entry| {
            sizes.push((entry.ino, entry.attr.unwrap().size > 0));
            true
        })
        .unwrap();
    let readable: Vec<bool> = sizes.iter().map(|(_, readable)| *readable).collect();
    assert_eq!(readable, [false, true]);
    for (ino, _) in sizes {
        m.spool.forget(ino, 1);
    }
}

#[test]
fn headers_that_are_no_json_can_be_moved_and_removed() {
    let m = mounted();
    broken(&m, "a");
    m.rename(&me(), (Hold, "a.json"), (Bounce, "a.json"), NO_REPLACE)
        .unwrap();
    assert_eq!(m.list(Bounce), ["a.json"]);
    assert_eq!(errno(m.unlink(&me(), Hold, "a.json")), ENOENT);
    m.unlink(&me(), Bounce, "a.json").unwrap();
    assert!(!m.sees(&me(), Bounce, "a.json"));
    m.assert_counts_agree();
}

#[test]
fn a_row_that_no_name_can_express_is_in_no_directory_and_no_count() {
    let m = mounted();
    let conn = m.sql();
    m.put("good", Hold);
    for id in [String::new(), "x".repeat(300), "/".repeat(90)] {
        conn.execute(INSERT, (id, 3, "{}")).unwrap();
    }
    conn.execute(INSERT, (b"\xff\xfe".as_slice(), 3, "{}"))
        .unwrap();
    conn.execute(INSERT, ("nine", 9, "{}")).unwrap();
    assert_eq!(m.list(Hold), ["good.json"]);
    assert!(!m.sees(&me(), Hold, "nine.json"));
    assert!(!m.sees(&me(), Hold, ".json"));
    m.assert_counts_agree();
    // Its ID is in use all the same.
    let fh = m.create(&me(), Hold, "nine.json", WRITE).unwrap();
    m.spool
        .write(fh, 0, new_document("nine").as_bytes())
        .unwrap();
    assert_eq!(errno(m.close(&me(), fh)), EIO);
    let state: i64 = conn
        .query_row("SELECT state FROM messages WHERE id = 'nine'", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(state, 9);
}

#[test]
fn archived_messages_are_hidden_unless_asked_for() {
    let m = mounted();
    m.put("a", Archived);
    let everywhere = [Incoming, Active, Deferred, Hold, Bounce];
    assert!(everywhere.iter().all(|state| m.list(*state).is_empty()));
    assert_eq!(m.spool.usage().unwrap().messages, 0);
    let spool = again(&m, |options| options.archived = true);
    assert_eq!(list(&spool, dir_of(Archived)), ["a.json"]);
    assert_eq!(spool.usage().unwrap().messages, 1);
}
