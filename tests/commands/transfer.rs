//! Copy, export and import, as they are typed, and interrupted.

use std::path::Path;

use retryspoolfs::backend::locator::{Locator, OpenOptions};
use retryspoolfs::{Context, MessageMetadata, QueueState, Timestamp};

use crate::support::{DEADLINE, Spool, ago, eventually, message};

pub fn ctx() -> Context {
    Context::within(DEADLINE)
}

/// One message of each state, and one that is as odd as can be.
fn some() -> Vec<MessageMetadata> {
    let mut some: Vec<MessageMetadata> = QueueState::ALL
        .map(|state| message(&format!("{state}-1"), state))
        .into();
    some.push(MessageMetadata {
        updated: ago(7),
        priority: -7,
        headers: [("x<\u{2028}>".to_owned(), "\"\n\u{0}&☃".to_owned())].into(),
        retry_policy_name: "slow".into(),
        ..message("odd /%2F.\n☃", QueueState::Deferred)
    });
    some
}

fn many(count: usize) -> impl Iterator<Item = MessageMetadata> {
    (0..count).map(|nth| MessageMetadata {
        updated: ago(nth as i64),
        ..message(&format!("m{nth:05}"), QueueState::ALL[nth % 6])
    })
}

/// Everything that is stored at a path.
fn all(path: &Path) -> Vec<MessageMetadata> {
    let options = OpenOptions {
        read_only: true,
        ..OpenOptions::default()
    };
    let store = Locator::Sqlite(path.into()).open(options).unwrap();
    let mut all = Vec::new();
    for state in QueueState::ALL {
        let found = store.scan_stored(&ctx(), state, None, usize::MAX).unwrap();
        all.extend(
            found
                .into_iter()
                .map(|(_, stored)| stored.unwrap().metadata),
        );
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

#[test]
fn a_copy_has_every_document_and_a_second_one_finds_nothing_to_do() {
    let spool = Spool::with(some());
    let said = spool.bash("$PROGRAM copy $SPOOL copy.db");
    assert!(said.status.success(), "{said:?}");
    assert!(
        said.stderr.contains(
            "7 copied, 0 brought up to date, 0 removed, 7 compared and the same, 0 not copied"
        ),
        "{said:?}"
    );
    let copy = spool.dir().join("copy.db");
    assert_eq!(all(&copy), all(&spool.path()));
    assert!(!spool.dir().join("copy.db.copying").exists());
    let json = spool.bash("$PROGRAM copy --json $SPOOL copy.db").ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["copied"], &json["verified"]), (&0.into(), &7.into()));
}

#[test]
fn a_target_of_its_own_keeps_its_messages() {
    let spool = Spool::with(some());
    assert!(spool.bash("$PROGRAM copy $SPOOL copy.db").status.success());
    let copy = Locator::Sqlite(spool.dir().join("copy.db"))
        .open(OpenOptions::default())
        .unwrap();
    copy.insert(&ctx(), &message("own", QueueState::Hold))
        .unwrap();
    // Newer here, newer there, gone there.
    let (here, there) = (spool.open(), &copy);
    let id = |name: &str| name.parse().unwrap();
    let (deferred, hold) = (QueueState::Deferred, QueueState::Hold);
    here.relocate(&ctx(), &id("deferred-1"), deferred, hold)
        .unwrap();
    there
        .relocate(&ctx(), &id("hold-1"), hold, deferred)
        .unwrap();
    here.delete_meta(&ctx(), &id("bounce-1")).unwrap();
    let said = spool.bash("$PROGRAM copy $SPOOL copy.db");
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    assert!(
        said.stderr
            .contains("copy hold-1: the target has another message of this ID"),
        "{said:?}"
    );
    let locate = |name: &str| there.locate(&ctx(), &id(name)).unwrap();
    assert_eq!(locate("deferred-1"), Some(hold));
    assert_eq!(locate("hold-1"), Some(deferred));
    assert_eq!(locate("bounce-1"), Some(QueueState::Bounce));
    assert_eq!(locate("own"), Some(hold));
    let said = spool.bash("$PROGRAM copy --mirror $SPOOL copy.db");
    assert!(said.status.success(), "{said:?}");
    assert_eq!(locate("bounce-1"), None);
    assert_eq!(locate("own"), None);
    assert_eq!(locate("hold-1"), Some(hold));
}

#[test]
fn a_killed_copy_goes_on_and_follows_what_changed() {
    let spool = Spool::with(many(3000));
    let script = "exec $PROGRAM copy $SPOOL copy.db";
    let copy = spool.dir().join("copy.db");
    spool.bash("$PROGRAM init copy.db").ok();
    slow(&copy);
    for _ in 0..2 {
        let run = spool.start_in(&["bash"], script, spool.dir());
        let before = count(&copy);
        eventually("the copy is under way", || count(&copy) > before);
        run.kill();
        run.wait_killed();
        assert!(count(&copy) < 3000, "something is there, and not all");
        let store = spool.open();
        // Some is changed, moved and removed while nobody copies.
        for nth in before..before + 20 {
            let id = format!("m{nth:05}").parse().unwrap();
            let Some(state) = store.locate(&ctx(), &id).unwrap() else {
                continue;
            };
            match nth % 2 {
                0 => store.delete_meta(&ctx(), &id).unwrap(),
                _ => store
                    .move_to_state(&ctx(), &id, state, QueueState::Hold)
                    .unwrap(),
            }
        }
    }
    assert!(spool.dir().join("copy.db.copying").exists());
    let refused = spool.bash("$PROGRAM init other.db; $PROGRAM copy other.db copy.db");
    refused.fails("holds an unfinished copy of");
    fast(&copy);
    let said = spool.bash(script);
    assert!(said.status.success(), "{said:?}");
    assert!(all(&copy) == all(&spool.path()));
    assert!(!spool.dir().join("copy.db.copying").exists());
}

/// Makes each message that is stored there take some milliseconds: a copy of thousands is then
/// ended in the middle, and not after its end.
fn slow(path: &Path) {
    let conn = rusqlite::Connection::open(path).unwrap();
    conn.execute_batch(
        "CREATE TABLE pause (n);
         INSERT INTO pause SELECT value FROM json_each('[' || substr(replace(hex(zeroblob(300)), '00', ',1'), 2) || ']');
         CREATE TRIGGER pause AFTER INSERT ON messages
             BEGIN SELECT sum(a.n * b.n) FROM pause a, pause b; END",
    )
    .unwrap();
}

fn fast(path: &Path) {
    let conn = rusqlite::Connection::open(path).unwrap();
    conn.busy_timeout(DEADLINE).unwrap();
    conn.execute_batch("DROP TRIGGER pause; DROP TABLE pause")
        .unwrap();
}

fn count(path: &Path) -> u64 {
    let Ok(conn) =
        rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE)
    else {
        return 0;
    };
    conn.query_row("SELECT count(*) FROM messages", [], |row| {
        row.get::<_, i64>(0)
    })
    .unwrap_or(0) as u64
}

#[test]
fn an_interrupted_copy_says_how_far_it_came() {
    let spool = Spool::with(many(3000));
    let copy = spool.dir().join("copy.db");
    spool.bash("$PROGRAM init copy.db").ok();
    slow(&copy);
    let run = spool.start_in(&["bash"], "exec $PROGRAM copy $SPOOL copy.db", spool.dir());
    eventually("the copy is under way", || count(&copy) > 0);
    // SAFETY: the process is the test's own, and was not waited for.
    unsafe { libc::kill(run.pid(), libc::SIGINT) };
    let said = run.wait();
    assert!(count(&copy) < 3000, "{said:?}");
    fast(&copy);
    assert_eq!(said.status.code(), Some(130), "{said:?}");
    assert!(
        said.stderr.contains("copy: interrupted: ") && said.stderr.contains("goes on from there"),
        "{said:?}"
    );
    let said = spool.bash("$PROGRAM copy $SPOOL copy.db");
    assert!(said.status.success(), "{said:?}");
    assert!(all(&copy) == all(&spool.path()));
}

#[test]
fn a_copy_while_the_source_is_worked_on() {
    let spool = Spool::with(many(2000));
    let copy = spool.dir().join("copy.db");
    let mut run = spool.start_in(&["bash"], "exec $PROGRAM copy $SPOOL copy.db", spool.dir());
    let store = spool.open();
    let mut nth = 0u64;
    while run.runs() {
        if nth == 3000 {
            std::thread::yield_now();
            continue;
        }
        // Each round moves, removes and makes some.
        let id = format!("m{:05}", nth * 7 % 2500).parse().unwrap();
        match store.locate(&ctx(), &id).unwrap() {
            Some(_) if nth.is_multiple_of(5) => store.delete_meta(&ctx(), &id).unwrap(),
            Some(state) => {
                let to = QueueState::ALL[(state.number() as usize + 1) % 6];
                store.move_to_state(&ctx(), &id, state, to).unwrap();
            }
            None => {
                // A new life that begins after the last one ended, as with any working clock.
                let new = MessageMetadata {
                    updated: Timestamp::now(),
                    ..message(id.as_str(), QueueState::Incoming)
                };
                store.insert(&ctx(), &new).unwrap();
            }
        }
        nth += 1;
    }
    let said = run.wait();
    assert!(said.status.success(), "{said:?}");
    // What came after its end is brought over by one more.
    let said = spool.bash("$PROGRAM copy --mirror $SPOOL copy.db");
    assert!(said.status.success(), "{said:?}");
    assert!(all(&copy) == all(&spool.path()));
}

#[test]
fn to_retryspools_own_directory_and_back() {
    let spool = Spool::with(many(120));
    let said = spool.bash(
        "$PROGRAM copy $SPOOL dir:meta && $PROGRAM copy dir:meta sqlite:back.db && $PROGRAM check dir:meta",
    );
    assert!(said.status.success() && said.stdout.is_empty(), "{said:?}");
    assert!(all(&spool.dir().join("back.db")) == all(&spool.path()));
    // What is not RetrySpool's own is not left in it: it would be taken for a message or a state.
    assert_eq!(
        spool.bash("ls meta; ls -A . | grep copying").stdout,
        "active\narchived\nbounce\ndeferred\nhold\nincoming\n"
    );
    // It follows: moved, removed, changed, new; each again on the way back.
    let store = spool.open();
    let id = |name: &str| name.parse().unwrap();
    store
        .move_to_state(
            &ctx(),
            &id("m00002"),
            QueueState::Deferred,
            QueueState::Hold,
        )
        .unwrap();
    store.delete_meta(&ctx(), &id("m00003")).unwrap();
    let new = message("new", QueueState::Hold);
    store.insert(&ctx(), &new).unwrap();
    let said = spool.bash(
        "$PROGRAM copy --mirror $SPOOL dir:meta && $PROGRAM copy --mirror dir:meta sqlite:back.db",
    );
    assert!(said.status.success(), "{said:?}");
    assert!(all(&spool.dir().join("back.db")) == all(&spool.path()));
    // An ID that no file there can have is told, and the rest is copied.
    store
        .insert(&ctx(), &message("a/b", QueueState::Hold))
        .unwrap();
    let said = spool.bash("$PROGRAM copy $SPOOL dir:meta");
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    assert!(said.stderr.contains("copy a/b: "), "{said:?}");
    // An export of it, and back into it.
    let said = spool.bash(
        "$PROGRAM export dir:meta -o q.tar.gz && $PROGRAM init dir:again && $PROGRAM import dir:again q.tar.gz && $PROGRAM copy dir:again again.db",
    );
    assert!(said.status.success(), "{said:?}");
    assert!(all(&spool.dir().join("again.db")) == all(&spool.dir().join("back.db")));
}

#[test]
fn what_cant_be_copied_is_told() {
    let spool = Spool::with(some());
    spool.execute("UPDATE messages SET headers = '{' WHERE id = 'hold-1'");
    let said = spool.bash("$PROGRAM copy $SPOOL copy.db");
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    assert!(
        said.stderr
            .contains("copy hold-1: the stored message can't be read"),
        "{said:?}"
    );
    assert_eq!(all(&spool.dir().join("copy.db")).len(), 6);
    let said = spool.bash("$PROGRAM copy $SPOOL ./queue.db");
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    spool
        .bash("$PROGRAM copy no.db x.db")
        .fails("there is no spool at");
}

#[test]
fn exports_of_every_kind_come_back() {
    let spool = Spool::with(some());
    for name in ["q.jsonl", "q.tar", "q.jsonl.gz", "q.tgz"] {
        let said = spool.bash(&format!(
            "$PROGRAM export $SPOOL -o {name} && $PROGRAM import new-{name}.db {name} || $PROGRAM init new-{name}.db && $PROGRAM import new-{name}.db {name}"
        ));
        assert!(said.status.success(), "{said:?}");
        let back = spool.dir().join(format!("new-{name}.db"));
        assert_eq!(all(&back), all(&spool.path()), "{name}");
        let again = spool
            .bash(&format!("$PROGRAM import --json new-{name}.db - < {name}"))
            .ok();
        let again: serde_json::Value = serde_json::from_str(&again).unwrap();
        assert_eq!((&again["same"], &again["stored"]), (&7.into(), &0.into()));
    }
    // Other programs read them.
    let ids = spool
        .bash("zcat q.jsonl.gz | jq -r 'select(.State == 3).ID'")
        .ok();
    assert_eq!(ids, "hold-1");
    let listed = spool
        .bash("tar -tzf q.tgz | grep hold; tar -xzOf q.tgz hold/hold-1.json | jq -r .Size")
        .ok();
    assert_eq!(listed, "hold/hold-1.json\n2048");
    assert_eq!(spool.bash("stat -c %a q.tgz").ok(), "600");
    // Nothing is replaced, and what the name says counts.
    spool
        .bash("$PROGRAM export $SPOOL -o q.tar")
        .fails("is there already");
    let said = spool.bash("$PROGRAM export $SPOOL -o q.zip");
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    let out = spool
        .bash("$PROGRAM export $SPOOL hold bounce | jq -r .ID")
        .ok();
    assert_eq!(out, "hold-1\nbounce-1");
    let out = spool
        .bash("$PROGRAM export $SPOOL --priority -7 --format tar | tar -t")
        .ok();
    assert!(out.starts_with("deferred/odd"), "{out}");
    // A reader that has enough is no failure.
    assert!(
        spool
            .bash("set -o pipefail; $PROGRAM export $SPOOL | head -n 1 >/dev/null")
            .status
            .success()
    );
}

#[test]
fn an_export_removes_what_is_still_as_it_was_written() {
    let spool = Spool::with(some());
    let said = spool.bash("$PROGRAM export $SPOOL --delete");
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    spool.execute("UPDATE messages SET headers = '{' WHERE id = 'hold-1'");
    let said = spool.bash("$PROGRAM export $SPOOL -o q.tar.gz --delete");
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    assert!(
        said.stderr
            .contains("export hold/hold-1.json: the stored message can't be read"),
        "{said:?}"
    );
    assert!(
        said.stderr
            .contains("active/active-1.json: kept: a worker has it"),
        "{said:?}"
    );
    assert!(said.stderr.contains("5 removed, 1 kept"), "{said:?}");
    let left = spool
        .bash("sqlite3 $SPOOL 'SELECT id FROM messages ORDER BY id'")
        .ok();
    assert_eq!(left, "active-1\nhold-1");
    let said = spool.bash("$PROGRAM export $SPOOL active -o a.jsonl --delete --active");
    assert!(said.status.success(), "{said:?}");
    let said = spool.bash("$PROGRAM import $SPOOL q.tar.gz a.jsonl");
    assert!(said.status.success(), "{said:?}");
    assert_eq!(spool.state("incoming-1"), Some(QueueState::Incoming));
}

#[test]
fn what_was_changed_since_the_export_is_kept() {
    let spool = Spool::with(some());
    let said = spool.bash("$PROGRAM export $SPOOL -o q.jsonl");
    assert!(said.status.success(), "{said:?}");
    let store = spool.open();
    let (deferred, hold) = (QueueState::Deferred, QueueState::Hold);
    store
        .relocate(&ctx(), &"deferred-1".parse().unwrap(), deferred, hold)
        .unwrap();
    store
        .delete_meta(&ctx(), &"bounce-1".parse().unwrap())
        .unwrap();
    let file = std::fs::File::open(spool.dir().join("q.jsonl")).unwrap();
    let mut told = Vec::new();
    let mut watch = retryspoolfs::transfer::Watch {
        actor: None,
        done: &mut |_| {},
        trouble: &mut |at, why| told.push(format!("{at}: {why}")),
        going: &|| true,
    };
    let removed = retryspoolfs::transfer::remove(&*store, &file, true, &mut watch).unwrap();
    assert_eq!((removed.removed, removed.kept), (5, 2), "{told:?}");
    assert!(
        told.iter()
            .any(|line| line.ends_with("it was changed since it was written"))
    );
    assert!(
        told.iter()
            .any(|line| line.ends_with("somebody else removed it"))
    );
    assert_eq!(spool.state("deferred-1"), Some(hold));
}

#[test]
fn bad_and_conflicting_documents_are_told_and_the_rest_is_stored() {
    let spool = Spool::with([message("a", QueueState::Hold)]);
    let said = spool.bash(
        r#"cat > in.jsonl <<'END'
{"ID":"b","State":"hold"}
{"ID":"a","State":2}
{"ID":"c","Priorty":1}
not JSON

{"ID":"d"}
END
$PROGRAM import $SPOOL in.jsonl"#,
    );
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    for line in [
        "import in.jsonl: line 2: a is in hold already, and not as it is here; it was kept",
        "import in.jsonl: line 3: unknown key \"Priorty\" at line 1 column",
        "import in.jsonl: line 4: ",
        "import: 2 stored, 0 there already, 3 not stored",
    ] {
        assert!(said.stderr.contains(line), "{line}: {said:?}");
    }
    assert_eq!(spool.state("b"), Some(QueueState::Hold));
    assert_eq!(spool.state("d"), Some(QueueState::Incoming));
    // Of a tar the directory decides, and what is no message is told.
    let said = spool.bash(
        r#"mkdir -p t/bounce t/other && cd t
echo '{"ID":"e","State":0}' > bounce/e.json
echo '{"ID":"f","State":3}' > other/f.json
echo '{"ID":"g"}' > bounce/wrong.json; echo x > README
tar -cf ../t.tar . && cd .. && $PROGRAM import $SPOOL t.tar"#,
    );
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    assert!(
        said.stderr.contains("README: its name is no message's"),
        "{said:?}"
    );
    assert!(
        said.stderr.contains("bounce/wrong.json: the ID is \"g\""),
        "{said:?}"
    );
    assert_eq!(spool.state("e"), Some(QueueState::Bounce));
    assert_eq!(spool.state("f"), Some(QueueState::Hold));
    let said = spool.bash("echo nothing | $PROGRAM import $SPOOL");
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    // A file that breaks off: what came before is stored.
    let said = spool.bash(
        "for n in $(seq 2000); do echo '{\"ID\":\"n'$n'\"}'; done | gzip | head -c 3000 | $PROGRAM import $SPOOL",
    );
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(
        said.stderr.contains("what came before that is stored"),
        "{said:?}"
    );
    assert_eq!(spool.state("n1"), Some(QueueState::Incoming));
}
