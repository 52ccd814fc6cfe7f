//! What a writer did to a message and when, and how old that makes what a reader saw.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Seconds and nanoseconds of an Updated.
pub type Time = (i64, i64);

/// One change of a message.
struct Step {
    updated: Time,
    /// A moment before its commit, and one after it, once there was one.
    before: Instant,
    after: Option<Instant>,
}

/// The changes of a message. The first one is that it was stored.
pub struct History(Mutex<Vec<Step>>);

impl History {
    /// That of a message that was stored by now.
    pub fn new(updated: i64) -> History {
        let now = Instant::now();
        History(Mutex::new(vec![Step {
            updated: (updated, 0),
            before: now,
            after: Some(now),
        }]))
    }

    fn steps(&self) -> MutexGuard<'_, Vec<Step>> {
        self.0.lock().expect("nobody panicked")
    }

    /// How often it was changed since it was stored.
    pub fn changes(&self) -> usize {
        self.steps().len() - 1
    }

    /// A change in the second `now` is about to be committed.
    pub fn begin(&self, now: i64) {
        let mut steps = self.steps();
        let last = steps.last().expect("it was stored").updated;
        let updated = match now > last.0 {
            true => (now, 0),
            false => (last.0, last.1 + 1),
        };
        steps.push(Step {
            updated,
            before: Instant::now(),
            after: None,
        });
    }

    /// It was committed between these moments.
    pub fn commit(&self, before: Instant, after: Instant) {
        let mut steps = self.steps();
        let begun = steps.iter_mut().rev();
        for step in begun.take_while(|step| step.after.is_none()) {
            (step.before, step.after) = (before, Some(after));
        }
    }

    /// For how long, at `now`, when a reader began to look, what it then saw was not the newest.
    pub fn age(&self, seen: Time, now: Instant) -> Duration {
        let steps = self.steps();
        let next = steps.partition_point(|step| step.updated <= seen);
        match steps.get(next) {
            Some(step) if step.is_committed(now) => now - step.before,
            _ => Duration::ZERO,
        }
    }

    /// Likewise of a message that each change moves to the other of two states: a look from `begun`
    /// to `ended` at its name in the first state (0) or the second (1) found it, or not.
    pub fn age_of_name(
        &self,
        state: usize,
        found: bool,
        begun: Instant,
        ended: Instant,
    ) -> Duration {
        let steps = self.steps();
        for (nth, step) in steps.iter().enumerate().rev() {
            let is_in_it = nth % 2 == state;
            // Whether this step, if no later one, may have been what the look met.
            if step.before <= ended && is_in_it == found {
                return Duration::ZERO;
            }
            if step.is_committed(begun) {
                return begun - step.before;
            }
        }
        Duration::ZERO
    }
}

impl Step {
    fn is_committed(&self, by: Instant) -> bool {
        self.after.is_some_and(|after| after <= by)
    }
}

/// Ages in tenths of a millisecond; those of 0 are looks that saw what is.
pub struct Ages(Vec<u64>);

impl Ages {
    pub fn new() -> Ages {
        Ages(vec![0; 100_000])
    }

    pub fn add(&mut self, age: Duration) {
        let at = (age.as_micros() as usize).div_ceil(100);
        let last = self.0.len() - 1;
        self.0[at.min(last)] += 1;
    }

    /// Of the stale looks that share was not older, in milliseconds.
    fn percentile(&self, share: f64) -> f64 {
        let total: u64 = self.0[1..].iter().sum();
        let mut left = (total as f64 * share).ceil() as u64;
        for (at, count) in self.0.iter().enumerate().skip(1) {
            if left <= *count && left > 0 {
                return at as f64 / 10.0;
            }
            left = left.saturating_sub(*count);
        }
        0.0
    }

    /// Cells of a table: looks, the stale share, and the percentiles of these.
    pub fn line(&self) -> String {
        let all: u64 = self.0.iter().sum();
        let stale = all - self.0[0];
        let [p50, p99, p999, oldest] = [0.5, 0.99, 0.999, 1.0].map(|share| self.percentile(share));
        format!(
            "{all} | {:.2} % | {p50:.1} | {p99:.1} | {p999:.1} | {oldest:.1}",
            stale as f64 * 100.0 / all.max(1) as f64,
        )
    }
}
