//! A desktop without a window, and the app on it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reprise_app_lib::app::{App, Desktop};
use reprise_app_lib::ipc::{DropEvent, ModelStatus, Settings};
use reprise_app_lib::{model, settings};
use reprise_library::documents::Reader;
use serde::Deserialize;
use serde_json::Value;
use tauri::ipc::{Channel, InvokeResponseBody, IpcResponse};
use tempfile::TempDir;

/// A loaded demo model on a busy machine.
const LOADED_WITHIN: Duration = Duration::from_mins(1);

/// Answers dialogs with what a test put here.
#[derive(Default)]
pub(crate) struct Desk {
    pub(crate) documents: Mutex<Option<Vec<PathBuf>>>,
    pub(crate) folder: Mutex<Option<PathBuf>>,
    pub(crate) drops: Mutex<Vec<DropEvent>>,
    pub(crate) shown: Mutex<u32>,
}

impl Desktop for Desk {
    fn show_window(&self) {
        *self.shown.lock().unwrap() += 1;
    }

    fn announce_model(&self, _status: &ModelStatus) {}

    fn announce_drop(&self, event: &DropEvent) {
        self.drops.lock().unwrap().push(event.clone());
    }

    fn pick_documents(&self) -> Option<Vec<PathBuf>> {
        self.documents.lock().unwrap().take()
    }

    fn pick_folder(&self) -> Option<PathBuf> {
        self.folder.lock().unwrap().take()
    }

    fn pick_model(&self) -> Option<PathBuf> {
        None
    }
}

/// An app in its own folder.
pub(crate) struct Bench {
    pub(crate) app: App,
    pub(crate) desk: Arc<Desk>,
    pub(crate) dir: TempDir,
}

impl Bench {
    /// Without a model.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let desk = Arc::new(Desk::default());
        let app = App::new(Arc::clone(&desk) as Arc<dyn Desktop>, dir.path(), reader()).unwrap();
        Self { app, desk, dir }
    }

    /// With the demo model at this context.
    pub(crate) fn with_model(context_tokens: u32) -> Self {
        let bench = Self::new();
        let wanted = Settings { context_tokens: Some(context_tokens), ..Settings::default() };
        settings::set(&bench.app, wanted).unwrap();
        model::load(&bench.app, None);
        match bench.loaded() {
            ModelStatus::Ready { .. } => bench,
            other => panic!("{other:?}"),
        }
    }

    /// How the loading that was asked for last has ended.
    pub(crate) fn loaded(&self) -> ModelStatus {
        let began = Instant::now();
        loop {
            match self.app.model().status() {
                ModelStatus::None | ModelStatus::Loading { .. } => {}
                ended => return ended,
            }
            assert!(began.elapsed() < LOADED_WITHIN, "the model is not loaded after {LOADED_WITHIN:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn chat(&self) -> i32 {
        reprise_app_lib::chats::create(&self.app).unwrap().id
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("files").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// The app's own binary reads PDFs, as it does for users.
pub(crate) fn reader() -> Reader {
    Reader { executable: env!("CARGO_BIN_EXE_reprise-app").into() }
}

/// The sample handbook of this checkout.
pub(crate) fn handbook() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/sample/reprise-handbook.pdf")
}

/// A channel whose messages arrive here as JSON, as they would at the page.
pub(crate) fn page_channel<T: IpcResponse>() -> (Channel<T>, Receiver<Value>) {
    let (sender, messages): (Sender<Value>, _) = channel();
    let sender = Mutex::new(sender);
    let channel = Channel::new(move |body| {
        let InvokeResponseBody::Json(text) = body else { panic!("messages are JSON") };
        let _ = sender.lock().unwrap().send(serde_json::from_str(&text).unwrap());
        Ok(())
    });
    (channel, messages)
}

/// All messages, after the command has ended.
pub(crate) fn all(messages: &Receiver<Value>) -> Vec<Value> {
    messages.try_iter().collect()
}

/// Kind of a message.
pub(crate) fn kind(message: &Value) -> &str {
    message["kind"].as_str().unwrap_or("none")
}

/// A part of a message as its type.
pub(crate) fn part<T: for<'a> Deserialize<'a>>(message: &Value, name: &str) -> T {
    serde_json::from_value(message[name].clone()).unwrap_or_else(|error| panic!("{name} in {message}: {error}"))
}
