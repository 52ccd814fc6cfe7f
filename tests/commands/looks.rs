//! The commands that look: list, show, status, age, reasons, events.
//!
//! It is long because all of them look at one queue, each in its own form.

use retryspoolfs::{Context, MessageMetadata, QueueState, Timestamp};
use serde_json::Value;

use crate::support::{Spool, ago, message};

fn ctx() -> Context {
    Context::within(std::time::Duration::from_secs(60))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn three() -> Spool {
    let of = |id, created, attempts, priority| MessageMetadata {
        created: ago(created),
        updated: ago(created / 2),
        attempts,
        priority,
        ..message(id, QueueState::Deferred)
    };
    Spool::with([
        of("b", 300, 2, 9),
        of("a", 100, 3, 5),
        of("c", 200, 3, 1),
        message("held", QueueState::Hold),
        message("in/1%", QueueState::Incoming),
    ])
}

#[test]
fn a_listing_is_sorted_and_cut() {
    let spool = three();
    for (options, expected) in [
        ("", "a b c"),
        ("--order desc", "c b a"),
        ("--sort created", "b c a"),
        ("--sort created --order desc", "a c b"),
        ("--sort updated", "b c a"),
        ("--sort priority", "c a b"),
        ("--sort attempts", "b a c"),
        ("--limit 2", "a b"),
        ("--limit 0", ""),
        ("--offset 1", "b c"),
        ("--offset 1 --limit 1 --sort priority", "a"),
        ("--offset 9", ""),
        ("--since 3m", "a b c"),
        ("--since 110s", "a c"),
        ("--since 110s --sort priority", "c a"),
        ("--attempts 3", "a c"),
        ("--attempts 3 --sort created", "c a"),
        ("--attempts 3 --order desc --limit 1", "c"),
        ("--attempts 2.. --offset 1 --limit 1", "b"),
    ] {
        for output in ["", "--format '{id}'"] {
            let command = format!("$PROGRAM list $SPOOL deferred {options} {output}");
            let listed = spool.bash(&command).ok();
            let words: Vec<&str> = listed.lines().collect();
            assert_eq!(words.join(" "), expected, "{command}");
        }
    }
}

#[test]
fn a_listing_goes_on_over_states() {
    let spool = three();
    let list = |options: &str| spool.bash(&format!("$PROGRAM list $SPOOL {options}")).ok();
    assert_eq!(list(""), "in/1%\na\nb\nc\nheld");
    assert_eq!(list("hold incoming"), "held\nin/1%");
    assert_eq!(list("--offset 1 --limit 2"), "a\nb");
    assert_eq!(list("--offset 4 --sort created"), "held");
    assert_eq!(list("--offset 3 --limit 2 --id '*'"), "c\nheld");
}

#[test]
fn a_listing_has_the_form_that_was_asked_for() {
    let spool = three();
    let list = |options: &str| spool.bash(&format!("$PROGRAM list $SPOOL {options}")).ok();
    assert_eq!(list("incoming --paths"), "incoming/in%2F1%25.json");
    assert_eq!(
        list("hold --format '{state}:{header.to}\\t{attempts}'"),
        "hold:user@example.com\t1"
    );
    let lines = list("deferred --json");
    let ids: Vec<Value> = lines.lines().map(|line| json(line)["ID"].clone()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    let shown = spool.bash("$PROGRAM show $SPOOL a").ok();
    assert_eq!(json(lines.lines().next().unwrap()), json(&shown));
    // As files, through a mount.
    let mount = spool.mount("");
    let script =
        "cd $MOUNT && $PROGRAM list . deferred --attempts 3 --paths -0 | xargs -0 jq -r .ID";
    let script = script.replace("$MOUNT", mount.point().to_str().unwrap());
    assert_eq!(spool.bash(&script).ok(), "a\nc");
    for (options, complaint) in [
        ("--format '{nosuch}'", "there are id, state"),
        ("--json --paths", "cannot be used with"),
        ("--sort size", "possible values"),
        ("--limit=-1", "invalid value"),
    ] {
        let output = spool.bash(&format!("$PROGRAM list $SPOOL {options}"));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        output.fails(complaint);
    }
}

#[test]
fn control_characters_reach_no_terminal() {
    let nasty = "evil\n\u{1b}]0;owned\u{7}\u{9b}2J";
    let spool = Spool::with([MessageMetadata {
        last_error: nasty.into(),
        headers: [("to".to_owned(), format!("a@{nasty}"))].into(),
        ..message(nasty, QueueState::Deferred)
    }]);
    for command in [
        "list $SPOOL",
        "list $SPOOL --paths",
        "list $SPOOL --json",
        "list $SPOOL --format '{id} {last_error} {header.to}'",
        "age $SPOOL",
        "reasons $SPOOL",
        "reasons $SPOOL --json",
        "status $SPOOL",
        "events $SPOOL",
    ] {
        let printed = spool.bash(&format!("$PROGRAM {command}")).ok();
        let raw = printed.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(raw, None, "{command}: {printed:?}");
        assert!(!printed.contains("evil\n"), "{command}: {printed:?}");
    }
    // Exactly, for a program.
    let exact = spool.bash("$PROGRAM list $SPOOL -0").ok();
    assert_eq!(exact, format!("{nasty}\0"));
    let script = "$PROGRAM list $SPOOL -0 | xargs -0 $PROGRAM show $SPOOL | jq -j .ID";
    assert_eq!(spool.bash(script).ok(), nasty);
}

#[test]
fn status_counts() {
    let spool = three();
    spool.bash("$PROGRAM status $SPOOL").ok();
    let store = spool.open();
    let ctx = ctx();
    let id = "a".parse().unwrap();
    store
        .relocate(&ctx, &id, QueueState::Deferred, QueueState::Hold)
        .unwrap();
    store.delete_meta(&ctx, &"c".parse().unwrap()).unwrap();
    let status = json(&spool.bash("$PROGRAM status $SPOOL --json").ok());
    assert_eq!(status["total"], 4);
    assert_eq!(status["states"]["hold"]["count"], 2);
    assert_eq!(status["states"]["archived"]["count"], 0);
    assert_eq!(status["states"]["archived"]["oldest"], Value::Null);
    assert_eq!(status["queue"]["waiting"], 2);
    // Five came ten minutes ago or less, one left for good and one was held.
    assert_eq!(status["queue"]["rates_over_seconds"], 600.0);
    assert_eq!(status["queue"]["arrived_per_minute"], 0.4);
    assert_eq!(status["queue"]["left_per_minute"], 0.2);
    assert_eq!(status["queue"]["empty_in_seconds"], Value::Null);
    assert_eq!(status["states"]["hold"]["arrived_per_minute"], 0.2);
    let oldest = status["states"]["hold"]["oldest"].as_str().unwrap();
    assert!(Timestamp::parse(oldest).unwrap() < ago(10_000), "{oldest}");
    let text = spool.bash("$PROGRAM status $SPOOL").ok();
    let deferred = text
        .lines()
        .find(|line| line.starts_with("deferred"))
        .unwrap();
    let words: Vec<&str> = deferred.split_whitespace().collect();
    assert_eq!((words[1], words[2]), ("1", "5m"), "{text}");
    assert!(text.contains("does not get empty"), "{text}");
}

#[test]
fn status_tells_of_what_no_directory_shows() {
    let spool = three();
    spool.execute("UPDATE messages SET state = 9 WHERE id = 'a'");
    let status = json(&spool.bash("$PROGRAM status $SPOOL --json").ok());
    assert_eq!(
        (&status["total"], &status["inexpressible"]),
        (&4.into(), &1.into())
    );
    let text = spool.bash("$PROGRAM status $SPOOL").ok();
    assert!(
        text.contains("1 stored messages are in no directory"),
        "{text}"
    );
}

#[test]
fn status_of_a_shrinking_queue_says_when_it_is_empty() {
    let spool = three();
    // The arrivals are long ago.
    spool.execute("UPDATE rs_log SET at_ms = at_ms - 3600000");
    let ctx = ctx();
    spool
        .open()
        .delete_meta(&ctx, &"c".parse().unwrap())
        .unwrap();
    let status = json(&spool.bash("$PROGRAM status $SPOOL --json").ok());
    // One in ten minutes, and three wait.
    assert_eq!(status["queue"]["empty_in_seconds"], 1800);
    let text = spool.bash("$PROGRAM status $SPOOL").ok();
    assert!(text.contains("the queue is empty in 30m"), "{text}");
}

#[test]
fn status_is_watched() {
    let spool = three();
    let script = "$PROGRAM status $SPOOL --watch=1s --json | head -n 2";
    let lines = spool.bash(script).ok();
    assert_eq!(
        lines
            .lines()
            .map(|line| json(line)["total"].clone())
            .collect::<Vec<_>>(),
        [5, 5]
    );
}

#[test]
fn a_check_is_one_line_and_an_exit_code() {
    let spool = three();
    for (limits, code, line) in [
        (
            "deferred=3",
            0,
            "RETRYSPOOL OK - deferred 3 | deferred=3;3;;0",
        ),
        (
            "deferred=2",
            1,
            "RETRYSPOOL WARNING - deferred 3 (limit 2) | deferred=3;2;;0",
        ),
        (
            "deferred=1,2",
            2,
            "RETRYSPOOL CRITICAL - deferred 3 (limit 2) | deferred=3;1;2;0",
        ),
        (
            "total=9,hold=0,9",
            1,
            "RETRYSPOOL WARNING - total 5, hold 1 (limit 0) | total=5;9;;0 hold=1;0;9;0",
        ),
        ("oldest=4h", 0, "RETRYSPOOL OK - oldest 3h"),
        ("oldest=1h", 1, "RETRYSPOOL WARNING - oldest 3h"),
        (
            "deferred=9,oldest=1m,2h",
            2,
            "RETRYSPOOL CRITICAL - deferred 3, oldest 3h",
        ),
        (
            "overdue=1m",
            0,
            "RETRYSPOOL OK - overdue 0s | overdue=0s;60;;0",
        ),
    ] {
        let output = spool.bash(&format!("$PROGRAM status $SPOOL --check {limits}"));
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(output.stdout.starts_with(line), "{output:?}");
        assert_eq!((output.stdout.lines().count(), &*output.stderr), (1, ""));
    }
    for (command, why) in [
        ("status $SPOOL --check deferred=x", "no number"),
        ("status $SPOOL --check", "value is required"),
        ("status $SPOOL --check=nosuch=5", "nothing to check"),
        (
            "status $SPOOL --check deferred=5 --json",
            "cannot be used with",
        ),
        (
            "status $SPOOL --check deferred=5 --nosuch",
            "unexpected argument",
        ),
        (
            "status /nonexistent.db --check deferred=5",
            "there is no spool",
        ),
        ("status --check deferred=5", "which spool?"),
        ("status $SPOOL $SPOOL --check deferred=5", "too much"),
        ("status $0 --check deferred=5", ""),
    ] {
        let output = spool.bash(&format!("$PROGRAM {command}"));
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let line = output.stdout.clone();
        assert!(
            line.starts_with("RETRYSPOOL UNKNOWN - ") && line.contains(why),
            "{output:?}"
        );
        assert_eq!((line.lines().count(), &*output.stderr), (1, ""));
    }
}

#[test]
fn ages_are_counted_by_domain() {
    let to = |id: &str, to: &str, created| MessageMetadata {
        created: ago(created),
        headers: [
            ("to".to_owned(), to.to_owned()),
            ("from".into(), "x@s.example".into()),
        ]
        .into(),
        ..message(id, QueueState::Deferred)
    };
    let spool = Spool::with([
        to("1", "a@one.example", 60),
        to("2", "b@ONE.example", 601),
        to("3", "a@two.example", 100_000),
    ]);
    let printed = spool.bash("$PROGRAM age $SPOOL").ok();
    let squeezed: Vec<String> = printed
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        squeezed,
        [
            "T 5 10 20 40 80 160 320 640 1280 1280+",
            "TOTAL 3 1 0 1 0 0 0 0 0 0 1",
            "one.example 2 1 0 1 0 0 0 0 0 0 0",
            "two.example 1 0 0 0 0 0 0 0 0 0 1",
        ]
    );
    let table = json(
        &spool
            .bash("$PROGRAM age $SPOOL deferred --by sender --json")
            .ok(),
    );
    assert_eq!(table["rows"][0]["domain"], "s.example");
    assert_eq!(table["rows"][0]["count"], 3);
    let limited = spool.bash("$PROGRAM age $SPOOL --limit 1").ok();
    assert!(limited.ends_with("... and 1 domains more"), "{limited}");
    let newer = json(&spool.bash("$PROGRAM age $SPOOL --newer 1h --json").ok());
    assert_eq!(
        (&newer["total"]["count"], &newer["domains"]),
        (&2.into(), &1.into())
    );
}

/// On a terminal of its own, so that colours are asked for.
#[test]
fn bars_are_coloured_on_a_terminal_alone() {
    let spool = three();
    let on_terminal = |before: &str| {
        let script = format!("{before} script -qec \"$PROGRAM age $SPOOL\" /dev/null < /dev/null");
        spool.bash(&script).ok()
    };
    let coloured = on_terminal("TERM=xterm");
    assert!(coloured.contains("\u{1b}[48;5;"), "{coloured}");
    for plain in ["TERM=xterm NO_COLOR=1", "TERM=dumb"] {
        let plain = on_terminal(plain);
        assert!(
            !plain.contains('\u{1b}') && plain.contains("  00"),
            "{plain}"
        );
    }
    let piped = spool.bash("TERM=xterm $PROGRAM age $SPOOL").ok();
    assert!(
        !piped.contains('\u{1b}') && !piped.contains("  00"),
        "{piped}"
    );
}

#[test]
fn reasons_print_filters_that_select_their_messages() {
    let failed = |id: String, error: &str, state| MessageMetadata {
        last_error: error.into(),
        ..message(&id, state)
    };
    let errors = [
        "451 4.7.1 Greylisted, try again in 300 seconds",
        "451 4.7.1 greylisted, try again in 60 seconds",
        "451 4.7.1 Greylisted, try again in some seconds",
        "connect to mx1.example.net[192.0.2.1]:25: Connection refused",
        "connect to mx2.example.net[2001:db8::1]:25: Connection refused",
        "it's [odd] *really* \\odd? 'quoted' \"twice\" $HOME `x` 1\nline\ttwo\u{9b}",
        "",
        "",
        "452 4.2.2 Mailbox full",
    ];
    let spool = Spool::with(errors.iter().enumerate().flat_map(|(n, error)| {
        [
            failed(format!("d{n}"), error, QueueState::Deferred),
            failed(format!("h{n}"), error, QueueState::Hold),
        ]
    }));
    let value = json(&spool.bash("$PROGRAM reasons $SPOOL deferred --json").ok());
    let groups = value["reasons"].as_array().unwrap();
    assert_eq!((groups.len(), &value["groups"]), (6, &6.into()));
    assert_eq!(
        groups
            .iter()
            .map(|g| g["count"].as_u64().unwrap())
            .sum::<u64>(),
        9
    );
    // What is printed can be pasted, and selects what it says.
    let printed = spool.bash("$PROGRAM reasons $SPOOL deferred").ok();
    let lines: Vec<&str> = printed.lines().skip(1).collect();
    for (pair, group) in lines.chunks(2).zip(groups) {
        let count: u64 = pair[0].split_whitespace().next().unwrap().parse().unwrap();
        let (filter, more) = match pair[1].split_once("   (selects ") {
            Some((filter, more)) => (filter, more.split(' ').next().unwrap().parse().unwrap()),
            None => (pair[1], 0),
        };
        assert_eq!(
            (Some(count), Some(more)),
            (group["count"].as_u64(), group["selects_more"].as_u64())
        );
        let selected = spool
            .bash(&format!("$PROGRAM list $SPOOL deferred {filter} | wc -l"))
            .ok();
        assert_eq!(
            selected.trim().parse::<u64>().unwrap(),
            count + more,
            "{pair:?}"
        );
    }
    let more: Vec<u64> = groups
        .iter()
        .map(|g| g["selects_more"].as_u64().unwrap())
        .collect();
    assert_eq!(more.iter().sum::<u64>(), 1, "{groups:#?}");
    let greylisted = |group: &&Value| group["code"] == "451 4.7.1" && group["count"] == 2;
    let greylisted = groups.iter().find(greylisted).unwrap();
    assert_eq!(greylisted["text"], "Greylisted, try again in * seconds");
    assert_eq!(greylisted["states"]["deferred"], 2);
    // An --error of the user's own narrows the groups, not the filters that are printed.
    let value = json(
        &spool
            .bash("$PROGRAM reasons $SPOOL deferred --error '*300*' --json")
            .ok(),
    );
    assert_eq!(value["reasons"][0]["selects_more"], 2);
    let limited = spool
        .bash("$PROGRAM reasons $SPOOL deferred --limit 1")
        .ok();
    assert!(limited.ends_with("... and 5 groups more"), "{limited}");
}

#[test]
fn events_are_the_mounts_lines() {
    let spool = three();
    let mount = spool.mount("");
    let script = "cd $MOUNT && mv deferred/a.json hold/ && rm hold/held.json";
    let point = mount.point().to_str().unwrap();
    spool.bash(&script.replace("$MOUNT", point)).ok();
    let lines = spool.bash("$PROGRAM events $SPOOL --last 2").ok();
    let events: Vec<Value> = lines.lines().map(json).collect();
    assert_eq!(events.len(), 2);
    let told = |event: &Value| {
        [
            event["op"].clone(),
            event["id"].clone(),
            event["command"].clone(),
        ]
    };
    assert_eq!(told(&events[0]), ["move", "a", "mv"]);
    assert_eq!(told(&events[1]), ["delete", "held", "rm"]);
    crate::support::eventually("the mount tells the same", || {
        std::fs::read_to_string(mount.path(".retryspool/events"))
            .unwrap()
            .ends_with(&format!("{lines}\n"))
    });
    let first = events[0]["seq"].as_u64().unwrap();
    let after = spool
        .bash(&format!("$PROGRAM events $SPOOL --after {first}"))
        .ok();
    assert_eq!(after, lines.lines().last().unwrap());
    let all = spool.bash("$PROGRAM events $SPOOL --last 1000000").ok();
    assert_eq!(all.lines().count(), 7);
    assert_eq!(spool.bash("$PROGRAM events $SPOOL --last 0").ok(), "");
    spool.execute("DELETE FROM rs_log WHERE seq < 7");
    let cut = spool.bash("$PROGRAM events $SPOOL --after 1").ok();
    assert_eq!(json(&cut)["op"], "lost");
}

#[test]
fn events_are_followed() {
    let spool = three();
    let script = "exec $PROGRAM events $SPOOL --follow --last 1 > $WORK/events";
    let follower = spool.start_in(&["bash"], script, spool.dir());
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(spool.work().join("events")).unwrap_or_default();
        text.lines().map(json).collect()
    };
    // It shows that it is there by the change that went before.
    crate::support::eventually("the last change is printed", || lines().len() == 1);
    spool.execute("UPDATE messages SET state = 3 WHERE id = 'b'");
    crate::support::eventually("the change is printed", || lines().len() == 2);
    follower.kill();
    follower.wait_killed();
    let event = &lines()[1];
    let told = (&event["op"], &event["to"], &event["command"]);
    assert_eq!(told, (&"move".into(), &"hold".into(), &Value::Null));
}

#[test]
fn looking_changes_nothing() {
    let spool = three();
    // A file that RetrySpool made, which nobody prepared.
    spool.execute(
        "DROP TRIGGER rs_inserted; DROP TRIGGER rs_updated; DROP TRIGGER rs_renamed;
         DROP TRIGGER rs_deleted; PRAGMA user_version = 0",
    );
    for table in [
        "rs_message",
        "rs_state",
        "rs_log",
        "rs_change",
        "rs_found",
        "rs_known",
        "rs_audit",
    ] {
        let sql = spool.sql();
        let kind: Option<String> = sql
            .query_row(
                "SELECT type FROM sqlite_master WHERE name = ?",
                [table],
                |row| row.get(0),
            )
            .ok();
        if let Some(kind) = kind {
            spool.execute(&format!("DROP {kind} {table}"));
        }
    }
    let before = std::fs::read(spool.path()).unwrap();
    assert_eq!(
        spool
            .bash("$PROGRAM list $SPOOL deferred --attempts 3")
            .ok(),
        "a\nc"
    );
    assert_eq!(
        spool
            .bash("$PROGRAM list $SPOOL deferred --newer 250s")
            .ok(),
        "a\nc"
    );
    let status = json(&spool.bash("$PROGRAM status $SPOOL --json").ok());
    assert_eq!(status["states"]["deferred"]["count"], 3);
    spool.bash("$PROGRAM reasons $SPOOL").ok();
    spool
        .bash("$PROGRAM events $SPOOL")
        .fails("no log of changes");
    assert!(std::fs::read(spool.path()).unwrap() == before);
}
