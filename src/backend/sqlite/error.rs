//! From SQLite's errors to the store's: the one place that reads SQLite's codes.

use rusqlite::{Error as SqliteError, ErrorCode, ffi};

use crate::backend::Error;

/// Growing the shared-memory file failed, for want of space.
const IOERR_SHMSIZE: i32 = ffi::SQLITE_IOERR_SHMSIZE;

/// What a caller learns of an error of SQLite.
pub fn from_sqlite(error: SqliteError) -> Error {
    let text = error.to_string();
    match error {
        SqliteError::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                Error::Busy("another process holds the database's lock".into())
            }
            ErrorCode::OperationInterrupted => Error::Busy("the query took too long".into()),
            ErrorCode::DiskFull => Error::StorageFull(text),
            ErrorCode::SystemIoFailure if failure.extended_code == IOERR_SHMSIZE => {
                Error::StorageFull(text)
            }
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Error::Corrupt(text),
            ErrorCode::ReadOnly => Error::ReadOnly,
            _ => Error::Unavailable(text),
        },
        SqliteError::FromSqlConversionFailure(..)
        | SqliteError::IntegralValueOutOfRange(..)
        | SqliteError::InvalidColumnType(..)
        | SqliteError::Utf8Error(..) => Error::Corrupt(text),
        SqliteError::StatementChangedRows(_) => Error::Corrupt(
            "a trigger that somebody added to the table messages prevents the change".into(),
        ),
        // Its text goes on with the whole statement.
        SqliteError::SqlInputError { msg, .. } => Error::Unavailable(msg),
        _ => Error::Unavailable(text),
    }
}

/// Whether trying again later may help: somebody else holds a lock.
pub fn is_busy(error: &SqliteError) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Whether the disk is full.
pub fn is_full(error: &SqliteError) -> bool {
    match error.sqlite_error() {
        Some(e) => e.code == ErrorCode::DiskFull || e.extended_code == IOERR_SHMSIZE,
        None => false,
    }
}
