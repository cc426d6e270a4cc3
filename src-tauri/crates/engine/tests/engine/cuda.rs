//! The GPU against the processor.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::Tensor;
use candle_core::quantized::GgmlDType;
use mac_attention::RingLayout;
use reprise_engine::exec::{CandleExecutor, CudaExecutor, CudaSetup, Executor};
use reprise_engine::model::{ModelSpec, spec_from_gguf};
use reprise_engine::weights::{GgufFile, Precision, SafetensorsFiles, Source, load_weights};
use reprise_engine::{Device, Engine, EngineError, KvFormat, LoadOptions, Sampling};
use serde_json::{Value, json};

use crate::support::{alone, ask, demo_gguf, options, reply, user};
use crate::tiny::{PROMPT, config, ours, relative_error, tensors, tokens, write_folder, write_gguf};

/// Whether there is a GPU to test on. Where one must be, its absence fails.
pub(crate) fn gpu() -> bool {
    match CudaSetup::open() {
        Ok(_) => true,
        Err(error) => {
            assert!(std::env::var("REPRISE_GPU_TESTS").as_deref() != Ok("required"), "{error}");
            eprintln!("not tested here: {error}");
            false
        }
    }
}

const RING: RingLayout = RingLayout { slots: 32, band: 16 };

fn source(folder: &Path, spec: &ModelSpec, precision: Precision) -> Source {
    let files = SafetensorsFiles::open(folder).unwrap();
    Source::Safetensors { files, dtype: precision.dtype(spec.parameters()) }
}

fn on_cpu(source: &Source, spec: &ModelSpec) -> CandleExecutor {
    let weights = load_weights(source, spec, &mut |_| true).unwrap();
    CandleExecutor::new(spec.clone(), weights, 128, RING).unwrap()
}

fn on_gpu(source: &Source, spec: &ModelSpec) -> CudaExecutor {
    with_cache(source, spec, KvFormat::Bf16)
}

fn with_cache(source: &Source, spec: &ModelSpec, format: KvFormat) -> CudaExecutor {
    CudaExecutor::load(source, spec, 128, RING, format).unwrap()
}

/// Logits after every token, token by token.
fn step_by_step(executor: &mut dyn Executor) -> Vec<Vec<f32>> {
    let go_on = AtomicBool::new(false);
    let mut all = Vec::new();
    for id in tokens() {
        assert!(executor.decode(id, &go_on).unwrap().is_continue());
        all.push(executor.logits().unwrap().to_vec());
    }
    all
}

fn worst(got: &[Vec<f32>], want: &[Vec<f32>]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(got, want)| relative_error(got, want)).fold(0.0, |worst, error| {
        // `max` drops NaN, and a broken kernel would look perfect.
        if error.is_finite() { f64::max(worst, error) } else { f64::INFINITY }
    })
}

fn families() -> Vec<Value> {
    let mut tied = config("qwen3");
    tied["tie_word_embeddings"] = json!(true);
    let mut scaled = config("llama");
    scaled["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    vec![config("qwen3"), tied, config("qwen2"), config("mistral"), config("llama"), scaled]
}

fn in_every_family(check: impl Fn(&str, &Source, &ModelSpec)) {
    for config in families() {
        let folder = tempfile::tempdir().unwrap();
        let spec = write_folder(folder.path(), &config);
        check(config["model_type"].as_str().unwrap(), &source(folder.path(), &spec, Precision::F32), &spec);
    }
}

/// Both round K and V to bf16; the GPU rounds the rotated query as well, by up to 2⁻⁹ as K is. That moves scores, and so
/// the attention output, by as much again: the bound of the processor's own test (10⁻³) twice, and sums in another order.
#[test]
fn steps_agree_with_the_processor_in_every_family() {
    let _alone = alone();
    if !gpu() {
        return;
    }
    in_every_family(|family, source, spec| {
        let want = step_by_step(&mut on_cpu(source, spec));
        let error = worst(&step_by_step(&mut on_gpu(source, spec)), &want);
        eprintln!("{family}: {error:.2e}");
        assert!(error <= 2e-3, "{family}: {error}");
    });
}

/// Products of prefill take bf16 inputs: each rounds by at most 2⁻⁹ and by 0.4 · 2⁻⁸ in the mean square, four of them in a
/// layer. Independent errors of 12 products add up to √12 · 1.6·10⁻³ = 5.4·10⁻³; twice that is allowed.
#[test]
fn reading_agrees_with_the_processor_in_every_family() {
    let _alone = alone();
    if !gpu() {
        return;
    }
    in_every_family(|family, source, spec| {
        let error = worst(&ours(&mut on_gpu(source, spec)), &ours(&mut on_cpu(source, spec)));
        eprintln!("{family}: {error:.2e}");
        assert!(error <= 1.1e-2, "{family}: {error}");
    });
}

/// The type of a tensor by its name.
type TypeOf = fn(&str) -> GgmlDType;

/// Weights of every type against the processor's product of the same file. For block types both round inputs to 8 bits of a
/// block's largest, each in its own way: about 0.5 % of the norm for each of 13 products, on two devices √26 · 0.5 % =
/// 2.5 % in the mean; twice that is allowed to the worst of 44 steps.
#[test]
fn every_weight_type_agrees_with_the_processor() {
    use GgmlDType::{BF16, F16, F32, Q2K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let _alone = alone();
    if !gpu() {
        return;
    }
    let mut config = config("llama");
    config["intermediate_size"] = json!(512);
    let cases: [(&str, TypeOf, f64); 13] = [
        ("F32", |_| F32, 2e-3),
        ("F16", |_| F16, 5e-3),
        ("BF16", |_| BF16, 5e-3),
        ("Q8_0", |_| Q8_0, 5e-2),
        ("Q4_0", |_| Q4_0, 5e-2),
        ("Q4_1", |_| Q4_1, 5e-2),
        ("Q5_0", |_| Q5_0, 5e-2),
        ("Q5_1", |_| Q5_1, 5e-2),
        ("Q2_K, held as bf16", |_| Q2K, 5e-2),
        ("Q4_K", |_| Q4K, 5e-2),
        ("Q5_K", |_| Q5K, 5e-2),
        ("Q6_K", |_| Q6K, 5e-2),
        ("mixed", |name| if name.contains("attn_v") || name.contains("ffn_up") { Q6K } else { Q4K }, 5e-2),
    ];
    for (name, type_of, bound) in cases {
        let folder = tempfile::tempdir().unwrap();
        let spec = write_folder(folder.path(), &config);
        let norms_stay = |name: &str| if name.contains("norm") { F32 } else { type_of(name) };
        let path = write_gguf(folder.path(), &spec, &norms_stay);
        let file = GgufFile::open(&path).unwrap();
        let spec = spec_from_gguf(&file).unwrap();
        let source = Source::Gguf(file);
        let want = step_by_step(&mut on_cpu(&source, &spec));
        let mut executor = on_gpu(&source, &spec);
        let error = worst(&step_by_step(&mut executor), &want);
        eprintln!("{name}: {error:.2e}");
        assert!(error <= bound, "{name}: {error}");
        let told = executor.capacity().device.contains("Q2_K weights as BF16");
        assert_eq!(told, name.starts_with("Q2_K"), "{}", executor.capacity().device);
    }
}

/// The bound of [`reading_agrees_with_the_processor_in_every_family`] for f32 weights: here both sides are the GPU's.
#[test]
fn reading_at_once_is_near_reading_token_by_token() {
    let _alone = alone();
    if !gpu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let spec = write_folder(folder.path(), &config("qwen3"));
    let source = source(folder.path(), &spec, Precision::F32);
    let error = worst(&ours(&mut on_gpu(&source, &spec)), &step_by_step(&mut on_gpu(&source, &spec))[PROMPT - 1..]);
    eprintln!("{error:.2e}");
    assert!(error <= 1.1e-2, "{error}");
}

/// What rounding K and V to 8 bits may add to logits. Of normal numbers in blocks of 32 the largest is about 2.2 deviations, so
/// `q8_0` is off by 2.2 / 127 / √12 = 0.5 % in the mean square; e4m3, with 3 bits behind the first, by 2.6 %. Both K (which
/// moves scores, and weights by as much) and V do so in each of 3 layers: √6 · that if attention were all of the residual
/// stream, 1.2 and 6.4 %. Twice that is allowed to the worst of 44 steps.
fn rounding(format: KvFormat) -> f64 {
    match format {
        KvFormat::Bf16 => 0.0,
        KvFormat::Q8_0 => 2.5e-2,
        KvFormat::Fp8 => 0.13,
    }
}

#[test]
fn caches_of_8_bits_stay_near_bf16_in_every_family() {
    let _alone = alone();
    if !gpu() {
        return;
    }
    in_every_family(|family, source, spec| {
        let want = step_by_step(&mut on_gpu(source, spec));
        for format in [KvFormat::Q8_0, KvFormat::Fp8] {
            let mut executor = with_cache(source, spec, format);
            assert_eq!(executor.capacity().kv, format);
            let steps = worst(&step_by_step(&mut executor), &want);
            executor.truncate(0);
            // Reading rounds its products' inputs as well, and where that crosses an edge of the cache's steps, a whole one.
            let reading = worst(&ours(&mut executor), &want[PROMPT - 1..]);
            eprintln!("{family}, {format}: steps {steps:.2e}, reading {reading:.2e}");
            assert!(steps > 1e-4, "{format} rounded nothing");
            assert!(steps <= rounding(format) && reading <= rounding(format) + 1.1e-2, "{format}: {steps}, {reading}");
        }
    });
}

/// A device's draws are its own, but they follow the seed, and one candidate leaves no choice.
#[test]
fn draws_follow_the_seed() {
    let _alone = alone();
    if !gpu() {
        return;
    }
    let engine = demo_on(Device::Cuda).unwrap();
    let draw = |sampling: Sampling| {
        let mut request = ask(vec![user("Tell me about the harbor, the signal and the archive.")]);
        request.sampling = sampling;
        reply(&engine, request).summary.token_ids
    };
    let warm = Sampling { temperature: 2.0, seed: 5, ..Sampling::default() };
    assert_eq!(draw(warm.clone()), draw(warm.clone()));
    assert_ne!(draw(warm.clone()), draw(Sampling { seed: 6, ..warm.clone() }));
    assert_eq!(draw(Sampling { top_k: 1, ..warm.clone() }), draw(Sampling::default()));
    assert_eq!(draw(Sampling { top_p: 1e-6, ..warm.clone() }), draw(Sampling::default()));
    assert_ne!(draw(Sampling { repeat_penalty: 5.0, ..Sampling::default() }), draw(Sampling::default()));
}

#[test]
fn a_cut_chat_goes_on_as_a_fresh_one() {
    let _alone = alone();
    if !gpu() {
        return;
    }
    for format in KvFormat::ALL {
        check_cut(format);
    }
}

fn check_cut(format: KvFormat) {
    let folder = tempfile::tempdir().unwrap();
    let spec = write_folder(folder.path(), &config("qwen3"));
    let source = source(folder.path(), &spec, Precision::F32);
    let (ids, go_on) = (tokens(), AtomicBool::new(false));
    let read = |executor: &mut CudaExecutor, ids: &[u32]| {
        let end = executor.prefill(ids, &mut |_| ControlFlow::Continue(()), &go_on).unwrap();
        assert!(end.is_continue());
        executor.logits().unwrap().to_vec()
    };
    let mut cut = with_cache(&source, &spec, format);
    read(&mut cut, &ids);
    cut.truncate(17);
    assert_eq!(cut.kv_len(), 17);
    let got = read(&mut cut, &[5, 6, 7]);
    let mut fresh = with_cache(&source, &spec, format);
    let want = read(&mut fresh, &[&ids[..17], &[5, 6, 7]].concat());
    let error = relative_error(&got, &want);
    // Chunks of another length round in another order, and 8 bits take a step more or less where they do.
    assert!(error <= 5e-3 + rounding(format) / 2.0, "{format}: {error}");
}

/// Whoever drives an executor counts the tokens himself: a step whose logits are no numbers is made all the same, on either
/// device, and the choice that follows is refused.
#[test]
fn a_step_without_finite_logits_is_made_and_its_choice_refused() {
    const DAMAGED: u32 = 7;
    let _alone = alone();
    if !gpu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let spec = write_folder(folder.path(), &config("qwen3"));
    let (mut all, name) = (tensors(&spec), "model.embed_tokens.weight");
    let mut rows = all[name].to_vec2::<f32>().unwrap();
    rows[DAMAGED as usize].fill(f32::NAN);
    all.insert(name.into(), Tensor::new(rows, &candle_core::Device::Cpu).unwrap());
    candle_core::safetensors::save(&all, folder.path().join("model.safetensors")).unwrap();
    let source = source(folder.path(), &spec, Precision::F32);
    let go_on = AtomicBool::new(false);
    let executors: [Box<dyn Executor>; 2] = [Box::new(on_cpu(&source, &spec)), Box::new(on_gpu(&source, &spec))];
    for mut executor in executors {
        executor.set_sampling(&Sampling::default()).unwrap();
        assert!(executor.prefill(&[1, 2, 3], &mut |_| ControlFlow::Continue(()), &go_on).unwrap().is_continue());
        executor.choose().unwrap();
        assert!(executor.decode(DAMAGED, &go_on).unwrap().is_continue());
        assert_eq!(executor.kv_len(), 4);
        for _ in 0..2 {
            assert!(matches!(executor.choose(), Err(EngineError::Internal(_))));
        }
        executor.truncate(3);
        assert!(executor.decode(8, &go_on).unwrap().is_continue());
        assert_eq!(executor.kv_len(), 4);
        executor.choose().unwrap();
    }
}

fn demo_on(device: Device) -> Result<Engine, EngineError> {
    demo_with(device, KvFormat::Bf16)
}

fn demo_with(device: Device, kv: KvFormat) -> Result<Engine, EngineError> {
    Engine::load(LoadOptions { device, kv, ..options(demo_gguf()) }, |_| true)
}

/// Greedy answers over an 8-bit cache may turn where two tokens are nearly as likely. How far they go together is printed.
#[test]
fn golden_answers_over_8_bit_caches() {
    let _alone = alone();
    if !gpu() {
        return;
    }
    for format in [KvFormat::Q8_0, KvFormat::Fp8] {
        let engine = demo_with(Device::Cuda, format).unwrap();
        let info = engine.info();
        assert_eq!(info.kv, format);
        assert_eq!(info.memory.kv_bytes, info.context_tokens as u64 * 8 * 4 * format.row_bytes(64) as u64);
        let (together, all) = crate::golden::agreement(&engine);
        println!("{format}: {together} of {all} golden tokens before the first difference of each answer");
        assert!(together * 2 > all, "{format}: {together} of {all}");
    }
}

/// Never in silence: refused where the processor was asked for, told where it came to that.
#[test]
fn the_processor_has_no_8_bit_cache() {
    let _alone = alone();
    for format in [KvFormat::Q8_0, KvFormat::Fp8] {
        match demo_with(Device::Cpu, format) {
            Err(EngineError::KvNeedsGpu { format: told }) => assert_eq!(told, format),
            other => panic!("{other:?}"),
        }
        let engine = demo_with(Device::Auto, format).unwrap();
        let info = engine.info();
        if gpu() {
            assert_eq!((info.kv, &info.fallback), (format, &None));
        } else {
            let why = info.fallback.as_ref().unwrap();
            assert!(info.kv == KvFormat::Bf16 && why.contains(format.name()), "{why}");
        }
    }
}

#[test]
fn the_demo_model_gives_the_golden_answers() {
    let _alone = alone();
    if !gpu() {
        return;
    }
    let engine = demo_on(Device::Cuda).unwrap();
    eprintln!("{}", engine.info().device);
    crate::golden::agrees(&engine);
}

/// `Auto` never fails for want of a GPU and says which device it became.
#[test]
fn auto_takes_what_is_there() {
    let _alone = alone();
    let engine = demo_on(Device::Auto).unwrap();
    let info = engine.info();
    if gpu() {
        assert_eq!((info.device_kind, &info.fallback), (reprise_engine::DeviceKind::Cuda, &None));
        let memory = info.device_memory.unwrap();
        assert!(memory.used_bytes > info.memory.weights_bytes && memory.total_bytes > memory.free_bytes);
    } else {
        assert_eq!(info.device_kind, reprise_engine::DeviceKind::Cpu);
        assert!(info.fallback.as_ref().is_some_and(|why| why.contains("GPU")), "{:?}", info.fallback);
        assert!(matches!(demo_on(Device::Cuda), Err(EngineError::NoGpu { .. })));
    }
}
