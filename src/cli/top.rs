//! `retryspoolfs top`.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::Failure;
use super::output::{colours, printable};
use super::place::{self, Place};
use super::status::due;
use crate::backend::{Backend, Change, Context, Pages};
use crate::model::{Filter, QueueState, show_duration};
use crate::overview::{Reasons, Status, WAITING};

mod signals;
mod terminal;

use signals::Signals;
use terminal::{Terminal, in_foreground};

/// Watch the queue on a live screen: counts, rates, why messages wait, what happens.
///
/// It works in 80x24 and larger, also over ssh, and follows the window's size. Keys: q or ^C ends
/// it, the space bar draws at once, ^Z gives the terminal back until the shell's "fg". Refusals are
/// those of a mount: name the spool by its mountpoint to see them. Reasons are looked up every few
/// seconds, of a large queue less often.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs top [SPOOL]",
    after_long_help = "\
Examples:
  retryspoolfs top /mnt/queue
  ssh -t mail1 retryspoolfs top /var/spool/q.db
For a script there are \"status --watch --json\" and \"events --follow\"."
)]
pub struct Arguments {
    #[arg(value_name = "SPOOL", help = place::HELP)]
    words: Vec<OsString>,
}

/// How often it is drawn.
const EVERY: Duration = Duration::from_secs(1);
/// How often reasons are looked up at most; and after a look that took long, how many times that.
const REASONS_EVERY: Duration = Duration::from_secs(5);
const REASONS_SHARE: u32 = 20;
/// How many lines of each kind are kept: more than a screen shows.
const KEPT: usize = 100;

/// What the threads that look have found.
#[derive(Default)]
struct Seen {
    reasons: Vec<String>,
    events: VecDeque<String>,
    refusals: Vec<String>,
}

type Shared = Arc<Mutex<Seen>>;

/// Nobody panics with the lock: it is held to exchange lines alone.
fn lock(seen: &Shared) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let place = Place::alone(&arguments.words)?;
    let seen = Shared::default();
    let screen = Screen::of(&place, &seen)?;
    let begun = screen.signals.kept_from(|| {
        let store: Arc<dyn Backend> = place.look()?.into();
        look_for_reasons(Arc::clone(&store), Arc::clone(&seen));
        follow(Arc::clone(&store), Arc::clone(&seen));
        if let Some(mountpoint) = place.mountpoint.clone() {
            look_for_refusals(mountpoint, Arc::clone(&seen));
        }
        Ok::<_, Failure>(store)
    });
    let store = begun.map_err(failed)??;
    screen.live(|| Status::of(&*store, &place::ctx()))
}

/// What is drawn, and where.
struct Screen<'a> {
    place: &'a Place,
    seen: &'a Shared,
    signals: Signals,
    terminal: Terminal,
}

fn failed(error: std::io::Error) -> Failure {
    format!("top: the terminal: {error}").into()
}

impl Screen<'_> {
    fn of<'a>(place: &'a Place, seen: &'a Shared) -> Result<Screen<'a>, Failure> {
        Ok(Screen {
            place,
            seen,
            signals: Signals::catch().map_err(failed)?,
            terminal: Terminal::of_process().ok_or(
                "top: standard input and output are no terminal; for a script: retryspoolfs \
                 status --watch --json",
            )?,
        })
    }

    /// Takes the terminal, and draws until somebody ends it.
    fn live(
        &self,
        mut look: impl FnMut() -> crate::backend::Result<Status>,
    ) -> Result<ExitCode, Failure> {
        self.take()?;
        loop {
            let lines = match look() {
                Ok(status) => screen(&status, self.place, &lock(self.seen), self.terminal.size()),
                Err(error) => vec![format!("{}: {error}", self.place.locator)],
            };
            self.terminal.show(&lines).map_err(failed)?;
            if let Some(code) = self.wait()? {
                return Ok(code);
            }
        }
    }

    /// Waits until it has to be drawn again; or for its end, and gives the exit code.
    fn wait(&self) -> Result<Option<ExitCode>, Failure> {
        let drawn = Instant::now();
        while drawn.elapsed() < EVERY && !self.signals.resized.came() {
            if self.signals.stopped.came() {
                self.terminal.leave();
                self.stop()?;
                self.take()?;
                break;
            }
            if self.signals.continued.came() {
                self.take()?;
                break;
            }
            if let Some(code) = self.signals.end() {
                return Ok(Some(code));
            }
            let left = EVERY.saturating_sub(drawn.elapsed());
            match self.terminal.key(left.min(Duration::from_millis(200))) {
                Ok(Some(b'q' | b'Q')) => return Ok(Some(ExitCode::SUCCESS)),
                Ok(Some(b' ')) => break,
                Ok(_) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(self.signals.end())
    }

    /// Takes the terminal, as soon as this is in the foreground; not where a signal ends it before.
    fn take(&self) -> Result<(), Failure> {
        while self.signals.end().is_none() {
            if in_foreground() {
                return self.terminal.take().map_err(failed);
            }
            self.stop()?;
        }
        Ok(())
    }

    /// Stops the process until the shell lets it go on.
    fn stop(&self) -> Result<(), Failure> {
        match self.signals.stop().map_err(failed)? || in_foreground() {
            true => Ok(()),
            false => Err("top: the terminal is another program's, and no shell can give it".into()),
        }
    }
}

fn look_for_reasons(store: Arc<dyn Backend>, seen: Shared) {
    thread::spawn(move || {
        loop {
            let begun = Instant::now();
            let filter = Filter::default();
            let mut reasons = Reasons::default();
            for page in Pages::stored(&*store, &WAITING, &filter, 1000) {
                // A store that fails is seen above, in the counts.
                let Ok((_, page)) = page else { break };
                let messages = page.messages.iter().map(|stored| &stored.metadata);
                let failed = messages.filter(|message| !message.last_error.is_empty());
                failed.for_each(|message| reasons.add(message));
            }
            let (groups, _) = reasons.largest(KEPT);
            let line = |group: &crate::overview::Reason| {
                let key = &group.key;
                format!("{:>9}  {:<9}  {}", group.count, key.code, key.text)
            };
            lock(&seen).reasons = groups.iter().map(line).collect();
            thread::sleep(REASONS_EVERY.max(begun.elapsed() * REASONS_SHARE));
        }
    });
}

fn follow(store: Arc<dyn Backend>, seen: Shared) {
    thread::spawn(move || {
        let feed = store.change_feed()?;
        let mut cursor = feed.newest(&place::ctx()).ok()?.saturating_sub(KEPT as u64);
        loop {
            match feed.changes(&Context::within(EVERY), cursor, 1000) {
                Ok(found) => {
                    cursor = found.cursor;
                    let mut seen = lock(&seen);
                    seen.events.extend(found.changes.iter().map(event));
                    let surplus = seen.events.len().saturating_sub(KEPT);
                    seen.events.drain(..surplus);
                }
                Err(_) => thread::sleep(EVERY),
            }
        }
        // Only for the type of the thread's result.
        #[allow(unreachable_code)]
        Some(())
    });
}

fn event(change: &Change) -> String {
    let place = |state: Option<QueueState>| state.map_or("-", QueueState::as_str);
    let who = match &change.actor {
        Some(actor) => format!("{} ({})", actor.command, actor.pid),
        None => String::new(),
    };
    let time = change.at.to_string();
    let time = time.get(11..19).unwrap_or_default();
    format!(
        "{time}  {:<6} {} -> {}  {}  {who}",
        change.operation(),
        place(change.from),
        place(change.to),
        change.id
    )
}

/// A mount that hangs stops this thread alone.
fn look_for_refusals(mountpoint: PathBuf, seen: Shared) {
    thread::spawn(move || {
        loop {
            let text = std::fs::read_to_string(mountpoint.join(".retryspool/errors"));
            let text = text.unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(KEPT)..];
            lock(&seen).refusals = last.iter().map(|line| line.to_string()).collect();
            thread::sleep(EVERY);
        }
    });
}

/// The lines of a screen of so many columns and rows.
fn screen(
    status: &Status,
    place: &Place,
    seen: &Seen,
    (columns, rows): (usize, usize),
) -> Vec<String> {
    let mut lines = Vec::new();
    let time = status.at.to_string();
    let time = time.get(11..19).unwrap_or_default();
    lines.push(format!(
        "retryspool  {}  {time} UTC  (q quits)",
        place.locator
    ));
    lines.push("STATE        MESSAGES  OLDEST      NEXT RETRY          IN/MIN  OUT/MIN".to_owned());
    for state in &status.states {
        let number = usize::from(state.state.number());
        let traffic = status.traffic.unwrap_or_default();
        lines.push(format!(
            "{:<10} {:>10}  {:<10}  {:<18} {:>7.1}  {:>7.1}",
            state.state,
            state.info.count,
            state
                .ages
                .oldest
                .map_or("-".to_owned(), |oldest| show_duration(
                    status.at.since(oldest)
                )),
            due(status.at, state.ages.next_due),
            traffic.per_minute(traffic.arrived[number]),
            traffic.per_minute(traffic.left[number]),
        ));
    }
    lines.push(match &status.traffic {
        Some(traffic) => format!(
            "{} wait; in {} {:.1} a minute came, {:.1} left; {}",
            status.waiting(),
            show_duration(traffic.over),
            traffic.per_minute(traffic.waiting_arrived),
            traffic.per_minute(traffic.waiting_left),
            match traffic.empty_in(status.waiting()) {
                Some(Duration::ZERO) => "empty".to_owned(),
                Some(span) => format!("empty in {}", show_duration(span)),
                None => "does not get empty".to_owned(),
            }
        ),
        None => format!(
            "{} wait; this spool has no log of changes",
            status.waiting()
        ),
    });
    // What is left is shared: a third for each, and what one does not need for the events.
    let left = rows.saturating_sub(lines.len() + 3);
    let reasons = seen.reasons.len().min(left / 3).max(1);
    let refusals = seen.refusals.len().min(left / 4);
    let events = left.saturating_sub(reasons + refusals);
    lines.push("WHY MESSAGES WAIT".to_owned());
    lines.extend(seen.reasons.iter().take(reasons).cloned());
    lines.push("LATEST CHANGES".to_owned());
    let newest = seen
        .events
        .iter()
        .skip(seen.events.len().saturating_sub(events));
    lines.extend(newest.cloned());
    if place.mountpoint.is_some() {
        lines.push("LATEST REFUSALS".to_owned());
        let newest = seen.refusals.len().saturating_sub(refusals);
        lines.extend(seen.refusals[newest..].iter().cloned());
    }
    let heads = lines
        .iter()
        .map(|line| line.chars().next().is_some_and(char::is_uppercase));
    let heads: Vec<bool> = heads.collect();
    let bold = colours();
    let mut shown: Vec<String> = lines
        .iter()
        .zip(heads)
        .map(|(line, head)| {
            let clipped: String = printable(line).chars().take(columns).collect();
            match bold && head {
                true => format!("\x1b[1m{clipped}"),
                false => clipped,
            }
        })
        .collect();
    shown.truncate(rows);
    shown
}

#[cfg(test)]
mod tests;
