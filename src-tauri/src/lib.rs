//! The window of Reprise: a typed border with the page, around the engine and the library.
//!
//! ```text
//! page ─ commands ─▶ ipc ─▶ chats, documents, folders, model, reply, settings ─▶ engine, library
//! page ◀─ channels, events ─┘
//! ```
//!
//! The page is untrusted: it gets text, figures and handles, never a path, and can reach neither files nor processes
//! nor the network. Everything that waits runs away from the window's thread. The engine has one client here, and one
//! reply is written at a time ([`reply::Slot`]).
//!
//! Deliberately absent: model arithmetic, parsing, the database's layout (those are the crates below), and any
//! network access.

#![forbid(unsafe_code)]

mod advice;
pub mod app;
pub mod chats;
pub mod context;
pub mod device;
pub mod documents;
pub mod environment;
pub mod folders;
mod handles;
pub mod ipc;
mod library;
pub mod model;
mod rates;
pub mod reply;
mod room;
pub mod settings;
pub mod start;
mod storage;
pub mod window;

use std::path::PathBuf;
use std::sync::Arc;

use reprise_library::documents::Reader;
use tauri::{Manager, RunEvent};
use tauri_plugin_window_state::StateFlags;

use crate::app::App;
use crate::window::Windowed;

/// Opens the window and returns when it is closed.
///
/// # Errors
/// When the window cannot be made, or when not even a temporary place for chats can be had.
pub fn run() -> tauri::Result<()> {
    let contract = ipc::contract::<tauri::Wry>();
    let placed = tauri_plugin_window_state::Builder::new()
        // Not whether it is visible: the page decides when it is first shown.
        .with_state_flags(StateFlags::SIZE | StateFlags::POSITION | StateFlags::MAXIMIZED)
        .build();
    let running = tauri::Builder::default()
        .plugin(tauri_plugin_dialog::init())
        .plugin(placed)
        .invoke_handler(contract.invoke_handler())
        .setup(move |tauri_app| {
            contract.mount_events(tauri_app);
            let data_dir = data_dir(tauri_app)?;
            let reader = Reader { executable: std::env::current_exe()? };
            let desktop = Arc::new(Windowed(tauri_app.handle().clone()));
            let app = App::new(desktop, &data_dir, reader).map_err(|error| error.message)?;
            tauri_app.manage(app.clone());
            start::in_background(&app);
            window::show_sooner_or_later(&app);
            Ok(())
        })
        .on_window_event(|window, event| {
            if let Some(app) = window.try_state::<App>() {
                window::on_event(&app, event);
            }
        })
        .build(tauri::generate_context!())?;
    running.run(|handle, event| {
        if let (RunEvent::Exit, Some(app)) = (event, handle.try_state::<App>()) {
            app.close();
        }
    });
    Ok(())
}

fn data_dir(app: &tauri::App) -> tauri::Result<PathBuf> {
    environment::data_dir().map_or_else(|| app.path().app_data_dir(), Ok)
}
