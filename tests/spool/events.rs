//! `.retryspool/events`: one line for each change, by whomever.

use std::ffi::OsStr;
use std::time::Duration;

use retryspoolfs::backend::sqlite::schema;
use retryspoolfs::spool::Follower;
use serde_json::Value;

use super::common::*;

const CONTROL: u64 = 8;

struct Reader<'a>(&'a Mounted, u64, u64);

impl Reader<'_> {
    fn open(m: &Mounted) -> Reader<'_> {
        let found = m.spool.lookup(&me(), CONTROL, OsStr::new("events"));
        let fh = m.spool.open(&me(), found.unwrap().ino, READ).unwrap();
        Reader(m, fh, 0)
    }

    fn rest(&mut self) -> Vec<Value> {
        let mut text = Vec::new();
        loop {
            let part = self.0.spool.read(self.1, self.2, 4096).unwrap();
            if part.is_empty() {
                break;
            }
            self.2 += part.len() as u64;
            text.extend(part);
        }
        let text = String::from_utf8(text).unwrap();
        let lines = text.lines();
        lines.map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

#[test]
fn each_change_is_one_line() {
    let m = mounted();
    let mut follower = Follower::default();
    let mut follow = || m.spool.follow(&mut follower, Duration::ZERO).unwrap();
    follow();
    let mut reader = Reader::open(&m);
    assert_eq!(reader.rest(), [] as [Value; 0]);
    m.put("a", Deferred);
    m.rename(&me(), (Deferred, "a.json"), (Hold, "a.json"), PLAIN)
        .unwrap();
    m.change("a");
    m.unlink(&me(), Hold, "a.json").unwrap();
    follow();
    let lines = reader.rest();
    let field = |name: &str| -> Vec<&Value> { lines.iter().map(|line| &line[name]).collect() };
    assert_eq!(field("op"), ["store", "move", "update", "delete"]);
    assert_eq!(field("id"), ["a"; 4]);
    let (none, deferred, hold) = (Value::Null, Value::from("deferred"), Value::from("hold"));
    assert_eq!(field("from"), [&none, &deferred, &hold, &hold]);
    assert_eq!(field("to"), [&deferred, &hold, &hold, &none]);
    let me = Value::from(std::process::id());
    assert_eq!(field("pid"), [&none, &me, &none, &me]);
    assert_eq!(field("uid")[1], 0);
    assert!(field("command")[1].is_string());
    let seqs = field("seq");
    assert!(seqs.windows(2).all(|two| {
        let [first, second] = [two[0], two[1]].map(|seq| seq.as_u64().unwrap());
        second == first + 1
    }));
    assert_eq!(reader.rest(), [] as [Value; 0]);
    let mut another = Reader::open(&m);
    assert_eq!(another.rest(), lines, "as many readers as like");
}

#[test]
fn changes_that_were_missed_are_a_line_too() {
    let m = mounted();
    let mut follower = Follower::default();
    m.spool.follow(&mut follower, Duration::ZERO).unwrap();
    schema::append_reset(&m.sql()).unwrap();
    m.put("a", Deferred);
    for _ in 0..2 {
        m.spool.follow(&mut follower, Duration::ZERO).unwrap();
    }
    let lines = Reader::open(&m).rest();
    assert_eq!(lines[0]["op"], "lost");
    assert!(lines[0]["reason"].is_string());
    assert_eq!(lines[1]["op"], "store");
}

#[test]
fn control_files_belong_to_the_mounting_user() {
    let m = mounted_with(|options| options.ownership.fmode = 0o644);
    for name in ["events", "errors"] {
        let attr = m.spool.lookup(&me(), CONTROL, OsStr::new(name)).unwrap();
        assert_eq!((attr.mode, attr.uid, attr.gid), (0o600, 0, 0));
        assert_eq!(attr.validity.attributes, Duration::ZERO, "it grows");
    }
}

/// The size is that of all that was ever published, and a poll is woken.
#[test]
fn a_waiting_reader_is_woken() {
    let m = mounted();
    let mut follower = Follower::default();
    let mut follow = || m.spool.follow(&mut follower, Duration::ZERO).unwrap();
    follow();
    let mut reader = Reader::open(&m);
    let (woken, wakes) = std::sync::mpsc::channel();
    let wake = Box::new(move || woken.send(()).unwrap());
    assert!(!m.spool.poll(reader.1, Some(wake)).unwrap());
    m.put("a", Deferred);
    follow();
    wakes.try_recv().unwrap();
    assert!(m.spool.poll(reader.1, None).unwrap());
    assert_eq!(reader.rest().len(), 1);
    assert!(!m.spool.poll(reader.1, None).unwrap());
    let attr = m.spool.lookup(&me(), CONTROL, OsStr::new("events"));
    assert_eq!(attr.unwrap().size, reader.2);
    // A message has nothing to wait for.
    let fh = m.open(&me(), Deferred, "a.json", READ).unwrap();
    assert!(m.spool.poll(fh, None).unwrap());
}
