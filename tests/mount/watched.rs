//! What watches a mount: the control files, the health check, a service manager, the log; and how
//! it ends while somebody uses it.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use retryspoolfs::QueueState::{Bounce, Deferred, Hold};
use serde_json::Value;

use crate::support::{DEADLINE, Mount, Spool, close, create, eventually, message, program, write};

fn spool() -> Spool {
    Spool::with([
        message("a", Deferred),
        message("b", Deferred),
        message("c", Hold),
    ])
}

/// A mount by a command with these variables and arguments.
fn mount_with(spool: &Spool, variables: &[(&str, &str)], arguments: &[&str]) -> Mount {
    let point = spool.dir().join("watched");
    fs::create_dir_all(&point).unwrap();
    let mut command = Command::new(program());
    command
        .args(["mount", "--foreground"])
        .args(arguments)
        .arg(spool.path())
        .arg(&point)
        .envs(variables.iter().copied());
    Mount::start(spool.clone(), point, command)
}

fn status(mount: &Mount) -> Value {
    serde_json::from_slice(&fs::read(mount.path(".retryspool/status")).unwrap()).unwrap()
}

#[test]
fn the_status_tells_what_is_known() {
    let spool = spool();
    for (id, state) in [("odd", 9), ("", 2)] {
        spool.execute(&format!(
            "INSERT INTO messages (id, state, attempts, max_attempts, next_retry, created, updated, last_error, size, priority, headers) \
             SELECT '{id}', {state}, attempts, max_attempts, next_retry, created, updated, last_error, size, priority, headers FROM messages WHERE id = 'a'"
        ));
    }
    spool.execute("UPDATE messages SET headers = 'not JSON' WHERE id = 'c'");
    let mount = spool.mount("nodelete,fmode=0644,allow_other,dmode=0755");
    mount.bash("rm -f deferred/a.json").fails("not permitted");
    let told = status(&mount);
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    let store = told["store"].as_str().unwrap();
    assert!(store.ends_with(spool.path().to_str().unwrap()), "{store}");
    assert_eq!(told["options"]["nodelete"], true);
    assert_eq!(told["options"]["fmode"], "0644");
    assert_eq!(told["messages"], 3);
    let deferred = &told["states"]["deferred"];
    assert_eq!(deferred["count"], 2);
    let oldest = spool.get("a").unwrap().created;
    let due = spool.get("a").unwrap().next_retry;
    for (told, expected) in [(&deferred["oldest"], oldest), (&deferred["next_due"], due)] {
        // To the second.
        let second = |time: &str| time[..19].to_owned();
        assert_eq!(
            second(told.as_str().unwrap()),
            second(&expected.to_string())
        );
    }
    assert_eq!(told["inexpressible"], 2);
    assert_eq!(told["feed"]["behind"], 0);
    eventually("the refusal is counted", || {
        status(&mount)["refusals"]["EPERM"] == 1
    });
    eventually("what can't be read is found", || {
        status(&mount)["unreadable"] == 1
    });
    // A file for tools, whoever may look in.
    mount.nobody("jq -e .messages .retryspool/status; cp .retryspool/status /dev/stdout | wc -l | grep -vx 0 > /dev/null").ok();
    let modes = mount
        .bash("stat -c '%a %s' .retryspool/status .retryspool/metrics")
        .ok();
    assert_eq!(modes, "444 0\n444 0");
    for refused in [
        "echo x >> .retryspool/status",
        "rm -f .retryspool/metrics",
        "mv .retryspool/status hold/",
    ] {
        assert!(!mount.bash(refused).status.success(), "{refused}");
    }
    // One moment for each reader, however it reads.
    let [whole, bytes] = ["cat", "dd bs=7 status=none"].map(|read| {
        mount
            .bash(&format!(
                "{read} < .retryspool/status | jq -S 'del(.time, .feed, .caches)'"
            ))
            .ok()
    });
    assert_eq!(whole, bytes);
}

#[test]
fn both_kinds_of_parsers_read_the_metrics() {
    let spool = spool();
    let mount = spool.mount("");
    mount.bash("mv deferred/a.json hold/; cat hold/*.json > /dev/null; ls -l deferred; echo x | tee hold/c.json > /dev/null").fails("Bad message");
    eventually("every message was looked at", || {
        mount
            .bash("grep -c '^retryspool_failed_messages' .retryspool/metrics")
            .status
            .success()
    });
    let script = r#"
import json, os
from prometheus_client.parser import text_string_to_metric_families as prometheus
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
text = open(".retryspool/metrics").read()
read = [{(s.name, json.dumps(s.labels, sort_keys=True)): s.value for f in parse(text) for s in f.samples}
        for parse in (prometheus, openmetrics)]
assert read[0] == read[1], set(read[0].items()) ^ set(read[1].items())
def value(name, **labels): return read[1][name, json.dumps(labels, sort_keys=True)]
families = {f.name: f for f in openmetrics(text)}
# The parser above takes types that Prometheus itself, its node exporter and promtool refuse.
types = {line.split()[3] for line in text.splitlines() if line.startswith('# TYPE ')}
assert types <= {"counter", "gauge", "histogram", "summary", "untyped"}, types
assert value("retryspool_build_info", version=os.environ["VERSION"]) == 1
for name, f in families.items():
    assert name.startswith("retryspool_") and f.documentation, name
    # Labels of bounded sets alone.
    for s in f.samples:
        assert set(s.labels) <= {"state", "op", "errno", "class", "cache", "version", "le"}, s
assert families["retryspool_operations"].type == "counter"
assert families["retryspool_operation_duration_seconds"].type == "histogram"
assert value("retryspool_messages", state="hold") == 2
assert value("retryspool_messages", state="deferred") == 1
assert 10700 < value("retryspool_oldest_age_seconds", state="hold") < 20000
assert value("retryspool_overdue_seconds", state="deferred") == 0
assert value("retryspool_failed_messages", state="hold", **{"class": "policy"}) == 2
assert value("retryspool_unreadable_messages") == 0
assert value("retryspool_inexpressible_messages") == 0
assert value("retryspool_operations_total", op="rename") == 1
assert value("retryspool_operation_errors_total", op="flush", errno="EBADMSG") == 1
assert value("retryspool_operation_duration_seconds_count", op="rename") == 1
assert value("retryspool_operation_duration_seconds_sum", op="rename") > 0
assert value("retryspool_feed_behind_changes") == 0
assert value("retryspool_cache_size", cache="inodes") > 0
"#;
    fs::write(spool.work().join("read.py"), script).unwrap();
    // What is open is known, whatever the kernel forgets.
    mount
        .bash(concat!(
            "exec 3< hold/a.json; VERSION=",
            env!("CARGO_PKG_VERSION"),
            " /usr/bin/python3 $WORK/read.py"
        ))
        .ok();
}

/// The health check of a mount, as a monitoring system runs it.
#[track_caller]
fn health(spool: &Spool, point: &str, arguments: &str) -> (i32, String) {
    let output = spool.bash(&format!("$PROGRAM health {point} {arguments}"));
    assert!(output.stdout.lines().count() <= 1, "{output:#?}");
    (
        output.status.code().unwrap(),
        output.stdout + &output.stderr,
    )
}

#[test]
fn the_health_check_is_not_fooled() {
    let spool = spool();
    let mount = spool.mount("");
    let point = mount.point().to_str().unwrap().to_owned();
    let (code, line) = health(&spool, &point, "");
    assert_eq!(code, 0, "{line}");
    assert!(
        line.starts_with("RETRYSPOOL OK - ") && line.contains("deferred=2"),
        "{line}"
    );

    // The kernel remembers enough of a daemon that hangs.
    mount.bash("stat deferred > /dev/null").ok();
    mount.signal(libc::SIGSTOP);
    let (code, line) = health(&spool, &point, "--timeout 0.5");
    assert_eq!(code, 2, "{line}");
    assert!(
        line.contains("CRITICAL") && line.contains("0.5 seconds"),
        "{line}"
    );
    mount.signal(libc::SIGCONT);
    eventually("it is well again", || health(&spool, &point, "").0 == 0);

    // And of one that was killed.
    mount.signal(libc::SIGKILL);
    mount.wait();
    mount.forget();
    let (code, line) = health(&spool, &point, "");
    assert_eq!(code, 2, "{line}");
    assert!(line.contains("killed"), "{line}");
    spool.bash(&format!("$PROGRAM umount {point}")).ok();
    let (code, line) = health(&spool, &point, "");
    assert_eq!(code, 2, "{line}");
    assert!(line.contains("no spool is mounted"), "{line}");
    assert_eq!(health(&spool, "missing", "").0, 2);
    let (code, line) = health(&spool, "queue.db", "");
    assert_eq!(code, 3, "{line}");
    assert!(line.contains("it is no directory; name"), "{line}");
    for wrong in ["--timeout x", "--timeout 0", "--nosuch", "extra"] {
        let (code, line) = health(&spool, &point, wrong);
        assert_eq!(code, 3, "{line}");
    }
}

/// A store that does not answer is no healthy mount.
#[test]
fn the_health_check_asks_the_store() {
    let spool = spool();
    let mount = spool.mount("");
    let point = mount.point().to_str().unwrap().to_owned();
    spool.bash("mv queue.db away").ok();
    eventually("the store is missed", || health(&spool, &point, "").0 == 2);
    spool.bash("mv away queue.db").ok();
    eventually("it is there again", || health(&spool, &point, "").0 == 0);
}

/// What a service manager hears, up to and with a message for which `last` holds.
fn hears(socket: &UnixDatagram, last: impl Fn(&str) -> bool) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let length = socket
            .recv(&mut bytes)
            .expect("the manager heard nothing more");
        heard.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        if last(&heard[heard.len() - 1]) {
            return heard;
        }
    }
}

#[test]
fn a_service_manager_is_told() {
    let spool = spool();
    let path = spool.dir().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let variables = [
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "300000"),
    ];
    let mount = mount_with(&spool, &variables, &[]);
    let heard = hears(&socket, |said| said.contains("READY=1"));
    assert!(
        heard
            .last()
            .unwrap()
            .contains("STATUS=0 incoming, 0 active, 2 deferred, 1 hold, 0 bounce"),
        "{heard:?}"
    );
    mount.bash("mv deferred/a.json hold/").ok();
    hears(&socket, |said| {
        said.contains("WATCHDOG=1") && said.contains("1 deferred, 2 hold")
    });
    // A daemon whose mount does not answer gets no word to its watchdog: here its own threads are
    // well, and the store is gone.
    spool.bash("mv queue.db away").ok();
    let heard = hears(&socket, |said| said.contains("does not answer"));
    assert!(!heard.last().unwrap().contains("WATCHDOG"), "{heard:?}");
    spool.bash("mv away queue.db").ok();
    hears(&socket, |said| said.contains("WATCHDOG=1"));
    mount.signal(libc::SIGTERM);
    hears(&socket, |said| said.contains("STOPPING=1"));
    mount.ends_by_itself();
}

/// A manager gives one order. A mount in use does not keep it waiting for ever, and loses nothing.
#[test]
fn a_service_manager_is_obeyed_in_the_end() {
    let spool = spool();
    let path = spool.dir().join("notify");
    let _socket = UnixDatagram::bind(&path).unwrap();
    let mount = mount_with(&spool, &[("NOTIFY_SOCKET", path.to_str().unwrap())], &[]);
    let draft = create(mount.path("bounce/new.json")).unwrap();
    write(&draft, br#"{"ID":"new"}"#).unwrap();
    mount.signal(libc::SIGTERM);
    mount.ends_by_itself();
    assert_eq!(spool.state("new"), Some(Bounce));
    drop(draft);
}

#[test]
fn a_busy_mount_says_who_is_in_the_way() {
    let spool = spool();
    let mount = spool.mount("");
    let point = mount.point().to_str().unwrap().to_owned();
    let user = mount.start_in(
        &["bash"],
        "cd hold; echo x > .note; exec 3< .note; exec tail -f /dev/null",
    );
    eventually("it is in use", || mount.path("hold/.note").exists());
    let pid = user.pid();
    let in_the_way = format!("(pid {pid}) works in hold");
    let refused = spool.bash(&format!("$PROGRAM umount {point}"));
    assert!(refused.stderr.contains(&in_the_way), "{refused:#?}");
    assert_eq!(refused.stderr.lines().count(), 1);
    refused.fails("--lazy");
    mount.signal(libc::SIGTERM);
    eventually("the log tells", || mount.log().contains(&in_the_way));
    // It goes on, and new users find it.
    assert!(mount.runs());
    mount.bash("mv deferred/a.json hold/").ok();
    mount.signal(libc::SIGTERM);
    eventually("nobody new finds it", || {
        fs::read_dir(&point).unwrap().count() == 0
    });
    assert!(mount.runs());
    user.kill();
    user.wait_killed();
    mount.ends_by_itself();
    assert_eq!(spool.state("a"), Some(Hold));
}

/// The third signal does not wait for those who have files open; their files have their last close.
#[test]
fn the_third_signal_ends_it_with_a_verdict_on_drafts() {
    let spool = spool();
    let mount = spool.mount("");
    let good = create(mount.path("bounce/good.json")).unwrap();
    write(&good, br#"{"ID":"good"}"#).unwrap();
    let bad = create(mount.path("bounce/bad.json")).unwrap();
    write(&bad, br#"{"ID":"#).unwrap();
    mount.signal(libc::SIGTERM);
    eventually("it is in the way", || mount.log().contains("in the way"));
    mount.signal(libc::SIGINT);
    eventually("nobody new finds it", || !mount.path("bounce").exists());
    mount.signal(libc::SIGTERM);
    let status = mount.wait();
    let log = mount.log();
    assert!(status.success(), "{status} {log}");
    mount.ends_by_itself();
    assert_eq!(
        (spool.state("good"), spool.state("bad")),
        (Some(Bounce), None)
    );
    assert!(log.contains("bounce/bad.json EBADMSG"), "{log}");
    assert!(close(good).is_err());
}

#[test]
fn an_unmount_takes_no_other_mount_away() {
    let spool = spool();
    let mount = spool.mount("");
    let point = mount.point().display().to_string();
    spool
        .bash(&format!(
            "mount -t tmpfs over {point} && touch {point}/over"
        ))
        .ok();
    mount.signal(libc::SIGTERM);
    eventually("it tells why", || mount.log().contains("mounted over it"));
    spool
        .bash(&format!("ls {point}; $PROGRAM umount {point}"))
        .fails("no spool is mounted");
    spool
        .bash(&format!("umount {point}; [ ! -e {point}/over ]"))
        .ok();
    mount.unmount();
}

#[test]
fn the_log_has_levels_and_no_end_of_repeats() {
    let spool = spool();
    let mount = mount_with(&spool, &[("RETRYSPOOLFS_LOG", "warn")], &[]);
    // Somebody else was faster: that is no news.
    mount
        .bash("mv hold/quiet.json bounce/")
        .fails("No such file");
    mount
        .bash("for n in $(seq 40); do echo x | tee hold/c.json; done > /dev/null")
        .fails("Bad message");
    eventually("the rest is counted", || {
        mount.log().contains("close EBADMSG: 30 more in 10 seconds")
    });
    let lines = |log: &str| {
        log.lines()
            .filter(|line| line.contains("close hold/c.json EBADMSG"))
            .count()
    };
    let log = mount.log();
    assert_eq!(lines(&log), 10, "{log}");
    assert!(log.lines().all(|line| line.contains(" WARN ")), "{log}");
    // No word of the documents' headers.
    assert!(!log.contains("example.org"), "{log}");
    mount.signal(libc::SIGHUP);
    eventually("the level changes", || {
        mount.log().contains("the log level is debug")
    });
    // As is what happens from here on.
    mount
        .bash("mv hold/loud.json bounce/")
        .fails("No such file");
    assert!(mount.runs());
}

#[test]
fn every_wrong_command_line_gets_one_line() {
    let spool = spool();
    fs::create_dir(spool.dir().join("point")).unwrap();
    for (line, code, hint) in [
        ("mount", 1, "--help"),
        ("mount $SPOOL", 1, "--help"),
        ("mount --nosuch $SPOOL point", 1, "--help"),
        ("mount --log-level loud $SPOOL point", 1, "possible values"),
        ("mount -o remount $SPOOL point", 1, "unmount"),
        ("mount -o uid=x $SPOOL point", 1, "number"),
        ("mount none.db point", 32, "init"),
        ("mount $SPOOL missing", 32, "mkdir"),
        ("mount $SPOOL queue.db", 32, "directory"),
        ("umount point", 1, "findmnt"),
        ("umount", 2, "--help"),
        ("umount missing", 1, "missing"),
        ("nosuch", 2, "--help"),
        ("", 2, "--help"),
        ("health", 3, "--help"),
        ("generate /proc/none", 1, "/proc/none"),
    ] {
        let output = spool.bash(&format!("$PROGRAM {line}"));
        assert_eq!(output.status.code(), Some(code), "{output:#?}");
        assert_eq!(
            (output.stderr.lines().count(), &*output.stdout),
            (1, ""),
            "{output:#?}"
        );
        assert!(output.stderr.contains(hint), "{output:#?}");
    }
    let said = spool
        .bash("ln -s $PROGRAM mount.retryspoolfs; ./mount.retryspoolfs $SPOOL")
        .stderr;
    assert!(said.contains("the form is"), "{said}");
}

/// A user who may not is told what an administrator can do.
#[test]
fn a_missing_privilege_is_named() {
    let spool = spool();
    spool
        .bash("chmod 755 . ; cp $PROGRAM program; chmod 644 queue.db; mkdir point")
        .ok();
    let nobody = |line: &str| {
        let output = spool.bash(&format!(
            "setpriv --reuid=65534 --regid=65534 --clear-groups ./program {line}"
        ));
        assert_eq!(output.stderr.lines().count(), 1, "{output:#?}");
        (output.status.code().unwrap(), output.stderr)
    };
    let (code, said) = nobody("mount -o ro,allow_other $SPOOL point");
    assert!(
        code == 1 && said.contains("user_allow_other in /etc/fuse.conf"),
        "{code} {said}"
    );
    let (code, said) = nobody("mount -o ro $SPOOL point");
    assert!(
        code == 32 && said.contains("write permission"),
        "{code} {said}"
    );
    for command in ["status", "list", "check", "export", "hold", "undo --pid 1"] {
        let words = if command == "hold" { " a" } else { "" };
        let (code, said) = nobody(&format!("{command} $SPOOL{words}"));
        assert!(
            code == 1 && said.contains("write permission"),
            "{code} {said}"
        );
    }
    let mount = spool.mount("");
    let point = mount.point().display();
    let (code, said) = nobody(&format!("umount {point}"));
    assert!(code == 1 && said.contains("umount"), "{code} {said}");
    let (code, said) = nobody(&format!("health --timeout 20 {point} >&2"));
    assert!(code == 3 && said.contains("may not look"), "{code} {said}");
    mount.unmount();
}
