//! A row of a table of tools, and the four documents that each row meets.
//!
//! A row's script runs with bash in the mountpoint, and in a directory of the disk that looks like
//! it. It finds in `$T` the message's file, in `$DOC` a document outside to be written to it; or,
//! where the tool edits what is there, in `$OLD`, `$NEW` and `$JQ` what to change, and in
//! `$MEANWHILE` a program to be run in the middle of the edit.

use std::fs;
use std::path::{Path, PathBuf};

use retryspoolfs::QueueState::Hold;
use retryspoolfs::{MessageMetadata, Timestamp, document};

use crate::support::{Output, message};
use crate::trees::Trees;

/// The exit status of a tool that exits with the number of the error.
pub const ERRNO: i32 = -1;

/// An exit status, and what a tool says.
pub type Refused = (i32, &'static str);

/// One way to write a message's file.
#[derive(Clone, Copy)]
pub struct Row {
    pub script: &'static str,
    /// Its exit status when its write is refused, and what it says then: `$T`, `$DOC` and `$ID` are
    /// as in the script, `$WHY` is the error's text, and `*` is any text.
    pub refused: Refused,
    /// It deletes the file and creates it again, so nobody can know which copy it has read.
    pub overrules: bool,
    /// It reads the file, and fails where there is none.
    pub edits: bool,
    /// The scratch files that it leaves, without the name of the message's file.
    pub leaves: &'static [&'static str],
}

/// A tool that writes `$DOC` to `$T`.
pub const fn writes(script: &'static str, refused: Refused) -> Row {
    Row {
        script,
        refused,
        overrules: false,
        edits: false,
        leaves: &[],
    }
}

/// A tool that changes `$T`.
pub const fn edits(script: &'static str, refused: Refused) -> Row {
    Row {
        edits: true,
        ..writes(script, refused)
    }
}

impl Row {
    pub const fn overrules(self) -> Row {
        Row {
            overrules: true,
            ..self
        }
    }

    pub const fn leaves(self, leaves: &'static [&'static str]) -> Row {
        Row { leaves, ..self }
    }
}

/// What a tool is given to write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Given {
    /// A message that is not there yet.
    New,
    /// A message that is there.
    Existing,
    /// A message that a worker changed after the tool's copy was read.
    Stale,
    /// A document that is not legal, for a message that is there, or is not.
    Illegal { there: bool },
}

use Given::{Existing, Illegal, New, Stale};

const GIVEN: [Given; 5] = [
    New,
    Existing,
    Stale,
    Illegal { there: true },
    Illegal { there: false },
];

/// Runs all rows, on one mount.
#[track_caller]
pub fn run(rows: &[Row]) {
    let trees = Trees::with_another();
    let mut wrong = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        for (kind, given) in GIVEN.into_iter().enumerate() {
            let id = format!("r{number}-{kind}");
            if let Err(why) = trees.meet(row, given, &id) {
                wrong.push(format!("{}\n  {given:?}: {why}", row.script));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// What a worker of RetrySpool does to a message meanwhile: its statements, with the second in
/// which the message was stored.
pub const WORKER: [&str; 2] = [
    "UPDATE messages SET state = 3, updated = updated, headers = '{\"worker\":\"was here\"}' \
     WHERE id = '$ID' AND state = 3",
    "INSERT OR REPLACE INTO messages (id, state, attempts, max_attempts, next_retry, created, \
     updated, last_error, size, priority, headers, retry_policy_name) \
     SELECT id, state, attempts + 1, max_attempts, next_retry, created, updated, last_error, size, \
     priority, '{\"worker\":\"was here\"}', retry_policy_name FROM messages WHERE id = '$ID'",
];

/// Whether the message is as a worker left it.
pub fn worker_was_here(message: &MessageMetadata) -> bool {
    message.headers.contains_key("worker")
}

impl Trees {
    fn meet(&self, row: &Row, given: Given, id: &str) -> Result<(), String> {
        let there = !matches!(given, New | Illegal { there: false });
        if there {
            let stored = MessageMetadata {
                updated: Timestamp::now(),
                ..message(id, Hold)
            };
            let store = self.spool.open();
            store
                .insert(&crate::support::ctx(), &stored)
                .map_err(|e| e.to_string())?;
            store.close().map_err(|e| e.to_string())?;
        }
        let stored = self.spool.get(id);
        let (old, new, jq) = match given {
            Illegal { .. } => ("\"Priority\":", "\"Priorty\":", ".Priorty=7"),
            _ => ("\"Priority\": 5", "\"Priority\": 17", ".Priority=17"),
        };
        let original = document::render(stored.as_ref().unwrap_or(&message(id, Hold)));
        let original = String::from_utf8(original).unwrap();
        let text = original.replace(old, new);
        let worker = self.worker(id);
        let meanwhile = if given == Stale {
            &worker
        } else {
            Path::new("true")
        };
        let script = |meanwhile: &Path| {
            format!(
                "export T=hold/{id}.json DOC=../work/{id}.json ID={id} OLD='{old}' NEW='{new}' \
                 JQ={jq} MEANWHILE={}\n{}",
                meanwhile.display(),
                row.script
            )
        };
        let doc = self.spool.work().join(format!("{id}.json"));

        // On the disk first: nothing is refused there.
        fs::write(&doc, &text).unwrap();
        let on_disk = self.disk.join(format!("hold/{id}.json"));
        if there {
            fs::write(&on_disk, &original).unwrap();
        }
        let disk = self
            .spool
            .start_in(&["bash"], &script(Path::new("true")), &self.disk)
            .wait();

        fs::write(&doc, &text).unwrap();
        let before = self.spool.rows();
        if given == Stale && !row.edits {
            let worked = self.spool.bash(&worker.display().to_string());
            worked.ok();
        }
        let theirs = self.spool.get(id);
        let mount = self.mount.bash(&script(meanwhile));
        let after = self.spool.get(id);
        let checked = self.check(row, given, (&disk, &mount), (id, stored, theirs, after));
        let others = |rows: &[Vec<String>]| {
            let name = format!("{id:?}");
            let others = rows.iter().filter(|row| row[0] != name);
            others.cloned().collect::<Vec<_>>()
        };
        let same = others(&before) == others(&self.spool.rows());
        let left = self.left(row, given, id);
        let _ = fs::remove_file(doc);
        checked.and(left)?;
        is(same, || "it changed another message".into())
    }

    /// What the tool did, and what is stored.
    fn check(
        &self,
        row: &Row,
        given: Given,
        (disk, mount): (&Output, &Output),
        (id, stored, theirs, after): (
            &str,
            Option<MessageMetadata>,
            Option<MessageMetadata>,
            Option<MessageMetadata>,
        ),
    ) -> Result<(), String> {
        let said = || format!("on the disk {}\n  here {}", told(disk), told(mount));
        let missing = row.edits && stored.is_none();
        if given == New || given == Existing || missing || given == Stale && row.overrules {
            let same = disk.status == mount.status
                && disk.stdout == mount.stdout
                && disk.stderr == mount.stderr;
            is(same, said)?;
            is(mount.status.success() || missing, said)?;
            if missing {
                return is(after.is_none(), || format!("stored: {after:?}"));
            }
            let after = after.ok_or("it is not stored")?;
            let Some(stored) = stored else {
                return is(after.priority == 17 && after.state == Hold, || {
                    format!("stored: {after:?}")
                });
            };
            let last = theirs.unwrap_or(stored.clone()).updated;
            is(after.updated > last, || "Updated did not grow".into())?;
            let expected = MessageMetadata {
                priority: 17,
                updated: after.updated,
                ..stored
            };
            return is(after == expected, || format!("stored: {after:?}"));
        }
        let (errno, why) = match given {
            Stale => (libc::ESTALE, "Stale file handle"),
            _ => (libc::EBADMSG, "Bad message"),
        };
        let (status, says) = row.refused;
        let status = if status == ERRNO { errno } else { status };
        let says = says
            .replace("$WHY", why)
            .replace("$DOC", &format!("../work/{id}.json"))
            .replace("$T", &format!("hold/{id}.json"))
            .replace("$ID", id);
        let so = mount.status.code() == Some(status) && matches(&says, mount.stderr.trim_end());
        is(so, || {
            format!("expected {status} {says:?}\n  got {}", told(mount))
        })?;
        if given == Stale {
            let after = after.ok_or("it is gone")?;
            is(worker_was_here(&after) && after.priority == 5, || {
                format!("the worker's change was undone: {after:?}")
            })
        } else {
            let (was, is_now) = (stored.as_ref(), after.as_ref());
            let same = match (was, is_now) {
                // Put back after a removal, it has moved on.
                (Some(was), Some(now)) if row.overrules => {
                    let updated = was.updated;
                    MessageMetadata {
                        updated,
                        ..now.clone()
                    } == *was
                }
                _ => was == is_now,
            };
            is(same, || format!("stored: {after:?}"))
        }
    }

    /// The scratch files that are left are those expected; then they go.
    fn left(&self, row: &Row, given: Given, id: &str) -> Result<(), String> {
        let script = "find .retryspool/scratch -type f -printf '%f\\n' -delete";
        let found = self.mount.bash(script).ok();
        let found = found.lines().filter(|name| !name.ends_with(".refused"));
        let found: Vec<&str> = found.collect();
        let expected: Vec<String> = match given {
            Existing => row.leaves.iter().map(|l| l.replace("*", id)).collect(),
            // What is refused leaves what it leaves: the tool's own draft, or a backup.
            Illegal { .. } | Stale => return Ok(()),
            New => Vec::new(),
        };
        is(found == expected, || format!("it left {found:?}"))
    }

    /// A program that does what a worker does.
    fn worker(&self, id: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let number = id.bytes().map(usize::from).sum::<usize>() % WORKER.len();
        let sql = WORKER[number].replace("$ID", id);
        let path = self.spool.work().join(format!("{id}.worker"));
        let text =
            format!("#!/bin/sh\nsqlite3 -cmd '.timeout 20000' \"$SPOOL\" <<'END'\n{sql};\nEND\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

fn is(so: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if so { Ok(()) } else { Err(why()) }
}

/// What a tool told: its exit status, and what it printed.
pub fn told(output: &Output) -> String {
    let status = output.status.code().unwrap_or(-1);
    format!("{status} {:?} {:?}", output.stdout, output.stderr)
}

/// Whether the text is the pattern's, in which each `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(first) else {
        return false;
    };
    let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    ends.into_iter().any(|at| matches(rest, &text[at..]))
}
