//! Documents of messages that are about to be removed, one a line.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Found;
use crate::backend::Error;
use crate::document;

/// A file of documents. A message's document is on the disk before the message is removed, and
/// taken out of the file again if it was not.
pub struct Save {
    path: PathBuf,
    file: File,
    /// Where the last addition begins.
    start: u64,
    added: usize,
}

impl Save {
    /// A new file, of mode 0600; one that is there is not written over.
    pub fn create(path: &Path) -> io::Result<Save> {
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Save {
            path: path.to_owned(),
            file,
            start: 0,
            added: 0,
        })
    }

    /// Adds these messages' documents.
    pub fn add(&mut self, batch: &[Found]) -> Result<(), Error> {
        self.added = batch.len();
        self.write(batch.iter())
    }

    /// Of what was added last these were removed; the rest is taken out again.
    pub fn amend<'a>(
        &mut self,
        removed: impl Iterator<Item = &'a Found> + Clone,
    ) -> Result<(), Error> {
        if removed.clone().count() == self.added {
            return Ok(());
        }
        let cut = self.file.set_len(self.start);
        let cut = cut.and_then(|()| self.file.seek(SeekFrom::Start(self.start)));
        cut.map_err(|error| self.failed(&error))?;
        self.write(removed)
    }

    fn write<'a>(&mut self, batch: impl Iterator<Item = &'a Found>) -> Result<(), Error> {
        let mut lines = Vec::new();
        for metadata in batch.filter_map(|found| found.metadata.as_ref()) {
            lines.extend(document::render_line(metadata));
        }
        let written = self.file.stream_position().and_then(|start| {
            self.start = start;
            self.file.write_all(&lines)?;
            self.file.sync_data()
        });
        written.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> Error {
        Error::Unavailable(format!("{}: {error}", self.path.display()))
    }
}
