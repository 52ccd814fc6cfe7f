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
                Err(Error::AlreadyExists { state }) => match self.differs(&id, &document, state)? {
                    None => self.done.same += 1,
                    Some(why) => self.refuse(&place, &format!("{id} {why}"), watch),
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

    /// Why the document is not taken, of which a message was in the way; nothing if it is stored like
    /// that. What was in the way may be elsewhere by now.
    fn differs(
        &self,
        id: &MessageId,
        document: &Document,
        was: QueueState,
    ) -> Result<Option<String>, Error> {
        let stored = match self.store.get(&ctx(), id) {
            Ok(Some(stored)) => stored,
            // Somebody delivered or removed it, and may not want it again.
            Ok(None) => {
                let why =
                    format!("was in {was} already, and is gone since; it was not stored again");
                return Ok(Some(why));
            }
            Err(error) if error.is_of_the_store() => return Err(error),
            Err(error) => {
                let why =
                    format!("is in {was} already, and can't be compared: {error}; it was kept");
                return Ok(Some(why));
            }
        };
        let state = stored.metadata.state;
        let write = Write {
            id,
            state: document.state.unwrap_or(state),
            document,
            opened: Opened::Absent,
            own: None,
            replaces: None,
            now: Timestamp::now(),
        };
        let verdict = decide(Some(&stored), &write, || Ok::<_, Error>(false))?;
        Ok((verdict != Verdict::Nothing)
            .then(|| format!("is in {state} already, and not as it is here; it was kept")))
    }
}
