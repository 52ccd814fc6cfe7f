//! The table "When a write commits": who closes, what is there, and what comes of it.
//!
//! FUSE reports each close of each copy of a descriptor. Where a test must look while a writer is
//! between two steps, the two wait for each other on FIFOs in `$WORK`.

use std::fs;

use retryspoolfs::QueueState::{Deferred, Hold};
use retryspoolfs::document;

use crate::support::{Mount, Named, Spool, close, create, errno, eventually, message, write};

const DOCUMENT: &str =
    "{\n  \"ID\": \"x\",\n  \"Priority\": 7,\n  \"Headers\": {\"to\": \"\\u00fc ü\"}\n}\n";

/// An empty spool, `$WORK/x.json` with [`DOCUMENT`], and the FIFOs `$WORK/out` and `$WORK/in`.
fn mount() -> Mount {
    let mount = Spool::new().mount("");
    prepare(&mount);
    mount
}

/// The same, with x stored in hold, at Priority 5.
fn mount_with_x() -> Mount {
    let mount = Spool::with([message("x", Hold)]).mount("");
    prepare(&mount);
    mount
}

fn prepare(mount: &Mount) {
    fs::write(mount.spool().work().join("x.json"), DOCUMENT).unwrap();
    mount.bash("mkfifo $WORK/out $WORK/in").ok();
}

/// Waits until a script has written a line to `$WORK/out`, and gives it.
fn hear(mount: &Mount) -> String {
    mount.bash("read line < $WORK/out; echo $line").ok()
}

/// Lets a script go on that reads `$WORK/in`.
fn tell(mount: &Mount) {
    mount.bash("echo > $WORK/in").ok();
}

/// What a script does to be heard, and to wait for the answer: in a process of its own, since a
/// redirection of the opener itself closes a copy of what it opened.
const PAUSE: &str = "(echo here > $WORK/out; read line < $WORK/in)";

fn priority(mount: &Mount) -> Option<i64> {
    mount.spool().get("x").map(|x| x.priority)
}

#[test]
fn every_split_of_a_document_is_stored_once() {
    for shell in Mount::SHELLS {
        for redirect in [
            "(parts) > hold/x.json",
            "{ parts; } > hold/x.json",
            "(parts) >> hold/x.json",
        ] {
            let mount = mount();
            let parts = "head -c $k $WORK/x.json; tail -c +$((k+1)) $WORK/x.json";
            let script = format!(
                "k=0; while [ $k -le {length} ]; do
                    {write} || echo $k: failed
                    [ $(jq .Priority hold/x.json) = 7 ] || echo $k: not there
                    rm hold/x.json; k=$((k+1))
                done",
                length = DOCUMENT.len(),
                write = redirect.replace("parts", parts),
            );
            assert_eq!(mount.shell(shell, &script).ok(), "", "{shell:?} {redirect}");
            assert_eq!(mount.errors(), Vec::<String>::new(), "{shell:?} {redirect}");
        }
    }
}

#[test]
fn every_split_of_a_document_updates_once() {
    let mount = mount_with_x();
    let script = format!(
        "for ((k = 0; k <= {}; k++)); do
            (head -c $k $WORK/x.json; tail -c +$((k+1)) $WORK/x.json) > hold/x.json || echo $k failed
            [ $(jq .Priority hold/x.json) = 7 ] || echo $k not there
            jq .Priority=5 hold/x.json | sponge hold/x.json
        done",
        DOCUMENT.len()
    );
    assert_eq!(mount.bash(&script).ok(), "");
    assert_eq!(mount.errors(), Vec::<String>::new());
}

#[test]
fn the_middle_of_a_document_is_nobodys_business() {
    for shell in Mount::SHELLS {
        // The last place is in the white space at the end: what is there is legal already.
        for split in [1, 20, DOCUMENT.len() - 1] {
            let mount = mount_with_x();
            let before = mount.spool().rows();
            let script = format!(
                "(head -c {split} $WORK/x.json; {PAUSE}; tail -c +{} $WORK/x.json) > hold/x.json",
                split + 1
            );
            let writer = mount.start_in(shell, &script);
            assert_eq!(hear(&mount), "here");
            assert_eq!(mount.spool().rows(), before, "{shell:?} {split}");
            assert_eq!(mount.bash("jq .Priority hold/x.json").ok(), "5");
            tell(&mount);
            writer.wait().ok();
            assert_eq!(priority(&mount), Some(7), "{shell:?} {split}");
            assert_eq!(mount.errors(), Vec::<String>::new());
        }
    }
}

#[test]
fn builtins_write_line_by_line() {
    for shell in Mount::SHELLS {
        for lines in [
            r#"{ echo '{"ID":'; echo '"x","Priority":7}'; } > hold/x.json"#,
            r#"{ /bin/echo '{"ID":'; /bin/echo '"x","Priority":7}'; } > hold/x.json"#,
            r#"exec 5> hold/x.json; echo '{"ID":' >&5; echo '"x","Priority":7}' >&5; exec 5>&-"#,
            r#"exec 5> hold/x.json; /bin/echo '{"ID":' >&5; (echo '"x","Priority":7}' >&5); exec 5>&-"#,
            r#"f() { echo '{"ID":"x",'; cat; }; echo '"Priority":7}' | f > hold/x.json"#,
            r#"exec > hold/x.json; echo '{"ID":"x"'; cat /dev/null; echo ',"Priority":7}'"#,
        ] {
            for mount in [mount(), mount_with_x()] {
                mount.shell(shell, lines).ok();
                eventually("it is stored", || priority(&mount) == Some(7));
                assert_eq!(mount.errors(), Vec::<String>::new(), "{shell:?} {lines}");
            }
        }
    }
}

#[test]
fn a_child_that_closes_what_no_bytes_can_mend_is_told() {
    for shell in Mount::SHELLS {
        let mount = mount_with_x();
        let before = mount.spool().rows();
        let script = "(echo '{\"ID\":\"x\",\"Priorty\":7' > $WORK/bad; cat $WORK/bad; echo $? >&2) > hold/x.json";
        let output = mount.shell(shell, script);
        assert!(output.stderr.contains("Bad message"), "{output:#?}");
        assert!(output.stderr.ends_with("1\n"), "{output:#?}");
        mount.refused("close hold/x.json EBADMSG", "unknown key \"Priorty\"");
        assert_eq!(mount.spool().rows(), before);
    }
}

/// A program that opens, lets a child of its own write and close, and then closes itself: what
/// `dash -c 'cat draft > x.json'` does, with each step's result on its output.
const PARENT_AND_CHILD: &str = r#"
import os, subprocess, sys
fd = os.open("hold/x.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
with open(os.environ["WORK"] + "/out", "w") as f: f.write("here\n")
open(os.environ["WORK"] + "/in").read()
child = subprocess.run(["cat", os.environ["WORK"] + "/x.json"], stdout=fd, stderr=subprocess.PIPE)
print(child.stderr.decode().strip().rpartition(": ")[2] or "closed")
try:
    os.close(fd); print("closed")
except OSError as e: print(e.strerror)
"#;

#[track_caller]
fn parent_and_child(mount: &Mount, meanwhile: impl FnOnce()) -> String {
    let writer = mount.start_in(&["python3"], PARENT_AND_CHILD);
    assert_eq!(hear(mount), "here");
    meanwhile();
    tell(mount);
    writer.wait().ok()
}

#[test]
fn a_childs_close_is_refused_where_the_commit_would_be() {
    let mount = mount_with_x();
    assert_eq!(parent_and_child(&mount, || {}), "closed\nclosed");
    assert_eq!(priority(&mount), Some(7));

    let mount = mount_with_x();
    let change = "UPDATE messages SET attempts = 9 WHERE id = 'x'";
    let said = parent_and_child(&mount, || mount.spool().execute(change));
    assert_eq!(said, "Stale file handle\nStale file handle");
    assert_eq!(priority(&mount), Some(5));
    mount.refused("close hold/x.json ESTALE", "");

    let mount = self::mount();
    let insert = || {
        let store = mount.spool().open();
        let ctx = retryspoolfs::Context::within(std::time::Duration::from_secs(10));
        store.insert(&ctx, &message("x", Deferred)).unwrap();
    };
    assert_eq!(parent_and_child(&mount, insert), "File exists\nFile exists");
    assert_eq!(mount.spool().state("x"), Some(Deferred));
    mount.refused("close hold/x.json EEXIST", "");
}

#[test]
fn a_child_commits_after_its_openers_end() {
    for shell in Mount::SHELLS {
        for mount in [mount(), mount_with_x()] {
            // The opener writes half and ends. Its child goes on when it is told to.
            let script = "exec > hold/x.json; head -c 30 $WORK/x.json
                (read line < $WORK/in; tail -c +31 $WORK/x.json; exec > $WORK/done) 2> $WORK/said &";
            let before = mount.spool().rows();
            let _ = mount.shell(shell, script);
            assert_eq!(mount.spool().rows(), before);
            tell(&mount);
            eventually("the child's document is stored", || {
                priority(&mount) == Some(7)
            });
            let said = fs::read_to_string(mount.spool().work().join("said")).unwrap();
            assert_eq!(said, "", "{shell:?}");
        }
    }
}

#[test]
fn a_child_is_refused_after_its_openers_end() {
    let mount = mount_with_x();
    let before = mount.spool().rows();
    let script = "exec > hold/x.json; head -c 30 $WORK/x.json
        (read line < $WORK/in; cat $WORK/x.json; echo $? > $WORK/out) 2> $WORK/said &";
    let _ = mount.bash(script);
    tell(&mount);
    assert_eq!(
        mount.bash("cat $WORK/out; cat $WORK/said").ok(),
        "1\ncat: write error: Bad message"
    );
    mount.refused("close hold/x.json EBADMSG", "");
    assert_eq!(mount.spool().rows(), before);
}

#[test]
fn the_last_close_of_all_commits_what_has_no_verdict() {
    // The opener lives, but gave up its own descriptor; the child's close commits nothing, and
    // then there is nobody left who could.
    let script = r#"
import os, subprocess
fd = os.open("hold/x.json", os.O_WRONLY | os.O_CREAT)
work = os.environ["WORK"]
child = subprocess.Popen(["sh", "-c", "read line < $WORK/in; cat $WORK/x.json"], stdout=fd)
os.close(fd)
with open(work + "/out", "w") as f: f.write("here\n")
assert child.wait() == 0
with open(work + "/out", "w") as f: f.write("written\n")
open(work + "/in").read()
"#;
    let mount = mount();
    let mut writer = mount.start_in(&["python3"], script);
    assert_eq!(hear(&mount), "here");
    tell(&mount);
    assert_eq!(hear(&mount), "written");
    eventually("the document is stored", || priority(&mount) == Some(7));
    assert!(writer.runs());
    tell(&mount);
    writer.wait().ok();

    // The same, with what is refused: only the log and the list of errors can tell.
    let mount = self::mount();
    fs::write(mount.spool().work().join("x.json"), "{\"ID\":").unwrap();
    let writer = mount.start_in(&["python3"], script);
    assert_eq!(hear(&mount), "here");
    tell(&mount);
    assert_eq!(hear(&mount), "written");
    mount.refused("hold/x.json EBADMSG", "");
    assert_eq!(mount.spool().rows(), Vec::<Vec<String>>::new());
    tell(&mount);
    writer.wait().ok();
}

#[test]
fn a_writer_killed_in_the_middle_stores_nothing() {
    for mount in [mount(), mount_with_x()] {
        let before = mount.spool().rows();
        let script = format!("exec > hold/x.json; head -c 30 $WORK/x.json; {PAUSE}");
        let writer = mount.start_in(&["bash"], &script);
        assert_eq!(hear(&mount), "here");
        writer.kill();
        writer.wait_killed();
        mount.refused("hold/x.json EBADMSG", "");
        assert_eq!(mount.spool().rows(), before);
        // And it is in nobody's way.
        mount.bash("cp $WORK/x.json hold/").ok();
        assert_eq!(priority(&mount), Some(7));
    }
}

#[test]
fn a_writer_killed_after_the_last_byte_has_written() {
    for mount in [mount(), mount_with_x()] {
        let script = format!("exec > hold/x.json; cat $WORK/x.json; {PAUSE}");
        let writer = mount.start_in(&["bash"], &script);
        assert_eq!(hear(&mount), "here");
        assert_ne!(priority(&mount), Some(7));
        writer.kill();
        writer.wait_killed();
        eventually("its document is stored", || priority(&mount) == Some(7));
    }
}

#[test]
fn closes_before_anything_is_written_do_nothing() {
    let mount = mount();
    let script = r#"
import os
fd = os.open("hold/x.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
for _ in range(3): os.close(os.dup(fd))
os.write(fd, b'{"ID":"x",')
for _ in range(2):
    try: os.close(os.dup(fd)); print("closed")
    except OSError as e: print(e.strerror)
os.write(fd, b'"Priority":7}')
os.close(os.dup(fd))
print(os.listdir("hold"))
os.close(os.dup(fd)); os.close(fd)
"#;
    assert_eq!(
        mount.python(script).ok(),
        "Bad message\nBad message\n['x.json']"
    );
    assert_eq!(priority(&mount), Some(7));
    assert_eq!(mount.errors(), Vec::<String>::new());
}

#[test]
fn each_handle_has_its_own_draft() {
    let mount = mount_with_x();
    let [one, two] = [(); 2].map(|()| create(mount.path("hold/x.json")).unwrap());
    write(&one, br#"{"ID":"x","Priority":1}"#).unwrap();
    write(&two, br#"{"ID":"x","Priority":2}"#).unwrap();
    close(two).unwrap();
    assert_eq!(priority(&mount), Some(2));
    // The first was opened at a revision that is no more.
    assert_eq!(errno(close(one)), Err(Named(libc::ESTALE)));
    assert_eq!(priority(&mount), Some(2));
}

#[test]
fn what_was_read_before_is_what_a_writer_finds() {
    let mount = mount_with_x();
    let document = document::render(&mount.spool().get("x").unwrap());
    // Opened without truncation, a draft starts from the stored document.
    let script = "exec 5<> hold/x.json; cat <&5 > $WORK/read; exec 5>&-";
    mount.bash(script).ok();
    assert_eq!(
        fs::read(mount.spool().work().join("read")).unwrap(),
        document
    );
    assert_eq!(mount.errors(), Vec::<String>::new());
}
