//! How full the queue is.

use super::Traffic;
use super::traffic::WAITING;
use crate::backend::{Ages, AuditSize, Backend, Context, Result, StateInfo};
use crate::model::{QueueState, Timestamp};

/// A queue at one moment: no message is listed for it.
#[derive(Clone, Debug)]
pub struct Status {
    /// When.
    pub at: Timestamp,
    /// Every state, by number.
    pub states: [StateStatus; 6],
    /// Stored messages that no directory or file name can express; they are in no count.
    pub inexpressible: u64,
    /// What came and went lately; `None` for a store that keeps no log of changes.
    pub traffic: Option<Traffic>,
    /// The audit log's size; `None` for a store that has none.
    pub audit: Option<AuditSize>,
}

/// One state.
#[derive(Clone, Copy, Debug)]
pub struct StateStatus {
    pub state: QueueState,
    pub info: StateInfo,
    pub ages: Ages,
}

impl Status {
    /// The store's status now.
    pub fn of(store: &dyn Backend, ctx: &Context) -> Result<Status> {
        let state = |state| -> Result<StateStatus> {
            Ok(StateStatus {
                state,
                info: store.state_info(ctx, state)?,
                ages: store.ages(ctx, state)?,
            })
        };
        let [a, b, c, d, e, f] = QueueState::ALL;
        Ok(Status {
            states: [
                state(a)?,
                state(b)?,
                state(c)?,
                state(d)?,
                state(e)?,
                state(f)?,
            ],
            inexpressible: store.inexpressible(ctx)?,
            traffic: Traffic::of(store, ctx)?,
            audit: store.audit().map(|audit| audit.size(ctx)).transpose()?,
            at: Timestamp::now(),
        })
    }

    /// How many messages there are.
    pub fn total(&self) -> u64 {
        self.states.iter().map(|state| state.info.count).sum()
    }

    /// How many wait for delivery.
    pub fn waiting(&self) -> u64 {
        self.waiting_states().map(|state| state.info.count).sum()
    }

    /// When the oldest of those that wait for delivery was created.
    pub fn oldest_waiting(&self) -> Option<Timestamp> {
        self.waiting_states().filter_map(|s| s.ages.oldest).min()
    }

    /// The earliest retry that is due or will be.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.waiting_states().filter_map(|s| s.ages.next_due).min()
    }

    fn waiting_states(&self) -> impl Iterator<Item = &StateStatus> {
        self.states.iter().filter(|s| WAITING.contains(&s.state))
    }
}
