//! `retryspoolfs flush` and `postpone`: when deferred messages are tried again.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::change::{self, Command, Options, Retries};
use super::place::Place;
use crate::model::{QueueState, Timestamp, parse_duration};
use crate::operate::{Act, Edit, Reset};

/// Try deferred messages now: their next retry becomes now, or with --spread is scattered over the
/// time from now on. Those that are due already stay as they are.
///
/// Without a word behind SPOOL: all deferred messages that the filters choose. A destination that
/// has just come back is spared by --spread or --rate.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs flush [OPTIONS] SPOOL [ID...|-]",
    after_long_help = "\
Examples:
  retryspoolfs flush /var/spool/q.db msg-1
  retryspoolfs flush /var/spool/q.db --to '*@example.com' --spread 30m --yes"
)]
pub struct Flush {
    #[arg(value_name = "WORD", help = change::HELP)]
    words: Vec<OsString>,
    #[command(flatten)]
    retries: Retries,
    #[command(flatten)]
    options: Options,
}

/// Try deferred messages later: their next retry becomes a time to come.
///
/// Without a word behind SPOOL: all deferred messages that the filters choose.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs postpone [OPTIONS] <--for SPAN|--until TIME> SPOOL [ID...|-]",
    after_long_help = "\
Examples:
  retryspoolfs postpone /var/spool/q.db msg-1 --for 2h
  retryspoolfs postpone /var/spool/q.db --to '*@down.example' --until 2026-11-24T06:00:00Z --spread 1h --yes"
)]
pub struct Postpone {
    #[arg(value_name = "WORD", help = change::HELP)]
    words: Vec<OsString>,
    /// So long from now: 30m, 4h, 2d
    #[arg(long = "for", value_name = "SPAN", value_parser = parse_duration)]
    span: Option<Duration>,
    /// Until this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "span")]
    until: Option<Timestamp>,
    #[command(flatten)]
    retries: Retries,
    #[command(flatten)]
    options: Options,
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or(format!("{text:?} is no time such as 2026-11-23T10:15:00Z"))
}

impl Flush {
    pub fn run(&self) -> Result<ExitCode, Failure> {
        let mut reset = Reset::at(Timestamp::now());
        reset.unless_due = true;
        let past = "made due now".to_owned();
        go(
            "flush",
            past,
            reset,
            &self.words,
            &self.retries,
            &self.options,
        )
    }
}

impl Postpone {
    pub fn run(&self) -> Result<ExitCode, Failure> {
        let until = match (self.until, self.span) {
            (Some(until), _) => until,
            // To the second: a spool may keep no more.
            (None, Some(span)) => {
                let ahead = Timestamp::now().saturating_add(span);
                Timestamp::new(ahead.seconds(), 0).unwrap_or(ahead)
            }
            (None, None) => {
                return Err(Failure::usage(
                    "postpone: until when? Give --for, such as --for 2h, or --until TIME",
                ));
            }
        };
        let past = format!("postponed until {until}");
        go(
            "postpone",
            past,
            Reset::at(until),
            &self.words,
            &self.retries,
            &self.options,
        )
    }
}

fn go(
    name: &'static str,
    mut past: String,
    reset: Reset,
    words: &[OsString],
    retries: &Retries,
    options: &Options,
) -> Result<ExitCode, Failure> {
    let (place, words) = Place::of_messages(words)?;
    let mut edit = Edit {
        reset: Some(reset),
        ..Edit::default()
    };
    retries.apply(&mut edit);
    if let Some(spread) = retries.spread {
        past += &format!(", spread over {}", crate::model::show_duration(spread));
    }
    change::run(
        &place,
        Command {
            name,
            past,
            act: Act::Edit(Box::new(edit)),
            only: Some(QueueState::Deferred),
            save: None,
            words,
            options,
        },
    )
}
