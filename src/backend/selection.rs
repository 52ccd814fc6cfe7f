//! Messages that a filter means, page by page.
//!
//! Owns: a page of a selection, and the way through all pages of several states.
//! May fail: with the store's errors; the next page may be asked for all the same.
//! Must not know: how a store finds them.

use std::time::Duration;

use super::{Backend, Context, Result};
use crate::model::{Filter, MessageId, QueueState, Revision, Stored};

/// How long a page may take.
const WITHIN: Duration = Duration::from_secs(30);

/// Where a selection goes on. It is good for the call that gave it, with the same state and filter;
/// what is in it is the store's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Behind this ID, in the order of IDs.
    Id(MessageId),
    /// Behind this place in an order of the store's own.
    Place(i64),
}

impl Cursor {
    /// The ID of a cursor in the order of IDs.
    pub fn id(&self) -> Option<&MessageId> {
        match self {
            Cursor::Id(id) => Some(id),
            Cursor::Place(_) => None,
        }
    }
}

/// A page of messages that a filter means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected<T> {
    /// The messages.
    pub messages: Vec<T>,
    /// Messages of which nobody can tell: what the filter looks at can't be read.
    pub unreadable: Vec<MessageId>,
    /// Where to go on from; `None` at the end of the state.
    pub next: Option<Cursor>,
}

impl<T> Default for Selected<T> {
    fn default() -> Selected<T> {
        Selected {
            messages: Vec::new(),
            unreadable: Vec::new(),
            next: None,
        }
    }
}

impl<T> Selected<T> {
    /// The page with each message made something else.
    pub fn map<U>(self, to: impl FnMut(T) -> U) -> Selected<U> {
        Selected {
            messages: self.messages.into_iter().map(to).collect(),
            unreadable: self.unreadable,
            next: self.next,
        }
    }
}

impl Selected<Stored> {
    /// What the filter means of a scan that asked for `limit` messages.
    pub fn of(
        filter: &Filter,
        scanned: Vec<(MessageId, Result<Stored>)>,
        limit: usize,
    ) -> Selected<Stored> {
        let more = scanned.len() == limit;
        let mut page = Selected {
            next: scanned
                .last()
                .filter(|_| more)
                .map(|(id, _)| Cursor::Id(id.clone())),
            ..Selected::default()
        };
        for (id, found) in scanned {
            match found {
                Ok(stored) if filter.matches(&stored.metadata) => page.messages.push(stored),
                Ok(_) => {}
                Err(_) => page.unreadable.push(id),
            }
        }
        page
    }
}

/// How a page is asked for: [`Backend::select`] or [`Backend::select_stored`].
type Select<T> =
    fn(&dyn Backend, &Context, QueueState, &Filter, Option<&Cursor>, usize) -> Result<Selected<T>>;

/// All pages of a selection over some states, one state after the other. Its memory is that of one
/// page. Each page is of one moment: a message that moves between the states meanwhile may be met
/// in both or in none.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # use retryspoolfs::{Factory, QueueState, backend::sqlite::SqliteFactory};
/// # let store = SqliteFactory::create_if_missing(dir.path().join("q.db")).create()?;
/// use retryspoolfs::backend::Pages;
/// use retryspoolfs::model::Filter;
/// let filter = Filter { error: Some("*timeout*".parse()?), ..Filter::default() };
/// for page in Pages::of(&*store, &[QueueState::Deferred], &filter, 1000) {
///     let (state, page) = page?;
///     for (id, revision) in page.messages {
///         println!("{state} {id} {}", revision.updated);
///     }
/// }
/// # Ok(()) }
/// ```
pub struct Pages<'a, T> {
    store: &'a dyn Backend,
    filter: &'a Filter,
    limit: usize,
    select: Select<T>,
    /// The states to come, the last one first.
    states: Vec<QueueState>,
    /// Where the current state's next page begins.
    after: Option<Cursor>,
}

impl<'a> Pages<'a, (MessageId, Revision)> {
    /// IDs and revisions, at most `limit` in a page.
    pub fn of(
        store: &'a dyn Backend,
        states: &[QueueState],
        filter: &'a Filter,
        limit: usize,
    ) -> Self {
        Pages::new(
            store,
            states,
            filter,
            limit,
            |store, ctx, state, filter, after, limit| {
                store.select(ctx, state, filter, after, limit)
            },
        )
    }
}

impl<'a> Pages<'a, Stored> {
    /// Whole messages, at most `limit` in a page.
    pub fn stored(
        store: &'a dyn Backend,
        states: &[QueueState],
        filter: &'a Filter,
        limit: usize,
    ) -> Self {
        Pages::new(
            store,
            states,
            filter,
            limit,
            |store, ctx, state, filter, after, limit| {
                store.select_stored(ctx, state, filter, after, limit)
            },
        )
    }
}

impl<'a, T> Pages<'a, T> {
    fn new(
        store: &'a dyn Backend,
        states: &[QueueState],
        filter: &'a Filter,
        limit: usize,
        select: Select<T>,
    ) -> Self {
        Pages {
            store,
            filter,
            limit,
            select,
            states: states.iter().rev().copied().collect(),
            after: None,
        }
    }
}

impl<T> Iterator for Pages<'_, T> {
    type Item = Result<(QueueState, Selected<T>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let state = *self.states.last()?;
        let ctx = Context::within(WITHIN);
        let after = self.after.as_ref();
        let page = (self.select)(self.store, &ctx, state, self.filter, after, self.limit);
        Some(page.map(|page| {
            self.after = page.next.clone();
            if self.after.is_none() {
                self.states.pop();
            }
            (state, page)
        }))
    }
}
