//! Who asks: made once for each request, and compared by process, not by thread.

use std::fs;

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

impl Caller {
    /// The caller's process. It can still be read while the process exits or was killed.
    pub fn process(&self) -> Process {
        let tgid = thread_group(self.pid).unwrap_or(self.pid);
        Process {
            tgid,
            start: start_time(tgid).unwrap_or(0),
        }
    }

    /// The name of the caller's program, for people; `?` where it can't be read.
    pub fn command(&self) -> String {
        match fs::read_to_string(format!("/proc/{}/comm", self.pid)) {
            Ok(name) if self.pid != 0 => name.trim_end().to_owned(),
            _ => "?".to_owned(),
        }
    }
}

impl Process {
    /// Whether it still runs: neither gone nor a zombie.
    pub fn is_alive(self) -> bool {
        stat(self.tgid).is_some_and(|(state, start)| start == self.start && !"ZX".contains(state))
    }
}

fn thread_group(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok()
}

fn start_time(tgid: u32) -> Option<u64> {
    stat(tgid).map(|(_, start)| start)
}

/// State and start time, fields 3 and 22 of proc(5)'s stat; the command before them may hold
/// spaces and parentheses.
fn stat(tgid: u32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{tgid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_process_are_one_caller() {
        let here = Caller {
            uid: 0,
            gid: 0,
            pid: std::process::id(),
        };
        let thread = std::thread::spawn(|| Caller {
            uid: 0,
            gid: 0,
            // SAFETY: gettid has no preconditions.
            pid: unsafe { libc::gettid() } as u32,
        });
        // The thread has ended, so its ID may be unknown by now; a living one is compared.
        drop(thread.join());
        let process = here.process();
        assert_eq!(process.tgid, here.pid);
        assert!(process.start > 0 && process.is_alive());
        let living = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let pid = unsafe { libc::gettid() } as u32;
                    Caller { pid, ..here }.process()
                })
                .join()
        });
        assert_eq!(living.unwrap(), process);
        let earlier = Process {
            start: process.start - 1,
            ..process
        };
        assert!(!earlier.is_alive());
    }
}
