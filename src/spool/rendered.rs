//! Documents that were rendered a moment ago: whoever looks a message up mostly opens it next.
//!
//! Owns: a few documents, each until its message changes. None is believed until the store has
//! said that it has no change that was not followed ([`Spool::is_settled`](super::Spool)).

use std::sync::Arc;

use parking_lot::Mutex;

/// How many documents are kept: more than are opened between two looks of one reader.
const SLOTS: u64 = 256;

/// The documents, by inode.
pub struct Rendered(Mutex<Vec<Option<Document>>>);

#[derive(Clone)]
struct Document {
    ino: u64,
    /// Of its revision.
    mark: u64,
    bytes: Arc<[u8]>,
}

impl Default for Rendered {
    fn default() -> Rendered {
        Rendered(Mutex::new((0..SLOTS).map(|_| None).collect()))
    }
}

fn slot(ino: u64) -> usize {
    (ino % SLOTS) as usize
}

impl Rendered {
    /// Keeps the document of a revision, unless a change was told since it was read.
    pub fn keep(&self, ino: u64, mark: u64, bytes: Arc<[u8]>, is_current: impl Fn() -> bool) {
        let mut documents = self.0.lock();
        // Under the lock: a change that is told later finds it.
        let document = is_current().then_some(Document { ino, mark, bytes });
        documents[slot(ino)] = document;
    }

    /// The mark and the document.
    pub fn get(&self, ino: u64) -> Option<(u64, Arc<[u8]>)> {
        let documents = self.0.lock();
        let found = documents[slot(ino)].as_ref();
        let found = found.filter(|document| document.ino == ino)?;
        Some((found.mark, found.bytes.clone()))
    }

    /// Everything may have changed.
    pub fn clear(&self) {
        self.0.lock().fill_with(|| None);
    }

    /// The message changed.
    pub fn forget(&self, ino: u64) {
        let mut documents = self.0.lock();
        let kept = &mut documents[slot(ino)];
        if kept.as_ref().is_some_and(|document| document.ino == ino) {
            *kept = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_kept_until_its_message_changes() {
        let rendered = Rendered::default();
        let bytes: Arc<[u8]> = b"{}".as_slice().into();
        rendered.keep(7, 1, bytes.clone(), || false);
        assert!(rendered.get(7).is_none());
        rendered.keep(7, 1, bytes.clone(), || true);
        rendered.forget(7 + SLOTS);
        assert_eq!(rendered.get(7), Some((1, bytes.clone())));
        assert!(rendered.get(7 + SLOTS).is_none());
        rendered.forget(7);
        assert!(rendered.get(7).is_none());
    }
}
