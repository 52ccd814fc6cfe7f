//! What the control files `status` and `metrics` tell, gathered once for each reader.
//!
//! Owns: the snapshot, and its spelling as JSON; the other spelling is in `metrics`.
//! May fail: with the store's errors, so that a reader never gets numbers of a store that does not
//! answer.

use std::collections::BTreeMap;

use serde::Serialize;

use super::error::Result;
use super::operations::{Counted, Operation};
use super::survey::Found;
use super::tree::Snapshot;
use super::{Errno, Options, Spool};
use crate::backend::{Ages, AuditLimits, AuditSize, Context, StateInfo};
use crate::model::{QueueState, Timestamp};

/// All that is known of a mount at one moment.
pub(super) struct Facts {
    pub at: Timestamp,
    pub states: Vec<(QueueState, StateInfo, Ages)>,
    pub inexpressible: u64,
    /// `None` until somebody has waited for it, or where nobody looked.
    pub survey: Option<Found>,
    pub feed: Option<Lag>,
    /// `None` in a store without an audit log.
    pub audit: Option<(AuditSize, AuditLimits)>,
    pub caches: Caches,
    pub operations: Vec<(Operation, Counted)>,
}

/// How far the mount is behind the store's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Lag {
    /// Changes that were not looked at yet.
    pub behind: u64,
    /// Milliseconds since changes were last asked for with success; a few hundred at rest.
    pub asked_ms: u64,
}

/// What the mount holds in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Caches {
    pub inodes: u64,
    pub handles: u64,
    pub scratch_files: u64,
    pub scratch_bytes: u64,
    pub set_aside: u64,
    pub errors_bytes: u64,
    pub events_bytes: u64,
}

impl Caches {
    /// Each with its name.
    pub fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("inodes", self.inodes),
            ("handles", self.handles),
            ("scratch_files", self.scratch_files),
            ("scratch_bytes", self.scratch_bytes),
            ("set_aside", self.set_aside),
            ("errors_bytes", self.errors_bytes),
            ("events_bytes", self.events_bytes),
        ]
    }
}

impl Facts {
    /// How many operations were refused, by errno.
    fn refusals(&self) -> BTreeMap<String, u64> {
        let mut refusals = BTreeMap::new();
        for (errno, count) in self.operations.iter().flat_map(|(_, o)| &o.errors) {
            // Names are looked for that are not there: nothing was refused.
            if *errno != Errno::ENOENT {
                *refusals.entry(format!("{errno:?}")).or_default() += count;
            }
        }
        refusals
    }
}

impl Spool {
    /// The text of a control file that is made when it is opened.
    pub(super) fn snapshot(&self, which: Snapshot) -> Result<Vec<u8>> {
        let facts = self.ask(self.facts(&self.patient()))?;
        Ok(match which {
            Snapshot::Status => self.status(&facts),
            Snapshot::Metrics => super::metrics::text(&facts).into_bytes(),
        })
    }

    /// Whether the store answers: a sentence about its messages, for a service manager.
    pub fn store_answers(&self, ctx: &Context) -> crate::backend::Result<String> {
        let counts = self.options.states().map(|state| {
            let info = self.store.state_info(ctx, state)?;
            Ok(format!("{} {state}", info.count))
        });
        let counts: crate::backend::Result<Vec<String>> = counts.collect();
        Ok(counts?.join(", "))
    }

    fn facts(&self, ctx: &Context) -> crate::backend::Result<Facts> {
        let states = self.options.states().map(|state| {
            let info = self.store.state_info(ctx, state)?;
            Ok((state, info, self.store.ages(ctx, state)?))
        });
        let feed = match (self.store.change_feed(), self.cache.followed()) {
            (Some(feed), Some((cursor, asked))) => Some(Lag {
                behind: feed.newest(ctx)?.saturating_sub(cursor),
                asked_ms: asked.elapsed().as_millis() as u64,
            }),
            _ => None,
        };
        let (scratch_files, scratch_bytes) = self.scratches.usage();
        Ok(Facts {
            at: Timestamp::now(),
            states: states.collect::<crate::backend::Result<_>>()?,
            inexpressible: self.store.inexpressible(ctx)?,
            survey: self.survey.found(),
            feed,
            audit: match self.store.audit() {
                Some(log) => Some((log.size(ctx)?, log.limits(ctx)?)),
                None => None,
            },
            caches: Caches {
                inodes: self.inodes.count() as u64,
                handles: self.handles.count() as u64,
                scratch_files,
                scratch_bytes,
                set_aside: self.asides.count() as u64,
                errors_bytes: self.report.errors.kept(),
                events_bytes: self.report.events.kept(),
            },
            operations: Operation::ALL
                .iter()
                .map(|operation| (*operation, self.operations.counted(*operation)))
                .collect(),
        })
    }

    fn status(&self, facts: &Facts) -> Vec<u8> {
        let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
        let states = facts.states.iter().map(|(state, info, ages)| {
            let status = StateStatus {
                count: info.count,
                changed: time((info.changed != Timestamp::ZERO).then_some(info.changed)),
                oldest: time(ages.oldest),
                next_due: time(ages.next_due),
            };
            (state.as_str(), status)
        });
        let validity = self.validity();
        let status = Status {
            version: env!("CARGO_PKG_VERSION"),
            store: &self.options.source,
            pid: std::process::id(),
            started: self.started.to_string(),
            time: facts.at.to_string(),
            options: OptionsStatus::of(&self.options),
            messages: facts.states.iter().map(|(_, info, _)| info.count).sum(),
            oldest: time(facts.states.iter().filter_map(|(_, _, a)| a.oldest).min()),
            next_due: time(facts.states.iter().filter_map(|(_, _, a)| a.next_due).min()),
            states: states.collect(),
            inexpressible: facts.inexpressible,
            unreadable: facts.survey.as_ref().map(|survey| survey.unreadable),
            feed: facts.feed,
            audit: facts.audit.map(|(size, limits)| AuditStatus {
                changes: size.rows,
                bytes: size.bytes,
                oldest: time(size.oldest),
                keep_changes: limits.rows,
                keep_seconds: limits.age.as_secs(),
            }),
            kernel: KernelStatus {
                names_valid_seconds: validity.names.as_secs_f64(),
                attributes_valid_seconds: validity.attributes.as_secs_f64(),
            },
            caches: facts.caches,
            refusals: facts.refusals(),
        };
        // Numbers and texts: no serializer refuses them.
        let mut text = serde_json::to_vec_pretty(&status).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

/// The control file `status`.
#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    store: &'a str,
    pid: u32,
    started: String,
    time: String,
    options: OptionsStatus,
    messages: u64,
    oldest: Option<String>,
    next_due: Option<String>,
    states: BTreeMap<&'static str, StateStatus>,
    inexpressible: u64,
    unreadable: Option<u64>,
    feed: Option<Lag>,
    audit: Option<AuditStatus>,
    kernel: KernelStatus,
    caches: Caches,
    refusals: BTreeMap<String, u64>,
}

/// How large the audit log is, and how long it is kept.
#[derive(Serialize)]
struct AuditStatus {
    changes: u64,
    bytes: u64,
    oldest: Option<String>,
    keep_changes: u64,
    keep_seconds: u64,
}

/// How long the kernel may remember at present what nobody changes. Less than a minute: changes,
/// or a kernel before 6.16, can't be told of; names for 0 seconds: each is looked up again.
#[derive(Serialize)]
struct KernelStatus {
    names_valid_seconds: f64,
    attributes_valid_seconds: f64,
}

#[derive(Serialize)]
struct StateStatus {
    count: u64,
    changed: Option<String>,
    oldest: Option<String>,
    next_due: Option<String>,
}

/// The options in force, under their names in `-o`.
#[derive(Serialize)]
struct OptionsStatus {
    ro: bool,
    nodelete: bool,
    archived: bool,
    uid: u32,
    gid: u32,
    fmode: String,
    dmode: String,
    busy_timeout: f64,
}

impl OptionsStatus {
    fn of(options: &Options) -> OptionsStatus {
        let owner = &options.ownership;
        OptionsStatus {
            ro: options.read_only,
            nodelete: options.no_delete,
            archived: options.archived,
            uid: owner.uid,
            gid: owner.gid,
            fmode: format!("{:04o}", owner.fmode),
            dmode: format!("{:04o}", owner.dmode),
            busy_timeout: options.busy_timeout.as_secs_f64(),
        }
    }
}
