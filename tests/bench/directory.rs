//! RetrySpool's own directory: this library beside a program that does what RetrySpool's store
//! does, on the same files.
//!
//! `cargo bench --bench directory [-- MESSAGES]`; needs Go. Prints a table. Each round runs both,
//! one after the other, so that whatever else the machine does meets both.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use retryspoolfs::QueueState::{Bounce, Deferred, Hold};
use retryspoolfs::backend::dir::DirFactory;
use retryspoolfs::{
    Backend, Context, MessageListOptions, MessageMetadata, QueueState, SortBy, document,
};

const ROUNDS: usize = 5;
/// How many messages are stored and moved in a round.
const FEW: usize = 200;

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let count: usize = arguments
        .next()
        .map_or(100_000, |text| text.parse().expect("a number"));
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("meta");
    fill(&path, count);
    let program = build(directory.path());

    let before = resident();
    let start = Instant::now();
    let store = DirFactory::new(&path).open().expect("it opens");
    assert_eq!(state_count(&store, Deferred), count as u64);
    println!(
        "{count} messages, read once in {:.2} s",
        start.elapsed().as_secs_f64()
    );
    let bytes = resident().saturating_sub(before) as f64 / count as f64;
    println!("memory for each message: {bytes:.0} bytes (IDs of 36 bytes)\n");

    let mut theirs: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut ours: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for round in 0..ROUNDS {
        let output = Command::new(&program)
            .args(["bench".as_ref(), path.as_os_str()])
            .arg(count.to_string())
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{output:?}");
        for line in String::from_utf8(output.stdout).expect("text").lines() {
            let (name, seconds) = line.split_once(' ').expect("two words");
            theirs
                .entry(name.into())
                .or_default()
                .push(seconds.parse().expect("a number"));
        }
        for (name, took) in measure(&store, count, round) {
            ours.entry(name.into())
                .or_default()
                .push(took.as_secs_f64());
        }
    }
    println!(
        "{:8} {:>14} {:>14} {:>9}",
        "", "RetrySpool's", "this", "ratio"
    );
    for name in ["list", "count", "page", "store", "move"] {
        let (a, b) = (median(&mut theirs, name), median(&mut ours, name));
        println!(
            "{name:8} {:>11.3} ms {:>11.4} ms {:>8.1}x",
            a * 1e3,
            b * 1e3,
            a / b
        );
    }
}

fn ctx() -> Context {
    Context::within(Duration::from_secs(60))
}

fn message(n: usize, state: QueueState) -> MessageMetadata {
    // The same IDs as theirs, in an order that is no order.
    let id = format!("0a1b2c3d-0000-4000-8000-{:012}", n * 7919 % 1_000_003);
    let headers = [
        ("from", "<a@example.org>"),
        ("to", "user@example.com"),
        ("subject", "A & B"),
    ];
    MessageMetadata {
        state,
        size: 2048,
        headers: headers
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        ..MessageMetadata::new(id.parse().expect("an ID"))
    }
}

/// Files in deferred, without a flush for each.
fn fill(path: &Path, count: usize) {
    DirFactory::create_if_missing(path)
        .open()
        .expect("it is made");
    for n in 0..count {
        let message = message(n, Deferred);
        let file = path.join("deferred").join(format!("{}.json", message.id));
        fs::write(file, document::render(&message)).expect("it is written");
    }
}

fn build(directory: &Path) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/retryspool");
    let program = directory.join("retryspool");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .args([sources.join("main.go"), sources.join("store.go")])
        .env("GOCACHE", directory.join("go-cache"))
        .env("GOFLAGS", "-mod=mod")
        .status()
        .expect("this needs Go: apt-get install golang-go");
    assert!(built.success());
    program
}

fn state_count(store: &dyn Backend, state: QueueState) -> u64 {
    store.state_info(&ctx(), state).expect("it counts").count
}

fn measure(store: &dyn Backend, count: usize, round: usize) -> Vec<(&'static str, Duration)> {
    let timed = |times: usize, run: &dyn Fn(usize)| {
        let start = Instant::now();
        (0..times).for_each(run);
        start.elapsed() / times as u32
    };
    // Past the IDs that theirs made.
    let few = |n: usize| message(count + (round + 2) * FEW + n, Hold);
    let list = |options: &MessageListOptions| {
        let listed = store
            .list_messages(&ctx(), Deferred, options)
            .expect("it lists");
        assert_eq!(listed.total, count as u64);
        listed.message_ids.len()
    };
    let page = MessageListOptions {
        limit: Some(100),
        offset: count as u64 / 2,
        sort_by: SortBy::Created,
        ..Default::default()
    };
    vec![
        (
            "store",
            timed(FEW, &|n| {
                store.insert(&ctx(), &few(n)).expect("stored");
            }),
        ),
        (
            "move",
            timed(FEW, &|n| {
                store
                    .relocate(&ctx(), &few(n).id, Hold, Bounce)
                    .expect("moved");
            }),
        ),
        (
            "list",
            timed(5, &|_| assert_eq!(list(&Default::default()), count)),
        ),
        (
            "count",
            timed(1000, &|_| {
                assert_eq!(state_count(store, Deferred), count as u64)
            }),
        ),
        ("page", timed(20, &|_| assert_eq!(list(&page), 100))),
    ]
}

fn median(figures: &mut BTreeMap<String, Vec<f64>>, name: &str) -> f64 {
    let all = figures.get_mut(name).expect("it was measured");
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// This process's private memory in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("it is there");
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .expect("a line");
    let kib: usize = line
        .split_whitespace()
        .nth(1)
        .expect("a word")
        .parse()
        .expect("a number");
    kib * 1024
}
