//! The kernel's side: each request is decoded, handed to the [`Spool`], and answered.
//!
//! Owns: the translation between FUSE's terms and plain values, and nothing else.
//! May fail: a panic inside an operation is caught there and answered with `EIO`.
//! Must not know: stores, documents, what an operation means.

use std::ffi::OsStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::spool::{self, Attr, Caller, DirEntry, OpenMode, Refusal, Spool, Validity};

use options::MountOptions;

mod kernel;
pub mod mounts;
pub mod options;
pub mod session;

const GENERATION: Generation = Generation(0);
/// The longest write that one request carries. A document is at most this long.
const MAX_WRITE: u32 = 1 << 20;

/// A spool as fuser wants it.
pub struct Adapter(Arc<Spool>, MountOptions);

impl Adapter {
    /// The adapter of a spool.
    pub fn new(spool: Arc<Spool>, options: MountOptions) -> Adapter {
        Adapter(spool, options)
    }

    /// For how long this kernel may remember: for long, where it can be told to forget.
    fn validity(&self, minor: u32) -> Validity {
        let second = Duration::from_secs(1);
        let kept = match (self.0.has_feed(), minor >= kernel::EPOCH_MINOR) {
            (true, true) => Validity {
                names: spool::VALID,
                attributes: spool::VALID,
            },
            // A rename leaves the kernel with a name for another inode, which only dropping all
            // names takes away in time.
            (true, false) => Validity {
                names: Duration::ZERO,
                attributes: second,
            },
            (false, true) => Validity {
                names: second,
                attributes: second,
            },
            (false, false) => Validity {
                names: Duration::ZERO,
                attributes: second,
            },
        };
        Validity {
            names: self.1.entry_timeout.unwrap_or(kept.names),
            attributes: self.1.attr_timeout.unwrap_or(kept.attributes),
        }
    }
}

/// Runs an operation. If it panics, its reply is dropped, and fuser answers `EIO`.
fn guarded(operation: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(operation)).is_err() {
        tracing::error!(target: "retryspoolfs", "an operation failed inside; please report this");
    }
}

fn errno(refusal: &Refusal) -> fuser::Errno {
    fuser::Errno::from_i32(refusal.errno.number())
}

fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: if attr.is_dir {
            0
        } else {
            attr.size.div_ceil(512)
        },
        atime: SystemTime::from(attr.atime),
        mtime: SystemTime::from(attr.mtime),
        ctime: SystemTime::from(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(attr.is_dir),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Where the protocol has one time for name and attributes.
fn shorter(attr: &Attr) -> Duration {
    attr.validity.names.min(attr.validity.attributes)
}

fn kind(is_dir: bool) -> FileType {
    if is_dir {
        FileType::Directory
    } else {
        FileType::RegularFile
    }
}

/// Answers with an operation's result: `answer!(reply, result, |value| reply.method(value))`.
macro_rules! answer {
    ($reply:ident, $result:expr, |$value:pat_param| $good:expr) => {
        match $result {
            Ok($value) => $good,
            Err(refusal) => $reply.error(errno(&refusal)),
        }
    };
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            // An older kernel goes without.
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_write(MAX_WRITE);
        let version = config.kernel_abi();
        self.0.set_validity(self.validity(version.1));
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded(|| {
            let found = self.0.lookup(&caller(request), parent.0, name);
            answer!(reply, found, |attr| {
                let Validity { names, attributes } = attr.validity;
                reply.entry_with_ttls(&attributes, &names, &file_attr(&attr), GENERATION)
            });
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        guarded(|| self.0.forget(ino.0, nlookup));
    }

    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        guarded(|| {
            let attr = self.0.getattr(&caller(request), ino.0, fh.map(|fh| fh.0));
            answer!(reply, attr, |attr| reply
                .attr(&attr.validity.attributes, &file_attr(&attr)));
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        guarded(|| {
            let fh = fh.map(|fh| fh.0);
            let attr = self.0.setattr(&caller(request), ino.0, fh, size);
            answer!(reply, attr, |attr| reply
                .attr(&attr.validity.attributes, &file_attr(&attr)));
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        guarded(|| {
            let spool = &self.0;
            reply.error(errno(&spool.refuse_node(
                &caller(request),
                "mknod",
                parent.0,
                name,
            )));
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        guarded(|| {
            reply.error(errno(&self.0.refuse_mkdir(
                &caller(request),
                parent.0,
                name,
            )))
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        guarded(|| {
            let spool = &self.0;
            reply.error(errno(&spool.refuse_node(
                &caller(request),
                "symlink",
                parent.0,
                name,
            )));
        });
    }

    fn link(
        &self,
        request: &Request,
        _ino: INodeNo,
        new_parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        guarded(|| {
            let spool = &self.0;
            reply.error(errno(&spool.refuse_node(
                &caller(request),
                "link",
                new_parent.0,
                name,
            )));
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded(|| {
            let removed = self.0.unlink(&caller(request), parent.0, name);
            answer!(reply, removed, |()| reply.ok());
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded(|| {
            let spool = &self.0;
            reply.error(errno(&spool.refuse_node(
                &caller(request),
                "rmdir",
                parent.0,
                name,
            )));
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            let no_replace = fuser::RenameFlags::RENAME_NOREPLACE;
            let flags = crate::spool::RenameFlags {
                no_replace: flags.contains(no_replace),
                other: !flags.difference(no_replace).is_empty(),
            };
            let (from, to) = ((parent.0, name), (new_parent.0, new_name));
            let renamed = self.0.rename(&caller(request), from, to, flags);
            answer!(reply, renamed, |()| reply.ok());
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        guarded(|| {
            let opened = self
                .0
                .open(&caller(request), ino.0, OpenMode::from(flags.0));
            answer!(reply, opened, |fh| {
                reply.opened(FileHandle(fh), fopen_flags(self.0.is_judged_at_close(fh)));
            });
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        guarded(|| {
            let mode = OpenMode::from(flags);
            let created = self.0.create(&caller(request), parent.0, name, mode);
            answer!(reply, created, |(attr, fh)| {
                let flags = fopen_flags(self.0.is_judged_at_close(fh));
                reply.created(
                    &shorter(&attr),
                    &file_attr(&attr),
                    GENERATION,
                    FileHandle(fh),
                    flags,
                );
            });
        });
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guarded(|| {
            let read = self.0.read(fh.0, offset, size as usize);
            answer!(reply, read, |bytes| reply.data(&bytes));
        });
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        guarded(|| {
            let written = self.0.write(fh.0, offset, data);
            answer!(reply, written, |()| reply.written(data.len() as u32));
        });
    }

    fn flush(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            let closed = self.0.flush(&caller(request), fh.0);
            answer!(reply, closed, |()| reply.ok());
        });
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            self.0.release(fh.0);
            reply.ok();
        });
    }

    fn fsync(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            let synced = self.0.fsync(&caller(request), fh.0);
            answer!(reply, synced, |()| reply.ok());
        });
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        guarded(|| {
            answer!(reply, self.0.opendir(ino.0), |fh| {
                reply.opened(FileHandle(fh), FopenFlags::empty());
            });
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        guarded(|| {
            let mut sink = |entry: &DirEntry| {
                !reply.add(
                    INodeNo(entry.ino),
                    entry.offset,
                    kind(entry.is_dir),
                    entry.name,
                )
            };
            let read = self.0.readdir(fh.0, offset, false, &mut sink);
            answer!(reply, read, |()| reply.ok());
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        guarded(|| {
            let mut sink = |entry: &DirEntry| {
                // The core gives attributes to each entry of such a listing.
                entry.attr.as_ref().is_some_and(|attr| {
                    let valid = shorter(attr);
                    let attr = file_attr(attr);
                    !reply.add(
                        attr.ino,
                        entry.offset,
                        entry.name,
                        &valid,
                        &attr,
                        GENERATION,
                    )
                })
            };
            let read = self.0.readdir(fh.0, offset, true, &mut sink);
            answer!(reply, read, |()| reply.ok());
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            self.0.releasedir(fh.0);
            reply.ok();
        });
    }

    fn fsyncdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            let synced = self.0.fsyncdir(&caller(request), ino.0);
            answer!(reply, synced, |()| reply.ok());
        });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        guarded(|| {
            answer!(reply, self.0.usage(), |usage| {
                const BLOCK: u64 = 4096;
                // No number of messages is the last one: as many as fit a 32-bit reader.
                let free_inodes = u64::from(u32::MAX);
                reply.statfs(
                    usage.space.total / BLOCK,
                    usage.space.free / BLOCK,
                    usage.space.available / BLOCK,
                    usage.messages + free_inodes,
                    free_inodes,
                    BLOCK as u32,
                    crate::model::NAME_MAX as u32,
                    BLOCK as u32,
                );
            });
        });
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            answer!(reply, self.0.setxattr(ino.0, name, value), |()| reply.ok());
        });
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        guarded(|| {
            answer!(reply, self.0.getxattr(ino.0, name), |value| {
                give_xattr(reply, size, &value);
            });
        });
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        guarded(|| {
            answer!(reply, self.0.listxattr(ino.0), |names| {
                let mut list = Vec::new();
                for name in names {
                    list.extend_from_slice(name.as_encoded_bytes());
                    list.push(0);
                }
                give_xattr(reply, size, &list);
            });
        });
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded(|| {
            answer!(reply, self.0.removexattr(ino.0, name), |()| reply.ok());
        });
    }
}

/// Every file is read and written past the page cache, so that handles keep apart what they see;
/// only where a close is judged has the kernel to tell of it.
fn fopen_flags(judged_at_close: bool) -> FopenFlags {
    if judged_at_close {
        FopenFlags::FOPEN_DIRECT_IO
    } else {
        FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH
    }
}

/// A length where none was offered, the value where it fits.
fn give_xattr(reply: ReplyXattr, size: u32, value: &[u8]) {
    if size == 0 {
        reply.size(value.len() as u32);
    } else if value.len() > size as usize {
        reply.error(fuser::Errno::ERANGE);
    } else {
        reply.data(value);
    }
}
