//! The audit log, and back again.

use retryspoolfs::QueueState::{Bounce, Deferred, Hold, Incoming};
use retryspoolfs::{MessageMetadata, Timestamp};

use crate::support::{Output, Spool, message};

fn three() -> Spool {
    Spool::with(["a", "b", "c"].map(|id| message(id, Deferred)))
}

/// Everything but when it changed last.
fn contents(spool: &Spool) -> Vec<MessageMetadata> {
    let rows = spool.rows();
    let ids = rows.iter().map(|row| row[0].trim_matches('"').to_owned());
    let with = |id: String| MessageMetadata {
        updated: Timestamp::ZERO,
        ..spool.get(&id).unwrap()
    };
    ids.map(with).collect()
}

#[track_caller]
fn done(output: Output, said: &str) {
    assert_eq!(output.status.code(), Some(0), "{output:#?}");
    assert!(output.stderr.contains(said), "{said}: {output:#?}");
}

#[test]
fn history_tells_who_did_what() {
    let spool = three();
    let mount = spool.mount("");
    mount
        .bash("mv deferred/a.json hold/ && rm deferred/b.json")
        .ok();
    mount
        .bash("jq '.Priority = 1' hold/a.json > $WORK/new && cp $WORK/new hold/a.json")
        .ok();
    done(spool.bash("$PROGRAM requeue $SPOOL a"), "1 message");
    // A worker's changes are not anybody's.
    spool.execute("UPDATE messages SET state = 1, updated = updated + 1 WHERE id = 'c'");

    let history = |options: &str| {
        spool
            .bash(&format!("$PROGRAM history $SPOOL {options}"))
            .ok()
    };
    let lines = history("a");
    let what: Vec<&str> = lines
        .lines()
        .map(|line| line.split_once(" pid ").unwrap().1)
        .collect();
    let what: Vec<&str> = what
        .iter()
        .map(|line| line.split_once(' ').unwrap().1)
        .collect();
    assert_eq!(
        what,
        [
            "mv: a deferred -> hold",
            "cp: a changed in hold",
            "retryspoolfs requeue: a hold -> incoming"
        ]
    );
    assert!(lines.lines().all(|line| line.contains(" uid 0 ")));
    assert_eq!(history("").lines().count(), 4);
    let status = mount.bash("jq -c '.audit | [.changes, .keep_changes, .keep_seconds, .bytes > 400]' .retryspool/status");
    assert_eq!(status.ok(), "[4,1000000,604800,true]");
    assert_eq!(history("--command mv").lines().count(), 1);
    assert_eq!(history("--command mv --uid 1").lines().count(), 0);
    assert_eq!(history("b a --since 1h").lines().count(), 4);
    assert_eq!(history("--since 2099-01-01T00:00:00Z").lines().count(), 0);
    let pid = history("b --json | jq .pid");
    assert_eq!(
        history(&format!(
            "--pid {pid} --json | jq -r '[.op, .id, .command, .from, .to, .document.LastError] | @csv'"
        )),
        "\"delete\",\"b\",\"rm\",\"deferred\",,\"451 4.7.1 <bob@example.org> try again later\""
    );
    spool.bash("$PROGRAM history $SPOOL --json | jq -es 'all(.revision and .time and .seq)' >/dev/null").ok();
}

#[test]
fn each_kind_of_change_is_undone() {
    let spool = three();
    let before = contents(&spool);
    let rows = spool.rows();
    for change in [
        "$PROGRAM hold $SPOOL a b c",
        "$PROGRAM delete $SPOOL a b",
        "$PROGRAM set $SPOOL a b Priority=1 header.x=y LastError=",
        "$PROGRAM move $SPOOL a b incoming --reset-attempts --spread 2h",
        "echo '{\"ID\":\"new\",\"State\":\"hold\"}' | $PROGRAM put $SPOOL",
        "$PROGRAM postpone $SPOOL a --for 2h",
    ] {
        let output = spool.bash(change);
        assert!(contents(&spool) != before, "{change}");
        // The line that the command itself prints.
        let undo = output
            .stderr
            .lines()
            .find_map(|line| line.strip_prefix("to undo it: retryspoolfs "))
            .unwrap();
        let undone = spool.bash(&format!("$PROGRAM {undo}"));
        done(undone, "brought back");
        assert_eq!(contents(&spool), before, "{change}");
    }
    // What was deleted is as it was to the letter.
    spool.bash("$PROGRAM delete $SPOOL c");
    done(
        spool.bash("$PROGRAM undo $SPOOL c --command 'retryspoolfs delete'"),
        "1 message",
    );
    assert_eq!(contents(&spool), before);
    assert_eq!(spool.rows().last().unwrap()[0], rows.last().unwrap()[0]);
}

#[test]
fn several_changes_of_one_message_are_undone_together() {
    let spool = three();
    let before = contents(&spool);
    let mount = spool.mount("");
    mount.bash("mv deferred/a.json hold/ && sed -i 's/451/551/' hold/a.json && mv hold/a.json bounce/ && rm bounce/a.json").ok();
    mount.bash("$PROGRAM show $SPOOL b > $WORK/b && rm deferred/b.json && sed 's/451/551/' $WORK/b > hold/b.json").ok();
    drop(mount);
    assert!(contents(&spool) != before);
    let dry = spool.bash("$PROGRAM undo $SPOOL --since 1h -n").ok();
    assert_eq!(
        dry,
        "2 messages would be brought back\n  a: gone -> deferred\n  b: hold -> deferred"
    );
    done(
        spool.bash("$PROGRAM undo $SPOOL --since 1h"),
        "2 messages brought back",
    );
    assert_eq!(contents(&spool), before);
    // Again: what is left to undo is nothing.
    let again = spool.bash("$PROGRAM undo $SPOOL --since 1h");
    done(again, "0 messages brought back");
    assert_eq!(contents(&spool), before);
}

#[test]
fn an_id_without_such_a_change_is_told() {
    let spool = three();
    done(spool.bash("$PROGRAM hold $SPOOL a"), "1 message");
    let nobody = "deferred: the audit log has no such change of it";
    let output = spool.bash("$PROGRAM undo $SPOOL deferred");
    assert_eq!(output.status.code(), Some(1), "{output:#?}");
    output.fails(&format!("undo {nobody}"));
    let output = spool.bash("$PROGRAM history $SPOOL a deferred");
    assert!(output.status.success() && output.stdout.lines().count() == 1);
    assert_eq!(output.stderr, format!("retryspoolfs: history {nobody}\n"));
    let output = spool.bash("$PROGRAM undo $SPOOL a deferred");
    assert_eq!(output.status.code(), Some(3), "{output:#?}");
    assert_eq!(spool.state("a"), Some(Deferred));
}

#[test]
fn an_undo_is_undone() {
    let spool = three();
    spool.bash(
        "$PROGRAM set $SPOOL a Priority=1; $PROGRAM hold $SPOOL a b; $PROGRAM delete $SPOOL c",
    );
    let changed = contents(&spool);
    done(
        spool.bash("$PROGRAM undo $SPOOL --since 1h"),
        "3 messages brought back",
    );
    assert_eq!(spool.count(Deferred), 3);
    done(
        spool.bash("$PROGRAM undo $SPOOL --command 'retryspoolfs undo'"),
        "3 messages brought back",
    );
    assert_eq!(contents(&spool), changed);
}

#[test]
fn what_somebody_changed_since_is_left_alone() {
    let spool = Spool::with(["a", "b", "c", "d", "e"].map(|id| message(id, Deferred)));
    spool.bash("$PROGRAM hold $SPOOL a b c; $PROGRAM delete $SPOOL d; $PROGRAM hold $SPOOL e");
    // A worker's work: one edited, one taken, one delivered; and the deleted one stored again.
    spool.execute("UPDATE messages SET attempts = 5, updated = updated + 1 WHERE id = 'a'");
    spool.execute("UPDATE messages SET state = 4, updated = updated + 1 WHERE id = 'b'");
    spool.execute("DELETE FROM messages WHERE id = 'c'");
    spool.bash("echo '{\"ID\":\"d\"}' | $PROGRAM put $SPOOL");
    let before = spool.rows();
    let selected = "--command 'retryspoolfs hold'";
    for option in ["--dry-run", ""] {
        let output = spool.bash(&format!("$PROGRAM undo $SPOOL a b c {selected} {option}"));
        assert_eq!(output.status.code(), Some(3), "{output:#?}");
        for said in [
            "a: the message was changed meanwhile",
            "b: the message is in bounce, not in hold",
            "c: no message has this ID",
        ] {
            assert!(output.stderr.contains(said), "{said}: {output:#?}");
        }
        assert_eq!(spool.rows(), before);
    }
    let output = spool.bash("$PROGRAM undo $SPOOL d --command 'retryspoolfs delete'");
    output.fails("d: the ID is in use: a message of this ID is in incoming");
    assert_eq!(spool.rows(), before);

    // Somebody came between two changes: only the later one is undone.
    spool.execute("UPDATE messages SET attempts = 5, updated = updated + 1 WHERE id = 'e'");
    spool.bash("$PROGRAM move $SPOOL e bounce");
    let output = spool.bash("$PROGRAM undo $SPOOL e");
    assert_eq!(output.status.code(), Some(3), "{output:#?}");
    assert!(
        output.stderr.contains("e: change ") && output.stderr.contains("1 message brought back"),
        "{output:#?}"
    );
    assert_eq!(
        (spool.state("e"), spool.get("e").unwrap().attempts),
        (Some(Hold), 5)
    );
}

/// A message that is gone looks the same whoever removed it last.
#[test]
fn what_came_back_and_went_again_is_not_stored_once_more() {
    let spool = three();
    spool.bash("$PROGRAM delete $SPOOL a b c");
    // A worker had it in hand, wrote its verdict, and delivered it.
    let worker = "INSERT INTO messages (id, state, attempts, max_attempts, next_retry, created, updated, last_error, size, priority, headers) \
        VALUES ('b', 1, 2, 10, 0, 0, 0, '', 1, 5, '{}')";
    spool.execute(worker);
    spool.execute("DELETE FROM messages WHERE id = 'b'");
    // Another command's changes are not selected, and count all the same.
    done(
        spool.bash("echo '{\"ID\":\"c\"}' | $PROGRAM put $SPOOL"),
        "1 message",
    );
    spool.bash("$PROGRAM delete $SPOOL incoming");
    let selected = "a b c --command 'retryspoolfs delete'";
    let dry = spool.bash(&format!("$PROGRAM undo $SPOOL {selected} --dry-run"));
    assert_eq!(dry.status.code(), Some(3), "{dry:#?}");
    assert!(
        dry.stdout.starts_with("2 messages would")
            && dry
                .stderr
                .contains("b: somebody stored and removed it again"),
        "{dry:#?}"
    );
    let output = spool.bash(&format!("$PROGRAM undo $SPOOL {selected}"));
    assert_eq!(output.status.code(), Some(3), "{output:#?}");
    for said in [
        "b: somebody stored and removed it again",
        // Back to what the put made is as far as this goes.
        "c: change ",
        "2 messages brought back",
    ] {
        assert!(output.stderr.contains(said), "{said}: {output:#?}");
    }
    assert_eq!(
        ["a", "b", "c"].map(|id| spool.state(id)),
        [Some(Deferred), None, Some(Incoming)]
    );
}

#[test]
fn the_log_is_kept_for_as_long_as_was_set() {
    let spool = three();
    spool
        .bash("$PROGRAM history $SPOOL --keep-changes 2 --keep-days 30")
        .ok();
    spool.bash("for s in hold deferred hold deferred; do $PROGRAM move $SPOOL a $s; done");
    assert_eq!(
        spool.bash("$PROGRAM history $SPOOL").ok().lines().count(),
        4,
        "trimmed a few hundred at a time"
    );
    spool.bash("$PROGRAM history $SPOOL --keep-days 14").ok();
    let left = spool.bash("$PROGRAM history $SPOOL | cut -d: -f4-").ok();
    assert_eq!(left, " a deferred -> hold\n a hold -> deferred");
    let limits = "SELECT rows || ' ' || seconds FROM rs_audit_limit";
    let limits: String = spool.sql().query_row(limits, [], |row| row.get(0)).unwrap();
    assert_eq!(limits, "2 1209600");
}

/// Where nothing can be undone, nobody is told to.
#[test]
fn a_directory_has_no_undo_and_says_so() {
    let spool = Spool::directory(["a", "b"].map(|id| message(id, Deferred)));
    for change in [
        "hold dir:$SPOOL a",
        "delete dir:$SPOOL b",
        "put dir:$SPOOL $WORK/c",
    ] {
        let script = format!("echo '{{\"ID\":\"c\"}}' > $WORK/c; $PROGRAM {change}");
        let output = spool.bash(&script);
        assert!(output.status.success(), "{output:#?}");
        let lines: Vec<&str> = output.stderr.lines().collect();
        assert!(
            lines.len() == 1 && lines[0].starts_with("1 message "),
            "{lines:?}"
        );
    }
    for command in ["undo dir:$SPOOL a", "history dir:$SPOOL"] {
        let output = spool.bash(&format!("$PROGRAM {command}"));
        output.fails("has no audit log: RetrySpool's own directory has no place for one");
    }
}

#[test]
fn an_undo_says_what_it_needs() {
    let spool = three();
    spool.bash("$PROGRAM undo $SPOOL").fails("which changes?");
    spool
        .bash("$PROGRAM undo $SPOOL --since yesterday")
        .fails("such as 30m, 4h or 2d");
    done(
        spool.bash("$PROGRAM undo $SPOOL --since 1h"),
        "0 messages brought back",
    );
    let states = [Incoming, Deferred, Bounce].map(|state| spool.count(state));
    assert_eq!(states, [0, 3, 0]);
}
