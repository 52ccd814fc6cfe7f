//! `retryspoolfs reasons`.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::Failure;
use super::age::{left_out, waiting_or};
use super::filter::Filters;
use super::output::{Output, escaped, printable};
use super::place::{self, Place};
use crate::backend::{Backend, Pages};
use crate::model::{Filter, QueueState, Timestamp, show_duration};
use crate::overview::{Reason, Reasons};

/// Why messages wait: their last errors, grouped by what they say.
///
/// Errors that differ only in numbers, addresses, hosts and queue IDs are one group. Below each
/// group is the filter that selects its messages, in every command that takes filters; where it
/// selects others as well, the line says how many. Without a STATE it looks at what waits for
/// delivery: incoming, active and deferred.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs reasons [OPTIONS] SPOOL [STATE]...",
    after_long_help = "\
Examples:
  retryspoolfs reasons /var/spool/q.db
  retryspoolfs reasons /mnt/queue deferred --newer 1h
  retryspoolfs reasons /var/spool/q.db --json | jq -r '.reasons[] | [.count, .text] | @tsv'"
)]
pub struct Arguments {
    #[arg(value_name = "SPOOL STATE", help = place::HELP)]
    words: Vec<OsString>,
    /// At most so many groups, the largest
    #[arg(long, value_name = "N", default_value = "20")]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: Filters,
}

/// A group, and how many messages its filter selects beyond it.
struct Told {
    reason: Reason,
    more: u64,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (place, words) = Place::split(&arguments.words)?;
    let states = waiting_or(words)?;
    let store = place.look()?;
    let now = Timestamp::now();
    let filter = arguments.filters.at(now);
    let failed = |error| format!("reasons {}: {error}", place.locator);
    let mut reasons = Reasons::default();
    let mut unreadable = 0;
    for page in Pages::stored(&*store, &states, &filter, 1000) {
        let (_, page) = page.map_err(failed)?;
        page.messages
            .iter()
            .for_each(|stored| reasons.add(&stored.metadata));
        unreadable += page.unreadable.len();
    }
    let (groups, all) = reasons.largest(arguments.limit);
    let mut told = Vec::new();
    for reason in groups {
        // Exact among what was looked at, which an --error of the user's has narrowed.
        let selected = match reason.exact && !arguments.filters.names_error() {
            true => reason.count,
            false => count(&*store, &states, &filter, &reason).map_err(failed)?,
        };
        let more = selected.saturating_sub(reason.count);
        told.push(Told { reason, more });
    }
    let mut out = Output::new();
    match arguments.json {
        true => print_json(&mut out, &told, all, reasons.rest())?,
        false => print_text(&mut out, &told, all, reasons.rest(), now)?,
    }
    out.end()?;
    left_out("reasons", unreadable)
}

/// How many messages the group's filter selects, together with the others that were given.
fn count(
    store: &dyn Backend,
    states: &[QueueState],
    filter: &Filter,
    reason: &Reason,
) -> crate::backend::Result<u64> {
    let filter = Filter {
        error: reason.key.pattern.parse().ok(),
        ..filter.clone()
    };
    let mut count = 0;
    for page in Pages::of(store, states, &filter, 1000) {
        count += page?.1.messages.len() as u64;
    }
    Ok(count)
}

/// The filter as it can be pasted into a shell.
fn as_typed(pattern: &str) -> String {
    if pattern.chars().any(char::is_control) {
        // Bash's and other shells' spelling of what can't be printed.
        let escaped: String = pattern
            .chars()
            .map(|c| match c {
                '\\' => r"\\".to_owned(),
                '\'' => r"\'".to_owned(),
                c if c.is_control() => {
                    let mut bytes = [0; 4];
                    let bytes = c.encode_utf8(&mut bytes).bytes();
                    bytes.map(|byte| format!("\\{byte:03o}")).collect()
                }
                c => c.to_string(),
            })
            .collect();
        return format!("--error $'{escaped}'");
    }
    format!("--error '{}'", pattern.replace('\'', r"'\''"))
}

fn print_json(out: &mut Output, told: &[Told], all: usize, rest: u64) -> Result<(), Failure> {
    let group = |told: &Told| {
        let reason = &told.reason;
        let states = QueueState::ALL.iter().zip(reason.states);
        let states = states.filter(|(_, count)| *count > 0);
        let states: serde_json::Map<_, _> = states
            .map(|(state, count)| (state.to_string(), count.into()))
            .collect();
        json!({
            "count": reason.count,
            "code": reason.key.code,
            "text": reason.key.text,
            "error": reason.key.pattern,
            "selects_more": told.more,
            "states": states,
            "oldest": reason.oldest.to_string(),
            "example": reason.example.as_str(),
        })
    };
    let value = json!({
        "groups": all,
        "in_no_group": rest,
        "reasons": told.iter().map(group).collect::<Vec<_>>(),
    });
    out.line(&escaped(format!("{value:#}")))
}

fn print_text(
    out: &mut Output,
    told: &[Told],
    all: usize,
    rest: u64,
    now: Timestamp,
) -> Result<(), Failure> {
    out.line("MESSAGES  OLDEST   CODE       REASON")?;
    for Told { reason, more } in told {
        let text = match (reason.key.code.as_str(), reason.key.text.as_str()) {
            ("", "") => "(no error)".into(),
            (_, text) => printable(text),
        };
        out.line(&format!(
            "{:>8}  {:<7}  {:<9}  {text}",
            reason.count,
            show_duration(now.since(reason.oldest)),
            reason.key.code
        ))?;
        let more = match more {
            0 => String::new(),
            more => format!("   (selects {more} more)"),
        };
        out.line(&format!(
            "          {}{more}",
            as_typed(&reason.key.pattern)
        ))?;
    }
    if all > told.len() {
        out.line(&format!("... and {} groups more", all - told.len()))?;
    }
    if rest > 0 {
        out.line(&format!(
            "... and {rest} messages in groups that were too many to keep apart"
        ))?;
    }
    Ok(())
}
