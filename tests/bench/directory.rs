//! RetrySpool's own directory: this library beside a program that does what RetrySpool's store
//! does, on the same files.
//!
//! `cargo bench --bench directory [-- MESSAGES]`; needs Go, or in `RETRYSPOOLFS_PEER` a program that
//! does and prints what `writes` and `reads` of tests/retryspool do. Prints a table of medians. Each
//! round runs both, one right after the other and in turns first, so that whatever else the machine
//! does meets both: a disk that is busy for some seconds would else be one side's alone.

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

/// Rounds of what writes, and of what reads.
const WRITES: usize = 21;
const READS: usize = 5;
/// How many messages are stored and moved in a round.
const FEW: usize = 100;

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
    let program = std::env::var_os("RETRYSPOOLFS_PEER")
        .map_or_else(|| build(directory.path()), PathBuf::from);

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

    let mut figures = [Figures::new(), Figures::new()];
    let mut run = |command: &str, round: usize| {
        for side in [round % 2, 1 - round % 2] {
            let took = match (side, command) {
                (0, _) => theirs(&program, command, &path, count),
                (_, "writes") => writes(&store, count),
                (_, _) => reads(&store, count),
            };
            for (name, seconds) in took {
                figures[side].entry(name).or_default().push(seconds);
            }
        }
    };
    (0..WRITES).for_each(|round| run("writes", round));
    (0..READS).for_each(|round| run("reads", round));
    println!(
        "{:8} {:>14} {:>14} {:>9}",
        "", "RetrySpool's", "this", "ratio"
    );
    for name in ["list", "count", "page", "store", "move"] {
        let [a, b] = figures
            .each_ref()
            .map(|side| median(side.get(name).expect("it was measured").clone()));
        println!(
            "{name:8} {:>11.3} ms {:>11.4} ms {:>8.1}x",
            a * 1e3,
            b * 1e3,
            a / b
        );
    }
}

/// The seconds that each operation took, round by round.
type Figures = BTreeMap<String, Vec<f64>>;

/// What their program measures.
fn theirs(program: &Path, command: &str, path: &Path, count: usize) -> Vec<(String, f64)> {
    let output = Command::new(program)
        .args([command.as_ref(), path.as_os_str()])
        .arg(count.to_string())
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let line = |line: &str| {
        let (name, seconds) = line.split_once(' ').expect("two words");
        (name.into(), seconds.parse().expect("a number"))
    };
    text.lines().map(line).collect()
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

/// The median of the times that it takes: a disk's single long waits are nobody's fault.
fn timed(name: &str, times: usize, mut run: impl FnMut(usize)) -> (String, f64) {
    let time = |n| {
        let start = Instant::now();
        run(n);
        start.elapsed().as_secs_f64()
    };
    (name.into(), median((0..times).map(time).collect()))
}

fn writes(store: &dyn Backend, count: usize) -> Vec<(String, f64)> {
    // Past the IDs that theirs makes, and removes again.
    let few = |n: usize| message(count + FEW + n, Hold);
    let took = vec![
        timed("store", FEW, |n| {
            store.insert(&ctx(), &few(n)).expect("stored");
        }),
        timed("move", FEW, |n| {
            let moved = store.relocate(&ctx(), &few(n).id, Hold, Bounce);
            moved.expect("moved");
        }),
    ];
    for n in 0..FEW {
        store.delete_meta(&ctx(), &few(n).id).expect("removed");
    }
    took
}

fn reads(store: &dyn Backend, count: usize) -> Vec<(String, f64)> {
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
        timed("list", 5, |_| assert_eq!(list(&Default::default()), count)),
        timed("count", 1000, |_| {
            assert_eq!(state_count(store, Deferred), count as u64)
        }),
        timed("page", 20, |_| assert_eq!(list(&page), 100)),
    ]
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
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
