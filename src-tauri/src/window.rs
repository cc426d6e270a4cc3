//! The real desktop: a window, native dialogs, files dropped on it.

use std::path::PathBuf;
use std::time::Duration;

use tauri::{AppHandle, DragDropEvent, Manager, Runtime, WindowEvent};
use tauri_plugin_dialog::{DialogExt, FileDialogBuilder, FilePath};
use tauri_specta::Event;

use crate::app::{App, Desktop};
use crate::ipc::{DropEvent, ModelEvent, ModelStatus};

/// Label of the one window.
const MAIN: &str = "main";

/// A page that never says it is ready must not leave the user without a window.
const SHOW_ANYWAY_AFTER: Duration = Duration::from_secs(10);

/// What the file dialog offers first; "All files" is the other choice.
const DOCUMENTS: &[&str] = &[
    "pdf", "txt", "md", "rst", "tex", "org", "html", "csv", "json", "toml", "yaml", "yml", "xml", "rs", "py", "c", "h",
    "cc", "cpp", "hpp", "cu", "cuh", "go", "java", "kt", "js", "mjs", "ts", "tsx", "jsx", "svelte", "vue", "css", "sh",
    "sql", "rb", "php", "cs", "swift", "scala", "lua", "zig", "hs", "ml", "ex", "erl", "pl", "r", "jl", "log",
];

/// The desktop behind a Tauri app.
pub struct Windowed<R: Runtime>(pub AppHandle<R>);

impl<R: Runtime> Desktop for Windowed<R> {
    fn show_window(&self) {
        if let Some(window) = self.0.get_webview_window(MAIN)
            && !window.is_visible().unwrap_or(false)
        {
            // A window that refuses to show has no one to tell.
            let _ = window.show();
            let _ = window.set_focus();
        }
    }

    fn announce_model(&self, status: &ModelStatus) {
        // Without a page there is no one to hear.
        let _ = ModelEvent { status: status.clone() }.emit(&self.0);
    }

    fn announce_drop(&self, event: &DropEvent) {
        let _ = event.emit(&self.0);
    }

    fn pick_documents(&self) -> Option<Vec<PathBuf>> {
        let dialog = self.dialog("Attach documents").add_filter("Documents and source code", DOCUMENTS);
        let picked = dialog.add_filter("All files", &["*"]).blocking_pick_files()?;
        Some(picked.into_iter().filter_map(path).collect())
    }

    fn pick_folder(&self) -> Option<PathBuf> {
        self.dialog("Attach a folder").blocking_pick_folder().and_then(path)
    }

    fn pick_model(&self) -> Option<PathBuf> {
        let dialog = self.dialog("Choose a model").add_filter("Models", &["gguf", "safetensors"]);
        dialog.blocking_pick_file().and_then(path)
    }
}

impl<R: Runtime> Windowed<R> {
    fn dialog(&self, title: &str) -> FileDialogBuilder<R> {
        let dialog = self.0.dialog().file().set_title(title);
        match self.0.get_webview_window(MAIN) {
            Some(window) => dialog.set_parent(&window),
            None => dialog,
        }
    }
}

fn path(picked: FilePath) -> Option<PathBuf> {
    picked.into_path().ok()
}

/// Shows the window after a while even if the page stays silent.
pub fn show_sooner_or_later(app: &App) {
    let app = app.clone();
    std::thread::spawn(move || {
        std::thread::sleep(SHOW_ANYWAY_AFTER);
        app.desktop().show_window();
    });
}

/// Files over the window, and closing it.
pub fn on_event(app: &App, event: &WindowEvent) {
    match event {
        WindowEvent::DragDrop(DragDropEvent::Enter { paths, .. }) if !paths.is_empty() => {
            app.desktop().announce_drop(&DropEvent::Over);
        }
        WindowEvent::DragDrop(DragDropEvent::Leave) => app.desktop().announce_drop(&DropEvent::Left),
        WindowEvent::DragDrop(DragDropEvent::Drop { paths, .. }) if !paths.is_empty() => {
            let names = paths.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            let names = names.collect();
            let handle = app.handles().keep_drop(paths.clone());
            app.desktop().announce_drop(&DropEvent::Dropped { handle, names });
        }
        // Now, so that the reply is stored by the time the program ends.
        WindowEvent::CloseRequested { .. } => app.stop_reply(),
        _ => {}
    }
}
