//! Scripts in a shell, with an end: a mount that hangs must fail a test, not stop the suite.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::DEADLINE;

/// The system's own tools, and none that a user put before them.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a script did.
#[derive(Debug)]
pub struct Output {
    #[allow(dead_code, reason = "a failed assertion shows it")]
    pub script: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Its output without the last newline, if it succeeded and complained of nothing.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success() && self.stderr.is_empty(), "{self:#?}");
        self.stdout.trim_end_matches('\n').to_owned()
    }

    /// That it failed and said so.
    #[track_caller]
    pub fn fails(self, complaint: &str) {
        assert!(
            !self.status.success() && self.stderr.contains(complaint),
            "expected a failure with {complaint:?}, got {self:#?}"
        );
    }
}

/// A script that runs.
pub struct Script {
    text: String,
    child: Child,
    stdout: File,
    stderr: File,
    ends: Instant,
}

impl Script {
    /// Starts `shell -c text` in `directory`; `shell` may have arguments of its own.
    pub fn start(shell: &[&str], text: &str, directory: &Path, env: &[(&str, &Path)]) -> Script {
        let [stdout, stderr] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let child = Command::new(shell[0])
            .args(&shell[1..])
            .args(["-c", text])
            .current_dir(directory)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", "/nonexistent")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            // Files, not pipes: a script's children may outlive it and keep a pipe open.
            .stdout(stdout.try_clone().unwrap())
            .stderr(stderr.try_clone().unwrap())
            .process_group(0)
            .spawn()
            .unwrap();
        Script {
            text: text.to_owned(),
            child,
            stdout,
            stderr,
            ends: Instant::now() + DEADLINE,
        }
    }

    /// Gives it longer than others get.
    pub fn within(mut self, limit: Duration) -> Script {
        self.ends = Instant::now() + limit;
        self
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Whether it has not ended yet.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGKILL, for it and its children.
    pub fn kill(&self) {
        // SAFETY: the group is the child's own, and the child was not waited for yet.
        unsafe { libc::kill(-self.pid(), libc::SIGKILL) };
    }

    #[track_caller]
    pub fn wait(mut self) -> Output {
        while self.runs() {
            if Instant::now() > self.ends {
                self.kill();
                let said = (read(&mut self.stdout), read(&mut self.stderr));
                panic!("it does not end: {} {said:#?}", self.text);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Output {
            status: self.child.wait().unwrap(),
            stdout: read(&mut self.stdout),
            stderr: read(&mut self.stderr),
            script: self.text,
        }
    }

    /// Waits for a script that was to be killed.
    #[track_caller]
    pub fn wait_killed(self) {
        let output = self.wait();
        assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{output:#?}");
    }
}

fn read(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
