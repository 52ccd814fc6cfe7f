//! What changed a moment ago. Answers that were made before a change may still be on their way to
//! the kernel; so it keeps the documents of those messages only that nobody changed lately.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::model::MessageId;

/// Answers are not on their way for longer.
const LATELY: Duration = Duration::from_millis(200);

/// The changes of the last moments, as far as the feed was followed.
#[derive(Default)]
pub struct Recent(Mutex<Changes>);

#[derive(Default)]
struct Changes {
    /// The newest change that is known; `None` before the feed is followed.
    known: Option<u64>,
    messages: HashMap<MessageId, Instant>,
    /// When more changed than can be said.
    all: Option<Instant>,
}

impl Recent {
    /// These messages changed, or all; the last change was that one.
    pub fn note<'a>(&self, messages: impl Iterator<Item = &'a MessageId>, all: bool, last: u64) {
        let now = Instant::now();
        let mut changes = self.0.lock();
        changes.messages.retain(|_, at| now - *at < LATELY);
        for id in messages {
            changes.messages.insert(id.clone(), now);
        }
        if all {
            changes.all = Some(now);
        }
        changes.known = Some(last);
    }

    /// Whether nobody changed the message lately, if the store's newest change is that one.
    pub fn is_settled(&self, id: &MessageId, newest: u64) -> bool {
        let changes = self.0.lock();
        let long_ago = |at: Option<&Instant>| at.is_none_or(|at| at.elapsed() >= LATELY);
        changes.known == Some(newest)
            && long_ago(changes.all.as_ref())
            && long_ago(changes.messages.get(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_not_settled_nor_is_what_is_not_known() {
        let (a, b): (MessageId, MessageId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let recent = Recent::default();
        assert!(!recent.is_settled(&a, 0));
        recent.note([&a].into_iter(), false, 7);
        assert!(recent.is_settled(&b, 7) && !recent.is_settled(&a, 7));
        assert!(!recent.is_settled(&b, 8));
        recent.note([].into_iter(), true, 8);
        assert!(!recent.is_settled(&b, 8));
    }
}
