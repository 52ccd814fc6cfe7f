//! `retryspoolfs age`.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::Failure;
use super::failure::PARTLY;
use super::filter::Filters;
use super::output::{Output, colours, complain, escaped, printable};
use super::place::{self, Place};
use crate::backend::Pages;
use crate::model::{QueueState, Timestamp};
use crate::overview::{AgeRow, AgeTable, BUCKETS, Side, WAITING};

/// Whose messages are how old: domains against ages, as Postfix's qshape shows them.
///
/// The columns are ages in minutes: a message under 20 is more than 10 and at most 20 minutes old.
/// A row is a domain of recipients (the header "to"), or of senders; a message with recipients in
/// several domains is counted in each, and once in TOTAL. Without a STATE it looks at what waits
/// for delivery: incoming, active and deferred. On a terminal a bar below each row shows its ages
/// in colours, from green (young) to red.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs age [OPTIONS] SPOOL [STATE]...",
    after_long_help = "\
Examples:
  retryspoolfs age /var/spool/q.db
  retryspoolfs age /mnt/queue deferred --by sender --limit 5
  retryspoolfs age /var/spool/q.db --json | jq -r '.rows[] | select(.count > 100).domain'"
)]
pub struct Arguments {
    #[arg(value_name = "SPOOL STATE", help = place::HELP)]
    words: Vec<OsString>,
    /// Whose domain counts
    #[arg(long, default_value = "recipient")]
    by: By,
    /// At most so many domains, those with most messages
    #[arg(long, value_name = "N", default_value = "20")]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: Filters,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    Recipient,
    Sender,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (place, words) = Place::split(&arguments.words)?;
    let states = waiting_or(words)?;
    let store = place.look()?;
    let now = Timestamp::now();
    let side = match arguments.by {
        By::Recipient => Side::Recipient,
        By::Sender => Side::Sender,
    };
    let filter = arguments.filters.at(now);
    let mut table = AgeTable::new(side, now);
    let mut unreadable = 0;
    for page in Pages::stored(&*store, &states, &filter, 1000) {
        let (_, page) = page.map_err(|error| format!("age {}: {error}", place.locator))?;
        page.messages
            .iter()
            .for_each(|stored| table.add(&stored.metadata));
        unreadable += page.unreadable.len();
    }
    let mut out = Output::new();
    match arguments.json {
        true => print_json(&mut out, &table, arguments.limit)?,
        false => print_table(&mut out, &table, arguments.limit)?,
    }
    out.end()?;
    left_out("age", unreadable)
}

/// The states that the words name; for no word those of messages that wait for delivery.
pub fn waiting_or(words: &[OsString]) -> Result<Vec<QueueState>, Failure> {
    match words.is_empty() {
        true => Ok(WAITING.to_vec()),
        false => place::states(words),
    }
}

/// How a command ends that left messages out because they can't be read.
pub fn left_out(command: &str, unreadable: usize) -> Result<ExitCode, Failure> {
    if unreadable == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    complain(&format!(
        "{command}: {unreadable} messages can't be read and are left out"
    ));
    Ok(ExitCode::from(PARTLY))
}

fn print_json(out: &mut Output, table: &AgeTable, limit: usize) -> Result<(), Failure> {
    let row =
        |row: &AgeRow| json!({"domain": row.domain, "count": row.count, "buckets": row.buckets});
    let rows = table.rows();
    let value = json!({
        "minutes": BUCKETS,
        "total": {"count": table.total().count, "buckets": table.total().buckets},
        "domains": rows.len(),
        "rows": rows.iter().take(limit).map(row).collect::<Vec<_>>(),
    });
    out.line(&escaped(format!("{value:#}")))
}

/// How wide a line is.
const LINE: usize = 79;

fn print_table(out: &mut Output, table: &AgeTable, limit: usize) -> Result<(), Failure> {
    let colours = colours();
    let bars = std::io::stdout().is_terminal();
    let mut heads: Vec<String> = BUCKETS.iter().map(u64::to_string).collect();
    heads.insert(0, "T".to_owned());
    heads.push("1280+".to_owned());
    let total = cells(table.total());
    // No number is longer than the total's.
    let widths = heads.iter().zip(&total);
    let widths: Vec<usize> = widths
        .map(|(head, total)| head.len().max(total.len()).max(4))
        .collect();
    let line = |name: &str, cells: &[String]| {
        let taken: usize = widths.iter().map(|width| width + 1).sum();
        let name_width = LINE.saturating_sub(taken).max(12);
        // What follows a long name is pushed to the right rather than cut off.
        let mut line = format!("{name:<name_width$}");
        for (cell, width) in cells.iter().zip(&widths) {
            line.push_str(&format!(" {cell:>width$}"));
        }
        line
    };
    out.line(&line("", &heads))?;
    out.line(&line("TOTAL", &total))?;
    let rows = table.rows();
    for row in rows.iter().take(limit) {
        let domain = match row.domain.as_str() {
            "" => "(no address)",
            domain => domain,
        };
        out.line(&line(&printable(domain), &cells(row)))?;
        if bars {
            out.line(&bar(row, table.total().count.max(1), colours))?;
        }
    }
    if rows.len() > limit {
        out.line(&format!("... and {} domains more", rows.len() - limit))?;
    }
    Ok(())
}

fn cells(row: &AgeRow) -> Vec<String> {
    let all = [row.count].into_iter().chain(row.buckets);
    all.map(|count| count.to_string()).collect()
}

/// From young to old: xterm's 256 colours.
const AGES: [u8; BUCKETS.len() + 1] = [46, 82, 118, 154, 190, 226, 220, 208, 202, 196];

/// A row's share of all messages, in the colours of its ages; or in digits where there are none.
fn bar(row: &AgeRow, largest: u64, colours: bool) -> String {
    let mut bar = String::from("  ");
    let width = |count: u64| (count as f64 * (LINE - 2) as f64 / largest as f64).round() as usize;
    let (mut messages, mut drawn) = (0, 0);
    for (bucket, count) in row.buckets.iter().enumerate() {
        messages += count;
        let cells = width(messages) - drawn;
        drawn += cells;
        match colours {
            true if cells > 0 => {
                bar.push_str(&format!(
                    "\x1b[48;5;{}m{}\x1b[0m",
                    AGES[bucket],
                    " ".repeat(cells)
                ));
            }
            true => {}
            false => bar.push_str(&bucket.to_string().repeat(cells)),
        }
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        let mut row = AgeRow {
            count: 50,
            ..AgeRow::default()
        };
        row.buckets[0] = 25;
        row.buckets[9] = 25;
        assert_eq!(
            bar(&row, 100, false),
            format!("  {}{}", "0".repeat(19), "9".repeat(20))
        );
        let coloured = bar(&row, 50, true);
        assert_eq!(coloured.matches(' ').count(), LINE);
        assert_eq!(coloured.matches("\x1b[0m").count(), 2);
    }
}
