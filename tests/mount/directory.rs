//! RetrySpool's own directory, mounted while a queue like RetrySpool's works in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use retryspoolfs::QueueState::{self, Active, Archived, Bounce, Deferred, Hold, Incoming};
use retryspoolfs::{Backend, Context, Error, document};

use crate::support::{Mount, Spool, eventually, message};

/// A program that does to a directory what RetrySpool's store and queue do, in the same order.
static RETRYSPOOL: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = target.join("retryspool");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/retryspool");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .args([sources.join("main.go"), sources.join("store.go")])
        .env("GOCACHE", target.join("go-cache"))
        .env("GOFLAGS", "-mod=mod")
        .output()
        .expect("this test needs Go: apt-get install golang-go");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    program
});

/// Runs RetrySpool's store once, and gives what it printed.
#[track_caller]
fn retryspool(spool: &Spool, operation: &str, arguments: &[&str]) -> Result<String, String> {
    let done = Command::new(&*RETRYSPOOL)
        .arg(operation)
        .arg(spool.path())
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    match done.status.success() {
        true => Ok(text(done.stdout)),
        false => Err(text(done.stderr)),
    }
}

fn mount() -> Mount {
    Spool::directory([message("a", Deferred)]).mount("archived")
}

#[test]
fn retryspools_store_and_the_mount_see_each_others_messages() {
    let mount = mount();
    let spool = mount.spool();
    retryspool(spool, "put", &["b", "0"]).unwrap();
    let shown = mount.bash("ls incoming; jq -r .Headers.from,.Headers.subject incoming/b.json");
    assert_eq!(shown.ok(), "b.json\n<a@example.org>\nA & B");
    // Theirs moves what ours moved, and the other way round.
    mount.bash("mv incoming/b.json hold/").ok();
    retryspool(spool, "move", &["b", "3", "1"]).unwrap();
    assert_eq!(
        retryspool(spool, "move", &["b", "3", "1"]).unwrap_err(),
        "retryspool: state conflict\n"
    );
    mount.bash("mv active/b.json deferred/").ok();
    mount.bash("mv active/b.json hold/").fails("No such file");
    // An edit of ours is read by theirs, and one of theirs makes ours stale.
    mount
        .bash("jq '.LastError = \"<x> & \\\"y\\\"\"' deferred/b.json > $WORK/new; cp $WORK/new deferred/b.json")
        .ok();
    let shown = retryspool(spool, "show", &["b"]).unwrap();
    assert!(shown.contains(r#""State":2"#), "{shown}");
    assert!(
        shown.contains(r#""LastError":"\u003cx\u003e \u0026 \"y\"""#),
        "{shown}"
    );
    mount.bash("cp deferred/b.json $WORK/old").ok();
    retryspool(spool, "update", &["b", "2"]).unwrap();
    mount
        .bash("jq .Priority=1 $WORK/old > $WORK/new; cp $WORK/new deferred/b.json")
        .fails("Stale file handle");
    assert_eq!(mount.bash("jq .Attempts deferred/b.json").ok(), "1");
    retryspool(spool, "remove", &["b"]).unwrap();
    assert_eq!(
        mount.bash("ls -A deferred; stat -c %s deferred").ok(),
        "a.json\n1"
    );
    mount.bash("rm deferred/a.json").ok();
    assert_eq!(
        retryspool(spool, "show", &["a"]).unwrap_err(),
        "retryspool: message not found\n"
    );
}

#[test]
fn a_file_of_ours_is_as_theirs() {
    let spool = Spool::directory([]);
    fs::set_permissions(
        spool.path().join("hold"),
        std::os::unix::fs::PermissionsExt::from_mode(0o775),
    )
    .unwrap();
    std::os::unix::fs::chown(spool.path().join("hold"), Some(1234), Some(4321)).unwrap();
    let mount = spool.mount("");
    mount
        .bash("echo '{\"ID\":\"x\"}' | tee hold/x.json > /dev/null")
        .ok();
    let new = fs::metadata(spool.path().join("hold/x.json")).unwrap();
    assert_eq!(
        (new.uid(), new.gid(), new.mode() & 0o777),
        (1234, 4321, 0o664)
    );
    // One that is there keeps what it has, in another directory too.
    let file = spool.path().join("hold/x.json");
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&file, Some(99), None).unwrap();
    mount.bash("mv hold/x.json deferred/; jq .Size=3 deferred/x.json > $WORK/x; cp $WORK/x deferred/x.json").ok();
    let moved = fs::metadata(spool.path().join("deferred/x.json")).unwrap();
    assert_eq!(
        (moved.uid(), moved.gid(), moved.mode() & 0o777),
        (99, 4321, 0o640)
    );
    let text = fs::read_to_string(spool.path().join("deferred/x.json")).unwrap();
    assert!(
        text.starts_with("{\n  \"ID\": \"x\",\n  \"State\": 2,\n"),
        "{text}"
    );
}

#[test]
fn an_id_that_has_no_file_name_there_is_refused() {
    let mount = mount();
    for (name, id) in [("a%2Fb.json", "a/b"), ("x.tmp.json", "x.tmp")] {
        mount
            .bash(&format!(
                "echo '{{\"ID\":\"{id}\"}}' > $WORK/d; cp $WORK/d hold/{name}"
            ))
            .fails("Invalid argument");
        mount.refused(
            &format!("hold/{name} EINVAL"),
            "RetrySpool's own directory can't hold this ID",
        );
    }
    assert_eq!(mount.bash("find . -type f").ok(), "./deferred/a.json");
}

/// How a message is seen in two states: the inodes of both files.
type Double = [(QueueState, u64); 2];

/// Looks at the directory itself again and again, and fails when a message is in the same two
/// states for more than a second.
fn watch_doubles(path: &Path, ended: &AtomicBool) -> usize {
    let mut since: BTreeMap<(String, Double), Instant> = BTreeMap::new();
    let mut met = 0;
    while !ended.load(Ordering::Relaxed) {
        let mut found: BTreeMap<String, Vec<QueueState>> = BTreeMap::new();
        for state in QueueState::ALL {
            for entry in fs::read_dir(path.join(state.as_str())).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if name.ends_with(".json") {
                    found.entry(name).or_default().push(state);
                }
            }
        }
        let mut now = BTreeMap::new();
        for (name, states) in found {
            let inode = |state: QueueState| {
                let file = path.join(state.as_str()).join(&name);
                Some((state, fs::symlink_metadata(file).ok()?.ino()))
            };
            if let [a, b, ..] = states[..]
                && let (Some(a), Some(b)) = (inode(a), inode(b))
            {
                let key = (name, [a, b]);
                let first = since.get(&key).copied().unwrap_or_else(|| {
                    met += 1;
                    Instant::now()
                });
                assert!(
                    first.elapsed() < Duration::from_secs(1),
                    "in two states for more than a second: {key:?}"
                );
                now.insert(key, first);
            }
        }
        since = now;
        std::thread::sleep(Duration::from_millis(20));
    }
    met
}

/// What an operator does through the mount, as fast as it goes.
const OPERATOR: &str = r#"
import errno, json, os, random, sys
ended = os.environ["WORK"] + "/ended"
states = "incoming active deferred hold bounce archived".split()
fine = {errno.ENOENT, errno.EEXIST, errno.ESTALE, errno.EBUSY}
done = 0
while not os.path.exists(ended):
    a, b = random.sample(states, 2)
    names = [name for name in os.listdir(a) if name.endswith(".json")]
    assert len(names) == len(set(names)), "a name was listed twice"
    for name in random.sample(names, min(len(names), 20)):
        try:
            match random.choice("mmmre"):
                case "m": os.rename(f"{a}/{name}", f"{b}/{name}")
                case "r":
                    with open(f"{a}/{name}") as f: assert json.load(f)["ID"] + ".json" == name
                case "e":
                    with open(f"{a}/{name}") as f: document = json.load(f)
                    document["Priority"] = random.randrange(9)
                    fd = os.open(f"{a}/{name}", os.O_WRONLY | os.O_TRUNC)
                    try: os.write(fd, json.dumps(document).encode())
                    finally: os.close(fd)
            done += 1
        except OSError as e:
            if e.errno not in fine: raise
print(done)
"#;

/// One process of RetrySpool's, two mounts, and the library: four that know of each other only by
/// what is in the directory. (Two processes of RetrySpool's lose messages to each other without
/// any help, because neither looks at what the other one does between its steps.)
///
/// `RETRYSPOOLFS_SOAK_SECONDS=600` for the long run.
#[test]
fn beside_a_queue_at_work_no_message_is_lost_or_in_two_states() {
    let seconds: u64 = std::env::var("RETRYSPOOLFS_SOAK_SECONDS")
        .map_or(4, |number| number.parse().expect("a number"));
    let spool = Spool::directory([]);
    let [mount, second] = ["archived", "archived"].map(|options| spool.mount(options));
    let (at_rest, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let limit = Duration::from_secs(seconds + 60);
    fs::write(spool.work().join("busy.py"), OPERATOR).unwrap();
    let path = spool.path();
    let (stored, met) = std::thread::scope(|scope| {
        // Also when something fails before the end.
        let _end = [End(&ended), End(&at_rest)];
        let doubles = scope.spawn(|| watch_doubles(&path, &ended));
        let worker = Command::new(&*RETRYSPOOL)
            .args(["work".as_ref(), path.as_os_str()])
            .args(["m", &seconds.to_string(), "4"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let operators = [&mount, &second].map(|mount| {
            let operator = mount.start_in(&["bash"], "python3 $WORK/busy.py");
            operator.within(limit)
        });
        let mover = scope.spawn(|| move_by_library(&*spool.open(), &at_rest));
        let output = worker.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let ids = String::from_utf8(output.stdout).unwrap();
        let stored: BTreeSet<String> = ids.lines().map(str::to_owned).collect();
        fs::write(spool.work().join("ended"), "").unwrap();
        let by_mount = operators.map(|operator| operator.wait().ok().parse::<u64>().unwrap());
        at_rest.store(true, Ordering::Relaxed);
        let by_library = mover.join().unwrap();
        // What is in two states now has a second more.
        let all = || {
            QueueState::ALL
                .into_iter()
                .map(|state| spool.count(state))
                .sum::<u64>()
        };
        let start = Instant::now();
        while stored.len() as u64 != all() && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
        }
        ended.store(true, Ordering::Relaxed);
        let enough = |done: u64| done > 10;
        assert!(
            by_mount.into_iter().all(enough) && enough(by_library),
            "{by_mount:?} {by_library}"
        );
        eprintln!(
            "{} messages; {by_mount:?} operations on the mounts, {by_library} by the library",
            stored.len()
        );
        (stored, doubles.join().unwrap())
    });
    eprintln!("{met} times a message was seen in two states");
    let mut found = BTreeSet::new();
    for state in QueueState::ALL {
        let listed = mount
            .bash(&format!("ls -A {state}; stat -c %s {state}"))
            .ok();
        let (names, size) = match listed.rsplit_once('\n') {
            Some((names, size)) => (names, size),
            None => ("", &*listed),
        };
        assert_eq!(size, names.lines().count().to_string(), "{state}");
        for name in names.lines() {
            let id = name.strip_suffix(".json").unwrap().to_owned();
            let shown = fs::read(spool.path().join(state.as_str()).join(name)).unwrap();
            let document: serde_json::Value = serde_json::from_slice(&shown).unwrap();
            assert_eq!(document["State"], state.number(), "{name}");
            assert!(found.insert(id), "{name} is in two states");
        }
    }
    let lost: Vec<_> = stored.difference(&found).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert_eq!(found, stored);
}

/// Ends what runs until then.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Moves messages about by the library, and gives how many.
fn move_by_library(store: &dyn Backend, ended: &AtomicBool) -> u64 {
    let mut moved = 0;
    let mut turn = 0;
    while !ended.load(Ordering::Relaxed) {
        let states = [Incoming, Deferred, Bounce, Archived, Hold, Active];
        let (from, to) = (states[turn % 6], states[(turn + 1 + turn % 4) % 6]);
        turn += 1;
        let ctx = Context::within(Duration::from_secs(10));
        for id in store.scan(&ctx, from, None, 30).unwrap() {
            match store.relocate(&ctx, &id, from, to) {
                Ok(_) => moved += 1,
                Err(Error::NotFound | Error::StateConflict { .. } | Error::Busy(_)) => {}
                Err(e) => panic!("{id}: {e}"),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    moved
}

#[test]
fn commands_know_a_directory() {
    let spool = Spool::directory([]);
    spool
        .bash("$PROGRAM mount $SPOOL $SPOOL/hold")
        .fails("is in the spool itself");
    spool
        .bash("$PROGRAM mount dir:$WORK/none $WORK")
        .fails("retryspoolfs init dir:");
    spool
        .bash("$PROGRAM init dir:$WORK/new; stat -c %a $WORK/new; ls $WORK/new > $WORK/list")
        .ok();
    let made = spool.bash("cat $WORK/list").ok();
    assert_eq!(made, "active\narchived\nbounce\ndeferred\nhold\nincoming");
    spool
        .bash("$PROGRAM demo --directory $WORK/demo > $WORK/said")
        .ok();
    let shown = "cd $WORK/demo/spool; stat -c %s deferred; ls deferred | wc -l; cd /; umount $WORK/demo/spool";
    assert_eq!(spool.bash(shown).ok(), "120\n120");
    let first = "f=$(ls $WORK/demo/meta/hold | head -n 1); echo '{' > $WORK/demo/meta/hold/$f";
    spool.bash(first).ok();
    let checked = spool.bash("$PROGRAM check $WORK/demo/meta");
    assert!(
        !checked.status.success() && checked.stdout.contains("hold/"),
        "{checked:?}"
    );
}

#[test]
fn what_the_kernel_had_no_room_to_tell_is_found_and_told_as_lost() {
    let mount = mount();
    let meta = mount.spool().path();
    assert_eq!(mount.bash("stat -c %s deferred hold").ok(), "1\n0");
    let room = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let room: usize = room.trim().parse().unwrap();
    // Each file is two events, and the last ones find no room while nobody reads.
    let count = room / 2 + 1000;
    mount.signal(libc::SIGSTOP);
    eventually("all threads of the daemon have stopped", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", mount.pid())).unwrap();
        tasks.flatten().all(|task| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            status.contains("State:\tT")
        })
    });
    for nth in 0..count {
        let id = format!("m{nth:06}");
        let bytes = document::render(&message(&id, Hold));
        fs::write(meta.join(format!("hold/{id}.json")), bytes).unwrap();
    }
    fs::remove_file(meta.join("deferred/a.json")).unwrap();
    mount.signal(libc::SIGCONT);
    let listed = mount.bash("ls -A deferred; ls hold | wc -l");
    assert_eq!(listed.ok(), format!("{count}"));
    // The kernel may show sizes that it was given before, for a moment.
    eventually("the counts are right", || {
        mount.bash("stat -c %s deferred hold").ok() == format!("0\n{count}")
    });
    eventually("the log says that changes are missing", || {
        let events = fs::read_to_string(mount.path(".retryspool/events")).unwrap();
        events.contains("changes were missed")
    });
}
