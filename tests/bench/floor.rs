//! The floor: a null filesystem of the mount's shape, with its flags, timeouts and threads, on the
//! same FUSE library, that answers from memory. What the mount takes beyond it is the mount's own.
//!
//! It keeps no promise of the mount's: names and states are all it knows.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use parking_lot::Mutex;
use retryspoolfs::fuse::options::MountOptions;
use retryspoolfs::fuse::{negotiate, session};
use retryspoolfs::spool::VALID;

use super::spools::{DIRS, name};

const GONE: u8 = u8::MAX;
/// Inodes of messages are their numbers, from here on.
const FIRST: u64 = 1 << 20;
const SCRATCH: u64 = 1 << 40;

struct Floor {
    document: Vec<u8>,
    names: Vec<String>,
    numbers: HashMap<String, u32>,
    dirs: Vec<AtomicU8>,
    scratch: Mutex<HashMap<String, u64>>,
    next: AtomicU64,
}

/// Serves a floor of so many messages until it is unmounted.
pub fn serve(mountpoint: &Path, messages: u64, document: Vec<u8>) {
    let mut names: Vec<String> = (0..messages).map(|n| name(n) + ".json").collect();
    names.sort_unstable();
    let numbers = (0..).zip(&names).map(|(n, name)| (name.clone(), n));
    let floor = Floor {
        document,
        numbers: numbers.collect(),
        dirs: names.iter().map(|_| AtomicU8::new(0)).collect(),
        names,
        scratch: Mutex::default(),
        next: AtomicU64::new(SCRATCH),
    };
    let config = session::config("floor", &MountOptions::default(), 0);
    fuser::mount(floor, mountpoint, &config).expect("the floor is mounted");
}

impl Floor {
    fn file(&self, ino: u64, size: u64) -> FileAttr {
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: 2,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn dir(&self, ino: u64) -> FileAttr {
        FileAttr {
            kind: FileType::Directory,
            perm: 0o700,
            ..self.file(ino, self.names.len() as u64)
        }
    }

    fn attr(&self, ino: u64) -> FileAttr {
        match ino {
            0..FIRST => self.dir(ino),
            SCRATCH.. => self.file(ino, 0),
            _ => self.file(ino, self.document.len() as u64),
        }
    }

    fn find(&self, parent: u64, name: &OsStr) -> Option<u64> {
        let name = name.to_str()?;
        if parent == 1 {
            return DIRS
                .iter()
                .position(|dir| *dir == name)
                .map(|n| n as u64 + 2);
        }
        match self.numbers.get(name) {
            Some(n) if u64::from(self.dirs[*n as usize].load(Relaxed)) + 2 == parent => {
                Some(FIRST + u64::from(*n))
            }
            _ => self.scratch.lock().get(name).copied(),
        }
    }

    fn give(&self, ino: u64, offset: u64, mut add: impl FnMut(u64, u64, FileType, &str) -> bool) {
        for (at, name) in [".", ".."].iter().enumerate().skip(offset as usize) {
            if add(ino, at as u64 + 1, FileType::Directory, name) {
                return;
            }
        }
        let from = offset.saturating_sub(2) as usize;
        if ino == 1 {
            for (n, dir) in DIRS.iter().enumerate().skip(from) {
                if add(n as u64 + 2, n as u64 + 3, FileType::Directory, dir) {
                    return;
                }
            }
            return;
        }
        for n in from..self.names.len() {
            if u64::from(self.dirs[n].load(Relaxed)) + 2 == ino
                && add(
                    FIRST + n as u64,
                    n as u64 + 3,
                    FileType::RegularFile,
                    &self.names[n],
                )
            {
                return;
            }
        }
    }
}

impl Filesystem for Floor {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        negotiate(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent.0, name) {
            Some(ino) => reply.entry(&VALID, &self.attr(ino), Generation(0)),
            None => reply.error(fuser::Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&VALID, &self.attr(ino.0));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(ino) = self.find(parent.0, name) else {
            return reply.error(fuser::Errno::ENOENT);
        };
        if ino >= SCRATCH {
            let mut scratch = self.scratch.lock();
            scratch.remove(name.to_str().unwrap_or_default());
            scratch.insert(new_name.to_string_lossy().into_owned(), ino);
        } else {
            self.dirs[(ino - FIRST) as usize].store(new_parent.0 as u8 - 2, Relaxed);
        }
        reply.ok();
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.find(parent.0, name) {
            Some(ino @ FIRST..SCRATCH) => {
                self.dirs[(ino - FIRST) as usize].store(GONE, Relaxed);
            }
            Some(_) => drop(
                self.scratch
                    .lock()
                    .remove(name.to_str().unwrap_or_default()),
            ),
            None => return reply.error(fuser::Errno::ENOENT),
        }
        reply.ok();
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let flags = match flags.0 & libc::O_ACCMODE {
            libc::O_RDONLY => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
            _ => FopenFlags::FOPEN_DIRECT_IO,
        };
        reply.opened(FileHandle(1), flags);
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let ino = self.next.fetch_add(1, Relaxed);
        self.scratch
            .lock()
            .insert(name.to_string_lossy().into_owned(), ino);
        let attr = self.file(ino, 0);
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
        reply.created(&Duration::ZERO, &attr, Generation(0), FileHandle(1), flags);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let from = (offset as usize).min(self.document.len());
        let to = (from + size as usize).min(self.document.len());
        reply.data(&self.document[from..to]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.give(ino.0, offset, |ino, next, kind, name| {
            reply.add(INodeNo(ino), next, kind, name)
        });
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.give(ino.0, offset, |ino, next, _, name| {
            reply.add(
                INodeNo(ino),
                next,
                name,
                &VALID,
                &self.attr(ino),
                Generation(0),
            )
        });
        reply.ok();
    }
}
