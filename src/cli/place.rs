//! Which spool a command is about: the rule for SPOOL, the same in every command.
//!
//! A command's first word is SPOOL: `sqlite:PATH`, a path, or the mountpoint of a spool. With the
//! environment variable RETRYSPOOL, which names one, it may be left out: then the first word is
//! SPOOL only if it looks like one, which is to have a `/` or a kind of store in front. A bare
//! word that is the name of a file here is refused: it would be an ID of another spool.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Failure;
use crate::backend::locator::{Locator, OpenOptions};
use crate::backend::{Backend, Context, Error};
use crate::fuse::mounts;
use crate::model::{FileName, MessageId, QueueState};

/// What the help of every command says about SPOOL.
pub const HELP: &str = "The spool: sqlite:PATH, dir:PATH, a path, or the directory where it is mounted. \
    Where RETRYSPOOL names the spool it may be left out: the first word is then SPOOL only if it \
    has a / in it or begins with sqlite: or dir:";

/// The variable that names the spool where the command line does not.
pub const VARIABLE: &str = "RETRYSPOOL";

const KINDS: [&str; 4] = ["sqlite:", "dir:", "postgres:", "postgresql:"];

/// A spool that a command line names.
#[derive(Clone, Debug)]
pub struct Place {
    pub locator: Locator,
    /// Where it is mounted, if it was named by its mountpoint.
    pub mountpoint: Option<PathBuf>,
}

impl Place {
    /// Takes SPOOL from a command's words, and gives what follows it.
    pub fn split(words: &[OsString]) -> Result<(Place, &[OsString]), Failure> {
        let is_file = |word: &OsStr| Path::new(word).exists();
        let (place, rest) = divide(words, variable(), is_file)?;
        Ok((Place::named(&place)?, rest))
    }

    /// The spool of a command that takes nothing else.
    pub fn alone(words: &[OsString]) -> Result<Place, Failure> {
        match words {
            [] => Ok(Place::split(words)?.0),
            [spool] if is_state(spool) && !Path::new(spool).exists() => {
                Err(Failure::usage(format!(
                    "{state} is a state, and this is about a whole spool; for the messages of one \
                     state: retryspoolfs list SPOOL {state}",
                    state = spool.display()
                )))
            }
            [spool] => Place::named(spool),
            [_, more, ..] => Err(Failure::usage(format!(
                "one spool at a time: {} is too much",
                more.display()
            ))),
        }
    }

    /// The spool of a command that takes a file besides, which has to be there.
    pub fn with_file<'a>(
        words: &'a [OsString],
        what: &str,
    ) -> Result<(Place, &'a OsString), Failure> {
        match words {
            // Whatever the file is called, the spool is not.
            [file] if variable().is_some() => Ok((Place::split(&[])?.0, file)),
            [spool, file] => Ok((Place::named(spool)?, file)),
            [_, _, more, ..] => Err(Failure::usage(format!("{} is too much", more.display()))),
            [] | [_] => Err(Failure::usage(format!("give the spool, and {what}"))),
        }
    }

    /// [`split`](Place::split) for a command whose other words are messages: the first one names the spool as well
    /// where it is a message's file in a mount.
    pub fn of_messages(words: &[OsString]) -> Result<(Place, &[OsString]), Failure> {
        let mounts: Vec<PathBuf> = words.iter().filter_map(|word| mount_of(word)).collect();
        let Some(first) = words.first().and_then(|first| mount_of(first)) else {
            return Place::split(words);
        };
        match mounts.iter().find(|other| **other != first) {
            None => Ok((Place::named(first.as_os_str())?, words)),
            Some(other) => Err(Failure::usage(format!(
                "one spool at a time: there are messages in {} and in {}",
                first.display(),
                other.display()
            ))),
        }
    }

    /// The spool that this text names.
    pub fn named(text: &OsStr) -> Result<Place, Failure> {
        if !has_kind(text) {
            let path = Path::new(text);
            let absolute = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
            if let Ok(absolute) = absolute
                && let Some(source) = mounts::source_at(&absolute)
            {
                return Ok(Place {
                    locator: super::locator(&source)?,
                    mountpoint: Some(absolute),
                });
            }
        }
        Ok(Place {
            locator: super::locator(text)?,
            mountpoint: None,
        })
    }

    /// Opens it to look: nothing is written, not even to prepare a file that RetrySpool made.
    pub fn look(&self) -> Result<Box<dyn Backend>, Failure> {
        self.open(true)
    }

    /// Opens it to change it.
    pub fn change(&self) -> Result<Box<dyn Backend>, Failure> {
        self.open(false)
    }

    fn open(&self, read_only: bool) -> Result<Box<dyn Backend>, Failure> {
        let options = OpenOptions {
            read_only,
            ..OpenOptions::default()
        };
        let opened = self.locator.open(options);
        opened.map_err(|error| format!("{}: {}", self.locator, not_opened(&error)).into())
    }
}

/// Why a spool was not opened, and what to do.
pub fn not_opened(error: &Error) -> String {
    let hint = match error {
        Error::ReadOnly => {
            ": SQLite needs write permission to the file and its directory, also to read it"
        }
        _ => "",
    };
    format!("{error}{hint}")
}

fn variable() -> Option<OsString> {
    std::env::var_os(VARIABLE).filter(|value| !value.is_empty())
}

/// The spool's text and the words behind it.
fn divide(
    words: &[OsString],
    variable: Option<OsString>,
    is_file: impl Fn(&OsStr) -> bool,
) -> Result<(OsString, &[OsString]), Failure> {
    match (words.split_first(), variable) {
        (None, None) => Err(Failure::usage(format!(
            "which spool? Name it, or set {VARIABLE}; see --help"
        ))),
        (Some((first, _)), None) if is_state(first) && !is_file(first) => {
            Err(Failure::usage(format!(
                "which spool? {first} is a state: name the spool before it, or set {VARIABLE}",
                first = first.display()
            )))
        }
        (Some((first, _)), None) if message_file(first).is_some() => Err(Failure::usage(format!(
            "which spool? {first} is a message's file, and in no mount: name the spool before \
                 it, or set {VARIABLE}",
            first = first.display()
        ))),
        (Some((first, rest)), None) => Ok((first.clone(), rest)),
        (Some((first, _)), Some(variable)) if message_file(first).is_some() => {
            Ok((variable, words))
        }
        (Some((first, rest)), Some(_)) if looks_like_a_spool(first) => Ok((first.clone(), rest)),
        // In a mount the states are directories, and are meant as states all the same.
        (Some((first, _)), Some(variable)) if is_file(first) && !is_state(first) => {
            Err(Failure::usage(format!(
                "is {first} the spool, or something in or for {variable}, which {VARIABLE} names? \
                 For the spool write ./{first}; else name the spool before it",
                first = first.display(),
                variable = variable.display()
            )))
        }
        (_, Some(variable)) => Ok((variable, words)),
    }
}

/// The message whose file a path is called like: it ends in a state's directory and its name.
pub fn message_file(word: &OsStr) -> Option<MessageId> {
    let path = Path::new(word);
    if !is_state(path.parent()?.file_name()?) {
        return None;
    }
    match FileName::of(path.file_name()?) {
        FileName::Message(id) => Some(id),
        _ => None,
    }
}

/// The mountpoint of the spool that a message's file is in, whether the file is there or not.
fn mount_of(word: &OsStr) -> Option<PathBuf> {
    message_file(word)?;
    let directory = std::fs::canonicalize(Path::new(word).parent()?).ok()?;
    let mountpoint = directory.parent()?;
    mounts::source_at(mountpoint)?;
    Some(mountpoint.to_owned())
}

fn has_kind(word: &OsStr) -> bool {
    let word = word.as_bytes();
    KINDS.iter().any(|kind| word.starts_with(kind.as_bytes()))
}

/// Whether a word is a state's name.
pub fn is_state(word: &OsStr) -> bool {
    word.to_str()
        .is_some_and(|word| word.parse::<QueueState>().is_ok())
}

fn looks_like_a_spool(word: &OsStr) -> bool {
    has_kind(word) || word.as_bytes().contains(&b'/') || word == "." || word == ".."
}

/// The states that these words name; all of them for no word.
pub fn states(words: &[OsString]) -> Result<Vec<QueueState>, Failure> {
    if words.is_empty() {
        return Ok(QueueState::ALL.to_vec());
    }
    let state = |word: &OsString| word.to_string_lossy().parse().map_err(Failure::usage);
    words.iter().map(state).collect()
}

/// The context of one call of a command.
pub fn ctx() -> Context {
    Context::within(Duration::from_secs(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(words: &[&str], variable: Option<&str>) -> Option<(String, Vec<String>)> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let divided = divide(&words, variable.map(OsString::from), |word| {
            word == "here.db" || word == "deferred"
        });
        let text = |word: &OsString| word.to_str().unwrap().to_owned();
        divided
            .ok()
            .map(|(place, rest)| (text(&place), rest.iter().map(text).collect()))
    }

    #[test]
    fn the_first_word_is_the_spool() {
        let found = |place: &str, rest: &[&str]| {
            Some((
                place.to_owned(),
                rest.iter().map(|word| word.to_string()).collect(),
            ))
        };
        for (words, variable, expected) in [
            (&["q.db", "a"][..], None, found("q.db", &["a"])),
            (&["here.db"], None, found("here.db", &[])),
            (&["hold"], None, None),
            (&["deferred"], None, found("deferred", &[])),
            (&[], None, None),
            (&[], Some("/q"), found("/q", &[])),
            (&["hold"], Some("/q"), found("/q", &["hold"])),
            (&["hold/a.json"], None, None),
            (
                &["./hold/a.json", "b"],
                Some("/q"),
                found("/q", &["./hold/a.json", "b"]),
            ),
            (&["old/a.json"], Some("/q"), found("old/a.json", &[])),
            (
                &["sqlite:x", "hold"],
                Some("/q"),
                found("sqlite:x", &["hold"]),
            ),
            (&["./x", "hold"], Some("/q"), found("./x", &["hold"])),
            (&["/mnt/q"], Some("/q"), found("/mnt/q", &[])),
            (&["."], Some("/q"), found(".", &[])),
            (&["here.db", "a"], Some("/q"), None),
            (&["deferred"], Some("/q"), found("/q", &["deferred"])),
            (
                &["a", "here.db"],
                Some("/q"),
                found("/q", &["a", "here.db"]),
            ),
        ] {
            assert_eq!(case(words, variable), expected, "{words:?} {variable:?}");
        }
    }
}
