//! `retryspoolfs check`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::output::{Output, complain, printable};
use super::place::{self, Place, not_opened};
use super::progress::Interrupt;
use crate::backend::check::{Check, Finding, Remedy};
use crate::backend::locator::{Locator, OpenOptions};
use crate::backend::{Context, Error};
use crate::datadir;
use crate::transfer::Failed;

/// Look at everything that has to hold in a spool, while it is in use.
///
/// Looks at the file itself, at what this program keeps beside RetrySpool's messages, counts again,
/// and tells of each message that no file can show or nobody can read, and of what killed commands
/// left behind. Without --repair nothing is written. Each finding is a line on standard output.
///
/// Exit code 0: all is well (a note may be printed). 1: something is wrong.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs check [OPTIONS] SPOOL",
    after_long_help = "\
Examples:
  retryspoolfs check /var/spool/q.db
  retryspoolfs check --repair /var/spool/q.db
  retryspoolfs check --data /var/spool/retryspool/data /var/spool/q.db"
)]
pub struct Arguments {
    #[arg(value_name = "SPOOL", help = place::HELP)]
    words: Vec<OsString>,
    /// Say what is wrong, and mend what can be mended: each line says how. No message is removed
    #[arg(long)]
    repair: bool,
    /// Compare with the directory where RetrySpool keeps the messages' data
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print JSON Lines
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let place = Place::alone(&arguments.words)?;
    let interrupt = Interrupt::catch()?;
    let locator = &place.locator;
    let mut checker = Checker {
        locator,
        interrupt: &interrupt,
        json: arguments.json,
        out: Output::new(),
        failed: None,
    };
    let mut seen = match checker.look(false, arguments.data.as_deref()) {
        // It can't even be opened: what is missing is made before anything else is looked at.
        Err(Error::Corrupt(what)) if arguments.repair => {
            complain(&what);
            Seen {
                mendable: 1,
                ..Seen::default()
            }
        }
        looked => looked.map_err(|error| format!("check {locator}: {}", not_opened(&error)))?,
    };
    if arguments.repair && seen.mendable > 0 && interrupt.going() {
        let data = seen.data;
        seen = checker
            .look(true, None)
            .map_err(|error| format!("check --repair {locator}: {}", not_opened(&error)))?;
        seen.wrong += data;
    }
    if let Some(failure) = checker.failed {
        return Err(failure);
    }
    checker.out.end()?;
    if !interrupt.going() {
        return Err(Failure::interrupted("check: interrupted before its end"));
    }
    match seen.wrong + seen.mendable {
        0 => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

/// How much was found.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// What only a person can mend, with that of the data directory.
    wrong: u64,
    /// What a repair would mend.
    mendable: u64,
    /// How much of `wrong` is about the data directory.
    data: u64,
}

struct Checker<'a> {
    locator: &'a Locator,
    interrupt: &'a Interrupt,
    json: bool,
    out: Output,
    /// Why nothing more could be printed.
    failed: Option<Failure>,
}

impl Checker<'_> {
    /// Looks at everything. A repair prints what it mended; all else was printed before.
    fn look(&mut self, repair: bool, data: Option<&Path>) -> Result<Seen, Error> {
        let options = OpenOptions {
            read_only: !repair,
            repair,
            ..OpenOptions::default()
        };
        let store = self.locator.open(options)?;
        let interrupt = self.interrupt;
        let going = || interrupt.going();
        let ctx = Context::within(Duration::from_secs(24 * 3600));
        let (mut seen, beside) = (Seen::default(), beside(self.locator));
        let mut found = |finding: Finding| {
            match finding.remedy {
                Remedy::Person => seen.wrong += 1,
                Remedy::Repair(_) => seen.mendable += 1,
                Remedy::Note | Remedy::Repaired(_) => {}
            }
            if !repair || matches!(finding.remedy, Remedy::Repaired(_)) {
                self.print(&finding);
            }
        };
        let mut check = Check {
            repair,
            found: &mut found,
            going: &going,
        };
        store.check(&ctx, &mut check)?;
        beside
            .into_iter()
            .for_each(|what| check.tell("beside", what, Remedy::Note));
        if let Some(dir) = data {
            let mut of_data = 0;
            let mut count = |finding: Finding| {
                of_data += 1;
                found(finding);
            };
            let mut check = Check {
                repair,
                found: &mut count,
                going: &going,
            };
            let compared = datadir::compare(&*store, dir, &mut check);
            seen.data = of_data;
            match compared {
                Err(Failed::Store(error)) => return Err(error),
                Err(Failed::File(error)) => {
                    let why = format!("check --data {}: {error}", dir.display());
                    self.failed.get_or_insert(why.into());
                }
                Ok(()) => {}
            }
        }
        Ok(seen)
    }

    fn print(&mut self, finding: &Finding) {
        let Finding { kind, what, remedy } = finding;
        let (remedy, how) = match remedy {
            Remedy::Note => ("note", None),
            Remedy::Person => ("person", None),
            Remedy::Repair(how) => ("repair", Some(*how)),
            Remedy::Repaired(how) => ("repaired", Some(*how)),
        };
        let line = match (self.json, how) {
            (true, _) => {
                serde_json::json!({"kind": kind, "what": what, "remedy": remedy, "how": how})
                    .to_string()
            }
            (false, Some(how)) if remedy == "repair" => {
                format!("{kind}: {what}; a repair: {how}")
            }
            (false, Some(how)) => format!("{kind}: {what}; {how} now"),
            (false, None) => format!("{kind}: {what}"),
        };
        let printed = self.out.line(&printable(&line));
        self.failed = self.failed.take().or(printed.err());
    }
}

/// What lies beside the spool that somebody should know of.
fn beside(locator: &Locator) -> Vec<String> {
    let mut found = Vec::new();
    let count = |dir| fs::read_dir(dir).map_or(0, Iterator::count);
    if let Some(dir) = locator.scratch_dir()
        && let files @ 1.. = count(&dir)
    {
        let dir = dir.display();
        found.push(format!(
            "{files} files that were written in a mount and are no messages are in {dir}"
        ));
    }
    if let Some(mark) = locator.beside(".copying")
        && mark.exists()
    {
        let mark = mark.display();
        found.push(format!(
            "it is an unfinished copy, says {mark}: give the same copy command again"
        ));
    }
    found
}
