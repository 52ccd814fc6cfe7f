//! Section 3: what tools write, each in its own way, and which of it is stored.

use retryspoolfs::QueueState::{Active, Deferred, Hold};
use retryspoolfs::{MessageMetadata, document};

use crate::support::{
    Mount, Named, Spool, close, create, errno, eventually, message, open, store, truncate, write,
};

/// A mount of `deferred/a.json`, and a copy of it with Priority 7 in `$WORK/a.json`.
fn edited() -> Mount {
    let mount = Spool::with([message("a", Deferred)]).mount("");
    mount
        .bash("jq .Priority=7 deferred/a.json > $WORK/a.json")
        .ok();
    mount
}

/// That exactly the priority was changed, in one step.
#[track_caller]
fn only_priority_is(mount: &Mount, before: &MessageMetadata, priority: i64) {
    let now = mount.spool().get("a").unwrap();
    assert!(now.updated > before.updated, "{now:?}");
    let expected = MessageMetadata {
        priority,
        updated: now.updated,
        ..before.clone()
    };
    assert_eq!(now, expected);
    assert_eq!(
        mount.bash("jq .Priority deferred/a.json").ok(),
        priority.to_string()
    );
    assert_eq!(mount.bash("ls -A deferred").ok(), "a.json");
    // What a tool tries first and then does without is no error of the user's.
    let mut errors = mount.errors();
    errors.retain(|line| !line.starts_with("link "));
    assert_eq!(errors, Vec::<String>::new());
}

/// Each tool sets the Priority of `deferred/a.json` to 7.
#[test]
fn tools_update_a_message() {
    for script in [
        "cp $WORK/a.json deferred/a.json",
        "cp $WORK/a.json deferred/",
        "cat $WORK/a.json > deferred/a.json",
        "cat < $WORK/a.json >| deferred/a.json",
        "jq .Priority=7 deferred/a.json | tee deferred/a.json > /dev/null",
        "jq .Priority=7 deferred/a.json | sponge deferred/a.json",
        "jq -c .Priority=7 deferred/a.json | sponge deferred/a.json",
        r#"sed -i 's/"Priority": 5/"Priority": 7/' deferred/a.json"#,
        r#"busybox sed -i 's/"Priority": 5/"Priority": 7/' deferred/a.json"#,
        r#"perl -pi -e 's/"Priority": 5/"Priority": 7/' deferred/a.json"#,
        r#"python3 -c '
import json
with open("deferred/a.json") as f: d = json.load(f)
d["Priority"] = 7
with open("deferred/a.json", "w") as f: json.dump(d, f)'"#,
        r#"python3 -c '
import json, os
d = json.load(open("deferred/a.json"))
d["Priority"] = 7
with open("deferred/a.json.tmp", "w") as f:
    json.dump(d, f); f.flush(); os.fsync(f.fileno())
os.replace("deferred/a.json.tmp", "deferred/a.json")'"#,
        r#"python3 -c '
import json, os, tempfile
d = json.load(open("deferred/a.json"))
d["Priority"] = 7
with tempfile.NamedTemporaryFile("w", dir="deferred", delete=False) as f: json.dump(d, f)
os.replace(f.name, "deferred/a.json")'"#,
        r#"python3 -c '
with open("deferred/a.json", "r+b") as f:
    at = f.read().index(b"\"Priority\": 5") + len("\"Priority\": ")
    f.seek(at); f.write(b"7")'"#,
        "dd if=$WORK/a.json of=deferred/a.json status=none",
        "dd if=$WORK/a.json of=deferred/a.json bs=16 conv=fsync status=none",
        "dd if=$WORK/a.json of=deferred/a.json bs=16 oflag=sync status=none",
        "dd if=$WORK/a.json of=deferred/a.json bs=1 oflag=dsync status=none",
        "dd if=$WORK/a.json of=deferred/a.json conv=notrunc status=none",
        "exec 5> deferred/a.json; cat $WORK/a.json >&5; exec 5>&-",
        "exec 5<> deferred/a.json; cat $WORK/a.json >&5; exec 5>&-",
        "busybox cp $WORK/a.json deferred/a.json",
        "rsync $WORK/a.json deferred/",
        "rsync -a --inplace --checksum $WORK/a.json deferred/",
        "tar -C $WORK -cf $WORK/a.tar a.json; tar --overwrite -C deferred -xf $WORK/a.tar",
        "mv $WORK/a.json deferred/.a.json.new && mv deferred/.a.json.new deferred/a.json",
        "printf ',s/\"Priority\": 5/\"Priority\": 7/\\nw\\nq\\n' | ed -s deferred/a.json",
        r#"{ echo '{"ID":"a",'; echo '"Priority":7}'; } > deferred/a.json"#,
    ] {
        let mount = edited();
        let before = mount.spool().get("a").unwrap();
        eprintln!("{script}");
        mount.bash(script).ok();
        only_priority_is(&mount, &before, 7);
    }
}

#[test]
fn sed_keeps_a_backup_beside() {
    let mount = edited();
    let before = mount.spool().get("a").unwrap();
    let original = mount.bash("cat deferred/a.json").ok();
    mount
        .bash(r#"sed -i.bak 's/"Priority": 5/"Priority": 7/' deferred/a.json"#)
        .ok();
    only_priority_is(&mount, &before, 7);
    assert_eq!(mount.bash("cat deferred/a.json.bak").ok(), original);
    let before = mount.spool().get("a").unwrap();
    mount
        .bash(r#"perl -pi.orig -e 's/"Priority": 7/"Priority": 8/' deferred/a.json"#)
        .ok();
    only_priority_is(&mount, &before, 8);
}

/// Each tool makes `hold/new.json`.
#[test]
fn tools_make_a_message() {
    for script in [
        "cp $WORK/new.json hold/",
        "cat $WORK/new.json > hold/new.json",
        "jq . $WORK/new.json | tee hold/new.json > /dev/null",
        "sponge hold/new.json < $WORK/new.json",
        "install -m 600 $WORK/new.json hold/",
        "mv $WORK/new.json hold/",
        "tar -C $WORK -cf $WORK/new.tar new.json; tar -C hold -xf $WORK/new.tar",
        "rsync -a $WORK/new.json hold/",
        "dd if=$WORK/new.json of=hold/new.json status=none",
        "dd if=$WORK/new.json of=hold/new.json bs=9 oflag=sync status=none",
        "busybox cp $WORK/new.json hold/new.json",
        "cat $WORK/new.json > hold/new.json.tmp.1a2b3c4d; mv hold/new.json.tmp.1a2b3c4d hold/new.json",
        "touch hold/new.json; cat $WORK/new.json >> hold/new.json",
        "echo '{\"ID\":\"new\",\"Priority\":3}' > hold/new.json",
        "cat > hold/new.json <<< '{\"Priority\":3,\"ID\":\"new\"}'",
        "exec 5> hold/new.json; cat $WORK/new.json >&5; exec 5>&-",
        "python3 -c 'open(\"hold/new.json\", \"x\").write(open(\"'$WORK'/new.json\").read())'",
    ] {
        let spool = Spool::new();
        let mount = spool.mount("");
        let document = r#"{"ID": "new", "Priority": 3}"#;
        std::fs::write(spool.work().join("new.json"), document).unwrap();
        eprintln!("{script}");
        mount.bash(script).ok();
        eventually("it is stored", || spool.get("new").is_some());
        let new = spool.get("new").unwrap();
        assert_eq!(
            (new.state, new.priority, new.max_attempts),
            (Hold, 3, 10),
            "{script}"
        );
        assert_eq!(
            mount.bash("ls -A hold; stat -c %s hold").ok(),
            "new.json\n1",
            "{script}"
        );
    }
}

#[test]
fn a_second_copy_of_the_same_file_changes_nothing() {
    let mount = edited();
    mount.bash("cp $WORK/a.json deferred/").ok();
    let once = mount.spool().rows();
    mount
        .bash(
            "cp $WORK/a.json deferred/; cp deferred/a.json $WORK/b; cat $WORK/b > deferred/a.json",
        )
        .ok();
    mount
        .bash("jq 'del(.Updated)' deferred/a.json | tee deferred/a.json > /dev/null")
        .ok();
    assert_eq!(mount.spool().rows(), once);
}

#[test]
fn an_old_copy_undoes_nothing() {
    let mount = edited();
    let spool = mount.spool();
    // A worker's statement: its clock has whole seconds.
    spool.execute(
        "UPDATE messages SET attempts = 2, updated = CAST(strftime('%s', 'now') AS INTEGER) WHERE id = 'a'",
    );
    let before = spool.rows();
    mount
        .bash("cp $WORK/a.json deferred/")
        .fails("Stale file handle");
    mount.refused("close deferred/a.json ESTALE", "");
    mount
        .bash("cp $WORK/a.json deferred/.new; mv deferred/.new deferred/a.json")
        .fails("Stale file handle");
    mount.refused("rename deferred/.new -> deferred/a.json ESTALE", "");
    assert_eq!(spool.rows(), before);
    // Read again, edited again: accepted.
    mount
        .bash("jq .Priority=7 deferred/a.json | sponge deferred/a.json")
        .ok();
    let now = spool.get("a").unwrap();
    assert_eq!((now.priority, now.attempts), (7, 2));
}

#[test]
fn a_message_that_changed_between_open_and_close_is_kept() {
    for change in [
        "UPDATE messages SET attempts = attempts + 1 WHERE id = 'a'",
        "UPDATE messages SET state = 1 WHERE id = 'a'",
        "DELETE FROM messages WHERE id = 'a'",
    ] {
        let mount = edited();
        let file = create(mount.path("deferred/a.json")).unwrap();
        write(&file, br#"{"ID":"a","Priority":1}"#).unwrap();
        mount.spool().execute(change);
        let after = mount.spool().rows();
        assert_eq!(errno(close(file)), Err(Named(libc::ESTALE)), "{change}");
        mount.refused("close deferred/a.json ESTALE", "");
        assert_eq!(mount.spool().rows(), after, "{change}");
    }
    // A name that was free at open, and is taken at close.
    let mount = Spool::new().mount("");
    let file = create(mount.path("deferred/a.json")).unwrap();
    write(&file, br#"{"ID":"a","Priority":1}"#).unwrap();
    mount
        .spool()
        .open()
        .insert(&ctx(), &message("a", Active))
        .unwrap();
    assert_eq!(errno(close(file)), Err(Named(libc::EEXIST)));
    mount.refused("close deferred/a.json EEXIST", "");
    assert_eq!(mount.spool().get("a").unwrap().priority, 5);
}

fn ctx() -> retryspoolfs::Context {
    retryspoolfs::Context::within(std::time::Duration::from_secs(10))
}

#[test]
fn nobody_sees_a_draft_but_its_writer() {
    let mount = edited();
    let path = mount.path("deferred/a.json");
    let stored = std::fs::read(&path).unwrap();
    let file = open(&path, libc::O_RDWR | libc::O_TRUNC).unwrap();
    let cat = "cat deferred/a.json; stat -c %s deferred/a.json";
    let unchanged = mount.bash(cat).ok();
    assert!(
        unchanged.as_bytes().starts_with(stored.trim_ascii_end()),
        "{unchanged}"
    );
    let half = br#"{"ID":"a","Priority":"#;
    write(&file, half).unwrap();
    assert_eq!(mount.bash(cat).ok(), unchanged);
    // The writer reads its own bytes, and knows their length.
    let mut read = [0; 64];
    let length = std::os::unix::fs::FileExt::read_at(&file, &mut read, 0).unwrap();
    assert_eq!(&read[..length], half);
    assert_eq!(file.metadata().unwrap().len(), half.len() as u64);
    write(&file, b"8}").unwrap();
    assert_eq!(mount.bash(cat).ok(), unchanged);
    close(file).unwrap();
    assert_eq!(mount.bash("jq .Priority deferred/a.json").ok(), "8");
}

#[test]
fn readers_never_see_two_documents_mixed() {
    let mount = Spool::with([message("a", Deferred)]).mount("");
    let script = r#"
import json, os, threading
path, done, seen = "deferred/a.json", False, set()
def read():
    while not done:
        with open(path, "rb", buffering=0) as f:
            text = b""
            while piece := f.read(97): text += piece
        error = json.loads(text)["LastError"]
        assert len(set(error)) == 1 or error.startswith("451"), error
        seen.add(error[0])
failed = []
threading.excepthook = lambda args: failed.append(args.exc_value)
readers = [threading.Thread(target=read) for _ in range(2)]
for reader in readers: reader.start()
for n in range(300):
    letter = "ab"[n % 2]
    with open(path, "w") as f: f.write(json.dumps({"ID": "a", "LastError": letter * (1000 + n)}))
done = True
for reader in readers: reader.join()
assert not failed, failed
print("".join(sorted(seen & {"a", "b"})))
"#;
    assert_eq!(mount.python(script).ok(), "ab");
}

#[test]
fn what_is_empty_or_cut_is_not_stored() {
    let mount = edited();
    let before = mount.spool().rows();
    mount
        .bash("touch hold/new.json; : > hold/new.json; cp /dev/null hold/new2.json")
        .ok();
    mount.refused("hold/new.json", "");
    mount.refused("hold/new2.json", "");
    mount
        .bash("ls hold/new.json")
        .fails("No such file or directory");
    // Shells hide what close said; other tools do not.
    let _ = mount.bash(": > deferred/a.json; truncate -s 0 deferred/a.json");
    mount
        .bash("truncate -s 0 deferred/a.json")
        .fails("Bad message");
    mount
        .bash("cp /dev/null deferred/a.json")
        .fails("Bad message");
    mount
        .bash("head -c 20 $WORK/a.json | tee deferred/a.json")
        .fails("Bad message");
    mount
        .bash("truncate -s 100 deferred/a.json")
        .fails("Bad message");
    mount
        .bash("echo garbage >> deferred/a.json; cat deferred/a.json > /dev/null")
        .ok();
    mount.refused("close deferred/a.json EBADMSG", "");
    assert_eq!(mount.spool().rows(), before);
    assert_eq!(
        mount.bash("jq -r .ID deferred/a.json; ls -A hold").ok(),
        "a"
    );
    // By path, without a handle that could make it whole.
    let by_path = "import os\ntry: os.truncate('deferred/a.json', 0)\nexcept OSError: pass";
    mount.python(by_path).ok();
    assert_eq!(mount.spool().rows(), before);
    assert_eq!(mount.bash("jq -r .ID deferred/a.json").ok(), "a");
}

#[test]
fn fsync_commits_and_refuses_like_a_close() {
    let mount = edited();
    let spool = mount.spool();
    let before = spool.rows();
    let file = create(mount.path("deferred/a.json")).unwrap();
    write(&file, br#"{"ID":"a","Priority":"#).unwrap();
    assert_eq!(errno(file.sync_all()), Err(Named(libc::EBADMSG)));
    assert_eq!(spool.rows(), before);
    // The bytes stay, and more of them make it legal.
    write(&file, b"8}").unwrap();
    file.sync_all().unwrap();
    assert_eq!(spool.get("a").unwrap().priority, 8);
    // The next write is against the revision that this one made.
    truncate(&file, 0).unwrap();
    let at_start = std::os::unix::fs::FileExt::write_at(&file, br#"{"ID":"a","Priority":9}"#, 0);
    at_start.unwrap();
    assert_eq!(spool.get("a").unwrap().priority, 8);
    file.sync_data().unwrap();
    assert_eq!(spool.get("a").unwrap().priority, 9);
    let committed = spool.rows();
    close(file).unwrap();
    assert_eq!(spool.rows(), committed);
}

#[test]
fn a_refused_draft_is_refused_again() {
    let mount = edited();
    let before = mount.spool().rows();
    let file = create(mount.path("deferred/a.json")).unwrap();
    write(&file, b"{]").unwrap();
    assert_eq!(errno(file.sync_all()), Err(Named(libc::EBADMSG)));
    assert_eq!(errno(file.sync_all()), Err(Named(libc::EBADMSG)));
    assert_eq!(errno(close(file)), Err(Named(libc::EBADMSG)));
    assert_eq!(mount.spool().rows(), before);
}

#[test]
fn directories_can_be_synced() {
    let mount = edited();
    mount
        .bash("mv deferred/a.json hold/; sync hold deferred; sync -f hold; sync hold/a.json")
        .ok();
    let script = "import os\nfor d in '.', 'hold': f = os.open(d, os.O_RDONLY); os.fsync(f); os.fdatasync(f)";
    mount.python(script).ok();
}

#[test]
fn sync_mounts_write_the_same() {
    let mount = Spool::with([message("a", Deferred)]).mount("sync");
    mount
        .bash("jq .Priority=7 deferred/a.json | sponge deferred/a.json; mv deferred/a.json hold/")
        .ok();
    store(mount.path("hold/b.json"), r#"{"ID":"b"}"#).unwrap();
    mount.bash("rm hold/b.json").ok();
    let a = mount.spool().get("a").unwrap();
    assert_eq!((a.state, a.priority), (Hold, 7));
    assert_eq!(mount.bash("find . -type f").ok(), "./hold/a.json");
}

#[test]
fn a_states_name_or_number_in_a_document_does_not_decide() {
    let mount = Spool::new().mount("");
    store(mount.path("hold/a.json"), r#"{"ID":"a","State":"active"}"#).unwrap();
    store(mount.path("hold/b.json"), r#"{"ID":"b","State":5}"#).unwrap();
    assert_eq!(mount.bash("jq .State hold/*.json").ok(), "3\n3");
    let written = document::render(&mount.spool().get("a").unwrap());
    assert_eq!(std::fs::read(mount.path("hold/a.json")).unwrap(), written);
}
