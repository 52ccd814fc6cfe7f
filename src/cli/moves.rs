//! `retryspoolfs move`, `requeue`, `hold` and `release`: from one state to another.

use std::ffi::OsString;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;

use super::Failure;
use super::change::{self, Command, Options, Retries};
use super::place::Place;
use crate::model::QueueState;
use crate::operate::{Act, Edit};

/// Move messages to another state, which comes last, as in mv(1).
///
/// Each message moves on the condition that it still is as it was when it was chosen: one that
/// somebody changed, moved or removed meanwhile is left alone and told of (exit code 3). Other
/// writers get their turn between short transactions, so a large move may run beside workers.
/// What moved can be moved back by `retryspoolfs undo`.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs move [OPTIONS] SPOOL STATE... TO\n       \
        retryspoolfs move [OPTIONS] SPOOL ID... TO\n       \
        retryspoolfs move [OPTIONS] SPOOL - TO",
    after_long_help = "\
Examples:
  retryspoolfs move /var/spool/q.db msg-1 msg-2 hold
  retryspoolfs move /var/spool/q.db deferred hold --error '*timeout*' --dry-run
  retryspoolfs move /var/spool/q.db deferred hold --error '*timeout*' --yes
  retryspoolfs move /var/spool/q.db bounce deferred --reset-attempts --spread 2h --limit 1000
  grep -l spam /mnt/queue/deferred/* | retryspoolfs move /mnt/queue - hold"
)]
pub struct Move {
    #[arg(value_name = "WORD", help = change::HELP)]
    words: Vec<OsString>,
    #[command(flatten)]
    retries: Retries,
    #[command(flatten)]
    options: Options,
}

/// Give messages to the workers again: move them to incoming.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs requeue [OPTIONS] SPOOL STATE...|ID...|-",
    after_long_help = "\
Examples:
  retryspoolfs requeue /var/spool/q.db msg-1
  retryspoolfs requeue /var/spool/q.db bounce --error '*quota*' --reset-attempts --yes"
)]
pub struct Requeue {
    #[arg(value_name = "WORD", help = change::HELP)]
    words: Vec<OsString>,
    #[command(flatten)]
    retries: Retries,
    #[command(flatten)]
    options: Options,
}

/// Hold messages: move them to hold, where no worker takes them.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs hold [OPTIONS] SPOOL STATE...|ID...|-",
    after_long_help = "\
Examples:
  retryspoolfs hold /var/spool/q.db msg-1
  retryspoolfs hold /var/spool/q.db incoming deferred --from '*@spam.example' --yes
  retryspoolfs release /var/spool/q.db --from '*@spam.example'    lets them go again"
)]
pub struct Hold {
    #[arg(value_name = "WORD", help = change::HELP)]
    words: Vec<OsString>,
    #[command(flatten)]
    options: Options,
}

/// Release held messages: move them from hold to deferred. Without a word behind SPOOL: all that
/// the filters choose.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs release [OPTIONS] SPOOL [ID...|-]",
    after_long_help = "\
Examples:
  retryspoolfs release /var/spool/q.db msg-1
  retryspoolfs release /var/spool/q.db --older 1h --spread 30m --yes"
)]
pub struct Release {
    #[arg(value_name = "WORD", help = change::HELP)]
    words: Vec<OsString>,
    #[command(flatten)]
    retries: Retries,
    #[command(flatten)]
    options: Options,
}

impl Move {
    pub fn run(&self) -> Result<ExitCode, Failure> {
        let (place, words) = Place::of_messages(&self.words)?;
        let Some((to, words)) = words.split_last() else {
            return Err(Failure::usage("move: which messages, and where to?"));
        };
        let to = QueueState::from_str(&to.to_string_lossy()).map_err(|why| {
            Failure::usage(format!(
                "move: where to? The last word is the state, and {why}"
            ))
        })?;
        if to == QueueState::Active && !self.options.active() {
            return Err(Failure::usage(
                "move: a message that is moved to active waits for a worker's restart; --active does it all the same",
            ));
        }
        let retries = Some(&self.retries);
        go("move", &place, words, to, None, retries, &self.options)
    }
}

impl Requeue {
    pub fn run(&self) -> Result<ExitCode, Failure> {
        let (place, words) = Place::of_messages(&self.words)?;
        let (to, retries) = (QueueState::Incoming, Some(&self.retries));
        go("requeue", &place, words, to, None, retries, &self.options)
    }
}

impl Hold {
    pub fn run(&self) -> Result<ExitCode, Failure> {
        let (place, words) = Place::of_messages(&self.words)?;
        go(
            "hold",
            &place,
            words,
            QueueState::Hold,
            None,
            None,
            &self.options,
        )
    }
}

impl Release {
    pub fn run(&self) -> Result<ExitCode, Failure> {
        let (place, words) = Place::of_messages(&self.words)?;
        let (to, only) = (QueueState::Deferred, Some(QueueState::Hold));
        let retries = Some(&self.retries);
        go("release", &place, words, to, only, retries, &self.options)
    }
}

fn go(
    name: &'static str,
    place: &Place,
    words: &[OsString],
    to: QueueState,
    only: Option<QueueState>,
    retries: Option<&Retries>,
    options: &Options,
) -> Result<ExitCode, Failure> {
    let mut edit = Edit::moving(to);
    if let Some(retries) = retries {
        retries.apply(&mut edit);
    }
    change::run(
        place,
        Command {
            name,
            past: format!("moved to {to}"),
            act: Act::Edit(Box::new(edit)),
            only,
            save: None,
            words,
            options,
        },
    )
}
