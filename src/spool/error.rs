//! Why the filesystem refused an operation: an errno for the caller, a reason and a hint for the
//! person behind it.
//!
//! Owns: the one table from store errors to errnos.
//! Must not know: who is told (see [`report`](super::report)).

use crate::backend::Error;

/// What every operation of the filesystem returns.
pub type Result<T> = std::result::Result<T, Refusal>;

/// The errnos that this filesystem gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::upper_case_acronyms)]
#[repr(i32)]
pub enum Errno {
    EPERM = libc::EPERM,
    ENOENT = libc::ENOENT,
    EIO = libc::EIO,
    EBADF = libc::EBADF,
    EBUSY = libc::EBUSY,
    EEXIST = libc::EEXIST,
    ENOTDIR = libc::ENOTDIR,
    EISDIR = libc::EISDIR,
    EINVAL = libc::EINVAL,
    EFBIG = libc::EFBIG,
    ENOSPC = libc::ENOSPC,
    EROFS = libc::EROFS,
    ERANGE = libc::ERANGE,
    ENAMETOOLONG = libc::ENAMETOOLONG,
    ENODATA = libc::ENODATA,
    EBADMSG = libc::EBADMSG,
    EOPNOTSUPP = libc::EOPNOTSUPP,
    ETIMEDOUT = libc::ETIMEDOUT,
    ESTALE = libc::ESTALE,
}

impl Errno {
    /// All of them.
    pub const ALL: &[Errno] = &[
        Errno::EPERM,
        Errno::ENOENT,
        Errno::EIO,
        Errno::EBADF,
        Errno::EBUSY,
        Errno::EEXIST,
        Errno::ENOTDIR,
        Errno::EISDIR,
        Errno::EINVAL,
        Errno::EFBIG,
        Errno::ENOSPC,
        Errno::EROFS,
        Errno::ERANGE,
        Errno::ENAMETOOLONG,
        Errno::ENODATA,
        Errno::EBADMSG,
        Errno::EOPNOTSUPP,
        Errno::ETIMEDOUT,
        Errno::ESTALE,
    ];

    /// Its place in [`Errno::ALL`].
    pub fn index(self) -> usize {
        // Each is there once.
        Errno::ALL
            .iter()
            .position(|errno| *errno == self)
            .unwrap_or(0)
    }

    /// The number that the kernel gets.
    pub fn number(self) -> i32 {
        self as i32
    }
}

/// An operation that was not done. Nothing was changed, unless the reason says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the caller gets.
    pub errno: Errno,
    /// Why, and what became of the data.
    pub reason: String,
    /// What the caller can do about it; empty where nothing can be said.
    pub hint: &'static str,
}

impl Refusal {
    /// A refusal for that reason.
    pub fn new(errno: Errno, reason: impl Into<String>) -> Refusal {
        Refusal {
            errno,
            reason: reason.into(),
            hint: "",
        }
    }

    /// The same, with what to do about it.
    pub fn hint(self, hint: &'static str) -> Refusal {
        Refusal { hint, ..self }
    }

    /// No such message or file.
    pub fn not_found() -> Refusal {
        Refusal::new(Errno::ENOENT, "there is no such file")
    }

    /// The file went since its name was looked up. The kernel looks the name up again then, and
    /// finds that there is none, or creates it where it may (`do_filp_open` in its fs/namei.c):
    /// with `ENOENT` here, an open(2) that may create would fail with it.
    pub fn gone() -> Refusal {
        Refusal::new(Errno::ESTALE, "the file is gone")
    }

    /// The handle is not one of ours, or not of that kind.
    pub fn bad_handle() -> Refusal {
        Refusal::new(Errno::EBADF, "the handle is not open for that")
    }
}

/// What kind of operation waited for the store: it decides how a deadline is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The kernel holds the directory's lock meanwhile, so the wait was short.
    UnderDirectoryLock,
    /// Nobody else had to wait.
    Alone,
}

/// The only place where a store's error becomes an errno.
pub fn refusal(error: Error, waiting: Waiting) -> Refusal {
    let errno = match &error {
        Error::NotFound | Error::StateConflict { .. } => Errno::ENOENT,
        Error::AlreadyExists { .. } => Errno::EEXIST,
        Error::StaleRevision { .. } => Errno::ESTALE,
        Error::InvalidId(_) => Errno::EINVAL,
        Error::InvalidDocument(_) => Errno::EBADMSG,
        Error::Busy(_) => match waiting {
            Waiting::UnderDirectoryLock => Errno::EBUSY,
            Waiting::Alone => Errno::ETIMEDOUT,
        },
        Error::StorageFull(_) => Errno::ENOSPC,
        Error::ReadOnly => Errno::EROFS,
        Error::Closed
        | Error::Missing(_)
        | Error::Corrupt(_)
        | Error::Durability(_)
        | Error::Unavailable(_) => Errno::EIO,
    };
    let hint = match (&error, errno) {
        (Error::Durability(_), _) => "what was committed stands, unless the power fails",
        (Error::Unavailable(_), _) => "look whether the change was made",
        (_, Errno::EBUSY | Errno::ETIMEDOUT) => "another program writes the spool; try again",
        (_, Errno::ENOSPC) => "free space on the disk of the spool",
        _ => "",
    };
    Refusal::new(errno, error.to_string()).hint(hint)
}
