//! How a mount begins and ends, its options, and what a killed daemon leaves.
//!
//! It is long because each way to begin has to meet each way that the last one ended.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use retryspoolfs::QueueState::{self, Bounce, Deferred, Hold};
use retryspoolfs::document;

use crate::support::{Mount, Named, Spool, errno, eventually, message, program, rename, store};

fn deferred() -> Spool {
    Spool::with([message("a", Deferred)])
}

/// A mount that must not come about: the complaint is one line, and names what it is about.
#[track_caller]
fn refuses(spool: &Spool, arguments: &str, names: &[&str]) {
    for foreground in ["--foreground", ""] {
        let script = format!("timeout 20 $PROGRAM mount {foreground} {arguments}");
        let output = spool.bash(&script);
        let code = output.status.code().unwrap();
        assert!(code != 0 && code != 124 && code != 101, "{output:#?}");
        assert_eq!(output.stderr.lines().count(), 1, "{output:#?}");
        assert_eq!(output.stdout, "", "{output:#?}");
        for name in names {
            assert!(output.stderr.contains(name), "no {name:?} in {output:#?}");
        }
    }
}

#[test]
fn a_mountpoint_must_be_a_directory_that_is_there() {
    let spool = deferred();
    refuses(&spool, "$SPOOL missing", &["missing"]);
    fs::write(spool.dir().join("file"), "").unwrap();
    refuses(&spool, "$SPOOL file", &["file"]);
    assert_eq!(fs::metadata(spool.dir().join("file")).unwrap().len(), 0);
}

#[test]
fn a_mountpoint_is_mounted_once() {
    let spool = deferred();
    let mount = spool.mount("");
    let point = mount.point().to_str().unwrap();
    refuses(&spool, &format!("$SPOOL {point}"), &[point, "mounted"]);
    assert_eq!(mount.bash("ls deferred").ok(), "a.json");
    // Another filesystem that somebody has mounted there.
    let other = spool.dir().join("other");
    fs::create_dir(&other).unwrap();
    spool.bash("mount -t tmpfs none other").ok();
    refuses(&spool, "$SPOOL other", &["other"]);
    spool.bash("umount other").ok();
}

#[test]
fn a_spool_must_be_there_and_be_one() {
    let spool = deferred();
    fs::create_dir(spool.dir().join("point")).unwrap();
    refuses(&spool, "missing.db point", &["missing.db", "init"]);
    assert!(!spool.dir().join("missing.db").exists());
    refuses(&spool, "no/directory/missing.db point", &["missing.db"]);

    let make = "echo 'not a database, but long enough to be looked at as if it were one' > text.db
        sqlite3 foreign.db 'CREATE TABLE mine (x); INSERT INTO mine VALUES (1)'
        sqlite3 other.db 'CREATE TABLE messages (id INTEGER PRIMARY KEY, body TEXT)'
        cp queue.db newer.db; sqlite3 newer.db 'PRAGMA user_version = 1000'
        head -c 3000 queue.db > cut.db; head -c 40000 /dev/urandom > noise.db";
    spool.bash(make).ok();
    for file in [
        "text.db",
        "foreign.db",
        "other.db",
        "newer.db",
        "cut.db",
        "noise.db",
    ] {
        let before = fs::read(spool.dir().join(file)).unwrap();
        refuses(&spool, &format!("{file} point"), &[file]);
        let after = fs::read(spool.dir().join(file)).unwrap();
        assert!(before == after, "{file} was changed");
    }
    refuses(&spool, "work point", &["work"]);
}

#[test]
fn options_that_are_none_are_refused() {
    let spool = deferred();
    fs::create_dir(spool.dir().join("point")).unwrap();
    for option in [
        "nonsense",
        "uid=x",
        "fmode=9",
        "umask=-1",
        "busy_timeout=soon",
        "ro=1",
        "uid",
    ] {
        refuses(
            &spool,
            &format!("-o {option} $SPOOL point"),
            &[option.split('=').next().unwrap()],
        );
    }
}

#[test]
fn signals_unmount() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let spool = deferred();
        let mount = spool.mount("");
        mount.bash("mv deferred/a.json hold/").ok();
        let point = mount.point().to_owned();
        mount.signal(signal);
        mount.ends_by_itself();
        assert_eq!(fs::read_dir(point).unwrap().count(), 0);
        assert_eq!(spool.state("a"), Some(Hold));
    }
}

#[test]
fn a_mount_goes_to_the_background() {
    let spool = deferred();
    fs::create_dir(spool.dir().join("point")).unwrap();
    // Pipes that the daemon kept open would keep this waiting.
    let output = Command::new(program())
        .arg("mount")
        .args([spool.path(), spool.dir().join("point")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    // It is there when the command has returned.
    assert_eq!(spool.bash("ls point/deferred").ok(), "a.json");
    spool.bash("cd point && mv deferred/a.json hold/").ok();
    spool.bash("umount point").ok();
    assert_eq!(spool.bash("ls -A point").ok(), "");
    let gone = "! pgrep -f \"$SPOOL\" > /dev/null";
    eventually("the daemon is gone", || spool.bash(gone).status.success());
    assert_eq!(spool.state("a"), Some(Hold));
}

/// As mount(8) has it done with -N: in the mounts of another process, and only there.
#[test]
fn the_helper_mounts_in_another_namespace() {
    let spool = deferred();
    let script = r#"
        mkdir point; ln -s $PROGRAM mount.retryspoolfs
        unshare --mount --propagation private sleep 600 &
        other=$!
        trap 'kill $other' EXIT
        eventually() { local n; for n in $(seq 3000); do "$@" && return; sleep 0.01; done; echo "never: $*" >&2; exit 1; }
        is_apart() { [ "$(readlink /proc/$other/ns/mnt)" != "$(readlink /proc/self/ns/mnt)" ]; }
        is_there() { grep -q "$PWD/point fuse.retryspoolfs" /proc/$1/mounts; }
        is_free() { ! is_there $other; }
        daemon() { for pid in $(pgrep -f "$SPOOL"); do [ "$(cat /proc/$pid/comm)" != retryspoolfs ] || echo $pid; done; }
        eventually is_apart
        for namespace in $other /proc/$other/ns/mnt; do
            ./mount.retryspoolfs $SPOOL point -N $namespace
            is_there $other && ! is_there self && echo there
            # Killed, it is taken away there as well.
            kill -KILL $(daemon)
            eventually is_free
        done
        ./mount.retryspoolfs $SPOOL point -N $other
        nsenter -t $other -m ls $PWD/point/deferred
        nsenter -t $other -m umount $PWD/point
        for wrong in nosuch 999999999 /proc/$other/ns/net; do
            ./mount.retryspoolfs $SPOOL point -N $wrong 2>&1 | grep -o "$wrong.*: .*; as root, give" | sed 's/:.*;/:/' || true
        done
    "#;
    let said = spool.bash(script).ok();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], ["there", "there", "a.json"], "{said}");
    assert_eq!(lines.len(), 6, "{said}");
}

#[test]
fn init_makes_a_spool() {
    let spool = deferred();
    spool.bash("umask 0; $PROGRAM init new.db > /dev/null").ok();
    assert_eq!(
        fs::metadata(spool.dir().join("new.db")).unwrap().mode() & 0o777,
        0o600
    );
    fs::create_dir(spool.dir().join("point")).unwrap();
    spool
        .bash("$PROGRAM mount new.db point && ls point && umount point")
        .ok();
    // It harms no spool that is there.
    let before = spool.rows();
    let _ = spool.bash("$PROGRAM init $SPOOL");
    assert_eq!(spool.rows(), before);
    spool
        .bash("echo text > text; $PROGRAM init text")
        .fails("text");
    assert_eq!(fs::read(spool.dir().join("text")).unwrap(), b"text\n");
    spool
        .bash("$PROGRAM init no/such/directory/q.db")
        .fails("no/such/directory");
}

#[test]
fn the_demo_has_messages_in_every_state() {
    let spool = Spool::new();
    let said = spool.bash("$PROGRAM demo demo").ok();
    let result = std::panic::catch_unwind(|| {
        assert!(said.contains("demo/spool"), "{said}");
        let count = "cd demo/spool; for s in incoming active deferred hold bounce; do
            [ $(ls -A $s | wc -l) -gt 0 ] || echo $s is empty
            [ $(ls -A $s | wc -l) = $(stat -c %s $s) ] || echo $s does not count
            jq -e '.ID and .Headers and .Created' $s/*.json > /dev/null || echo $s; done";
        assert_eq!(spool.bash(count).ok(), "");
        // The commands are indented, with what each does behind two spaces; the first one enters
        // the mount. Six of them besides, and they work as they are printed.
        let commands: Vec<&str> = said
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .map(|line| line.split("  ").next().unwrap())
            .collect();
        assert_eq!(commands.len(), 7, "{said}");
        let session = format!("set -e; {}", commands.join("\n"));
        let output = spool.bash(&session);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:#?}"
        );
        assert!(output.stdout.contains("deferred 120\n"), "{output:#?}");
        let held = "cd demo/spool; grep -l @slow.example deferred/* | wc -l; echo $(($(ls hold | wc -l) > 41))";
        assert_eq!(spool.bash(held).ok(), "0\n1");
    });
    spool.bash("umount demo/spool").ok();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
    assert!(spool.dir().join("demo/queue.db").exists());
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let spool = deferred();
    let mount = spool.mount("ro");
    let before = fs::read(spool.path()).unwrap();
    assert_eq!(
        mount
            .bash("jq -r .ID deferred/a.json; stat -c %s deferred")
            .ok(),
        "a\n1"
    );
    for refused in [
        "mv deferred/a.json hold/",
        "rm -f deferred/a.json",
        "cp /etc/hostname deferred/.x",
        "cp /etc/hostname deferred/b.json",
        "cp deferred/a.json hold/a.json",
        "tee deferred/a.json < /dev/null",
        "touch deferred/a.json",
        "mkdir x",
        "chmod 600 deferred/a.json",
    ] {
        mount.bash(refused).fails("Read-only file system");
    }
    assert!(
        fs::read(spool.path()).unwrap() == before,
        "the file was changed"
    );
    // Another's changes are seen all the same.
    spool.execute("UPDATE messages SET state = 3");
    eventually("the move is seen", || {
        mount.bash("ls hold").ok() == "a.json"
    });
}

#[test]
fn a_spool_is_mounted_several_times() {
    let spool = deferred();
    let [one, two] = ["", "fmode=0444"].map(|options| spool.mount(options));
    one.bash("cat deferred/a.json > /dev/null").ok();
    two.bash("mv deferred/a.json hold/").ok();
    let lost = rename(one.path("deferred/a.json"), one.path("bounce/a.json"));
    assert_eq!(errno(lost), Err(Named(libc::ENOENT)));
    assert_eq!(one.bash("find . -type f").ok(), "./hold/a.json");
    store(one.path("bounce/b.json"), r#"{"ID":"b"}"#).unwrap();
    assert_eq!(
        two.bash("stat -c %s bounce; jq -r .ID bounce/b.json").ok(),
        "1\nb"
    );
}

#[test]
fn owners_and_modes_are_options() {
    let spool = deferred();
    let stat = "stat -c '%u %g %a' deferred/a.json deferred . | tr '\\n' '|'";
    for (options, expected) in [
        ("", "0 0 600|0 0 700|0 0 700|"),
        (
            "uid=1234,gid=5678",
            "1234 5678 600|1234 5678 700|1234 5678 700|",
        ),
        ("fmode=0640,dmode=0750", "0 0 640|0 0 750|0 0 750|"),
        ("umask=027", "0 0 640|0 0 750|0 0 750|"),
        ("umask=0077", "0 0 600|0 0 700|0 0 700|"),
        ("umask=022,fmode=0400", "0 0 400|0 0 755|0 0 755|"),
    ] {
        let mount = spool.mount(options);
        assert_eq!(mount.bash(stat).ok(), expected, "{options}");
        // The files of a writer are no exception.
        mount
            .bash("echo '{\"ID\":\"b\"}' > hold/b.json; echo x > hold/.x")
            .ok();
        let file = expected.split('|').next().unwrap();
        assert_eq!(
            mount.bash("stat -c '%u %g %a' hold/b.json").ok(),
            file,
            "{options}"
        );
        mount.bash("rm hold/b.json hold/.x").ok();
    }
}

/// What the users of `allow_other` may do is what modes and owners say.
#[test]
fn other_users_are_held_to_the_modes() {
    let spool = deferred();
    fs::set_permissions(spool.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let private = spool.mount("");
    private.nobody("ls").fails("Permission denied");

    let mount = spool.mount("allow_other,fmode=0644,dmode=0755");
    let options = format!("grep ' {} ' /proc/mounts", mount.point().display());
    let options = mount.bash(&options).ok();
    assert!(
        options.contains("allow_other") && options.contains("default_permissions"),
        "{options}"
    );
    assert_eq!(
        mount.nobody("jq -r .ID deferred/a.json; ls -A hold").ok(),
        "a"
    );
    let before = spool.rows();
    for refused in [
        "mv deferred/a.json hold/",
        "rm -f deferred/a.json",
        "echo '{}' > deferred/a.json",
        "echo x > hold/.x",
    ] {
        mount.nobody(refused).fails("Permission denied");
    }
    for refused in ["chmod 600 deferred/a.json", "chown nobody deferred/a.json"] {
        mount.nobody(refused).fails("Operation not permitted");
    }
    // What was refused, and to whom, is for the mounting user and root alone.
    mount
        .nobody("cat .retryspool/errors")
        .fails("Permission denied");
    assert_eq!(mount.bash("stat -c %a .retryspool/errors").ok(), "600");
    assert_eq!(spool.rows(), before);

    let shared = spool.mount("allow_other,gid=65534,fmode=0660,dmode=0770");
    shared
        .nobody("mv deferred/a.json hold/; jq .Priority=7 hold/a.json | sponge hold/a.json")
        .ok();
    let a = spool.get("a").unwrap();
    assert_eq!((a.state, a.priority), (Hold, 7));
}

#[test]
fn a_user_mounts_with_fusermount3() {
    const NOBODY: u32 = 65534;
    let spool = deferred();
    fs::set_permissions(spool.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    // The build's own directory may be closed to other users.
    let copy = spool.dir().join("retryspoolfs");
    fs::copy(program(), &copy).unwrap();
    let home = spool.dir().join("home");
    let point = home.join("point");
    fs::create_dir_all(&point).unwrap();
    fs::copy(spool.path(), home.join("queue.db")).unwrap();
    for path in [&home, &point, &home.join("queue.db")] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["mount", "--foreground"])
        .arg(home.join("queue.db"))
        .arg(&point);
    let mount = Mount::start(spool.clone(), point.clone(), command);
    let line = spool.bash("grep /point /proc/mounts | grep \"$PWD\"").ok();
    assert!(line.contains("fuse.retryspoolfs"), "{line}");
    assert!(line.contains("user_id=65534"), "{line}");
    assert_eq!(
        mount
            .nobody("ls deferred; stat -c '%u %a' deferred/a.json")
            .ok(),
        "a.json\n65534 600"
    );
    mount
        .nobody("mv deferred/a.json hold/; jq .Priority=7 hold/a.json | sponge hold/a.json")
        .ok();
    assert_eq!(
        mount
            .nobody("find . -type f; jq .Priority hold/a.json")
            .ok(),
        "./hold/a.json\n7"
    );
    mount.nobody("ls -d .; cd /; fusermount3 -u $OLDPWD").ok();
    mount.ends_by_itself();
}

#[test]
fn nothing_that_returned_is_lost_when_the_daemon_is_killed() {
    const EACH: usize = 400;
    let spool = Spool::with((0..EACH).flat_map(|n| {
        [
            message(&format!("move-{n}"), Deferred),
            message(&format!("edit-{n}"), Hold),
            message(&format!("rm-{n}"), Bounce),
        ]
    }));
    for round in 0..3 {
        let mount = spool.mount("");
        // Each line is written when the operation before it has returned.
        let script = r#"
import json, os, sys, threading
round, each = int(sys.argv[1]), int(sys.argv[2])
lock = threading.Lock()
def log(*what):
    with lock: print(*what, file=out, flush=True)
out = open(os.environ["WORK"] + f"/log-{round}", "w")
def write(path, document):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(fd, json.dumps(document).encode()); os.close(fd)
def move(n):
    a, b = ("deferred", "hold") if round % 2 == 0 else ("hold", "deferred")
    os.rename(f"{a}/move-{n}.json", f"{b}/move-{n}.json"); log("move", n, b)
def edit(n):
    with open(f"hold/edit-{n}.json") as f: document = json.load(f)
    document["Priority"] = 1000 * round + n
    if n % 2: write(f"hold/edit-{n}.json", document)
    else: write(f"hold/.{n}", document); os.rename(f"hold/.{n}", f"hold/edit-{n}.json")
    log("edit", n, document["Priority"])
def make(n):
    write(f"incoming/new-{round}-{n}.json", {"ID": f"new-{round}-{n}"}); log("make", f"{round}-{n}")
def remove(n):
    if n % 3 == round: os.unlink(f"bounce/rm-{n}.json"); log("remove", n)
def work(what):
    try:
        for n in range(each): what(n)
    except OSError as e: log("stopped", e.errno)
threads = [threading.Thread(target=work, args=[what]) for what in (move, edit, make, remove)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"#;
        fs::write(spool.work().join("load.py"), script).unwrap();
        let load = mount.start_in(&["bash"], &format!("python3 $WORK/load.py {round} {EACH}"));
        let log = spool.work().join(format!("log-{round}"));
        let lines = || fs::read_to_string(&log).unwrap_or_default();
        eventually("the load is under way", || {
            lines().lines().count() > 300 + 100 * round
        });
        mount.kill();
        load.wait();
        let lines = lines();
        // Some thread saw the end of the daemon, and not the end of what it could do.
        let cut = [libc::ENOTCONN, libc::ECONNABORTED].map(|errno| format!("stopped {errno}"));
        assert!(
            cut.iter().any(|line| lines.contains(line)),
            "the load was over too early"
        );
        for line in lines.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let state = |id: &str| spool.state(id);
            let number = || words[1].parse::<i64>().unwrap();
            match words[0] {
                "move" => {
                    let to: QueueState = words[2].parse().unwrap();
                    assert_eq!(state(&format!("move-{}", words[1])), Some(to), "{line}");
                }
                "edit" => {
                    let priority = spool.get(&format!("edit-{}", number())).unwrap().priority;
                    assert_eq!(priority, 1000 * round as i64 + number(), "{line}");
                }
                "make" => assert!(state(&format!("new-{}", words[1])).is_some(), "{line}"),
                "remove" => assert_eq!(state(&format!("rm-{}", words[1])), None, "{line}"),
                _ => {}
            }
        }
        let whole = "PRAGMA integrity_check";
        let whole: String = spool.sql().query_row(whole, [], |row| row.get(0)).unwrap();
        assert_eq!(whole, "ok");
        let mount = spool.mount("");
        for state in ["incoming", "deferred", "hold", "bounce"] {
            let counted = mount
                .bash(&format!("ls -A {state} | wc -l; stat -c %s {state}"))
                .ok();
            let count = spool.count(state.parse().unwrap());
            assert_eq!(counted, format!("{count}\n{count}"));
        }
    }
}

#[test]
fn a_mount_replaces_its_own_dead_one() {
    let spool = deferred();
    let mount = spool.mount("");
    let point = mount.point().to_owned();
    mount.signal(libc::SIGKILL);
    mount.wait();
    mount.forget();
    assert!(fs::read_dir(&point).is_err());
    let again = Mount::on(spool.clone(), point, "");
    let a = document::render(&spool.get("a").unwrap());
    assert_eq!(fs::read(again.path("deferred/a.json")).unwrap(), a);
}
