//! The operations, as straight system calls, each timed.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::spools::{DIRS, document_of, edited, name};

/// A directory tree with the messages in it.
pub struct Tree {
    pub root: PathBuf,
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path without NUL")
}

fn check(returned: i32, path: &Path) {
    if returned < 0 {
        panic!("{}: {}", path.display(), io::Error::last_os_error());
    }
}

/// How long it took, without what comes before.
fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

/// Makes the kernel drop names, inodes and what hangs on them.
pub fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "2").expect("root drops caches");
}

impl Tree {
    pub fn file(&self, dir: usize, n: u64) -> PathBuf {
        self.root.join(DIRS[dir]).join(name(n) + ".json")
    }

    pub fn stat(&self, n: u64) -> Duration {
        let path = self.file(0, n);
        let c = c_path(&path);
        // SAFETY: a C string, and room for what is found.
        timed(|| unsafe {
            let mut found = std::mem::zeroed::<libc::stat>();
            check(libc::lstat(c.as_ptr(), &mut found), &path);
        })
    }

    pub fn cat(&self, n: u64) -> Duration {
        let path = self.file(0, n);
        let c = c_path(&path);
        let mut buffer = [0_u8; 131_072];
        timed(|| {
            // SAFETY: a C string, a descriptor that was just opened, and a buffer of that size.
            unsafe {
                let fd = libc::open(c.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
                check(fd, &path);
                while libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) > 0 {}
                libc::close(fd);
            }
        })
    }

    pub fn rename(&self, from: usize, to: usize, n: u64) -> Duration {
        let (from, to) = (self.file(from, n), self.file(to, n));
        let (a, b) = (c_path(&from), c_path(&to));
        // SAFETY: two C strings.
        timed(|| check(unsafe { libc::rename(a.as_ptr(), b.as_ptr()) }, &from))
    }

    pub fn unlink(&self, n: u64) -> Duration {
        let path = self.file(0, n);
        let c = c_path(&path);
        // SAFETY: a C string.
        timed(|| check(unsafe { libc::unlink(c.as_ptr()) }, &path))
    }

    /// A new message by a temporary file and a rename; with `sync`, file and directory are synced
    /// as RetrySpool's filesystem store does.
    pub fn create(&self, n: u64, sync: bool) -> Duration {
        let path = self.file(0, n);
        let temporary = path.with_extension("json.tmp.1a2b3c4d");
        let document = document_of(n);
        timed(|| {
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&temporary).expect("a temporary file");
            file.write_all(&document).expect("a document");
            if sync {
                file.sync_all().expect("fsync");
            }
            drop(file);
            fs::rename(&temporary, &path).expect("its name");
            if sync {
                self.sync_dir(0);
            }
        })
    }

    pub fn update(&self, n: u64, round: u64, sync: bool) -> Duration {
        let path = self.file(0, n);
        let document = edited(n, round);
        timed(|| {
            let mut options = fs::OpenOptions::new();
            options.write(true).truncate(true);
            let mut file = options.open(&path).expect("a message");
            file.write_all(&document).expect("a document");
            if sync {
                file.sync_all().expect("fsync");
            }
            // The close is what commits where there was no fsync.
            // SAFETY: the descriptor is the file's, which gave it up.
            let closed = unsafe { libc::close(std::os::fd::IntoRawFd::into_raw_fd(file)) };
            check(closed, &path);
        })
    }

    pub fn sync_dir(&self, dir: usize) {
        let dir = File::open(self.root.join(DIRS[dir])).expect("a directory");
        dir.sync_all().expect("fsync of a directory");
    }

    /// All names of the first directory, and how many there were.
    pub fn list(&self, each: impl FnMut(&std::ffi::CStr)) -> u64 {
        let dir = File::open(self.root.join(DIRS[0])).expect("a directory");
        list(&dir, each)
    }

    /// The same with lstat(2) of each: `ls -l`.
    pub fn list_long(&self) -> u64 {
        let dir = File::open(self.root.join(DIRS[0])).expect("a directory");
        let fd = dir.as_raw_fd();
        list(&dir, |name| {
            // SAFETY: an open directory, a C string, and room for what is found.
            unsafe {
                let mut found = std::mem::zeroed::<libc::stat>();
                let flags = libc::AT_SYMLINK_NOFOLLOW;
                if libc::fstatat(fd, name.as_ptr(), &mut found, flags) != 0 {
                    panic!("{name:?}: {}", io::Error::last_os_error());
                }
            }
        })
    }

    /// stat(2) of the directory by its server, not by what the kernel remembers.
    pub fn count(&self) -> Duration {
        let path = self.root.join(DIRS[0]);
        let c = c_path(&path);
        // SAFETY: a C string, and room for what is found.
        timed(|| unsafe {
            let mut found = std::mem::zeroed::<libc::statx>();
            let (flags, mask) = (libc::AT_STATX_FORCE_SYNC, libc::STATX_BASIC_STATS);
            check(
                libc::statx(libc::AT_FDCWD, c.as_ptr(), flags, mask, &mut found),
                &path,
            );
        })
    }
}

fn list(dir: &File, mut each: impl FnMut(&std::ffi::CStr)) -> u64 {
    let mut buffer = vec![0_u8; 32_768];
    let mut found = 0;
    loop {
        // SAFETY: an open directory and a buffer of that size.
        let got = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                dir.as_raw_fd(),
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
        assert!(got >= 0, "getdents64: {}", io::Error::last_os_error());
        if got == 0 {
            return found;
        }
        let mut at = 0;
        while at < got as usize {
            // linux_dirent64: 8 bytes inode, 8 offset, 2 length, 1 type, the name.
            let length = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
            let name = &buffer[at + 19..at + length];
            let name = std::ffi::CStr::from_bytes_until_nul(name).expect("a name");
            if !name.to_bytes().starts_with(b".") {
                found += 1;
                each(name);
            }
            at += length;
        }
    }
}
