//! How SPOOL is found, and the exit codes that every command has.

use retryspoolfs::QueueState;

use crate::support::{Spool, message};

fn spool() -> Spool {
    Spool::with([
        message("msg-1", QueueState::Deferred),
        message("msg-2", QueueState::Hold),
    ])
}

#[test]
fn a_spool_is_named_in_four_ways() {
    let spool = spool();
    let mount = spool.mount("");
    let point = mount.point().display();
    for command in [
        "$PROGRAM list $SPOOL hold",
        "$PROGRAM list sqlite:$SPOOL hold",
        "cd $(dirname $SPOOL) && $PROGRAM list queue.db hold",
        &format!("$PROGRAM list {point} hold"),
        &format!("cd {point} && $PROGRAM list . hold"),
        "RETRYSPOOL=$SPOOL $PROGRAM list hold",
        "RETRYSPOOL=/nonexistent $PROGRAM list $SPOOL hold",
        &format!("RETRYSPOOL={point} $PROGRAM list hold"),
    ] {
        assert_eq!(spool.bash(command).ok(), "msg-2", "{command}");
    }
}

/// A message's file in a mount says which spool and which message.
#[test]
fn a_message_is_named_by_its_file() {
    let spool = spool();
    let mount = spool.mount("");
    let point = mount.point().display();
    let other = Spool::with([message("msg-1", QueueState::Bounce)]);
    let other_mount = other.mount("");
    for command in [
        format!("$PROGRAM show {point}/deferred/msg-1.json"),
        // Whatever the variable names.
        format!("RETRYSPOOL=/nonexistent $PROGRAM show {point}/deferred/msg-1.json"),
        format!("cd {point} && $PROGRAM show deferred/msg-1.json"),
        format!("cd {point}/hold && $PROGRAM show ../deferred/msg-1.json"),
        // Where it was: it may have moved.
        format!("$PROGRAM show {point}/bounce/msg-1.json"),
        format!("$PROGRAM show {point} deferred/msg-1.json"),
        "RETRYSPOOL=$SPOOL $PROGRAM show deferred/msg-1.json".to_owned(),
    ] {
        let shown = spool.bash(&format!("{command} | jq -r '.ID + .LastError[:3]'"));
        assert_eq!(shown.ok(), "msg-1451", "{command}");
    }
    for (command, state) in [
        (
            format!("hold {point}/deferred/msg-1.json {point}/hold/msg-2.json"),
            QueueState::Hold,
        ),
        (
            format!("move {point}/hold/msg-1.json bounce"),
            QueueState::Bounce,
        ),
        (
            format!("undo {point}/bounce/msg-1.json"),
            QueueState::Deferred,
        ),
    ] {
        let output = spool.bash(&format!("$PROGRAM {command}"));
        assert!(output.status.success(), "{output:?}");
        assert_eq!(spool.state("msg-1"), Some(state), "{command}");
    }
    let both = format!(
        "$PROGRAM hold {point}/deferred/msg-1.json {}/bounce/msg-1.json",
        other_mount.point().display()
    );
    let output = spool.bash(&both);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    output.fails("one spool at a time");
    assert_eq!(spool.state("msg-1"), Some(QueueState::Deferred));
    let nowhere = spool.bash("$PROGRAM hold deferred/msg-1.json");
    assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");
    nowhere.fails("deferred/msg-1.json is a message's file, and in no mount");
}

#[test]
fn the_variable_names_it_for_every_command() {
    let spool = spool();
    for command in [
        "check",
        "compact",
        "status",
        "snapshot $WORK/new.db",
        "age",
        "reasons",
    ] {
        let output = spool.bash(&format!("RETRYSPOOL=$SPOOL $PROGRAM {command}"));
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(spool.bash("$PROGRAM list $WORK/new.db hold").ok(), "msg-2");
    for (command, said) in [
        ("snapshot", "give the spool, and the file to make"),
        ("snapshot $SPOOL", "give the spool, and the file to make"),
        ("snapshot $SPOOL a b", "b is too much"),
        ("check", "which spool?"),
    ] {
        let output = spool.bash(&format!("$PROGRAM {command}"));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        output.fails(said);
    }
}

/// Nothing at all is odd where somebody looks, and fine in a script.
#[test]
fn a_list_of_nothing_says_on_a_terminal_what_may_be_meant() {
    let spool = spool();
    let list = "$PROGRAM list $SPOOL deferred --to example.com";
    assert_eq!(spool.bash(list).ok(), "");
    let shown = spool.bash(&format!("script -qec '{list}' /dev/null")).ok();
    assert!(shown.contains("such as --to '*@example.com'"), "{shown}");
    let shown =
        spool.bash("script -qec '$PROGRAM list $SPOOL deferred --to \"*@example.com\"' /dev/null");
    assert_eq!(shown.ok().trim_end(), "msg-1");
}

#[test]
fn what_is_no_spool_is_told_with_its_exit_code() {
    let spool = spool();
    for (command, code, complaint) in [
        ("$PROGRAM list", 2, "which spool?"),
        (
            "$PROGRAM list /nonexistent/q.db hold",
            1,
            "retryspoolfs init /nonexistent/q.db",
        ),
        ("$PROGRAM list $SPOOL held", 2, "no state"),
        ("$PROGRAM list nosuch: hold", 1, "there is no spool"),
        (
            "RETRYSPOOL=/nonexistent/q.db $PROGRAM list hold",
            1,
            "init /nonexistent/q.db",
        ),
        // A file here, or an ID? The other spool is not touched.
        (
            "cd $(dirname $SPOOL) && RETRYSPOOL=$SPOOL $PROGRAM show queue.db msg-1",
            2,
            "./queue.db",
        ),
        ("$PROGRAM show $SPOOL", 2, "which messages?"),
        ("$PROGRAM", 2, "which command?"),
        (
            "RETRYSPOOL=$SPOOL $PROGRAM status deferred",
            2,
            "retryspoolfs list SPOOL deferred",
        ),
        ("$PROGRAM show $SPOOL nobody", 1, "no message has this ID"),
        (
            "$PROGRAM show $SPOOL msg-1 nobody",
            3,
            "show nobody: no message has this ID",
        ),
        ("$PROGRAM show $SPOOL ''", 2, "the ID is empty"),
        (
            "$PROGRAM list $SPOOL > /dev/full",
            1,
            "standard output: No space left",
        ),
    ] {
        let output = spool.bash(command);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        output.fails(complaint);
    }
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let spool = Spool::with((0..5000).map(|n| {
        message(
            &format!("message-with-a-long-name-{n:05}"),
            QueueState::Hold,
        )
    }));
    let script = "set -o pipefail; $PROGRAM list $SPOOL hold | head -n 1";
    assert_eq!(spool.bash(script).ok(), "message-with-a-long-name-00000");
}
