//! One case: each operation is done, and the model says what must come of it.

use std::sync::Arc;

use retryspoolfs::spool::Errno::{self, EBADMSG, EEXIST, EINVAL, ENOENT, EPERM};
use retryspoolfs::spool::{OpenMode, RenameFlags, Result};
use retryspoolfs::{QueueState, Timestamp};

use super::super::DIRECTORY;
use super::super::common::*;
use super::expected::{Aside, Content, Message, Model, Opened, Removed, Verdict};
use super::{NAMES, Op, SCRATCHES, caller, file};

pub struct Case {
    pub m: Mounted,
    pub model: Model,
}

fn flags(no_replace: bool, other: bool) -> RenameFlags {
    RenameFlags { no_replace, other }
}

impl Case {
    /// A case begins with an empty store: a new one takes longer than all else.
    pub fn new(file: &Arc<StoreFile>) -> Case {
        let m = mounted_over(file.clone(), |_| {});
        m.clear();
        let model = Model::default();
        Case { m, model }
    }

    /// The store holds what the model says, and each Updated grew where something changed.
    pub fn check(&mut self, op: &Op) {
        if DIRECTORY {
            // A listing takes in what the kernel has told so far. A message that is stored and removed
            // before anybody looks leaves no trace, and then is not known to have been there.
            self.m.list(Hold);
        }
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
    pub fn changed(
        &mut self,
        id: usize,
        expected: Message,
        before: Option<Timestamp>,
    ) -> Timestamp {
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
        *self.model.stored.entry(id).or_default() += 1;
        self.leave_behind(id, stored.updated);
        stored.updated
    }

    /// A directory tells revisions apart by their files, also where their Updated is the same: who
    /// opened an earlier one of that Updated has not opened this one.
    fn leave_behind(&mut self, id: usize, updated: Timestamp) {
        if DIRECTORY {
            let never = Timestamp::ZERO;
            let handles = self.model.handles.iter_mut().filter(|h| h.id == id);
            for h in handles.filter(|h| h.opened == Opened::At(updated)) {
                h.opened = Opened::At(never);
            }
            let asides = self.model.asides.iter_mut().filter(|(key, _)| key.1 == id);
            for (_, aside) in asides.filter(|(_, aside)| aside.revision == updated) {
                aside.revision = never;
            }
        }
    }

    /// What replaced a removed message was refused: it is stored again, unless somebody else has
    /// stored one since. Its revision, if it is back.
    pub fn put_back(&mut self, id: usize, removed: Option<Removed>) -> Option<Timestamp> {
        let removed = removed?;
        if self.model.stored[&id] > removed.stored {
            return None;
        }
        self.model.lines += 1;
        let updated = self.changed(id, removed.message, None);
        assert!(updated > removed.message.updated);
        Some(updated)
    }

    /// RetrySpool changed it. In a directory its Updated stands as it wrote it, later or not.
    fn changed_by_retryspool(&mut self, id: usize, expected: Message, before: Option<Timestamp>) {
        if !DIRECTORY {
            self.changed(id, expected, before);
            return;
        }
        let stored = self.m.stored(NAMES[id]).expect("it is stored");
        assert_eq!(stored.updated, expected.updated);
        self.model.messages.insert(id, expected);
        let revisions = self.model.revisions.entry(id).or_default();
        if before.is_none() {
            revisions.clear();
        }
        revisions.push(expected.updated);
        *self.model.stored.entry(id).or_default() += 1;
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

    /// The handle that a number in an operation means, if there is one.
    fn pick(&self, n: usize) -> Option<usize> {
        (!self.model.handles.is_empty()).then(|| n % self.model.handles.len())
    }

    fn pick_writer(&self, n: usize) -> Option<usize> {
        self.pick(n).filter(|at| self.model.handles[*at].writes)
    }

    pub fn run(&mut self, op: &Op) {
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
                if hidden || stored.is_none() {
                    self.model.handles[last].replaces = self.model.take_removed(id, by);
                }
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
                let draft = self
                    .model
                    .own_writer(id, state, by, |h| h.uncommitted && !h.dropped)
                    .filter(|_| stored.is_none() && write);
                let there = stored.is_some_and(|m| !write || m.state == state);
                let refused = !self.model.sees(id, state, by) || !there && draft.is_none();
                let Some(fh) = self.expect(op, result, refused.then_some(ENOENT)) else {
                    return;
                };
                self.add(fh, write, id, state, by);
                match draft {
                    Some(at) => self.begin_with_draft(at, truncate),
                    None => self.begin_with_stored(truncate && write),
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
                    let handle = &mut self.model.handles[at];
                    handle.dropped = true;
                    if let Some(removed) = handle.replaces.take() {
                        self.model.removed.insert(id, (by, removed));
                    }
                    self.model.free_again(at);
                    self.expect(op, result, None);
                    return;
                }
                let stored = self.model.messages.get(&id);
                let there = stored.is_some_and(|m| m.state == state);
                let refused = !there || self.model.hides(id, state, by);
                // RetrySpool moves a message by writing it there and then removing it here.
                let ends_a_move = stored.is_some_and(|stored| {
                    let own = self.model.own.get(&id).filter(|own| own.process == by);
                    stored.state != state && own.is_some_and(|own| own.made == stored.updated)
                });
                match ends_a_move {
                    true => self.expect(op, result, Some(ENOENT)),
                    false => self.expect_told(op, result, refused.then_some(ENOENT)),
                };
                if !refused && let Some(message) = self.model.messages.remove(&id) {
                    let stored = self.model.stored[&id];
                    self.model
                        .removed
                        .insert(id, (by, Removed { message, stored }));
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
                let updated = self.m.retryspool_stores(NAMES[id], state, attempts, ago);
                let before = self.model.messages.get(&id).map(|m| m.updated);
                let message = Message {
                    state,
                    priority: 5,
                    attempts,
                    created: Timestamp::new(1_750_000_000, 0).unwrap(),
                    updated,
                };
                self.changed_by_retryspool(id, message, before);
            }
            Op::Update(id, from, to, ago) => {
                let updated = self.m.retryspool_moves(NAMES[id], from, to, ago);
                let before = self.model.messages.get(&id).copied();
                let before = before.filter(|m| m.state == from);
                assert_eq!(updated.is_some(), before.is_some());
                if let (Some(before), Some(updated)) = (before, updated) {
                    let after = Message {
                        state: to,
                        updated,
                        ..before
                    };
                    self.changed_by_retryspool(id, after, Some(before.updated));
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
                    .delete_meta(&ctx(), &super::super::common::id(NAMES[id]));
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
        if no_replace && stored.is_some_and(|m| hidden != (m.state == state)) {
            self.expect_told(op, result, Some(EEXIST));
            return;
        }
        let removed = self.model.take_removed(id, by);
        let legal = match content {
            Content::Legal(doc) if of == id => Some(doc),
            _ => None,
        };
        let Some(doc) = legal else {
            self.expect_told(op, result, Some(EBADMSG));
            self.put_back(id, removed);
            return;
        };
        let opened = match no_replace && !hidden {
            true => Opened::NotHere,
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
                self.put_back(id, removed);
            }
            verdict => {
                self.expect(op, result, None);
                if verdict == Verdict::Store {
                    self.committed((id, state), &doc, by, removed);
                }
                self.end_aside(id, state, by);
                self.model.scratches.remove(&scratch);
            }
        }
    }
}
