//! What a caller may ask of a listing, and what it gets.

use super::{MessageId, Timestamp};

/// The order of a listing. Ties are broken by ID, in the same direction, so pages never overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SortBy {
    /// By ID, byte by byte.
    #[default]
    Id,
    /// By Created.
    Created,
    /// By Updated.
    Updated,
    /// By Priority, as a number.
    Priority,
    /// By Attempts.
    Attempts,
}

/// The direction of a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SortOrder {
    /// Smallest first.
    #[default]
    Asc,
    /// Largest first.
    Desc,
}

/// Which messages of a state to list. The default lists all of them, by ID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageListOptions {
    /// How many IDs at most: `None` for all; 0 for none, which asks for
    /// [`total`](MessageListResult::total) alone.
    pub limit: Option<u64>,
    /// How many matching messages to skip.
    pub offset: u64,
    /// The field that orders the listing.
    pub sort_by: SortBy,
    /// Its direction.
    pub sort_order: SortOrder,
    /// Only messages created or updated at or after this time. SQLite compares stored seconds.
    pub since: Option<Timestamp>,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageListResult {
    /// The page.
    pub message_ids: Vec<MessageId>,
    /// How many messages matched, whatever the page.
    pub total: u64,
    /// Whether messages follow after this page.
    pub has_more: bool,
}
