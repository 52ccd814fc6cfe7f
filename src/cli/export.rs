//! `retryspoolfs export`.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::Failure;
use super::failure::PARTLY;
use super::filter::Filters;
use super::output::complain;
use super::place::{self, Place, ctx};
use super::progress::{Interrupt, Progress, actor};
use crate::backend::{Backend, Context};
use crate::model::QueueState;
use crate::newfile::NewFile;
use crate::transfer::{self, Archive, Exported, Failed, Format, Kind, Watch};

/// Write messages to a file: a document a line, or a tar of documents.
///
/// The file is what the spool was at one moment, whatever is changed meanwhile (of a dir: spool,
/// whose files change one by one, each message is). Its name says what it is: .jsonl or .tar, and
/// compressed with .gz behind that, or .tgz. It has mode 0600, is there when it is whole, and never
/// replaces another. "retryspoolfs import" reads it back; a tar unpacks into what a mount shows.
///
/// A message that can't be read is told of, and left out: exit code 3.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs export [OPTIONS] SPOOL [STATE]...",
    after_long_help = "\
Examples:
  retryspoolfs export /var/spool/q.db -o q.tar.gz
  retryspoolfs export /mnt/queue deferred --to '*@slow.example' | jq -r .ID
  retryspoolfs export /mnt/queue bounce --older 30d -o bounced.jsonl.gz --delete"
)]
pub struct Arguments {
    #[arg(value_name = "SPOOL STATE", help = place::HELP)]
    words: Vec<OsString>,
    /// The file to write; - is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// What to write to standard output
    #[arg(long, value_enum, default_value_t = Shape::Jsonl)]
    format: Shape,
    /// When the file is whole, remove from the spool each message that is still as it was written
    #[arg(long)]
    delete: bool,
    /// With --delete: messages in active too, which belong to a worker
    #[arg(long, requires = "delete")]
    active: bool,
    #[command(flatten)]
    filters: Filters,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    /// A document a line
    Jsonl,
    /// A tar of documents
    Tar,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (place, words) = Place::split(&arguments.words)?;
    let states = place::states(words)?;
    let to_stdout = arguments.output == Path::new("-");
    if to_stdout && arguments.delete {
        return Err(Failure::usage(
            "export: --delete needs a file, which is read back before anything is removed; give -o FILE",
        ));
    }
    let format = match (to_stdout, arguments.format) {
        (false, _) => Format::of_name(&arguments.output)
            .map_err(|why| Failure::usage(format!("export: {why}")))?,
        (true, Shape::Jsonl) => Format {
            kind: Kind::JsonLines,
            gzip: false,
        },
        (true, Shape::Tar) => Format {
            kind: Kind::Tar,
            gzip: false,
        },
    };
    let store = match arguments.delete {
        true => place.change()?,
        false => place.look()?,
    };
    let interrupt = Interrupt::catch()?;
    let failed = |error: Failed| Failure::from(format!("export {}: {error}", place.locator));
    let shown = arguments.output.display();
    let at_file = |error: io::Error| {
        Failure::from(match error.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("export: {shown} is there already; give another name")
            }
            _ => format!("export: {shown}: {error}"),
        })
    };
    let whole = Whole {
        arguments,
        states: &states,
        interrupt: &interrupt,
    };
    let exported = if to_stdout {
        let mut archive = Archive::new(io::stdout().lock(), format);
        let exported = match whole.write(&*store, &mut archive) {
            Err(Failed::File(error)) => return Err(Failure::output(&error)),
            exported => exported.map_err(failed)?,
        };
        let mut out = archive.finish().map_err(|e| Failure::output(&e))?;
        out.flush().map_err(|e| Failure::output(&e))?;
        exported
    } else {
        let (new, file) = NewFile::create(&arguments.output).map_err(at_file)?;
        let mut archive = Archive::new(file, format);
        let exported = match whole.write(&*store, &mut archive) {
            Err(Failed::File(error)) => return Err(at_file(error)),
            exported => exported.map_err(failed)?,
        };
        archive.finish().map_err(at_file)?;
        if exported.interrupted {
            return Err(Failure::interrupted(
                "export: interrupted: no file was made, and nothing was removed",
            ));
        }
        new.finish().map_err(at_file)?;
        complain(&format!(
            "export: {} messages in {shown}, {} not written",
            exported.written, exported.refused
        ));
        exported
    };
    if exported.interrupted {
        let written = exported.written;
        return Err(Failure::interrupted(format!(
            "export: interrupted after {written} messages"
        )));
    }
    let mut kept = 0;
    if arguments.delete {
        let file = File::open(&arguments.output).map_err(at_file)?;
        let progress = RefCell::new(Progress::new("export --delete", exported.written));
        let mut watch = Watch {
            actor: Some(actor("export")),
            done: &mut |count| progress.borrow_mut().done(count),
            trouble: &mut |what, why| {
                progress
                    .borrow_mut()
                    .say(&format!("export --delete {what}: kept: {why}"));
            },
            going: &|| interrupt.going(),
        };
        let removed = transfer::remove(&*store, &file, arguments.active, &mut watch);
        drop(progress);
        let removed = removed.map_err(failed)?;
        let did = format!("{} removed, {} kept", removed.removed, removed.kept);
        if removed.interrupted {
            return Err(Failure::interrupted(format!(
                "export --delete: interrupted: {did}; {shown} is whole"
            )));
        }
        complain(&format!("export --delete: {did}"));
        kept = removed.kept;
    }
    match exported.refused + kept {
        0 => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::from(PARTLY)),
    }
}

/// What is to be written.
struct Whole<'a> {
    arguments: &'a Arguments,
    states: &'a [QueueState],
    interrupt: &'a Interrupt,
}

impl Whole<'_> {
    fn write<W: Write>(
        &self,
        store: &dyn Backend,
        archive: &mut Archive<W>,
    ) -> Result<Exported, Failed> {
        let going = || self.interrupt.going();
        // A copy of a large file takes its time.
        let long = Context::within(std::time::Duration::from_secs(24 * 3600));
        let frozen = match store.frozen(&long, &going) {
            Err(_) if !going() => {
                return Ok(Exported {
                    interrupted: true,
                    ..Exported::default()
                });
            }
            frozen => frozen?,
        };
        let store = frozen.as_deref().unwrap_or(store);
        let mut total = 0;
        for state in self.states {
            total += store.state_info(&ctx(), *state)?.count;
        }
        let filter = self.arguments.filters.now();
        let progress = RefCell::new(Progress::new("export", total));
        let mut watch = Watch {
            actor: Some(actor("export")),
            done: &mut |count| progress.borrow_mut().done(count),
            trouble: &mut |what, why| progress.borrow_mut().say(&format!("export {what}: {why}")),
            going: &going,
        };
        transfer::export(store, self.states, &filter, archive, &mut watch)
    }
}
