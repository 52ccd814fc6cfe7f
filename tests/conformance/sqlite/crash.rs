//! What returned is there after a kill; what was synced is there after a power failure.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use retryspoolfs::QueueState::{Active, Deferred, Hold};
use retryspoolfs::{Backend, QueueState};

use super::support::{assert_exact, connect, open};
use crate::contract::{ctx, id, message};

/// Where the child finds its spool, and the number of its round.
const SPOOL: &str = "RETRYSPOOLFS_TEST_SPOOL";
const ROUND: &str = "RETRYSPOOLFS_TEST_ROUND";

/// Whether the writer goes on to remove this message.
fn is_removed(name: &str) -> bool {
    name.ends_with(['3', '7'])
}

/// The process that is killed: it writes, and reports each write that returned. Without a spool
/// in its environment it is no test.
#[test]
fn writes_until_killed() {
    let (Ok(path), Ok(round)) = (std::env::var(SPOOL), std::env::var(ROUND)) else {
        return;
    };
    let store = open(path.as_ref());
    let report = |name: &str, state: &str| {
        // One write, so that no line is torn; standard output is this process's own pipe.
        let line = format!("\ndid {name} {state}\n");
        std::io::stdout().write_all(line.as_bytes()).unwrap();
        std::io::stdout().flush().unwrap();
    };
    thread::scope(|scope| {
        for writer in 0..3 {
            let (store, report, round) = (&store, &report, &round);
            scope.spawn(move || {
                for n in 0.. {
                    let name = format!("r{round}-w{writer}-{n}");
                    store.insert(&ctx(), &message(&name, Deferred)).unwrap();
                    report(&name, "deferred");
                    store.relocate(&ctx(), &id(&name), Deferred, Hold).unwrap();
                    report(&name, "hold");
                    if is_removed(&name) {
                        store.remove(&ctx(), &id(&name), Hold, None).unwrap();
                        report(&name, "gone");
                    }
                }
            });
        }
    });
}

#[test]
fn nothing_that_returned_is_lost_by_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    // The last that was reported of each message.
    let mut reported: BTreeMap<String, String> = BTreeMap::new();
    for (round, kill_after) in [1, 40, 333, 2, 777].into_iter().enumerate() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "sqlite::crash::writes_until_killed",
                "--nocapture",
            ])
            .env(SPOOL, &path)
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let mut words = line.split(' ');
            if let (Some("did"), Some(name), Some(state), None) =
                (words.next(), words.next(), words.next(), words.next())
            {
                reported.insert(name.into(), state.into());
                lines += 1;
            }
            if lines == kill_after {
                child.kill().unwrap();
            }
        }
        let ended = child.wait().unwrap();
        assert!(
            lines >= kill_after && !ended.success(),
            "round {round}: {lines} writes, {ended}"
        );
        let store = open(&path);
        for (name, state) in &reported {
            let found = store
                .get(&ctx(), &id(name))
                .unwrap()
                .map(|stored| stored.metadata.state);
            // The step after the last reported one may have been made: it had not returned.
            let right = match state.as_str() {
                "deferred" => matches!(found, Some(Deferred | Hold)),
                "hold" => found == Some(Hold) || (found.is_none() && is_removed(name)),
                _ => found.is_none(),
            };
            assert!(right, "round {round}: {name} was {state}, and is {found:?}");
        }
        assert_exact(&store, &path);
        store.close().unwrap();
    }
    let held = reported.values().filter(|state| *state == "hold").count();
    assert!(held > 100, "{held}");
}

/// Blocks of this size reach a disk or do not.
const SECTOR: usize = 512;

/// A disk after a power failure: of what changed since the flush, each sector may or may not
/// have got there.
fn torn(synced: &[u8], written: &[u8], random: &mut u64) -> Vec<u8> {
    let mut disk = written.to_vec();
    for (at, sector) in disk.chunks_mut(SECTOR).enumerate() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let before = synced
            .get(at * SECTOR..(at * SECTOR + sector.len()).min(synced.len()))
            .unwrap_or_default();
        if *random & 64 == 0 {
            sector.fill(0);
            sector[..before.len()].copy_from_slice(before);
        }
    }
    disk
}

#[test]
fn nothing_that_was_synced_is_lost_by_a_power_failure() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let log = directory.path().join("queue.db-wal");
    let store = open(&path);
    let mut random = 0x2545_F491_4F6C_DD1D;
    let mut torn_logs = 0;
    for round in 0..12 {
        let name = |n: u32, kind: &str| format!("r{round}-{kind}{n}");
        for n in 0..15 {
            store
                .insert(&ctx(), &message(&name(n, "kept"), Deferred))
                .unwrap();
            if n % 2 == 0 {
                store
                    .relocate(&ctx(), &id(&name(n, "kept")), Deferred, Hold)
                    .unwrap();
            }
        }
        store.sync(&ctx()).unwrap();
        let synced = (fs::read(&path).unwrap(), fs::read(&log).unwrap());
        for n in 0..15 {
            store
                .insert(&ctx(), &message(&name(n, "late"), Active))
                .unwrap();
        }
        let written = (fs::read(&path).unwrap(), fs::read(&log).unwrap());
        if written.0 != synced.0 {
            // A checkpoint came between; it syncs by itself, when is not known here.
            continue;
        }
        torn_logs += 1;
        let copies = tempfile::tempdir().unwrap();
        let copy = copies.path().join("queue.db");
        fs::write(&copy, &written.0).unwrap();
        fs::write(
            copies.path().join("queue.db-wal"),
            torn(&synced.1, &written.1, &mut random),
        )
        .unwrap();
        check_copy(&copy, round);
    }
    assert!(torn_logs >= 6, "{torn_logs} logs were torn");
}

fn check_copy(copy: &Path, round: u32) {
    let store = open(copy);
    for earlier in 0..=round {
        for n in 0..15 {
            let state = match n % 2 {
                0 => Hold,
                _ => QueueState::Deferred,
            };
            let id = id(&format!("r{earlier}-kept{n}"));
            let found = store
                .get(&ctx(), &id)
                .unwrap()
                .map(|stored| stored.metadata.state);
            assert_eq!(found, Some(state), "{id} in round {round}");
        }
    }
    assert_exact(&store, copy);
    let whole: String = connect(copy)
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(whole, "ok");
}
