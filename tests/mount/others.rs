//! Live with other writers of the file: what the kernel remembers follows them, and the control
//! files tell of them. The long run beside a writer at full speed is in `soak`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use retryspoolfs::QueueState::{Deferred, Hold};
use retryspoolfs::Timestamp;

use crate::support::{Mount, Spool, eventually, message, open, stat};

fn deferred(ids: &[&str]) -> Spool {
    Spool::with(ids.iter().map(|id| message(id, Deferred)))
}

/// One of RetrySpool's workers tries the message again.
fn retry(spool: &Spool, id: &str) {
    let now = Timestamp::now().seconds();
    spool.execute(&format!(
        "UPDATE messages SET attempts = attempts + 1, updated = {now} WHERE id = '{id}'"
    ));
}

fn updated(spool: &Spool, id: &str) -> (i64, i64) {
    let updated = spool.get(id).unwrap().updated;
    (updated.seconds(), i64::from(updated.nanos()))
}

fn mtime(found: &impl MetadataExt) -> (i64, i64) {
    (found.mtime(), found.mtime_nsec())
}

/// By its name, through an open file, and through one that is no handle of the daemon's.
#[test]
fn attributes_follow_another_writer() {
    let spool = deferred(&["a"]);
    let mount = spool.mount("");
    let path = mount.path("deferred/a.json");
    let opened = File::open(&path).unwrap();
    let pinned = open(&path, libc::O_RDONLY | libc::O_PATH).unwrap();
    let all = || {
        [
            mtime(&stat(&path).unwrap()),
            mtime(&opened.metadata().unwrap()),
            mtime(&pinned.metadata().unwrap()),
        ]
    };
    for _ in 0..3 {
        assert_eq!(all(), [updated(&spool, "a"); 3]);
        retry(&spool, "a");
        let now = updated(&spool, "a");
        eventually("the new time is seen", || all() == [now; 3]);
    }
    // Many at once: more than are told of one by one.
    let names: Vec<String> = (0..3000).map(|n| format!("m{n}")).collect();
    let store = spool.open();
    for name in &names {
        let ctx = retryspoolfs::Context::within(std::time::Duration::from_secs(60));
        store.insert(&ctx, &message(name, Deferred)).unwrap();
    }
    mount.bash("ls -l deferred | tail -1").ok();
    assert_eq!(all()[1], updated(&spool, "a"));
    spool.execute("UPDATE messages SET attempts = attempts + 1, updated = updated + 100");
    let now = updated(&spool, "a");
    eventually("the new time is seen", || all() == [now; 3]);
}

#[test]
fn names_and_counts_follow_another_writer() {
    let spool = deferred(&["a", "b"]);
    let mount = spool.mount("");
    let look = || {
        mount.bash("stat -c %s deferred hold; ls deferred hold/* 2>&1; cat hold/b.json > /dev/null")
    };
    mount.bash("stat deferred/a.json deferred/b.json hold").ok();
    spool.execute("UPDATE messages SET state = 3 WHERE id = 'b'");
    eventually("the name is gone", || {
        stat(mount.path("deferred/b.json")).is_err()
    });
    let now = || look().ok();
    eventually("the counts are right", || {
        now() == "1\n1\nhold/b.json\n\ndeferred:\na.json"
    });
    spool.execute("DELETE FROM messages WHERE id = 'b'");
    eventually("the message is gone", || {
        stat(mount.path("hold/b.json")).is_err()
    });
    assert_eq!(spool.state("a"), Some(Deferred));
}

/// A daemon that is stopped answers nothing: what is answered all the same, the kernel remembered.
#[test]
fn what_nobody_changes_is_not_asked_for_again() {
    let spool = deferred(&["a", "b"]);
    let mount = spool.mount("");
    let look = "cd deferred; stat -c '%n %s %Y' a.json b.json . > $WORK/stat";
    let seen = || std::fs::read_to_string(spool.work().join("stat")).unwrap();
    // What the mount's first moments dropped is dropped by the second time.
    eventually("it is remembered", || {
        mount.bash(look).ok();
        let before = seen();
        mount.signal(libc::SIGSTOP);
        let again = mount.bash(&format!("timeout 5 bash -c {look:?}; true"));
        mount.signal(libc::SIGCONT);
        again.ok();
        seen() == before
    });
}

/// A listing opens and reads the directory again, and asks for no file. (Of the directory itself
/// the kernel asks once: it takes each reading for a new atime.)
#[test]
fn a_listing_of_what_nobody_changes_looks_nothing_up() {
    let names: Vec<String> = (0..500).map(|n| format!("m{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mount = deferred(&names).mount("");
    let script = r#"
        requests() { grep -E 'operations_total.op="(lookup|getattr)"' .retryspool/metrics |
            awk '{ sum += $2 } END { print sum }'; }
        a=$(requests); b=$(requests); ls -l deferred > /dev/null; c=$(requests)
        echo $(((c - b) - (b - a)))"#;
    eventually("nothing is looked up", || mount.bash(script).ok() == "1");
    mount.bash("mv deferred/m7.json hold/").ok();
    let once = || mount.bash("ls -l deferred hold | grep -c json").ok();
    assert_eq!(once(), "500");
    eventually("again", || mount.bash(script).ok() == "1");
}

#[test]
fn control_files_are_read_by_the_tools() {
    let spool = deferred(&["a", "b"]);
    let mount = spool.mount("");
    let tail = "tail -n 20 -f .retryspool/events > $WORK/tail & echo $!; wait";
    let tailing = mount.start_in(&["bash"], tail);
    mount.bash("mv deferred/a.json hold/").ok();
    retry(&spool, "b");
    let lines = || std::fs::read_to_string(spool.work().join("tail")).unwrap_or_default();
    eventually("tail shows both", || lines().lines().count() == 2);
    spool.execute("DELETE FROM messages WHERE id = 'b'");
    eventually("tail goes on", || lines().lines().count() == 3);
    tailing.kill();
    let read = mount.bash(
        "cd .retryspool; wc -c < events; stat -c %s events; cat events | wc -c
         jq -r .op events; grep -c '\"op\":\"move\"' events; tail -n 1 events | jq -r .op",
    );
    let size = lines().len();
    assert_eq!(
        read.ok(),
        format!("{size}\n{size}\n{size}\nmove\nupdate\ndelete\n1\ndelete")
    );
    assert_eq!(
        mount.bash("cat .retryspool/events").ok(),
        lines().trim_end()
    );
    mount
        .bash("mv hold/none.json bounce/")
        .fails("No such file");
    let moved = mount.bash("mv hold/a.json hold/b.json");
    moved.fails("Operation not permitted");
    mount
        .bash("grep -c EPERM .retryspool/errors; tail -n 1 .retryspool/errors | grep -o keeps")
        .ok();
    for file in ["events", "errors"] {
        let write = mount.bash(&format!("echo x >> .retryspool/{file}"));
        write.fails("Operation not permitted");
    }
}

#[test]
fn control_files_are_the_mounting_users_alone() {
    let spool = deferred(&["a"]);
    let mount = spool.mount("allow_other,umask=0");
    mount.bash("mv deferred/a.json hold/").ok();
    mount.nobody("cat hold/a.json > /dev/null").ok();
    for file in ["events", "errors"] {
        let read = mount.nobody(&format!("cat .retryspool/{file}"));
        read.fails("Permission denied");
        let mode = mount.bash(&format!("stat -c '%a %U' .retryspool/{file}"));
        assert_eq!(mode.ok(), "600 root");
    }
}

/// Waits without asking again and again.
#[test]
fn a_poll_wakes() {
    let spool = deferred(&["a", "b"]);
    let mount = spool.mount("");
    let poller = r#"
import os, select
fd = os.open(".retryspool/events", os.O_RDONLY)
epoll = select.epoll()
epoll.register(fd, select.EPOLLIN)
assert os.read(fd, 100) == b""
os.rename("deferred/a.json", "hold/a.json")
poll = select.poll()
poll.register(fd, select.POLLIN)
assert poll.poll(60_000) == [(fd, select.POLLIN)]
assert epoll.poll(60) == [(fd, select.EPOLLIN)]
line = os.read(fd, 4096)
assert b'"move"' in line, line
assert os.read(fd, 100) == b""
assert poll.poll(0) == [], "nothing more yet"
open(os.environ["WORK"] + "/waits", "w").close()
while poll.poll(60_000):
    line = os.read(fd, 4096)
    if b'"delete"' in line: break
print("woken")
"#;
    let script = mount.start_in(&["python3"], poller);
    let waits = spool.work().join("waits");
    eventually("it was woken once, and waits again", || waits.exists());
    assert_eq!(spool.state("a"), Some(Hold));
    spool.execute("DELETE FROM messages WHERE id = 'b'");
    assert_eq!(script.wait().ok(), "woken");
}

#[test]
fn a_reader_that_falls_behind_is_told_so() {
    let spool = deferred(&["a"]);
    let mount = spool.mount("");
    retry(&spool, "a");
    let events = mount.path(".retryspool/events");
    eventually("there is an event", || stat(&events).unwrap().size() > 0);
    let reader = File::open(&events).unwrap();
    let mut text = vec![0; 1 << 20];
    // In the middle of a line.
    assert_eq!(read(&reader, &mut text[..10]), 10);
    spool.execute(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10000)
         INSERT INTO messages (id, state, max_attempts, next_retry, created, updated)
         SELECT 'm' || n, 2, 3, 0, 0, 0 FROM n;
         DELETE FROM messages WHERE id <> 'a';
         DELETE FROM messages WHERE id = 'a'",
    );
    let last = "tail -n 1 .retryspool/events | jq -r '.op + .id'";
    eventually("all is published", || mount.bash(last).ok() == "deletea");
    let mut read_text = Vec::new();
    loop {
        let part = read(&reader, &mut text);
        if part == 0 {
            break;
        }
        read_text.extend_from_slice(&text[..part]);
    }
    let read_text = String::from_utf8(read_text).unwrap();
    let lines: Vec<&str> = read_text.lines().collect();
    assert_eq!(lines[0], "", "the line that was begun ends");
    assert!(lines[1].contains("fell behind"), "{}", lines[1]);
    let parsed: Vec<serde_json::Value> = lines[1..]
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(parsed[0]["op"], "lost");
    assert!(parsed.len() > 1000 && read_text.len() <= (1 << 20) + 200);
}

fn read(file: &File, buffer: &mut [u8]) -> usize {
    // SAFETY: the buffer is as long as it is said to be.
    let read = unsafe { libc::read(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(read).unwrap()
}

/// Scratch files are listed where nobody takes them for messages.
#[test]
fn scratch_files_are_listed_apart() {
    let mount: Mount = deferred(&["a"]).mount("");
    mount
        .bash("echo one > deferred/.a.json.swp; echo two > hold/note~")
        .ok();
    let listed = mount.bash(
        "cd .retryspool/scratch; ls; ls -A deferred hold; cat deferred/.a.json.swp hold/note~
         rm deferred/.a.json.swp; ls -A deferred",
    );
    assert_eq!(
        listed.ok(),
        "active\nbounce\ndeferred\nhold\nincoming\ndeferred:\n.a.json.swp\n\nhold:\nnote~\none\ntwo"
    );
    assert_eq!(
        mount.bash("ls -A deferred hold").ok(),
        "deferred:\na.json\n\nhold:"
    );
}
