//! A message's file: how it is read, and how a new one takes its place.
//!
//! Owns: the mark by which one version of a file is told from the next; temporary files, named as
//! RetrySpool names its own, so that it removes what a crash leaves of ours as well.
//! May fail: with [`Error`]; a file that is no message's is an answer.
//! Must not know: who decided to write.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use super::place::{Place, StateDir, failed, is_regular};
use crate::backend::{Error, Result};
use crate::document;
#[cfg(test)]
use crate::model::QueueState;
use crate::model::{MessageId, MessageMetadata, PlainName, Revision, Stored};

/// The longest file that is read. RetrySpool sets no limit; this one keeps a foreign file of any
/// size out of memory.
const LONGEST: u64 = 16 << 20;

/// A message's file as it was read.
#[derive(Clone, Debug)]
pub struct Found {
    pub stored: Stored,
    pub stat: FileStat,
    /// Whether its document names the state of its directory.
    pub names_its_state: bool,
}

/// What is under a message's name in a directory.
#[derive(Clone, Debug)]
pub enum Look {
    Absent,
    Message(Box<Found>),
    /// Something else, and why it is no message.
    Foreign(String),
}

/// The store's mark in a revision: it differs between a file and the one that takes its place,
/// whatever Updated they carry.
pub fn mark(stat: &FileStat) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in [stat.st_ino, stat.st_ctime as u64, stat.st_ctime_nsec as u64] {
        hash = (hash ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
    }
    hash.max(1)
}

/// Whether both are one file with the same bytes, whatever its name is by now.
pub fn same_bytes(a: &FileStat, b: &FileStat) -> bool {
    let of = |s: &FileStat| (s.st_ino, s.st_size, s.st_mtime, s.st_mtime_nsec);
    of(a) == of(b)
}

/// What stat(2) tells of a name; `None` if there is none.
pub fn stat(dir: &StateDir, name: &str) -> Result<Option<FileStat>> {
    match fstatat(&dir.file, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(failed(name, &e.into())),
    }
}

/// Reads the file of that name.
pub fn read(dir: &StateDir, name: &str, id: &MessageId) -> Result<Look> {
    // O_NONBLOCK: a FIFO of that name keeps nobody waiting.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match openat(&dir.file, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Ok(Look::Absent),
        Err(Errno::ELOOP) => return Ok(Look::Foreign("it is a symbolic link".into())),
        Err(e @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => {
            return Err(failed(name, &e.into()));
        }
        Err(e) => return Ok(Look::Foreign(format!("it can't be opened: {}", e.desc()))),
    };
    let fstat = || fstat(&file).map_err(|e| failed(name, &e.into()));
    let mut stat = fstat()?;
    if !is_regular(&stat) {
        return Ok(Look::Foreign("it is not a regular file".into()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0).min(1 << 20) + 1);
    // Once more, if it was rewritten where it lies meanwhile.
    for _ in 0..4 {
        bytes.clear();
        let read = (&file)
            .rewind()
            .and_then(|()| (&file).take(LONGEST + 1).read_to_end(&mut bytes));
        if let Err(e) = read {
            return Ok(Look::Foreign(format!("it can't be read: {e}")));
        }
        let before = std::mem::replace(&mut stat, fstat()?);
        if mark(&before) == mark(&stat) {
            break;
        }
    }
    if bytes.len() as u64 > LONGEST {
        return Ok(Look::Foreign("it is longer than 16 MiB".into()));
    }
    let read = document::read_kept(&bytes, id, dir.state);
    // Opened just before it moved, and read just after its document was rewritten: it has gone.
    if read.as_ref().is_ok_and(|kept| !kept.names_its_state)
        && self::stat(dir, name)?.is_none_or(|now| now.st_ino != stat.st_ino)
    {
        return Ok(Look::Absent);
    }
    Ok(match read {
        Ok(kept) => Look::Message(Box::new(Found {
            stored: Stored {
                revision: Revision {
                    updated: kept.metadata.updated,
                    tag: mark(&stat),
                },
                metadata: kept.metadata,
            },
            stat,
            names_its_state: kept.names_its_state,
        })),
        Err(why) => Look::Foreign(why),
    })
}

/// A file that is written and has no message's name yet; it is removed if it gets none.
pub struct Temporary<'a> {
    pub dir: &'a StateDir,
    pub name: String,
    file: File,
    kept: bool,
}

impl<'a> Temporary<'a> {
    /// Writes the document to a temporary file beside `name` and brings it to the disk. It gets
    /// the owner and mode of `like`, or those that a new file of the directory has.
    pub fn write(
        place: &Place,
        dir: &'a StateDir,
        name: &str,
        metadata: &MessageMetadata,
        like: Option<&FileStat>,
    ) -> Result<Temporary<'a>> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let like = like.unwrap_or(&dir.stat);
        let mode = like.st_mode & 0o666;
        let (temporary, file) = loop {
            let temporary = PlainName::temporary(name, random());
            match openat(
                &dir.file,
                temporary.as_str(),
                flags,
                Mode::from_bits_truncate(mode),
            ) {
                Ok(file) => break (temporary, File::from(file)),
                Err(Errno::EEXIST) => {}
                Err(e) => return Err(failed(&place.shown(dir.state, &temporary), &e.into())),
            }
        };
        let mut made = Temporary {
            dir,
            name: temporary,
            file,
            kept: false,
        };
        let shown =
            |e: &dyn Fn() -> std::io::Error| failed(&place.shown(dir.state, &made.name), &e());
        let stat = fstat(&made.file).map_err(|e| shown(&|| e.into()))?;
        if (stat.st_uid, stat.st_gid) != (like.st_uid, like.st_gid) {
            let (uid, gid) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
            // A user can't give files away; the directory's group at least is often the user's.
            let _ = fchown(&made.file, Some(uid), Some(gid))
                .or_else(|_| fchown(&made.file, None, Some(gid)));
        }
        if stat.st_mode & 0o777 != mode {
            let _ = made
                .file
                .set_permissions(std::fs::Permissions::from_mode(mode));
        }
        let bytes = document::render(metadata);
        let written = made
            .file
            .write_all(&bytes)
            .and_then(|()| made.file.sync_all());
        match written {
            Ok(()) => Ok(made),
            Err(e) => Err(failed(&place.shown(dir.state, &made.name), &e)),
        }
    }

    /// Its inode, which it keeps whatever its name becomes.
    pub fn inode(&self) -> u64 {
        fstat(&self.file).map_or(0, |stat| stat.st_ino)
    }

    /// Gives it a message's name.
    pub fn rename(&mut self, name: &str, flags: RenameFlags) -> nix::Result<()> {
        let dir = &self.dir.file;
        renameat2(dir, self.name.as_str(), dir, name, flags)?;
        // After an exchange the temporary name holds what was replaced, and goes.
        self.kept = !flags.contains(RenameFlags::RENAME_EXCHANGE);
        Ok(())
    }

    /// The revision that it is, now that it has its name.
    pub fn revision(&self, metadata: &MessageMetadata) -> Revision {
        revision(&self.file, metadata)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // RetrySpool removes what stays at its next start.
            let _ = unlinkat(
                &self.dir.file,
                self.name.as_str(),
                UnlinkatFlags::NoRemoveDir,
            );
        }
    }
}

/// The revision that a file is.
pub fn revision(file: &File, metadata: &MessageMetadata) -> Revision {
    Revision {
        updated: metadata.updated,
        tag: fstat(file).map_or(1, |stat| mark(&stat)),
    }
}

/// A number for a temporary name; one that is taken is no more than a reason to try another.
pub fn random() -> u32 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Each RandomState has keys of its own.
    RandomState::new().hash_one(NEXT.fetch_add(1, Relaxed)) as u32
}

#[cfg(test)]
thread_local! {
    /// What this thread brought to the disk: each time all names of a directory.
    pub static SYNCED: std::cell::RefCell<Vec<(QueueState, Vec<std::ffi::OsString>)>> =
        const { std::cell::RefCell::new(Vec::new()) };
}

/// Brings the names in a directory to the disk.
pub fn sync_names(place: &Place, dir: &StateDir) -> Result<()> {
    #[cfg(test)]
    {
        let entries = std::fs::read_dir(place.path().join(dir.state.as_str()));
        let names = entries.into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name()).collect();
        SYNCED.with_borrow_mut(|synced| synced.push((dir.state, names)));
    }
    dir.file.sync_all().map_err(|e| {
        let path = place.path().join(dir.state.as_str());
        Error::Durability(format!("{}: {e}", path.display()))
    })
}
