//! The kernel's side: each request is decoded, handed to the [`Spool`], and answered.
//!
//! Owns: the translation between FUSE's terms and plain values, and nothing else.
//! May fail: a panic inside an operation is caught there and answered with `EIO`.
//! Must not know: stores, documents, what an operation means.
//!
//! It is long because one trait has all of FUSE's operations: each is decode, call, reply.

use std::ffi::OsStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::spool::{
    self, Attr, Caller, DirEntry, Errno, OpenMode, Operation, PageUse, Refusal, Spool, Validity,
    Wake,
};

use options::MountOptions;

mod kernel;
pub mod mountpoint;
pub mod mounts;
pub mod options;
mod service;
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

    /// Runs an operation and counts it. If it panics, its reply is dropped, and fuser answers `EIO`.
    fn run(&self, operation: Operation, answer: impl FnOnce() -> Answered) {
        let begun = Instant::now();
        let refused = catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|_| {
            tracing::error!(target: "retryspoolfs", "an operation failed inside; please report this");
            Some(Errno::EIO)
        });
        self.0
            .operations()
            .ended(operation, begun.elapsed(), refused);
    }

    /// For how long this kernel may remember: for long, where it can be told to forget.
    fn validity(&self, minor: u32) -> Validity {
        let second = spool::UNTOLD;
        let has_epoch = self.1.has_epoch(minor);
        let kept = match (self.0.has_feed(), has_epoch) {
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
        let wished = self.1.entry_timeout.unwrap_or(kept.names);
        Validity {
            names: if has_epoch { wished } else { kept.names },
            attributes: self.1.attr_timeout.unwrap_or(kept.attributes),
        }
    }
}

/// How an operation was answered: with an errno, or well.
type Answered = Option<Errno>;

/// Asks the kernel for what this mount uses; an older one goes without.
#[doc(hidden)]
pub fn negotiate(config: &mut KernelConfig) {
    for wanted in [
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        // A read through pages asks for the length first, where that is not known to be right.
        InitFlags::FUSE_AUTO_INVAL_DATA,
    ] {
        let _ = config.add_capabilities(wanted);
    }
    let _ = config.set_max_write(MAX_WRITE);
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
            Ok($value) => {
                $good;
                None
            }
            Err(refusal) => refuse!($reply, refusal),
        }
    };
}

/// Answers with a refusal.
macro_rules! refuse {
    ($reply:ident, $refusal:expr) => {{
        let refusal: Refusal = $refusal;
        $reply.error(fuser::Errno::from_i32(refusal.errno.number()));
        Some(refusal.errno)
    }};
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config);
        let version = config.kernel_abi();
        self.0.set_validity(self.validity(version.1));
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.run(Operation::Lookup, || {
            let found = self.0.lookup(&caller(request), parent.0, name);
            answer!(reply, found, |attr| {
                let Validity { names, attributes } = attr.validity;
                reply.entry_with_ttls(&attributes, &names, &file_attr(&attr), GENERATION)
            })
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        self.run(Operation::Forget, || {
            self.0.forget(ino.0, nlookup);
            None
        });
    }

    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.run(Operation::Getattr, || {
            let attr = self.0.getattr(&caller(request), ino.0, fh.map(|fh| fh.0));
            answer!(reply, attr, |attr| reply
                .attr(&attr.validity.attributes, &file_attr(&attr)))
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
        self.run(Operation::Setattr, || {
            let fh = fh.map(|fh| fh.0);
            let attr = self.0.setattr(&caller(request), ino.0, fh, size);
            answer!(reply, attr, |attr| reply
                .attr(&attr.validity.attributes, &file_attr(&attr)))
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
        self.run(Operation::Mknod, || {
            let spool = &self.0;
            refuse!(
                reply,
                spool.refuse_node(&caller(request), "mknod", parent.0, name)
            )
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
        self.run(Operation::Mkdir, || {
            refuse!(reply, self.0.refuse_mkdir(&caller(request), parent.0, name))
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
        self.run(Operation::Symlink, || {
            let spool = &self.0;
            refuse!(
                reply,
                spool.refuse_node(&caller(request), "symlink", parent.0, name)
            )
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
        self.run(Operation::Link, || {
            let spool = &self.0;
            refuse!(
                reply,
                spool.refuse_node(&caller(request), "link", new_parent.0, name)
            )
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.run(Operation::Unlink, || {
            let removed = self.0.unlink(&caller(request), parent.0, name);
            answer!(reply, removed, |()| reply.ok())
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.run(Operation::Rmdir, || {
            let spool = &self.0;
            refuse!(
                reply,
                spool.refuse_node(&caller(request), "rmdir", parent.0, name)
            )
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
        self.run(Operation::Rename, || {
            let no_replace = fuser::RenameFlags::RENAME_NOREPLACE;
            let flags = crate::spool::RenameFlags {
                no_replace: flags.contains(no_replace),
                other: !flags.difference(no_replace).is_empty(),
            };
            let (from, to) = ((parent.0, name), (new_parent.0, new_name));
            let renamed = self.0.rename(&caller(request), from, to, flags);
            answer!(reply, renamed, |()| reply.ok())
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.run(Operation::Open, || {
            let opened = self
                .0
                .open(&caller(request), ino.0, OpenMode::from(flags.0));
            answer!(reply, opened, |fh| {
                let judged = self.0.is_judged_at_close(fh);
                reply.opened(FileHandle(fh), fopen_flags(judged, self.0.page_use(fh)));
            })
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
        self.run(Operation::Create, || {
            let mode = OpenMode::from(flags);
            let created = self.0.create(&caller(request), parent.0, name, mode);
            answer!(reply, created, |(attr, fh)| {
                let flags = fopen_flags(self.0.is_judged_at_close(fh), PageUse::Past);
                reply.created(
                    &shorter(&attr),
                    &file_attr(&attr),
                    GENERATION,
                    FileHandle(fh),
                    flags,
                );
            })
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
        self.run(Operation::Read, || {
            let read = self.0.read(fh.0, offset, size as usize);
            answer!(reply, read, |bytes| reply.data(&bytes))
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
        self.run(Operation::Write, || {
            let written = self.0.write(fh.0, offset, data);
            answer!(reply, written, |()| reply.written(data.len() as u32))
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
        self.run(Operation::Flush, || {
            let closed = self.0.flush(&caller(request), fh.0);
            answer!(reply, closed, |()| reply.ok())
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
        self.run(Operation::Release, || {
            self.0.release(fh.0);
            reply.ok();
            None
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
        self.run(Operation::Fsync, || {
            let synced = self.0.fsync(&caller(request), fh.0);
            answer!(reply, synced, |()| reply.ok())
        });
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        notifier: PollNotifier,
        _events: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        self.run(Operation::Poll, || {
            let wanted = flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY);
            let wake = wanted.then(|| -> Wake {
                // A file that was closed meanwhile waits for nothing.
                Box::new(|| drop(notifier.notify()))
            });
            answer!(reply, self.0.poll(fh.0, wake), |is_readable| {
                let readable = PollEvents::POLLIN | PollEvents::POLLRDNORM;
                let writable = PollEvents::POLLOUT | PollEvents::POLLWRNORM;
                reply.poll(if is_readable {
                    readable | writable
                } else {
                    writable
                });
            })
        });
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.run(Operation::Opendir, || {
            answer!(reply, self.0.opendir(ino.0), |fh| {
                reply.opened(FileHandle(fh), FopenFlags::empty());
            })
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
        self.run(Operation::Readdir, || {
            let mut sink = |entry: &DirEntry| {
                !reply.add(
                    INodeNo(entry.ino),
                    entry.offset,
                    kind(entry.is_dir),
                    entry.name,
                )
            };
            let read = self.0.readdir(fh.0, offset, false, &mut sink);
            answer!(reply, read, |()| reply.ok())
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
        self.run(Operation::Readdir, || {
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
            answer!(reply, read, |()| reply.ok())
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
        self.run(Operation::Releasedir, || {
            self.0.releasedir(fh.0);
            reply.ok();
            None
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
        self.run(Operation::Fsyncdir, || {
            let synced = self.0.fsyncdir(&caller(request), ino.0);
            answer!(reply, synced, |()| reply.ok())
        });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.run(Operation::Statfs, || {
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
            })
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
        self.run(Operation::Setxattr, || {
            answer!(reply, self.0.setxattr(ino.0, name, value), |()| reply.ok())
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
        self.run(Operation::Getxattr, || {
            answer!(reply, self.0.getxattr(ino.0, name), |value| {
                give_xattr(reply, size, &value);
            })
        });
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.run(Operation::Listxattr, || {
            answer!(reply, self.0.listxattr(ino.0), |names| {
                let mut list = Vec::new();
                for name in names {
                    list.extend_from_slice(name.as_encoded_bytes());
                    list.push(0);
                }
                give_xattr(reply, size, &list);
            })
        });
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.run(Operation::Removexattr, || {
            answer!(reply, self.0.removexattr(ino.0, name), |()| reply.ok())
        });
    }
}

/// Most files are read and written past the page cache, so that handles keep apart what they see;
/// only where a close is judged has the kernel to tell of it.
fn fopen_flags(judged_at_close: bool, pages: PageUse) -> FopenFlags {
    let pages = match pages {
        PageUse::Past => FopenFlags::FOPEN_DIRECT_IO,
        PageUse::Fresh => FopenFlags::empty(),
        PageUse::Kept => FopenFlags::FOPEN_KEEP_CACHE,
    };
    if judged_at_close {
        pages
    } else {
        pages | FopenFlags::FOPEN_NOFLUSH
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
