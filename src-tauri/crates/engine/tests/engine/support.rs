//! What several test files need: the demo model, a reply collected, text of any length.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mac_attention::RingLayout;
use reprise_engine::weights::Precision;
use reprise_engine::{
    Attention, Device, Engine, Event, Generation, KvFormat, LoadOptions, Message, PrefillProgress, Request, Role,
    Sampling, Summary, TokenEvent,
};

/// One engine at a time: all share the threads, and some tests look at the clock.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// In the repository, or where `REPRISE_DEMO_MODEL` says.
pub(crate) fn demo_gguf() -> PathBuf {
    let named = std::env::var_os("REPRISE_DEMO_MODEL").map(PathBuf::from);
    named.unwrap_or_else(|| root().join("assets/demo-model/demo-q8_0.gguf"))
}

/// Where the demo model lives in these tests: on the processor, or on a GPU with `REPRISE_TEST_DEVICE=cuda`.
pub(crate) fn device() -> Device {
    match std::env::var("REPRISE_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::Cuda,
        _ => Device::Cpu,
    }
}

/// The demo model's cache on a GPU: bf16, or what `REPRISE_TEST_KV` says.
fn kv() -> KvFormat {
    match std::env::var("REPRISE_TEST_KV") {
        Ok(name) => name.parse().unwrap(),
        Err(_) => KvFormat::default(),
    }
}

pub(crate) fn options(model: PathBuf) -> LoadOptions {
    LoadOptions {
        model,
        context_tokens: Some(32_768),
        threads: None,
        ring: RingLayout::default(),
        precision: Precision::F32,
        device: device(),
        kv: kv(),
    }
}

pub(crate) fn demo() -> Engine {
    Engine::load(options(demo_gguf()), |_| true).expect("the demo model stands in assets")
}

pub(crate) fn user(content: &str) -> Message {
    Message { role: Role::User, content: content.into() }
}

pub(crate) fn assistant(content: &str) -> Message {
    Message { role: Role::Assistant, content: content.into() }
}

pub(crate) fn ask(messages: Vec<Message>) -> Request {
    Request {
        messages,
        continue_reply: false,
        attention: Attention::Exact,
        sampling: Sampling::default(),
        max_tokens: Some(48),
        audit_every: 0,
    }
}

/// A reply with everything that was reported on the way.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) prefill: Vec<PrefillProgress>,
    pub(crate) tokens: Vec<TokenEvent>,
    pub(crate) summary: Summary,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        self.tokens.iter().map(|t| t.text.as_str()).collect()
    }
}

pub(crate) fn collect(generation: Generation) -> Reply {
    let (mut prefill, mut tokens, mut summary) = (Vec::new(), Vec::new(), None);
    for event in &generation.events {
        assert!(summary.is_none(), "an event after the last");
        match event {
            Event::Prefill(progress) => {
                assert!(tokens.is_empty(), "reading after writing");
                prefill.push(progress);
            }
            Event::Token(token) => tokens.push(token),
            Event::Done(done) => summary = Some(*done),
            Event::Failed(e) => panic!("{e}"),
        }
    }
    Reply { prefill, tokens, summary: summary.expect("a last event") }
}

pub(crate) fn reply(engine: &Engine, request: Request) -> Reply {
    collect(engine.generate(request).expect("the request is sound"))
}

/// About seventeen tokens a line, no two lines alike.
pub(crate) fn long_text(lines: usize) -> String {
    let words = ["harbor", "signal", "archive", "turbine", "lantern", "ledger", "mosaic", "falcon"];
    let mut text = String::new();
    for i in 0..lines {
        let (first, second) = (words[i % 8], words[(i / 8 + i * 3) % 8]);
        let _ = writeln!(text, "Line {i}: the {first} meets the {second}.");
    }
    text
}
