//! A store that fails at one step, and locks.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use super::common::*;
use super::steps::Steps;
use retryspoolfs::Error;
use retryspoolfs::spool::Errno::{EIO, ENOENT, ENOSPC, ESTALE, ETIMEDOUT};
use retryspoolfs::spool::{OpenMode, Spool};

fn stepped() -> (Mounted, Arc<Steps>) {
    let m = mounted();
    let steps = m.steps.clone();
    (m, steps)
}

fn full() -> Error {
    Error::StorageFull("the disk is full".into())
}

#[test]
fn what_time_may_heal_is_tried_again_at_the_next_close() {
    let (m, steps) = stepped();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    steps.fail("insert", full());
    assert_eq!(errno(m.spool.fsync(&me(), fh)), ENOSPC);
    steps.fail("insert", Error::Busy("others".into()));
    assert_eq!(errno(m.spool.flush(&me(), fh)), ETIMEDOUT);
    m.close(&me(), fh).unwrap();
    assert!(m.stored("a").is_some());
    assert_eq!(m.errors().lines().count(), 1, "the same bytes");
}

/// Whoever was told that it is not stored must not find it stored.
#[test]
fn the_last_close_does_not_store_what_the_opener_was_refused() {
    let (m, steps) = stepped();
    let fh = m.create(&me(), Hold, "a.json", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    steps.fail("insert", full());
    assert_eq!(errno(m.close(&me(), fh)), ENOSPC);
    assert_eq!(m.stored("a"), None);
    let kept = m.read(&me(), Hold, "a.json.refused").unwrap();
    assert_eq!(kept, new_document("a"));
}

#[test]
fn a_failed_fsync_is_told_and_is_no_lie() {
    let (m, steps) = stepped();
    m.put("a", Hold);
    let durability = || Error::Durability("the disk failed".into());
    let fh = m.open(&me(), Hold, "a.json", TRUNCATE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    steps.fail("sync", durability());
    assert_eq!(errno(m.spool.fsync(&me(), fh)), EIO);
    assert_eq!(m.stored("a").unwrap().priority, 7, "committed");
    m.spool.fsync(&me(), fh).unwrap();
    m.close(&me(), fh).unwrap();
    steps.fail("sync", durability());
    assert_eq!(errno(m.spool.fsyncdir(&me(), dir_of(Hold))), EIO);
    let sync = OpenMode {
        sync: true,
        ..TRUNCATE
    };
    let fh = m.open(&me(), Hold, "a.json", sync).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    steps.fail("sync", durability());
    assert_eq!(errno(m.close(&me(), fh)), EIO);
    let lines = m.errors();
    let starts: Vec<&str> = lines
        .lines()
        .map(|l| l.split(':').next().unwrap())
        .collect();
    assert_eq!(
        starts,
        [
            "fsync hold/a.json EIO",
            "fsync hold/ EIO",
            "close hold/a.json EIO"
        ]
    );
    assert!(!lines.contains("nothing was changed"), "{lines}");
}

/// An editor whose fsync failed for want of room removes what it created, and puts its backup
/// back.
#[test]
fn a_full_disk_does_not_make_an_editor_remove_the_message() {
    let (m, steps) = stepped();
    let before = m.put("a", Hold);
    m.rename(&me(), (Hold, "a.json"), (Hold, "a.json~"), PLAIN)
        .unwrap();
    let fh = m.create(&me(), Hold, "a.json", WRITE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    steps.fail("replace", full());
    steps.fail("replace", full());
    assert_eq!(errno(m.spool.fsync(&me(), fh)), ENOSPC);
    assert_eq!(errno(m.close(&me(), fh)), ENOSPC);
    assert_eq!(errno(m.unlink(&me(), Hold, "a.json")), ENOENT);
    m.rename(&me(), (Hold, "a.json~"), (Hold, "a.json"), PLAIN)
        .unwrap();
    assert_eq!(m.stored("a"), Some(before));
}

#[test]
fn an_operation_that_fails_leaves_no_inode_and_no_handle() {
    let (m, steps) = stepped();
    m.put("a", Hold);
    let gone = || Error::Unavailable("the store went away".into());
    for (call, times) in [("get", 3), ("state_info", 1), ("scan_stored", 1)] {
        for _ in 0..times {
            steps.fail(call, gone());
        }
    }
    assert_eq!(errno(m.create(&me(), Hold, "b.json", EXCLUSIVE)), EIO);
    assert_eq!(errno(m.lookup(&me(), Hold, "a.json")), EIO);
    let copied = m.rename(&me(), (Hold, "a.json"), (Hold, "a.json~"), PLAIN);
    assert_eq!(errno(copied), EIO);
    assert!(!m.sees(&me(), Hold, "a.json~"));
    assert_eq!(errno(m.spool.getattr(&me(), dir_of(Hold), None)), EIO);
    let fh = m.spool.opendir(dir_of(Hold)).unwrap();
    let read = m.spool.readdir(fh, 2, true, &mut |_| true);
    assert_eq!(errno(read), EIO);
    m.spool.readdir(fh, 2, true, &mut |_| false).unwrap();
    m.spool.releasedir(fh);
    assert_eq!(m.spool.inode_count(), 0);
    // A lookup between two failures is as good as any.
    assert!(m.sees(&me(), Hold, "a.json"));
    assert_eq!(errno(m.unlink(&me(), Deferred, "a.json")), ENOENT);
    let stale = m.open(&me(), Hold, "a.json", WRITE).unwrap();
    m.spool
        .write(stale, 0, new_document("a").as_bytes())
        .unwrap();
    m.change("a");
    m.spool
        .truncate(&me(), 0, Some(stale), new_document("a").len() as u64)
        .unwrap();
    assert_eq!(errno(m.close(&me(), stale)), ESTALE);
    assert_eq!(m.spool.inode_count(), 0);
}

/// In the middle of each call of the store another thread does everything that an operation
/// can do to other files. A lock that was held across the call would stop it.
#[test]
fn no_lock_is_held_across_a_call_of_the_store() {
    static SPOOL: OnceLock<Arc<Spool>> = OnceLock::new();
    let (m, steps) = stepped();
    m.put("a", Hold);
    m.put("b", Hold);
    let Mounted {
        spool, ref store, ..
    } = m;
    let spool = SPOOL.get_or_init(|| Arc::new(spool));
    let inside = AtomicBool::new(false);
    steps.meanwhile(Box::new(move || {
        // Not in the calls that are made here.
        if inside.swap(true, Ordering::SeqCst) {
            return;
        }
        let (done, waits) = mpsc::channel();
        let spool = SPOOL.get().unwrap();
        std::thread::spawn(move || {
            others(spool);
            let _ = done.send(());
        });
        let ended = waits.recv_timeout(Duration::from_secs(20));
        inside.store(false, Ordering::SeqCst);
        assert!(ended.is_ok(), "a lock was held");
    }));
    let name = OsStr::new;
    let hold = dir_of(Hold);
    let attr = spool.lookup(&me(), hold, name("a.json")).unwrap();
    spool.getattr(&me(), attr.ino, None).unwrap();
    spool
        .getxattr(attr.ino, name("user.retryspool.id"))
        .unwrap();
    let dir = spool.opendir(hold).unwrap();
    spool
        .readdir(dir, 0, true, &mut |entry| {
            spool.forget(entry.ino, u64::from(entry.offset > 2));
            true
        })
        .unwrap();
    spool.readdir(dir, 0, false, &mut |_| true).unwrap();
    let (a, aside) = ((hold, name("a.json")), (hold, name("a.json~")));
    spool.rename(&me(), a, aside, PLAIN).unwrap();
    let (made, fh) = spool.create(&me(), hold, name("a.json"), WRITE).unwrap();
    spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    spool.flush(&me(), fh).unwrap();
    spool.fsync(&me(), fh).unwrap();
    spool.release(fh);
    spool.forget(made.ino, 1);
    spool
        .rename(&me(), aside, (hold, name("new")), PLAIN)
        .unwrap();
    let placed = spool.rename(&me(), (hold, name("new")), a, PLAIN);
    assert!(placed.is_ok() || errno(placed) == ESTALE);
    let moved = (dir_of(Active), name("a.json"));
    spool.rename(&me(), a, moved, PLAIN).unwrap();
    spool.setattr(&me(), attr.ino, None, Some(0)).unwrap_err();
    spool.unlink(&me(), moved.0, moved.1).unwrap();
    spool.tidy();
    spool.forget(attr.ino, 1);
    assert!(store.get(&ctx(), &id("a")).unwrap().is_none());
}

fn others(spool: &Spool) {
    let name = OsStr::new;
    let hold = dir_of(Hold);
    let attr = spool.lookup(&me(), hold, name("b.json")).unwrap();
    let fh = spool.open(&me(), attr.ino, WRITE).unwrap();
    spool.write(fh, 0, b"x").unwrap();
    spool.flush(&me(), fh).unwrap_err();
    spool.release(fh);
    spool.forget(attr.ino, 1);
    list(spool, hold);
    list(spool, 10 + 3);
    let (made, fh) = spool.create(&me(), hold, name("b~"), WRITE).unwrap();
    spool.write(fh, 0, b"x").unwrap();
    spool.release(fh);
    spool.forget(made.ino, 1);
    let to = (hold, name("c~"));
    spool.rename(&me(), (hold, name("b~")), to, PLAIN).unwrap();
    spool
        .rename(&me(), (hold, name("b.json")), to, PLAIN)
        .unwrap();
    spool
        .rename(&me(), to, (hold, name("b.json")), PLAIN)
        .unwrap();
    spool.unlink(&me(), hold, name("nobody.json")).unwrap_err();
    spool.fsyncdir(&me(), hold).unwrap();
    spool.usage().unwrap();
}
