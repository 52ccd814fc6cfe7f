//! What holds for every document, tried on random ones.

use proptest::prelude::*;

use super::*;
use crate::document::{render, render_line};

fn id(text: &str) -> MessageId {
    text.parse().unwrap()
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    let seconds = Timestamp::ZERO.seconds()..=Timestamp::MAX.seconds();
    let nanos = prop_oneof![Just(0), Just(500_000_000), 0..1_000_000_000u32];
    (seconds, nanos).prop_map(|(seconds, nanos)| Timestamp::new(seconds, nanos).unwrap())
}

fn any_metadata() -> impl Strategy<Value = MessageMetadata> {
    let text = || {
        prop_oneof![
            "\\PC{0,20}",
            "[\\x00-\\x7f]{0,20}",
            "[\u{2027}-\u{202a}\\\\\"<&]{0,9}"
        ]
    };
    let natural = || 0..=i64::MAX;
    (
        (
            text(),
            0..6i64,
            natural(),
            natural(),
            natural(),
            any::<i64>(),
        ),
        (any_time(), any_time(), any_time()),
        (
            text(),
            text(),
            prop::collection::btree_map(text(), text(), 0..4),
        ),
    )
        .prop_map(
            |((name, state, attempts, max_attempts, size, priority), times, texts)| {
                MessageMetadata {
                    id: id(&format!("{name}.")),
                    state: QueueState::from_number(state).unwrap(),
                    attempts,
                    max_attempts,
                    next_retry: times.0,
                    created: times.1,
                    updated: times.2,
                    last_error: texts.0,
                    size,
                    priority,
                    headers: texts.2,
                    retry_policy_name: texts.1,
                }
            },
        )
}

proptest! {
    #[test]
    fn what_was_rendered_reads_back(metadata in any_metadata()) {
        let bytes = render(&metadata);
        prop_assert_eq!(bytes.len() as u64, crate::document::rendered_len(&metadata));
        let document = parse(&bytes, &metadata.id).unwrap();
        let line = render_line(&metadata);
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        for bytes in [&bytes, &line] {
            prop_assert_eq!(parse_any(bytes).unwrap(), (metadata.id.clone(), document.clone()));
        }
        prop_assert_eq!(document.state, Some(metadata.state));
        let updated = document.updated.unwrap();
        let read = document.into_new(metadata.id.clone(), metadata.state, Timestamp::MAX);
        prop_assert_eq!(MessageMetadata { updated, ..read }, metadata);
    }

    #[test]
    fn every_prefix_is_incomplete(metadata in any_metadata()) {
        let bytes = render(&metadata);
        for end in 0..bytes.trim_ascii_end().len() {
            let problem = parse(&bytes[..end], &metadata.id).unwrap_err();
            prop_assert!(problem.incomplete, "{} bytes: {}", end, problem);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, &id("a"));
    }

    #[test]
    fn no_mutation_makes_it_panic(
        metadata in any_metadata(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..4),
    ) {
        let mut bytes = render(&metadata);
        for (place, byte, how) in changes {
            let place = place.index(bytes.len());
            match how {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, byte),
                _ => { bytes.remove(place); }
            }
        }
        // A refusal or a document, never a panic; a document that is legal stays so when its
        // writer's own rendering is read.
        if let Ok(document) = parse(&bytes, &metadata.id) {
            let made = document.into_new(metadata.id.clone(), metadata.state, Timestamp::ZERO);
            prop_assert!(parse(&render(&made), &metadata.id).is_ok());
        }
    }
}
