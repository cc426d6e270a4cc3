//! The conversation: documents, messages, settings, and the engine that answers.

use reprise_engine::{Engine, Message, Request, Role, Sampling, StopReason};
use reprise_library::documents::Document;
use reprise_library::prompt::first_message;

use super::reply::{Reply, follow};
use super::summary::{self, Figures};
use super::{Reuse, explain};
use crate::args::ChatArgs;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::output::{remark, write};

/// Steps between exact audits while reuse is on.
const AUDIT_EVERY: usize = 16;

/// One conversation.
#[derive(Debug)]
pub(crate) struct Session {
    engine: Engine,
    pub(crate) interrupt: Interrupt,
    /// Attached and not yet sent.
    pub(crate) waiting: Vec<Document>,
    pub(crate) reuse: Reuse,
    messages: Vec<Message>,
    sampling: Sampling,
    max_tokens: usize,
    json: bool,
    /// Figures of the last answer.
    pub(crate) last: Option<Figures>,
}

impl Session {
    /// A conversation without a turn yet.
    pub(crate) fn new(
        engine: Engine,
        interrupt: Interrupt,
        documents: Vec<Document>,
        args: &ChatArgs,
        reuse: Reuse,
    ) -> Self {
        let system = args.system.iter().map(|text| Message { role: Role::System, content: text.clone() });
        Self {
            engine,
            interrupt,
            waiting: documents,
            reuse,
            messages: system.collect(),
            sampling: Sampling::from(&args.sampling),
            max_tokens: args.max_tokens,
            json: args.json,
            last: None,
        }
    }

    /// What answers.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether standard output belongs to JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether the last question was stopped before a word of its answer.
    pub(crate) fn was_stopped_while_reading(&self) -> bool {
        self.last.as_ref().is_some_and(|figures| summary::stopped_while_reading(&figures.summary))
    }

    /// Exact tokens of a document as it will be sent.
    pub(crate) fn document_tokens(&self, document: &Document) -> Result<usize, Failure> {
        let (text, _) = first_message(&[document], "");
        Ok(self.engine.count_text(&text)?)
    }

    /// Sends the waiting documents and the question and prints the answer as it comes. If it fails, the conversation
    /// is as it was before.
    pub(crate) fn ask(&mut self, question: &str) -> Result<(), Failure> {
        let documents: Vec<&Document> = self.waiting.iter().collect();
        let (content, _) = first_message(&documents, question);
        self.messages.push(Message { role: Role::User, content });
        match self.generate() {
            Ok(reply) => {
                self.waiting.clear();
                self.messages.push(Message { role: Role::Assistant, content: reply.text });
                self.finish(reply.figures)
            }
            Err(failure) => {
                self.messages.pop();
                Err(failure)
            }
        }
    }

    fn generate(&mut self) -> Result<Reply, Failure> {
        let mac = matches!(self.reuse.mode, crate::args::AttentionMode::Mac);
        let request = Request {
            messages: self.messages.clone(),
            continue_reply: false,
            attention: self.reuse.attention(),
            sampling: self.sampling.clone(),
            max_tokens: Some(self.max_tokens),
            audit_every: if mac { AUDIT_EVERY } else { 0 },
        };
        let generation = self.engine.generate(request).map_err(|e| explain(e, &self.engine))?;
        self.interrupt.running(generation.stop.clone());
        let reply = follow(&generation, self.json);
        self.interrupt.idle();
        match reply {
            Err(Failure::Engine(error)) => Err(explain(error, &self.engine)),
            other => other,
        }
    }

    fn finish(&mut self, figures: Figures) -> Result<(), Failure> {
        if !self.json && figures.summary.decode_tokens > 0 {
            write("\n")?;
        }
        remark(&summary::line(&figures, self.reuse.min_context()));
        if figures.summary.stop == StopReason::ContextFull {
            remark("the context is full: start again with a longer --context to write more");
        }
        self.last = Some(figures);
        Ok(())
    }
}
