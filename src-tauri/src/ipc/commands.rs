//! The commands: each decodes its arguments and hands over. Nothing here blocks the window's thread.

use tauri::State;
use tauri::ipc::Channel;

use super::{
    AppState, Ask, AttachEvent, ChatRow, ChatView, ContextUse, FolderView, GpuView, PageView, ReplyEvent, Settings,
    UserError,
};
use crate::app::App;
use crate::{chats, context, device, documents, folders, model, reply, settings, start};

/// What the first screen shows.
#[tauri::command]
#[specta::specta]
pub async fn app_state(app: State<'_, App>) -> Result<AppState, UserError> {
    app.run(start::state).await
}

/// The page painted its first screen: the window is shown now.
#[tauri::command]
#[specta::specta]
pub async fn page_ready(app: State<'_, App>) -> Result<(), UserError> {
    app.desktop().show_window();
    Ok(())
}

/// Sidebar rows, newest first.
#[tauri::command]
#[specta::specta]
pub async fn chat_list(app: State<'_, App>) -> Result<Vec<ChatRow>, UserError> {
    app.run(chats::list).await
}

/// Chats whose title or messages hold the words, best first, each with a snippet.
#[tauri::command]
#[specta::specta]
pub async fn chat_search(app: State<'_, App>, query: String) -> Result<Vec<ChatRow>, UserError> {
    app.run(move |app| chats::search(app, &query)).await
}

/// A new, empty chat.
#[tauri::command]
#[specta::specta]
pub async fn chat_create(app: State<'_, App>) -> Result<ChatView, UserError> {
    app.run(chats::create).await
}

/// Opens a chat; it is the one shown at the next start.
#[tauri::command]
#[specta::specta]
pub async fn chat_open(app: State<'_, App>, chat: i32) -> Result<ChatView, UserError> {
    app.run(move |app| chats::open(app, chat)).await
}

/// Gives a chat another title.
#[tauri::command]
#[specta::specta]
pub async fn chat_rename(app: State<'_, App>, chat: i32, title: String) -> Result<(), UserError> {
    app.run(move |app| chats::rename(app, chat, &title)).await
}

/// Hides a chat; `chatUndelete` brings it back. It is erased for good after 30 days.
#[tauri::command]
#[specta::specta]
pub async fn chat_delete(app: State<'_, App>, chat: i32) -> Result<(), UserError> {
    app.run(move |app| chats::delete(app, chat)).await
}

/// Brings a deleted chat back.
#[tauri::command]
#[specta::specta]
pub async fn chat_undelete(app: State<'_, App>, chat: i32) -> Result<(), UserError> {
    app.run(move |app| chats::undelete(app, chat)).await
}

/// Keeps the unsent text of a chat's composer.
#[tauri::command]
#[specta::specta]
pub async fn chat_set_draft(app: State<'_, App>, chat: i32, text: String) -> Result<(), UserError> {
    app.run(move |app| chats::set_draft(app, chat, &text)).await
}

/// Shows this version of a message and what follows it.
#[tauri::command]
#[specta::specta]
pub async fn message_show(app: State<'_, App>, message: i32) -> Result<ChatView, UserError> {
    app.run(move |app| chats::show_version(app, message)).await
}

/// Lets the user choose files in the native dialog, then reads and attaches them.
#[tauri::command]
#[specta::specta]
pub async fn attach_pick(app: State<'_, App>, chat: i32, channel: Channel<AttachEvent>) -> Result<(), UserError> {
    app.run(move |app| documents::attach_picked(app, chat, &channel)).await
}

/// Reads and attaches the files of a drop.
#[tauri::command]
#[specta::specta]
pub async fn attach_dropped(
    app: State<'_, App>,
    chat: i32,
    handle: u32,
    channel: Channel<AttachEvent>,
) -> Result<(), UserError> {
    app.run(move |app| documents::attach_dropped(app, chat, handle, &channel)).await
}

/// Attaches pasted text as a document.
#[tauri::command]
#[specta::specta]
pub async fn attach_paste(
    app: State<'_, App>,
    chat: i32,
    text: String,
    channel: Channel<AttachEvent>,
) -> Result<(), UserError> {
    app.run(move |app| documents::attach_paste(app, chat, &text, &channel)).await
}

/// Attaches the sample handbook.
#[tauri::command]
#[specta::specta]
pub async fn attach_sample(app: State<'_, App>, chat: i32, channel: Channel<AttachEvent>) -> Result<(), UserError> {
    app.run(move |app| documents::attach_sample(app, chat, &channel)).await
}

/// Lets the user choose a folder and lists what can be attached; `null` if they changed their mind.
#[tauri::command]
#[specta::specta]
pub async fn folder_pick(app: State<'_, App>) -> Result<Option<FolderView>, UserError> {
    app.run(folders::pick).await
}

/// Reads and attaches the named files of a picked folder, in the folder's order.
#[tauri::command]
#[specta::specta]
pub async fn attach_folder(
    app: State<'_, App>,
    chat: i32,
    handle: u32,
    names: Vec<String>,
    channel: Channel<AttachEvent>,
) -> Result<(), UserError> {
    app.run(move |app| folders::attach(app, chat, handle, &names, &channel)).await
}

/// Stops reading sources and listing folders; what is attached already stays.
#[tauri::command]
#[specta::specta]
pub async fn attach_cancel(app: State<'_, App>) -> Result<(), UserError> {
    app.cancel_reading();
    Ok(())
}

/// Takes a document off a chat; only before it was sent.
#[tauri::command]
#[specta::specta]
pub async fn document_remove(app: State<'_, App>, document: i32) -> Result<(), UserError> {
    app.run(move |app| documents::remove(app, document)).await
}

/// One page of a document, for the viewer.
#[tauri::command]
#[specta::specta]
pub async fn document_page(app: State<'_, App>, document: i32, page: u32) -> Result<PageView, UserError> {
    app.run(move |app| documents::page(app, document, page)).await
}

/// Exact tokens of what the next question would send.
#[tauri::command]
#[specta::specta]
pub async fn context_use(app: State<'_, App>, chat: i32, draft: String) -> Result<ContextUse, UserError> {
    app.run(move |app| context::measure(app, chat, &draft)).await
}

/// Asks. Returns once the messages are stored; the reply streams on the channel. A prompt that does not fit is
/// rejected before anything is stored or read.
#[tauri::command]
#[specta::specta]
pub async fn ask(app: State<'_, App>, chat: i32, ask: Ask, channel: Channel<ReplyEvent>) -> Result<(), UserError> {
    app.run(move |app| reply::ask(app, chat, ask, channel)).await
}

/// Stops the running reply; what is written stays.
#[tauri::command]
#[specta::specta]
pub async fn stop(app: State<'_, App>) -> Result<(), UserError> {
    app.stop_reply();
    Ok(())
}

/// Looks for a GPU.
#[tauri::command]
#[specta::specta]
pub async fn gpu_look(app: State<'_, App>) -> Result<GpuView, UserError> {
    app.run(|_| Ok(device::look())).await
}

/// Loads the current model again, on the device and with the context that are set.
#[tauri::command]
#[specta::specta]
pub async fn model_load(app: State<'_, App>) -> Result<(), UserError> {
    app.run(model::reload).await
}

/// Lets the user choose a model file in the native dialog and loads it.
#[tauri::command]
#[specta::specta]
pub async fn model_pick(app: State<'_, App>) -> Result<(), UserError> {
    app.run(model::pick).await
}

/// Loads the embedded demo model.
#[tauri::command]
#[specta::specta]
pub async fn model_demo(app: State<'_, App>) -> Result<(), UserError> {
    app.run(model::demo).await
}

/// Checks and keeps the settings; answers with what is kept.
#[tauri::command]
#[specta::specta]
pub async fn settings_set(app: State<'_, App>, settings: Settings) -> Result<Settings, UserError> {
    app.run(move |app| settings::set(app, settings)).await
}
