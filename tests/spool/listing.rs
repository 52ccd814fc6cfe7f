//! Listings: offsets, kinds of request, and what comes and goes meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use super::common::*;
use retryspoolfs::spool::Errno;

/// Many messages, stored by one statement as RetrySpool's own store would.
fn fill(m: &Mounted, names: impl Iterator<Item = String>) {
    let mut conn = m.sql();
    let transaction = conn.transaction().unwrap();
    for name in names {
        insert(&transaction, &name, 3);
    }
    transaction.commit().unwrap();
}

fn insert(conn: &rusqlite::Connection, name: &str, state: i64) {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO messages (id, state, attempts, max_attempts, next_retry, created, \
         updated, last_error, size, priority, headers, retry_policy_name) \
         VALUES (?1, ?2, 0, 3, -62135596800, 1750000000, 1750000000, '', 0, 5, '{}', '')",
    )
    .unwrap()
    .execute((name, state))
    .unwrap();
}

/// A reader of an open directory, as the kernel is one.
struct Reader<'a> {
    m: &'a Mounted,
    fh: u64,
    offset: u64,
}

impl Reader<'_> {
    fn new(m: &Mounted) -> Reader<'_> {
        let fh = m.spool.opendir(dir_of(Hold)).unwrap();
        Reader { m, fh, offset: 0 }
    }

    /// At most `room` entries from the offset on, with theirs.
    fn read(&mut self, room: usize, plus: bool) -> Vec<(u64, String)> {
        let mut entries = Vec::new();
        let mut known = Vec::new();
        let read = self
            .m
            .spool
            .readdir(self.fh, self.offset, plus, &mut |entry| {
                if entries.len() == room {
                    return false;
                }
                assert_eq!(entry.attr.is_some(), plus);
                let name = entry.name.to_str().unwrap().to_owned();
                if plus && !name.starts_with('.') {
                    assert_eq!(entry.attr.unwrap().ino, entry.ino);
                    known.push(entry.ino);
                }
                entries.push((entry.offset, name));
                true
            });
        read.unwrap();
        // Each entry with attributes counts one lookup, the one without room none.
        for ino in known {
            self.m.spool.forget(ino, 1);
        }
        assert_eq!(self.m.spool.inode_count(), 0);
        if let Some((offset, _)) = entries.last() {
            self.offset = *offset;
        }
        entries
    }

    fn rest(&mut self, room: usize, plus: bool) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        loop {
            let part = self.read(room, plus);
            if part.is_empty() {
                return all;
            }
            all.extend(part);
        }
    }
}

/// Runs a test as it is, and where a thread reads ahead, as in a mount.
fn with_and_without_reading_ahead(test: fn(&Mounted)) {
    test(&mounted());
    let m = mounted();
    let going = AtomicBool::new(true);
    thread::scope(|scope| {
        let reads = scope.spawn(|| m.spool.read_ahead(&|| going.load(Relaxed)));
        struct End<'a>(&'a AtomicBool, thread::Thread);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(false, Relaxed);
                self.1.unpark();
            }
        }
        let _end = End(&going, reads.thread().clone());
        test(&m);
    });
}

fn name(n: usize) -> String {
    format!("msg-{n:05}")
}

fn file(n: usize) -> String {
    format!("msg-{n:05}.json")
}

#[test]
fn all_of_them_once_and_in_order_however_they_are_asked_for() {
    with_and_without_reading_ahead(|m| {
        fill(m, (0..5000).map(name));
        let expected: Vec<String> = [".", ".."]
            .map(String::from)
            .into_iter()
            .chain((0..5000).map(file))
            .collect();
        for (room, kind) in [(usize::MAX, 0), (77, 1), (1000, 2), (1, 2)] {
            let mut reader = Reader::new(m);
            let mut all = Vec::new();
            for turn in 0.. {
                let plus = kind == 1 || kind == 2 && turn % 3 == 1;
                let part = reader.read(room, plus);
                if part.is_empty() {
                    break;
                }
                all.extend(part);
            }
            let offsets: BTreeSet<u64> = all.iter().map(|(offset, _)| *offset).collect();
            assert_eq!(offsets.len(), all.len());
            assert!(!offsets.contains(&0));
            let names: Vec<String> = all.into_iter().map(|(_, name)| name).collect();
            assert_eq!(names, expected);
            m.spool.releasedir(reader.fh);
        }
    });
}

#[test]
fn going_back_to_any_offset_gives_what_followed_it() {
    with_and_without_reading_ahead(|m| {
        fill(m, (0..9000).map(name));
        let mut reader = Reader::new(m);
        let all = reader.rest(500, false);
        for at in [8999, 1, 4000, 0, 8998, 5000, 1023, 1025, 6, 9001] {
            reader.offset = all[at].0;
            let following: Vec<_> = all[at + 1..].iter().take(40).cloned().collect();
            assert_eq!(reader.read(40, at % 2 == 0), following, "after {at}");
        }
    });
}

/// 6,000 messages; others come, go and move away and back while a reader jumps about.
#[test]
fn who_stays_is_given_once_whatever_happens_meanwhile() {
    with_and_without_reading_ahead(|m| {
        fill(m, (0..6000).map(|n| name(10 * n)));
        let conn = m.sql();
        let stays = |n: usize| n % 7 != 3;
        let mut reader = Reader::new(m);
        // What each offset was given for, and the messages of a run from the start to the end.
        let mut given: BTreeMap<u64, String> = BTreeMap::new();
        let mut run: Vec<(u64, String)> = Vec::new();
        let mut turn = 0;
        let mut jumps = [4700u64, 130, 5500, 2, 1100].into_iter();
        loop {
            turn += 1;
            let part = reader.read(150, turn % 4 == 0);
            let Some(last) = part.last().cloned() else {
                break;
            };
            for (offset, name) in part {
                let before = given.insert(offset, name.clone());
                assert!(before.is_none_or(|before| before == name), "{offset}");
                run.push((offset, name));
            }
            // In front of the reader, behind it, and just where it is.
            let here: usize = last.1[4..9].parse().unwrap_or(0);
            for near in [here.saturating_sub(700), here, here + 40, here + 9000] {
                insert(&conn, &name(near - near % 10 + 5), 3);
                let gone = near - near % 10;
                if !stays(gone / 10) {
                    let sql = match turn % 3 {
                        0 => "DELETE FROM messages WHERE id = ?1",
                        1 => "UPDATE messages SET state = 2 WHERE id = ?1",
                        _ => "UPDATE messages SET state = 3 WHERE id = ?1",
                    };
                    conn.execute(sql, [name(gone)]).unwrap();
                }
            }
            // Now and then far back: what was given after that offset is taken back.
            if turn % 11 == 0
                && let Some(back) = jumps.next().filter(|back| given.contains_key(back))
            {
                reader.offset = back;
                let at = run.iter().position(|(offset, _)| *offset == back).unwrap();
                run.truncate(at + 1);
            }
        }
        let names: Vec<&String> = run.iter().map(|(_, name)| name).collect();
        let unique: BTreeSet<&String> = names.iter().copied().collect();
        assert_eq!(unique.len(), names.len(), "none twice");
        for n in (0..6000).filter(|n| stays(*n)) {
            assert!(unique.contains(&file(10 * n)), "{}", file(10 * n));
        }
        assert!(jumps.next().is_none(), "the reader went back");
        m.assert_counts_agree();
    });
}

#[test]
fn from_the_beginning_again_shows_what_is_there_now() {
    let m = mounted();
    fill(&m, (0..10).map(name));
    let mut reader = Reader::new(&m);
    assert_eq!(reader.rest(4, false).len(), 12);
    fill(&m, (5..20).map(name));
    assert!(reader.read(4, false).is_empty(), "the end stays the end");
    reader.offset = 0;
    assert_eq!(reader.rest(4, true).len(), 22);
}

/// A reply that fails is lost whole, and with it the lookups that it counted.
#[test]
fn a_listing_that_fails_in_the_middle_counts_no_lookup_in_vain() {
    let m = mounted();
    fill(&m, (0..300).map(name));
    let fh = m.spool.opendir(dir_of(Hold)).unwrap();
    let mut given = Vec::new();
    let read = m.spool.readdir(fh, 2, true, &mut |entry| {
        given.push(entry.ino);
        // The store goes away in the middle of the first batch.
        if given.len() == 50 {
            m.sql()
                .execute_batch("ALTER TABLE rs_message RENAME TO away")
                .unwrap();
        }
        true
    });
    read.unwrap();
    assert_eq!(m.spool.inode_count(), given.len());
    let next = m
        .spool
        .readdir(fh, 2 + given.len() as u64, true, &mut |_| true);
    assert_eq!(errno(next), Errno::EIO);
    for ino in given {
        m.spool.forget(ino, 1);
    }
    assert_eq!(m.spool.inode_count(), 0);
}

#[test]
fn the_fixed_directories_list_what_is_in_them() {
    let m = mounted();
    let states = ["incoming", "active", "deferred", "hold", "bounce"];
    assert_eq!(list(&m.spool, ROOT), states);
    let control = ["errors", "events", "metrics", "scratch", "status"];
    assert_eq!(list(&m.spool, 8), control);
    assert_eq!(list(&m.spool, 9), states);
    let spool = again(&m, |options| options.archived = true);
    assert_eq!(list(&spool, ROOT).last().unwrap(), "archived");
}
