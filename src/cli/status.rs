//! `retryspoolfs status`.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::output::{Output, escaped, printable};
use super::place::{self, Place};
use crate::backend::Backend;
use crate::model::{Timestamp, parse_duration, show_duration};
use crate::overview::{Level, Measured, StateStatus, Status, Thresholds, Traffic};

/// How full the queue is: counts, the oldest message, the next retry, and what comes and goes.
///
/// Nothing is listed for it, so it takes as long for a million messages as for none. "The queue"
/// is what waits for delivery: incoming, active and deferred. Rates are those of the last ten
/// minutes; of more than four thousand changes they are estimated from that many.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs status [OPTIONS] [SPOOL]",
    after_long_help = "\
Examples:
  retryspoolfs status /var/spool/q.db
  retryspoolfs status /mnt/queue --watch
  retryspoolfs status /var/spool/q.db --json | jq .states.deferred.count

For monitoring (Nagios, Icinga, Zabbix and whoever runs their plugins):
  retryspoolfs status /var/spool/q.db --check deferred=5000,20000,oldest=4h
prints one line, and exits with 0 if all is well, 1 if a value is above its first limit, 2 if it is
above the second, and 3 if anything fails: a spool that can't be opened, or limits that make no
sense. Limits are NAME=WARNING,CRITICAL, or NAME=WARNING, which is never more than a warning:
deferred=5000 exits with 1 above 5000, and never with 2. Names are the six states, total, oldest
(the age of the oldest message that waits) and overdue (for how long the next retry has been due)."
)]
pub struct Arguments {
    #[arg(value_name = "SPOOL", help = place::HELP)]
    words: Vec<OsString>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print it again every two seconds, or as often as given, until interrupted
    #[arg(
        long,
        value_name = "INTERVAL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s",
        value_parser = interval
    )]
    watch: Option<Duration>,
    /// Print one line for a monitoring system, and exit with 0, 1, 2 or 3
    #[arg(long, value_name = "LIMITS", conflicts_with_all = ["json", "watch"])]
    check: Option<Thresholds>,
}

/// Whether the program runs for a monitoring system, to which every failure is exit code 3: also
/// one to read the rest of the command line.
pub fn is_check(words: &[OsString]) -> bool {
    let mut words = words.iter().skip(1);
    let is_flag = |word: &OsString| {
        let word = word.to_string_lossy();
        word == "--check" || word.starts_with("--check=")
    };
    words.next().is_some_and(|word| word == "status") && words.any(is_flag)
}

/// Ends a check that failed: one line on standard output.
pub fn unknown(why: &str) -> ExitCode {
    let why = why.lines().next().unwrap_or_default();
    let why = why.strip_prefix("error: ").unwrap_or(why);
    let mut out = Output::new();
    // What can't be printed is told by the exit code.
    let _ = out.line(&format!("RETRYSPOOL UNKNOWN - {}", printable(why)));
    let _ = out.end();
    ExitCode::from(3)
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if let Some(limits) = &arguments.check {
        return Ok(match check(arguments, limits) {
            Ok(code) => code,
            Err(failure) => unknown(failure.text()),
        });
    }
    let place = Place::alone(&arguments.words)?;
    let store = place.look()?;
    let clear = std::io::stdout().is_terminal() && !arguments.json;
    loop {
        let status = status(&*store, &place)?;
        let mut out = Output::new();
        match (arguments.json, arguments.watch) {
            (true, None) => out.line(&escaped(format!("{:#}", as_json(&status, &place))))?,
            (true, Some(_)) => out.line(&escaped(as_json(&status, &place).to_string()))?,
            (false, Some(_)) if clear => out.bytes(b"\x1b[H\x1b[2J")?,
            _ => {}
        }
        if !arguments.json {
            out.bytes(as_text(&status, &place).as_bytes())?;
            if arguments.watch.is_some() && !clear {
                out.line("")?;
            }
        }
        out.end()?;
        match arguments.watch {
            Some(interval) => std::thread::sleep(interval),
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    match interval.is_zero() {
        true => Err("at least a second has to pass".into()),
        false => Ok(interval),
    }
}

fn status(store: &dyn Backend, place: &Place) -> Result<Status, Failure> {
    let status = Status::of(store, &place::ctx());
    status.map_err(|error| format!("status {}: {error}", place.locator).into())
}

fn check(arguments: &Arguments, limits: &Thresholds) -> Result<ExitCode, Failure> {
    let place = Place::alone(&arguments.words)?;
    let store = place.look()?;
    let measured = limits.measure(&status(&*store, &place)?);
    let worst = measured.iter().map(|measured| measured.level).max();
    let (word, code) = match worst.unwrap_or(Level::Ok) {
        Level::Ok => ("OK", 0),
        Level::Warning => ("WARNING", 1),
        Level::Critical => ("CRITICAL", 2),
    };
    let told: Vec<String> = measured.iter().map(told).collect();
    let data: Vec<String> = measured.iter().map(performance_data).collect();
    let mut out = Output::new();
    out.line(&format!(
        "RETRYSPOOL {word} - {} | {}",
        told.join(", "),
        data.join(" ")
    ))?;
    out.end()?;
    Ok(ExitCode::from(code))
}

fn told(measured: &Measured) -> String {
    let show = |value: u64| match measured.seconds {
        true => show_duration(Duration::from_secs(value)),
        false => value.to_string(),
    };
    let passed = match measured.level {
        Level::Ok => None,
        Level::Warning => Some(measured.warning),
        Level::Critical => measured.critical,
    };
    let passed = passed.map_or(String::new(), |limit| format!(" (limit {})", show(limit)));
    format!("{} {}{passed}", measured.name, show(measured.value))
}

/// As the guidelines for monitoring plugins want it: `name=value[unit];warning;critical;least`.
fn performance_data(measured: &Measured) -> String {
    let critical = measured
        .critical
        .map_or(String::new(), |limit| limit.to_string());
    format!(
        "{}={}{};{};{critical};0",
        measured.name,
        measured.value,
        if measured.seconds { "s" } else { "" },
        measured.warning
    )
}

/// `2h 5m`, or a hyphen.
fn ago(now: Timestamp, time: Option<Timestamp>) -> String {
    time.map_or("-".to_owned(), |time| show_duration(now.since(time)))
}

/// When a retry is due, as seen from `now`.
pub fn due(now: Timestamp, time: Option<Timestamp>) -> String {
    match time {
        None => "-".to_owned(),
        Some(time) if time > now => format!("in {}", show_duration(time.since(now))),
        Some(time) => format!("{} overdue", show_duration(now.since(time))),
    }
}

/// What becomes of the queue at this rate.
fn outlook(status: &Status, traffic: &Traffic) -> String {
    let waiting = status.waiting();
    match traffic.empty_in(waiting) {
        _ if waiting == 0 => "the queue is empty".to_owned(),
        Some(span) => format!("at this rate the queue is empty in {}", show_duration(span)),
        None => "at this rate the queue does not get empty".to_owned(),
    }
}

fn as_text(status: &Status, place: &Place) -> String {
    let mut text = format!("{}\n\n", printable(&place.locator.to_string()));
    text.push_str("STATE        MESSAGES  OLDEST      NEXT RETRY          IN/MIN  OUT/MIN\n");
    for state in &status.states {
        text.push_str(&state_line(state, status));
    }
    text.push_str(&format!("{:<10} {:>10}\n\n", "total", status.total()));
    if status.inexpressible > 0 {
        text.push_str(&format!(
            "{} stored messages are in no directory and no count: no file name or state can \
             express them (see: retryspoolfs check).\n",
            status.inexpressible
        ));
    }
    if let Some(traffic) = &status.traffic {
        let rate = |count: u64| traffic.per_minute(count);
        text.push_str(&format!(
            "In the last {}: {}{:.1} a minute came to wait, {:.1} left; {}.\n",
            show_duration(traffic.over),
            if traffic.estimated { "about " } else { "" },
            rate(traffic.waiting_arrived),
            rate(traffic.waiting_left),
            outlook(status, traffic)
        ));
    }
    if let Some(audit) = &status.audit {
        text.push_str(&format!(
            "Audit log: {} entries, {} KiB, oldest {}.\n",
            audit.rows,
            audit.bytes.div_ceil(1024),
            ago(status.at, audit.oldest)
        ));
    }
    text
}

fn state_line(state: &StateStatus, status: &Status) -> String {
    let number = usize::from(state.state.number());
    let rates = status.traffic.as_ref().map(|traffic| {
        let rate = |count: u64| format!("{:.1}", traffic.per_minute(count));
        (rate(traffic.arrived[number]), rate(traffic.left[number]))
    });
    let (came, went) = rates.unwrap_or(("-".to_owned(), "-".to_owned()));
    format!(
        "{:<10} {:>10}  {:<10}  {:<18} {:>7}  {:>7}\n",
        state.state,
        state.info.count,
        ago(status.at, state.ages.oldest),
        due(status.at, state.ages.next_due),
        came,
        went
    )
}

fn as_json(status: &Status, place: &Place) -> Value {
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let state = |state: &StateStatus| {
        let number = usize::from(state.state.number());
        let traffic = status.traffic.as_ref();
        let rate = |counts: fn(&Traffic) -> &[u64; 6]| {
            traffic.map(|traffic| traffic.per_minute(counts(traffic)[number]))
        };
        let value = json!({
            "count": state.info.count,
            "changed": time(Some(state.info.changed).filter(|t| *t != Timestamp::ZERO)),
            "oldest": time(state.ages.oldest),
            "next_due": time(state.ages.next_due),
            "arrived_per_minute": rate(|traffic| &traffic.arrived),
            "left_per_minute": rate(|traffic| &traffic.left),
        });
        (state.state.to_string(), value)
    };
    let states: serde_json::Map<String, Value> = status.states.iter().map(state).collect();
    json!({
        "time": status.at.to_string(),
        "spool": place.locator.to_string(),
        "total": status.total(),
        "inexpressible": status.inexpressible,
        "states": states,
        "queue": {
            "waiting": status.waiting(),
            "oldest": time(status.oldest_waiting()),
            "next_due": time(status.next_due()),
            "rates_over_seconds": status.traffic.map(|traffic| traffic.over.as_secs_f64()),
            "arrived_per_minute": status.traffic.map(|t| t.per_minute(t.waiting_arrived)),
            "left_per_minute": status.traffic.map(|t| t.per_minute(t.waiting_left)),
            "empty_in_seconds": status.traffic
                .and_then(|traffic| traffic.empty_in(status.waiting()))
                .map(|span| span.as_secs()),
        },
        "audit": status.audit.map(|audit| json!({
            "entries": audit.rows,
            "bytes": audit.bytes,
            "oldest": time(audit.oldest),
        })),
    })
}
