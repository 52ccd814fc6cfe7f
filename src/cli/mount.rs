//! `retryspoolfs mount`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use parking_lot::Mutex;

use super::background::{self, Waiting};
use super::log::LogLevel;
use super::place::not_opened;
use super::{Failure, health, log};
use crate::backend::locator::{Locator, OpenOptions};
use crate::fuse::mountpoint;
use crate::fuse::options::MountOptions;
use crate::fuse::session::{Host, Mount};

/// Mount a spool: five directories of JSON files, one file a message.
///
/// The command returns when the mount answers, and the mount goes on in the background. Its log
/// goes to the journal, or to syslog; a second small process takes the mount away should the first
/// one be killed. Unmount it with umount(8) or "retryspoolfs umount", as a
/// user also with "fusermount3 -u". With --foreground it stays, and logs to standard error.
///
/// SIGTERM and SIGINT unmount it; if it is in use the log says by whom, and it stays. A second
/// signal detaches it: it ends when nobody uses it any more. A third one ends it at once. SIGHUP
/// goes to log level "debug" and back.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER)]
pub struct Arguments {
    /// The spool: sqlite:PATH, dir:PATH, or a path
    spool: OsString,
    /// The directory to mount it on
    mountpoint: PathBuf,
    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,
    /// Mount options, separated by commas; see below
    #[arg(short, long = "options", value_name = "OPTIONS")]
    options: Vec<String>,
    /// Which lines are logged: those of this level and of the ones before it
    #[arg(long, value_name = "LEVEL", env = log::VARIABLE, default_value = "info")]
    log_level: LogLevel,
    /// The call came from mount(8): options that mean nothing here are no error
    #[arg(long, hide = true)]
    from_mount: bool,
    /// Unknown options are no error
    #[arg(long, hide = true)]
    sloppy: bool,
    /// Check everything and mount nothing
    #[arg(long, hide = true)]
    fake: bool,
    /// The mount namespace to mount in, as a path in /proc
    #[arg(long, hide = true)]
    namespace: Option<PathBuf>,
    /// Where the process in the background reports that the mount answers
    #[arg(long, hide = true)]
    status_fd: Option<RawFd>,
}

/// What the help and the manual pages say of options and exit codes.
pub const AFTER: &str = "\
Mount options:
  ro                     nothing can be changed, and nothing is written to the spool
  allow_other            other users may look in, as far as permissions let them
  uid=N, gid=N           the owner and group that are shown (yours)
  umask=, fmode=, dmode= permissions of both, of files (0600), of directories (0700), in octal
  nodelete               rm of a message is refused
  sync                   every change is on disk before its call returns
  archived               shows the directory of RetrySpool's sixth state
  create                 makes a spool that does not exist
  busy_timeout=SECONDS   how long mv, rm and creating wait for a busy store (1)
  entry_timeout=SECONDS  how long the kernel may remember names
  attr_timeout=SECONDS   how long the kernel may remember attributes
Those of fstab(5) are accepted: defaults, noauto, nofail, user, _netdev, x-systemd.* and so on.
Options can't be changed while it is mounted: there is no remount.

Examples:
  retryspoolfs mount /var/spool/q.db /mnt/queue
  retryspoolfs mount -o ro,allow_other,gid=33,umask=027 /var/spool/q.db /srv/helpdesk
In /etc/fstab:
  /var/spool/q.db  /mnt/queue  retryspoolfs  nofail,x-systemd.automount  0  0

Exit status:
  0 mounted; 1 a wrong command line, or not permitted; 2 the system failed; 32 not mounted";

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    mount(arguments).map_err(|failure| Failure::coded(failure.text(), failure.exit_code()))?;
    Ok(ExitCode::SUCCESS)
}

fn mount(arguments: &Arguments) -> Result<(), mountpoint::Failure> {
    use mountpoint::Failure::{Mount as NotMounted, Refused, System};
    let spool = &arguments.spool;
    let wrong = |error: &dyn std::fmt::Display| Refused(format!("{}: {error}", spool.display()));
    let locator = Locator::parse(spool).map_err(|error| wrong(&error))?;
    let mut options = MountOptions::default();
    for text in &arguments.options {
        let added = match arguments.from_mount {
            true => options.add_from_mount(text, arguments.sloppy),
            false => options.add(text),
        };
        added.map_err(Refused)?;
    }
    if let Some(namespace) = &arguments.namespace {
        enter(namespace).map_err(|error| {
            let shown = namespace.display();
            Refused(format!(
                "mount namespace {shown}: {error}; as root, give a process's number or a path such \
                 as /proc/1/ns/mnt"
            ))
        })?;
    }
    if arguments.fake {
        mountpoint::check(&arguments.mountpoint, &options)?;
        return Ok(());
    }
    give_large_memory_back();
    if !arguments.foreground {
        return match background::start(&arguments.words()).map_err(|error| {
            System(format!(
                "mount: the background process can't be started: {error}"
            ))
        })? {
            0 => Ok(()),
            // It printed why.
            code => std::process::exit(i32::from(code)),
        };
    }
    let waiting = match arguments.status_fd {
        Some(fd) => Some(Waiting::behind(fd, arguments.log_level).map_err(|error| {
            System(format!("mount: the background process can't fork: {error}"))
        })?),
        None => None,
    };
    log::begin(arguments.log_level);
    let mountpoint = mountpoint::check(&arguments.mountpoint, &options)?;
    let locator = locator.absolute().map_err(|error| wrong(&error))?;
    if let Locator::Dir(path) = &locator
        && mountpoint.starts_with(path)
    {
        return Err(NotMounted(format!(
            "mount {locator}: {} is in the spool itself; give a directory outside",
            mountpoint.display()
        )));
    }
    let store = locator
        .open(OpenOptions {
            read_only: options.read_only,
            create: options.create,
            sync: options.sync,
            ..OpenOptions::default()
        })
        .map_err(|error| NotMounted(format!("mount {locator}: {}", not_opened(&error))))?;
    let program = Program {
        waiting: Mutex::new(waiting),
        on_terminal: std::io::stderr().is_terminal(),
        mountpoint: mountpoint.clone(),
    };
    let mount = Mount {
        store,
        source: source(spool, &locator),
        mountpoint,
        scratch_dir: locator.scratch_dir(),
        options,
    };
    mount.run(Arc::new(program))
}

/// What the mount table shows as the source: what was asked for, so that "mount -a" finds that its
/// line is mounted, but absolute.
/// What is large goes back to the system when it is freed. By itself glibc takes what was freed once
/// for what will be wanted again: each listing of millions would leave 10 MB with the thread that
/// answered it.
fn give_large_memory_back() {
    #[cfg(target_env = "gnu")]
    {
        /// In bytes: more than the buffer of any request has. The most that glibc takes is 32 MiB.
        const LARGE: libc::c_int = 4 << 20;
        // SAFETY: two numbers, before this process has other threads.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    }
}

fn source(spool: &OsStr, locator: &Locator) -> String {
    let absolute = locator.to_string();
    let (kind, path) = absolute.split_once(':').unwrap_or(("", &absolute));
    let spool = spool.as_encoded_bytes();
    match spool.strip_prefix(kind.as_bytes()) {
        Some([b':', ..]) => absolute,
        _ => path.to_owned(),
    }
}

impl Arguments {
    /// What mount(8) says to its helper.
    pub fn from_mount(words: super::helper::Words) -> Arguments {
        Arguments {
            spool: words.source,
            mountpoint: words.mountpoint.into(),
            foreground: false,
            options: words.options,
            log_level: log::from_environment(),
            from_mount: true,
            sloppy: words.sloppy,
            fake: words.fake,
            namespace: words.namespace.map(PathBuf::from),
            status_fd: None,
        }
    }

    /// The same for a process in the background.
    fn words(&self) -> Vec<OsString> {
        let level = format!("--log-level={}", self.log_level.name());
        let mut words: Vec<OsString> = vec!["mount".into(), level.into()];
        for (given, flag) in [(self.from_mount, "--from-mount"), (self.sloppy, "--sloppy")] {
            words.extend(given.then(|| flag.into()));
        }
        for options in &self.options {
            words.push(format!("--options={options}").into());
        }
        let (spool, mountpoint) = (self.spool.clone(), self.mountpoint.clone());
        words.extend(["--".into(), spool, mountpoint.into()]);
        words
    }
}

/// This program around the mount.
struct Program {
    /// Who waits for a mount in the background, until they were told.
    waiting: Mutex<Option<Waiting>>,
    on_terminal: bool,
    mountpoint: PathBuf,
}

impl Host for Program {
    fn ready(&self) {
        if let Some(waiting) = self.waiting.lock().take() {
            waiting.ready(&self.mountpoint);
        }
    }

    fn hung_up(&self) -> bool {
        if !self.on_terminal {
            let level = log::toggle().name();
            tracing::info!(target: "retryspoolfs", "the log level is {level} from here on");
        }
        // In the foreground of a terminal that is closed it has nobody left.
        self.on_terminal
    }

    fn probe(&self, mountpoint: &Path, limit: Duration) -> Result<(), String> {
        health::ask(mountpoint, limit)
            .map(drop)
            .map_err(|problem| problem.text)
    }
}

/// Enters a mount namespace, and in it the directory of the same path, which relative paths are
/// meant from. This process has one thread so far.
fn enter(namespace: &Path) -> std::io::Result<()> {
    let here = std::env::current_dir();
    let namespace = File::open(namespace)?;
    // SAFETY: the descriptor is open.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) } {
        0 => {
            // Without such a directory what is relative is not found, which says so by itself.
            let _ = here.and_then(std::env::set_current_dir);
            Ok(())
        }
        _ => Err(std::io::Error::last_os_error()),
    }
}
