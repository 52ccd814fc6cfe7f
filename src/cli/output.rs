//! Standard output: data, in one stream that may end early, and what a terminal is spared.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use super::Failure;
use crate::document;
use crate::model::MessageMetadata;

/// Standard output, buffered. [`end`](Output::end) brings out what is left.
pub struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    /// Standard output, locked.
    pub fn new() -> Output {
        Output(BufWriter::with_capacity(1 << 16, io::stdout().lock()))
    }

    /// These bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.0.write_all(bytes).map_err(|e| Failure::output(&e))
    }

    /// This text and a newline.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// What is buffered, at once: somebody waits for it.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(|e| Failure::output(&e))
    }

    /// The last of it.
    pub fn end(mut self) -> Result<(), Failure> {
        self.flush()
    }
}

/// A line on standard error that does not end the command.
pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "retryspoolfs: {}", printable(line));
}

/// Whether standard output is a terminal that shows colours, and the user has nothing against
/// them (<https://no-color.org>).
pub fn colours() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal()
        && set("NO_COLOR").is_none()
        && set("TERM").is_some_and(|term| term != "dumb")
}

/// The text with its control characters escaped: stored text may come from anybody, and must
/// neither command a terminal nor break a line.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c.is_control() {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// A message's document with its newline, as the files of a mount hold it but for the control
/// characters that JSON allows to stand for themselves: the same value, and no terminal obeys it.
pub fn json(message: &MessageMetadata) -> String {
    escaped(document::render(message))
}

/// The same in one line.
pub fn json_line(message: &MessageMetadata) -> String {
    escaped(document::render_line(message))
}

/// Any other JSON, likewise. Line breaks stay: JSON has none within a text.
pub fn escaped(json: impl Into<Vec<u8>>) -> String {
    // A serializer's text is UTF-8.
    let json = String::from_utf8_lossy(&json.into()).into_owned();
    if !json.chars().any(|c| c.is_control() && c != '\n') {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c.is_control() && c != '\n' {
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_says_the_same_without_control_characters() {
        let message = MessageMetadata {
            last_error: "Ä\u{7f}\u{9b}31m\u{1b}\n".into(),
            ..MessageMetadata::new("a".parse().unwrap())
        };
        let text = json_line(&message);
        let (line, end) = text.split_at(text.len() - 1);
        assert!(end == "\n" && !line.chars().any(char::is_control), "{line}");
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["LastError"], message.last_error);
    }

    #[test]
    fn no_control_character_is_printed() {
        assert_eq!(printable("Größe ☃\\n"), "Größe ☃\\n");
        assert_eq!(
            printable("a\nb\u{1b}[2J\u{9b}1m\u{7f}"),
            "a\\nb\\u{1b}[2J\\u{9b}1m\\u{7f}"
        );
    }
}
