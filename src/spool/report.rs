//! Telling people why: the log, and the control files `errors` and `events`.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::caller::Caller;
use super::error::{Errno, Refusal};
use super::repeats::Repeats;
use crate::model::Timestamp;
use crate::overview::lost_line;

/// How many lines `errors` keeps.
const LINES_MAX: usize = 1000;
/// How many bytes `events` keeps.
const BYTES_MAX: usize = 1 << 20;

/// Wakes whoever waits for more of a text.
pub type Wake = Box<dyn FnOnce() + Send>;

/// A text that grows at its end and forgets at its beginning, read like a regular file whose size
/// is the number of bytes ever published.
pub struct TextLog {
    lines_max: usize,
    bytes_max: usize,
    /// The line for a reader that so many bytes were forgotten under.
    fell_behind: fn(u64) -> String,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Where the oldest byte that is kept stands in all that was ever published.
    first: u64,
    bytes: VecDeque<u8>,
    lines: VecDeque<usize>,
    changed: Timestamp,
    /// Handles that wait for more.
    waiting: Vec<(u64, Wake)>,
}

impl Inner {
    fn end(&self) -> u64 {
        self.first + self.bytes.len() as u64
    }
}

impl TextLog {
    /// An empty log that keeps so many lines and so many bytes at most.
    pub fn new(lines_max: usize, bytes_max: usize, fell_behind: fn(u64) -> String) -> TextLog {
        TextLog {
            lines_max,
            bytes_max,
            fell_behind,
            inner: Mutex::new(Inner {
                first: 0,
                bytes: VecDeque::new(),
                lines: VecDeque::new(),
                changed: Timestamp::now(),
                waiting: Vec::new(),
            }),
        }
    }

    /// Publishes a line.
    pub fn push(&self, line: &str) {
        let mut inner = self.inner.lock();
        inner.bytes.extend(line.bytes().chain([b'\n']));
        inner.lines.push_back(line.len() + 1);
        inner.changed = Timestamp::now();
        while inner.lines.len() > self.lines_max || inner.bytes.len() > self.bytes_max {
            let line = inner.lines.pop_front().unwrap_or(0);
            inner.bytes.drain(..line);
            inner.first += line as u64;
        }
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        waiting.into_iter().for_each(|(_, wake)| wake());
    }

    /// How many bytes are kept.
    pub fn kept(&self) -> u64 {
        self.inner.lock().bytes.len() as u64
    }

    /// How many bytes were ever published, and when the last ones were.
    pub fn size_and_time(&self) -> (u64, Timestamp) {
        let inner = self.inner.lock();
        (inner.end(), inner.changed)
    }

    /// The handle waits no more.
    pub fn forget(&self, fh: u64) {
        self.inner.lock().waiting.retain(|(other, _)| *other != fh);
    }
}

/// Where one reader of a [`TextLog`] is.
#[derive(Debug, Default)]
pub struct TextCursor {
    /// The offset that a reader who goes on asks for next, and the position that this means: it
    /// may have begun with the oldest byte kept as its 0, or have been told of a gap.
    next: Option<(u64, u64)>,
    /// What it has to be told before it goes on.
    pending: Vec<u8>,
    /// Whether it stopped within a line.
    within_line: bool,
}

impl TextCursor {
    /// At most `size` bytes for a read at `offset`. A read at 0 gets the oldest byte kept, and
    /// whoever goes on from there goes on from there; any other offset counts from the first byte
    /// ever published. Who goes on where nothing is kept any more gets a line that says so. At the
    /// end there is nothing.
    pub fn read(&mut self, log: &TextLog, offset: u64, size: usize) -> Vec<u8> {
        let inner = log.inner.lock();
        let position = match self.next {
            Some((next, position)) if next == offset && offset != 0 => {
                if position < inner.first {
                    if std::mem::take(&mut self.within_line) {
                        self.pending.push(b'\n');
                    }
                    let line = (log.fell_behind)(inner.first - position);
                    self.pending.extend(line.bytes().chain([b'\n']));
                }
                position
            }
            _ => {
                *self = TextCursor::default();
                if offset == 0 { inner.first } else { offset }
            }
        };
        let start = (position.max(inner.first) - inner.first) as usize;
        let start = start.min(inner.bytes.len());
        let (bytes, end): (Vec<u8>, usize) = if self.pending.is_empty() {
            let range: Range<usize> = start..start.saturating_add(size).min(inner.bytes.len());
            let end = range.end;
            (inner.bytes.range(range).copied().collect(), end)
        } else {
            let told = self.pending.drain(..size.min(self.pending.len()));
            (told.collect(), start)
        };
        if let Some(last) = bytes.last() {
            self.within_line = *last != b'\n';
        }
        self.next = Some((offset + bytes.len() as u64, inner.first + end as u64));
        bytes
    }

    /// Whether there is something to read where the reader stopped; one that has not begun is
    /// taken to begin at the start. If `wake` is given, the handle `fh` is woken by the next line.
    pub fn poll(&self, log: &TextLog, fh: u64, wake: Option<Wake>) -> bool {
        let mut inner = log.inner.lock();
        if let Some(wake) = wake {
            inner.waiting.retain(|(other, _)| *other != fh);
            inner.waiting.push((fh, wake));
        }
        let position = self.next.map_or(inner.first, |(_, position)| position);
        !self.pending.is_empty() || position < inner.end()
    }
}

fn fell_behind(bytes: u64) -> String {
    format!("this reader fell behind, and {bytes} bytes are gone")
}

/// Tells of refusals and changes.
pub struct Report {
    /// The control file `errors`.
    pub errors: TextLog,
    /// The control file `events`.
    pub events: TextLog,
    /// The last refusal that the kernel may send once more.
    stale: Mutex<Option<Stale>>,
    /// What the log need not be told over and over.
    repeats: Repeats,
}

impl Default for Report {
    fn default() -> Report {
        Report {
            errors: TextLog::new(LINES_MAX, usize::MAX, fell_behind),
            events: TextLog::new(usize::MAX, BYTES_MAX, |bytes| {
                lost_line(&fell_behind(bytes))
            }),
            stale: Mutex::default(),
            repeats: Repeats::default(),
        }
    }
}

/// A refusal of an operation that names a path. On `ESTALE` the kernel looks the path up again,
/// and sends the operation a second time at once.
struct Stale {
    pid: u32,
    line: String,
    at: Instant,
}

/// How soon the second time comes: between two tries of a person there is more.
const AT_ONCE: Duration = Duration::from_millis(500);

impl Report {
    /// One line in the log and one in `errors`: `rename hold/x.json ENOENT: …`.
    pub fn refused(&self, caller: Option<&Caller>, operation: &str, path: &str, refusal: &Refusal) {
        let Refusal {
            errno,
            reason,
            hint,
        } = refusal;
        let hint = if hint.is_empty() {
            "nothing was changed"
        } else {
            hint
        };
        let path = one_line(path);
        let reason = one_line(reason);
        let line = format!("{operation} {path} {errno:?}: {reason}; {hint}");
        let by_path = matches!(operation, "rename" | "truncate" | "unlink");
        if by_path && *errno == Errno::ESTALE && self.is_repeat(caller, &line) {
            return;
        }
        let (pid, command) = match caller {
            Some(caller) => (caller.pid, caller.command()),
            None => (0, "?".to_owned()),
        };
        macro_rules! log {
            ($level:ident) => {
                tracing::event!(
                    target: "retryspoolfs",
                    tracing::Level::$level,
                    op = operation,
                    path = path,
                    pid = pid,
                    command = command,
                    errno = ?errno,
                    "{line} (pid {pid}, {command})"
                )
            };
        }
        match errno {
            // Somebody else was faster: nothing to worry about.
            Errno::ENOENT => log!(DEBUG),
            _ if !self.repeats.admit(operation, *errno, Instant::now()) => {}
            Errno::EIO => log!(ERROR),
            _ => log!(WARN),
        }
        self.errors.push(&line);
    }

    /// Whether this is the kernel's second try of what was refused just now.
    fn is_repeat(&self, caller: Option<&Caller>, line: &str) -> bool {
        let pid = caller.map_or(0, |caller| caller.pid);
        let mut stale = self.stale.lock();
        match stale.take() {
            Some(last) if last.pid == pid && last.line == line && last.at.elapsed() < AT_ONCE => {
                true
            }
            _ => {
                *stale = Some(Stale {
                    pid,
                    line: line.to_owned(),
                    at: Instant::now(),
                });
                false
            }
        }
    }

    /// Logs how often what was not logged happened. To be called about once a second.
    pub fn tell_repeats(&self) {
        for line in self.repeats.summaries(Instant::now()) {
            tracing::warn!(target: "retryspoolfs", "{line}");
        }
    }

    /// A line that is no refusal.
    pub fn note(&self, line: &str) {
        let line = one_line(line);
        tracing::warn!(target: "retryspoolfs", "{line}");
        self.errors.push(&line);
    }
}

/// The text with its control characters escaped, so that a line stays one.
fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control().then(|| c.escape_default());
            escape
                .into_iter()
                .flatten()
                .chain((!c.is_control()).then_some(c))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_from_zero_gets_the_oldest_line_kept_and_goes_on() {
        let log = TextLog::new(LINES_MAX, usize::MAX, fell_behind);
        for n in 0..LINES_MAX + 5 {
            log.push(&format!("line {n}"));
        }
        let (size, _) = log.size_and_time();
        let mut cursor = TextCursor::default();
        let mut text = Vec::new();
        loop {
            let part = cursor.read(&log, text.len() as u64, 100);
            if part.is_empty() {
                break;
            }
            text.extend(part);
        }
        assert!(text.starts_with(b"line 5\n") && text.ends_with(b"line 1004\n"));
        log.push("later");
        assert_eq!(cursor.read(&log, text.len() as u64, 100), b"later\n");
        // As `tail` does: from the end by the size.
        assert_eq!(TextCursor::default().read(&log, size, 100), b"later\n");
        assert_eq!(TextCursor::default().read(&log, size + 6, 100), b"");
        assert_eq!(TextCursor::default().read(&log, size + 600, 100), b"");
    }

    #[test]
    fn a_reader_that_falls_behind_gets_one_line_that_says_so() {
        let log = TextLog::new(2, usize::MAX, fell_behind);
        log.push("line 1");
        let mut cursor = TextCursor::default();
        assert_eq!(cursor.read(&log, 0, 3), b"lin");
        for n in 2..6 {
            log.push(&format!("line {n}"));
        }
        let mut text = Vec::new();
        // Whatever the size of its reads.
        while let part = cursor.read(&log, 3 + text.len() as u64, 5)
            && !part.is_empty()
        {
            text.extend(part);
        }
        let text = String::from_utf8(text).unwrap();
        let told = "this reader fell behind, and 18 bytes are gone";
        assert_eq!(text, format!("\n{told}\nline 4\nline 5\n"));
        log.push("line 6");
        assert_eq!(cursor.read(&log, 3 + text.len() as u64, 99), b"line 6\n");
        // Nobody fell behind who only begins: at 0, or where `tail` looks.
        assert_eq!(cursor.read(&log, 0, 99), b"line 5\nline 6\n");
        assert_eq!(TextCursor::default().read(&log, 8, 99), b"line 5\nline 6\n");
    }

    #[test]
    fn who_waits_for_a_line_is_woken_by_it() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU32, Ordering};
        let log = TextLog::new(2, usize::MAX, fell_behind);
        let woken = Arc::new(AtomicU32::new(0));
        let wake = || -> Option<Wake> {
            let woken = woken.clone();
            Some(Box::new(move || {
                woken.fetch_add(1, Ordering::Relaxed);
            }))
        };
        let mut cursor = TextCursor::default();
        assert!(!cursor.poll(&log, 1, wake()));
        assert!(!cursor.poll(&log, 1, wake()), "asked twice, woken once");
        assert!(!cursor.poll(&log, 2, wake()));
        log.forget(2);
        log.push("line");
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert!(cursor.poll(&log, 1, None));
        assert_eq!(cursor.read(&log, 0, 99), b"line\n");
        assert!(!cursor.poll(&log, 1, None));
        log.push("another");
        assert_eq!(woken.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_line_stays_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[2J☃"), "a\\nb\\u{1b}[2J☃");
    }
}
