//! Check, snapshot and compact, as they are typed.

use retryspoolfs::{MessageMetadata, QueueState};

use crate::support::{Spool, eventually, message};
use crate::transfer::ctx;

fn spool() -> Spool {
    Spool::with(QueueState::ALL.map(|state| message(&format!("{state}-1"), state)))
}

#[test]
fn a_check_finds_and_mends() {
    let spool = spool();
    assert_eq!(spool.bash("$PROGRAM check $SPOOL").ok(), "");
    spool.execute("UPDATE rs_state SET count = count + 3 WHERE state = 3");
    let said = spool.bash("$PROGRAM check $SPOOL");
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert_eq!(
        said.stdout,
        "count: 3 too many messages are counted in hold; a repair: counted anew\n"
    );
    let json = spool
        .bash("$PROGRAM check --json $SPOOL | jq -r '.kind + .remedy + .how'")
        .ok();
    assert_eq!(json, "countrepaircounted anew");
    let said = spool.bash("$PROGRAM check --repair $SPOOL");
    assert!(said.status.success(), "{said:?}");
    assert_eq!(
        said.stdout,
        "count: 3 too many messages are counted in hold; a repair: counted anew\n\
         count: 3 too many messages are counted in hold; counted anew now\n"
    );
    assert_eq!(spool.bash("$PROGRAM check $SPOOL").ok(), "");
    assert_eq!(
        spool
            .open()
            .state_counter()
            .unwrap()
            .get_state_count(&ctx(), QueueState::Hold)
            .unwrap(),
        1
    );
}

#[test]
fn a_check_of_a_spool_that_cant_be_opened_makes_what_is_missing() {
    let spool = spool();
    spool.execute("DROP TRIGGER rs_updated; UPDATE messages SET state = 3 WHERE id = 'bounce-1'");
    spool.bash("$PROGRAM list $SPOOL").fails("check --repair");
    let said = spool.bash("$PROGRAM check $SPOOL");
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let said = spool.bash("$PROGRAM check --repair $SPOOL");
    assert!(said.status.success(), "{said:?}");
    assert!(
        said.stdout
            .contains("\"bounce-1\" is in hold, and counted in bounce; counted anew now"),
        "{said:?}"
    );
    assert_eq!(
        spool.bash("$PROGRAM list $SPOOL hold").ok(),
        "bounce-1\nhold-1"
    );
}

#[test]
fn a_check_tells_what_only_a_person_can_mend() {
    let spool = spool();
    spool.execute(
        "UPDATE messages SET headers = '{' WHERE id = 'hold-1';
         UPDATE messages SET state = 9 WHERE id = 'bounce-1'",
    );
    std::fs::create_dir(spool.dir().join("queue.db.scratch")).unwrap();
    std::fs::write(spool.dir().join("queue.db.scratch/notes"), "x").unwrap();
    std::fs::write(spool.dir().join(".queue.db.4194999-0.part"), "x").unwrap();
    let said = spool.bash("$PROGRAM check --repair $SPOOL");
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    for line in [
        "inexpressible: \"bounce-1\" is in a state that has no directory",
        "unreadable: hold/hold-1.json: the stored message can't be read",
        "beside: 1 files that were written in a mount",
        "leftover: ",
    ] {
        assert!(said.stdout.contains(line), "{line}: {said:?}");
    }
    assert!(!spool.dir().join(".queue.db.4194999-0.part").exists());
}

#[test]
fn a_check_compares_with_the_data() {
    let ids = ["m", "ab", "abc", "grüße", "ü", "..x", "new"];
    let spool = Spool::with(ids.map(|id| message(id, QueueState::Deferred)));
    // As RetrySpool's data store names its files: the first two bytes are a directory.
    spool
        .bash(
            "mkdir -p data/misc data/ab data/gr data/ü data/zz
             touch data/misc/m.data data/ab/ab.data data/gr/grüße.data data/ü/ü.data
             touch data/zz/zzz.data data/ab/young.data data/zz/zz.tmp data/ab/misplaced.data
             touch -d '1 hour ago' data/zz/zzz.data",
        )
        .ok();
    let said = spool.bash("$PROGRAM check --data data $SPOOL");
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert_eq!(
        said.stdout,
        "no-data: deferred/%2E.x.json has no data: RetrySpool's data store takes no such ID\n\
         no-data: deferred/abc.json has no data: data/ab/abc.data is missing\n\
         no-data: deferred/new.json has no data: data/ne/new.data is missing\n\
         orphan: data/zz/zzz.data belongs to no message\n"
    );
    spool
        .bash("$PROGRAM check --data nowhere $SPOOL")
        .fails("check --data nowhere: No such file");
}

#[test]
fn a_check_of_a_directory_finds_and_mends() {
    let spool =
        Spool::directory(QueueState::ALL.map(|state| message(&format!("{state}-1"), state)));
    assert_eq!(spool.bash("$PROGRAM check $SPOOL").ok(), "");
    spool
        .bash(
            "cd $SPOOL
             jq \".State = 2 | .Updated = \\\"$(date -u +%FT%TZ)\\\"\" hold/hold-1.json > deferred/hold-1.json
             mv incoming/incoming-1.json active/
             echo '{' > bounce/half.json
             touch bounce/notes.txt
             touch -d '2 hours ago' bounce/x.json.tmp.1a2b3c4d",
        )
        .ok();
    let tree = || spool.bash("find $SPOOL -type f | xargs md5sum | sort").ok();
    let before = tree();
    // It is no move of RetrySpool's: that would have ended by now.
    eventually("it is in two states for too long", || {
        let said = spool.bash("$PROGRAM check $SPOOL");
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        said.stdout.contains("two-states: ")
    });
    let said = spool.bash("$PROGRAM check $SPOOL").stdout;
    for line in [
        "deferred/hold-1.json: it is in hold too; a repair: keeps the older copy",
        "active/incoming-1.json: its document names another state",
        "bounce/half.json: ",
        "bounce/notes.txt: its name is not one that RetrySpool gives",
        "bounce/x.json.tmp.1a2b3c4d: half-written, and left so",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(said.lines().count(), 5, "{said}");
    assert_eq!(tree(), before, "a check without --repair writes nothing");
    let said = spool.bash("$PROGRAM check --repair $SPOOL");
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert_eq!(spool.state("hold-1"), Some(QueueState::Deferred));
    assert_eq!(
        spool
            .bash("cd $SPOOL; ls hold; ls .retryspool/aside/hold | wc -l; jq .State active/incoming-1.json; cat bounce/half.json")
            .ok(),
        "1\n1\n{"
    );
    // What is left is a person's, and then nothing.
    let said =
        spool.bash("rm $SPOOL/bounce/half.json $SPOOL/bounce/notes.txt; $PROGRAM check $SPOOL");
    assert!(said.status.success(), "{said:?}");
    let kinds = said
        .stdout
        .lines()
        .map(|line| line.split(':').next().unwrap());
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        ["temporary", "aside"],
        "{said:?}"
    );
}

#[test]
fn a_snapshot_that_is_stopped_leaves_no_half_file() {
    let spool = Spool::with((0..200).map(|nth| message(&format!("m{nth}"), QueueState::Hold)));
    spool.execute("UPDATE messages SET last_error = hex(zeroblob(250000))");
    let half = || spool.bash("ls -A | grep part").stdout;
    // One that ends before the signal comes is tried again.
    let stopped = (0..20).any(|nth| {
        let script = format!("exec $PROGRAM snapshot $SPOOL then-{nth}.db");
        let mut run = spool.start_in(&["bash"], &script, spool.dir());
        eventually("it has begun", || !run.runs() || !half().is_empty());
        if run.runs() {
            // SAFETY: the process is the test's own, and was not waited for.
            unsafe { libc::kill(run.pid(), libc::SIGINT) };
        }
        let said = run.wait();
        assert_eq!(half(), "", "{said:?}");
        let file = spool.dir().join(format!("then-{nth}.db"));
        if said.status.success() {
            assert!(file.exists());
            std::fs::remove_file(file).unwrap();
            return false;
        }
        assert_eq!(said.status.code(), Some(130), "{said:?}");
        assert!(said.stderr.contains("no file was made"), "{said:?}");
        assert!(!file.exists());
        true
    });
    assert!(stopped, "20 snapshots were faster than the signal");
    assert!(spool.bash("$PROGRAM check $SPOOL").status.success());
}

#[test]
fn a_snapshot_can_be_mounted() {
    let spool = spool();
    spool.bash("$PROGRAM snapshot $SPOOL then.db").ok();
    spool.execute("DELETE FROM messages WHERE id = 'hold-1'");
    spool
        .bash("$PROGRAM snapshot $SPOOL then.db")
        .fails("is there already");
    let listed = spool
        .bash(
            "chmod 400 then.db; mkdir m; $PROGRAM mount -o ro then.db m && ls m/hold
             umount m; stat -c %a then.db; ls -A",
        )
        .ok();
    assert_eq!(
        listed,
        "hold-1.json\n400\nm\nqueue.db\nqueue.db-shm\nqueue.db-wal\nthen.db\nwork"
    );
    let said = spool.bash("$PROGRAM check then.db");
    assert!(said.status.success(), "{said:?}");
}

#[test]
fn compacting_is_refused_beside_a_mount_and_shrinks_the_file() {
    let spool = Spool::with((0..1500).map(|nth| MessageMetadata {
        last_error: "x".repeat(2000),
        ..message(&format!("m{nth}"), QueueState::Bounce)
    }));
    let mount = spool.mount("");
    let said = spool.bash("$PROGRAM compact $SPOOL");
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(said.stderr.contains("another process has"), "{said:?}");
    drop(mount);
    spool.execute("DELETE FROM messages WHERE id <> 'm7'");
    eventually("the mount has closed the file", || {
        spool.bash("$PROGRAM compact $SPOOL").status.success()
    });
    assert!(std::fs::metadata(spool.path()).unwrap().len() < 1 << 20);
    assert_eq!(spool.state("m7"), Some(QueueState::Bounce));
}

#[test]
fn a_directory_needs_no_compacting() {
    let spool = Spool::directory([message("x", QueueState::Hold)]);
    let tree = || spool.bash("find $SPOOL | sort").ok();
    let before = tree();
    let said = spool.bash("$PROGRAM compact $SPOOL");
    assert!(said.status.success(), "{said:?}");
    assert_eq!(
        said.stderr,
        "retryspoolfs: compact: nothing to do: the space of a message's file is the disk's again when it is removed\n"
    );
    assert_eq!(tree(), before);
    spool
        .bash("$PROGRAM compact dir:nowhere")
        .fails("retryspoolfs init dir:");
}
