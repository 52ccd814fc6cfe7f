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
                format!("no state is called {name:?}: there are {names}")
            })
    }
}
