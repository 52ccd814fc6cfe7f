//! A program in a terminal of its own: keys go in, and what the screen shows is waited for.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{PATH, eventually_or};

/// One terminal, by a tmux server of its own, which ends with it.
pub struct Terminal {
    socket: String,
}

impl Terminal {
    /// Runs a command with a shell in that directory. When it ends, the screen shows how:
    /// `ended with 0`.
    pub fn start(command: &str, directory: &Path, home: &Path) -> Terminal {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let socket = format!("retryspoolfs-{}-{number}", std::process::id());
        let terminal = Terminal { socket };
        // Out of the directory before it waits to be ended: it may be a mount.
        let script = format!(
            "cd '{}' && {{ {command}\n}}; ended=$?; cd /; echo \"ended with $ended\"; exec sleep 600",
            directory.display()
        );
        let size = ["-x", "150", "-y", "40"];
        let new = ["-f", "/dev/null", "new-session", "-d", "-s", "it"];
        let output = terminal
            .command()
            .args(new)
            .args(size)
            .args(["sh", "-c", &script])
            .env("HOME", home)
            .output()
            .unwrap();
        assert!(output.status.success(), "tmux: {output:?}");
        terminal
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command
            .args(["-L", &self.socket])
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm-256color");
        command
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// Presses keys, by tmux's names: `C-x`, `Enter`, `F2`.
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys", "-t", "it"], keys].concat());
    }

    /// Types a text.
    pub fn type_in(&self, text: &str) {
        self.tmux(&["send-keys", "-t", "it", "-l", "--", text]);
    }

    pub fn screen(&self) -> String {
        let output = self.tmux(&["capture-pane", "-p", "-t", "it"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until the screen shows one of the texts, and says which.
    #[track_caller]
    pub fn shows<'a>(&self, texts: &[&'a str]) -> &'a str {
        let mut found = None;
        eventually_or(
            || {
                // A line that does not fit goes on in the next one.
                let screen = self.screen().replace('\n', " ");
                found = texts.iter().find(|text| screen.contains(**text)).copied();
                found.is_some()
            },
            || format!("one of {texts:?} on\n{}", self.screen()),
        );
        found.unwrap_or_default()
    }

    /// Waits until the screen shows a text no more.
    #[track_caller]
    pub fn shows_no_more(&self, text: &str) {
        eventually_or(
            || !self.screen().contains(text),
            || format!("no {text:?} on\n{}", self.screen()),
        );
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}
