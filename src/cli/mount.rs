//! `retryspoolfs mount`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Args;

use super::{Failure, log};
use crate::backend::locator::OpenOptions;
use crate::fuse::options::MountOptions;
use crate::fuse::session::{Mount, check_mountpoint};

/// Mount a spool: five directories of JSON files, one file a message.
///
/// The command returns when the mount answers, and the mount goes on in the background; unmount
/// it with umount(8), or as a user with "fusermount3 -u". With --foreground it stays, logs to
/// standard error, and SIGINT or SIGTERM unmounts.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The spool: sqlite:PATH, or a path
    spool: std::ffi::OsString,
    /// The directory to mount it on
    mountpoint: PathBuf,
    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,
    /// Mount options, separated by commas: ro, allow_other, uid=N, gid=N, umask=OCTAL,
    /// fmode=OCTAL, dmode=OCTAL, nodelete, sync, archived, create, busy_timeout=SECONDS
    #[arg(short, long = "options", value_name = "OPTIONS")]
    options: Vec<String>,
    /// Where the process in the background reports that the mount answers
    #[arg(long, hide = true)]
    status_fd: Option<RawFd>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let locator = super::locator(&arguments.spool)?;
    let mut options = MountOptions::default();
    for text in &arguments.options {
        options.add(text)?;
    }
    if !arguments.foreground {
        return in_background(std::env::args_os().skip(1));
    }
    log::begin();
    let mountpoint = check_mountpoint(&arguments.mountpoint)?;
    let locator = locator
        .absolute()
        .map_err(|error| format!("{}: {error}", arguments.spool.display()))?;
    let store = locator
        .open(OpenOptions {
            read_only: options.read_only,
            create: options.create,
            sync: options.sync,
            ..OpenOptions::default()
        })
        .map_err(|error| format!("mount {locator}: {error}"))?;
    let mount = Mount {
        store,
        source: locator.to_string(),
        mountpoint,
        scratch_dir: locator.scratch_dir(),
        options,
    };
    let status = arguments.status_fd;
    mount.run(|| {
        if let Some(fd) = status {
            report_ready(fd);
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs this program again with the same arguments, in the foreground of a session of its own,
/// and waits until its mount answers. A failure was printed by then.
pub fn in_background(
    arguments: impl Iterator<Item = std::ffi::OsString>,
) -> Result<ExitCode, Failure> {
    let failed =
        |error: std::io::Error| format!("mount: the background process can't be started: {error}");
    let (mut reader, writer) = pipe().map_err(failed)?;
    let fd = writer.as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    command
        .args(arguments)
        .arg("--foreground")
        .arg(format!("--status-fd={fd}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // SAFETY: both calls are safe between fork and exec, and touch nothing of the parent.
    unsafe {
        command.pre_exec(move || {
            libc::setsid();
            libc::fcntl(fd, libc::F_SETFD, 0);
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(failed)?;
    drop(writer);
    let mut said = Vec::new();
    reader.read_to_end(&mut said).map_err(failed)?;
    if said == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait().map_err(failed)?;
    Ok(ExitCode::from(
        status.code().map_or(1, |code| code.clamp(1, 255) as u8),
    ))
}

const READY: &[u8] = b"ready";

/// Tells the starting process that the mount answers, and lets go of its terminal and directory.
fn report_ready(fd: RawFd) {
    // SAFETY: the starting process opened it for this and gave it to nobody else.
    let mut status = unsafe { File::from_raw_fd(fd) };
    log::detach();
    let _ = std::env::set_current_dir(Path::new("/"));
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        // SAFETY: both descriptors are open.
        unsafe { libc::dup2(null.as_raw_fd(), 2) };
    }
    let _ = status.write_all(READY);
}

fn pipe() -> std::io::Result<(File, OwnedFd)> {
    let (reader, writer) = std::io::pipe()?;
    let reader: OwnedFd = reader.into();
    Ok((reader.into(), writer.into()))
}
