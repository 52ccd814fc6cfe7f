//! A power failure, as far as a filesystem can be made to believe in one: at once it writes nothing
//! more, neither what it holds nor its journal, and what was on its disk is what there is.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use retryspoolfs::QueueState::{Deferred, Hold};
use retryspoolfs::backend::dir::DirFactory;
use retryspoolfs::{Backend, MessageMetadata, QueueState, document};

use crate::contract::{ctx, id, message};

/// A filesystem with a journal, in a file.
struct Disk {
    directory: tempfile::TempDir,
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|e| panic!("this test needs {program}: {e}"));
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{program} {arguments:?}; this test must run as root and needs loop devices: {why}"
    );
}

impl Disk {
    fn new() -> Disk {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk { directory };
        fs::create_dir(disk.path()).unwrap();
        let image = File::create(disk.image()).unwrap();
        image.set_len(32 << 20).unwrap();
        run("mkfs.ext4", &["-q", disk.image().to_str().unwrap()]);
        disk.mount();
        disk
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    fn mount(&self) {
        let (image, path) = (self.image(), self.path());
        let [image, path] = [&image, &path].map(|path| path.to_str().unwrap());
        run("mount", &["-o", "loop", image, path]);
    }

    /// Once nobody else, who starts a program just now, holds one of our files for a moment.
    fn unmount(&self) {
        let start = Instant::now();
        while !Command::new("umount")
            .arg(self.path())
            .output()
            .is_ok_and(|done| done.status.success())
        {
            assert!(start.elapsed() < Duration::from_secs(30), "never unmounted");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn fail(&self) {
        // EXT4_IOC_SHUTDOWN, which XFS has too, and not to write its log.
        const SHUTDOWN: libc::c_ulong = 0x8004_587d;
        let root = File::open(self.path()).unwrap();
        let how: u32 = 2;
        // SAFETY: it reads one u32 at that address.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN as _, &raw const how) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It is mounted only where the test has failed, or at its end.
        let _ = Command::new("umount").arg(self.path()).output();
    }
}

/// What the directories hold of a message: each file's state, and the message in it.
fn files(path: &Path, name: &str) -> Vec<(QueueState, MessageMetadata, bool)> {
    let read = |state: QueueState| {
        let file = path.join(state.as_str()).join(format!("{name}.json"));
        let kept = document::read_kept(&fs::read(file).ok()?, &id(name), state);
        let kept = kept.unwrap_or_else(|why| panic!("{name} in {state}: {why}"));
        Some((state, kept.metadata, kept.names_its_state))
    };
    QueueState::ALL.into_iter().filter_map(read).collect()
}

#[test]
fn what_returned_is_there_after_a_power_failure_and_nothing_is_lost() {
    const MESSAGES: usize = 12;
    const THREADS: usize = 3;
    let disk = Disk::new();
    let path = disk.path().join("meta");
    let name = |n: usize| format!("m{n}");
    let store = DirFactory::create_if_missing(&path).open().unwrap();
    for n in 0..MESSAGES {
        store.insert(&ctx(), &message(&name(n), Hold)).unwrap();
    }
    drop(store);
    for failure in 0..8 {
        let store = DirFactory::new(&path).open().unwrap();
        // Each message as its last change that returned left it.
        let returned: Vec<_> = (0..MESSAGES)
            .map(|n| {
                let stored = store.get(&ctx(), &id(&name(n))).unwrap().unwrap();
                Mutex::new(stored.metadata)
            })
            .collect();
        let changes = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (store, changes, returned) = (&store, &changes, &returned);
                scope.spawn(move || {
                    for turn in 0.. {
                        let n = (turn * THREADS + thread) % MESSAGES;
                        let mut last = returned[n].lock().unwrap();
                        let from = last.state;
                        let to = if from == Hold { Deferred } else { Hold };
                        let changed = match turn % 5 {
                            0 => store
                                .update_meta(
                                    &ctx(),
                                    &last.id,
                                    &MessageMetadata {
                                        attempts: last.attempts + 1,
                                        ..last.clone()
                                    },
                                )
                                .map(|()| None),
                            _ => store.relocate(&ctx(), &last.id, from, to).map(Some),
                        };
                        match changed {
                            Ok(Some(revision)) => {
                                (last.state, last.updated) = (to, revision.updated);
                            }
                            Ok(None) => last.attempts += 1,
                            Err(_) => return,
                        }
                        changes.fetch_add(1, Relaxed);
                    }
                });
            }
            while changes.load(Relaxed) < 30 + failure * 7 {
                std::thread::sleep(Duration::from_micros(100));
            }
            disk.fail();
        });
        drop(store);
        disk.unmount();
        disk.mount();
        let mut under_way = 0;
        for (n, last) in returned.iter().enumerate() {
            let found = files(&path, &name(n));
            let [(state, now, names_its_state)] = &found[..] else {
                panic!("{} is in {} states: {found:?}", name(n), found.len());
            };
            let last = last.lock().unwrap();
            let is_later = now.updated >= last.updated && now.attempts >= last.attempts;
            assert!(is_later, "{last:?}: {found:?}");
            let is_last = (*state, now.attempts) == (last.state, last.attempts);
            under_way += usize::from(!is_last || !names_its_state);
        }
        // What has not returned may be done, or half of it: one change of each thread.
        assert!(under_way <= THREADS, "{under_way}");
        let store = DirFactory::new(&path).open().unwrap();
        let listed: BTreeSet<_> = [Hold, Deferred]
            .into_iter()
            .flat_map(|state| store.scan(&ctx(), state, None, 99).unwrap())
            .collect();
        assert_eq!(listed.len(), MESSAGES);
        let start = Instant::now();
        while (0..MESSAGES).any(|n| files(&path, &name(n)).iter().any(|(.., named)| !named)) {
            assert!(start.elapsed() < Duration::from_secs(30), "never mended");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    disk.unmount();
}
