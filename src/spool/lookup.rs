//! Names and attributes.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::attr::{Attr, Brief};
use super::cache::{self, ReadAt};
use super::caller::Caller;
use super::error::{Errno, Refusal, Result};
use super::handle::{Handle, Writer};
use super::inode::{Node, Told};
use super::scratch::ScratchFile;
use super::tree::{Dir, Fixed, Target, Text};
use super::{Options, Spool};
use crate::backend::{Error, StateInfo};
use crate::document;
use crate::model::{MessageId, QueueState, Stored, Timestamp};

impl Spool {
    /// What has that name in the directory, and counts one lookup of it.
    pub fn lookup(&self, caller: &Caller, parent: u64, name: &OsStr) -> Result<Attr> {
        let dir = self.dir(parent)?;
        if let Some(fixed) = dir.fixed(name, &self.options) {
            return self.fixed_attr(fixed);
        }
        match Target::of(dir, name) {
            Target::Message(state, id) => self.lookup_message(caller, state, &id),
            Target::Scratch(state) => {
                let file = match dir {
                    // Where scratch files are listed, everybody finds them.
                    Dir::ScratchOf(_) => self.scratches.get(state, name),
                    _ => self.scratches.find(state, name, caller),
                };
                let file = file.ok_or_else(Refusal::not_found)?;
                self.inodes.look_up_scratch(&file);
                Ok(self.scratch_attr(&file))
            }
            Target::Invalid | Target::Fixed => Err(Refusal::not_found()),
        }
    }

    fn lookup_message(&self, caller: &Caller, state: QueueState, id: &MessageId) -> Result<Attr> {
        // The kernel is known to know the inode before the store is read: what changes from here on
        // reaches it.
        let read = self.cache.reading();
        let (ino, last) = self.inodes.expect(id, state);
        // A file that was created and not committed yet is there for its writer alone.
        let own = self.own_writer(caller, ino, |writer| {
            writer.state == state && !writer.is_dropped()
        });
        let hidden = self.asides.hides(state, id, caller);
        // rename(2) asks first whether the new name is taken: that much the store tells sooner.
        let look = || match last == state || self.is_in(id, state)? {
            true => self.brief_for_opening(id, state, ino, read),
            false => Ok(None),
        };
        let found = look().and_then(|brief| match (brief.filter(|_| !hidden), &own) {
            (Some(brief), _) => Ok((brief, true)),
            (None, Some(_)) => Ok((Brief::of_bytes(0, Timestamp::now()), false)),
            (None, None) => Err(Refusal::not_found()),
        });
        match found {
            Ok((brief, stored)) => {
                if last != state {
                    self.inodes.moved(id, state);
                }
                let mut attr = self.message_attr(ino, brief, own.as_deref(), read);
                if !stored || self.asides.is_aside(state, id) {
                    attr.validity.names = Duration::ZERO;
                }
                Ok(attr)
            }
            Err(refusal) => {
                self.inodes.forget(ino, 1);
                Err(refusal)
            }
        }
    }

    /// The attributes of an inode; `fh` where the caller asks through an open file.
    pub fn getattr(&self, caller: &Caller, ino: u64, fh: Option<u64>) -> Result<Attr> {
        if let Some(fixed) = Fixed::of(ino) {
            return self.fixed_attr(fixed);
        }
        match self.inodes.get(ino).ok_or_else(Refusal::gone)? {
            Node::Scratch(file) => Ok(self.scratch_attr(&file)),
            Node::Message(id, _) => {
                let by_handle = fh.and_then(|fh| self.handles.writer(fh));
                let own = by_handle
                    .or_else(|| self.own_writer(caller, ino, |writer| !writer.is_dropped()));
                let read = self.cache.reading();
                let brief = match self.brief(&id, None)? {
                    Some(brief) => brief,
                    // Not committed yet, or gone while it is open.
                    None => self.open_brief(ino).ok_or_else(Refusal::gone)?,
                };
                let mut attr = self.message_attr(ino, brief, own.as_deref(), read);
                // The kernel names a reader only to read through its pages: up to its length.
                if let Some(Ok(Handle::Reader(reader))) = fh.map(|fh| self.handles.get(fh)) {
                    let len = reader.document.len() as u64;
                    if std::mem::replace(&mut attr.size, len) != len {
                        attr.validity.attributes = Duration::ZERO;
                    }
                }
                Ok(attr)
            }
        }
    }

    /// Sets the length of a file, if one is given, and gives its attributes. Owner, permissions
    /// and times are accepted and stay: tools set them after a copy, and fail if refused.
    pub fn setattr(
        &self,
        caller: &Caller,
        ino: u64,
        fh: Option<u64>,
        size: Option<u64>,
    ) -> Result<Attr> {
        if let Some(size) = size {
            self.truncate(caller, ino, fh, size)?;
        }
        self.getattr(caller, ino, fh)
    }

    /// The kernel forgets `count` lookups of an inode.
    pub fn forget(&self, ino: u64, count: u64) {
        self.inodes.forget(ino, count);
    }

    /// The directory of that inode number.
    pub(super) fn dir(&self, ino: u64) -> Result<Dir> {
        match Fixed::of(ino) {
            Some(Fixed::Dir(dir)) => Ok(dir),
            _ => Err(Refusal::new(Errno::ENOTDIR, "it is no directory")),
        }
    }

    /// The path of a name, for people.
    pub(super) fn path_of(&self, parent: u64, name: &OsStr) -> String {
        match self.dir(parent) {
            Ok(dir) => format!("{}{}", dir.path(), name.display()),
            Err(_) => name.display().to_string(),
        }
    }

    /// The path that an inode was named by last, for people.
    pub(super) fn path_of_inode(&self, ino: u64) -> String {
        match (Fixed::of(ino), self.inodes.get(ino)) {
            (Some(Fixed::Dir(dir)), _) => dir.path(),
            (Some(Fixed::Text(text)), _) => format!("{}{}", Dir::Control.path(), text.name()),
            (Some(Fixed::Snapshot(snapshot)), _) => {
                format!("{}{}", Dir::Control.path(), snapshot.name())
            }
            (None, Some(Node::Message(id, state))) => format!("{state}/{}", id.file_name()),
            (None, Some(Node::Scratch(file))) => self.scratches.path_of(&file),
            (None, None) => "?".to_owned(),
        }
    }

    /// The message's attributes if it is stored, in `state` where one is given. One that can't be
    /// read is there all the same.
    pub(super) fn brief(&self, id: &MessageId, state: Option<QueueState>) -> Result<Option<Brief>> {
        self.brief_by(id, state, Brief::of)
    }

    /// The same, for a name that may be opened next: its document is kept for that.
    fn brief_for_opening(
        &self,
        id: &MessageId,
        state: QueueState,
        ino: u64,
        read: ReadAt,
    ) -> Result<Option<Brief>> {
        self.brief_by(id, Some(state), |stored| {
            let document: Arc<[u8]> = document::render(&stored.metadata).into();
            let brief = Brief::with_size(stored, document.len() as u64);
            let is_current = || self.cache.reading() == read;
            self.rendered.keep(ino, brief.mark(), document, is_current);
            brief
        })
    }

    fn is_in(&self, id: &MessageId, state: QueueState) -> Result<bool> {
        let found = self.ask(self.store.locate(&self.patient(), id))?;
        Ok(found == Some(state))
    }

    fn brief_by(
        &self,
        id: &MessageId,
        state: Option<QueueState>,
        brief: impl Fn(&Stored) -> Brief,
    ) -> Result<Option<Brief>> {
        let ctx = self.patient();
        match self.store.get(&ctx, id) {
            Ok(stored) => Ok(stored
                .filter(|stored| state.is_none_or(|state| state == stored.metadata.state))
                .map(|stored| brief(&stored))),
            Err(Error::Corrupt(_)) => {
                let found = self.ask(self.store.locate(&ctx, id))?;
                Ok(found
                    .filter(|found| state.is_none_or(|state| state == *found))
                    .map(|_| Brief::UNREADABLE))
            }
            Err(error) => self.ask(Err(error)),
        }
    }

    /// What is known of a message that is not stored while somebody has it open: fstat(2) asks
    /// without a handle.
    fn open_brief(&self, ino: u64) -> Option<Brief> {
        let len = match self.handles.writer_of(ino, |_| true) {
            Some(writer) => writer.len.load(Ordering::Relaxed),
            None => self.handles.reader_of(ino)?.document.len() as u64,
        };
        Some(Brief::of_bytes(len, Timestamp::now()))
    }

    /// The caller's own latest open writer of that inode for which `wanted` holds.
    pub(super) fn own_writer(
        &self,
        caller: &Caller,
        ino: u64,
        wanted: impl Fn(&Writer) -> bool,
    ) -> Option<Arc<Writer>> {
        self.handles
            .writer_of(ino, |writer| wanted(writer) && writer.opener.is(caller))
    }

    /// A message's attributes, of what was read of it at that time; the kernel is known by now to
    /// know the inode.
    pub(super) fn message_attr(
        &self,
        ino: u64,
        brief: Brief,
        own: Option<&Writer>,
        read: ReadAt,
    ) -> Attr {
        let validity = self.cache.validity(read);
        let attr = self.options.ownership.file(ino, brief);
        let mut attr = attr.valid(validity.names, validity.attributes);
        // The size that a writer sees is another one than everybody else's.
        let written = self.handles.has_writer(ino);
        if written {
            attr.validity.attributes = Duration::ZERO;
        }
        if let Some(writer) = own {
            attr.size = writer.len.load(Ordering::Relaxed);
        }
        // Who still reads an earlier revision through the kernel's pages needs that one's length.
        let told = self.inodes.tell(ino, brief.mark(), written);
        if let Told::Pinned(len) = told {
            attr.size = len;
        }
        if told != Told::Own {
            attr.validity.attributes = Duration::ZERO;
        }
        attr
    }

    /// The attributes of a message that a listing of `state` shows.
    pub(super) fn listed_attr(
        &self,
        state: QueueState,
        id: &MessageId,
        ino: u64,
        (brief, read): (Brief, ReadAt),
    ) -> Attr {
        let mut attr = self.message_attr(ino, brief, None, read);
        if self.asides.is_aside(state, id) {
            attr.validity.names = Duration::ZERO;
        }
        attr
    }

    pub(super) fn scratch_attr(&self, file: &ScratchFile) -> Attr {
        let (size, written) = file.size_and_time();
        let brief = Brief::of_bytes(size, written);
        self.options.ownership.file(file.ino(), brief)
    }

    pub(super) fn fixed_attr(&self, fixed: Fixed) -> Result<Attr> {
        let ino = fixed.ino();
        let control = |attr: Attr, mode: u16| Attr {
            mode,
            uid: self.options.control_owner.0,
            gid: self.options.control_owner.1,
            ..attr
        };
        match fixed {
            Fixed::Text(text) => {
                let (size, changed) = self.text(text).size_and_time();
                let brief = Brief::of_bytes(size, changed);
                let attr = control(self.options.ownership.file(ino, brief), 0o600);
                Ok(attr.valid(cache::VALID, Duration::ZERO))
            }
            Fixed::Snapshot(_) => {
                let brief = Brief::of_bytes(0, Timestamp::now());
                let attr = self.options.ownership.file(ino, brief);
                let attr = Attr {
                    mode: attr.mode & 0o444,
                    ..attr
                };
                Ok(attr.valid(cache::VALID, Duration::ZERO))
            }
            Fixed::Dir(dir) => {
                let read = self.cache.reading();
                let info = self.dir_info(dir)?;
                let subdirs = subdirs(dir, &self.options);
                let attr = self.options.ownership.dir(ino, info, subdirs);
                // The names of directories never change; how many messages are in one does.
                let attributes = match dir {
                    // A file that is new in it counts once it is closed, of which the kernel
                    // makes nothing.
                    Dir::State(state) if self.handles.writes_in(state) => Duration::ZERO,
                    Dir::ScratchOf(_) => Duration::ZERO,
                    Dir::State(_) => self.cache.validity(read).attributes,
                    Dir::Root | Dir::Control | Dir::Scratch => cache::VALID,
                };
                Ok(attr.valid(cache::VALID, attributes))
            }
        }
    }

    fn dir_info(&self, dir: Dir) -> Result<StateInfo> {
        let info = match dir {
            Dir::State(state) => self.ask(self.store.state_info(&self.patient(), state))?,
            Dir::Root | Dir::Control | Dir::Scratch | Dir::ScratchOf(_) => StateInfo {
                count: 0,
                changed: Timestamp::ZERO,
            },
        };
        Ok(StateInfo {
            // A state that nothing happened in looks as old as the mount, not as year 1: a whole second
            // before it, since what happens next is dated to the millisecond, cut off.
            changed: if info.changed == Timestamp::ZERO {
                let before = Timestamp::new(self.started.seconds() - 1, 0);
                before.unwrap_or(self.started)
            } else {
                info.changed
            },
            ..info
        })
    }

    pub(super) fn text(&self, text: Text) -> &super::report::TextLog {
        match text {
            Text::Errors => &self.report.errors,
            Text::Events => &self.report.events,
        }
    }
}

fn subdirs(dir: Dir, options: &Options) -> usize {
    let listed = dir.listed(options);
    let dirs = listed
        .iter()
        .filter(|(_, fixed)| matches!(fixed, Fixed::Dir(_)));
    dirs.count()
}
