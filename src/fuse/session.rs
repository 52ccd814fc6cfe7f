//! A mount's life: mounting, serving, ending.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Config, MountOption, SessionACL};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::kernel::Kernel;
use super::mountpoint::{self, Failure};
use super::options::MountOptions;
use super::{Adapter, mounts, service};
use crate::backend::{Backend, Context};
use crate::spool::{Follower, Options, Ownership, Spool};

/// Threads that serve requests. A request may wait for a busy store, so there are more than cores.
const THREADS: usize = 8;

/// How often the store is counted again, for what other programs change past its triggers.
const RECOUNT: Duration = Duration::from_secs(3600);

/// How long a service manager's order to stop may wait for each: for a mount that is in use to
/// become free; and then, once nobody new finds it, for its users to close their files.
const GRACE: Duration = Duration::from_secs(5);

/// What a mount is made of.
pub struct Mount {
    /// The store, opened.
    pub store: Box<dyn Backend>,
    /// What the mount table shows as its source.
    pub source: String,
    /// Where it is mounted; see [`mountpoint::check`].
    pub mountpoint: PathBuf,
    /// Where scratch files are put that would be lost otherwise.
    pub scratch_dir: Option<PathBuf>,
    pub options: MountOptions,
}

/// The program around a mount.
pub trait Host: Send + Sync {
    /// The mount answers.
    fn ready(&self);

    /// SIGHUP came. Whether the mount is to end.
    fn hung_up(&self) -> bool;

    /// Has the mount answer a process that is not its own: one that asked itself and got no answer
    /// could not be killed. `Err` says what went wrong.
    fn probe(&self, mountpoint: &Path, limit: Duration) -> Result<(), String>;
}

impl Mount {
    /// Mounts, tells the host once the mount answers, serves until it is unmounted, and closes the
    /// store. SIGTERM and SIGINT unmount it; a second one detaches it, which ends it when nobody
    /// uses it any more; a third one ends it at once. However it ends, files that are open have
    /// their last close.
    pub fn run(self, host: Arc<dyn Host>) -> Result<(), Failure> {
        let shown = self.mountpoint.display().to_string();
        let failed =
            |error: &dyn std::fmt::Display| Failure::System(format!("mount {shown}: {error}"));
        // SAFETY: neither call has preconditions, and neither fails.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let (fmode, dmode) = self.options.modes();
        let options = Options {
            source: self.source.clone(),
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
        // Before there is a mount that a signal would leave dead.
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
            .map_err(|error| failed(&format!("signals can't be caught: {error}")))?;
        let spool = Arc::new(Spool::new(self.store, options));
        let config = config(&self.source, &self.options, uid);
        // What the kernel has is known after its first request; an older one ignores the word.
        let has_epoch = self.options.has_epoch(u32::MAX);
        let adapter = Adapter::new(spool.clone(), self.options);
        let session = match fuser::Session::new(adapter, &self.mountpoint, &config) {
            Ok(session) => session,
            Err(error) => {
                spool.close();
                return Err(mountpoint::explain(&error, &shown));
            }
        };
        let kernel = Kernel::of(&session, has_epoch).map_err(|error| failed(&error))?;
        spool.set_invalidator(Box::new(kernel));
        // It stands at the newest change before the first request is answered.
        let mut follower = Follower::default();
        if let Err(error) = spool.follow(&mut follower, Duration::ZERO) {
            spool.close();
            return Err(failed(&error));
        }
        let (end, ended) = mpsc::channel();
        let life = Arc::new(Life {
            id: mounts::mounted_at(&self.mountpoint).map(|mounted| mounted.id),
            mountpoint: self.mountpoint,
            over: AtomicBool::new(false),
            end,
            host,
        });
        let stop = signals.handle();
        let helpers = [
            life.begin(&spool, move |spool, life| {
                follow(spool, follower, &life.over)
            }),
            life.begin(&spool, |_, life| life.obey(signals)),
            life.begin(&spool, |spool, life| {
                while !life.is_over() {
                    spool.tidy();
                    thread::park_timeout(Duration::from_secs(1));
                }
            }),
            life.begin(&spool, |spool, life| life.report(spool)),
            life.begin(&spool, |spool, life| life.recount(spool)),
            life.begin(&spool, |spool, life| spool.read_ahead(&|| !life.is_over())),
        ];
        let served = serve(session, &life, ended, &spool);
        life.over.store(true, Ordering::Relaxed);
        stop.close();
        for helper in helpers {
            helper.thread().unpark();
            let _ = helper.join();
        }
        spool.release_all();
        spool.close();
        // A read of the next request that meets the end of the connection gets this error in place
        // of ENODEV, if it already had a request in its hands (the kernel's fs/fuse/dev.c).
        let aborted = |error: &io::Error| error.raw_os_error() == Some(libc::ECONNABORTED);
        let has_gone = || mounts::mounted_at(&life.mountpoint).map(|m| m.id) != life.id;
        if served.as_ref().is_err_and(aborted) && has_gone() {
            return Ok(());
        }
        served.map_err(|error| {
            // Whatever ended it, a mount that nobody serves must not stay.
            let _ = life.unmount(true);
            failed(&error)
        })
    }
}

/// What the threads of a mount share.
struct Life {
    mountpoint: PathBuf,
    /// The mount's number in the kernel's table, so that no other is unmounted in its place.
    id: Option<u64>,
    over: AtomicBool,
    /// Ends the mount, with how it was served.
    end: Sender<io::Result<()>>,
    host: Arc<dyn Host>,
}

impl Life {
    fn begin(
        self: &Arc<Life>,
        spool: &Arc<Spool>,
        work: impl FnOnce(&Spool, &Arc<Life>) + Send + 'static,
    ) -> thread::JoinHandle<()> {
        let (spool, life) = (spool.clone(), self.clone());
        thread::spawn(move || work(&spool, &life))
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Does what signals say until the mount ends.
    fn obey(self: &Arc<Life>, mut signals: Signals) {
        let mut orders = 0;
        for signal in signals.forever() {
            if signal == SIGHUP && !self.host.hung_up() {
                continue;
            }
            orders += 1;
            if orders == 1 && service::is_managed() {
                // A manager gives one order, and kills whoever does not follow it in time.
                let life = self.clone();
                thread::spawn(move || {
                    for order in [2, 3] {
                        thread::sleep(GRACE);
                        if !life.is_over() {
                            life.stop(order);
                        }
                    }
                });
            }
            self.stop(orders);
        }
    }

    /// Follows the nth order to end.
    fn stop(&self, nth: u32) {
        let shown = self.mountpoint.display();
        service::stopping("unmounting");
        if nth > 2 {
            // Its files get their last close from `run`, and the kernel ends the mount with this
            // process.
            let _ = self.unmount(true);
            let _ = self.end.send(Ok(()));
            return;
        }
        if let Err(error) = self.unmount(nth == 2) {
            let why = mountpoint::in_the_way(&self.mountpoint, &error);
            service::stopping(&why);
            tracing::error!(
                target: "retryspoolfs",
                "unmount {shown}: {why}; a second signal detaches it, a third one ends it at once"
            );
        }
    }

    /// Unmounts this very mount, and none that was mounted there before or since.
    fn unmount(&self, lazily: bool) -> io::Result<()> {
        let on_top = mounts::mounted_at(&self.mountpoint).map(|mounted| mounted.id);
        match (self.id, on_top) {
            (Some(_), None) => return Ok(()),
            (Some(id), Some(on_top)) if id != on_top => {
                return Err(io::Error::other("something else is mounted over it"));
            }
            _ => {}
        }
        match lazily {
            true => mountpoint::detach(&self.mountpoint),
            false => mountpoint::unmount(&self.mountpoint),
        }
    }

    /// Lets the store be counted again now and then, until the mount ends.
    fn recount(&self, spool: &Spool) {
        let mut next = Instant::now() + RECOUNT;
        while !self.is_over() {
            thread::park_timeout(next.saturating_duration_since(Instant::now()));
            if Instant::now() >= next {
                spool.recount(&|| !self.is_over());
                next = Instant::now() + RECOUNT;
            }
        }
    }

    /// Tells a service manager how things are, until the mount ends.
    fn report(&self, spool: &Spool) {
        let Some(period) = service::period() else {
            return;
        };
        while !self.is_over() {
            let store = spool.store_answers(&Context::within(period));
            let store = store.map_err(|error| format!("the store does not answer: {error}"));
            let both = store.and_then(|counts| {
                self.host.probe(&self.mountpoint, period)?;
                Ok(counts)
            });
            match both {
                _ if self.is_over() => {}
                Ok(counts) => service::alive(&counts),
                Err(why) => {
                    service::status(&why);
                    tracing::error!(target: "retryspoolfs", "{why}");
                }
            }
            thread::park_timeout(period);
        }
    }
}

/// Serves requests until the mount is gone, or is to be left.
///
/// fuser unmounts a session's mountpoint when the session is dropped, also after somebody else
/// unmounted it, and would take away what was mounted there since: the next mount of the same
/// spool. So its handle on the mount is leaked, and every unmount here is one that was asked for.
fn serve(
    session: fuser::Session<Adapter>,
    life: &Life,
    ended: Receiver<io::Result<()>>,
    spool: &Spool,
) -> io::Result<()> {
    let mut running = session.spawn()?;
    let nobody = thread::spawn(|| Ok(()));
    let server = std::mem::replace(&mut running.guard, nobody);
    std::mem::forget(running);
    let end = life.end.clone();
    thread::spawn(move || {
        let panicked = |_| Err(io::Error::other("a thread of the mount ended in a panic"));
        let _ = end.send(server.join().unwrap_or_else(panicked));
    });
    let counts = spool.store_answers(&Context::within(Duration::from_secs(1)));
    service::ready(&counts.unwrap_or_default());
    life.host.ready();
    ended.recv().unwrap_or(Ok(()))
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
                thread::park_timeout(Duration::from_secs(1));
            }
        }
    }
}

/// How the session is set: also of the null filesystem that the benchmarks compare with.
#[doc(hidden)]
pub fn config(source: &str, options: &MountOptions, uid: u32) -> Config {
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
