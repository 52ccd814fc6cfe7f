//! Undoing: from what the audit log tells to the changes that bring messages back.
//!
//! Of a message that was changed several times, the changes are undone from the newest one back,
//! as far as nobody else came between; the result is one change.

use std::collections::{HashMap, HashSet};

use super::Skip;
use crate::backend::{AuditEntry, AuditLog, AuditQuery, Backend, Context, Error, Proposal};
use crate::document;
use crate::model::{MessageId, MessageMetadata, QueueState, Revision, Timestamp};

/// How many entries are read together.
const AT_ONCE: usize = 10_000;

/// What is known of a change that may be undone.
#[derive(Clone, Copy, Debug)]
struct Past {
    seq: u64,
    before: Option<(QueueState, Revision)>,
    after: Option<(QueueState, Revision)>,
    has_document: bool,
}

impl Past {
    fn of(entry: &AuditEntry) -> Past {
        let change = &entry.change;
        Past {
            seq: change.seq,
            before: change.from.zip(entry.before),
            after: change.to.map(|to| (to, change.revision)),
            has_document: entry.has_document,
        }
    }
}

/// All that is to be undone: what it takes for each message, in the order in which they were first
/// changed. Its memory is some 200 bytes a change.
#[derive(Debug, Default)]
pub struct Plan {
    /// One a message.
    pub steps: Vec<Step>,
    /// How many changes they undo.
    pub changes: u64,
    /// Changes that somebody else's change follows, with the time of the newest one selected.
    pub overtaken: Vec<(MessageId, u64)>,
}

/// What undoes some changes of one message.
#[derive(Clone, Debug)]
pub struct Step {
    /// The message.
    pub id: MessageId,
    /// Where it is if nobody changed it since: state and revision, or gone.
    pub now: Option<(QueueState, Revision)>,
    /// The newest change that it undoes.
    newest: u64,
    /// Where it comes to be: a state, or gone.
    pub then: Option<QueueState>,
    /// The change whose old document it gets; `None` if it only moves.
    document: Option<u64>,
}

impl Plan {
    /// Reads what the query means. `ctx` makes the context of one page.
    pub fn read(
        log: &dyn AuditLog,
        query: &AuditQuery,
        ids: &[MessageId],
        ctx: impl Fn() -> Context,
    ) -> Result<Plan, Error> {
        let wanted: HashSet<&MessageId> = ids.iter().collect();
        let mut order: Vec<MessageId> = Vec::new();
        let mut pasts: HashMap<MessageId, Vec<Past>> = HashMap::new();
        let mut after = 0;
        loop {
            let page = log.entries(&ctx(), query, after, AT_ONCE)?;
            let is_last = page.len() < AT_ONCE;
            for entry in page {
                after = entry.change.seq;
                let past = Past::of(&entry);
                let id = entry.change.id;
                if !wanted.is_empty() && !wanted.contains(&id) {
                    continue;
                }
                match pasts.get_mut(&id) {
                    Some(of_it) => of_it.push(past),
                    None => {
                        order.push(id.clone());
                        pasts.insert(id, vec![past]);
                    }
                }
            }
            if is_last {
                break;
            }
        }
        let mut plan = Plan::default();
        for id in order {
            let of_it = pasts.remove(&id).unwrap_or_default();
            plan.add(id, &of_it);
        }
        Ok(plan)
    }

    /// Adds what undoes these changes of a message, given oldest first.
    fn add(&mut self, id: MessageId, pasts: &[Past]) {
        let Some(newest) = pasts.last() else { return };
        // Back as long as each change left what the next one found.
        let mut back = pasts.iter().rev();
        let mut oldest = newest;
        let mut document = None;
        let mut undone = 0;
        for past in back.by_ref() {
            if undone > 0 && past.after != oldest.before {
                self.overtaken.push((id.clone(), past.seq));
                break;
            }
            oldest = past;
            undone += 1;
            // The oldest document is what was there before all of them.
            document = past.has_document.then_some(past.seq).or(document);
        }
        self.overtaken
            .extend(back.map(|past| (id.clone(), past.seq)));
        self.changes += undone;
        self.steps.push(Step {
            id,
            newest: newest.seq,
            now: newest.after,
            then: oldest.before.map(|(state, _)| state),
            document: document.filter(|_| oldest.before.is_some()),
        });
    }
}

/// Whether removed messages came back and went again since: the store does not tell by itself, as
/// they are gone in both cases. It tells as far as the store's log of changes goes back.
#[derive(Debug)]
pub struct Since {
    /// The change that removed each, of those that are to be stored again.
    removed: HashMap<MessageId, u64>,
    /// Those that somebody stored after it.
    stored: HashSet<MessageId>,
    /// The newest change that was looked at.
    known: u64,
}

impl Since {
    /// For this plan; nothing is looked at yet.
    pub fn of(plan: &Plan) -> Since {
        let removed = plan.steps.iter().filter(|step| step.now.is_none());
        let removed: HashMap<_, _> = removed.map(|step| (step.id.clone(), step.newest)).collect();
        Since {
            known: removed.values().min().copied().unwrap_or_default(),
            removed,
            stored: HashSet::new(),
        }
    }

    /// Looks at the changes since the last look.
    pub fn look(&mut self, log: &dyn AuditLog, ctx: &Context) -> Result<(), Error> {
        if self.removed.is_empty() {
            return Ok(());
        }
        let (removed, stored) = (&self.removed, &mut self.stored);
        self.known = log.later(ctx, self.known, &mut |id, seq| {
            if removed.get(&id).is_some_and(|removed| seq > *removed) {
                stored.insert(id);
            }
        })?;
        Ok(())
    }

    /// Whether the step's message was stored again since, whatever became of it. What the step itself
    /// does counts as well.
    fn has_come_back(&self, step: &Step) -> bool {
        step.now.is_none() && self.stored.contains(&step.id)
    }
}

impl Step {
    /// The change that it takes; `None` if the message ends as it is. [`Skip`] if the log no longer
    /// has what it takes.
    pub fn propose(
        &self,
        store: &dyn Backend,
        log: &dyn AuditLog,
        since: &Since,
        ctx: &Context,
    ) -> Result<Result<Option<Proposal>, Skip>, Error> {
        let id = self.id.clone();
        let lost = |why: &str| Ok(Err(Skip::from(Error::Corrupt(why.into()))));
        let document = match self.document {
            None => None,
            Some(seq) => match self.old(log, ctx, seq)? {
                Some(metadata) => Some(metadata),
                None => return lost("the audit log has no document that can be read of it"),
            },
        };
        Ok(Ok(match (self.now, self.then, document) {
            (None, None, _) => None,
            (None, Some(_), _) if since.has_come_back(self) => {
                return Ok(Err(match store.locate(ctx, &self.id)? {
                    Some(state) => Error::AlreadyExists { state }.into(),
                    None => Skip::CameBack,
                }));
            }
            (Some((from, seen)), None, _) => Some(Proposal::Remove { id, from, seen }),
            // As it was, to the letter.
            (None, Some(state), Some(metadata)) => Some(Proposal::Restore {
                metadata: MessageMetadata { state, ..metadata },
                known: since.known,
            }),
            (None, Some(_), None) => return lost("the audit log has no document of it"),
            (Some((from, seen)), Some(state), Some(metadata)) => {
                let old = MessageMetadata { state, ..metadata };
                let stored = store.get(ctx, &self.id).ok().flatten();
                let is_so = stored.is_some_and(|stored| {
                    let updated = stored.metadata.updated;
                    stored.metadata
                        == MessageMetadata {
                            updated,
                            ..old.clone()
                        }
                });
                // If it is so already, another undo did it.
                (!is_so).then(|| Proposal::Replace {
                    from,
                    seen,
                    metadata: MessageMetadata {
                        updated: Timestamp::now(),
                        ..old
                    },
                })
            }
            (Some((from, _)), Some(to), None) if from == to => None,
            (Some((from, seen)), Some(to), None) => Some(Proposal::Move { id, from, seen, to }),
        }))
    }

    fn old(
        &self,
        log: &dyn AuditLog,
        ctx: &Context,
        seq: u64,
    ) -> Result<Option<MessageMetadata>, Error> {
        let text = log.old_document(ctx, seq)?;
        let document = text.and_then(|text| document::parse(text.as_bytes(), &self.id).ok());
        Ok(document.map(|document| {
            let updated = document.updated.unwrap_or_default();
            let state = document.state.unwrap_or(QueueState::Incoming);
            MessageMetadata {
                updated,
                ..document.into_new(self.id.clone(), state, updated)
            }
        }))
    }

    /// Whether the message still is as the changes left it; or why not.
    pub fn check(
        &self,
        store: &dyn Backend,
        since: &Since,
        ctx: &Context,
    ) -> Result<Result<(), Skip>, Error> {
        let stored = match store.get(ctx, &self.id) {
            Ok(stored) => stored,
            Err(error) if error.is_of_the_store() => return Err(error),
            Err(error) => return Ok(Err(error.into())),
        };
        Ok(match (self.now, stored) {
            (None, None) if since.has_come_back(self) => Err(Skip::CameBack),
            (None, None) => Ok(()),
            (None, Some(stored)) => Err(Error::AlreadyExists {
                state: stored.metadata.state,
            }
            .into()),
            (Some(_), None) => Err(Error::NotFound.into()),
            (Some((expected, _)), Some(stored)) if stored.metadata.state != expected => {
                Err(Error::StateConflict {
                    expected,
                    actual: stored.metadata.state,
                }
                .into())
            }
            (Some((_, seen)), Some(stored)) if stored.revision != seen => {
                Err(Error::StaleRevision {
                    current: stored.metadata.updated,
                }
                .into())
            }
            (Some(_), Some(_)) => Ok(()),
        })
    }
}
