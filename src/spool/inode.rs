//! The inode table: which number stands for what, for as long as the kernel or a handle knows it.
//!
//! Owns: the lookup counts that the kernel gives back with forget, and the counts of open
//! handles. An inode is dropped when both are zero.
//! May fail: never; a number that nobody was given is simply unknown.
//!
//! It is long because lookups, names, handles and pages are counted under one lock.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::number::{FIRST_MESSAGE, number_of};
use super::scratch::ScratchFile;
use crate::model::{MessageId, QueueState, Revision};

/// What an inode number stands for, beyond the fixed ones.
#[derive(Clone, Debug)]
pub enum Node {
    /// A message, and the state under whose directory it was named last.
    Message(MessageId, QueueState),
    /// A scratch file.
    Scratch(Arc<ScratchFile>),
}

/// How often an inode is known.
#[derive(Default)]
struct Uses {
    lookups: u64,
    handles: u32,
}

impl Uses {
    fn is_over(&self) -> bool {
        self.lookups == 0 && self.handles == 0
    }
}

/// A message's inode. There is one for each name that the kernel holds, so it is small.
struct Message {
    id: MessageId,
    uses: Uses,
    state: QueueState,
    /// The [`mark`] of the revision whose attributes the kernel was given last.
    told: u64,
    /// In which [`Table::round`] the kernel last asked for its name.
    named: u32,
}

/// The pages of a file that the kernel may hold: they belong to its inode, whoever reads them.
struct Pages {
    /// The [`mark`] of the revision that they are of.
    mark: u64,
    /// Open handles that read them.
    readers: u32,
    /// Whether the kernel is known to have heard that they are of this revision.
    heard: bool,
    /// The length of its document in bytes.
    len: u64,
    /// When another revision became known first while these were read.
    outdated: Option<Instant>,
}

impl Pages {
    /// Since when they are not the message's; from now on, if they were until now.
    fn outdated(&mut self) -> Instant {
        *self.outdated.get_or_insert_with(Instant::now)
    }
}

/// How long those who read an earlier revision keep the kernel at its length.
const PINNED: Duration = Duration::from_millis(80);

/// What attributes the kernel may have of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The message's own.
    Own,
    /// The message's own for this answer: somebody reads pages of an earlier revision.
    Once,
    /// This length in place of the message's, and for this answer: somebody is about to have read
    /// pages of an earlier revision, up to the length that the kernel has.
    Pinned(u64),
}

/// What an open file may do with the kernel's pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageUse {
    /// Its reads go past them.
    #[default]
    Past,
    /// It reads through them, after what they held was dropped.
    Fresh,
    /// It reads through them, and what they hold is right.
    Kept,
}

#[derive(Default)]
struct Table {
    /// In a tree: a hash table as large takes twice its room where it has just grown, stops all
    /// requests while it grows, and gives nothing back by itself.
    messages: BTreeMap<u64, Message>,
    scratch: HashMap<u64, (Arc<ScratchFile>, Uses)>,
    /// How often the kernel was told to drop all names.
    round: u32,
    /// Of those messages that were read through pages.
    pages: BTreeMap<u64, Pages>,
    /// The most messages since memory was last given back.
    most: usize,
}

/// The table.
#[derive(Default)]
pub struct Inodes {
    table: Mutex<Table>,
    /// A handle that read pages was closed.
    pages_closed: Condvar,
}

/// A number that tells two revisions of a message apart. No revision's is 0.
pub fn mark(revision: Revision) -> u64 {
    let updated = revision.updated;
    let nanos = (updated.seconds() as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(u64::from(updated.nanos()));
    (nanos ^ revision.tag.wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1)
}

impl Table {
    /// Counts one lookup of the message's number, which stands for it from here on; `hash` is
    /// [`number_of`] its ID.
    fn expect(&mut self, hash: u64, id: &MessageId, state: QueueState) -> (u64, QueueState) {
        self.most = self.most.max(self.messages.len() + 1);
        let mut ino = hash;
        loop {
            let message = match self.messages.entry(ino) {
                Entry::Occupied(other) if other.get().id != *id => {
                    ino = next(ino);
                    continue;
                }
                entry => entry.or_insert_with(|| Message {
                    id: id.clone(),
                    uses: Uses::default(),
                    state,
                    told: 0,
                    named: self.round,
                }),
            };
            message.uses.lookups += 1;
            message.named = self.round;
            return (ino, message.state);
        }
    }

    fn message(&mut self, id: &MessageId) -> Option<&mut Message> {
        let ino = free_or_own(number_of(id), &self.messages, id);
        self.messages.get_mut(&ino)
    }

    fn uses(&mut self, ino: u64) -> Option<&mut Uses> {
        match ino {
            FIRST_MESSAGE.. => self.messages.get_mut(&ino).map(|message| &mut message.uses),
            _ => self.scratch.get_mut(&ino).map(|(_, uses)| uses),
        }
    }
}

impl Inodes {
    /// What the number stands for.
    pub fn get(&self, ino: u64) -> Option<Node> {
        let table = self.table.lock();
        match table.messages.get(&ino) {
            Some(message) => Some(Node::Message(message.id.clone(), message.state)),
            None => table
                .scratch
                .get(&ino)
                .map(|(file, _)| Node::Scratch(file.clone())),
        }
    }

    /// The number that the message has now, or would get.
    pub fn number(&self, id: &MessageId) -> u64 {
        self.number_from(number_of(id), id)
    }

    /// The same where [`number_of`] the ID is known.
    pub fn number_from(&self, hash: u64, id: &MessageId) -> u64 {
        free_or_own(hash, &self.table.lock().messages, id)
    }

    /// Counts one lookup of a message that was found under a state's directory, and gives its number.
    pub fn look_up(&self, id: &MessageId, state: QueueState) -> u64 {
        self.look_up_from(number_of(id), id, state)
    }

    /// The same where [`number_of`] the ID is known.
    pub fn look_up_from(&self, hash: u64, id: &MessageId, state: QueueState) -> u64 {
        let mut table = self.table.lock();
        let (ino, last) = table.expect(hash, id, state);
        if last != state
            && let Some(message) = table.messages.get_mut(&ino)
        {
            message.state = state;
        }
        ino
    }

    /// Counts one lookup of a message that is about to be looked for under a state's directory:
    /// from here on its number stands for it. Also gives the one that it was last found under, or
    /// this one.
    pub fn expect(&self, id: &MessageId, state: QueueState) -> (u64, QueueState) {
        self.table.lock().expect(number_of(id), id, state)
    }

    /// The number that the kernel knows the message by, if it knows it.
    pub fn known(&self, id: &MessageId) -> Option<u64> {
        let table = self.table.lock();
        let ino = free_or_own(number_of(id), &table.messages, id);
        table.messages.contains_key(&ino).then_some(ino)
    }

    /// Whether the kernel may remember a name of the message: it has asked for one since all names
    /// were dropped last.
    pub fn is_named(&self, id: &MessageId) -> bool {
        let mut table = self.table.lock();
        let round = table.round;
        table.message(id).is_some_and(|m| m.named == round)
    }

    /// The kernel is about to be told to drop all names. What it asks for after that it remembers,
    /// so this comes before: a name too many is taken for remembered, and none too few.
    pub fn unname_all(&self) {
        let mut table = self.table.lock();
        table.round = table.round.wrapping_add(1);
    }

    /// Whether a handle knows the number.
    pub fn is_open(&self, ino: u64) -> bool {
        let mut table = self.table.lock();
        table.uses(ino).is_some_and(|uses| uses.handles > 0)
    }

    /// All numbers that the kernel or a handle knows, the fixed ones apart.
    pub fn all(&self) -> Vec<u64> {
        let table = self.table.lock();
        let all = table.messages.keys().chain(table.scratch.keys());
        all.copied().collect()
    }

    /// Counts one lookup of a scratch file.
    pub fn look_up_scratch(&self, file: &Arc<ScratchFile>) {
        let mut table = self.table.lock();
        let entry = table.scratch.entry(file.ino());
        let (_, uses) = entry.or_insert_with(|| (file.clone(), Uses::default()));
        uses.lookups += 1;
    }

    /// Takes back `count` lookups.
    pub fn forget(&self, ino: u64, count: u64) {
        self.release(ino, |uses| {
            uses.lookups = uses.lookups.saturating_sub(count);
        });
    }

    /// Counts an open handle.
    pub fn hold(&self, ino: u64) {
        if let Some(uses) = self.table.lock().uses(ino) {
            uses.handles += 1;
        }
    }

    /// Takes back an open handle.
    pub fn let_go(&self, ino: u64) {
        self.release(ino, |uses| {
            uses.handles = uses.handles.saturating_sub(1);
        });
    }

    /// The message was moved: its file has its name in `state` from now on.
    pub fn moved(&self, id: &MessageId, state: QueueState) {
        if let Some(message) = self.table.lock().message(id) {
            message.state = state;
        }
    }

    /// The kernel is given the attributes of the revision with that mark; `written` if somebody
    /// has the file open for writing.
    pub fn tell(&self, ino: u64, mark: u64, written: bool) -> Told {
        let mut table = self.table.lock();
        if let Some(message) = table.messages.get_mut(&ino) {
            message.told = mark;
        }
        match table.pages.get_mut(&ino) {
            Some(pages) if pages.readers > 0 && (pages.mark != mark || written) => {
                match pages.outdated().elapsed() < PINNED {
                    true => Told::Pinned(pages.len),
                    false => Told::Once,
                }
            }
            _ => Told::Own,
        }
    }

    /// Another program changed the message: who reads its pages reads what it was.
    pub fn outdate(&self, ino: u64) {
        if let Some(pages) = self.table.lock().pages.get_mut(&ino) {
            pages.outdated();
        }
    }

    /// Opens the revision with that mark, a document of `len` bytes, for reading. Pages are used
    /// only where the kernel was told this revision's length, and while nobody reads another one's.
    pub fn open_pages(&self, ino: u64, mark: u64, len: u64) -> PageUse {
        let mut table = self.table.lock();
        if table.messages.get(&ino).is_none_or(|m| m.told != mark) {
            return PageUse::Past;
        }
        match table.pages.get_mut(&ino) {
            Some(pages) if pages.mark == mark => {
                pages.readers += 1;
                match pages.heard {
                    true => PageUse::Kept,
                    false => PageUse::Fresh,
                }
            }
            Some(pages) if pages.readers > 0 => PageUse::Past,
            _ => {
                let pages = Pages {
                    mark,
                    readers: 1,
                    heard: false,
                    len,
                    outdated: None,
                };
                table.pages.insert(ino, pages);
                PageUse::Fresh
            }
        }
    }

    /// A handle that reads pages was used: the kernel has had the answer to its opening.
    pub fn pages_heard(&self, ino: u64) {
        if let Some(pages) = self.table.lock().pages.get_mut(&ino) {
            pages.heard = true;
        }
    }

    /// A handle that reads pages is closed.
    pub fn close_pages(&self, ino: u64) {
        if let Some(pages) = self.table.lock().pages.get_mut(&ino) {
            pages.readers = pages.readers.saturating_sub(1);
            pages.heard = true;
        }
        self.pages_closed.notify_all();
    }

    /// Waits until nobody reads pages of the inode any more, or the time is up.
    pub fn wait_for_pages(&self, ino: u64, limit: Duration) {
        let mut table = self.table.lock();
        let end = Instant::now() + limit;
        let is_read = |table: &Table| table.pages.get(&ino).is_some_and(|p| p.readers > 0);
        while is_read(&table) && !self.pages_closed.wait_until(&mut table, end).timed_out() {}
    }

    /// How many inodes the kernel or a handle knows.
    pub fn count(&self) -> usize {
        let table = self.table.lock();
        table.messages.len() + table.scratch.len()
    }

    /// Gives the memory of what was forgotten back to the system, where that is much. To be
    /// called now and then.
    pub fn shrink(&self) {
        let mut table = self.table.lock();
        if table.most < MUCH || table.messages.len() > table.most / 4 {
            return;
        }
        table.most = table.messages.len();
        drop(table);
        // SAFETY: no preconditions.
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::malloc_trim(0);
        }
    }

    fn release(&self, ino: u64, change: impl FnOnce(&mut Uses)) {
        // Dropping a scratch file gives its bytes back, under a lock of its own: after this one.
        let _dropped;
        let mut table = self.table.lock();
        let Some(uses) = table.uses(ino) else {
            return;
        };
        change(uses);
        if uses.is_over() {
            table.messages.remove(&ino);
            table.pages.remove(&ino);
            _dropped = table.scratch.remove(&ino);
        }
    }
}

/// So many inodes take memory worth giving back.
const MUCH: usize = 10_000;

/// The message's number: its hash, or the next one that no other message has (two IDs with one
/// hash are possible, if unlikely).
fn free_or_own(hash: u64, messages: &BTreeMap<u64, Message>, id: &MessageId) -> u64 {
    let mut ino = hash;
    loop {
        match messages.get(&ino) {
            Some(other) if other.id != *id => ino = next(ino),
            _ => return ino,
        }
    }
}

/// The number after that one, of those that messages have.
fn next(ino: u64) -> u64 {
    ((ino + 1) & (u64::MAX >> 1)).max(FIRST_MESSAGE)
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
        let message = Message {
            id: b.clone(),
            uses: Uses {
                lookups: 1,
                handles: 0,
            },
            state: QueueState::Hold,
            told: 0,
            named: 0,
        };
        inodes.table.lock().messages.insert(ino, message);
        let other = inodes.look_up(&a, QueueState::Hold);
        assert_ne!(other, ino);
        assert!(matches!(inodes.get(other), Some(Node::Message(id, _)) if id == a));
    }

    #[test]
    fn pages_are_of_one_revision_while_anybody_reads_them() {
        let inodes = Inodes::default();
        let id: MessageId = "msg-1".parse().unwrap();
        let ino = inodes.look_up(&id, QueueState::Hold);
        // The kernel has no length yet.
        assert_eq!(inodes.open_pages(ino, 1, 600), PageUse::Past);
        assert_eq!(inodes.tell(ino, 1, false), Told::Own);
        assert_eq!(inodes.open_pages(ino, 1, 600), PageUse::Fresh);
        // The first one's answer may still be on its way.
        assert_eq!(inodes.open_pages(ino, 1, 600), PageUse::Fresh);
        inodes.pages_heard(ino);
        assert_eq!(inodes.open_pages(ino, 1, 600), PageUse::Kept);
        // The message changes; three handles still read what it was.
        assert_eq!(inodes.open_pages(ino, 2, 700), PageUse::Past);
        assert_eq!(inodes.tell(ino, 2, false), Told::Pinned(600));
        for _ in 0..3 {
            assert_eq!(inodes.open_pages(ino, 2, 700), PageUse::Past);
            inodes.close_pages(ino);
        }
        assert_eq!(inodes.open_pages(ino, 2, 700), PageUse::Fresh);
        assert_eq!(inodes.tell(ino, 2, false), Told::Own);
        inodes.close_pages(ino);
        assert_eq!(inodes.open_pages(ino, 2, 700), PageUse::Kept);
        inodes.forget(ino, 1);
        assert!(inodes.table.lock().pages.is_empty());
    }
}
