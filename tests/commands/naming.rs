//! How messages, states and spools are named, and what is told to whom names them otherwise.

use retryspoolfs::QueueState::Deferred;

use crate::changing::ends;
use crate::support::{Spool, message};

#[test]
fn messages_are_named_in_many_ways() {
    let odd = ["a/b", "x y", "new\nline", "mögen", "hold"];
    let spool = Spool::with(odd.map(|id| message(id, Deferred)));
    let hold = |words: &str| {
        let output = spool.bash(&format!("$PROGRAM hold $SPOOL {words}"));
        ends(&output, 0, "moved to hold");
        let held = spool.bash("$PROGRAM release $SPOOL --yes");
        ends(&held, 0, &output.stderr[..output.stderr.find(' ').unwrap()]);
        output.stderr
    };
    assert!(hold("a/b 'x y' mögen").starts_with("3 "));
    assert!(hold("deferred/a%2Fb.json './deferred/x y.json'").starts_with("2 "));
    let input = |text: &str, option: &str| {
        let script = format!("printf '{text}' | $PROGRAM hold $SPOOL - {option}");
        let output = spool.bash(&script);
        ends(&output, 0, "moved to hold");
        ends(
            &spool.bash("$PROGRAM release $SPOOL"),
            0,
            "moved to deferred",
        );
        output.stderr
    };
    assert!(input("x y\\n\\nmögen\\nhold\\n", "").starts_with("3 "));
    assert!(input("new\\nline\\0a/b\\0", "-0").starts_with("2 "));
    // A word that is a state's name is that state; with SPOOL from the environment too.
    let output = spool.bash("RETRYSPOOL=$SPOOL $PROGRAM hold deferred");
    ends(&output, 0, "5 messages moved to hold");
    for (words, complaint) in [
        ("", "which messages?"),
        ("a/b deferred", "either states or IDs"),
        ("a/b --error x", "a filter chooses from a state"),
        ("a/b -0", "takes a -"),
        ("$'\\xff'", "UTF-8"),
    ] {
        ends(
            &spool.bash(&format!("$PROGRAM hold $SPOOL {words}")),
            2,
            complaint,
        );
    }
    ends(
        &spool.bash("$PROGRAM release $SPOOL deferred"),
        2,
        "hold alone",
    );
    ends(
        &spool.bash("$PROGRAM release $SPOOL 'x y' && $PROGRAM release $SPOOL 'x y'"),
        1,
        "it is in deferred, not in hold",
    );
    ends(&spool.bash("$PROGRAM move $SPOOL a/b"), 2, "where to?");
}

#[test]
fn a_misspelt_state_is_no_id() {
    let spool = Spool::with([message("a", Deferred), message("held", Deferred)]);
    let before = spool.rows();
    for (command, said) in [
        ("hold $SPOOL defered", "no message has the ID \"defered\""),
        ("hold $SPOOL defered", "did you mean deferred?"),
        ("hold $SPOOL defered -n", "did you mean deferred?"),
        ("hold $SPOOL Deferred/ --yes", "did you mean deferred?"),
        // The rest of the words is not begun.
        ("delete $SPOOL a defered", "did you mean deferred?"),
        ("delete $SPOOL incoming defered", "did you mean deferred?"),
        (
            "delete $SPOOL defered --error 451*",
            "did you mean deferred?",
        ),
        ("delete $SPOOL held --error 451*", "did you mean hold?"),
        ("delete $SPOOL ALL", "name the states that they are in"),
        ("move $SPOOL defered bounce", "did you mean deferred?"),
        ("move $SPOOL deferred bouce", "did you mean bounce?"),
        ("requeue $SPOOL bounced", "did you mean bounce?"),
        ("release $SPOOL hlod", "did you mean hold?"),
        ("flush $SPOOL defer", "did you mean deferred?"),
        (
            "postpone $SPOOL deffered --for 1h",
            "did you mean deferred?",
        ),
        ("set $SPOOL defered Priority=1", "did you mean deferred?"),
        ("put $SPOOL --state hlod", "did you mean hold?"),
        ("list $SPOOL defered", "did you mean deferred?"),
        ("age $SPOOL defered", "did you mean deferred?"),
        ("reasons $SPOOL defered", "did you mean deferred?"),
        ("export $SPOOL defered", "did you mean deferred?"),
        ("hold deferred", "which spool? deferred is a state"),
    ] {
        ends(&spool.bash(&format!("$PROGRAM {command}")), 2, said);
        assert_eq!(spool.rows(), before, "{command}");
    }
    // An ID that is like a state, and one like none.
    ends(&spool.bash("$PROGRAM hold $SPOOL held"), 0, "1 message ");
    ends(
        &spool.bash("printf 'defered' | $PROGRAM hold $SPOOL -"),
        1,
        "defered: no message has this ID",
    );
    let shown = spool.bash("$PROGRAM show $SPOOL deferred");
    shown.fails("its name is a state's: retryspoolfs list SPOOL deferred");
}

/// What administrators of other queues type first.
#[test]
fn what_was_meant_is_told() {
    let spool = Spool::with([message("a", Deferred)]);
    let long = "x".repeat(5000);
    for (command, code, said) in [
        (
            "hold $SPOOL deferred --to example.com",
            0,
            "0 messages moved to hold; a pattern has to match the whole text, such as --to '*@example.com'\n",
        ),
        (
            "hold $SPOOL deferred --error 451",
            0,
            "whole text, such as --error '*451*'\n",
        ),
        // An address is whole, and so is what has a star.
        (
            "hold $SPOOL deferred --to x@example.com",
            0,
            "0 messages moved to hold\n",
        ),
        (
            "hold $SPOOL deferred --error '451*' --from '*@x.org'",
            0,
            "0 messages moved to hold\n",
        ),
        (
            "hold $SPOOL deferred -",
            2,
            "- is for IDs on standard input, and stands alone",
        ),
        ("hold $SPOOL a.json", 1, "its directory: deferred/a.json"),
        ("postpone $SPOOL a", 2, "such as --for 2h, or --until TIME"),
        (
            "undo $SPOOL --command hold",
            0,
            "0 messages brought back; the audit log has no such change",
        ),
        (
            &format!("hold $SPOOL {long}"),
            2,
            "xxx...: the ID's file name would",
        ),
    ] {
        let output = spool.bash(&format!("$PROGRAM {command}"));
        ends(&output, code, said);
        assert!(
            output.stderr.lines().count() <= 2 && output.stderr.len() < 400,
            "{output:?}"
        );
    }
    let dry = spool
        .bash("$PROGRAM hold $SPOOL deferred --to example.com -n")
        .ok();
    assert!(
        dry.starts_with("0 messages would be moved to hold; a pattern"),
        "{dry}"
    );
    let nul = format!(
        "printf 'a\\0{}\\0' | $PROGRAM hold $SPOOL -",
        "b".repeat(300)
    );
    ends(&spool.bash(&nul), 1, "IDs that end in NUL take -0");
    // By the second, which is what it says and what the spool keeps.
    let output = spool.bash("$PROGRAM postpone $SPOOL a --for 2h");
    let until = output.stderr.split("postponed until ").nth(1).unwrap();
    let until = until.lines().next().unwrap();
    assert_eq!(until.len(), "2026-11-27T16:30:00Z".len(), "{output:?}");
    assert_eq!(spool.get("a").unwrap().next_retry.to_string(), until);
    // Our own commands by their names.
    let output = spool.bash("$PROGRAM undo $SPOOL --command postpone");
    ends(&output, 0, "1 message brought back");
}
