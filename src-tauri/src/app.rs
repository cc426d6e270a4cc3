//! What the running app owns, shared by all commands.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use reprise_library::chats::ChatStore;
use reprise_library::documents::Reader;

use crate::handles::Handles;
use crate::ipc::{DropEvent, ModelStatus, Settings, UserError};
use crate::library::Library;
use crate::model::Keeper;
use crate::reply::Slot;
use crate::storage::Storage;

/// What commands need from the desktop; the window is one, tests bring their own.
pub trait Desktop: Send + Sync + 'static {
    /// Shows the window, which starts hidden so that no empty frame is seen.
    fn show_window(&self);
    /// Tells the page how the model is.
    fn announce_model(&self, status: &ModelStatus);
    /// Tells the page about files over or on the window.
    fn announce_drop(&self, event: &DropEvent);
    /// Waits until the user chose documents; `None` if they changed their mind.
    fn pick_documents(&self) -> Option<Vec<PathBuf>>;
    /// Waits until the user chose a folder.
    fn pick_folder(&self) -> Option<PathBuf>;
    /// Waits until the user chose a model file.
    fn pick_model(&self) -> Option<PathBuf>;
}

/// A cheap handle; clones share everything.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    desktop: Arc<dyn Desktop>,
    storage: Storage,
    reader: Reader,
    library: Library,
    model: Keeper,
    reply: Slot,
    handles: Mutex<Handles>,
    settings: Mutex<Settings>,
    /// Set to stop what is being read now; replaced by a fresh one then.
    reading: Mutex<Arc<AtomicBool>>,
    /// Whether the first start's chat was made in this run; decided once, before the first screen.
    first_start: OnceLock<bool>,
}

impl App {
    /// Opens the chats in `data_dir`. Nothing is loaded yet: [`crate::start::in_background`] does that.
    pub fn new(desktop: Arc<dyn Desktop>, data_dir: &std::path::Path, reader: Reader) -> Result<Self, UserError> {
        let storage = Storage::open(data_dir)?;
        let settings = crate::settings::read(storage.chats());
        Ok(Self(Arc::new(Inner {
            desktop,
            storage,
            reader,
            library: Library::default(),
            model: Keeper::default(),
            reply: Slot::default(),
            handles: Mutex::default(),
            settings: Mutex::new(settings),
            reading: Mutex::default(),
            first_start: OnceLock::new(),
        })))
    }

    /// Runs blocking work of a command away from the window's thread and the asynchronous workers.
    pub async fn run<T, F>(&self, work: F) -> Result<T, UserError>
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> Result<T, UserError> + Send + 'static,
    {
        let app = self.clone();
        match tauri::async_runtime::spawn_blocking(move || work(&app)).await {
            Ok(outcome) => outcome,
            Err(lost) => Err(UserError::new("Reprise failed inside.").because(&lost)),
        }
    }

    /// The desktop.
    pub fn desktop(&self) -> &dyn Desktop {
        &*self.0.desktop
    }

    /// The chats.
    pub fn chats(&self) -> &ChatStore {
        self.0.storage.chats()
    }

    /// Why chats are not kept, if they are not.
    pub fn storage_problem(&self) -> Option<UserError> {
        self.0.storage.problem().cloned()
    }

    /// What reads files.
    pub fn reader(&self) -> &Reader {
        &self.0.reader
    }

    /// Documents in memory.
    pub fn library(&self) -> &Library {
        &self.0.library
    }

    /// The model.
    pub fn model(&self) -> &Keeper {
        &self.0.model
    }

    /// The reply being written, if any.
    pub fn reply(&self) -> &Slot {
        &self.0.reply
    }

    /// Files behind handles.
    pub fn handles(&self) -> MutexGuard<'_, Handles> {
        lock(&self.0.handles)
    }

    /// A copy of the settings.
    pub fn settings(&self) -> Settings {
        lock(&self.0.settings).clone()
    }

    /// Puts new settings in force.
    pub fn replace_settings(&self, settings: Settings) {
        *lock(&self.0.settings) = settings;
    }

    /// The flag that stops reading begun now.
    pub fn reading(&self) -> Arc<AtomicBool> {
        Arc::clone(&lock(&self.0.reading))
    }

    /// Stops whatever is being read.
    pub fn cancel_reading(&self) {
        std::mem::take(&mut *lock(&self.0.reading)).store(true, Ordering::Relaxed);
    }

    /// Stops the reply being written.
    pub fn stop_reply(&self) {
        self.0.reply.stop();
    }

    /// Whether this is the first start; `decide` runs once and others wait for it.
    pub fn first_start(&self, decide: impl FnOnce() -> bool) -> bool {
        *self.0.first_start.get_or_init(decide)
    }

    /// Before the program ends: stops the reply and waits until it is stored, and stops reading.
    pub fn close(&self) {
        self.cancel_reading();
        self.0.reply.stop();
        self.0.reply.wait(crate::reply::LONGEST_STOP);
    }
}

/// Locks; a thread that panicked while holding the lock leaves data whole, as every change here is one assignment.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
