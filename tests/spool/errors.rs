//! `.retryspool/errors`: one line for each refusal.

use std::ffi::OsStr;

use super::common::*;
use retryspoolfs::spool::Errno::{EBADMSG, ENOENT, EPERM, ESTALE};

#[test]
fn the_line_says_what_and_where_and_what_became_of_it() {
    let m = mounted();
    m.put("msg-1", Hold);
    // As `jq --indent 4` lays it out.
    let text = m.text("msg-1").replace("\"Priority\"", "\"Priorty\"");
    let text = text.replace("  ", "    ");
    assert_eq!(
        errno(m.overwrite(&me(), Hold, "msg-1.json", &text)),
        EBADMSG
    );
    assert_eq!(
        m.errors(),
        "close hold/msg-1.json EBADMSG: unknown key \"Priorty\" at line 11 column 13; nothing was changed\n"
    );
    let refused = "msg-1.json.refused";
    assert_eq!(m.read(&me(), Hold, refused).unwrap(), text);
}

#[test]
fn one_refusal_is_one_line() {
    let m = mounted();
    let other = Other::start();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, b"{\"ID\":\"b\"}").unwrap();
    for _ in 0..2 {
        assert_eq!(errno(m.spool.flush(&other.caller(), fh)), EBADMSG);
        assert_eq!(errno(m.spool.fsync(&me(), fh)), EBADMSG);
        assert_eq!(errno(m.spool.flush(&me(), fh)), EBADMSG);
    }
    m.spool.release(fh);
    assert_eq!(m.errors().lines().count(), 1);
}

#[test]
fn the_second_half_of_retryspools_move_is_no_refusal() {
    let m = mounted();
    m.put("a", Hold);
    // It places the new document, and then removes an old one that is no longer there.
    let half = "a.json.tmp.1a2b3c4d";
    let fh = m.create(&me(), Deferred, half, EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, m.text("a").as_bytes()).unwrap();
    m.close(&me(), fh).unwrap();
    m.rename(&me(), (Deferred, half), (Deferred, "a.json"), PLAIN)
        .unwrap();
    assert_eq!(errno(m.unlink(&me(), Hold, "a.json")), ENOENT);
    assert_eq!(m.errors(), "");
    // Whoever did not move it there is told where it is.
    let moved =
        "unlink hold/a.json ENOENT: the message is in deferred, not in hold; nothing was changed\n";
    let other = Other::start();
    assert_eq!(errno(m.unlink(&other.caller(), Hold, "a.json")), ENOENT);
    assert_eq!(m.errors(), moved);
    // And so is who did, once somebody has changed it since.
    m.change("a");
    assert_eq!(errno(m.unlink(&me(), Hold, "a.json")), ENOENT);
    assert_eq!(m.errors(), moved.repeat(2));
}

#[test]
fn an_incomplete_document_is_told_of_at_the_last_close() {
    let m = mounted();
    for (name, rest) in [("a", None), ("b", Some(())), ("c", None)] {
        let text = new_document(name);
        let file = format!("{name}.json");
        let fh = m.create(&me(), Hold, &file, EXCLUSIVE).unwrap();
        m.spool.write(fh, 0, &text.as_bytes()[..12]).unwrap();
        if name != "c" {
            assert_eq!(errno(m.spool.flush(&me(), fh)), EBADMSG);
        }
        assert!(!m.errors().contains(&file));
        if rest.is_some() {
            m.spool.write(fh, 12, &text.as_bytes()[12..]).unwrap();
            m.spool.flush(&me(), fh).unwrap();
        }
        m.spool.release(fh);
    }
    let lines = m.errors();
    let starts = |line: &str| {
        line[.."close hold/a.json EBADMSG: the document is incomplete".len()].to_owned()
    };
    let lines: Vec<String> = lines.lines().map(starts).collect();
    assert_eq!(
        lines,
        [
            "close hold/a.json EBADMSG: the document is incomplete",
            "close hold/c.json EBADMSG: the document is incomplete"
        ]
    );
}

#[test]
fn an_empty_new_file_is_told_of_once() {
    let m = mounted();
    let fh = m.create(&me(), Hold, "new.json", EXCLUSIVE).unwrap();
    m.spool.flush(&me(), fh).unwrap();
    assert_eq!(m.errors(), "");
    m.close(&me(), fh).unwrap();
    assert_eq!(
        m.errors(),
        "close hold/new.json EBADMSG: the file is empty; nothing was stored\n"
    );
}

/// On `ESTALE` the kernel looks both names up again and sends the rename a second time.
#[test]
fn a_rename_that_the_kernel_sends_twice_is_one_line() {
    let m = mounted();
    let old = m.put("a", Hold);
    m.change("a");
    let fh = m.create(&me(), Hold, "new", EXCLUSIVE).unwrap();
    let text =
        retryspoolfs::document::render(&retryspoolfs::MessageMetadata { priority: 1, ..old });
    m.spool.write(fh, 0, &text).unwrap();
    m.close(&me(), fh).unwrap();
    let place = || m.rename(&me(), (Hold, "new"), (Hold, "a.json"), PLAIN);
    for _ in 0..2 {
        assert_eq!(errno(place()), ESTALE);
        assert_eq!(errno(place()), ESTALE);
    }
    assert_eq!(m.errors().lines().count(), 2, "a person tried twice");
}

#[test]
fn every_kind_of_operation_tells() {
    let m = mounted_with(|options| options.no_delete = true);
    m.put("a", Hold);
    let renamed = m.rename(&me(), (Hold, "a.json"), (Hold, "b.json"), PLAIN);
    assert_eq!(errno(renamed), EPERM);
    let renamed = m.rename(&me(), (Active, "a.json"), (Hold, "a.json"), PLAIN);
    assert_eq!(errno(renamed), ENOENT);
    assert_eq!(errno(m.unlink(&me(), Hold, "a.json")), EPERM);
    assert_eq!(
        m.spool.refuse_mkdir(&me(), ROOT, OsStr::new("new")).errno,
        EPERM
    );
    let lines = m.errors();
    let starts: Vec<&str> = lines
        .lines()
        .map(|line| line.split(':').next().unwrap())
        .collect();
    assert_eq!(
        starts,
        [
            "rename hold/a.json -> hold/b.json EPERM",
            "rename active/a.json -> hold/a.json ENOENT",
            "unlink hold/a.json EPERM",
            "mkdir new EPERM"
        ]
    );
}

#[test]
fn a_committed_change_is_never_called_unchanged() {
    use retryspoolfs::Error;
    use retryspoolfs::spool::{Errno, Waiting, refusal};
    let refused = |error| refusal(error, Waiting::Alone);
    let durable = refused(Error::Durability("fsync failed".into()));
    assert!(durable.errno == Errno::EIO && !durable.hint.is_empty());
    assert!(!refused(Error::Unavailable("gone".into())).hint.is_empty());
}

#[test]
fn it_is_read_from_its_beginning_its_end_and_on() {
    let m = mounted();
    let (ino, size) = {
        let control = m.spool.lookup(&me(), ROOT, OsStr::new(".retryspool"));
        let control = control.unwrap().ino;
        let attr = m.spool.lookup(&me(), control, OsStr::new("errors"));
        let attr = attr.unwrap();
        assert_eq!((attr.mode, attr.uid, attr.gid), (0o600, 0, 0));
        (attr.ino, attr.size)
    };
    assert_eq!(size, 0);
    let fh = m.spool.open(&me(), ino, READ).unwrap();
    assert_eq!(m.spool.read(fh, 0, 100).unwrap(), b"");
    for n in 0..1005 {
        let gone = m.unlink(&me(), Hold, &format!("{n}.json"));
        assert_eq!(errno(gone), ENOENT);
    }
    let text = m.errors();
    assert_eq!(text.lines().count(), 1000);
    assert!(text.starts_with("unlink hold/5.json ENOENT: "));
    let size = m.spool.getattr(&me(), ino, None).unwrap().size;
    assert!(size > text.len() as u64, "all bytes ever published");
    // As `tail -f` from the end: nothing yet, then the new line alone.
    let tail = m.spool.open(&me(), ino, READ).unwrap();
    assert_eq!(m.spool.read(tail, size, 100).unwrap(), b"");
    assert_eq!(errno(m.unlink(&me(), Hold, "last.json")), ENOENT);
    let line = m.spool.read(tail, size, 100).unwrap();
    assert!(line.starts_with(b"unlink hold/last.json"));
    for fh in [fh, tail] {
        m.spool.release(fh);
    }
    assert_eq!(errno(m.spool.open(&me(), ino, WRITE)), EPERM);
}
