-- What this store keeps beside RetrySpool's table `messages`: everything is called rs_*.
--
-- Any writer of `messages` keeps it right, through triggers, also one that uses INSERT OR REPLACE
-- (whose removal fires no delete trigger unless recursive_triggers is on): so nothing here hangs
-- on a delete trigger firing. Syntax and functions are those of SQLite 3.24, the oldest that a
-- RetrySpool worker may carry.
--
-- A bucket is a state 0 to 5; or 6 for a row that no directory or file name can express; or 7
-- (doubtful) for one where only UTF-8 and the name codec can tell, which this store then settles.

-- One row a message: the covering scan in ID order, the bucket it is counted in, its revision, and
-- Created and NextRetry with the nanoseconds that `messages` can't hold.
CREATE TABLE rs_message (
  state INTEGER NOT NULL,
  id NOT NULL,
  secs INTEGER NOT NULL,
  nanos INTEGER NOT NULL,
  created_secs INTEGER,
  created_nanos INTEGER NOT NULL DEFAULT 0,
  retry_secs INTEGER,
  retry_nanos INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (state, id)
) WITHOUT ROWID;

-- A state by age, and the deferred messages that wait for a retry (-62135596800 is "never"). Every
-- other order is sorted when it is asked for: each index costs every move.
CREATE INDEX rs_age ON rs_message (state, created_secs, created_nanos, id);
CREATE INDEX rs_due ON rs_message (retry_secs) WHERE state = 2 AND retry_secs > -62135596800;

-- One row a bucket: how many messages it has, and when it last changed (milliseconds since 1970).
CREATE TABLE rs_state (
  state INTEGER PRIMARY KEY,
  count INTEGER NOT NULL DEFAULT 0,
  changed_ms INTEGER NOT NULL DEFAULT 0
);
INSERT INTO rs_state (state) VALUES (0), (1), (2), (3), (4), (5), (6), (7);

-- One row a change: the bucket before it (NULL for a new message) and after it (NULL for a removed
-- one), the revision that the change made (of a removed message the last that it had), when, and
-- the seconds of Created and NextRetry since. A row whose old is -1 is no change: some had gone
-- around the log, and who follows it begins afresh.
CREATE TABLE rs_log (
  seq INTEGER PRIMARY KEY,
  id NOT NULL,
  old INTEGER,
  new INTEGER,
  secs INTEGER NOT NULL,
  nanos INTEGER NOT NULL,
  at_ms INTEGER NOT NULL,
  created INTEGER,
  retry INTEGER
);

-- One row a change that some process asked this program for, under the change's number in rs_log,
-- which forgets it sooner: who asked, the revision before it, and of what it replaced or removed
-- the document. `nth` counts these rows and `bytes` adds them up, so the log's size is the
-- difference of its two ends.
CREATE TABLE rs_audit (
  seq INTEGER PRIMARY KEY,
  nth INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  id NOT NULL,
  old INTEGER,
  new INTEGER,
  secs INTEGER NOT NULL,
  nanos INTEGER NOT NULL,
  was_secs INTEGER,
  was_nanos INTEGER,
  at_ms INTEGER NOT NULL,
  uid INTEGER NOT NULL,
  pid INTEGER NOT NULL,
  command TEXT NOT NULL,
  document TEXT
);

-- How long rs_audit keeps them: one row.
CREATE TABLE rs_audit_limit (rows INTEGER NOT NULL, seconds INTEGER NOT NULL);
INSERT INTO rs_audit_limit VALUES (1000000, 604800);

-- Whoever appends to the log makes the change. The newest row is never trimmed. These triggers are
-- most of what a move costs, so there is one for each kind of change, and a move comes to no IN:
-- SQLite builds a temporary table for each.
CREATE TRIGGER rs_log_counted AFTER INSERT ON rs_log BEGIN
  UPDATE rs_state SET count = count - (NEW.new IS NOT NEW.old), changed_ms = max(changed_ms, NEW.at_ms)
   WHERE state = NEW.old;
  UPDATE rs_state SET count = count + 1, changed_ms = max(changed_ms, NEW.at_ms)
   WHERE state = NEW.new AND NEW.new IS NOT NEW.old;
END;

CREATE TRIGGER rs_log_added AFTER INSERT ON rs_log WHEN NEW.old IS NULL AND NEW.new IS NOT NULL BEGIN
  INSERT INTO rs_message (state, id, secs, nanos, created_secs, retry_secs)
  VALUES (NEW.new, NEW.id, NEW.secs, NEW.nanos, NEW.created, NEW.retry);
END;

CREATE TRIGGER rs_log_moved AFTER INSERT ON rs_log WHEN NEW.old <> NEW.new BEGIN
  UPDATE rs_message
     SET state = NEW.new, secs = NEW.secs, nanos = NEW.nanos,
         created_nanos = CASE WHEN created_secs IS NEW.created THEN created_nanos ELSE 0 END,
         retry_nanos = CASE WHEN retry_secs IS NEW.retry THEN retry_nanos ELSE 0 END,
         created_secs = NEW.created, retry_secs = NEW.retry
   WHERE state = NEW.old AND id = NEW.id;
END;

-- Two statements, because an UPDATE writes each index that has a column it names.
CREATE TRIGGER rs_log_edited AFTER INSERT ON rs_log WHEN NEW.old = NEW.new BEGIN
  UPDATE rs_message SET secs = NEW.secs, nanos = NEW.nanos WHERE state = NEW.new AND id = NEW.id;
  UPDATE rs_message
     SET created_nanos = CASE WHEN created_secs IS NEW.created THEN created_nanos ELSE 0 END,
         retry_nanos = CASE WHEN retry_secs IS NEW.retry THEN retry_nanos ELSE 0 END,
         created_secs = NEW.created, retry_secs = NEW.retry
   WHERE state = NEW.new AND id = NEW.id
     AND (created_secs IS NOT NEW.created OR retry_secs IS NOT NEW.retry);
END;

CREATE TRIGGER rs_log_removed AFTER INSERT ON rs_log WHEN NEW.new IS NULL BEGIN
  DELETE FROM rs_message WHERE state = NEW.old AND id = NEW.id;
END;

CREATE TRIGGER rs_log_trimmed AFTER INSERT ON rs_log WHEN NEW.seq % 256 = 0 BEGIN
  DELETE FROM rs_log WHERE seq <= NEW.seq - 131072;
END;

-- What happened to a row of `messages`: its ID, its state now (NULL: removed), the times it has
-- now; and the state and the revision that it had, as far as the writer's statement tells.
CREATE VIEW rs_change (id, state, updated, created, retry, was_state, was_secs, was_nanos) AS
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL WHERE 0;

-- The same with the bucket that the message is counted in. The state that it had is looked at first,
-- and all others only if it is not there.
CREATE VIEW rs_found (id, state, updated, created, retry, old, was_secs, was_nanos) AS
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL WHERE 0;

CREATE TRIGGER rs_change_made INSTEAD OF INSERT ON rs_change WHEN NEW.id IS NOT NULL BEGIN
  INSERT INTO rs_found VALUES (NEW.id, NEW.state, NEW.updated, NEW.created, NEW.retry, coalesce(
    (SELECT state FROM rs_message WHERE state = NEW.was_state AND id = NEW.id),
    (SELECT state FROM rs_message WHERE state IN (0, 1, 2, 3, 4, 5, 6, 7) AND id = NEW.id)),
    NEW.was_secs, NEW.was_nanos);
END;

-- The same with the revision so far: that of the side row; or, of a message that nobody has counted
-- yet, the one that the statement tells.
CREATE VIEW rs_known (id, state, proposed, created, retry, old, secs, nanos) AS
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL WHERE 0;

CREATE TRIGGER rs_found_made INSTEAD OF INSERT ON rs_found BEGIN
  INSERT INTO rs_known VALUES (NEW.id, NEW.state,
    max(-62135596800, min(CAST(NEW.updated AS INTEGER), 253402300799)), NEW.created, NEW.retry, NEW.old,
    coalesce((SELECT secs FROM rs_message WHERE state = NEW.old AND id = NEW.id),
      max(-62135596800, min(CAST(NEW.was_secs AS INTEGER), 253402300799))),
    coalesce((SELECT nanos FROM rs_message WHERE state = NEW.old AND id = NEW.id), NEW.was_nanos, 0));
END;

-- The one place that decides bucket and revision.
CREATE TRIGGER rs_known_made INSTEAD OF INSERT ON rs_known BEGIN
  INSERT INTO rs_log (id, old, new, secs, nanos, at_ms, created, retry) VALUES (NEW.id, NEW.old,
    CASE
      WHEN NEW.state IS NULL THEN NULL
      WHEN typeof(NEW.state) <> 'integer' OR NEW.state NOT BETWEEN 0 AND 5 OR typeof(NEW.id) <> 'text' THEN 6
      WHEN NEW.old < 6 THEN NEW.state -- this ID was found expressible before
      WHEN length(CAST(NEW.id AS BLOB)) NOT BETWEEN 1 AND 250 THEN 6
      WHEN length(NEW.id) <> length(CAST(NEW.id AS BLOB)) THEN 7 -- not ASCII, or a NUL in it
      WHEN length(NEW.id) <= 83 AND NEW.id NOT GLOB '*[^' || char(1) || '-' || char(127) || ']*' THEN NEW.state
      WHEN length(NEW.id) <= 248 AND NEW.id NOT GLOB '*[^ -~]*' AND NEW.id NOT GLOB '*[/%]*' THEN NEW.state
      ELSE 7
    END,
    CASE
      WHEN NEW.state IS NULL THEN NEW.secs
      WHEN NEW.secs IS NULL OR NEW.proposed > NEW.secs THEN NEW.proposed
      ELSE NEW.secs + (NEW.nanos = 999999999)
    END,
    CASE
      WHEN NEW.state IS NULL THEN NEW.nanos
      WHEN NEW.secs IS NULL OR NEW.proposed > NEW.secs THEN 0
      ELSE (NEW.nanos + 1) % 1000000000
    END,
    CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER),
    CAST(NEW.created AS INTEGER),
    CAST(NEW.retry AS INTEGER));
END;

-- The revision that a message had is that of the log's newest row, if this is its removal: under
-- recursive_triggers a REPLACE is a removal and an insertion, and goes on with the same life.
CREATE TRIGGER rs_inserted AFTER INSERT ON messages BEGIN
  INSERT INTO rs_change VALUES (NEW.id, NEW.state, NEW.updated, NEW.created, NEW.next_retry, NULL,
    (SELECT CASE WHEN new IS NULL AND id IS NEW.id THEN secs END FROM rs_log ORDER BY seq DESC LIMIT 1),
    (SELECT CASE WHEN new IS NULL AND id IS NEW.id THEN nanos END FROM rs_log ORDER BY seq DESC LIMIT 1));
END;

-- A move that the log's newest row tells of is known already: this program appends it there first.
-- Nobody else's can be mistaken for it, because a move that has been made can't be made again.
CREATE TRIGGER rs_updated AFTER UPDATE ON messages
WHEN NEW.id IS OLD.id AND NOT EXISTS (SELECT 1 FROM rs_log
  WHERE seq = (SELECT max(seq) FROM rs_log) AND id IS NEW.id AND old = OLD.state AND new = NEW.state AND old <> new)
BEGIN
  INSERT INTO rs_change
  VALUES (NEW.id, NEW.state, NEW.updated, NEW.created, NEW.next_retry, OLD.state, OLD.updated, 0);
END;

-- The new ID first: an UPDATE OR REPLACE may have removed its holder just before.
CREATE TRIGGER rs_renamed AFTER UPDATE OF id ON messages WHEN NEW.id IS NOT OLD.id BEGIN
  INSERT INTO rs_change VALUES (NEW.id, NEW.state, NEW.updated, NEW.created, NEW.next_retry, NULL,
    (SELECT CASE WHEN new IS NULL AND id IS NEW.id THEN secs END FROM rs_log ORDER BY seq DESC LIMIT 1),
    (SELECT CASE WHEN new IS NULL AND id IS NEW.id THEN nanos END FROM rs_log ORDER BY seq DESC LIMIT 1));
  INSERT INTO rs_change VALUES (OLD.id, NULL, NULL, NULL, NULL, OLD.state, OLD.updated, 0);
END;

CREATE TRIGGER rs_deleted AFTER DELETE ON messages BEGIN
  INSERT INTO rs_change VALUES (OLD.id, NULL, NULL, NULL, NULL, OLD.state, OLD.updated, 0);
END;
