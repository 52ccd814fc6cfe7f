//! Many messages: in steps that are short for others, at a pace, until it is done or stopped.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::{Act, Found, Page, Save, Skip};
use crate::backend::{Actor, Backend, Context, Error, Proposal};
use crate::model::{MessageId, QueueState};

/// How many changes are handed to the store together. It decides by itself how many of them share
/// a transaction; a stop is noticed after so many.
const AT_ONCE: usize = 250;

/// How long so many may take before the store is called unusable.
const WITHIN: Duration = Duration::from_secs(60);

/// Which messages may be touched, and how fast.
pub struct Job<'a> {
    /// The store.
    pub store: &'a dyn Backend,
    /// Who asks.
    pub actor: Actor,
    /// What becomes of each message.
    pub act: Act,
    /// Only messages that are in this state.
    pub only: Option<QueueState>,
    /// Messages in `active` too.
    pub active: bool,
    /// At most so many changes.
    pub limit: Option<u64>,
    /// At most so many changes a second.
    pub rate: Option<u32>,
    /// Set from anywhere, to end after the step under way.
    pub stop: &'a AtomicBool,
}

/// What has been done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that were changed.
    pub done: u64,
    /// Messages that were as they should be.
    pub unchanged: u64,
    /// Messages that were left alone, each with its reason.
    pub skipped: u64,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No message is left.
    Done,
    /// As many as were allowed are changed.
    AtLimit,
    /// It was told to stop.
    Stopped,
}

impl Job<'_> {
    /// Why this message is left alone, if it is.
    fn excludes(&self, found: &Found) -> Option<Skip> {
        match self.only {
            Some(wanted) if wanted != found.state => Some(Skip::Elsewhere {
                found: found.state,
                wanted,
            }),
            _ if found.state == QueueState::Active && !self.active => Some(Skip::Active),
            _ => None,
        }
    }

    /// Does it. `skipped` hears of each message that is left alone, `progress` of each step. What
    /// `tally` says is done stays done, also if this fails.
    pub fn run<E: From<Error>>(
        &self,
        pages: impl Iterator<Item = Result<Page, E>>,
        mut save: Option<&mut Save>,
        tally: &mut Tally,
        skipped: &mut dyn FnMut(&MessageId, Skip),
        progress: &mut dyn FnMut(&Tally),
    ) -> Result<Ended, E> {
        let mut pace = Pace::new(self.rate);
        for page in pages {
            let page = page?;
            for (id, why) in page.lost {
                tally.skipped += 1;
                skipped(&id, why.into());
            }
            let mut found = page.found.into_iter().peekable();
            while found.peek().is_some() {
                if self.limit.is_some_and(|limit| tally.done >= limit) {
                    return Ok(Ended::AtLimit);
                }
                let left = self.limit.map_or(u64::MAX, |limit| limit - tally.done);
                let Some(allowed) = pace.wait(self.stop) else {
                    return Ok(Ended::Stopped);
                };
                let most = allowed
                    .min(AT_ONCE)
                    .min(usize::try_from(left).unwrap_or(AT_ONCE));
                let mut batch = Vec::with_capacity(most);
                let mut proposals = Vec::with_capacity(most);
                while proposals.len() < most
                    && let Some(one) = found.next()
                {
                    if let Some(why) = self.excludes(&one) {
                        tally.skipped += 1;
                        skipped(&one.id, why);
                    } else if let Some(proposal) = self.act.propose(&one) {
                        batch.push(one);
                        proposals.push(proposal);
                    } else {
                        tally.unchanged += 1;
                    }
                }
                if let Some(save) = save.as_deref_mut() {
                    save.add(&batch)?;
                }
                let (done, refused) = self.apply(&proposals);
                pace.done(proposals.len());
                tally.done += done;
                let mut kept = vec![true; batch.len()];
                let mut fatal = None;
                for (at, error) in refused {
                    kept[at] = false;
                    tally.skipped += 1;
                    match error.is_of_the_store() {
                        true => fatal = fatal.or(Some(error)),
                        false => skipped(proposals[at].id(), error.into()),
                    }
                }
                if let Some(save) = save.as_deref_mut() {
                    let kept = batch.iter().zip(kept).filter(|(_, kept)| *kept);
                    save.amend(kept.map(|(found, _)| found))?;
                }
                progress(tally);
                if let Some(error) = fatal {
                    return Err(error.into());
                }
            }
            // The next page may take its time to come.
            if self.limit.is_some_and(|limit| tally.done >= limit) {
                return Ok(Ended::AtLimit);
            }
        }
        Ok(Ended::Done)
    }

    /// Makes the changes; how many were made, and which were not.
    fn apply(&self, proposals: &[Proposal]) -> (u64, Vec<(usize, Error)>) {
        let ctx = Context::within(WITHIN).by(self.actor.clone());
        let answers = self.store.apply(&ctx, proposals);
        let mut done = 0;
        let mut refused = Vec::new();
        for (at, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(_) => done += 1,
                Err(error) => refused.push((at, error)),
            }
        }
        (done, refused)
    }
}

/// What a job would do.
#[derive(Debug, Default)]
pub struct Survey {
    /// What it would count.
    pub tally: Tally,
    /// The first ten messages that it would change.
    pub examples: Vec<Found>,
}

/// Looks at all that a job would do, and changes nothing.
pub fn survey<E: From<Error>>(
    job: &Job,
    pages: impl Iterator<Item = Result<Page, E>>,
    skipped: &mut dyn FnMut(&MessageId, Skip),
) -> Result<Survey, E> {
    let mut survey = Survey::default();
    let tally = &mut survey.tally;
    for page in pages {
        let page = page?;
        for (id, why) in page.lost {
            tally.skipped += 1;
            skipped(&id, why.into());
        }
        for found in page.found {
            if job.limit.is_some_and(|limit| tally.done >= limit) || job.stop.load(Relaxed) {
                return Ok(survey);
            }
            if let Some(why) = job.excludes(&found) {
                tally.skipped += 1;
                skipped(&found.id, why);
            } else if job.act.propose(&found).is_none() {
                tally.unchanged += 1;
            } else {
                tally.done += 1;
                if survey.examples.len() < 10 {
                    survey.examples.push(found);
                }
            }
        }
    }
    Ok(survey)
}

/// So many a second, evenly.
pub struct Pace {
    rate: Option<u32>,
    start: Instant,
    done: u64,
}

impl Pace {
    /// From now on.
    pub fn new(rate: Option<u32>) -> Pace {
        Pace {
            rate,
            start: Instant::now(),
            done: 0,
        }
    }

    /// How many may be done now, at least one: waits for that. `None` if it was stopped.
    pub fn wait(&self, stop: &AtomicBool) -> Option<usize> {
        loop {
            if stop.load(Relaxed) {
                return None;
            }
            let Some(rate) = self.rate else {
                return Some(usize::MAX);
            };
            let due = (self.start.elapsed().as_secs_f64() * f64::from(rate)) as u64 + 1;
            match due.saturating_sub(self.done) {
                0 => std::thread::sleep(Duration::from_millis(20)),
                allowed => return Some(usize::try_from(allowed).unwrap_or(usize::MAX)),
            }
        }
    }

    /// So many more were done.
    pub fn done(&mut self, count: usize) {
        self.done += count as u64;
    }
}
