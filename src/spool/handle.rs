//! Open files and directories.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::aside::Creation;
use super::caller::Opener;
use super::draft::Draft;
use super::error::{Refusal, Result};
use super::inode::PageUse;
use super::listing::Listing;
use super::removed::Removed;
use super::report::TextCursor;
use super::scratch::ScratchFile;
use super::tree::Text;
use crate::backend::Actor;
use crate::document::updated::Opened;
use crate::model::{MessageId, QueueState};

/// An open file description.
#[derive(Clone)]
pub enum Handle {
    /// A message opened for reading: one committed document.
    Reader(Arc<Reader>),
    /// A message opened for writing.
    Writer(Arc<Writer>),
    /// A scratch file; `append` for `O_APPEND`.
    Scratch {
        file: Arc<ScratchFile>,
        append: bool,
    },
    /// A control file.
    Text(Text, Arc<Mutex<TextCursor>>),
    /// A directory.
    Dir(Arc<Mutex<Listing>>),
}

/// A message's document as it was when it was opened.
pub struct Reader {
    pub ino: u64,
    pub document: Vec<u8>,
    /// Whether the kernel may keep it, and how.
    pub pages: PageUse,
}

/// A message's file opened for writing.
pub struct Writer {
    pub ino: u64,
    pub id: MessageId,
    /// The directory that it was opened in.
    pub state: QueueState,
    /// The process that opened it.
    pub opener: Opener,
    /// The same, as the store's log names it.
    pub actor: Actor,
    /// Whether it was opened with `O_APPEND`.
    pub append: bool,
    /// Whether what was closed is to be on disk (`O_SYNC`, `O_DSYNC`).
    pub sync: bool,
    /// The draft's length, readable while a commit is under way.
    pub len: AtomicU64,
    /// The creation of a name that looked free, if that is how it was opened.
    pub aside: Option<Creation>,
    /// Whether it created the file, and has not committed yet: the name stands for its draft,
    /// and there is nothing else that removing it could mean.
    pub uncommitted: AtomicBool,
    /// Whether the draft's name was removed: as with any unlinked file, what is written to it is
    /// lost when it is closed.
    pub dropped: AtomicBool,
    /// The message that the process removed before it created the file: stored again if what it
    /// writes is refused.
    pub replaces: Mutex<Option<Removed>>,
    pub inner: Mutex<WriterInner>,
}

impl Writer {
    /// Whether it created the file, and has not committed yet.
    pub fn is_uncommitted(&self) -> bool {
        self.uncommitted.load(Ordering::Relaxed) && !self.is_dropped()
    }

    /// Whether the draft's name was removed.
    pub fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Its path in the mount.
    pub fn path(&self) -> String {
        format!("{}/{}", self.state, self.id.file_name())
    }
}

/// What changes while it is open.
pub struct WriterInner {
    pub draft: Draft,
    /// What the next commit is made against.
    pub opened: Opened,
    /// The refusal of the bytes that are there now, and whether more bytes could mend them.
    pub refused: Option<Refused>,
    /// Whether a line in `errors` told of these very bytes.
    pub reported: bool,
}

/// The verdict on a draft that has not changed since.
#[derive(Clone)]
pub struct Refused {
    pub refusal: Refusal,
    /// More bytes could make the document legal.
    pub incomplete: bool,
    /// The same bytes may be accepted later: the store was busy, or full.
    pub may_pass: bool,
}

/// The handles of a mount, and who writes which message.
#[derive(Default)]
pub struct Handles {
    next: AtomicU64,
    table: RwLock<HashMap<u64, Handle>>,
    writers: Mutex<HashMap<u64, Vec<Arc<Writer>>>>,
}

impl Handles {
    /// Gives the handle a number.
    pub fn add(&self, handle: Handle) -> u64 {
        let fh = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        if let Handle::Writer(writer) = &handle {
            let mut writers = self.writers.lock();
            writers.entry(writer.ino).or_default().push(writer.clone());
        }
        self.table.write().insert(fh, handle);
        fh
    }

    /// The handle of that number.
    pub fn get(&self, fh: u64) -> Result<Handle> {
        let handle = self.table.read().get(&fh).cloned();
        handle.ok_or_else(Refusal::bad_handle)
    }

    /// The writer of that number, if the handle is one.
    pub fn writer(&self, fh: u64) -> Option<Arc<Writer>> {
        match self.table.read().get(&fh) {
            Some(Handle::Writer(writer)) => Some(writer.clone()),
            _ => None,
        }
    }

    /// Takes a number back.
    pub fn remove(&self, fh: u64) -> Result<Handle> {
        let handle = self.table.write().remove(&fh);
        handle.ok_or_else(Refusal::bad_handle)
    }

    /// A writer has had its last close.
    pub fn remove_writer(&self, writer: &Arc<Writer>) {
        let mut writers = self.writers.lock();
        if let Some(of_inode) = writers.get_mut(&writer.ino) {
            of_inode.retain(|other| !Arc::ptr_eq(other, writer));
            if of_inode.is_empty() {
                writers.remove(&writer.ino);
            }
        }
    }

    /// The latest writer of that inode for which `wanted` holds; it is asked only where there is
    /// one.
    pub fn writer_of(&self, ino: u64, wanted: impl Fn(&Writer) -> bool) -> Option<Arc<Writer>> {
        let of_inode = self.writers.lock().get(&ino).cloned()?;
        of_inode.into_iter().rev().find(|writer| wanted(writer))
    }

    /// A reader of that inode. Looks at every handle: it is asked for where a message went while
    /// it was open.
    pub fn reader_of(&self, ino: u64) -> Option<Arc<Reader>> {
        let table = self.table.read();
        table.values().find_map(|handle| match handle {
            Handle::Reader(reader) if reader.ino == ino => Some(reader.clone()),
            _ => None,
        })
    }

    /// Whether somebody has that inode open for writing.
    pub fn has_writer(&self, ino: u64) -> bool {
        self.writers.lock().contains_key(&ino)
    }

    /// Whether somebody has a file of that state's directory open for writing.
    pub fn writes_in(&self, state: QueueState) -> bool {
        let writers = self.writers.lock();
        writers
            .values()
            .flatten()
            .any(|writer| writer.state == state)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.table.read().len()
    }

    /// The numbers of all handles, for the end of the mount.
    pub fn all(&self) -> Vec<u64> {
        self.table.read().keys().copied().collect()
    }
}
