//! What a check of a store finds, and a check that any store can have.
//!
//! Owns: the words of a finding; the check by the contract's own calls.
//! May fail: as the store does.
//! Must not know: which store it is.

use std::collections::HashMap;

use super::{Backend, Context, Result};
use crate::model::{MessageId, QueueState};

/// Something that a check found, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The kind of thing, a word that stays the same: `count`, `unreadable`.
    pub kind: &'static str,
    /// What it is.
    pub what: String,
    /// What can be done.
    pub remedy: Remedy,
}

/// What can be done about a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing has to be: somebody should know it all the same.
    Note,
    /// Only a person can mend it.
    Person,
    /// A repair does this.
    Repair(&'static str),
    /// The repair that was asked for did this.
    Repaired(&'static str),
}

/// A check that is asked for.
pub struct Check<'a> {
    /// Whether what can be mended is.
    pub repair: bool,
    /// Hears each finding.
    pub found: &'a mut dyn FnMut(Finding),
    /// Asked between steps: `false` ends the check, as if it had found nothing more.
    pub going: &'a dyn Fn() -> bool,
}

impl Check<'_> {
    /// Tells of something that a repair mends, or has mended now.
    pub fn mendable(&mut self, kind: &'static str, what: String, how: &'static str) {
        let remedy = match self.repair {
            true => Remedy::Repaired(how),
            false => Remedy::Repair(how),
        };
        (self.found)(Finding { kind, what, remedy });
    }

    /// Tells of something that nothing here mends.
    pub fn tell(&mut self, kind: &'static str, what: String, remedy: Remedy) {
        (self.found)(Finding { kind, what, remedy });
    }
}

/// Messages that one step looks at.
const STEP: usize = 1000;

/// The check that needs no more than the contract: each state's count is what a listing gives,
/// every message can be read, and is where it is listed. What changes meanwhile is looked at again
/// before it is called wrong.
pub fn by_contract<B: Backend + ?Sized>(
    store: &B,
    ctx: &Context,
    check: &mut Check<'_>,
) -> Result<()> {
    unreadable(store, ctx, check)?;
    for state in QueueState::ALL {
        // A state that changes all the time can't be counted and listed at one moment.
        for attempt in 0.. {
            if !(check.going)() {
                return Ok(());
            }
            let before = store.state_info(ctx, state)?;
            let listed = listed(store, ctx, state, check.going)?;
            let after = store.state_info(ctx, state)?;
            if listed == before.count {
                break;
            }
            if before == after {
                let what = format!("{state} is counted {}, and lists {listed}", before.count);
                check.tell("count", what, Remedy::Person);
                break;
            }
            if attempt == 10 {
                let what = format!("{state} changes too fast to be counted by listing");
                check.tell("count", what, Remedy::Note);
                break;
            }
        }
    }
    Ok(())
}

fn listed<B: Backend + ?Sized>(
    store: &B,
    ctx: &Context,
    state: QueueState,
    going: &dyn Fn() -> bool,
) -> Result<u64> {
    let (mut count, mut after) = (0, None);
    while going() {
        let ids = store.scan(ctx, state, after.as_ref(), STEP)?;
        count += ids.len() as u64;
        if ids.len() < STEP {
            break;
        }
        after = ids.into_iter().next_back();
    }
    Ok(count)
}

/// Tells of each message whose metadata can't be read.
pub fn unreadable<B: Backend + ?Sized>(
    store: &B,
    ctx: &Context,
    check: &mut Check<'_>,
) -> Result<()> {
    let mut doubts: HashMap<MessageId, QueueState> = HashMap::new();
    for state in QueueState::ALL {
        let mut after: Option<MessageId> = None;
        while (check.going)() {
            let page = store.scan_stored(ctx, state, after.as_ref(), STEP)?;
            let full = page.len() == STEP;
            after = page.last().map(|(id, _)| id.clone());
            for (id, _) in page.into_iter().filter(|(_, stored)| stored.is_err()) {
                doubts.insert(id, state);
            }
            if !full {
                break;
            }
        }
    }
    let mut doubts: Vec<_> = doubts.into_iter().collect();
    doubts.sort();
    for (id, state) in doubts {
        if let Err(error) = store.get(ctx, &id) {
            let what = format!("{state}/{}: {error}", id.file_name());
            check.tell("unreadable", what, Remedy::Person);
        }
    }
    Ok(())
}
