//! Where log lines go, and which: to standard error while somebody reads it, to the journal or to
//! syslog from the background.
//!
//! A line is one sentence. In the journal it has fields as well: OP, PATH, PID, COMMAND and ERRNO
//! of a refusal. No line has the value of a header.

use std::ffi::CString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::model::Timestamp;

/// The environment variable that says which lines are written.
pub const VARIABLE: &str = "RETRYSPOOLFS_LOG";

/// Which lines are written: those of this level and the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    fn level(self) -> Level {
        match self {
            LogLevel::Error => Level::ERROR,
            LogLevel::Warn => Level::WARN,
            LogLevel::Info => Level::INFO,
            LogLevel::Debug => Level::DEBUG,
            LogLevel::Trace => Level::TRACE,
        }
    }

    /// Its name, as it is typed.
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }

    fn of(number: u8) -> LogLevel {
        let all = LogLevel::value_variants();
        all.get(usize::from(number))
            .copied()
            .unwrap_or(LogLevel::Info)
    }
}

/// The level that the environment asks for, "info" where it names none.
pub fn from_environment() -> LogLevel {
    let named = std::env::var(VARIABLE).ok();
    let named = named.and_then(|name| LogLevel::from_str(&name, true).ok());
    named.unwrap_or(LogLevel::Info)
}

/// The level that was asked for at the start.
static CHOSEN: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);
/// The level in force.
static CURRENT: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);
/// Whether nobody reads standard error any more.
static DETACHED: AtomicBool = AtomicBool::new(false);

/// Begins to log to standard error: this program's lines from `level` on, its libraries' from
/// "warn" on, but none of fuser's, which tells of each request that it has no handler for and of
/// each that the kernel gave up. Where standard error is the journal, lines go there with their
/// fields.
pub fn begin(level: LogLevel) {
    CHOSEN.store(level as u8, Ordering::Relaxed);
    CURRENT.store(level as u8, Ordering::Relaxed);
    let destination = match is_journal() {
        true => journal().map_or(Destination::Lines { dated: false }, Destination::Journal),
        false => Destination::Lines {
            dated: !io::stderr().is_terminal(),
        },
    };
    // Only the first call of a process counts.
    let _ = tracing_subscriber::registry()
        .with(Log {
            before: destination,
            after: OnceLock::new(),
        })
        .try_init();
}

/// From now on nobody reads standard error.
pub fn detach() {
    DETACHED.store(true, Ordering::Relaxed);
}

/// Goes from the level that was chosen to "debug", or back. Gives the level in force since.
pub fn toggle() -> LogLevel {
    let chosen = CHOSEN.load(Ordering::Relaxed);
    let debug = LogLevel::Debug as u8;
    let next = match CURRENT.load(Ordering::Relaxed) {
        current if current == chosen && chosen != debug => debug,
        current if current == chosen => LogLevel::Info as u8,
        _ => chosen,
    };
    CURRENT.store(next, Ordering::Relaxed);
    LogLevel::of(next)
}

/// Whether standard error is a stream of the journal's: systemd.exec(5), JOURNAL_STREAM.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let here = fs::metadata("/proc/self/fd/2");
    here.is_ok_and(|here| stream == format!("{}:{}", here.dev(), here.ino()))
}

fn journal() -> Option<tracing_journald::Layer> {
    let layer = tracing_journald::layer().ok()?;
    Some(
        layer
            .with_field_prefix(None)
            .with_syslog_identifier("retryspoolfs".to_owned()),
    )
}

enum Destination {
    Journal(tracing_journald::Layer),
    /// Standard error; `dated` where nobody else puts the time before a line.
    Lines {
        dated: bool,
    },
    Syslog,
}

struct Log {
    before: Destination,
    /// Where lines go once the process is in the background.
    after: OnceLock<Destination>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    // The level changes while the program runs, so no answer is for ever.
    fn register_callsite(&self, _metadata: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>, _ctx: Context<'_, S>) -> bool {
        let target = metadata.target();
        let least = match target.split("::").next().unwrap_or(target) {
            "retryspoolfs" => LogLevel::of(CURRENT.load(Ordering::Relaxed)).level(),
            "fuser" => return false,
            _ => Level::WARN,
        };
        *metadata.level() <= least
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let destination = match DETACHED.load(Ordering::Relaxed) {
            false => &self.before,
            true => self
                .after
                .get_or_init(|| journal().map_or(Destination::Syslog, Destination::Journal)),
        };
        let level = *event.metadata().level();
        match destination {
            Destination::Journal(journal) => journal.on_event(event, ctx),
            Destination::Lines { dated } => {
                let now = match dated {
                    true => format!("{} ", Timestamp::now()),
                    false => String::new(),
                };
                let line = format!("{now}{level} {}\n", sentence(event));
                // One write, so that lines of several threads do not mix.
                let _ = io::stderr().write_all(line.as_bytes());
            }
            Destination::Syslog => syslog(level, &sentence(event)),
        }
    }
}

fn syslog(level: Level, line: &str) {
    let priority = match level {
        Level::ERROR => libc::LOG_ERR,
        Level::WARN => libc::LOG_WARNING,
        Level::INFO => libc::LOG_INFO,
        _ => libc::LOG_DEBUG,
    };
    if let Ok(text) = CString::new(line.replace('\0', " ")) {
        // SAFETY: both are C strings, and the format takes one of them.
        unsafe { libc::syslog(libc::LOG_DAEMON | priority, c"%s".as_ptr(), text.as_ptr()) };
    }
}

/// The event's message, without its fields: the message says what they say.
fn sentence(event: &Event<'_>) -> String {
    #[derive(Default)]
    struct Message(String);
    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}");
            }
        }
    }
    let mut message = Message::default();
    event.record(&mut message);
    message.0
}
