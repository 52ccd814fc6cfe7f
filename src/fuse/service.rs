//! What a service manager is told: sd_notify(3).
//!
//! Where no manager listens, nothing is said, and nothing fails.

use std::time::Duration;

use sd_notify::NotifyState;

/// How often a manager without a watchdog is told how things are.
const EVERY: Duration = Duration::from_secs(10);

/// Whether a service manager listens.
pub fn is_managed() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// How often it has to hear of the service, if it listens: three times in the time that its
/// watchdog gives.
pub fn period() -> Option<Duration> {
    let watchdog = sd_notify::watchdog_enabled();
    is_managed().then(|| watchdog.map_or(EVERY, |limit| (limit / 3).min(EVERY)))
}

/// The mount answers.
pub fn ready(status: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The mount and its store answered just now.
pub fn alive(status: &str) {
    say(&[NotifyState::Watchdog, NotifyState::Status(status)]);
}

/// How things are, where they are not well.
pub fn status(status: &str) {
    say(&[NotifyState::Status(status)]);
}

/// The mount is about to end.
pub fn stopping(status: &str) {
    say(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

fn say(states: &[NotifyState]) {
    // A manager that went away needs no word.
    let _ = sd_notify::notify(states);
}
