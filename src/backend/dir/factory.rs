//! How a directory is opened as a store.
//!
//! Owns: the choices: whether it is made, written, and watched by inotify.
//! May fail: with [`Error`](crate::Error); then nothing was made, but for what `create_if_missing` makes.
//! Must not know: what is in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::eventfd::EventFd;
use parking_lot::{Condvar, Mutex};

use super::lock::Locks;
use super::log::Log;
use super::place::{Place, failed};
use super::{DirBackend, Directory, Flush, Known};
use crate::backend::{Backend, Factory, Result};

/// Makes stores over one directory.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("meta");
/// use retryspoolfs::backend::dir::DirFactory;
/// use retryspoolfs::{Error, Factory};
/// assert!(matches!(DirFactory::new(&path).create(), Err(Error::Missing(_))));
/// assert!(DirFactory::create_if_missing(&path).create().is_ok());
/// assert!(path.join("deferred").is_dir());
/// ```
#[derive(Clone, Debug)]
pub struct DirFactory {
    path: PathBuf,
    create: bool,
    read_only: bool,
    notified: bool,
}

impl DirFactory {
    /// Opens the spool in the directory `path`; [`Error::Missing`](crate::Error::Missing) if there is none.
    pub fn new(path: impl AsRef<Path>) -> DirFactory {
        DirFactory {
            path: path.as_ref().to_owned(),
            create: false,
            read_only: false,
            notified: true,
        }
    }

    /// Opens the spool in the directory `path`, and makes it first, with mode 0700, if there is
    /// none.
    pub fn create_if_missing(path: impl AsRef<Path>) -> DirFactory {
        DirFactory {
            create: true,
            ..DirFactory::new(path)
        }
    }

    /// Whether the store never writes.
    pub fn read_only(mut self, read_only: bool) -> DirFactory {
        self.read_only = read_only;
        self
    }

    /// Whether inotify may be used. Without it, as on a network filesystem, what other processes
    /// change is seen within a second.
    pub fn notified(mut self, notified: bool) -> DirFactory {
        self.notified = notified;
        self
    }

    /// Opens the store, as what it is.
    pub fn open(&self) -> Result<DirBackend> {
        let place = Place::open(&self.path, self.create, self.read_only)?;
        let locks = Locks::new(place.lock_file(self.read_only)?, !self.read_only);
        let wake = EventFd::new().map_err(|e| failed("eventfd", &e.into()))?;
        let directory = Directory {
            place,
            locks,
            read_only: self.read_only,
            notified: self.notified,
            known: Mutex::new(Known {
                index: None,
                log: Log::new(),
                unmended: Vec::new(),
                closed: false,
            }),
            grown: Condvar::new(),
            watch: Mutex::new(None),
            wake,
            flush: Flush::default(),
        };
        Ok(DirBackend {
            directory: Arc::new(directory),
            follower: Mutex::new(None),
        })
    }
}

impl Factory for DirFactory {
    fn create(&self) -> Result<Box<dyn Backend>> {
        Ok(Box::new(self.open()?))
    }

    fn name(&self) -> &'static str {
        "dir"
    }
}
