//! Files of many documents: JSON Lines, or tar, each also compressed by gzip.
//!
//! Owns: which kind a file is, by its name to be written and by its bytes to be read; where in it
//! an entry is.
//! Must not know: stores.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::document::{self, MAX_LEN};
use crate::model::{FileName, MessageId, MessageMetadata, QueueState};

/// How documents are put into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A document a line.
    JsonLines,
    /// A file a document, named as in a mount: `deferred/msg-123.json`.
    Tar,
}

/// A kind, and whether gzip compresses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub kind: Kind,
    pub gzip: bool,
}

impl Format {
    /// What a file of this name is: `.jsonl` (or `.json`, `.ndjson`), `.tar`, each also with `.gz`;
    /// `.tgz`. The error says which names there are.
    pub fn of_name(path: &Path) -> Result<Format, String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (stem, gzip) = match name.strip_suffix(".gz") {
            Some(stem) => (stem, true),
            None => (&*name, false),
        };
        let ends = |endings: &[&str]| endings.iter().any(|ending| stem.ends_with(ending));
        let kind = match () {
            () if ends(&[".tgz"]) && !gzip => {
                return Ok(Format {
                    kind: Kind::Tar,
                    gzip: true,
                });
            }
            () if ends(&[".tar"]) => Kind::Tar,
            () if ends(&[".jsonl", ".ndjson", ".json"]) => Kind::JsonLines,
            () => {
                return Err(format!(
                    "{}: its name does not tell what it is to be: .jsonl, .tar, .jsonl.gz, .tar.gz or .tgz",
                    path.display()
                ));
            }
        };
        Ok(Format { kind, gzip })
    }
}

/// A file of documents that is being written.
pub struct Archive<W: Write>(Layout<W>);

enum Layout<W: Write> {
    JsonLines(Compressed<W>),
    Tar(Box<tar::Builder<Compressed<W>>>),
}

enum Compressed<W: Write> {
    Plain(BufWriter<W>),
    Gzip(GzEncoder<BufWriter<W>>),
}

impl<W: Write> Write for Compressed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Compressed::Plain(out) => out.write(bytes),
            Compressed::Gzip(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Compressed::Plain(out) => out.flush(),
            Compressed::Gzip(out) => out.flush(),
        }
    }
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub fn new(out: W, format: Format) -> Archive<W> {
        let out = BufWriter::with_capacity(1 << 16, out);
        let out = match format.gzip {
            false => Compressed::Plain(out),
            true => Compressed::Gzip(GzEncoder::new(out, Compression::default())),
        };
        Archive(match format.kind {
            Kind::JsonLines => Layout::JsonLines(out),
            Kind::Tar => Layout::Tar(Box::new(tar::Builder::new(out))),
        })
    }

    /// Adds a document.
    pub fn add(&mut self, metadata: &MessageMetadata) -> io::Result<()> {
        match &mut self.0 {
            Layout::JsonLines(out) => out.write_all(&document::render_line(metadata)),
            Layout::Tar(out) => {
                let bytes = document::render(metadata);
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o600);
                header.set_mtime(metadata.updated.seconds().max(0) as u64);
                let name = format!("{}/{}", metadata.state, metadata.id.file_name());
                out.append_data(&mut header, name, bytes.as_slice())
            }
        }
    }

    /// The last bytes of it.
    pub fn finish(self) -> io::Result<W> {
        let out = match self.0 {
            Layout::JsonLines(out) => out,
            Layout::Tar(out) => out.into_inner()?,
        };
        let out = match out {
            Compressed::Plain(out) => out,
            Compressed::Gzip(out) => out.finish()?,
        };
        out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// A document in a file, or what is there instead of one.
#[derive(Debug)]
pub struct Entry {
    /// Where it is: `line 7`, `deferred/msg-123.json`.
    pub place: String,
    /// The message, or why there is none.
    pub document: Result<(MessageId, document::Document), String>,
}

/// Reads a file of documents, whichever kind its bytes are; `entry` gets one after the other, and
/// ends the reading with `false`. An entry's state is that of its directory, where it has one. An
/// error is one of the file: what follows it can't be read.
pub fn read(input: impl Read, entry: &mut dyn FnMut(Entry) -> io::Result<bool>) -> io::Result<()> {
    let mut input = BufReader::with_capacity(1 << 16, input);
    let start = input.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return read_plain(BufReader::new(MultiGzDecoder::new(input)), entry);
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let why = "it is compressed by zstd, which is not read here; pipe it through `zstd -dc`";
        return Err(io::Error::other(why));
    }
    read_plain(input, entry)
}

fn read_plain(
    mut input: impl BufRead,
    entry: &mut dyn FnMut(Entry) -> io::Result<bool>,
) -> io::Result<()> {
    let mut start = [0; 512];
    let mut length = 0;
    while length < start.len() {
        match input.read(&mut start[length..])? {
            0 => break,
            count => length += count,
        }
    }
    let start = &start[..length];
    // Where every tar since 1988 has its mark; one without any entry is all zeros.
    let is_tar = start.get(257..262) == Some(b"ustar")
        || (length == 512 && start.iter().all(|byte| *byte == 0));
    let input = start.chain(input);
    match is_tar {
        true => read_tar(input, entry),
        false => read_lines(input, entry),
    }
}

fn read_lines(
    mut input: impl BufRead,
    entry: &mut dyn FnMut(Entry) -> io::Result<bool>,
) -> io::Result<()> {
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        // One byte more than a document and its newline may have tells that it is too long.
        let limit = MAX_LEN as u64 + 2;
        if (&mut input).take(limit).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if !line.ends_with(b"\n") && line.len() as u64 == limit {
            input.skip_until(b'\n')?;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let document = document::parse_any(text).map_err(|problem| problem.to_string());
        let place = format!("line {number}");
        if !entry(Entry { place, document })? {
            break;
        }
    }
    Ok(())
}

fn read_tar(input: impl Read, entry: &mut dyn FnMut(Entry) -> io::Result<bool>) -> io::Result<()> {
    for found in tar::Archive::new(input).entries()? {
        let mut found = found?;
        if found.header().entry_type().is_dir() {
            continue;
        }
        let path = found.path()?.into_owned();
        let place = path.display().to_string();
        let document = match found.header().entry_type().is_file() {
            true => member(&path, &mut found)?,
            false => Err("it is no regular file".into()),
        };
        if !entry(Entry { place, document })? {
            break;
        }
    }
    Ok(())
}

/// The document of a member of a tar file: its name says whose it is, and its directory the state.
fn member(
    path: &Path,
    bytes: &mut impl Read,
) -> io::Result<Result<(MessageId, document::Document), String>> {
    let FileName::Message(id) = FileName::of(path.file_name().unwrap_or_default()) else {
        return Ok(Err("its name is no message's".into()));
    };
    let mut text = Vec::new();
    bytes.take(MAX_LEN as u64 + 1).read_to_end(&mut text)?;
    let state = path
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str()?.parse::<QueueState>().ok());
    Ok(match document::parse(&text, &id) {
        Ok(mut document) => {
            document.state = state.or(document.state);
            Ok((id, document))
        }
        Err(problem) => Err(problem.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_the_format() {
        let format = |kind, gzip| Ok(Format { kind, gzip });
        for (name, expected) in [
            ("q.jsonl", format(Kind::JsonLines, false)),
            ("q.json", format(Kind::JsonLines, false)),
            ("q.ndjson.gz", format(Kind::JsonLines, true)),
            ("q.tar", format(Kind::Tar, false)),
            ("q.tar.gz", format(Kind::Tar, true)),
            ("q.tgz", format(Kind::Tar, true)),
        ] {
            assert_eq!(Format::of_name(name.as_ref()), expected, "{name}");
        }
        for name in ["q", "q.zip", "q.gz", "q.tar.zst", "tar"] {
            assert!(Format::of_name(name.as_ref()).is_err(), "{name}");
        }
    }

    #[test]
    fn every_format_reads_back_by_its_bytes() {
        let long = "x".repeat(240);
        let messages: Vec<MessageMetadata> = ["a", "%/.", "grüße", &long]
            .map(|id| MessageMetadata {
                state: QueueState::Hold,
                ..MessageMetadata::new(id.parse().unwrap())
            })
            .into();
        for kind in [Kind::JsonLines, Kind::Tar] {
            for gzip in [false, true] {
                for count in [0, 4] {
                    let mut archive = Archive::new(Vec::new(), Format { kind, gzip });
                    for message in &messages[..count] {
                        archive.add(message).unwrap();
                    }
                    let bytes = archive.finish().unwrap();
                    let mut found = Vec::new();
                    read(bytes.as_slice(), &mut |entry| {
                        found.push(entry.document.unwrap());
                        Ok(true)
                    })
                    .unwrap();
                    assert_eq!(found.len(), count);
                    for ((id, document), message) in found.into_iter().zip(&messages) {
                        assert_eq!(document.updated, Some(message.updated));
                        let state = document.state.unwrap();
                        let read = document.into_new(id, state, message.created);
                        let updated = message.updated;
                        assert_eq!(MessageMetadata { updated, ..read }, *message);
                    }
                }
            }
        }
    }

    #[test]
    fn bad_entries_are_told_and_the_next_is_read() {
        let long = format!("{{\"ID\":\"{}\"}}\n", "x".repeat(MAX_LEN));
        let text = format!("{{\"ID\":\"a\"}}\n\n{{\"ID\":1}}\n{long}{{\"ID\":\"b\"}}");
        let mut found = Vec::new();
        read(text.as_bytes(), &mut |entry| {
            found.push((entry.place, entry.document.map(|(id, _)| id.to_string())));
            Ok(true)
        })
        .unwrap();
        let places: Vec<&str> = found.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(places, ["line 1", "line 3", "line 4", "line 5"]);
        assert_eq!(found[0].1, Ok("a".into()));
        assert!(
            found[1]
                .1
                .as_ref()
                .unwrap_err()
                .contains("\"ID\" is a number")
        );
        assert!(found[2].1.as_ref().unwrap_err().contains("are allowed"));
        assert_eq!(found[3].1, Ok("b".into()));
    }
}
