//! What the tests stand on: a spool, a mount of it, shells with a deadline, and system calls whose
//! errno is seen.

mod mount;
mod shell;
mod spool;
mod sys;

use std::time::{Duration, Instant};

pub use mount::{Mount, program};
pub use shell::{Output, PATH, Script};
pub use spool::{Spool, ago, ctx, message};
pub use sys::{
    Named, close, create, errno, open, rename, rename_with, stat, store, truncate, write,
};

/// How long anything here may take, on a machine that others keep busy.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long the test beside a writer at full speed goes on: `RETRYSPOOLFS_SOAK_SECONDS`, or a few
/// seconds.
#[allow(dead_code, reason = "not every test target has such a test")]
pub fn soak() -> Duration {
    let seconds = std::env::var("RETRYSPOOLFS_SOAK_SECONDS");
    Duration::from_secs(seconds.map_or(4, |seconds| seconds.parse().expect("a number")))
}

/// Waits for what will be true at some moment; there is nothing to wait on but the thing itself.
#[track_caller]
pub fn eventually(what: &str, is: impl FnMut() -> bool) {
    eventually_or(is, || what.to_owned());
}

/// The same, with words that are found when it never came true.
#[track_caller]
pub fn eventually_or(mut is: impl FnMut() -> bool, what: impl Fn() -> String) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < DEADLINE, "never came true: {}", what());
        std::thread::sleep(Duration::from_millis(3));
    }
}
