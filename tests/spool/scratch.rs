//! Scratch files: private, bounded, rescued.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::common::*;
use retryspoolfs::spool::Errno::{EBADMSG, EEXIST, ENOENT, ENOSPC};
use retryspoolfs::spool::OpenMode;

const MIB: u64 = 1 << 20;

fn put(m: &Mounted, name: &str, text: &str) {
    let fh = m.create(&me(), Hold, name, TRUNCATE).unwrap();
    m.spool.write(fh, 0, text.as_bytes()).unwrap();
    m.close(&me(), fh).unwrap();
}

#[test]
fn they_are_files_of_this_mount_alone_and_no_messages() {
    let m = mounted();
    let names = [
        ".x.json.swp",
        "#x.json#",
        "4913",
        "x.json~",
        ".json",
        "sedAbC123",
    ];
    for name in names {
        put(&m, name, name);
        assert_eq!(m.read(&me(), Hold, name).unwrap(), name);
        assert!(!m.sees(&me(), Deferred, name));
        assert_eq!(errno(m.create(&me(), Hold, name, EXCLUSIVE)), EEXIST);
    }
    assert!(m.list(Hold).is_empty());
    let mut listed = list(&m.spool, 10 + 3);
    let mut expected = names.map(String::from).to_vec();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    let spool = again(&m, |_| {});
    let elsewhere = spool.lookup(&me(), dir_of(Hold), OsStr::new("4913"));
    assert_eq!(errno(elsewhere), ENOENT);
    m.assert_counts_agree();
    assert_eq!(m.spool.inode_count(), 0);
}

#[test]
fn they_are_read_and_written_like_files() {
    let m = mounted();
    let append = OpenMode {
        append: true,
        ..WRITE
    };
    let fh = m.create(&me(), Hold, "s", append).unwrap();
    m.spool.write(fh, 0, b"one ").unwrap();
    m.spool.write(fh, 0, b"two").unwrap();
    assert_eq!(m.spool.read(fh, 2, 100).unwrap(), b"e two");
    let ino = m.lookup(&me(), Hold, "s").unwrap().ino;
    assert_eq!(
        m.spool.setattr(&me(), ino, Some(fh), Some(3)).unwrap().size,
        3
    );
    m.spool.setattr(&me(), ino, None, Some(5)).unwrap();
    assert_eq!(m.spool.read(fh, 0, 100).unwrap(), b"one\0\0");
    let again = m.spool.open(&me(), ino, TRUNCATE).unwrap();
    assert_eq!(m.spool.read(fh, 0, 100).unwrap(), b"");
    m.close(&me(), again).unwrap();
    m.spool.fsync(&me(), fh).unwrap();
    m.spool.release(fh);
    m.spool.forget(ino, 1);
    assert_eq!(m.spool.inode_count(), 0);
}

#[test]
fn an_unlinked_one_lives_while_it_is_open() {
    let m = mounted();
    let fh = m.create(&me(), Hold, "tmpAbc", EXCLUSIVE).unwrap();
    m.unlink(&me(), Hold, "tmpAbc").unwrap();
    assert_eq!(errno(m.unlink(&me(), Hold, "tmpAbc")), ENOENT);
    m.spool.write(fh, 0, b"bytes").unwrap();
    assert_eq!(m.spool.read(fh, 0, 9).unwrap(), b"bytes");
    put(&m, "tmpAbc", "another");
    assert_eq!(m.spool.read(fh, 0, 9).unwrap(), b"bytes");
    m.spool.release(fh);
    assert_eq!(m.spool.inode_count(), 0);
}

#[test]
fn each_and_all_are_bounded() {
    let m = mounted();
    let fh = m.create(&me(), Hold, "0~", EXCLUSIVE).unwrap();
    m.spool.write(fh, MIB - 1, b"x").unwrap();
    assert_eq!(errno(m.spool.write(fh, MIB, b"x")), ENOSPC);
    m.spool.release(fh);
    for n in 1..64 {
        let fh = m.create(&me(), Hold, &format!("{n}~"), EXCLUSIVE).unwrap();
        m.spool.write(fh, MIB - 1, b"x").unwrap();
        m.spool.release(fh);
    }
    let fh = m.create(&me(), Hold, "one-more", EXCLUSIVE).unwrap();
    assert_eq!(errno(m.spool.write(fh, 0, b"x")), ENOSPC);
    assert_eq!(
        m.errors().lines().last().unwrap(),
        "write hold/one-more ENOSPC: scratch files may take 1 MiB each, 64 MiB and 4096 files together; \
         put large files outside the mount; remove scratch files that nobody needs"
    );
    m.unlink(&me(), Hold, "5~").unwrap();
    m.spool.write(fh, 0, b"x").unwrap();
    m.spool.release(fh);
    // Messages are not counted among them.
    m.overwrite(&me(), Hold, "a.json", &new_document("a"))
        .unwrap();
}

#[test]
fn so_many_and_no_more() {
    let m = mounted();
    for n in 0..4096 {
        let fh = m.create(&me(), Hold, &format!("{n}~"), EXCLUSIVE).unwrap();
        m.spool.release(fh);
    }
    assert_eq!(errno(m.create(&me(), Deferred, "x", EXCLUSIVE)), ENOSPC);
    assert_eq!(m.spool.inode_count(), 0);
}

/// Somebody who typed `mv backup/msg-5 deferred/` has lost nothing.
#[test]
fn what_holds_bytes_is_put_beside_the_spool_at_the_end() {
    let m = mounted();
    put(&m, "msg-5", "precious");
    put(&m, "empty", "");
    m.spool.tidy();
    assert!(!m.scratch_dir.exists(), "touched within the hour");
    let (dir, errors) = (m.scratch_dir.clone(), m.errors());
    assert_eq!(errors, "");
    m.spool.close();
    let mode = fs::metadata(&dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let names: Vec<_> = fs::read_dir(&dir).unwrap().collect();
    assert_eq!(names.len(), 1);
    let file = dir.join("hold.msg-5");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        m.errors()
            .contains("scratch file hold/msg-5 was written to")
    );
}

#[test]
fn refused_documents_leave_room_for_the_editor_that_mends_them() {
    let m = mounted();
    for n in 0..2100 {
        let refused = m.overwrite(&me(), Hold, &format!("{n}.json"), "{}");
        assert_eq!(errno(refused), EBADMSG);
    }
    assert_eq!(list(&m.spool, 10 + 3).len(), 2048);
    put(&m, ".0.json.swp", "swap");
}

#[test]
fn what_was_removed_takes_no_room_while_the_kernel_remembers_it() {
    let m = mounted();
    for n in 0..4096 {
        put(&m, &format!(".{n}"), "");
    }
    // Found here, removed by its other path: the kernel goes on remembering the one it looked up.
    let ino = m.lookup(&me(), Hold, ".7").unwrap().ino;
    m.spool.unlink(&me(), 10 + 3, OsStr::new(".7")).unwrap();
    put(&m, ".more", "");
    // The same for one that is closed after it was removed, and not before.
    let fh = m.open(&me(), Hold, ".8", WRITE).unwrap();
    m.lookup(&me(), Hold, ".8").unwrap();
    m.unlink(&me(), Hold, ".8").unwrap();
    m.spool.write(fh, 0, b"still here").unwrap();
    assert_eq!(m.spool.read(fh, 0, 100).unwrap(), b"still here");
    assert_eq!(errno(m.create(&me(), Hold, ".again", TRUNCATE)), ENOSPC);
    m.close(&me(), fh).unwrap();
    put(&m, ".again", "");
    m.spool.forget(ino, 1);
}
