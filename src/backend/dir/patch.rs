//! The document of a message that moves, rewritten where it lies.
//!
//! Owns: which documents can be. A move changes State and Updated alone. Where their new values are
//! as long as the old ones, and both lie in one sector of the disk, nothing has to be replaced: a
//! disk writes a sector as a whole or not at all (SQLite and the filesystems' journals build on
//! that too), so a power failure leaves the old document or the new one. No file is made and none
//! removed, which is most of what a move would cost.
//! May fail: by saying that it can't be done so; then the document is written anew.
//! Must not know: when it is done.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};

use super::file::{Found, revision, same_bytes};
use super::place::StateDir;
use crate::document;
use crate::model::{MessageMetadata, QueueState, Revision, Timestamp};

/// What every disk writes at once, or not at all.
const SECTOR: usize = 512;

/// What is to be written into a message's file.
pub struct Patch {
    file: File,
    at: usize,
    bytes: Vec<u8>,
    /// The message as it will be.
    pub metadata: MessageMetadata,
}

impl Patch {
    /// What a move to another state changes in the file of `name`; `None` if its document can't be
    /// rewritten where it lies.
    pub fn of(dir: &StateDir, name: &str, found: &Found, to: QueueState) -> Option<Patch> {
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = File::from(openat(&dir.file, name, flags, Mode::empty()).ok()?);
        let stat = fstat(&file).ok()?;
        // Another link to it may be somebody's backup.
        if !same_bytes(&stat, &found.stat) || stat.st_nlink != 1 {
            return None;
        }
        let mut old = String::new();
        (&file).read_to_string(&mut old).ok()?;
        let found = &found.stored.metadata;
        let (now, least) = (Timestamp::now(), found.updated.next());
        let (new, updated) = rewritten(&old, to, now.max(least))?;
        // Where the clock is behind, it is the very next.
        if now < least && updated != least {
            return None;
        }
        let metadata = MessageMetadata {
            state: to,
            updated,
            ..found.clone()
        };
        let changed = changed(old.as_bytes(), new.as_bytes())?;
        let read = document::read_kept(new.as_bytes(), &metadata.id, to).ok()?;
        (read.names_its_state && read.metadata == metadata).then(|| Patch {
            file,
            at: changed.start,
            bytes: new.as_bytes()[changed].to_vec(),
            metadata,
        })
    }

    /// Writes it.
    pub fn apply(&self) -> io::Result<()> {
        self.file.write_all_at(&self.bytes, self.at as u64)
    }

    /// Brings it to the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// The revision that it makes.
    pub fn revision(&self, metadata: &MessageMetadata) -> Revision {
        revision(&self.file, metadata)
    }
}

/// The document in another state and with another Updated, not before `updated`: as long as it was,
/// and otherwise the same.
fn rewritten(old: &str, to: QueueState, updated: Timestamp) -> Option<(String, Timestamp)> {
    let state_at = value(old, "State")?;
    let updated_at = value(old, "Updated")?;
    let (updated, text) = alike(&old[updated_at.clone()], updated)?;
    let state = to.number().to_string();
    if (state.len(), text.len()) != (state_at.len(), updated_at.len()) {
        return None;
    }
    let mut new = old.to_owned();
    new.replace_range(state_at, &state);
    new.replace_range(updated_at, &text);
    Some((new, updated))
}

/// Where a key's value is, in a document laid out as RetrySpool does: only a key of the document
/// itself follows two spaces at the beginning of a line.
fn value(document: &str, key: &str) -> Option<Range<usize>> {
    let before = format!("\n  \"{key}\": ");
    let start = document.find(&before)? + before.len();
    let len = document[start..].find([',', '\n'])?;
    Some(start..start + len)
}

/// A time not before `time`, and its text in JSON, of the form of another one's: with as many
/// digits, and as long a zone.
fn alike(text: &str, time: Timestamp) -> Option<(Timestamp, String)> {
    let (_, fraction) = text.strip_suffix('"')?.split_once('.')?;
    let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = fraction.len() - zone.len();
    // Fewer would make it later than now by more than a few microseconds.
    if !(6..=9).contains(&digits) {
        return None;
    }
    let unit = 10_u32.pow(9 - digits as u32);
    let part = time.nanos().div_ceil(unit);
    let time = Timestamp::new(time.seconds(), part * unit)?;
    let seconds = Timestamp::new(time.seconds(), 0)?.to_string();
    let seconds = seconds.strip_suffix('Z')?;
    let zone = if zone == "Z" { zone } else { "+00:00" };
    Some((time, format!("\"{seconds}.{part:0digits$}{zone}\"")))
}

/// Where two documents of one length differ, if that is in one sector.
fn changed(old: &[u8], new: &[u8]) -> Option<Range<usize>> {
    let differs = |n: &usize| old[*n] != new[*n];
    let first = (0..old.len()).find(differs)?;
    let last = (0..old.len()).rfind(differs)?;
    (first / SECTOR == last / SECTOR).then_some(first..last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "{\n  \"ID\": \"a\",\n  \"State\": 2,\n  \"Attempts\": 1,\n  \"Later\": 7,\n  \
        \"Updated\": \"2026-01-02T03:04:05.123456789Z\",\n  \"LastError\": \"\\u003cx\\u003e\",\n  \
        \"Headers\": {\n    \"State\": 3,\n    \"Updated\": \"1\"\n  }\n}\n";

    fn at(seconds: i64, nanos: u32) -> Timestamp {
        Timestamp::new(seconds, nanos).unwrap()
    }

    #[test]
    fn state_and_updated_change_and_nothing_else() {
        let time = at(1_800_000_000, 12_340);
        let (new, updated) = rewritten(OLD, QueueState::Hold, time).unwrap();
        assert_eq!(updated, time);
        let expected = OLD.replace("\n  \"State\": 2", "\n  \"State\": 3").replace(
            "2026-01-02T03:04:05.123456789Z",
            "2027-01-15T08:00:00.000012340Z",
        );
        assert_eq!(new, expected);
        let changed = changed(OLD.as_bytes(), new.as_bytes()).unwrap();
        let mut patched = OLD.to_owned();
        patched.replace_range(changed.clone(), &new[changed]);
        assert_eq!(patched, expected);
    }

    #[test]
    fn a_time_is_written_as_long_as_the_one_before_it_and_is_not_earlier() {
        let time = at(1_800_000_000, 1_500_001);
        for (old, expected) in [
            (
                "\"2026-01-02T03:04:05.123456789+02:00\"",
                "\"2027-01-15T08:00:00.001500001+00:00\"",
            ),
            (
                "\"2026-01-02T03:04:05.1234567Z\"",
                "\"2027-01-15T08:00:00.0015001Z\"",
            ),
        ] {
            let (later, new) = alike(old, time).unwrap();
            assert_eq!(new, expected);
            assert_eq!(Timestamp::parse(new.trim_matches('"')), Some(later));
            assert!(later >= time);
        }
        for none in [
            "\"2026-01-02T03:04:05Z\"",
            "\"2026-01-02T03:04:05.12Z\"",
            "null",
            "\"\"",
        ] {
            assert_eq!(alike(none, time), None, "{none}");
        }
        // Rounded up it would be the next second.
        let last = at(1_800_000_000, 999_999_999);
        assert_eq!(alike("\"2026-01-02T03:04:05.123456Z\"", last), None);
    }

    #[test]
    fn what_is_laid_out_otherwise_or_in_two_sectors_is_not_rewritten() {
        let time = at(1_800_000_000, 5);
        let compact = OLD.replace("\n  ", " ");
        assert_eq!(rewritten(&compact, QueueState::Hold, time), None);
        let unnamed = OLD.replace("\n  \"State\": 2,", "");
        assert_eq!(rewritten(&unnamed, QueueState::Hold, time), None);
        for (len, can) in [(0, true), (420, false), (600, true)] {
            let long = OLD.replace(
                "{\n  \"ID\"",
                &format!("{{\n  \"{}\": 1,\n  \"ID\"", "x".repeat(len)),
            );
            let (new, _) = rewritten(&long, QueueState::Hold, time).unwrap();
            assert_eq!(
                changed(long.as_bytes(), new.as_bytes()).is_some(),
                can,
                "{len}"
            );
        }
    }
}
