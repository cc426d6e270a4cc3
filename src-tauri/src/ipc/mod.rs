//! The typed contract with the page, in one place: wire types, commands, and the generator of `bindings.ts`.
//!
//! Sizes are `u32`, or `f64` where they can pass four billion: the page has no 64-bit integers. Every `f64` is finite,
//! so it is declared a plain `number` ([`specta_typescript::Number`]); values that may be unknown are `Option`s.

mod chat;
pub mod commands;
mod document;
mod error;
mod model;
mod reply;
mod settings;

pub use chat::{Author, ChatRow, ChatView, MessageState, MessageView};
pub use document::{
    AttachEvent, DocumentKind, DocumentView, DropEvent, FolderFileView, FolderView, PageView, SkippedView,
};
pub use error::{Advice, UserError};
pub use model::{ContextCost, DeviceKind, GpuMemory, GpuView, ModelCard, ModelEvent, ModelStatus};
pub use reply::{Ask, ContextUse, DocumentTokens, ReplyEvent, ReplyStats, StepView, StopKind, TokenStep};
pub use settings::{AppState, AttentionMode, DeviceChoice, KvFormat, Settings, Theme};

use tauri::Runtime;
use tauri_specta::{Builder, collect_commands, collect_events};

/// All commands and events; the source of `ui/src/ipc/bindings.ts`.
pub fn contract<R: Runtime>() -> Builder<R> {
    Builder::<R>::new()
        .commands(collect_commands![
            commands::app_state,
            commands::page_ready,
            commands::chat_list,
            commands::chat_search,
            commands::chat_create,
            commands::chat_open,
            commands::chat_rename,
            commands::chat_delete,
            commands::chat_undelete,
            commands::chat_set_draft,
            commands::message_show,
            commands::attach_pick,
            commands::attach_dropped,
            commands::attach_paste,
            commands::attach_sample,
            commands::folder_pick,
            commands::attach_folder,
            commands::attach_cancel,
            commands::document_remove,
            commands::document_page,
            commands::context_use,
            commands::ask,
            commands::stop,
            commands::gpu_look,
            commands::model_load,
            commands::model_pick,
            commands::model_demo,
            commands::settings_set,
        ])
        .events(collect_events![DropEvent, ModelEvent])
        .constant("DEFAULT_SETTINGS", Settings::default())
        .disable_serde_phases()
}

#[cfg(test)]
mod tests {
    use specta_typescript::Typescript;
    use tauri::test::MockRuntime;

    use super::contract;

    #[test]
    fn bindings_are_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../ui/src/ipc/bindings.ts");
        let before = std::fs::read_to_string(path).unwrap_or_default();
        let fresh = tempfile::tempdir().unwrap();
        let written = fresh.path().join("bindings.ts");
        contract::<MockRuntime>().export(Typescript::default(), &written).expect("only JSON-safe types");
        let after = std::fs::read_to_string(&written).unwrap();
        if before != after {
            std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
            std::fs::write(path, &after).unwrap();
        }
        assert!(before == after, "bindings.ts was stale and has been rewritten: commit it");
    }
}
