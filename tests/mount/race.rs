//! Many at once: several processes on one mount, and RetrySpool's own statements beside them.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use retryspoolfs::QueueState::{Bounce, Deferred, Hold};
use retryspoolfs::{Context, QueueState};

use crate::support::{Spool, eventually, message};

/// How long a script of thousands of operations may take.
const LONG: Duration = Duration::from_secs(240);

/// Moves every message of deferred, and tells how many it moved, how many were gone, and what else
/// it met.
const MOVER: &str = r#"
import collections, os, sys
work = os.environ["WORK"]
open(f"{work}/ready-{TO}", "x")
while not os.path.exists(f"{work}/start"): pass
met = collections.Counter()
for n in range(10_000):
    try: os.rename(f"deferred/m-{n:05}.json", f"{TO}/m-{n:05}.json"); met["moved"] += 1
    except OSError as e: met[e.strerror] += 1
print(*(f"{what}={count}" for what, count in sorted(met.items())), sep="\n")
"#;

#[test]
fn of_two_movers_of_a_message_one_wins() {
    const MESSAGES: u64 = 10_000;
    let spool = Spool::with((0..MESSAGES).map(|n| message(&format!("m-{n:05}"), Deferred)));
    let mount = spool.mount("");
    let movers = ["hold", "bounce"].map(|to| {
        let script = format!("TO = {to:?}\n{MOVER}");
        mount.start_in(&["python3"], &script).within(LONG)
    });
    // Both wait for this, so that neither is done before the other begins.
    let ready = |to: &str| spool.work().join(format!("ready-{to}")).exists();
    eventually("both are ready", || ready("hold") && ready("bounce"));
    fs::write(spool.work().join("start"), "").unwrap();
    let met = movers.map(|mover| {
        let lines = mover.wait().ok();
        let pairs = lines.lines().map(|line| line.split_once('=').unwrap());
        pairs
            .map(|(what, count)| (what.to_owned(), count.parse().unwrap()))
            .collect::<BTreeMap<String, u64>>()
    });
    let count = |n: usize, what: &str| met[n].get(what).copied().unwrap_or(0);
    for n in [0, 1] {
        let lost = count(n, "No such file or directory");
        assert_eq!(count(n, "moved") + lost, MESSAGES, "{met:?}");
    }
    assert_eq!(count(0, "moved") + count(1, "moved"), MESSAGES, "{met:?}");
    assert_eq!(spool.count(Hold), count(0, "moved"));
    assert_eq!(spool.count(Bounce), count(1, "moved"));
    assert_eq!(spool.count(Deferred), 0);
    let sizes = mount
        .bash("stat -c %s deferred hold bounce | tr '\\n' ' '")
        .ok();
    assert_eq!(
        sizes,
        format!("0 {} {} ", count(0, "moved"), count(1, "moved"))
    );
}

/// Random operations on the mount: whatever succeeds or fails, it fails with an errno that says
/// that somebody was faster.
const ON_THE_MOUNT: &str = r#"
import errno, json, os, random, sys
seed, operations = int(sys.argv[1]), int(sys.argv[2])
random.seed(seed)
states = "incoming active deferred hold bounce".split()
fine = {errno.ENOENT, errno.EEXIST, errno.ESTALE, errno.EBUSY}
def write(path, document, flags=os.O_TRUNC):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags)
    try: os.write(fd, json.dumps(document).encode())
    finally: os.close(fd)
def read(path):
    with open(path) as f: return json.load(f)
done = 0
for n in range(operations):
    id = f"m-{random.randrange(300)}"
    a, b = random.choice(states), random.choice(states)
    path = f"{a}/{id}.json"
    try:
        match random.choice("mmmmccrewtsl"):
            case "m": os.rename(path, f"{b}/{id}.json")
            case "c": write(path, {"ID": id, "Size": n}, os.O_EXCL)
            case "r": os.unlink(path)
            case "e":
                document = read(path)
                document["Attempts"] += 1
                write(path, document)
            case "w": write(path, {"ID": id, "Size": n})
            case "t":
                scratch = f"{b}/.{id}.{seed}"
                write(scratch, {"ID": id, "Priority": n})
                try: os.rename(scratch, path)
                except OSError: os.unlink(scratch); raise
            case "s": write(f"{a}/{random.randrange(20)}~{seed}", n)
            case "l":
                names = [name for name in os.listdir(a) if name.endswith(".json")]
                assert len(names) == len(set(names)), "a name was listed twice"
                if names: assert read(f"{a}/{names[0]}")["ID"] + ".json" == names[0]
        done += 1
    except OSError as e:
        if e.errno not in fine: raise
print(done)
"#;

/// RetrySpool's statements, as one of its workers runs them on the same file.
const IN_THE_FILE: &str = r#"
import os, random, sqlite3, sys, time
seed, operations = int(sys.argv[1]), int(sys.argv[2])
random.seed(seed)
file = sqlite3.connect(os.environ["SPOOL"], timeout=30, isolation_level=None)
done = 0
for n in range(operations):
    id, now = f"m-{random.randrange(300)}", int(time.time())
    a, b = random.randrange(5), random.randrange(5)
    match random.choice("smmmud"):
        case "s":
            done += file.execute("""INSERT OR REPLACE INTO messages (id, state, attempts, max_attempts,
                next_retry, created, updated, last_error, size, priority, headers, retry_policy_name)
                VALUES (?, ?, 0, 3, -62135596800, ?, ?, '', ?, 5, '{"to":"b"}', '')""",
                (id, a, now, now, n)).rowcount
        case "m":
            done += file.execute("UPDATE messages SET state=?, updated=?, headers=? WHERE id=? AND state=?",
                (b, now, '{"moved":"yes"}', id, a)).rowcount
        case "u":
            done += file.execute("""UPDATE messages SET state=?, attempts=?, updated=?, last_error=?
                WHERE id=?""", (b, n, now, "421 later", id)).rowcount
        case "d": done += file.execute("DELETE FROM messages WHERE id=?", (id,)).rowcount
print(done)
"#;

/// `RETRYSPOOLFS_OPERATIONS=100000` for the long run.
#[test]
fn every_count_agrees_after_random_operations() {
    let operations: u64 = std::env::var("RETRYSPOOLFS_OPERATIONS")
        .map_or(20_000, |number| number.parse().expect("a number"));
    let spool = Spool::with((0..150).map(|n| message(&format!("m-{n}"), Deferred)));
    let mount = spool.mount("");
    fs::write(spool.work().join("mount.py"), ON_THE_MOUNT).unwrap();
    fs::write(spool.work().join("file.py"), IN_THE_FILE).unwrap();
    let each = operations / 4;
    let limit = LONG.max(Duration::from_millis(operations * 10));
    let writers = [
        ("mount.py", 1),
        ("mount.py", 2),
        ("mount.py", 3),
        ("file.py", 4),
    ];
    let writers = writers.map(|(script, seed)| {
        let script = format!("python3 $WORK/{script} {seed} {each}");
        mount.start_in(&["bash"], &script).within(limit)
    });
    for writer in writers {
        let done: u64 = writer.wait().ok().parse().unwrap();
        assert!(
            done > each / 20,
            "only {done} of {each} operations did anything"
        );
    }
    let store = spool.open();
    let counter = store.state_counter().expect("it counts");
    let ctx = Context::within(Duration::from_secs(10));
    for state in [0, 1, 2, 3, 4].map(|n| QueueState::from_number(n).unwrap()) {
        let counted = mount.bash(&format!("ls -A {state} | wc -l; stat -c %s {state}"));
        let count = spool.count(state);
        assert_eq!(counted.ok(), format!("{count}\n{count}"), "{state}");
        assert_eq!(
            counter.get_state_count(&ctx, state).unwrap(),
            count,
            "{state}"
        );
        // Not the numbers alone: the same messages.
        let query = format!(
            "SELECT id || '.json' FROM messages WHERE state = {} ORDER BY id",
            state.number()
        );
        let sql = spool.sql();
        let mut rows = sql.prepare(&query).unwrap();
        let rows = rows.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let rows: Vec<String> = rows.map(Result::unwrap).collect();
        let listed = mount.bash(&format!("LC_ALL=C ls -A {state}")).ok();
        assert_eq!(listed.lines().collect::<Vec<_>>(), rows, "{state}");
    }
    let legal = "find . -name '*.json' -exec jq -e .ID {} + > /dev/null";
    mount.bash(legal).ok();
}

/// A name that its own process creates and leaves empty goes with its last close, which reaches the
/// mount any time later: also between the kernel's look at the name and its opening.
#[test]
fn an_open_that_may_create_never_finds_nothing() {
    let mount = Spool::new().mount("");
    let script = r#"
import os
for _ in range(5000):
    os.close(os.open("hold/new.json", os.O_CREAT | os.O_WRONLY | os.O_TRUNC))
"#;
    let creator = mount.start_in(&["python3"], script).within(LONG);
    assert_eq!(creator.wait().ok(), "");
}
