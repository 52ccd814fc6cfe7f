//! Directory listings: live, in ID order, in batches.
//!
//! Owns: the offsets of an open directory. An offset counts the entries that this handle gave;
//! it is tied to the IDs it gave, not to a position in the store, so what comes and goes
//! meanwhile neither doubles nor hides a message that stays.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Spool;
use super::attr::{Attr, Brief};
use super::caller::Caller;
use super::error::{Refusal, Result};
use super::handle::Handle;
use super::inode::Node;
use super::tree::{Dir, Fixed};
use crate::model::{MessageId, QueueState};

/// Entries that are fetched at once: IDs alone, or with what attributes are made of.
const BATCH: usize = 1024;
const BATCH_PLUS: usize = 128;
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

/// The part of a state's listing that was given last.
#[derive(Default)]
struct Window {
    /// How many messages came before the window.
    start: u64,
    items: VecDeque<Item>,
    /// Each so many messages, the last ID before them: to go back to.
    marks: Vec<(u64, MessageId)>,
    end: bool,
}

struct Item {
    id: MessageId,
    brief: Option<Brief>,
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
        self.ask(self.store.sync(&self.patient()))
            .inspect_err(|refusal| {
                let path = self.dir(ino).map_or_else(|_| String::new(), Dir::path);
                self.report.refused(Some(caller), "fsync", &path, refusal);
            })
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
        if at < window.start {
            self.go_back(state, window, at)?;
        }
        loop {
            let Some(item) = window.items.get((at - window.start) as usize) else {
                if window.end || !self.extend(state, window, plus)? {
                    return Ok(());
                }
                continue;
            };
            let brief = match (plus, item.brief) {
                (false, _) => None,
                (true, Some(brief)) => Some(brief),
                // It was read without attributes, by another kind of request. One that went
                // meanwhile is not given.
                (true, None) => match self.listed_brief(state, &item.id)? {
                    Some(brief) => Some(brief),
                    None => {
                        at += 1;
                        continue;
                    }
                },
            };
            let ino = self.inodes.number(&item.id);
            let name = item.id.file_name();
            let entry = DirEntry {
                offset: DOTS + at + 1,
                ino,
                is_dir: false,
                name: name.as_ref(),
                attr: brief.map(|brief| self.listed_attr(state, &item.id, brief)),
            };
            if !sink(&entry) {
                return Ok(());
            }
            if plus {
                self.inodes.look_up(&item.id, state);
            }
            at += 1;
        }
    }

    /// Reads the next batch; `false` at the end.
    fn extend(&self, state: QueueState, window: &mut Window, plus: bool) -> Result<bool> {
        let after = window.items.back().map(|item| item.id.clone());
        let after = after.or_else(|| window.marks.last().map(|(_, id)| id.clone()));
        let next = window.start + window.items.len() as u64;
        if let Some(after) = &after {
            if window.marks.last().is_none_or(|(at, _)| *at < next) {
                window.marks.push((next, after.clone()));
            }
        }
        let ctx = self.patient();
        let limit = if plus { BATCH_PLUS } else { BATCH };
        let items: Vec<Item> = if plus {
            let batch = self.ask(self.store.scan_stored(&ctx, state, after.as_ref(), limit))?;
            let item = |(id, stored): (MessageId, crate::backend::Result<_>)| Item {
                id,
                brief: Some(stored.map_or(Brief::UNREADABLE, |stored| Brief::of(&stored))),
            };
            batch.into_iter().map(item).collect()
        } else {
            let batch = self.ask(self.store.scan(&ctx, state, after.as_ref(), limit))?;
            batch
                .into_iter()
                .map(|id| Item { id, brief: None })
                .collect()
        };
        window.end = items.len() < limit;
        let more = !items.is_empty();
        window.items.extend(items);
        while window.items.len() > KEPT {
            window.items.pop_front();
            window.start += 1;
        }
        Ok(more)
    }

    /// Makes the window begin at or before the message of that number, for a reader that went
    /// back further than the window: from the last mark before it, onwards.
    fn go_back(&self, state: QueueState, window: &mut Window, to: u64) -> Result<()> {
        let marks = window.marks.iter().filter(|(at, _)| *at <= to).count();
        window.marks.truncate(marks);
        window.start = window.marks.last().map_or(0, |(at, _)| *at);
        window.items.clear();
        window.end = false;
        while window.start + (window.items.len() as u64) < to && !window.end {
            self.extend(state, window, false)?;
        }
        Ok(())
    }

    fn listed_brief(&self, state: QueueState, id: &MessageId) -> Result<Option<Brief>> {
        match self.store.get(&self.patient(), id) {
            Ok(stored) => Ok(stored
                .filter(|stored| stored.metadata.state == state)
                .map(|stored| Brief::of(&stored))),
            Err(crate::backend::Error::Corrupt(_)) => Ok(Some(Brief::UNREADABLE)),
            Err(error) => self.ask(Err(error)),
        }
    }
}
