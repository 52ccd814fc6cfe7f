//! Closes: when a writer's bytes become a message, and who is told when they don't.
//!
//! Owns: the table of closes, applied to an open file; the verdict on a draft.
//! May fail: with a refusal that was reported once for the bytes it is about.
//!
//! A refusal that time may heal (a busy store, a full disk) is tried again by a later close or
//! fsync of the same bytes. The last close of all never does: somebody was told by then that
//! nothing was stored, and so it stays.

use std::sync::atomic::Ordering;

use super::caller::Caller;
use super::commit::{Commit, bad_document};
use super::draft::{Close, Closer, Content, on_close};
use super::error::{Errno, Refusal, Result, Waiting};
use super::handle::{Handle, Refused, Writer, WriterInner};
use super::{Spool, scratch};
use crate::document::updated::Opened;
use crate::model::{MessageId, NAME_MAX, QueueState};

/// Who closes, and what the operation is called where it is refused.
#[derive(Clone, Copy)]
pub(super) struct Closing<'a> {
    pub operation: &'static str,
    /// `None` where the kernel does not say.
    pub caller: Option<&'a Caller>,
    pub closer: Closer,
}

impl<'a> Closing<'a> {
    /// The last close of all, of which only a log can be told.
    const LAST: Closing<'static> = Closing {
        operation: "close",
        caller: None,
        closer: Closer::Heir,
    };

    /// The process that opened the file, or someone in its place.
    pub fn by_opener(operation: &'static str, caller: &'a Caller) -> Closing<'a> {
        Closing {
            operation,
            caller: Some(caller),
            closer: Closer::Opener,
        }
    }
}

impl Spool {
    /// One close of one descriptor: the table of closes decides ([`on_close`]).
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
        let closing = Closing {
            operation: "close",
            caller: Some(caller),
            closer,
        };
        self.close_writer(&writer, closing)?;
        if writer.sync {
            self.sync(caller, "close", || writer.path())?;
        }
        Ok(())
    }

    /// Commits what was written, or refuses it, and brings everything committed to the disk.
    pub fn fsync(&self, caller: &Caller, fh: u64) -> Result<()> {
        let path = match self.handles.get(fh)? {
            // In memory: the tool's own fsync of it promises nothing about the queue.
            Handle::Scratch { .. } | Handle::Text(..) => return Ok(()),
            Handle::Writer(writer) => {
                self.close_writer(&writer, Closing::by_opener("fsync", caller))?;
                writer.path()
            }
            Handle::Reader(reader) => self.path_of_inode(reader.ino),
            Handle::Dir(_) => String::new(),
        };
        self.sync(caller, "fsync", || path)
    }

    /// Brings everything committed so far to the disk.
    pub(super) fn sync(
        &self,
        caller: &Caller,
        operation: &str,
        path: impl FnOnce() -> String,
    ) -> Result<()> {
        self.ask(self.store.sync(&self.patient()))
            .inspect_err(|refusal| {
                self.report
                    .refused(Some(caller), operation, &path(), refusal);
            })
    }

    /// The writer's last close. A refusal can reach nobody any more: it is only reported.
    pub(super) fn release_writer(&self, writer: &Writer) {
        if writer.inner.lock().draft.is_changed() {
            // It reports by itself.
            let _ = self.close_writer(writer, Closing::LAST);
        }
        let mut inner = writer.inner.lock();
        let untold = if writer.is_dropped() {
            None
        } else if inner.is_empty_new() {
            let empty = Refusal::new(Errno::EBADMSG, "the file is empty");
            Some(empty.hint("nothing was stored"))
        } else {
            let incomplete = inner.refused.as_ref().filter(|refused| refused.incomplete);
            incomplete.map(|refused| refused.refusal.clone())
        };
        if let Some(refusal) = untold {
            self.report_refused(writer, &mut inner, Closing::LAST, &refusal);
        }
        if writer.is_uncommitted() {
            self.asides.abandoned(writer);
            self.put_back_of(writer, &mut inner);
        }
    }

    pub(super) fn close_writer(&self, writer: &Writer, closing: Closing) -> Result<()> {
        let mut inner = writer.inner.lock();
        if writer.is_dropped() {
            return Ok(());
        }
        let is_verdict = matches!(closing.closer, Closer::Opener | Closer::Heir);
        let lasting = inner.refused.as_ref().filter(|refused| !refused.may_pass);
        if let Some(refused) = lasting.filter(|_| is_verdict) {
            return Err(refused.refusal.clone());
        }
        let content = inner.to_judge(&writer.id);
        let replaces = writer.replaces.lock().clone();
        let commit = |document, opened| Commit {
            id: &writer.id,
            state: writer.state,
            document,
            opened,
            replaces: replaces.as_ref(),
            process: writer.opener.process,
        };
        match on_close(closing.closer, content) {
            Close::Nothing => Ok(()),
            Close::Commit(document) => {
                let commit = commit(&document, inner.opened);
                let ctx = self.patient().by(writer.actor.clone());
                match self.commit(&commit, &ctx, Waiting::Alone) {
                    Ok(revision) => {
                        inner.draft.judged();
                        inner.refused = None;
                        inner.opened = Opened::At(revision);
                        writer.uncommitted.store(false, Ordering::Relaxed);
                        writer.replaces.lock().take();
                        Ok(())
                    }
                    Err(refusal) => {
                        self.verdict(writer, &mut inner, &refusal, false);
                        self.report_refused(writer, &mut inner, closing, &refusal);
                        Err(refusal)
                    }
                }
            }
            Close::Probe(document) => self
                .probe(&commit(&document, inner.opened))
                .inspect_err(|refusal| self.report_refused(writer, &mut inner, closing, refusal)),
            Close::Refuse(problem) => {
                let refusal = bad_document(&problem);
                self.verdict(writer, &mut inner, &refusal, problem.incomplete);
                // An incomplete one may be completed yet: its line is written at the last close.
                if !problem.incomplete {
                    self.report_refused(writer, &mut inner, closing, &refusal);
                }
                Err(refusal)
            }
            Close::Warn(problem) => {
                let refusal = bad_document(&problem);
                self.report_refused(writer, &mut inner, closing, &refusal);
                Err(refusal)
            }
        }
    }

    /// The only close of a file that nobody else has: an incomplete document stays so.
    pub(super) fn close_at_once(&self, writer: &Writer, closing: Closing) -> Result<()> {
        self.close_writer(writer, closing).inspect_err(|refusal| {
            self.report_refused(writer, &mut writer.inner.lock(), closing, refusal);
        })
    }

    /// The verdict on the bytes that are there now: refused.
    fn verdict(
        &self,
        writer: &Writer,
        inner: &mut WriterInner,
        refusal: &Refusal,
        incomplete: bool,
    ) {
        let lasting = matches!(
            refusal.errno,
            Errno::EBADMSG | Errno::ESTALE | Errno::EEXIST
        );
        inner.draft.judged();
        inner.refused = Some(Refused {
            refusal: refusal.clone(),
            incomplete,
            may_pass: !lasting,
        });
        // An editor removes now what it created, and puts its backup back, before the last close.
        if writer.is_uncommitted() {
            self.asides.refused(writer);
            self.put_back_of(writer, inner);
        }
    }

    /// The message that the process removed before it created the file is stored again. What it
    /// writes from then on would change that message.
    fn put_back_of(&self, writer: &Writer, inner: &mut WriterInner) {
        let Some(removed) = writer.replaces.lock().take() else {
            return;
        };
        let ctx = self.patient().by(writer.actor.clone());
        if let Some(revision) = self.put_back(removed, &ctx) {
            inner.opened = Opened::At(revision);
        }
    }

    /// Tells once of a refusal of these bytes, and keeps them readable for an hour.
    fn report_refused(
        &self,
        writer: &Writer,
        inner: &mut WriterInner,
        closing: Closing,
        refusal: &Refusal,
    ) {
        if std::mem::replace(&mut inner.reported, true) {
            return;
        }
        let (operation, path) = (closing.operation, writer.path());
        self.report
            .refused(closing.caller, operation, &path, refusal);
        self.keep_refused(writer.state, &writer.id, inner.draft.bytes());
    }

    /// Keeps refused bytes as `NAME.refused`, if there is room to spare.
    pub(super) fn keep_refused(&self, state: QueueState, id: &MessageId, bytes: &[u8]) {
        const SUFFIX: &str = ".refused";
        if bytes.is_empty() {
            return;
        }
        let bytes = &bytes[..bytes.len().min(scratch::FILE_MAX as usize)];
        let mut name = id.file_name();
        // A long name loses its end, so that the suffix fits.
        while name.len() + SUFFIX.len() > NAME_MAX {
            name.pop();
        }
        name.push_str(SUFFIX);
        let _ = self.scratches.create_spare(state, name.as_ref(), bytes);
    }
}

impl WriterInner {
    /// What a close has to judge: nothing where nothing changed since the last commit, and
    /// nothing in an empty new file.
    fn to_judge(&self, id: &MessageId) -> Option<Content> {
        let unchanged = !self.draft.is_changed() && self.refused.is_none();
        (!self.is_empty_new() && !unchanged).then(|| self.draft.content(id))
    }

    fn is_empty_new(&self) -> bool {
        self.opened == Opened::Absent && self.draft.is_empty()
    }

    /// The bytes changed: whatever was said of them is over.
    pub(super) fn changed(&mut self, writer: &Writer) {
        writer.len.store(self.draft.len(), Ordering::Relaxed);
        self.refused = None;
        self.reported = false;
    }
}
