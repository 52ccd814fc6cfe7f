//! Drafts: what a writer's bytes become, and when.
//!
//! Owns: the bytes of one open file description until they are committed, and the table that
//! decides at each close. Pure: it neither asks the store nor the system.

use super::scratch::slice;
use crate::document::{self, Document, Problem};
use crate::model::MessageId;

/// The private bytes of one writer.
///
/// Bytes past the longest legal document are counted, not kept: such a draft can't become legal
/// unless it is truncated, and a writer can't make this process run out of memory.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    bytes: Vec<u8>,
    len: u64,
    changed: bool,
}

/// One byte more than a legal document may have is kept: enough to know that it is too long.
const KEPT: u64 = document::MAX_LEN as u64 + 1;

impl Draft {
    /// A draft that begins with the stored document.
    pub fn of(bytes: Vec<u8>) -> Draft {
        Draft {
            len: bytes.len() as u64,
            bytes,
            changed: false,
        }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// At most `size` bytes from `offset` on.
    pub fn read(&self, offset: u64, size: usize) -> &[u8] {
        slice(&self.bytes, offset, size)
    }

    /// Writes at `offset`, or at the end where none is given. `None` if the file would pass the
    /// largest file size there is.
    pub fn write(&mut self, offset: Option<u64>, data: &[u8]) -> Option<()> {
        let offset = offset.unwrap_or(self.len);
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|end| *end <= i64::MAX as u64)?;
        self.grow(end);
        let kept = self.bytes.len() as u64;
        if offset < kept {
            let fits = data.len().min((kept - offset) as usize);
            self.bytes[offset as usize..offset as usize + fits].copy_from_slice(&data[..fits]);
        }
        self.changed = true;
        Some(())
    }

    /// Cuts it, or fills it up with zeros.
    pub fn truncate(&mut self, size: u64) {
        if size < self.len {
            self.bytes.truncate(size.min(KEPT) as usize);
            self.len = size;
        }
        self.grow(size);
        self.changed = true;
    }

    fn grow(&mut self, end: u64) {
        if end > self.len {
            self.len = end;
            self.bytes.resize(end.min(KEPT) as usize, 0);
        }
    }

    /// Whether it was written or truncated since the last verdict.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// There was a verdict on these bytes.
    pub fn judged(&mut self) {
        self.changed = false;
    }

    /// What it is now.
    pub fn content(&self, id: &MessageId) -> Content {
        match document::parse(&self.bytes, id) {
            Ok(document) => Content::Legal(Box::new(document)),
            Err(problem) if problem.incomplete => Content::Incomplete(problem),
            Err(problem) => Content::Hopeless(problem),
        }
    }
}

/// What the bytes of a draft are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A legal document of the message.
    Legal(Box<Document>),
    /// None yet, but more bytes could make it one.
    Incomplete(Problem),
    /// None, whatever follows.
    Hopeless(Problem),
}

/// Who closes a descriptor of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /// The process that opened it; also fsync, by whomever.
    Opener,
    /// Another process while the opener lives: a child that inherited a copy.
    Other,
    /// Another process after the opener's end.
    Heir,
}

/// What a close does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Close {
    /// Success, and nothing happens.
    Nothing,
    /// The document is committed; a refusal of the store is a verdict too.
    Commit(Box<Document>),
    /// Nothing is committed, but the closer is told if a commit would be refused now.
    Probe(Box<Document>),
    /// Refused, and that is the verdict on these bytes.
    Refuse(Problem),
    /// Refused without a verdict: the opener has still to close.
    Warn(Problem),
}

/// The table of closes: FUSE tells of every close of every copy of a descriptor, children's included,
/// and shells close spare copies before anything is written. `content` is `None` where nothing is there to judge:
/// nothing written or truncated since the last commit, or an empty new file.
pub fn on_close(closer: Closer, content: Option<Content>) -> Close {
    use Closer::{Heir, Opener, Other};
    use Content::{Hopeless, Incomplete, Legal};
    match (closer, content) {
        (_, None) => Close::Nothing,
        (Opener | Heir, Some(Legal(document))) => Close::Commit(document),
        (Opener | Heir, Some(Incomplete(problem) | Hopeless(problem))) => Close::Refuse(problem),
        (Other, Some(Legal(document))) => Close::Probe(document),
        (Other, Some(Incomplete(_))) => Close::Nothing,
        (Other, Some(Hopeless(problem))) => Close::Warn(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_closes() {
        let problem = |incomplete| Problem {
            message: "x".into(),
            line: 1,
            column: 1,
            incomplete,
        };
        let legal = || Some(Content::Legal(Box::default()));
        let incomplete = || Some(Content::Incomplete(problem(true)));
        let hopeless = || Some(Content::Hopeless(problem(false)));
        for closer in [Closer::Opener, Closer::Other, Closer::Heir] {
            assert_eq!(on_close(closer, None), Close::Nothing);
        }
        for closer in [Closer::Opener, Closer::Heir] {
            assert_eq!(on_close(closer, legal()), Close::Commit(Box::default()));
            assert_eq!(on_close(closer, incomplete()), Close::Refuse(problem(true)));
            assert_eq!(on_close(closer, hopeless()), Close::Refuse(problem(false)));
        }
        assert_eq!(
            on_close(Closer::Other, legal()),
            Close::Probe(Box::default())
        );
        assert_eq!(on_close(Closer::Other, incomplete()), Close::Nothing);
        assert_eq!(
            on_close(Closer::Other, hopeless()),
            Close::Warn(problem(false))
        );
    }

    #[test]
    fn a_draft_is_a_file_of_bytes() {
        let mut draft = Draft::of(b"hello".to_vec());
        assert!(!draft.is_changed());
        draft.write(Some(7), b"!").unwrap();
        assert_eq!(draft.bytes(), b"hello\0\0!");
        draft.truncate(2);
        draft.write(None, b"y").unwrap();
        assert_eq!((draft.read(1, 9), draft.len()), (&b"ey"[..], 3));
        draft.truncate(5);
        assert_eq!(draft.bytes(), b"hey\0\0");
        assert_eq!(draft.write(Some(u64::MAX), b"12"), None);
    }

    #[test]
    fn a_draft_takes_no_more_memory_than_a_document_may_have() {
        let mut draft = Draft::default();
        draft.write(Some(1 << 40), b"far").unwrap();
        assert_eq!(
            (draft.len(), draft.bytes().len() as u64),
            ((1 << 40) + 3, KEPT)
        );
        draft.write(Some(0), b"near").unwrap();
        draft.truncate(4);
        assert_eq!(draft.bytes(), b"near");
        draft.write(Some(KEPT - 2), b"1234").unwrap();
        assert_eq!(draft.read(KEPT - 2, 10), b"12");
    }
}
