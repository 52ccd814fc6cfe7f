//! The directory where RetrySpool's filesystem store keeps the messages' data, compared with the
//! spool.
//!
//! Owns: how its files are named: `ab/abc.data` under the first two bytes of the ID, `misc/a.data`
//! for an ID of one byte.
//! May fail: as the store and the directory do. Nothing here changes anything.
//! Must not know: which store it is.
//!
//! RetrySpool writes a message's data before its metadata, and removes them one after the other;
//! so whatever has no counterpart is looked at a second time when all has been seen once, and a
//! file that was written within the last minute is given its time.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::backend::check::{Check, Remedy};
use crate::backend::{Backend, Context};
use crate::model::{MessageId, QueueState};
use crate::transfer::Failed;

const SUFFIX: &[u8] = b".data";

/// How old a file is before it has to have a message.
const YOUNG: Duration = Duration::from_secs(60);

/// Messages that one step looks at.
const STEP: usize = 1000;

fn ctx() -> Context {
    Context::within(Duration::from_secs(60))
}

/// Tells of messages without data, and of data without a message.
pub fn compare(store: &dyn Backend, dir: &Path, check: &mut Check<'_>) -> Result<(), Failed> {
    // A directory that is not there would make every message one without data.
    fs::read_dir(dir)?;
    let bare = bare(store, dir, check)?;
    let orphans = orphans(store, dir, check)?;
    for (state, id) in bare {
        let is_there = store.locate(&ctx(), &id)?.is_some();
        if is_there && !has_data(dir, &id)? {
            let name = id.file_name();
            let what = match path_of(dir, &id) {
                Some(path) => format!("{state}/{name} has no data: {} is missing", path.display()),
                None => {
                    format!("{state}/{name} has no data: RetrySpool's data store takes no such ID")
                }
            };
            check.tell("no-data", what, Remedy::Person);
        }
    }
    for (path, id) in orphans {
        if store.locate(&ctx(), &id)?.is_some() {
            continue;
        }
        let age = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => SystemTime::now().duration_since(found?.modified()?),
        };
        if age.is_ok_and(|age| age >= YOUNG) {
            let what = format!("{} belongs to no message", path.display());
            check.tell("orphan", what, Remedy::Person);
        }
    }
    Ok(())
}

/// The file of a message's data; `None` for an ID that RetrySpool's data store refuses.
pub fn path_of(dir: &Path, id: &MessageId) -> Option<PathBuf> {
    let text = id.as_str();
    if text.contains("..") || text.contains(['/', '\\']) || text.len() > 255 {
        return None;
    }
    // Bytes, as in Go: the cut may be in the middle of a character.
    let shard = match text.as_bytes() {
        [a, b, ..] => OsString::from_vec(vec![*a, *b]),
        _ => "misc".into(),
    };
    let mut name = OsString::from(text);
    name.push(OsStr::from_bytes(SUFFIX));
    Some(dir.join(shard).join(name))
}

fn has_data(dir: &Path, id: &MessageId) -> io::Result<bool> {
    match path_of(dir, id) {
        None => Ok(false),
        Some(path) => match fs::metadata(path) {
            Ok(found) => Ok(found.is_file()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        },
    }
}

/// Messages that have no data at a first look.
fn bare(
    store: &dyn Backend,
    dir: &Path,
    check: &mut Check<'_>,
) -> Result<Vec<(QueueState, MessageId)>, Failed> {
    let mut found = Vec::new();
    for state in QueueState::ALL {
        let mut after: Option<MessageId> = None;
        while (check.going)() {
            let ids = store.scan(&ctx(), state, after.as_ref(), STEP)?;
            let is_last = ids.len() < STEP;
            after = ids.last().cloned();
            for id in ids {
                if !has_data(dir, &id)? {
                    found.push((state, id));
                }
            }
            if is_last {
                break;
            }
        }
    }
    Ok(found)
}

/// Files that have no message at a first look.
fn orphans(
    store: &dyn Backend,
    dir: &Path,
    check: &mut Check<'_>,
) -> Result<Vec<(PathBuf, MessageId)>, Failed> {
    let mut found = Vec::new();
    for shard in fs::read_dir(dir)? {
        let shard = shard?;
        if !shard.file_type()?.is_dir() {
            continue;
        }
        let files = match fs::read_dir(shard.path()) {
            // RetrySpool removes a directory with its last file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            files => files?,
        };
        for file in files {
            if !(check.going)() {
                return Ok(found);
            }
            let path = file?.path();
            let id = path
                .file_name()
                .and_then(|name| name.as_bytes().strip_suffix(SUFFIX))
                .and_then(|id| std::str::from_utf8(id).ok())
                .and_then(|id| id.parse::<MessageId>().ok());
            // Another name, or another place, is none that RetrySpool looks for.
            if let Some(id) = id
                && path_of(dir, &id).is_some_and(|own| own == path)
                && store.locate(&ctx(), &id)?.is_none()
            {
                found.push((path, id));
            }
        }
    }
    found.sort();
    Ok(found)
}
