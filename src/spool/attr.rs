//! Attributes, as plain values.

use std::time::Duration;

use super::cache::Validity;
use super::inode;
use crate::backend::StateInfo;
use crate::document;
use crate::model::{Stored, Timestamp};

/// What stat(2) shows of a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The inode number.
    pub ino: u64,
    pub is_dir: bool,
    /// Bytes of a file; messages of a state's directory.
    pub size: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// The permission bits.
    pub mode: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// For how long the kernel may remember these, and the name they were found by.
    pub validity: Validity,
}

impl Attr {
    /// The same, valid as long as `names` and `attributes` say.
    pub fn valid(self, names: Duration, attributes: Duration) -> Attr {
        let validity = Validity { names, attributes };
        Attr { validity, ..self }
    }
}

/// Who owns what the mount shows, and with which permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    pub uid: u32,
    pub gid: u32,
    /// The permission bits of files.
    pub fmode: u16,
    /// The permission bits of directories.
    pub dmode: u16,
}

/// What a message's attributes are made of: all that a listing with attributes has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief {
    size: u64,
    created: Timestamp,
    updated: Timestamp,
    /// Of its revision; 0 where there is none.
    mark: u64,
}

impl Brief {
    /// Of a message whose metadata can't be read: it is there, and has no document.
    pub const UNREADABLE: Brief = Brief {
        size: 0,
        created: Timestamp::ZERO,
        updated: Timestamp::ZERO,
        mark: 0,
    };

    /// Of a stored message.
    pub fn of(stored: &Stored) -> Brief {
        Brief {
            size: document::rendered_len(&stored.metadata),
            created: stored.metadata.created,
            updated: stored.metadata.updated,
            mark: inode::mark(stored.revision),
        }
    }

    /// Of a file whose bytes were last written at `written`.
    pub fn of_bytes(size: u64, written: Timestamp) -> Brief {
        Brief {
            size,
            created: written,
            updated: written,
            mark: 0,
        }
    }

    /// The mark of the message's revision; 0 of what is no stored message.
    pub fn mark(&self) -> u64 {
        self.mark
    }
}

impl Ownership {
    /// A file's attributes.
    pub fn file(&self, ino: u64, brief: Brief) -> Attr {
        Attr {
            ino,
            is_dir: false,
            size: brief.size,
            atime: brief.created,
            mtime: brief.updated,
            ctime: brief.updated,
            mode: self.fmode,
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            validity: Validity::default(),
        }
    }

    /// A directory's attributes. `subdirs` is the number of directories it lists.
    pub fn dir(&self, ino: u64, info: StateInfo, subdirs: usize) -> Attr {
        Attr {
            ino,
            is_dir: true,
            size: info.count,
            atime: info.changed,
            mtime: info.changed,
            ctime: info.changed,
            mode: self.dmode,
            nlink: 2 + subdirs as u32,
            uid: self.uid,
            gid: self.gid,
            validity: Validity::default(),
        }
    }
}
