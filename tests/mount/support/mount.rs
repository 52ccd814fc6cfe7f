//! A mount by the built program, as a child that must end well.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::shell::PATH;
use super::{DEADLINE, Output, Script, Spool, eventually, soak};

/// No test needs a mount for longer. Past it the daemon is killed, so that calls of the test itself
/// that hang in the mount end too, with an error.
const LIFETIME: Duration = Duration::from_secs(280);

/// The program under test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_retryspoolfs"))
}

/// One mount of a spool. Dropping it unmounts, and fails the test if the daemon did not end well.
pub struct Mount {
    spool: Spool,
    point: PathBuf,
    log: PathBuf,
    /// Shared with the guard that ends it after [`LIFETIME`].
    daemon: Arc<Mutex<Daemon>>,
    over: bool,
}

struct Daemon {
    child: Child,
    status: Option<ExitStatus>,
}

impl Daemon {
    fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
        }
        self.status
    }
}

impl Mount {
    /// Mounts `spool` on a new directory beside it, with these `-o` options (none if empty).
    pub fn new(spool: Spool, options: &str) -> Mount {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let point = spool.dir().join(format!("mount-{number}"));
        std::fs::create_dir(&point).unwrap();
        Mount::on(spool, point, options)
    }

    /// Mounts `spool` on this directory.
    pub fn on(spool: Spool, point: PathBuf, options: &str) -> Mount {
        let mut command = Command::new(program());
        command
            .args(["mount", "--foreground"])
            .arg(spool.path())
            .arg(&point);
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        Mount::start(spool, point, command)
    }

    /// Starts `command`, which mounts the spool on `point` and stays in the foreground. Where it
    /// mounts as another user, root sees that there is a mount, and not what is in it.
    pub fn start(spool: Spool, point: PathBuf, mut command: Command) -> Mount {
        assert!(
            Path::new("/dev/fuse").exists(),
            "this machine has no /dev/fuse, so it cannot mount: the tests of the mount fail"
        );
        let log = point.with_extension("log");
        let file = File::create(&log).unwrap();
        let child = command
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .process_group(0)
            .spawn()
            .unwrap();
        let daemon = Arc::new(Mutex::new(Daemon {
            child,
            status: None,
        }));
        let mount = Mount {
            spool,
            point,
            log,
            daemon,
            over: false,
        };
        mount.guard();
        eventually("the mount is there", || {
            if let Some(status) = mount.daemon.lock().ended() {
                panic!("the mount ended with {status}: {}", mount.log());
            }
            is_fuse(&mount.point)
        });
        mount
    }

    /// Kills the daemon of a test that hangs.
    fn guard(&self) {
        let daemon = Arc::downgrade(&self.daemon);
        let ends = Instant::now() + LIFETIME + soak();
        std::thread::spawn(move || {
            while Instant::now() < ends {
                std::thread::sleep(Duration::from_millis(500));
                let Some(daemon) = daemon.upgrade() else {
                    return;
                };
                if daemon.lock().ended().is_some() {
                    return;
                }
            }
            if let Some(daemon) = daemon.upgrade() {
                let _ = daemon.lock().child.kill();
            }
        });
    }

    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// The mountpoint.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// A path below the mountpoint.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.point.join(below)
    }

    /// What the daemon wrote to its standard streams.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: i32) {
        let daemon = self.daemon.lock();
        if daemon.status.is_none() {
            // SAFETY: the child was not waited for, so the number is still its own.
            unsafe { libc::kill(daemon.child.id() as i32, signal) };
        }
    }

    pub fn pid(&self) -> i32 {
        self.daemon.lock().child.id() as i32
    }

    /// Whether the daemon still runs.
    pub fn runs(&self) -> bool {
        self.daemon.lock().ended().is_none()
    }

    /// Waits for the daemon's end and gives its exit status.
    pub fn wait(&self) -> ExitStatus {
        eventually("the daemon ends", || !self.runs());
        self.daemon.lock().ended().unwrap()
    }

    /// SIGKILL, and the dead mount is taken away: what a crash leaves.
    pub fn kill(mut self) -> Spool {
        self.over = true;
        self.signal(libc::SIGKILL);
        assert_eq!(self.wait().signal(), Some(libc::SIGKILL));
        detach(&self.point);
        self.spool.clone()
    }

    /// Leaves a mount as it is: its daemon was killed, or somebody else unmounts it.
    pub fn forget(mut self) {
        self.over = true;
    }

    /// Unmounts as an operator does, and gives the daemon's log.
    pub fn unmount(mut self) -> String {
        self.end();
        self.log()
    }

    /// What a signal to the daemon must bring about: it unmounts and ends well.
    pub fn ends_by_itself(mut self) {
        self.over = true;
        self.check_end();
        assert!(!is_fuse(&self.point), "still mounted: {}", self.log());
    }

    fn end(&mut self) {
        self.over = true;
        // A process that a script left behind may still be on its way out.
        let start = Instant::now();
        loop {
            let output = Command::new("umount").arg(&self.point).output().unwrap();
            if output.status.success() {
                break;
            }
            if start.elapsed() > DEADLINE || !self.runs() {
                let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
                panic!("{complaint} {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.check_end();
    }

    fn check_end(&self) {
        let status = self.wait();
        let log = self.log();
        assert!(status.success(), "the daemon ended with {status}: {log}");
        assert!(!log.contains("panicked"), "the daemon panicked: {log}");
    }

    /// Runs a script with bash in the mountpoint. It finds the spool's file in `$SPOOL`, a
    /// directory outside in `$WORK`, and the program in `$PROGRAM`.
    #[track_caller]
    pub fn bash(&self, script: &str) -> Output {
        self.start_in(&["bash"], script).wait()
    }

    /// The shells whose redirections differ in which descriptors they close, and when.
    pub const SHELLS: [&'static [&'static str]; 3] = [&["bash"], &["dash"], &["busybox", "sh"]];

    #[track_caller]
    pub fn shell(&self, shell: &[&str], script: &str) -> Output {
        self.start_in(shell, script).wait()
    }

    #[track_caller]
    pub fn python(&self, script: &str) -> Output {
        self.start_in(&["python3"], script).wait()
    }

    /// Starts a script and does not wait.
    pub fn start_in(&self, shell: &[&str], script: &str) -> Script {
        self.spool.start_in(shell, script, &self.point)
    }

    /// Runs a script as the user nobody, in the mountpoint.
    #[track_caller]
    pub fn nobody(&self, script: &str) -> Output {
        let setpriv = "setpriv --reuid=65534 --regid=65534 --clear-groups bash";
        let setpriv: Vec<&str> = setpriv.split(' ').collect();
        // The working directory is entered by the script, as that user.
        let script = format!("cd {} && {script}", self.point.display());
        Script::start(&setpriv, &script, Path::new("/"), &[]).wait()
    }

    /// The refusals so far.
    pub fn errors(&self) -> Vec<String> {
        let mut text = String::new();
        let errors = File::open(self.path(".retryspool/errors"));
        errors.unwrap().read_to_string(&mut text).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits for the line of a refusal: `close hold/a.json EBADMSG`, and in it its reason.
    /// Where it is written with the last close of a file, that is after the closer went on.
    #[track_caller]
    pub fn refused(&self, what: &str, reason: &str) {
        let found = || {
            let lines = self.errors();
            lines
                .iter()
                .any(|line| line.contains(what) && line.contains(reason))
        };
        let start = Instant::now();
        while !found() {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "no line with {what:?} and {reason:?} in {:#?}",
                self.errors()
            );
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if std::thread::panicking() {
            // The test failed already: only leave nothing behind, and show what the daemon said.
            detach(&self.point);
            self.signal(libc::SIGKILL);
            let _ = self.wait();
            eprintln!("the daemon's log:\n{}", self.log());
        } else {
            self.end();
        }
    }
}

/// Takes a mount away, whatever uses it and whether or not its daemon answers.
fn detach(point: &Path) {
    let _ = Command::new("umount").arg("-l").arg(point).output();
}

/// Whether a FUSE filesystem is mounted there and answers: to everybody but the mounting user,
/// with a refusal.
fn is_fuse(point: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let here = format!(" {} fuse", point.display());
    // An open is the daemon's own answer; attributes are remembered for a daemon that is gone.
    let answer = File::open(point.join(".retryspool/errors"));
    let refused = |e: &std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
    mounts.lines().any(|line| line.contains(&here)) && answer.map_or_else(|e| refused(&e), |_| true)
}
