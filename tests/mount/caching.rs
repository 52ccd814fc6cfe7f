//! What the kernel keeps: that it need not ask for what nobody changed, and never shows what was
//! changed as if it were not.

use std::collections::BTreeMap;

use retryspoolfs::QueueState::Deferred;

use super::support::{DEADLINE, Mount, Spool, eventually, message};

/// Documents that nobody has changed for an hour, and that are read in pieces, through the kernel's
/// own pages, while each is changed once.
fn read_in_pieces_while(change: &str) {
    let messages = (0..150).map(|n| message(&format!("m{n}"), Deferred));
    let mount = Spool::with(messages).mount("");
    let script = format!(
        r#"
import json, os, sqlite3, threading, time
sql = sqlite3.connect(os.environ["SPOOL"], timeout=30, isolation_level=None)
failed = []
def read(path, stop):
    while not stop.is_set():
        fd = os.open(path, os.O_RDONLY)
        try:
            text = b""
            while piece := os.read(fd, 131): text += piece
            error = json.loads(text)["LastError"]
            assert error.startswith("451") or len(set(error)) == 1, text
        except Exception as error:
            failed.append((path, error))
        finally:
            os.close(fd)
        os.stat(path)
for n in range(150):
    path, id, text = f"deferred/m{{n}}.json", f"m{{n}}", "x" * (n * 5 + 1)
    stop = threading.Event()
    readers = [threading.Thread(target=read, args=(path, stop)) for _ in range(2)]
    for reader in readers: reader.start()
    os.stat(path)
{change}
    json.load(open(path))
    stop.set()
    for reader in readers: reader.join()
assert not failed, (len(failed), failed[0])
"#
    );
    // Three threads that never rest take their time on a busy machine.
    let script = mount.start_in(&["python3"], &script);
    script.within(3 * DEADLINE).wait().ok();
}

#[test]
fn a_write_by_another_program_mixes_no_documents() {
    let sql = r#"sql.execute("UPDATE messages SET last_error = ? WHERE id = ?", (text, id))"#;
    read_in_pieces_while(&format!("    {sql}"));
}

#[test]
fn a_write_through_the_mount_mixes_no_documents() {
    read_in_pieces_while(
        r#"    with open(path, "w") as f: f.write(json.dumps({"ID": id, "LastError": text}))"#,
    );
}

#[test]
fn a_rename_into_place_mixes_no_documents() {
    read_in_pieces_while(
        r#"    with open("deferred/.new", "w") as f: f.write(json.dumps({"ID": id, "LastError": text}))
    os.rename("deferred/.new", path)"#,
    );
}

/// How many requests of each kind the mount has answered.
fn answered(mount: &Mount) -> BTreeMap<String, i64> {
    let text = std::fs::read_to_string(mount.path(".retryspool/metrics")).unwrap();
    let lines = text.lines();
    lines
        .filter_map(|line| line.strip_prefix("retryspool_operations_total{op=\""))
        .map(|line| {
            let (kind, number) = line.split_once("\"} ").unwrap();
            (kind.to_owned(), number.parse::<f64>().unwrap() as i64)
        })
        .collect()
}

/// The requests that a script needs, those apart that looking at them needs, and those that
/// nobody waits for.
fn requests(mount: &Mount, script: &str) -> BTreeMap<String, i64> {
    let between = |run: &dyn Fn()| {
        let before = answered(mount);
        run();
        let mut after = answered(mount);
        for (kind, number) in &mut after {
            *number -= before.get(kind).copied().unwrap_or(0);
        }
        after
    };
    let looking = between(&|| {});
    let mut needed = between(&|| drop(mount.python(script).ok()));
    for (kind, number) in &mut needed {
        *number -= looking.get(kind).copied().unwrap_or(0);
    }
    needed.retain(|kind, number| {
        *number != 0 && !["release", "releasedir", "forget"].contains(&&**kind)
    });
    needed
}

/// Whether these are the requests. A request may be counted a moment after its answer, so one more
/// or less of a kind says nothing; each script here would need forty.
fn are(requests: &BTreeMap<String, i64>, expected: &BTreeMap<String, i64>) -> bool {
    let number = |of: &BTreeMap<String, i64>, kind| of.get(kind).copied().unwrap_or(0);
    let mut kinds = requests.keys().chain(expected.keys());
    kinds.all(|kind| (number(requests, kind) - number(expected, kind)).abs() <= 1)
}

fn kinds<const N: usize>(kinds: [(&str, i64); N]) -> BTreeMap<String, i64> {
    kinds.map(|(kind, number)| (kind.to_owned(), number)).into()
}

#[test]
fn what_nobody_changed_is_not_asked_for_again() {
    let messages = (0..40).map(|n| message(&format!("m{n:02}"), Deferred));
    let spool = Spool::with(messages);
    let stat = "import os\nfor n in range(40): os.stat(f'deferred/m{n:02}.json')";
    let list =
        "import os\nfor entry in sorted(os.listdir('deferred')): os.lstat('deferred/' + entry)";
    let cat = "import os
for n in range(40):
    fd = os.open(f'deferred/m{n:02}.json', os.O_RDONLY)
    assert os.read(fd, 131072).endswith(b'}\\n') and os.read(fd, 131072) == b''
    os.close(fd)";
    // Each is asked until it shows: several requests at once may be counted late, and whoever drops
    // the whole system's caches meanwhile drops these. The first time is a new mount's.
    eventually("a first stat looks up, a first cat opens and reads", || {
        let mount = spool.mount("");
        are(&requests(&mount, stat), &kinds([("lookup", 40)]))
            // What looked the names up rendered the documents.
            && are(&requests(&mount, cat), &kinds([("open", 40), ("read", 40)]))
    });
    let mount = spool.mount("");
    let again = |what: &str, script: &str, expected: BTreeMap<String, i64>| {
        eventually(what, || are(&requests(&mount, script), &expected));
    };
    again("a second stat asks for nothing", stat, kinds([]));
    eventually("a listing looks nothing up", || {
        let listed = requests(&mount, list);
        let asked = ["lookup", "getattr"].map(|kind| listed.get(kind).copied().unwrap_or(0));
        asked.iter().all(|number| *number <= 1)
    });
    again("a second cat only opens", cat, kinds([("open", 40)]));

    // Another program changes one of them.
    let sql = "UPDATE messages SET last_error = 'another reason' WHERE id = 'm07'";
    mount.spool().execute(sql);
    let changed = "import os\nassert 'another reason' in open('deferred/m07.json').read()";
    mount.python(changed).ok();
    // It is read past the pages until nothing of before can be on its way.
    let again = "for n in range(40): open('deferred/m07.json').read()";
    eventually("the kernel keeps the new document", || {
        are(&requests(&mount, again), &kinds([("open", 40)]))
    });
    mount.python(changed).ok();
}

/// What others do to messages costs a reader of the rest nothing, unless somebody looked at those.
#[test]
fn what_nobody_changed_is_not_asked_for_again_while_others_are_moved() {
    let messages = (0..80).map(|n| message(&format!("m{n:02}"), Deferred));
    let mount = Spool::with(messages).mount("");
    let stat = "import os\nfor n in range(40): os.stat(f'deferred/m{n:02}.json')";
    eventually("a stat asks for nothing", || {
        are(&requests(&mount, stat), &kinds([]))
    });
    let mut moves = 0;
    let mut asked_after_a_move = || {
        moves += 1;
        let state = 2 + moves % 2;
        let sql = format!("UPDATE messages SET state = {state} WHERE id BETWEEN 'm40' AND 'm79'");
        mount.spool().execute(&sql);
        let events = || std::fs::read_to_string(mount.path(".retryspool/events")).unwrap();
        eventually("all is told", || events().lines().count() == 40 * moves);
        let found = requests(&mount, stat);
        found.get("lookup").copied().unwrap_or(0)
    };
    // It is done until it shows: whoever drops the whole system's caches meanwhile drops these.
    eventually("nothing is asked for again", || asked_after_a_move() <= 1);
    mount.bash("stat -c %s */m70.json").ok();
    assert!(asked_after_a_move() >= 39);
    eventually("nothing is asked for again", || asked_after_a_move() <= 1);
}

/// A kernel before 6.16 can't drop all names: it remembers none.
#[test]
fn an_older_kernel_remembers_no_names() {
    let kernel = "jq -c '.kernel | [.names_valid_seconds, .attributes_valid_seconds]' \
                  .retryspool/status";
    let spool = Spool::with((0..40).map(|n| message(&format!("m{n:02}"), Deferred)));
    assert_eq!(spool.mount("").bash(kernel).ok(), "[60,60]");
    for options in ["protocol=43", "protocol=43,entry_timeout=60"] {
        let mount = spool.mount(options);
        assert_eq!(mount.bash(kernel).ok(), "[0,1]");
        let stat = "import os\nfor n in range(40): os.stat(f'deferred/m{n:02}.json')";
        for _ in 0..2 {
            let found = requests(&mount, stat);
            assert!(found.get("lookup").is_some_and(|n| *n >= 32), "{found:?}");
        }
        // So what another program moves is never found under its old name.
        for (state, old, new) in [(3, "deferred", "hold"), (2, "hold", "deferred")] {
            mount.bash(&format!("stat {old}/m07.json")).ok();
            let sql = format!("UPDATE messages SET state = {state} WHERE id = 'm07'");
            spool.execute(&sql);
            let looks = format!("! [ -e {old}/m07.json ] && stat -c %n {new}/m07.json");
            assert_eq!(mount.bash(&looks).ok(), format!("{new}/m07.json"));
        }
        // Nor is a backup taken for the message that it is a copy of.
        let before = spool.rows();
        let set_aside = "import os
os.chdir('deferred')
for n in range(40):
    name = f'm{n:02}.json'
    os.rename(name, name + '~')
    with open(name + '~', 'w') as f: f.write('no message')
    os.unlink(name + '~')
    assert name in os.listdir('.')";
        mount.python(set_aside).ok();
        assert_eq!(spool.rows(), before);
        // Attributes are dropped as they are elsewhere.
        let updated = "stat -c %Y deferred/m03.json";
        mount.bash(updated).ok();
        spool.execute("UPDATE messages SET updated = updated + 1000 WHERE id = 'm03'");
        let now = spool.get("m03").unwrap().updated.seconds().to_string();
        eventually("the new time is seen", || mount.bash(updated).ok() == now);
    }
}
