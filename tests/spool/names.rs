//! Lookup, unlink, and what is never made.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::common::*;
use retryspoolfs::spool::Errno::{EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, EPERM, ESTALE};

#[test]
fn a_message_is_in_one_directory() {
    let m = mounted();
    m.put("a", Hold);
    for state in [Incoming, Active, Deferred, Bounce] {
        assert!(!m.sees(&me(), state, "a.json"));
    }
    assert!(m.sees(&me(), Hold, "a.json"));
    m.shift("a", Hold, Deferred);
    assert!(!m.sees(&me(), Hold, "a.json"));
    assert!(m.sees(&me(), Deferred, "a.json"));
}

#[test]
fn an_id_has_one_name() {
    let m = mounted();
    for (name, file) in [
        ("../x", "%2E.%2Fx.json"),
        (".hidden", "%2Ehidden.json"),
        ("a\nb\"'", "a%0Ab\"'.json"),
        ("ü☃", "ü☃.json"),
        ("%2f", "%252f.json"),
        ("#x.json#", "#x.json#.json"),
    ] {
        if !holds(name) {
            assert_eq!(
                errno(m.overwrite(&me(), Hold, file, &new_document(name))),
                EINVAL
            );
            assert!(!m.sees(&me(), Hold, file), "{file}");
            continue;
        }
        m.put(name, Hold);
        assert!(m.sees(&me(), Hold, file), "{file}");
        assert!(m.list(Hold).contains(&file.to_owned()));
    }
    for file in ["%2f.json", "..%2Fx.json", "a%0ab\"'.json", ".hidden.json"] {
        assert!(!m.sees(&me(), Hold, file), "{file}");
    }
    let hold = dir_of(Hold);
    let bytes = OsStr::from_bytes(b"\xff.json");
    assert_eq!(errno(m.spool.lookup(&me(), hold, bytes)), ENOENT);
    m.assert_counts_agree();
}

#[test]
fn the_root_has_its_states_and_hides_its_control_files() {
    let m = mounted();
    let root = |name: &str| m.spool.lookup(&me(), ROOT, OsStr::new(name));
    assert!(root("hold").unwrap().is_dir && root(".retryspool").unwrap().is_dir);
    assert_eq!(errno(root("archived")), ENOENT);
    assert_eq!(errno(root("errors")), ENOENT);
    let scratch = m.spool.lookup(&me(), 8, OsStr::new("scratch")).unwrap();
    let of_hold = m.spool.lookup(&me(), scratch.ino, OsStr::new("hold"));
    assert!(of_hold.unwrap().is_dir);
    let ino = m.put_and_look_up("a");
    let below = m.spool.lookup(&me(), ino, OsStr::new("x"));
    assert_eq!(errno(below), ENOTDIR);
    assert_eq!(errno(m.spool.opendir(ino)), ENOTDIR);
    assert_eq!(errno(m.spool.open(&me(), ROOT, READ)), EISDIR);
    assert_eq!(m.spool.inode_count(), 1);
}

impl Mounted {
    fn put_and_look_up(&self, name: &str) -> u64 {
        self.put(name, Hold);
        self.lookup(&me(), Hold, &format!("{name}.json"))
            .unwrap()
            .ino
    }
}

#[test]
fn an_inode_is_forgotten_with_its_last_lookup_and_handle() {
    let m = mounted();
    let ino = m.put_and_look_up("a");
    let fh = m.spool.open(&me(), ino, READ).unwrap();
    let again = m.lookup(&me(), Hold, "a.json").unwrap();
    assert_eq!(again.ino, ino);
    m.spool.forget(ino, 2);
    assert_eq!(m.spool.inode_count(), 1, "open");
    m.spool.getattr(&me(), ino, Some(fh)).unwrap();
    m.spool.release(fh);
    assert_eq!(m.spool.inode_count(), 0);
    assert_eq!(errno(m.spool.getattr(&me(), ino, None)), ESTALE);
    // A lookup that failed counts nothing, nor does one of a fixed directory.
    assert!(!m.sees(&me(), Deferred, "a.json"));
    m.spool.lookup(&me(), ROOT, OsStr::new("hold")).unwrap();
    m.spool.forget(dir_of(Hold), 5);
    assert_eq!(m.spool.inode_count(), 0);
}

#[test]
fn rm_is_one_conditional_delete() {
    let m = mounted();
    m.put("a", Hold);
    assert_eq!(errno(m.unlink(&me(), Deferred, "a.json")), ENOENT);
    assert!(m.stored("a").is_some());
    m.unlink(&me(), Hold, "a.json").unwrap();
    assert_eq!(errno(m.unlink(&me(), Hold, "a.json")), ENOENT);
    assert_eq!(m.stored("a"), None);
    assert_eq!(errno(m.unlink(&me(), Hold, "%2f.json")), ENOENT);
    let control = m.spool.unlink(&me(), 8, OsStr::new("errors"));
    assert_eq!(errno(control), EPERM);
    m.assert_counts_agree();
}

#[test]
fn nodelete_keeps_messages_but_not_scratch_files_and_drafts() {
    let m = mounted_with(|options| options.no_delete = true);
    m.put("a", Hold);
    assert_eq!(errno(m.unlink(&me(), Hold, "a.json")), EPERM);
    assert!(m.stored("a").is_some());
    for name in ["b.json", "b~"] {
        let fh = m.create(&me(), Hold, name, EXCLUSIVE).unwrap();
        m.unlink(&me(), Hold, name).unwrap();
        m.close(&me(), fh).unwrap();
    }
}

#[test]
fn a_file_that_is_open_outlives_its_message() {
    let m = mounted();
    m.put("a", Hold);
    let text = m.text("a");
    let fh = m.open(&me(), Hold, "a.json", READ).unwrap();
    m.unlink(&me(), Hold, "a.json").unwrap();
    let ino = retryspoolfs::spool::number_of(&id("a"));
    let attr = m.spool.getattr(&me(), ino, Some(fh)).unwrap();
    assert_eq!(attr.size, text.len() as u64);
    assert_eq!(m.spool.read(fh, 0, 4096).unwrap(), text.as_bytes());
    m.spool.release(fh);
    assert_eq!(m.spool.inode_count(), 0);
}

#[test]
fn nothing_but_files_is_made() {
    let m = mounted();
    let make = |what, parent, name| {
        m.spool
            .refuse_node(&me(), what, parent, OsStr::new(name))
            .errno
    };
    assert_eq!(make("symlink", dir_of(Hold), "x"), EPERM);
    assert_eq!(make("link", dir_of(Hold), "x.json"), EPERM);
    let mkdir = |parent, name| m.spool.refuse_mkdir(&me(), parent, OsStr::new(name)).errno;
    assert_eq!(mkdir(ROOT, "new"), EPERM);
    assert_eq!(mkdir(dir_of(Hold), "hold"), EPERM);
    for state in ["hold", "archived"] {
        assert_eq!(mkdir(ROOT, state), EEXIST);
    }
}
