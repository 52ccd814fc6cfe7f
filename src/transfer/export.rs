//! Messages of one moment into a file, and out of the store once they are in it.

use std::fs::File;
use std::io::{self, Write};

use super::{Archive, STEP, Watch, ctx, read};
use crate::backend::{Backend, Context, Error, Pages};
use crate::model::{Filter, MessageMetadata, QueueState, Timestamp};

/// What an export wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Messages that are in the file.
    pub written: u64,
    /// Messages that can't be read.
    pub refused: u64,
    /// Whether it was ended before its end.
    pub interrupted: bool,
}

/// What became of the exported messages in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Messages removed.
    pub removed: u64,
    /// Messages that somebody changed, moved or removed since, or that are not to be removed.
    pub kept: u64,
    /// Whether it was ended before its end.
    pub interrupted: bool,
}

/// Why an export or import stopped.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// The file failed.
    #[error(transparent)]
    File(#[from] io::Error),
}

/// Writes the messages that the filter means. Where the store is one of a moment
/// ([`Backend::frozen`]), so is the file.
pub fn export<W: Write>(
    store: &dyn Backend,
    states: &[QueueState],
    filter: &Filter,
    archive: &mut Archive<W>,
    watch: &mut Watch<'_>,
) -> Result<Exported, Failed> {
    let mut done = Exported::default();
    for page in Pages::stored(store, states, filter, STEP) {
        if !(watch.going)() {
            done.interrupted = true;
            break;
        }
        let (state, page) = page?;
        for stored in page.messages {
            archive.add(&stored.metadata)?;
            done.written += 1;
        }
        for id in page.unreadable {
            done.refused += 1;
            let why = match store.get(&ctx(), &id) {
                Err(error) => error.to_string(),
                Ok(_) => "it can't be read".into(),
            };
            (watch.trouble)(&format!("{state}/{}", id.file_name()), &why);
        }
        (watch.done)(done.written);
    }
    Ok(done)
}

/// Reads an exported file back, and removes from the store each message that is still what the file
/// has. Messages in `active` belong to a worker: they go only if `active` says so.
pub fn remove(
    store: &dyn Backend,
    file: &File,
    active: bool,
    watch: &mut Watch<'_>,
) -> Result<Removed, Failed> {
    let mut done = Removed::default();
    let mut failed = None;
    read(file, &mut |entry| {
        if !(watch.going)() {
            done.interrupted = true;
            return Ok(false);
        }
        // What was written is read back whole, or the file is no place to keep a message.
        let (id, document) = entry.document.map_err(io::Error::other)?;
        let state = document.state.unwrap_or(QueueState::Incoming);
        let updated = document.updated.unwrap_or(Timestamp::ZERO);
        let written = MessageMetadata {
            updated,
            ..document.into_new(id.clone(), state, updated)
        };
        let kept = match state {
            QueueState::Active if !active => Some("a worker has it; --active removes it".into()),
            _ => match still(store, &watch.ctx(), &written) {
                Ok(kept) => kept,
                Err(error) => {
                    failed = Some(error);
                    return Ok(false);
                }
            },
        };
        match kept {
            None => done.removed += 1,
            Some(why) => {
                done.kept += 1;
                (watch.trouble)(&entry.place, &why);
            }
        }
        (watch.done)(done.removed + done.kept);
        Ok(true)
    })?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(done),
    }
}

/// Removes a message that is still as written; or why it was kept.
fn still(
    store: &dyn Backend,
    ctx: &Context,
    written: &MessageMetadata,
) -> Result<Option<String>, Error> {
    let changed = || Ok(Some("it was changed since it was written".to_owned()));
    let removed = match store.get(ctx, &written.id)? {
        None => return Ok(Some("somebody else removed it".into())),
        Some(stored) if stored.metadata != *written => return changed(),
        Some(stored) => store.remove(ctx, &written.id, written.state, Some(stored.revision)),
    };
    match removed {
        Ok(_) => Ok(None),
        Err(error) if !error.is_of_the_store() => changed(),
        Err(error) => Err(error),
    }
}
