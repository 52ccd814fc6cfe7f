//! What stat(2) and getxattr(2) show.

use std::ffi::OsStr;

use super::common::*;
use retryspoolfs::spool::Errno::{ENODATA, EOPNOTSUPP, ESTALE};
use retryspoolfs::{MessageMetadata, Timestamp};

#[test]
fn a_message_file_shows_its_times_and_its_documents_length() {
    let m = mounted();
    let stored = m.put("a", Hold);
    let attr = m.lookup(&me(), Hold, "a.json").unwrap();
    assert_eq!(attr.size, m.text("a").len() as u64);
    assert_eq!((attr.mtime, attr.ctime), (stored.updated, stored.updated));
    assert_eq!(attr.atime, stored.created);
    assert_eq!((attr.nlink, attr.mode), (1, 0o600));
    assert_eq!((attr.uid, attr.gid, attr.is_dir), (1000, 100, false));
    assert_eq!(m.spool.getattr(&me(), attr.ino, None).unwrap(), attr);
    // The same number after a move, and in another mount.
    m.shift("a", Hold, Deferred);
    let moved = m.lookup(&me(), Deferred, "a.json").unwrap();
    assert!(moved.ino == attr.ino && moved.mtime > attr.mtime);
    let spool = again(&m, |_| {});
    let elsewhere = spool.lookup(&me(), dir_of(Deferred), OsStr::new("a.json"));
    assert_eq!(elsewhere.unwrap(), moved);
}

#[test]
fn a_states_directory_counts_its_messages() {
    let m = mounted();
    let attr = |state| m.spool.getattr(&me(), dir_of(state), None).unwrap();
    let before = attr(Hold);
    assert_eq!((before.size, before.nlink, before.mode), (0, 2, 0o700));
    assert!(before.is_dir && before.mtime > Timestamp::new(1_700_000_000, 0).unwrap());
    for n in 0..3 {
        m.put(&n.to_string(), Hold);
    }
    let fh = m.create(&me(), Hold, "x~", WRITE).unwrap();
    assert_eq!(attr(Hold).size, 3, "no scratch files");
    assert!(attr(Hold).mtime >= before.mtime);
    m.spool.release(fh);
    let root = m.spool.getattr(&me(), ROOT, None).unwrap();
    assert_eq!(root.nlink, 7);
    let spool = again(&m, |options| options.archived = true);
    assert_eq!(spool.getattr(&me(), ROOT, None).unwrap().nlink, 8);
    assert_eq!(m.spool.usage().unwrap().messages, 3);
    m.assert_counts_agree();
}

#[test]
fn owner_mode_and_times_are_accepted_and_stay() {
    let m = mounted();
    m.put("a", Hold);
    let attr = m.lookup(&me(), Hold, "a.json").unwrap();
    assert_eq!(m.spool.setattr(&me(), attr.ino, None, None).unwrap(), attr);
    m.spool.setattr(&me(), dir_of(Hold), None, None).unwrap();
}

#[test]
fn the_fields_of_a_message_are_attributes() {
    let m = mounted();
    let long = "n".repeat(240);
    let metadata = MessageMetadata {
        attempts: 2,
        last_error: "451 try later".into(),
        headers: [
            ("to".to_owned(), "bob@example.org".to_owned()),
            (long.clone(), "left out".to_owned()),
            ("big".to_owned(), "x".repeat(70_000)),
        ]
        .into(),
        ..message("a", Hold)
    };
    m.store.insert(&ctx(), &metadata).unwrap();
    let ino = m.lookup(&me(), Hold, "a.json").unwrap().ino;
    let get = |name: &str| m.spool.getxattr(ino, OsStr::new(name));
    let is = |name: &str, value: &str| {
        let name = format!("user.retryspool.{name}");
        assert_eq!(get(&name).unwrap(), value.as_bytes());
    };
    is("id", "a");
    is("state", "hold");
    is("attempts", "2");
    is("last_error", "451 try later");
    is("created", "2025-06-15T15:06:40Z");
    is("header.to", "bob@example.org");
    assert_eq!(errno(get("user.retryspool.header.big")), ENODATA);
    assert_eq!(errno(get("security.selinux")), EOPNOTSUPP);
    assert_eq!(errno(get("system.posix_acl_access")), EOPNOTSUPP);
    let names = m.spool.listxattr(ino).unwrap();
    assert_eq!(names.len(), 12);
    let set = |name, value: &[u8]| m.spool.setxattr(ino, OsStr::new(name), value);
    set("user.retryspool.attempts", b"2").unwrap();
    assert_eq!(errno(set("user.retryspool.attempts", b"3")), EOPNOTSUPP);
    assert_eq!(errno(set("user.mine", b"3")), EOPNOTSUPP);
    let removed = m.spool.removexattr(ino, OsStr::new("user.retryspool.id"));
    assert_eq!(errno(removed), EOPNOTSUPP);
    let count = OsStr::new("user.retryspool.count");
    assert_eq!(m.spool.getxattr(dir_of(Hold), count).unwrap(), b"1");
}

#[test]
fn a_reader_of_a_message_that_went_still_knows_its_length() {
    let m = mounted();
    m.put("x", Deferred);
    let length = m.text("x").len() as u64;
    let fh = m.open(&me(), Deferred, "x.json", READ).unwrap();
    let ino = m.lookup(&me(), Deferred, "x.json").unwrap().ino;
    m.unlink(&me(), Deferred, "x.json").unwrap();
    // fstat(2) comes without the handle.
    assert_eq!(m.spool.getattr(&me(), ino, None).unwrap().size, length);
    m.spool.release(fh);
    assert_eq!(errno(m.spool.getattr(&me(), ino, None)), ESTALE);
}
