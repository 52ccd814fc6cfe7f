//! The unit, under systemd itself: with nothing but what it needs, in a sandbox's own namespaces.

use crate::sandbox::run;

/// Started, killed, reloaded and stopped while somebody uses it; its restrictions let it work.
#[test]
fn systemd_starts_restarts_and_stops_it() {
    let said = run(r#"
        install_package
        mkdir -p /etc/retryspoolfs /mnt/queue
        retryspoolfs init /root/q.db
        printf 'SPOOL=/root/q.db\nMOUNTPOINT=/mnt/queue\n' > /etc/retryspoolfs/queue.conf
        rm -rf /etc/systemd/system/*.wants /lib/systemd/system/*.target.wants
        cat > /etc/systemd/system/check.service <<'UNIT'
[Unit]
DefaultDependencies=no
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/bin/bash -euo pipefail /tmp/check.sh
StandardOutput=file:/tmp/out
StandardError=append:/tmp/out
UNIT
        cat > /tmp/check.sh <<'CHECK'
unit=retryspoolfs@queue.service
show() { systemctl show -p "$1" --value $unit; }
eventually() { local n; for n in $(seq 3000); do "$@" && return; sleep 0.01; done; echo "never: $*"; return 1; }
well() { retryspoolfs health /mnt/queue > /dev/null; }
systemctl start --job-mode=ignore-dependencies $unit
well
show StatusText
echo '{"ID":"a"}' | tee /mnt/queue/hold/a.json > /dev/null
before=$(show MainPID)
kill -KILL "$before"
again() { well && [ "$(show MainPID)" != "$before" ]; }
eventually again
echo "restarts: $(show NRestarts)"
mv /mnt/queue/hold/a.json /mnt/queue/deferred/
systemctl reload $unit
show ActiveState
# Somebody is in the way, with a document that is not closed yet.
cat > /tmp/user.py <<'PY'
import os, time
os.chdir("/mnt/queue/hold")
draft = open("b.json", "w"); draft.write('{"ID": "b"}'); draft.flush()
open("/tmp/open", "w").close(); time.sleep(600)
PY
python3 /tmp/user.py &
eventually test -e /tmp/open
systemctl stop $unit
show Result
grep -c ' /mnt/queue ' /proc/mounts || true
CHECK
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        unshare --mount --pid --cgroup --fork --kill-child --mount-proc env -i container=other \
            PATH="$PATH" /lib/systemd/systemd --system --unit=check.service > /tmp/systemd 2>&1 || true
        cat /tmp/out || cat /tmp/systemd
        retryspoolfs list q.db | sort
    "#);
    let expected =
        "0 incoming, 0 active, 0 deferred, 0 hold, 0 bounce\nrestarts: 1\nactive\nsuccess\n0\na\nb";
    assert_eq!(said, expected);
}

/// In the background lines go to the journal, with fields that can be searched for.
#[test]
fn the_journal_gets_fields() {
    let said = run(r#"
        install_package
        mkdir -p /mnt/queue /run/systemd/journal
        retryspoolfs init q.db
        cat > /tmp/journal.py <<'PY'
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind("/run/systemd/journal/socket")
open("/tmp/listens", "w").close()
# The protocol of the journal: a line a field, or a field's name, its length and its bytes.
while True:
    data, entry = s.recv(65536), {}
    while data:
        line, _, data = data.partition(b"\n")
        name, is_short, value = line.partition(b"=")
        if not is_short:
            length = int.from_bytes(data[:8], "little")
            value, data = data[8:8 + length], data[8 + length + 1:]
        entry[name.decode()] = value.decode()
    if "OP" in entry:
        for name in "PRIORITY SYSLOG_IDENTIFIER OP PATH ERRNO COMMAND".split(): print(name, entry[name])
        print("PID", entry["PID"].isdigit(), "MESSAGE", entry["MESSAGE"].split(" (")[0])
        break
PY
        python3 /tmp/journal.py > /tmp/entry &
        eventually test -e /tmp/listens
        retryspoolfs mount q.db /mnt/queue
        echo '{"ID":"a","Priorty":1}' | tee /mnt/queue/hold/a.json > /dev/null 2>&1 || true
        wait %1
        cat /tmp/entry
        umount /mnt/queue
    "#);
    let reason = r#"unknown key "Priorty" at line 1 column 19; nothing was changed"#;
    let expected = [
        "PRIORITY 4",
        "SYSLOG_IDENTIFIER retryspoolfs",
        "OP close",
        "PATH hold/a.json",
        "ERRNO EBADMSG",
        "COMMAND tee",
        &format!("PID True MESSAGE close hold/a.json EBADMSG: {reason}"),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}
