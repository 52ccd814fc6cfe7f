//! Where log lines go: to standard error while somebody reads it, to syslog from the background.

use std::ffi::CString;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

static DETACHED: AtomicBool = AtomicBool::new(false);

/// Begins to log: this program's lines from "info" on, its libraries' from "warn" on, but none of
/// fuser's, which tells of each request that it has no handler for and of each that the kernel
/// gave up.
pub fn begin() {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Lines)
        .with_ansi(false)
        .with_target(false)
        .without_time();
    let levels = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("retryspoolfs", LevelFilter::INFO)
        .with_target("fuser", LevelFilter::OFF);
    // Only the first call of a process counts.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(levels))
        .try_init();
}

/// From now on nobody reads standard error.
pub fn detach() {
    DETACHED.store(true, Ordering::Relaxed);
}

struct Lines;

impl MakeWriter<'_> for Lines {
    type Writer = Box<dyn Write>;

    fn make_writer(&self) -> Box<dyn Write> {
        if DETACHED.load(Ordering::Relaxed) {
            Box::new(Syslog)
        } else {
            Box::new(io::stderr())
        }
    }
}

struct Syslog;

impl Write for Syslog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let level = if text.trim_start().starts_with("ERROR") {
            libc::LOG_ERR
        } else {
            libc::LOG_WARNING
        };
        if let Ok(text) = CString::new(text.trim_end().replace('\0', " ")) {
            // SAFETY: both are C strings, and the format takes one of them.
            unsafe { libc::syslog(libc::LOG_DAEMON | level, c"%s".as_ptr(), text.as_ptr()) };
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

use tracing_subscriber::Layer as _;
