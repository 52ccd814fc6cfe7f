//! What `move`, `hold`, `delete` and their like have in common: which messages, how, and the run.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Instant;

use clap::Args;

use super::Failure;
use super::filter::Filters;
use super::output::{Output, printable};
use super::place::Place;
use super::progress::Interrupt;
use super::work::{ASKED_FROM, Bounds, How, WAITS, Work, messages};
use crate::backend::{Backend, Error};
use crate::model::{MessageId, QueueState};
use crate::operate::{self, Act, Edit, Ended, Job, Page, Save, Survey, Tally};

/// What the help of these commands says about the words behind SPOOL.
pub const HELP: &str = "Which spool and which messages. SPOOL: sqlite:PATH, a path, or the directory where it is \
    mounted; it may be left out where RETRYSPOOL names it. Then states, whose messages the filters \
    choose from (without a filter: all of them); or IDs, or files such as deferred/msg-1.json, whose \
    mount may stand for SPOOL (/mnt/queue/deferred/msg-1.json); or - for IDs on standard input, one a line, which are worked on as they come";

/// How many IDs of standard input are looked for together: they may be typed one by one.
const IDS_AT_ONCE: usize = 100;

/// The options of these commands.
#[derive(Args, Debug)]
pub struct Options {
    /// IDs on standard input end in NUL, as `list -0` and `find -print0` write them
    #[arg(short = '0', long = "null")]
    null: bool,
    /// Messages in active too: a worker has them, and may write over any change
    #[arg(long)]
    active: bool,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    bounds: Bounds,
    #[command(flatten)]
    filters: Filters,
}

impl Options {
    /// Whether messages in `active` may be touched.
    pub fn active(&self) -> bool {
        self.active
    }
}

/// One of these commands.
pub struct Command<'a> {
    /// Its name: `move`.
    pub name: &'static str,
    /// What it has done: `moved to hold`.
    pub past: String,
    pub act: Act,
    /// Only messages of this state; and all of it, where no message is named.
    pub only: Option<QueueState>,
    /// Where documents of removed messages go.
    pub save: Option<&'a Path>,
    /// The words behind SPOOL.
    pub words: &'a [OsString],
    pub options: &'a Options,
}

/// Where messages come from.
enum Source {
    States(Vec<QueueState>),
    Ids(Vec<MessageId>),
    Input,
}

impl Source {
    fn read(command: &Command) -> Result<Source, Failure> {
        let name = command.name;
        let (words, options) = (command.words, command.options);
        let state = |word: &OsString| {
            word.to_str()
                .and_then(|word| QueueState::from_str(word).ok())
        };
        let states: Vec<QueueState> = words.iter().filter_map(state).collect();
        // A word among states, or beside a filter, that is a state misspelt.
        let misspelt = || {
            let others = words.iter().filter(|word| state(word).is_none());
            others.map(|word| word.to_string_lossy()).find_map(meant)
        };
        let source = match (words, command.only) {
            ([], Some(only)) => Source::States(vec![only]),
            ([], None) => {
                return Err(Failure::usage(format!(
                    "{name}: which messages? Give states, IDs, or - for IDs on standard input"
                )));
            }
            ([word], _) if word == "-" => Source::Input,
            _ if words.iter().any(|word| word == "-") => {
                return Err(Failure::usage(format!(
                    "{name}: - is for IDs on standard input, and stands alone"
                )));
            }
            _ if states.len() == words.len() => Source::States(states),
            _ if states.is_empty() => {
                Source::Ids(words.iter().map(|w| id(w)).collect::<Result<_, _>>()?)
            }
            _ => {
                let why = misspelt().unwrap_or(format!(
                    "give either states or IDs; an ID that is called {} goes to standard input",
                    states[0]
                ));
                return Err(Failure::usage(format!("{name}: {why}")));
            }
        };
        match &source {
            Source::States(states) => {
                if let Some(only) = command.only
                    && *states != [only]
                {
                    return Err(Failure::usage(format!("{name} works on {only} alone")));
                }
                if states.contains(&QueueState::Active) && !options.active {
                    return Err(Failure::usage(format!(
                        "{name}: workers have the messages in active, and may write over any change; \
                         --active does it all the same"
                    )));
                }
            }
            Source::Ids(_) | Source::Input => {
                if !options.filters.now().is_empty() {
                    let why = misspelt().unwrap_or(
                        "a filter chooses from a state; give a state in place of IDs".to_owned(),
                    );
                    return Err(Failure::usage(format!("{name}: {why}")));
                }
            }
        }
        if options.null && !matches!(source, Source::Input) {
            return Err(Failure::usage(format!(
                "{name}: -0 is for IDs on standard input, which takes a -"
            )));
        }
        Ok(source)
    }

    /// Refuses all of it where an ID that nobody has is a state misspelt: the other words may be
    /// as wrong.
    fn check(&self, name: &str, store: &dyn Backend) -> Result<(), Failure> {
        let Source::Ids(ids) = self else {
            return Ok(());
        };
        for id in ids {
            if let Some(why) = meant(id.as_str().into())
                && matches!(store.get(&super::place::ctx(), id), Ok(None))
            {
                return Err(Failure::usage(format!(
                    "{name}: no message has the ID {:?}, and {why}",
                    id.as_str()
                )));
            }
        }
        Ok(())
    }
}

/// That a word is no state, and which one it may be meant to be; nothing for a word like no state.
fn meant(word: Cow<str>) -> Option<String> {
    // What Postfix calls all messages.
    if word.eq_ignore_ascii_case("all") {
        return Some("for all messages name the states that they are in".to_owned());
    }
    QueueState::meant_by(&word)?;
    QueueState::from_str(&word).err()
}

/// An ID as it is typed; or a path that ends in a state's directory and a message's file name.
pub fn id(word: &OsStr) -> Result<MessageId, Failure> {
    if let Some(id) = super::place::message_file(word) {
        return Ok(id);
    }
    let shown = clipped(&word.to_string_lossy());
    let hint = match word.as_bytes().contains(&0) {
        true => "; IDs that end in NUL take -0",
        false => "",
    };
    match word.to_str().map(MessageId::from_str) {
        Some(Ok(id)) => Ok(id),
        Some(Err(why)) if word.is_empty() => Err(Failure::usage(why.to_string())),
        Some(Err(why)) => Err(Failure::usage(format!("{shown}: {why}{hint}"))),
        None => Err(Failure::usage(format!("{shown}: an ID is UTF-8"))),
    }
}

/// The beginning of a long text, to name it in a line.
fn clipped(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The IDs on standard input: together those that come together, and what is none alone.
struct Ids<R> {
    reader: R,
    /// What ends an ID.
    end: u8,
    /// The ID under way, as far as it is read.
    text: Vec<u8>,
    /// What ends all of them.
    failed: Option<Failure>,
    over: bool,
}

impl<R: BufRead> Ids<R> {
    fn of(reader: R, end: u8) -> Ids<R> {
        Ids {
            reader,
            end,
            text: Vec::new(),
            failed: None,
            over: false,
        }
    }

    /// Takes the ID that was read.
    fn take(&mut self) -> Option<Result<MessageId, Failure>> {
        let text = std::mem::take(&mut self.text);
        let text = text.strip_suffix(&[self.end]).unwrap_or(&text);
        (!text.is_empty()).then(|| id(OsStr::from_bytes(text)))
    }
}

impl<R: BufRead> Iterator for Ids<R> {
    type Item = Vec<Result<MessageId, Failure>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut some = Vec::new();
        let mut since = Instant::now();
        while !self.over {
            let mut is_pause = false;
            let read = self.reader.read_until(self.end, &mut self.text);
            let taken = match read {
                Ok(0) => {
                    self.over = true;
                    self.take()
                }
                Ok(_) if self.text.ends_with(&[self.end]) => self.take(),
                // The input ends, or what follows comes later.
                Ok(_) => None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    is_pause = true;
                    None
                }
                Err(error) => Some(Err(format!("standard input: {error}").into())),
            };
            match taken {
                Some(Ok(id)) => some.push(Ok(id)),
                Some(Err(why)) => {
                    self.over = true;
                    self.failed = Some(why);
                }
                None => {}
            }
            if some.is_empty() {
                since = Instant::now();
            } else if is_pause || some.len() == IDS_AT_ONCE || since.elapsed() >= WAITS {
                return Some(some);
            }
        }
        match some.is_empty() {
            false => Some(some),
            true => self.failed.take().map(|why| vec![Err(why)]),
        }
    }
}

/// Runs the command on the spool.
pub fn run(place: &Place, command: Command) -> Result<ExitCode, Failure> {
    let options = command.options;
    let source = Source::read(&command)?;
    let store = match options.how.dry_run {
        true => place.look()?,
        false => place.change()?,
    };
    source.check(command.name, &*store)?;
    let mut work = Work::begin(command.name, command.past)?;
    work.changes = store.audit().is_some();
    work.of_none = options.filters.meant();
    let stop = work.interrupt.flag();
    let job = Job {
        store: &*store,
        actor: super::progress::actor(work.name),
        act: command.act,
        only: command.only,
        active: options.active,
        limit: options.bounds.limit,
        rate: options.bounds.rate,
        stop: &stop,
    };
    let filter = options.filters.now();
    let whole = job.act.needs_metadata() || command.save.is_some();
    let pages = |interrupt: &Interrupt, null: bool| {
        pages(&*store, &source, &filter, whole, interrupt, null)
    };
    if options.how.dry_run {
        let ids = pages(&work.interrupt, options.null);
        let found = operate::survey(&job, ids, &mut |id, why| work.skipped(id, &why));
        let found = found.map_err(|error| error.named(command.name))?;
        return preview(&work, &found);
    }
    if let (Source::States(_), false) = (&source, options.how.yes) {
        let found = operate::survey(&job, pages(&work.interrupt, false), &mut |_, _| {});
        let count = found.map_err(|error| error.named(command.name))?.tally.done;
        if count > ASKED_FROM {
            work.confirm(count, messages(count))?;
        }
    }
    let mut save = match command.save {
        Some(path) => Some(Save::create(path).map_err(|error| {
            format!(
                "{}: {} can't be made: {error}",
                command.name,
                path.display()
            )
        })?),
        None => None,
    };
    let mut tally = Tally::default();
    let pages = pages(&work.interrupt, options.null);
    let progress = std::cell::RefCell::new(&mut work);
    let ended = job.run(
        pages,
        save.as_mut(),
        &mut tally,
        &mut |id, why| progress.borrow_mut().skipped(id, &why),
        &mut |tally| progress.borrow_mut().progress(tally),
    );
    let error = match ended {
        Ok(Ended::Done | Ended::AtLimit | Ended::Stopped) => None,
        Err(error) => Some(error.text),
    };
    work.end(tally, messages(tally.done), place, error)
}

/// Why the messages can't be read on.
struct Trouble {
    text: String,
    usage: bool,
}

impl Trouble {
    fn named(self, name: &str) -> Failure {
        let text = format!("{name}: {}", self.text);
        match self.usage {
            true => Failure::usage(text),
            false => text.into(),
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble {
            text: error.to_string(),
            usage: false,
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble {
            text: failure.text().to_owned(),
            usage: true,
        }
    }
}

fn pages<'a>(
    store: &'a dyn Backend,
    source: &Source,
    filter: &'a crate::model::Filter,
    whole: bool,
    interrupt: &Interrupt,
    null: bool,
) -> Box<dyn Iterator<Item = Result<Page, Trouble>> + 'a> {
    match source {
        Source::States(states) => {
            let pages = operate::by_filter(store, states, filter, whole);
            Box::new(pages.map(|page| page.map_err(Trouble::from)))
        }
        Source::Ids(ids) => operate::by_ids(store, ids.clone().into_iter().map(Ok)),
        Source::Input => {
            let end = if null { 0 } else { b'\n' };
            match interrupt.input_with_pauses() {
                Ok(input) => Box::new(Ids::of(input, end).flat_map(move |ids| {
                    operate::by_ids(store, ids.into_iter().map(|id| id.map_err(Trouble::from)))
                })),
                Err(error) => {
                    let failure = Failure::from(format!("standard input: {error}"));
                    Box::new(std::iter::once(Err(failure.into())))
                }
            }
        }
    }
}

/// Prints what would be done.
fn preview(work: &Work, survey: &Survey) -> Result<ExitCode, Failure> {
    if !work.interrupt.going() {
        let name = work.name;
        return Err(Failure::interrupted(format!(
            "{name}: interrupted; nothing was done"
        )));
    }
    let mut out = Output::new();
    let Tally { done, skipped, .. } = survey.tally;
    let none = work.hint_of_none(&survey.tally);
    out.line(&format!(
        "{done} {} would be {}{none}",
        messages(done),
        work.past
    ))?;
    for found in &survey.examples {
        out.line(&format!(
            "  {} in {}",
            printable(found.id.as_str()),
            found.state
        ))?;
    }
    if done > survey.examples.len() as u64 {
        out.line(&format!(
            "  and {} more",
            done - survey.examples.len() as u64
        ))?;
    }
    out.end()?;
    Ok(match skipped {
        0 => ExitCode::SUCCESS,
        _ if done == 0 => ExitCode::FAILURE,
        _ => ExitCode::from(super::failure::PARTLY),
    })
}

/// When messages are tried again, and from which attempt on.
#[derive(Args, Clone, Debug, Default)]
pub struct Retries {
    /// Scatter the next retries over so long (30m, 2h) from then on
    #[arg(long, value_name = "SPAN", value_parser = crate::model::parse_duration)]
    pub spread: Option<std::time::Duration>,
    /// Attempts become 0
    #[arg(long)]
    pub reset_attempts: bool,
}

impl Retries {
    /// Adds them to an edit.
    pub fn apply(&self, edit: &mut Edit) {
        if self.reset_attempts {
            edit.fields.attempts = Some(0);
        }
        if let Some(spread) = self.spread {
            let now = crate::model::Timestamp::now();
            edit.reset
                .get_or_insert_with(|| operate::Reset::at(now))
                .spread = spread;
        }
    }
}
