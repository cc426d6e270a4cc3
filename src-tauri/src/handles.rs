//! Files that the user showed to the window, behind numbers: the page never sees a path.

use std::collections::BTreeMap;
use std::path::PathBuf;

use reprise_library::folder::FolderListing;

/// Kept at once of each kind; the oldest is forgotten.
const MOST: usize = 16;

/// Drops and picked folders.
#[derive(Debug, Default)]
pub struct Handles {
    last: u32,
    drops: BTreeMap<u32, Vec<PathBuf>>,
    folders: BTreeMap<u32, FolderListing>,
}

impl Handles {
    /// Keeps the files of a drop.
    pub fn keep_drop(&mut self, paths: Vec<PathBuf>) -> u32 {
        self.last = self.last.wrapping_add(1);
        keep(&mut self.drops, self.last, paths)
    }

    /// The files of a drop; each can be taken once.
    pub fn take_drop(&mut self, handle: u32) -> Option<Vec<PathBuf>> {
        self.drops.remove(&handle)
    }

    /// Keeps a folder's listing.
    pub fn keep_folder(&mut self, listing: FolderListing) -> u32 {
        self.last = self.last.wrapping_add(1);
        keep(&mut self.folders, self.last, listing)
    }

    /// A folder's listing.
    pub fn folder(&self, handle: u32) -> Option<&FolderListing> {
        self.folders.get(&handle)
    }
}

fn keep<T>(kept: &mut BTreeMap<u32, T>, handle: u32, value: T) -> u32 {
    if kept.len() >= MOST {
        kept.pop_first();
    }
    kept.insert(handle, value);
    handle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_is_taken_once() {
        let mut handles = Handles::default();
        let handle = handles.keep_drop(vec!["a".into()]);
        assert_eq!(handles.take_drop(handle), Some(vec![PathBuf::from("a")]));
        assert_eq!(handles.take_drop(handle), None);
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut handles = Handles::default();
        let first = handles.keep_folder(FolderListing::default());
        for _ in 0..MOST {
            handles.keep_folder(FolderListing::default());
        }
        assert!(handles.folder(first).is_none());
        assert_eq!(handles.folders.len(), MOST);
    }
}
