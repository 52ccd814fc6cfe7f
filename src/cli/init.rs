//! `retryspoolfs init`: makes an empty spool.

use std::process::ExitCode;

use clap::Args;

use super::Failure;
use crate::backend::locator::OpenOptions;

/// Make an empty spool.
///
/// An existing spool is left as it is, and that is no error.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Where: sqlite:PATH, dir:PATH, or a path
    spool: std::ffi::OsString,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let locator = super::locator(&arguments.spool)?;
    let options = OpenOptions {
        create: true,
        ..OpenOptions::default()
    };
    let store = locator
        .open(options)
        .map_err(|error| format!("init {locator}: {error}"))?;
    store
        .close()
        .map_err(|error| format!("init {locator}: {error}"))?;
    Ok(ExitCode::SUCCESS)
}
