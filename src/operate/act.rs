//! What becomes of one message.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::Found;
use crate::backend::{Error, Proposal};
use crate::document::{self, Document};
use crate::model::{MessageMetadata, QueueState, Timestamp};

/// What to do with each message.
#[derive(Clone, Debug)]
pub enum Act {
    /// Remove it.
    Remove,
    /// Change it.
    Edit(Box<Edit>),
}

/// What to change in a message; the default changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    /// The state that it moves to.
    pub to: Option<QueueState>,
    /// The fields that are set; its State and Updated are not looked at.
    pub fields: Document,
    /// Headers that are set, and those that go.
    pub headers: Vec<(String, Option<String>)>,
    /// Its next retry becomes this.
    pub reset: Option<Reset>,
}

/// When a message is tried again.
#[derive(Clone, Debug)]
pub struct Reset {
    /// The earliest time.
    pub at: Timestamp,
    /// Retries are scattered over this long from then on; zero for none of it.
    pub spread: Duration,
    /// Whether a message that is due by then stays as it is, unless retries are scattered.
    pub unless_due: bool,
    seed: RandomState,
}

impl Reset {
    /// At this time, all of them.
    pub fn at(at: Timestamp) -> Reset {
        Reset {
            at,
            spread: Duration::ZERO,
            unless_due: false,
            seed: RandomState::new(),
        }
    }

    /// The message's next retry.
    fn of(&self, stored: &MessageMetadata) -> Timestamp {
        let next = stored.next_retry;
        let is_due = next != Timestamp::ZERO && next <= self.at;
        match self.unless_due && is_due && self.spread.is_zero() {
            true => next,
            false => self.scattered(stored.id.as_str()),
        }
    }

    fn scattered(&self, id: &str) -> Timestamp {
        let millis = u64::try_from(self.spread.as_millis()).unwrap_or(u64::MAX);
        let ahead = match millis {
            0 => 0,
            _ => self.seed.hash_one(id) % millis,
        };
        self.at.saturating_add(Duration::from_millis(ahead))
    }
}

/// Why a message is left alone.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Skip {
    /// A worker has it.
    #[error(
        "it is active: a worker has it, and may write over any change; --active does it all the same"
    )]
    Active,
    /// The act is for messages of another state.
    #[error("it is in {found}, not in {wanted}")]
    Elsewhere {
        /// Where it is.
        found: QueueState,
        /// Where it would have to be.
        wanted: QueueState,
    },
    /// It was removed, and would be stored again.
    #[error("somebody stored and removed it again meanwhile")]
    CameBack,
    /// The store did not do it: somebody else changed, moved or removed it, mostly.
    #[error("{0}")]
    Refused(#[from] Error),
}

impl Edit {
    /// An edit that only moves.
    pub fn moving(to: QueueState) -> Edit {
        Edit {
            to: Some(to),
            ..Edit::default()
        }
    }

    fn is_a_move(&self) -> bool {
        self.fields == Document::default() && self.headers.is_empty() && self.reset.is_none()
    }

    /// Reads FIELD=VALUE: a key of a document, in any case and with `_` between its words or not,
    /// or `header.NAME`; a header set to nothing goes.
    ///
    /// ```
    /// use retryspoolfs::operate::Edit;
    /// let mut edit = Edit::default();
    /// edit.set("Priority=1").unwrap();
    /// edit.set("max_attempts=20").unwrap();
    /// edit.set("header.x-note=seen by anna").unwrap();
    /// assert_eq!((edit.fields.priority, edit.fields.max_attempts), (Some(1), Some(20)));
    /// assert!(edit.set("Priority=high").is_err() && edit.set("State=hold").is_err());
    /// ```
    pub fn set(&mut self, assignment: &str) -> Result<(), String> {
        let Some((field, value)) = assignment.split_once('=') else {
            return Err(format!("{assignment:?}: write FIELD=VALUE"));
        };
        if let Some(name) = strip_prefix_ignoring_case(field, "header.") {
            if name.is_empty() {
                return Err(format!("{assignment:?}: write header.NAME=VALUE"));
            }
            let value = Some(value.to_owned()).filter(|value| !value.is_empty());
            self.headers.push((name.to_owned(), value));
            return Ok(());
        }
        let plain = field.replace('_', "").to_ascii_lowercase();
        let Some((_, key, is_text)) = FIELDS.iter().find(|(name, ..)| *name == plain) else {
            return Err(match plain.as_str() {
                "state" => "the state is changed by `retryspoolfs move`".to_owned(),
                "id" | "updated" => format!("{field} can't be set"),
                _ => format!(
                    "no field is called {field:?}: there are Attempts, MaxAttempts, NextRetry, Created, \
                     LastError, Size, Priority, RetryPolicyName and header.NAME"
                ),
            });
        };
        let value = match is_text {
            true => serde_json::Value::from(value).to_string(),
            // One value: what follows a comma would be another field.
            false if serde_json::from_str::<serde::de::IgnoredAny>(value).is_err() => {
                return Err(format!("{assignment:?}: {key} is a number"));
            }
            false => value.to_owned(),
        };
        // The rules for a value are those of a written document, and so are the complaints.
        let text = format!("{{\"ID\":\"x\",\"{key}\":{value}}}");
        let (_, read) = document::parse_any(text.as_bytes())
            .map_err(|problem| format!("{assignment:?}: {}", problem.message))?;
        let fields = &mut self.fields;
        fields.attempts = read.attempts.or(fields.attempts);
        fields.max_attempts = read.max_attempts.or(fields.max_attempts);
        fields.next_retry = read.next_retry.or(fields.next_retry);
        fields.created = read.created.or(fields.created);
        fields.last_error = read.last_error.or(fields.last_error.take());
        fields.size = read.size.or(fields.size);
        fields.priority = read.priority.or(fields.priority);
        let policy = fields.retry_policy_name.take();
        fields.retry_policy_name = read.retry_policy_name.or(policy);
        Ok(())
    }
}

/// The fields that can be set: as people may write them, as documents do, and whether the value is
/// written as text there.
const FIELDS: [(&str, &str, bool); 8] = [
    ("attempts", "Attempts", false),
    ("maxattempts", "MaxAttempts", false),
    ("nextretry", "NextRetry", true),
    ("created", "Created", true),
    ("lasterror", "LastError", true),
    ("size", "Size", false),
    ("priority", "Priority", false),
    ("retrypolicyname", "RetryPolicyName", true),
];

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, tail) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
}

impl Act {
    /// Whether it has to see the whole message, or only where it is.
    pub fn needs_metadata(&self) -> bool {
        match self {
            Act::Remove => false,
            Act::Edit(edit) => !edit.is_a_move(),
        }
    }

    /// The change that does it to this message; `None` if it is like that already.
    pub fn propose(&self, found: &Found) -> Option<Proposal> {
        let (from, seen) = (found.state, found.revision);
        let edit = match self {
            Act::Remove => {
                let id = found.id.clone();
                return Some(Proposal::Remove { id, from, seen });
            }
            Act::Edit(edit) => edit,
        };
        let to = edit.to.unwrap_or(from);
        match &found.metadata {
            Some(stored) if !edit.is_a_move() => {
                let metadata = edited(stored, edit, to);
                (metadata != *stored).then(|| Proposal::Replace {
                    from,
                    seen,
                    metadata: MessageMetadata {
                        updated: Timestamp::now(),
                        ..metadata
                    },
                })
            }
            _ => (to != from).then(|| Proposal::Move {
                id: found.id.clone(),
                from,
                seen,
                to,
            }),
        }
    }
}

fn edited(stored: &MessageMetadata, edit: &Edit, to: QueueState) -> MessageMetadata {
    let mut metadata = edit.fields.clone().over(stored, to);
    if let Some(reset) = &edit.reset {
        metadata.next_retry = reset.of(stored);
    }
    for (name, value) in &edit.headers {
        // Names ignore case: the one that is there keeps its spelling.
        let there = metadata.headers.keys();
        let there = there.filter(|key| key.eq_ignore_ascii_case(name)).cloned();
        let there: Vec<String> = there.collect();
        match value {
            None => there.iter().for_each(|key| {
                metadata.headers.remove(key);
            }),
            Some(value) => {
                let key = there.into_iter().next().unwrap_or_else(|| name.clone());
                metadata.headers.insert(key, value.clone());
            }
        }
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(state: QueueState) -> Found {
        let metadata = MessageMetadata {
            state,
            headers: [("To".to_owned(), "bob".to_owned())].into(),
            ..MessageMetadata::new("a".parse().unwrap())
        };
        Found {
            id: metadata.id.clone(),
            state,
            revision: metadata.updated.into(),
            metadata: Some(metadata),
        }
    }

    fn set(assignments: &[&str]) -> Act {
        let mut edit = Edit::default();
        assignments.iter().for_each(|a| edit.set(a).unwrap());
        Act::Edit(Box::new(edit))
    }

    #[test]
    fn what_is_so_already_is_no_change() {
        let there = found(QueueState::Hold);
        let hold = Act::Edit(Box::new(Edit::moving(QueueState::Hold)));
        assert_eq!(hold.propose(&there), None);
        assert!(hold.propose(&found(QueueState::Bounce)).is_some());
        assert!(!hold.needs_metadata());
        assert_eq!(set(&["Priority=5", "header.TO=bob"]).propose(&there), None);
        assert_eq!(set(&["header.cc="]).propose(&there), None);
    }

    #[test]
    fn fields_are_set_by_the_rules_of_documents() {
        let act = set(&[
            "attempts=3",
            "MAX_ATTEMPTS=4",
            "NextRetry=2027-01-15T08:00:00Z",
            "last_error=said \"no\"",
            "retry_policy_name=slow",
            "header.to=anna",
            "header.x=1",
        ]);
        let Some(Proposal::Replace { metadata, .. }) = act.propose(&found(QueueState::Hold)) else {
            panic!("no change");
        };
        assert_eq!((metadata.attempts, metadata.max_attempts), (3, 4));
        assert_eq!(metadata.next_retry.seconds(), 1_800_000_000);
        assert_eq!(metadata.last_error, "said \"no\"");
        assert_eq!(metadata.retry_policy_name, "slow");
        let headers: Vec<_> = metadata.headers.iter().collect();
        assert_eq!(format!("{headers:?}"), r#"[("To", "anna"), ("x", "1")]"#);
        assert_eq!(metadata.state, QueueState::Hold);
    }

    #[test]
    fn what_no_document_may_say_is_refused() {
        for (text, why) in [
            ("Priority", "FIELD=VALUE"),
            ("Priority=", "Priority="),
            ("Attempts=-1", "Attempts"),
            ("Attempts=1,\"Size\":2", "Attempts"),
            ("NextRetry=tomorrow", "NextRetry"),
            ("State=hold", "retryspoolfs move"),
            ("Updated=2027-01-15T08:00:00Z", "can't be set"),
            ("colour=red", "no field"),
            ("header.=x", "header.NAME"),
        ] {
            let refused = Edit::default().set(text);
            assert!(
                refused.as_ref().is_err_and(|e| e.contains(why)),
                "{text}: {refused:?}"
            );
        }
    }

    #[test]
    fn retries_are_scattered_over_the_spread() {
        let at = Timestamp::new(1_800_000_000, 0).unwrap();
        let reset = |spread| Reset {
            spread: Duration::from_secs(spread),
            ..Reset::at(at)
        };
        assert_eq!(reset(0).scattered("a"), at);
        let scattered = reset(1800);
        let times: std::collections::BTreeSet<_> = (0..100)
            .map(|n| scattered.scattered(&format!("m{n}")))
            .collect();
        assert!(times.len() > 90);
        assert!(
            times
                .iter()
                .all(|time| *time >= at && time.seconds() < at.seconds() + 1800)
        );
    }

    #[test]
    fn what_is_due_need_not_wait_longer() {
        let at = Timestamp::new(1_800_000_000, 0).unwrap();
        let due_at = |next_retry| MessageMetadata {
            next_retry,
            ..MessageMetadata::new("a".parse().unwrap())
        };
        let mut flush = Reset::at(at);
        flush.unless_due = true;
        let earlier = Timestamp::new(1_700_000_000, 5).unwrap();
        assert_eq!(flush.of(&due_at(earlier)), earlier);
        assert_eq!(flush.of(&due_at(at.next())), at);
        assert_eq!(flush.of(&due_at(Timestamp::ZERO)), at);
        assert_eq!(Reset::at(at).of(&due_at(earlier)), at);
    }
}
