//! How a directory is read: its names, and when they changed last.
//!
//! Owns: what each kind of name is.
//! May fail: with [`Error`](crate::Error) when the directory can't be read.
//! Must not know: what is under a name.

use std::ffi::OsString;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::place::{StateDir, failed};
use crate::backend::Result;
use crate::model::{MessageId, PlainName};

/// Names in a directory.
pub struct Names {
    /// In order.
    pub messages: Vec<MessageId>,
    pub temporary: Vec<OsString>,
    pub foreign: Vec<OsString>,
}

/// Reads the names in a directory.
pub fn names(dir: &StateDir) -> Result<Names> {
    let shown = |e: Errno| failed(dir.state.as_str(), &e.into());
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let again = openat(&dir.file, ".", flags, Mode::empty()).map_err(shown)?;
    let mut listing = nix::dir::Dir::from_fd(again).map_err(shown)?;
    let mut names = Names {
        messages: Vec::new(),
        temporary: Vec::new(),
        foreign: Vec::new(),
    };
    for entry in listing.iter() {
        let entry = entry.map_err(shown)?;
        let name = std::os::unix::ffi::OsStrExt::from_bytes(entry.file_name().to_bytes());
        match PlainName::of(name) {
            PlainName::Message(id) => names.messages.push(id),
            PlainName::Foreign if name != "." && name != ".." => names.foreign.push(name.into()),
            PlainName::Temporary => names.temporary.push(name.into()),
            PlainName::Foreign => {}
        }
    }
    names.messages.sort_unstable();
    // Made again in their order they lie in it in memory, where listings go through them.
    names.messages = names.messages.to_vec();
    Ok(names)
}

/// The name that an ID was read from.
pub fn plain(id: &MessageId) -> String {
    // An ID that was read from a name has that name.
    PlainName::of_id(id).unwrap_or_default()
}

/// When the directory changed last: seconds and nanoseconds.
pub fn times(dir: &StateDir) -> Result<(i64, i64)> {
    let stat =
        nix::sys::stat::fstat(&dir.file).map_err(|e| failed(dir.state.as_str(), &e.into()))?;
    Ok((stat.st_mtime, stat.st_mtime_nsec))
}
