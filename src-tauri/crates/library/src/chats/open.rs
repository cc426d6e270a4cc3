//! Opening the file: is it ours and sound, is it of this version, did the last run end well.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{ChatError, MessageState};

/// SQL that leads from one format to the next; the format is how many have been run.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("schema_1.sql")];

/// Marks the file as ours: "Rpri".
const APPLICATION_ID: i64 = 0x5270_7269;

/// How long a write waits for another process.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Files up to this size are checked whole at every start, larger ones only after a run that did not end well.
const CHECK_ALWAYS_BYTES: u64 = 32 << 20;

const MAGIC: &[u8] = b"SQLite format 3\0";

/// An open database and the lock that tells others so.
pub(super) struct Opened {
    pub(super) connection: Connection,
    /// Whether nobody else had it open.
    pub(super) sole_user: bool,
    pub(super) lock: File,
    /// Replies of a killed run up to this id could not be stopped in the file, for want of space; 0 for none.
    pub(super) unstopped_through: i64,
}

pub(super) fn open(path: &Path, migrations: &[&str]) -> Result<Opened, ChatError> {
    let io_error = |source| ChatError::Io { path: path.to_owned(), source };
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        // Existing folders keep their mode; those made here hold private text.
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error)?;
    }
    let (lock, sole_user) = lock(path)?;
    let length = match path.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(io_error(error)),
    };
    let mut index = LogIndex::Shared;
    if length == 0 {
        // Created before SQLite does, for the mode; its log files take theirs from it.
        OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(io_error)?;
    } else {
        index = inspect_with_index(path, length, sole_user, migrations.len() as i64)?;
    }
    let mode = path.metadata().map_err(io_error)?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(io_error)?;
    }
    let opened = connect(path, length == 0, index).and_then(|mut connection| {
        migrate(&mut connection, path, migrations)?;
        let mut unstopped_through = 0;
        if sole_user {
            match stop_unfinished(&mut connection).map_err(|error| error.classified(path)) {
                // Nothing can be written, but everything can be read.
                Err(ChatError::DiskFull { .. }) => unstopped_through = last_message(&connection)?,
                other => other?,
            }
        }
        // From here on replies may be written. Others can share the lock, and none of them is the sole user.
        lock.lock_shared().map_err(|source| ChatError::Io { path: with_suffix(path, ".lock"), source })?;
        Ok(Opened { connection, sole_user, lock, unstopped_through })
    });
    opened.map_err(|error| error.classified(path))
}

/// The lock file, locked for this store alone unless another has it open, and whether it is. Every open store shares the
/// lock, so that the last to be closed guards its replies as well as the first. A lock dies with its process, so a killed
/// run leaves none behind.
fn lock(path: &Path) -> Result<(File, bool), ChatError> {
    let lock_path = with_suffix(path, ".lock");
    let io_error = |source| ChatError::Io { path: lock_path.clone(), source };
    // To be read as well, because network file systems share no lock without.
    let mut options = OpenOptions::new();
    let file = options.create(true).read(true).append(true).mode(0o600).open(&lock_path).map_err(io_error)?;
    match file.try_lock() {
        Ok(()) => Ok((file, true)),
        Err(TryLockError::WouldBlock) => Ok((file, false)),
        Err(TryLockError::Error(error)) => Err(io_error(error)),
    }
}

/// Where the index of the log is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LogIndex {
    /// In a file, as other processes need it.
    Shared,
    /// In this process, which shuts others out. A full disk has no room for the file.
    Own,
}

/// Looks at an existing file; how its log has to be indexed.
fn inspect_with_index(path: &Path, length: u64, alone: bool, supported: i64) -> Result<LogIndex, ChatError> {
    let left_log = with_suffix(path, "-wal").metadata().is_ok_and(|m| m.len() > 0);
    match inspect(path, length, alone, left_log, supported, LogIndex::Shared) {
        // A log would be copied into the file when the connection that looks at it is closed.
        Err(ChatError::DiskFull { .. }) if alone && !left_log => {
            inspect(path, length, alone, left_log, supported, LogIndex::Own).map(|()| LogIndex::Own)
        }
        other => other.map(|()| LogIndex::Shared),
    }
}

/// Looks at an existing file without writing to it.
fn inspect(
    path: &Path,
    length: u64,
    alone: bool,
    left_log: bool,
    supported: i64,
    index: LogIndex,
) -> Result<(), ChatError> {
    let damaged = |why: String| ChatError::Damaged { path: path.to_owned(), why };
    // Opening and closing the file here would drop the locks of another store of this process.
    if alone {
        let pages_in = if left_log { PagesIn::FileAndLog } else { PagesIn::File };
        check_header(path, length, pages_in)?;
    }
    let look = || -> Result<(), ChatError> {
        // Shutting others out takes a lock that a file open for reading only cannot have.
        let access = match index {
            LogIndex::Shared => OpenFlags::SQLITE_OPEN_READ_ONLY,
            LogIndex::Own => OpenFlags::SQLITE_OPEN_READ_WRITE,
        };
        let connection = Connection::open_with_flags(path, access)?;
        set_index(&connection, index)?;
        connection.busy_timeout(BUSY_WAIT)?;
        let application: i64 = connection.pragma_query_value(None, "application_id", |r| r.get(0))?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |r| r.get(0))?;
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
        if application != APPLICATION_ID && (application != 0 || tables > 0) {
            return Err(damaged("it belongs to another program".to_owned()));
        }
        if found > supported {
            return Err(ChatError::TooNew { path: path.to_owned(), found, supported });
        }
        if left_log || length <= CHECK_ALWAYS_BYTES {
            let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
            if verdict != "ok" {
                return Err(damaged(verdict));
            }
        }
        Ok(())
    };
    look().map_err(|error| error.classified(path))
}

/// Where the pages are that the header counts. A full disk can cut off the copying of the log into the file after the
/// header was written; what is missing then still stands in the log.
#[derive(PartialEq, Eq)]
enum PagesIn {
    File,
    FileAndLog,
}

/// The first bytes, and whether all pages they count are there.
fn check_header(path: &Path, length: u64, pages_in: PagesIn) -> Result<(), ChatError> {
    let damaged = |why: &str| ChatError::Damaged { path: path.to_owned(), why: why.to_owned() };
    let io_error = |source| ChatError::Io { path: path.to_owned(), source };
    let mut header = Vec::with_capacity(100);
    File::open(path).map_err(io_error)?.take(100).read_to_end(&mut header).map_err(io_error)?;
    if !header.starts_with(MAGIC) {
        return Err(damaged("it is no SQLite file"));
    }
    let (Some(page), Some(pages)) = (header.get(16..18), header.get(28..32)) else {
        return Err(damaged("it is cut off in its header"));
    };
    // 65,536 is written as 1.
    let page_bytes = match u16::from_be_bytes([page[0], page[1]]) {
        1 => 65_536,
        bytes => u64::from(bytes),
    };
    let pages = u64::from(u32::from_be_bytes([pages[0], pages[1], pages[2], pages[3]]));
    if pages_in == PagesIn::File && length < pages * page_bytes {
        return Err(damaged("its end is missing"));
    }
    Ok(())
}

/// Before the connection reads anything.
fn set_index(connection: &Connection, index: LogIndex) -> rusqlite::Result<()> {
    match index {
        LogIndex::Shared => Ok(()),
        LogIndex::Own => connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(())),
    }
}

fn connect(path: &Path, is_new: bool, index: LogIndex) -> Result<Connection, ChatError> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    set_index(&connection, index)?;
    connection.busy_timeout(BUSY_WAIT)?;
    if is_new {
        // Before the log is turned on: that writes the first page. Later it has no effect, yet it writes, which a full
        // disk would refuse.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update_and_check(None, "journal_size_limit", 16 << 20, |_| Ok(()))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Runs what is missing, each step in one transaction with its version, after a copy of a file that holds anything.
fn migrate(connection: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), ChatError> {
    loop {
        let found: i64 = connection.pragma_query_value(None, "user_version", |r| r.get(0))?;
        let Some(step) = usize::try_from(found).ok().and_then(|done| migrations.get(done)) else {
            return Ok(());
        };
        if found > 0 {
            back_up(connection, path, found)?;
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have been faster.
        let now: i64 = transaction.pragma_query_value(None, "user_version", |r| r.get(0))?;
        if now == found {
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", found + 1)?;
            transaction.commit()?;
        }
    }
}

/// A whole copy beside the file, named after its format; complete or not there.
fn back_up(connection: &Connection, path: &Path, version: i64) -> Result<(), ChatError> {
    let copy = with_suffix(path, &format!(".v{version}.bak"));
    let unfinished = with_suffix(path, &format!(".v{version}.bak.tmp"));
    let io_error = |source| ChatError::Io { path: copy.clone(), source };
    // Empty, so that SQLite takes it, and private from its first byte.
    OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&unfinished).map_err(io_error)?;
    // A name need not be UTF-8.
    let target = ToSqlOutput::Borrowed(ValueRef::Text(unfinished.as_os_str().as_bytes()));
    connection.execute("VACUUM INTO ?1", [target])?;
    std::fs::rename(&unfinished, &copy).map_err(io_error)
}

/// Replies that a killed run was writing keep what they had and count as stopped.
fn stop_unfinished(connection: &mut Connection) -> Result<(), ChatError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let writing: Vec<i64> = transaction
        .prepare("SELECT id FROM messages WHERE state = ?1")?
        .query_map([MessageState::Writing.code()], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    for message in writing {
        super::messages::end(&transaction, message, MessageState::Stopped)?;
    }
    Ok(transaction.commit()?)
}

fn last_message(connection: &Connection) -> Result<i64, ChatError> {
    Ok(connection.query_row("SELECT ifnull(max(id), 0) FROM messages", [], |r| r.get(0))?)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
