//! One writer of a message at a time, among all processes of ours.
//!
//! Owns: a lock for each message, by a hash of its ID: a mutex among threads, and a byte of
//! `.retryspool/lock` among processes (an open file description lock: it ends with its process).
//! May fail: with [`Busy`](crate::Error::Busy) at the deadline.
//! Must not know: what is done under it. RetrySpool's own store knows nothing of it, so each step
//! has to stand by itself against that one.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use parking_lot::{Mutex, MutexGuard};

use crate::backend::{Error, Result};
use crate::model::MessageId;

/// How many locks there are. Two messages seldom share one.
const STRIPES: u64 = 4096;
/// How often another process's lock is asked for again.
const AGAIN: Duration = Duration::from_micros(300);

/// The locks of one store.
pub struct Locks {
    stripes: Box<[Mutex<()>]>,
    file: Option<File>,
    writes: bool,
}

/// A message that nobody else writes, of those who ask.
pub struct Held<'a> {
    file: Option<(&'a File, u64)>,
    _thread: MutexGuard<'a, ()>,
}

impl Locks {
    /// Locks that other processes see in `file`; a store that never writes shares them.
    pub fn new(file: Option<File>, writes: bool) -> Locks {
        Locks {
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            file,
            writes,
        }
    }

    fn stripe(id: &MessageId) -> u64 {
        // With the same keys in each process of the same program; another release may share less.
        let mut hasher = DefaultHasher::new();
        id.as_str().hash(&mut hasher);
        hasher.finish() % STRIPES
    }

    /// Against other threads of this process alone.
    pub fn among_threads(&self, id: &MessageId, deadline: Instant) -> Option<MutexGuard<'_, ()>> {
        self.stripes[Locks::stripe(id) as usize].try_lock_until(deadline)
    }

    /// Against everybody.
    pub fn lock(&self, id: &MessageId, deadline: Instant) -> Result<Held<'_>> {
        let busy = || Error::Busy("another writer of the message did not end".into());
        let thread = self.among_threads(id, deadline).ok_or_else(busy)?;
        let mut held = Held {
            file: None,
            _thread: thread,
        };
        let Some(file) = &self.file else {
            return Ok(held);
        };
        let stripe = Locks::stripe(id);
        let kind = match self.writes {
            true => libc::F_WRLCK,
            false => libc::F_RDLCK,
        };
        loop {
            match fcntl(file, FcntlArg::F_OFD_SETLK(&range(kind, stripe))) {
                Ok(_) => break,
                Err(Errno::EAGAIN | Errno::EACCES | Errno::EINTR) if Instant::now() < deadline => {
                    std::thread::sleep(AGAIN);
                }
                Err(Errno::EAGAIN | Errno::EACCES | Errno::EINTR) => return Err(busy()),
                Err(e) => {
                    let why = format!("the spool's lock file can't be locked: {}", e.desc());
                    return Err(Error::Unavailable(why));
                }
            }
        }
        held.file = Some((file, stripe));
        Ok(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some((file, stripe)) = self.file {
            // The range was locked by this description: unlocking it can't be refused.
            let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_UNLCK, stripe)));
        }
    }
}

fn range(kind: i32, stripe: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: stripe as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}
