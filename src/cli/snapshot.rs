//! `retryspoolfs snapshot` and `retryspoolfs compact`.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::place::{self, Place};
use super::progress::Interrupt;
use crate::backend::Context;

/// Copy a live spool, as it is at one moment, to a new file.
///
/// The file can be mounted, with "-o ro" also where nothing can be written. It has mode 0600, is
/// there when it is whole and on the disk, and never replaces another. Nobody who writes the spool
/// has to wait, once a mount has prepared it: before that, RetrySpool's own file has no write-ahead
/// log, and its writers wait while it is read.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs snapshot SPOOL FILE",
    after_long_help = "\
Examples:
  retryspoolfs snapshot /var/spool/q.db /backup/q-monday.db
  retryspoolfs mount -o ro /backup/q-monday.db /mnt/monday"
)]
pub struct Snapshot {
    #[arg(value_name = "SPOOL FILE", help = WORDS)]
    words: Vec<OsString>,
}

const WORDS: &str = "The spool (see \"retryspoolfs list --help\"), which may be left out where RETRYSPOOL names it, and the \
    file to make";

pub fn snapshot(arguments: &Snapshot) -> Result<ExitCode, Failure> {
    let (place, file) = Place::with_file(&arguments.words, "the file to make")?;
    let store = place.look()?;
    let interrupt = Interrupt::catch()?;
    let ctx = Context::within(Duration::from_secs(24 * 3600));
    let made = store.snapshot(&ctx, Path::new(file), &|| interrupt.going());
    match made {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(_) if !interrupt.going() => Err(Failure::interrupted(
            "snapshot: interrupted: no file was made",
        )),
        Err(error) => Err(format!("snapshot of {}: {error}", place.locator).into()),
    }
}

/// Give the space of removed messages back to the disk.
///
/// Nobody else may have the spool open meanwhile, so unmount it and stop RetrySpool first: the file
/// is written anew, which would make its writers wait for seconds. It is safe to interrupt. The
/// space of removed messages is used again by new ones without this.
///
/// In a dir:PATH there is nothing to do.
#[derive(Args, Debug)]
#[command(override_usage = "retryspoolfs compact SPOOL")]
pub struct Compact {
    #[arg(value_name = "SPOOL", help = place::HELP)]
    words: Vec<OsString>,
}

pub fn compact(arguments: &Compact) -> Result<ExitCode, Failure> {
    let place = Place::alone(&arguments.words)?;
    let interrupt = Interrupt::catch()?;
    match place.locator.compact(&|| interrupt.going()) {
        Ok((0, 0)) => {
            super::output::complain(
                "compact: nothing to do: the space of a message's file is the disk's again when it is removed",
            );
            Ok(ExitCode::SUCCESS)
        }
        Ok((before, after)) => {
            super::output::complain(&format!("compact: {before} bytes before, {after} after"));
            Ok(ExitCode::SUCCESS)
        }
        Err(_) if !interrupt.going() => Err(Failure::interrupted(
            "compact: interrupted: the spool is as it was",
        )),
        Err(error) => Err(format!("compact {}: {error}", place.locator).into()),
    }
}
