//! What other processes do in the directory: noticed, understood, put right.
//!
//! Owns: inotify's queue, or a look once a second where there is none; what is doubtful and until
//! when (a message in two states, a document that names another state, a file that is no message
//! yet or never).
//! May fail: with [`Error`] when the directory can't be read.
//! Must not know: who reads the feed.
//!
//! An event tells only that there is something to see under a name. What there is, is seen by
//! looking ([`find`](super::find)), so events may be merged, late or doubled.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::Directory;
use super::file::{self, Look, mark};
use super::find::{everywhere, stats};
use super::index::{Entry, Index};
use super::names::{names, plain, times};
use super::place::{StateDir, failed};
use super::settle::GRACE;
use crate::backend::{Context, Error, Result};
use crate::model::{MessageId, PlainName, QueueState, Timestamp};

/// How often the directories are looked at where nothing tells of changes.
const LOOK: Duration = Duration::from_secs(1);
/// How long a file may be no message before that is told: it may be half-written.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one name may be kept from being looked at by a writer of this process.
const BLOCKED: Duration = Duration::from_millis(100);
/// How often what is doubtful is looked at.
const TIDY: Duration = Duration::from_millis(100);

/// What the watcher remembers.
pub struct Watch {
    inotify: Option<Arc<Inotify>>,
    states: Vec<(WatchDescriptor, QueueState)>,
    /// Names to look at: their turn has not come, or somebody was writing.
    pub due: BTreeSet<MessageId>,
    /// Messages in two states, and since when.
    doubles: BTreeMap<MessageId, Instant>,
    /// Messages whose documents name another state, and since when.
    misnamed: BTreeMap<MessageId, Instant>,
    /// Files that are no messages, and since when.
    suspects: BTreeMap<(QueueState, OsString), Instant>,
    /// Those that were told of.
    told: BTreeMap<(QueueState, OsString), String>,
    /// Directories' times at the last look, where looking is all there is.
    pub looked: BTreeMap<QueueState, (i64, i64)>,
}

impl Watch {
    fn state_of(&self, wd: WatchDescriptor) -> Option<QueueState> {
        let found = self.states.iter().find(|(watched, _)| *watched == wd);
        found.map(|(_, state)| *state)
    }

    pub fn suspect(&mut self, state: QueueState, name: OsString) {
        let key = (state, name);
        if !self.told.contains_key(&key) {
            self.suspects.entry(key).or_insert_with(Instant::now);
        }
    }

    fn is_doubtful(&self) -> bool {
        !(self.doubles.is_empty()
            && self.misnamed.is_empty()
            && self.suspects.is_empty()
            && self.due.is_empty())
    }

    /// The files that are no messages and were told of, and why they are none.
    pub fn foreign(&self) -> impl Iterator<Item = (QueueState, &OsString, &str)> {
        let told = self.told.iter();
        told.map(|((state, name), why)| (*state, name, why.as_str()))
    }
}

impl Directory {
    /// Begins to watch, and reads everything once.
    pub fn begin_watch(&self) -> Result<Watch> {
        let mut watch = Watch {
            inotify: self.inotify(),
            states: Vec::new(),
            due: BTreeSet::new(),
            doubles: BTreeMap::new(),
            misnamed: BTreeMap::new(),
            suspects: BTreeMap::new(),
            told: BTreeMap::new(),
            looked: BTreeMap::new(),
        };
        // Before anything is read, so that nothing is missed in between.
        if let Some(inotify) = watch.inotify.clone()
            && let Err(e) = self.add_watches(&inotify, &mut watch.states)
        {
            let path = self.place.path().display();
            tracing::warn!(target: "retryspoolfs", "{path} can't be watched, and is looked at once a second: {}", e.desc());
            watch.inotify = None;
        }
        let mut index = Index::default();
        let mut seen: BTreeSet<MessageId> = BTreeSet::new();
        for dir in self.place.states() {
            watch.looked.insert(dir.state, times(dir)?);
            let found = names(dir)?;
            for name in found.foreign {
                watch.suspect(dir.state, name);
            }
            let read = self.read_all(dir, &found.messages);
            let mut entries = Vec::with_capacity(found.messages.len());
            for (id, look) in found.messages.into_iter().zip(read) {
                match look? {
                    Brief::Absent => {}
                    Brief::Foreign => watch.suspect(dir.state, plain(&id).into()),
                    Brief::Message(entry, names_its_state) => {
                        if !names_its_state {
                            watch.misnamed.insert(id.clone(), Instant::now());
                        }
                        if index.find(&id).is_some() {
                            seen.insert(id);
                        } else {
                            entries.push((id, entry));
                        }
                    }
                }
            }
            let changed = match entries.is_empty() {
                true => Timestamp::ZERO,
                false => times(dir)
                    .ok()
                    .and_then(|(s, n)| Timestamp::new(s, n as u32))
                    .unwrap_or(Timestamp::ZERO),
            };
            index.fill(dir.state, entries, changed);
        }
        self.known.lock().index = Some(index);
        // Found twice: it moved meanwhile, or is in two states.
        watch.due.extend(seen);
        self.look_at_due(&mut watch)?;
        Ok(watch)
    }

    fn inotify(&self) -> Option<Arc<Inotify>> {
        if !self.notified || self.place.is_remote() {
            return None;
        }
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        Inotify::init(flags).ok().map(Arc::new)
    }

    fn add_watches(
        &self,
        inotify: &Inotify,
        states: &mut Vec<(WatchDescriptor, QueueState)>,
    ) -> nix::Result<()> {
        let events = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        for dir in self.place.states() {
            let path = self.place.path().join(dir.state.as_str());
            states.push((inotify.add_watch(&path, events)?, dir.state));
        }
        Ok(())
    }

    /// Reads files by as many threads as there are cores.
    fn read_all(&self, dir: &StateDir, ids: &[MessageId]) -> Vec<Result<Brief>> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = ids.len().div_ceil(threads).max(256);
        let read = |ids: &[MessageId]| -> Vec<Result<Brief>> {
            ids.iter().map(|id| brief(dir, id)).collect()
        };
        thread::scope(|scope| {
            let parts: Vec<_> = ids
                .chunks(share)
                .map(|part| scope.spawn(move || read(part)))
                .collect();
            let done = parts.into_iter().zip(ids.chunks(share));
            // A thread that failed is replaced by this one.
            done.flat_map(|(part, ids)| part.join().unwrap_or_else(|_| read(ids)))
                .collect()
        })
    }

    /// Reads what the kernel has told so far, and looks at it.
    pub fn catch_up(&self, watch: &mut Watch) -> Result<()> {
        let Some(inotify) = watch.inotify.clone() else {
            return Ok(());
        };
        let mut lost = false;
        loop {
            let events = match inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(failed("inotify", &e.into())),
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    lost = true;
                }
                let (Some(state), Some(name)) = (watch.state_of(event.wd), event.name) else {
                    continue;
                };
                match PlainName::of(&name) {
                    PlainName::Message(id) => drop(watch.due.insert(id)),
                    PlainName::Foreign => watch.suspect(state, name),
                    PlainName::Temporary => {}
                }
            }
        }
        self.look_at_due(watch)?;
        if lost {
            self.compare_all(watch)?;
            self.reset();
        }
        Ok(())
    }

    pub fn look_at_due(&self, watch: &mut Watch) -> Result<()> {
        for id in std::mem::take(&mut watch.due) {
            self.look_at(watch, id)?;
        }
        Ok(())
    }

    /// Finds out what has become of a message.
    pub fn look_at(&self, watch: &mut Watch, id: MessageId) -> Result<()> {
        let Ok(name) = PlainName::of_id(&id) else {
            return Ok(());
        };
        // Nobody of this process is in the middle of a change of it, and tells of it later.
        let until = Instant::now() + BLOCKED;
        let Some(_held) = self.locks.among_threads(&id, until) else {
            watch.due.insert(id);
            return Ok(());
        };
        let stats = stats(&self.place, &name)?;
        let known = self.known.lock().entry(&id);
        let same = match (stats.as_slice(), known) {
            ([], None) => true,
            // One whose document was still to be rewritten may have been since, with no other
            // mark where the clock of files is slow.
            ([(state, stat)], Some((at, entry))) => {
                at == *state && entry.mark == mark(stat) && !watch.misnamed.contains_key(&id)
            }
            _ => false,
        };
        if same {
            watch.doubles.remove(&id);
            return Ok(());
        }
        let seen = everywhere(&self.place, &id, &name)?;
        for (state, _) in &seen.foreign {
            watch.suspect(*state, name.clone().into());
        }
        note_since(&mut watch.doubles, &id, !seen.doubles.is_empty());
        let misnamed = seen
            .best
            .as_ref()
            .is_some_and(|found| !found.names_its_state);
        note_since(&mut watch.misnamed, &id, misnamed);
        if !watch.told.is_empty() {
            // What is no longer foreign can be told of again.
            for state in QueueState::ALL {
                if seen.foreign.iter().all(|(foreign, _)| *foreign != state) {
                    watch.told.remove(&(state, name.clone().into()));
                }
            }
        }
        let stored = seen.best.as_ref().map(|found| &found.stored);
        self.observe(&id, stored);
        Ok(())
    }

    /// Puts right what was doubtful for long enough, and tells of what is no message. Nobody has
    /// to wait for that who reads the index.
    fn tidy(&self) -> Result<()> {
        let unmended = std::mem::take(&mut self.known.lock().unmended);
        let (doubles, misnamed, suspects) = match &mut *self.watch.lock() {
            None => return Ok(()),
            Some(watch) => (
                ripe(&watch.doubles, GRACE),
                {
                    let new = unmended.into_iter().map(|id| (id, Instant::now()));
                    watch.misnamed.extend(new);
                    ripe(&watch.misnamed, GRACE)
                },
                ripe(&watch.suspects, PATIENCE),
            ),
        };
        let ctx = Context::within(Duration::from_secs(1));
        // One that can't be put right now, on a full disk for one, is tried again.
        let failed = |id: &MessageId, error: &Error| {
            tracing::debug!(target: "retryspoolfs", "{id} can't be put right: {error}");
            false
        };
        let (mut settled, mut mended) = (Vec::new(), misnamed);
        if !self.read_only {
            settled = doubles;
            settled.retain(|id| self.settle(&ctx, id).unwrap_or_else(|e| failed(id, &e)));
            mended.retain(|id| match self.mend(&ctx, id) {
                Ok(()) => true,
                Err(e) => failed(id, &e),
            });
        }
        let mut foreign = Vec::new();
        for (state, name) in &suspects {
            if let Some(why) = self.why_foreign(*state, name)? {
                let path = self.place.path().join(state.as_str()).join(name);
                tracing::warn!(target: "retryspoolfs", "{} is no message, and is left alone: {why}", path.display());
                foreign.push(((*state, name.clone()), why));
            }
        }
        if let Some(watch) = &mut *self.watch.lock() {
            watch.told.extend(foreign);
            watch
                .suspects
                .retain(|suspect, _| !suspects.contains(suspect));
            watch.misnamed.retain(|id, _| !mended.contains(id));
            watch.doubles.retain(|id, _| !settled.contains(id));
        }
        Ok(())
    }

    /// Why a file is no message; `None` if it is one, or gone.
    fn why_foreign(&self, state: QueueState, name: &OsString) -> Result<Option<String>> {
        let Some(dir) = self.place.state(state) else {
            return Ok(None);
        };
        match (PlainName::of(name), name.to_str()) {
            (PlainName::Message(id), Some(text)) => Ok(match file::read(dir, text, &id)? {
                Look::Foreign(why) => Some(why),
                Look::Absent | Look::Message(_) => None,
            }),
            _ => {
                let path = self.place.path().join(state.as_str()).join(name);
                let there = path.symlink_metadata().is_ok();
                Ok(there.then(|| "its name is not one that RetrySpool gives".into()))
            }
        }
    }

    /// Follows what happens until the store is closed.
    pub fn follow(&self) {
        let mut next_look = Instant::now() + LOOK;
        let mut troubled = false;
        loop {
            let (inotify, doubtful) = match &*self.watch.lock() {
                Some(watch) => (watch.inotify.clone(), watch.is_doubtful()),
                None => return,
            };
            let limit = if doubtful { TIDY } else { LOOK };
            self.wait(inotify.as_deref(), limit);
            if self.known.lock().closed {
                return;
            }
            let look = inotify.is_none() && Instant::now() >= next_look;
            if look {
                next_look = Instant::now() + LOOK;
            }
            let done = match &mut *self.watch.lock() {
                None => return,
                Some(watch) if look => self.look_around(watch),
                Some(watch) => self.catch_up(watch),
            };
            let done = done.and_then(|()| self.tidy());
            if let (Err(error), false) = (&done, troubled) {
                let path = self.place.path().display();
                tracing::error!(target: "retryspoolfs", "{path} can't be followed: {error}");
            }
            troubled = done.is_err();
        }
    }

    fn wait(&self, inotify: Option<&Inotify>, limit: Duration) {
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        if let Some(inotify) = inotify {
            fds.push(PollFd::new(inotify.as_fd(), PollFlags::POLLIN));
        }
        if let Err(e) = poll(&mut fds, limit)
            && e != Errno::EINTR
        {
            thread::sleep(TIDY);
        }
    }
}

/// What is kept of a file that was read.
enum Brief {
    Absent,
    Foreign,
    /// With whether its document names its state.
    Message(Entry, bool),
}

fn brief(dir: &StateDir, id: &MessageId) -> Result<Brief> {
    Ok(match file::read(dir, &plain(id), id)? {
        Look::Absent => Brief::Absent,
        Look::Foreign(_) => Brief::Foreign,
        Look::Message(found) => Brief::Message(Entry::of(&found.stored), found.names_its_state),
    })
}

fn note_since(list: &mut BTreeMap<MessageId, Instant>, id: &MessageId, is: bool) {
    if is {
        list.entry(id.clone()).or_insert_with(Instant::now);
    } else {
        list.remove(id);
    }
}

fn ripe<T: Clone>(list: &BTreeMap<T, Instant>, after: Duration) -> Vec<T> {
    let old = list.iter().filter(|(_, since)| since.elapsed() >= after);
    old.map(|(what, _)| what.clone()).collect()
}
