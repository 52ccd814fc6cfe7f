//! What the kernel keeps: that it need not ask for what nobody changed, and never shows what was
//! changed as if it were not.

use retryspoolfs::QueueState::Deferred;

use super::support::{Spool, message};

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
