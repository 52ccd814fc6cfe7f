//! `retryspoolfs demo`: a spool of invented mail, mounted, to try things on.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{Failure, background};
use crate::backend::locator::{Locator, OpenOptions};
use crate::backend::{Backend, Context};
use crate::model::{MessageMetadata, QueueState, Timestamp};

/// Make a spool of invented messages in every state, mount it, and print commands worth trying.
///
/// The spool is DIR/queue.db, the mount DIR/spool. With --directory the spool is a directory as
/// RetrySpool's own store makes it, DIR/meta. It ends with "umount DIR/spool"; the directory
/// can be removed then.
#[derive(Args, Debug)]
pub struct Arguments {
    /// A directory for it; made if it does not exist
    dir: PathBuf,
    /// Make the spool a directory, as RetrySpool's own store does
    #[arg(long)]
    directory: bool,
    /// Make the spool, and mount nothing
    #[arg(long)]
    no_mount: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let dir = &arguments.dir;
    let failed = |error: &dyn std::fmt::Display| format!("demo {}: {error}", dir.display());
    let mountpoint = dir.join("spool");
    fs::create_dir_all(&mountpoint).map_err(|error| failed(&error))?;
    let home = fs::canonicalize(dir).map_err(|error| failed(&error))?;
    let locator = match arguments.directory {
        true => Locator::Dir(home.join("meta")),
        false => Locator::Sqlite(home.join("queue.db")),
    };
    let database = locator.path().to_owned();
    if database.exists() {
        return Err(failed(&format!(
            "{} is there already; give another directory, or mount it: retryspoolfs mount {} {}",
            database.display(),
            database.display(),
            mountpoint.display()
        ))
        .into());
    }
    let options = OpenOptions {
        create: true,
        ..OpenOptions::default()
    };
    let store = locator.open(options).map_err(|error| failed(&error))?;
    let held = fill(&*store).map_err(|error| failed(&error))?;
    store.close().map_err(|error| failed(&error))?;
    if arguments.no_mount {
        return Ok(ExitCode::SUCCESS);
    }
    let words: [OsString; 3] = ["mount".into(), database.into(), mountpoint.clone().into()];
    let code = background::start(&words).map_err(|error| failed(&error))?;
    if code == 0 {
        print!("{}", invitation(&mountpoint, &held));
    }
    Ok(ExitCode::from(code))
}

fn invitation(mountpoint: &Path, example: &str) -> String {
    let dir = mountpoint.display();
    format!(
        "\
A queue of {MESSAGES} invented messages is mounted on {dir}. Try:

  cd {dir}
  ls -l deferred | head                                  what waits, by name; the date is its last change
  for s in *; do echo $s $(stat -c %s $s); done          how much is in each state
  cat deferred/{example}
  jq -r .LastError deferred/*.json | sort | uniq -c      why it waits
  mv deferred/{example} hold/                            hold one message
  grep -l @slow.example deferred/* | xargs mv -t hold    hold all for one destination

Why something was refused: cat .retryspool/errors
When you are done: cd; umount {dir} (as a user: fusermount3 -u {dir})
"
    )
}

const MESSAGES: usize = 240;

/// Invented, but of the kinds that real queues hold: domains, and how they fail.
const DOMAINS: &[(&str, &str)] = &[
    (
        "slow.example",
        "451 4.7.1 Greylisted, try again in 300 seconds",
    ),
    (
        "example.org",
        "421 4.4.2 mx1.example.org Error: timeout exceeded",
    ),
    ("full.example.net", "452 4.2.2 Mailbox full"),
    (
        "example.com",
        "450 4.1.1 Recipient address rejected: undeliverable address",
    ),
    (
        "down.example.net",
        "connect to mx.down.example.net[192.0.2.25]:25: Connection refused",
    ),
];
const REJECTED: &[&str] = &[
    "550 5.1.1 User unknown in virtual mailbox table",
    "554 5.7.1 Message rejected as spam",
];
const PEOPLE: &[&str] = &[
    "anna", "bob", "chiara", "dmitri", "emeka", "fatima", "grace", "hiro",
];
const SUBJECTS: &[&str] = &[
    "Your invoice for October",
    "Re: Lunch on Friday?",
    "Password reset",
    "Weekly report",
    "Build #4711 failed",
    "Grüße aus Köln",
];

/// Stores the messages, and gives the file name of one that is deferred.
fn fill(store: &dyn Backend) -> crate::backend::Result<String> {
    let now = Timestamp::now();
    let mut random = Random(0x5eed);
    let mut example = String::new();
    for nth in 0..MESSAGES {
        let state = match nth % 12 {
            0..=5 => QueueState::Deferred,
            6 | 7 => QueueState::Incoming,
            8 => QueueState::Active,
            9 | 10 => QueueState::Hold,
            _ => QueueState::Bounce,
        };
        let metadata = message(state, now, &mut random)?;
        if state == QueueState::Deferred && example.is_empty() {
            example = metadata.id.file_name();
        }
        let ctx = Context::within(Duration::from_secs(10));
        store.store_meta(&ctx, &metadata.id, &metadata)?;
    }
    Ok(example)
}

fn message(
    state: QueueState,
    now: Timestamp,
    random: &mut Random,
) -> crate::backend::Result<MessageMetadata> {
    let id = format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        random.below(1 << 32),
        random.below(1 << 16),
        random.below(1 << 12),
        random.below(1 << 12),
        random.below(1 << 48)
    );
    let (domain, error) = random.pick(DOMAINS);
    let attempts = match state {
        QueueState::Incoming => 0,
        QueueState::Active => random.below(2),
        QueueState::Deferred | QueueState::Hold => 1 + random.below(6),
        QueueState::Bounce | QueueState::Archived => 10,
    };
    // Five minutes, doubled with each attempt: as old as its attempts take.
    let age = 30 + random.below(300) + (300 << attempts.min(7)) - 300;
    let ago = |seconds: u64| Timestamp::new(now.seconds() - seconds as i64, now.nanos());
    let since_attempt = random.below(age.min(300 << attempts.min(6)));
    let updated = ago(since_attempt).unwrap_or(now);
    let next_retry = match state {
        QueueState::Deferred => updated.saturating_add(Duration::from_secs(300 << attempts)),
        _ => Timestamp::ZERO,
    };
    let last_error = match (attempts, state) {
        (0, _) => "",
        (_, QueueState::Bounce) => random.pick(REJECTED),
        _ => error,
    };
    let headers = [
        ("from", format!("{}@sender.example", random.pick(PEOPLE))),
        ("to", format!("{}@{domain}", random.pick(PEOPLE))),
        ("subject", (*random.pick(SUBJECTS)).to_owned()),
    ];
    Ok(MessageMetadata {
        state,
        attempts: attempts as i64,
        next_retry,
        created: ago(age).unwrap_or(now),
        updated,
        last_error: last_error.to_owned(),
        size: 900 + random.below(60_000) as i64,
        priority: 1 + random.below(9) as i64,
        headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
        ..MessageMetadata::new(id.parse()?)
    })
}

/// Marsaglia's xorshift: the same demo each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % limit.max(1)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
