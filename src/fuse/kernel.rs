//! Telling the kernel to forget: all names, or an inode's attributes.
//!
//! Only notifications that wait for nothing are sent. One for a name takes its directory's lock,
//! one for a file's pages waits for reads under way: both can wait for an answer of this very
//! process, without an end if it is killed meanwhile.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use fuser::{INodeNo, Notifier};

use crate::spool::Invalidator;

/// The protocol's first minor version that can drop all names at once (Linux 6.16).
pub const EPOCH_MINOR: u32 = 44;

/// `FUSE_NOTIFY_INC_EPOCH` of the kernel's `fuse.h`: names that were looked up before it are asked
/// for again.
const NOTIFY_INC_EPOCH: i32 = 8;

/// The kernel's side of one mount.
pub struct Kernel {
    notifier: Notifier,
    /// The session's connection once more: fuser has no notification of that kind.
    device: File,
    has_epoch: bool,
}

impl Kernel {
    /// The kernel behind a session. One that has no epoch need not be told of it.
    pub fn of<F: fuser::Filesystem>(
        session: &fuser::Session<F>,
        has_epoch: bool,
    ) -> io::Result<Kernel> {
        Ok(Kernel {
            notifier: session.notifier(),
            device: session.as_fd().try_clone_to_owned()?.into(),
            has_epoch,
        })
    }
}

// What the kernel does not know it need not forget, and a mount that ends forgets everything: no
// error of a notification means anything.
impl Invalidator for Kernel {
    fn attributes(&self, ino: u64) {
        // A negative offset: attributes alone, which waits for no read.
        let _ = self.notifier.inval_inode(INodeNo(ino), -1, 0);
    }

    fn all_names(&self) {
        if !self.has_epoch {
            return;
        }
        // fuse_out_header: length, the code in place of an error, no request's number.
        let mut message = [0; 16];
        message[..4].copy_from_slice(&16u32.to_ne_bytes());
        message[4..8].copy_from_slice(&NOTIFY_INC_EPOCH.to_ne_bytes());
        let _ = (&self.device).write(&message);
    }
}
