//! Directory listings: live, in ID order, in batches.
//!
//! Owns: the offsets of an open directory. An offset counts the messages that this handle found,
//! and stays tied to the one it counted, whatever comes and goes in the store meanwhile: who goes
//! back finds the same messages under the same offsets, but for those that went, and each message
//! that stays is given once. The reader may go back to any offset; for that, five bytes of each
//! message's ID are kept, and the store is asked for the rest.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Spool;
use super::ahead::Ahead;
use super::attr::{Attr, Brief};
use super::cache::ReadAt;
use super::caller::Caller;
use super::error::{Refusal, Result};
use super::handle::Handle;
use super::inode::Node;
use super::number::number_of;
use super::tree::{Dir, Fixed};
use crate::model::{MessageId, QueueState};

/// Entries that are fetched at once: IDs alone, or with what attributes are made of.
const BATCH: usize = 1024;
const BATCH_PLUS: usize = 256;

fn limit(plus: bool) -> usize {
    if plus { BATCH_PLUS } else { BATCH }
}

/// How many of the entries given are kept for offsets that go back.
const KEPT: usize = 4 * BATCH;

/// `.` and `..` have the first two offsets.
const DOTS: u64 = 2;

/// An entry of a directory.
pub struct DirEntry<'a> {
    /// The offset to go on from after it.
    pub offset: u64,
    pub ino: u64,
    pub is_dir: bool,
    pub name: &'a OsStr,
    /// Its attributes, if the listing was asked for them.
    pub attr: Option<Attr>,
}

/// Where entries go; `false` if there was no room for the entry.
pub type Sink<'a> = &'a mut dyn FnMut(&DirEntry) -> bool;

/// An open directory.
pub struct Listing {
    dir: Dir,
    entries: Entries,
}

enum Entries {
    /// Names that were there when it was opened.
    Fixed(Vec<(OsString, u64, bool)>),
    /// The messages of a state, as far as they were read.
    Messages(Window),
}

/// What an open directory found of a state. Messages are numbered as they are found.
#[derive(Default)]
struct Window {
    /// The number of the first item.
    start: u64,
    /// The messages at hand; `None` for one that was found once and has gone.
    items: VecDeque<Option<Item>>,
    /// How the store was read.
    batches: Vec<Batch>,
    /// By number, what an ID is recognised by.
    digests: Vec<Digest>,
    end: bool,
    /// The next batch, if it is read meanwhile.
    ahead: Option<Arc<Ahead<Next, Vec<Item>>>>,
}

/// What tells the IDs of one batch apart: of two among a thousand it is the same once in two million
/// batches.
type Digest = [u8; 5];

fn digest(hash: u64) -> Digest {
    let [a, b, c, d, e, ..] = hash.to_le_bytes();
    [a, b, c, d, e]
}

/// Messages that were found together.
struct Batch {
    /// The number of the first.
    first: u64,
    /// The ID of the last.
    last: MessageId,
}

/// The batch that a listing needs next.
pub struct Next {
    state: QueueState,
    after: MessageId,
    /// Whether with attributes.
    plus: bool,
}

/// A message that was found.
pub struct Item {
    id: MessageId,
    /// [`number_of`] its ID.
    hash: u64,
    /// What its attributes are made of, and when it was read.
    brief: Option<(Brief, ReadAt)>,
}

impl Item {
    fn new(id: MessageId, brief: Option<(Brief, ReadAt)>) -> Item {
        Item {
            hash: number_of(&id),
            id,
            brief,
        }
    }
}

/// What has a number in a listing.
enum Found<'a> {
    /// With its attributes, if they were asked for.
    Message(&'a Item, Option<(Brief, ReadAt)>),
    Gone,
    End,
}

impl Window {
    /// How many messages were found.
    fn found(&self) -> u64 {
        self.digests.len() as u64
    }

    fn has(&self, number: u64) -> bool {
        (self.start..self.start + self.items.len() as u64).contains(&number)
    }

    /// The ID that the next message comes after.
    fn last(&self) -> Option<&MessageId> {
        self.batches.last().map(|batch| &batch.last)
    }

    /// Numbers messages that were found now.
    fn add(&mut self, found: Vec<Item>) {
        let Some(last) = found.last() else {
            return;
        };
        self.batches.push(Batch {
            first: self.found(),
            last: last.id.clone(),
        });
        if self.start + self.items.len() as u64 != self.found() {
            // The reader had gone back.
            self.items.clear();
            self.start = self.found();
        }
        for item in found {
            self.digests.push(digest(item.hash));
            self.items.push_back(Some(item));
        }
        while self.items.len() > KEPT {
            self.items.pop_front();
            self.start += 1;
        }
    }
}

impl Spool {
    /// Opens a directory.
    pub fn opendir(&self, ino: u64) -> Result<u64> {
        let dir = self.dir(ino)?;
        let entries = match dir {
            Dir::State(_) => Entries::Messages(Window::default()),
            Dir::ScratchOf(state) => Entries::Fixed(
                self.scratches
                    .names(state)
                    .into_iter()
                    .map(|(name, ino)| (name, ino, false))
                    .collect(),
            ),
            Dir::Root | Dir::Control | Dir::Scratch => Entries::Fixed(
                dir.listed(&self.options)
                    .into_iter()
                    .map(|(name, fixed)| (name.into(), fixed.ino(), matches!(fixed, Fixed::Dir(_))))
                    .collect(),
            ),
        };
        let listing = Listing { dir, entries };
        Ok(self.handles.add(Handle::Dir(Arc::new(Mutex::new(listing)))))
    }

    /// Gives the entries from `offset` on until there is no room. With `plus`, each comes with
    /// its attributes, and one lookup of it is counted.
    pub fn readdir(&self, fh: u64, offset: u64, plus: bool, sink: Sink) -> Result<()> {
        let Handle::Dir(listing) = self.handles.get(fh)? else {
            return Err(Refusal::bad_handle());
        };
        let mut listing = listing.lock();
        let dir = listing.dir;
        for (at, (name, entry)) in [(".", dir), ("..", dir.parent())].into_iter().enumerate() {
            if offset <= at as u64 {
                let fixed = Fixed::Dir(entry);
                let entry = DirEntry {
                    offset: at as u64 + 1,
                    ino: fixed.ino(),
                    is_dir: true,
                    name: name.as_ref(),
                    attr: plus.then(|| self.fixed_attr(fixed)).transpose()?,
                };
                if !sink(&entry) {
                    return Ok(());
                }
            }
        }
        let from = offset.saturating_sub(DOTS);
        match &mut listing.entries {
            Entries::Fixed(names) => self.give_fixed(names, from, plus, sink),
            Entries::Messages(window) => {
                if offset == 0 {
                    *window = Window::default();
                }
                if let Dir::State(state) = dir {
                    self.give_messages(state, window, from, plus, sink)?;
                }
                Ok(())
            }
        }
    }

    /// Closes a directory.
    pub fn releasedir(&self, fh: u64) {
        let _ = self.handles.remove(fh);
    }

    /// Brings everything committed so far to the disk.
    pub fn fsyncdir(&self, caller: &Caller, ino: u64) -> Result<()> {
        self.sync(caller, "fsync", || self.path_of_inode(ino))
    }

    fn give_fixed(
        &self,
        names: &[(OsString, u64, bool)],
        from: u64,
        plus: bool,
        sink: Sink,
    ) -> Result<()> {
        for (at, (name, ino, is_dir)) in names.iter().enumerate().skip(from as usize) {
            let mut entry = DirEntry {
                offset: DOTS + at as u64 + 1,
                ino: *ino,
                is_dir: *is_dir,
                name,
                attr: None,
            };
            let fixed = Fixed::of(*ino);
            let scratch = match (plus, fixed, &self.inode_or_name(*ino, name)) {
                (true, Some(fixed), _) => {
                    entry.attr = Some(self.fixed_attr(fixed)?);
                    None
                }
                (true, None, Some(file)) => {
                    entry.attr = Some(self.scratch_attr(file));
                    Some(file.clone())
                }
                // It went meanwhile.
                (true, None, None) => continue,
                (false, ..) => None,
            };
            if !sink(&entry) {
                break;
            }
            if let Some(file) = scratch {
                self.inodes.look_up_scratch(&file);
            }
        }
        Ok(())
    }

    fn inode_or_name(&self, ino: u64, name: &OsStr) -> Option<Arc<super::scratch::ScratchFile>> {
        if let Some(Node::Scratch(file)) = self.inodes.get(ino) {
            return Some(file);
        }
        let mut states = self.options.states();
        states.find_map(|state| {
            self.scratches
                .get(state, name)
                .filter(|file| file.ino() == ino)
        })
    }

    fn give_messages(
        &self,
        state: QueueState,
        window: &mut Window,
        from: u64,
        plus: bool,
        sink: Sink,
    ) -> Result<()> {
        let mut at = from;
        let mut given = false;
        let mut name = String::new();
        loop {
            let (item, brief) = match self.find(state, window, at, plus) {
                Ok(Found::Message(item, brief)) => (item, brief),
                Ok(Found::Gone) => {
                    at += 1;
                    continue;
                }
                Ok(Found::End) => return Ok(()),
                // The reader would not see what it was given, and what is counted as looked up.
                // It asks again, from here on.
                Err(_) if given => return Ok(()),
                Err(refusal) => return Err(refusal),
            };
            // Known to be known to the kernel, before it is decided what it may remember.
            let id = &item.id;
            let ino = match plus {
                true => self.inodes.look_up_from(item.hash, id, state),
                false => self.inodes.number_from(item.hash, id),
            };
            id.write_file_name(&mut name);
            let entry = DirEntry {
                offset: DOTS + at + 1,
                ino,
                is_dir: false,
                name: name.as_ref(),
                attr: brief.map(|brief| self.listed_attr(state, id, ino, brief)),
            };
            if !sink(&entry) {
                if plus {
                    self.inodes.forget(ino, 1);
                }
                return Ok(());
            }
            given = true;
            at += 1;
        }
    }

    /// The message of that number, with what its attributes are made of if `plus`.
    fn find<'a>(
        &self,
        state: QueueState,
        window: &'a mut Window,
        at: u64,
        plus: bool,
    ) -> Result<Found<'a>> {
        while at >= window.found() {
            if window.end {
                return Ok(Found::End);
            }
            self.extend(state, window, plus)?;
        }
        if !window.has(at) {
            self.go_back(state, window, at)?;
        }
        let Some(Some(item)) = window.items.get((at - window.start) as usize) else {
            return Ok(Found::Gone);
        };
        let brief = match (plus, item.brief) {
            (false, _) => None,
            (true, Some(brief)) => Some(brief),
            // It was found without attributes, by another kind of request.
            (true, None) => {
                let read = self.cache.reading();
                match self.brief(&item.id, Some(state))? {
                    Some(brief) => Some((brief, read)),
                    None => return Ok(Found::Gone),
                }
            }
        };
        Ok(Found::Message(item, brief))
    }

    /// Finds the next messages.
    fn extend(&self, state: QueueState, window: &mut Window, plus: bool) -> Result<()> {
        let ahead = window.ahead.take().filter(|a| a.wanted.plus == plus);
        let found = match ahead.and_then(|ahead| ahead.take()) {
            Some(found) => found,
            None => self.read_batch(state, window.last(), plus)?,
        };
        window.end = found.len() < limit(plus);
        let is_first = window.batches.is_empty();
        window.add(found);
        // Many a listing is of few, or ends early.
        if !is_first && !window.end {
            let next = |last: &MessageId| Next {
                state,
                after: last.clone(),
                plus,
            };
            window.ahead = window.last().and_then(|last| self.ahead.want(next(last)));
        }
        Ok(())
    }

    /// Reads what listings are about to need, for as long as `going` says so: to be called from a
    /// thread of its own, which may be unparked to ask `going`.
    pub fn read_ahead(&self, going: &dyn Fn() -> bool) {
        self.ahead.serve(going, |next| {
            let batch = self.read_batch(next.state, Some(&next.after), next.plus);
            batch.ok()
        });
    }

    /// Reads the messages that come after an ID.
    fn read_batch(
        &self,
        state: QueueState,
        after: Option<&MessageId>,
        plus: bool,
    ) -> Result<Vec<Item>> {
        let ctx = self.patient();
        let read = self.cache.reading();
        Ok(if plus {
            let batch = self.ask(self.store.scan_stored(&ctx, state, after, limit(plus)))?;
            let item = |(id, stored): (MessageId, crate::backend::Result<_>)| {
                let brief = stored.map_or(Brief::UNREADABLE, |stored| Brief::of(&stored));
                Item::new(id, Some((brief, read)))
            };
            batch.into_iter().map(item).collect()
        } else {
            let batch = self.ask(self.store.scan(&ctx, state, after, limit(plus)))?;
            batch.into_iter().map(|id| Item::new(id, None)).collect()
        })
    }

    /// Brings back the batch that a number was found in: each message that is still there gets
    /// the number it had, and one that was not there then gets none.
    fn go_back(&self, state: QueueState, window: &mut Window, to: u64) -> Result<()> {
        let after_it = window.batches.partition_point(|batch| batch.first <= to);
        let (before, rest) = window.batches.split_at(after_it.saturating_sub(1));
        let Some(batch) = rest.first() else {
            return Ok(());
        };
        let end = rest.get(1).map_or(window.found(), |next| next.first);
        let numbers = batch.first..end;
        let place: HashMap<Digest, usize> = window.digests[batch.first as usize..end as usize]
            .iter()
            .enumerate()
            .map(|(place, digest)| (*digest, place))
            .collect();
        let mut items: VecDeque<Option<Item>> = numbers.map(|_| None).collect();
        let mut after = before.last().map(|batch| batch.last.clone());
        loop {
            let ctx = self.patient();
            let ids = self.ask(self.store.scan(&ctx, state, after.as_ref(), BATCH))?;
            let more = ids.len() == BATCH && ids.last() < Some(&batch.last);
            after = ids.last().cloned();
            for id in ids.into_iter().take_while(|id| *id <= batch.last) {
                let item = Item::new(id, None);
                if let Some(place) = place.get(&digest(item.hash)) {
                    items[*place] = Some(item);
                }
            }
            if !more {
                break;
            }
        }
        window.start = batch.first;
        window.items = items;
        Ok(())
    }
}
