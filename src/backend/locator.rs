//! From what a user types to a store: `sqlite:PATH`. Every `cfg(feature)` of a store is here.
//!
//! Owns: the spelling of a spool's place, and which kinds of store this build has.
//! May fail: on a kind that it has not.
//! Must not know: what any store does.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use super::{Backend, Error, Result};

/// Hears how far the preparation of a file is that RetrySpool made: messages done, and all of
/// them. [`ControlFlow::Break`] stops it; the next open goes on from there.
pub type Progress = Arc<dyn Fn(u64, u64) -> ControlFlow<()> + Send + Sync>;

/// Where a spool is.
///
/// ```
/// use retryspoolfs::backend::locator::Locator;
/// let locator: Locator = "sqlite:/var/spool/q.db".parse().unwrap();
/// assert_eq!(locator, "/var/spool/q.db".parse().unwrap());
/// assert_eq!(locator.to_string(), "sqlite:/var/spool/q.db");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locator {
    /// A SQLite file.
    Sqlite(PathBuf),
}

/// How to open it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Never write to it.
    pub read_only: bool,
    /// Make the spool if there is none.
    pub create: bool,
    /// Bring every change to the disk before its call returns.
    pub sync: bool,
    /// Make what is missing of the spool's own tables again.
    pub repair: bool,
}

impl Locator {
    /// Reads `sqlite:PATH`, or a bare path, which is the same. A path that itself starts with a
    /// kind's name is written `./sqlite:x`. [`Error::Unavailable`] for a kind of store that this
    /// build has not, or an empty path.
    pub fn parse(text: &OsStr) -> Result<Locator> {
        let bytes = text.as_bytes();
        for kind in ["dir:", "postgres:", "postgresql:"] {
            if bytes.starts_with(kind.as_bytes()) {
                return Err(Error::Unavailable(format!(
                    "this build has no store of the kind {kind}"
                )));
            }
        }
        match bytes.strip_prefix(b"sqlite:").unwrap_or(bytes) {
            b"" => Err(Error::Unavailable("the spool's path is empty".into())),
            path => Ok(Locator::Sqlite(OsStr::from_bytes(path).into())),
        }
    }

    /// The same place, spelled so that it does not depend on the working directory. The spool need
    /// not exist.
    pub fn absolute(self) -> io::Result<Locator> {
        match self {
            Locator::Sqlite(path) => {
                let path = fs::canonicalize(&path).or_else(|_| std::path::absolute(&path))?;
                Ok(Locator::Sqlite(path))
            }
        }
    }

    /// A directory beside the spool for scratch files that would be lost otherwise:
    /// `SPOOL.scratch`.
    pub fn scratch_dir(&self) -> Option<PathBuf> {
        self.beside(".scratch")
    }

    /// The path of the spool with this ending, for what belongs to it and is not in it; `None` of a
    /// spool that is at no path.
    pub fn beside(&self, ending: &str) -> Option<PathBuf> {
        match self {
            Locator::Sqlite(path) => {
                let mut beside = path.clone().into_os_string();
                beside.push(ending);
                Some(beside.into())
            }
        }
    }

    /// Opens the store.
    pub fn open(&self, options: OpenOptions) -> Result<Box<dyn Backend>> {
        self.open_with(options, None)
    }

    /// Gives the space of removed messages back to the disk, of a spool that nobody has open; its
    /// bytes before and after. [`Error::Busy`] if somebody has. `going` is asked now and then;
    /// `false` ends it, with the spool as it was.
    pub fn compact(&self, going: &(dyn Fn() -> bool + Sync)) -> Result<(u64, u64)> {
        match self {
            #[cfg(feature = "sqlite")]
            Locator::Sqlite(path) => super::sqlite::compact(path, going),
            #[cfg(not(feature = "sqlite"))]
            Locator::Sqlite(_) => {
                let _ = going;
                Err(Error::Unavailable("this build has no SQLite store".into()))
            }
        }
    }

    /// Opens the store; `progress` hears how far the preparation of a large file is.
    pub fn open_with(
        &self,
        options: OpenOptions,
        progress: Option<Progress>,
    ) -> Result<Box<dyn Backend>> {
        match self {
            #[cfg(feature = "sqlite")]
            Locator::Sqlite(path) => {
                use super::Factory;
                use super::sqlite::SqliteFactory;
                let factory = match options.create {
                    true => SqliteFactory::create_if_missing(path),
                    false => SqliteFactory::new(path),
                };
                let factory = factory
                    .read_only(options.read_only)
                    .sync(options.sync)
                    .repair(options.repair);
                match progress {
                    Some(progress) => factory.on_progress(progress).create(),
                    None => factory.create(),
                }
            }
            #[cfg(not(feature = "sqlite"))]
            Locator::Sqlite(_) => {
                let _ = (options, progress);
                Err(Error::Unavailable("this build has no SQLite store".into()))
            }
        }
    }
}

impl FromStr for Locator {
    type Err = Error;

    fn from_str(text: &str) -> Result<Locator> {
        Locator::parse(text.as_ref())
    }
}

impl fmt::Display for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Locator::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}
