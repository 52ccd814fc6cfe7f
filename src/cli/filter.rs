//! The filters, the same in every command.

use clap::Args;

use crate::model::{Filter, Glob, Timestamp, When, parse_range};

/// Which messages are meant: all conditions have to hold.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filters (all that are given have to hold)")]
pub struct Filters {
    /// Created longer ago than this (30m, 4h, 2d), or before this time (RFC 3339)
    #[arg(long, value_name = "WHEN")]
    older: Option<When>,
    /// Created at most so long ago, or at or after this time
    #[arg(long, value_name = "WHEN")]
    newer: Option<When>,
    /// Not changed for so long, or since this time
    #[arg(long, value_name = "WHEN")]
    idle: Option<When>,
    /// Its next retry is due; with =WHEN, will be due in so long, or at this time
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "0s"
    )]
    due: Option<When>,
    /// Tried so often: N, N.. (N and more), ..N or N..M
    #[arg(long, value_name = "RANGE", value_parser = parse_range)]
    attempts: Option<std::ops::RangeInclusive<i64>>,
    /// Of this priority: N, N.., ..N or N..M
    #[arg(long, value_name = "RANGE", value_parser = parse_range, allow_hyphen_values = true)]
    priority: Option<std::ops::RangeInclusive<i64>>,
    /// The last error matches. A GLOB ignores case and has to match the whole text: * is any text,
    /// ? one character, [a-z] one of a set, and \ takes the next character for itself
    #[arg(long, value_name = "GLOB")]
    error: Option<Glob>,
    /// The header is there and matches; may be given more than once. Names ignore case
    #[arg(long, value_name = "NAME=GLOB", value_parser = header)]
    header: Vec<(String, Glob)>,
    /// The header "from" matches
    #[arg(long, value_name = "GLOB")]
    from: Option<Glob>,
    /// The header "to" matches
    #[arg(long, value_name = "GLOB")]
    to: Option<Glob>,
    /// The ID matches
    #[arg(long, value_name = "GLOB")]
    id: Option<Glob>,
    /// The retry policy's name matches; '' is the queue's default
    #[arg(long, value_name = "GLOB")]
    policy: Option<Glob>,
}

impl Filters {
    /// What they mean at this time.
    pub fn at(&self, now: Timestamp) -> Filter {
        let named = |name: &str, glob: &Option<Glob>| {
            let glob = glob.clone();
            glob.map(|glob| (name.to_owned(), glob))
        };
        let headers = self.header.iter().cloned();
        Filter {
            created_before: self.older.map(|when| when.ago(now)),
            created_since: self.newer.map(|when| when.ago(now)),
            updated_before: self.idle.map(|when| when.ago(now)),
            due_by: self.due.map(|when| when.ahead(now)),
            attempts: self.attempts.clone(),
            priority: self.priority.clone(),
            error: self.error.clone(),
            headers: headers
                .chain(named("from", &self.from))
                .chain(named("to", &self.to))
                .collect(),
            id: self.id.clone(),
            policy: self.policy.clone(),
            ..Filter::default()
        }
    }

    /// What they mean now.
    pub fn now(&self) -> Filter {
        self.at(Timestamp::now())
    }

    /// What may have been meant where nothing matches: a pattern is of the whole text.
    pub fn meant(&self) -> Option<String> {
        let plain = |glob: &Option<Glob>| {
            let text = glob.as_ref()?.as_str();
            (!text.is_empty() && !text.contains(['*', '?', '[', '\\', '\'']))
                .then_some(text.to_owned())
        };
        let domain = |option: &str, glob| {
            let text = plain(glob).filter(|text| !text.contains('@'))?;
            Some(format!("--{option} '*@{text}'"))
        };
        let part = || Some(format!("--error '*{}*'", plain(&self.error)?));
        let meant = domain("from", &self.from).or_else(|| domain("to", &self.to));
        let meant = meant.or_else(part)?;
        Some(format!(
            "a pattern has to match the whole text, such as {meant}"
        ))
    }

    /// Whether they say what the last error is like.
    pub fn names_error(&self) -> bool {
        self.error.is_some()
    }
}

fn header(text: &str) -> Result<(String, Glob), String> {
    match text.split_once('=') {
        Some((name, glob)) if !name.is_empty() => Ok((name.to_owned(), glob.parse()?)),
        _ => Err("write it as NAME=GLOB".into()),
    }
}
