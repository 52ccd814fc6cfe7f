//! How many operations there were, how long they took, and how they failed.
//!
//! Owns: numbers. Counting takes no lock and never fails.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::error::Errno;

macro_rules! operations {
    ($($variant:ident $name:literal,)*) => {
        /// A kind of request of the kernel's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Operation {
            $($variant,)*
        }

        impl Operation {
            /// All kinds, in the order of their numbers.
            pub const ALL: &[Operation] = &[$(Operation::$variant,)*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Operation::$variant => $name,)*
                }
            }
        }
    };
}

operations! {
    Lookup "lookup",
    Forget "forget",
    Getattr "getattr",
    Setattr "setattr",
    Create "create",
    Mknod "mknod",
    Mkdir "mkdir",
    Symlink "symlink",
    Link "link",
    Unlink "unlink",
    Rmdir "rmdir",
    Rename "rename",
    Open "open",
    Read "read",
    Poll "poll",
    Write "write",
    Flush "flush",
    Release "release",
    Fsync "fsync",
    Opendir "opendir",
    Readdir "readdir",
    Releasedir "releasedir",
    Fsyncdir "fsyncdir",
    Statfs "statfs",
    Getxattr "getxattr",
    Setxattr "setxattr",
    Listxattr "listxattr",
    Removexattr "removexattr",
}

/// The upper bounds of the histogram's buckets, in microseconds; what took longer is in none.
pub const BOUNDS: [u64; 12] = [
    20, 50, 100, 250, 500, 1_000, 5_000, 20_000, 100_000, 500_000, 1_000_000, 10_000_000,
];

/// What was counted of every kind, since the mount began.
pub struct Operations(Vec<Kind>);

#[derive(Default)]
struct Kind {
    /// By the first bound that was not passed; the last one counts the rest.
    took: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
    errors: [AtomicU64; Errno::ALL.len()],
}

/// What was counted of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// How many ended within each bound and above the one before; then those above all.
    pub took: Vec<u64>,
    /// The time of all together.
    pub time: Duration,
    /// How many were refused with each errno, where any was.
    pub errors: Vec<(Errno, u64)>,
}

impl Counted {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.took.iter().sum()
    }
}

impl Default for Operations {
    fn default() -> Operations {
        Operations(Operation::ALL.iter().map(|_| Kind::default()).collect())
    }
}

impl Operations {
    /// Counts one that ended.
    pub fn ended(&self, operation: Operation, took: Duration, refused: Option<Errno>) {
        let kind = &self.0[operation as usize];
        let add = |number: &AtomicU64, by| number.fetch_add(by, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| nanos <= bound * 1000);
        add(&kind.took[bucket.unwrap_or(BOUNDS.len())], 1);
        add(&kind.nanos, nanos);
        if let Some(errno) = refused {
            add(&kind.errors[errno.index()], 1);
        }
    }

    /// What was counted of a kind.
    pub fn counted(&self, operation: Operation) -> Counted {
        let kind = &self.0[operation as usize];
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let errors = Errno::ALL.iter().zip(&kind.errors);
        Counted {
            took: kind.took.iter().map(read).collect(),
            time: Duration::from_nanos(read(&kind.nanos)),
            errors: errors
                .map(|(errno, count)| (*errno, read(count)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_by_kind_time_and_errno() {
        let operations = Operations::default();
        let micros = Duration::from_micros;
        operations.ended(Operation::Rename, micros(20), None);
        operations.ended(Operation::Rename, micros(21), Some(Errno::ENOENT));
        operations.ended(
            Operation::Rename,
            Duration::from_secs(60),
            Some(Errno::ESTALE),
        );
        operations.ended(Operation::Removexattr, micros(1), None);
        let counted = operations.counted(Operation::Rename);
        assert_eq!(counted.took[..3], [1, 1, 0]);
        assert_eq!(counted.took[BOUNDS.len()], 1);
        assert_eq!(counted.count(), 3);
        assert_eq!(counted.time, Duration::from_secs(60) + micros(41));
        assert_eq!(counted.errors, [(Errno::ENOENT, 1), (Errno::ESTALE, 1)]);
        assert_eq!(operations.counted(Operation::Removexattr).count(), 1);
        assert_eq!(operations.counted(Operation::Lookup).count(), 0);
    }
}
