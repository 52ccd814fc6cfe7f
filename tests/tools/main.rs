//! Every tool that an operator may bring, driven on a real mount.
//!
//! Each tool writes a new message, an existing one, one that a worker changed meanwhile, and a
//! document that is refused. What is checked is what the store holds afterwards, that the tool says
//! and exits with what it does on the disk's own filesystem, and, where it is refused, with what it
//! says of a failed close or rename. A tool that is not installed fails its test.

mod copies;
mod editors;
mod edits;
mod others;
mod row;
#[allow(
    dead_code,
    unused_imports,
    reason = "the tests of the mount use the rest"
)]
#[path = "../mount/support/mod.rs"]
mod support;
mod terminal;
mod trees;
