//! How messages flow through the queue, from the feed's log of the last minutes.

use std::time::Duration;

use crate::backend::{Backend, Change, ChangeFeed, Context, Result};
use crate::model::{QueueState, Timestamp};

/// The states of messages that wait for delivery: what "the queue" is when it fills or empties.
pub const WAITING: [QueueState; 3] = [
    QueueState::Incoming,
    QueueState::Active,
    QueueState::Deferred,
];

/// How far back rates look.
const WINDOW: Duration = Duration::from_secs(600);

/// How many changes are looked at, newest first: some 10 ms. The second number is for a log that
/// has no more.
const LOOKED_AT: [u64; 2] = [10_000, 500];

/// What came and went over a stretch of time that ends now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// How long it is: ten minutes, or what the last ten thousand changes took.
    pub over: Duration,
    /// Messages that came into each state, by its number.
    pub arrived: [u64; 6],
    /// Messages that left each state, by its number.
    pub left: [u64; 6],
    /// Messages that began to wait: new ones, and those released from elsewhere.
    pub waiting_arrived: u64,
    /// Messages that wait no more: delivered, removed, bounced, held.
    pub waiting_left: u64,
}

impl Traffic {
    /// What a store's feed tells of the last minutes; `None` if it has no feed.
    pub fn of(store: &dyn Backend, ctx: &Context) -> Result<Option<Traffic>> {
        let Some(feed) = store.change_feed() else {
            return Ok(None);
        };
        let now = Timestamp::now();
        Ok(Some(Traffic::from_changes(&recent(feed, ctx)?, now)))
    }

    /// What these changes make, the newest of the log, oldest first.
    fn from_changes(changes: &[Change], now: Timestamp) -> Traffic {
        let begin = now.saturating_sub(WINDOW);
        let within: Vec<&Change> = changes.iter().filter(|c| c.at >= begin).collect();
        // All there is of ten minutes; or, where there were too many to look at, of less.
        let cut = within.len() as u64 >= LOOKED_AT[0];
        let over = match within.first() {
            Some(first) if cut => now.since(first.at).max(Duration::from_secs(1)),
            _ => WINDOW,
        };
        let mut traffic = Traffic {
            over,
            ..Traffic::default()
        };
        for change in within {
            if change.from == change.to {
                continue;
            }
            let number = |state: QueueState| usize::from(state.number());
            if let Some(to) = change.to {
                traffic.arrived[number(to)] += 1;
            }
            if let Some(from) = change.from {
                traffic.left[number(from)] += 1;
            }
            let waits = |state: Option<QueueState>| state.is_some_and(|s| WAITING.contains(&s));
            match (waits(change.from), waits(change.to)) {
                (false, true) => traffic.waiting_arrived += 1,
                (true, false) => traffic.waiting_left += 1,
                _ => {}
            }
        }
        traffic
    }

    /// So many in [`over`](Traffic::over), as a number a minute.
    pub fn per_minute(&self, count: u64) -> f64 {
        count as f64 * 60.0 / self.over.as_secs_f64().max(1.0)
    }

    /// When a queue of `waiting` messages is empty if it goes on so; `None` if it does not shrink.
    pub fn empty_in(&self, waiting: u64) -> Option<Duration> {
        if waiting == 0 {
            return Some(Duration::ZERO);
        }
        let shrinks = self.waiting_left.checked_sub(self.waiting_arrived)?;
        if shrinks == 0 {
            return None;
        }
        let seconds = self.over.as_secs_f64() * waiting as f64 / shrinks as f64;
        Some(Duration::from_secs_f64(seconds.min(1e12)))
    }
}

/// The newest changes of the log, oldest first.
fn recent(feed: &dyn ChangeFeed, ctx: &Context) -> Result<Vec<Change>> {
    let newest = feed.newest(ctx)?;
    for count in LOOKED_AT {
        let after = newest.saturating_sub(count);
        // Behind the newest change the feed would wait for one.
        if after == newest {
            break;
        }
        let found = feed.changes(ctx, after, count as usize)?;
        if !found.lost {
            return Ok(found.changes);
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use QueueState::{Active, Deferred, Hold, Incoming};

    fn change(seconds_ago: u64, from: Option<QueueState>, to: Option<QueueState>) -> Change {
        Change {
            seq: 1,
            id: "a".parse().unwrap(),
            from,
            to,
            revision: Timestamp::ZERO.into(),
            at: now().saturating_sub(Duration::from_secs(seconds_ago)),
            actor: None,
        }
    }

    fn now() -> Timestamp {
        Timestamp::new(1_800_000_000, 0).unwrap()
    }

    #[test]
    fn what_came_and_went_in_ten_minutes() {
        let changes = [
            change(700, None, Some(Incoming)),
            change(500, None, Some(Incoming)),
            change(400, Some(Incoming), Some(Active)),
            change(300, Some(Active), Some(Active)),
            change(200, Some(Active), None),
            change(100, Some(Deferred), Some(Hold)),
            change(50, Some(Deferred), None),
            change(20, Some(Hold), Some(Deferred)),
        ];
        let traffic = Traffic::from_changes(&changes, now());
        assert_eq!(traffic.over, WINDOW);
        assert_eq!(traffic.arrived, [1, 1, 1, 1, 0, 0]);
        assert_eq!(traffic.left, [1, 1, 2, 1, 0, 0]);
        assert_eq!((traffic.waiting_arrived, traffic.waiting_left), (2, 3));
        assert_eq!(traffic.per_minute(5), 0.5);
        // One a ten minutes.
        assert_eq!(traffic.empty_in(6), Some(Duration::from_secs(3600)));
        assert_eq!(traffic.empty_in(0), Some(Duration::ZERO));
    }

    #[test]
    fn a_queue_that_does_not_shrink_is_never_empty() {
        let grows = [change(9, None, Some(Incoming))];
        assert_eq!(Traffic::from_changes(&grows, now()).empty_in(1), None);
        assert_eq!(Traffic::from_changes(&[], now()).empty_in(1), None);
    }

    #[test]
    fn many_changes_are_a_shorter_stretch() {
        let many = vec![change(20, None, Some(Incoming)); LOOKED_AT[0] as usize];
        let traffic = Traffic::from_changes(&many, now());
        assert_eq!(traffic.over, Duration::from_secs(20));
        assert_eq!(traffic.per_minute(traffic.arrived[0]), 30_000.0);
    }
}
