//! `retryspoolfs delete`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::Failure;
use super::change::{self, Command, Options};
use super::place::Place;
use crate::operate::Act;

/// Delete messages.
///
/// Each is deleted on the condition that it still is as it was when it was chosen. The audit log
/// keeps their documents for some days, and `retryspoolfs undo` brings them back from there; with
/// --save they are kept in a file for as long as you like.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs delete [OPTIONS] SPOOL STATE...|ID...|-",
    after_long_help = "\
Examples:
  retryspoolfs delete /var/spool/q.db msg-1
  retryspoolfs delete /var/spool/q.db hold --from '*@spam.example' --save spam.jsonl --yes
  retryspoolfs put /var/spool/q.db spam.jsonl                     stores them again"
)]
pub struct Arguments {
    #[arg(value_name = "WORD", help = change::HELP)]
    words: Vec<OsString>,
    /// Keep the documents of what is deleted in this new file, one a line, for `retryspoolfs put`
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (place, words) = Place::of_messages(&arguments.words)?;
    change::run(
        &place,
        Command {
            name: "delete",
            past: "deleted".to_owned(),
            act: Act::Remove,
            only: None,
            save: arguments.save.as_deref(),
            words,
            options: &arguments.options,
        },
    )
}
