//! Section 3: rename, unlink and what is refused beside them.

use retryspoolfs::QueueState::{Archived, Bounce, Deferred, Hold, Incoming};
use retryspoolfs::{MessageMetadata, document};

use crate::support::{Named, Spool, errno, eventually, message, rename, rename_with, stat, store};

fn deferred(ids: &[&str]) -> Spool {
    Spool::with(ids.iter().map(|id| message(id, Deferred)))
}

#[test]
fn mv_moves() {
    let spool = deferred(&["a", "b"]);
    let mount = spool.mount("");
    let [a, b] = ["a", "b"].map(|id| spool.get(id).unwrap());
    mount.bash("mv deferred/a.json hold/").ok();
    let moved = spool.get("a").unwrap();
    assert!(moved.updated > a.updated);
    let expected = MessageMetadata {
        state: Hold,
        updated: moved.updated,
        ..a
    };
    assert_eq!(moved, expected);
    assert_eq!(spool.get("b"), Some(b));
    assert_eq!(
        mount.bash("find . -type f | sort").ok(),
        "./deferred/b.json\n./hold/a.json"
    );
    mount
        .bash("mv -n hold/a.json bounce/; mv -f bounce/a.json incoming/a.json")
        .ok();
    assert_eq!(spool.state("a"), Some(Incoming));
    mount
        .bash("cd incoming; mv a.json ../deferred; cd ..; mv -t hold deferred/*")
        .ok();
    assert_eq!(mount.bash("ls hold").ok(), "a.json\nb.json");
    mount
        .shell(
            &["busybox", "sh"],
            "busybox mv hold/a.json hold/b.json bounce",
        )
        .ok();
    assert_eq!(mount.bash("ls bounce").ok(), "a.json\nb.json");
}

#[test]
fn a_message_that_is_elsewhere_now_is_not_moved() {
    let spool = deferred(&["a", "b"]);
    let mount = spool.mount("");
    // The kernel knows both names when somebody else moves one message and removes the other.
    mount
        .bash("stat deferred/a.json deferred/b.json > /dev/null")
        .ok();
    spool.execute(
        "UPDATE messages SET state = 1 WHERE id = 'a'; DELETE FROM messages WHERE id = 'b'",
    );
    for id in ["a", "b"] {
        let from = mount.path(format!("deferred/{id}.json"));
        let renamed = rename(&from, mount.path(format!("hold/{id}.json")));
        assert_eq!(errno(renamed), Err(Named(libc::ENOENT)), "{id}");
    }
    mount
        .bash("mv deferred/a.json hold/")
        .fails("No such file or directory");
    assert_eq!(mount.bash("find . -type f").ok(), "./active/a.json");
}

#[test]
fn rm_removes_only_what_is_there_now() {
    let spool = deferred(&["a", "b", "c"]);
    let mount = spool.mount("");
    mount.bash("rm deferred/a.json").ok();
    assert_eq!(spool.get("a"), None);
    mount.bash("stat deferred/b.json > /dev/null").ok();
    spool.execute("UPDATE messages SET state = 3 WHERE id = 'b'");
    let removed = std::fs::remove_file(mount.path("deferred/b.json"));
    assert_eq!(errno(removed), Err(Named(libc::ENOENT)));
    mount
        .bash("rm deferred/b.json")
        .fails("No such file or directory");
    mount.bash("rm -f deferred/b.json").ok();
    assert_eq!(spool.state("b"), Some(Hold));
    mount
        .bash("unlink deferred/c.json; find hold -type f -delete")
        .ok();
    assert_eq!(mount.bash("find . -type f").ok(), "");
    // A removed message's ID may be used again.
    store(mount.path("hold/a.json"), r#"{"ID":"a"}"#).unwrap();
    assert_eq!(spool.state("a"), Some(Hold));
}

#[test]
fn nodelete_keeps_every_message() {
    let spool = deferred(&["a"]);
    let mount = spool.mount("nodelete");
    let before = spool.rows();
    mount
        .bash("rm -f deferred/a.json")
        .fails("Operation not permitted");
    mount.refused("deferred/a.json EPERM", "");
    assert_eq!(spool.rows(), before);
    mount
        .bash("mv deferred/a.json hold/; echo x > hold/.x; rm hold/.x")
        .ok();
    assert_eq!(spool.state("a"), Some(Hold));
}

#[test]
fn moves_that_are_none_are_refused() {
    let spool = deferred(&["a", "b"]);
    let mount = spool.mount("");
    let before = spool.rows();
    for (from, to) in [
        ("deferred/a.json", "hold/y.json"),
        ("deferred/a.json", "deferred/y.json"),
        ("deferred/a.json", "deferred/b.json"),
        ("deferred/a.json", "hold/b.json"),
        ("deferred/a.json", "y"),
        ("deferred/a.json", "a.json"),
        ("deferred", "later"),
        ("deferred", "hold"),
        ("hold", "deferred/hold"),
        ("deferred/a.json", ".retryspool/a.json"),
    ] {
        let renamed = rename(mount.path(from), mount.path(to));
        assert_eq!(errno(renamed), Err(Named(libc::EPERM)), "{from} {to}");
        mount.refused(&format!("rename {from}"), "EPERM");
    }
    mount
        .bash("mv deferred/a.json hold/y.json")
        .fails("Operation not permitted");
    mount
        .bash("mv -T deferred hold")
        .fails("Operation not permitted");
    mount
        .bash("mv deferred/a.json a.json")
        .fails("Operation not permitted");
    assert_eq!(spool.rows(), before);
    assert_eq!(
        mount.bash("find . -type f | sort").ok(),
        "./deferred/a.json\n./deferred/b.json"
    );
}

#[test]
fn the_flags_of_rename() {
    let spool = deferred(&["a", "b"]);
    let mount = spool.mount("");
    let path = |below: &str| mount.path(below);
    for flags in [libc::RENAME_EXCHANGE, libc::RENAME_WHITEOUT] {
        for to in ["deferred/b.json", "hold/a.json", "deferred/.x"] {
            store(path("deferred/.x"), "scratch").unwrap();
            let renamed = rename_with(path("deferred/a.json"), path(to), flags);
            // An exchange with a name that is not there fails before it reaches a filesystem.
            let expected = match flags == libc::RENAME_EXCHANGE && to == "hold/a.json" {
                true => libc::ENOENT,
                false => libc::EINVAL,
            };
            assert_eq!(errno(renamed), Err(Named(expected)), "{flags} {to}");
        }
    }
    let only_new = libc::RENAME_NOREPLACE;
    let onto = rename_with(path("deferred/a.json"), path("deferred/b.json"), only_new);
    assert_eq!(errno(onto), Err(Named(libc::EEXIST)));
    assert_eq!(spool.count(Deferred), 2);
    rename_with(path("deferred/a.json"), path("hold/a.json"), only_new).unwrap();
    assert_eq!(spool.state("a"), Some(Hold));
    // Onto itself: nothing to do.
    rename(path("hold/a.json"), path("hold/a.json")).unwrap();
    assert_eq!(spool.state("a"), Some(Hold));
}

#[test]
fn an_id_is_in_one_state_at_a_time() {
    let spool = Spool::with([message("a", Deferred), message("old", Archived)]);
    let mount = spool.mount("");
    let before = spool.rows();
    mount
        .bash("cp deferred/a.json hold/a.json")
        .fails("File exists");
    mount.refused("hold/a.json EEXIST", "");
    // The hidden state counts too.
    std::fs::write(spool.work().join("old.json"), r#"{"ID":"old"}"#).unwrap();
    mount.bash("cp $WORK/old.json hold/").fails("File exists");
    mount.refused("hold/old.json EEXIST", "");
    let exclusively = "set -C; cat $WORK/old.json > deferred/a.json";
    mount
        .bash(exclusively)
        .fails("cannot overwrite existing file");
    assert_eq!(spool.rows(), before);
}

#[test]
fn the_tree_grows_no_other_names() {
    let mount = deferred(&["a"]).mount("");
    let before = mount.spool().rows();
    for refused in [
        "mkdir later",
        "mkdir deferred/later",
        "mkdir deferred/later.json",
        "rmdir deferred",
        "rmdir hold",
        "ln deferred/a.json hold/a.json",
        "ln deferred/a.json deferred/.a",
        "ln -s deferred/a.json hold/a.json",
        "ln -s x hold/.lock",
        "mkfifo hold/fifo",
        "mknod hold/null c 1 3",
        "mknod hold/b.json p",
        "rm -d hold",
    ] {
        mount.bash(refused).fails("Operation not permitted");
    }
    for refused in [
        "touch later",
        "echo x > later",
        "cp /dev/null a.json",
        "touch .later",
    ] {
        mount.bash(refused).fails("Operation not permitted");
    }
    mount.bash("mkdir deferred").fails("File exists");
    mount
        .bash("mkdir -p incoming active deferred hold bounce")
        .ok();
    assert_eq!(mount.spool().rows(), before);
    assert_eq!(mount.bash("ls -A | wc -l; ls -A hold | wc -l").ok(), "5\n0");
    mount.refused("mkdir later EPERM", "");
    mount.refused("rmdir deferred EPERM", "");
}

#[test]
fn chmod_chown_and_touch_do_nothing_and_succeed() {
    let mount = deferred(&["a"]).mount("");
    let before = mount.spool().rows();
    let stat = "stat -c '%a %u %g %.9X %.9Y %.9Z' deferred/a.json deferred .";
    let attributes = mount.bash(stat).ok();
    for accepted in [
        "chmod 644 deferred/a.json",
        "chmod -R go+rX .",
        "chown 1:1 deferred/a.json",
        "chown -R nobody hold",
        "chgrp 1 deferred",
        "touch deferred/a.json",
        "touch -d 2001-01-01 deferred/a.json",
        "touch -a deferred",
        "touch .",
    ] {
        mount.bash(accepted).ok();
    }
    eventually("the attributes are what they were", || {
        mount.bash(stat).ok() == attributes
    });
    assert_eq!(mount.spool().rows(), before);
}

#[test]
fn acls_and_foreign_attributes_are_not_supported() {
    let mount = deferred(&["a"]).mount("");
    let script = r#"
import os, errno
for path in "deferred/a.json", "deferred":
    for name in "system.posix_acl_access", "user.mine", "security.mine", "trusted.mine":
        try:
            os.setxattr(path, name, b"\2\0\0\0")
            print(path, name, "was set")
        except OSError as e:
            if e.errno != errno.EOPNOTSUPP: print(path, name, e)
"#;
    assert_eq!(mount.python(script).ok(), "");
    // So the tools that copy ACLs fall back in silence.
    mount
        .bash("jq .Priority=6 deferred/a.json > $WORK/a.json")
        .ok();
    mount
        .bash("cp -p $WORK/a.json deferred/a.json; cp -a $WORK/a.json deferred/")
        .ok();
    mount
        .bash("echo '{\"ID\":\"b\"}' > $WORK/b.json; install -m 644 $WORK/b.json hold/")
        .ok();
    assert_eq!(mount.spool().get("a").unwrap().priority, 6);
    assert_eq!(mount.spool().state("b"), Some(Hold));
}

#[test]
fn many_messages_are_moved_by_many_processes() {
    let spool = Spool::with((0..800).map(|n| message(&format!("m-{n}"), Deferred)));
    let mount = spool.mount("");
    let script = "cd deferred; ls | xargs -P8 -n5 mv -t ../hold; ls | wc -l; ls ../hold | wc -l";
    assert_eq!(mount.bash(script).ok(), "0\n800");
    mount
        .bash("ls hold | head -n 100 | xargs -P8 -I{} mv hold/{} bounce/")
        .ok();
    assert_eq!(spool.count(Bounce), 100);
    mount
        .bash("find hold -name 'm-*' -exec mv -t deferred {} +; find bounce -type f -delete")
        .ok();
    assert_eq!((spool.count(Deferred), spool.count(Bounce)), (700, 0));
    let picked = "grep -l '\"Priority\": 5' -r deferred | head -n 50 | xargs -P8 rm";
    mount.bash(picked).ok();
    assert_eq!(mount.bash("stat -c %s deferred").ok(), "650");
}

#[test]
fn a_busy_store_is_waited_for_and_then_refused() {
    let spool = deferred(&["a"]);
    let mount = spool.mount("busy_timeout=1");
    let other = spool.sql();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    mount
        .bash("mv deferred/a.json hold/")
        .fails("Device or resource busy");
    mount
        .bash("rm deferred/a.json")
        .fails("Device or resource busy");
    mount.refused("deferred/a.json EBUSY", "");
    // Reading does not wait.
    assert_eq!(
        mount.bash("jq -r .ID deferred/a.json; ls deferred").ok(),
        "a\na.json"
    );
    let write = errno(store(
        mount.path("deferred/a.json"),
        r#"{"ID":"a","Priority":1}"#,
    ));
    assert_eq!(write, Err(Named(libc::ETIMEDOUT)));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(spool.get("a").unwrap().priority, 5);
    mount.bash("mv deferred/a.json hold/").ok();
    assert_eq!(spool.state("a"), Some(Hold));
}

#[test]
fn a_reader_keeps_what_it_opened() {
    let mount = deferred(&["a"]).mount("");
    let document = document::render(&mount.spool().get("a").unwrap());
    let script = "exec 3< deferred/a.json; rm deferred/a.json; cat <&3 > $WORK/read; \
                  ls deferred | wc -l";
    assert_eq!(mount.bash(script).ok(), "0");
    let read = std::fs::read(mount.spool().work().join("read")).unwrap();
    assert_eq!(read, document);
    assert_eq!(
        errno(stat(mount.path("deferred/a.json"))),
        Err(Named(libc::ENOENT))
    );
}
