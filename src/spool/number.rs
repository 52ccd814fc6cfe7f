//! Inode numbers: a message's is a hash of its ID, scratch files are counted.
//!
//! Owns: which numbers are whose. What two IDs of one hash get is the inode table's affair.
//! May fail: never.
//! Must not know: who has which number.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::tree::Fixed;
use crate::model::MessageId;

/// Numbers below this one are no message's: fixed inodes and scratch files have them.
pub const FIRST_MESSAGE: u64 = 1 << 32;

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

/// Numbers for scratch files, never used again within a mount's life.
#[derive(Debug)]
pub struct ScratchNumbers(AtomicU64);

impl Default for ScratchNumbers {
    fn default() -> ScratchNumbers {
        ScratchNumbers(AtomicU64::new(Fixed::END))
    }
}

impl ScratchNumbers {
    /// The next one.
    pub fn next(&self) -> u64 {
        // 2^32 scratch files later it begins again, far above the few that are still there.
        let next = self.0.fetch_add(1, Relaxed);
        Fixed::END + next % (FIRST_MESSAGE - Fixed::END)
    }
}
