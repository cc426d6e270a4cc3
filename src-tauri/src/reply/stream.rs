//! A reply from the engine to the database and the page, in that order: what is on the screen is saved.

use std::mem;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use reprise_engine::{Engine, EngineError, Event, Generation, PrefillProgress, Request, StopReason, Summary};
use reprise_library::chats::{ChatError, MessageState};
use tauri::ipc::Channel;

use super::figures;
use super::slot::Reserved;
use crate::app::App;
use crate::chats::{self, Failure, page_id};
use crate::ipc::{Author, MessageView, ReplyEvent, UserError};
use crate::library::Documents;
use crate::rates::{Rates, Stretch};

/// One message to the page a frame, at 30 frames a second.
const FRAME: Duration = Duration::from_millis(33);
/// While the disk refuses, it is asked again this often.
const RETRY_SAVING: Duration = Duration::from_secs(1);
/// The slot is free, so the engine is about to be.
const ENGINE_FREE_WITHIN: Duration = Duration::from_secs(1);

/// A reply being written.
pub(super) struct Stream {
    app: App,
    chat: i32,
    reply: i64,
    documents: Documents,
    channel: Channel<ReplyEvent>,
    saving: Saving,
    pending: Pending,
    reading: Vec<PrefillProgress>,
}

/// What came from the engine since the last message to the page.
struct Pending {
    prefill: Option<PrefillProgress>,
    text: String,
    steps: Vec<crate::ipc::TokenStep>,
    sent_at: Option<Instant>,
}

/// Text on the screen that the database does not have yet, because it refused it.
#[derive(Default)]
struct Saving {
    unsaved: String,
    refused: Option<(ChatError, Instant)>,
}

impl Stream {
    /// For a stored, empty reply.
    pub(super) fn new(app: App, chat: i32, reply: i64, documents: Documents, channel: Channel<ReplyEvent>) -> Self {
        let pending = Pending { prefill: None, text: String::new(), steps: Vec::new(), sent_at: None };
        Self { app, chat, reply, documents, channel, saving: Saving::default(), pending, reading: Vec::new() }
    }

    /// Tells the page that the messages exist.
    pub(super) fn begin(&self) -> Result<(), UserError> {
        let chat = chats::view(&self.app, self.chat)?;
        self.tell(ReplyEvent::Started { chat, reply: page_id(self.reply)? });
        Ok(())
    }

    /// Writes until the end; every way out leaves the reply stored as done, stopped or failed. The slot is free by
    /// the time the page hears of the end, so that it can ask again at once.
    pub(super) fn run(mut self, engine: &Engine, request: Request, reserved: Reserved) {
        let outcome = self.write(engine, request);
        self.flush();
        self.keep_rates(engine);
        let end = match outcome {
            Ok(summary) => self.finish(&summary),
            Err(error) => {
                let info = engine.info();
                self.fail(UserError::from_engine(error, info.device_kind, info.kv))
            }
        };
        drop(reserved);
        self.tell(end);
    }

    fn write(&mut self, engine: &Engine, request: Request) -> Result<Box<Summary>, EngineError> {
        let generation = begin(engine, request)?;
        self.app.reply().begun(generation.stop.clone());
        loop {
            match generation.events.recv_timeout(self.pending.wait()) {
                Ok(Event::Prefill(progress)) => {
                    self.reading.push(progress);
                    self.pending.prefill = Some(progress);
                }
                Ok(Event::Token(token)) => {
                    // Some tens of microseconds, and no killed app loses more than the token in flight.
                    self.save(&token.text);
                    self.pending.text.push_str(&token.text);
                    self.pending.steps.push(figures::token(token));
                }
                Ok(Event::Done(summary)) => return Ok(summary),
                Ok(Event::Failed(error)) => return Err(error),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(EngineError::Stopped),
            }
            if self.pending.due() {
                self.flush();
            }
        }
    }

    /// Sends what is pending; its text is saved already.
    fn flush(&mut self) {
        if let Some(progress) = self.pending.prefill.take() {
            self.tell(prefill(&progress));
        }
        if !self.pending.steps.is_empty() {
            let text = mem::take(&mut self.pending.text);
            let steps = mem::take(&mut self.pending.steps);
            self.tell(ReplyEvent::Tokens { text, steps });
        }
        self.pending.sent_at = Some(Instant::now());
    }

    fn save(&mut self, text: &str) {
        self.saving.unsaved.push_str(text);
        let resting = self.saving.refused.as_ref().is_some_and(|(_, since)| since.elapsed() < RETRY_SAVING);
        if !resting {
            self.save_now();
        }
    }

    fn save_now(&mut self) {
        if self.saving.unsaved.is_empty() {
            return;
        }
        match self.app.chats().append(self.reply, &self.saving.unsaved) {
            Ok(()) => self.saving = Saving::default(),
            Err(error) => self.saving.refused = Some((error, Instant::now())),
        }
    }

    fn finish(&mut self, summary: &Summary) -> ReplyEvent {
        self.save_now();
        if let Some((error, _)) = self.saving.refused.take() {
            return self.fail(UserError::from(error));
        }
        let state = if summary.stop == StopReason::User { MessageState::Stopped } else { MessageState::Done };
        // Figures of plain numbers and strings always serialise; a reply without figures is still a reply.
        let stats = serde_json::to_string(&figures::reply(summary, &self.documents)).ok();
        match self.app.chats().finish(self.reply, state, stats.as_deref()).map_err(UserError::from) {
            Ok(()) => match self.message() {
                Ok(message) => ReplyEvent::Done { message },
                Err(error) => ReplyEvent::Failed { error, message: None },
            },
            Err(error) => self.fail(error),
        }
    }

    /// Ends a reply that could not be finished, keeping what was written.
    fn fail(&mut self, mut error: UserError) -> ReplyEvent {
        self.save_now();
        let why = serde_json::to_string(&Failure { error: error.message.clone() }).ok();
        let ended = self.app.chats().finish(self.reply, MessageState::Failed, why.as_deref());
        if !self.saving.unsaved.is_empty() {
            let lost = self.saving.unsaved.chars().count();
            error.kept = format!(
                "The question and the answer so far are saved, except its last {lost} characters: they are on the \
                 screen only, so copy them now."
            );
        } else if ended.is_err() {
            "The question and all of the answer's text are saved.".clone_into(&mut error.kept);
        }
        ReplyEvent::Failed { error, message: self.message().ok() }
    }

    /// The reply as it is stored now.
    fn message(&self) -> Result<MessageView, UserError> {
        let branch = self.app.chats().branch(self.chat.into())?;
        if let Some(stored) = branch.iter().find(|stored| stored.id == self.reply) {
            return chats::message_view(stored);
        }
        // The user went to another version meanwhile; the page only needs to know which reply has ended.
        Ok(MessageView {
            id: page_id(self.reply)?,
            author: Author::Assistant,
            text: String::new(),
            state: crate::ipc::MessageState::Done,
            stats: None,
            error: None,
            version: 1,
            siblings: vec![page_id(self.reply)?],
        })
    }

    /// Keeps how fast this machine read: two stretches, so that the growth with depth can be told.
    fn keep_rates(&self, engine: &Engine) {
        let stretches = stretches(&self.reading);
        if stretches.is_empty() {
            return;
        }
        let info = engine.info();
        let mut rates = Rates::read(self.app.chats(), &info.name, &info.device);
        for stretch in stretches {
            rates.observe(stretch);
        }
        rates.keep(self.app.chats(), &info.name, &info.device);
    }

    /// The page may be gone; the reply is written and saved all the same.
    fn tell(&self, event: ReplyEvent) {
        let _ = self.channel.send(event);
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.prefill.is_none() && self.steps.is_empty()
    }

    fn due(&self) -> bool {
        !self.is_empty() && self.sent_at.is_none_or(|at| at.elapsed() >= FRAME)
    }

    /// How long to wait for the engine before looking again.
    fn wait(&self) -> Duration {
        match self.sent_at {
            Some(at) if !self.is_empty() => FRAME.saturating_sub(at.elapsed()),
            _ => Duration::from_secs(1),
        }
    }
}

/// Starts the engine. It tells the end of a generation a moment before it can take the next one.
fn begin(engine: &Engine, request: Request) -> Result<Generation, EngineError> {
    let asked = Instant::now();
    loop {
        match engine.generate(request.clone()) {
            Err(EngineError::Busy) if asked.elapsed() < ENGINE_FREE_WITHIN => std::thread::sleep(FRAME / 10),
            begun => return begun,
        }
    }
}

fn prefill(progress: &PrefillProgress) -> ReplyEvent {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    ReplyEvent::Prefill {
        done: count(progress.done),
        total: count(progress.total),
        cached: count(progress.cached),
        tokens_per_s: progress.tokens_per_s.filter(|rate| rate.is_finite()),
        remaining_s: progress.remaining.map(|left| left.as_secs_f64()),
    }
}

/// The first and the second half of what was read.
fn stretches(reading: &[PrefillProgress]) -> Vec<Stretch> {
    let (Some(first), Some(last)) = (reading.first(), reading.last()) else { return Vec::new() };
    let half = first.done + (last.done.saturating_sub(first.done)) / 2;
    let middle = reading.iter().find(|progress| progress.done >= half).unwrap_or(last);
    let between = |from: &PrefillProgress, to: &PrefillProgress| Stretch {
        from: u32::try_from(from.done).unwrap_or(u32::MAX),
        tokens: u32::try_from(to.done.saturating_sub(from.done)).unwrap_or(u32::MAX),
        seconds: to.elapsed.saturating_sub(from.elapsed).as_secs_f64(),
    };
    [between(first, middle), between(middle, last)].into_iter().filter(|stretch| stretch.tokens > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(done: usize, seconds: u64) -> PrefillProgress {
        PrefillProgress {
            done,
            total: 1000,
            cached: 100,
            elapsed: Duration::from_secs(seconds),
            tokens_per_s: Some(f64::INFINITY),
            remaining: None,
        }
    }

    #[test]
    fn reading_gives_two_stretches() {
        let got = stretches(&[at(100, 0), at(400, 3), at(700, 7), at(1000, 12)]);
        let want = [Stretch { from: 100, tokens: 600, seconds: 7.0 }, Stretch { from: 700, tokens: 300, seconds: 5.0 }];
        assert_eq!(got, want);
        assert!(stretches(&[at(1000, 0)]).is_empty());
        assert!(stretches(&[]).is_empty());
    }

    #[test]
    fn a_rate_that_is_no_number_is_unknown() {
        assert!(matches!(prefill(&at(100, 1)), ReplyEvent::Prefill { tokens_per_s: None, .. }));
    }
}
