//! Messages on their way: from one store to another, to a file, and back.
//!
//! Owns: what is written where in which order, so that nothing is lost by an interruption at any
//! point, and what is told of a message that can't be taken.
//! May fail: with a store's or a file's error, after which the same call goes on where it was; a
//! message that can't be taken is told of, and left where it is.
//! Must not know: the command line, FUSE.

use std::time::Duration;

use crate::backend::{Actor, Context};

mod archive;
mod copy;
mod export;
mod import;

pub use archive::{Archive, Entry, Format, Kind, read};
pub use copy::{Copied, copy};
pub use export::{Exported, Failed, Removed, export, remove};
pub use import::{Imported, import};

/// Who hears how far a transfer is, and may end it.
pub struct Watch<'a> {
    /// Who asks for it: the logs of what is changed tell so.
    pub actor: Option<Actor>,
    /// Hears how many messages are done, now and then.
    pub done: &'a mut dyn FnMut(u64),
    /// Hears of a message that is not taken: which, and why.
    pub trouble: &'a mut dyn FnMut(&str, &str),
    /// Asked between steps; `false` ends the transfer.
    pub going: &'a (dyn Fn() -> bool + Sync),
}

impl Watch<'_> {
    /// Time for one step that changes something.
    fn ctx(&self) -> Context {
        match &self.actor {
            Some(actor) => ctx().by(actor.clone()),
            None => ctx(),
        }
    }
}

/// Messages that one step takes.
const STEP: usize = 1000;

/// Time for one step that reads.
fn ctx() -> Context {
    Context::within(Duration::from_secs(60))
}
