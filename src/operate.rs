//! An operator's work on many messages: what becomes of each, in bounded steps that can be
//! stopped, and how it is undone.
//!
//! Owns: what the changing commands do, without the command line.
//! May fail: with the store's errors; every message is then in exactly one state all the same.
//! Must not know: terminals, arguments, FUSE.
//!
//! The parts: `act` (what becomes of one message), `found` (where messages come from), `job` (many
//! of them), `undo` (back again), `put` (documents from outside), `save` (documents that are removed).

mod act;
mod found;
mod job;
mod put;
mod save;
mod undo;

pub use act::{Act, Edit, Reset, Skip};
pub use found::{Found, Page, by_filter, by_ids};
pub use job::{Ended, Job, Pace, Survey, Tally, survey};
pub use put::{Documents, NoDocument, Offer, offer};
pub use save::Save;
pub use undo::{Plan, Since, Step};
