//! What a kernel remembers, and what it is told to forget: against a kernel that remembers
//! whatever it may, for ever.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use retryspoolfs::QueueState;
use retryspoolfs::backend::sqlite::schema;
use retryspoolfs::spool::{Attr, Follower, Invalidator, UNTOLD, VALID, Validity, number_of};

use super::common::*;

const LONG: Validity = Validity {
    names: VALID,
    attributes: VALID,
};

/// A kernel's memory. Of the real one's own defences it has the one that names rest on: what was
/// asked for before all names were dropped is no name that it remembers.
#[derive(Default)]
struct Memory {
    names: HashMap<(u64, String), u64>,
    attributes: HashMap<u64, Attr>,
    told: HashSet<u64>,
    all_names: usize,
    remembered: usize,
}

#[derive(Clone, Default)]
struct Kernel(Arc<Mutex<Memory>>);

impl Kernel {
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.lock().unwrap()
    }
}

impl Invalidator for Kernel {
    fn attributes(&self, ino: u64) {
        let mut memory = self.memory();
        memory.attributes.remove(&ino);
        memory.told.insert(ino);
    }

    fn all_names(&self) {
        let mut memory = self.memory();
        memory.names.clear();
        memory.all_names += 1;
    }
}

/// A reply on its way to the kernel.
struct Reply {
    name: Option<(u64, String)>,
    attr: Attr,
    /// How often all names had been dropped when it was asked for.
    epoch: usize,
}

impl Reply {
    fn arrive(self, kernel: &Kernel) {
        let mut memory = kernel.memory();
        if self.attr.validity.attributes > Duration::ZERO {
            memory.attributes.insert(self.attr.ino, self.attr);
            memory.remembered += 1;
        }
        if let Some(name) = self.name
            && self.attr.validity.names > Duration::ZERO
            && self.epoch == memory.all_names
        {
            memory.names.insert(name, self.attr.ino);
        }
    }
}

struct Watched {
    m: Mounted,
    kernel: Kernel,
    follower: Mutex<Follower>,
}

fn watched() -> Watched {
    let m = mounted();
    let kernel = Kernel::default();
    m.spool.set_validity(LONG);
    m.spool.set_invalidator(Box::new(kernel.clone()));
    let mut follower = Follower::default();
    m.spool.follow(&mut follower, Duration::ZERO).unwrap();
    Watched {
        m,
        kernel,
        follower: Mutex::new(follower),
    }
}

impl Watched {
    fn follow(&self) {
        let mut follower = self.follower.lock().unwrap();
        let followed = self.m.spool.follow(&mut follower, Duration::ZERO);
        followed.unwrap();
    }

    /// Follows until all was said.
    fn settle(&self) {
        self.follow();
        while !self.follower.lock().unwrap().is_done() {
            self.follow();
        }
    }

    fn lookup(&self, state: QueueState, name: &str) -> Option<Reply> {
        let epoch = self.kernel.memory().all_names;
        let attr = self.m.lookup(&me(), state, name).ok()?;
        let name = Some((dir_of(state), name.to_owned()));
        Some(Reply { name, attr, epoch })
    }

    fn getattr(&self, ino: u64) -> Option<Reply> {
        let attr = self.m.spool.getattr(&me(), ino, None).ok()?;
        Some(Reply {
            name: None,
            attr,
            epoch: 0,
        })
    }

    fn list(&self, state: QueueState) -> Vec<Reply> {
        let epoch = self.kernel.memory().all_names;
        let fh = self.m.spool.opendir(dir_of(state)).unwrap();
        let mut replies = Vec::new();
        let mut sink = |entry: &retryspoolfs::spool::DirEntry| {
            let name = entry.name.to_str().unwrap().to_owned();
            if name.ends_with(".json") {
                let name = Some((dir_of(state), name));
                let attr = entry.attr.unwrap();
                replies.push(Reply { name, attr, epoch });
            }
            true
        };
        self.m.spool.readdir(fh, 0, true, &mut sink).unwrap();
        self.m.spool.releasedir(fh);
        replies
    }

    /// Whatever the kernel remembers is right.
    #[track_caller]
    fn assert_true(&self) {
        let memory = self.kernel.memory();
        for ((dir, name), ino) in &memory.names {
            let found = self.m.spool.lookup(&me(), *dir, OsStr::new(name));
            let found = found.map(|attr| attr.ino);
            assert_eq!(found.as_ref(), Ok(ino), "{name} in {dir}");
        }
        for (ino, attr) in &memory.attributes {
            let now = self.m.spool.getattr(&me(), *ino, None);
            let now = now.map(|now| (now.size, now.mtime, now.atime));
            assert_eq!(now, Ok((attr.size, attr.mtime, attr.atime)), "{ino}");
        }
    }
}

#[test]
fn what_another_changes_is_forgotten() {
    let w = watched();
    w.m.put("a", Deferred);
    w.m.put("b", Deferred);
    w.settle();
    for reply in w.list(Deferred) {
        reply.arrive(&w.kernel);
    }
    let b = w.lookup(Deferred, "b.json").unwrap();
    let ino = b.attr.ino;
    assert_eq!(b.attr.validity, LONG);
    b.arrive(&w.kernel);
    for state in [Deferred, Hold, Active] {
        w.getattr(dir_of(state)).unwrap().arrive(&w.kernel);
    }
    w.m.shift("a", Deferred, Hold);
    w.follow();
    let memory = w.kernel.memory();
    assert_eq!(memory.names.len(), 0);
    let mut known: Vec<_> = memory.attributes.keys().copied().collect();
    known.sort();
    assert_eq!(known, [dir_of(Active), ino]);
    drop(memory);
    w.assert_true();
    // A message that stays in its directory leaves the names alone.
    w.settle();
    let dropped = w.kernel.memory().all_names;
    w.m.change("b");
    w.settle();
    assert_eq!(w.kernel.memory().all_names, dropped);
    // So does one that the kernel itself moved.
    w.m.rename(&me(), (Deferred, "b.json"), (Hold, "b.json"), PLAIN)
        .unwrap();
    w.settle();
    assert_eq!(w.kernel.memory().all_names, dropped);
}

/// Who looks at what nobody changes goes on asking for nothing while others' messages are moved, as
/// long as nobody looks at these.
#[test]
fn names_outlive_the_moves_of_messages_that_nobody_looks_at() {
    let w = watched();
    for name in ["a", "b", "c"] {
        w.m.put(name, Deferred);
    }
    w.settle();
    let names = || w.kernel.memory().names.len();
    let drops = || w.kernel.memory().all_names;
    let look = |state, name| w.lookup(state, name).unwrap().arrive(&w.kernel);
    look(Deferred, "a.json");
    w.m.shift("b", Deferred, Hold);
    w.m.store.remove(&ctx(), &id("c"), Deferred, None).unwrap();
    w.settle();
    assert_eq!((names(), drops()), (1, 0));
    // A name that was given is taken away, once: as long as it is not given again.
    look(Hold, "b.json");
    w.m.shift("b", Hold, Active);
    w.settle();
    assert_eq!((names(), drops()), (0, 1));
    look(Deferred, "a.json");
    w.m.shift("b", Active, Hold);
    w.settle();
    assert_eq!((names(), drops()), (1, 1));
    for state in [Deferred, Hold] {
        let listed = w.list(state).into_iter();
        listed.for_each(|reply| reply.arrive(&w.kernel));
    }
    assert_eq!(names(), 2);
    w.m.shift("b", Hold, Active);
    w.settle();
    assert_eq!((names(), drops()), (0, 2));
    w.assert_true();
}

/// The word of a change comes while the reply is made: nothing of it may be remembered.
#[test]
fn what_was_read_before_a_word_is_not_remembered_after_it() {
    type Operation = fn(&Watched) -> Vec<Reply>;
    let operations: [(&str, Operation); 4] = [
        ("get", |w| {
            w.lookup(Deferred, "a.json").into_iter().collect()
        }),
        ("get", |w| {
            let reply = w.getattr(number_of(&id("a")));
            reply.into_iter().collect()
        }),
        ("state_info", |w| {
            w.getattr(dir_of(Deferred)).into_iter().collect()
        }),
        ("scan_stored", |w| w.list(Deferred)),
    ];
    for (nth, (call, operation)) in operations.into_iter().enumerate() {
        let w = watched();
        w.m.put("a", Deferred);
        w.lookup(Deferred, "a.json").unwrap();
        w.settle();
        let (read, was_read) = channel();
        let (go, gone) = channel::<()>();
        let gone = Mutex::new(gone);
        let hook = move || {
            read.send(()).unwrap();
            gone.lock().unwrap().recv().unwrap();
        };
        w.m.steps.afterwards(call, Box::new(hook));
        let replies = thread::scope(|scope| {
            let operates = scope.spawn(|| operation(&w));
            was_read.recv().unwrap();
            w.m.change("a");
            w.follow();
            go.send(()).unwrap();
            operates.join().unwrap()
        });
        assert_eq!(replies.len(), 1, "operation {nth}");
        let remembered = replies[0].attr.validity.attributes;
        assert_eq!(remembered, Duration::ZERO, "operation {nth}");
    }
}

/// Replies may arrive after the word of what changed since they were read, and before it is given
/// again. Whatever the order of it all, in the end nothing wrong is remembered.
#[test]
fn no_reply_outlives_the_word_of_its_change() {
    let w = watched();
    let mut random = 20_261_124_u64;
    let mut below = |n: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005);
        random = random.wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % n
    };
    let states = [Incoming, Deferred, Hold];
    for _ in 0..25 {
        let mut on_their_way: Vec<Reply> = Vec::new();
        for _ in 0..40 {
            let name = format!("m{}", below(4));
            let file = format!("{name}.json");
            let state = states[below(3)];
            match below(9) {
                0 | 1 => on_their_way.extend(w.lookup(state, &file)),
                2 => on_their_way.extend(w.getattr(number_of(&id(&name)))),
                3 => on_their_way.extend(w.list(state)),
                4 => on_their_way.extend(w.getattr(dir_of(state))),
                5 => match w.m.state(&name) {
                    Some(now) if now == state => {
                        w.m.store.remove(&ctx(), &id(&name), now, None).unwrap();
                    }
                    Some(now) => w.m.shift(&name, now, state),
                    None => drop(w.m.put(&name, state)),
                },
                6 if w.m.state(&name).is_some() => drop(w.m.change(&name)),
                7 if !on_their_way.is_empty() => {
                    let reply = on_their_way.swap_remove(below(on_their_way.len()));
                    reply.arrive(&w.kernel);
                }
                _ => {
                    // What was on its way at a word is there before the word is given again.
                    let late = std::mem::take(&mut on_their_way);
                    w.follow();
                    late.into_iter().for_each(|reply| reply.arrive(&w.kernel));
                }
            }
        }
        w.follow();
        for reply in on_their_way {
            reply.arrive(&w.kernel);
        }
        w.settle();
        w.assert_true();
    }
    let remembered = w.kernel.memory().remembered;
    assert!(remembered > 200, "it remembered {remembered} replies");
}

#[test]
fn after_a_gap_everything_is_forgotten() {
    let w = watched();
    w.m.put("a", Deferred);
    w.settle();
    w.lookup(Deferred, "a.json").unwrap().arrive(&w.kernel);
    schema::append_reset(&w.m.sql()).unwrap();
    w.follow();
    let memory = w.kernel.memory();
    assert!(memory.names.is_empty() && memory.attributes.is_empty());
    assert!((2..7).all(|dir| memory.told.contains(&dir)));
}

/// While the changes can't be followed nothing is remembered for long.
#[test]
fn a_store_that_can_not_be_followed_is_asked_each_time() {
    let w = watched();
    w.m.put("a", Deferred);
    w.settle();
    let reply = w.lookup(Deferred, "a.json").unwrap();
    let ino = reply.attr.ino;
    reply.arrive(&w.kernel);
    let (path, away) = (&w.m.path, w.m.path.with_extension("away"));
    std::fs::rename(path, &away).unwrap();
    let mut follower = w.follower.lock().unwrap();
    // The first look may find the log as it was left.
    while w.m.spool.follow(&mut follower, UNTOLD).is_ok() {}
    assert!(w.kernel.memory().names.is_empty());
    assert!(w.kernel.memory().attributes.is_empty());
    let short = Validity {
        names: Duration::ZERO,
        attributes: UNTOLD,
    };
    assert_eq!(w.m.spool.validity(), short);
    std::fs::rename(&away, path).unwrap();
    w.m.spool.follow(&mut follower, Duration::ZERO).unwrap();
    drop(follower);
    assert_eq!(w.getattr(ino).unwrap().attr.validity, LONG);
}
