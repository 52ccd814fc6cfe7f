//! The figures: this mount beside the floor, plain directories, the library and raw SQLite, in one
//! run. `scripts/bench --help` tells how it is run. Root alone: it mounts, and drops caches.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;

mod calls;
mod floor;
mod inside;
mod results;
mod spools;

use calls::{Tree, drop_caches};
use results::Result;
use spools::{HUGE, Mounted, Place};

/// Measures the mount beside the floor (a null filesystem on the same library), ext4, tmpfs, the
/// library in-process and raw SQLite; prints a table in Markdown and draws a chart.
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Ten thousand messages and two rounds: a look, no figures to publish
    #[arg(long)]
    quick: bool,
    /// How many messages; may be given several times [default: 10000, 1000000, and 10000000 for
    /// mounting, memory, counting and ls -f]
    #[arg(long)]
    messages: Vec<u64>,
    /// Only operations whose name has this text in it
    #[arg(long, default_value = "")]
    only: String,
    /// Only systems whose name has this text in it
    #[arg(long, default_value = "")]
    system: String,
    /// How often each operation is measured on each system
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// Where spools and files are made, on a disk; what is there is used again
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// A directory on tmpfs for the same
    #[arg(long, default_value = "/dev/shm/retryspoolfs-bench")]
    tmpfs: PathBuf,
    /// Where the chart is written
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Serve the floor on this directory (what the benchmark starts itself with)
    #[arg(long, hide = true)]
    floor: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if let Some(point) = &arguments.floor {
        let messages = arguments.messages.first().copied().unwrap_or(10_000);
        floor::serve(point, messages, spools::document_of(7));
        return ExitCode::SUCCESS;
    }
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("bench: it mounts and drops the kernel's caches: run it as root");
        return ExitCode::FAILURE;
    }
    if arguments.quick {
        arguments.rounds = arguments.rounds.min(2);
    }
    if arguments.messages.is_empty() {
        arguments.messages = if arguments.quick {
            vec![10_000]
        } else {
            vec![10_000, 1_000_000, 10_000_000]
        };
    }
    for messages in arguments.messages.clone() {
        let results = measure(&arguments, messages);
        println!("\n{messages} messages\n\n{}", results::table(&results));
        if let Some(svg) = arguments.svg.as_ref().filter(|_| messages <= 1_000_000) {
            let title = format!("{messages} messages: medians, logarithmic");
            std::fs::write(svg, results::chart(&results, &title)).expect("the chart");
        }
    }
    ExitCode::SUCCESS
}

struct Bench<'a> {
    arguments: &'a Arguments,
    messages: u64,
    /// Messages that one round of an operation takes.
    some: u64,
    /// How many chunks of the messages were taken.
    taken: u64,
    results: Vec<Result>,
}

/// One round of an operation: its number, the messages it is made on, and what each call took.
type Round<'a> = &'a dyn Fn(&Tree, u64, &[u64]) -> Vec<Duration>;

struct System {
    label: &'static str,
    tree: Tree,
    mounted: Option<Mounted>,
}

fn measure(arguments: &Arguments, messages: u64) -> Vec<Result> {
    let dir = std::path::absolute(&arguments.dir).expect("a path");
    let place = Place {
        dir: dir.join(messages.to_string()),
        messages,
    };
    std::fs::create_dir_all(&place.dir).expect("the directory of the benchmark");
    let mut bench = Bench {
        arguments,
        messages,
        some: if messages > 100_000 { 1000 } else { 200 },
        taken: 0,
        results: Vec::new(),
    };
    let systems: Vec<System> = [
        "mount",
        "mount, RetrySpool's indexes",
        "floor",
        "ext4",
        "tmpfs",
    ]
    .into_iter()
    .filter(|label| label.contains(&arguments.system))
    .filter(|label| messages < HUGE || *label == "mount")
    .map(|label| system(label, &place, arguments))
    .collect();
    bench.mounts(&systems);
    bench.written(&place, &systems);
    drop(systems);
    bench.inside(&place);
    bench.mounting(&place);
    bench.results
}

fn system(label: &'static str, place: &Place, arguments: &Arguments) -> System {
    let mounted = |mounted: Mounted| System {
        label,
        tree: Tree {
            root: mounted.point.clone(),
        },
        mounted: Some(mounted),
    };
    let plain = |root: PathBuf| System {
        label,
        tree: Tree {
            root: place.plain(&root),
        },
        mounted: None,
    };
    match label {
        "mount" => mounted(Mounted::spool(
            &place.spool("mount", false),
            &place.dir.join("on-mount"),
        )),
        "floor" => mounted(Mounted::floor(place.messages, &place.dir.join("on-floor"))),
        "ext4" => plain(place.dir.join("plain")),
        "tmpfs" => plain(arguments.tmpfs.join(place.messages.to_string())),
        _ => mounted(Mounted::spool(
            &place.spool("indexed", true),
            &place.dir.join("on-indexed"),
        )),
    }
}

impl Bench<'_> {
    fn wants(&self, operation: &str) -> bool {
        operation.contains(&self.arguments.only)
    }

    fn rounds(&self) -> u64 {
        self.arguments.rounds
    }

    fn keep(&mut self, operation: &str, system: &'static str, calls: Vec<Duration>) {
        let mut all = self.results.iter_mut();
        match all.find(|r| r.operation == operation && r.system == system) {
            Some(result) => result.rounds.push(calls),
            None => self.results.push(Result {
                operation: operation.to_owned(),
                system,
                rounds: vec![calls],
            }),
        }
    }

    /// Messages that no operation had for long, in no order.
    fn chunk(&mut self) -> Vec<u64> {
        // A step without a common divisor with any power of ten visits all.
        let first = self.taken * self.some;
        self.taken += 1;
        (first..first + self.some)
            .map(|n| (n * 7_654_321) % self.messages)
            .collect()
    }

    /// One operation on each system: all calls of a round, timed one by one.
    fn each(&mut self, systems: &[System], operation: &str, run: Round) {
        if !self.wants(operation) {
            return;
        }
        for round in 0..self.rounds() {
            let chunk = self.chunk();
            for system in systems {
                eprint!(
                    "\r\x1b[K{} {operation} {} {round}",
                    self.messages, system.label
                );
                let calls = run(&system.tree, round, &chunk);
                self.keep(operation, system.label, calls);
            }
        }
        eprint!("\r\x1b[K");
    }

    fn mounts(&mut self, systems: &[System]) {
        let each = |tree: &Tree, call: &dyn Fn(&Tree, u64) -> Duration, some: &[u64]| {
            some.iter().map(|n| call(tree, *n)).collect::<Vec<_>>()
        };
        self.each(systems, "count of a state", &|tree, _, some| {
            each(tree, &|tree, _| tree.count(), some)
        });
        self.walks(systems);
        if self.messages >= HUGE {
            return;
        }
        self.each(systems, "stat, cold", &|tree, _, some| {
            drop_caches();
            each(tree, &Tree::stat, some)
        });
        self.each(systems, "stat, warm", &|tree, _, some| {
            each(tree, &Tree::stat, some);
            each(tree, &Tree::stat, some)
        });
        self.each(systems, "cat, cold", &|tree, _, some| {
            drop_caches();
            each(tree, &Tree::cat, some)
        });
        self.each(systems, "cat, warm", &|tree, _, some| {
            each(tree, &Tree::cat, some);
            each(tree, &Tree::cat, some)
        });
        self.each(systems, "mv", &|tree, _, some| {
            drop_caches();
            let moved = each(tree, &|tree, n| tree.rename(0, 1, n), some);
            each(tree, &|tree, n| tree.rename(1, 0, n), some);
            moved
        });
        self.each(
            systems,
            "mv, 8 clients (a share of the time)",
            &|tree, _, some| {
                drop_caches();
                let moved = eight(some, &|n| {
                    tree.rename(0, 1, n);
                });
                each(tree, &|tree, n| tree.rename(1, 0, n), some);
                moved
            },
        );
        self.each(systems, "mv + fsync of the directory", &|tree, _, some| {
            let some = &some[..some.len() / 4];
            let moved = |tree: &Tree, n| {
                let start = Instant::now();
                tree.rename(0, 1, n);
                tree.sync_dir(1);
                start.elapsed()
            };
            let moved = each(tree, &moved, some);
            each(tree, &|tree, n| tree.rename(1, 0, n), some);
            moved
        });
        self.each(systems, "update", &|tree, round, some| {
            each(tree, &|tree, n| tree.update(n, round, false), some)
        });
        self.each(systems, "update + fsync", &|tree, round, some| {
            each(tree, &|tree, n| tree.update(n, round + 1, true), some)
        });
        self.each(
            systems,
            "update + fsync, 8 clients (a share of the time)",
            &|tree, round, some| {
                eight(some, &|n| {
                    tree.update(n, round + 2, true);
                })
            },
        );
        let beyond = 10 * self.messages;
        let new = &|some: &[u64]| -> Vec<u64> { some.iter().map(|n| n + beyond).collect() };
        let (create, remove) = ("create: temporary file and rename", "rm");
        let (wants_create, wants_remove) = (self.wants(create), self.wants(remove));
        if wants_create || wants_remove {
            for _ in 0..self.rounds() {
                let some = new(&self.chunk());
                for system in systems {
                    let made = each(&system.tree, &|tree, n| tree.create(n, false), &some);
                    self.keep(create, system.label, made);
                    drop_caches();
                    let removed = each(&system.tree, &Tree::unlink, &some);
                    self.keep(remove, system.label, removed);
                }
            }
        }
        self.each(
            systems,
            "create + fsync + rename + fsync of the directory",
            &|tree, _, some| {
                let some = new(&some[..some.len() / 4]);
                let made = each(tree, &|tree, n| tree.create(n, true), &some);
                each(tree, &Tree::unlink, &some);
                made
            },
        );
    }

    fn walks(&mut self, systems: &[System]) {
        let expect = self.messages;
        let whole = move |listed: &dyn Fn() -> u64| {
            let start = Instant::now();
            let found = listed();
            assert_eq!(found, expect, "messages in the listing");
            vec![start.elapsed()]
        };
        self.each(systems, "ls -f, whole", &|tree, _, _| {
            drop_caches();
            whole(&|| tree.list(|_| {}))
        });
        self.memory(systems, "ls -f, whole", "after ls -f", &|_| {});
        if self.messages >= HUGE {
            return;
        }
        self.each(systems, "ls -l, cold, whole", &|tree, _, _| {
            drop_caches();
            whole(&|| tree.list_long())
        });
        self.memory(systems, "ls -l, cold, whole", "after ls -l", &|tree| {
            tree.list_long();
        });
        self.each(systems, "ls -l, warm, whole", &|tree, _, _| {
            whole(&|| tree.list_long())
        });
        if self.wants("ls -l, cold, whole") {
            drop_caches();
            self.memory(
                systems,
                "ls -l, cold, whole",
                "after the kernel forgot",
                &|_| {},
            );
        }
    }

    fn memory(&self, systems: &[System], operation: &str, when: &str, walk: &dyn Fn(&Tree)) {
        for system in systems.iter().filter(|_| self.wants(operation)) {
            if let Some(mounted) = &system.mounted {
                // The other systems' rounds made the kernel forget this one's names as well.
                walk(&system.tree);
                // What the kernel closes and forgets reaches the mount a little later, and is given
                // back at the next of the rounds that come each second.
                settle(mounted);
                let bytes = mounted.private_bytes();
                println!(
                    "{} messages: {} {when}: {:.1} MiB of private pages, {} bytes a message",
                    self.messages,
                    system.label,
                    bytes as f64 / f64::from(1 << 20),
                    bytes / self.messages
                );
            }
        }
    }

    fn written(&mut self, place: &Place, systems: &[System]) {
        if !self.wants("mv") {
            return;
        }
        let some = self.chunk();
        for system in systems.iter().filter(|s| s.label.starts_with("mount")) {
            let Some(before) = place.written_bytes() else {
                continue;
            };
            for (from, to) in [(0, 1), (1, 0)] {
                for n in &some {
                    system.tree.rename(from, to, *n);
                }
            }
            let Some(after) = place.written_bytes() else {
                continue;
            };
            println!(
                "{} messages: {}: the disk was given {} bytes for each mv",
                self.messages,
                system.label,
                (after - before) / (2 * some.len() as u64)
            );
        }
    }

    fn mounting(&mut self, place: &Place) {
        let operation = "mount until it answers";
        if !self.wants(operation) || !"mount".contains(&self.arguments.system) {
            return;
        }
        let (spool, point) = (place.spool("mount", false), place.dir.join("on-mount"));
        std::fs::create_dir_all(&point).expect("the mountpoint");
        for round in 0..=self.rounds() {
            let start = Instant::now();
            let mut command = Command::new(env!("CARGO_BIN_EXE_retryspoolfs"));
            let status = command.arg("mount").arg(&spool).arg(&point).status();
            assert!(status.expect("the command").success());
            let took = start.elapsed();
            let status = Command::new("umount").arg(&point).status();
            assert!(status.expect("umount").success());
            // The first one may bring over what the log holds.
            if round > 0 {
                self.keep(operation, "mount", vec![took]);
            }
        }
    }
}

/// Waits until a mount's memory shrinks no more, but no longer than half a minute.
fn settle(mounted: &Mounted) {
    let (mut least, mut since) = (mounted.private_bytes(), Instant::now());
    let end = Instant::now() + Duration::from_secs(30);
    while since.elapsed() < Duration::from_secs(3) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
        let now = mounted.private_bytes();
        if now < least {
            (least, since) = (now, Instant::now());
        }
    }
}

/// Runs the calls in eight threads: the time of all, divided by the number of calls.
fn eight(some: &[u64], call: &(dyn Fn(u64) + Sync)) -> Vec<Duration> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for part in some.chunks(some.len().div_ceil(8)) {
            scope.spawn(move || part.iter().for_each(|n| call(*n)));
        }
    });
    vec![start.elapsed() / some.len() as u32]
}
