//! Metadata to JSON, byte for byte what RetrySpool's filesystem store writes, with `<`, `>` and
//! `&` as themselves and a final newline.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

use crate::model::{MessageMetadata, Timestamp};

/// The document of a message.
///
/// ```
/// use retryspoolfs::{MessageMetadata, document};
/// let text = document::render(&MessageMetadata::new("msg-123".parse().unwrap()));
/// assert!(text.starts_with(b"{\n  \"ID\": \"msg-123\",\n  \"State\": 0,\n"));
/// ```
pub fn render(metadata: &MessageMetadata) -> Vec<u8> {
    let mut document = Vec::with_capacity(512);
    write(metadata, &mut document);
    document
}

/// The same document in one line, with its newline: what a file of JSON Lines holds.
///
/// ```
/// use retryspoolfs::{MessageMetadata, document};
/// let line = document::render_line(&MessageMetadata::new("msg-123".parse().unwrap()));
/// assert!(line.starts_with(br#"{"ID":"msg-123","State":0,"#) && line.ends_with(b"}\n"));
/// ```
pub fn render_line(metadata: &MessageMetadata) -> Vec<u8> {
    let mut line = Vec::with_capacity(512);
    write_as(metadata, &mut line, GoFormatter(CompactFormatter));
    line
}

/// The length of [`render`]'s document in bytes, without keeping it.
pub fn rendered_len(metadata: &MessageMetadata) -> u64 {
    struct Count(u64);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    write(metadata, &mut count);
    count.0
}

fn write(metadata: &MessageMetadata, out: &mut impl Write) {
    write_as(
        metadata,
        out,
        GoFormatter(PrettyFormatter::with_indent(b"  ")),
    );
}

fn write_as(metadata: &MessageMetadata, out: &mut impl Write, formatter: impl Formatter) {
    let keys = Keys {
        id: metadata.id.as_str(),
        state: metadata.state.number(),
        attempts: metadata.attempts,
        max_attempts: metadata.max_attempts,
        next_retry: Text(metadata.next_retry),
        created: Text(metadata.created),
        updated: Text(metadata.updated),
        last_error: &metadata.last_error,
        size: metadata.size,
        priority: metadata.priority,
        headers: &metadata.headers,
        retry_policy_name: &metadata.retry_policy_name,
    };
    // Neither writer fails, and no key of these types can.
    let _ = keys.serialize(&mut Serializer::with_formatter(&mut *out, formatter));
    let _ = out.write_all(b"\n");
}

/// The keys of a document, in their order.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Keys<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    state: u8,
    attempts: i64,
    max_attempts: i64,
    next_retry: Text,
    created: Text,
    updated: Text,
    last_error: &'a str,
    size: i64,
    priority: i64,
    headers: &'a std::collections::BTreeMap<String, String>,
    retry_policy_name: &'a str,
}

/// A time as text.
struct Text(Timestamp);

impl Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Lays out as the inner one does, which Go's encoder does alike, and like Go's escapes the two
/// line separators that JSON allows in a text and JavaScript once did not.
struct GoFormatter<F>(F);

impl<F: Formatter> Formatter for GoFormatter<F> {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // Both begin with this byte, and most texts are without it.
        if !fragment.as_bytes().contains(&0xe2) {
            return out.write_all(fragment.as_bytes());
        }
        for piece in fragment.split_inclusive(['\u{2028}', '\u{2029}']) {
            let (text, escape) = if let Some(text) = piece.strip_suffix('\u{2028}') {
                (text, "\\u2028")
            } else if let Some(text) = piece.strip_suffix('\u{2029}') {
                (text, "\\u2029")
            } else {
                (piece, "")
            };
            out.write_all(text.as_bytes())?;
            out.write_all(escape.as_bytes())?;
        }
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }
}
