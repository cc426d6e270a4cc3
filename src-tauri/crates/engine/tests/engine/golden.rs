//! The demo model against a float32 `NumPy` pass that shares no code with this crate (`fixtures/golden.json`).

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use crate::support::{alone, ask, demo, reply, user};
use mac_attention::RingLayout;
use reprise_engine::exec::{CandleExecutor, Executor};
use reprise_engine::model::spec_from_config;
use reprise_engine::text::TextModel;
use reprise_engine::weights::{Precision, SafetensorsFiles, Source, load_weights};
use reprise_engine::{Engine, StopReason};
use serde_json::Value;

struct Case {
    user: String,
    prompt_ids: Vec<u32>,
    /// (token, logit) after the prompt, best first.
    top: Vec<(u32, f32)>,
    greedy_ids: Vec<u32>,
    greedy_text: String,
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn cases() -> Vec<Case> {
    let json: Value = serde_json::from_str(include_str!("../fixtures/golden.json")).unwrap();
    let case = |c: &Value| Case {
        user: c["user"].as_str().unwrap().into(),
        prompt_ids: ids(&c["prompt_ids"]),
        top: c["first_top8"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| (p[0].as_u64().unwrap() as u32, p[1].as_f64().unwrap() as f32))
            .collect(),
        greedy_ids: ids(&c["greedy_ids"]),
        greedy_text: c["greedy_text"].as_str().unwrap().into(),
    };
    json["cases"].as_array().unwrap().iter().map(case).collect()
}

#[test]
fn gguf_gives_the_golden_prompts_and_answers() {
    let _alone = alone();
    agrees(&demo());
}

/// Greedy tokens up to the first that differs from the golden ones, over all answers, and golden tokens in all.
#[cfg(feature = "cuda")]
pub(crate) fn agreement(engine: &Engine) -> (usize, usize) {
    let (mut together, mut all) = (0, 0);
    for case in cases() {
        let mut request = ask(vec![user(&case.user)]);
        request.max_tokens = Some(case.greedy_ids.len());
        let got = reply(engine, request).summary.token_ids;
        let same = got.iter().zip(&case.greedy_ids).take_while(|(got, golden)| got == golden).count();
        // The stop token is in the golden ids alone.
        let ended = same == got.len() && case.greedy_ids.get(same) == Some(&2);
        together += same + usize::from(ended);
        all += case.greedy_ids.len();
    }
    (together, all)
}

/// Greedy answers, token for token.
pub(crate) fn agrees(engine: &Engine) {
    for case in cases() {
        let prompt = engine.prepare(&[user(&case.user)], false).unwrap();
        assert_eq!(prompt.ids, case.prompt_ids);
        let mut request = ask(vec![user(&case.user)]);
        request.max_tokens = Some(case.greedy_ids.len());
        let got = reply(engine, request);
        // The stop token is in the golden ids and in nobody's answer.
        let ended = case.greedy_ids.last().is_some_and(|id| *id == 2);
        let written = if ended { &case.greedy_ids[..case.greedy_ids.len() - 1] } else { &case.greedy_ids[..] };
        assert_eq!(got.summary.token_ids, written);
        assert_eq!(got.text(), case.greedy_text);
        assert_eq!(got.summary.stop, if ended { StopReason::EndOfTurn } else { StopReason::MaxTokens });
    }
}

fn shared_demo() -> PathBuf {
    crate::support::root().join("../shared/demo-model")
}

/// Whole-precision weights, which are not in the repository. Absent: the test says so and counts as ignored.
#[test]
#[cfg_attr(not(demo_safetensors), ignore = "no model.safetensors in ../shared/demo-model")]
fn safetensors_in_f32_give_the_golden_logits() {
    let _alone = alone();
    let folder = shared_demo();
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let spec = spec_from_config(&config).unwrap();
    let text = TextModel::from_folder(&folder).unwrap();
    let source = Source::Safetensors {
        files: SafetensorsFiles::open(&folder).unwrap(),
        dtype: Precision::F32.dtype(spec.parameters()),
    };
    let weights = load_weights(&source, &spec, &mut |_| true).unwrap();
    let mut executor = CandleExecutor::new(spec, weights, 1024, RingLayout::default()).unwrap();
    let go_on = AtomicBool::new(false);
    for case in cases() {
        let prompt = text.prepare(&[user(&case.user)], false).unwrap();
        assert_eq!(prompt.ids, case.prompt_ids);
        executor.truncate(0);
        let end = executor.prefill(&prompt.ids, &mut |_| ControlFlow::Continue(()), &go_on).unwrap();
        assert!(end.is_continue());
        for (id, want) in &case.top {
            let got = executor.logits().unwrap()[*id as usize];
            assert!((got - want).abs() <= 0.02 * want.abs(), "token {id}: {got}, golden {want}");
        }
        let mut greedy = Vec::new();
        while greedy.len() < case.greedy_ids.len() {
            let logits = executor.logits().unwrap();
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
            greedy.push(best);
            assert!(executor.decode(best, &go_on).unwrap().is_continue());
        }
        assert_eq!(greedy, case.greedy_ids);
    }
}
