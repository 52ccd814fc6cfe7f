//! Open files: reading, writing, and what happens at each close.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::attr::Attr;
use super::caller::{Caller, Opener};
use super::commit::{Commit, bad_document};
use super::draft::{Close, Closer, Content, Draft, on_close};
use super::error::{Errno, Refusal, Result, Waiting};
use super::handle::{Handle, Reader, Refused, Writer, WriterInner};
use super::inode::Node;
use super::report::TextCursor;
use super::tree::{Dir, Fixed, Target, Text};
use super::{Spool, scratch};
use crate::document;
use crate::document::updated::Opened;
use crate::model::{MessageId, QueueState, Stored};

/// How a file is opened: open(2)'s flags, as values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    pub write: bool,
    pub append: bool,
    pub truncate: bool,
    pub exclusive: bool,
    /// `O_SYNC` or `O_DSYNC`.
    pub sync: bool,
}

impl From<i32> for OpenMode {
    fn from(flags: i32) -> OpenMode {
        let has = |flag| flags & flag != 0;
        OpenMode {
            write: flags & libc::O_ACCMODE != libc::O_RDONLY,
            append: has(libc::O_APPEND),
            truncate: has(libc::O_TRUNC),
            exclusive: has(libc::O_EXCL),
            sync: has(libc::O_DSYNC),
        }
    }
}

impl Spool {
    /// Opens an inode and gives a handle.
    pub fn open(&self, caller: &Caller, ino: u64, mode: OpenMode) -> Result<u64> {
        let handle = match (Fixed::of(ino), self.inodes.get(ino)) {
            (Some(Fixed::Text(text)), _) => Self::open_text(text, mode)?,
            (Some(Fixed::Dir(_)), _) => return Err(Refusal::new(Errno::EISDIR, "a directory")),
            (None, Some(Node::Scratch(file))) => {
                if mode.truncate && mode.write {
                    self.writable()?;
                    file.truncate(0)?;
                }
                let append = mode.append;
                Handle::Scratch { file, append }
            }
            (None, Some(Node::Message(id, state))) => {
                self.open_message(caller, ino, &id, state, mode)?
            }
            (None, None) => return Err(Refusal::not_found()),
        };
        Ok(self.keep(ino, handle))
    }

    fn open_text(text: Text, mode: OpenMode) -> Result<Handle> {
        if mode.write {
            return Err(Refusal::new(Errno::EPERM, "control files can't be written"));
        }
        Ok(Handle::Text(
            text,
            Arc::new(Mutex::new(TextCursor::default())),
        ))
    }

    fn open_message(
        &self,
        caller: &Caller,
        ino: u64,
        id: &MessageId,
        state: QueueState,
        mode: OpenMode,
    ) -> Result<Handle> {
        let stored = self.ask(self.store.get(&self.patient(), id))?;
        let stored = stored.ok_or_else(Refusal::not_found)?;
        if !mode.write {
            let document = document::render(&stored.metadata);
            return Ok(Handle::Reader(Arc::new(Reader { ino, document })));
        }
        self.writable()?;
        if stored.metadata.state != state {
            return Err(Refusal::not_found());
        }
        let draft = draft_of(&stored, mode);
        let opened = Opened::At(stored.revision);
        Ok(writer(caller, ino, id, state, mode, opened, draft))
    }

    /// Creates a file, or opens the one that was created meanwhile; counts one lookup.
    pub fn create(
        &self,
        caller: &Caller,
        parent: u64,
        name: &OsStr,
        mode: OpenMode,
    ) -> Result<(Attr, u64)> {
        self.create_quietly(caller, parent, name, mode)
            .inspect_err(|refusal| {
                let path = self.path_of(parent, name);
                self.report.refused(Some(caller), "create", &path, refusal);
            })
    }

    fn create_quietly(
        &self,
        caller: &Caller,
        parent: u64,
        name: &OsStr,
        mode: OpenMode,
    ) -> Result<(Attr, u64)> {
        self.writable()?;
        match (self.dir(parent)?, Target::of(self.dir(parent)?, name)) {
            (Dir::State(_), Target::Message(state, id)) => {
                self.create_message(caller, state, &id, mode)
            }
            (Dir::State(_), Target::Scratch(state)) => {
                let file = match self.scratches.get(state, name) {
                    Some(_) if mode.exclusive => {
                        return Err(Refusal::new(Errno::EEXIST, "a scratch file has that name"));
                    }
                    Some(file) => file,
                    None => self.scratches.create(state, name, b"")?,
                };
                if mode.truncate {
                    file.truncate(0)?;
                }
                self.inodes.look_up_scratch(&file);
                let (attr, append) = (self.scratch_attr(&file), mode.append);
                let fh = self.keep(attr.ino, Handle::Scratch { file, append });
                Ok((attr, fh))
            }
            (_, Target::Invalid) => Err(invalid_name()),
            _ => Err(Refusal::new(
                Errno::EPERM,
                "files are made in the directories of states",
            )),
        }
    }

    fn create_message(
        &self,
        caller: &Caller,
        state: QueueState,
        id: &MessageId,
        mode: OpenMode,
    ) -> Result<(Attr, u64)> {
        let waiting = Waiting::UnderDirectoryLock;
        let stored = self.store.get(&self.hurried(), id);
        let stored = stored.map_err(|error| super::error::refusal(error, waiting))?;
        let aside = self.asides.create(state, id, caller);
        let (opened, draft) = match (&stored, aside) {
            (_, Some(revision)) => (Opened::At(revision), Draft::default()),
            (None, None) => (Opened::Absent, Draft::default()),
            (Some(stored), None) => {
                let found = stored.metadata.state;
                if found != state || mode.exclusive {
                    let reason = format!("the ID is in use: a message of this ID is in {found}");
                    return Err(Refusal::new(Errno::EEXIST, reason));
                }
                (Opened::At(stored.revision), draft_of(stored, mode))
            }
        };
        let ino = self.inodes.look_up(id, state);
        let handle = writer(caller, ino, id, state, mode, opened, draft);
        let fh = self.keep(ino, handle);
        let attr = self.getattr(caller, ino, Some(fh))?;
        Ok((attr, fh))
    }

    fn keep(&self, ino: u64, handle: Handle) -> u64 {
        self.inodes.hold(ino);
        self.handles.add(handle)
    }

    /// Whether the closes of a handle have to be told: they are judged.
    pub fn is_judged_at_close(&self, fh: u64) -> bool {
        self.handles.writer(fh).is_some()
    }

    /// At most `size` bytes from `offset` on; fewer only at the end.
    pub fn read(&self, fh: u64, offset: u64, size: usize) -> Result<Vec<u8>> {
        match self.handles.get(fh)? {
            Handle::Reader(reader) => Ok(scratch::slice(&reader.document, offset, size).to_vec()),
            Handle::Writer(writer) => Ok(writer.inner.lock().draft.read(offset, size).to_vec()),
            Handle::Scratch { file, .. } => Ok(file.read(offset, size)),
            Handle::Text(text, cursor) => Ok(cursor.lock().read(self.text(text), offset, size)),
            Handle::Dir(_) => Err(Refusal::bad_handle()),
        }
    }

    /// Writes all of `data` at `offset`, or at the end of a handle that appends.
    pub fn write(&self, fh: u64, offset: u64, data: &[u8]) -> Result<()> {
        match self.handles.get(fh)? {
            Handle::Writer(writer) => {
                let offset = (!writer.append).then_some(offset);
                let mut inner = writer.inner.lock();
                let written = inner.draft.write(offset, data);
                written.ok_or_else(|| Refusal::new(Errno::EFBIG, "no file is that long"))?;
                inner.changed(&writer);
                Ok(())
            }
            Handle::Scratch { file, append } => file.write((!append).then_some(offset), data),
            Handle::Reader(_) | Handle::Text(..) | Handle::Dir(_) => Err(Refusal::bad_handle()),
        }
    }

    /// Sets the length of a file, through a handle or by its inode.
    pub fn truncate(&self, caller: &Caller, ino: u64, fh: Option<u64>, size: u64) -> Result<()> {
        self.writable()?;
        if let Some(writer) = fh.and_then(|fh| self.handles.writer(fh)) {
            let mut inner = writer.inner.lock();
            inner.draft.truncate(size);
            inner.changed(&writer);
            return Ok(());
        }
        match self.inodes.get(ino) {
            Some(Node::Scratch(file)) => file.truncate(size),
            Some(Node::Message(..)) => {
                // truncate(2) by path: as if opened, cut and closed.
                let mode = OpenMode {
                    write: true,
                    ..OpenMode::default()
                };
                let fh = self.open(caller, ino, mode)?;
                let cut = self.truncate(caller, ino, Some(fh), size);
                let closed = cut.and_then(|()| self.flush(caller, fh));
                self.release(fh);
                closed
            }
            None if Fixed::of(ino).is_some() => {
                Err(Refusal::new(Errno::EPERM, "control files can't be written"))
            }
            None => Err(Refusal::not_found()),
        }
    }

    /// One close of one descriptor: SPEC's table decides.
    pub fn flush(&self, caller: &Caller, fh: u64) -> Result<()> {
        let Some(writer) = self.handles.writer(fh) else {
            return self.handles.get(fh).map(drop);
        };
        let closer = if writer.opener.is(caller) {
            Closer::Opener
        } else if writer.opener.is_alive() {
            Closer::Other
        } else {
            Closer::Heir
        };
        self.close_writer(Some(caller), &writer, closer)?;
        if writer.sync {
            self.ask(self.store.sync(&self.patient()))?;
        }
        Ok(())
    }

    /// Commits what was written, or refuses it, and brings everything committed to the disk.
    pub fn fsync(&self, caller: &Caller, fh: u64) -> Result<()> {
        match self.handles.get(fh)? {
            // In memory: the tool's own fsync of it promises nothing about the queue.
            Handle::Scratch { .. } | Handle::Text(..) => return Ok(()),
            Handle::Writer(writer) => self.close_writer(Some(caller), &writer, Closer::Opener)?,
            Handle::Reader(_) | Handle::Dir(_) => {}
        }
        self.ask(self.store.sync(&self.patient()))
            .inspect_err(|refusal| {
                self.report.refused(Some(caller), "fsync", "", refusal);
            })
    }

    /// The last close of all. A refusal can reach nobody any more: it is only reported.
    pub fn release(&self, fh: u64) {
        let ino = match self.handles.remove(fh) {
            Err(_) => return,
            Ok(Handle::Writer(writer)) => {
                self.release_writer(&writer);
                self.handles.remove_writer(&writer);
                writer.ino
            }
            Ok(Handle::Reader(reader)) => reader.ino,
            Ok(Handle::Scratch { file, .. }) => file.ino(),
            Ok(Handle::Text(..) | Handle::Dir(_)) => return,
        };
        self.inodes.let_go(ino);
    }

    /// The mount ends: every open file has its last close now.
    pub fn release_all(&self) {
        for fh in self.handles.all() {
            self.release(fh);
        }
    }

    fn release_writer(&self, writer: &Writer) {
        let refused = {
            let inner = writer.inner.lock();
            let empty_new = inner.opened == Opened::Absent && inner.draft.len() == 0;
            match &inner.refused {
                _ if empty_new => Some(
                    Refusal::new(Errno::EBADMSG, "the file is empty").hint("nothing was stored"),
                ),
                Some(refused) if !inner.draft.is_changed() && refused.incomplete => {
                    Some(refused.refusal.clone())
                }
                _ => None,
            }
        };
        if let Some(refusal) = refused {
            let mut inner = writer.inner.lock();
            self.report_refused(None, writer, &mut inner, &refusal);
        } else if writer.inner.lock().draft.is_changed() {
            // It reports by itself; nobody is left to be told.
            let _ = self.close_writer(None, writer, Closer::Heir);
            self.release_incomplete(writer);
        }
        self.asides
            .refused(writer.state, &writer.id, writer.opener.process);
    }

    /// An incomplete document that had its verdict just now, at the last close.
    fn release_incomplete(&self, writer: &Writer) {
        let mut inner = writer.inner.lock();
        if let Some(refused) = inner.refused.clone().filter(|refused| refused.incomplete) {
            self.report_refused(None, writer, &mut inner, &refused.refusal);
        }
    }

    fn close_writer(&self, caller: Option<&Caller>, writer: &Writer, closer: Closer) -> Result<()> {
        let mut inner = writer.inner.lock();
        let content = inner.to_judge(&writer.id);
        if let (Some(refused), false, Closer::Opener | Closer::Heir) =
            (&inner.refused, inner.draft.is_changed(), closer)
        {
            return Err(refused.refusal.clone());
        }
        let commit = |document, opened| Commit {
            id: &writer.id,
            state: writer.state,
            document,
            opened,
            process: writer.opener.process,
        };
        match on_close(closer, content) {
            Close::Nothing => Ok(()),
            Close::Commit(document) => {
                match self.commit(&commit(&document, inner.opened), Waiting::Alone) {
                    Ok(revision) => {
                        inner.draft.judged();
                        inner.refused = None;
                        inner.opened = Opened::At(revision);
                        Ok(())
                    }
                    Err(refusal) => {
                        // What may succeed later is no verdict: the next close tries again.
                        if matches!(refusal.errno, Errno::ESTALE | Errno::EEXIST) {
                            inner.judge(&refusal, false);
                        }
                        self.report_refused(caller, writer, &mut inner, &refusal);
                        Err(refusal)
                    }
                }
            }
            Close::Probe(document) => self
                .probe(&commit(&document, inner.opened))
                .inspect_err(|refusal| self.report_refused(caller, writer, &mut inner, refusal)),
            Close::Refuse(problem) => {
                let refusal = bad_document(&problem);
                inner.judge(&refusal, problem.incomplete);
                // An incomplete one may be completed yet: its line is written at the last close.
                if !problem.incomplete {
                    self.report_refused(caller, writer, &mut inner, &refusal);
                }
                Err(refusal)
            }
            Close::Warn(problem) => {
                let refusal = bad_document(&problem);
                self.report_refused(caller, writer, &mut inner, &refusal);
                Err(refusal)
            }
        }
    }

    /// Tells once of a refusal of these bytes, and keeps them readable for an hour.
    fn report_refused(
        &self,
        caller: Option<&Caller>,
        writer: &Writer,
        inner: &mut WriterInner,
        refusal: &Refusal,
    ) {
        if std::mem::replace(&mut inner.reported, true) {
            return;
        }
        let name = writer.id.file_name();
        let path = format!("{}/{name}", writer.state);
        self.report.refused(caller, "close", &path, refusal);
        self.keep_refused(writer.state, &name, inner.draft.bytes());
    }

    /// Keeps refused bytes as `NAME.refused`, if there is room.
    pub(super) fn keep_refused(&self, state: QueueState, name: &str, bytes: &[u8]) {
        if !bytes.is_empty() {
            let bytes = &bytes[..bytes.len().min(scratch::FILE_MAX as usize)];
            let name = format!("{name}.refused");
            let _ = self.scratches.create(state, name.as_ref(), bytes);
        }
    }
}

impl WriterInner {
    /// What a close has to judge: nothing where nothing changed since the last commit, and
    /// nothing in an empty new file.
    fn to_judge(&self, id: &MessageId) -> Option<Content> {
        let empty_new = self.opened == Opened::Absent && self.draft.len() == 0;
        let unchanged = !self.draft.is_changed() && self.refused.is_none();
        (!empty_new && !unchanged).then(|| self.draft.content(id))
    }

    /// The bytes changed: whatever was said of them is over.
    fn changed(&mut self, writer: &Writer) {
        writer.len.store(self.draft.len(), Ordering::Relaxed);
        self.refused = None;
        self.reported = false;
    }

    fn judge(&mut self, refusal: &Refusal, incomplete: bool) {
        self.draft.judged();
        self.refused = Some(Refused {
            refusal: refusal.clone(),
            incomplete,
        });
    }
}

/// What a new message must not be called.
pub(super) fn invalid_name() -> Refusal {
    Refusal::new(
        Errno::EINVAL,
        "the name is no message's: an ID has one name, percent-encoded",
    )
    .hint("/ % control characters and a leading dot are written as %2F and so on, in capitals")
}

fn draft_of(stored: &Stored, mode: OpenMode) -> Draft {
    let mut draft = Draft::of(document::render(&stored.metadata));
    if mode.truncate {
        draft.truncate(0);
    }
    draft
}

fn writer(
    caller: &Caller,
    ino: u64,
    id: &MessageId,
    state: QueueState,
    mode: OpenMode,
    opened: Opened,
    draft: Draft,
) -> Handle {
    Handle::Writer(Arc::new(Writer {
        ino,
        id: id.clone(),
        state,
        opener: Opener::of(caller),
        append: mode.append,
        sync: mode.sync,
        len: AtomicU64::new(draft.len()),
        inner: Mutex::new(WriterInner {
            draft,
            opened,
            refused: None,
            reported: false,
        }),
    }))
}
