//! Extended attributes: the fields of a message, one each.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::Spool;
use super::error::{Errno, Refusal, Result};
use super::inode::Node;
use super::tree::{Dir, Fixed};
use crate::model::{MessageMetadata, QueueState};

/// What the names of ours begin with.
const PREFIX: &str = "user.retryspool.";
/// The kernel's limits: a name's length, a value's length and the length of all names.
const NAME_MAX: usize = 255;
const SIZE_MAX: usize = 64 << 10;

impl Spool {
    /// The value of an attribute.
    pub fn getxattr(&self, ino: u64, name: &OsStr) -> Result<Vec<u8>> {
        // Before each write the kernel asks for security.capability: nobody asks the store then.
        if !name.as_bytes().starts_with(PREFIX.as_bytes()) {
            return Err(foreign());
        }
        let attributes = self.xattrs(ino)?;
        let found = attributes.into_iter().find(|(n, _)| n.as_str() == name);
        found
            .map(|(_, value)| value.into_bytes())
            .ok_or_else(|| Refusal::new(Errno::ENODATA, "there is no such attribute"))
    }

    /// The names of all attributes.
    pub fn listxattr(&self, ino: u64) -> Result<Vec<OsString>> {
        let mut left = SIZE_MAX;
        let mut names = Vec::new();
        for (name, _) in self.xattrs(ino)? {
            match left.checked_sub(name.len() + 1) {
                Some(rest) => left = rest,
                None => break,
            }
            names.push(name.into());
        }
        Ok(names)
    }

    /// Accepts a value that is there already, and no other.
    pub fn setxattr(&self, ino: u64, name: &OsStr, value: &[u8]) -> Result<()> {
        match self.getxattr(ino, name) {
            Ok(present) if present == value => Ok(()),
            Ok(_) => Err(foreign()),
            Err(refusal) if refusal.errno == Errno::ENODATA => Err(foreign()),
            Err(refusal) => Err(refusal),
        }
    }

    /// Removes none.
    pub fn removexattr(&self, _ino: u64, _name: &OsStr) -> Result<()> {
        Err(foreign())
    }

    fn xattrs(&self, ino: u64) -> Result<Vec<(String, String)>> {
        if let Some(fixed) = Fixed::of(ino) {
            return match fixed {
                Fixed::Dir(Dir::State(state)) => self.state_xattrs(state),
                Fixed::Dir(_) | Fixed::Text(_) | Fixed::Snapshot(_) => Ok(Vec::new()),
            };
        }
        match self.inodes.get(ino) {
            Some(Node::Message(id, _)) => {
                let stored = self.ask(self.store.get(&self.patient(), &id))?;
                Ok(stored.map_or_else(Vec::new, |stored| message_xattrs(&stored.metadata)))
            }
            Some(Node::Scratch(_)) => Ok(Vec::new()),
            None => Err(Refusal::not_found()),
        }
    }

    fn state_xattrs(&self, state: QueueState) -> Result<Vec<(String, String)>> {
        let info = self.ask(self.store.state_info(&self.patient(), state))?;
        Ok(vec![
            (format!("{PREFIX}count"), info.count.to_string()),
            (format!("{PREFIX}state"), state.to_string()),
        ])
    }
}

fn message_xattrs(m: &MessageMetadata) -> Vec<(String, String)> {
    let fields = [
        ("id", m.id.to_string()),
        ("state", m.state.to_string()),
        ("attempts", m.attempts.to_string()),
        ("max_attempts", m.max_attempts.to_string()),
        ("next_retry", m.next_retry.to_string()),
        ("created", m.created.to_string()),
        ("updated", m.updated.to_string()),
        ("last_error", m.last_error.clone()),
        ("size", m.size.to_string()),
        ("priority", m.priority.to_string()),
        ("retry_policy_name", m.retry_policy_name.clone()),
    ];
    let headers = m
        .headers
        .iter()
        .filter(|(name, _)| !name.contains('\0'))
        .map(|(name, value)| (format!("{PREFIX}header.{name}"), value.clone()));
    fields
        .into_iter()
        .map(|(name, value)| (format!("{PREFIX}{name}"), value))
        .chain(headers)
        .filter(|(name, value)| name.len() <= NAME_MAX && value.len() <= SIZE_MAX)
        .collect()
}

/// What makes tools fall back in silence.
fn foreign() -> Refusal {
    Refusal::new(
        Errno::EOPNOTSUPP,
        "only a message's own attributes are there, to be read",
    )
}
