//! `retryspoolfs show`.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

use super::Failure;
use super::change::id;
use super::output::{Output, complain, json};
use super::place::{self, Place};
use crate::model::{MessageId, QueueState};

/// Print messages: their documents, as the files of a mount hold them.
///
/// An ID that nobody has is told on standard error: exit code 1 if none was found, 3 if some were.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs show SPOOL ID...",
    after_long_help = "\
Examples:
  retryspoolfs show /var/spool/q.db msg-123
  retryspoolfs show /mnt/queue msg-123 msg-124 | jq -r .LastError
  retryspoolfs show /mnt/queue/deferred/msg-123.json"
)]
pub struct Arguments {
    #[arg(value_name = "SPOOL ID", help = place::HELP)]
    words: Vec<OsString>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (place, words) = Place::of_messages(&arguments.words)?;
    let ids = words.iter().map(|word| id(word));
    let ids: Vec<MessageId> = ids.collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Err(Failure::usage("show: which messages? Give their IDs"));
    }
    let store = place.look()?;
    let mut out = Output::new();
    let mut shown = 0;
    for id in &ids {
        match store.get_meta(&place::ctx(), id) {
            Ok(metadata) => {
                out.bytes(json(&metadata).as_bytes())?;
                shown += 1;
            }
            Err(error) => {
                out.flush()?;
                let hint = match id.as_str().parse::<QueueState>() {
                    Ok(state) => {
                        format!("; its name is a state's: retryspoolfs list SPOOL {state}")
                    }
                    Err(_) => String::new(),
                };
                complain(&format!("show {id}: {error}{hint}"));
            }
        }
    }
    out.end()?;
    match ids.len() - shown {
        0 => Ok(ExitCode::SUCCESS),
        _ if shown == 0 => Ok(ExitCode::FAILURE),
        _ => Ok(ExitCode::from(super::failure::PARTLY)),
    }
}
