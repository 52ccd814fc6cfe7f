//! Scratch files: the names that editors and tools use beside a message.

use std::fs;
use std::os::unix::fs::FileExt;

use retryspoolfs::QueueState::{Active, Deferred, Hold};
use retryspoolfs::document;

use crate::support::{
    Mount, Named, Spool, close, create, errno, message, open, rename, rename_with, stat, store,
    write,
};

fn mount() -> Mount {
    Spool::with([message("a", Deferred)]).mount("")
}

#[test]
fn scratch_files_are_files_that_no_listing_shows() {
    let mount = mount();
    let before = mount.spool().rows();
    for name in [
        ".x.json.swp",
        ".#x.json",
        "#x.json#",
        "4913",
        "x.json~",
        "sedAbC123",
        "x.json.tmp.1a2b3c4d",
        ".x.json.Xyz123",
        ".json",
        "x.JSON",
        "x.json.bak",
        "a b\nc",
        "grüße",
    ] {
        let path = mount.path("deferred").join(name);
        store(&path, "not a document").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"not a document", "{name}");
        let file = open(&path, libc::O_RDWR | libc::O_APPEND).unwrap();
        write(&file, b", really").unwrap();
        close(file).unwrap();
        assert_eq!(
            fs::read(&path).unwrap(),
            b"not a document, really",
            "{name}"
        );
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(3)
            .unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 3, "{name}");
        assert_eq!(
            mount.bash("ls -A deferred; stat -c %s deferred").ok(),
            "a.json\n1",
            "{name}"
        );
        // Another state's directory has its own names.
        assert!(!mount.path("hold").join(name).exists(), "{name}");
        fs::remove_file(&path).unwrap();
        assert_eq!(errno(stat(&path)), Err(Named(libc::ENOENT)), "{name}");
    }
    assert_eq!(mount.spool().rows(), before);
    assert_eq!(mount.errors(), Vec::<String>::new());
}

#[test]
fn scratch_files_are_this_mounts_own() {
    let spool = Spool::new();
    let [one, two] = ["", ""].map(|options| spool.mount(options));
    store(one.path("hold/.x"), "one").unwrap();
    assert!(!two.path("hold/.x").exists());
    store(two.path("hold/.x"), "two").unwrap();
    assert_eq!(fs::read(one.path("hold/.x")).unwrap(), b"one");
}

#[test]
fn scratch_files_are_renamed_among_themselves() {
    let mount = mount();
    let path = |name: &str| mount.path(name);
    store(path("deferred/.one"), "1").unwrap();
    store(path("deferred/.two"), "2").unwrap();
    rename(path("deferred/.one"), path("deferred/.two")).unwrap();
    assert_eq!(fs::read(path("deferred/.two")).unwrap(), b"1");
    assert!(!path("deferred/.one").exists());
    rename(path("deferred/.two"), path("hold/three~")).unwrap();
    assert_eq!(fs::read(path("hold/three~")).unwrap(), b"1");

    store(path("hold/.four"), "4").unwrap();
    let only_new = libc::RENAME_NOREPLACE;
    let onto = rename_with(path("hold/.four"), path("hold/three~"), only_new);
    assert_eq!(errno(onto), Err(Named(libc::EEXIST)));
    assert_eq!(fs::read(path("hold/three~")).unwrap(), b"1");
    rename_with(path("hold/.four"), path("hold/five"), only_new).unwrap();
    assert_eq!(fs::read(path("hold/five")).unwrap(), b"4");
    mount
        .bash("mv hold/five hold/.six; mv -n hold/.six hold/three~; cat hold/three~ hold/.six")
        .ok();
    let missing = rename(path("hold/nothing"), path("hold/.x"));
    assert_eq!(errno(missing), Err(Named(libc::ENOENT)));
}

#[test]
fn a_scratch_file_renamed_to_a_message_is_stored() {
    let mount = mount();
    let spool = mount.spool();
    store(mount.path("hold/new.tmp"), r#"{"ID":"new","Priority":3}"#).unwrap();
    rename(mount.path("hold/new.tmp"), mount.path("hold/new.json")).unwrap();
    assert_eq!(spool.get("new").unwrap().priority, 3);
    assert!(!mount.path("hold/new.tmp").exists());
    // From another directory, onto a message, which is an update.
    mount
        .bash("jq .Priority=8 hold/new.json > deferred/.draft")
        .ok();
    rename(mount.path("deferred/.draft"), mount.path("hold/new.json")).unwrap();
    assert_eq!(spool.get("new").unwrap().priority, 8);

    store(mount.path("hold/.draft"), r#"{"ID":"new"}"#).unwrap();
    let only_new = libc::RENAME_NOREPLACE;
    let onto = rename_with(
        mount.path("hold/.draft"),
        mount.path("hold/new.json"),
        only_new,
    );
    assert_eq!(errno(onto), Err(Named(libc::EEXIST)));
    assert_eq!(spool.count(Hold), 1);
}

/// What RetrySpool's filesystem store does to store, to read, and to move a message.
#[test]
fn retryspools_filesystem_store_works() {
    let mount = Spool::new().mount("archived");
    let script = r#"
import json, os
for state in "incoming active deferred hold bounce archived".split():
    os.makedirs(state, 0o755, exist_ok=True)
def write(state, document, sync):
    temporary = f"{state}/{document['ID']}.json.tmp.1a2b3c4d"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(fd, json.dumps(document, indent=2).encode())
    if sync: os.fsync(fd)
    os.close(fd)
    os.rename(temporary, f"{state}/{document['ID']}.json")
    d = os.open(state, os.O_RDONLY); os.fsync(d); os.close(d)
def read(id):
    for state in os.listdir("."):
        try: os.stat(f"{state}/{id}.json")
        except FileNotFoundError: continue
        return state, json.load(open(f"{state}/{id}.json"))
document = {"ID": "a", "State": 0, "Attempts": 0, "MaxAttempts": 3,
    "NextRetry": "0001-01-01T00:00:00Z", "Created": "2026-01-02T03:04:05.678+01:00",
    "Updated": "2026-01-02T03:04:05.678+01:00", "LastError": "", "Size": 7, "Priority": 5,
    "Headers": None, "RetryPolicyName": ""}
write("incoming", document, True)
state, document = read("a")
assert (state, document["State"]) == ("incoming", 0), document
assert document["Created"] == "2026-01-02T02:04:05.678Z", document
for previous, new, number in ("incoming", "active", 1), ("active", "archived", 5):
    document.update(State=number, Attempts=document["Attempts"] + 1)
    write(new, document, False)
    try: os.unlink(f"{previous}/a.json"); print("unlinked something")
    except FileNotFoundError: pass
    d = os.open(previous, os.O_RDONLY); os.fsync(d); os.close(d)
    state, document = read("a")
    assert (state, document["State"]) == (new, number), document
os.unlink("archived/a.json")
assert read("a") is None
"#;
    assert_eq!(mount.python(script).ok(), "");
    assert_eq!(mount.bash("find . -type f").ok(), "");
}

#[test]
fn a_renamed_file_moves_the_message_of_its_id() {
    let mount = mount();
    let before = mount.spool().get("a").unwrap();
    mount
        .bash("jq '.Attempts = 2' deferred/a.json > active/a.json.tmp.00000000")
        .ok();
    mount
        .bash("mv active/a.json.tmp.00000000 active/a.json")
        .ok();
    let after = mount.spool().get("a").unwrap();
    assert_eq!((after.state, after.attempts), (Active, 2));
    assert!(after.updated > before.updated);
    assert_eq!(mount.bash("find . -type f").ok(), "./active/a.json");
    // An older copy moves nothing.
    fs::write(mount.spool().work().join("old"), document::render(&before)).unwrap();
    mount
        .bash("cp $WORK/old hold/.old; mv hold/.old hold/a.json")
        .fails("Stale file handle");
    assert_eq!(mount.spool().state("a"), Some(Active));
}

#[test]
fn a_message_renamed_to_a_scratch_name_is_copied() {
    let mount = mount();
    let before = mount.spool().rows();
    let original = mount.bash("cat deferred/a.json").ok();
    for copy in ["deferred/a.json.bak", "deferred/.a", "hold/a~"] {
        mount.bash(&format!("mv deferred/a.json {copy}")).ok();
        assert_eq!(
            mount.bash(&format!("cat {copy}; ls -A deferred")).ok(),
            format!("{original}\na.json")
        );
        assert_eq!(mount.spool().rows(), before);
        // The copy is a file of its own.
        mount
            .bash(&format!("echo mine > {copy}; cat deferred/a.json"))
            .ok();
        assert_eq!(mount.bash("cat deferred/a.json").ok(), original);
        mount.bash(&format!("rm {copy}")).ok();
        assert_eq!(mount.spool().rows(), before);
    }
}

#[test]
fn scratch_files_are_bounded() {
    let mount = mount();
    let mebibyte = vec![b'x'; 1 << 20];
    store(mount.path("hold/.one"), &mebibyte).unwrap();
    let file = open(mount.path("hold/.one"), libc::O_WRONLY | libc::O_APPEND).unwrap();
    assert_eq!(errno(write(&file, b"y")), Err(Named(libc::ENOSPC)));
    let _ = close(file);
    assert_eq!(
        fs::metadata(mount.path("hold/.one")).unwrap().len(),
        1 << 20
    );
    for n in 1..64 {
        store(mount.path(format!("hold/.{n}")), &mebibyte).unwrap();
    }
    let one_more = store(mount.path("deferred/.more"), "x");
    assert_eq!(errno(one_more), Err(Named(libc::ENOSPC)));
    mount
        .bash("rm hold/.1; echo x > deferred/.more; rm .retryspool/scratch/*/.*")
        .ok();
    // What was removed gives its room back, and the number is bounded too.
    for n in 0..4_096 {
        store(mount.path(format!("hold/.{n}")), "").unwrap();
    }
    assert_eq!(
        errno(create(mount.path("hold/.more"))),
        Err(Named(libc::ENOSPC))
    );
    mount.bash("rm hold/.7; touch hold/.more; ls -A hold").ok();
    // A full room is in no message's way.
    store(mount.path("hold/b.json"), r#"{"ID":"b"}"#).unwrap();
    mount.bash("mv deferred/a.json hold/; rm hold/b.json").ok();
    mount
        .bash("rm .retryspool/scratch/hold/.[0-9]* hold/.more")
        .ok();
}

#[test]
fn an_unlinked_scratch_file_lives_while_it_is_open() {
    let mount = mount();
    let path = mount.path("hold/.x");
    let file = open(&path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).unwrap();
    write(&file, b"one").unwrap();
    fs::remove_file(&path).unwrap();
    write(&file, b"two").unwrap();
    let mut read = [0; 9];
    assert_eq!(file.read_at(&mut read, 0).unwrap(), 6);
    assert_eq!(&read[..6], b"onetwo");
    assert_eq!(file.metadata().unwrap().len(), 6);
    // Another file may take the name meanwhile.
    store(&path, "new").unwrap();
    file.write_all_at(b"!", 0).unwrap();
    close(file).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    let script = "import tempfile
with tempfile.TemporaryFile(dir='deferred') as f:
    f.write(b'x' * 5000); f.seek(0); print(len(f.read()))";
    assert_eq!(mount.python(script).ok(), "5000");
}

#[test]
fn a_scratch_file_that_was_replaced_lives_while_it_is_open() {
    let mount = mount();
    store(mount.path("hold/.old"), "old").unwrap();
    store(mount.path("hold/.new"), "new").unwrap();
    let old = open(mount.path("hold/.old"), libc::O_RDONLY).unwrap();
    let new = open(mount.path("hold/.new"), libc::O_RDONLY).unwrap();
    rename(mount.path("hold/.new"), mount.path("hold/.old")).unwrap();
    let read = |file: &fs::File| {
        let mut bytes = [0; 3];
        file.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    assert_eq!((read(&old), read(&new)), ("old".into(), "new".into()));
}

#[test]
fn what_is_left_at_unmount_is_saved() {
    let spool = Spool::with([message("a", Deferred)]);
    let mount = spool.mount("");
    mount
        .bash("mkdir $WORK/backup; cp deferred/a.json $WORK/backup/msg-5")
        .ok();
    let typed = mount.bash("cat deferred/a.json").ok();
    mount
        .bash("mv $WORK/backup/msg-5 deferred/; touch hold/.empty; echo gone > hold/.x; rm hold/.x")
        .ok();
    let log = mount.unmount();
    assert!(log.contains("msg-5"), "{log}");
    let saved = spool.dir().join("queue.db.scratch");
    let files = "find . -type f -printf '%f %m\\n'; stat -c %a .; find . -type f -exec cat {} +";
    let output = std::process::Command::new("bash")
        .args(["-c", files])
        .current_dir(saved)
        .output();
    let listed = String::from_utf8(output.unwrap().stdout).unwrap();
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines[0].contains("msg-5"), "{listed}");
    assert_eq!(lines[1], "700", "{listed}");
    assert_eq!(lines[2..].join("\n"), typed);
}

#[test]
fn nothing_is_saved_where_nothing_is_left() {
    let spool = Spool::with([message("a", Deferred)]);
    let mount = spool.mount("");
    mount
        .bash("jq .Priority=7 deferred/a.json > deferred/.new; mv deferred/.new deferred/a.json")
        .ok();
    mount
        .bash("touch hold/.empty; echo > hold/.gone; rm hold/.gone")
        .ok();
    mount.unmount();
    assert!(!spool.dir().join("queue.db.scratch").exists());
    assert_eq!(spool.state("a"), Some(Deferred));
}
