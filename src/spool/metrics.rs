//! The control file `metrics`: text that OpenMetrics's and Prometheus's parsers read.
//!
//! Owns: the metrics' names, units and labels. Labels are states, operations, errnos and classes of
//! errors, never an ID or an address, so that their number is bounded.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType::{self, Counter, Gauge, Histogram};
use prometheus_client::registry::{Registry, Unit};

use super::operations::{BOUNDS, Counted, Operation};
use super::status::Facts;
use super::survey::Found;
use crate::backend::{Ages, StateInfo};
use crate::model::{QueueState, Timestamp};

/// The text.
pub(super) fn text(facts: &Facts) -> String {
    let mut registry = Registry::with_prefix("retryspool");
    registry.register_collector(Box::new(Gathered::of(facts)));
    let mut text = String::new();
    // It is written to a string, which refuses nothing.
    let _ = encode(&mut text, &registry);
    text
}

/// What is encoded. The registry wants to own it.
#[derive(Debug)]
struct Gathered {
    now: Timestamp,
    states: Vec<(QueueState, StateInfo, Ages)>,
    inexpressible: u64,
    survey: Option<Found>,
    lag: Option<(u64, u64)>,
    caches: Vec<(&'static str, u64)>,
    operations: Vec<(Operation, Counted)>,
}

impl Gathered {
    fn of(facts: &Facts) -> Gathered {
        Gathered {
            now: facts.at,
            states: facts.states.clone(),
            inexpressible: facts.inexpressible,
            survey: facts.survey.clone(),
            lag: facts.feed.map(|lag| (lag.behind, lag.asked_ms)),
            caches: facts.caches.named().to_vec(),
            // A kind that nobody asked for is left out.
            operations: facts
                .operations
                .iter()
                .filter(|(_, counted)| counted.count() > 0)
                .cloned()
                .collect(),
        }
    }

    fn by_state(&self) -> impl Iterator<Item = (&'static str, &StateInfo, &Ages)> {
        let states = self.states.iter();
        states.map(|(state, info, ages)| (state.as_str(), info, ages))
    }

    fn age(&self, since: Timestamp) -> f64 {
        seconds(self.now) - seconds(since)
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.seconds() as f64 + f64::from(time.nanos()) / 1e9
}

type Encoded = Result<(), std::fmt::Error>;
type Labels<'a> = Vec<(&'static str, &'a str)>;

/// A family: its name without the prefix, what it tells, and its samples.
fn family<'a>(
    encoder: &mut DescriptorEncoder,
    (name, unit, kind): (&str, Option<Unit>, MetricType),
    help: &str,
    samples: impl IntoIterator<Item = (Labels<'a>, f64)>,
) -> Encoded {
    let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
    for (labels, value) in samples {
        let mut sample = metric.encode_family(&labels)?;
        match kind {
            Counter => sample.encode_counter::<NoLabelSet, _, f64>(&value, None)?,
            _ => sample.encode_gauge(&value)?,
        }
    }
    Ok(())
}

impl Collector for Gathered {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Encoded {
        let e = &mut encoder;
        // Not of the type "info", which Prometheus's own text format does not know.
        family(
            e,
            ("build_info", None, Gauge),
            "The program's version",
            [(vec![("version", env!("CARGO_PKG_VERSION"))], 1.0)],
        )?;
        self.queue(e)?;
        self.reasons(e)?;
        self.mount(e)?;
        self.work(e)
    }
}

impl Gathered {
    fn queue(&self, e: &mut DescriptorEncoder) -> Encoded {
        let counts = self.by_state();
        family(
            e,
            ("messages", None, Gauge),
            "Messages in each state",
            counts.map(|(state, info, _)| (vec![("state", state)], info.count as f64)),
        )?;
        let oldest = self.by_state().filter_map(|(state, _, ages)| {
            let age = self.age(ages.oldest?).max(0.0);
            Some((vec![("state", state)], age))
        });
        family(
            e,
            ("oldest_age", Some(Unit::Seconds), Gauge),
            "Age of the oldest message of each state, from its creation",
            oldest,
        )?;
        let next = self
            .by_state()
            .filter_map(|(state, _, ages)| Some((vec![("state", state)], seconds(ages.next_due?))));
        family(
            e,
            ("next_due_timestamp", Some(Unit::Seconds), Gauge),
            "When the next retry of each state is due, or was",
            next,
        )?;
        let overdue = self.by_state().filter_map(|(state, _, ages)| {
            let overdue = self.age(ages.next_due?).max(0.0);
            Some((vec![("state", state)], overdue))
        });
        family(
            e,
            ("overdue", Some(Unit::Seconds), Gauge),
            "For how long the next retry of each state has been due; 0 if it is not due yet",
            overdue,
        )?;
        family(
            e,
            ("inexpressible_messages", None, Gauge),
            "Stored messages that no file name or state can express",
            [(vec![], self.inexpressible as f64)],
        )
    }

    /// What was found by looking at every message; nothing before that has happened once.
    fn reasons(&self, e: &mut DescriptorEncoder) -> Encoded {
        let Some(survey) = &self.survey else {
            return Ok(());
        };
        let classes = survey.classes.iter().map(|((state, class), count)| {
            let labels = vec![("state", state.as_str()), ("class", class.name())];
            (labels, *count as f64)
        });
        family(
            e,
            ("failed_messages", None, Gauge),
            "Messages by what their last error tells of, when they were last looked at",
            classes,
        )?;
        family(
            e,
            ("unreadable_messages", None, Gauge),
            "Messages whose metadata cannot be read, when they were last looked at",
            [(vec![], survey.unreadable as f64)],
        )?;
        family(
            e,
            ("survey_timestamp", Some(Unit::Seconds), Gauge),
            "When every message was last looked at",
            [(vec![], seconds(survey.at))],
        )
    }

    fn mount(&self, e: &mut DescriptorEncoder) -> Encoded {
        if let Some((behind, asked_ms)) = self.lag {
            family(
                e,
                ("feed_behind_changes", None, Gauge),
                "Changes of the store that the mount has not looked at yet",
                [(vec![], behind as f64)],
            )?;
            family(
                e,
                ("feed_asked_age", Some(Unit::Seconds), Gauge),
                "Time since the store was last asked for changes with success",
                [(vec![], asked_ms as f64 / 1000.0)],
            )?;
        }
        let caches = self.caches.iter();
        family(
            e,
            ("cache_size", None, Gauge),
            "What the mount holds in memory: entries, or bytes where the name says so",
            caches.map(|(name, size)| (vec![("cache", *name)], *size as f64)),
        )
    }

    fn work(&self, e: &mut DescriptorEncoder) -> Encoded {
        let counts = self
            .operations
            .iter()
            .map(|(operation, counted)| (vec![("op", operation.name())], counted.count() as f64));
        family(
            e,
            ("operations", None, Counter),
            "Requests of the kernel that were answered",
            counts,
        )?;
        let errors: Vec<(&str, String, u64)> = self
            .operations
            .iter()
            .flat_map(|(operation, counted)| {
                let errors = counted.errors.iter();
                errors.map(|(errno, count)| (operation.name(), format!("{errno:?}"), *count))
            })
            .collect();
        family(
            e,
            ("operation_errors", None, Counter),
            "Requests that were answered with an error",
            errors.iter().map(|(operation, errno, count)| {
                (vec![("op", *operation), ("errno", errno)], *count as f64)
            }),
        )?;
        let mut metric = e.encode_descriptor(
            "operation_duration",
            "How long requests took, waiting for the store included",
            Some(&Unit::Seconds),
            Histogram,
        )?;
        for (operation, counted) in &self.operations {
            let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6);
            let buckets: Vec<(f64, u64)> = bounds
                .chain([f64::INFINITY])
                .zip(counted.took.iter().copied())
                .collect();
            let (sum, count) = (counted.time.as_secs_f64(), counted.count());
            metric
                .encode_family(&vec![("op", operation.name())])?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}
