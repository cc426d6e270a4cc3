use std::io::{Error as IoError, ErrorKind};
use std::path::PathBuf;

use reprise_engine::{DeviceKind, EngineError, KvFormat as Held};

use super::*;
use crate::ipc::{DeviceChoice, KvFormat};

/// Every variant, so that a new one without words is seen here.
fn all() -> Vec<UserError> {
    let file = || PathBuf::from("/home/someone/private/report.pdf");
    let name = || "report.pdf".to_owned();
    let denied = || IoError::from(ErrorKind::PermissionDenied);
    let chats = [
        ChatError::DiskFull { path: file() },
        ChatError::Damaged { path: file(), why: "not a database".into() },
        ChatError::TooNew { path: file(), found: 9, supported: 1 },
        ChatError::NotFound { what: "message", id: 7 },
        ChatError::InUse { id: 7 },
        ChatError::NotAChat { why: "no title".into() },
        ChatError::Io { path: file(), source: denied() },
    ];
    let documents = [
        DocumentError::Io { path: file(), source: denied() },
        DocumentError::TooLarge { name: name(), bytes: 300 << 20, limit: 200 << 20 },
        DocumentError::Encrypted { name: name() },
        DocumentError::Damaged { name: name(), why: "no trailer".into() },
        DocumentError::NoText { name: name(), pages: 12 },
        DocumentError::NotText { name: name(), why: "a picture".into() },
        DocumentError::GaveUp { name: name(), why: "60 s".into() },
        DocumentError::Cancelled,
    ];
    let models = [
        ModelError::NotFound { name: "demo".into(), looked: vec!["/somewhere".into()] },
        ModelError::Ambiguous { name: "folder".into(), choices: vec!["a.gguf".into(), "b.gguf".into()] },
        ModelError::NotAModel { path: file(), why: "no header".into() },
    ];
    let engine = [
        EngineError::Io { path: file(), source: denied() },
        EngineError::BadModelFile { path: file(), why: "cut short".into() },
        EngineError::UnsupportedModel { why: "mamba is not served".into() },
        EngineError::Tokenizer("no vocabulary".into()),
        EngineError::Template("line 3".into()),
        EngineError::OutOfMemory { need_bytes: 9 << 30, free_bytes: 4 << 30, context_that_fits: 8192 },
        EngineError::OutOfMemory { need_bytes: 9 << 30, free_bytes: 1 << 30, context_that_fits: 0 },
        EngineError::PromptTooLong { prompt_tokens: 5000, context_tokens: 4096 },
        EngineError::InvalidRequest("temperature".into()),
        EngineError::Cancelled,
        EngineError::Internal("no thread".into()),
        EngineError::Busy,
        EngineError::Stopped,
        EngineError::NoGpu { why: "no NVIDIA driver was found".into() },
        EngineError::KvNeedsGpu { format: Held::Q8_0 },
        EngineError::Gpu { why: "cuLaunchKernel: an illegal address".into() },
    ];
    let mut told: Vec<UserError> = Vec::new();
    told.extend(chats.into_iter().map(UserError::from));
    told.extend(documents.into_iter().map(UserError::from));
    told.extend(models.into_iter().map(UserError::from));
    told.extend(engine.into_iter().map(UserError::from));
    told
}

#[test]
fn every_error_says_what_happened_what_was_kept_and_what_to_do() {
    for error in all() {
        assert!(error.message.ends_with('.') && error.message.len() > 10, "{error:?}");
        assert!(!error.kept.is_empty(), "{error:?}");
        assert!(!error.advice.is_empty(), "{error:?}");
        assert!(!error.details.is_empty(), "{error:?}");
    }
}

#[test]
fn words_for_people_hold_no_jargon_and_no_foreign_path() {
    for error in all() {
        for word in ["KV", "SQLite", "ring", "LSE", "mutex", "template:", "os error"] {
            assert!(!error.message.split_whitespace().any(|said| said == word), "{word}: {error:?}");
        }
        assert!(!error.message.contains('/'), "a path belongs in the details: {error:?}");
    }
}

#[test]
fn a_prompt_that_does_not_fit_says_by_how_much() {
    let told = UserError::from(EngineError::PromptTooLong { prompt_tokens: 5000, context_tokens: 4096 });
    assert_eq!(told.advice, [Advice::Shorten { excess_tokens: 905 }, Advice::NewChat]);
    assert!(told.message.contains("5,000 tokens") && told.message.contains("4,096"), "{}", told.message);
}

#[test]
fn out_of_memory_offers_the_context_that_fits() {
    let fits = EngineError::OutOfMemory { need_bytes: 9 << 30, free_bytes: 4 << 30, context_that_fits: 8192 };
    let told = UserError::from(fits);
    assert_eq!(told.advice, [Advice::SetContext { tokens: 8192 }]);
    assert!(told.message.contains("9.0 GiB"), "{}", told.message);
    let not_even_weights = EngineError::OutOfMemory { need_bytes: 9, free_bytes: 1, context_that_fits: 0 };
    assert!(UserError::from(not_even_weights).advice.contains(&Advice::ChooseModel));
}

#[test]
fn a_gpu_that_is_full_or_gone_leaves_the_processor() {
    let processor = Advice::SetDevice { device: DeviceChoice::Cpu };
    let full = EngineError::OutOfMemory { need_bytes: 90 << 30, free_bytes: 79 << 30, context_that_fits: 65_536 };
    let told = UserError::from_engine(full, DeviceKind::Cuda, Held::Q8_0);
    assert_eq!(told.advice, [Advice::SetContext { tokens: 65_536 }, processor.clone()]);
    assert!(told.message.contains("not enough GPU memory: 90 GiB"), "{}", told.message);
    for gone in [EngineError::NoGpu { why: "no driver".into() }, EngineError::Gpu { why: "lost".into() }] {
        let told = UserError::from_engine(gone, DeviceKind::Cuda, Held::Bf16);
        assert!(told.advice.contains(&processor) && told.advice.contains(&Advice::Reload), "{told:?}");
    }
}

#[test]
fn eight_bits_are_offered_where_they_make_room() {
    let full = |context_that_fits| EngineError::OutOfMemory { need_bytes: 90, free_bytes: 79, context_that_fits };
    let offered = |on, kv, fits| {
        let told = UserError::from_engine(full(fits), on, kv);
        told.advice.contains(&Advice::SetKv { kv: KvFormat::Q8_0 })
    };
    assert!(offered(DeviceKind::Cuda, Held::Bf16, 65_536));
    // The processor has none, a cache of 8 bits is one already, and weights that do not fit fit no better.
    assert!(!offered(DeviceKind::Cpu, Held::Bf16, 65_536));
    assert!(!offered(DeviceKind::Cuda, Held::Fp8, 65_536));
    assert!(!offered(DeviceKind::Cuda, Held::Bf16, 0));
}

#[test]
fn details_hold_the_chain_once() {
    let error = DocumentError::Io { path: "/a/b.pdf".into(), source: IoError::other("the cable fell out") };
    let details = UserError::from(error).details;
    assert_eq!(details.matches("the cable fell out").count(), 1, "{details}");
    assert!(details.contains("/a/b.pdf"));
}

#[test]
fn counts_are_grouped() {
    assert_eq!([0, 999, 1000, 131_072, 1_234_567].map(grouped), ["0", "999", "1,000", "131,072", "1,234,567"]);
}

#[test]
fn sizes_read_well() {
    assert_eq!(size(12), "12 bytes");
    assert_eq!(size(1536), "1.5 KiB");
    assert_eq!(size(200 << 20), "200 MiB");
    assert_eq!(size(u64::MAX), "16777216 TiB");
}
