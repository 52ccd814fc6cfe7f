//! Without a mount: the library called in-process, and raw SQLite running the same statements.

use std::time::{Duration, Instant};

use retryspoolfs::backend::sqlite::SqliteFactory;
use retryspoolfs::{
    Backend, Context, MessageId, MessageListOptions, QueueState, SortBy, StateCounterBackend,
};
use rusqlite::Connection;

use super::Bench;
use super::spools::{Place, message, name};

fn ctx() -> Context {
    Context::within(Duration::from_secs(60))
}

fn id(n: u64) -> MessageId {
    name(n).parse().expect("a UUID is an ID")
}

fn timed(some: &[u64], mut call: impl FnMut(u64)) -> Vec<Duration> {
    let one = |n: &u64| {
        let start = Instant::now();
        call(*n);
        start.elapsed()
    };
    some.iter().map(one).collect()
}

/// A connection set as the library sets its own.
fn connect(path: &std::path::Path) -> Connection {
    let conn = Connection::open(path).expect("the spool");
    for (name, value) in [("synchronous", "NORMAL"), ("temp_store", "memory")] {
        conn.pragma_update(None, name, value).expect("a setting");
    }
    conn.set_db_config(
        rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG,
        true,
    )
    .expect("a setting");
    conn.pragma_update(None, "mmap_size", 0).expect("a setting");
    conn.pragma_update(None, "cache_size", -8192)
        .expect("a setting");
    conn
}

const GET: &str = "SELECT m.id, m.state, m.attempts, m.max_attempts, m.next_retry, m.created, \
     m.last_error, m.size, m.priority, m.headers, m.retry_policy_name, m.updated, r.secs, r.nanos, \
     r.created_secs, r.created_nanos, r.retry_secs, r.retry_nanos \
     FROM messages m JOIN rs_message r ON r.id = m.id AND r.state = coalesce( \
     (SELECT state FROM rs_message WHERE state = m.state AND id = m.id), 7) \
     WHERE m.id = ?1 AND m.state BETWEEN 0 AND 5";
const MOVE: &str =
    "UPDATE messages SET state = ?2, updated = max(updated, ?4) WHERE id = ?1 AND state = ?3";
const STORE: &str = "UPDATE messages SET state = ?2, attempts = ?3, max_attempts = 10, next_retry = ?4, \
     updated = max(updated, ?5), last_error = ?6, size = ?7, priority = ?8, headers = ?9, \
     retry_policy_name = '', created = ?10 WHERE id = ?1";

impl Bench<'_> {
    pub fn inside(&mut self, place: &Place) {
        let wanted = ["in-process", "page", "count"];
        if !wanted
            .iter()
            .any(|word| word.contains(&self.arguments.only) || self.arguments.only.contains(word))
            || !"library".contains(&self.arguments.system)
        {
            return;
        }
        let path = place.spool("library", false);
        let store = SqliteFactory::new(&path)
            .open()
            .expect("the library's spool");
        let raw_path = place.spool("raw", false);
        let raw = connect(&raw_path);
        for _ in 0..self.rounds() {
            let some = self.chunk();
            let count = timed(&some, |_| {
                let counted = store.get_state_count(&ctx(), QueueState::Deferred);
                assert_eq!(counted.expect("a count"), self.messages);
            });
            self.keep("count of a state", "library", count);
            self.pages(&store);
            if self.messages < super::HUGE {
                self.calls(&store, &raw, &some);
            }
        }
    }

    fn pages(&mut self, store: &dyn Backend) {
        for (field, sort_by) in [
            ("ID", SortBy::Id),
            ("created", SortBy::Created),
            ("updated", SortBy::Updated),
            ("priority", SortBy::Priority),
            ("attempts", SortBy::Attempts),
        ] {
            let operation = format!("page of 100 from the middle, by {field}");
            if !self.wants(&operation) {
                continue;
            }
            let options = MessageListOptions {
                limit: Some(100),
                offset: self.messages / 2,
                sort_by,
                ..MessageListOptions::default()
            };
            let page = timed(&[0], |_| {
                let page = store.list_messages(&ctx(), QueueState::Deferred, &options);
                let page = page.expect("a page");
                assert_eq!((page.message_ids.len(), page.total), (100, self.messages));
            });
            self.keep(&operation, "library", page);
        }
    }

    fn calls(&mut self, store: &dyn Backend, raw: &Connection, some: &[u64]) {
        let (deferred, hold) = (QueueState::Deferred, QueueState::Hold);
        if self.wants("in-process get") {
            let calls = timed(some, |n| {
                store
                    .get(&ctx(), &id(n))
                    .expect("an answer")
                    .expect("a message");
            });
            self.keep("in-process get", "library", calls);
            let calls = timed(some, |n| {
                let mut query = raw.prepare_cached(GET).expect("the query");
                let read = query.query_row([name(n)], |row| {
                    let texts: (String, String, String, String) =
                        (row.get(0)?, row.get(6)?, row.get(9)?, row.get(10)?);
                    let numbers: Vec<i64> = [1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 14, 15, 16, 17]
                        .into_iter()
                        .map(|at| row.get(at))
                        .collect::<rusqlite::Result<_>>()?;
                    Ok((texts, numbers))
                });
                std::hint::black_box(read.expect("a message"));
            });
            self.keep("in-process get", "raw SQLite", calls);
        }
        if self.wants("in-process move") {
            let calls = timed(some, |n| {
                let moved = store.relocate(&ctx(), &id(n), deferred, hold);
                moved.expect("a move");
            });
            self.keep("in-process move", "library", calls);
            for n in some {
                let moved = store.relocate(&ctx(), &id(*n), hold, deferred);
                moved.expect("a move");
            }
            let move_raw = |n: u64, from: QueueState, to: QueueState| {
                committed(raw, || {
                    let mut update = raw.prepare_cached(MOVE).expect("the statement");
                    let now = retryspoolfs::Timestamp::now().seconds();
                    let changed = update.execute((name(n), to.number(), from.number(), now));
                    assert_eq!(changed.expect("a move"), 1);
                });
            };
            let calls = timed(some, |n| move_raw(n, deferred, hold));
            self.keep("in-process move", "raw SQLite", calls);
            some.iter().for_each(|n| move_raw(*n, hold, deferred));
        }
        if self.wants("in-process store") {
            let calls = timed(some, |n| {
                let stored = store.store_meta(&ctx(), &id(n), &message(n));
                stored.expect("a store");
            });
            self.keep("in-process store", "library", calls);
            let calls = timed(some, |n| {
                committed(raw, || {
                    let m = message(n);
                    let mut update = raw.prepare_cached(STORE).expect("the statement");
                    let changed = update.execute(rusqlite::params![
                        m.id.as_str(),
                        m.state.number(),
                        m.attempts,
                        m.next_retry.seconds(),
                        m.updated.seconds(),
                        m.last_error,
                        m.size,
                        m.priority,
                        serde_json::to_string(&m.headers).expect("JSON"),
                        m.created.seconds()
                    ]);
                    assert_eq!(changed.expect("a store"), 1);
                });
            });
            self.keep("in-process store", "raw SQLite", calls);
        }
    }
}

fn committed(conn: &Connection, change: impl FnOnce()) {
    let step = |sql| {
        let mut statement = conn.prepare_cached(sql).expect("the statement");
        statement.execute([]).expect("done");
    };
    step("BEGIN IMMEDIATE");
    change();
    step("COMMIT");
}
