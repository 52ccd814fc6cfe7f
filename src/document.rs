//! A message's document: the JSON that a file of the mount holds.
//!
//! Owns: how metadata is written as JSON, which documents are legal, and which write of a
//! document wins ([`updated`]).
//! May fail: parsing, with a [`Problem`] that tells line and column.
//! Must not know: stores, FUSE.

mod parse;
mod render;
mod stored;
pub mod updated;

use parse::KEYS;
pub use parse::{Document, Problem, parse, parse_any};
pub use render::{render, render_line, rendered_len};
pub use stored::{Kept, read_kept};

/// The longest legal document in bytes: 1 MiB.
pub const MAX_LEN: usize = 1 << 20;
