//! A change as one line of JSON: what the control file `events` and `retryspoolfs events` print.

use serde::Serialize;

use crate::backend::Change;
use crate::model::QueueState;

/// The line, without its newline. `uid`, `pid` and `command` are null where nobody knows them.
///
/// ```
/// use retryspoolfs::backend::Change;
/// use retryspoolfs::{QueueState, Timestamp, overview};
/// let change = Change {
///     seq: 7,
///     id: "msg-1".parse().unwrap(),
///     from: Some(QueueState::Deferred),
///     to: Some(QueueState::Hold),
///     revision: Timestamp::ZERO.into(),
///     at: Timestamp::ZERO,
///     actor: None,
/// };
/// let line = overview::event_line(&change);
/// assert!(line.starts_with(r#"{"seq":7,"time":"0001-01-01T00:00:00Z","op":"move","id":"msg-1","from":"deferred","to":"hold","#));
/// ```
pub fn event_line(change: &Change) -> String {
    let actor = change.actor.as_ref();
    let event = Event {
        seq: change.seq,
        time: change.at.to_string(),
        op: change.operation(),
        id: change.id.as_str(),
        from: change.from.map(QueueState::as_str),
        to: change.to.map(QueueState::as_str),
        revision: change.revision.updated.to_string(),
        uid: actor.map(|actor| actor.uid),
        pid: actor.map(|actor| actor.pid),
        command: actor.map(|actor| actor.command.as_str()),
    };
    // Numbers and texts: no serializer refuses them.
    serde_json::to_string(&event).unwrap_or_default()
}

/// The line that stands for changes that are missing.
///
/// ```
/// let line = retryspoolfs::overview::lost_line("the log has them no more");
/// assert_eq!(line, r#"{"op":"lost","reason":"the log has them no more"}"#);
/// ```
pub fn lost_line(reason: &str) -> String {
    serde_json::json!({ "op": "lost", "reason": reason }).to_string()
}

#[derive(Serialize)]
struct Event<'a> {
    seq: u64,
    time: String,
    op: &'static str,
    id: &'a str,
    from: Option<&'static str>,
    to: Option<&'static str>,
    revision: String,
    uid: Option<u32>,
    pid: Option<u32>,
    command: Option<&'a str>,
}
