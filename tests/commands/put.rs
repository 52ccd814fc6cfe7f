//! Documents from outside.

use retryspoolfs::QueueState::{Bounce, Deferred, Hold, Incoming};

use crate::pipe::Pipe;
use crate::support::{Spool, eventually, message};

#[test]
fn documents_are_stored_changed_and_refused() {
    let spool = Spool::with([message("a", Deferred), message("b", Hold)]);
    let put = |text: &str, options: &str| {
        let script = format!("printf '%s\\n' '{text}' | $PROGRAM put $SPOOL {options}");
        let output = spool.bash(&script);
        (output.status.code().unwrap(), output.stderr)
    };
    // New ones: in the state that they name, or in incoming, or where all shall go.
    assert_eq!(put("{\"ID\":\"n1\",\"State\":\"hold\"}", "").0, 0);
    assert_eq!(put("{\"ID\":\"n2\"}", "-").0, 0);
    assert_eq!(put("{\"ID\":\"n3\",\"State\":2}", "--state bounce").0, 0);
    let states = ["n1", "n2", "n3"].map(|id| spool.state(id).unwrap());
    assert_eq!(states, [Hold, Incoming, Bounce]);
    // One that is there is changed where it is, or moved.
    assert_eq!(put("{\"ID\":\"a\",\"Priority\":1}", "").0, 0);
    let a = spool.get("a").unwrap();
    assert_eq!((a.priority, a.state, a.attempts), (1, Deferred, 1));
    assert_eq!(put("{\"ID\":\"b\",\"State\":\"deferred\"}", "").0, 0);
    assert_eq!(spool.state("b"), Some(Deferred));
    // A copy that somebody overtook undoes nothing.
    let copy = spool.bash("$PROGRAM show $SPOOL a > $WORK/a.json; $PROGRAM set $SPOOL a Priority=2; $PROGRAM put $SPOOL $WORK/a.json");
    assert_eq!(copy.status.code(), Some(3), "{copy:?}");
    assert!(
        copy.stderr
            .contains("put a: the message was changed meanwhile"),
        "{copy:?}"
    );
    assert_eq!(spool.get("a").unwrap().priority, 2);
    // The same document twice is one change.
    let (code, said) = put("{\"ID\":\"t\"}\n{\"ID\":\"t\"}", "");
    assert_eq!(
        (code, &said[..said.find('\n').unwrap()]),
        (0, "1 message stored; 1 needed nothing")
    );
}

#[test]
fn what_is_no_document_is_told_and_passed_over() {
    let spool = Spool::new();
    spool.bash("printf '{\"ID\":\"a\"}\\nnonsense}\\n{\"ID\":\"b\",\"Priorty\":1}\\n{\"ID\":\"c\"}\\n' > $WORK/mixed").ok();
    let output = spool.bash("$PROGRAM put $SPOOL $WORK/mixed $WORK/none");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    for said in [
        "mixed: line 2: ",
        "mixed: line 3: unknown key \"Priorty\"",
        "none: No such file",
        "2 messages stored; 3 left alone",
    ] {
        assert!(output.stderr.contains(said), "{said}: {output:?}");
    }
    assert!(spool.state("a").is_some() && spool.state("c").is_some() && spool.state("b").is_none());
    let output = spool.bash("echo '{' | $PROGRAM put $SPOOL");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    output.fails("standard input: line 2: the document is incomplete");
}

#[test]
fn files_of_a_mount_are_put_as_they_are() {
    let spool = Spool::with((0..5).map(|n| message(&format!("m{n}"), Deferred)));
    let before = spool.rows();
    let script = "mkdir $WORK/b; for n in 0 1 2 3 4; do $PROGRAM show $SPOOL m$n > $WORK/b/m$n.json; done; $PROGRAM delete $SPOOL deferred";
    assert!(spool.bash(script).status.success());
    let dry = spool.bash("$PROGRAM put $SPOOL $WORK/b/*.json --dry-run");
    assert!(
        dry.stderr.starts_with("5 messages would be stored\n"),
        "{dry:?}"
    );
    assert!(spool.rows().is_empty());
    assert!(
        spool
            .bash("cat $WORK/b/*.json | $PROGRAM put $SPOOL")
            .status
            .success()
    );
    assert_eq!(spool.rows(), before);
}

#[test]
fn what_comes_slowly_is_stored_as_it_comes() {
    let spool = Spool::new();
    let mut pipe = Pipe::open(&spool, "put $SPOOL");
    let is_stored = |id: &str| eventually(id, || spool.state(id).is_some());
    pipe.write("{\"ID\":\"a\"}\n");
    is_stored("a");
    // A document in the middle keeps nobody waiting, and is none yet.
    pipe.write("{\"ID\":\"b\"}\n{\n  \"ID\":");
    is_stored("b");
    pipe.write("\"c\"\n}\n");
    is_stored("c");
    let output = pipe.close();
    assert_eq!(output.status.code(), Some(0), "{output:#?}");
    assert!(
        output.stderr.starts_with("3 messages stored\n"),
        "{output:#?}"
    );
}

/// Interrupted while more may come: what it said is stored, and nothing else.
#[test]
fn a_put_is_interrupted_and_goes_on() {
    let spool = Spool::new();
    let mut pipe = Pipe::open(&spool, "put $SPOOL");
    let lines = |ids: std::ops::Range<u32>| -> String {
        ids.map(|n| format!("{{\"ID\":\"m{n}\"}}\n")).collect()
    };
    pipe.write(&lines(0..300));
    eventually("it has begun", || spool.count(Incoming) == 300);
    pipe.write("{\"ID\":");
    pipe.signal(libc::SIGINT);
    let output = pipe.command.wait();
    assert_eq!(output.status.code(), Some(130), "{output:#?}");
    let said = "put: interrupted: 300 messages stored";
    assert!(output.stderr.contains(said), "{output:#?}");
    assert_eq!(spool.count(Incoming), 300);
    // Again, and it does the rest.
    std::fs::write(spool.work().join("many"), lines(0..400)).unwrap();
    let output = spool.bash("$PROGRAM put $SPOOL $WORK/many");
    let said = "100 messages stored; 300 needed nothing";
    assert!(output.stderr.starts_with(said), "{output:#?}");
    assert_eq!(spool.count(Incoming), 400);
}

/// Another writer changes a message after `put` has looked at it and before it has the lock.
#[test]
fn a_put_loses_a_race() {
    let spool = Spool::with([message("a", Deferred)]);
    let mut pipe = Pipe::open(&spool, "put $SPOOL");
    pipe.write("{\"ID\":\"first\"}\n");
    eventually("it is at work", || spool.state("first").is_some());
    let sql = spool.sql();
    let other = "BEGIN IMMEDIATE;
        UPDATE messages SET attempts = 7, updated = updated + 1 WHERE id = 'a';
        INSERT INTO messages (id, state, attempts, max_attempts, next_retry, created, updated,
                              last_error, size, priority, headers)
            VALUES ('new', 3, 1, 10, 0, 0, 0, 'a worker''s', 1, 5, '{}')";
    sql.execute_batch(other).unwrap();
    pipe.write("{\"ID\":\"a\",\"Priority\":1}\n{\"ID\":\"new\"}\n{\"ID\":\"last\"}\n");
    pipe.command_waits_for_the_lock();
    sql.execute_batch("COMMIT").unwrap();
    let output = pipe.close();
    assert_eq!(output.status.code(), Some(3), "{output:#?}");
    for said in [
        "put a: the message was changed meanwhile",
        "put new: the ID is in use: a message of this ID is in hold",
        "2 messages stored; 2 left alone",
    ] {
        assert!(output.stderr.contains(said), "{said}: {output:#?}");
    }
    let a = spool.get("a").unwrap();
    assert_eq!((a.attempts, a.priority), (7, 5));
    assert_eq!(spool.get("new").unwrap().last_error, "a worker's");
    assert!(spool.state("last").is_some());
}
