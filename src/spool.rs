//! The filesystem itself, without the kernel: what each operation on the tree does to the store.
//!
//! Owns: inodes, handles, drafts, scratch files, control files, and the translation of each
//! operation into one call of the store. Takes plain values and gives plain values or a
//! [`Refusal`].
//! May fail: every operation, with a refusal that names errno, reason and hint; it was reported
//! by then where a person should know of it.
//! Must not know: the kernel's replies, SQL.
//!
//! Invariants: the store decides every change in one conditional write, and nothing that can
//! fail comes after it; no cache is believed for an action; no lock but an open file's own is
//! held across a call of the store.

use std::path::PathBuf;
use std::time::Duration;

use crate::backend::{Backend, Context, Space};
use crate::model::{QueueState, Timestamp};

mod ahead;
mod aside;
mod attr;
mod cache;
mod caller;
mod close;
mod commit;
mod draft;
mod error;
mod file;
mod follow;
mod handle;
mod inode;
mod listing;
mod lookup;
mod metrics;
mod namespace;
mod number;
mod operations;
mod recent;
mod removed;
mod rendered;
mod repeats;
mod report;
mod scratch;
mod status;
mod survey;
mod tree;
mod xattr;

pub use attr::{Attr, Ownership};
pub use cache::{Invalidator, UNTOLD, VALID, Validity};
pub use caller::{Caller, Process};
pub use draft::{Close, Closer, Content, Draft, on_close};
pub use error::{Errno, Refusal, Result, Waiting, refusal};
pub use file::OpenMode;
pub use follow::Follower;
pub use inode::PageUse;
pub use listing::{DirEntry, Sink};
pub use namespace::RenameFlags;
pub use number::number_of;
pub use operations::{Counted, Operation, Operations};
pub use report::Wake;
pub use tree::CONTROL;

use ahead::ReadAhead;
use aside::Asides;
use cache::Cache;
use commit::OwnWrites;
use handle::Handles;
use inode::Inodes;
use removed::Removals;
use rendered::Rendered;
use report::Report;
use scratch::Scratches;
use survey::Survey;

/// How long an operation waits for the store where nobody else has to wait for it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What a mount may be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the store is, for people.
    pub source: String,
    /// Nothing may be changed through this mount.
    pub read_only: bool,
    /// `rm` of a message is refused.
    pub no_delete: bool,
    /// The directory of the state `archived` is shown.
    pub archived: bool,
    /// Who owns messages and directories.
    pub ownership: Ownership,
    /// Who owns the control files: user and group of the mount's own process.
    pub control_owner: (u32, u32),
    /// How long an operation under a directory's lock waits for the store.
    pub busy_timeout: Duration,
    /// Where scratch files are put that would be lost otherwise.
    pub scratch_dir: Option<PathBuf>,
}

impl Options {
    /// The states that have a directory.
    pub fn states(&self) -> impl Iterator<Item = QueueState> + use<> {
        let archived = self.archived;
        QueueState::ALL
            .into_iter()
            .filter(move |state| archived || *state != QueueState::Archived)
    }
}

/// A mounted spool.
pub struct Spool {
    store: Box<dyn Backend>,
    options: Options,
    inodes: Inodes,
    handles: Handles,
    scratches: Scratches,
    asides: Asides,
    removals: Removals,
    own: OwnWrites,
    report: Report,
    cache: Cache,
    rendered: Rendered,
    operations: Operations,
    survey: Survey,
    ahead: ReadAhead<listing::Next, Vec<listing::Item>>,
    started: Timestamp,
}

/// What statfs(2) shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// How many messages there are in the states shown.
    pub messages: u64,
    /// The disk that the store is on.
    pub space: Space,
}

impl Spool {
    /// The filesystem of a store.
    pub fn new(store: Box<dyn Backend>, options: Options) -> Spool {
        Spool {
            store,
            options,
            inodes: Inodes::default(),
            handles: Handles::default(),
            scratches: Scratches::default(),
            asides: Asides::default(),
            removals: Removals::default(),
            own: OwnWrites::default(),
            report: Report::default(),
            cache: Cache::default(),
            rendered: Rendered::default(),
            operations: Operations::default(),
            survey: Survey::default(),
            ahead: ReadAhead::default(),
            started: Timestamp::now(),
        }
    }

    /// Puts on disk what scratch files nobody touched for an hour, puts messages back that are
    /// owed, tells who hid a message by mistake, and goes on counting for the metrics. To be
    /// called about once a second.
    pub fn tidy(&self) {
        self.inodes.shrink();
        self.report.tell_repeats();
        self.survey_a_little();
        self.settle_removals();
        self.rescue_scratch_files(Some(scratch::IDLE));
        for (id, line) in self.asides.expired() {
            // Who removed it since has nothing to be told.
            if matches!(self.store.locate(&self.patient(), &id), Ok(Some(_))) {
                self.report.note(&line);
            }
        }
    }

    /// Looks for what other programs changed past the store's notice, beside everything else, for
    /// as long as `going` says so. The feed tells of what it finds.
    pub fn recount(&self, going: &dyn Fn() -> bool) {
        // It pauses more than it reads: a large store takes minutes.
        let ctx = Context::within(Duration::from_secs(24 * 3600));
        match self.store.recount(&ctx, going) {
            Ok(0) => {}
            Ok(count) => self.report.note(&format!(
                "{count} changes had gone past the store's triggers, and are counted now"
            )),
            Err(error) => {
                tracing::warn!(target: "retryspoolfs", "the messages can't be counted again: {error}");
            }
        }
    }

    /// Ends the mount: scratch files that hold bytes are put on disk, and the store is closed.
    pub fn close(&self) {
        self.rescue_removals();
        self.rescue_scratch_files(None);
        if let Err(error) = self.store.close() {
            tracing::error!(target: "retryspoolfs", "close of the spool: {error}");
        }
    }

    /// How many messages there are, and the disk.
    pub fn usage(&self) -> Result<Usage> {
        let ctx = self.patient();
        let mut messages = 0;
        for state in self.options.states() {
            messages += self.ask(self.store.state_info(&ctx, state))?.count;
        }
        let space = self.ask(self.store.space())?;
        Ok(Usage { messages, space })
    }

    /// Where operations are counted by whoever answers them.
    pub fn operations(&self) -> &Operations {
        &self.operations
    }

    /// How many inodes the kernel or an open file knows, the fixed ones apart.
    pub fn inode_count(&self) -> usize {
        self.inodes.count()
    }

    fn rescue_scratch_files(&self, idle: Option<Duration>) {
        let Some(dir) = &self.options.scratch_dir else {
            return;
        };
        for (name, written) in self.scratches.rescue(dir, idle) {
            match written {
                Ok(path) => {
                    let path = path.display();
                    self.report
                        .note(&format!("scratch file {name} was written to {path}"));
                }
                Err(error) => {
                    let dir = dir.display();
                    let line = format!("scratch file {name} can't be written to {dir}: {error}");
                    self.report.note(&line);
                }
            }
        }
    }

    /// For operations that nobody else has to wait for.
    fn patient(&self) -> Context {
        Context::within(PATIENCE)
    }

    /// For operations that the kernel makes under a directory's lock.
    fn hurried(&self) -> Context {
        Context::within(self.options.busy_timeout)
    }

    /// The store's answer to an operation with [`patient`](Self::patient).
    fn ask<T>(&self, answer: crate::backend::Result<T>) -> Result<T> {
        answer.map_err(|error| error::refusal(error, Waiting::Alone))
    }

    fn writable(&self) -> Result<()> {
        if self.options.read_only {
            return Err(Refusal::new(Errno::EROFS, "the mount is read-only"));
        }
        Ok(())
    }
}
