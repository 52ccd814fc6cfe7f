//! System calls of this process on a mount, with the errno of each, that of close(2) too, which
//! the standard library drops.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The name of an errno, so that a failed test shows which one came.
#[derive(PartialEq, Eq, Clone, Copy)]
pub struct Named(pub i32);

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.0))
    }
}

/// What a call returned, comparable: `Ok(())`, or the errno.
pub fn errno<T>(result: io::Result<T>) -> Result<(), Named> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => Err(Named(error.raw_os_error().unwrap_or(0))),
    }
}

fn check(returned: i32) -> io::Result<()> {
    match returned {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

pub fn open(path: impl AsRef<Path>, flags: i32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    match flags & libc::O_ACCMODE {
        libc::O_RDONLY => options.read(true),
        libc::O_WRONLY => options.write(true),
        _ => options.read(true).write(true),
    };
    // The standard library refuses O_CREAT among the custom flags' peers, but passes it on.
    options
        .custom_flags(flags & !libc::O_ACCMODE)
        .mode(0o600)
        .open(path)
}

/// Opens as `>` does.
pub fn create(path: impl AsRef<Path>) -> io::Result<File> {
    open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)
}

/// Closes, and says how that went.
pub fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor was the file's own, which gave it up.
    check(unsafe { libc::close(file.into_raw_fd()) })
}

/// Writes all of it, in one call where the kernel takes it whole.
pub fn write(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)
}

/// Create or truncate, write, close: what `cp` does. The first error of the three.
pub fn store(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let file = create(path)?;
    write(&file, bytes.as_ref())?;
    close(file)
}

pub fn truncate(file: &File, length: i64) -> io::Result<()> {
    // SAFETY: a descriptor that is open and a number.
    check(unsafe { libc::ftruncate(file.as_raw_fd(), length) })
}

pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    rename_with(from, to, 0)
}

/// renameat2(2) with its flags.
pub fn rename_with(from: impl AsRef<Path>, to: impl AsRef<Path>, flags: u32) -> io::Result<()> {
    let (from, to) = (c_path(from.as_ref()), c_path(to.as_ref()));
    let here = libc::AT_FDCWD;
    // SAFETY: both paths end in a NUL and outlive the call.
    check(unsafe { libc::renameat2(here, from.as_ptr(), here, to.as_ptr(), flags) })
}

/// What stat(2) tells, without following the tests' own assumptions about types.
pub fn stat(path: impl AsRef<Path>) -> io::Result<impl MetadataExt> {
    std::fs::symlink_metadata(path)
}
