//! Commits: a document that was written becomes one conditional write of the store.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use super::Spool;
use super::caller::Process;
use super::error::{self, Errno, Refusal, Result, Waiting};
use super::removed::Removed;
use crate::backend::{Context, Error};
use crate::document::updated::{self, Opened, Own, Verdict};
use crate::document::{Document, Problem};
use crate::model::{MessageId, QueueState, Revision, Timestamp};

/// A document and where it is written.
pub struct Commit<'a> {
    pub id: &'a MessageId,
    /// The directory.
    pub state: QueueState,
    pub document: &'a Document,
    pub opened: Opened,
    /// The message that the process removed to make this one.
    pub replaces: Option<&'a Removed>,
    pub process: Process,
}

impl Spool {
    /// Commits a document: reads what is stored, decides, and writes on the condition that nobody
    /// was faster; if somebody was, decides again. Gives the revision that is stored now.
    pub(super) fn commit(
        &self,
        commit: &Commit,
        ctx: &Context,
        waiting: Waiting,
    ) -> Result<Revision> {
        self.writable()?;
        let refuse = |error| error::refusal(error, waiting);
        loop {
            let (stored, verdict) = self.judge(commit, ctx).map_err(refuse)?;
            let (written, base) = match &verdict {
                Verdict::Nothing => {
                    self.asides.end(commit.state, commit.id, commit.process);
                    let revision = stored.map(|stored| stored.revision);
                    return Ok(revision.unwrap_or(Timestamp::now().into()));
                }
                Verdict::Insert(metadata) => (self.store.insert(ctx, metadata), None),
                Verdict::Replace(metadata) => {
                    let Some(stored) = stored else { continue };
                    let from = stored.metadata.state;
                    let written = self.store.replace(ctx, from, stored.revision, metadata);
                    (written, Some(stored.revision))
                }
                Verdict::Exists | Verdict::Stale => return Err(refused(&verdict, stored.as_ref())),
            };
            match written {
                Ok(made) => {
                    self.own.note(commit, base, made);
                    self.asides.end(commit.state, commit.id, commit.process);
                    return Ok(made);
                }
                Err(
                    Error::AlreadyExists { .. }
                    | Error::NotFound
                    | Error::StateConflict { .. }
                    | Error::StaleRevision { .. },
                ) if !ctx.expired() => {}
                Err(error) => return Err(refuse(error)),
            }
        }
    }

    /// Whether a commit would be refused now.
    pub(super) fn probe(&self, commit: &Commit) -> Result<()> {
        let (stored, verdict) = self.ask(self.judge(commit, &self.patient()))?;
        match verdict {
            Verdict::Exists | Verdict::Stale => Err(refused(&verdict, stored.as_ref())),
            Verdict::Nothing | Verdict::Insert(_) | Verdict::Replace(_) => Ok(()),
        }
    }

    fn judge(
        &self,
        commit: &Commit,
        ctx: &Context,
    ) -> crate::backend::Result<(Option<crate::model::Stored>, Verdict)> {
        let stored = self.store.get(ctx, commit.id)?;
        let write = updated::Write {
            id: commit.id,
            state: commit.state,
            document: commit.document,
            opened: commit.opened,
            own: self.own.of(commit),
            replaces: commit.replaces.map(|removed| removed.message.updated),
            now: Timestamp::now(),
        };
        let verdict = updated::decide(stored.as_ref(), &write, || {
            let proposed = commit.document.updated.unwrap_or_default();
            self.store.was_revision(ctx, commit.id, proposed)
        })?;
        Ok((stored, verdict))
    }
}

/// A message has that ID already.
pub(super) fn in_use(found: QueueState) -> Refusal {
    let reason = format!("the ID is in use: a message of this ID is in {found}");
    Refusal::new(Errno::EEXIST, reason)
}

/// The refusal of a document that is not legal.
pub(super) fn bad_document(problem: &Problem) -> Refusal {
    Refusal::new(Errno::EBADMSG, problem.to_string())
}

fn refused(verdict: &Verdict, stored: Option<&crate::model::Stored>) -> Refusal {
    match (verdict, stored) {
        (Verdict::Exists, Some(stored)) => in_use(stored.metadata.state),
        (_, Some(stored)) => {
            let (state, updated) = (stored.metadata.state, stored.revision.updated);
            let reason = format!(
                "the message was changed after this copy was read; it is in {state}, Updated {updated}"
            );
            Refusal::new(Errno::ESTALE, reason).hint(
                "read it again, or remove Updated from the document to overrule the other change",
            )
        }
        (_, None) => Refusal::new(
            Errno::ESTALE,
            "the message was deleted after this copy was read",
        )
        .hint("write the document under a new name to queue it again"),
    }
}

/// What processes made of messages themselves: the second `:w` of an editor still holds the first
/// Updated. The latest few thousand are remembered.
#[derive(Default)]
pub(super) struct OwnWrites {
    inner: Mutex<OwnInner>,
}

#[derive(Default)]
struct OwnInner {
    by_message: HashMap<MessageId, (Process, Own)>,
    order: VecDeque<MessageId>,
}

/// How many messages' last writers are remembered.
const OWN_MAX: usize = 4096;

impl OwnWrites {
    fn of(&self, commit: &Commit) -> Option<Own> {
        let inner = self.inner.lock();
        let (process, own) = inner.by_message.get(commit.id)?;
        (*process == commit.process).then_some(*own)
    }

    /// Whether that process made that revision.
    pub(super) fn is_own(&self, process: Process, id: &MessageId, revision: Revision) -> bool {
        let inner = self.inner.lock();
        let last = inner.by_message.get(id);
        last.is_some_and(|(made_by, own)| *made_by == process && own.made == revision)
    }

    /// The commit made that revision of the one before it, if there was one.
    fn note(&self, commit: &Commit, base: Option<Revision>, made: Revision) {
        let written = commit.document.updated;
        let copy = written.unwrap_or(base.unwrap_or(made).updated);
        let mut inner = self.inner.lock();
        let own = match inner.by_message.get(commit.id) {
            // Nobody else changed it in between, so what the process began with still counts:
            // the oldest copy. Otherwise an older copy would undo what somebody else did.
            Some((process, own)) if *process == commit.process && Some(own.made) == base => Own {
                made,
                copy: own.copy.min(copy),
            },
            Some(_) => Own { made, copy },
            None => {
                inner.order.push_back(commit.id.clone());
                Own { made, copy }
            }
        };
        inner
            .by_message
            .insert(commit.id.clone(), (commit.process, own));
        if inner.order.len() > OWN_MAX
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.by_message.remove(&oldest);
        }
    }
}
