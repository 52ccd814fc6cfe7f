//! Which messages somebody means.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::{Glob, MessageMetadata, Timestamp};

/// What messages must be like to be meant: all that is given must hold. The default means every
/// message.
///
/// ```
/// use retryspoolfs::MessageMetadata;
/// use retryspoolfs::model::Filter;
/// let message = MessageMetadata { attempts: 3, ..MessageMetadata::new("msg-1".parse().unwrap()) };
/// assert!(Filter::default().matches(&message));
/// assert!(Filter { attempts: Some(2..=i64::MAX), ..Filter::default() }.matches(&message));
/// assert!(!Filter { error: Some("*timeout*".parse().unwrap()), ..Filter::default() }.matches(&message));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Created before this time.
    pub created_before: Option<Timestamp>,
    /// Created at or after this time.
    pub created_since: Option<Timestamp>,
    /// Updated before this time.
    pub updated_before: Option<Timestamp>,
    /// Created or updated at or after this time.
    pub touched_since: Option<Timestamp>,
    /// The next retry is at or before this time, and not "never".
    pub due_by: Option<Timestamp>,
    /// Attempts lie in this range.
    pub attempts: Option<RangeInclusive<i64>>,
    /// Priority lies in this range.
    pub priority: Option<RangeInclusive<i64>>,
    /// LastError matches.
    pub error: Option<Glob>,
    /// Each of these headers is there and matches; names ignore case.
    pub headers: Vec<(String, Glob)>,
    /// The ID matches.
    pub id: Option<Glob>,
    /// The retry policy's name matches.
    pub policy: Option<Glob>,
}

impl Filter {
    /// Whether the message is meant.
    pub fn matches(&self, message: &MessageMetadata) -> bool {
        fn holds<T>(wanted: &Option<T>, test: impl FnOnce(&T) -> bool) -> bool {
            wanted.as_ref().is_none_or(test)
        }
        let due =
            |by: &Timestamp| message.next_retry != Timestamp::ZERO && message.next_retry <= *by;
        holds(&self.created_before, |time| message.created < *time)
            && holds(&self.created_since, |time| message.created >= *time)
            && holds(&self.updated_before, |time| message.updated < *time)
            && holds(&self.touched_since, |time| {
                message.created >= *time || message.updated >= *time
            })
            && holds(&self.due_by, due)
            && holds(&self.attempts, |range| range.contains(&message.attempts))
            && holds(&self.priority, |range| range.contains(&message.priority))
            && holds(&self.error, |glob| glob.matches(&message.last_error))
            && holds(&self.id, |glob| glob.matches(message.id.as_str()))
            && holds(&self.policy, |glob| {
                glob.matches(&message.retry_policy_name)
            })
            && self.matches_headers(&message.headers)
    }

    /// Whether the message is meant as far as its headers tell.
    pub fn matches_headers(&self, headers: &BTreeMap<String, String>) -> bool {
        self.headers.iter().all(|(name, glob)| {
            let mut named = headers.iter();
            named.any(|(n, value)| n.eq_ignore_ascii_case(name) && glob.matches(value))
        })
    }

    /// Whether every message is meant.
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }
}

/// Reads a range of whole numbers: `5`, `5..`, `..5` or `2..5`, both ends included.
///
/// ```
/// use retryspoolfs::model::parse_range;
/// assert_eq!(parse_range("2..5"), Ok(2..=5));
/// assert_eq!(parse_range("5.."), Ok(5..=i64::MAX));
/// assert!(parse_range("5..2").is_err());
/// ```
pub fn parse_range(text: &str) -> Result<RangeInclusive<i64>, String> {
    let refused = || format!("{text:?} is no range: write 5, 5.. (5 and more), ..5 or 2..5");
    let number = |text: &str| text.parse::<i64>().map_err(|_| refused());
    let range = match text.split_once("..") {
        None => {
            let number = number(text)?;
            number..=number
        }
        Some(("", "")) => return Err(refused()),
        Some((from, "")) => number(from)?..=i64::MAX,
        Some(("", to)) => i64::MIN..=number(to)?,
        Some((from, to)) => number(from)?..=number(to)?,
    };
    match range.is_empty() {
        true => Err(format!("{text:?} is an empty range")),
        false => Ok(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::new(seconds, 0).unwrap()
    }

    fn glob(text: &str) -> Option<Glob> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn each_condition_by_itself() {
        let message = MessageMetadata {
            attempts: 3,
            priority: -2,
            created: at(1000),
            updated: at(2000),
            next_retry: at(3000),
            last_error: "451 try later".into(),
            headers: [("To".to_owned(), "bob@example.org".to_owned())].into(),
            retry_policy_name: "slow".into(),
            ..MessageMetadata::new("msg-1".parse().unwrap())
        };
        let never = MessageMetadata {
            next_retry: Timestamp::ZERO,
            ..message.clone()
        };
        let all = Filter::default;
        for (filter, meant) in [
            (all(), true),
            (
                Filter {
                    created_before: Some(at(1001)),
                    ..all()
                },
                true,
            ),
            (
                Filter {
                    created_before: Some(at(1000)),
                    ..all()
                },
                false,
            ),
            (
                Filter {
                    created_since: Some(at(1000)),
                    ..all()
                },
                true,
            ),
            (
                Filter {
                    created_since: Some(at(1001)),
                    ..all()
                },
                false,
            ),
            (
                Filter {
                    updated_before: Some(at(2001)),
                    ..all()
                },
                true,
            ),
            (
                Filter {
                    updated_before: Some(at(2000)),
                    ..all()
                },
                false,
            ),
            (
                Filter {
                    touched_since: Some(at(2000)),
                    ..all()
                },
                true,
            ),
            (
                Filter {
                    touched_since: Some(at(2001)),
                    ..all()
                },
                false,
            ),
            (
                Filter {
                    due_by: Some(at(3000)),
                    ..all()
                },
                true,
            ),
            (
                Filter {
                    due_by: Some(at(2999)),
                    ..all()
                },
                false,
            ),
            (
                Filter {
                    attempts: Some(3..=3),
                    ..all()
                },
                true,
            ),
            (
                Filter {
                    attempts: Some(4..=9),
                    ..all()
                },
                false,
            ),
            (
                Filter {
                    priority: Some(i64::MIN..=-2),
                    ..all()
                },
                true,
            ),
            (
                Filter {
                    priority: Some(-1..=9),
                    ..all()
                },
                false,
            ),
            (
                Filter {
                    error: glob("451*"),
                    ..all()
                },
                true,
            ),
            (
                Filter {
                    error: glob("452*"),
                    ..all()
                },
                false,
            ),
            (
                Filter {
                    id: glob("MSG-?"),
                    ..all()
                },
                true,
            ),
            (
                Filter {
                    id: glob("msg"),
                    ..all()
                },
                false,
            ),
            (
                Filter {
                    policy: glob("s*"),
                    ..all()
                },
                true,
            ),
            (
                Filter {
                    policy: glob(""),
                    ..all()
                },
                false,
            ),
            (
                Filter {
                    headers: vec![("to".into(), "*@EXAMPLE.org".parse().unwrap())],
                    ..all()
                },
                true,
            ),
            (
                Filter {
                    headers: vec![("to".into(), "alice*".parse().unwrap())],
                    ..all()
                },
                false,
            ),
            (
                Filter {
                    headers: vec![("from".into(), "*".parse().unwrap())],
                    ..all()
                },
                false,
            ),
            (
                Filter {
                    attempts: Some(3..=3),
                    priority: Some(0..=0),
                    ..all()
                },
                false,
            ),
        ] {
            assert_eq!(filter.matches(&message), meant, "{filter:?}");
        }
        assert!(
            !Filter {
                due_by: Some(at(3000)),
                ..all()
            }
            .matches(&never)
        );
    }

    #[test]
    fn ranges_include_both_ends() {
        for (text, range) in [
            ("5", 5..=5),
            ("-5", -5..=-5),
            ("..5", i64::MIN..=5),
            ("-5..-2", -5..=-2),
            ("0..", 0..=i64::MAX),
        ] {
            assert_eq!(parse_range(text), Ok(range));
        }
        for text in [
            "",
            "..",
            "a",
            "1...3",
            "3..1",
            "1.5",
            "99999999999999999999",
        ] {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }
}
