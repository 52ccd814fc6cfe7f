//! What a long command shows while it runs, and how it is ended.
//!
//! Owns: the line on a terminal that says how far it is; SIGINT and SIGTERM.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::Failure;
use super::failure::INTERRUPTED;
use super::output::complain;
use crate::backend::Actor;

/// How often the line changes.
const EVERY: Duration = Duration::from_millis(200);

/// How often one who waits for input looks whether a signal came just before it began to wait, in
/// milliseconds.
const LOOK_UP: u8 = 200;

/// How long nothing has to come to be called a pause, in milliseconds: a program that writes on has
/// written by then.
const PAUSE: u8 = 20;

/// A line on standard error that is written over and over, where that is a terminal.
pub struct Progress {
    verb: &'static str,
    total: u64,
    on_terminal: bool,
    started: Instant,
    shown: Option<Instant>,
}

impl Progress {
    /// Nothing is done yet; `total` is how much there is, 0 where nobody knows.
    pub fn new(verb: &'static str, total: u64) -> Progress {
        Progress {
            verb,
            total,
            on_terminal: io::stderr().is_terminal(),
            started: Instant::now(),
            shown: None,
        }
    }

    /// So many are done.
    pub fn done(&mut self, count: u64) {
        let is_due = self.shown.is_none_or(|shown| shown.elapsed() >= EVERY);
        if !self.on_terminal || !is_due {
            return;
        }
        self.shown = Some(Instant::now());
        let seconds = self.started.elapsed().as_secs();
        let of = match self.total {
            0 => String::new(),
            total => format!(" of {total}"),
        };
        let verb = self.verb;
        let _ = write!(io::stderr(), "\r\x1b[K{verb}: {count}{of}, {seconds} s");
    }

    /// A line that stays.
    pub fn say(&mut self, line: &str) {
        self.clear();
        complain(line);
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Who asks for a command's changes: this user, this process, this command.
pub fn actor(command: &str) -> Actor {
    Actor {
        // SAFETY: it has no preconditions, and can't fail.
        uid: unsafe { libc::getuid() },
        pid: std::process::id(),
        command: format!("retryspoolfs {command}"),
    }
}

/// Whether SIGINT or SIGTERM came. From now on they end no step in its middle; a second one ends
/// the process at once.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Begins to catch them.
    pub fn catch() -> Result<Interrupt, Failure> {
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag still down.
            flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&came))
                .and_then(|_| flag::register(signal, Arc::clone(&came)))
                .map_err(|error| format!("signals can't be caught: {error}"))?;
        }
        Ok(Interrupt(came))
    }

    /// What is set when one comes.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Whether to go on.
    pub fn going(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }

    /// Standard input, to be read by this alone.
    pub fn input(&self) -> io::Result<BufReader<Input>> {
        Ok(BufReader::new(Input {
            file: io::stdin().as_fd().try_clone_to_owned()?.into(),
            stop: self.flag(),
            pauses: Pauses::Waited,
        }))
    }

    /// The same, for one who has something to do while nothing comes: then a read fails with
    /// [`io::ErrorKind::WouldBlock`], once a pause, and the next one waits for what comes then.
    pub fn input_with_pauses(&self) -> io::Result<BufReader<Input>> {
        let mut input = self.input()?;
        input.get_mut().pauses = Pauses::Told;
        Ok(input)
    }
}

/// Standard input, which ends where the signal comes: a read would go on to wait for whoever writes.
pub struct Input {
    file: File,
    stop: Arc<AtomicBool>,
    pauses: Pauses,
}

/// What a reader hears of a pause.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pauses {
    /// Nothing.
    Waited,
    /// The next one is told.
    Told,
    /// This one was told.
    Known,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.stop.load(Ordering::Relaxed) {
            let mut input = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            let (wait, is_told) = match self.pauses {
                Pauses::Told => (PAUSE, true),
                Pauses::Waited | Pauses::Known => (LOOK_UP, false),
            };
            match poll(&mut input, wait) {
                Ok(0) if is_told => {
                    self.pauses = Pauses::Known;
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => {
                    if self.pauses == Pauses::Known {
                        self.pauses = Pauses::Told;
                    }
                    return self.file.read(buffer);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(0)
    }
}
