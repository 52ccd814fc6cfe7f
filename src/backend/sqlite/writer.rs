//! The one writer of this process: changes that arrive together share one transaction.
//!
//! Owns: the writing connection, the queue of changes, who leads. There is no thread: the first
//! caller leads, which means that its own thread runs one transaction for all who are waiting
//! once it has the lock; a lone caller waits for nobody. Then the lead passes on.
//! May fail: each caller with its own answer; [`Error::Busy`] at its own deadline. If the shared
//! transaction fails, each change runs again alone. Nobody is answered before the commit.
//! Must not know: what a change does.
//!
//! It is long because waiting, leading and failing together are one protocol, to be read in one place.

use std::cell::LazyCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::audit::{self, Before};
use super::change::{Answer, Change};
use super::checkpoint::Checkpointer;
use super::error::{from_sqlite, is_busy, is_full};
use super::faults::{Faults, Point};
use super::open::Place;
use super::pace::Pace;
use super::reserve;
use super::upkeep::Upkeep;
use crate::backend::{Actor, Context, Error, Result};

/// How long one transaction goes on taking changes. With its commit it aims at 5 ms of write
/// lock: RetrySpool's workers fail at once when they meet it.
const HOLD: Duration = Duration::from_millis(4);

/// The longest pause between two tries for the lock.
const LONGEST_PAUSE: Duration = Duration::from_millis(2);

/// The writing connection and those who wait for it.
pub struct Writer {
    place: Place,
    connection: Mutex<Option<Connection>>,
    queue: Mutex<Queue>,
    faults: Arc<Faults>,
    commits: AtomicU64,
    operations: AtomicU64,
    /// Of one caller's many changes.
    pace: Pace,
    upkeep: Upkeep,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arc<Ticket>>,
    led: bool,
}

/// One caller's change, and its place in the queue.
struct Ticket {
    change: Change,
    actor: Option<Actor>,
    deadline: Instant,
    /// Whether it is one of a caller's many.
    is_bulk: bool,
    slot: Mutex<Slot>,
    turn: Condvar,
}

enum Slot {
    Waiting,
    Leads,
    Answered(Answer),
}

impl Ticket {
    fn new(change: Change, ctx: &Context, is_bulk: bool) -> Arc<Ticket> {
        Arc::new(Ticket {
            change,
            actor: ctx.actor().cloned(),
            deadline: ctx.deadline(),
            is_bulk,
            slot: Mutex::new(Slot::Waiting),
            turn: Condvar::new(),
        })
    }

    fn set(&self, slot: Slot) {
        *self.slot.lock() = slot;
        self.turn.notify_one();
    }

    fn is_answered(&self) -> bool {
        matches!(*self.slot.lock(), Slot::Answered(_))
    }
}

impl Writer {
    /// A writer over a connection that is ready.
    pub fn new(
        place: Place,
        connection: Connection,
        checkpointer: Checkpointer,
        faults: Arc<Faults>,
    ) -> rusqlite::Result<Writer> {
        // Waiting for the lock is the leader's, which knows every caller's deadline.
        connection.busy_timeout(Duration::ZERO)?;
        Ok(Writer {
            upkeep: Upkeep::new(place.clone(), checkpointer),
            place,
            connection: Mutex::new(Some(connection)),
            queue: Mutex::default(),
            faults,
            commits: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            pace: Pace::default(),
        })
    }

    /// Transactions committed, and changes answered.
    pub fn counters(&self) -> (u64, u64) {
        (self.commits.load(Relaxed), self.operations.load(Relaxed))
    }

    /// Makes the change, and returns when it is committed, refused, or out of time.
    pub fn submit(&self, change: Change, ctx: &Context) -> Answer {
        let ticket = Ticket::new(change, ctx, false);
        self.queue(std::slice::from_ref(&ticket));
        self.wait(&ticket)
    }

    /// Makes many changes, each by itself, in as many transactions as they need; with `gaps`, in
    /// shorter ones that leave others their turn between them. Returns when each is committed,
    /// refused, or out of time.
    pub fn submit_all(
        &self,
        changes: impl Iterator<Item = Change>,
        gaps: bool,
        ctx: &Context,
    ) -> Vec<Answer> {
        let tickets: Vec<_> = changes.map(|c| Ticket::new(c, ctx, gaps)).collect();
        // Tickets are answered in their order, so the one that may have to lead is waited for.
        self.queue(&tickets);
        tickets.iter().map(|ticket| self.wait(ticket)).collect()
    }

    fn queue(&self, tickets: &[Arc<Ticket>]) {
        self.operations.fetch_add(tickets.len() as u64, Relaxed);
        let mut queue = self.queue.lock();
        queue.waiting.extend(tickets.iter().cloned());
        if let Some(first) = tickets.first()
            && !std::mem::replace(&mut queue.led, true)
        {
            first.set(Slot::Leads);
        }
    }

    fn wait(&self, ticket: &Arc<Ticket>) -> Answer {
        let mut slot = ticket.slot.lock();
        loop {
            match std::mem::replace(&mut *slot, Slot::Waiting) {
                Slot::Answered(answer) => return answer,
                Slot::Leads => {
                    drop(slot);
                    self.lead(ticket);
                    slot = ticket.slot.lock();
                }
                Slot::Waiting => {
                    if ticket
                        .turn
                        .wait_until(&mut slot, ticket.deadline)
                        .timed_out()
                    {
                        drop(slot);
                        self.leave(ticket);
                        slot = ticket.slot.lock();
                        // Its transaction runs already, and ends soon; or it was made the leader.
                        if matches!(*slot, Slot::Waiting) {
                            ticket.turn.wait(&mut slot);
                        }
                    }
                }
            }
        }
    }

    /// Takes a change whose time is up out of the queue, if no transaction has it yet.
    fn leave(&self, ticket: &Arc<Ticket>) {
        let mut queue = self.queue.lock();
        let Some(at) = queue
            .waiting
            .iter()
            .position(|other| Arc::ptr_eq(other, ticket))
        else {
            return;
        };
        if matches!(*ticket.slot.lock(), Slot::Leads) {
            return;
        }
        queue.waiting.remove(at);
        ticket.set(Slot::Answered(Err(busy())));
    }

    /// Runs one transaction, and passes the lead on.
    fn lead(&self, own: &Ticket) {
        // Passes the lead on whatever happens below.
        let _lead = Lead(self);
        if own.is_bulk {
            self.pace.leave_a_gap();
        }
        let connection = self.connection.lock();
        let Some(conn) = connection.as_ref() else {
            return self.refuse(&Error::Closed);
        };
        if let Err(e) = self.place.check() {
            return self.refuse(&e);
        }
        let mut pause = Duration::from_micros(50);
        loop {
            match begin(conn) {
                Ok(()) => break,
                Err(e) if is_busy(&e) => {
                    self.expire();
                    if own.is_answered() {
                        return;
                    }
                    std::thread::sleep(
                        pause.min(own.deadline.saturating_duration_since(Instant::now())),
                    );
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(e) => return self.refuse(&from_sqlite(e)),
            }
        }
        self.transaction(conn);
        let commits = self.commits.load(Relaxed);
        self.upkeep.after(commits, own.is_bulk, conn);
    }

    /// Answers those whose time is up.
    fn expire(&self) {
        let now = Instant::now();
        self.queue.lock().waiting.retain(|ticket| {
            let expired = ticket.deadline <= now;
            if expired {
                ticket.set(Slot::Answered(Err(busy())));
            }
            !expired
        });
    }

    /// Answers all who wait: no transaction can be had.
    fn refuse(&self, error: &Error) {
        for ticket in std::mem::take(&mut self.queue.lock().waiting) {
            ticket.set(Slot::Answered(Err(error.clone())));
        }
    }

    /// The write lock is held: runs what waits, and what comes while it runs, and commits.
    fn transaction(&self, conn: &Connection) {
        let start = Instant::now();
        let changes_before = conn.total_changes();
        let mut batch = Batch::default();
        let is_short = self.room(conn);
        let bulk_hold = self.pace.hold();
        let mut outcome = Ok(());
        while outcome.is_ok() {
            let in_time = |next: &mut Arc<Ticket>| {
                start.elapsed() < if next.is_bulk { bulk_hold } else { HOLD }
            };
            let next = match batch.0.is_empty() {
                true => self.queue.lock().waiting.pop_front(),
                false => self.queue.lock().waiting.pop_front_if(in_time),
            };
            let Some(ticket) = next else {
                break;
            };
            let answer = self.run(conn, &ticket.change, ticket.actor.as_ref(), &is_short);
            batch.0.push((ticket, None));
            match answer {
                // It was pushed just above.
                Ok(answer) => batch
                    .0
                    .last_mut()
                    .into_iter()
                    .for_each(|last| last.1 = Some(answer.clone())),
                Err(e) => outcome = Err(e),
            }
        }
        let commits = Instant::now();
        if outcome.is_ok() {
            outcome = self.end(conn, changes_before);
        }
        match outcome {
            Ok(()) => {}
            Err(e) => {
                rollback(conn);
                let first = match batch.0.len() {
                    1 => Some(e),
                    _ => None,
                };
                batch.forget_answers();
                self.each_alone(conn, &mut batch, first);
            }
        }
        if batch.0.iter().any(|(ticket, _)| ticket.is_bulk) {
            self.pace.ended(start, commits);
        }
    }

    /// Whether the disk is nearly full, asked once a transaction and only if it matters.
    fn room<'a>(&'a self, conn: &'a Connection) -> LazyCell<bool, impl FnOnce() -> bool + 'a> {
        LazyCell::new(|| reserve::is_short(conn, &self.place))
    }

    /// Makes the change, and enters it in the audit log if it has an actor.
    fn run(
        &self,
        conn: &Connection,
        change: &Change,
        actor: Option<&Actor>,
        is_short: &LazyCell<bool, impl FnOnce() -> bool>,
    ) -> rusqlite::Result<Answer> {
        let actor = actor.filter(|_| change.is_audited());
        let is_short = (change.grows() || actor.is_some()) && **is_short;
        if change.grows() && is_short {
            let why = "what is left is kept for moving and removing messages";
            return Ok(Err(Error::StorageFull(why.into())));
        }
        let Some(actor) = actor else {
            return change.run(conn);
        };
        let before = Before::look(conn, change)?;
        let changes_before = conn.total_changes();
        let answer = change.run(conn)?;
        if answer.is_ok() && conn.total_changes() > changes_before {
            if is_short {
                audit::give_way(conn)?;
                audit::sign(conn, actor, &before.brief())?;
            } else {
                audit::sign(conn, actor, &before)?;
            }
        }
        Ok(answer)
    }

    /// Commits, unless nothing was changed: such a transaction is not worth a commit.
    fn end(&self, conn: &Connection, changes_before: u64) -> rusqlite::Result<()> {
        if conn.total_changes() == changes_before {
            rollback(conn);
            return Ok(());
        }
        self.faults.check(Point::Commit)?;
        conn.prepare_cached("COMMIT")?.execute([])?;
        self.commits.fetch_add(1, Relaxed);
        Ok(())
    }

    /// The shared transaction died: each change gets one of its own. A lone one had it, with the
    /// error `first`, and is tried again only if a checkpoint may have made room.
    fn each_alone(&self, conn: &Connection, batch: &mut Batch, mut first: Option<rusqlite::Error>) {
        for (ticket, slot) in &mut batch.0 {
            let mut attempt = match &first {
                Some(_) => None,
                None => Some(self.alone(conn, ticket, ticket.actor.as_ref())),
            };
            let full = match (&attempt, &first) {
                (Some(Err(e)), _) => is_full(e),
                (None, Some(e)) => is_full(e),
                _ => false,
            };
            if full {
                // What the log holds goes to the database file, and its space is used again.
                if let Err(e) = self.upkeep.checkpointer().restart(conn) {
                    tracing::debug!("checkpoint on a full disk: {e}");
                }
                attempt = Some(self.alone(conn, ticket, ticket.actor.as_ref()));
            }
            if let (Some(Err(e)), Some(_)) = (&attempt, &ticket.actor)
                && is_full(e)
            {
                tracing::warn!("the disk is full: a change is not entered in the audit log");
                attempt = Some(self.alone(conn, ticket, None));
            }
            *slot = match (attempt, &first) {
                (Some(Ok(answer)), _) => Some(answer),
                (Some(Err(e)), _) => Some(Err(from_sqlite(e))),
                (None, _) => first.take().map(|e| Err(from_sqlite(e))),
            };
        }
    }

    fn alone(
        &self,
        conn: &Connection,
        ticket: &Ticket,
        actor: Option<&Actor>,
    ) -> rusqlite::Result<Answer> {
        super::open::until(ticket.deadline, || begin(conn))?;
        let changes_before = conn.total_changes();
        let done = self
            .run(conn, &ticket.change, actor, &self.room(conn))
            .and_then(|answer| {
                self.end(conn, changes_before)?;
                Ok(answer)
            });
        if done.is_err() {
            rollback(conn);
        }
        done
    }

    /// Runs a short query on the writing connection if nobody has it: its pages stay cached over its
    /// own commits, where another connection drops all it has at each. `None` where that is not so,
    /// or where it failed.
    pub fn try_read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        let connection = self.connection.try_lock()?;
        query(connection.as_ref()?).ok()
    }

    /// Runs something on the writing connection, outside any transaction.
    pub fn with_connection<T>(
        &self,
        deadline: Instant,
        run: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        match self.connection.try_lock_until(deadline) {
            Some(connection) => match connection.as_ref() {
                Some(conn) => run(conn),
                None => Err(Error::Closed),
            },
            None => Err(busy()),
        }
    }

    /// Closes the connection; changes that come later are refused.
    pub fn close(&self) -> Result<()> {
        match self.connection.lock().take() {
            Some(conn) => {
                // No commit can begin its thread again, and the writer's connection is the last.
                self.upkeep.checkpointer().close();
                conn.close().map_err(|(_, e)| from_sqlite(e))
            }
            None => Ok(()),
        }
    }
}

/// Who has it passes the lead on when it ends, also by a panic.
struct Lead<'a>(&'a Writer);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        match queue.waiting.front() {
            Some(next) => next.set(Slot::Leads),
            None => queue.led = false,
        }
    }
}

/// The changes of one transaction. They are answered when it ends, also by a panic.
#[derive(Default)]
struct Batch(Vec<(Arc<Ticket>, Option<Answer>)>);

impl Batch {
    fn forget_answers(&mut self) {
        self.0.iter_mut().for_each(|(_, answer)| *answer = None);
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let panicked = std::thread::panicking();
        for (ticket, answer) in self.0.drain(..) {
            let unknown = || Err(Error::Unavailable("the writer failed in the middle".into()));
            let answer = if panicked {
                unknown()
            } else {
                answer.unwrap_or_else(unknown)
            };
            ticket.set(Slot::Answered(answer));
        }
    }
}

fn begin(conn: &Connection) -> rusqlite::Result<()> {
    if !conn.is_autocommit() {
        // A panic left a transaction open; nobody was told that it was committed.
        rollback(conn);
    }
    conn.prepare_cached("BEGIN IMMEDIATE")?
        .execute([])
        .map(drop)
}

/// SQLite may have rolled back by itself: on a full disk, an I/O error, no memory.
fn rollback(conn: &Connection) {
    if conn.is_autocommit() {
        return;
    }
    if let Err(e) = conn.execute_batch("ROLLBACK") {
        tracing::warn!("rollback: {e}");
    }
}

fn busy() -> Error {
    Error::Busy("other writers held the database".into())
}
