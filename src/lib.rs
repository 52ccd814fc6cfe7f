//! RetrySpool's message metadata store in Rust, and a filesystem that shows it.
//!
//! [RetrySpool](https://github.com/mschneider82/retryspool) is a message queue with retries. It
//! keeps a message's metadata apart from its data, behind an interface: [`Backend`],
//! [`StateCounterBackend`] and [`Factory`] here. A factory makes a store:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("queue.db");
//! use std::time::Duration;
//! use retryspoolfs::backend::sqlite::SqliteFactory;
//! use retryspoolfs::{Backend, Context, Factory, MessageListOptions, MessageMetadata, QueueState, SortBy};
//!
//! let factory = SqliteFactory::create_if_missing(&path);
//! let store = factory.create()?;
//! let ctx = Context::within(Duration::from_secs(10));
//!
//! // Store metadata.
//! let id = "msg-123".parse()?;
//! let metadata = MessageMetadata {
//!     state: QueueState::Incoming,
//!     max_attempts: 3,
//!     headers: [("to".into(), "user@example.com".into())].into(),
//!     ..MessageMetadata::new("msg-123".parse()?)
//! };
//! store.store_meta(&ctx, &id, &metadata)?;
//!
//! // Query it.
//! assert_eq!(store.get_meta(&ctx, &id)?.headers["to"], "user@example.com");
//! let options = MessageListOptions { limit: Some(10), sort_by: SortBy::Created, ..Default::default() };
//! let page = store.list_messages(&ctx, QueueState::Incoming, &options)?;
//! assert_eq!((page.message_ids, page.total, page.has_more), (vec![id], 1, false));
//!
//! // Count with the counter where there is one, and by listing where there is none.
//! let count = match store.state_counter() {
//!     Some(counter) => counter.get_state_count(&ctx, QueueState::Incoming)?,
//!     None => {
//!         let options = MessageListOptions { limit: Some(0), ..Default::default() };
//!         store.list_messages(&ctx, QueueState::Incoming, &options)?.total
//!     }
//! };
//! assert_eq!(count, 1);
//! store.close()?;
//! # Ok(()) }
//! ```
//!
//! # Where things are
//!
//! Imports point one way: `cli -> fuse -> spool -> overview -> backend (the traits), document ->
//! model`; and `cli -> operate -> backend`. A store knows the traits and the pure leaves, never
//! `spool` or `fuse`; only a store knows SQL; only [`model`] knows `.json`; `spool` is the
//! filesystem without the kernel.

pub mod backend;
pub mod cli;
pub mod datadir;
pub mod document;
pub mod fuse;
pub mod model;
pub mod newfile;
pub mod operate;
pub mod overview;
pub mod spool;
pub mod transfer;

pub use backend::{Backend, Context, Error, Factory, StateCounterBackend};
pub use model::{
    FileName, MessageId, MessageListOptions, MessageListResult, MessageMetadata, PlainName,
    QueueState, Revision, SortBy, SortOrder, Stored, Timestamp,
};
