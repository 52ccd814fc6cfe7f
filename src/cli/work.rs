//! What the changing commands share: who asks, how a user is asked, shown and interrupted.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::output::{complain, printable};
use super::place::Place;
use super::progress::{self, Interrupt, Progress};
use crate::backend::Context;
use crate::model::{MessageId, Timestamp};
use crate::operate::{Skip, Tally};

/// More changes than this, chosen by a filter, are asked about.
pub const ASKED_FROM: u64 = 100;

/// For how long the first of what comes by standard input waits for more.
pub const WAITS: Duration = Duration::from_millis(100);

/// How many messages that were left alone are told one by one.
const TOLD: u64 = 20;

/// The options of every command that may change many messages.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "How")]
pub struct How {
    /// Change nothing: print how many messages it would change, exactly, and ten of them
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Don't ask: needed where more than 100 messages are chosen by a filter, and nobody is at a
    /// terminal
    #[arg(short, long)]
    pub yes: bool,
}

/// How many, and how fast.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "How")]
pub struct Bounds {
    /// At most so many messages
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// At most so many messages a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
}

/// A command at its work.
pub struct Work {
    /// Its name: `move`.
    pub name: &'static str,
    /// What it does, and what it has done: `moved to hold`.
    pub past: String,
    /// Whether SIGINT or SIGTERM came.
    pub interrupt: Interrupt,
    /// Whether it changes anything, and in a spool with an audit log, so that it can be undone.
    pub changes: bool,
    /// What to say where no message was meant at all.
    pub of_none: Option<String>,
    start: Timestamp,
    progress: Progress,
    told: u64,
    /// Whether some message was left alone because somebody else was faster.
    raced: bool,
}

impl Work {
    /// Begins. A first SIGINT or SIGTERM ends it after the step under way, a second one at once:
    /// the store keeps every message whole in both cases.
    pub fn begin(name: &'static str, past: String) -> Result<Work, Failure> {
        Ok(Work {
            name,
            past,
            interrupt: Interrupt::catch()?,
            changes: true,
            of_none: None,
            start: Timestamp::now(),
            progress: Progress::new(name, 0),
            told: 0,
            raced: false,
        })
    }

    /// The context of one call that changes something.
    pub fn ctx(&self) -> Context {
        super::place::ctx().by(progress::actor(self.name))
    }

    /// Tells of a message that is left alone; the first few only.
    pub fn skipped(&mut self, id: &MessageId, why: &Skip) {
        use crate::backend::Error::{AlreadyExists, StaleRevision, StateConflict};
        self.raced |= matches!(
            why,
            Skip::CameBack
                | Skip::Refused(AlreadyExists { .. } | StaleRevision { .. } | StateConflict { .. })
        );
        let is_file = matches!(why, Skip::Refused(crate::backend::Error::NotFound))
            && id.as_str().ends_with(".json");
        let hint = match is_file {
            true => format!("; a message's file takes its directory: deferred/{id}"),
            false => String::new(),
        };
        self.left_alone(&format!("{id}: {why}{hint}"));
    }

    /// The same in words.
    pub fn left_alone(&mut self, line: &str) {
        self.told += 1;
        if self.told <= TOLD {
            self.progress.say(&format!("{} {line}", self.name));
        }
    }

    /// Shows how far it is, on a terminal, a few times a second.
    pub fn progress(&mut self, tally: &Tally) {
        self.progress.done(tally.done);
    }

    /// What follows the count where no message was meant at all.
    pub fn hint_of_none(&self, tally: &Tally) -> String {
        match &self.of_none {
            Some(hint) if *tally == Tally::default() => format!("; {hint}"),
            _ => String::new(),
        }
    }

    /// Asks on a terminal whether to go on; elsewhere that takes --yes.
    pub fn confirm(&self, count: u64, what: &str) -> Result<(), Failure> {
        let (name, past) = (self.name, &self.past);
        let question = format!("{count} {what} would be {past}");
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err(Failure::usage(format!(
                "{name}: {question}; nothing is done without --yes (see them with --dry-run)"
            )));
        }
        let _ = write!(io::stderr(), "{question}. Go on? [y/N] ");
        let mut answer = String::new();
        let input = self.interrupt.input();
        let read = input.and_then(|mut input| input.read_line(&mut answer));
        match (read, answer.trim()) {
            _ if !self.interrupt.going() => {
                let _ = writeln!(io::stderr());
                Err(Failure::interrupted(format!(
                    "{name}: interrupted; nothing was done"
                )))
            }
            (Ok(_), "y" | "Y" | "yes") => Ok(()),
            _ => Err(format!("{name}: nothing was done").into()),
        }
    }

    /// The last lines, and the exit code.
    pub fn end(
        &mut self,
        tally: Tally,
        what: &str,
        place: &Place,
        error: Option<String>,
    ) -> Result<std::process::ExitCode, Failure> {
        self.progress.clear();
        let Tally {
            done,
            unchanged,
            skipped,
        } = tally;
        if self.told > TOLD {
            complain(&format!(
                "{}: and {} more like these",
                self.name,
                self.told - TOLD
            ));
        }
        let mut said = format!("{done} {what} {}", self.past);
        said += &self.hint_of_none(&tally);
        if unchanged > 0 {
            said += &format!("; {unchanged} needed nothing");
        }
        if skipped > 0 {
            said += &format!("; {skipped} left alone");
        }
        let undo = (done > 0 && self.changes).then(|| {
            let since = Timestamp::new(self.start.seconds(), 0).unwrap_or(self.start);
            format!(
                "to undo it: retryspoolfs undo {} --pid {} --since {since}",
                quoted(&place.locator.to_string()),
                std::process::id()
            )
        });
        let and_undo = undo
            .as_ref()
            .map_or(String::new(), |undo| format!("; {undo}"));
        if let Some(error) = error {
            let text = format!("{}: {error}; until then: {said}{and_undo}", self.name);
            return Err(match done {
                0 => text.into(),
                _ => Failure::partly(text),
            });
        }
        if !self.interrupt.going() {
            return Err(Failure::interrupted(format!(
                "{}: interrupted: {said}; every message is in exactly one state, and the same command goes on from here{and_undo}",
                self.name,
            )));
        }
        for line in [Some(said), undo].into_iter().flatten() {
            let _ = writeln!(io::stderr(), "{}", printable(&line));
        }
        Ok(match skipped {
            0 => std::process::ExitCode::SUCCESS,
            _ if done == 0 && unchanged == 0 && !self.raced => std::process::ExitCode::FAILURE,
            _ => std::process::ExitCode::from(super::failure::PARTLY),
        })
    }
}

/// As a shell reads it back.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:+,@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// `1 message`, `2 messages`.
pub fn messages(count: u64) -> &'static str {
    match count {
        1 => "message",
        _ => "messages",
    }
}
