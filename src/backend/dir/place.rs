//! The directory itself: what is opened in it, made in it, and watched of it.
//!
//! Owns: the descriptors of the six state directories, through which every call goes, so that
//! nothing that is mounted or put in the path's place later is written by mistake; and
//! `.retryspool` beside them, where everything of ours lies that is not RetrySpool's.
//! May fail: with a refusal that leaves the directory as it was.
//! Must not know: documents.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};

use crate::backend::{Error, Result, Space};
use crate::model::QueueState;

/// What holds everything that is ours.
const OURS: &str = ".retryspool";
/// How often the paths are looked at.
const WATCH: Duration = Duration::from_millis(100);

/// An open directory of a state.
#[derive(Debug)]
pub struct StateDir {
    pub state: QueueState,
    pub file: File,
    /// What it was when it was opened: owner and mode decide those of files made in it.
    pub stat: FileStat,
}

/// The spool's directory.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    base: File,
    /// By number; `None` for one that a store which never writes did not find.
    states: [Option<StateDir>; 6],
    epoch: Instant,
    looked: AtomicU64,
}

/// Whether a file is one that can be a message's.
pub fn is_regular(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
}

impl Place {
    /// Opens the directory. With `create` it is made if it is missing, mode 0700; unless
    /// `read_only`, state directories that are missing are made, as RetrySpool does.
    pub fn open(path: &Path, create: bool, read_only: bool) -> Result<Place> {
        let path = std::path::absolute(path).map_err(|e| unreachable(path, e))?;
        if create && !read_only {
            let mut builder = std::fs::DirBuilder::new();
            match builder.recursive(true).mode(0o700).create(&path) {
                Ok(()) => {}
                Err(e) => return Err(unreachable(&path, e)),
            }
        }
        let base = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(missing(&path, "is")),
            opened => opened.map_err(|e| unreachable(&path, e))?,
        };
        if !base.metadata().map_err(|e| unreachable(&path, e))?.is_dir() {
            let shown = path.display();
            return Err(Error::Unavailable(format!("{shown} is not a directory")));
        }
        let is_spool =
            |state: &QueueState| fstatat(&base, state.as_str(), AtFlags::empty()).is_ok();
        if !create && !QueueState::ALL.iter().any(is_spool) {
            return Err(missing(&path, "has no directories of states: it is"));
        }
        let mut place = Place {
            states: Default::default(),
            path,
            base,
            epoch: Instant::now(),
            looked: AtomicU64::new(0),
        };
        for state in QueueState::ALL {
            place.states[usize::from(state.number())] = place.open_state(state, read_only)?;
        }
        Ok(place)
    }

    fn open_state(&self, state: QueueState, read_only: bool) -> Result<Option<StateDir>> {
        let failed = |e: Errno| unreachable(&self.path.join(state.as_str()), e.into());
        if !read_only {
            match mkdirat(&self.base, state.as_str(), self.mode_of_base()?) {
                Ok(()) => self.own(self.open_dir(state.as_str()).map_err(failed)?)?,
                Err(Errno::EEXIST) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        let file = match self.open_dir(state.as_str()) {
            Err(Errno::ENOENT) if read_only => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        let stat = nix::sys::stat::fstat(&file).map_err(failed)?;
        Ok(Some(StateDir { state, file, stat }))
    }

    fn open_dir(&self, name: &str) -> nix::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(&self.base, name, flags, Mode::empty()).map(File::from)
    }

    fn mode_of_base(&self) -> Result<Mode> {
        let base = self
            .base
            .metadata()
            .map_err(|e| unreachable(&self.path, e))?;
        Ok(Mode::from_bits_truncate(base.mode() & 0o777))
    }

    /// What root makes belongs to whom the spool belongs to.
    fn own(&self, made: File) -> Result<()> {
        let base = self
            .base
            .metadata()
            .map_err(|e| unreachable(&self.path, e))?;
        let found = made.metadata().map_err(|e| unreachable(&self.path, e))?;
        if (found.uid(), found.gid()) != (base.uid(), base.gid()) {
            // A user can't give files away, and then they stay that user's.
            let _ = std::os::unix::fs::fchown(&made, Some(base.uid()), Some(base.gid()));
        }
        Ok(())
    }

    /// Opens a directory of ours below `.retryspool`, making it if need be.
    pub fn ours(&self, below: &[&str]) -> Result<File> {
        let mut name = OURS.to_owned();
        let mode = self.mode_of_base()?;
        for next in std::iter::once("").chain(below.iter().copied()) {
            if !next.is_empty() {
                name = format!("{name}/{next}");
            }
            let failed = |e: Errno| unreachable(&self.path.join(&name), e.into());
            match mkdirat(&self.base, name.as_str(), mode) {
                Ok(()) => self.own(self.open_dir(&name).map_err(failed)?)?,
                Err(Errno::EEXIST) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        self.open_dir(&name)
            .map_err(|e| unreachable(&self.path.join(&name), e.into()))
    }

    /// The file whose bytes are locked; `None` where nothing may be made and there is none.
    pub fn lock_file(&self, read_only: bool) -> Result<Option<File>> {
        if read_only {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            let file = openat(
                &self.base,
                format!("{OURS}/lock").as_str(),
                flags,
                Mode::empty(),
            );
            return Ok(file.map(File::from).ok());
        }
        let ours = self.ours(&[])?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let mode = self.mode_of_base()? & Mode::from_bits_truncate(0o666);
        let file = openat(&ours, "lock", flags, mode)
            .map_err(|e| unreachable(&self.path.join(OURS).join("lock"), e.into()))?;
        let file = File::from(file);
        self.own(file.try_clone().map_err(|e| unreachable(&self.path, e))?)?;
        Ok(Some(file))
    }

    /// The spool's path, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in a state's directory, to show.
    pub fn shown(&self, state: QueueState, name: &str) -> String {
        self.path
            .join(state.as_str())
            .join(name)
            .display()
            .to_string()
    }

    /// The directories that there are.
    pub fn states(&self) -> impl Iterator<Item = &StateDir> {
        self.states.iter().flatten()
    }

    /// The directory of a state, if there is one.
    pub fn state(&self, state: QueueState) -> Option<&StateDir> {
        self.states[usize::from(state.number())].as_ref()
    }

    /// The same, for writing: a store that writes has them all.
    pub fn to(&self, state: QueueState) -> Result<&StateDir> {
        self.state(state).ok_or(Error::ReadOnly)
    }

    /// Whether the paths still lead to what is open; looked at ten times a second at most.
    pub fn check(&self) -> Result<()> {
        let now = self.epoch.elapsed().as_millis() as u64;
        let looked = self.looked.load(Relaxed);
        if looked != 0 && now.saturating_sub(looked) < WATCH.as_millis() as u64 {
            return Ok(());
        }
        for dir in self.states() {
            let path = self.path.join(dir.state.as_str());
            let found = nix::sys::stat::lstat(&path);
            if !found.is_ok_and(|f| (f.st_dev, f.st_ino) == (dir.stat.st_dev, dir.stat.st_ino)) {
                let shown = path.display();
                return Err(Error::Unavailable(format!(
                    "{shown} was removed or replaced; open the spool again"
                )));
            }
        }
        self.looked.store(now.max(1), Relaxed);
        Ok(())
    }

    /// The disk that it is on.
    pub fn space(&self) -> Result<Space> {
        let found = nix::sys::statvfs::fstatvfs(&self.base)
            .map_err(|e| unreachable(&self.path, e.into()))?;
        let unit = found.fragment_size();
        Ok(Space {
            total: found.blocks() * unit,
            free: found.blocks_free() * unit,
            available: found.blocks_available() * unit,
        })
    }

    /// Brings everything on this disk to it.
    pub fn sync(&self) -> Result<()> {
        nix::unistd::syncfs(&self.base)
            .map_err(|e| Error::Durability(format!("{}: {}", self.path.display(), e.desc())))
    }

    /// Whether other hosts may write it unseen: inotify tells nothing of them.
    pub fn is_remote(&self) -> bool {
        const REMOTE: [i64; 6] = [
            0x6969,      // NFS
            0x517b,      // SMB
            0xff53_4d42, // CIFS
            0xfe53_4d42, // SMB2
            0x0102_1997, // 9P
            0x6573_5546, // FUSE
        ];
        nix::sys::statfs::fstatfs(&self.base)
            .is_ok_and(|found| REMOTE.contains(&(found.filesystem_type().0)))
    }
}

fn missing(path: &Path, is: &str) -> Error {
    let shown = path.display();
    Error::Missing(format!(
        "{shown} {is} no spool; make one: retryspoolfs init dir:{shown}"
    ))
}

fn unreachable(path: &Path, error: io::Error) -> Error {
    failed(&path.display().to_string(), &error)
}

/// What a caller learns of an error of the operating system.
pub fn failed(what: &str, error: &io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Error::StorageFull(format!("{what}: {error}")),
        Some(libc::EROFS) => Error::ReadOnly,
        _ => Error::Unavailable(format!("{what}: {error}")),
    }
}
