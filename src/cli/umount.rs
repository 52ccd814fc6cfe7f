//! `retryspoolfs umount`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::Failure;
use crate::fuse::{mountpoint, mounts};

/// Unmount a spool.
///
/// What is in use is not unmounted; the command then names who is in the way. Works for the user
/// who mounted it, and for root; also where the mount hangs, or its daemon was killed.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The directory that it is mounted on
    mountpoint: PathBuf,
    /// Take it out of the tree at once; it ends when nobody uses it any more
    #[arg(short, long)]
    lazy: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let shown = arguments.mountpoint.display();
    let mountpoint =
        place(&arguments.mountpoint).map_err(|error| format!("umount {shown}: {error}"))?;
    // This process is in nobody's way.
    let _ = std::env::set_current_dir("/");
    match mounts::mounted_at(&mountpoint) {
        Some(mounted) if mounted.is_ours() => {}
        _ => {
            return Err(format!(
                "umount {shown}: no spool is mounted there; see: findmnt -t {}",
                mounts::KIND
            )
            .into());
        }
    }
    let done = match arguments.lazy {
        true => mountpoint::detach(&mountpoint),
        false => mountpoint::unmount(&mountpoint),
    };
    done.map_err(|error| {
        let hint = match error.raw_os_error() {
            Some(libc::EBUSY) => "; end them, or use --lazy",
            _ => "",
        };
        let why = mountpoint::in_the_way(&mountpoint, &error);
        Failure::from(format!("umount {shown}: {why}{hint}"))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The path without links, found without touching what is mounted there, which may hang.
fn place(mountpoint: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(mountpoint)?;
    if let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) {
        let place = std::fs::canonicalize(parent)?.join(name);
        if mounts::mounted_at(&place).is_some() {
            return Ok(place);
        }
    }
    std::fs::canonicalize(mountpoint)
}
