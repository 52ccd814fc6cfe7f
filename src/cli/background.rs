//! A mount in the background: how it gets there, and who cleans up when it is killed.
//!
//! `mount` runs this program again, in the foreground, and waits until its mount answers. That
//! process forks: the child serves the mount; the parent, its guard, waits for the child's end and
//! takes away a mount that it left dead. Otherwise whoever looks gets "Transport endpoint is not
//! connected", and `mount -a` and automounters take the dead mount for a mount.
//!
//! Must not know: what a mount is made of.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::log::{self, LogLevel};
use crate::fuse::{mountpoint, mounts};

const READY: &[u8] = b"ready";

/// Runs this program again with these arguments, in the foreground, and waits until its mount
/// answers. Gives its exit code; if that is not 0, it printed why.
pub fn start(words: &[OsString]) -> io::Result<u8> {
    let (mut reader, writer) = pipe()?;
    let fd = writer.as_raw_fd();
    let (name, rest) = words
        .split_first()
        .ok_or(std::io::ErrorKind::InvalidInput)?;
    // By its path, so that a list of processes shows its name.
    let path = std::env::current_exe().ok().filter(|path| path.exists());
    let mut command = Command::new(path.unwrap_or_else(|| "/proc/self/exe".into()));
    command
        .arg0("retryspoolfs")
        .arg(name)
        .args(["--foreground".to_owned(), format!("--status-fd={fd}")])
        .args(rest)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // SAFETY: the call is safe between fork and exec, and touches nothing of the parent.
    unsafe {
        command.pre_exec(move || {
            libc::fcntl(fd, libc::F_SETFD, 0);
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    drop(writer);
    let mut said = Vec::new();
    reader.read_to_end(&mut said)?;
    if said == READY {
        return Ok(0);
    }
    let code = child.wait()?.code();
    Ok(code.map_or(2, |code| code.clamp(1, 255) as u8))
}

/// Those who wait to hear that the mount answers: the starting process, and the guard.
pub struct Waiting {
    starter: File,
    guard: File,
}

impl Waiting {
    /// Leaves the guard behind, and goes on as its child. This process has one thread so far;
    /// `status` is the descriptor that [`start`] told it.
    pub fn behind(status: RawFd, level: LogLevel) -> io::Result<Waiting> {
        // SAFETY: the starting process opened it for this and gave it to nobody else.
        let starter = unsafe { File::from_raw_fd(status) };
        let (reader, writer) = pipe()?;
        // SAFETY: with one thread, the child may do what it likes.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                show_as(c"retryspoolfs");
                Ok(Waiting {
                    starter,
                    guard: writer.into(),
                })
            }
            child => {
                drop((starter, writer));
                guard(child, reader, level)
            }
        }
    }

    /// Tells them that the mount there answers, and lets go of the starter's terminal, session and
    /// directory. Not before: an automounter knows its own mount by the process group.
    pub fn ready(mut self, mountpoint: &Path) {
        // SAFETY: the call has no preconditions.
        unsafe { libc::setsid() };
        log::detach();
        let _ = std::env::set_current_dir("/");
        detach_stream(2);
        if let Some(mounted) = mounts::mounted_at(mountpoint) {
            let mut told = mounted.id.to_ne_bytes().to_vec();
            told.extend(mountpoint.as_os_str().as_bytes());
            let _ = self.guard.write_all(&told);
        }
        drop(self.guard);
        let _ = self.starter.write_all(READY);
    }
}

/// Waits for the child's end, takes away a mount that it left, and ends as it did. The signals
/// that tell the child to end are the child's affair.
fn guard(child: libc::pid_t, mut told: File, level: LogLevel) -> ! {
    show_as(c"retryspoolguard");
    // SAFETY: the calls have no preconditions.
    unsafe {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::setsid();
    }
    let _ = std::env::set_current_dir("/");
    [0, 1, 2].into_iter().for_each(detach_stream);
    let mut mounted = Vec::new();
    let _ = told.read_to_end(&mut mounted);
    let mut status = 0;
    // SAFETY: there is room for the status, and nobody else waits for the child.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    // One that ended well has unmounted, and its number may be that of the next mount.
    if status != 0
        && let Some((id, path)) = mounted.split_first_chunk()
    {
        let path = Path::new(OsStr::from_bytes(path));
        match mountpoint::take_away(path, u64::from_ne_bytes(*id)) {
            Ok(false) => {}
            taken => {
                log::begin(level);
                log::detach();
                let how = match libc::WIFSIGNALED(status) {
                    true => format!("was killed by signal {}", libc::WTERMSIG(status)),
                    false => format!("ended with {}", libc::WEXITSTATUS(status)),
                };
                let then = match taken {
                    Ok(_) => "its mount was taken away".to_owned(),
                    Err(error) => format!("its mount can't be taken away: {error}"),
                };
                let shown = path.display();
                tracing::error!(target: "retryspoolfs", "mount {shown}: its process {how}; {then}");
            }
        }
    }
    std::process::exit(match libc::WIFEXITED(status) {
        true => libc::WEXITSTATUS(status),
        false => 2,
    })
}

/// Sets what the system shows as this process's name. The guard's is another than the daemon's, for
/// whom "pkill -x retryspoolfs" is meant.
fn show_as(name: &CStr) {
    // SAFETY: the name is a C string, of which the kernel makes a copy.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Makes a standard stream /dev/null.
fn detach_stream(stream: RawFd) {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        // SAFETY: both descriptors are open.
        unsafe { libc::dup2(null.as_raw_fd(), stream) };
    }
}

fn pipe() -> io::Result<(File, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let reader: OwnedFd = reader.into();
    Ok((reader.into(), writer.into()))
}
