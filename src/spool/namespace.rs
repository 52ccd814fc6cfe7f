//! Rename, unlink and what is never done to the tree.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Spool;
use super::caller::Caller;
use super::commit::{Commit, bad_document, in_use};
use super::error::{self, Errno, Refusal, Result, Waiting};
use super::file::invalid_name;
use super::removed::Removed;
use super::scratch::ScratchFile;
use super::tree::Target;
use crate::backend::Error;
use crate::document;
use crate::document::updated::Opened;
use crate::model::{MessageId, QueueState};

/// renameat2(2)'s flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameFlags {
    /// `RENAME_NOREPLACE`.
    pub no_replace: bool,
    /// `RENAME_EXCHANGE`, `RENAME_WHITEOUT` or one that this program does not know.
    pub other: bool,
}

/// What a rename is, by what its two names mean.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// A message changes its state.
    Move(MessageId, QueueState, QueueState),
    /// A message is copied to a scratch name, and set aside.
    Copy(MessageId, QueueState, QueueState),
    /// A scratch file gets another name.
    Scratch(QueueState, QueueState),
    /// A scratch file becomes a message's document.
    Place(QueueState, MessageId, QueueState),
}

fn plan(from: Target, to: Target, flags: RenameFlags) -> Result<Plan> {
    if flags.other {
        let reason = "names can't be exchanged here";
        return Err(Refusal::new(Errno::EINVAL, reason));
    }
    let never = |reason: &str| Err(Refusal::new(Errno::EPERM, reason));
    match (from, to) {
        (Target::Fixed, _) => never("the directories and control files stay where they are"),
        (_, Target::Fixed) => never("files live in the directories of states")
            .map_err(|refusal| refusal.hint("move it into incoming, deferred, hold or bounce")),
        (Target::Invalid, _) => Err(Refusal::not_found()),
        (_, Target::Invalid) => Err(invalid_name()),
        (Target::Message(from, id), Target::Message(to, new)) if id == new => {
            Ok(Plan::Move(id, from, to))
        }
        (Target::Message(..), Target::Message(..)) => never("a message keeps its ID"),
        (Target::Message(from, id), Target::Scratch(to)) => Ok(Plan::Copy(id, from, to)),
        (Target::Scratch(from), Target::Scratch(to)) => Ok(Plan::Scratch(from, to)),
        (Target::Scratch(from), Target::Message(to, id)) => Ok(Plan::Place(from, id, to)),
    }
}

impl Spool {
    /// Renames: moves a message, commits a scratch file, copies a message aside, or gives a
    /// scratch file another name.
    pub fn rename(
        &self,
        caller: &Caller,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
        flags: RenameFlags,
    ) -> Result<()> {
        let renamed = || {
            self.writable()?;
            let from = Target::of(self.dir(parent)?, name);
            let to = Target::of(self.dir(new_parent)?, new_name);
            match plan(from, to, flags)? {
                Plan::Move(id, from, to) => self.move_message(caller, &id, from, to, flags),
                Plan::Copy(id, from, to) => {
                    let no_replace = flags.no_replace;
                    self.copy_aside(caller, &id, from, (to, new_name), no_replace)
                }
                Plan::Scratch(from, to) => {
                    let found = |state, name| self.scratches.find(state, name, caller);
                    found(from, name).ok_or_else(Refusal::not_found)?;
                    let no_replace = flags.no_replace && found(to, new_name).is_some();
                    self.scratches
                        .rename((from, name), (to, new_name), no_replace)
                }
                Plan::Place(from, id, to) => {
                    let file = self.scratches.find(from, name, caller);
                    let file = file.ok_or_else(Refusal::not_found)?;
                    self.place(caller, &file, &id, to, flags.no_replace)?;
                    self.scratches.unlink_file(from, name, &file);
                    Ok(())
                }
            }
        };
        renamed().inspect_err(|refusal| {
            let (from, to) = (
                self.path_of(parent, name),
                self.path_of(new_parent, new_name),
            );
            let path = format!("{from} -> {to}");
            self.report.refused(Some(caller), "rename", &path, refusal);
        })
    }

    fn move_message(
        &self,
        caller: &Caller,
        id: &MessageId,
        from: QueueState,
        to: QueueState,
        flags: RenameFlags,
    ) -> Result<()> {
        if flags.no_replace && from == to {
            return Err(Refusal::new(Errno::EEXIST, "it has that name already"));
        }
        let ctx = self.hurried().by(caller.actor());
        let moved = self.store.relocate(&ctx, id, from, to);
        let revision = moved.map_err(under_lock)?;
        self.cache.own.note(id, revision);
        self.inodes.moved(id, to);
        Ok(())
    }

    fn copy_aside(
        &self,
        caller: &Caller,
        id: &MessageId,
        state: QueueState,
        (to, name): (QueueState, &OsStr),
        no_replace: bool,
    ) -> Result<()> {
        let stored = self.store.get(&self.hurried(), id).map_err(under_lock)?;
        let stored = stored
            .filter(|stored| stored.metadata.state == state)
            .ok_or_else(Refusal::not_found)?;
        if no_replace && self.scratches.find(to, name, caller).is_some() {
            return Err(Refusal::new(Errno::EEXIST, "a scratch file has that name"));
        }
        let document = document::render(&stored.metadata);
        let process = caller.process();
        self.scratches.create_copy(to, name, &document, process)?;
        let copy = name.display().to_string();
        self.asides.set(state, id, process, stored.revision, copy);
        // The kernel is about to give the message's inode the copy's name, and would remember it.
        self.drop_all_names();
        Ok(())
    }

    /// A scratch file's bytes become the message's document, in one write: that stores, updates
    /// or moves it.
    fn place(
        &self,
        caller: &Caller,
        file: &Arc<ScratchFile>,
        id: &MessageId,
        state: QueueState,
        no_replace: bool,
    ) -> Result<()> {
        let ctx = self.hurried().by(caller.actor());
        let hidden = self.asides.hides(state, id, caller);
        if no_replace {
            // A message in another directory does not have the name: a tool that is told that it
            // does, and then does not find it, fails at random (mv of coreutils 9.1). One that
            // left the directory after it was set aside has it no more, but is not taken back.
            let found = self.store.locate(&ctx, id).map_err(under_lock)?;
            if let Some(found) = found.filter(|found| hidden != (*found == state)) {
                return Err(in_use(found));
            }
        }
        let bytes = file.bytes();
        let removed = self.removals.take(id, caller);
        let placed = document::parse(&bytes, id)
            .map_err(|problem| bad_document(&problem))
            .and_then(|document| {
                let commit = Commit {
                    id,
                    state,
                    document: &document,
                    opened: match no_replace && !hidden {
                        true => Opened::NotHere,
                        false => Opened::Not,
                    },
                    replaces: removed.as_ref(),
                    process: caller.process(),
                };
                self.commit(&commit, &ctx, Waiting::UnderDirectoryLock)
            });
        match placed {
            Ok(_) => {
                self.inodes.moved(id, state);
                Ok(())
            }
            Err(refusal) => {
                if matches!(refusal.errno, Errno::EBADMSG | Errno::ESTALE) {
                    self.keep_refused(state, id, &bytes);
                }
                if let Some(removed) = removed {
                    self.put_back(removed, &ctx);
                }
                Err(refusal)
            }
        }
    }

    /// Removes a message or a scratch file.
    pub fn unlink(&self, caller: &Caller, parent: u64, name: &OsStr) -> Result<()> {
        let removed = || {
            self.writable()?;
            match Target::of(self.dir(parent)?, name) {
                Target::Message(state, id) => self.remove_message(caller, state, &id),
                Target::Scratch(state) => {
                    let file = self.scratches.unlink(state, name)?;
                    self.discard_if_unused(&file);
                    Ok(())
                }
                Target::Invalid => Err(Refusal::not_found()),
                Target::Fixed => Err(Refusal::new(Errno::EPERM, "control files stay")),
            }
        };
        removed().inspect_err(|refusal| {
            if refusal.errno != Errno::ENOENT || !self.ends_a_move(caller, parent, name) {
                let path = self.path_of(parent, name);
                self.report.refused(Some(caller), "unlink", &path, refusal);
            }
        })
    }

    /// Whether the caller itself has just written the message that it removes elsewhere, and
    /// nobody has since: RetrySpool moves a message by that, so it is nothing to tell of.
    fn ends_a_move(&self, caller: &Caller, parent: u64, name: &OsStr) -> bool {
        let Ok(Target::Message(state, id)) = self.dir(parent).map(|dir| Target::of(dir, name))
        else {
            return false;
        };
        let Ok(Some(stored)) = self.store.get(&self.hurried(), &id) else {
            return false;
        };
        stored.metadata.state != state && self.own.is_own(caller.process(), &id, stored.revision)
    }

    fn remove_message(&self, caller: &Caller, state: QueueState, id: &MessageId) -> Result<()> {
        let ino = self.inodes.number(id);
        let own = self.own_writer(caller, ino, |writer| {
            writer.state == state && writer.is_uncommitted()
        });
        if let Some(writer) = own {
            // What the caller created and has not committed: its draft goes, never a message.
            writer.dropped.store(true, Ordering::Relaxed);
            self.asides.refused(&writer);
            if let Some(removed) = writer.replaces.lock().take() {
                self.removals.note(caller.process(), removed);
            }
            return Ok(());
        }
        if self.asides.hides(state, id, caller) {
            return Err(Refusal::not_found());
        }
        if self.options.no_delete {
            return Err(
                Refusal::new(Errno::EPERM, "the mount was made with nodelete")
                    .hint("move the message to hold or bounce instead"),
            );
        }
        let ctx = self.hurried().by(caller.actor());
        loop {
            // What goes is read first: whoever removes it may be about to write it anew. It goes
            // only if it is unchanged, so nothing happens to it between the two.
            let removed = match self.store.get(&ctx, id) {
                Err(Error::Corrupt(_)) => None,
                found => {
                    let stored = found.map_err(under_lock)?;
                    let stored = stored.ok_or_else(Refusal::not_found)?;
                    let feed = self.store.change_feed();
                    let since = feed.map(|feed| feed.newest(&ctx)).transpose();
                    let since = since.map_err(under_lock)?;
                    Some((stored, since))
                }
            };
            let seen = removed.as_ref().map(|(stored, _)| stored.revision);
            match self.store.remove(&ctx, id, state, seen) {
                Err(Error::StaleRevision { .. }) if !ctx.expired() => {}
                Err(error) => return Err(under_lock(error)),
                Ok(revision) => {
                    self.cache.own.note(id, revision);
                    if let Some((stored, since)) = removed {
                        let message = stored.metadata;
                        let removed = Removed { message, since };
                        self.removals.note(caller.process(), removed);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// What can't be made here: directories, links, devices.
    pub fn refuse_node(&self, caller: &Caller, what: &str, parent: u64, name: &OsStr) -> Refusal {
        let reason = match what {
            "rmdir" => "the directories stay where they are",
            _ => "only files can be made here, in the directories of states",
        };
        let refusal = Refusal::new(Errno::EPERM, reason);
        let path = self.path_of(parent, name);
        self.report.refused(Some(caller), what, &path, &refusal);
        refusal
    }

    /// [`refuse_node`](Self::refuse_node) for mkdir(2): a state's directory is there already, also
    /// one that is not shown.
    pub fn refuse_mkdir(&self, caller: &Caller, parent: u64, name: &OsStr) -> Refusal {
        let is_state = name
            .to_str()
            .is_some_and(|n| n.parse::<QueueState>().is_ok());
        if is_state
            && self
                .dir(parent)
                .is_ok_and(|dir| dir == super::tree::Dir::Root)
        {
            return Refusal::new(Errno::EEXIST, "the directories of states are there");
        }
        self.refuse_node(caller, "mkdir", parent, name)
    }
}

fn under_lock(error: Error) -> Refusal {
    error::refusal(error, Waiting::UnderDirectoryLock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use QueueState::{Deferred, Hold};

    fn message(state: QueueState, id: &str) -> Target {
        Target::Message(state, id.parse().unwrap())
    }

    #[test]
    fn the_table_of_renames() {
        let go = |from, to| plan(from, to, RenameFlags::default());
        let errno = |from, to| go(from, to).unwrap_err().errno;
        let x = || "x".parse().unwrap();
        assert_eq!(
            go(message(Deferred, "x"), message(Hold, "x")),
            Ok(Plan::Move(x(), Deferred, Hold))
        );
        assert_eq!(
            go(message(Hold, "x"), Target::Scratch(Hold)),
            Ok(Plan::Copy(x(), Hold, Hold))
        );
        assert_eq!(
            go(Target::Scratch(Deferred), message(Hold, "x")),
            Ok(Plan::Place(Deferred, x(), Hold))
        );
        assert_eq!(
            go(Target::Scratch(Deferred), Target::Scratch(Hold)),
            Ok(Plan::Scratch(Deferred, Hold))
        );
        assert_eq!(errno(message(Hold, "x"), message(Hold, "y")), Errno::EPERM);
        assert_eq!(errno(message(Hold, "x"), Target::Fixed), Errno::EPERM);
        assert_eq!(errno(Target::Fixed, Target::Fixed), Errno::EPERM);
        assert_eq!(errno(Target::Scratch(Hold), Target::Fixed), Errno::EPERM);
        assert_eq!(errno(Target::Scratch(Hold), Target::Invalid), Errno::EINVAL);
        assert_eq!(errno(message(Hold, "x"), Target::Invalid), Errno::EINVAL);
        let exchange = RenameFlags {
            other: true,
            no_replace: false,
        };
        let refused = plan(message(Deferred, "x"), message(Hold, "x"), exchange);
        assert_eq!(refused.unwrap_err().errno, Errno::EINVAL);
    }
}
