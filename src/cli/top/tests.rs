//! The screen's lines; and its end by a panic, on a terminal of the test's own.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::Command;

use super::*;
use crate::backend::{Ages, StateInfo};
use crate::model::Timestamp;
use crate::overview::{StateStatus, Traffic};

fn status() -> Status {
    Status {
        at: Timestamp::now(),
        states: QueueState::ALL.map(|state| StateStatus {
            state,
            info: StateInfo {
                count: 7,
                changed: Timestamp::ZERO,
            },
            ages: Ages::default(),
        }),
        inexpressible: 0,
        traffic: None,
        audit: None,
    }
}

fn place() -> Place {
    Place {
        locator: "sqlite:/a/rather/long/path/of/a/spool.db".parse().unwrap(),
        mountpoint: Some("/mnt".into()),
    }
}

#[test]
fn a_full_queue_fits_eighty_columns() {
    let mut status = status();
    status.states[2].info.count = 12_345_678;
    status.traffic = Some(Traffic {
        over: Duration::from_secs(600),
        waiting_arrived: 123_456,
        waiting_left: 234_567,
        ..Traffic::default()
    });
    let lines = screen(&status, &place(), &Seen::default(), (80, 24));
    let line = "12345692 wait; in 10m 12345.6 a minute came, 23456.7 left; empty in 18h 31m";
    assert!(lines.iter().any(|there| there == line), "{lines:#?}");
}

#[test]
fn a_screen_fits_every_size() {
    let (status, place) = (status(), place());
    let long = || format!("{}\u{1b}[2J", "x".repeat(500));
    let seen = Seen {
        reasons: vec![long(); KEPT],
        events: vec![long(); KEPT].into(),
        refusals: vec![long(); KEPT],
    };
    for size in [(80, 24), (200, 60), (20, 5), (1, 1), (80, 12)] {
        let lines = screen(&status, &place, &seen, size);
        assert!(lines.len() <= size.1, "{size:?}: {}", lines.len());
        assert!(
            lines
                .iter()
                .all(|line| line.chars().count() <= size.0 && !line.contains('\u{1b}'))
        );
        if size.1 >= 24 {
            assert_eq!(lines.len(), size.1);
            let is_there = |head: &str| lines.iter().any(|line| line == head);
            assert!(
                is_there("WHY MESSAGES WAIT")
                    && is_there("LATEST CHANGES")
                    && is_there("LATEST REFUSALS")
            );
        }
    }
}

/// Which thread panics, in the process that a test of the other name starts.
const PANICS: &str = "RETRYSPOOLFS_TEST_TOP_PANICS";
const HELPER: &str = "a helper";
const WHICH: [&str; 2] = [HELPER, "the one that draws"];

/// The test starts itself again, on a terminal: only a process has one, and the hook of a panic.
#[test]
fn a_panic_in_any_thread_ends_it_and_the_terminal_is_as_it_was() {
    if let Ok(which) = std::env::var(PANICS) {
        let which = WHICH.into_iter().find(|known| *known == which);
        panics(which.unwrap());
    }
    for which in WHICH {
        let (mut ours, theirs) = terminal();
        let before = settings(&theirs);
        let said = thread::spawn(move || {
            let mut said = Vec::new();
            // Fails when the last one has closed the other end.
            let _ = ours.read_to_end(&mut said);
            String::from_utf8_lossy(&said).into_owned()
        });
        let copy = || theirs.try_clone().unwrap();
        let name = module_path!().split_once("::").unwrap().1;
        let test = "a_panic_in_any_thread_ends_it_and_the_terminal_is_as_it_was";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{name}::{test}"), "--nocapture"])
            .env(PANICS, which)
            .stdin(copy())
            .stdout(copy())
            .stderr(copy())
            .spawn()
            .unwrap();
        let status = child.wait().unwrap();
        assert_eq!(settings(&theirs), before, "{which}");
        drop(theirs);
        let said = said.join().unwrap();
        assert_eq!(status.code(), Some(1), "{which}: {said}");
        let (screen, after) = said.split_once("\x1b[?25h\x1b[?1049l").expect(&said);
        assert!(
            screen.contains("\x1b[?1049h") && screen.contains("LATEST CHANGES"),
            "{which}: {said}"
        );
        let line = format!("retryspoolfs: top: {which} fails at src/cli/top/tests.rs:");
        assert!(
            after.starts_with(&line) && after.lines().count() == 1,
            "{which}: {said}"
        );
    }
}

/// The loop, of which one thread panics when it has drawn once.
fn panics(which: &str) -> ! {
    let (place, seen) = (place(), Shared::default());
    let screen = Screen::of(&place, &seen).unwrap();
    let mut looks = 0;
    let ended = screen.live(|| {
        looks += 1;
        match (looks, which) {
            (1, _) => {}
            (2, HELPER) => drop(thread::spawn(|| panic!("{HELPER} fails"))),
            (2, _) => panic!("{which} fails"),
            // The thread has a second for each.
            _ => assert!(looks < 30, "it goes on"),
        }
        Ok(status())
    });
    panic!("it went on: {:?}", ended.map(drop));
}

/// A terminal: the end that a window has, and the one that a program has.
fn terminal() -> (File, File) {
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: there is room for two descriptors, which are nobody else's.
    unsafe {
        let (name, none, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
        let opened = libc::openpty(&mut ours, &mut theirs, name, none, size);
        assert_eq!(opened, 0);
        libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(theirs, libc::F_SETFD, libc::FD_CLOEXEC);
        (File::from_raw_fd(ours), File::from_raw_fd(theirs))
    }
}

fn settings(terminal: &File) -> libc::termios {
    let mut settings = std::mem::MaybeUninit::uninit();
    // SAFETY: there is room for what tcgetattr writes, and it has filled it where it succeeds.
    unsafe {
        let got = libc::tcgetattr(terminal.as_raw_fd(), settings.as_mut_ptr());
        assert_eq!(got, 0);
        settings.assume_init()
    }
}
