//! `retryspoolfs events`.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::output::{Output, escaped};
use super::place::{self, Place};
use crate::backend::Context;
use crate::overview::{event_line, lost_line};

/// Print the changes of the queue, by whomever, as JSON Lines.
///
/// These are the lines of a mount's .retryspool/events: seq, time, op (store, update, move,
/// delete), id, from, to, revision, and uid, pid and command of a change that this program made.
/// A line whose op is "lost" stands for changes that are missing: the log is bounded.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs events [OPTIONS] [SPOOL]",
    after_long_help = "\
Examples:
  The last twenty changes:
    retryspoolfs events /var/spool/q.db --last 20
  What leaves the queue, as it happens:
    retryspoolfs events /mnt/queue --follow | jq -r 'select(.op == \"delete\").id'
  Go on where a program stopped:
    retryspoolfs events /var/spool/q.db --after 123456"
)]
pub struct Arguments {
    #[arg(value_name = "SPOOL", help = place::HELP)]
    words: Vec<OsString>,
    /// Go on with changes as they are made, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Begin with the last N changes; 0 with --follow alone, else 10
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// Begin behind the change of this number (seq)
    #[arg(long, value_name = "SEQ", conflicts_with = "last")]
    after: Option<u64>,
}

/// How many changes are read at once.
const AT_ONCE: usize = 1000;

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let place = Place::alone(&arguments.words)?;
    let store = place.look()?;
    let Some(feed) = store.change_feed() else {
        return Err(format!(
            "events {}: this spool has no log of changes; mount it once, or use it with any \
             command that changes it, and it will have one",
            place.locator
        )
        .into());
    };
    let failed = |error| format!("events {}: {error}", place.locator);
    let newest = feed.newest(&place::ctx()).map_err(failed)?;
    let last = arguments
        .last
        .unwrap_or(if arguments.follow { 0 } else { 10 });
    let mut cursor = arguments.after.unwrap_or(newest.saturating_sub(last));
    let mut out = Output::new();
    while arguments.follow || cursor < newest {
        let ctx = Context::within(Duration::from_secs(1));
        let found = feed.changes(&ctx, cursor, AT_ONCE).map_err(failed)?;
        if found.lost {
            out.line(&lost_line(
                "the log of changes does not go back so far, or was begun anew",
            ))?;
        }
        for change in &found.changes {
            if arguments.follow || change.seq <= newest {
                out.line(&escaped(event_line(change)))?;
            }
        }
        cursor = found.cursor;
        out.flush()?;
    }
    out.end()?;
    Ok(ExitCode::SUCCESS)
}
