//! `retryspoolfs snapshot` and `retryspoolfs compact`.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::place::Place;
use super::progress::Interrupt;
use crate::backend::Context;

/// Copy a live spool, as it is at one moment, to a new file.
///
/// The file can be mounted, with "-o ro" also where nothing can be written. It has mode 0600, is
/// there when it is whole and on the disk, and never replaces another. Nobody who writes the spool
/// has to wait, once a mount has prepared it: before that, RetrySpool's own file has no write-ahead
/// log, and its writers wait while it is read.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  retryspoolfs snapshot /var/spool/q.db /backup/q-monday.db
  retryspoolfs mount -o ro /backup/q-monday.db /mnt/monday")]
pub struct Snapshot {
    /// The spool: sqlite:PATH, a path, or the directory where it is mounted
    spool: OsString,
    /// The file to make
    file: OsString,
}

pub fn snapshot(arguments: &Snapshot) -> Result<ExitCode, Failure> {
    let place = Place::named(&arguments.spool)?;
    let store = place.look()?;
    let interrupt = Interrupt::catch()?;
    let ctx = Context::within(Duration::from_secs(24 * 3600));
    let made = store.snapshot(&ctx, Path::new(&arguments.file), &|| interrupt.going());
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
#[derive(Args, Debug)]
pub struct Compact {
    /// The spool: sqlite:PATH, or a path. In a dir:PATH there is nothing to do
    spool: OsString,
}

pub fn compact(arguments: &Compact) -> Result<ExitCode, Failure> {
    let place = Place::named(&arguments.spool)?;
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
