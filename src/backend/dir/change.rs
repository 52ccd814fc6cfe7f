//! One change of one message: what is written, and which step decides.
//!
//! Owns: the order of the steps. A message that moves is renamed, and that rename decides; one
//! that is updated is exchanged with its new file, which fails if it has gone. Both find out
//! afterwards whether RetrySpool's store, which asks nobody, wrote the file in between. New
//! content is on the disk before it gets a name, unless it is written where the old one lies
//! ([`patch`](super::patch)); that and the directories are, before a call returns. A crash in the
//! middle of a move leaves the message in one state or the other, perhaps with a document that
//! names the wrong one; it is put right ([`settle`](super::settle)) when a store of ours is next
//! open.
//! May fail: until the deciding step. After it nothing but the disk does, and says so.
//! Must not know: the index's inside.
//!
//! It is long because its steps are to be compared: which of them decides, and what a crash between
//! two leaves.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::sys::stat::FileStat;

use super::Directory;
use super::file::{self, Found, Look, Temporary, mark, same_bytes, sync_names};
use super::find::{Everywhere, everywhere};
use super::patch::Patch;
use super::place::{StateDir, failed};
use crate::backend::{Context, Error, Result};
use crate::model::{
    MessageId, MessageMetadata, PlainName, QueueState, Revision, Stored, Timestamp,
};

/// What came of an attempt whose condition may have failed.
pub enum Attempt {
    Done(Stored),
    /// Another writer was faster: look again.
    Again,
}

/// How the document of a message that has moved becomes the new one.
enum New<'a> {
    /// By a file that is on the disk, and takes its place.
    File(Temporary<'a>),
    Patch(Patch),
}

impl New<'_> {
    fn put(&mut self, name: &str) -> io::Result<()> {
        match self {
            New::File(new) => Ok(new.rename(name, RenameFlags::empty())?),
            New::Patch(patch) => patch.apply(),
        }
    }

    fn revision(&self, metadata: &MessageMetadata) -> Revision {
        match self {
            New::File(new) => new.revision(metadata),
            New::Patch(patch) => patch.revision(metadata),
        }
    }

    /// Brings what it wrote to the disk, if it is not there.
    fn sync(&self, path: &str) -> Result<()> {
        match self {
            New::File(_) => Ok(()),
            New::Patch(patch) => patch
                .sync()
                .map_err(|e| Error::Durability(format!("{path}: {e}"))),
        }
    }
}

/// A change under way.
pub struct Step<'a> {
    pub ctx: &'a Context,
    pub id: &'a MessageId,
    pub name: String,
}

impl Directory {
    pub fn step<'a>(&self, ctx: &'a Context, id: &'a MessageId) -> Result<Step<'a>> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.place.check()?;
        Ok(Step {
            ctx,
            id,
            name: PlainName::of_id(id)?,
        })
    }

    /// The same for a message that has to be there: an ID that has no name here is not.
    pub fn step_of<'a>(&self, ctx: &'a Context, id: &'a MessageId) -> Result<Step<'a>> {
        self.step(ctx, id).map_err(|e| match e {
            Error::InvalidId(_) => Error::NotFound,
            e => e,
        })
    }

    /// Looks where the message is. What somebody else did with it is told before what is done now.
    pub fn look(&self, step: &Step) -> Result<Everywhere> {
        let seen = everywhere(&self.place, step.id, &step.name)?;
        let stored = seen.best.as_ref().map(|found| &found.stored);
        self.observe(step.id, stored);
        Ok(seen)
    }

    /// See [`Backend::insert`](crate::Backend::insert).
    pub fn insert(&self, ctx: &Context, metadata: &MessageMetadata) -> Result<Revision> {
        let step = self.step(ctx, &metadata.id)?;
        let held = self.locks.lock(step.id, ctx.deadline())?;
        loop {
            if let Some(used) = in_use(&self.look(&step)?) {
                return Err(used);
            }
            if let Attempt::Done(stored) = self.place_new(&step, metadata)? {
                drop(held);
                sync_names(&self.place, self.place.to(metadata.state)?)?;
                return Ok(stored.revision);
            }
            again(ctx)?;
        }
    }

    /// See [`Backend::store_meta`](crate::Backend::store_meta).
    pub fn store(&self, ctx: &Context, metadata: &MessageMetadata) -> Result<Revision> {
        self.write(ctx, metadata, true)
    }

    /// See [`Backend::update_meta`](crate::Backend::update_meta).
    pub fn update(&self, ctx: &Context, metadata: &MessageMetadata) -> Result<Revision> {
        self.write(ctx, metadata, false)
    }

    /// Stores what the caller gives, over whatever is there.
    fn write(&self, ctx: &Context, metadata: &MessageMetadata, store: bool) -> Result<Revision> {
        let step = match store {
            true => self.step(ctx, &metadata.id)?,
            false => self.step_of(ctx, &metadata.id)?,
        };
        let held = self.locks.lock(step.id, ctx.deadline())?;
        let or_now = |time| match time {
            Timestamp::ZERO => Timestamp::now(),
            time => time,
        };
        loop {
            let seen = self.look(&step)?;
            let (attempt, from) = match &seen.best {
                None if !store => return Err(Error::NotFound),
                None => {
                    if let Some(used) = in_use(&seen) {
                        return Err(used);
                    }
                    let metadata = MessageMetadata {
                        created: or_now(metadata.created),
                        updated: or_now(metadata.updated),
                        ..metadata.clone()
                    };
                    (self.place_new(&step, &metadata)?, metadata.state)
                }
                Some(found) => {
                    let stored = &found.stored.metadata;
                    let keeps = !store || metadata.created == Timestamp::ZERO;
                    let metadata = MessageMetadata {
                        created: if keeps {
                            stored.created
                        } else {
                            metadata.created
                        },
                        updated: or_now(metadata.updated).max(stored.updated.next()),
                        ..metadata.clone()
                    };
                    (self.put(&step, &seen, found, metadata)?, stored.state)
                }
            };
            if let Attempt::Done(stored) = attempt {
                drop(held);
                return self.on_disk(stored, from);
            }
            again(ctx)?;
        }
    }

    /// See [`Backend::replace`](crate::Backend::replace).
    pub fn replace(
        &self,
        ctx: &Context,
        from: QueueState,
        seen_by_caller: Revision,
        metadata: &MessageMetadata,
    ) -> Result<Revision> {
        let step = self.step_of(ctx, &metadata.id)?;
        let held = self.locks.lock(step.id, ctx.deadline())?;
        loop {
            let seen = self.look(&step)?;
            let found = expect(&seen, from, Some(seen_by_caller))?;
            let metadata = MessageMetadata {
                updated: metadata.updated.max(found.stored.metadata.updated.next()),
                ..metadata.clone()
            };
            if let Attempt::Done(stored) = self.put(&step, &seen, found, metadata)? {
                drop(held);
                return self.on_disk(stored, from);
            }
            again(ctx)?;
        }
    }

    /// See [`Backend::relocate`](crate::Backend::relocate).
    pub fn relocate(
        &self,
        ctx: &Context,
        id: &MessageId,
        from: QueueState,
        to: QueueState,
    ) -> Result<Revision> {
        let step = self.step_of(ctx, id)?;
        let held = self.locks.lock(id, ctx.deadline())?;
        loop {
            let seen = self.look(&step)?;
            let found = expect(&seen, from, None)?;
            if from == to {
                return Ok(found.stored.revision);
            }
            let moved = moved(&found.stored.metadata, to);
            if self.is_free(&step, &seen, to)?
                && let Attempt::Done(stored) = self.shift(&step, found, moved, false)?
            {
                drop(held);
                return self.on_disk(stored, from);
            }
            again(ctx)?;
        }
    }

    /// Gives a new message its name, if that is free.
    fn place_new(&self, step: &Step, metadata: &MessageMetadata) -> Result<Attempt> {
        let dir = self.place.to(metadata.state)?;
        let new = Temporary::write(&self.place, dir, &step.name, metadata, None)?;
        self.name_new(step, new, metadata)
    }

    /// Gives a new message that is on the disk its name, if that is free.
    pub fn name_new(
        &self,
        step: &Step,
        mut new: Temporary,
        metadata: &MessageMetadata,
    ) -> Result<Attempt> {
        let dir = new.dir;
        match no_replace(|flags| new.rename(&step.name, flags), dir, &step.name) {
            Ok(()) => Ok(Attempt::Done(self.done(
                step,
                new.revision(metadata),
                metadata.clone(),
                None,
            ))),
            // A RetrySpool that starts removes files that look half-written.
            Err(Errno::EEXIST | Errno::ENOENT) => Ok(Attempt::Again),
            Err(e) => Err(failed(&self.place.shown(dir.state, &step.name), &e.into())),
        }
    }

    /// Puts new content in the message's place, or in the state that it names.
    fn put(
        &self,
        step: &Step,
        seen: &Everywhere,
        found: &Found,
        metadata: MessageMetadata,
    ) -> Result<Attempt> {
        if metadata.state == found.stored.metadata.state {
            return self.exchange(step, found, metadata);
        }
        match self.is_free(step, seen, metadata.state)? {
            true => self.shift(step, found, metadata, true),
            false => Ok(Attempt::Again),
        }
    }

    /// Whether a message can move there. An older copy that is there may be one that RetrySpool is
    /// about to remove, and would remove what takes its place: it is waited for.
    fn is_free(&self, step: &Step, seen: &Everywhere, to: QueueState) -> Result<bool> {
        if let Some((_, why)) = seen.foreign.iter().find(|(state, _)| *state == to) {
            let path = self.place.shown(to, &step.name);
            return Err(Error::Corrupt(format!(
                "{path} is in the way, and no message: {why}"
            )));
        }
        if !seen.doubles.contains(&to) {
            return Ok(true);
        }
        if self.is_settled(&step.name)? {
            self.set_aside(self.place.to(to)?, &step.name)?;
        } else {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(false)
    }

    /// Moves the message to another state, with new content. What RetrySpool wrote meanwhile is
    /// carried along, unless the content matters: then the message goes back.
    fn shift(
        &self,
        step: &Step,
        found: &Found,
        mut metadata: MessageMetadata,
        matters: bool,
    ) -> Result<Attempt> {
        let state = found.stored.metadata.state;
        let (from, to) = (self.place.to(state)?, self.place.to(metadata.state)?);
        let name = step.name.as_str();
        let patch = match matters {
            true => None,
            false => Patch::of(from, name, found, to.state),
        };
        let mut new = match patch {
            Some(patch) => {
                metadata = patch.metadata.clone();
                Some(New::Patch(patch))
            }
            None => match Temporary::write(&self.place, to, name, &metadata, Some(&found.stat)) {
                Ok(new) => Some(New::File(new)),
                // A rename needs no room. The document is written when there is some.
                Err(Error::StorageFull(_)) if !matters => None,
                Err(e) => return Err(e),
            },
        };
        let go = |a: &StateDir, b: &StateDir| {
            let rename = |flags| renameat2(&a.file, name, &b.file, name, flags);
            no_replace(rename, b, name)
        };
        match go(from, to) {
            Ok(()) => {}
            Err(Errno::ENOENT | Errno::EEXIST) => return Ok(Attempt::Again),
            Err(e) => return Err(failed(&self.place.shown(state, name), &e.into())),
        }
        let after = file::stat(to, name).ok().flatten();
        if !after.is_some_and(|after| same_bytes(&after, &found.stat)) {
            if matters {
                if let Err(e) = go(to, from) {
                    let path = self.place.shown(to.state, name);
                    tracing::warn!(target: "retryspoolfs", "{path} can't go back: {}", e.desc());
                }
                return Ok(Attempt::Again);
            }
            if let Ok(Look::Message(meanwhile)) = file::read(to, name, step.id) {
                metadata = moved(&meanwhile.stored.metadata, metadata.state);
                let like = Some(&meanwhile.stat);
                let written = Temporary::write(&self.place, to, name, &metadata, like);
                new = written.ok().map(New::File);
            }
        }
        let before = Some((state, found.stored.revision));
        // It has moved: what fails from here on is put right by whoever watches the directory.
        if let Some(new) = &mut new {
            match new.put(name) {
                Ok(()) => {
                    let revision = new.revision(&metadata);
                    let stored = self.done(step, revision, metadata, before);
                    new.sync(&self.place.shown(to.state, name))?;
                    return Ok(Attempt::Done(stored));
                }
                Err(e) => {
                    let path = self.place.shown(to.state, name);
                    tracing::warn!(target: "retryspoolfs", "{path}: it still names {state} as its state: {e}");
                }
            }
        }
        metadata = MessageMetadata {
            state: to.state,
            ..found.stored.metadata.clone()
        };
        let tag = after.map_or(1, |after| mark(&after));
        let updated = metadata.updated;
        let stored = Stored {
            metadata,
            revision: Revision { updated, tag },
        };
        self.note(step.id, Some(&stored), before, step.ctx.actor());
        self.known.lock().unmended.push(step.id.clone());
        Ok(Attempt::Done(stored))
    }

    /// Puts new content in the place of what was found, if it is still there.
    pub fn exchange(
        &self,
        step: &Step,
        found: &Found,
        metadata: MessageMetadata,
    ) -> Result<Attempt> {
        let dir = self.place.to(metadata.state)?;
        let name = step.name.as_str();
        let like = Some(&found.stat);
        let mut new = Temporary::write(&self.place, dir, name, &metadata, like)?;
        let shown = |e: Errno| failed(&self.place.shown(dir.state, name), &e.into());
        match new.rename(name, RenameFlags::RENAME_EXCHANGE) {
            Ok(()) => {
                let old = file::stat(dir, &new.name)?;
                if !old.is_some_and(|old| same_bytes(&old, &found.stat)) {
                    // RetrySpool wrote it in between: what it wrote goes back, unless it has
                    // written once more.
                    let ours = |s: FileStat| s.st_ino == new.inode();
                    if file::stat(dir, name)?.is_some_and(ours) {
                        new.rename(name, RenameFlags::RENAME_EXCHANGE)
                            .map_err(shown)?;
                    }
                    return Ok(Attempt::Again);
                }
            }
            Err(Errno::ENOENT) => return Ok(Attempt::Again),
            // A filesystem that can't exchange: a look just before has to do.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                let now = file::stat(dir, name)?;
                if !now.is_some_and(|now| same_bytes(&now, &found.stat)) {
                    return Ok(Attempt::Again);
                }
                new.rename(name, RenameFlags::empty()).map_err(shown)?;
            }
            Err(e) => return Err(shown(e)),
        }
        let before = Some((dir.state, found.stored.revision));
        let revision = new.revision(&metadata);
        Ok(Attempt::Done(self.done(step, revision, metadata, before)))
    }

    fn done(
        &self,
        step: &Step,
        revision: Revision,
        metadata: MessageMetadata,
        before: Option<(QueueState, Revision)>,
    ) -> Stored {
        let stored = Stored { metadata, revision };
        self.note(step.id, Some(&stored), before, step.ctx.actor());
        stored
    }

    /// Brings the names that a change touched to the disk.
    fn on_disk(&self, stored: Stored, from: QueueState) -> Result<Revision> {
        let to = stored.metadata.state;
        sync_names(&self.place, self.place.to(to)?)?;
        if from != to {
            sync_names(&self.place, self.place.to(from)?)?;
        }
        Ok(stored.revision)
    }
}

pub fn again(ctx: &Context) -> Result<()> {
    match ctx.expired() {
        true => Err(Error::Busy(
            "RetrySpool changed the message again and again".into(),
        )),
        false => Ok(()),
    }
}

/// The message in another state, later than it was.
pub fn moved(metadata: &MessageMetadata, to: QueueState) -> MessageMetadata {
    MessageMetadata {
        state: to,
        updated: Timestamp::now().max(metadata.updated.next()),
        ..metadata.clone()
    }
}

/// Why no new message can have this ID, if so.
pub fn in_use(seen: &Everywhere) -> Option<Error> {
    if let Some(state) = seen.state() {
        return Some(Error::AlreadyExists { state });
    }
    let (state, why) = seen.foreign.first()?;
    Some(Error::Corrupt(format!(
        "the ID is in use: a file of its name is in {state}, and is no message: {why}"
    )))
}

/// The message, if it is in that state and at that revision. A revision without a mark is one of
/// which Updated alone is known.
pub fn expect(seen: &Everywhere, state: QueueState, revision: Option<Revision>) -> Result<&Found> {
    let found = seen.best.as_ref().ok_or(Error::NotFound)?;
    let actual = found.stored.metadata.state;
    if actual != state {
        let expected = state;
        return Err(Error::StateConflict { expected, actual });
    }
    let current = found.stored.revision;
    let same = revision
        .is_none_or(|r| r.updated == current.updated && (r.tag == current.tag || r.tag == 0));
    match same {
        true => Ok(found),
        false => Err(Error::StaleRevision {
            current: current.updated,
        }),
    }
}

/// Renames without replacing, also where the filesystem can't promise it: there a look just before
/// has to do.
fn no_replace(
    mut rename: impl FnMut(RenameFlags) -> nix::Result<()>,
    to: &StateDir,
    name: &str,
) -> nix::Result<()> {
    match rename(RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => match file::stat(to, name) {
            Ok(None) => rename(RenameFlags::empty()),
            _ => Err(Errno::EEXIST),
        },
        done => done,
    }
}
