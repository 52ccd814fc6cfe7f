//! The name of a message's file in RetrySpool's own directory: the ID as it is, and `.json`.
//!
//! RetrySpool encodes nothing, so not every ID has such a name; and a name that it would not find
//! again, or would remove, is none.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::id::SUFFIX;
use super::{InvalidId, MessageId, NAME_MAX};

/// What RetrySpool puts between a file's name and eight hexadecimal digits while it writes it. At
/// its start it removes every file whose name has this in it.
const TEMPORARY: &str = ".tmp.";

/// What a name in one of RetrySpool's directories stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlainName {
    /// A message.
    Message(MessageId),
    /// A file that is being written, or that a crash left so.
    Temporary,
    /// Nothing of RetrySpool's.
    Foreign,
}

impl PlainName {
    /// The name of the message's file.
    ///
    /// ```
    /// use retryspoolfs::{MessageId, PlainName};
    /// let name = |id: &str| PlainName::of_id(&id.parse().unwrap());
    /// assert_eq!(name("50%").unwrap(), "50%.json");
    /// assert!(name("a/b").is_err() && name("a.tmp").is_err());
    /// ```
    pub fn of_id(id: &MessageId) -> Result<String, InvalidId> {
        let text = id.as_str();
        if text.contains(['/', '\0']) {
            return Err(InvalidId::NoPlainName(
                "a file name has no slash and no NUL",
            ));
        }
        let name = format!("{text}{SUFFIX}");
        if name.contains(TEMPORARY) {
            return Err(InvalidId::NoPlainName(
                "RetrySpool would take its file for one half-written, and remove it",
            ));
        }
        let longest = PlainName::temporary(&name, 0).len();
        if longest > NAME_MAX {
            return Err(InvalidId::TooLong(longest));
        }
        Ok(name)
    }

    /// The name of a file that becomes `name` when it is written.
    pub fn temporary(name: &str, number: u32) -> String {
        format!("{name}{TEMPORARY}{number:08x}")
    }

    /// Reads a name.
    pub fn of(name: &OsStr) -> PlainName {
        let Some(text) = name.to_str() else {
            return PlainName::Foreign;
        };
        if text.contains(TEMPORARY) || text.ends_with(TEMPORARY.trim_end_matches('.')) {
            return PlainName::Temporary;
        }
        let id = text.strip_suffix(SUFFIX).and_then(|id| id.parse().ok());
        match id.filter(|id| PlainName::of_id(id).is_ok_and(|n| n.as_bytes() == name.as_bytes())) {
            Some(id) => PlainName::Message(id),
            None => PlainName::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_own_name_or_has_none() {
        let longest = "x".repeat(237);
        for id in [
            "msg-1", ".hidden", "..", "%2f", "a\nb", "grüße", "x.tmpl", "4913", &longest,
        ] {
            let id: MessageId = id.parse().unwrap();
            let name = PlainName::of_id(&id).unwrap();
            assert_eq!(name, format!("{id}.json"));
            assert_eq!(PlainName::of(name.as_ref()), PlainName::Message(id));
        }
        let too_long = "x".repeat(238);
        for id in ["a/b", "../x", "a\0", "x.tmp", "x.tmp.y", &too_long] {
            let name = PlainName::of_id(&id.parse().unwrap());
            assert!(name.is_err(), "{id:?}");
        }
    }

    #[test]
    fn names_that_are_no_messages() {
        for name in ["x.json.tmp.1a2b3c4d", "x.tmp", "x.tmp.json", ".tmp.json"] {
            assert_eq!(PlainName::of(name.as_ref()), PlainName::Temporary, "{name}");
        }
        let too_long = format!("{}.json", "x".repeat(238));
        for name in [".json", "x", "x.json~", "x.JSON", ".x.json.swp", &too_long] {
            assert_eq!(PlainName::of(name.as_ref()), PlainName::Foreign, "{name}");
        }
        let not_utf8 = OsStr::from_bytes(b"\xff.json");
        assert_eq!(PlainName::of(not_utf8), PlainName::Foreign);
    }
}
