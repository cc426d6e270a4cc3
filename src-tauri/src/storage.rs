//! Where chats are kept, and what happens when they cannot be.

use std::path::{Path, PathBuf};

use reprise_library::chats::{ChatError, ChatStore};
use tempfile::TempDir;

use crate::ipc::UserError;

/// File name of the chats.
const FILE: &str = "chats.sqlite";

/// The chats, or a stand-in that lasts until the app closes.
pub(crate) struct Storage {
    chats: ChatStore,
    problem: Option<UserError>,
    /// Removed with the stand-in.
    _stand_in: Option<TempDir>,
}

impl Storage {
    /// Opens the chats. A file that cannot be used is left as it is: the app then runs on a stand-in and says so.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, UserError> {
        match std::fs::create_dir_all(data_dir)
            .map_err(|source| unusable(data_dir, &source))
            .and_then(|()| ChatStore::open(&data_dir.join(FILE)).map_err(not_kept))
        {
            Ok(chats) => Ok(Self { chats, problem: None, _stand_in: None }),
            Err(problem) => Self::stand_in(problem),
        }
    }

    fn stand_in(problem: UserError) -> Result<Self, UserError> {
        let folder = stand_in_folder().map_err(|source| unusable(&std::env::temp_dir(), &source))?;
        let chats = ChatStore::open(&folder.path().join(FILE))?;
        Ok(Self { chats, problem: Some(problem), _stand_in: Some(folder) })
    }

    /// The chats.
    pub(crate) fn chats(&self) -> &ChatStore {
        &self.chats
    }

    /// Why they are not kept.
    pub(crate) fn problem(&self) -> Option<&UserError> {
        self.problem.as_ref()
    }
}

/// In memory where the system has such a folder: the disk may be what failed.
fn stand_in_folder() -> std::io::Result<TempDir> {
    let memory = PathBuf::from("/dev/shm");
    let prefix = "reprise-";
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in(&memory)
        .or_else(|_| tempfile::Builder::new().prefix(prefix).tempdir())
}

fn not_kept(error: ChatError) -> UserError {
    let told = UserError::from(error);
    if told.kept.contains("until Reprise closes") {
        return told;
    }
    let kept = format!("{} New chats last until Reprise closes.", told.kept);
    told.kept(kept)
}

fn unusable(folder: &Path, source: &std::io::Error) -> UserError {
    UserError::new(format!("The folder {} cannot be used, so chats are not saved.", folder.display()))
        .kept("New chats last until Reprise closes.")
        .hint("Make the folder writable or free some space, then start Reprise again.")
        .because(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_folder_has_no_problem() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Storage::open(&dir.path().join("new")).unwrap().problem().is_none());
    }

    #[test]
    fn a_damaged_file_is_left_alone_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        std::fs::write(&file, b"this is no database at all, but long enough to be taken for one").unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let problem = storage.problem().expect("told");
        assert!(problem.message.contains("damaged"), "{problem:?}");
        assert!(problem.kept.contains("until Reprise closes"));
        assert!(storage.chats().create().is_ok());
        assert!(std::fs::read(&file).unwrap().starts_with(b"this is no database"));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let in_the_way = dir.path().join("file");
        std::fs::write(&in_the_way, b"x").unwrap();
        let storage = Storage::open(&in_the_way.join("data")).unwrap();
        assert!(storage.problem().expect("told").message.contains("cannot be used"));
    }
}
