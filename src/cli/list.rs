//! `retryspoolfs list`.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

use super::Failure;
use super::filter::Filters;
use super::output::{Output, complain, printable};
use super::place::{self, Place};
use crate::backend::Pages;

/// List messages.
#[derive(Args, Debug)]
#[command(override_usage = "retryspoolfs list [OPTIONS] SPOOL [STATE]...")]
pub struct Arguments {
    #[arg(value_name = "SPOOL STATE", help = place::HELP)]
    words: Vec<OsString>,
    #[command(flatten)]
    filters: Filters,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (place, words) = Place::split(&arguments.words)?;
    let states = place::states(words)?;
    let store = place.look()?;
    let filter = arguments.filters.now();
    let mut out = Output::new();
    let mut unreadable = 0;
    for page in Pages::of(&*store, &states, &filter, 1000) {
        let (_, page) = page.map_err(|error| format!("list {}: {error}", place.locator))?;
        for (id, _) in page.messages {
            out.line(&printable(id.as_str()))?;
        }
        unreadable += page.unreadable.len();
        for id in &page.unreadable {
            complain(&format!(
                "list {id}: can't be read, so nobody can tell whether it is meant"
            ));
        }
    }
    out.end()?;
    match unreadable {
        0 => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::from(super::failure::PARTLY)),
    }
}
