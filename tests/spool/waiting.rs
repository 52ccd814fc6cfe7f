//! Deadlines: how long an operation waits for a busy store, and what nobody has to wait for.

use std::time::{Duration, Instant};

use super::common::*;
use retryspoolfs::spool::Errno::{EBUSY, ENOENT};

#[test]
fn under_a_directorys_lock_a_busy_store_is_waited_for_shortly() {
    let m = mounted_with(|options| options.busy_timeout = Duration::from_millis(50));
    m.put("a", Hold);
    let fh = m.create(&me(), Hold, "new", EXCLUSIVE).unwrap();
    m.spool.write(fh, 0, new_document("b").as_bytes()).unwrap();
    m.close(&me(), fh).unwrap();
    let conn = m.sql();
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    let start = Instant::now();
    let moved = || m.rename(&me(), (Hold, "a.json"), (Active, "a.json"), PLAIN);
    assert_eq!(errno(moved()), EBUSY);
    assert_eq!(errno(m.unlink(&me(), Hold, "a.json")), EBUSY);
    let placed = || m.rename(&me(), (Hold, "new"), (Hold, "b.json"), PLAIN);
    assert_eq!(errno(placed()), EBUSY);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(
        m.errors()
            .contains("another program writes the spool; try again")
    );
    // What does not write does not wait.
    assert!(m.sees(&me(), Hold, "a.json"));
    assert_eq!(m.list(Hold), ["a.json"]);
    let fh = m.create(&me(), Hold, "c.json", EXCLUSIVE).unwrap();
    m.spool.release(fh);
    conn.execute_batch("ROLLBACK").unwrap();
    moved().unwrap();
    placed().unwrap();
}

/// A close waits for a busy store; meanwhile everything else goes on, reads of other handles of
/// the same file included.
#[test]
fn while_a_close_waits_others_do_not() {
    let m = mounted();
    m.put("a", Hold);
    let conn = m.sql();
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    let fh = m.open(&me(), Hold, "a.json", TRUNCATE).unwrap();
    m.spool.write(fh, 0, new_document("a").as_bytes()).unwrap();
    let reader = m.open(&me(), Hold, "a.json", READ).unwrap();
    std::thread::scope(|scope| {
        let close = scope.spawn(|| m.spool.flush(&me(), fh));
        for _ in 0..50 {
            assert!(m.sees(&me(), Hold, "a.json"));
            assert!(m.spool.read(reader, 0, 4096).is_ok());
            assert_eq!(m.list(Hold), ["a.json"]);
            assert_eq!(errno(m.unlink(&me(), Deferred, "~")), ENOENT);
        }
        assert!(!close.is_finished());
        conn.execute_batch("ROLLBACK").unwrap();
        close.join().unwrap().unwrap();
    });
    assert_eq!(m.stored("a").unwrap().priority, 7);
    m.spool.release(fh);
    m.spool.release(reader);
}
