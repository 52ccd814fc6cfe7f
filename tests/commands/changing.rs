//! The commands that change messages: each succeeds, loses a race, is interrupted, is done in part.
//!
//! It is long because all nine of them meet the same cases.

use std::time::Duration;

use retryspoolfs::QueueState::{self, Active, Bounce, Deferred, Hold, Incoming};
use retryspoolfs::{MessageMetadata, Timestamp};

use crate::pipe::Pipe;
use crate::support::{Output, Script, Spool, ago, eventually, message};

/// A command over the messages of one state, and how its work is seen in the table.
struct Case {
    /// The command and its words: `{}` stands for what is chosen.
    command: &'static str,
    from: QueueState,
    /// What is true of a message that it changed.
    changed: &'static str,
}

const CASES: [Case; 9] = [
    Case {
        command: "move $SPOOL {} bounce",
        from: Deferred,
        changed: "state = 4",
    },
    Case {
        command: "requeue $SPOOL {}",
        from: Bounce,
        changed: "state = 0",
    },
    Case {
        command: "hold $SPOOL {}",
        from: Incoming,
        changed: "state = 3",
    },
    Case {
        command: "release $SPOOL {}",
        from: Hold,
        changed: "state = 2",
    },
    Case {
        command: "flush $SPOOL {}",
        from: Deferred,
        changed: "next_retry BETWEEN unixepoch() - 300 AND unixepoch()",
    },
    Case {
        command: "postpone --until 2031-01-01T00:00:00Z $SPOOL {}",
        from: Deferred,
        changed: "next_retry > unixepoch() + 86400",
    },
    Case {
        command: "set $SPOOL {} priority=1 header.x=y",
        from: Bounce,
        changed: "priority = 1 AND headers LIKE '%\"x\":\"y\"%'",
    },
    Case {
        command: "delete $SPOOL {}",
        from: Hold,
        changed: "",
    },
    // What it undoes is the case's own work before it.
    Case {
        command: "undo $SPOOL --command 'retryspoolfs hold'",
        from: Deferred,
        changed: "state = 2",
    },
];

impl Case {
    /// Its spool, ready for it.
    fn spool(&self, messages: impl IntoIterator<Item = MessageMetadata>) -> Spool {
        let spool = Spool::with(messages);
        if self.is_undo() {
            let held = spool.bash("$PROGRAM hold $SPOOL deferred --yes");
            assert!(held.status.success(), "{held:?}");
        }
        spool
    }

    fn is_undo(&self) -> bool {
        self.command.starts_with("undo")
    }

    fn line(&self, chosen: &str) -> String {
        let command = self.command.replace("{}", chosen);
        let exec = if chosen.contains('|') { "" } else { "exec " };
        match chosen.split_once(" | ") {
            Some((before, _)) => format!("{before} | $PROGRAM {}", self.command.replace("{}", "-")),
            None => format!("{exec}$PROGRAM {command}"),
        }
    }

    /// How many messages it has changed.
    fn done(&self, spool: &Spool, of: u64) -> u64 {
        let number = |sql: &str| {
            spool
                .sql()
                .query_row(sql, [], |row| row.get::<_, i64>(0))
                .unwrap() as u64
        };
        match self.changed {
            "" => of - number("SELECT count(*) FROM messages"),
            changed => number(&format!("SELECT count(*) FROM messages WHERE {changed}")),
        }
    }
}

fn name(n: usize) -> String {
    format!("m{n:02}")
}

fn many(state: QueueState, count: usize) -> impl Iterator<Item = MessageMetadata> {
    (0..count).map(move |n| MessageMetadata {
        next_retry: ago(-3600),
        ..message(&name(n), state)
    })
}

#[track_caller]
pub fn ends(output: &Output, code: i32, said: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:#?}");
    assert!(
        output.stderr.contains(said),
        "expected {said:?} in {output:#?}"
    );
    assert!(output.stdout.is_empty(), "{output:#?}");
}

#[test]
fn each_changes_what_is_chosen_and_nothing_else() {
    for case in CASES {
        let other = MessageMetadata {
            last_error: "550 no such user".into(),
            ..message("other", case.from)
        };
        let spool = case.spool(many(case.from, 20).chain([other]));
        let rows = |spool: &Spool| {
            let mut rows = spool.rows();
            rows.retain(|row| row[0].contains("other"));
            rows
        };
        let before = rows(&spool);
        let chosen = format!("{} --error '451*'", case.from);
        let output = spool.bash(&case.line(&chosen));
        let count = if case.is_undo() { 21 } else { 20 };
        ends(&output, 0, &format!("{count} messages "));
        assert_eq!(case.done(&spool, 21), count, "{}", case.command);
        if !case.is_undo() {
            assert_eq!(rows(&spool), before, "{}", case.command);
            assert!(
                output.stderr.contains("to undo it: retryspoolfs undo "),
                "{output:?}"
            );
        }
    }
}

/// Starts a command that does ten messages a second of forty, and waits for its first.
fn started(case: &Case, spool: &Spool) -> Script {
    let chosen = case.from.to_string();
    let script = case.line(&chosen) + " --rate 10";
    let script = spool.start_in(&["bash"], &script, spool.dir());
    eventually("the command has begun", || case.done(spool, 40) > 0);
    script
}

fn signal(script: &Script, signal: i32) {
    // SAFETY: the script was not waited for, so the process is there.
    unsafe { libc::kill(script.pid(), signal) };
}

/// Stops it between two steps: within one it would keep the write lock from everybody.
fn stop(script: &Script, spool: &Spool) {
    let sql = spool.sql();
    sql.busy_timeout(std::time::Duration::ZERO).unwrap();
    eventually("it holds no lock", || {
        signal(script, libc::SIGSTOP);
        let is_free = sql.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok();
        if !is_free {
            signal(script, libc::SIGCONT);
        }
        is_free
    });
}

#[test]
fn each_leaves_alone_what_changed_meanwhile() {
    for case in CASES {
        let spool = case.spool(many(case.from, 40));
        let script = started(&case, &spool);
        // It has chosen all forty by now, and not come to the last ones.
        stop(&script, &spool);
        assert!(
            case.done(&spool, 40) < 37,
            "the machine is too slow for {}",
            case.command
        );
        spool.execute(
            "UPDATE messages SET last_error = 'said by a worker', updated = updated + 1 WHERE id = 'm39';
             UPDATE messages SET state = 1, updated = updated + 1 WHERE id = 'm38';
             DELETE FROM messages WHERE id = 'm37'",
        );
        let raced = ["m37", "m38", "m39"].map(|id| spool.get(id));
        signal(&script, libc::SIGCONT);
        let output = script.wait();
        ends(&output, 3, "m39: the message was changed meanwhile");
        for said in [
            "m38: the message is in active, not in ",
            "m37: no message has this ID",
            "37 messages ",
            "3 left alone",
        ] {
            assert!(output.stderr.contains(said), "{said}: {output:?}");
        }
        let now = ["m37", "m38", "m39"].map(|id| spool.get(id));
        assert_eq!(now, raced, "{}", case.command);
        let gone = u64::from(case.changed.is_empty());
        assert_eq!(case.done(&spool, 40), 37 + gone, "{}", case.command);
    }
}

#[test]
fn each_is_interrupted_and_goes_on() {
    for case in CASES {
        let spool = case.spool(many(case.from, 40));
        let script = started(&case, &spool);
        signal(&script, libc::SIGINT);
        let output = script.wait();
        let done = case.done(&spool, 40);
        assert!(done < 40, "{output:?}");
        ends(&output, 130, "interrupted: ");
        let said = format!("interrupted: {done} message");
        assert!(output.stderr.contains(&said), "{done} {output:?}");
        // Who saw that it was a mistake wants this as much as who saw its end.
        let undo = output.stderr.split("to undo it: retryspoolfs ").nth(1);
        let undo = undo.expect(&output.stderr).trim_end();
        let dry = spool.bash(&format!("$PROGRAM {undo} --dry-run"));
        assert!(
            dry.stdout.starts_with(&format!("{done} message")),
            "{dry:?}"
        );
        let total: u64 = QueueState::ALL
            .into_iter()
            .map(|state| spool.count(state))
            .sum();
        let gone = if case.changed.is_empty() { done } else { 0 };
        assert_eq!(total, 40 - gone, "every message is in exactly one state");
        // Again, and it does the rest.
        let output = spool.bash(&case.line(&case.from.to_string()));
        let code = if case.is_undo() { 3 } else { 0 };
        ends(&output, code, &format!("{} message", 40 - done));
        assert_eq!(case.done(&spool, 40), 40, "{}", case.command);
    }
}

#[test]
fn each_does_what_it_can_of_ids() {
    for case in CASES.iter().filter(|case| !case.is_undo()) {
        for chosen in ["m00 none m01", "printf 'm00\\nnone\\nm01\\n' | x"] {
            let spool = case.spool(many(case.from, 3));
            let output = spool.bash(&case.line(chosen));
            ends(&output, 3, "none: no message has this ID");
            assert!(output.stderr.contains("2 messages "), "{output:?}");
            assert_eq!(case.done(&spool, 3), 2, "{chosen}: {}", case.command);
        }
        let spool = case.spool(many(case.from, 1));
        ends(
            &spool.bash(&case.line("none")),
            1,
            "none: no message has this ID",
        );
    }
}

#[test]
fn a_dry_run_counts_exactly_and_changes_nothing() {
    for case in CASES {
        let spool = case.spool(many(case.from, 14));
        let before = spool.rows();
        let output = spool.bash(&(case.line(&case.from.to_string()) + " --dry-run"));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let lines: Vec<&str> = output.stdout.lines().collect();
        assert!(lines[0].starts_with("14 messages would be "), "{output:?}");
        assert_eq!((lines.len(), lines[11]), (12, "  and 4 more"), "{output:?}");
        assert!(lines[1].starts_with("  m00"), "{output:?}");
        assert_eq!(spool.rows(), before);
    }
}

#[test]
fn more_than_a_hundred_are_asked_about() {
    let spool = Spool::with((0..101).map(|n| message(&format!("m{n}"), Deferred)));
    let refused = spool.bash("$PROGRAM hold $SPOOL deferred");
    ends(
        &refused,
        2,
        "101 messages would be moved to hold; nothing is done without --yes",
    );
    assert_eq!(spool.count(Hold), 0);
    // By ID nobody is asked: each was named.
    let listed = "$PROGRAM list $SPOOL deferred | $PROGRAM hold $SPOOL -";
    ends(&spool.bash(listed), 0, "101 messages moved to hold");
    ends(
        &spool.bash("$PROGRAM undo $SPOOL --since 1h"),
        2,
        "without --yes",
    );
    ends(
        &spool.bash("$PROGRAM undo $SPOOL --since 1h --yes"),
        0,
        "101 messages",
    );
    ends(
        &spool.bash("$PROGRAM hold $SPOOL deferred --limit 100"),
        0,
        "100 messages",
    );
    ends(&spool.bash("$PROGRAM release $SPOOL"), 0, "100 messages");
    // On a terminal.
    let ask = |answer: &str| {
        let script =
            format!("printf '{answer}\\n' | script -qec '$PROGRAM hold $SPOOL deferred' /dev/null");
        spool.bash(&script)
    };
    let output = ask("n");
    assert!(
        output
            .stdout
            .contains("101 messages would be moved to hold. Go on? [y/N]"),
        "{output:?}"
    );
    assert!(output.stdout.contains("nothing was done"), "{output:?}");
    assert_eq!((spool.count(Hold), output.status.code()), (0, Some(1)));
    assert_eq!(ask("y").status.code(), Some(0));
    assert_eq!(spool.count(Hold), 101);
}

/// Whoever waits for an answer or for input is interrupted by the first signal.
#[test]
fn a_command_that_waits_is_interrupted_at_once() {
    let spool = Spool::with((0..101).map(|n| message(&format!("m{n}"), Deferred)));
    let asked = r#"
import os, pty, sys
pid, fd = pty.fork()
if pid == 0: os.execv(sys.argv[1], sys.argv[1:])
said = b""
try:
    while data := os.read(fd, 1000):
        answered, said = b"[y/N]" in said, said + data
        if b"[y/N]" in said and not answered: os.write(fd, b"\x03")
except OSError: pass
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.decode().splitlines()[-1])
"#;
    std::fs::write(spool.work().join("asked.py"), asked).unwrap();
    for command in [
        "hold $SPOOL deferred",
        "delete $SPOOL deferred",
        "set $SPOOL deferred Priority=1",
    ] {
        let said = spool.bash(&format!("python3 $WORK/asked.py $PROGRAM {command}"));
        let name = command.split(' ').next().unwrap();
        assert_eq!(
            said.ok(),
            format!("130 retryspoolfs: {name}: interrupted; nothing was done")
        );
    }
    // Standard input that says nothing for a while: what is not whole is not begun.
    for (command, written, said) in [
        (
            "delete $SPOOL - -0",
            "m1",
            "delete: interrupted: 0 messages deleted",
        ),
        (
            "hold $SPOOL - -n",
            "m1",
            "hold: interrupted; nothing was done",
        ),
        (
            "put $SPOOL",
            r#"{"ID":"new"}"#,
            "put: interrupted: 1 message stored",
        ),
        (
            "put $SPOOL",
            r#"{"ID":"#,
            "put: interrupted: 0 messages stored",
        ),
        (
            "import $SPOOL -",
            r#"{"ID":"#,
            "import: interrupted: 0 stored",
        ),
    ] {
        let script = format!(
            "mkfifo $WORK/in; exec 3<> $WORK/in; printf '%s\\n' '{written}' >&3; exec $PROGRAM {command} < $WORK/in"
        );
        let script = spool.start_in(&["bash"], &script, spool.dir());
        waits_for_input(&script);
        // What came slowly is stored as it came.
        eventually(said, || {
            !said.contains("1 message") || spool.state("new").is_some()
        });
        signal(&script, libc::SIGINT);
        ends(&script.wait(), 130, said);
        std::fs::remove_file(spool.work().join("in")).unwrap();
    }
    assert_eq!(spool.count(Deferred), 101);
}

/// IDs that another program finds one by one are not kept waiting for a hundred of them.
#[test]
fn each_does_at_once_what_it_is_told_of_by_a_pipe_that_stays_open() {
    for case in CASES.iter().filter(|case| !case.is_undo()) {
        let spool = case.spool(many(case.from, 40));
        let mut pipe = Pipe::open(&spool, &case.command.replace("{}", "-"));
        let is_done = |count| {
            let what = format!("{count} by {}", case.command);
            eventually(&what, || case.done(&spool, 40) == count);
        };
        pipe.write("m00\n");
        is_done(1);
        // A line is an ID when it has ended.
        pipe.write("m01\nm0");
        is_done(2);
        pipe.write("2\nnone\nm03\n");
        is_done(4);
        let output = pipe.close();
        ends(&output, 3, "none: no message has this ID");
        let said = "4 messages ";
        assert!(output.stderr.contains(said), "{output:#?}");
    }
    // What is no ID ends it, and what came before is done; interrupted it says how far it came.
    let spool = Spool::with(many(Deferred, 40));
    let mut pipe = Pipe::open(&spool, "hold $SPOOL - -0");
    pipe.write(&format!("m00\0m01\0{}\0m02\0", "x".repeat(300)));
    let output = pipe.command.wait();
    ends(&output, 3, "until then: 2 messages moved to hold");
    assert_eq!(spool.count(Hold), 2);
    let mut pipe = Pipe::open(&spool, "hold $SPOOL -");
    pipe.write("m02\nm03");
    eventually("the first one", || spool.count(Hold) == 3);
    pipe.signal(libc::SIGTERM);
    ends(&pipe.command.wait(), 130, "interrupted: 1 message moved");
    assert_eq!(spool.count(Hold), 3);
    // As many as were allowed are done, whatever else may come.
    let mut pipe = Pipe::open(&spool, "hold $SPOOL - --limit 2");
    pipe.write("m10\n");
    eventually("the first one", || spool.count(Hold) == 4);
    pipe.write("m11\n");
    ends(&pipe.command.wait(), 0, "2 messages moved");
    // The end of the input ends the last line.
    let mut pipe = Pipe::open(&spool, "hold $SPOOL -");
    pipe.write("m03");
    ends(&pipe.close(), 0, "1 message moved");
}

/// Waits until all is read that was written to it, and more is waited for.
fn waits_for_input(script: &Script) {
    let state = format!("/proc/{}/wchan", script.pid());
    eventually("it waits for input", || {
        std::fs::read_to_string(&state).is_ok_and(|at| at.contains("poll"))
    });
}

#[test]
fn active_is_left_to_the_workers() {
    let spool = Spool::with([message("a", Active), message("b", Deferred)]);
    ends(&spool.bash("$PROGRAM hold $SPOOL active"), 2, "--active");
    ends(
        &spool.bash("$PROGRAM hold $SPOOL a b"),
        3,
        "a: it is active",
    );
    ends(
        &spool.bash("$PROGRAM delete $SPOOL a"),
        1,
        "a: it is active",
    );
    ends(&spool.bash("$PROGRAM move $SPOOL b active"), 2, "--active");
    assert_eq!(
        (spool.state("a"), spool.state("b")),
        (Some(Active), Some(Hold))
    );
    ends(
        &spool.bash("$PROGRAM hold --active $SPOOL active"),
        0,
        "1 message moved",
    );
    ends(
        &spool.bash("$PROGRAM move --active $SPOOL b active"),
        0,
        "1 message moved",
    );
    assert_eq!(
        (spool.state("a"), spool.state("b")),
        (Some(Hold), Some(Active))
    );
}

#[test]
fn retries_are_scattered_and_attempts_begin_anew() {
    let spool = Spool::with((0..60).map(|n| message(&name(n), Bounce)));
    let before = Timestamp::now();
    let script = "$PROGRAM move $SPOOL bounce deferred --spread 30m --reset-attempts";
    ends(&spool.bash(script), 0, "60 messages");
    let end = Timestamp::now().saturating_add(Duration::from_secs(1800));
    let all: Vec<MessageMetadata> = (0..60).map(|n| spool.get(&name(n)).unwrap()).collect();
    assert!(all.iter().all(|m| m.attempts == 0 && m.state == Deferred));
    assert!(
        all.iter()
            .all(|m| before <= m.next_retry && m.next_retry <= end)
    );
    let minutes: std::collections::BTreeSet<i64> =
        all.iter().map(|m| m.next_retry.seconds() / 60).collect();
    assert!(minutes.len() > 10, "{minutes:?}");
    // All at one time, to the second.
    ends(
        &spool.bash("$PROGRAM postpone $SPOOL --until 2031-05-06T07:08:09Z"),
        0,
        "60 messages",
    );
    assert_eq!(
        spool.get("m07").unwrap().next_retry.to_string(),
        "2031-05-06T07:08:09Z"
    );
    // What is due already needs no flush.
    ends(
        &spool.bash("$PROGRAM flush $SPOOL m00 m01"),
        0,
        "2 messages",
    );
    ends(
        &spool.bash("$PROGRAM flush $SPOOL"),
        0,
        "58 messages made due now; 2 needed nothing",
    );
    ends(&spool.bash("$PROGRAM postpone $SPOOL"), 2, "--for");
}

#[test]
fn a_rate_is_kept_and_a_limit_too() {
    let spool = Spool::with((0..30).map(|n| message(&name(n), Deferred)));
    let start = std::time::Instant::now();
    let output = spool.bash("$PROGRAM hold $SPOOL deferred --rate 20 --limit 25");
    ends(&output, 0, "25 messages");
    // Never sooner; how much later is the machine's affair.
    assert!(start.elapsed() >= Duration::from_millis(24 * 50));
    assert_eq!(spool.count(Hold), 25);
}

#[test]
fn deleted_documents_are_saved_and_put_back() {
    let spool = Spool::with((0..30).map(|n| message(&name(n), Hold)));
    let before = spool.rows();
    let delete = "$PROGRAM delete $SPOOL hold --save $WORK/saved.jsonl";
    ends(&spool.bash(delete), 0, "30 messages deleted");
    assert!(spool.rows().is_empty());
    let lines = spool.bash("wc -l < $WORK/saved.jsonl; stat -c %a $WORK/saved.jsonl; jq -r .ID $WORK/saved.jsonl | tail -1").ok();
    assert_eq!(lines, "30\n600\nm29");
    ends(
        &spool.bash("$PROGRAM put $SPOOL $WORK/saved.jsonl"),
        0,
        "30 messages stored",
    );
    assert_eq!(spool.rows(), before, "as they were, to the letter");
    // No file is written over.
    let again = spool.bash(delete);
    ends(&again, 1, "saved.jsonl can't be made");
    assert_eq!(spool.rows(), before);

    // Only what was deleted is in it.
    let script = "exec $PROGRAM delete $SPOOL hold --save $WORK/part.jsonl --rate 10";
    let script = spool.start_in(&["bash"], script, spool.dir());
    eventually("it has begun", || spool.count(Hold) < 30);
    stop(&script, &spool);
    spool.execute("UPDATE messages SET priority = 9 WHERE id = 'm29'");
    signal(&script, libc::SIGCONT);
    ends(&script.wait(), 3, "m29: the message was changed meanwhile");
    let ids = spool
        .bash("jq -r .ID $WORK/part.jsonl | sort | uniq | wc -l; grep -c m29 $WORK/part.jsonl");
    assert_eq!(ids.stdout, "29\n0\n");
}

#[test]
fn a_spool_that_can_not_be_changed_is_told_of() {
    let spool = Spool::with([message("a", Deferred)]);
    spool.execute("CREATE TRIGGER no BEFORE UPDATE ON messages BEGIN SELECT raise(FAIL, 'the disk is broken'); END");
    let output = spool.bash("$PROGRAM hold $SPOOL a");
    ends(&output, 1, "the disk is broken");
    assert_eq!(spool.state("a"), Some(Deferred));
    ends(
        &spool.bash("$PROGRAM hold $WORK/none.db a"),
        1,
        "retryspoolfs init",
    );
}
