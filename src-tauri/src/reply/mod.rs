//! One reply at a time: planned, counted, stored, written, stopped.

mod figures;
mod plan;
pub mod prompt;
mod slot;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use mac_attention::Paper;
use reprise_engine::{Attention, Engine, EngineError, Request, Sampling};
use tauri::ipc::Channel;

use crate::app::App;
use crate::ipc::{Advice, Ask, AttentionMode, ReplyEvent, Settings, UserError};
use crate::room;
use plan::{Place, Plan};
use slot::Reserved;
pub use slot::Slot;
use stream::Stream;

/// The engine stops within a chunk, a layer or a step; this is for a machine that swaps.
pub const LONGEST_STOP: Duration = Duration::from_secs(5);

/// One KV group of one layer is computed exactly as well every this many steps.
const AUDIT_EVERY: usize = 32;

/// A suggested context is a multiple of this many tokens.
const CONTEXT_STEP: usize = 1024;

/// Starts a reply. Returns once the question is stored and the reply begun; the rest comes on the channel.
pub fn ask(app: &App, chat: i32, ask: Ask, channel: Channel<ReplyEvent>) -> Result<(), UserError> {
    let engine = app.model().engine()?;
    let reserved = Reserved::take(app, chat)?;
    let plan = Plan::new(&app.chats().branch(chat.into())?, ask)?;
    let documents = app.library().documents(app.chats(), chat)?;
    let settings = app.settings();
    let messages = prompt::messages(&settings.system_prompt, &documents, &plan.turns);
    let prompt_tokens = engine.prepare(&messages, plan.continues())?.ids.len();
    check_fit(&engine, prompt_tokens, settings.max_reply_tokens as usize)?;

    let request = Request {
        messages,
        continue_reply: plan.continues(),
        attention: attention(plan.attention.unwrap_or(settings.attention)),
        sampling: sampling(&settings),
        max_tokens: Some(settings.max_reply_tokens as usize),
        audit_every: AUDIT_EVERY,
    };
    let reply = plan.store(app, chat)?;
    if let Place::Question { text, .. } = &plan.place
        && app.chats().draft(chat.into()).is_ok_and(|draft| draft.trim() == text.trim())
    {
        // The draft became the question. Left behind it would only show up again in the box. Another text in the box is
        // not this one's: a suggestion or an earlier question was asked beside it.
        let _ = app.chats().set_draft(chat.into(), "");
    }
    let stream = Stream::new(app.clone(), chat, reply, Arc::clone(&documents), channel);
    stream.begin()?;
    std::thread::spawn(move || stream.run(&engine, request, reserved));
    Ok(())
}

/// Refuses a prompt that leaves no room for a reply, with the ways out that this model and this machine have.
fn check_fit(engine: &Engine, prompt_tokens: usize, reply_tokens: usize) -> Result<(), UserError> {
    let info = engine.info();
    if prompt_tokens < info.context_tokens {
        return Ok(());
    }
    let told = UserError::from(EngineError::PromptTooLong { prompt_tokens, context_tokens: info.context_tokens });
    let context_bytes = room::context_bytes(info);
    let room = Room {
        context_tokens: info.context_tokens,
        max_context_tokens: info.max_context_tokens,
        context_bytes,
        free_bytes: room::context_room(info).saturating_sub(context_bytes),
    };
    Err(match room.context_for(prompt_tokens, reply_tokens) {
        Some(tokens) => UserError { advice: [vec![Advice::SetContext { tokens }], told.advice].concat(), ..told },
        None => told,
    })
}

/// What decides whether a larger context can be had.
struct Room {
    context_tokens: usize,
    max_context_tokens: usize,
    /// What the present context takes.
    context_bytes: u64,
    /// What the device has for more of it.
    free_bytes: u64,
}

impl Room {
    /// The context that holds prompt and reply, if the model and its device's memory allow it. The present KV cache is
    /// given back when the model is loaded again, so only the growth must fit.
    fn context_for(&self, prompt_tokens: usize, reply_tokens: usize) -> Option<u32> {
        let wanted = (prompt_tokens + reply_tokens).next_multiple_of(CONTEXT_STEP).min(self.max_context_tokens);
        if wanted <= prompt_tokens || wanted <= self.context_tokens || self.context_tokens == 0 {
            return None;
        }
        let growth =
            u128::from(self.context_bytes) * (wanted - self.context_tokens) as u128 / self.context_tokens as u128;
        // A tenth stays free: a machine that swaps is worse than a shorter context.
        let spare = u128::from(self.free_bytes) * 9 / 10;
        (growth <= spare).then(|| u32::try_from(wanted).ok()).flatten()
    }
}

fn attention(mode: AttentionMode) -> Attention {
    match mode {
        AttentionMode::Mac => Attention::Mac(Paper::default()),
        AttentionMode::Exact => Attention::Exact,
    }
}

fn sampling(settings: &Settings) -> Sampling {
    Sampling {
        temperature: settings.temperature,
        top_k: settings.top_k as usize,
        top_p: settings.top_p,
        min_p: settings.min_p,
        repeat_penalty: settings.repeat_penalty,
        seed: settings.seed.into(),
        ..Sampling::default()
    }
}

#[cfg(test)]
mod tests {
    use super::Room;

    fn room() -> Room {
        Room { context_tokens: 4096, max_context_tokens: 32_768, context_bytes: 4096 * 1000, free_bytes: 1 << 30 }
    }

    #[test]
    fn a_larger_context_is_offered_in_whole_steps() {
        assert_eq!(room().context_for(5000, 1000), Some(6144));
        assert_eq!(room().context_for(32_000, 1000), Some(32_768));
    }

    #[test]
    fn beyond_the_model_or_the_memory_none_is_offered() {
        assert_eq!(room().context_for(40_000, 1000), None);
        assert_eq!(Room { free_bytes: 1_000_000, ..room() }.context_for(5000, 1000), None);
        assert_eq!(Room { context_tokens: 32_768, ..room() }.context_for(32_768, 10), None);
    }
}
