//! How a message is removed.
//!
//! Owns: the order of the steps: older copies of it in other states go first, on the disk too, as
//! one that outlived the message would be the message.
//! May fail: until its name is gone. After that nothing but the disk does, and says so.
//! Must not know: the index's inside.

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::Directory;
use super::change::{Step, again, expect};
use super::file::{self, Found, same_bytes, sync_names};
use super::find::Everywhere;
use super::place::{StateDir, failed};
use crate::backend::{Context, Error, Result};
use crate::model::{MessageId, PlainName, QueueState, Revision};

impl Directory {
    /// See [`Backend::remove`](crate::Backend::remove).
    pub fn remove(
        &self,
        ctx: &Context,
        id: &MessageId,
        from: QueueState,
        seen_by_caller: Option<Revision>,
    ) -> Result<Revision> {
        let step = self.step_of(ctx, id)?;
        let held = self.locks.lock(id, ctx.deadline())?;
        loop {
            let seen = self.look(&step)?;
            let found = expect(&seen, from, seen_by_caller)?;
            if self.take_away(&step, &seen, found, seen_by_caller.is_some())? {
                drop(held);
                sync_names(&self.place, self.place.to(from)?)?;
                return Ok(found.stored.revision);
            }
            again(ctx)?;
        }
    }

    /// See [`Backend::delete_meta`](crate::Backend::delete_meta).
    pub fn delete(&self, ctx: &Context, id: &MessageId) -> Result<()> {
        let step = self.step_of(ctx, id)?;
        let held = self.locks.lock(id, ctx.deadline())?;
        loop {
            let seen = self.look(&step)?;
            let found = seen.best.as_ref().ok_or(Error::NotFound)?;
            if self.take_away(&step, &seen, found, false)? {
                drop(held);
                let state = found.stored.metadata.state;
                return sync_names(&self.place, self.place.to(state)?);
            }
            again(ctx)?;
        }
    }

    /// Removes the message and its older copies. `exactly`: only what was found.
    fn take_away(
        &self,
        step: &Step,
        seen: &Everywhere,
        found: &Found,
        exactly: bool,
    ) -> Result<bool> {
        let state = found.stored.metadata.state;
        let dir = self.place.to(state)?;
        let name = step.name.as_str();
        let shown = |e: Errno| failed(&self.place.shown(state, name), &e.into());
        let unlink =
            |dir: &StateDir, name: &str| unlinkat(&dir.file, name, UnlinkatFlags::NoRemoveDir);
        for double in &seen.doubles {
            let dir = self.place.to(*double)?;
            match unlink(dir, name) {
                Ok(()) | Err(Errno::ENOENT) => sync_names(&self.place, dir)?,
                Err(e) => return Err(failed(&self.place.shown(*double, name), &e.into())),
            }
        }
        let gone = if exactly {
            // Under a name that nobody reads it can be looked at before it goes.
            let taken = PlainName::temporary(name, file::random());
            let go = |a: &str, b: &str| {
                renameat2(&dir.file, a, &dir.file, b, RenameFlags::RENAME_NOREPLACE)
            };
            match go(name, &taken) {
                Ok(()) => {}
                Err(Errno::ENOENT | Errno::EEXIST) => return Ok(false),
                Err(e) => return Err(shown(e)),
            }
            let taken_stat = file::stat(dir, &taken)?;
            if !taken_stat.is_none_or(|s| same_bytes(&s, &found.stat)) {
                if go(&taken, name) == Err(Errno::EEXIST) {
                    let _ = unlink(dir, &taken);
                }
                return Ok(false);
            }
            // A RetrySpool that starts may have removed it already.
            match unlink(dir, &taken) {
                Err(Errno::ENOENT) => Ok(()),
                gone => gone,
            }
        } else {
            unlink(dir, name)
        };
        match gone {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(false),
            Err(e) => return Err(shown(e)),
        }
        let before = Some((state, found.stored.revision));
        self.note(step.id, None, before, step.ctx.actor());
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::time::Duration;

    use super::super::DirFactory;
    use super::super::file::SYNCED;
    use super::*;
    use crate::backend::Backend;
    use crate::document;
    use crate::model::{MessageMetadata, Timestamp};

    /// Whenever the power fails, the message is as it was or gone: an older copy of it that
    /// outlived it would be the message.
    #[test]
    fn what_is_removed_does_not_come_back_by_an_older_copy() {
        for exactly in [false, true] {
            for (older, newer) in [
                (QueueState::Hold, QueueState::Deferred),
                (QueueState::Deferred, QueueState::Hold),
            ] {
                let directory = tempfile::tempdir().unwrap();
                let store = DirFactory::create_if_missing(directory.path())
                    .open()
                    .unwrap();
                let id: MessageId = "x".parse().unwrap();
                for (seconds, state) in [(1, older), (2, newer)] {
                    let message = MessageMetadata {
                        state,
                        updated: Timestamp::new(seconds, 0).unwrap(),
                        ..MessageMetadata::new(id.clone())
                    };
                    let path = directory.path().join(state.as_str()).join("x.json");
                    fs::write(path, document::render(&message)).unwrap();
                }
                let ctx = Context::within(Duration::from_secs(60));
                SYNCED.take();
                if exactly {
                    let seen = store.get(&ctx, &id).unwrap().unwrap().revision;
                    store.remove(&ctx, &id, newer, Some(seen)).unwrap();
                } else {
                    store.delete_meta(&ctx, &id).unwrap();
                }
                let mut on_disk = vec![older, newer];
                for (state, names) in SYNCED.take() {
                    on_disk.retain(|s| *s != state);
                    if names.iter().any(|name| name.as_bytes() == b"x.json") {
                        on_disk.push(state);
                    }
                    assert_ne!(on_disk, [older], "{exactly}");
                }
                assert_eq!(on_disk, [], "{exactly}");
                assert_eq!(store.get(&ctx, &id).unwrap(), None);
            }
        }
    }
}
