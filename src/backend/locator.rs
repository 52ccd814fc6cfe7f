//! From what a user types to a store: `sqlite:PATH`. Every `cfg(feature)` of a store is here.

use std::path::PathBuf;

use super::{Backend, Result};

/// Where a spool is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locator {
    /// A SQLite file.
    Sqlite(PathBuf),
}

/// How to open it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Never write to it.
    pub read_only: bool,
    /// Make the spool if there is none.
    pub create: bool,
    /// Bring every change to the disk before its call returns.
    pub sync: bool,
}

impl Locator {
    /// Opens the store.
    pub fn open(&self, _options: OpenOptions) -> Result<Box<dyn Backend>> {
        todo!()
    }
}
