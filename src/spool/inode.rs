//! The inode table: which number stands for what, for as long as the kernel or a handle knows it.
//!
//! Owns: the lookup counts that the kernel gives back with forget, and the counts of open
//! handles. An inode is dropped when both are zero.
//! May fail: never; a number that nobody was given is simply unknown.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

use super::scratch::ScratchFile;
use super::tree::Fixed;
use crate::model::{MessageId, QueueState};

/// What an inode number stands for, beyond the fixed ones.
#[derive(Clone, Debug)]
pub enum Node {
    /// A message, and the state under whose directory it was named last.
    Message(MessageId, QueueState),
    /// A scratch file.
    Scratch(Arc<ScratchFile>),
}

struct Inode {
    node: Node,
    lookups: u64,
    handles: u32,
}

/// The table.
#[derive(Default)]
pub struct Inodes {
    table: Mutex<HashMap<u64, Inode>>,
}

/// Numbers below this one are no message's: fixed inodes and scratch files have them.
const FIRST_MESSAGE: u64 = 1 << 32;

/// The number that an ID has in every mount, on every host and store, collisions apart: 63 bits
/// of FNV-1a, finished as in MurmurHash3 so that near IDs lie far apart.
pub fn number_of(id: &MessageId) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in id.as_str().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash = (hash ^ (hash >> 33)) >> 1;
    hash.max(FIRST_MESSAGE)
}

impl Inodes {
    /// What the number stands for.
    pub fn get(&self, ino: u64) -> Option<Node> {
        self.table.lock().get(&ino).map(|inode| inode.node.clone())
    }

    /// The number that the message has now, or would get.
    pub fn number(&self, id: &MessageId) -> u64 {
        free_or_own(&self.table.lock(), id)
    }

    /// Counts one lookup of a message under a state's directory, and gives its number.
    pub fn look_up(&self, id: &MessageId, state: QueueState) -> u64 {
        let ino = self.expect(id, state);
        self.moved(id, state);
        ino
    }

    /// Counts one lookup of a message that is about to be looked for under a state's directory:
    /// from here on its number stands for it.
    pub fn expect(&self, id: &MessageId, state: QueueState) -> u64 {
        let mut table = self.table.lock();
        let ino = free_or_own(&table, id);
        let inode = table.entry(ino).or_insert_with(|| Inode {
            node: Node::Message(id.clone(), state),
            lookups: 0,
            handles: 0,
        });
        inode.lookups += 1;
        ino
    }

    /// The number that the kernel knows the message by, if it knows it.
    pub fn known(&self, id: &MessageId) -> Option<u64> {
        let table = self.table.lock();
        let ino = free_or_own(&table, id);
        table.contains_key(&ino).then_some(ino)
    }

    /// Whether a handle knows the number.
    pub fn is_open(&self, ino: u64) -> bool {
        let table = self.table.lock();
        table.get(&ino).is_some_and(|inode| inode.handles > 0)
    }

    /// All numbers that the kernel or a handle knows, the fixed ones apart.
    pub fn all(&self) -> Vec<u64> {
        self.table.lock().keys().copied().collect()
    }

    /// Counts one lookup of a scratch file.
    pub fn look_up_scratch(&self, file: &Arc<ScratchFile>) {
        let mut table = self.table.lock();
        let inode = table.entry(file.ino()).or_insert_with(|| Inode {
            node: Node::Scratch(file.clone()),
            lookups: 0,
            handles: 0,
        });
        inode.lookups += 1;
    }

    /// Takes back `count` lookups.
    pub fn forget(&self, ino: u64, count: u64) {
        self.release(ino, |inode| {
            inode.lookups = inode.lookups.saturating_sub(count);
        });
    }

    /// Counts an open handle.
    pub fn hold(&self, ino: u64) {
        if let Some(inode) = self.table.lock().get_mut(&ino) {
            inode.handles += 1;
        }
    }

    /// Takes back an open handle.
    pub fn let_go(&self, ino: u64) {
        self.release(ino, |inode| {
            inode.handles = inode.handles.saturating_sub(1);
        });
    }

    /// The message was moved: its file has its name in `state` from now on.
    pub fn moved(&self, id: &MessageId, state: QueueState) {
        let mut table = self.table.lock();
        let ino = free_or_own(&table, id);
        if let Some(Node::Message(_, named)) = table.get_mut(&ino).map(|inode| &mut inode.node) {
            *named = state;
        }
    }

    /// How many inodes the kernel or a handle knows.
    pub fn count(&self) -> usize {
        self.table.lock().len()
    }

    fn release(&self, ino: u64, change: impl FnOnce(&mut Inode)) {
        // Dropping a scratch file gives its bytes back, under a lock of its own: after this one.
        let _dropped;
        let mut table = self.table.lock();
        if let Entry::Occupied(mut entry) = table.entry(ino) {
            change(entry.get_mut());
            if entry.get().lookups == 0 && entry.get().handles == 0 {
                _dropped = entry.remove();
            }
        }
    }
}

/// The message's number: its hash, or the next one that no other message has (two IDs with one
/// hash are possible, if unlikely).
fn free_or_own(table: &HashMap<u64, Inode>, id: &MessageId) -> u64 {
    let mut ino = number_of(id);
    loop {
        match table.get(&ino).map(|inode| &inode.node) {
            Some(Node::Message(other, _)) if other != id => {
                ino = (ino + 1).max(FIRST_MESSAGE) & (u64::MAX >> 1);
            }
            _ => return ino.max(FIRST_MESSAGE),
        }
    }
}

/// Numbers for scratch files, never used again within a mount's life.
#[derive(Debug)]
pub struct ScratchNumbers(std::sync::atomic::AtomicU64);

impl Default for ScratchNumbers {
    fn default() -> ScratchNumbers {
        ScratchNumbers(std::sync::atomic::AtomicU64::new(Fixed::END))
    }
}

impl ScratchNumbers {
    /// The next one.
    pub fn next(&self) -> u64 {
        // 2^32 scratch files later it begins again, far above the few that are still there.
        let next = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Fixed::END + next % (FIRST_MESSAGE - Fixed::END)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_lives_while_the_kernel_or_a_handle_knows_it() {
        let inodes = Inodes::default();
        let id: MessageId = "msg-1".parse().unwrap();
        let ino = inodes.look_up(&id, QueueState::Deferred);
        assert_eq!(inodes.look_up(&id, QueueState::Hold), ino);
        inodes.hold(ino);
        inodes.forget(ino, 2);
        assert!(matches!(
            inodes.get(ino),
            Some(Node::Message(_, QueueState::Hold))
        ));
        inodes.let_go(ino);
        assert!(inodes.get(ino).is_none() && inodes.count() == 0);
        inodes.forget(ino, 7);
    }

    #[test]
    fn numbers_are_what_they_were_in_earlier_releases() {
        let number = |id: &str| number_of(&id.parse().unwrap());
        assert_eq!(number("msg-123"), 4_490_489_527_597_110_121);
        assert_ne!(number("msg-123"), number("msg-124"));
    }

    #[test]
    fn two_messages_never_share_a_number() {
        let inodes = Inodes::default();
        let (a, b): (MessageId, MessageId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let ino = number_of(&a);
        // As if b's hash were a's.
        inodes.table.lock().insert(
            ino,
            Inode {
                node: Node::Message(b.clone(), QueueState::Hold),
                lookups: 1,
                handles: 0,
            },
        );
        let other = inodes.look_up(&a, QueueState::Hold);
        assert_ne!(other, ino);
        assert!(matches!(inodes.get(other), Some(Node::Message(id, _)) if id == a));
    }
}
