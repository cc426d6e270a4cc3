//! Why the store refused, and how `SQLite`'s words become ours.

use std::path::{Path, PathBuf};

use rusqlite::{ErrorCode, ffi};

/// Why the store refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// No space left: nothing was changed by the failed write.
    #[error("no space left for {path}")]
    DiskFull {
        /// The database.
        path: PathBuf,
    },
    /// The file is not a sound database of ours; it was left as it is.
    #[error("{path} is not a sound chat database: {why}")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Written by a newer version.
    #[error("{path} was written by a newer version (format {found}, this one reads {supported})")]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// Ours.
        supported: i64,
    },
    /// Nothing with that id.
    #[error("no {what} with id {id}")]
    NotFound {
        /// What was asked for.
        what: &'static str,
        /// Its id.
        id: i64,
    },
    /// The document belongs to a chat that has begun: taking it away would change what was answered.
    #[error("document {id} belongs to a chat that has begun")]
    InUse {
        /// The document.
        id: i64,
    },
    /// The text is no exported chat.
    #[error("not an exported chat: {why}")]
    NotAChat {
        /// What is wrong with it.
        why: String,
    },
    /// The file or its folder could not be used.
    #[error("cannot use {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Anything else `SQLite` says.
    #[error("chat database: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl ChatError {
    /// Gives `SQLite`'s errors that have a meaning to the user their own variant.
    pub(super) fn classified(self, path: &Path) -> Self {
        let Self::Sqlite(error) = self else { return self };
        let Some(cause) = error.sqlite_error().copied() else { return Self::Sqlite(error) };
        match cause.code {
            ErrorCode::DiskFull => Self::DiskFull { path: path.to_owned() },
            // A quota, or a write-ahead log that could not grow, is told as an input/output error.
            ErrorCode::SystemIoFailure
                if matches!(cause.extended_code, ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE) =>
            {
                Self::DiskFull { path: path.to_owned() }
            }
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                Self::Damaged { path: path.to_owned(), why: error.to_string() }
            }
            _ => Self::Sqlite(error),
        }
    }
}
