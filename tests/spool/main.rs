//! The filesystem's core without a kernel: operations as FUSE would send them, over a SQLite
//! store in a file of its own; and, in `dir`, over RetrySpool's own directory.

#![allow(
    clippy::duplicate_mod,
    reason = "the same tests run on more than one store"
)]

mod aside;
mod attributes;
mod closes;
mod coherence;
mod common;
mod dir;
mod errors;
mod events;
mod faults;
mod listing;
mod model;
mod names;
mod odd;
mod renames;
mod replaced;
mod scratch;
mod steps;
mod waiting;
mod writes;

/// Which store the tests below this module run on: SQLite, here.
const DIRECTORY: bool = false;
