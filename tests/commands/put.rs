//! Documents from outside.

use retryspoolfs::QueueState::{Bounce, Deferred, Hold, Incoming};

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

/// Interrupted while more may come: what it said is stored, and nothing else.
#[test]
fn a_put_is_interrupted_and_goes_on() {
    let spool = Spool::new();
    let many = "seq -f '{\"ID\":\"m%g\"}' 400 > $WORK/many";
    spool.bash(many).ok();
    let script = "mkfifo $WORK/in; exec 3<> $WORK/in; cat $WORK/many >&3; exec $PROGRAM put $SPOOL < $WORK/in";
    let script = spool.start_in(&["bash"], script, spool.dir());
    eventually("it has begun", || spool.count(Incoming) > 0);
    // SAFETY: the script was not waited for, so the process is there.
    unsafe { libc::kill(script.pid(), libc::SIGINT) };
    let output = script.wait();
    assert_eq!(output.status.code(), Some(130), "{output:#?}");
    let stored = spool.count(Incoming);
    assert!(stored < 400, "{output:#?}");
    let said = format!("put: interrupted: {stored} messages stored");
    assert!(output.stderr.contains(&said), "{said}: {output:#?}");
    // Again, and it does the rest.
    let output = spool.bash("$PROGRAM put $SPOOL $WORK/many");
    let said = format!("{} messages stored; {stored} needed nothing", 400 - stored);
    assert!(output.stderr.starts_with(&said), "{said}: {output:#?}");
    assert_eq!(spool.count(Incoming), 400);
}
