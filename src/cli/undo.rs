//! `retryspoolfs undo`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

use super::Failure;
use super::change::id;
use super::history::{self, Selectors};
use super::output::{Output, printable};
use super::place::{self, Place};
use super::work::{ASKED_FROM, Bounds, How, Work, messages};
use crate::backend::{AuditLog, Backend, Error, Proposal};
use crate::model::MessageId;
use crate::operate::{Pace, Plan, Since, Skip, Step, Tally};

/// How many messages are brought back together.
const AT_ONCE: usize = 250;

/// Undo changes: bring messages back to what they were before the changes that are selected.
///
/// Only what nobody changed since is brought back: a message that was changed, moved, delivered or
/// stored again after the selected changes is left alone and told of (exit code 3). A message
/// that was moved is moved back; one that was edited gets its old document; one that was deleted
/// is stored again as it was, unless somebody stored and deleted it once more as far as the log of
/// the latest 131,072 changes tells; one that was stored is deleted. An undo is itself a change in the
/// audit log, and can be undone.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs undo [OPTIONS] SPOOL [ID]...",
    after_long_help = "\
Each command that changes messages prints the undo that fits it. A dir: spool has no audit log, and
nothing is undone there. Examples:
  retryspoolfs undo /var/spool/q.db --pid 4711 --since 2026-11-24T03:12:55Z
  retryspoolfs undo /var/spool/q.db --command mv --uid 1000 --since 10m --dry-run
  retryspoolfs undo /var/spool/q.db msg-1"
)]
pub struct Arguments {
    #[arg(value_name = "SPOOL ID", help = place::HELP)]
    words: Vec<OsString>,
    #[command(flatten)]
    selectors: Selectors,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    bounds: Bounds,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (place, words) = Place::of_messages(&arguments.words)?;
    let ids = words.iter().map(|word| id(word));
    let ids: Vec<MessageId> = ids.collect::<Result<_, _>>()?;
    if ids.is_empty() && arguments.selectors.is_empty() {
        return Err(Failure::usage(
            "undo: which changes? Give --since, --uid, --pid or --command, or IDs",
        ));
    }
    let dry_run = arguments.how.dry_run;
    let store = match dry_run {
        true => place.look()?,
        false => place.change()?,
    };
    let failed = |error: Error| format!("undo {}: {error}", place.locator);
    let log = history::log("undo", &*store, &place)?;
    let past = if dry_run {
        "would be brought back"
    } else {
        "brought back"
    };
    let mut work = Work::begin("undo", past.to_owned())?;
    let query = arguments.selectors.query(&ids);
    let plan = Plan::read(log, &query, &ids, place::ctx).map_err(failed)?;
    if ids.is_empty() {
        let none = "the audit log has no such change, or none that is not undone already";
        work.of_none = Some(none.to_owned());
    }
    let mut tally = Tally::default();
    for (id, seq) in &plan.overtaken {
        tally.skipped += 1;
        work.left_alone(&format!(
            "{id}: change {seq} is not undone: somebody else changed the message after it"
        ));
    }
    let known: HashSet<&MessageId> = plan.steps.iter().map(|step| &step.id).collect();
    for id in &ids {
        if !known.contains(id) {
            tally.skipped += 1;
            work.left_alone(&format!("{id}: the audit log has no such change of it"));
        }
    }
    if dry_run {
        return preview(&*store, log, &plan, &mut work, tally);
    }
    let count = plan.steps.len() as u64;
    if count > ASKED_FROM && !arguments.how.yes {
        work.confirm(count, messages(count))?;
    }
    let done = back(
        &*store,
        log,
        &plan,
        &mut work,
        &arguments.bounds,
        &mut tally,
    );
    work.end(
        tally,
        messages(tally.done),
        &place,
        done.err().map(|e| e.to_string()),
    )
}

fn back(
    store: &dyn Backend,
    log: &dyn AuditLog,
    plan: &Plan,
    work: &mut Work,
    bounds: &Bounds,
    tally: &mut Tally,
) -> Result<(), Error> {
    let mut pace = Pace::new(bounds.rate);
    let mut since = Since::of(plan);
    let stop = work.interrupt.flag();
    let limit = usize::try_from(bounds.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let mut left = &plan.steps[..plan.steps.len().min(limit)];
    while !left.is_empty() {
        let Some(allowed) = pace.wait(&stop) else {
            return Ok(());
        };
        let (batch, rest) = left.split_at(left.len().min(allowed).min(AT_ONCE));
        left = rest;
        since.look(log, &place::ctx())?;
        let mut proposals: Vec<Proposal> = Vec::with_capacity(batch.len());
        for step in batch {
            match step.propose(store, log, &since, &place::ctx())? {
                Ok(Some(proposal)) => proposals.push(proposal),
                Ok(None) => tally.unchanged += 1,
                Err(why) => left_alone(work, tally, &step.id, &why),
            }
        }
        let answers = store.apply(&work.ctx(), &proposals);
        pace.done(proposals.len());
        let mut fatal = None;
        for (proposal, answer) in proposals.iter().zip(answers) {
            match answer {
                Ok(_) => tally.done += 1,
                Err(error) if error.is_of_the_store() => {
                    tally.skipped += 1;
                    fatal = fatal.or(Some(error));
                }
                Err(error) => left_alone(work, tally, proposal.id(), &error.into()),
            }
        }
        work.progress(tally);
        if let Some(error) = fatal {
            return Err(error);
        }
    }
    Ok(())
}

fn left_alone(work: &mut Work, tally: &mut Tally, id: &MessageId, why: &Skip) {
    tally.skipped += 1;
    work.skipped(id, why);
}

/// Prints what would be brought back, looking at each message.
fn preview(
    store: &dyn Backend,
    log: &dyn AuditLog,
    plan: &Plan,
    work: &mut Work,
    mut tally: Tally,
) -> Result<ExitCode, Failure> {
    let mut examples: Vec<&Step> = Vec::new();
    let failed = |error: Error| format!("undo: {error}");
    let mut since = Since::of(plan);
    since.look(log, &place::ctx()).map_err(failed)?;
    for step in &plan.steps {
        if !work.interrupt.going() {
            return Err(Failure::interrupted("undo: interrupted; nothing was done"));
        }
        let checked = step.check(store, &since, &place::ctx());
        match checked.map_err(failed)? {
            Err(why) => left_alone(work, &mut tally, &step.id, &why),
            Ok(()) => match step
                .propose(store, log, &since, &place::ctx())
                .map_err(failed)?
            {
                Err(why) => left_alone(work, &mut tally, &step.id, &why),
                Ok(None) => tally.unchanged += 1,
                Ok(Some(_)) => {
                    tally.done += 1;
                    if examples.len() < 10 {
                        examples.push(step);
                    }
                }
            },
        }
    }
    let mut out = Output::new();
    out.line(&format!(
        "{} {} would be brought back{}",
        tally.done,
        messages(tally.done),
        work.hint_of_none(&tally)
    ))?;
    for step in &examples {
        let place = |state: Option<crate::model::QueueState>| match state {
            Some(state) => state.to_string(),
            None => "gone".to_owned(),
        };
        let (now, then) = (step.now.map(|(state, _)| state), step.then);
        let id = printable(step.id.as_str());
        out.line(&format!("  {id}: {} -> {}", place(now), place(then)))?;
    }
    if tally.done > examples.len() as u64 {
        out.line(&format!(
            "  and {} more",
            tally.done - examples.len() as u64
        ))?;
    }
    out.end()?;
    Ok(match tally.skipped {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(super::failure::PARTLY),
    })
}
