//! The states of a message, as RetrySpool numbers and names them.

use std::fmt;
use std::str::FromStr;

/// Where a message is in the queue. The numbers are RetrySpool's, and those its stores write.
///
/// ```
/// use retryspoolfs::QueueState;
/// assert_eq!("deferred".parse(), Ok(QueueState::Deferred));
/// assert_eq!(QueueState::from_number(3), Some(QueueState::Hold));
/// assert_eq!(QueueState::from_number(9), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QueueState {
    /// Accepted, not yet tried.
    Incoming = 0,
    /// A worker has it.
    Active = 1,
    /// Tried, failed for now, waits for its next retry.
    Deferred = 2,
    /// Held by an operator.
    Hold = 3,
    /// Failed for good; a worker makes a delivery report of it.
    Bounce = 4,
    /// Written by current RetrySpool releases; a mount shows it only when asked to.
    Archived = 5,
}

impl QueueState {
    /// Every state, by number.
    pub const ALL: [QueueState; 6] = [
        QueueState::Incoming,
        QueueState::Active,
        QueueState::Deferred,
        QueueState::Hold,
        QueueState::Bounce,
        QueueState::Archived,
    ];

    /// The number that RetrySpool's stores and documents use, 0 to 5.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The state of that number; `None` for any other number.
    pub fn from_number(number: i64) -> Option<QueueState> {
        usize::try_from(number)
            .ok()
            .and_then(|n| Self::ALL.get(n).copied())
    }

    /// The name of the state, and of its directory.
    pub fn as_str(self) -> &'static str {
        match self {
            QueueState::Incoming => "incoming",
            QueueState::Active => "active",
            QueueState::Deferred => "deferred",
            QueueState::Hold => "hold",
            QueueState::Bounce => "bounce",
            QueueState::Archived => "archived",
        }
    }

    /// The state that somebody means who wrote this: its name in any case, as a directory's path,
    /// shortened to three letters or more, or with some letters wrong; none with a digit in it.
    ///
    /// ```
    /// use retryspoolfs::QueueState;
    /// assert_eq!(QueueState::meant_by("defered"), Some(QueueState::Deferred));
    /// assert_eq!(QueueState::meant_by("/mnt/queue/Hold/"), Some(QueueState::Hold));
    /// assert_eq!(QueueState::meant_by("msg-1"), None);
    /// ```
    pub fn meant_by(written: &str) -> Option<QueueState> {
        let path = written.trim_end_matches('/');
        let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
        if name.contains(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let is_meant = |state: &QueueState| {
            let whole = state.as_str();
            // One letter in four may be wrong.
            let wrong = strsim::osa_distance(&name, whole);
            wrong <= whole.len() / 4 || (name.len() >= 3 && whole.starts_with(&name))
        };
        QueueState::ALL.into_iter().find(is_meant)
    }
}

impl fmt::Display for QueueState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for QueueState {
    type Err = String;

    fn from_str(name: &str) -> Result<QueueState, String> {
        QueueState::ALL
            .into_iter()
            .find(|state| state.as_str() == name)
            .ok_or_else(|| {
                let names = QueueState::ALL.map(QueueState::as_str).join(", ");
                let meant = QueueState::meant_by(name);
                let meant = meant.map_or(String::new(), |meant| format!("; did you mean {meant}?"));
                format!("no state is called {name:?}: there are {names}{meant}")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_is_found() {
        for (written, meant) in [
            ("hlod", QueueState::Hold),
            ("held", QueueState::Hold),
            ("HOLD", QueueState::Hold),
            ("def", QueueState::Deferred),
            ("deffered", QueueState::Deferred),
            ("deferd", QueueState::Deferred),
            ("./deferred/", QueueState::Deferred),
            ("bounced", QueueState::Bounce),
            ("incomming", QueueState::Incoming),
            ("archive", QueueState::Archived),
            ("actve", QueueState::Active),
        ] {
            assert_eq!(QueueState::meant_by(written), Some(meant), "{written}");
        }
        for written in ["", "/", "de", "hello", "deferred-1", "hold/x", "queue"] {
            assert_eq!(QueueState::meant_by(written), None, "{written}");
        }
    }
}
