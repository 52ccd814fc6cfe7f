//! The check of a SQLite spool: the file, the schema, the counts, the rows.
//!
//! Owns: the order of the looks, and the words for what each finds.
//! May fail: as SQLite does; what is broken is a finding, not an error.
//! Must not know: how a difference is mended.

use std::time::Instant;

use rusqlite::Connection;

use super::SqliteBackend;
use super::error::from_sqlite;
use super::recount::{Key, Walk};
use super::schema;
use crate::backend::check::{Check, Remedy, unreadable};
use crate::backend::{Context, Error, Result};
use crate::newfile;

impl SqliteBackend {
    pub(super) fn check_all(&self, ctx: &Context, check: &mut Check<'_>) -> Result<()> {
        let deadline = ctx.deadline();
        let complaints = match self.readers.run(deadline, integrity) {
            Err(Error::Corrupt(what)) => vec![what],
            complaints => complaints?,
        };
        for what in complaints {
            check.tell("file", what, Remedy::Person);
        }
        if !(check.going)() {
            return Ok(());
        }
        let version = self.readers.run(deadline, |conn| {
            conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
        })?;
        match version {
            0 => {
                let what = "RetrySpool made the file, and no mount has prepared it: nothing of ours can be checked";
                check.tell("unprepared", what.into(), Remedy::Note);
            }
            _ => self.check_ours(ctx, check)?,
        }
        self.check_names(deadline, check)?;
        unreadable(self, ctx, check)?;
        self.check_leftovers(check)
    }

    /// The side tables.
    fn check_ours(&self, ctx: &Context, check: &mut Check<'_>) -> Result<()> {
        let deadline = ctx.deadline();
        for part in self.readers.run(deadline, schema::differing)? {
            let what = format!("{} is not as this program makes it", part.name);
            check.mendable("schema", what, "made anew");
        }
        if check.repair
            && let Some(writer) = &self.writer
        {
            writer.with_connection(deadline, |conn| schema::mend(conn).map_err(from_sqlite))?;
        }
        // What is doubtful is settled first, where this store may.
        self.read_settled(ctx, |_| Ok(()))?;
        let mut differences = Vec::new();
        let walk = Walk {
            readers: &self.readers,
            writer: self.writer.as_ref().filter(|_| check.repair),
            ctx,
            going: check.going,
            gently: false,
        };
        walk.run(&mut |what| differences.push(what))?;
        for what in differences {
            check.mendable("count", what, "counted anew");
        }
        let reserve = self.readers.run(deadline, |conn| {
            conn.prepare("SELECT 1 FROM sqlite_master WHERE name = 'rs_reserve'")?
                .exists([])
        })?;
        if reserve {
            // Whoever opens the file for writing drops it.
            let what = "a program that was killed left its room for a full disk (rs_reserve)";
            check.mendable("leftover", what.into(), "dropped");
        }
        Ok(())
    }

    /// Rows that no directory or file name can express.
    fn check_names(&self, deadline: Instant, check: &mut Check<'_>) -> Result<()> {
        let mut after = Some(i64::MIN);
        while let (Some(from), true) = (after, (check.going)()) {
            let (end, found) = self
                .readers
                .run(deadline, |conn| inexpressible(conn, from))?;
            for what in found {
                check.tell("inexpressible", what, Remedy::Person);
            }
            after = end;
        }
        Ok(())
    }

    /// Temporary files of programs that were killed.
    fn check_leftovers(&self, check: &mut Check<'_>) -> Result<()> {
        let path = self.place.path();
        // A directory that can't be listed hides nothing of the store.
        for left in newfile::leftovers(path).unwrap_or_default() {
            let what = format!("{} was left by a command that was killed", left.display());
            if check.repair
                && let Err(error) = std::fs::remove_file(&left)
            {
                let what = format!("{what}, and can't be removed: {error}");
                check.tell("leftover", what, Remedy::Person);
                continue;
            }
            check.mendable("leftover", what, "removed");
        }
        Ok(())
    }
}

/// SQLite's own complaints.
fn integrity(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut lines = conn.prepare("PRAGMA integrity_check(100)")?;
    let lines: Vec<String> = lines
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

/// Rows of one step.
const ROWS: i64 = 1000;

fn inexpressible(conn: &Connection, after: i64) -> rusqlite::Result<(Option<i64>, Vec<String>)> {
    let mut query = conn.prepare_cached(
        "SELECT rowid, id, typeof(state) = 'integer' AND state BETWEEN 0 AND 5, state \
         FROM messages WHERE rowid > ?1 ORDER BY rowid LIMIT ?2",
    )?;
    let mut rows = query.query((after, ROWS))?;
    let (mut end, mut found) = (None, Vec::new());
    while let Some(row) = rows.next()? {
        let rowid: i64 = row.get(0)?;
        end = Some(rowid);
        if row.get_ref(1)? == rusqlite::types::ValueRef::Null {
            found.push(format!("the message in row {rowid} has no ID"));
            continue;
        }
        let key = Key::at(row, 1)?;
        if !row.get::<_, bool>(2)? {
            let state = row.get_ref(3)?;
            found.push(format!(
                "{key} is in a state that has no directory ({state:?})"
            ));
        } else if schema::bucket(key.text(), Some(0)) != 0 {
            found.push(format!("{key} can't be a file's name"));
        }
    }
    Ok((end, found))
}
