//! A terminal that shows one screen: taken over, drawn on, and given back as it was.
//!
//! Owns: the terminal's settings before, which are restored when the value is dropped, and before
//! the message of a panic is printed.

use std::io::{self, IsTerminal, Write};
use std::mem::MaybeUninit;
use std::sync::Mutex;
use std::time::Duration;

/// The settings before, while the terminal is ours.
static BEFORE: Mutex<Option<libc::termios>> = Mutex::new(None);

/// The other screen, without a cursor; and back.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// The terminal, while it is ours.
pub struct Terminal(());

impl Terminal {
    /// Takes it over. `None` where standard input and output are no terminal.
    pub fn open() -> io::Result<Option<Terminal>> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(None);
        }
        let mut before = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: there is room for what tcgetattr writes.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, before.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: tcgetattr succeeded, so it has filled it.
        let before = unsafe { before.assume_init() };
        let mut ours = before;
        ours.c_lflag &= !(libc::ICANON | libc::ECHO);
        ours.c_cc[libc::VMIN] = 0;
        ours.c_cc[libc::VTIME] = 0;
        // Nobody stops the program in the middle: the shell would get this terminal.
        ours.c_cc[libc::VSUSP] = libc::_POSIX_VDISABLE;
        hold(Some(before));
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            previous(panic);
        }));
        set(&ours)?;
        draw(ENTER)?;
        Ok(Some(Terminal(())))
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
        draw(screen.as_bytes())
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

/// Gives the terminal back, once.
fn restore() {
    if let Some(before) = hold(None) {
        let _ = draw(LEAVE);
        let _ = set(&before);
    }
}

/// Remembers the settings before, and gives those that were remembered.
fn hold(settings: Option<libc::termios>) -> Option<libc::termios> {
    // The lock is held for this alone, so nobody panicked with it.
    let mut before = BEFORE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    std::mem::replace(&mut *before, settings)
}

fn set(settings: &libc::termios) -> io::Result<()> {
    // SAFETY: the settings are whole.
    match unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, settings) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn draw(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}
