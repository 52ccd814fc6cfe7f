//! A pipe that stays open, as a shell's that another program writes to, with a command at its end.

use std::fs::File;
use std::io::Write;

use crate::support::{Output, Script, Spool, eventually};

pub struct Pipe {
    pub command: Script,
    end: File,
}

impl Pipe {
    /// `command` is the program's words.
    pub fn open(spool: &Spool, command: &str) -> Pipe {
        let path = spool.work().join("in");
        let _ = std::fs::remove_file(&path);
        let script = format!("mkfifo $WORK/in; exec $PROGRAM {command} < $WORK/in");
        let command = spool.start_in(&["bash"], &script, spool.dir());
        eventually("the pipe is there", || path.exists());
        let end = File::options().write(true).open(path).unwrap();
        Pipe { command, end }
    }

    pub fn write(&mut self, text: &str) {
        self.end.write_all(text.as_bytes()).unwrap();
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the script was not waited for, so the process is there.
        unsafe { libc::kill(self.command.pid(), signal) };
    }

    /// Waits until it waits for another writer's end.
    #[track_caller]
    pub fn command_waits_for_the_lock(&self) {
        self.command_is_in("sleep");
    }

    /// Waits until all is read that was written, and more is waited for.
    #[track_caller]
    pub fn command_waits_for_input(&self) {
        self.command_is_in("poll");
    }

    #[track_caller]
    fn command_is_in(&self, call: &str) {
        let at = format!("/proc/{}/wchan", self.command.pid());
        eventually(call, || {
            std::fs::read_to_string(&at).is_ok_and(|at| at.contains(call))
        });
    }

    /// No more comes.
    #[track_caller]
    pub fn close(self) -> Output {
        drop(self.end);
        self.command.wait()
    }
}
