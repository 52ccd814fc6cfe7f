//! The directory that a spool is mounted on: what is checked before, and how it is given back.
//!
//! May fail: with one line that tells what to do.

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::mounts;
use super::options::MountOptions;

/// Why nothing was mounted or unmounted: one line. The kinds are those of mount(8)'s exit codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The command line makes no sense, or this user may not.
    Refused(String),
    /// The system would not do its part.
    System(String),
    /// It can't be mounted.
    Mount(String),
}

impl Failure {
    /// The line.
    pub fn text(&self) -> &str {
        match self {
            Failure::Refused(text) | Failure::System(text) | Failure::Mount(text) => text,
        }
    }

    /// What mount(8) exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Refused(_) => 1,
            Failure::System(_) => 2,
            Failure::Mount(_) => 32,
        }
    }
}

/// Makes sure that this user can mount something there, and gives the path without links. A dead
/// mount is taken away first.
pub fn check(mountpoint: &Path, options: &MountOptions) -> Result<PathBuf, Failure> {
    check_permission(options)?;
    let shown = mountpoint.display();
    if is_dead(mountpoint) {
        detach(mountpoint).map_err(|error| {
            Failure::Mount(format!("mountpoint {shown}: a dead mount is there and can't be taken away: {error}; try: umount -l {shown}"))
        })?;
    }
    let metadata = fs::metadata(mountpoint).map_err(|error| {
        Failure::Mount(match error.kind() {
            io::ErrorKind::NotFound => {
                format!("mountpoint {shown} does not exist; make it: mkdir -p {shown}")
            }
            io::ErrorKind::PermissionDenied => {
                format!("mountpoint {shown}: {error}; mount on a directory of your own")
            }
            _ => format!("mountpoint {shown}: {error}"),
        })
    })?;
    if !metadata.is_dir() {
        let text = format!("mountpoint {shown} is not a directory; give one, or make it: mkdir");
        return Err(Failure::Mount(text));
    }
    let path = fs::canonicalize(mountpoint)
        .map_err(|error| Failure::Mount(format!("mountpoint {shown}: {error}")))?;
    if let Some(mounted) = mounts::mounted_at(&path) {
        return Err(Failure::Mount(format!(
            "{shown} is mounted already, with {}; unmount it first: umount {shown}",
            mounted.source.display()
        )));
    }
    Ok(path)
}

/// Whether a mount is there whose daemon is gone. What the kernel remembers of it does not count.
fn is_dead(mountpoint: &Path) -> bool {
    ask(mountpoint).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}

/// Asks the filesystem that the path is on, past all that the kernel remembers. It may hang.
pub fn ask(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statx>::uninit();
    // SAFETY: the path is a C string, and `found` has room for what statx writes.
    let answer = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_STATX_FORCE_SYNC,
            libc::STATX_BASIC_STATS,
            found.as_mut_ptr(),
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What can be known to fail before anything is tried.
fn check_permission(options: &MountOptions) -> Result<(), Failure> {
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/fuse") {
        return Err(match error.kind() {
            io::ErrorKind::NotFound => Failure::System(
                "/dev/fuse does not exist: the kernel has no FUSE; try: modprobe fuse".into(),
            ),
            io::ErrorKind::PermissionDenied => Failure::Refused(
                "/dev/fuse may not be opened by this user; an administrator allows it: chmod 0666 /dev/fuse".into(),
            ),
            _ => Failure::System(format!("/dev/fuse: {error}")),
        });
    }
    // SAFETY: the call has no preconditions, and does not fail.
    let uid = unsafe { libc::geteuid() };
    if uid != 0 && options.allow_other {
        let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
        if !conf.lines().any(|line| line.trim() == "user_allow_other") {
            return Err(Failure::Refused("-o allow_other: a user may not ask for it here; an administrator allows it with the line user_allow_other in /etc/fuse.conf".into()));
        }
    }
    Ok(())
}

/// Why the kernel or the mount helper did not mount.
pub(super) fn explain(error: &io::Error, mountpoint: &str) -> Failure {
    let text = error.to_string();
    let text = text.trim();
    match error.kind() {
        io::ErrorKind::NotFound if text.contains("os error 2") => Failure::Mount(format!(
            "mount {mountpoint}: fusermount3 is not installed, and only root mounts without it; install it: apt-get install fuse3"
        )),
        io::ErrorKind::PermissionDenied => Failure::Refused(format!(
            "mount {mountpoint}: {text}; the mountpoint has to be a directory of yours"
        )),
        _ => Failure::Mount(format!("mount {mountpoint}: {text}")),
    }
}

/// Unmounts what nobody uses.
pub fn unmount(mountpoint: &Path) -> io::Result<()> {
    umount2(mountpoint, 0, &["-u"])
}

/// Takes a mount out of the tree at once; it ends when nobody uses it.
pub fn detach(mountpoint: &Path) -> io::Result<()> {
    umount2(mountpoint, libc::MNT_DETACH, &["-u", "-z"])
}

/// Takes the mount of this number out of the tree, if it is dead and what lies on top there; whether
/// it was. What is mounted there meanwhile stays, also under the same number: the kernel gives the
/// numbers of ended mounts again.
pub fn take_away(mountpoint: &Path, id: u64) -> io::Result<bool> {
    let on_top = || mounts::mounted_at(mountpoint).is_some_and(|mounted| mounted.id == id);
    if !on_top() {
        return Ok(false);
    }
    // A handle on that very mount, whatever becomes of the path.
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let mut options = fs::File::options();
    let top = options.read(true).custom_flags(flags).open(mountpoint)?;
    let handle = PathBuf::from(format!("/proc/self/fd/{}", top.as_raw_fd()));
    if !on_top() || !is_dead(&handle) {
        return Ok(false);
    }
    let path = CString::new(handle.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string that outlives the call.
    if unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        // A user's mount, for which the helper wants the path.
        error if error.raw_os_error() == Some(libc::EPERM) => {
            drop(top);
            detach(mountpoint).map(|()| true)
        }
        error => Err(error),
    }
}

fn umount2(mountpoint: &Path, flags: i32, fusermount: &[&str]) -> io::Result<()> {
    let path = CString::new(mountpoint.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string that outlives the call.
    if unsafe { libc::umount2(path.as_ptr(), flags | libc::UMOUNT_NOFOLLOW) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EPERM) {
        return Err(error);
    }
    // A user's mount: the setuid helper made it and takes it away.
    let helper = Command::new("fusermount3")
        .args(fusermount)
        .arg("--")
        .arg(mountpoint)
        .output()?;
    if helper.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&helper.stderr).trim().to_owned();
    Err(match reason.contains("busy") {
        true => io::Error::from_raw_os_error(libc::EBUSY),
        false => io::Error::other(reason),
    })
}

/// Why an unmount failed, and who is in the way.
pub fn in_the_way(mountpoint: &Path, error: &io::Error) -> String {
    if error.raw_os_error() != Some(libc::EBUSY) {
        return error.to_string();
    }
    const SHOWN: usize = 5;
    let users = mounts::users(mountpoint);
    let more = users.len().saturating_sub(SHOWN);
    let who = match (users.is_empty(), more) {
        (true, _) => "no process that this user may look at".to_owned(),
        (_, 0) => users.join(", "),
        (_, more) => format!("{} and {more} more", users[..SHOWN].join(", ")),
    };
    format!("it is in use; in the way: {who}")
}
