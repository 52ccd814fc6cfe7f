//! From what a user types to a store: `sqlite:PATH`, `dir:PATH`. Every `cfg(feature)` of a store is here.
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
use std::path::{Path, PathBuf};
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
/// assert_eq!("/usr".parse::<Locator>().unwrap(), Locator::Dir("/usr".into()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locator {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// RetrySpool's own directory.
    Dir(PathBuf),
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
    /// Reads `sqlite:PATH`, `dir:PATH`, or a bare path: that of a directory is `dir:`, every other
    /// one `sqlite:`. A path that itself starts with a kind's name is written `./sqlite:x`. [`Error::Unavailable`] for a kind of store that this
    /// build has not, or an empty path.
    pub fn parse(text: &OsStr) -> Result<Locator> {
        let bytes = text.as_bytes();
        for kind in ["postgres:", "postgresql:"] {
            if bytes.starts_with(kind.as_bytes()) {
                return Err(Error::Unavailable(format!(
                    "this build has no store of the kind {kind}"
                )));
            }
        }
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        let locator = match (bytes.strip_prefix(b"sqlite:"), bytes.strip_prefix(b"dir:")) {
            (Some(file), _) => Locator::Sqlite(path(file)),
            (None, Some(dir)) => Locator::Dir(path(dir)),
            (None, None) if path(bytes).is_dir() => Locator::Dir(path(bytes)),
            (None, None) => Locator::Sqlite(path(bytes)),
        };
        match locator.path().as_os_str().is_empty() {
            true => Err(Error::Unavailable("the spool's path is empty".into())),
            false => Ok(locator),
        }
    }

    /// The same place, spelled so that it does not depend on the working directory. The spool need
    /// not exist.
    pub fn absolute(self) -> io::Result<Locator> {
        let path = self.path();
        let path = fs::canonicalize(path).or_else(|_| std::path::absolute(path))?;
        Ok(match self {
            Locator::Sqlite(_) => Locator::Sqlite(path),
            Locator::Dir(_) => Locator::Dir(path),
        })
    }

    /// The path of the file or directory.
    pub fn path(&self) -> &Path {
        match self {
            Locator::Sqlite(path) | Locator::Dir(path) => path,
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
        let mut beside = self.path().as_os_str().to_owned();
        beside.push(ending);
        Some(beside.into())
    }

    /// Opens the store.
    pub fn open(&self, options: OpenOptions) -> Result<Box<dyn Backend>> {
        self.open_with(options, None)
    }

    /// Gives the space of removed messages back to the disk, of a spool that nobody has open; its
    /// bytes before and after, 0 both of a kind that keeps none. [`Error::Busy`] if somebody has.
    /// `going` is asked now and then; `false` ends it, with the spool as it was.
    pub fn compact(&self, going: &(dyn Fn() -> bool + Sync)) -> Result<(u64, u64)> {
        match self {
            // Removed messages' files have gone, and the filesystem has their space.
            Locator::Dir(path) => {
                super::dir::DirFactory::new(path).read_only(true).open()?;
                Ok((0, 0))
            }
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
            Locator::Dir(path) => {
                use super::Factory;
                use super::dir::DirFactory;
                // Every change of it is on the disk when its call returns, asked for or not.
                let factory = match options.create {
                    true => DirFactory::create_if_missing(path),
                    false => DirFactory::new(path),
                };
                factory.read_only(options.read_only).create()
            }
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
            Locator::Dir(path) => write!(f, "dir:{}", path.display()),
        }
    }
}
