//! The metadata of one message.

use std::collections::BTreeMap;

use super::{MessageId, QueueState, Revision, Timestamp};

/// What RetrySpool knows about one message; the message's data is kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageMetadata {
    /// The message's name in its queue.
    pub id: MessageId,
    /// Where it is.
    pub state: QueueState,
    /// How often delivery was tried. Documents take 0 to 2^63-1.
    pub attempts: i64,
    /// How often it may be tried. Documents take 0 to 2^63-1.
    pub max_attempts: i64,
    /// When it is due again; [`Timestamp::ZERO`] for never.
    pub next_retry: Timestamp,
    /// When it entered the queue.
    pub created: Timestamp,
    /// When it changed last, and so its revision.
    pub updated: Timestamp,
    /// What the last attempt failed with.
    pub last_error: String,
    /// The size of the message's data in bytes. Documents take 0 to 2^63-1.
    pub size: i64,
    /// Its priority, any signed number.
    pub priority: i64,
    /// Its headers, ordered by name as Go writes them.
    pub headers: BTreeMap<String, String>,
    /// The retry policy's name; empty for the queue's default.
    pub retry_policy_name: String,
}

impl MessageMetadata {
    /// A message with the defaults of a new document: incoming, no attempts of 10, priority 5,
    /// created and updated now, no headers.
    ///
    /// ```
    /// use retryspoolfs::MessageMetadata;
    /// let message = MessageMetadata { size: 2048, ..MessageMetadata::new("msg-123".parse().unwrap()) };
    /// assert_eq!((message.max_attempts, message.priority), (10, 5));
    /// ```
    pub fn new(id: MessageId) -> MessageMetadata {
        let now = Timestamp::now();
        MessageMetadata {
            id,
            state: QueueState::Incoming,
            attempts: 0,
            max_attempts: 10,
            next_retry: Timestamp::ZERO,
            created: now,
            updated: now,
            last_error: String::new(),
            size: 0,
            priority: 5,
            headers: BTreeMap::new(),
            retry_policy_name: String::new(),
        }
    }
}

/// A message as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its metadata; `updated` is the revision's.
    pub metadata: MessageMetadata,
    /// Its revision.
    pub revision: Revision,
}
