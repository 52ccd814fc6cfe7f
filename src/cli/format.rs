//! The line of a message that `--format` describes: `{id} {header.to}\t{last_error}`.

use super::output::printable;
use crate::model::{MessageMetadata, Timestamp, show_duration};

/// The fields, for the help and for whoever misspells one.
pub const FIELDS: &str = "id, state, path, attempts, max_attempts, next_retry, created, updated, \
    age, idle, last_error, size, priority, retry_policy_name, header.NAME";

/// A line with fields in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Id,
    State,
    Path,
    Attempts,
    MaxAttempts,
    NextRetry,
    Created,
    Updated,
    Age,
    Idle,
    LastError,
    Size,
    Priority,
    RetryPolicyName,
    Header(String),
}

/// Where a mount shows the message, from the mountpoint on.
pub fn path(state: &str, file_name: &str) -> String {
    format!("{state}/{file_name}")
}

impl Format {
    /// The line of this message, without its end. Control characters of its fields are escaped
    /// unless it is `exact`.
    pub fn line(&self, message: &MessageMetadata, now: Timestamp, exact: bool) -> String {
        let mut line = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => line.push_str(text),
                Piece::Field(field) if exact => line.push_str(&field.value(message, now)),
                Piece::Field(field) => line.push_str(&printable(&field.value(message, now))),
            }
        }
        line
    }
}

impl Field {
    fn named(name: &str) -> Result<Field, String> {
        Ok(match name {
            "id" => Field::Id,
            "state" => Field::State,
            "path" => Field::Path,
            "attempts" => Field::Attempts,
            "max_attempts" => Field::MaxAttempts,
            "next_retry" => Field::NextRetry,
            "created" => Field::Created,
            "updated" => Field::Updated,
            "age" => Field::Age,
            "idle" => Field::Idle,
            "last_error" => Field::LastError,
            "size" => Field::Size,
            "priority" => Field::Priority,
            "retry_policy_name" => Field::RetryPolicyName,
            _ => match name.strip_prefix("header.") {
                Some(header) if !header.is_empty() => Field::Header(header.to_owned()),
                _ => return Err(format!("{{{name}}} is no field: there are {FIELDS}")),
            },
        })
    }

    fn value(&self, message: &MessageMetadata, now: Timestamp) -> String {
        match self {
            Field::Id => message.id.to_string(),
            Field::State => message.state.to_string(),
            Field::Path => path(message.state.as_str(), &message.id.file_name()),
            Field::Attempts => message.attempts.to_string(),
            Field::MaxAttempts => message.max_attempts.to_string(),
            Field::NextRetry if message.next_retry == Timestamp::ZERO => "never".to_owned(),
            Field::NextRetry => message.next_retry.to_string(),
            Field::Created => message.created.to_string(),
            Field::Updated => message.updated.to_string(),
            Field::Age => show_duration(now.since(message.created)),
            Field::Idle => show_duration(now.since(message.updated)),
            Field::LastError => message.last_error.clone(),
            Field::Size => message.size.to_string(),
            Field::Priority => message.priority.to_string(),
            Field::RetryPolicyName => message.retry_policy_name.clone(),
            Field::Header(name) => {
                let mut headers = message.headers.iter();
                let found = headers.find(|(n, _)| n.eq_ignore_ascii_case(name));
                found.map_or(String::new(), |(_, value)| value.clone())
            }
        }
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(format: &str) -> Result<Format, String> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some('t') => text.push('\t'),
                    Some('n') => text.push('\n'),
                    Some(c @ ('\\' | '{')) => text.push(c),
                    _ => return Err(r"after \ there may be t, n, \ or {".into()),
                },
                '{' => {
                    let Some((name, rest)) = chars.as_str().split_once('}') else {
                        return Err(r"a { has no }; write \{ for the character".into());
                    };
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                    pieces.push(Piece::Field(Field::named(name)?));
                    chars = rest.chars();
                }
                c => text.push(c),
            }
        }
        pieces.push(Piece::Text(text));
        Ok(Format(pieces))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_fields() {
        let message = MessageMetadata {
            last_error: "a\u{1b}b".into(),
            headers: [("To".to_owned(), "x@y".to_owned())].into(),
            ..MessageMetadata::new("m/1".parse().unwrap())
        };
        let line = |format: &str| {
            format
                .parse::<Format>()
                .unwrap()
                .line(&message, message.created, false)
        };
        assert_eq!(
            line(r"{path}\t{header.to}|{header.cc}|{next_retry}"),
            "incoming/m%2F1.json\tx@y||never"
        );
        assert_eq!(line(r"\{}\n{last_error}"), "{}\na\\u{1b}b");
        assert_eq!(line("{age} {attempts}/{max_attempts}"), "0s 0/10");
        for wrong in ["{", "{nosuch}", r"\x", "{header.}"] {
            assert!(wrong.parse::<Format>().is_err(), "{wrong}");
        }
    }
}
