//! A mount's life: from the checks before it to the unmount.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fuser::{Config, MountOption, SessionACL};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Adapter;
use super::kernel::Kernel;
use super::mounts;
use super::options::MountOptions;
use crate::backend::Backend;
use crate::spool::{Follower, Options, Ownership, Spool};

/// Threads that serve requests. A request may wait for a busy store, so there are more than cores.
const THREADS: usize = 8;

/// Why nothing was mounted: one line.
pub type Failure = String;

/// What a mount is made of.
pub struct Mount {
    /// The store, opened.
    pub store: Box<dyn Backend>,
    /// What the mount table shows as its source.
    pub source: String,
    /// Where it is mounted; see [`check_mountpoint`].
    pub mountpoint: PathBuf,
    /// Where scratch files are put that would be lost otherwise.
    pub scratch_dir: Option<PathBuf>,
    pub options: MountOptions,
}

/// Makes sure that something can be mounted there, and gives the path without links. A dead mount
/// of this program is taken away first.
pub fn check_mountpoint(mountpoint: &Path) -> Result<PathBuf, Failure> {
    let shown = mountpoint.display();
    if is_dead(mountpoint) {
        detach(mountpoint).map_err(|error| {
            format!("mountpoint {shown}: a dead mount is there and can't be taken away: {error}; try: umount -l {shown}")
        })?;
    }
    let metadata = fs::metadata(mountpoint).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!("mountpoint {shown} does not exist; make it: mkdir -p {shown}")
        }
        _ => format!("mountpoint {shown}: {error}"),
    })?;
    if !metadata.is_dir() {
        return Err(format!("mountpoint {shown} is not a directory"));
    }
    let path =
        fs::canonicalize(mountpoint).map_err(|error| format!("mountpoint {shown}: {error}"))?;
    // An automounter's own entry waits for just this mount.
    if let Some(there) = mounts::mounted_at(&path).filter(|there| there.kind != b"autofs") {
        return Err(format!(
            "{shown} is mounted already, with {}; unmount it first: umount {shown}",
            there.source.display()
        ));
    }
    Ok(path)
}

/// Whether a mount is there whose daemon is gone. What the kernel remembers of it does not count.
fn is_dead(mountpoint: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(mountpoint.as_os_str().as_bytes()) else {
        return false;
    };
    let mut found = std::mem::MaybeUninit::<libc::statx>::uninit();
    // SAFETY: the path is a C string, and `found` has room for what statx writes.
    let answer = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_STATX_FORCE_SYNC,
            libc::STATX_TYPE,
            found.as_mut_ptr(),
        )
    };
    answer != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOTCONN)
}

impl Mount {
    /// Mounts, calls `ready` once the mount answers, serves until it is unmounted, and closes the
    /// store. SIGTERM and SIGINT unmount; a second one does so lazily.
    pub fn run(self, ready: impl FnOnce()) -> Result<(), Failure> {
        let shown = self.mountpoint.display().to_string();
        // SAFETY: neither call has preconditions, and neither fails.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        check_permission(uid, &self.options)?;
        let (fmode, dmode) = self.options.modes();
        let options = Options {
            read_only: self.options.read_only,
            no_delete: self.options.no_delete,
            archived: self.options.archived,
            ownership: Ownership {
                uid: self.options.uid.unwrap_or(uid),
                gid: self.options.gid.unwrap_or(gid),
                fmode,
                dmode,
            },
            control_owner: (uid, gid),
            busy_timeout: self.options.busy_timeout.unwrap_or(Duration::from_secs(1)),
            scratch_dir: self.scratch_dir,
        };
        let spool = Arc::new(Spool::new(self.store, options));
        let config = config(&self.source, &self.options, uid);
        let adapter = Adapter::new(spool.clone(), self.options);
        let session = fuser::Session::new(adapter, &self.mountpoint, &config);
        let session = match session {
            Ok(session) => session,
            Err(error) => {
                spool.close();
                return Err(explain(&error, &shown));
            }
        };
        let kernel = Kernel::of(&session).map_err(|error| format!("mount {shown}: {error}"))?;
        spool.set_invalidator(Box::new(kernel));
        let ended = Arc::new(AtomicBool::new(false));
        // It stands at the newest change before the first request is answered.
        let mut follower = Follower::default();
        if let Err(error) = spool.follow(&mut follower, Duration::ZERO) {
            spool.close();
            return Err(format!("mount {shown}: {error}"));
        }
        let follower = thread::spawn({
            let (spool, ended) = (spool.clone(), ended.clone());
            move || follow(&spool, follower, &ended)
        });
        let mut signals = Signals::new([SIGTERM, SIGINT])
            .map_err(|error| format!("mount {shown}: signals can't be caught: {error}"))?;
        let stop = signals.handle();
        let waiter = thread::spawn({
            let mountpoint = self.mountpoint.clone();
            move || {
                for (nth, _) in signals.forever().enumerate() {
                    unmount_on_signal(&mountpoint, nth > 0);
                }
            }
        });
        let tidier = thread::spawn({
            let (spool, ended) = (spool.clone(), ended.clone());
            move || {
                while !ended.load(Ordering::Relaxed) {
                    spool.tidy();
                    thread::park_timeout(Duration::from_secs(1));
                }
            }
        });
        let served = serve(session, ready);
        ended.store(true, Ordering::Relaxed);
        tidier.thread().unpark();
        stop.close();
        let _ = (tidier.join(), waiter.join(), follower.join());
        spool.release_all();
        spool.close();
        served.map_err(|error| {
            // Whatever ended it, a mount that nobody serves must not stay.
            let _ = detach(&self.mountpoint);
            format!("mount {shown}: {error}")
        })
    }
}

/// Serves requests until the mount is gone.
///
/// fuser unmounts a session's mountpoint when the session is dropped, also after somebody else
/// unmounted it, and would take away what was mounted there since: the next mount of the same
/// spool. So its handle on the mount is leaked, and every unmount here is one that was asked for.
fn serve(session: fuser::Session<Adapter>, ready: impl FnOnce()) -> io::Result<()> {
    let mut running = session.spawn()?;
    let nobody = thread::spawn(|| Ok(()));
    let server = std::mem::replace(&mut running.guard, nobody);
    std::mem::forget(running);
    ready();
    server
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("a thread of the mount ended in a panic")))
}

/// Follows the store's changes until the mount ends.
fn follow(spool: &Spool, mut follower: Follower, ended: &AtomicBool) {
    let mut healthy = true;
    while !ended.load(Ordering::Relaxed) {
        match spool.follow(&mut follower, Duration::from_millis(250)) {
            Ok(()) => healthy = true,
            Err(error) => {
                if std::mem::replace(&mut healthy, false) {
                    tracing::error!(target: "retryspoolfs", "changes by other programs can't be followed: {error}");
                }
                spool.forget_all();
                thread::park_timeout(Duration::from_secs(1));
            }
        }
    }
}

fn config(source: &str, options: &MountOptions, uid: u32) -> Config {
    // fusermount3 splits its option list at commas; the kernel gets the source by itself.
    let source = if uid == 0 {
        source.to_owned()
    } else {
        source.replace('\\', "\\\\").replace(',', "\\,")
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(source),
        // Not `Subtype`, which a direct mount would drop.
        MountOption::CUSTOM("subtype=retryspoolfs".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoExec,
        MountOption::NoSuid,
        MountOption::NoDev,
    ];
    if options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    if options.allow_other {
        config.acl = SessionACL::All;
    }
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config
}

/// What can be known to fail before anything is tried.
fn check_permission(uid: u32, options: &MountOptions) -> Result<(), Failure> {
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/fuse") {
        return Err(match error.kind() {
            io::ErrorKind::NotFound => {
                "/dev/fuse does not exist: the kernel has no FUSE; try: modprobe fuse".to_owned()
            }
            io::ErrorKind::PermissionDenied => {
                "/dev/fuse may not be opened by this user; an administrator allows it: chmod 0666 /dev/fuse".to_owned()
            }
            _ => format!("/dev/fuse: {error}"),
        });
    }
    if uid != 0 && options.allow_other {
        let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
        if !conf.lines().any(|line| line.trim() == "user_allow_other") {
            return Err("-o allow_other: a user may not ask for it here; an administrator allows it with the line user_allow_other in /etc/fuse.conf".into());
        }
    }
    Ok(())
}

fn explain(error: &io::Error, mountpoint: &str) -> Failure {
    let text = error.to_string();
    let text = text.trim();
    match error.kind() {
        io::ErrorKind::NotFound if text.contains("os error 2") => format!(
            "mount {mountpoint}: fusermount3 is not installed, and only root mounts without it; install it: apt-get install fuse3"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("mount {mountpoint}: {text}; the mountpoint has to be a directory of yours")
        }
        _ => format!("mount {mountpoint}: {text}"),
    }
}

fn unmount_on_signal(mountpoint: &Path, lazily: bool) {
    let shown = mountpoint.display();
    let unmounted = if lazily {
        detach(mountpoint)
    } else {
        unmount(mountpoint)
    };
    if let Err(error) = unmounted {
        tracing::error!(target: "retryspoolfs", "unmount {shown}: {error}; a second signal unmounts it as soon as nobody uses it");
    }
}

/// Unmounts what nobody uses.
fn unmount(mountpoint: &Path) -> io::Result<()> {
    umount2(mountpoint, 0, &["-u"])
}

/// Takes a mount out of the tree at once; it ends when nobody uses it.
fn detach(mountpoint: &Path) -> io::Result<()> {
    umount2(mountpoint, libc::MNT_DETACH, &["-u", "-z"])
}

fn umount2(mountpoint: &Path, flags: i32, fusermount: &[&str]) -> io::Result<()> {
    let path = std::ffi::CString::new(mountpoint.as_os_str().as_bytes())?;
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
    let reason = String::from_utf8_lossy(&helper.stderr);
    Err(io::Error::other(reason.trim().to_owned()))
}
