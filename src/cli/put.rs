//! `retryspoolfs put`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use super::Failure;
use super::place::Place;
use super::work::{How, WAITS, Work, messages};
use crate::backend::Backend;
use crate::document::Document;
use crate::model::{MessageId, QueueState};
use crate::operate::{self, Documents, NoDocument, Offer, Tally};

/// How many documents are stored together.
const AT_ONCE: usize = 250;

/// Store documents: from files, or from standard input, which is "-" or no file at all.
///
/// A document is one line (as `delete --save` and `list --json` write them) or laid out over several
/// (as in a mount); a file may hold any number. Each is stored in the state that it names; a
/// message that is there already is changed, and moved if need be. A document whose Updated
/// is older than the stored one is refused: somebody changed the message after this copy was
/// made. The exit code tells what came of it, which a shell's "> hold/x.json" can't. What comes
/// slowly, by a pipe that stays open, is stored as it comes.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs put [OPTIONS] SPOOL [FILE]...",
    after_long_help = "\
Examples:
  retryspoolfs put /var/spool/q.db spam.jsonl
  retryspoolfs put /var/spool/q.db backup/deferred/*.json
  jq '.Priority = 1' /mnt/queue/hold/x.json | retryspoolfs put /mnt/queue
  retryspoolfs put /var/spool/q.db spam.jsonl --state hold --dry-run"
)]
pub struct Arguments {
    #[arg(value_name = "WORD", help = super::place::HELP)]
    words: Vec<OsString>,
    /// Store all of them in this state, whatever they name
    #[arg(long, value_name = "STATE")]
    state: Option<QueueState>,
    #[command(flatten)]
    how: How,
}

struct Putting<'a> {
    store: &'a dyn Backend,
    work: Work,
    state: Option<QueueState>,
    write: bool,
    tally: Tally,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (place, words) = Place::split(&arguments.words)?;
    let write = !arguments.how.dry_run;
    let store = match write {
        true => place.change()?,
        false => place.look()?,
    };
    let past = if write { "stored" } else { "would be stored" };
    let mut work = Work::begin("put", past.to_owned())?;
    work.changes = write && store.audit().is_some();
    let mut putting = Putting {
        store: &*store,
        work,
        state: arguments.state,
        write,
        tally: Tally::default(),
    };
    let standard_input = [OsString::from("-")];
    let files = if words.is_empty() {
        &standard_input
    } else {
        words
    };
    let mut error = None;
    for file in files {
        let done = match file == "-" {
            true => match putting.work.interrupt.input_with_pauses() {
                Ok(input) => putting.stream("standard input", input),
                Err(why) => {
                    putting.refused("standard input", &why.to_string());
                    Ok(())
                }
            },
            false => match File::open(file) {
                Ok(opened) => putting.stream(&file.display().to_string(), BufReader::new(opened)),
                Err(why) => {
                    putting.refused(&file.display().to_string(), &why.to_string());
                    Ok(())
                }
            },
        };
        if let Err(why) = done {
            error = Some(why.to_string());
            break;
        }
        if !putting.work.interrupt.going() {
            break;
        }
    }
    let Putting {
        mut work, tally, ..
    } = putting;
    work.end(tally, messages(tally.done), &place, error)
}

impl Putting<'_> {
    /// Stores a stream's documents, also while whoever writes it pauses; what is none of them is
    /// told and passed over.
    fn stream(&mut self, name: &str, reader: impl BufRead) -> crate::backend::Result<()> {
        let mut batch = Vec::new();
        let mut since = Instant::now();
        for read in Documents::of(reader) {
            if !self.work.interrupt.going() {
                return Ok(());
            }
            if batch.is_empty() {
                since = Instant::now();
            }
            let mut is_pause = false;
            match read {
                Ok(document) => batch.push(document),
                Err(NoDocument::Pause) => is_pause = true,
                Err(NoDocument::Refused(why)) => self.refused(name, &why),
                Err(NoDocument::Io(why)) => {
                    self.refused(name, &why.to_string());
                    break;
                }
            }
            if is_pause || batch.len() == AT_ONCE || since.elapsed() >= WAITS {
                self.store(&std::mem::take(&mut batch))?;
            }
        }
        match self.work.interrupt.going() {
            true => self.store(&batch),
            false => Ok(()),
        }
    }

    fn refused(&mut self, name: &str, why: &str) {
        self.tally.skipped += 1;
        self.work.left_alone(&format!("{name}: {why}"));
    }

    fn store(&mut self, batch: &[(MessageId, Document)]) -> crate::backend::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let ctx = self.work.ctx();
        let offers = operate::offer(self.store, &ctx, self.state, batch, self.write)?;
        for ((id, _), offer) in batch.iter().zip(offers) {
            match offer {
                Offer::Stored => self.tally.done += 1,
                Offer::Unchanged => self.tally.unchanged += 1,
                Offer::Skipped(why) => {
                    self.tally.skipped += 1;
                    self.work.skipped(id, &why);
                }
            }
        }
        self.work.progress(&self.tally);
        Ok(())
    }
}
