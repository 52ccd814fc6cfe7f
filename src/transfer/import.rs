//! Documents of a file into a store.

use std::io::Read;

use super::export::Failed;
use super::{STEP, Watch, ctx, read};
use crate::backend::{Backend, Error, Proposal};
use crate::document::Document;
use crate::document::updated::{Opened, Verdict, Write, decide};
use crate::model::{MessageId, MessageMetadata, QueueState, Timestamp};

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Messages stored.
    pub stored: u64,
    /// Messages that were there already, and the same.
    pub same: u64,
    /// Entries that were not taken.
    pub refused: u64,
    /// Whether it was ended before its end.
    pub interrupted: bool,
}

/// Stores each document whose ID is in no state. One that is stored like that already is passed
/// over; any other is told of, and nothing changes.
pub fn import(
    store: &dyn Backend,
    input: impl Read,
    watch: &mut Watch<'_>,
) -> Result<Imported, Failed> {
    let mut import = Import {
        store,
        waiting: Vec::new(),
        done: Imported::default(),
    };
    let mut failed = None;
    read(input, &mut |entry| {
        if !(watch.going)() {
            import.done.interrupted = true;
            return Ok(false);
        }
        match entry.document {
            Ok((id, document)) => import.waiting.push((entry.place, id, document)),
            Err(why) => import.refuse(&entry.place, &why, watch),
        }
        if import.waiting.len() == STEP
            && let Err(error) = import.store(watch)
        {
            failed = Some(error);
            return Ok(false);
        }
        Ok(true)
    })
    // What came before a break in the file is stored.
    .map_err(|error| failed = failed.take().or(Some(error.into())))
    .unwrap_or(());
    if !(watch.going)() {
        import.done.interrupted = true;
        // A stream that ends for the interruption may end in the middle.
        failed = failed.filter(|failed| matches!(failed, Failed::Store(_)));
    }
    if !import.waiting.is_empty() && !matches!(failed, Some(Failed::Store(_))) {
        import.store(watch)?;
    }
    store.sync(&ctx())?;
    match failed {
        Some(failed) => Err(failed),
        None => Ok(import.done),
    }
}

struct Import<'a> {
    store: &'a dyn Backend,
    waiting: Vec<(String, MessageId, Document)>,
    done: Imported,
}

impl Import<'_> {
    fn refuse(&mut self, place: &str, why: &str, watch: &mut Watch<'_>) {
        self.done.refused += 1;
        (watch.trouble)(place, why);
    }

    /// Stores what waits.
    fn store(&mut self, watch: &mut Watch<'_>) -> Result<(), Failed> {
        let waiting = std::mem::take(&mut self.waiting);
        let now = Timestamp::now();
        let new: Vec<Proposal> = waiting
            .iter()
            .map(|(_, id, document)| {
                let state = document.state.unwrap_or(QueueState::Incoming);
                let given = document.updated.filter(|given| *given <= now);
                Proposal::Insert(MessageMetadata {
                    updated: given.unwrap_or(now),
                    ..document.clone().into_new(id.clone(), state, now)
                })
            })
            .collect();
        let answers = self.store.apply(&watch.ctx(), &new);
        for ((place, id, document), answer) in waiting.into_iter().zip(answers) {
            match answer {
                Ok(_) => self.done.stored += 1,
                Err(Error::AlreadyExists { state }) => match self.is_same(&id, &document)? {
                    true => self.done.same += 1,
                    false => {
                        let why = format!(
                            "{id} is in {state} already, and not as it is here; it was kept"
                        );
                        self.refuse(&place, &why, watch);
                    }
                },
                Err(error) if !error.is_of_the_store() => {
                    self.refuse(&place, &format!("{id}: {error}"), watch);
                }
                Err(error) => return Err(error.into()),
            }
        }
        (watch.done)(self.done.stored + self.done.same + self.done.refused);
        Ok(())
    }

    /// Whether the document changes nothing of what is stored.
    fn is_same(&self, id: &MessageId, document: &Document) -> Result<bool, Error> {
        let stored = match self.store.get(&ctx(), id) {
            Err(error) if !error.is_of_the_store() => return Ok(false),
            stored => stored?,
        };
        let Some(stored) = stored else {
            return Ok(false);
        };
        let write = Write {
            id,
            state: document.state.unwrap_or(stored.metadata.state),
            document,
            opened: Opened::Absent,
            own: None,
            replaces: None,
            now: Timestamp::now(),
        };
        let verdict = decide(Some(&stored), &write, || Ok::<_, Error>(false))?;
        Ok(verdict == Verdict::Nothing)
    }
}
