//! Killed in every state, and mounted again by the same command.

use crate::sandbox::run;

/// The command that mounted is given again; nothing else is done about the dead mount.
#[test]
fn a_killed_mount_is_mounted_again_by_the_same_command() {
    let said = run(r#"
        install_package
        mkdir -p /mnt/queue
        retryspoolfs init q.db
        echo "/root/q.db /mnt/queue retryspoolfs defaults 0 0" > /etc/fstab
        mount /mnt/queue
        for n in $(seq 300); do echo "{\"ID\":\"$n\"}" > /mnt/queue/hold/$n.json; done
        stat -c %s /mnt/queue/hold
        killed() { # WHAT COMMAND...
            local what=$1; shift
            "$@" > /dev/null 2>&1 &
            local user=$!
            [ "$what" = idle ] || eventually under_way
            kill -KILL "$(daemon)"
            eventually gone
            mount /mnt/queue
            kill $user 2> /dev/null || true
            wait $user || true
            echo "$what: $(find /mnt/queue/hold /mnt/queue/deferred -name '*.json' | wc -l) of $(cat /mnt/queue/hold/*.json /mnt/queue/deferred/*.json 2> /dev/null | jq -r .ID | sort -u | wc -l)"
            retryspoolfs health /mnt/queue | cut -d ' ' -f 2
        }
        counted() { awk -v op="op=\"$1\"" '/^retryspool_operations_total/ && index($0, op) { n = $2 } END { exit !(n > 20) }' /mnt/queue/.retryspool/metrics; }
        under_way() { true; }
        killed idle true
        under_way() { counted rename; }
        killed rename bash -c 'while :; do mv /mnt/queue/hold/* /mnt/queue/deferred/; mv /mnt/queue/deferred/* /mnt/queue/hold/; done'
        under_way() { counted readdir; }
        killed listing bash -c 'while :; do ls -l /mnt/queue/hold; find /mnt/queue -name "*9.json"; done'
        under_way() { [ -e /tmp/open ]; }
        killed editor python3 -c '
import glob, os, time
os.chdir(os.path.dirname(glob.glob("/mnt/queue/*/1.json")[0]))
draft = open("1.json", "w"); draft.write("{\"ID\": \"1\", \"Prio"); draft.flush()
swap = open(".1.json.swp", "w"); swap.write("x"); swap.flush()
open("/tmp/open", "w").close(); time.sleep(600)'
        jq .Priority /mnt/queue/*/1.json
        umount /mnt/queue
    "#);
    let mut expected = vec!["300".to_owned()];
    for what in ["idle", "rename", "listing", "editor"] {
        expected.extend([format!("{what}: 300 of 300"), "OK".to_owned()]);
    }
    expected.push("5".to_owned());
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

/// What a service manager with Restart=on-failure does.
#[test]
fn a_service_that_is_killed_comes_back() {
    let said = run(r#"
        install_package
        mkdir -p /mnt/queue; retryspoolfs init q.db
        (until retryspoolfs mount --foreground q.db /mnt/queue; do :; done) 2> /tmp/log &
        up() { quietly retryspoolfs health /mnt/queue; }
        eventually up
        for n in 1 2 3; do
            before=$(daemon | head -n 1)
            kill -KILL "$before"
            again() { up && [ "$(pgrep -ox retryspoolfs)" != "$before" ]; }
            eventually again
            echo "{\"ID\":\"$n\"}" | tee /mnt/queue/hold/$n.json > /dev/null
        done
        echo $(ls /mnt/queue/hold)
        kill -TERM "$(daemon | head -n 1)"
        wait
        grep -c ' /mnt/queue ' /proc/mounts || true
    "#);
    assert_eq!(said, "1.json 2.json 3.json\n0");
}

/// An automounter's mount: it waits while the mount is made, and is mounted over.
#[test]
fn an_automounter_mounts_when_somebody_looks() {
    let said = run(r#"
        install_package
        mkdir -p /mnt/queue; retryspoolfs init q.db
        for type in retryspoolfs fuse.retryspoolfs; do
            echo "/mnt/queue -fstype=$type :/root/q.db" > /etc/auto.queue
            echo "/- /etc/auto.queue" > /etc/auto.master
            automount --timeout 600 --dont-check-daemon
            eventually grep -q ' /mnt/queue autofs' /proc/mounts
            ls /mnt/queue | wc -l
            awk '$2 == "/mnt/queue" { print $3 }' /proc/mounts
            kill -KILL "$(daemon)"; eventually gone
            # With the dead mount gone, whoever looks next has it mounted again.
            retryspoolfs umount /mnt/queue
            ls /mnt/queue | wc -l
            retryspoolfs umount /mnt/queue
            kill -TERM "$(pgrep -x automount)"
            eventually bash -c '! pgrep -x automount > /dev/null'
            ! grep ' /mnt/queue ' /proc/mounts
        done
    "#);
    let each = "5\nautofs\nfuse.retryspoolfs\n5\n";
    assert_eq!(said + "\n", each.repeat(2));
}
