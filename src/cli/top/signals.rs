//! The signals that a live screen hears, and how its process stops and goes on.
//!
//! Owns: their flags. They come to the thread that draws, and to no other: what came while it was
//! stopped is known as soon as it goes on.

use std::io;
use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::flag;

use super::terminal::checked;

const ENDING: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// What came.
pub struct Signals {
    ended: [(i32, Arc<AtomicBool>); 4],
    /// SIGTSTP.
    pub stopped: Flag,
    /// SIGCONT.
    pub continued: Flag,
    /// SIGWINCH.
    pub resized: Flag,
}

/// Whether a signal came.
pub struct Flag(Arc<AtomicBool>);

impl Flag {
    fn of(signal: i32) -> io::Result<Flag> {
        let flag = Arc::<AtomicBool>::default();
        flag::register(signal, Arc::clone(&flag))?;
        Ok(Flag(flag))
    }

    /// Whether it came since the last look.
    pub fn came(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Signals {
    /// Begins to catch them.
    pub fn catch() -> io::Result<Signals> {
        let ended = ENDING.map(|signal| (signal, Arc::default()));
        for (signal, flag) in &ended {
            flag::register(*signal, Arc::clone(flag))?;
        }
        Ok(Signals {
            ended,
            stopped: Flag::of(SIGTSTP)?,
            continued: Flag::of(SIGCONT)?,
            resized: Flag::of(SIGWINCH)?,
        })
    }

    /// Runs what begins threads, which will hear none of them.
    pub fn kept_from<T>(&self, begin: impl FnOnce() -> T) -> io::Result<T> {
        let mut before = MaybeUninit::uninit();
        // SAFETY: sigemptyset fills the set, and pthread_sigmask the one before.
        unsafe {
            let mut ours = MaybeUninit::uninit();
            checked(libc::sigemptyset(ours.as_mut_ptr()))?;
            for signal in ENDING.into_iter().chain([SIGTSTP, SIGCONT, SIGWINCH]) {
                checked(libc::sigaddset(ours.as_mut_ptr(), signal))?;
            }
            masked(libc::pthread_sigmask(
                libc::SIG_BLOCK,
                ours.as_ptr(),
                before.as_mut_ptr(),
            ))?;
        }
        let begun = begin();
        // SAFETY: it was filled above.
        masked(unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut())
        })?;
        Ok(begun)
    }

    /// The exit code, if one came that ends the program.
    pub fn end(&self) -> Option<ExitCode> {
        let came = |(_, flag): &&(i32, Arc<AtomicBool>)| flag.load(Ordering::Relaxed);
        let ended = self.ended.iter().find(came);
        ended.map(|(signal, _)| ExitCode::from(128 + *signal as u8))
    }

    /// Stops the process as SIGTSTP does where nobody handles it, until SIGCONT comes. Whether it
    /// was stopped: one that no shell could let go on is not.
    pub fn stop(&self) -> io::Result<bool> {
        self.continued.came();
        // SAFETY: zeros are an action, the default one; and the actions outlive the calls.
        unsafe {
            let mut handler: libc::sigaction = std::mem::zeroed();
            let default: libc::sigaction = std::mem::zeroed();
            checked(libc::sigaction(SIGTSTP, &default, &mut handler))?;
            checked(libc::raise(SIGTSTP))?;
            checked(libc::sigaction(SIGTSTP, &handler, std::ptr::null_mut()))?;
        }
        Ok(self.continued.came())
    }
}

/// What pthread_sigmask says: it gives the error's number.
fn masked(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
