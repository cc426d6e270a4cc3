//! From an empty folder or a kept one to the first screen.

use reprise_library::models;

use crate::app::App;
use crate::chats;
use crate::documents;
use crate::ipc::{AppState, UserError};
use crate::model;

/// Set once the first start's chat was made.
const STARTED: &str = "started";
/// Questions that the sample document answers; beside it.
const SUGGESTIONS: &str = "suggestions.json";

/// Begins what need not be waited for: the first chat, the model, erasing what was deleted long ago.
pub fn in_background(app: &App) {
    let app = app.clone();
    std::thread::spawn(move || {
        prepare(&app);
        model::load_last(&app);
        // Nothing to tell: what could not be erased today is erased at another start.
        let _ = chats::erase_old(&app);
    });
}

/// What the first screen shows.
pub fn state(app: &App) -> Result<AppState, UserError> {
    let first_start = prepare(app);
    let chats = chats::list(app)?;
    let last = chats::last_open(app)?;
    let open_chat =
        last.filter(|last| chats.iter().any(|row| row.id == *last)).or_else(|| chats.first().map(|row| row.id));
    Ok(AppState {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        chats,
        open_chat,
        model: app.model().status(),
        settings: app.settings(),
        first_start,
        suggestions: suggestions(),
        storage_problem: app.storage_problem(),
    })
}

/// On the first start makes a chat with the sample document; says whether this is the first start.
fn prepare(app: &App) -> bool {
    app.first_start(|| {
        let started = app.chats().setting(STARTED).ok().flatten().is_some();
        if started || app.chats().list().is_ok_and(|chats| !chats.is_empty()) {
            return false;
        }
        // Without the sample the first screen is an empty chat, which needs no excuse.
        let _ = first_chat(app);
        let _ = app.chats().set_setting(STARTED, "1");
        true
    })
}

fn first_chat(app: &App) -> Result<(), UserError> {
    let chat = chats::create(app)?.id;
    if let Some(path) = models::sample_document() {
        let document = app.reader().read(&path, None, &mut |_| {}, &app.reading())?;
        documents::keep(app, chat, document)?;
    }
    Ok(())
}

fn suggestions() -> Vec<String> {
    let text =
        models::sample_document().and_then(|path| std::fs::read_to_string(path.with_file_name(SUGGESTIONS)).ok());
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}
