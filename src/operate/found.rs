//! Where the messages of a job come from: a filter over states, or IDs.

use std::time::Duration;

use crate::backend::{Backend, Context, Error, Pages, Result};
use crate::model::{Filter, MessageId, MessageMetadata, QueueState, Revision, Stored};

/// How many messages are looked for together: so many are found while a job leaves others the lock.
const AT_ONCE: usize = 250;

/// How long a message may take to be read.
const WITHIN: Duration = Duration::from_secs(30);

/// A message as a job meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its ID.
    pub id: MessageId,
    /// Where it is.
    pub state: QueueState,
    /// Its revision.
    pub revision: Revision,
    /// The rest of it, if the job asked for that.
    pub metadata: Option<MessageMetadata>,
}

impl From<Stored> for Found {
    fn from(stored: Stored) -> Found {
        Found {
            id: stored.metadata.id.clone(),
            state: stored.metadata.state,
            revision: stored.revision,
            metadata: Some(stored.metadata),
        }
    }
}

/// Some messages of a job, and those that can't be worked on and why.
#[derive(Debug, Default)]
pub struct Page {
    /// The messages.
    pub found: Vec<Found>,
    /// IDs that are not there or can't be read.
    pub lost: Vec<(MessageId, Error)>,
}

/// The messages of these states that the filter means; `whole` with all that is stored of them.
pub fn by_filter<'a>(
    store: &'a dyn Backend,
    states: &[QueueState],
    filter: &'a Filter,
    whole: bool,
) -> Box<dyn Iterator<Item = Result<Page>> + 'a> {
    let unreadable = |ids: Vec<MessageId>| -> Vec<(MessageId, Error)> {
        let why =
            || Error::Corrupt("it can't be read, so nobody can tell whether it is meant".into());
        ids.into_iter().map(|id| (id, why())).collect()
    };
    if whole {
        let pages = Pages::stored(store, states, filter, AT_ONCE);
        return Box::new(pages.map(move |page| {
            page.map(|(_, page)| Page {
                found: page.messages.into_iter().map(Found::from).collect(),
                lost: unreadable(page.unreadable),
            })
        }));
    }
    let pages = Pages::of(store, states, filter, AT_ONCE);
    Box::new(pages.map(move |page| {
        page.map(|(state, page)| Page {
            found: page
                .messages
                .into_iter()
                .map(|(id, revision)| Found {
                    id,
                    state,
                    revision,
                    metadata: None,
                })
                .collect(),
            lost: unreadable(page.unreadable),
        })
    }))
}

/// The messages of these IDs. An ID that fails by itself ends the rest with its error.
pub fn by_ids<'a, E: From<Error> + 'a>(
    store: &'a dyn Backend,
    ids: impl Iterator<Item = std::result::Result<MessageId, E>> + 'a,
) -> Box<dyn Iterator<Item = std::result::Result<Page, E>> + 'a> {
    let mut ids = ids.fuse();
    Box::new(std::iter::from_fn(move || {
        let mut page = Page::default();
        // Fewer than by a filter: IDs may be typed one by one.
        for id in ids.by_ref().take(AT_ONCE / 10) {
            let id = match id {
                Ok(id) => id,
                Err(error) => return Some(Err(error)),
            };
            match store.get(&Context::within(WITHIN), &id) {
                Ok(Some(stored)) => page.found.push(stored.into()),
                Ok(None) => page.lost.push((id, Error::NotFound)),
                Err(error @ Error::Corrupt(_)) => page.lost.push((id, error)),
                Err(error) => return Some(Err(error.into())),
            }
        }
        let is_empty = page.found.is_empty() && page.lost.is_empty();
        (!is_empty).then_some(Ok(page))
    }))
}
