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
            setsid "$@" > /dev/null 2>&1 &
            local user=$!
            [ "$what" = idle ] || eventually under_way
            # With its guard, which would have taken the dead mount away.
            kill -KILL "$(guard)" "$(daemon)"
            eventually gone
            is_mounted /mnt/queue
            mount /mnt/queue
            # With all that it has started.
            kill -KILL -- -$user 2> /dev/null || true
            wait $user 2> /dev/null || true
            eventually bash -c "! pgrep -g $user > /dev/null"
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

/// Nothing has to be done about it: neither mount(8), which mounts nothing twice, nor anybody who
/// looks finds a dead mount.
#[test]
fn a_killed_mount_is_gone_at_once() {
    let said = run(r#"
        install_package
        mkdir -p /mnt/queue; chmod 755 /root
        retryspoolfs init q.db
        echo "/root/q.db /mnt/queue retryspoolfs defaults 0 0" > /etc/fstab
        for signal in KILL ABRT; do
            mount -a
            echo "{\"ID\":\"$signal\"}" | tee /mnt/queue/hold/$signal.json > /dev/null
            kill -$signal "$(daemon)"
            eventually is_free /mnt/queue
            ls -A /mnt/queue
        done
        # One that ended well leaves a mount alone that has its number, which the next one gets.
        for n in $(seq 20); do
            mount -a; mount -a
            umount /mnt/queue
        done
        eventually gone
        mount -a
        echo $(ls /mnt/queue/hold)
        # What is mounted over it is nobody's but its owner's.
        mount -t tmpfs over /mnt/queue
        kill -KILL "$(daemon)"
        eventually gone
        awk '$2 == "/mnt/queue" { print $1 }' /proc/mounts
        umount /mnt/queue
        mount /mnt/queue
        echo $(ls /mnt/queue/hold)
        # Orders to end are the daemon's affair, and its end is its guard's.
        kill -TERM "$(guard)"; kill -INT "$(guard)"; kill -HUP "$(guard)"
        umount /mnt/queue
        eventually gone
        # A user's.
        chmod 666 /dev/fuse
        mkdir -p /srv/user/queue; retryspoolfs init /srv/user/q.db; chown -R 65534:65534 /srv/user
        echo "/srv/user/q.db /srv/user/queue retryspoolfs noauto,user 0 0" > /etc/fstab
        as_user mount /srv/user/queue
        as_user bash -c 'echo "{\"ID\":\"a\"}" | tee /srv/user/queue/hold/a.json > /dev/null'
        kill -KILL "$(daemon)"
        eventually is_free /srv/user/queue
        as_user mount /srv/user/queue
        as_user ls /srv/user/queue/hold
        kill -KILL "$(guard)" "$(daemon)"; eventually gone
        is_mounted /srv/user/queue
        as_user mount /srv/user/queue
        as_user ls /srv/user/queue/hold
        as_user umount /srv/user/queue
    "#);
    let expected = "ABRT.json KILL.json\n/root/q.db\nover\nABRT.json KILL.json\na.json\na.json";
    assert_eq!(said, expected);
}

/// vim saves to the mount that has come back; where its own directory is the dead one it says that
/// it can't. It never loses the text.
#[test]
fn an_editor_outlives_the_mount() {
    let said = run(r#"
        install_package
        mkdir -p /mnt/queue; retryspoolfs init q.db
        echo "/root/q.db /mnt/queue retryspoolfs defaults 0 0" > /etc/fstab
        mount /mnt/queue
        for name in a b; do echo "{\"ID\":\"$name\"}" > /mnt/queue/hold/$name.json; done
        vim_in() { tmux -L "vim-$editing" -f /dev/null "$@"; }
        shows() { vim_in capture-pane -p | grep -q -- "$1"; }
        types() { vim_in send-keys -t it "$@" Enter; }
        edit() { # DIRECTORY FILE WHAT-VIM-SAYS
            editing=$(basename $2 .json); cd $1
            TERM=xterm vim_in new-session -d -x 120 -y 30 -s it "vim --clean -c 'set backupskip=' $2"
            cd /
            eventually shows '"Priority": 5'
            types ':%s/"Priority": 5/"Priority": 7/'
            eventually shows '"Priority": 7'
            kill -KILL "$(guard)" "$(daemon)"; eventually gone
            mount /mnt/queue
            types ':w'
            eventually shows "$3"
            types
            types ':w! /tmp/kept'
            eventually test -s /tmp/kept
            jq .Priority /tmp/kept
            rm /tmp/kept
            vim_in kill-server
        }
        edit / /mnt/queue/hold/a.json 'a.json" 14L, .* written'
        edit /mnt/queue hold/b.json "E[0-9]*: "
        jq .Priority /mnt/queue/hold/*.json
    "#);
    assert_eq!(said, "7\n7\n7\n5");
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
            kill -KILL "$(daemon)"; eventually is_free /mnt/queue
            # Whoever looks next has it mounted again.
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
