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
        under_systemd <<'CHECK'
unit=retryspoolfs@queue.service
show() { systemctl show -p "$1" --value $unit; }
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
        retryspoolfs list q.db | sort
    "#);
    let expected =
        "0 incoming, 0 active, 0 deferred, 0 hold, 0 bounce\nrestarts: 1\nactive\nsuccess\n0\na\nb";
    assert_eq!(said, expected);
}

/// A daemon that hangs, and one whose store is gone, is killed and started again.
#[test]
fn the_watchdog_bites() {
    let said = run(r#"
        install_package
        mkdir -p /etc/retryspoolfs /mnt/queue /etc/systemd/system/retryspoolfs@queue.service.d
        retryspoolfs init /root/q.db
        printf 'SPOOL=/root/q.db\nMOUNTPOINT=/mnt/queue\n' > /etc/retryspoolfs/queue.conf
        printf '[Service]\nWatchdogSec=10\n' > /etc/systemd/system/retryspoolfs@queue.service.d/soon.conf
        under_systemd <<'CHECK'
unit=retryspoolfs@queue.service
show() { systemctl show -p "$1" --value $unit; }
well() { retryspoolfs health /mnt/queue > /dev/null 2>&1; }
again() { well && [ "$(show MainPID)" != "$before" ]; }
systemctl start --job-mode=ignore-dependencies $unit
echo '{"ID":"a"}' | tee /mnt/queue/hold/a.json > /dev/null
before=$(show MainPID)
kill -STOP "$before"
eventually again
echo "restarts: $(show NRestarts)"
before=$(show MainPID)
mv /root/q.db /root/aside
ails() { show StatusText | grep -o 'the store does not answer'; }
eventually ails
bitten() { [ "$(show NRestarts)" -gt 1 ]; }
eventually bitten
mv /root/aside /root/q.db
eventually again
ls /mnt/queue/hold
systemctl stop $unit
show Result
CHECK
    "#);
    let expected = "restarts: 1\nthe store does not answer\na.json\nsuccess";
    assert_eq!(said, expected);
}

/// The example units; after a crash nobody has to do anything.
#[test]
fn systemd_mounts_and_mounts_again() {
    let said = run(r#"
        install_package
        mkdir -p /var/spool/retryspool /mnt/queue
        retryspoolfs init /var/spool/retryspool/queue.db
        cp /usr/share/doc/retryspoolfs/examples/mnt-queue.* /etc/systemd/system/
        under_systemd <<'CHECK'
state() { systemctl is-active mnt-queue.mount mnt-queue.automount | xargs || true; }
killed() { kill -KILL "$(daemon)"; eventually is_free /mnt/queue; }
is() { [ "$(state)" = "$*" ]; }
systemctl start mnt-queue.mount
state
echo '{"ID":"a"}' | tee /mnt/queue/hold/a.json > /dev/null
killed
eventually is inactive inactive
systemctl start mnt-queue.mount
ls /mnt/queue/hold
systemctl stop mnt-queue.mount
eventually gone
state
systemctl start mnt-queue.automount
state
ls /mnt/queue/hold
state
killed
ls /mnt/queue/hold
systemctl stop mnt-queue.automount
state
eventually gone
grep /mnt/queue /proc/mounts || true
CHECK
    "#);
    let expected = "active inactive\na.json\ninactive inactive\ninactive active\na.json\n\
                    active active\na.json\ninactive inactive";
    assert_eq!(said, expected);
}

/// What a boot does with fstab: systemd's generator makes units of it, and targets want them.
#[test]
fn systemd_mounts_what_fstab_says() {
    let said = run(r#"
        install_package
        mkdir -p /mnt/one /mnt/two /mnt/three
        for name in one two three; do retryspoolfs init $name.db; done
        cat > /etc/fstab <<'FSTAB'
/root/one.db /mnt/one retryspoolfs nodelete,x-systemd.requires-mounts-for=/root 0 0
/root/two.db /mnt/two fuse.retryspoolfs _netdev 0 0
/root/three.db /mnt/three retryspoolfs noauto,x-systemd.automount 0 0
FSTAB
        under_systemd <<'CHECK'
state() { systemctl is-active mnt-one.mount mnt-two.mount mnt-three.mount mnt-three.automount | xargs || true; }
mounts() { grep -c fuse.retryspoolfs /proc/mounts || true; }
none() { [ "$(mounts)" = 0 ]; }
systemctl start local-fs.target
state
systemctl start remote-fs.target
state
mount -a
mount -a
mounts
ls /mnt/three | wc -l
mounts
kill -KILL $(daemon)
eventually none
# What a mount command skips as long as it stands in the table.
mount -a
mounts
ls /mnt/three | wc -l
mounts
eventually systemctl is-active --quiet mnt-one.mount
state
systemctl stop local-fs.target remote-fs.target
systemctl stop mnt-one.mount mnt-two.mount mnt-three.automount
state
eventually gone
CHECK
    "#);
    let expected = "active inactive inactive active\nactive active inactive active\n2\n5\n3\n\
                    2\n5\n3\nactive active active active\ninactive inactive inactive inactive";
    assert_eq!(said, expected);
}

/// Where there is no journal, syslog gets them.
#[test]
fn syslog_gets_lines() {
    let said = run(r#"
        install_package
        mkdir -p /mnt/queue /tmp/dev
        retryspoolfs init q.db
        # A /dev of its own, for a socket in it.
        mount --rbind /dev /tmp/dev
        mount -t tmpfs dev /dev
        for name in fuse null urandom; do touch /dev/$name; mount --bind /tmp/dev/$name /dev/$name; done
        cat > /tmp/syslog.py <<'PY'
import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind("/dev/log")
open("/tmp/listens", "w").close()
for n in range(2): print(s.recv(65536).decode(), flush=True)
PY
        python3 /tmp/syslog.py > /tmp/entry &
        eventually test -e /tmp/listens
        retryspoolfs mount q.db /mnt/queue
        echo '{"ID":"a","Priorty":1}' | tee /mnt/queue/hold/a.json > /dev/null 2>&1 || true
        kill -KILL $(daemon)
        wait %1
        sed -E 's/^(<[0-9]+>).{15} /\1 /; s/ \(pid .*//' /tmp/entry
    "#);
    let lines = [
        r#"<28> retryspoolfs: close hold/a.json EBADMSG: unknown key "Priorty" at line 1 column 19; nothing was changed"#,
        "<27> retryspoolfs: mount /mnt/queue: its process was killed by signal 9; its mount was taken away",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), lines);
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
