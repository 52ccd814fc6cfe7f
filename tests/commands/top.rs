//! The live screen, on a terminal that tmux makes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use retryspoolfs::QueueState;

use crate::support::{Spool, ctx, eventually, eventually_or, message, program};

/// A shell in a window of its own tmux server.
struct Window {
    spool: Spool,
    socket: PathBuf,
}

impl Window {
    fn open(spool: &Spool) -> Window {
        // A server that ends may still hold the socket of the window before.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let window = Window {
            spool: spool.clone(),
            socket: spool.dir().join(format!("tmux-{number}")),
        };
        window.tmux(
            "-f /dev/null new-session -d -x 80 -y 24 'env PS1=ready: bash --norc --noprofile'",
        );
        window.tmux("set-option -g window-size manual");
        window.shows("ready:");
        window
    }

    #[track_caller]
    fn tmux(&self, command: &str) -> String {
        let script = format!("unset TMUX; tmux -S {} {command}", self.socket.display());
        self.spool.bash(&script).ok()
    }

    fn screen(&self) -> String {
        self.tmux("capture-pane -p")
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        let is_shown = || self.screen().contains(text);
        eventually_or(is_shown, || format!("{text} on\n{}", self.screen()));
    }

    /// Types a line, and Enter.
    fn types(&self, line: &str) {
        self.tmux(&format!("send-keys -l \"{}\"", line.replace('$', "\\$")));
        self.tmux("send-keys Enter");
    }

    /// Runs `top` between two looks at the terminal's settings.
    fn starts_top(&self, arguments: &str) {
        let program = program().display();
        let dir = self.spool.dir().display();
        self.types(&format!(
            "cd {dir}; stty -g > before; {program} top {arguments}; echo code=$?; stty -g > after; echo done"
        ));
        self.shows("LATEST CHANGES");
    }

    /// The shell is back, on a terminal as it was.
    #[track_caller]
    fn is_as_before(&self, code: i32) {
        self.shows(&format!("code={code}\ndone\nready:"));
        let read = |name| std::fs::read_to_string(self.spool.dir().join(name)).unwrap();
        assert_eq!(read("before"), read("after"));
        let state = self.tmux("display-message -p '#{alternate_on} #{cursor_flag}'");
        assert_eq!(state, "0 1");
    }

    fn pid_of_top(&self) -> String {
        let shell = self.tmux("display-message -p '#{pane_pid}'");
        self.spool
            .bash(&format!("ps -o pid= --ppid {shell}"))
            .ok()
            .trim()
            .to_owned()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let kill = format!("unset TMUX; tmux -S {} kill-server", self.socket.display());
        let _ = self.spool.bash(&kill);
    }
}

fn spool() -> Spool {
    Spool::with([
        message("msg-1", QueueState::Deferred),
        message("msg-2", QueueState::Deferred),
        message("msg-3", QueueState::Hold),
    ])
}

#[test]
fn the_screen_lives_and_leaves_the_terminal_as_it_was() {
    let spool = spool();
    let window = Window::open(&spool);
    window.starts_top("queue.db");
    let line = |state: &str| {
        let screen = window.screen();
        let line = screen
            .lines()
            .find(|line| line.starts_with(state))
            .unwrap_or_default();
        line.split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(line("deferred"), "2");
    window.shows("try again later");
    // What others do is seen.
    spool.execute("UPDATE messages SET state = 3 WHERE id = 'msg-1'");
    window.shows("move   deferred -> hold  msg-1");
    eventually("the count is drawn", || line("hold") == "2");
    // A smaller and a larger window.
    window.tmux("resize-window -x 60 -y 12");
    eventually("it fits the smaller window", || {
        let screen = window.screen();
        screen.lines().all(|line| line.chars().count() <= 60)
            && screen.contains("(q quits")
            && screen.contains("WHY MESSAGES WAIT")
    });
    window.tmux("resize-window -x 100 -y 30");
    window.shows("LATEST CHANGES");
    window.tmux("send-keys q");
    window.is_as_before(0);
}

#[test]
fn signals_end_it_and_the_terminal_is_as_it_was() {
    let spool = spool();
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let window = Window::open(&spool);
        window.starts_top("queue.db");
        let pid = window.pid_of_top();
        spool.bash(&format!("kill -{signal} {pid}")).ok();
        window.is_as_before(code);
    }
    for (key, code) in [("C-c", 130), ("'C-\\'", 131)] {
        let window = Window::open(&spool);
        window.starts_top("queue.db");
        window.tmux(&format!("send-keys {key}"));
        window.is_as_before(code);
    }
}

/// Stopped, it leaves the shell a terminal; and takes it again with what is true then.
#[test]
fn it_is_stopped_and_goes_on() {
    let spool = spool();
    let window = Window::open(&spool);
    let dir = spool.dir().display();
    window.types(&format!("cd {dir}; stty -g > before"));
    window.types(&format!("{} top queue.db", program().display()));
    window.shows("LATEST CHANGES");
    let signal = |signal: &str| {
        let pid = window.pid_of_top();
        spool.bash(&format!("kill -{signal} {pid}")).ok();
    };
    let is_left = |code: i32| {
        window.shows("ready:");
        window.types("echo code=$?; stty -g > after; echo done");
        window.is_as_before(code);
    };
    let (key, resize) = ("send-keys C-z", "resize-window -x 100 -y 30");
    for (nth, stop) in [key, "TSTP", key].into_iter().enumerate() {
        match stop == key {
            true => drop(window.tmux(key)),
            false => signal(stop),
        }
        window.shows("Stopped");
        // 128 and the signal's number: it is stopped by the signal that came.
        is_left(148);
        window.tmux(resize);
        let id = format!("new-{nth}");
        let new = message(&id, QueueState::Hold);
        spool.open().insert(&ctx(), &new).unwrap();
        window.types("clear; fg");
        window.shows(&format!("store  - -> hold  {id}"));
        window.tmux("resize-window -x 80 -y 24");
        eventually("it fits the window", || {
            let screen = window.screen();
            let lines: Vec<&str> = screen.lines().collect();
            lines.len() <= 24 && lines[0].contains("(q quits")
        });
    }
    // The background is no place for a screen, and whoever ends it there is heard.
    window.tmux(key);
    is_left(148);
    window.types("clear; bg; wait %1; echo waited=$?");
    window.shows("waited=148");
    window.types("clear; kill %1");
    eventually("the shell says how it ended", || {
        window.types("");
        window.screen().contains("Exit 143")
    });
    window.types(&format!(
        "clear; {} top queue.db & wait %1; echo waited=$?",
        program().display()
    ));
    window.shows("waited=148");
    // Stopped from outside, it can't give back what it has; later it can.
    window.types("clear; fg");
    window.shows("LATEST CHANGES");
    signal("STOP");
    window.shows("Stopped");
    window.types("clear; fg");
    window.shows("LATEST CHANGES");
    window.tmux("send-keys q");
    is_left(0);
}

#[test]
fn refusals_of_a_mount_are_shown() {
    let spool = spool();
    let mount = spool.mount("");
    let window = Window::open(&spool);
    window.starts_top(mount.point().to_str().unwrap());
    window.shows("LATEST REFUSALS");
    let refused = format!("mkdir {}/deferred/x", mount.point().display());
    spool.bash(&refused).fails("not permitted");
    window.shows("deferred/x EPERM");
    window.tmux("send-keys q");
    window.is_as_before(0);
}

#[test]
fn without_a_terminal_it_says_so() {
    spool().bash("$PROGRAM top $SPOOL").fails("no terminal");
}
