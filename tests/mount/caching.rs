//! What the kernel keeps: that it need not ask for what nobody changed, and never shows what was
//! changed as if it were not.

use std::collections::BTreeMap;

use retryspoolfs::QueueState::Deferred;

use super::support::{Mount, Spool, eventually, message};

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
    mount.python(&script).ok();
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

/// Whether these are the requests, give or take `lag` of a kind: a request may be counted a moment
/// after its answer.
fn are(requests: &BTreeMap<String, i64>, expected: &BTreeMap<String, i64>, lag: i64) -> bool {
    let number = |of: &BTreeMap<String, i64>, kind| of.get(kind).copied().unwrap_or(0);
    let mut kinds = requests.keys().chain(expected.keys());
    kinds.all(|kind| (number(requests, kind) - number(expected, kind)).abs() <= lag)
}

fn kinds<const N: usize>(kinds: [(&str, i64); N]) -> BTreeMap<String, i64> {
    kinds.map(|(kind, number)| (kind.to_owned(), number)).into()
}

#[test]
fn what_nobody_changed_is_not_asked_for_again() {
    let messages = (0..40).map(|n| message(&format!("m{n:02}"), Deferred));
    let mount = Spool::with(messages).mount("");
    let stat = "import os\nfor n in range(40): os.stat(f'deferred/m{n:02}.json')";
    let list =
        "import os\nfor entry in sorted(os.listdir('deferred')): os.lstat('deferred/' + entry)";
    let cat = "import os
for n in range(40):
    fd = os.open(f'deferred/m{n:02}.json', os.O_RDONLY)
    assert os.read(fd, 131072).endswith(b'}\\n') and os.read(fd, 131072) == b''
    os.close(fd)";
    // The first time each of the mount's threads may have one to count yet.
    let first = |script: &str, expected: BTreeMap<String, i64>| {
        let found = requests(&mount, script);
        assert!(are(&found, &expected, 8), "{script}: {found:?}");
    };
    // Again and again it is none, or the one that counts late. It is asked until it shows: whoever
    // drops the whole system's caches meanwhile drops these.
    let again = |what: &str, script: &str, expected: BTreeMap<String, i64>| {
        eventually(what, || are(&requests(&mount, script), &expected, 1));
    };
    first(stat, kinds([("lookup", 40)]));
    again("a second stat asks for nothing", stat, kinds([]));
    eventually("a listing looks nothing up", || {
        let listed = requests(&mount, list);
        let asked = ["lookup", "getattr"].map(|kind| listed.get(kind).copied().unwrap_or(0));
        asked.iter().all(|number| *number <= 1)
    });
    // The first time the documents are fetched; what looked the names up rendered them.
    first(cat, kinds([("open", 40), ("read", 40)]));
    again("a second cat only opens", cat, kinds([("open", 40)]));

    // Another program changes one of them.
    let sql = "UPDATE messages SET last_error = 'another reason' WHERE id = 'm07'";
    mount.spool().execute(sql);
    let changed = "import os\nassert 'another reason' in open('deferred/m07.json').read()";
    mount.python(changed).ok();
    // It is read past the pages until nothing of before can be on its way.
    let again = "for n in range(40): open('deferred/m07.json').read()";
    eventually("the kernel keeps the new document", || {
        are(&requests(&mount, again), &kinds([("open", 40)]), 1)
    });
    mount.python(changed).ok();
}
