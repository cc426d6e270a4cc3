//! How a prompt is cut into parts while it is read on the processor.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use candle_core::quantized::GgmlDType;
use mac_attention::RingLayout;
use reprise_engine::exec::{CandleExecutor, Executor};
use reprise_engine::model::spec_from_gguf;
use reprise_engine::weights::{GgufFile, Source, load_weights};
use serde_json::json;

use crate::support::{alone, demo_gguf};
use crate::tiny::{config, write_folder, write_gguf};

/// Tokens of a prompt; the ring holds them all, so that every one of them is read in the same way from part to part.
const PROMPT: usize = 150;

/// Logits, as bits, after the prompt read in parts that end at `ends` and after further tokens.
fn answer(executor: &mut CandleExecutor, ids: &[u32], ends: &[usize]) -> Vec<Vec<u32>> {
    let go_on = AtomicBool::new(false);
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect();
    executor.truncate(0);
    for &end in ends {
        let part = &ids[executor.kv_len()..end];
        assert!(executor.prefill(part, &mut |_| ControlFlow::Continue(()), &go_on).unwrap().is_continue());
    }
    let mut all = vec![bits(executor.logits().unwrap())];
    for id in &ids[PROMPT..] {
        assert!(executor.decode(*id, &go_on).unwrap().is_continue());
        all.push(bits(executor.logits().unwrap()));
    }
    all
}

fn check(file: GgufFile, name: &str) {
    let spec = spec_from_gguf(&file).unwrap();
    let weights = load_weights(&Source::Gguf(file), &spec, &mut |_| true).unwrap();
    let ids: Vec<u32> = (0..(PROMPT + 3) as u32).map(|i| (i * 97 + 13) % spec.vocab as u32).collect();
    let ring = RingLayout { slots: PROMPT + 3, band: 40 };
    let mut executor = CandleExecutor::new(spec, weights, 256, ring).unwrap();
    let at_once = answer(&mut executor, &ids, &[PROMPT]);
    assert!(at_once.iter().flatten().all(|x| f32::from_bits(*x).is_finite()));
    let by_threes: Vec<usize> = (3..=PROMPT).step_by(3).collect();
    // The second is what asking again for the same prompt reads.
    for ends in [&[1, PROMPT][..], &[PROMPT - 1, PROMPT], &[64, 128, PROMPT], &[5, 38, 39, 71, 104, PROMPT], &by_threes]
    {
        assert!(answer(&mut executor, &ids, ends) == at_once, "{name}: {ends:?}");
    }
}

#[test]
fn the_demo_model_answers_the_same_however_it_reads() {
    let _alone = alone();
    check(GgufFile::open(&demo_gguf()).unwrap(), "the demo model");
}

#[test]
fn weights_of_every_type_give_the_same_answer_however_they_read() {
    use GgmlDType::{F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let _alone = alone();
    let mut config = config("llama");
    config["intermediate_size"] = json!(512);
    let folder = tempfile::tempdir().unwrap();
    let spec = write_folder(folder.path(), &config);
    // Logits from the bits of the last layer: a quantised head would round most differences away.
    let exact = |name: &str| name.contains("norm") || name == "output.weight";
    for dtype in [F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
        let path = write_gguf(folder.path(), &spec, &|name| if exact(name) { F32 } else { dtype });
        check(GgufFile::open(&path).unwrap(), &format!("{dtype:?}"));
    }
}
