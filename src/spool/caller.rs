//! Who asks: made once for each request, and compared by process, not by thread.
//!
//! Must not, in the answer to a close, read `/proc/PID/stat` of the process that closes: an
//! execve(2) closes descriptors while it holds the lock that this read waits for, and both would
//! wait for ever. `/proc/PID/status` and a pidfd take no such lock.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::backend::Actor;

/// The task behind a request, as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// The *thread's* ID; 0 where the kernel does not say (a release), or where the caller lives
    /// in a PID namespace that this process can't see.
    pub pid: u32,
}

/// A process for as long as it lives: its thread group's ID and its start time, since IDs are
/// used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    tgid: u32,
    /// In clock ticks since boot; 0 where it could not be read.
    start: u64,
}

impl Process {
    /// Whether it is one process; otherwise the kernel did not say which.
    pub fn is_known(&self) -> bool {
        self.tgid != 0
    }
}

impl Caller {
    /// The caller's thread group. It can still be read while the process exits or was killed.
    pub fn thread_group(&self) -> u32 {
        thread_group(self.pid).unwrap_or(self.pid)
    }

    /// The caller's process. Not to be asked for while a close is answered.
    pub fn process(&self) -> Process {
        Opener::of(self).process
    }

    /// The name of the caller's program, for people; `?` where it can't be read.
    pub fn command(&self) -> String {
        /// Where the last caller's was read: its file goes on telling of this thread alone, by the
        /// name that it has now, and fails when it has ended.
        static LAST: Mutex<Option<(u32, File)>> = Mutex::new(None);
        let mut last = LAST.lock();
        let known = last.as_ref().filter(|(pid, _)| *pid == self.pid);
        let name = known.and_then(|(_, file)| beginning(file)).or_else(|| {
            let file = open_proc(self.pid, "comm").filter(|_| self.pid != 0)?;
            let (_, file) = last.insert((self.pid, file));
            beginning(file)
        });
        name.map_or("?".to_owned(), |name| name.trim_end().to_owned())
    }

    /// The caller, as the store's log names it.
    pub fn actor(&self) -> Actor {
        Actor {
            uid: self.uid,
            pid: self.thread_group(),
            command: self.command(),
        }
    }
}

/// A process, mostly the one that opened a file: known again for as long as it lives.
#[derive(Clone, Debug)]
pub struct Opener {
    /// Who it is.
    pub process: Process,
    pidfd: Option<Arc<OwnedFd>>,
}

impl Opener {
    /// The caller's process.
    pub fn of(caller: &Caller) -> Opener {
        /// The last one that was looked at: a program opens one file after the other.
        static LAST: Mutex<Option<Opener>> = Mutex::new(None);
        let tgid = caller.thread_group();
        // As long as it lives nobody else gets its number.
        let is_last = |last: &&Opener| last.process.tgid == tgid && last.pidfd.is_some();
        if let Some(last) = LAST.lock().as_ref().filter(is_last)
            && last.is_alive()
        {
            return last.clone();
        }
        // SAFETY: the call takes two numbers; the descriptor that it gives is nobody else's.
        let pidfd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, tgid, 0) as i32;
            (fd >= 0).then(|| Arc::new(OwnedFd::from_raw_fd(fd)))
        };
        let process = Process {
            tgid,
            start: start_time(tgid).unwrap_or(0),
        };
        let opener = Opener { process, pidfd };
        *LAST.lock() = Some(opener.clone());
        opener
    }

    /// Whether the caller is that process.
    pub fn is(&self, caller: &Caller) -> bool {
        self.process.tgid == caller.thread_group() && self.is_alive()
    }

    /// Whether it still runs. One that is exiting does, until it has closed its files.
    pub fn is_alive(&self) -> bool {
        match &self.pidfd {
            Some(pidfd) => {
                let mut poll = libc::pollfd {
                    fd: pidfd.as_raw_fd(),
                    events: libc::POLLIN,
                    revents: 0,
                };
                // SAFETY: one pollfd, as said. A pidfd is readable once its process has ended.
                unsafe { libc::poll(&mut poll, 1, 0) == 0 }
            }
            // It ended before it could be looked at; or the caller has no process that can be seen.
            None => self.process.tgid == 0,
        }
    }
}

fn thread_group(pid: u32) -> Option<u32> {
    /// The last group that had to be read: a program with many threads calls with one and another.
    static LAST: AtomicU32 = AtomicU32::new(0);
    // Most callers have one thread, whose number is the group's.
    let known = [pid, LAST.load(Relaxed)];
    if let Some(tgid) = known.into_iter().find(|tgid| is_in(pid, *tgid)) {
        return Some(tgid);
    }
    let status = read_proc(pid, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    let tgid = line.trim().parse().ok()?;
    LAST.store(tgid, Relaxed);
    Some(tgid)
}

/// Whether the thread is one of that group. The kernel is asked by a signal that is none, which takes
/// a hundredth of the time of a look into proc(5), and is as good: what is out of date is refused.
fn is_in(pid: u32, tgid: u32) -> bool {
    // SAFETY: three numbers. 0 is refused.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, tgid, pid, 0) } == 0;
    // Who may not send it to this thread is told so after the thread was found there.
    sent || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// Field 22 of proc(5)'s stat; the command before it may hold spaces and parentheses.
fn start_time(tgid: u32) -> Option<u64> {
    let stat = read_proc(tgid, "stat")?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    fields.nth(19)?.parse().ok()
}

fn read_proc(pid: u32, name: &str) -> Option<String> {
    beginning(&open_proc(pid, name)?)
}

fn open_proc(pid: u32, name: &str) -> Option<File> {
    File::open(format!("/proc/{pid}/{name}")).ok()
}

/// What a file of proc(5) begins with, as far as anything here looks. Every change asks for one, so it
/// is read once, not asked for its length and read to its end. The program's name in it may be any
/// bytes.
fn beginning(file: &File) -> Option<String> {
    let mut start = [0; 1024];
    let len = file.read_at(&mut start, 0).ok()?;
    Some(String::from_utf8_lossy(&start[..len]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(pid: u32) -> Caller {
        Caller {
            uid: 0,
            gid: 0,
            pid,
        }
    }

    #[test]
    fn threads_of_one_process_are_one_caller() {
        let here = caller(std::process::id()).process();
        assert_eq!(here.tgid, std::process::id());
        assert!(here.start > 0);
        // Of a second one the group is known already.
        for _ in 0..2 {
            let thread = std::thread::spawn(|| {
                // SAFETY: gettid has no preconditions.
                caller(unsafe { libc::gettid() } as u32).process()
            });
            assert_eq!(thread.join().unwrap(), here);
        }
        let another = caller(1).process();
        assert_eq!(another.tgid, 1);
        assert_eq!(caller(0).thread_group(), 0);
    }

    #[test]
    fn a_command_has_the_name_that_it_has_now() {
        let mut ended = 0;
        for name in [c"first", c"second"] {
            let thread = std::thread::spawn(move || {
                // SAFETY: gettid has no preconditions.
                let here = caller(unsafe { libc::gettid() } as u32);
                for name in [name, c"another"] {
                    // SAFETY: the name ends in NUL, and lives.
                    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
                    assert_eq!(here.command().as_bytes(), name.to_bytes());
                    assert_eq!(here.command().as_bytes(), name.to_bytes());
                }
                here.pid
            });
            ended = thread.join().unwrap();
        }
        // The kernel may take a moment to let it go.
        while caller(ended).command() != "?" {
            std::thread::yield_now();
        }
        assert_eq!(caller(0).command(), "?");
    }

    #[test]
    fn an_opener_is_known_until_it_ends() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let child_caller = caller(child.id());
        for _ in 0..2 {
            let opener = Opener::of(&child_caller);
            assert!(opener.is(&child_caller) && opener.is_alive());
        }
        let opener = Opener::of(&child_caller);
        assert!(!opener.is(&caller(std::process::id())));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!opener.is(&child_caller) && !opener.is_alive());
        // The last one that was looked at has ended: it is no longer believed.
        let after = Opener::of(&child_caller);
        assert!(!after.is_alive() && after.process != opener.process);
    }
}
