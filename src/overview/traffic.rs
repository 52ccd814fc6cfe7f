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

/// How many of the newest changes are looked at, some 4 us each: the first number if they are all
/// there is of the last ten minutes, else the second.
const LOOKED_AT: [u64; 2] = [500, 4_000];

/// What came and went over a stretch of time that ends now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// How long it is: ten minutes, or what the last four thousand changes took.
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
        let (changes, more) = recent(feed, ctx, now.saturating_sub(WINDOW))?;
        Ok(Some(Traffic::from_changes(&changes, more, now)))
    }

    /// What these changes make, the newest of the log, oldest first; whether there are `more`
    /// before them.
    fn from_changes(changes: &[Change], more: bool, now: Timestamp) -> Traffic {
        let begin = now.saturating_sub(WINDOW);
        let within: Vec<&Change> = changes.iter().filter(|c| c.at >= begin).collect();
        // All there is of ten minutes; or, where there were too many to look at, of less.
        let cut = more && within.len() == changes.len();
        let over = match within.first() {
            Some(first) if cut => now.since(first.at).max(Duration::from_millis(1)),
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
        count as f64 * 60.0 / self.over.as_secs_f64().max(0.001)
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

/// The newest changes of the log, oldest first, back to `begin` at least where that is not too far;
/// and whether the log has more before them.
fn recent(feed: &dyn ChangeFeed, ctx: &Context, begin: Timestamp) -> Result<(Vec<Change>, bool)> {
    let newest = feed.newest(ctx)?;
    let (mut changes, mut more) = (Vec::new(), false);
    for count in LOOKED_AT {
        let after = newest.saturating_sub(count);
        // Behind the newest change the feed would wait for one.
        if after == newest {
            break;
        }
        let found = feed.changes(ctx, after, count as usize)?;
        // The log does not go back so far.
        if found.lost {
            break;
        }
        (changes, more) = (found.changes, after > 0);
        if !more || changes.first().is_none_or(|first| first.at < begin) {
            break;
        }
    }
    Ok((changes, more))
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
        let traffic = Traffic::from_changes(&changes, true, now());
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
        assert_eq!(
            Traffic::from_changes(&grows, false, now()).empty_in(1),
            None
        );
        assert_eq!(Traffic::from_changes(&[], false, now()).empty_in(1), None);
    }

    #[test]
    fn many_changes_are_a_shorter_stretch() {
        let many = vec![change(20, None, Some(Incoming)); 1000];
        let traffic = Traffic::from_changes(&many, true, now());
        assert_eq!(traffic.over, Duration::from_secs(20));
        assert_eq!(traffic.per_minute(traffic.arrived[0]), 3_000.0);
        assert_eq!(Traffic::from_changes(&many, false, now()).over, WINDOW);
    }
}
