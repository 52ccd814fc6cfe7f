//! How a file is opened as a store.
//!
//! Owns: the choices: whether it is made, written, flushed with each change, and mended; what each
//! verdict on a file leads to.
//! May fail: with [`Error`]; then a file that is not ours is as it was.
//! Must not know: what is in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use super::checkpoint::Checkpointer;
use super::faults::Faults;
use super::feed::Feed;
use super::flush::Flusher;
use super::open::{self, Access, Place};
use super::reader::Readers;
use super::schema::{self, Verdict};
use super::writer::Writer;
use super::{SqliteBackend, error, prepare, reserve};
use crate::backend::locator::Progress;
use crate::backend::{Backend, Error, Factory, Result};

/// Makes stores over one SQLite file.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("queue.db");
/// use retryspoolfs::backend::sqlite::SqliteFactory;
/// use retryspoolfs::{Error, Factory};
/// assert!(matches!(SqliteFactory::new(&path).create(), Err(Error::Missing(_))));
/// assert!(SqliteFactory::create_if_missing(&path).create().is_ok());
/// ```
#[derive(Clone)]
pub struct SqliteFactory {
    path: PathBuf,
    create: bool,
    read_only: bool,
    sync: bool,
    repair: bool,
    on_progress: Option<Progress>,
}

impl SqliteFactory {
    /// Opens the spool at `path`; [`Error::Missing`] if there is none.
    pub fn new(path: impl AsRef<Path>) -> SqliteFactory {
        SqliteFactory {
            path: path.as_ref().to_owned(),
            create: false,
            read_only: false,
            sync: false,
            repair: false,
            on_progress: None,
        }
    }

    /// Opens the spool at `path`, and makes it first, with mode 0600, if there is none.
    pub fn create_if_missing(path: impl AsRef<Path>) -> SqliteFactory {
        SqliteFactory {
            create: true,
            ..SqliteFactory::new(path)
        }
    }

    /// Whether the store never writes, not even to prepare a file that RetrySpool made.
    pub fn read_only(mut self, read_only: bool) -> SqliteFactory {
        self.read_only = read_only;
        self
    }

    /// Whether every change is on the disk when its call returns.
    pub fn sync(mut self, sync: bool) -> SqliteFactory {
        self.sync = sync;
        self
    }

    /// Whether a file that lacks parts of what this program keeps in it gets them again, and is
    /// opened. Counts may have to be taken anew then: see [`Backend::check`].
    pub fn repair(mut self, repair: bool) -> SqliteFactory {
        self.repair = repair;
        self
    }

    /// Who hears how far the preparation of a file is that RetrySpool made.
    pub fn on_progress(mut self, progress: Progress) -> SqliteFactory {
        self.on_progress = Some(progress);
        self
    }

    /// Opens the store, as what it is.
    pub fn open(&self) -> Result<SqliteBackend> {
        if self.create && !self.read_only {
            open::touch(&self.path)?;
        }
        let place = Place::find(&self.path)?;
        let mut verdict = open::examine(&place)?;
        if let (Verdict::Damaged(lost), true) = (&verdict, self.repair && !self.read_only) {
            tracing::info!("{}: {lost} is made anew", place.path().display());
            open::connect(&place, Access::Write { durable: true })
                .and_then(|conn| schema::mend(&conn))
                .map_err(error::from_sqlite)?;
            verdict = open::examine(&place)?;
        }
        match &verdict {
            Verdict::Refused(why) => {
                let path = place.path().display();
                return Err(Error::Unavailable(format!("{path} is not opened: {why}")));
            }
            Verdict::Damaged(lost) => {
                let path = place.path().display();
                return Err(Error::Corrupt(format!(
                    "{path} is not opened: {lost} is missing from it; RetrySpool's table is whole, and \
                     the rest is made again by `retryspoolfs check --repair {path}`"
                )));
            }
            Verdict::Empty if !self.create || self.read_only => {
                return Err(open::missing(place.path()));
            }
            Verdict::Empty | Verdict::Unprepared | Verdict::Ready => {}
        }
        let faults = Arc::new(Faults::default());
        let writer = match self.read_only {
            true => None,
            false => Some(writer(&place, &verdict, self, &faults)?),
        };
        Ok(SqliteBackend {
            readers: Readers::new(
                place.clone(),
                self.read_only,
                !self.read_only || verdict == Verdict::Ready,
            ),
            flusher: Flusher::new(place.clone(), Arc::clone(&faults)),
            feed: (!self.read_only || verdict == Verdict::Ready)
                .then(|| Feed::new(place.clone(), self.read_only)),
            place,
            writer,
            faults,
            temporary: None,
            is_open: RwLock::new(true),
        })
    }
}

impl Factory for SqliteFactory {
    fn create(&self) -> Result<Box<dyn Backend>> {
        Ok(Box::new(self.open()?))
    }

    fn name(&self) -> &'static str {
        "sqlite"
    }
}

/// The writing connection, of a file that is made, prepared or brought forward as it needs.
fn writer(
    place: &Place,
    verdict: &Verdict,
    options: &SqliteFactory,
    faults: &Arc<Faults>,
) -> Result<Writer> {
    let mut conn = open::connect(
        place,
        Access::Write {
            durable: options.sync,
        },
    )
    .map_err(error::from_sqlite)?;
    let checkpointer = Checkpointer::new(place.clone());
    checkpointer.follow(&mut conn).map_err(error::from_sqlite)?;
    if open::enable_wal(&conn)? && *verdict == Verdict::Unprepared {
        tracing::info!(
            "{}: the write-ahead log is turned on",
            place.path().display()
        );
    }
    match verdict {
        Verdict::Empty => open::create(&conn).map_err(error::from_sqlite)?,
        Verdict::Ready => schema::migrate(&conn).map_err(error::from_sqlite)?,
        Verdict::Unprepared => {
            prepare::prepare(&conn, &checkpointer, options.on_progress.as_ref())?
        }
        // Refused before.
        Verdict::Refused(why) | Verdict::Damaged(why) => {
            return Err(Error::Unavailable(why.clone()));
        }
    }
    reserve::reserve(&conn, place, &checkpointer);
    open::sync_directory(place)?;
    Writer::new(place.clone(), conn, checkpointer, Arc::clone(faults)).map_err(error::from_sqlite)
}
