//! The engine thread: load, then one generation after another until the last handle is gone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::load::{Loaded, load};
use super::{LoadOptions, ModelInfo, StopHandle, generate};
use crate::exec::Executor;
use crate::text::TextModel;
use crate::{EngineError, Event, Request};

/// What handles and thread both see.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Token ids in the KV cache.
    pub(super) live: Mutex<Vec<u32>>,
    /// A generation runs.
    pub(super) busy: AtomicBool,
    /// Nothing more will be generated.
    pub(super) ended: AtomicBool,
    /// The thread is gone, and the model's memory is free.
    pub(super) freed: AtomicBool,
}

/// One generation, checked and tokenised.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) request: Request,
    pub(super) ids: Vec<u32>,
    /// When the client asked, tokenising included.
    pub(super) asked: Instant,
    pub(super) events: Sender<Event>,
    pub(super) stop: StopHandle,
}

type Ready = Result<(Arc<ModelInfo>, Arc<TextModel>), EngineError>;

pub(super) fn run(
    options: &LoadOptions,
    mut progress: impl FnMut(f32) -> bool,
    ready: &Sender<Ready>,
    inbox: &Receiver<Command>,
    shared: &Shared,
) {
    // Declared first, so it happens after the model has been dropped.
    let _ended = EndOnDrop(shared);
    let loaded = catch_unwind(AssertUnwindSafe(|| load(options, &mut progress)))
        .unwrap_or_else(|panic| Err(EngineError::Internal(panic_text(&*panic))));
    // It may hold a channel whose other end waits for the end of loading.
    drop(progress);
    let Loaded { mut executor, text, info } = match loaded {
        Ok(loaded) => loaded,
        Err(e) => {
            // The caller waits for this; if it is gone, nobody wants the model.
            let _ = ready.send(Err(e));
            return;
        }
    };
    let (text, info) = (Arc::new(text), Arc::new(info));
    if ready.send(Ok((Arc::clone(&info), Arc::clone(&text)))).is_ok() {
        serve(executor.as_mut(), &text, &info, inbox, shared);
    }
}

/// One generation after another, until the last handle is gone or one of them panics.
fn serve(executor: &mut dyn Executor, text: &TextModel, info: &ModelInfo, inbox: &Receiver<Command>, shared: &Shared) {
    while let Ok(command) = inbox.recv() {
        let events = command.events.clone();
        let outcome = catch_unwind(AssertUnwindSafe(|| generate::generate(executor, text, info, shared, command)));
        let (last, survives) = match outcome {
            Ok(Ok(summary)) => (Event::Done(Box::new(summary)), true),
            Ok(Err(e)) => (Event::Failed(e), true),
            Err(panic) => (Event::Failed(EngineError::Internal(panic_text(&*panic))), false),
        };
        // Before the last event, so that whoever sees it may ask again at once.
        if !survives {
            shared.ended.store(true, Ordering::Release);
        }
        shared.busy.store(false, Ordering::Release);
        let _ = events.send(last);
        if !survives {
            return;
        }
    }
}

struct EndOnDrop<'a>(&'a Shared);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.freed.store(true, Ordering::Release);
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".into())
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::mpsc;

    use mac_attention::{Audit, Counters};

    use super::*;
    use crate::exec::Capacity;
    use crate::memory::MemoryPlan;
    use crate::model::{ModelSpec, named_shape};
    use crate::text::tests::{demo, sentence_piece_chat};
    use crate::{Attention, Engine, KvFormat, Message, Role, Sampling};

    /// What reading comes to.
    #[derive(Clone, Copy)]
    enum Outcome {
        Panic,
        Refusal,
        /// This token, again and again.
        Token(u32),
    }

    struct Scripted {
        spec: ModelSpec,
        outcome: Outcome,
    }

    impl Executor for Scripted {
        fn spec(&self) -> &ModelSpec {
            &self.spec
        }
        fn capacity(&self) -> Capacity {
            Capacity { context_tokens: 100, device: "none".into(), kv: KvFormat::Bf16, device_memory: None }
        }
        fn kv_len(&self) -> usize {
            0
        }
        fn truncate(&mut self, _: usize) {}
        fn set_attention(&mut self, _: &Attention) -> Result<(), EngineError> {
            Ok(())
        }
        fn prefill(
            &mut self,
            _: &[u32],
            _: &mut dyn FnMut(usize) -> ControlFlow<()>,
            _: &AtomicBool,
        ) -> Result<ControlFlow<()>, EngineError> {
            match self.outcome {
                Outcome::Panic => panic!("a fault on purpose"),
                Outcome::Refusal => Err(EngineError::Tokenizer("refused on purpose".into())),
                Outcome::Token(_) => Ok(ControlFlow::Continue(())),
            }
        }
        fn decode(&mut self, _: u32, _: &AtomicBool) -> Result<ControlFlow<()>, EngineError> {
            Ok(ControlFlow::Continue(()))
        }
        fn set_sampling(&mut self, _: &Sampling) -> Result<(), EngineError> {
            Ok(())
        }
        fn choose(&mut self) -> Result<u32, EngineError> {
            match self.outcome {
                Outcome::Token(id) => Ok(id),
                Outcome::Panic | Outcome::Refusal => Ok(0),
            }
        }
        fn logits(&mut self) -> Result<&[f32], EngineError> {
            Ok(&[])
        }
        fn counters(&self) -> &[Counters] {
            &[]
        }
        fn audit(&mut self, _: usize, _: usize) -> Result<Vec<Audit>, EngineError> {
            Ok(Vec::new())
        }
    }

    fn engine_on(text: TextModel, outcome: Outcome) -> Engine {
        let spec = named_shape("demo").unwrap();
        let text = Arc::new(text);
        let info = Arc::new(ModelInfo {
            name: "scripted".into(),
            architecture: "qwen3".into(),
            weights: "none".into(),
            parameters: 0,
            device: "none".into(),
            device_kind: crate::DeviceKind::Cpu,
            fallback: None,
            kv: KvFormat::Bf16,
            device_memory: None,
            context_tokens: 100,
            max_context_tokens: 100,
            layers: spec.layers,
            num_q_heads: spec.num_q_heads,
            num_kv_heads: spec.num_kv_heads,
            head_dim: spec.head_dim,
            memory: MemoryPlan::default(),
            context_costs: Vec::new(),
        });
        let (commands, inbox) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let of_thread = (Arc::clone(&text), Arc::clone(&info), Arc::clone(&shared));
        std::thread::spawn(move || {
            let (text, info, shared) = of_thread;
            serve(&mut Scripted { spec, outcome }, &text, &info, &inbox, &shared);
        });
        Engine { commands, shared, info, text }
    }

    fn request() -> Request {
        Request {
            messages: vec![Message { role: Role::User, content: "Hello".into() }],
            continue_reply: false,
            attention: Attention::Exact,
            sampling: Sampling::default(),
            max_tokens: None,
            audit_every: 0,
        }
    }

    #[test]
    fn a_panic_is_a_failed_event_and_then_the_engine_has_stopped() {
        let engine = engine_on(demo(), Outcome::Panic);
        let events: Vec<Event> = engine.generate(request()).unwrap().events.iter().collect();
        match events.last() {
            Some(Event::Failed(EngineError::Internal(text))) => assert!(text.contains("on purpose")),
            other => panic!("{other:?}"),
        }
        for _ in 0..2 {
            assert!(matches!(engine.generate(request()), Err(EngineError::Stopped)));
        }
    }

    #[test]
    fn an_error_leaves_the_engine_ready() {
        let engine = engine_on(demo(), Outcome::Refusal);
        for _ in 0..2 {
            let events: Vec<Event> = engine.generate(request()).unwrap().events.iter().collect();
            assert!(matches!(events.last(), Some(Event::Failed(EngineError::Tokenizer(_)))));
        }
    }

    #[test]
    fn a_continued_reply_keeps_the_blank_it_goes_on_with() {
        let engine = engine_on(sentence_piece_chat(), Outcome::Token(9));
        let said = |content: &str| {
            let reply = Message { role: Role::Assistant, content: content.into() };
            let messages = [request().messages, vec![reply]].concat();
            let request = Request { messages, continue_reply: true, max_tokens: Some(1), ..request() };
            let events: Vec<Event> = engine.generate(request).unwrap().events.iter().collect();
            let text = |event: &Event| if let Event::Token(token) = event { Some(token.text.clone()) } else { None };
            events.iter().filter_map(text).collect::<String>()
        };
        assert_eq!(said("ab aba"), " a");
        // Nothing was written yet: a new reply.
        assert_eq!(said(" "), "a");
    }
}
