//! `retryspoolfs copy`.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::Failure;
use super::output::Output;
use super::place::{Place, ctx, not_opened};
use super::progress::{Interrupt, Progress};
use crate::backend::Backend;
use crate::backend::locator::{Locator, OpenOptions};
use crate::model::QueueState;
use crate::transfer::{self, Watch};

/// Copy a spool to another one, of the same kind or not, while it is in use.
///
/// FROM may be in use by workers and mounts: what they change meanwhile is carried over at the
/// end. Every message is read back and compared. TO is made if it does not exist. What is
/// interrupted, or killed, goes on when the same command is given again: until it has ended, a file
/// TO.copying remembers that TO belongs to this copy, and what others store there goes.
///
/// A TO that holds messages of its own keeps them, those that it gets meanwhile too. A message that both have is brought up to date
/// where FROM has the newer Updated, and told of where it has not.
///
/// A message that can't be copied is told of, and stays where it is: exit code 3.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  retryspoolfs copy dir:/var/spool/retryspool/meta sqlite:/var/spool/q.db
  retryspoolfs copy /mnt/queue dir:/backup/meta

To move a queue with a short stop: copy it while it runs, stop its workers, and bring the rest over
with a second copy, which also removes from TO what was delivered since:
  retryspoolfs copy OLD NEW
  systemctl stop worker
  retryspoolfs copy --mirror OLD NEW")]
pub struct Arguments {
    /// The spool to copy: sqlite:PATH, dir:PATH, a path, or the directory where it is mounted
    from: OsString,
    /// The spool to copy it to
    to: OsString,
    /// Remove from TO what FROM does not have, and let FROM decide where both differ
    #[arg(long)]
    mirror: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let from = Place::named(&arguments.from)?.locator;
    let to = Place::named(&arguments.to)?.locator;
    let absolute = |locator: &Locator| locator.clone().absolute().ok();
    if absolute(&from) == absolute(&to) {
        return Err(Failure::usage(format!("copy: {from} is both FROM and TO")));
    }
    let failed = |locator: &Locator, error: &dyn std::fmt::Display| {
        Failure::from(format!("copy: {locator}: {error}"))
    };
    let open = |locator: &Locator, options| {
        locator
            .open(options)
            .map_err(|error| failed(locator, &not_opened(&error)))
    };
    let interrupt = Interrupt::catch()?;
    let source = open(
        &from,
        OpenOptions {
            read_only: true,
            ..OpenOptions::default()
        },
    )?;
    let target = open(
        &to,
        OpenOptions {
            create: true,
            ..OpenOptions::default()
        },
    )?;
    let count = |store: &dyn Backend, locator: &Locator| -> Result<u64, Failure> {
        let mut count = 0;
        for state in QueueState::ALL {
            let info = store.state_info(&ctx(), state);
            count += info.map_err(|error| failed(locator, &error))?.count;
        }
        Ok(count)
    };
    let total = count(&*source, &from)?;
    let mark = Mark::of(&from, &to, || count(&*target, &to))?;
    let progress = RefCell::new(Progress::new("copy", total));
    let mut watch = Watch {
        // The target's log would hold nothing but this.
        actor: None,
        done: &mut |count| progress.borrow_mut().done(count),
        trouble: &mut |what, why| progress.borrow_mut().say(&format!("copy {what}: {why}")),
        going: &|| interrupt.going(),
    };
    let owned = arguments.mirror || mark.owned;
    let copied = transfer::copy(&*source, &*target, owned, &mut watch);
    drop(progress);
    let copied = copied.map_err(|error| {
        Failure::from(format!(
            "copy {from} to {to}: {error}; the same command goes on from there"
        ))
    })?;
    target.close().map_err(|error| failed(&to, &error))?;
    let did = format!(
        "{} copied, {} brought up to date, {} removed, {} compared and the same, {} not copied",
        copied.copied, copied.updated, copied.removed, copied.verified, copied.refused
    );
    if copied.interrupted {
        return Err(Failure::interrupted(format!(
            "copy: interrupted: {did}; the same command goes on from there"
        )));
    }
    mark.remove().map_err(|error| failed(&to, &error))?;
    if arguments.json {
        let mut out = Output::new();
        let line = serde_json::json!({
            "copied": copied.copied,
            "updated": copied.updated,
            "removed": copied.removed,
            "verified": copied.verified,
            "refused": copied.refused,
        });
        out.line(&line.to_string())?;
        out.end()?;
    } else {
        super::output::complain(&format!("copy: {did}"));
    }
    match copied.refused {
        0 => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::from(super::failure::PARTLY)),
    }
}

/// The file that says that the target holds nothing but what a copy of this source put there.
struct Mark {
    path: Option<PathBuf>,
    owned: bool,
}

impl Mark {
    /// Finds it, or makes it for a target that is empty.
    fn of(
        from: &Locator,
        to: &Locator,
        count: impl FnOnce() -> Result<u64, Failure>,
    ) -> Result<Mark, Failure> {
        let Some(path) = to.beside(".copying") else {
            return Ok(Mark {
                path: None,
                owned: false,
            });
        };
        let shown = path.display();
        let failed = |error: io::Error| Failure::from(format!("copy: {shown}: {error}"));
        let name = from.clone().absolute().map_err(failed)?.to_string();
        let owned = match fs::read(&path) {
            Ok(text) if text.trim_ascii() == name.as_bytes() => true,
            Ok(text) => {
                let other = std::ffi::OsStr::from_bytes(text.trim_ascii());
                return Err(Failure::from(format!(
                    "copy: {to} holds an unfinished copy of {}: finish that, or remove {shown} to keep what is there",
                    other.display()
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => count()? == 0,
            Err(error) => return Err(failed(error)),
        };
        if owned {
            fs::write(&path, format!("{name}\n")).map_err(failed)?;
        }
        Ok(Mark {
            path: owned.then_some(path),
            owned,
        })
    }

    fn remove(self) -> io::Result<()> {
        match self.path {
            Some(path) => fs::remove_file(path),
            None => Ok(()),
        }
    }
}
