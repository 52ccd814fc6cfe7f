//! `retryspoolfs set`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::Args;

use super::Failure;
use super::change::{self, Command, Options};
use super::place::Place;
use crate::operate::{Act, Edit};

/// Set fields of messages.
///
/// FIELD is Attempts, MaxAttempts, NextRetry, Created, LastError, Size, Priority or RetryPolicyName,
/// in any case and also as max_attempts; or header.NAME, where an empty value takes the header
/// away. Values are those of a document: whole numbers, times as RFC 3339, text as it is.
/// A word with a = in it is a FIELD=VALUE; an ID that has one goes to standard input.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs set [OPTIONS] SPOOL STATE...|ID...|- FIELD=VALUE...",
    after_long_help = "\
Examples:
  retryspoolfs set /var/spool/q.db msg-1 Priority=1
  retryspoolfs set /var/spool/q.db deferred --policy slow MaxAttempts=20 header.x-note='asked by anna' --yes"
)]
pub struct Arguments {
    #[arg(value_name = "WORD", help = change::HELP)]
    words: Vec<OsString>,
    #[command(flatten)]
    options: Options,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (place, words) = Place::of_messages(&arguments.words)?;
    let is_assignment = |word: &&OsString| word.as_bytes().contains(&b'=');
    let mut edit = Edit::default();
    let mut given: Vec<String> = Vec::new();
    for word in words.iter().filter(is_assignment) {
        let Some(text) = word.to_str() else {
            return Err(Failure::usage(format!(
                "set: {}: a value is UTF-8",
                word.display()
            )));
        };
        edit.set(text)
            .map_err(|why| Failure::usage(format!("set: {why}")))?;
        given.push(text.to_owned());
    }
    if given.is_empty() {
        return Err(Failure::usage(
            "set: what? Give FIELD=VALUE, such as Priority=1",
        ));
    }
    let others: Vec<OsString> = words
        .iter()
        .filter(|w| !is_assignment(w))
        .cloned()
        .collect();
    change::run(
        &place,
        Command {
            name: "set",
            past: format!("given {}", given.join(" ")),
            act: Act::Edit(Box::new(edit)),
            only: None,
            save: None,
            words: &others,
            options: &arguments.options,
        },
    )
}
