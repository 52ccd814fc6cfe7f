//! Open files: opening, creating, reading, writing. What closes do is in `close`.
//!
//! It is long because each of these has its answer for each kind of file, to be read side by side.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use parking_lot::Mutex;

use super::aside::Creation;
use super::attr::{Attr, Brief};
use super::caller::{Caller, Opener};
use super::close::Closing;
use super::commit::in_use;
use super::draft::Draft;
use super::error::{self, Errno, Refusal, Result, Waiting};
use super::handle::{Handle, Reader, Writer, WriterInner};
use super::inode::{self, Node, PageUse};
use super::removed::Removed;
use super::report::{TextCursor, Wake};
use super::scratch::ScratchFile;
use super::tree::{Dir, Fixed, Target, Text};
use super::{Spool, scratch};
use crate::backend::Error;
use crate::document;
use crate::document::updated::Opened;
use crate::model::{MessageId, QueueState, Stored, Timestamp};

/// The least page of the kernel's caches, in bytes.
const PAGE: usize = 4096;
/// How long a writer waits for those who read the kernel's pages of its file.
const READERS_END: Duration = Duration::from_millis(100);

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
        self.open_quietly(caller, ino, mode).inspect_err(|refusal| {
            // A file that went since its name was looked up is no news.
            if !matches!(refusal.errno, Errno::ENOENT | Errno::ESTALE) {
                let path = self.path_of_inode(ino);
                self.report.refused(Some(caller), "open", &path, refusal);
            }
        })
    }

    fn open_quietly(&self, caller: &Caller, ino: u64, mode: OpenMode) -> Result<u64> {
        let handle = match (Fixed::of(ino), self.inodes.get(ino)) {
            (Some(Fixed::Text(text)), _) => Self::open_text(text, mode)?,
            (Some(Fixed::Snapshot(which)), _) => {
                read_only(mode)?;
                let document = self.snapshot(which)?;
                let pages = PageUse::Past;
                Handle::Reader(Arc::new(Reader {
                    ino,
                    document: document.into(),
                    pages,
                }))
            }
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
            (None, None) => return Err(Refusal::gone()),
        };
        Ok(self.keep(ino, handle))
    }

    fn open_text(text: Text, mode: OpenMode) -> Result<Handle> {
        read_only(mode)?;
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
        if !mode.write
            && let Some((mark, document)) = self.rendered.get(ino)
            && self.is_settled(id)
        {
            let reader = self.reader(ino, mark, document, true);
            return Ok(Handle::Reader(Arc::new(reader)));
        }
        let read = self.cache.reading();
        let stored = self.ask(self.store.get(&self.patient(), id))?;
        let Some(stored) = stored else {
            return self.open_draft(caller, ino, id, state, mode);
        };
        if !mode.write {
            let document: Arc<[u8]> = document::render(&stored.metadata).into();
            let mark = inode::mark(stored.revision);
            let is_current = || self.cache.reading() == read;
            self.rendered.keep(ino, mark, document.clone(), is_current);
            let reader = self.reader(ino, mark, document, self.is_settled(id));
            return Ok(Handle::Reader(Arc::new(reader)));
        }
        self.writable()?;
        if stored.metadata.state != state {
            return Err(self.went(caller, ino, state));
        }
        let draft = draft_of(&stored, mode);
        let opened = Opened::At(stored.revision);
        let writer = writer(
            caller,
            (ino, id, state),
            mode,
            opened,
            draft,
            Origin::default(),
        );
        Ok(Handle::Writer(writer))
    }

    /// Opens once more, for writing, what the caller has created and not committed. Its last close
    /// reaches this side later than its close: `echo > x.json` twice in one shell.
    fn open_draft(
        &self,
        caller: &Caller,
        ino: u64,
        id: &MessageId,
        state: QueueState,
        mode: OpenMode,
    ) -> Result<Handle> {
        let first = self.own_writer(caller, ino, |writer| {
            writer.state == state && writer.is_uncommitted()
        });
        let first = first.filter(|_| mode.write);
        let first = first.ok_or_else(|| self.went(caller, ino, state))?;
        let bytes = first.inner.lock().draft.bytes().to_vec();
        let draft = cut(Draft::of(bytes), mode);
        let origin = Origin {
            created: true,
            aside: None,
            removed: self.removals.take(id, caller),
        };
        let of = (ino, id, state);
        let writer = writer(caller, of, mode, Opened::Absent, draft, origin);
        Ok(Handle::Writer(writer))
    }

    /// The refusal of a message that is not there any more. A name that a lookup would still find,
    /// because the caller has it open, is not to be looked up again.
    fn went(&self, caller: &Caller, ino: u64, state: QueueState) -> Refusal {
        let is_found = |writer: &Writer| writer.state == state && !writer.is_dropped();
        match self.own_writer(caller, ino, is_found) {
            Some(_) => Refusal::not_found(),
            None => Refusal::gone(),
        }
    }

    /// A handle that reads the document of the revision with that mark; `settled` if the message
    /// did not change lately.
    fn reader(&self, ino: u64, mark: u64, document: Arc<[u8]>, settled: bool) -> Reader {
        let mut pages = PageUse::Past;
        // Each page by itself is whole, so only a document of one page is never mixed.
        if document.len() <= PAGE && settled {
            pages = self.inodes.open_pages(ino, mark, document.len() as u64);
        }
        // Looked at after the pages are held: either the writer finds them held, or it is found.
        if pages != PageUse::Past && self.handles.has_writer(ino) {
            self.inodes.close_pages(ino);
            pages = PageUse::Past;
        }
        Reader {
            ino,
            document,
            pages,
        }
    }

    /// What a handle may do with the kernel's pages.
    pub fn page_use(&self, fh: u64) -> PageUse {
        match self.handles.get(fh) {
            Ok(Handle::Reader(reader)) => reader.pages,
            _ => PageUse::Past,
        }
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
                let file = match self.scratches.find(state, name, caller) {
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
        let stored = self.stored_for_create(state, id)?;
        let aside = self.asides.create(state, id, caller);
        let creation = aside.map(|(_, creation)| creation);
        let (opened, draft, brief) = match (&stored, aside) {
            (_, Some((revision, _))) => (Opened::At(revision), Draft::default(), None),
            (None, None) => (Opened::Absent, Draft::default(), None),
            (Some(stored), None) => {
                let found = stored.metadata.state;
                if found != state || mode.exclusive {
                    return Err(in_use(found));
                }
                let brief = Some(Brief::of(stored));
                (Opened::At(stored.revision), draft_of(stored, mode), brief)
            }
        };
        let origin = match brief {
            Some(_) => Origin::default(),
            None => Origin {
                created: true,
                aside: creation,
                removed: self.removals.take(id, caller),
            },
        };
        let ino = self.inodes.look_up(id, state);
        let writer = writer(caller, (ino, id, state), mode, opened, draft, origin);
        let brief = brief.unwrap_or_else(|| Brief::of_bytes(0, Timestamp::now()));
        // A name that is not committed may go any moment, and its size is the writer's alone.
        let attr = self.message_attr(ino, brief, Some(&writer), self.cache.reading());
        let attr = attr.valid(Duration::ZERO, Duration::ZERO);
        let fh = self.keep(ino, Handle::Writer(writer));
        Ok((attr, fh))
    }

    /// What is stored under an ID that is to be created in that directory.
    fn stored_for_create(&self, state: QueueState, id: &MessageId) -> Result<Option<Stored>> {
        let ctx = self.hurried();
        let under_lock = |error| error::refusal(error, Waiting::UnderDirectoryLock);
        match self.store.get(&ctx, id) {
            // What can't be read has its ID all the same.
            Err(corrupt @ Error::Corrupt(_)) => match self.store.locate(&ctx, id) {
                Ok(Some(found)) if found != state => Err(in_use(found)),
                _ => Err(under_lock(corrupt)),
            },
            stored => stored.map_err(under_lock),
        }
    }

    fn keep(&self, ino: u64, handle: Handle) -> u64 {
        self.inodes.hold(ino);
        let is_writer = matches!(handle, Handle::Writer(_));
        let fh = self.handles.add(handle);
        if is_writer {
            // The kernel has one length for an inode, and a writer's changes it: those who read
            // through its pages, which takes them no time, are let finish.
            self.inodes.wait_for_pages(ino, READERS_END);
        }
        fh
    }

    /// Whether the closes of a handle have to be told: they are judged.
    pub fn is_judged_at_close(&self, fh: u64) -> bool {
        self.handles.writer(fh).is_some()
    }

    /// At most `size` bytes from `offset` on; fewer only at the end.
    pub fn read(&self, fh: u64, offset: u64, size: usize) -> Result<Vec<u8>> {
        match self.handles.get(fh)? {
            Handle::Reader(reader) => {
                if reader.pages == PageUse::Fresh {
                    self.inodes.pages_heard(reader.ino);
                }
                Ok(scratch::slice(&reader.document, offset, size).to_vec())
            }
            Handle::Writer(writer) => Ok(writer.inner.lock().draft.read(offset, size).to_vec()),
            Handle::Scratch { file, .. } => Ok(file.read(offset, size)),
            Handle::Text(text, cursor) => Ok(cursor.lock().read(self.text(text), offset, size)),
            Handle::Dir(_) => Err(Refusal::bad_handle()),
        }
    }

    /// Whether a read would give something at once, of what has to be waited for: the text of a
    /// control file. If `wake` is given, it is called once there is more.
    pub fn poll(&self, fh: u64, wake: Option<Wake>) -> Result<bool> {
        match self.handles.get(fh)? {
            Handle::Text(text, cursor) => Ok(cursor.lock().poll(self.text(text), fh, wake)),
            _ => Ok(true),
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
            Handle::Scratch { file, append } => {
                let written = file.write((!append).then_some(offset), data);
                written.inspect_err(|refusal| self.report_scratch("write", &file, refusal))
            }
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
            Some(Node::Scratch(file)) => file
                .truncate(size)
                .inspect_err(|refusal| self.report_scratch("truncate", &file, refusal)),
            Some(Node::Message(..)) => self.truncate_by_path(caller, ino, size),
            None if Fixed::of(ino).is_some() => {
                Err(Refusal::new(Errno::EPERM, "control files can't be written"))
            }
            None => Err(Refusal::not_found()),
        }
    }

    /// truncate(2): as if opened, cut and closed.
    fn truncate_by_path(&self, caller: &Caller, ino: u64, size: u64) -> Result<()> {
        let mode = OpenMode {
            write: true,
            ..OpenMode::default()
        };
        let fh = self.open(caller, ino, mode)?;
        let cut = self.truncate(caller, ino, Some(fh), size);
        let closed = cut.and_then(|()| {
            self.handles.writer(fh).map_or(Ok(()), |writer| {
                self.close_at_once(&writer, Closing::by_opener("truncate", caller))
            })
        });
        self.release(fh);
        closed
    }

    /// A scratch file that has no room tells so under its name, if it still has one.
    fn report_scratch(&self, operation: &str, file: &Arc<ScratchFile>, refusal: &Refusal) {
        let path = self.scratches.path_of(file);
        self.report.refused(None, operation, &path, refusal);
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
            Ok(Handle::Reader(reader)) => {
                if reader.pages != PageUse::Past {
                    self.inodes.close_pages(reader.ino);
                }
                reader.ino
            }
            Ok(Handle::Scratch { file, .. }) => {
                self.inodes.let_go(file.ino());
                return self.discard_if_unused(&file);
            }
            Ok(Handle::Text(text, _)) => return self.text(text).forget(fh),
            Ok(Handle::Dir(_)) => return,
        };
        self.inodes.let_go(ino);
    }

    /// A scratch file that has neither a name nor a handle takes no room.
    pub(super) fn discard_if_unused(&self, file: &Arc<ScratchFile>) {
        if !self.inodes.is_open(file.ino()) && !self.scratches.is_named(file) {
            file.discard();
        }
    }

    /// The mount ends: every open file has its last close now.
    pub fn release_all(&self) {
        for fh in self.handles.all() {
            self.release(fh);
        }
    }
}

/// How a control file may be opened.
fn read_only(mode: OpenMode) -> Result<()> {
    match mode.write {
        true => Err(Refusal::new(Errno::EPERM, "control files can't be written")),
        false => Ok(()),
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
    cut(Draft::of(document::render(&stored.metadata)), mode)
}

fn cut(mut draft: Draft, mode: OpenMode) -> Draft {
    if mode.truncate {
        draft.truncate(0);
    }
    draft
}

/// How a writer came to its file.
#[derive(Default)]
struct Origin {
    /// It was made; otherwise it was there.
    created: bool,
    /// It was made where a message was set aside.
    aside: Option<Creation>,
    /// It was made where the same process removed a message.
    removed: Option<Removed>,
}

fn writer(
    caller: &Caller,
    (ino, id, state): (u64, &MessageId, QueueState),
    mode: OpenMode,
    opened: Opened,
    draft: Draft,
    origin: Origin,
) -> Arc<Writer> {
    Arc::new(Writer {
        ino,
        id: id.clone(),
        state,
        opener: Opener::of(caller),
        actor: caller.actor(),
        append: mode.append,
        sync: mode.sync,
        len: AtomicU64::new(draft.len()),
        aside: origin.aside,
        uncommitted: AtomicBool::new(origin.created),
        dropped: AtomicBool::new(false),
        replaces: Mutex::new(origin.removed),
        inner: Mutex::new(WriterInner {
            draft,
            opened,
            refused: None,
            reported: false,
        }),
    })
}
