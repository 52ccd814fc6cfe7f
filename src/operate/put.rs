//! Documents from outside: one after the other in a stream, each stored as if its file were moved
//! into the mount.

use std::collections::HashSet;
use std::io::{self, BufRead};

use super::Skip;
use crate::backend::{Backend, Context, Error, Proposal};
use crate::document::updated::{self, Opened, Verdict};
use crate::document::{self, Document};
use crate::model::{MessageId, QueueState, Timestamp};

/// The documents of a stream: one a line, or laid out over several lines, each beginning on a new
/// one. What is no document is told with its line, and the next line begins another.
pub struct Documents<R> {
    reader: R,
    /// Lines read so far.
    line: usize,
    /// The document under way, as far as it is read; and how much of it is whole lines.
    text: Vec<u8>,
    whole: usize,
    /// The line that it begins in.
    first: usize,
}

/// Why a stream has no document there.
#[derive(Debug, thiserror::Error)]
pub enum NoDocument {
    /// The text is none; the next one may be.
    #[error("{0}")]
    Refused(String),
    /// Nothing comes just now: the reader said [`io::ErrorKind::WouldBlock`]. More may come.
    #[error("more may come")]
    Pause,
    /// The stream can't be read on.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl<R: BufRead> Documents<R> {
    /// The documents of this stream.
    pub fn of(reader: R) -> Documents<R> {
        Documents {
            reader,
            line: 0,
            text: Vec::new(),
            whole: 0,
            first: 0,
        }
    }

    /// Forgets the document under way, and gives its first line.
    fn forget(&mut self) -> usize {
        self.whole = 0;
        self.text.clear();
        std::mem::take(&mut self.first)
    }
}

impl<R: BufRead> Iterator for Documents<R> {
    type Item = Result<(MessageId, Document), NoDocument>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // No longer than a document may be, and what shows that it is.
            let room = (document::MAX_LEN + 2).saturating_sub(self.text.len()) as u64;
            match io::Read::take(&mut self.reader, room).read_until(b'\n', &mut self.text) {
                Ok(_) => {}
                // What was read of the line stays.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Some(Err(NoDocument::Pause));
                }
                Err(error) => return Some(Err(error.into())),
            }
            let before = std::mem::replace(&mut self.whole, self.text.len());
            let at_end = self.text.len() == before;
            self.line += usize::from(!at_end);
            if self.text.trim_ascii().is_empty() {
                if at_end {
                    return None;
                }
                self.forget();
                continue;
            }
            if self.first == 0 {
                self.first = self.line;
            }
            // No document ends before a brace does.
            let may_be_whole =
                self.text.trim_ascii_end().ends_with(b"}") || self.text.len() > document::MAX_LEN;
            if !may_be_whole && !at_end {
                continue;
            }
            match document::parse_any(&self.text) {
                Ok(read) => {
                    self.forget();
                    return Some(Ok(read));
                }
                Err(problem) if problem.incomplete && !at_end => {}
                Err(mut problem) => {
                    let first = self.forget();
                    let at = match problem.line {
                        0 => first,
                        line => first + line - 1,
                    };
                    problem.line = 0;
                    return Some(Err(NoDocument::Refused(format!("line {at}: {problem}"))));
                }
            }
        }
    }
}

/// What came of a document that was offered.
#[derive(Debug)]
pub enum Offer {
    /// It is stored.
    Stored,
    /// The message was like that already.
    Unchanged,
    /// It is not stored, and why.
    Skipped(Skip),
}

/// Stores documents, each in the state that it names, or all in `state`; in a new message that
/// names none it is `incoming`, else it stays. An Updated in a document is the copy's that somebody
/// read: a message that was changed since is left alone. `write` is false to only look.
///
/// The answers are in the documents' order; none after a failure of the store.
pub fn offer(
    store: &dyn Backend,
    ctx: &Context,
    state: Option<QueueState>,
    documents: &[(MessageId, Document)],
    write: bool,
) -> Result<Vec<Offer>, Error> {
    let mut offers = Vec::with_capacity(documents.len());
    // Which documents the proposals are of.
    let (mut proposals, mut places) = (Vec::new(), Vec::new());
    let mut pending = HashSet::new();
    for (id, document) in documents {
        if pending.contains(id) {
            // A second document of the same message goes by what the first one made.
            flush(store, ctx, &mut proposals, &mut places, &mut offers)?;
            pending.clear();
        }
        let offer = match propose(store, ctx, state, id, document)? {
            Ok(Some(proposal)) if write => {
                proposals.push(proposal);
                places.push(offers.len());
                pending.insert(id);
                Offer::Stored
            }
            Ok(Some(_)) => Offer::Stored,
            Ok(None) => Offer::Unchanged,
            Err(skip) => Offer::Skipped(skip),
        };
        offers.push(offer);
    }
    flush(store, ctx, &mut proposals, &mut places, &mut offers)?;
    Ok(offers)
}

fn flush(
    store: &dyn Backend,
    ctx: &Context,
    proposals: &mut Vec<Proposal>,
    places: &mut Vec<usize>,
    offers: &mut [Offer],
) -> Result<(), Error> {
    let answers = store.apply(ctx, proposals);
    for (at, answer) in places.drain(..).zip(answers) {
        match answer {
            Ok(_) => {}
            Err(error) if error.is_of_the_store() => return Err(error),
            Err(error) => offers[at] = Offer::Skipped(error.into()),
        }
    }
    proposals.clear();
    Ok(())
}

/// The change that stores the document, if one is needed.
fn propose(
    store: &dyn Backend,
    ctx: &Context,
    state: Option<QueueState>,
    id: &MessageId,
    document: &Document,
) -> Result<Result<Option<Proposal>, Skip>, Error> {
    let stored = match store.get(ctx, id) {
        Ok(stored) => stored,
        Err(error) if error.is_of_the_store() => return Err(error),
        Err(error) => return Ok(Err(error.into())),
    };
    let there = stored.as_ref().map(|stored| stored.metadata.state);
    let state = state.or(document.state).or(there);
    let write = updated::Write {
        id,
        state: state.unwrap_or(QueueState::Incoming),
        document,
        opened: Opened::Not,
        own: None,
        replaces: None,
        now: Timestamp::now(),
    };
    let verdict = updated::decide(stored.as_ref(), &write, || match document.updated {
        Some(updated) => store.was_revision(ctx, id, updated),
        None => Ok(false),
    })?;
    Ok(match (verdict, stored) {
        (Verdict::Nothing, _) => Ok(None),
        (Verdict::Insert(metadata), _) => Ok(Some(Proposal::Insert(metadata))),
        (Verdict::Replace(metadata), Some(stored)) => Ok(Some(Proposal::Replace {
            from: stored.metadata.state,
            seen: stored.revision,
            metadata,
        })),
        (Verdict::Exists, Some(stored)) => Err(Error::AlreadyExists {
            state: stored.metadata.state,
        }
        .into()),
        (Verdict::Stale, Some(stored)) => Err(Error::StaleRevision {
            current: stored.metadata.updated,
        }
        .into()),
        // The rule gives neither of them for a message that is not there.
        (Verdict::Replace(_) | Verdict::Exists | Verdict::Stale, None) => {
            Err(Error::NotFound.into())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        let documents = Documents::of(text.as_bytes());
        let shown = documents.map(|read| match read {
            Ok((id, _)) => id.to_string(),
            Err(error) => error.to_string(),
        });
        shown.collect()
    }

    #[test]
    fn documents_are_one_a_line_or_laid_out() {
        assert!(read("").is_empty() && read("\n  \n").is_empty());
        assert_eq!(read("{\"ID\":\"a\"}\n{\"ID\":\"b\"}"), ["a", "b"]);
        let laid_out = "{\n  \"ID\": \"a\",\n  \"Headers\": {\n    \"x\": \"}\"\n  }\n}\n\n";
        assert_eq!(
            read(&format!("{laid_out}{laid_out}{{\"ID\":\"b\"}}\n")),
            ["a", "a", "b"]
        );
    }

    /// Pieces, with a pause after each.
    struct Slow(Vec<&'static str>);

    impl io::Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(piece) = self.0.pop() else {
                return Ok(0);
            };
            if piece.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            buffer[..piece.len()].copy_from_slice(piece.as_bytes());
            Ok(piece.len())
        }
    }

    #[test]
    fn a_pause_loses_nothing() {
        let pieces = [
            "{\"ID\":\"a\"}\n{\"I",
            "",
            "D\":",
            "",
            "\"b\"}",
            "",
            "\n{\n",
            "",
            "\"ID\":\"c\"",
            "",
            "}\n\n{\"ID\":1",
            "",
        ];
        let slow = Slow(pieces.into_iter().rev().collect());
        let found = Documents::of(io::BufReader::new(slow)).map(|read| match read {
            Ok((id, _)) => id.to_string(),
            Err(NoDocument::Pause) => "-".to_owned(),
            Err(error) => error.to_string(),
        });
        let found: Vec<String> = found.collect();
        let (last, before) = found.split_last().unwrap();
        assert_eq!(before, ["a", "-", "-", "-", "b", "-", "-", "c", "-"]);
        assert!(last.starts_with("line 6: "), "{last}");
    }

    #[test]
    fn what_is_no_document_is_told_with_its_line() {
        let found = read(
            "{\"ID\":\"a\"}\nnonsense}\n{\"ID\":\"b\"}\n{\n\"ID\":\"c\",\n\"Size\":-1}\n{\"ID\":\"d\"",
        );
        assert_eq!((found.len(), &*found[0], &*found[2]), (5, "a", "b"));
        assert!(found[1].starts_with("line 2: "), "{}", found[1]);
        assert!(
            found[3].starts_with("line 6: ") && found[3].contains("Size"),
            "{}",
            found[3]
        );
        assert!(
            found[4].starts_with("line 7: the document is incomplete"),
            "{}",
            found[4]
        );
    }
}
