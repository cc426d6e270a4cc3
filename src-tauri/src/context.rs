//! What the next question would send, counted exactly before it is sent.

use reprise_library::chats::Author;

use crate::app::App;
use crate::ipc::{ContextUse, DocumentTokens, UserError};
use crate::rates::Rates;
use crate::reply::prompt;

/// Exact tokens of the whole prompt with `draft` as the next question.
pub fn measure(app: &App, chat: i32, draft: &str) -> Result<ContextUse, UserError> {
    let engine = app.model().engine()?;
    let info = engine.info();
    let documents = app.library().documents(app.chats(), chat)?;
    let mut turns: Vec<(Author, String)> =
        app.chats().branch(chat.into())?.into_iter().map(|message| (message.author, message.text)).collect();
    turns.push((Author::User, draft.to_owned()));
    let settings = app.settings();
    let prompt = engine.prepare(&prompt::messages(&settings.system_prompt, &documents, &turns), false)?;
    let cached = engine.cached_prefix(&prompt.ids).min(prompt.ids.len());
    let tokens = documents
        .iter()
        .map(|(id, document)| {
            let tokens = app.library().tokens(&engine, document)?;
            Ok(DocumentTokens { document: crate::chats::page_id(*id)?, tokens })
        })
        .collect::<Result<_, UserError>>()?;
    let (prompt_tokens, cached_tokens) = (count(prompt.ids.len()), count(cached));
    let rates = Rates::read(app.chats(), &info.name, &info.device);
    Ok(ContextUse {
        documents: tokens,
        prompt_tokens,
        draft_tokens: count(engine.count_text(draft)?),
        cached_tokens,
        reply_tokens: settings.max_reply_tokens.min(count(info.context_tokens)),
        context_tokens: count(info.context_tokens),
        predicted_read_s: rates.predict(cached_tokens, prompt_tokens - cached_tokens),
    })
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
