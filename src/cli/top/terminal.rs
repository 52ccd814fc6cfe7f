//! A terminal that shows one screen: taken over, drawn on, and given back as it was.
//!
//! Owns: the terminal's settings before, which are restored when the value is dropped, while the
//! process is stopped, and where a thread panics. That ends the program, whichever thread it is:
//! a screen that nobody looks for any more would show old news as if they were new.

use std::io::{self, IsTerminal, Write};
use std::mem::MaybeUninit;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::cli::output::complain;

/// The settings before, while the terminal is ours. Whoever draws holds it.
static BEFORE: Mutex<Option<libc::termios>> = Mutex::new(None);

/// The other screen, without a cursor; and back.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// The terminal; given back as it was when this is dropped.
pub struct Terminal(());

impl Terminal {
    /// The terminal, not yet taken. `None` where standard input and output are none.
    pub fn of_process() -> Option<Terminal> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return None;
        }
        std::panic::set_hook(Box::new(|panic| {
            restore();
            complain(&told(panic));
            std::process::exit(1);
        }));
        Some(Terminal(()))
    }

    /// Takes it over; also where it is ours, but somebody may have had it since.
    pub fn take(&self) -> io::Result<()> {
        let mut before = settings();
        let before = match *before {
            Some(settings) => settings,
            None => *before.insert(get()?),
        };
        let mut ours = before;
        ours.c_lflag &= !(libc::ICANON | libc::ECHO);
        ours.c_cc[libc::VMIN] = 0;
        ours.c_cc[libc::VTIME] = 0;
        set(&ours)?;
        draw(ENTER)
    }

    /// Gives it back.
    pub fn leave(&self) {
        restore();
    }

    /// Columns and rows.
    pub fn size(&self) -> (usize, usize) {
        let mut size = MaybeUninit::<libc::winsize>::zeroed();
        // SAFETY: there is room for what the call writes, and zeros are a size.
        let size = unsafe {
            libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr());
            size.assume_init()
        };
        match (size.ws_col, size.ws_row) {
            (0, _) | (_, 0) => (80, 24),
            (columns, rows) => (columns.into(), rows.into()),
        }
    }

    /// Shows these lines, which are no longer than the screen is wide.
    pub fn show(&self, lines: &[String]) -> io::Result<()> {
        let mut screen = String::from("\x1b[H");
        for (at, line) in lines.iter().enumerate() {
            if at > 0 {
                screen.push_str("\r\n");
            }
            screen.push_str(line);
            screen.push_str("\x1b[0m\x1b[K");
        }
        screen.push_str("\x1b[J");
        match *settings() {
            Some(_) => draw(screen.as_bytes()),
            // A thread panics, and has given the terminal back.
            None => Ok(()),
        }
    }

    /// A key, or nothing when the time is over or a signal comes.
    pub fn key(&self, limit: Duration) -> io::Result<Option<u8>> {
        let mut input = libc::pollfd {
            fd: libc::STDIN_FILENO,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one descriptor, in a structure that outlives the call.
        let ready = unsafe { libc::poll(&mut input, 1, limit.as_millis() as libc::c_int) };
        if ready <= 0 {
            return Ok(None);
        }
        let mut key = 0u8;
        // SAFETY: there is room for the one byte that is read.
        let got = unsafe { libc::read(libc::STDIN_FILENO, (&raw mut key).cast(), 1) };
        match got {
            1 => Ok(Some(key)),
            // Its other end is gone.
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether the terminal is this process's to use, and not another job's of the same shell.
pub fn in_foreground() -> bool {
    // SAFETY: neither call has preconditions.
    let (foreground, ours) = unsafe { (libc::tcgetpgrp(libc::STDIN_FILENO), libc::getpgrp()) };
    // None where it is not the terminal of a shell's jobs.
    foreground == -1 || foreground == ours
}

/// Gives the terminal back, once.
fn restore() {
    let mut before = settings();
    if let Some(before) = before.take() {
        let _ = draw(LEAVE);
        // In the background the settings are somebody else's, and setting them stops the process.
        if in_foreground() {
            let _ = set(&before);
        }
    }
}

/// The line for a panic.
fn told(panic: &PanicHookInfo) -> String {
    let why = panic.payload_as_str().unwrap_or("it panicked");
    let place = panic.location().map(|place| format!(" at {place}"));
    let place = place.unwrap_or_default();
    format!("top: {why}{place}; that is a bug in this program, please report it")
}

fn settings() -> MutexGuard<'static, Option<libc::termios>> {
    // What is done with the lock does not panic: it ends by itself, also in a panic's hook.
    BEFORE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn get() -> io::Result<libc::termios> {
    let mut now = MaybeUninit::uninit();
    // SAFETY: there is room for what tcgetattr writes, and it has filled it where it succeeds.
    unsafe {
        checked(libc::tcgetattr(libc::STDIN_FILENO, now.as_mut_ptr()))?;
        Ok(now.assume_init())
    }
}

fn set(settings: &libc::termios) -> io::Result<()> {
    // SAFETY: the settings are whole.
    checked(unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, settings) })
}

/// What the call says, as Rust says it.
pub fn checked(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn draw(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}
