//! Scratch files: what editors and tools put beside the messages. In memory, private to the
//! mount, bounded.
//!
//! Owns: their names and bytes, the budget, and the rescue of bytes that would be lost.
//! May fail: with `ENOSPC` past the budget.
//! Must not know: stores, messages.
//!
//! It is long because the budget holds over all that can be done with them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::caller::{Caller, Process};
use super::error::{Errno, Refusal, Result};
use super::number::ScratchNumbers;
use crate::model::{NAME_MAX, QueueState, Timestamp};

/// The longest scratch file, in bytes.
pub const FILE_MAX: u64 = 1 << 20;
/// All scratch files together, in bytes.
pub const BYTES_MAX: u64 = 64 << 20;
/// How many scratch files there may be, unlinked ones that are still open included.
pub const FILES_MAX: u64 = 4096;
/// After how long without a touch a scratch file is put on disk.
pub const IDLE: Duration = Duration::from_secs(3600);

/// One scratch file. It lives while it has a name, an inode or a handle, and gives its part of
/// the budget back when it goes.
#[derive(Debug)]
pub struct ScratchFile {
    ino: u64,
    /// The one process that finds it by name; `None` for everybody.
    private_to: Option<Process>,
    content: Mutex<Content>,
    budget: Arc<Mutex<Budget>>,
}

#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    /// Whether it still has its part of the budget.
    counted: bool,
    written: Timestamp,
    touched: Instant,
}

#[derive(Debug, Default)]
struct Budget {
    bytes: u64,
    files: u64,
}

impl Budget {
    /// Counts a file's growth or shrinking.
    fn resize(&mut self, from: u64, to: u64) -> Result<()> {
        let bytes = self.bytes - from + to;
        if to > FILE_MAX || (to > from && bytes > BYTES_MAX) {
            return Err(full());
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Takes a file out of the count.
    fn give_back(&mut self, content: &mut Content) {
        self.bytes -= content.bytes.len() as u64;
        content.bytes = Vec::new();
        if std::mem::replace(&mut content.counted, false) {
            self.files -= 1;
        }
    }
}

fn full() -> Refusal {
    Refusal::new(
        Errno::ENOSPC,
        "scratch files may take 1 MiB each, 64 MiB and 4096 files together",
    )
    .hint("put large files outside the mount; remove scratch files that nobody needs")
}

impl ScratchFile {
    /// Its inode number.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.content.lock().bytes.clone()
    }

    /// How long it is, and when it was written last.
    pub fn size_and_time(&self) -> (u64, Timestamp) {
        let content = self.content.lock();
        (content.bytes.len() as u64, content.written)
    }

    /// At most `size` bytes from `offset` on.
    pub fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let mut content = self.content.lock();
        content.touched = Instant::now();
        slice(&content.bytes, offset, size).to_vec()
    }

    /// Writes at `offset`, or at the end where there is none given.
    pub fn write(&self, offset: Option<u64>, data: &[u8]) -> Result<()> {
        let mut content = self.content.lock();
        let offset = offset.unwrap_or(content.bytes.len() as u64);
        let end = offset.checked_add(data.len() as u64).ok_or_else(full)?;
        let grown = end.max(content.bytes.len() as u64);
        self.resize(&mut content, grown)?;
        content.bytes[offset as usize..end as usize].copy_from_slice(data);
        Ok(())
    }

    /// Cuts it, or fills it up with zeros.
    pub fn truncate(&self, size: u64) -> Result<()> {
        self.resize(&mut self.content.lock(), size)
    }

    /// Gives its part of the budget back: nobody can read it any more, but the kernel may go on
    /// remembering its inode.
    pub fn discard(&self) {
        let mut content = self.content.lock();
        self.budget.lock().give_back(&mut content);
    }

    fn resize(&self, content: &mut Content, size: u64) -> Result<()> {
        let from = content.bytes.len() as u64;
        self.budget.lock().resize(from, size)?;
        content.bytes.resize(size as usize, 0);
        content.written = Timestamp::now();
        content.touched = Instant::now();
        Ok(())
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        self.budget.lock().give_back(self.content.get_mut());
    }
}

/// The part of `bytes` that a read at `offset` gets.
pub fn slice(bytes: &[u8], offset: u64, size: usize) -> &[u8] {
    let start = usize::try_from(offset).map_or(bytes.len(), |start| start.min(bytes.len()));
    &bytes[start..start.saturating_add(size).min(bytes.len())]
}

/// The scratch files of a mount, by the state's directory and their name.
#[derive(Default)]
pub struct Scratches {
    files: Mutex<BTreeMap<(QueueState, OsString), Arc<ScratchFile>>>,
    budget: Arc<Mutex<Budget>>,
    numbers: ScratchNumbers,
}

impl Scratches {
    /// How many there are, unlinked ones that are still open included, and their bytes.
    pub fn usage(&self) -> (u64, u64) {
        let budget = self.budget.lock();
        (budget.files, budget.bytes)
    }

    /// The file of that name.
    pub fn get(&self, state: QueueState, name: &OsStr) -> Option<Arc<ScratchFile>> {
        self.files.lock().get(&(state, name.to_owned())).cloned()
    }

    /// The file of that name, if the caller finds it.
    pub fn find(
        &self,
        state: QueueState,
        name: &OsStr,
        caller: &Caller,
    ) -> Option<Arc<ScratchFile>> {
        self.get(state, name).filter(|file| {
            let owner = file.private_to;
            owner.is_none_or(|owner| owner == caller.process())
        })
    }

    /// The names of a state's directory.
    pub fn names(&self, state: QueueState) -> Vec<(OsString, u64)> {
        let files = self.files.lock();
        let of_state = files.range((state, OsString::new())..);
        of_state
            .take_while(|((s, _), _)| *s == state)
            .map(|((_, name), file)| (name.clone(), file.ino))
            .collect()
    }

    /// The path of a file by one of its names; `?` if it has none any more.
    pub fn path_of(&self, file: &Arc<ScratchFile>) -> String {
        let files = self.files.lock();
        let mut names = files.iter();
        let found = names.find(|(_, other)| Arc::ptr_eq(other, file));
        found.map_or_else(
            || "?".to_owned(),
            |((state, name), _)| format!("{state}/{}", name.display()),
        )
    }

    /// Makes a file with these bytes; one of that name is replaced.
    pub fn create(
        &self,
        state: QueueState,
        name: &OsStr,
        bytes: &[u8],
    ) -> Result<Arc<ScratchFile>> {
        self.create_for(state, name, bytes, None)
    }

    /// The same, for the copy that `process` makes of a message. A numbered one is found by that
    /// process alone: a tool that sees no copies in a listing would otherwise find every number
    /// taken, one after the other, by what others made.
    pub fn create_copy(
        &self,
        state: QueueState,
        name: &OsStr,
        bytes: &[u8],
        process: Process,
    ) -> Result<Arc<ScratchFile>> {
        let private_to = is_numbered(name.as_bytes()).then_some(process);
        self.create_for(state, name, bytes, private_to)
    }

    /// The same, for bytes that are kept in case somebody misses them, as long as half of the
    /// room is left: a thousand refused documents must not take it from the editor that mends
    /// them.
    pub fn create_spare(&self, state: QueueState, name: &OsStr, bytes: &[u8]) -> Result<()> {
        {
            let budget = self.budget.lock();
            let after = budget.bytes + bytes.len() as u64;
            if budget.files >= FILES_MAX / 2 || after > BYTES_MAX / 2 {
                return Err(full());
            }
        }
        self.create_for(state, name, bytes, None).map(drop)
    }

    fn create_for(
        &self,
        state: QueueState,
        name: &OsStr,
        bytes: &[u8],
        private_to: Option<Process>,
    ) -> Result<Arc<ScratchFile>> {
        if name.len() > NAME_MAX {
            return Err(Refusal::new(
                Errno::ENAMETOOLONG,
                "the name is longer than 255 bytes",
            ));
        }
        {
            let mut budget = self.budget.lock();
            if budget.files >= FILES_MAX {
                return Err(full());
            }
            budget.resize(0, bytes.len() as u64)?;
            budget.files += 1;
        }
        let file = Arc::new(ScratchFile {
            ino: self.numbers.next(),
            private_to,
            content: Mutex::new(Content {
                bytes: bytes.to_vec(),
                counted: true,
                written: Timestamp::now(),
                touched: Instant::now(),
            }),
            budget: self.budget.clone(),
        });
        let key = (state, name.to_owned());
        let replaced = self.files.lock().insert(key, file.clone());
        // Its budget goes back without the lock of the names.
        drop(replaced);
        Ok(file)
    }

    /// Takes a name away, and gives its file, which stays for those who have it open.
    pub fn unlink(&self, state: QueueState, name: &OsStr) -> Result<Arc<ScratchFile>> {
        let removed = self.files.lock().remove(&(state, name.to_owned()));
        removed.ok_or_else(Refusal::not_found)
    }

    /// Whether the file has a name.
    pub fn is_named(&self, file: &Arc<ScratchFile>) -> bool {
        let files = self.files.lock();
        files.values().any(|other| Arc::ptr_eq(other, file))
    }

    /// Takes a name away if it still is that file's.
    pub fn unlink_file(&self, state: QueueState, name: &OsStr, file: &Arc<ScratchFile>) {
        let mut files = self.files.lock();
        let key = (state, name.to_owned());
        if files
            .get(&key)
            .is_some_and(|found| Arc::ptr_eq(found, file))
        {
            files.remove(&key);
        }
    }

    /// Gives a file another name, in whatever directory; a file of that name is replaced, unless
    /// `no_replace`.
    pub fn rename(
        &self,
        (from, name): (QueueState, &OsStr),
        (to, new_name): (QueueState, &OsStr),
        no_replace: bool,
    ) -> Result<()> {
        if new_name.len() > NAME_MAX {
            return Err(Refusal::new(
                Errno::ENAMETOOLONG,
                "the name is longer than 255 bytes",
            ));
        }
        let _replaced;
        let mut files = self.files.lock();
        let old = (from, name.to_owned());
        let new = (to, new_name.to_owned());
        if !files.contains_key(&old) {
            return Err(Refusal::not_found());
        }
        if no_replace && files.contains_key(&new) {
            return Err(Refusal::new(Errno::EEXIST, "a scratch file has that name"));
        }
        if let Some(file) = files.remove(&old) {
            _replaced = files.insert(new, file);
        }
        Ok(())
    }

    /// Puts files with bytes into `dir`, and their names go from the mount: those that nobody
    /// touched for `idle`, or with `None` all. Gives what was written where.
    pub fn rescue(&self, dir: &Path, idle: Option<Duration>) -> Vec<(String, io::Result<PathBuf>)> {
        let due: Vec<_> = {
            let files = self.files.lock();
            let due = files.iter().filter(|(_, file)| {
                idle.is_none_or(|idle| file.content.lock().touched.elapsed() >= idle)
            });
            due.map(|(key, file)| (key.clone(), file.clone())).collect()
        };
        let mut rescued = Vec::new();
        for ((state, name), file) in due {
            let (bytes, touched) = {
                let content = file.content.lock();
                (content.bytes.clone(), content.touched)
            };
            if !bytes.is_empty() {
                let path = format!("{state}/{}", name.display());
                let written = write_out(dir, state, &name, &bytes);
                let failed = written.is_err();
                rescued.push((path, written));
                let mut content = file.content.lock();
                if failed {
                    // Tried again after the same time, not at every turn.
                    content.touched = Instant::now();
                }
                if failed || (idle.is_some() && content.touched != touched) {
                    continue;
                }
            }
            self.unlink_file(state, &name, &file);
        }
        rescued
    }
}

/// Whether the name is one of `cp --backup=numbered`: `x.json.~12~`.
fn is_numbered(name: &[u8]) -> bool {
    let number = name.strip_suffix(b"~").and_then(|name| {
        let tilde = name.iter().rposition(|byte| *byte == b'~')?;
        name[..tilde].ends_with(b".").then_some(&name[tilde + 1..])
    });
    number.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
}

/// Writes a scratch file's bytes to `dir/STATE.NAME`, or with a number behind it where that name
/// is taken, and brings them to the disk.
fn write_out(dir: &Path, state: QueueState, name: &OsStr, bytes: &[u8]) -> io::Result<PathBuf> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // The state and a dot before the name, and room for a number behind it.
    let name = &name.as_bytes()[..name.len().min(NAME_MAX - 24)];
    for attempt in 0..10_000u32 {
        let mut target = OsString::from(format!("{state}."));
        target.push(OsStr::from_bytes(name));
        if attempt > 0 {
            target.push(format!(".{attempt}"));
        }
        let path = dir.join(target);
        let opened = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match opened {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
            Ok(mut file) => {
                file.write_all(bytes)?;
                file.sync_all()?;
                return Ok(path);
            }
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        "too many files of that name",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: QueueState = QueueState::Hold;

    #[test]
    fn the_budget_is_kept_and_given_back() {
        let scratches = Scratches::default();
        let name = OsStr::new("x~");
        let file = scratches.create(HOLD, name, b"").unwrap();
        assert_eq!(
            file.write(Some(FILE_MAX), b"1").unwrap_err().errno,
            Errno::ENOSPC
        );
        assert_eq!(
            file.write(Some(u64::MAX), b"1").unwrap_err().errno,
            Errno::ENOSPC
        );
        let mut files = Vec::new();
        for n in 0..64 {
            let file = scratches
                .create(HOLD, OsStr::new(&format!("{n}~")), b"")
                .unwrap();
            file.truncate(FILE_MAX).unwrap();
            files.push(file);
        }
        assert_eq!(file.write(None, b"1").unwrap_err().errno, Errno::ENOSPC);
        scratches.unlink(HOLD, OsStr::new("7~")).unwrap();
        assert_eq!(
            file.write(None, b"1").unwrap_err().errno,
            Errno::ENOSPC,
            "still open"
        );
        files.remove(7);
        file.write(None, b"1").unwrap();
        drop((files, file));
        drop(std::mem::take(&mut *scratches.files.lock()));
        let budget = scratches.budget.lock();
        assert_eq!((budget.bytes, budget.files), (0, 0));
    }

    #[test]
    fn so_many_files_and_no_more() {
        let scratches = Scratches::default();
        for n in 0..FILES_MAX {
            scratches
                .create(HOLD, OsStr::new(&format!("{n}~")), b"")
                .unwrap();
        }
        let one_more = scratches.create(HOLD, OsStr::new("one-more"), b"");
        assert_eq!(one_more.unwrap_err().errno, Errno::ENOSPC);
        scratches.unlink(HOLD, OsStr::new("5~")).unwrap();
        scratches.create(HOLD, OsStr::new("one-more"), b"").unwrap();
    }

    #[test]
    fn a_rescue_that_fails_keeps_the_file_and_is_not_tried_again_at_once() {
        let scratches = Scratches::default();
        let file = scratches.create(HOLD, OsStr::new("x~"), b"x").unwrap();
        file.content.lock().touched = Instant::now().checked_sub(IDLE).unwrap();
        let nowhere = Path::new("/proc/nowhere");
        assert!(scratches.rescue(nowhere, Some(IDLE))[0].1.is_err());
        assert!(scratches.rescue(nowhere, Some(IDLE)).is_empty());
        assert!(scratches.get(HOLD, OsStr::new("x~")).is_some());
    }

    #[test]
    fn bytes_are_rescued_and_names_kept_apart() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("q.scratch");
        let scratches = Scratches::default();
        for round in 0..2 {
            scratches
                .create(HOLD, OsStr::new("msg-5"), b"precious")
                .unwrap();
            scratches.create(HOLD, OsStr::new("empty"), b"").unwrap();
            assert!(scratches.rescue(&target, Some(IDLE)).is_empty());
            let rescued = scratches.rescue(&target, None);
            let path = rescued[0].1.as_ref().unwrap();
            assert_eq!(fs::read(path).unwrap(), b"precious");
            assert_eq!(
                (rescued.len(), fs::read_dir(&target).unwrap().count()),
                (1, round + 1)
            );
            assert!(scratches.names(HOLD).is_empty());
        }
    }
}
