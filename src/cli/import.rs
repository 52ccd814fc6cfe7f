//! `retryspoolfs import`.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::Failure;
use super::failure::PARTLY;
use super::output::Output;
use super::place::Place;
use super::progress::{Interrupt, Progress, actor};
use crate::transfer::{self, Imported, Watch};

/// Store the messages of files that "retryspoolfs export" wrote, or of any JSON Lines or tar of
/// documents.
///
/// What a file is its bytes say, compressed by gzip or not. In a tar the directory says the state,
/// in JSON Lines the document. A message that the spool has already, just so, is passed over; one
/// that it has otherwise, or had a moment ago, stays as it is, and is told of with its line or entry,
/// and so is a document that is not legal: exit code 3. Importing a file again does no harm.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs import [OPTIONS] SPOOL [FILE]...",
    after_long_help = "\
Examples:
  retryspoolfs import /var/spool/q.db q.tar.gz
  zstd -dc q.jsonl.zst | retryspoolfs import /mnt/queue -"
)]
pub struct Arguments {
    #[arg(value_name = "SPOOL FILE", help = HELP)]
    words: Vec<OsString>,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

const HELP: &str =
    "The spool (see \"retryspoolfs list --help\"), and files; - or none is standard input";

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (place, words) = Place::split(&arguments.words)?;
    let stdin = [OsString::from("-")];
    let files = if words.is_empty() { &stdin[..] } else { words };
    let store = place.change()?;
    let interrupt = Interrupt::catch()?;
    let mut all = Imported::default();
    for file in files {
        let shown = file.display().to_string();
        let input: Box<dyn Read> = match file.to_str() {
            Some("-") => {
                let input = interrupt.input();
                Box::new(input.map_err(|error| format!("import: standard input: {error}"))?)
            }
            _ => {
                let opened = File::open(Path::new(file));
                Box::new(opened.map_err(|error| format!("import {shown}: {error}"))?)
            }
        };
        let before = all.stored + all.same + all.refused;
        let progress = RefCell::new(Progress::new("import", 0));
        let mut watch = Watch {
            actor: Some(actor("import")),
            done: &mut |count| progress.borrow_mut().done(before + count),
            trouble: &mut |at, why| {
                progress
                    .borrow_mut()
                    .say(&format!("import {shown}: {at}: {why}"));
            },
            going: &|| interrupt.going(),
        };
        let imported = transfer::import(&*store, input, &mut watch);
        drop(progress);
        let imported = imported.map_err(|error| {
            format!("import {shown}: {error}; what came before that is stored, and a second import goes on")
        })?;
        all.stored += imported.stored;
        all.same += imported.same;
        all.refused += imported.refused;
        if imported.interrupted {
            let did = did(&all);
            return Err(Failure::interrupted(format!(
                "import: interrupted: {did}; a second import goes on"
            )));
        }
    }
    store
        .close()
        .map_err(|error| format!("import {}: {error}", place.locator))?;
    if arguments.json {
        let mut out = Output::new();
        let (stored, same, refused) = (all.stored, all.same, all.refused);
        let line = serde_json::json!({"stored": stored, "same": same, "refused": refused});
        out.line(&line.to_string())?;
        out.end()?;
    } else {
        super::output::complain(&format!("import: {}", did(&all)));
    }
    match all.refused {
        0 => Ok(ExitCode::SUCCESS),
        _ if all.stored + all.same == 0 => Ok(ExitCode::FAILURE),
        _ => Ok(ExitCode::from(PARTLY)),
    }
}

fn did(all: &Imported) -> String {
    format!(
        "{} stored, {} there already, {} not stored",
        all.stored, all.same, all.refused
    )
}
