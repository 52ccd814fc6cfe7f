//! The values of a document's keys: each of one type and within its range.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

use crate::model::{QueueState, Timestamp};

/// A writer's text for a one-line message: quoted, and not longer than a person reads.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text, 60))
}

pub(super) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// A value that is neither an array nor an object.
enum Scalar {
    Text(String),
    Number(i128),
}

/// Reads a [`Scalar`]; every other value is refused with the name of its type.
struct Wanted<'a> {
    /// The key, as a message shows it.
    subject: &'a str,
    /// What it wants.
    wanted: &'static str,
}

impl Wanted<'_> {
    fn refuse<T, E: serde::de::Error>(&self, found: &str) -> Result<T, E> {
        let (subject, wanted) = (self.subject, self.wanted);
        Err(E::custom(format!("{subject} is {found}, not {wanted}")))
    }
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Scalar;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Scalar, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.wanted)
    }

    fn visit_str<E: serde::de::Error>(self, found: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(found.to_owned()))
    }

    fn visit_i64<E: serde::de::Error>(self, found: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(found.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, found: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(found.into()))
    }

    /// serde_json's reading of a fraction, of an exponent, of what 64 bits can't hold, and of
    /// `-0`, which jq writes for a negated 0 and which Go takes.
    fn visit_f64<E: serde::de::Error>(self, found: f64) -> Result<Scalar, E> {
        if found == 0.0 && found.is_sign_negative() {
            return Ok(Scalar::Number(0));
        }
        self.refuse(match found.fract() == 0.0 && found.abs() >= 2f64.powi(63) {
            true => "a number beyond 64 bits",
            false => "a number with a fraction or an exponent",
        })
    }

    fn visit_bool<E: serde::de::Error>(self, found: bool) -> Result<Scalar, E> {
        self.refuse(&found.to_string())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Scalar, E> {
        self.refuse("null")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Scalar, A::Error> {
        self.refuse("an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Scalar, A::Error> {
        self.refuse("an object")
    }
}

pub(super) fn text<'de, A: MapAccess<'de>>(map: &mut A, key: &str) -> Result<String, A::Error> {
    text_of(map, &format!("{key:?}"))
}

fn text_of<'de, A: MapAccess<'de>>(map: &mut A, subject: &str) -> Result<String, A::Error> {
    let wanted = "a string";
    match map.next_value_seed(Wanted { subject, wanted })? {
        Scalar::Text(text) => Ok(text),
        Scalar::Number(_) => Wanted { subject, wanted }.refuse("a number"),
    }
}

/// The least number that a key takes, and what to say of others.
pub(super) type Range = (i64, &'static str);
pub(super) const NATURAL: Range = (0, "a whole number from 0 to 2^63-1");
pub(super) const SIGNED: Range = (i64::MIN, "a whole number from -2^63 to 2^63-1");

pub(super) fn number<'de, A: MapAccess<'de>>(
    map: &mut A,
    key: &str,
    (least, wanted): Range,
) -> Result<i64, A::Error> {
    let subject = &format!("{key:?}");
    match map.next_value_seed(Wanted { subject, wanted })? {
        Scalar::Number(number) => match i64::try_from(number) {
            Ok(number) if number >= least => Ok(number),
            _ => Wanted { subject, wanted }.refuse(&number.to_string()),
        },
        Scalar::Text(_) => Wanted { subject, wanted }.refuse("a string"),
    }
}

pub(super) fn time<'de, A: MapAccess<'de>>(map: &mut A, key: &str) -> Result<Timestamp, A::Error> {
    let subject = &format!("{key:?}");
    let wanted = "an RFC 3339 time with its zone, in the years 1 to 9999";
    match map.next_value_seed(Wanted { subject, wanted })? {
        Scalar::Text(text) => match Timestamp::parse(&text) {
            Some(time) => Ok(time),
            None => Wanted { subject, wanted }.refuse(&quoted(&text)),
        },
        Scalar::Number(_) => Wanted { subject, wanted }.refuse("a number"),
    }
}

pub(super) fn state<'de, A: MapAccess<'de>>(
    map: &mut A,
    key: &str,
) -> Result<QueueState, A::Error> {
    let subject = &format!("{key:?}");
    let wanted = "the number (0 to 5) or name of a state";
    let (state, found) = match map.next_value_seed(Wanted { subject, wanted })? {
        Scalar::Text(text) => (text.parse().ok(), quoted(&text)),
        Scalar::Number(number) => {
            let state = i64::try_from(number).ok().and_then(QueueState::from_number);
            (state, number.to_string())
        }
    };
    state.map_or_else(|| Wanted { subject, wanted }.refuse(&found), Ok)
}

pub(super) fn headers<'de, A: MapAccess<'de>>(
    map: &mut A,
) -> Result<BTreeMap<String, String>, A::Error> {
    map.next_value_seed(Headers)
}

/// Reads the headers: an object of strings, or the null that Go writes for a map never made.
struct Headers;

impl<'de> DeserializeSeed<'de> for Headers {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Headers {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of headers")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut headers = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let subject = format!("header {}", quoted(&name));
            if headers.contains_key(&name) {
                return Err(A::Error::custom(format!("repeated {subject}")));
            }
            headers.insert(name, text_of(&mut map, &subject)?);
        }
        Ok(headers)
    }
}
