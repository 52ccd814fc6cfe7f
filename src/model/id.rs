//! Message IDs, and the one codec between an ID and its file name.

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

/// The longest file name, in bytes: Linux's NAME_MAX.
pub const NAME_MAX: usize = 255;

pub(super) const SUFFIX: &str = ".json";

/// A message's ID: UTF-8, not empty, and its file name no longer than [`NAME_MAX`].
///
/// There is no other way to make one, so whoever holds a `MessageId` can name its file.
///
/// ```
/// use retryspoolfs::MessageId;
/// let id: MessageId = "in/2026%1".parse().unwrap();
/// assert_eq!(id.file_name(), "in%2F2026%251.json");
/// assert!("".parse::<MessageId>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(Box<str>);

/// Why a text is no [`MessageId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The empty text.
    #[error("the ID is empty")]
    Empty,
    /// Its file name would pass [`NAME_MAX`] bytes.
    #[error("the ID's file name would take {0} bytes of 255")]
    TooLong(usize),
    /// RetrySpool's own directory has no file name for it, and here is why.
    #[error("RetrySpool's own directory can't hold this ID: {0}")]
    NoPlainName(&'static str),
}

/// What a name in a state directory stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileName {
    /// The canonical name of a message.
    Message(MessageId),
    /// A name that starts with a dot or does not end in `.json`: an editor's or a tool's file.
    Scratch,
    /// A name that ends in `.json` and is no canonical name of a legal ID: it never exists.
    Invalid,
}

impl MessageId {
    /// The ID itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the message's file: the percent-encoded ID and `.json`.
    pub fn file_name(&self) -> String {
        encode(&self.0)
    }

    /// The same in place of what `name` held: a listing has one for all its names.
    pub fn write_file_name(&self, name: &mut String) {
        name.clear();
        encode_to(name, &self.0);
    }
}

/// The only way from an ID to a name: control characters, DEL, `/` and `%` are percent-encoded
/// wherever they stand, a dot where it leads; all else stands for itself.
fn encode(id: &str) -> String {
    let mut name = String::new();
    encode_to(&mut name, id);
    name
}

/// The same, behind what is in `name`.
fn encode_to(name: &mut String, id: &str) {
    // All of them are ASCII, and no byte of another character is.
    let is_encoded = |byte: u8| byte.is_ascii_control() || byte == b'/' || byte == b'%';
    name.reserve(id.len() + SUFFIX.len());
    let mut rest = id;
    if let Some(after) = rest.strip_prefix('.') {
        name.push_str("%2E");
        rest = after;
    }
    // Mostly there is nothing to encode, which is seen fastest by looking at all of it.
    let any = rest.bytes().fold(false, |any, byte| any | is_encoded(byte));
    while any && let Some(at) = rest.bytes().position(is_encoded) {
        name.push_str(&rest[..at]);
        name.push_str(&format!("%{:02X}", rest.as_bytes()[at]));
        rest = &rest[at + 1..];
    }
    name.push_str(rest);
    name.push_str(SUFFIX);
}

/// Undoes [`encode`], and more: what it accepts is canonical only if `encode` gives it back.
fn decode(encoded: &[u8]) -> Option<String> {
    let mut id = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            id.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            id.push(byte);
        }
    }
    String::from_utf8(id).ok()
}

impl FileName {
    /// The only way from a name to an ID.
    ///
    /// ```
    /// use retryspoolfs::FileName;
    /// assert!(matches!(FileName::of("a%2Fb.json".as_ref()), FileName::Message(id) if id.as_str() == "a/b"));
    /// assert_eq!(FileName::of("a%2fb.json".as_ref()), FileName::Invalid);
    /// assert_eq!(FileName::of(".a.json.swp".as_ref()), FileName::Scratch);
    /// ```
    pub fn of(name: &OsStr) -> FileName {
        let bytes = name.as_bytes();
        let Some(encoded) = bytes.strip_suffix(SUFFIX.as_bytes()) else {
            return FileName::Scratch;
        };
        if bytes[0] == b'.' {
            return FileName::Scratch;
        }
        let canonical = decode(encoded)
            .and_then(|id| id.parse::<MessageId>().ok())
            .filter(|id| id.file_name().as_bytes() == bytes);
        match canonical {
            Some(id) => FileName::Message(id),
            None => FileName::Invalid,
        }
    }
}

impl FromStr for MessageId {
    type Err = InvalidId;

    fn from_str(id: &str) -> Result<MessageId, InvalidId> {
        if id.is_empty() {
            return Err(InvalidId::Empty);
        }
        // No byte takes more than three, and the suffix five: most IDs need no second look.
        if id.len() * 3 + SUFFIX.len() > NAME_MAX {
            let length = encode(id).len();
            if length > NAME_MAX {
                return Err(InvalidId::TooLong(length));
            }
        }
        Ok(MessageId(id.into()))
    }
}

impl TryFrom<&str> for MessageId {
    type Error = InvalidId;

    fn try_from(id: &str) -> Result<MessageId, InvalidId> {
        id.parse()
    }
}

impl Borrow<str> for MessageId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> MessageId {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_percent_encoded_where_they_must_be() {
        for (text, name) in [
            ("msg-123", "msg-123.json"),
            ("../x", "%2E.%2Fx.json"),
            (".hidden", "%2Ehidden.json"),
            ("a.b", "a.b.json"),
            ("%2f", "%252f.json"),
            ("a\nb\"'\\ ", "a%0Ab\"'\\ .json"),
            ("\u{7f}\0", "%7F%00.json"),
            ("grüße-☃", "grüße-☃.json"),
            ("x.json~", "x.json~.json"),
            ("#x#", "#x#.json"),
        ] {
            assert_eq!(id(text).file_name(), name);
            assert_eq!(FileName::of(name.as_ref()), FileName::Message(id(text)));
        }
    }

    #[test]
    fn names_that_are_not_canonical_do_not_exist() {
        for name in [
            "%2f.json",
            "a%41.json",
            "%.json",
            "%2.json",
            "%GG.json",
            "%ff.json",
            "a\nb.json",
            "%2E%2E.json",
            "a%2Eb.json",
        ] {
            assert_eq!(FileName::of(name.as_ref()), FileName::Invalid, "{name}");
        }
        let not_utf8 = OsStr::from_bytes(b"\xff.json");
        assert_eq!(FileName::of(not_utf8), FileName::Invalid);
        for name in [
            ".json",
            ".x.json",
            ".x.json.swp",
            "4913",
            "x.json~",
            "#x.json#",
            "sedAbC123",
            "x.json.tmp.1a2b3c4d",
            "x.JSON",
        ] {
            assert_eq!(FileName::of(name.as_ref()), FileName::Scratch, "{name}");
        }
        assert_eq!(FileName::of(OsStr::from_bytes(b"\xff")), FileName::Scratch);
    }

    #[test]
    fn an_id_fits_its_file_name() {
        assert_eq!("".parse::<MessageId>(), Err(InvalidId::Empty));
        assert_eq!(id(&"a".repeat(250)).file_name().len(), 255);
        assert_eq!(
            "a".repeat(251).parse::<MessageId>(),
            Err(InvalidId::TooLong(256))
        );
        assert_eq!(id(&"/".repeat(83)).file_name().len(), 254);
        assert_eq!(
            "/".repeat(84).parse::<MessageId>(),
            Err(InvalidId::TooLong(257))
        );
        assert!(format!(".{}", "a".repeat(247)).parse::<MessageId>().is_ok());
        assert!(
            format!(".{}", "a".repeat(248))
                .parse::<MessageId>()
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn every_id_survives_its_name(text in "\\PC{1,60}|[\\x00-\\x7f]{1,60}") {
            let id = id(&text);
            prop_assert_eq!(FileName::of(id.file_name().as_ref()), FileName::Message(id));
        }

        #[test]
        fn a_name_has_one_id_at_most(name in "[a%2F/.5\\n]{0,6}\\.json") {
            if let FileName::Message(id) = FileName::of(name.as_ref()) {
                prop_assert_eq!(id.file_name(), name);
            }
        }
    }
}
