//! The fixed part of the tree: which directories and control files there are, and their inode
//! numbers.

use std::ffi::OsStr;

use crate::model::{FileName, MessageId, QueueState};

use super::Options;

/// The name of the directory of control files. It is not listed in the root.
pub const CONTROL: &str = ".retryspool";

/// A directory. Their inode numbers are fixed: 1 to 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dir {
    /// The root of the mount.
    Root,
    /// The messages of a state.
    State(QueueState),
    /// `.retryspool`.
    Control,
    /// `.retryspool/scratch`.
    Scratch,
    /// `.retryspool/scratch/STATE`: the scratch files of a state's directory, listed.
    ScratchOf(QueueState),
}

/// A control file with text in it. Their inode numbers are fixed: 16 to 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Text {
    /// The latest refusals, a line each.
    Errors,
    /// The latest changes by anybody, a line of JSON each.
    Events,
}

/// A control file that is made when it is opened: each reader has one moment of its own. Its size
/// is shown as 0, as that of the files in /proc is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Snapshot {
    /// What is known of the mount, as JSON.
    Status,
    /// Numbers for Prometheus.
    Metrics,
}

/// What a fixed inode number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fixed {
    Dir(Dir),
    Text(Text),
    Snapshot(Snapshot),
}

impl Fixed {
    /// The inode numbers below this one are the fixed ones.
    pub const END: u64 = 32;

    /// Its inode number.
    pub fn ino(self) -> u64 {
        match self {
            Fixed::Dir(Dir::Root) => 1,
            Fixed::Dir(Dir::State(state)) => 2 + u64::from(state.number()),
            Fixed::Dir(Dir::Control) => 8,
            Fixed::Dir(Dir::Scratch) => 9,
            Fixed::Dir(Dir::ScratchOf(state)) => 10 + u64::from(state.number()),
            Fixed::Text(Text::Errors) => 16,
            Fixed::Text(Text::Events) => 17,
            Fixed::Snapshot(Snapshot::Status) => 18,
            Fixed::Snapshot(Snapshot::Metrics) => 19,
        }
    }

    /// What has this inode number.
    pub fn of(ino: u64) -> Option<Fixed> {
        let state = |first| QueueState::from_number(ino as i64 - first);
        Some(match ino {
            1 => Fixed::Dir(Dir::Root),
            2..=7 => Fixed::Dir(Dir::State(state(2)?)),
            8 => Fixed::Dir(Dir::Control),
            9 => Fixed::Dir(Dir::Scratch),
            10..=15 => Fixed::Dir(Dir::ScratchOf(state(10)?)),
            16 => Fixed::Text(Text::Errors),
            17 => Fixed::Text(Text::Events),
            18 => Fixed::Snapshot(Snapshot::Status),
            19 => Fixed::Snapshot(Snapshot::Metrics),
            _ => return None,
        })
    }
}

impl Text {
    /// Its name in the directory of control files.
    pub fn name(self) -> &'static str {
        match self {
            Text::Errors => "errors",
            Text::Events => "events",
        }
    }
}

impl Snapshot {
    /// Its name in the directory of control files.
    pub fn name(self) -> &'static str {
        match self {
            Snapshot::Status => "status",
            Snapshot::Metrics => "metrics",
        }
    }
}

impl Dir {
    /// The directory that it is in; the root's is the root.
    pub fn parent(self) -> Dir {
        match self {
            Dir::Root | Dir::State(_) | Dir::Control => Dir::Root,
            Dir::Scratch => Dir::Control,
            Dir::ScratchOf(_) => Dir::Scratch,
        }
    }

    /// Its path in the mount: empty for the root, otherwise with a slash at its end.
    pub fn path(self) -> String {
        match self {
            Dir::Root => String::new(),
            Dir::State(state) => format!("{state}/"),
            Dir::Control => format!("{CONTROL}/"),
            Dir::Scratch => format!("{CONTROL}/scratch/"),
            Dir::ScratchOf(state) => format!("{CONTROL}/scratch/{state}/"),
        }
    }

    /// The fixed names in it that a listing shows.
    pub fn listed(self, options: &Options) -> Vec<(&'static str, Fixed)> {
        let states = |dir: fn(QueueState) -> Dir| -> Vec<(&'static str, Fixed)> {
            options
                .states()
                .map(|state| (state.as_str(), Fixed::Dir(dir(state))))
                .collect()
        };
        match self {
            Dir::Root => states(Dir::State),
            Dir::Scratch => states(Dir::ScratchOf),
            Dir::Control => vec![
                (Text::Errors.name(), Fixed::Text(Text::Errors)),
                (Text::Events.name(), Fixed::Text(Text::Events)),
                (Snapshot::Metrics.name(), Fixed::Snapshot(Snapshot::Metrics)),
                ("scratch", Fixed::Dir(Dir::Scratch)),
                (Snapshot::Status.name(), Fixed::Snapshot(Snapshot::Status)),
            ],
            Dir::State(_) | Dir::ScratchOf(_) => Vec::new(),
        }
    }

    /// The fixed entry of that name.
    pub fn fixed(self, name: &OsStr, options: &Options) -> Option<Fixed> {
        if self == Dir::Root && name == CONTROL {
            return Some(Fixed::Dir(Dir::Control));
        }
        let mut listed = self.listed(options).into_iter();
        listed.find(|(n, _)| name == *n).map(|(_, fixed)| fixed)
    }
}

/// What a name in a directory means, before anything is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A message's file in a state.
    Message(QueueState, MessageId),
    /// A scratch file of a state's directory.
    Scratch(QueueState),
    /// A name that can't be a message's and is no scratch name.
    Invalid,
    /// A name in a directory whose names are fixed.
    Fixed,
}

impl Target {
    /// Reads a name.
    pub fn of(dir: Dir, name: &OsStr) -> Target {
        match (dir, FileName::of(name)) {
            (Dir::State(state), FileName::Message(id)) => Target::Message(state, id),
            (Dir::State(state) | Dir::ScratchOf(state), FileName::Scratch) => {
                Target::Scratch(state)
            }
            (Dir::State(_), FileName::Invalid) => Target::Invalid,
            (Dir::ScratchOf(_), _) => Target::Invalid,
            (Dir::Root | Dir::Control | Dir::Scratch, _) => Target::Fixed,
        }
    }
}
