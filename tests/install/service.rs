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
