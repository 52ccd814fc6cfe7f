//! `retryspoolfs history`: the audit log, and how long it is kept.

use std::collections::HashSet;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::value::RawValue;

use super::Failure;
use super::change::id;
use super::output::{Output, complain, printable};
use super::place::{self, Place};
use crate::backend::locator::Locator;
use crate::backend::{AuditEntry, AuditLimits, AuditLog, AuditQuery, Backend};
use crate::model::{MessageId, QueueState, Timestamp, When, parse_duration};

/// How many entries are read together.
const AT_ONCE: usize = 1000;

/// Which changes are meant.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which changes (all that are given have to hold)")]
pub struct Selectors {
    /// Made at most so long ago (30m, 4h, 2d), or at or after this time (RFC 3339)
    #[arg(long, value_name = "WHEN")]
    since: Option<When>,
    /// Asked for by this user
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    /// Asked for by this process
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Asked for by a program of this name, such as mv or vim, or by this command: move, hold
    #[arg(long, value_name = "NAME")]
    command: Option<String>,
}

impl Selectors {
    /// What they mean now. An ID is looked for by the store if there is but one.
    pub fn query(&self, ids: &[MessageId]) -> AuditQuery {
        AuditQuery {
            id: match ids {
                [id] => Some(id.clone()),
                _ => None,
            },
            since: self.since.map(|since| since.ago(Timestamp::now())),
            uid: self.uid,
            pid: self.pid,
            command: self.command.as_deref().map(|command| {
                let ours = super::command();
                let is_ours = ours.get_subcommands().any(|c| c.get_name() == command);
                match is_ours {
                    true => format!("retryspoolfs {command}"),
                    false => command.to_owned(),
                }
            }),
        }
    }

    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        self.query(&[]) == AuditQuery::default()
    }
}

/// Print who changed what: the audit log, oldest first.
///
/// It has the changes that were made through mounts and by these commands, with the user and the
/// program that asked for each; RetrySpool's own workers are not in it (see "events" for theirs).
/// With --json each line has also the document that a change replaced or removed. The log is kept
/// for seven days and a million changes, whichever is less; --keep-days and --keep-changes set
/// that for the spool, and print nothing else.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs history [OPTIONS] SPOOL [ID]...\n       \
        retryspoolfs history SPOOL [--keep-days N] [--keep-changes N]",
    after_long_help = "\
Examples:
  retryspoolfs history /var/spool/q.db msg-1                 who moved it?
  retryspoolfs history /var/spool/q.db --since 1h --command mv
  retryspoolfs history /var/spool/q.db --since 1h --json | jq -r 'select(.op == \"delete\").document.LastError'
  retryspoolfs history /var/spool/q.db --keep-days 30 --keep-changes 5000000"
)]
pub struct Arguments {
    #[arg(value_name = "SPOOL ID", help = place::HELP)]
    words: Vec<OsString>,
    #[command(flatten)]
    selectors: Selectors,
    /// One JSON object a change, with the old document
    #[arg(long)]
    json: bool,
    /// Keep changes for so many days from now on
    #[arg(long, value_name = "DAYS", help_heading = "How long it is kept")]
    keep_days: Option<u32>,
    /// Keep at most so many changes from now on
    #[arg(long, value_name = "N", help_heading = "How long it is kept")]
    keep_changes: Option<u64>,
}

/// A store's audit log; or that it has none.
pub fn log<'a>(
    name: &str,
    store: &'a dyn Backend,
    place: &Place,
) -> Result<&'a dyn AuditLog, Failure> {
    let none = || match &place.locator {
        Locator::Dir(_) => format!(
            "{name}: {} has no audit log: RetrySpool's own directory has no place for one",
            place.locator
        ),
        _ => format!(
            "{name}: {} has no audit log yet: it begins with the first mount or change by this program",
            place.locator
        ),
    };
    store.audit().ok_or_else(|| none().into())
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (place, words) = Place::of_messages(&arguments.words)?;
    let failed = |error: crate::backend::Error| format!("history {}: {error}", place.locator);
    if arguments.keep_days.is_some() || arguments.keep_changes.is_some() {
        let store = place.change()?;
        let log = log("history", &*store, &place)?;
        let now = log.limits(&place::ctx()).map_err(failed)?;
        let limits = AuditLimits {
            rows: arguments.keep_changes.unwrap_or(now.rows),
            age: arguments.keep_days.map_or(now.age, days),
        };
        log.set_limits(&place::ctx(), limits).map_err(failed)?;
        return Ok(ExitCode::SUCCESS);
    }
    let ids = words.iter().map(|word| id(word));
    let ids: Vec<MessageId> = ids.collect::<Result<_, _>>()?;
    let store = place.look()?;
    let log = log("history", &*store, &place)?;
    let query = arguments.selectors.query(&ids);
    let mut out = Output::new();
    let mut after = 0;
    let wanted: HashSet<&MessageId> = ids.iter().collect();
    let mut unheard = wanted.clone();
    loop {
        let page = log
            .entries(&place::ctx(), &query, after, AT_ONCE)
            .map_err(failed)?;
        for entry in &page {
            after = entry.change.seq;
            if !wanted.is_empty() && !wanted.contains(&entry.change.id) {
                continue;
            }
            unheard.remove(&entry.change.id);
            let line = match arguments.json {
                true => json(log, entry).map_err(failed)?,
                false => text(entry),
            };
            out.line(&line)?;
        }
        if page.len() < AT_ONCE {
            break;
        }
    }
    out.end()?;
    for id in ids.iter().filter(|id| unheard.contains(id)) {
        complain(&format!(
            "history {id}: the audit log has no such change of it"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn days(days: u32) -> Duration {
    parse_duration(&format!("{days}d")).unwrap_or(Duration::MAX)
}

/// A change for people: `2026-11-24T03:12:55.123Z uid 1000 pid 4711 mv: msg-1 deferred -> hold`.
fn text(entry: &AuditEntry) -> String {
    let change = &entry.change;
    let (uid, pid, command) = match &change.actor {
        Some(actor) => (actor.uid, actor.pid, actor.command.as_str()),
        None => (0, 0, "?"),
    };
    let what = match (change.from, change.to) {
        (None, Some(to)) => format!("stored in {to}"),
        (Some(from), None) => format!("deleted from {from}"),
        (Some(from), Some(to)) if from == to => format!("changed in {to}"),
        (Some(from), Some(to)) if entry.has_document => format!("{from} -> {to}, changed"),
        (Some(from), Some(to)) => format!("{from} -> {to}"),
        (None, None) => "stored and deleted".to_owned(),
    };
    format!(
        "{} uid {uid} pid {pid} {}: {} {what}",
        change.at,
        printable(command),
        printable(change.id.as_str())
    )
}

/// A line for programs: what an event has, and what undoing it takes.
#[derive(serde::Serialize)]
struct Line<'a> {
    seq: u64,
    time: String,
    op: &'static str,
    id: &'a str,
    from: Option<&'static str>,
    to: Option<&'static str>,
    revision: String,
    before: Option<String>,
    uid: Option<u32>,
    pid: Option<u32>,
    command: Option<&'a str>,
    document: Option<Box<RawValue>>,
}

fn json(log: &dyn AuditLog, entry: &AuditEntry) -> crate::backend::Result<String> {
    let change = &entry.change;
    let document = match entry.has_document {
        true => log.old_document(&place::ctx(), change.seq)?,
        false => None,
    };
    // Without its line breaks and indents.
    let document = document
        .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
        .and_then(|value| RawValue::from_string(value.to_string()).ok());
    let actor = change.actor.as_ref();
    let line = Line {
        seq: change.seq,
        time: change.at.to_string(),
        op: change.operation(),
        id: change.id.as_str(),
        from: change.from.map(QueueState::as_str),
        to: change.to.map(QueueState::as_str),
        revision: change.revision.updated.to_string(),
        before: entry.before.map(|before| before.updated.to_string()),
        uid: actor.map(|actor| actor.uid),
        pid: actor.map(|actor| actor.pid),
        command: actor.map(|actor| actor.command.as_str()),
        document,
    };
    // Numbers, texts and JSON: no serializer refuses them.
    Ok(serde_json::to_string(&line).unwrap_or_default())
}
