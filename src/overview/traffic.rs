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

/// Where those are not all there is: so many samples, evenly over what is there, of so many changes.
const SAMPLES: u64 = 100;
const SAMPLE: u64 = 40;

/// What came and went over a stretch of time that ends now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// How long it is: ten minutes, or as far as the log goes back.
    pub over: Duration,
    /// Whether there were too many changes to look at each: then the numbers are an estimate.
    pub estimated: bool,
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
        let feed = store.change_feed();
        feed.map(|feed| Traffic::at(feed, ctx, Timestamp::now()))
            .transpose()
    }

    fn at(feed: &dyn ChangeFeed, ctx: &Context, now: Timestamp) -> Result<Traffic> {
        let begin = now.saturating_sub(WINDOW);
        let log = Log {
            feed,
            ctx,
            begin,
            newest: feed.newest(ctx)?,
        };
        let mut counted = Counted::default();
        if let Some(changes) = log.recent()? {
            let within = changes.iter().filter(|change| change.at >= begin);
            within.for_each(|change| counted.add(change, 1.0));
            return Ok(counted.over(WINDOW, false));
        }
        let (start, since) = log.start()?;
        let count = log.newest - start;
        let estimated = count > SAMPLES * SAMPLE;
        // A log of a few was begun anew, and did not forget what was too much for it: those are not
        // taken for what goes on all the time.
        let since = since.filter(|_| estimated);
        let over = since.map_or(WINDOW, |since| now.since(since));
        let at =
            |sample: u64| start + (count as u128 * u128::from(sample) / u128::from(SAMPLES)) as u64;
        for sample in 0..SAMPLES {
            let (after, end) = (at(sample), at(sample + 1));
            let changes = log.after(after, SAMPLE.min(end - after))?;
            // Each stands for its share of what is between this sample and the next.
            let share = (end - after) as f64 / changes.len() as f64;
            changes.iter().for_each(|change| counted.add(change, share));
        }
        Ok(counted.over(over, estimated))
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

/// Messages as they came and went, some of them for others.
#[derive(Default)]
struct Counted {
    arrived: [f64; 6],
    left: [f64; 6],
    waiting_arrived: f64,
    waiting_left: f64,
}

impl Counted {
    fn add(&mut self, change: &Change, share: f64) {
        if change.from == change.to {
            return;
        }
        let number = |state: QueueState| usize::from(state.number());
        if let Some(to) = change.to {
            self.arrived[number(to)] += share;
        }
        if let Some(from) = change.from {
            self.left[number(from)] += share;
        }
        let waits = |state: Option<QueueState>| state.is_some_and(|s| WAITING.contains(&s));
        match (waits(change.from), waits(change.to)) {
            (false, true) => self.waiting_arrived += share,
            (true, false) => self.waiting_left += share,
            _ => {}
        }
    }

    fn over(self, over: Duration, estimated: bool) -> Traffic {
        let whole = |count: f64| count.round() as u64;
        Traffic {
            over,
            estimated,
            arrived: self.arrived.map(whole),
            left: self.left.map(whole),
            waiting_arrived: whole(self.waiting_arrived),
            waiting_left: whole(self.waiting_left),
        }
    }
}

/// A feed's log, and since when it is looked at.
struct Log<'a> {
    feed: &'a dyn ChangeFeed,
    ctx: &'a Context,
    begin: Timestamp,
    newest: u64,
}

impl Log<'_> {
    /// Changes behind this cursor; none if the log does not go back so far.
    fn after(&self, cursor: u64, count: u64) -> Result<Vec<Change>> {
        // Behind the newest change the feed would wait for one.
        if cursor >= self.newest {
            return Ok(Vec::new());
        }
        Ok(self.feed.changes(self.ctx, cursor, count as usize)?.changes)
    }

    /// The newest changes, back to the beginning at least; `None` where those are too many.
    fn recent(&self) -> Result<Option<Vec<Change>>> {
        for count in LOOKED_AT {
            let after = self.newest.saturating_sub(count);
            let changes = self.after(after, count)?;
            match changes.first() {
                Some(first) if after == 0 || first.at < self.begin => return Ok(Some(changes)),
                None if self.newest == 0 => return Ok(Some(changes)),
                // There are more, or the log does not go back so far.
                _ => {}
            }
        }
        Ok(None)
    }

    /// The cursor before the first change since the beginning; and when that was, where the log may
    /// have had others before it.
    fn start(&self) -> Result<(u64, Option<Timestamp>)> {
        let too_early = |cursor: u64| -> Result<bool> {
            let first = self.after(cursor, 1)?;
            Ok(first.first().is_none_or(|first| first.at < self.begin))
        };
        if !too_early(0)? {
            return Ok((0, None));
        }
        // Behind the newest there is nothing, as behind nothing that is too early.
        let (mut early, mut late) = (0, self.newest);
        while late - early > 1 {
            let middle = early + (late - early) / 2;
            match too_early(middle)? {
                true => early = middle,
                false => late = middle,
            }
        }
        // Before it is a change that is too early, or nothing any more.
        let is_cut = self.after(early, 1)?.is_empty();
        let first = self.after(late, 1)?;
        let since = first.first().map(|first| first.at);
        Ok((late, since.filter(|_| is_cut)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Changes;
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
        let traffic = traffic(Changed::of(changes.to_vec()));
        assert_eq!((traffic.over, traffic.estimated), (WINDOW, false));
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
        let grows = vec![change(9, None, Some(Incoming))];
        assert_eq!(traffic(Changed::of(grows)).empty_in(1), None);
        assert_eq!(traffic(Changed::of(Vec::new())).empty_in(1), None);
    }

    /// A burst is what it is in ten minutes, and not what it would be if it had gone on.
    #[test]
    fn many_changes_are_looked_at_here_and_there() {
        let mut many = vec![change(900, None, Some(Hold)); 30_000];
        many.extend(vec![change(500, None, Some(Incoming)); 20_000]);
        many.extend(vec![change(1, Some(Deferred), Some(Hold)); 10_000]);
        let all = Changed::of(many);
        let traffic = traffic(all);
        assert_eq!((traffic.over, traffic.estimated), (WINDOW, true));
        let about = |count: u64, of: u64| count.abs_diff(of) <= of / 30;
        assert!(about(traffic.arrived[0], 20_000), "{traffic:?}");
        assert!(about(traffic.waiting_arrived, 20_000), "{traffic:?}");
        assert!(about(traffic.waiting_left, 10_000), "{traffic:?}");
        assert!(about(traffic.arrived[3], 10_000), "{traffic:?}");
    }

    #[test]
    fn a_log_that_was_cut_is_a_shorter_stretch() {
        let many = || vec![change(20, None, Some(Incoming)); 30_000];
        let cut = Changed {
            cut: 20_000,
            ..Changed::of(many())
        };
        let traffic_of_cut = traffic(cut);
        assert_eq!(traffic_of_cut.over, Duration::from_secs(20));
        assert_eq!(traffic_of_cut.arrived[0], 10_000);
        // Of a few that are left each is looked at.
        let few = Changed {
            cut: 29_700,
            ..Changed::of(many())
        };
        let few = traffic(few);
        assert_eq!((few.arrived[0], few.estimated), (300, false));
        assert_eq!(few.over, WINDOW);
        let none = Changed {
            cut: 30_000,
            ..Changed::of(many())
        };
        assert_eq!(traffic(none).arrived[0], 0);
        // One that goes back to the first change of all is whole.
        assert_eq!(traffic(Changed::of(many())).over, WINDOW);
    }

    /// A log of these changes, of which the first ones are forgotten.
    struct Changed {
        all: Vec<Change>,
        cut: u64,
    }

    impl Changed {
        fn of(all: Vec<Change>) -> Changed {
            Changed { all, cut: 0 }
        }
    }

    impl ChangeFeed for Changed {
        fn newest(&self, _: &Context) -> Result<u64> {
            Ok(self.all.len() as u64)
        }

        fn changes(&self, _: &Context, after: u64, limit: usize) -> Result<Changes> {
            let lost = after < self.cut;
            let from = if lost { self.all.len() } else { after as usize };
            let changes: Vec<Change> = self.all[from..].iter().take(limit).cloned().collect();
            Ok(Changes {
                cursor: (from + changes.len()) as u64,
                changes,
                lost,
            })
        }
    }

    fn traffic(changed: Changed) -> Traffic {
        let ctx = Context::within(Duration::from_secs(60));
        Traffic::at(&changed, &ctx, now()).unwrap()
    }
}
