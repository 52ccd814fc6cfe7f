//! The values of the queue: states, times, IDs, metadata, list options, filters.
//!
//! Owns: what a message *is*, and how an ID is spelled as a file name. Pure data, no I/O.
//! May fail: only by refusing a value that the contract does not know.
//! Must not know: JSON, stores, FUSE.

mod error_class;
mod filter;
mod glob;
mod id;
mod list;
mod metadata;
mod plain;
mod state;
mod timestamp;
mod when;

pub use error_class::ErrorClass;
pub use filter::{Filter, parse_range};
pub use glob::Glob;
pub use id::{FileName, InvalidId, MessageId, NAME_MAX};
pub use list::{MessageListOptions, MessageListResult, SortBy, SortOrder};
pub use metadata::{MessageMetadata, Stored};
pub use plain::PlainName;
pub use state::QueueState;
pub use timestamp::{Revision, Timestamp};
pub use when::{When, parse_duration, show_duration};
