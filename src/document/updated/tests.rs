//! The table, row by row.

use std::convert::Infallible;

use super::*;
use crate::document::parse;
use crate::model::QueueState::{Deferred, Hold};

fn id() -> MessageId {
    "a".parse().unwrap()
}

/// Ten to the hour, and so many seconds and nanoseconds; `NOW` is the hour.
fn at(seconds: i64, nanos: u32) -> Timestamp {
    Timestamp::new(1_800_000_000 + seconds, nanos).unwrap()
}

const NOW: i64 = 600;

fn now() -> Timestamp {
    at(NOW, 0)
}

fn stored(updated: Timestamp) -> Stored {
    Stored {
        metadata: MessageMetadata {
            state: Deferred,
            created: at(0, 0),
            updated,
            ..MessageMetadata::new(id())
        },
        revision: Revision { updated, tag: 7 },
    }
}

/// A document with these keys beside its ID, and that Updated.
fn document(keys: &str, updated: Option<Timestamp>) -> Document {
    let text = format!(r#"{{"ID":"a"{keys}}}"#);
    Document {
        updated,
        ..parse(text.as_bytes(), &id()).unwrap()
    }
}

const SAME: &str = r#","Priority":5"#;
const CHANGED: &str = r#","Priority":1"#;

/// One write, into `deferred` unless a case says otherwise; the log knows no revision.
struct Case {
    stored: Option<Stored>,
    state: QueueState,
    opened: Opened,
    own: Option<Own>,
    replaces: Option<Timestamp>,
    keys: &'static str,
    updated: Option<Timestamp>,
    was_revision: bool,
}

impl Case {
    /// A renamed file of that Updated, onto a message stored at `at(100, 5)`.
    fn new(keys: &'static str, updated: Option<Timestamp>) -> Case {
        Case {
            stored: Some(stored(at(100, 5))),
            state: Deferred,
            opened: Opened::Not,
            own: None,
            replaces: None,
            keys,
            updated,
            was_revision: false,
        }
    }

    fn decide(&self) -> Verdict {
        let write = Write {
            id: &id(),
            state: self.state,
            document: &document(self.keys, self.updated),
            opened: self.opened,
            own: self.own,
            replaces: self.replaces,
            now: now(),
        };
        let verdict = decide(self.stored.as_ref(), &write, || {
            Ok::<bool, Infallible>(self.was_revision)
        });
        match verdict {
            Ok(verdict) => verdict,
            Err(never) => match never {},
        }
    }
}

fn replaced(updated: Timestamp) -> Verdict {
    Verdict::Replace(MessageMetadata {
        priority: 1,
        updated,
        ..stored(at(100, 5)).metadata
    })
}

fn inserted(updated: Timestamp) -> Verdict {
    Verdict::Insert(MessageMetadata {
        state: Deferred,
        priority: 1,
        created: now(),
        updated,
        ..MessageMetadata::new(id())
    })
}

#[test]
fn nothing_is_stored() {
    for opened in [Opened::Absent, Opened::Not, Opened::NotHere] {
        for (updated, becomes) in [
            (None, now()),
            (Some(now().next()), now()),
            (Some(Timestamp::MAX), now()),
            (Some(now()), now()),
            (Some(at(-5, 0)), at(-5, 0)),
        ] {
            let case = Case {
                stored: None,
                opened,
                ..Case::new(CHANGED, updated)
            };
            assert_eq!(case.decide(), inserted(becomes), "{updated:?}");
        }
    }
    let removed_meanwhile = Case {
        stored: None,
        opened: Opened::At(at(100, 5).into()),
        ..Case::new(CHANGED, None)
    };
    assert_eq!(removed_meanwhile.decide(), Verdict::Stale);
}

#[test]
fn what_replaces_a_removed_message_is_later_than_it() {
    for (removed, updated, becomes) in [
        (at(100, 5), Some(at(100, 5)), at(100, 6)),
        (at(100, 5), Some(at(-5, 0)), at(100, 6)),
        (at(100, 5), Some(at(200, 0)), at(200, 0)),
        (at(100, 5), None, now()),
        (at(NOW + 9, 0), None, at(NOW + 9, 1)),
    ] {
        let case = Case {
            stored: None,
            replaces: Some(removed),
            ..Case::new(CHANGED, updated)
        };
        assert_eq!(case.decide(), inserted(becomes), "{updated:?}");
    }
}

#[test]
fn what_replaces_a_removed_message_is_later_also_over_another_ones() {
    let case = Case {
        replaces: Some(at(300, 0)),
        ..Case::new(CHANGED, Some(at(300, 0)))
    };
    assert_eq!(case.decide(), replaced(at(300, 1)));
}

#[test]
fn a_name_that_must_be_free_is_free_where_the_message_is_elsewhere() {
    let case = |state| Case {
        state,
        opened: Opened::NotHere,
        ..Case::new(SAME, None)
    };
    assert_eq!(case(Deferred).decide(), Verdict::Exists);
    let Verdict::Replace(moved) = case(Hold).decide() else {
        panic!("not moved");
    };
    assert_eq!(moved.state, Hold);
}

#[test]
fn the_rest_is_what_is_stored() {
    let another = Opened::At(at(99, 0).into());
    for opened in [Opened::Not, Opened::Absent, another] {
        for updated in [
            None,
            Some(at(100, 5)),
            Some(at(100, 4)),
            Some(Timestamp::ZERO),
        ] {
            let case = Case {
                opened,
                ..Case::new(SAME, updated)
            };
            assert_eq!(case.decide(), Verdict::Nothing, "{opened:?} {updated:?}");
        }
    }
    let newer = Case::new(SAME, Some(at(100, 6)));
    assert!(matches!(newer.decide(), Verdict::Replace(_)));
    // The directory is part of the rest; the State that the document names is not.
    let moved = Case {
        state: Hold,
        ..Case::new(SAME, None)
    };
    assert!(matches!(moved.decide(), Verdict::Replace(m) if m.state == Hold));
    let names_another_state = Case::new(r#","State":3"#, None);
    assert_eq!(names_another_state.decide(), Verdict::Nothing);
}

#[test]
fn somebody_stored_what_was_absent_at_open() {
    for updated in [None, Some(at(100, 5)), Some(at(99, 0)), Some(at(101, 0))] {
        let case = Case {
            opened: Opened::Absent,
            ..Case::new(CHANGED, updated)
        };
        assert_eq!(case.decide(), Verdict::Exists, "{updated:?}");
    }
}

#[test]
fn opened_at_another_revision() {
    let tag = Revision {
        updated: at(100, 5),
        tag: 8,
    };
    for revision in [at(100, 4).into(), at(100, 5).into(), tag] {
        for updated in [None, Some(at(100, 5)), Some(at(101, 0)), Some(at(99, 0))] {
            let case = Case {
                opened: Opened::At(revision),
                own: Some(Own {
                    made: stored(at(100, 5)).revision,
                    copy: Timestamp::ZERO,
                }),
                ..Case::new(CHANGED, updated)
            };
            assert_eq!(case.decide(), Verdict::Stale, "{updated:?}");
        }
    }
}

fn at_the_stored_revision() -> [Opened; 2] {
    [Opened::Not, Opened::At(stored(at(100, 5)).revision)]
}

#[test]
fn updated_the_same_or_absent_moves_on() {
    for opened in at_the_stored_revision() {
        for updated in [None, Some(at(100, 5))] {
            let case = Case {
                opened,
                ..Case::new(CHANGED, updated)
            };
            assert_eq!(case.decide(), replaced(now()));
        }
    }
    // This host's clock is behind: one nanosecond past the stored time.
    for updated in [None, Some(at(700, 999_999_999))] {
        let ahead = Case {
            stored: Some(stored(at(700, 999_999_999))),
            ..Case::new(CHANGED, updated)
        };
        assert_eq!(ahead.decide(), replaced(at(701, 0)));
    }
}

#[test]
fn newer_is_kept_and_the_future_becomes_now() {
    for opened in at_the_stored_revision() {
        for (updated, becomes) in [
            (at(100, 6), at(100, 6)),
            (at(300, 1), at(300, 1)),
            (now(), now()),
            (now().next(), now()),
            (Timestamp::MAX, now()),
        ] {
            let case = Case {
                opened,
                ..Case::new(CHANGED, Some(updated))
            };
            assert_eq!(case.decide(), replaced(becomes), "{updated}");
        }
    }
    let both_ahead = Case {
        stored: Some(stored(at(700, 0))),
        ..Case::new(CHANGED, Some(at(800, 0)))
    };
    assert_eq!(both_ahead.decide(), replaced(at(700, 1)));
}

#[test]
fn older_but_this_process_made_the_stored_revision() {
    let own = |made, copy| {
        Some(Own {
            made,
            copy: at(copy, 0),
        })
    };
    let made = stored(at(100, 5)).revision;
    for (own, updated, verdict) in [
        (own(made, 50), at(50, 0), replaced(now())),
        (own(made, 50), at(60, 0), replaced(now())),
        (own(made, 50), at(49, 999_999_999), Verdict::Stale),
        (own(at(100, 5).into(), 50), at(50, 0), Verdict::Stale),
        (own(at(90, 0).into(), 50), at(50, 0), Verdict::Stale),
        (None, at(50, 0), Verdict::Stale),
    ] {
        for opened in at_the_stored_revision() {
            let case = Case {
                opened,
                own,
                ..Case::new(CHANGED, Some(updated))
            };
            assert_eq!(case.decide(), verdict, "{own:?} {updated}");
        }
    }
}

#[test]
fn older_but_the_stored_one_is_ahead_of_the_clock() {
    let seconds = |seconds| at(NOW + seconds, 0);
    for (current, updated, was_revision, accepted) in [
        (seconds(20), seconds(0), false, true),
        (seconds(20), seconds(10), false, true),
        (seconds(20), seconds(-10), false, true),
        (seconds(20), seconds(10).next(), false, false),
        (seconds(20), at(NOW - 11, 999_999_999), false, false),
        (seconds(20), seconds(0), true, false),
        (seconds(0).next(), seconds(0), false, true),
        (seconds(0), seconds(-1), false, false),
        (seconds(-1), seconds(-2), false, false),
    ] {
        let case = Case {
            stored: Some(stored(current)),
            was_revision,
            ..Case::new(CHANGED, Some(updated))
        };
        let expected = match accepted {
            true => replaced(current.next()),
            false => Verdict::Stale,
        };
        assert_eq!(
            case.decide(),
            expected,
            "{current} {updated} {was_revision}"
        );
    }
}

#[test]
fn older_is_stale() {
    for opened in at_the_stored_revision() {
        for updated in [at(100, 4), Timestamp::ZERO] {
            let case = Case {
                opened,
                ..Case::new(CHANGED, Some(updated))
            };
            assert_eq!(case.decide(), Verdict::Stale);
        }
    }
}

#[test]
fn the_log_is_asked_only_where_the_rule_needs_it() {
    let ask = |current, updated| {
        let write = Write {
            id: &id(),
            state: Deferred,
            document: &document(CHANGED, Some(updated)),
            opened: Opened::Not,
            own: None,
            replaces: None,
            now: now(),
        };
        decide(Some(&stored(current)), &write, || Err("asked"))
    };
    assert_eq!(ask(at(700, 0), now()), Err("asked"));
    assert_eq!(ask(at(700, 0), at(0, 0)), Ok(Verdict::Stale));
    assert_eq!(ask(at(500, 0), at(499, 0)), Ok(Verdict::Stale));
    assert_eq!(ask(at(500, 0), at(500, 0)), Ok(replaced(now())));
}
