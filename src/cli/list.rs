//! `retryspoolfs list`.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::Failure;
use super::failure::PARTLY;
use super::filter::Filters;
use super::format::{self, Format};
use super::output::{Output, complain, json_line, printable};
use super::place::{self, Place};
use crate::backend::{Backend, Pages};
use crate::model::{
    Filter, MessageId, MessageListOptions, MessageMetadata, QueueState, SortBy, SortOrder,
    Timestamp, When,
};

/// List messages: their IDs, or what else is asked for.
///
/// Without a STATE all states are listed, one after the other; an option that limits the listing
/// counts over all of them. Control characters are shown escaped; with -0 everything is printed
/// as it is, and each message ends with a NUL instead of a newline.
#[derive(Args, Debug)]
#[command(
    override_usage = "retryspoolfs list [OPTIONS] SPOOL [STATE]...",
    after_long_help = "\
Examples:
  As mailq does:
    retryspoolfs list /var/spool/q.db --format '{state} {id} {age} {header.from} {header.to} {last_error}'
  The ten oldest deferred messages:
    retryspoolfs list /var/spool/q.db deferred --sort created --limit 10
  Who waits for one destination, and why:
    retryspoolfs list /mnt/queue deferred --to '*@slow.example' --format '{id}\\t{age}\\t{last_error}'
  As files, for a tool that works on files:
    cd /mnt/queue && retryspoolfs list . hold --older 2d --paths -0 | xargs -0 grep -l urgent
  For jq:
    retryspoolfs list /var/spool/q.db --attempts 5.. --json | jq -r .Headers.to"
)]
pub struct Arguments {
    #[arg(value_name = "SPOOL STATE", help = place::HELP)]
    words: Vec<OsString>,
    /// What the listing is ordered by; equal ones by ID
    #[arg(long, value_name = "FIELD", default_value = "id")]
    sort: Sort,
    /// Smallest or oldest first, or largest first
    #[arg(long, default_value = "asc")]
    order: Order,
    /// At most so many messages
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Leave out the first N
    #[arg(long, value_name = "N", default_value = "0")]
    offset: u64,
    /// Only messages that were created or changed in the last so long, or since that time
    #[arg(long, value_name = "WHEN")]
    since: Option<When>,
    /// Print the documents as JSON Lines
    #[arg(long, conflicts_with_all = ["format", "paths", "null"])]
    json: bool,
    /// Print this line for each message, with {FIELD} for: id, state, path, attempts, max_attempts,
    /// next_retry, created, updated, age, idle, last_error, size, priority, retry_policy_name,
    /// header.NAME; \t is a tab
    #[arg(long, value_name = "LINE", conflicts_with = "paths")]
    format: Option<Format>,
    /// Print the paths of their files, from the mountpoint on
    #[arg(long)]
    paths: bool,
    /// End each message with a NUL, and escape nothing
    #[arg(short = '0', long = "null")]
    null: bool,
    #[command(flatten)]
    filters: Filters,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    Id,
    Created,
    Updated,
    Priority,
    Attempts,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Order {
    Asc,
    Desc,
}

/// How many messages are asked for at once.
const AT_ONCE: usize = 1000;

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (place, words) = Place::split(&arguments.words)?;
    let states = place::states(words)?;
    let now = Timestamp::now();
    let filter = Filter {
        touched_since: arguments.since.map(|when| when.ago(now)),
        ..arguments.filters.at(now)
    };
    let store = place.look()?;
    let mut listing = Listing {
        arguments,
        store: &*store,
        filter: &filter,
        now,
        out: Output::new(),
        skip: arguments.offset,
        left: arguments.limit.unwrap_or(u64::MAX),
        unreadable: 0,
    };
    for state in states {
        listing.state(state)?;
    }
    listing.out.end()?;
    // Somebody looks, and no script.
    let left = arguments.limit.unwrap_or(u64::MAX);
    if left > 0
        && (listing.skip, listing.left) == (arguments.offset, left)
        && io::stdout().is_terminal()
        && let Some(hint) = arguments.filters.meant()
    {
        complain(&format!("list: no message is like that; {hint}"));
    }
    match listing.unreadable {
        0 => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::from(PARTLY)),
    }
}

struct Listing<'a> {
    arguments: &'a Arguments,
    store: &'a dyn Backend,
    filter: &'a Filter,
    now: Timestamp,
    out: Output,
    /// How many messages are still to be left out, and how many to be printed then.
    skip: u64,
    left: u64,
    unreadable: u64,
}

fn failed(error: impl std::fmt::Display) -> Failure {
    format!("list: {error}").into()
}

impl Listing<'_> {
    fn state(&mut self, state: QueueState) -> Result<(), Failure> {
        if self.left == 0 {
            return Ok(());
        }
        let in_id_order = matches!(
            (self.arguments.sort, self.arguments.order),
            (Sort::Id, Order::Asc)
        );
        match (self.filter.is_empty(), in_id_order) {
            (true, true) => self.all(state),
            (true, false) => self.sorted_by_the_store(state),
            (false, true) if self.wants_whole() => self.chosen_whole(state),
            (false, _) => self.chosen(state),
        }
    }

    /// Whether more is printed than the ID.
    fn wants_whole(&self) -> bool {
        self.arguments.json || self.arguments.format.is_some()
    }

    /// Every message, by ID: no more than a batch is in memory.
    fn all(&mut self, state: QueueState) -> Result<(), Failure> {
        let mut after: Option<MessageId> = None;
        while self.left > 0 {
            let ctx = place::ctx();
            let ids = if self.wants_whole() && self.skip == 0 {
                let batch = self.store.scan_stored(&ctx, state, after.as_ref(), AT_ONCE);
                let mut ids = Vec::new();
                for (id, stored) in batch.map_err(failed)? {
                    match stored {
                        _ if self.left == 0 => break,
                        Ok(stored) => self.whole(&stored.metadata)?,
                        Err(error) => self.unreadable(&id, &error),
                    }
                    ids.push(id);
                }
                ids
            } else {
                let scanned = self.store.scan(&ctx, state, after.as_ref(), AT_ONCE);
                let ids = scanned.map_err(failed)?;
                for id in &ids {
                    self.id(state, id)?;
                }
                ids
            };
            if ids.len() < AT_ONCE {
                break;
            }
            after = ids.into_iter().next_back();
        }
        Ok(())
    }

    fn sorted_by_the_store(&mut self, state: QueueState) -> Result<(), Failure> {
        let options = MessageListOptions {
            limit: Some(self.left).filter(|left| *left < u64::MAX),
            offset: self.skip,
            sort_by: self.arguments.sort.into(),
            sort_order: self.arguments.order.into(),
            since: None,
        };
        let listed = self.store.list_messages(&place::ctx(), state, &options);
        let listed = listed.map_err(failed)?;
        self.skip = self.skip.saturating_sub(listed.total);
        for id in &listed.message_ids {
            self.id(state, id)?;
        }
        Ok(())
    }

    /// What the filter means, whole, as it comes by ID.
    fn chosen_whole(&mut self, state: QueueState) -> Result<(), Failure> {
        for page in Pages::stored(self.store, &[state], self.filter, AT_ONCE) {
            let (_, page) = page.map_err(failed)?;
            for id in &page.unreadable {
                self.unreadable(
                    id,
                    &"it can't be read, so nobody can tell whether it is meant",
                );
            }
            for stored in &page.messages {
                self.whole(&stored.metadata)?;
            }
            if self.left == 0 {
                break;
            }
        }
        Ok(())
    }

    /// What the filter means, in any order: IDs and what they are sorted by are kept in memory.
    fn chosen(&mut self, state: QueueState) -> Result<(), Failure> {
        let mut found: Vec<(i64, u32, MessageId)> = Vec::new();
        let mut unreadable = Vec::new();
        let sort = self.arguments.sort;
        if matches!(sort, Sort::Id) {
            for page in Pages::of(self.store, &[state], self.filter, AT_ONCE) {
                let (_, page) = page.map_err(failed)?;
                found.extend(page.messages.into_iter().map(|(id, _)| (0, 0, id)));
                unreadable.extend(page.unreadable);
            }
        } else {
            for page in Pages::stored(self.store, &[state], self.filter, AT_ONCE) {
                let (_, page) = page.map_err(failed)?;
                found.extend(page.messages.into_iter().map(|stored| {
                    let (major, minor) = sort.key(&stored.metadata);
                    (major, minor, stored.metadata.id)
                }));
                unreadable.extend(page.unreadable);
            }
        }
        for id in &unreadable {
            self.unreadable(
                id,
                &"it can't be read, so nobody can tell whether it is meant",
            );
        }
        found.sort_unstable();
        // One that was replaced meanwhile may have been met twice.
        found.dedup_by(|a, b| a.2 == b.2);
        if matches!(self.arguments.order, Order::Desc) {
            found.reverse();
        }
        for (_, _, id) in &found {
            self.id(state, id)?;
        }
        Ok(())
    }

    fn unreadable(&mut self, id: &MessageId, error: &dyn std::fmt::Display) {
        self.unreadable += 1;
        complain(&format!("list {id}: {error}"));
    }

    /// Whether the next message is to be printed, which it is then.
    fn takes_one(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let takes = self.left > 0;
        self.left = self.left.saturating_sub(1);
        takes
    }

    fn id(&mut self, state: QueueState, id: &MessageId) -> Result<(), Failure> {
        if self.wants_whole() {
            if self.skip > 0 || self.left == 0 {
                self.takes_one();
                return Ok(());
            }
            return match self.store.get_meta(&place::ctx(), id) {
                Ok(message) => self.whole(&message),
                // Somebody removed it meanwhile.
                Err(crate::Error::NotFound) => Ok(()),
                Err(error) => {
                    self.unreadable(id, &error);
                    Ok(())
                }
            };
        }
        if !self.takes_one() {
            return Ok(());
        }
        match self.arguments.paths {
            true => self.print(&format::path(state.as_str(), &id.file_name())),
            false => self.print(id.as_str()),
        }
    }

    fn whole(&mut self, message: &MessageMetadata) -> Result<(), Failure> {
        if !self.takes_one() {
            return Ok(());
        }
        match &self.arguments.format {
            Some(format) => {
                let line = format.line(message, self.now, self.arguments.null);
                self.end_of_message(&line)
            }
            None => self.out.bytes(json_line(message).as_bytes()),
        }
    }

    fn print(&mut self, text: &str) -> Result<(), Failure> {
        match self.arguments.null {
            true => self.end_of_message(text),
            false => self.end_of_message(&printable(text)),
        }
    }

    fn end_of_message(&mut self, text: &str) -> Result<(), Failure> {
        self.out.bytes(text.as_bytes())?;
        let end: &[u8] = if self.arguments.null { b"\0" } else { b"\n" };
        self.out.bytes(end)
    }
}

impl Sort {
    fn key(self, message: &MessageMetadata) -> (i64, u32) {
        let time = |time: Timestamp| (time.seconds(), time.nanos());
        match self {
            Sort::Id => (0, 0),
            Sort::Created => time(message.created),
            Sort::Updated => time(message.updated),
            Sort::Priority => (message.priority, 0),
            Sort::Attempts => (message.attempts, 0),
        }
    }
}

impl From<Sort> for SortBy {
    fn from(sort: Sort) -> SortBy {
        match sort {
            Sort::Id => SortBy::Id,
            Sort::Created => SortBy::Created,
            Sort::Updated => SortBy::Updated,
            Sort::Priority => SortBy::Priority,
            Sort::Attempts => SortBy::Attempts,
        }
    }
}

impl From<Order> for SortOrder {
    fn from(order: Order) -> SortOrder {
        match order {
            Order::Asc => SortOrder::Asc,
            Order::Desc => SortOrder::Desc,
        }
    }
}
