//! The filesystem's core without a kernel: operations as FUSE would send them, over a SQLite
//! store in a directory of its own.

mod aside;
mod attributes;
mod closes;
mod coherence;
mod common;
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
