//! The triggers against an independent model: random statements of every kind that a writer of
//! `messages` could use, and after each transaction counts, side rows and log are compared with
//! the rows themselves.

use std::collections::BTreeMap;

use retryspoolfs::backend::sqlite::schema;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::support::{COLUMNS, INDEXES};

const T0: i64 = 1_800_000_000;

/// The log of the schema under test is trimmed to this many rows.
const LOG_ROWS: i64 = 512;

#[test]
fn random_statements_without_recursive_triggers() {
    run(1, 7_000, false);
    run(2, 7_000, false);
}

#[test]
fn random_statements_with_recursive_triggers() {
    run(3, 7_000, true);
    run(4, 7_000, true);
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

type Pair = (i64, i64);

/// What is stored of a row, all of it.
#[derive(Clone, PartialEq, Debug)]
struct Row {
    state: Value,
    all: Vec<Value>,
}

/// An ID as bytes, with its type: `messages` keeps text and blobs apart.
type Key = (bool, Vec<u8>);

#[derive(Default)]
struct Seen {
    rows: BTreeMap<Key, Row>,
    side: BTreeMap<Key, (i64, Pair)>,
    /// Created and NextRetry of the rows, as whole seconds, and of the side rows.
    times: [BTreeMap<Key, Pair>; 2],
}

struct Oracle {
    conn: Connection,
    random: Random,
    clock: i64,
    ids: Vec<Value>,
    last_seq: i64,
    /// What the log, replayed, says: bucket and revision of each ID, and the seq that said so.
    replay: BTreeMap<Key, i64>,
    revisions: BTreeMap<Key, (Pair, i64, bool)>,
}

fn run(seed: u64, statements: u32, recursive: bool) {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(schema::MESSAGES).unwrap();
    conn.execute_batch(INDEXES).unwrap();
    let ours = schema::SIDE_TABLES.replace("131072", &LOG_ROWS.to_string());
    assert_ne!(ours, schema::SIDE_TABLES);
    conn.execute_batch(&ours).unwrap();
    conn.pragma_update(None, "recursive_triggers", recursive)
        .unwrap();
    conn.set_prepared_statement_cache_capacity(64);
    let mut ids: Vec<Value> = (0..22).map(|n| Value::Text(format!("m{n}"))).collect();
    for strange in ["", "ü", "a/b", "a\0b", "\u{7f}", "%"] {
        ids.push(Value::Text(strange.into()));
    }
    for length in [83, 84, 248, 249, 250, 251] {
        ids.push(Value::Text("x".repeat(length)));
        ids.push(Value::Text("/".repeat(length)));
    }
    ids.push(Value::Blob(b"m1".to_vec()));
    let mut oracle = Oracle {
        conn,
        random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        clock: T0,
        ids,
        last_seq: 0,
        replay: BTreeMap::new(),
        revisions: BTreeMap::new(),
    };
    let mut done = 0;
    let mut before = oracle.look();
    while done < statements {
        let several = oracle.random.chance(200);
        let undone = oracle.random.chance(100);
        if several || undone {
            oracle.conn.execute_batch("BEGIN").unwrap();
        }
        for _ in 0..if several {
            2 + oracle.random.below(3)
        } else {
            1
        } {
            oracle.statement();
            done += 1;
        }
        if !oracle.conn.is_autocommit() {
            let end = if undone { "ROLLBACK" } else { "COMMIT" };
            oracle.conn.execute_batch(end).unwrap();
        }
        let after = oracle.look();
        oracle.compare(&before, &after);
        before = after;
    }
    let logged: i64 = oracle
        .conn
        .query_row("SELECT count(*) FROM rs_log", [], |row| row.get(0))
        .unwrap();
    assert!(oracle.last_seq > LOG_ROWS, "too few changes to trim");
    assert!(
        (LOG_ROWS - 256..=LOG_ROWS + 256).contains(&logged),
        "{logged} rows in the log"
    );
}

/// The bucket that a row belongs to, and whether SQL may call it doubtful.
fn bucket(key: &Key, state: &Value) -> i64 {
    let expressible = !key.0
        && std::str::from_utf8(&key.1)
            .is_ok_and(|id| id.parse::<retryspoolfs::MessageId>().is_ok());
    match state {
        Value::Integer(state @ 0..=5) if expressible => *state,
        _ => 6,
    }
}

impl Oracle {
    fn id(&mut self) -> Value {
        let at = match self.random.chance(850) {
            true => self.random.below(22),
            false => self.random.below(self.ids.len() as u64),
        };
        self.ids[at as usize].clone()
    }

    fn state(&mut self) -> Value {
        match self.random.below(60) {
            0 => Value::Integer(9),
            1 => Value::Integer(-1),
            2 => Value::Real(2.5),
            3 => Value::Text("hold".into()),
            4 | 5 => Value::Integer(5),
            n => Value::Integer(n as i64 % 5),
        }
    }

    fn plain_state(&mut self) -> Value {
        Value::Integer(self.random.below(5) as i64)
    }

    /// A clock that stands still, steps back, and at times shows the end or the beginning of time.
    fn now(&mut self) -> Value {
        match self.random.below(1000) {
            0..150 => self.clock += 1,
            150..200 => self.clock -= 1 + self.random.below(5) as i64,
            200..203 => return Value::Integer(-62_135_596_800),
            203..206 => return Value::Integer(253_402_300_800),
            206..208 => return Value::Integer(i64::MAX),
            208..210 => return Value::Real(-1e300),
            210..212 => return Value::Text("yesterday".into()),
            _ => {}
        }
        Value::Integer(self.clock)
    }

    /// A time of few, so that a change often keeps it.
    fn time(&mut self) -> Value {
        match self.random.below(40) {
            0 => Value::Text("tomorrow".into()),
            1 => Value::Real(1e300),
            2..5 => Value::Integer(-62_135_596_800),
            n => Value::Integer(T0 + n as i64 % 3),
        }
    }

    fn row(&mut self, id: Value) -> Vec<Value> {
        let number = |n| Value::Integer(n);
        let text = |t: &str| Value::Text(t.into());
        let priority = self.random.below(9) as i64;
        vec![
            id,
            self.state(),
            number(0),
            number(10),
            self.time(),
            self.time(),
            self.now(),
            text(""),
            number(1),
            number(priority),
            text("{}"),
            text(""),
        ]
    }

    /// One statement of a random kind; a constraint may refuse it.
    fn statement(&mut self) {
        const Q: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let (i, j) = (self.id(), self.id());
        let (sql, values) = match self.random.below(26) {
            0..4 => (format!("INSERT OR REPLACE INTO messages ({COLUMNS}) VALUES {Q}"), self.row(i)),
            4..7 => (
                "UPDATE messages SET state = ?, updated = ?, headers = ? WHERE id = ? AND state = ?".into(),
                vec![self.state(), self.now(), Value::Text("{}".into()), i, self.plain_state()],
            ),
            7 => ("DELETE FROM messages WHERE id = ?".into(), vec![i]),
            8 => (
                "UPDATE messages SET updated = ?, attempts = attempts + 1 WHERE state = ?".into(),
                vec![self.now(), self.plain_state()],
            ),
            9 => (
                "UPDATE messages SET state = ?, updated = ? WHERE state = ? AND id < ?".into(),
                vec![self.state(), self.now(), self.plain_state(), i],
            ),
            10 => (
                format!(
                    "INSERT INTO messages ({COLUMNS}) VALUES {Q} ON CONFLICT (id) DO UPDATE \
                     SET state = excluded.state, updated = excluded.updated"
                ),
                self.row(i),
            ),
            11 => (format!("INSERT OR IGNORE INTO messages ({COLUMNS}) VALUES {Q}"), self.row(i)),
            12 => ("UPDATE messages SET id = ? WHERE id = ?".into(), vec![j, i]),
            13 => (
                "UPDATE OR REPLACE messages SET id = ?, state = ? WHERE id = ?".into(),
                vec![j, self.state(), i],
            ),
            14 => (
                "UPDATE OR IGNORE messages SET id = ?, updated = ? WHERE id = ?".into(),
                vec![j, self.now(), i],
            ),
            15 => (
                format!("INSERT OR REPLACE INTO messages ({COLUMNS}) VALUES {Q}, {Q}, {Q}"),
                [self.row(i.clone()), self.row(j), self.row(i)].concat(),
            ),
            16 => (
                "DELETE FROM messages WHERE state = ? AND id > ?".into(),
                vec![self.plain_state(), i],
            ),
            17 => (
                format!("INSERT OR FAIL INTO messages ({COLUMNS}) VALUES {Q}, {Q}"),
                [self.row(i), self.row(j)].concat(),
            ),
            18 => (
                format!(
                    "INSERT OR REPLACE INTO messages ({COLUMNS}) SELECT id, ?, attempts, max_attempts, next_retry, \
                     created, ?, last_error, size, priority, headers, retry_policy_name FROM messages \
                     WHERE id IS NOT NULL AND state = ?"
                ),
                vec![self.state(), self.now(), self.plain_state()],
            ),
            19 => (
                "UPDATE OR REPLACE messages SET id = 'm' || ((CAST(substr(id, 2) AS INTEGER) + 1) % 25) WHERE state = ?"
                    .into(),
                vec![self.plain_state()],
            ),
            20 => (format!("REPLACE INTO messages ({COLUMNS}) VALUES {Q}"), self.row(i)),
            21 if self.random.chance(100) => {
                (format!("INSERT INTO messages ({COLUMNS}) VALUES {Q}"), self.row(Value::Null))
            }
            21 => (format!("INSERT OR ABORT INTO messages ({COLUMNS}) VALUES {Q}"), self.row(i)),
            22 => (
                "UPDATE messages SET created = ?, next_retry = ?, updated = ? WHERE id = ?".into(),
                vec![self.time(), self.time(), self.now(), i],
            ),
            23 => (
                "UPDATE messages SET state = 2, next_retry = ?, updated = ? WHERE id = ?".into(),
                vec![self.time(), self.now(), i],
            ),
            // As this store does after a statement of its own: the nanoseconds of the seconds that
            // are there.
            24 => (
                "UPDATE rs_message SET created_nanos = created_secs % 7 + 1, retry_nanos = retry_secs % 7 + 1 \
                 WHERE id = ? AND created_secs > 0 AND retry_secs > 0"
                    .into(),
                vec![i],
            ),
            // Text that is not UTF-8, which only SQL can bind here.
            _ => (
                format!(
                    "INSERT OR REPLACE INTO messages ({COLUMNS}) VALUES (CAST(x'6dff' AS TEXT), {}",
                    &Q[4..]
                ),
                self.row(i).split_off(1),
            ),
        };
        let done = self
            .conn
            .prepare_cached(&sql)
            .unwrap()
            .execute(params_from_iter(values));
        match done {
            Ok(_) => {}
            Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {}
            Err(e) => panic!("{sql}: {e}"),
        }
    }

    fn look(&self) -> Seen {
        let mut seen = Seen::default();
        let sql = format!(
            "SELECT typeof(id) = 'blob', CAST(id AS BLOB), state, rowid, {}, \
             CAST(created AS INTEGER), CAST(next_retry AS INTEGER) FROM messages WHERE id IS NOT NULL",
            COLUMNS.replace("id, ", "")
        );
        let mut statement = self.conn.prepare_cached(&sql).unwrap();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let all = (2..15).map(|at| row.get(at).unwrap()).collect();
            let key: Key = (row.get(0).unwrap(), row.get(1).unwrap());
            let state = row.get(2).unwrap();
            let times = (row.get(15).unwrap(), row.get(16).unwrap());
            seen.times[0].insert(key.clone(), times);
            seen.rows.insert(key, Row { state, all });
        }
        let mut statement = self
            .conn
            .prepare_cached(
                "SELECT typeof(id) = 'blob', CAST(id AS BLOB), state, secs, nanos, created_secs, retry_secs, \
                 created_nanos IN (0, created_secs % 7 + 1) AND retry_nanos IN (0, retry_secs % 7 + 1) FROM rs_message",
            )
            .unwrap();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let key: Key = (row.get(0).unwrap(), row.get(1).unwrap());
            let value = (
                row.get(2).unwrap(),
                (row.get(3).unwrap(), row.get(4).unwrap()),
            );
            let times = (row.get(5).unwrap(), row.get(6).unwrap());
            seen.times[1].insert(key.clone(), times);
            assert!(
                row.get::<_, bool>(7).unwrap(),
                "nanoseconds of another second"
            );
            assert!(
                seen.side.insert(key, value).is_none(),
                "an ID has two side rows"
            );
        }
        seen
    }

    fn compare(&mut self, before: &Seen, after: &Seen) {
        assert!(
            after.rows.keys().eq(after.side.keys()),
            "a side row for each row"
        );
        assert_eq!(after.times[0], after.times[1], "Created and NextRetry");
        let mut counts = [0; 8];
        for (key, row) in &after.rows {
            let (found, right) = (after.side[key].0, bucket(key, &row.state));
            let is_plain = !key.0
                && key.1.len() <= 83
                && key.1.iter().all(|b| (1..128).contains(b))
                && !key.1.is_empty();
            assert!(
                found == right || (found == 7 && !is_plain),
                "{key:?} {row:?} is in {found}"
            );
            counts[found as usize] += 1;
        }
        assert_eq!(self.counted(), counts);
        let changes = self.replay();
        for key in before.rows.keys().chain(after.rows.keys()) {
            let removed = changes.get(key);
            let (was, is) = (before.rows.get(key), after.rows.get(key));
            assert!(
                was == is || removed.is_some(),
                "{key:?} changed, and the log is silent"
            );
            if removed.is_none() {
                assert_eq!(before.side.get(key), after.side.get(key), "{key:?}");
            }
            if let (Some(was), Some(is), Some(removed)) =
                (before.side.get(key), after.side.get(key), removed)
            {
                // Removed and made again is a new life.
                assert!(
                    is.1 > was.1 || *removed,
                    "the revision of {key:?} did not grow: {was:?} {is:?}"
                );
            }
        }
        let replayed: BTreeMap<&Key, i64> = self
            .replay
            .iter()
            .map(|(key, bucket)| (key, *bucket))
            .collect();
        let stored: BTreeMap<&Key, i64> =
            after.side.iter().map(|(key, side)| (key, side.0)).collect();
        assert_eq!(replayed, stored, "the log, replayed");
    }

    fn counted(&self) -> Vec<i64> {
        let sql = "SELECT count FROM rs_state ORDER BY state";
        let mut statement = self.conn.prepare_cached(sql).unwrap();
        let counts = statement.query_map([], |row| row.get(0)).unwrap();
        counts.map(Result::unwrap).collect()
    }

    /// Reads what is new in the log, and tells which IDs it names and whether each was removed
    /// on the way.
    fn replay(&mut self) -> BTreeMap<Key, bool> {
        let mut changes = BTreeMap::new();
        let mut statement = self
            .conn
            .prepare_cached("SELECT seq, typeof(id) = 'blob', CAST(id AS BLOB), old, new, secs, nanos FROM rs_log WHERE seq > ?1 ORDER BY seq")
            .unwrap();
        let mut rows = statement.query([self.last_seq]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let seq: i64 = row.get(0).unwrap();
            let key: Key = (row.get(1).unwrap(), row.get(2).unwrap());
            let (old, new): (Option<i64>, Option<i64>) = (row.get(3).unwrap(), row.get(4).unwrap());
            let revision: Pair = (row.get(5).unwrap(), row.get(6).unwrap());
            assert_eq!(seq, self.last_seq + 1, "a gap in the log");
            self.last_seq = seq;
            assert_eq!(self.replay.get(&key).copied(), old, "{key:?} at {seq}");
            match new {
                Some(new) => self.replay.insert(key.clone(), new),
                None => self.replay.remove(&key),
            };
            if let Some((last, at, removed)) = self.revisions.get(&key) {
                match (removed, new) {
                    (false, Some(_)) => {
                        assert!(revision > *last, "{key:?} at {seq}: {last:?} {revision:?}")
                    }
                    (false, None) => {
                        assert_eq!(revision, *last, "{key:?}: the last revision it had")
                    }
                    // The next row makes it again: one statement's REPLACE, or a life that follows.
                    (true, _) if *at == seq - 1 => assert!(revision > *last, "{key:?} at {seq}"),
                    (true, _) => {}
                }
            }
            self.revisions
                .insert(key.clone(), (revision, seq, new.is_none()));
            *changes.entry(key).or_insert(false) |= new.is_none();
        }
        changes
    }
}
