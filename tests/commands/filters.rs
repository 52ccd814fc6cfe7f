//! Each filter, as it is typed.

use retryspoolfs::{MessageMetadata, QueueState, Timestamp};

use crate::support::{Spool, ago, message};

fn spool() -> Spool {
    let base = |id| MessageMetadata {
        last_error: String::new(),
        ..message(id, QueueState::Deferred)
    };
    Spool::with([
        MessageMetadata {
            created: ago(5 * 3600),
            updated: ago(60),
            attempts: 1,
            next_retry: ago(10),
            last_error: "451 4.7.1 Greylisted".into(),
            ..base("old")
        },
        MessageMetadata {
            created: ago(600),
            updated: ago(600),
            attempts: 5,
            next_retry: ago(-1800),
            last_error: "421 Timeout [mx1]".into(),
            headers: [("From".into(), "x@spam.example".into())].into(),
            ..base("tried")
        },
        MessageMetadata {
            created: ago(60),
            updated: ago(60),
            priority: -3,
            next_retry: Timestamp::ZERO,
            headers: [("to".into(), "Bob@Slow.Example".into())].into(),
            retry_policy_name: "slow".into(),
            ..base("new")
        },
    ])
}

#[test]
fn each_filter_selects() {
    let spool = spool();
    let an_hour_ago = ago(3600);
    let with_time = |option: &str| format!("{option} {an_hour_ago}");
    for (options, expected) in [
        ("", "new old tried"),
        ("--older 4h", "old"),
        (&with_time("--older"), "old"),
        ("--newer 1h", "new tried"),
        (&with_time("--newer"), "new tried"),
        ("--idle 5m", "tried"),
        ("--due", "old"),
        ("--due=1h", "old tried"),
        ("--due=15m", "old"),
        ("--attempts 5", "tried"),
        ("--attempts ..4", "new old"),
        ("--attempts 2..", "tried"),
        ("--attempts 1..5", "new old tried"),
        ("--priority -3", "new"),
        ("--priority=-3..0", "new"),
        ("--error '*timeout*'", "tried"),
        (r"--error '*\[mx1]'", "tried"),
        ("--error 451*", "old"),
        ("--error ''", "new"),
        ("--header 'FROM=*@spam.*'", "tried"),
        ("--header to=* --header from=*", "old"),
        ("--from '*@SPAM.example'", "tried"),
        ("--to '*@slow.example'", "new"),
        ("--id '[no]*'", "new old"),
        ("--policy slow", "new"),
        ("--policy ''", "old tried"),
        ("--newer 1h --attempts 5", "tried"),
        ("--newer 1h --error 451*", ""),
    ] {
        let listed = spool
            .bash(&format!("$PROGRAM list $SPOOL deferred {options}"))
            .ok();
        let words: Vec<&str> = listed.lines().collect();
        assert_eq!(words.join(" "), expected, "{options}");
    }
}

#[test]
fn a_filter_that_makes_no_sense_is_a_usage_error() {
    let spool = spool();
    for (options, complaint) in [
        ("--older 5", "such as 30m, 4h or 2d"),
        ("--older yesterday", "such as 30m, 4h or 2d"),
        ("--due=never", "such as 30m, 4h or 2d"),
        ("--attempts 5-7", "no range"),
        ("--priority 3..1", "empty range"),
        ("--error '[abc'", "no ]"),
        ("--header from", "NAME=GLOB"),
        ("--eror x", "unexpected argument"),
    ] {
        let output = spool.bash(&format!("$PROGRAM list $SPOOL deferred {options}"));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        output.fails(complaint);
    }
}

#[test]
fn headers_that_are_not_json_matter_only_to_a_filter_of_headers() {
    let spool = spool();
    spool.execute("UPDATE messages SET headers = 'no JSON' WHERE id = 'old'");
    let list = |options: &str| spool.bash(&format!("$PROGRAM list $SPOOL deferred {options}"));
    assert_eq!(list("--error 451*").ok(), "old");
    let output = list("--to '*@slow.example'");
    assert_eq!(output.stdout, "new\n");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    output.fails("old: it can't be read");
}
