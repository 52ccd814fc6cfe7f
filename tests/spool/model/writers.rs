//! Open files in a case: what their texts are, and SPEC's table of closes.

use std::time::Duration;

use retryspoolfs::spool::Errno::{self, EBADMSG};
use retryspoolfs::{QueueState, Timestamp};

use super::super::common::*;
use super::case::Case;
use super::expected::{Content, Doc, Handle, Message, Opened, Own, Removed, Verdict};
use super::{Given, NAMES, Text};

impl Case {
    /// What a text is, and its bytes.
    pub fn text(&self, id: usize, text: Text) -> (Content, Vec<u8>) {
        let name = NAMES[id];
        let hour = Duration::from_secs(3600);
        match text {
            Text::Half => (
                Content::Incomplete,
                format!("{{\"ID\": \"{name}\", ").into(),
            ),
            Text::UnknownKey => {
                let text = format!("{{\"ID\": \"{name}\", \"Priorty\": 1}}");
                (Content::Hopeless, text.into())
            }
            Text::OtherId => (Content::Hopeless, b"{\"ID\": \"other\"}".to_vec()),
            Text::Whole(given, priority) => {
                let stored = self.model.messages.get(&id).map(|m| m.updated);
                let now = Timestamp::now();
                let current = stored.unwrap_or(now);
                let revisions = self.model.revisions.get(&id);
                let updated = match given {
                    Given::Absent => None,
                    Given::Current => Some(current),
                    Given::Earlier(back) => revisions
                        .and_then(|all| all.iter().rev().nth(back + 1))
                        .copied(),
                    Given::Ancient => Timestamp::new(1_000_000_000, 1),
                    Given::Newer => Some(current.next()),
                    Given::Future => Some(now.saturating_add(hour)),
                };
                let mut text = format!("{{\"ID\": \"{name}\"");
                if let Some(priority) = priority {
                    text += &format!(", \"Priority\": {priority}");
                }
                if let Some(updated) = updated {
                    text += &format!(", \"Updated\": \"{updated}\"");
                }
                let doc = Doc {
                    priority,
                    attempts: None,
                    created: None,
                    updated,
                };
                (Content::Legal(doc), (text + "}\n").into())
            }
        }
    }

    pub fn snapshot(&self, id: usize) -> (Content, Vec<u8>) {
        let m = self.model.messages[&id];
        let doc = Doc {
            priority: Some(m.priority),
            attempts: Some(m.attempts),
            created: Some(m.created),
            updated: Some(m.updated),
        };
        (Content::Legal(doc), self.m.text(NAMES[id]).into())
    }

    /// The document was accepted, from a process that had removed that message before: what is
    /// stored now.
    pub fn committed(
        &mut self,
        (id, state): (usize, QueueState),
        doc: &Doc,
        by: usize,
        removed: Option<Removed>,
    ) -> Timestamp {
        let before = self.model.messages.get(&id).copied();
        let now = Timestamp::now();
        let expected = Message {
            state,
            priority: doc.priority.or(before.map(|b| b.priority)).unwrap_or(5),
            attempts: doc.attempts.or(before.map(|b| b.attempts)).unwrap_or(0),
            created: doc
                .created
                .or(before.map(|b| b.created))
                .unwrap_or_else(|| self.m.stored(NAMES[id]).unwrap().created),
            updated: now,
        };
        let base = before.map(|b| b.updated);
        let made = self.changed(id, expected, base);
        assert!(removed.is_none_or(|removed| made > removed.message.updated));
        if let Some(given) = doc.updated.filter(|given| *given <= now) {
            match base {
                Some(base) if given > base => {
                    // Or it is the next after the one that the process removed, if that is later.
                    let kept = removed.map_or(given, |r| given.max(r.message.updated.next()));
                    assert_eq!(made, kept, "a newer Updated is kept");
                }
                Some(_) => {}
                // A store may go on from what it removed under this ID just before.
                None => assert!(made >= given),
            }
        }
        assert!(
            made <= now || base.is_some_and(|base| base >= now),
            "none is in the future"
        );
        let copy = doc.updated.or(base).unwrap_or(made);
        let copy = match self.model.own.get(&id) {
            Some(own) if own.process == by && Some(own.made) == base => own.copy.min(copy),
            _ => copy,
        };
        let own = Own {
            process: by,
            made,
            copy,
        };
        self.model.own.insert(id, own);
        made
    }

    pub fn end_aside(&mut self, id: usize, state: QueueState, by: usize) {
        let key = (state.number(), id);
        if self.model.asides.get(&key).is_some_and(|a| a.process == by) {
            self.model.asides.remove(&key);
        }
    }

    pub fn add(&mut self, fh: u64, writes: bool, id: usize, state: QueueState, opener: usize) {
        self.model.handles.push(Handle {
            fh,
            writes,
            id,
            state,
            opener,
            opened: Opened::Absent,
            content: Content::Empty,
            bytes: Vec::new(),
            changed: false,
            refused: None,
            incomplete: false,
            reported: false,
            uncommitted: false,
            dropped: false,
            replaces: None,
        });
    }

    /// The handle that was added last is of a stored message.
    pub fn begin_with_stored(&mut self, truncate: bool) {
        let last = self.model.handles.len() - 1;
        let id = self.model.handles[last].id;
        let (content, bytes) = self.snapshot(id);
        let updated = self.model.messages[&id].updated;
        let handle = &mut self.model.handles[last];
        handle.opened = Opened::At(updated);
        handle.content = content;
        handle.bytes = bytes;
        if truncate {
            handle.content = Content::Empty;
            handle.bytes.clear();
            handle.changed = true;
        }
    }

    /// The handle that was added last is of what another one of its process has created, and not
    /// committed.
    pub fn begin_with_draft(&mut self, draft: usize, truncate: bool) {
        let last = self.model.handles.len() - 1;
        let (id, opener) = (self.model.handles[last].id, self.model.handles[last].opener);
        let replaces = self.model.take_removed(id, opener);
        let of = &self.model.handles[draft];
        let (content, bytes) = (of.content, of.bytes.clone());
        let handle = &mut self.model.handles[last];
        (handle.content, handle.bytes) = (content, bytes);
        (handle.uncommitted, handle.replaces) = (true, replaces);
        if truncate {
            (handle.content, handle.bytes) = (Content::Empty, Vec::new());
            handle.changed = true;
        }
    }

    /// SPEC's table of closes. The errno that the closer gets.
    pub fn close(&mut self, at: usize, is_verdict: bool) -> Option<Errno> {
        let h = &mut self.model.handles[at];
        if h.dropped {
            return None;
        }
        if is_verdict && h.refused.is_some() {
            return h.refused;
        }
        let empty_new = h.opened == Opened::Absent && h.bytes.is_empty();
        if empty_new || !h.changed && h.refused.is_none() {
            return None;
        }
        let (id, state, opened, opener) = (h.id, h.state, h.opened, h.opener);
        let refusal = match h.content {
            Content::Legal(doc) => match self.model.decide(id, state, &doc, opened, opener) {
                Verdict::Refuse(errno) => Some((errno, false)),
                _ if !is_verdict => None,
                verdict => {
                    let removed = self.model.handles[at].replaces.take();
                    let made = if verdict == Verdict::Store {
                        self.committed((id, state), &doc, opener, removed)
                    } else {
                        self.model.messages[&id].updated
                    };
                    self.end_aside(id, state, opener);
                    let h = &mut self.model.handles[at];
                    (h.changed, h.refused, h.uncommitted) = (false, None, false);
                    h.opened = Opened::At(made);
                    None
                }
            },
            Content::Empty | Content::Incomplete if is_verdict => Some((EBADMSG, true)),
            Content::Empty | Content::Incomplete => None,
            Content::Hopeless => Some((EBADMSG, false)),
        };
        let (errno, incomplete) = refusal?;
        let h = &mut self.model.handles[at];
        if is_verdict {
            (h.changed, h.refused, h.incomplete) = (false, Some(errno), incomplete);
            if h.uncommitted {
                self.model.free_again(at);
                self.put_back_of(at);
            }
        }
        if !incomplete {
            self.told(at);
        }
        Some(errno)
    }

    /// What the handle's process removed before is put back; what it writes from then on changes
    /// that.
    fn put_back_of(&mut self, at: usize) {
        let h = &mut self.model.handles[at];
        let (id, removed) = (h.id, h.replaces.take());
        if let Some(revision) = self.put_back(id, removed) {
            self.model.handles[at].opened = Opened::At(revision);
        }
    }

    pub fn told(&mut self, at: usize) {
        let h = &mut self.model.handles[at];
        self.model.lines += usize::from(!h.reported);
        h.reported = true;
    }

    pub fn release(&mut self, at: usize) {
        let h = &self.model.handles[at];
        self.m.spool.release(h.fh);
        if h.writes {
            if h.changed {
                self.close(at, true);
            }
            let h = &self.model.handles[at];
            let empty_new = h.opened == Opened::Absent && h.bytes.is_empty();
            if !h.dropped && (empty_new || h.refused.is_some() && h.incomplete) {
                self.told(at);
            }
            let h = &self.model.handles[at];
            if h.uncommitted && !h.dropped {
                self.model.free_again(at);
                self.put_back_of(at);
            }
        }
        self.model.handles.remove(at);
    }

    pub fn put_bytes(&mut self, at: usize, content: Content, bytes: Vec<u8>) {
        let fh = self.model.handles[at].fh;
        self.m.spool.truncate(&me(), 0, Some(fh), 0).unwrap();
        // In pieces, the last one first.
        let middle = bytes.len() / 2;
        for offset in [middle, 0] {
            let end = if offset == 0 { middle } else { bytes.len() };
            let piece = &bytes[offset..end];
            if !piece.is_empty() {
                self.m.spool.write(fh, offset as u64, piece).unwrap();
            }
        }
        let h = &mut self.model.handles[at];
        h.content = content;
        h.bytes = bytes;
        (h.changed, h.refused, h.reported) = (true, None, false);
    }
}
