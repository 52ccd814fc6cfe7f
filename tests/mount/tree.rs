//! Section 2: what the tree lists, and what stat, xattrs and df tell of it.

use retryspoolfs::QueueState::{self, Active, Archived, Bounce, Deferred, Hold, Incoming};
use retryspoolfs::{MessageMetadata, Timestamp, document};

use crate::support::{Mount, Spool, ago, errno, eventually, message, stat, store};

const VISIBLE: [QueueState; 5] = [Incoming, Active, Deferred, Hold, Bounce];

/// `seconds.nanoseconds`, as stat(1) prints a time with `%.9X`.
fn stat_time(time: Timestamp) -> String {
    format!("{}.{:09}", time.seconds(), time.nanos())
}

/// The operator's three ways to count a state, against SQL.
#[track_caller]
fn counts_agree(mount: &Mount) {
    for state in VISIBLE {
        let counted = mount.bash(&format!("ls -A {state} | wc -l; stat -c %s {state}"));
        let count = mount.spool().count(state);
        assert_eq!(counted.ok(), format!("{count}\n{count}"), "{state}");
    }
}

#[test]
fn the_root_lists_the_states_and_nothing_else() {
    let mount = Spool::new().mount("");
    let listed = mount.bash("ls -AU | sort").ok();
    assert_eq!(listed, "active\nbounce\ndeferred\nhold\nincoming");
    assert_eq!(
        mount.bash("find . | sort | head -3").ok(),
        ".\n./active\n./bounce"
    );
    assert!(mount.bash("ls -A .retryspool").ok().contains("errors"));
    mount.bash("ls nothing").fails("No such file or directory");
    mount.bash("ls archived").fails("No such file or directory");
}

#[test]
fn archived_is_shown_when_asked_for() {
    let spool = Spool::with([message("a", Archived), message("b", Hold)]);
    let mount = spool.mount("");
    mount
        .bash("cat archived/a.json")
        .fails("No such file or directory");
    assert_eq!(mount.bash("find . -type f").ok(), "./hold/b.json");
    let all = spool.mount("archived");
    let listed = all
        .bash("ls -A; ls archived; stat -c '%h %s' . archived")
        .ok();
    assert_eq!(
        listed,
        "active\narchived\nbounce\ndeferred\nhold\nincoming\na.json\n8 0\n2 1"
    );
    all.bash("mv archived/a.json hold/").ok();
    assert_eq!(spool.state("a"), Some(Hold));
}

#[test]
fn a_file_is_the_messages_document() {
    let a = message("a", Deferred);
    let mount = Spool::with([a.clone()]).mount("");
    let cat = mount.bash("cat deferred/a.json").ok() + "\n";
    assert_eq!(cat.as_bytes(), document::render(&a));
    let picked = "jq -r '.Attempts, .LastError, .Headers.to' deferred/a.json";
    assert_eq!(
        mount.bash(picked).ok(),
        "1\n451 4.7.1 <bob@example.org> try again later\nuser@example.com"
    );
    assert_eq!(mount.bash("grep -rl '<bob@' .").ok(), "./deferred/a.json");
    assert_eq!(
        mount
            .bash("dd if=deferred/a.json bs=7 skip=1 count=1 2>/dev/null")
            .ok()
            .len(),
        7
    );
}

#[test]
fn a_files_attributes() {
    let a = message("a", Deferred);
    let mount = Spool::with([a.clone()]).mount("");
    let format = "%F|%a|%u|%g|%h|%s|%.9Y|%.9Z|%.9X";
    let [length, updated, created] = [
        document::render(&a).len().to_string(),
        stat_time(a.updated),
        stat_time(a.created),
    ];
    assert_eq!(
        mount
            .bash(&format!("stat -c '{format}' deferred/a.json"))
            .ok(),
        format!("regular file|600|0|0|1|{length}|{updated}|{updated}|{created}")
    );
    mount.bash("mv deferred/a.json hold/").ok();
    let moved = mount.spool().get("a").unwrap();
    assert!(moved.updated > a.updated);
    assert_eq!(
        mount.bash("stat -c '%.9Y|%.9Z|%.9X|%s' hold/a.json").ok(),
        format!(
            "{0}|{0}|{created}|{1}",
            stat_time(moved.updated),
            document::render(&moved).len()
        )
    );
}

#[test]
fn a_directorys_attributes() {
    let mount = Spool::with([message("a", Hold), message("b", Hold)]).mount("");
    let stat = mount.bash("stat -c '%F|%a|%u|%g|%h|%s' . hold bounce").ok();
    let directory = "directory|700|0|0";
    assert_eq!(
        stat.lines().map(|line| line.trim_end()).collect::<Vec<_>>()[1..],
        [format!("{directory}|2|2"), format!("{directory}|2|0")]
    );
    assert!(stat.starts_with(&format!("{directory}|7|")), "{stat}");
}

#[test]
fn a_directorys_time_is_its_states_last_change() {
    let mount = Spool::with([message("a", Deferred), message("b", Bounce)]).mount("");
    let times = || {
        let times = mount.bash("stat -c %.9Y deferred hold bounce").ok();
        let times: Vec<String> = times.lines().map(str::to_owned).collect();
        <[String; 3]>::try_from(times).unwrap()
    };
    let before = times();
    mount.bash("mv deferred/a.json hold/").ok();
    let moved = times();
    assert!(
        moved[0] > before[0] && moved[1] > before[1],
        "{before:?} {moved:?}"
    );
    assert_eq!(moved[2], before[2]);
    mount.bash("rm bounce/b.json").ok();
    assert!(times()[2] > moved[2]);
    // A change by another writer moves it as well.
    let before = times();
    mount
        .spool()
        .execute("UPDATE messages SET state = 4 WHERE id = 'a'");
    eventually("the directories' times move", || {
        let after = times();
        after[1] > before[1] && after[2] > before[2]
    });
}

#[test]
fn listing_size_and_sql_count_the_same() {
    let messages = (0..1_234).map(|n| message(&format!("m-{n}"), VISIBLE[n % 4]));
    let mount = Spool::with(messages).mount("");
    counts_agree(&mount);
    // Scratch files are in no listing and no count.
    mount
        .bash("for s in *; do for n in .x.json.swp x~ 4913; do echo > $s/$n; done; done")
        .ok();
    mount
        .bash("rm incoming/m-0.json; mv deferred/*.json bounce/; cp bounce/m-2.json $WORK")
        .ok();
    mount
        .bash("rm bounce/m-2.json; cp $WORK/m-2.json hold/")
        .ok();
    counts_agree(&mount);
    assert_eq!(mount.spool().count(Deferred), 0);
    let spool = mount.spool();
    spool.execute("DELETE FROM messages WHERE id LIKE 'm-11%'; UPDATE messages SET state = 0 WHERE id LIKE 'm-9%'");
    counts_agree(&mount);
}

#[test]
fn a_long_listing_holds_each_message_once() {
    let messages = (0..5_000).map(|n| message(&format!("m-{n:05}"), Hold));
    let mount = Spool::with(messages).mount("");
    let script =
        "ls -f hold | grep -c json; ls -U hold | sort -u | wc -l; ls -l hold | grep -c json";
    assert_eq!(mount.bash(script).ok(), "5000\n5000\n5000");
    let script = "find hold -type f -printf '%f %i\\n' | sort > $WORK/find; \
                  ls -i hold | awk '{print $2, $1}' | sort | cmp - $WORK/find";
    mount.bash(script).ok();
}

#[test]
fn inodes_are_the_ids() {
    let messages = || ["a", "b"].map(|id| message(id, Deferred));
    let spool = Spool::with(messages());
    let mount = spool.mount("");
    let inode = |mount: &Mount, file: &str| mount.bash(&format!("stat -c %i {file}")).ok();
    let [a, b] = ["a", "b"].map(|id| inode(&mount, &format!("deferred/{id}.json")));
    assert_ne!(a, b);
    mount.bash("mv deferred/a.json hold/").ok();
    assert_eq!(inode(&mount, "hold/a.json"), a);
    assert_eq!(mount.bash("ls -i hold").ok(), format!("{a} a.json"));
    let states = inode(&mount, "incoming active deferred hold bounce .");
    // At the same time on another mount, after a remount, and in another spool.
    let second = spool.mount("ro");
    assert_eq!(inode(&second, "hold/a.json"), a);
    mount.unmount();
    let again = spool.mount("");
    assert_eq!(inode(&again, "hold/a.json"), a);
    assert_eq!(
        inode(&again, "incoming active deferred hold bounce ."),
        states
    );
    let elsewhere = Spool::with(messages()).mount("");
    assert_eq!(inode(&elsewhere, "deferred/a.json"), a);
    assert!(a.parse::<u64>().unwrap() < 1 << 63);
}

#[test]
fn fields_are_extended_attributes() {
    let a = MessageMetadata {
        next_retry: Timestamp::ZERO,
        priority: -7,
        ..message("a", Deferred)
    };
    let mount = Spool::with([a.clone()]).mount("");
    for (name, value) in [
        ("id", "a"),
        ("state", "deferred"),
        ("attempts", "1"),
        ("max_attempts", "10"),
        ("next_retry", "0001-01-01T00:00:00Z"),
        ("created", &a.created.to_string()),
        ("updated", &a.updated.to_string()),
        ("last_error", &a.last_error),
        ("size", "2048"),
        ("priority", "-7"),
        ("retry_policy_name", ""),
        ("header.from", "a@example.org"),
        ("header.to", "user@example.com"),
    ] {
        let get = format!("getfattr -n user.retryspool.{name} --only-values deferred/a.json");
        assert_eq!(mount.bash(&get).ok(), value, "{name}");
    }
    let listed = mount
        .bash("getfattr deferred/a.json | grep -c ^user.retryspool")
        .ok();
    assert_eq!(listed, "13");
    mount
        .bash("getfattr -n user.retryspool.header.cc deferred/a.json")
        .fails("No such attribute");
    let of_directory = mount.bash("getfattr -d deferred").ok();
    assert!(
        of_directory.contains("user.retryspool.count=\"1\""),
        "{of_directory}"
    );
    assert!(
        of_directory.contains("user.retryspool.state=\"deferred\""),
        "{of_directory}"
    );
}

#[test]
fn extended_attributes_are_read_only() {
    let mount = Spool::with([message("a", Deferred)]).mount("");
    let before = mount.spool().rows();
    mount
        .bash("setfattr -n user.retryspool.priority -v 5 deferred/a.json")
        .ok();
    for set in [
        "setfattr -n user.retryspool.priority -v 6 deferred/a.json",
        "setfattr -n user.retryspool.priority -v '' deferred/a.json",
        "setfattr -x user.retryspool.priority deferred/a.json",
        "setfattr -n user.retryspool.count -v 7 deferred",
        "setfattr -n user.mine -v x deferred/a.json",
        "setfattr -n user.mine -v x deferred",
        "setfattr -n trusted.mine -v x deferred/a.json",
    ] {
        mount.bash(set).fails("Operation not supported");
    }
    assert_eq!(mount.spool().rows(), before);
}

#[test]
fn attributes_that_the_kernel_cannot_carry_are_left_out() {
    let headers = [
        ("to".to_owned(), "b@example.org".to_owned()),
        ("n".repeat(300), "long name".to_owned()),
        ("long".to_owned(), "v".repeat(70_000)),
        ("nul\0name".to_owned(), "x".to_owned()),
    ];
    let a = MessageMetadata {
        headers: headers.into(),
        ..message("a", Deferred)
    };
    let mount = Spool::with([a]).mount("");
    let listed = mount.bash("getfattr -d deferred/a.json").ok();
    assert!(listed.contains("header.to=\"b@example.org\""), "{listed}");
    assert!(!listed.contains("long"), "{listed}");
    assert_eq!(
        mount
            .bash("jq '.Headers.long | length' deferred/a.json")
            .ok(),
        "70000"
    );
}

#[test]
fn df_shows_messages_and_the_disk() {
    let mount = Spool::with((0..7).map(|n| message(&format!("m-{n}"), VISIBLE[n % 5]))).mount("");
    let used = "df --output=iused . | tail -1 | tr -d ' '";
    assert_eq!(mount.bash(used).ok(), "7");
    mount.bash("rm hold/m-3.json").ok();
    assert_eq!(mount.bash(used).ok(), "6");
    let size = "df --output=size . | tail -1; df --output=size $SPOOL | tail -1";
    let sizes = mount.bash(size).ok();
    let (of_mount, of_disk) = sizes.split_once('\n').unwrap();
    assert_eq!(of_mount.trim(), of_disk.trim());
}

#[test]
fn find_reads_the_age_in_the_queue_and_since_the_last_change() {
    let old = MessageMetadata {
        created: ago(7 * 86_400),
        ..message("old", Deferred)
    };
    let fresh = MessageMetadata {
        created: ago(120),
        updated: ago(60),
        ..message("fresh", Deferred)
    };
    let mount = Spool::with([old, fresh]).mount("");
    assert_eq!(
        mount.bash("find deferred -type f -amin +60").ok(),
        "deferred/old.json"
    );
    assert_eq!(
        mount.bash("find deferred -type f -mmin -30").ok(),
        "deferred/fresh.json"
    );
    assert_eq!(mount.bash("ls -tu deferred").ok(), "fresh.json\nold.json");
    assert_eq!(
        mount.bash("find . -name '*.json' -size +0 | wc -l").ok(),
        "2"
    );
}

#[test]
fn rows_that_no_name_can_express_are_in_no_directory() {
    let mount = Spool::with([message("a", Hold)]).mount("");
    let long = "x".repeat(251);
    for (id, state) in [
        ("''", 3),
        (&format!("'{long}'")[..], 3),
        ("CAST(x'ff61' AS TEXT)", 3),
        ("'nine'", 9),
        ("'minus'", -1),
    ] {
        mount.spool().execute(&format!(
            "INSERT INTO messages (id, state, attempts, max_attempts, next_retry, created, updated,
               last_error, size, priority, headers, retry_policy_name)
             VALUES ({id}, {state}, 0, 3, -62135596800, 1700000000, 1700000000, '', 1, 5, '{{}}', '')"
        ));
    }
    assert_eq!(mount.bash("find . -type f").ok(), "./hold/a.json");
    assert_eq!(mount.bash("stat -c %s hold; ls -A hold").ok(), "1\na.json");
    assert!(errno(stat(mount.path(format!("hold/{long}.json")))).is_err());
}

#[test]
fn a_row_without_a_document_is_listed_and_unreadable() {
    let mount = Spool::with([message("a", Hold), message("b", Hold)]).mount("");
    mount
        .spool()
        .execute("UPDATE messages SET headers = '{not json' WHERE id = 'a'");
    assert_eq!(
        mount.bash("ls hold; stat -c %s hold").ok(),
        "a.json\nb.json\n2"
    );
    mount.bash("cat hold/a.json").fails("Input/output error");
    assert_eq!(mount.bash("jq -r .ID hold/b.json").ok(), "b");
    // It can still be put aside and removed.
    mount
        .bash("mv hold/a.json bounce/ && rm bounce/a.json")
        .ok();
    assert_eq!(mount.spool().count(Hold), 1);
}

#[test]
fn another_writers_changes_are_seen() {
    let mount = Spool::with([message("a", Deferred)]).mount("");
    mount
        .bash("cat deferred/a.json > /dev/null; ls -l deferred hold")
        .ok();
    mount
        .spool()
        .execute("UPDATE messages SET state = 3 WHERE id = 'a'");
    // Listings are current at once, names within a moment.
    assert_eq!(
        mount.bash("ls -A deferred | wc -l; ls hold").ok(),
        "0\na.json"
    );
    eventually("the old name is gone", || {
        !mount.path("deferred/a.json").exists()
    });
    mount
        .bash("cat hold/b.json")
        .fails("No such file or directory");
    mount.spool().execute(
        "INSERT OR REPLACE INTO messages (id, state, attempts, max_attempts, next_retry, created,
           updated, last_error, size, priority, headers, retry_policy_name)
         VALUES ('b', 3, 0, 3, -62135596800, 1700000000, 1700000000, '', 1, 5, '{}', '')",
    );
    assert_eq!(mount.bash("jq .MaxAttempts hold/b.json").ok(), "3");
}

#[test]
fn the_mount_says_what_it_is() {
    let spool = Spool::new();
    let mount = spool.mount("");
    let script = format!("grep ' {} ' /proc/mounts", mount.point().display());
    let line = mount.bash(&script).ok();
    let fields: Vec<&str> = line.split(' ').collect();
    assert!(fields[2].starts_with("fuse"), "{line}");
    assert!(fields[0].contains(spool.path().to_str().unwrap()), "{line}");
    for option in ["rw", "nosuid", "nodev", "noexec"] {
        assert!(fields[3].split(',').any(|has| has == option), "{line}");
    }
    mount
        .bash("cp /bin/true hold/.true; chmod +x hold/.true; hold/.true")
        .fails("Permission denied");
}

#[test]
fn empty_documents_of_a_new_message_have_defaults() {
    let mount = Spool::new().mount("");
    store(mount.path("hold/a.json"), r#"{"ID":"a"}"#).unwrap();
    let a = mount.spool().get("a").unwrap();
    let expected = MessageMetadata {
        state: Hold,
        created: a.created,
        updated: a.updated,
        ..MessageMetadata::new("a".parse().unwrap())
    };
    assert_eq!(a, expected);
    assert!(a.created > ago(60) && a.updated > ago(60));
}
