//! Random operations against a model: plain maps that say what the store must hold, and what each
//! operation must answer. What was found once has a named test of its own, here or beside this
//! file. `PROPTEST_CASES=5000` looks longer.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use retryspoolfs::spool::Errno::{EBADMSG, EEXIST, EINVAL, ENOENT, EPERM, ESTALE};
use retryspoolfs::spool::{Caller, Errno, OpenMode, RenameFlags, Result};
use retryspoolfs::{QueueState, Timestamp, document};

use super::common::*;

const NAMES: [&str; 3] = ["a", "b", "c"];
const SCRATCHES: [&str; 2] = ["s", "t~"];

/// The other process, for all cases.
static OTHER: LazyLock<Other> = LazyLock::new(Other::start);

fn caller(process: usize) -> Caller {
    if process == 0 { me() } else { OTHER.caller() }
}

/// The Updated that a document carries.
#[derive(Clone, Copy, Debug)]
enum Given {
    Absent,
    /// What is stored when the document is written.
    Current,
    /// An earlier revision, so many back.
    Earlier(usize),
    /// Long before all revisions.
    Ancient,
    /// A moment past the stored one.
    Newer,
    Future,
}

/// What somebody writes.
#[derive(Clone, Copy, Debug)]
enum Text {
    Whole(Given, Option<i64>),
    /// The first half of a document.
    Half,
    UnknownKey,
    OtherId,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Create(usize, usize, QueueState, bool, bool),
    Open(usize, usize, QueueState, bool, bool),
    Write(usize, Text),
    Truncate(usize),
    /// A close by the opener, or by the other process.
    Flush(usize, bool),
    Fsync(usize, usize),
    Release(usize),
    ReadBack(usize),
    Lookup(usize, usize, QueueState),
    List(QueueState),
    Move(usize, usize, QueueState, QueueState, bool, bool),
    MoveToOtherId(usize, QueueState),
    Unlink(usize, usize, QueueState),
    /// A scratch file is written anew, with a document of that ID.
    Scratch(usize, usize, Text),
    Place(usize, usize, usize, QueueState, bool),
    CopyAside(usize, usize, QueueState, usize, bool),
    RenameScratch(usize, usize, usize, bool),
    UnlinkScratch(usize),
    /// RetrySpool's statements: state, attempts, and how long ago its clock says it is.
    Replace(usize, QueueState, i64, i64),
    Update(usize, QueueState, QueueState, i64),
    /// Through another connection of the library.
    Change(usize),
    Remove(usize),
}

/// A message as it must be stored.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Message {
    state: QueueState,
    priority: i64,
    attempts: i64,
    created: Timestamp,
    updated: Timestamp,
}

/// A legal document: the keys that it gives.
#[derive(Clone, Copy, Debug)]
struct Doc {
    priority: Option<i64>,
    attempts: Option<i64>,
    created: Option<Timestamp>,
    updated: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
enum Content {
    Empty,
    Incomplete,
    Hopeless,
    Legal(Doc),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Opened {
    Not,
    Absent,
    At(Timestamp),
}

struct Handle {
    fh: u64,
    writes: bool,
    id: usize,
    state: QueueState,
    opener: usize,
    opened: Opened,
    content: Content,
    /// What it reads.
    bytes: Vec<u8>,
    changed: bool,
    refused: Option<Errno>,
    incomplete: bool,
    reported: bool,
    uncommitted: bool,
    dropped: bool,
}

struct Aside {
    process: usize,
    revision: Timestamp,
    /// The handle that created the name again.
    created: Option<u64>,
}

#[derive(Clone, Copy)]
struct Own {
    process: usize,
    made: Timestamp,
    copy: Timestamp,
}

#[derive(Default)]
struct Model {
    messages: BTreeMap<usize, Message>,
    /// All Updated of a message's life.
    revisions: BTreeMap<usize, Vec<Timestamp>>,
    own: BTreeMap<usize, Own>,
    asides: BTreeMap<(u8, usize), Aside>,
    scratches: BTreeMap<usize, (usize, Content)>,
    handles: Vec<Handle>,
    /// Lines in `errors`.
    lines: usize,
    /// The last rename that was refused with ESTALE, which the kernel sends twice.
    stale: Option<(usize, usize, usize, QueueState, Timestamp)>,
}

/// What a commit must do.
#[derive(Debug, PartialEq)]
enum Verdict {
    Nothing,
    Store,
    Refuse(Errno),
}

struct Case {
    m: Mounted,
    model: Model,
}

fn file(id: usize) -> String {
    format!("{}.json", NAMES[id])
}

fn flags(no_replace: bool, other: bool) -> RenameFlags {
    RenameFlags { no_replace, other }
}

impl Model {
    /// SPEC's table of the Updated rule.
    fn decide(
        &self,
        id: usize,
        state: QueueState,
        doc: &Doc,
        opened: Opened,
        by: usize,
    ) -> Verdict {
        let Some(stored) = self.messages.get(&id) else {
            return match opened {
                Opened::At(_) => Verdict::Refuse(ESTALE),
                _ => Verdict::Store,
            };
        };
        let same = |given: Option<i64>, stored| given.is_none_or(|given| given == stored);
        let same_rest = stored.state == state
            && same(doc.priority, stored.priority)
            && same(doc.attempts, stored.attempts)
            && doc.created.is_none_or(|given| given == stored.created);
        if same_rest && doc.updated.is_none_or(|given| given <= stored.updated) {
            return Verdict::Nothing;
        }
        match opened {
            Opened::Absent => return Verdict::Refuse(EEXIST),
            Opened::At(seen) if seen != stored.updated => return Verdict::Refuse(ESTALE),
            _ => {}
        }
        let is_own = |given| {
            let own = self.own.get(&id).filter(|own| own.process == by);
            own.is_some_and(|own| own.made == stored.updated && own.copy <= given)
        };
        match doc.updated {
            Some(given) if given < stored.updated && !is_own(given) => Verdict::Refuse(ESTALE),
            _ => Verdict::Store,
        }
    }

    fn hides(&self, id: usize, state: QueueState, process: usize) -> bool {
        let aside = self.asides.get(&(state.number(), id));
        aside.is_some_and(|aside| aside.process == process && aside.created.is_none())
    }

    /// The name that a handle created looks free again, unless it was created anew since.
    fn free_again(&mut self, at: usize) {
        let h = &self.handles[at];
        let (key, fh) = ((h.state.number(), h.id), h.fh);
        if let Some(aside) = self.asides.get_mut(&key)
            && aside.created == Some(fh)
        {
            aside.created = None;
        }
    }

    fn own_writer(
        &self,
        id: usize,
        state: QueueState,
        process: usize,
        wanted: impl Fn(&Handle) -> bool,
    ) -> Option<usize> {
        self.handles.iter().rposition(|h| {
            h.writes && h.id == id && h.opener == process && h.state == state && wanted(h)
        })
    }

    fn sees(&self, id: usize, state: QueueState, process: usize) -> bool {
        let stored = self.messages.get(&id).is_some_and(|m| m.state == state);
        stored && !self.hides(id, state, process)
            || self
                .own_writer(id, state, process, |h| !h.dropped)
                .is_some()
    }
}

impl Case {
    fn new() -> Case {
        Case {
            m: mounted(),
            model: Model::default(),
        }
    }

    /// The store holds what the model says, and each Updated grew where something changed.
    fn check(&mut self, op: &Op) {
        for (id, name) in NAMES.iter().enumerate() {
            let found = self.m.stored(name).map(|stored| Message {
                state: stored.state,
                priority: stored.priority,
                attempts: stored.attempts,
                created: stored.created,
                updated: stored.updated,
            });
            assert_eq!(
                found,
                self.model.messages.get(&id).copied(),
                "{name} after {op:?}"
            );
        }
        for (process, state) in [(0, Hold), (1, Hold), (0, Deferred)] {
            let sees = self.m.sees(&caller(process), state, &file(0));
            let expected = self.model.sees(0, state, process);
            assert_eq!(sees, expected, "{process} in {state} after {op:?}");
        }
    }

    /// The model's message was changed: its Updated is read from the store, and must have grown.
    fn changed(&mut self, id: usize, expected: Message, before: Option<Timestamp>) -> Timestamp {
        let stored = self.m.stored(NAMES[id]).expect("it is stored");
        assert!(
            before.is_none_or(|before| stored.updated > before),
            "Updated must grow: {before:?}, {}",
            stored.updated
        );
        let message = Message {
            updated: stored.updated,
            ..expected
        };
        self.model.messages.insert(id, message);
        let revisions = self.model.revisions.entry(id).or_default();
        if before.is_none() {
            revisions.clear();
        }
        revisions.push(stored.updated);
        stored.updated
    }

    /// What a text is, and its bytes.
    fn text(&self, id: usize, text: Text) -> (Content, Vec<u8>) {
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

    fn snapshot(&self, id: usize) -> (Content, Vec<u8>) {
        let m = self.model.messages[&id];
        let doc = Doc {
            priority: Some(m.priority),
            attempts: Some(m.attempts),
            created: Some(m.created),
            updated: Some(m.updated),
        };
        (Content::Legal(doc), self.m.text(NAMES[id]).into())
    }

    /// The document was accepted: what is stored now.
    fn committed(&mut self, id: usize, state: QueueState, doc: &Doc, by: usize) -> Timestamp {
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
        if let Some(given) = doc.updated.filter(|given| *given <= now) {
            match base {
                Some(base) if given > base => assert_eq!(made, given, "a newer Updated is kept"),
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

    fn end_aside(&mut self, id: usize, state: QueueState, by: usize) {
        let key = (state.number(), id);
        if self.model.asides.get(&key).is_some_and(|a| a.process == by) {
            self.model.asides.remove(&key);
        }
    }

    #[track_caller]
    fn expect<T>(&mut self, op: &Op, result: Result<T>, expected: Option<Errno>) -> Option<T> {
        match (result, expected) {
            (Ok(value), None) => Some(value),
            (Err(refusal), Some(expected)) if refusal.errno == expected => None,
            (result, expected) => panic!(
                "{op:?}: expected {expected:?}, got {:?}",
                result.map(|_| ())
            ),
        }
    }

    /// The same, for an operation whose refusal is a line.
    #[track_caller]
    fn expect_told<T>(&mut self, op: &Op, result: Result<T>, expected: Option<Errno>) -> Option<T> {
        self.model.lines += usize::from(expected.is_some());
        self.expect(op, result, expected)
    }

    fn add(&mut self, fh: u64, writes: bool, id: usize, state: QueueState, opener: usize) {
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
        });
    }

    /// The handle that was added last is of a stored message.
    fn begin_with_stored(&mut self, truncate: bool) {
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

    /// SPEC's table of closes. The errno that the closer gets.
    fn close(&mut self, at: usize, is_verdict: bool) -> Option<Errno> {
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
                    let made = if verdict == Verdict::Store {
                        self.committed(id, state, &doc, opener)
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
            }
        }
        if !incomplete {
            self.told(at);
        }
        Some(errno)
    }

    fn told(&mut self, at: usize) {
        let h = &mut self.model.handles[at];
        self.model.lines += usize::from(!h.reported);
        h.reported = true;
    }

    fn release(&mut self, at: usize) {
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
            }
        }
        self.model.handles.remove(at);
    }

    /// The handle that a number in an operation means, if there is one.
    fn pick(&self, n: usize) -> Option<usize> {
        (!self.model.handles.is_empty()).then(|| n % self.model.handles.len())
    }

    fn pick_writer(&self, n: usize) -> Option<usize> {
        self.pick(n).filter(|at| self.model.handles[*at].writes)
    }

    fn put_bytes(&mut self, at: usize, content: Content, bytes: Vec<u8>) {
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

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Create(by, id, state, exclusive, truncate) => {
                let mode = OpenMode {
                    exclusive,
                    truncate,
                    ..WRITE
                };
                let result = self.m.create(&caller(by), state, &file(id), mode);
                let hidden = self.model.hides(id, state, by);
                let stored = self.model.messages.get(&id).copied();
                let refused = stored.is_some_and(|m| m.state != state || exclusive) && !hidden;
                let Some(fh) = self.expect_told(op, result, refused.then_some(EEXIST)) else {
                    return;
                };
                self.add(fh, true, id, state, by);
                let last = self.model.handles.len() - 1;
                if hidden {
                    let key = (state.number(), id);
                    let aside = self.model.asides.get_mut(&key).unwrap();
                    aside.created = Some(fh);
                    self.model.handles[last].opened = Opened::At(aside.revision);
                    self.model.handles[last].uncommitted = true;
                } else if stored.is_some() {
                    self.begin_with_stored(truncate);
                } else {
                    self.model.handles[last].uncommitted = true;
                }
            }
            Op::Open(by, id, state, write, truncate) => {
                let mode = OpenMode {
                    write,
                    truncate: truncate && write,
                    ..READ
                };
                let result = self.m.open(&caller(by), state, &file(id), mode);
                let stored = self.model.messages.get(&id);
                let there = stored.is_some_and(|m| !write || m.state == state);
                let refused = !self.model.sees(id, state, by) || !there;
                if let Some(fh) = self.expect(op, result, refused.then_some(ENOENT)) {
                    self.add(fh, write, id, state, by);
                    self.begin_with_stored(truncate && write);
                }
            }
            Op::Write(n, text) => {
                let Some(at) = self.pick_writer(n) else {
                    return;
                };
                let (content, bytes) = self.text(self.model.handles[at].id, text);
                self.put_bytes(at, content, bytes);
            }
            Op::Truncate(n) => {
                let Some(at) = self.pick_writer(n) else {
                    return;
                };
                self.put_bytes(at, Content::Empty, Vec::new());
            }
            Op::Flush(n, by_opener) => {
                let Some(at) = self.pick_writer(n) else {
                    return;
                };
                let h = &self.model.handles[at];
                let by = if by_opener { h.opener } else { 1 - h.opener };
                let result = self.m.spool.flush(&caller(by), h.fh);
                let expected = self.close(at, by_opener);
                self.expect(op, result, expected);
            }
            Op::Fsync(n, by) => {
                let Some(at) = self.pick_writer(n) else {
                    return;
                };
                let result = self.m.spool.fsync(&caller(by), self.model.handles[at].fh);
                let expected = self.close(at, true);
                self.expect(op, result, expected);
            }
            Op::Release(n) => {
                if let Some(at) = self.pick(n) {
                    self.release(at);
                }
            }
            Op::ReadBack(n) => {
                let Some(at) = self.pick(n) else { return };
                let h = &self.model.handles[at];
                assert_eq!(self.m.spool.read(h.fh, 0, 1 << 20).unwrap(), h.bytes);
            }
            Op::Lookup(by, id, state) => {
                let sees = self.m.sees(&caller(by), state, &file(id));
                assert_eq!(sees, self.model.sees(id, state, by), "{op:?}");
            }
            Op::List(state) => {
                let here = |(_, m): &(&usize, &Message)| m.state == state;
                let expected = self.model.messages.iter().filter(here);
                let expected: Vec<String> = expected.map(|(id, _)| file(*id)).collect();
                assert_eq!(self.m.list(state), expected);
            }
            Op::Move(by, id, from, to, no_replace, exchange) => {
                let name = file(id);
                let flags = flags(no_replace, exchange);
                let result = self
                    .m
                    .rename(&caller(by), (from, &name), (to, &name), flags);
                let before = self.model.messages.get(&id).copied();
                let before = before.filter(|m| m.state == from);
                let refused = if exchange {
                    Some(EINVAL)
                } else if no_replace && from == to {
                    Some(EEXIST)
                } else {
                    before.is_none().then_some(ENOENT)
                };
                self.expect_told(op, result, refused);
                if let Some(before) = before.filter(|_| refused.is_none() && from != to) {
                    let after = Message {
                        state: to,
                        ..before
                    };
                    self.changed(id, after, Some(before.updated));
                }
            }
            Op::MoveToOtherId(id, state) => {
                let (from, to) = (file(id), file((id + 1) % NAMES.len()));
                let result = self.m.rename(&me(), (state, &from), (state, &to), PLAIN);
                self.expect_told(op, result, Some(EPERM));
            }
            Op::Unlink(by, id, state) => {
                let result = self.m.unlink(&caller(by), state, &file(id));
                let draft = self
                    .model
                    .own_writer(id, state, by, |h| h.uncommitted && !h.dropped);
                if let Some(at) = draft {
                    self.model.handles[at].dropped = true;
                    self.model.free_again(at);
                    self.expect(op, result, None);
                    return;
                }
                let stored = self.model.messages.get(&id);
                let there = stored.is_some_and(|m| m.state == state);
                let refused = !there || self.model.hides(id, state, by);
                self.expect_told(op, result, refused.then_some(ENOENT));
                if !refused {
                    self.model.messages.remove(&id);
                }
            }
            Op::Scratch(scratch, id, text) => {
                let (content, bytes) = self.text(id, text);
                let fh = self.m.create(&me(), Hold, SCRATCHES[scratch], TRUNCATE);
                let fh = fh.unwrap();
                self.m.spool.write(fh, 0, &bytes).unwrap();
                self.m.close(&me(), fh).unwrap();
                self.model.scratches.insert(scratch, (id, content));
            }
            Op::Place(by, scratch, id, state, no_replace) => {
                let from = (Hold, SCRATCHES[scratch]);
                let name = file(id);
                let flags = flags(no_replace, false);
                let result = self.m.rename(&caller(by), from, (state, &name), flags);
                self.place(op, result, (by, scratch, id, state, no_replace));
            }
            Op::CopyAside(by, id, state, scratch, no_replace) => {
                let to = (Hold, SCRATCHES[scratch]);
                let name = file(id);
                let flags = flags(no_replace, false);
                let result = self.m.rename(&caller(by), (state, &name), to, flags);
                let stored = self.model.messages.get(&id).filter(|m| m.state == state);
                let refused = match stored {
                    None => Some(ENOENT),
                    Some(_) if no_replace && self.model.scratches.contains_key(&scratch) => {
                        Some(EEXIST)
                    }
                    Some(_) => None,
                };
                let revision = stored.map(|m| m.updated);
                if self.expect_told(op, result, refused).is_some() {
                    let (content, _) = self.snapshot(id);
                    self.model.scratches.insert(scratch, (id, content));
                    let aside = Aside {
                        process: by,
                        revision: revision.unwrap(),
                        created: None,
                    };
                    self.model.asides.insert((state.number(), id), aside);
                }
            }
            Op::RenameScratch(by, from, to, no_replace) => {
                let flags = flags(no_replace, false);
                let names = (SCRATCHES[from], SCRATCHES[to]);
                let result = self
                    .m
                    .rename(&caller(by), (Hold, names.0), (Hold, names.1), flags);
                let refused = match self.model.scratches.get(&from) {
                    None => Some(ENOENT),
                    Some(_) if no_replace && self.model.scratches.contains_key(&to) => Some(EEXIST),
                    Some(_) => None,
                };
                if self.expect_told(op, result, refused).is_some() {
                    let file = self.model.scratches.remove(&from).unwrap();
                    self.model.scratches.insert(to, file);
                }
            }
            Op::UnlinkScratch(scratch) => {
                let result = self.m.unlink(&me(), Hold, SCRATCHES[scratch]);
                let gone = self.model.scratches.remove(&scratch).is_none();
                self.expect_told(op, result, gone.then_some(ENOENT));
            }
            Op::Replace(id, state, attempts, ago) => {
                let now = Timestamp::now().seconds() - ago;
                let sql = "INSERT OR REPLACE INTO messages (id, state, attempts, max_attempts, \
                     next_retry, created, updated, last_error, size, priority, headers, \
                     retry_policy_name) \
                     VALUES (?1, ?2, ?3, 10, -62135596800, 1750000000, ?4, '', 0, 5, '{}', '')";
                let row = (NAMES[id], state.number(), attempts, now);
                self.m.sql().execute(sql, row).unwrap();
                let before = self.model.messages.get(&id).map(|m| m.updated);
                let message = Message {
                    state,
                    priority: 5,
                    attempts,
                    created: Timestamp::new(1_750_000_000, 0).unwrap(),
                    updated: Timestamp::ZERO,
                };
                self.changed(id, message, before);
            }
            Op::Update(id, from, to, ago) => {
                let sql =
                    "UPDATE messages SET state=?, updated=?, headers=? WHERE id=? AND state=?";
                let now = Timestamp::now().seconds() - ago;
                let row = (to.number(), now, "{}", NAMES[id], from.number());
                let rows = self.m.sql().execute(sql, row).unwrap();
                let before = self.model.messages.get(&id).copied();
                let before = before.filter(|m| m.state == from);
                assert_eq!(rows, usize::from(before.is_some()));
                if let Some(before) = before {
                    let after = Message {
                        state: to,
                        ..before
                    };
                    self.changed(id, after, Some(before.updated));
                }
            }
            Op::Change(id) => {
                if let Some(before) = self.model.messages.get(&id).copied() {
                    self.m.change(NAMES[id]);
                    let attempts = before.attempts + 1;
                    let after = Message { attempts, ..before };
                    self.changed(id, after, Some(before.updated));
                }
            }
            Op::Remove(id) => {
                let removed = self
                    .m
                    .store
                    .delete_meta(&ctx(), &super::common::id(NAMES[id]));
                let there = self.model.messages.remove(&id).is_some();
                assert_eq!(removed.is_ok(), there);
            }
        }
    }

    fn place(
        &mut self,
        op: &Op,
        result: Result<()>,
        (by, scratch, id, state, no_replace): (usize, usize, usize, QueueState, bool),
    ) {
        let hidden = self.model.hides(id, state, by);
        let stored = self.model.messages.get(&id).copied();
        let Some((of, content)) = self.model.scratches.get(&scratch).copied() else {
            self.expect_told(op, result, Some(ENOENT));
            return;
        };
        if no_replace && stored.is_some_and(|m| !(hidden && m.state == state)) {
            self.expect_told(op, result, Some(EEXIST));
            return;
        }
        let Content::Legal(doc) = content else {
            self.expect_told(op, result, Some(EBADMSG));
            return;
        };
        if of != id {
            self.expect_told(op, result, Some(EBADMSG));
            return;
        }
        let opened = match no_replace && !hidden {
            true => Opened::Absent,
            false => Opened::Not,
        };
        match self.model.decide(id, state, &doc, opened, by) {
            Verdict::Refuse(errno) => {
                self.expect(op, result, Some(errno));
                let here = stored.map_or((state, Timestamp::ZERO), |m| (m.state, m.updated));
                let stale = (by, scratch, id, here.0, here.1);
                // The directory is a part of the line, too.
                let stale = (
                    stale.0,
                    stale.1 + 10 * usize::from(state.number()),
                    stale.2,
                    stale.3,
                    stale.4,
                );
                if self.model.stale.take() != Some(stale) {
                    self.model.stale = Some(stale);
                    self.model.lines += 1;
                }
            }
            verdict => {
                self.expect(op, result, None);
                if verdict == Verdict::Store {
                    self.committed(id, state, &doc, by);
                }
                self.end_aside(id, state, by);
                self.model.scratches.remove(&scratch);
            }
        }
    }
}

fn play(ops: &[Op]) {
    let mut case = Case::new();
    for op in ops {
        case.run(op);
        case.check(op);
    }
    while !case.model.handles.is_empty() {
        case.release(0);
        case.check(&Op::Release(0));
    }
    case.m.assert_counts_agree();
    assert_eq!(case.m.spool.inode_count(), 0);
    let lines = case.m.errors();
    assert_eq!(lines.lines().count(), case.model.lines, "{lines}");
    for (id, message) in &case.model.messages {
        let text = String::from_utf8(document::render(&case.m.stored(NAMES[*id]).unwrap()));
        let shown = case.m.read(&me(), message.state, &file(*id));
        match case.model.hides(*id, message.state, 0) || message.state == Archived {
            true => {}
            false => assert_eq!(shown.unwrap(), text.unwrap()),
        }
    }
}

fn shown() -> impl Strategy<Value = QueueState> {
    prop_oneof![4 => Just(Hold), 2 => Just(Deferred), 1 => Just(Active)]
}

fn any_state() -> impl Strategy<Value = QueueState> {
    prop_oneof![4 => Just(Hold), 2 => Just(Deferred), 1 => Just(Archived)]
}

fn text() -> impl Strategy<Value = Text> {
    let given = prop_oneof![
        3 => Just(Given::Absent),
        3 => Just(Given::Current),
        2 => (0usize..3).prop_map(Given::Earlier),
        1 => Just(Given::Ancient),
        1 => Just(Given::Newer),
        1 => Just(Given::Future),
    ];
    let priority = proptest::option::weighted(0.8, 1i64..4);
    prop_oneof![
        8 => (given, priority).prop_map(|(given, priority)| Text::Whole(given, priority)),
        1 => Just(Text::Half),
        1 => Just(Text::UnknownKey),
        1 => Just(Text::OtherId),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let id = || prop_oneof![4 => Just(0usize), 1 => Just(1), 1 => Just(2)];
    let by = || 0usize..2;
    let n = || 0usize..6;
    let yes = any::<bool>;
    let rarely = || proptest::bool::weighted(0.1);
    let ago = || prop_oneof![Just(0i64), Just(3), Just(7200)];
    prop_oneof![
        4 => (by(), id(), shown(), yes(), yes()).prop_map(|(a, b, c, d, e)| Op::Create(a, b, c, d, e)),
        4 => (by(), id(), shown(), yes(), yes()).prop_map(|(a, b, c, d, e)| Op::Open(a, b, c, d, e)),
        8 => (n(), text()).prop_map(|(a, b)| Op::Write(a, b)),
        1 => n().prop_map(Op::Truncate),
        6 => (n(), proptest::bool::weighted(0.7)).prop_map(|(a, b)| Op::Flush(a, b)),
        1 => (n(), by()).prop_map(|(a, b)| Op::Fsync(a, b)),
        4 => n().prop_map(Op::Release),
        1 => n().prop_map(Op::ReadBack),
        3 => (by(), id(), shown()).prop_map(|(a, b, c)| Op::Lookup(a, b, c)),
        1 => shown().prop_map(Op::List),
        3 => (by(), id(), shown(), shown(), yes(), rarely()).prop_map(|(a, b, c, d, e, f)| Op::Move(a, b, c, d, e, f)),
        1 => (id(), shown()).prop_map(|(a, b)| Op::MoveToOtherId(a, b)),
        3 => (by(), id(), shown()).prop_map(|(a, b, c)| Op::Unlink(a, b, c)),
        4 => (0usize..2, id(), text()).prop_map(|(a, b, c)| Op::Scratch(a, b, c)),
        5 => (by(), 0usize..2, id(), shown(), yes()).prop_map(|(a, b, c, d, e)| Op::Place(a, b, c, d, e)),
        4 => (by(), id(), shown(), 0usize..2, yes()).prop_map(|(a, b, c, d, e)| Op::CopyAside(a, b, c, d, e)),
        1 => (by(), 0usize..2, 0usize..2, yes()).prop_map(|(a, b, c, d)| Op::RenameScratch(a, b, c, d)),
        1 => (0usize..2).prop_map(Op::UnlinkScratch),
        3 => (id(), any_state(), 0i64..3, ago()).prop_map(|(a, b, c, d)| Op::Replace(a, b, c, d)),
        2 => (id(), any_state(), any_state(), ago()).prop_map(|(a, b, c, d)| Op::Update(a, b, c, d)),
        2 => id().prop_map(Op::Change),
        1 => id().prop_map(Op::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_operations_do_what_the_model_says(ops in proptest::collection::vec(op(), 1..50)) {
        play(&ops);
    }
}
