//! The page of recipes, line by line: each task through the mount and through the commands, which
//! must end alike.

use std::collections::BTreeMap;

use retryspoolfs::QueueState::{self, Deferred, Hold, Incoming};
use retryspoolfs::{MessageMetadata, Timestamp};

use crate::support::{Spool, eventually, message, program};

const PAGE: &str = include_str!("../../scripts/man/retryspoolfs-recipes.7");

/// The lines of one way to do one task.
fn lines(task: &str, way: &str) -> Vec<String> {
    let (mut here, mut found) = (false, Vec::new());
    let mut section = "";
    for line in PAGE.lines() {
        if let Some(title) = line.strip_prefix(".Sh ") {
            (section, here) = (title, false);
        } else if let Some(title) = line.strip_prefix(".Ss ") {
            here = section == task && title == way;
        } else if let Some(command) = line.strip_prefix("$ ")
            && here
        {
            found.push(command.replace("\\e", "\\"));
        }
    }
    assert!(!found.is_empty(), "{task}, {way}: no such recipe");
    found
}

/// A queue with something for every recipe.
fn spool() -> Spool {
    let headers = |from: &str, to: &str| {
        [("from", from), ("to", to)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    };
    Spool::with((0..40).map(|n| {
        let state = if n % 10 == 7 { Incoming } else { Deferred };
        let from = if n % 5 == 2 {
            "x@spam.example"
        } else {
            "a@example.org"
        };
        let to = if n % 8 == 3 {
            "bob@down.example"
        } else {
            "bob@example.com"
        };
        let error = if n % 4 == 0 {
            "421 4.4.2 timeout exceeded"
        } else {
            "451 4.7.1 try later"
        };
        MessageMetadata {
            headers: headers(from, to),
            last_error: error.into(),
            ..message(&format!("msg-{n}"), state)
        }
    }))
}

/// Where each message is.
fn places(spool: &Spool) -> BTreeMap<String, QueueState> {
    let rows = spool.rows();
    let ids = rows.iter().map(|row| row[0].trim_matches('"').to_owned());
    ids.map(|id| (id.clone(), spool.state(&id).unwrap()))
        .collect()
}

/// Does the task both ways, after what happened `before` in the mount, and gives what the last line
/// of each printed, with the spools.
fn both(task: &str, before: &str) -> [(String, Spool); 2] {
    ["Through the mount", "Through the commands"].map(|way| {
        let spool = spool();
        let mount = spool.mount("");
        if !before.is_empty() {
            mount.bash(before).ok();
            // What was done is in `events` within 100 ms, on a machine that has time for it.
            let events = mount.point().join(".retryspool/events");
            eventually("it is in events", || {
                let changes = std::fs::read_to_string(&events).unwrap();
                changes.contains("\"command\":\"mv\"")
            });
        }
        let point = mount.point().display().to_string();
        let text = lines(task, way)
            .join("\n")
            .replace(
                "/var/spool/retryspool/queue.db",
                &spool.path().display().to_string(),
            )
            .replace("/srv/queue", &point)
            .replace("retryspoolfs ", &format!("{} ", program().display()));
        // Every line has to succeed.
        let script = format!(
            "cd $WORK; set -e -o pipefail\n{}",
            text.replace(" | head\n", " | cat\n")
        );
        let output = spool.bash(&script);
        assert!(output.status.success(), "{task}, {way}: {output:#?}");
        (output.stdout, spool)
    })
}

#[test]
fn the_incident() {
    let before = places(&spool());
    let [(mount, one), (commands, two)] = both("THE INCIDENT AT 3 A.M.", "");
    assert!(
        mount.contains("deferred 36") && mount.contains("10 421 4.4.2 timeout exceeded"),
        "{mount}"
    );
    assert!(
        commands.contains("deferred           36")
            && commands.contains("--error '421 4.4.2 timeout exceeded'")
            && commands.contains("10 messages would be moved to hold"),
        "{commands}"
    );
    assert_eq!(places(&one), before);
    assert_eq!(places(&two), before);
    // The commands scatter the retries.
    let now = Timestamp::now();
    assert!(
        two.get("msg-0").unwrap().next_retry > now || two.get("msg-4").unwrap().next_retry > now
    );
}

#[test]
fn a_spam_run() {
    let [(_, one), (_, two)] = both("A SPAM RUN", "");
    assert_eq!(places(&one).len(), 32);
    assert_eq!(places(&one), places(&two));
    assert_eq!(one.bash("ls $WORK/spam | wc -l").ok(), "8");
    assert_eq!(two.bash("wc -l < $WORK/spam.jsonl").ok(), "8");
}

#[test]
fn one_destination_is_down() {
    for (_, spool) in both("ONE DESTINATION IS DOWN", "") {
        let now = Timestamp::now();
        for n in 0..40 {
            let message = spool.get(&format!("msg-{n}")).unwrap();
            let is_due = message.next_retry <= now;
            assert_eq!(is_due, n % 8 == 3 && message.state == Deferred, "msg-{n}");
        }
    }
    // Before it is back.
    let spool = spool();
    let line = lines("ONE DESTINATION IS DOWN", "Through the commands").remove(0);
    let line = line.replace("retryspoolfs ", "$PROGRAM ");
    let line = line.replace("/var/spool/retryspool/queue.db", "$SPOOL");
    assert!(spool.bash(&line).status.success());
    assert!(
        spool.get("msg-3").unwrap().next_retry
            > Timestamp::now().saturating_add(std::time::Duration::from_secs(7000))
    );
}

#[test]
fn restore_from_backup() {
    let before = spool().rows().len();
    for (_, spool) in both("RESTORE FROM BACKUP", "mv deferred/msg-1.json hold/") {
        assert_eq!(spool.rows().len(), before);
        assert_eq!(
            (spool.state("msg-1"), spool.state("msg-11")),
            (Some(Hold), Some(Deferred))
        );
    }
}

#[test]
fn who_moved_it() {
    let [(mount, _), (commands, _)] = both("WHO MOVED IT?", "mv deferred/msg-1.json hold/");
    assert!(
        mount.trim_end().ends_with("\t0\tmv\tdeferred\thold"),
        "{mount}"
    );
    assert!(
        commands.trim_end().ends_with(" mv: msg-1 deferred -> hold")
            && commands.contains(" uid 0 "),
        "{commands}"
    );
}

#[test]
fn the_wrong_were_held() {
    let before = places(&spool());
    let [(_, one), (commands, two)] = both("THE WRONG 10,000 WERE HELD", "mv deferred/* hold/");
    assert_eq!(places(&one), before);
    assert_eq!(places(&two), before);
    assert!(
        commands.contains("36 messages would be brought back"),
        "{commands}"
    );
}

/// One after the other, on a queue in which each finds something to do.
#[test]
fn what_postfix_does_is_done() {
    let commands: Vec<&str> = PAGE
        .lines()
        .skip_while(|line| !line.contains("COMING FROM POSTFIX"))
        .take_while(|line| !line.contains("SEE ALSO"))
        .filter_map(|line| Some(line.split_once("   retryspoolfs ")?.1))
        .collect();
    assert_eq!(commands.len(), 16);
    let spool = spool();
    for command in commands {
        let place = match command.starts_with("release") {
            true => "hold",
            false => "deferred",
        };
        spool.bash(&format!("$PROGRAM move $SPOOL msg-1 {place}"));
        let rows = spool.rows();
        let output = spool.bash(&format!("RETRYSPOOL=$SPOOL $PROGRAM {command}"));
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(
            output.status.success() && !said.starts_with("0 "),
            "{output:#?}"
        );
        let looks = ["list", "show", "age"];
        let looks = looks.iter().any(|name| command.starts_with(name));
        assert_eq!(spool.rows() == rows, looks, "{command}");
        // What is due needs no flush, and what was removed comes back for the next one.
        spool
            .bash("sqlite3 $SPOOL 'UPDATE messages SET next_retry = unixepoch() + 9000'")
            .ok();
        if command.starts_with("delete") {
            spool.bash("$PROGRAM undo $SPOOL --command 'retryspoolfs delete' --since 1h --yes");
        }
    }
}

#[test]
fn every_line_of_the_page_is_tried() {
    let tried = [
        "THE INCIDENT AT 3 A.M.",
        "A SPAM RUN",
        "ONE DESTINATION IS DOWN",
        "RESTORE FROM BACKUP",
        "WHO MOVED IT?",
        "THE WRONG 10,000 WERE HELD",
    ];
    let ways = ["Through the mount", "Through the commands"];
    let tried = tried
        .iter()
        .flat_map(|task| ways.iter().map(|way| lines(task, way).len()));
    let all = PAGE.lines().filter(|line| line.starts_with("$ ")).count();
    assert_eq!(tried.sum::<usize>(), all);
}
