//! The engine from the outside: caching, stopping, reuse, refusals.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::support::{Reply, alone, ask, assistant, demo, demo_gguf, device, long_text, options, reply, user};
use mac_attention::{Backoff, Forced, HeadOutcome, Paper, Pattern, RingLayout};
use reprise_engine::exec::{CandleExecutor, Executor};
use reprise_engine::model::named_shape;
use reprise_engine::weights::Precision;
use reprise_engine::{Attention, Device, Engine, EngineError, Event, Sampling, StopReason};

fn question(lines: usize) -> String {
    format!("<document name=\"log.txt\">\n{}</document>\n\nWhat does the log say?", long_text(lines))
}

fn paper(threshold: f32) -> Attention {
    Attention::Mac(Paper { threshold, min_context: 0, backoff: Backoff::Off })
}

/// What every reply must satisfy, whatever it says.
fn check(engine: &Engine, reply: &Reply) {
    let (info, summary) = (engine.info(), &reply.summary);
    let (first, last) = (reply.prefill.first().unwrap(), reply.prefill.last().unwrap());
    assert_eq!((first.done, first.cached, first.tokens_per_s), (summary.cached_tokens, summary.cached_tokens, None));
    assert_eq!((last.done, last.total), (summary.prompt_tokens, summary.prompt_tokens));
    assert!(reply.prefill.windows(2).all(|w| w[0].done < w[1].done && w[0].elapsed <= w[1].elapsed));
    assert_eq!(reply.tokens.iter().map(|t| t.id).collect::<Vec<_>>(), summary.token_ids);
    assert_eq!(summary.decode_tokens, reply.tokens.len());
    assert!(reply.tokens.iter().enumerate().all(|(i, t)| t.index == i));
    let steps: Vec<_> = reply.tokens.iter().filter_map(|t| t.step.as_ref()).collect();
    assert_eq!(steps.len(), summary.decode_steps);
    let expected = reply.tokens.len() - usize::from(summary.stop != StopReason::EndOfTurn);
    assert_eq!(summary.decode_steps, expected, "the last token is fed back only to find the end of the turn");
    for (i, step) in steps.iter().enumerate() {
        assert_eq!(step.context_tokens, summary.prompt_tokens + i + 1);
        assert_eq!(step.heads.len(), info.layers * info.num_q_heads);
        let token_bytes = 2 * info.layers * info.num_kv_heads * info.kv.row_bytes(info.head_dim);
        assert_eq!(step.kv_bytes_exact, (step.context_tokens * token_bytes) as u64);
        assert!(step.seconds > 0.0);
    }
    let sum: f64 = steps.iter().map(|s| s.seconds).sum();
    assert!((sum - summary.decode_s).abs() < 1e-9);
    assert!(summary.ttft_s >= summary.prefill_s);
    assert_eq!(summary.kv_bytes_read, steps.iter().map(|s| s.kv_bytes_read).sum::<u64>());
}

#[test]
fn reading_at_once_equals_reading_token_by_token() {
    let _alone = alone();
    let spec = named_shape("demo").unwrap();
    let new = || CandleExecutor::with_random_weights(spec.clone(), Precision::F32, 512, RingLayout::default(), 3);
    let ids: Vec<u32> = (0..150u32).map(|i| i * 2_654_435_761 % 8192).collect();
    let go_on = AtomicBool::new(false);
    let mut at_once = new().unwrap();
    let _ = at_once.prefill(&ids, &mut |_| ControlFlow::Continue(()), &go_on).unwrap();
    let mut in_parts = new().unwrap();
    for part in [&ids[..1], &ids[1..34], &ids[34..100]] {
        let _ = in_parts.prefill(part, &mut |_| ControlFlow::Continue(()), &go_on).unwrap();
    }
    for id in &ids[100..] {
        let _ = in_parts.decode(*id, &go_on).unwrap();
    }
    assert_eq!(at_once.kv_len(), in_parts.kv_len());
    let (at_once, in_parts) = (at_once.logits().unwrap(), in_parts.logits().unwrap());
    let norm = at_once.iter().map(|x| x * x).sum::<f32>().sqrt();
    let difference = at_once.iter().zip(in_parts).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
    // Sums in another order move a key or value across a bf16 rounding edge now and then.
    assert!(difference <= 2e-3 * norm, "{difference} of {norm}");
}

#[test]
fn reuse_that_never_matches_equals_exact() {
    let _alone = alone();
    let engine = demo();
    let exact = reply(&engine, ask(vec![user(&question(60))]));
    check(&engine, &exact);
    assert_eq!((exact.summary.attention, exact.summary.head_hit_rate), ("exact", Some(0.0)));
    let mut request = ask(vec![user(&question(60))]);
    request.attention = paper(1.0);
    request.audit_every = 2;
    let never = reply(&engine, request);
    check(&engine, &never);
    assert_eq!(never.summary.token_ids, exact.summary.token_ids);
    assert_eq!(never.summary.head_hit_rate, Some(0.0));
    assert!(never.tokens.iter().filter_map(|t| t.step.as_ref()).all(|s| s.reuse_active));
    let audit = never.summary.audit.unwrap();
    assert_eq!((audit.samples, audit.reused_samples), (never.summary.decode_steps / 2 * 4, 0));
    // The audit joins other parts of the text; over 8 bits each rounds its weights to f16, by 2.8e-4 in the mean square.
    let most = if engine.info().kv.is_8_bit() { 6e-4 } else { 1e-5 };
    assert!(audit.max_relative_error < most, "{audit:?}");
}

#[test]
fn dictated_hits_read_less_and_are_audited() {
    let _alone = alone();
    let engine = demo();
    let mut request = ask(vec![user(&question(200))]);
    request.max_tokens = Some(24);
    request.attention = Attention::Forced(Forced { pattern: Pattern::All, lag_tokens: 8, backoff: Backoff::Off });
    request.audit_every = 3;
    let got = reply(&engine, request);
    check(&engine, &got);
    let summary = &got.summary;
    assert_eq!(summary.attention, "forced");
    if summary.decode_steps > 0 {
        assert_eq!((summary.head_hit_rate, summary.group_hit_rate), (Some(1.0), Some(1.0)));
        assert!(summary.kv_bytes_read < summary.kv_bytes_exact / 2);
        assert!(summary.ring_bytes > 0);
        let steps = got.tokens.iter().filter_map(|t| t.step.as_ref());
        assert!(steps.flat_map(|s| &s.heads).all(|h| *h == HeadOutcome::Reused));
    }
    if let Some(audit) = summary.audit {
        assert_eq!(audit.samples, audit.reused_samples);
        assert!(audit.mean_relative_error.is_finite());
    }
}

#[test]
fn short_contexts_fall_back_to_exact_and_say_so() {
    let _alone = alone();
    let engine = demo();
    let mut request = ask(vec![user("Who are you?")]);
    request.attention = Attention::Mac(Paper { min_context: 2048, ..Paper::default() });
    let got = reply(&engine, request);
    assert!(got.summary.decode_steps > 0);
    assert_eq!(got.summary.exact_fallback_steps, got.summary.decode_steps);
    assert!(got.tokens.iter().filter_map(|t| t.step.as_ref()).all(|s| !s.reuse_active));
}

#[test]
fn later_turns_read_only_what_is_new() {
    let _alone = alone();
    let engine = demo();
    let first = vec![user(&question(80))];
    let one = reply(&engine, ask(first.clone()));
    check(&engine, &one);
    assert_eq!(one.summary.cached_tokens, 0);

    let mut second = first.clone();
    second.extend([assistant(&one.text()), user("And what else?")]);
    let prompt = engine.prepare(&second, false).unwrap();
    let cached = engine.cached_prefix(&prompt.ids);
    assert!(cached > one.summary.prompt_tokens, "the reply is cached too");
    let two = reply(&engine, ask(second.clone()));
    check(&engine, &two);
    assert_eq!(two.summary.cached_tokens, cached);
    let fresh = reply(&demo(), ask(second));
    // A GPU's products round differently for one row, for few and for a chunk (see
    // `cuda::reading_at_once_is_near_reading_token_by_token`), so what is cached there leaves other last bits.
    let the_same = |a: &Reply, b: &Reply| {
        if device() == Device::Cpu {
            assert_eq!(a.summary.token_ids, b.summary.token_ids);
        }
    };
    the_same(&fresh, &two);
    // Read in the same way, the same text gives the same answer everywhere.
    assert_eq!(reply(&demo(), ask(first.clone())).summary.token_ids, one.summary.token_ids);

    // The same again, and an edit: all but the last token is there, or all up to the change.
    let again = reply(&engine, ask(first.clone()));
    assert_eq!(again.summary.cached_tokens, again.summary.prompt_tokens - 1);
    the_same(&again, &one);
    let edited = vec![user(&(question(80) + " Be brief."))];
    let edit = reply(&engine, ask(edited.clone()));
    assert!(edit.summary.cached_tokens + 20 > again.summary.prompt_tokens);
    the_same(&reply(&demo(), ask(edited)), &edit);
}

#[test]
fn stop_takes_effect_at_once_while_reading() {
    let _alone = alone();
    let engine = demo();
    let mut request = ask(vec![user(&question(1200))]);
    request.attention = paper(0.45);
    let generation = engine.generate(request.clone()).unwrap();
    let mut done = 0;
    // Deep enough that chunks are dear.
    for event in &generation.events {
        match event {
            Event::Prefill(progress) => {
                done = progress.done;
                if done > 3000 {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(engine.generate(request), Err(EngineError::Busy)));
    let asked = Instant::now();
    generation.stop.stop();
    let summary = loop {
        match generation.events.recv().unwrap() {
            Event::Prefill(progress) => done = progress.done,
            Event::Done(summary) => break summary,
            other => panic!("{other:?}"),
        }
    };
    let waited = asked.elapsed();
    assert!(waited <= Duration::from_millis(250), "{waited:?}");
    assert_eq!((summary.stop, summary.decode_tokens), (StopReason::User, 0));
    assert!(summary.prompt_tokens > 18_000);
    // Whole chunks are kept.
    let prompt = engine.prepare(&[user(&question(1200))], false).unwrap();
    assert_eq!(engine.cached_prefix(&prompt.ids), done);
}

#[test]
fn stop_keeps_what_was_written() {
    let _alone = alone();
    let engine = demo();
    let mut request = ask(vec![user(&question(40))]);
    // Warm draws rarely end early.
    request.sampling = Sampling { temperature: 3.0, seed: 1, ..Sampling::default() };
    request.max_tokens = None;
    let generation = engine.generate(request).unwrap();
    let mut written = Vec::new();
    for event in &generation.events {
        match event {
            Event::Token(token) => {
                written.push(token.id);
                if written.len() == 5 {
                    generation.stop.stop();
                }
            }
            Event::Done(summary) => {
                assert!(matches!(summary.stop, StopReason::User | StopReason::EndOfTurn));
                assert_eq!(summary.token_ids, written);
            }
            Event::Prefill(_) => {}
            Event::Failed(e) => panic!("{e}"),
        }
    }
    assert!(!written.is_empty());
}

#[test]
fn a_dropped_listener_frees_the_engine() {
    let _alone = alone();
    let engine = demo();
    drop(engine.generate(ask(vec![user(&question(500))])).unwrap());
    let began = Instant::now();
    loop {
        match engine.generate(ask(vec![user("Hello")])) {
            Ok(generation) => {
                assert!(!crate::support::collect(generation).text().is_empty());
                break;
            }
            Err(EngineError::Busy) => std::thread::sleep(Duration::from_millis(5)),
            Err(e) => panic!("{e}"),
        }
        assert!(began.elapsed() < Duration::from_secs(5), "still busy");
    }
}

#[test]
fn closing_waits_until_the_model_is_gone() {
    let _alone = alone();
    let engine = Engine::load(options(demo_gguf()), |_| true).unwrap();
    let other = engine.clone();
    assert!(!engine.close(Duration::from_millis(20)), "another handle lives");
    let generation = other.generate(ask(vec![user("Hello")])).unwrap();
    assert!(!crate::support::collect(generation).text().is_empty());
    assert!(other.close(Duration::from_secs(5)));
}

#[test]
fn refusals_come_before_anything_is_read() {
    let _alone = alone();
    let mut small = options(demo_gguf());
    small.context_tokens = Some(256);
    let engine = Engine::load(small, |_| true).unwrap();
    let refused = engine.generate(ask(vec![user(&question(100))]));
    match refused {
        Err(EngineError::PromptTooLong { prompt_tokens, context_tokens: 256 }) => assert!(prompt_tokens > 256),
        other => panic!("{other:?}"),
    }
    for (request, word) in [
        (ask(vec![]), "without messages"),
        (ask(vec![assistant("hi")]), "user's"),
        (reprise_engine::Request { continue_reply: true, ..ask(vec![user("hi")]) }, "assistant's"),
        (reprise_engine::Request { attention: paper(f32::NAN), ..ask(vec![user("hi")]) }, "threshold"),
        (
            reprise_engine::Request {
                sampling: Sampling { temperature: f32::NAN, ..Sampling::default() },
                ..ask(vec![user("hi")])
            },
            "temperature",
        ),
    ] {
        match engine.generate(request) {
            Err(EngineError::InvalidRequest(why)) => assert!(why.contains(word), "{why}"),
            other => panic!("{word}: {other:?}"),
        }
    }
    assert_eq!(engine.cached_prefix(&[1, 2, 3]), 0);
    // A refusal leaves the engine free.
    let mut request = ask(vec![user("Hello")]);
    request.max_tokens = Some(0);
    let none = reply(&engine, request);
    assert_eq!((none.summary.stop, none.summary.decode_tokens), (StopReason::MaxTokens, 0));
}

#[test]
fn a_full_context_ends_the_reply() {
    let _alone = alone();
    let mut small = options(demo_gguf());
    small.context_tokens = Some(40);
    let engine = Engine::load(small, |_| true).unwrap();
    let mut request = ask(vec![user("Hello")]);
    request.sampling = Sampling { temperature: 5.0, seed: 3, ..Sampling::default() };
    request.max_tokens = None;
    let got = reply(&engine, request);
    if got.summary.stop == StopReason::ContextFull {
        // The last token needs no room: nothing follows it.
        assert_eq!(got.summary.prompt_tokens + got.summary.decode_tokens, 41);
    } else {
        assert_eq!(got.summary.stop, StopReason::EndOfTurn);
    }
}

#[test]
fn a_reply_can_be_continued() {
    let _alone = alone();
    let engine = demo();
    let whole = reply(&engine, ask(vec![user("Hello")])).text();
    let (begun, rest) = whole.split_at(whole.find(' ').unwrap());
    let mut request = ask(vec![user("Hello"), assistant(begun)]);
    request.continue_reply = true;
    assert_eq!(reply(&engine, request).text(), rest);
}

#[test]
fn loading_can_be_cancelled_and_shows_its_progress() {
    let _alone = alone();
    assert!(matches!(Engine::load(options(demo_gguf()), |_| false), Err(EngineError::Cancelled)));
    assert!(matches!(Engine::load(options(demo_gguf()), |share| share < 0.8), Err(EngineError::Cancelled)));
    let (sender, shares) = std::sync::mpsc::channel();
    let engine = Engine::load(options(demo_gguf()), move |share| sender.send(share).is_ok()).unwrap();
    let shares: Vec<f32> = shares.iter().collect();
    assert_eq!((shares[0], shares[shares.len() - 1]), (0.0, 1.0));
    assert!(shares.windows(2).all(|w| w[0] <= w[1]));
    let info = engine.info();
    assert_eq!((info.weights.as_str(), info.architecture.as_str()), ("Q8_0", "qwen3"));
    let kv_bytes = 32_768 * 8 * 2 * 2 * info.kv.row_bytes(64) as u64;
    assert!(info.memory.total() > info.memory.kv_bytes && info.memory.kv_bytes == kv_bytes);
    let mut huge = options(demo_gguf());
    huge.context_tokens = Some(1 << 20);
    assert!(matches!(Engine::load(huge, |_| true), Err(EngineError::InvalidRequest(_))));
}
