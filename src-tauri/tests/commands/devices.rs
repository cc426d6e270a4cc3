//! Where the model lives: the setting, the look for a GPU, and loading again.

use reprise_app_lib::ipc::{Advice, DeviceChoice, DeviceKind, GpuView, KvFormat, ModelStatus, Settings};
use reprise_app_lib::{chats, device, model, settings};
use serde_json::json;

use crate::desk::Bench;
use crate::page::Page;

/// Loads the model again on that device; how it ended.
fn moved(bench: &Bench, device: DeviceChoice) -> ModelStatus {
    settings::set(&bench.app, Settings { device, ..bench.app.settings() }).unwrap();
    model::reload(&bench.app).unwrap();
    bench.loaded()
}

#[test]
fn the_page_hears_what_the_look_for_a_gpu_found() {
    let bench = Bench::new();
    let found = Page::open(&bench.app).ok("gpu_look", json!({}));
    assert_eq!(found, serde_json::to_value(device::look()).unwrap());
    assert!(["missing", "unusable", "usable"].contains(&found["kind"].as_str().unwrap()), "{found}");
}

#[test]
fn the_model_moves_to_the_device_that_is_set_and_chats_stay() {
    let bench = Bench::with_model(512);
    let chat = bench.chat();
    let ModelStatus::Ready { info: first } = bench.loaded() else { panic!("{:?}", bench.loaded()) };
    // Left to the app: a GPU that can serve takes the demo model, and where there is none the reason is told.
    let usable = matches!(device::look(), GpuView::Usable { .. });
    assert_eq!(first.device_kind, if usable { DeviceKind::Gpu } else { DeviceKind::Cpu });
    assert_eq!((first.fallback.is_none(), first.gpu_memory.is_some()), (usable, usable));

    let ModelStatus::Ready { info } = moved(&bench, DeviceChoice::Cpu) else { panic!("the processor serves always") };
    assert_eq!((info.device_kind, &info.fallback, info.gpu_memory), (DeviceKind::Cpu, &None, None));
    assert_eq!((info.device_name.as_str(), info.context_tokens), ("CPU", 512));
    assert!(info.kernels.contains("thread"), "{}", info.kernels);
    assert!(info.context_room_bytes >= info.kv_bytes, "{info:?}");

    match moved(&bench, DeviceChoice::Gpu) {
        ModelStatus::Ready { info } => {
            assert!(usable, "{info:?}");
            let memory = info.gpu_memory.expect("measured");
            assert!(
                memory.used_bytes > 0.0 && memory.used_bytes + memory.free_bytes <= memory.total_bytes,
                "{memory:?}"
            );
            assert!(info.kernels.contains("CUDA"), "{}", info.kernels);
        }
        // Never on the processor instead, which was not asked for.
        ModelStatus::Failed { error } => {
            assert!(!usable, "{error:?}");
            assert!(error.advice.contains(&Advice::SetDevice { device: DeviceChoice::Cpu }), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
    assert!(chats::open(&bench.app, chat).is_ok());
    assert_eq!(settings::read(bench.app.chats()).device, DeviceChoice::Gpu);
}

#[test]
fn a_wish_for_8_bits_is_kept_and_the_processor_serves_in_16() {
    let bench = Bench::with_model(512);
    settings::set(&bench.app, Settings { kv: KvFormat::Q8_0, ..bench.app.settings() }).unwrap();
    let ModelStatus::Ready { info } = moved(&bench, DeviceChoice::Cpu) else { panic!("{:?}", bench.loaded()) };
    assert_eq!((info.kv, info.kv_wished), (KvFormat::Bf16, KvFormat::Q8_0));
    let told = info.fallback.expect("told");
    assert!(told.message.contains("context memory is 16-bit"), "{told:?}");
    assert!(!told.advice.is_empty(), "{told:?}");
    assert_eq!(settings::read(bench.app.chats()).kv, KvFormat::Q8_0);

    if matches!(device::look(), GpuView::Usable { .. }) {
        let ModelStatus::Ready { info } = moved(&bench, DeviceChoice::Gpu) else { panic!("{:?}", bench.loaded()) };
        assert_eq!((info.device_kind, info.kv, &info.fallback), (DeviceKind::Gpu, KvFormat::Q8_0, &None));
        let cost = info.context_costs.iter().find(|cost| (cost.device, cost.kv) == (DeviceKind::Gpu, KvFormat::Q8_0));
        let kv_bytes = cost.expect("listed").token_bytes * 512.0;
        assert!((kv_bytes - info.kv_bytes).abs() < 0.5, "{info:?}");
    }

    // Chosen from the start, 16 bits are nothing to be told of.
    settings::set(&bench.app, Settings { kv: KvFormat::Bf16, ..bench.app.settings() }).unwrap();
    let ModelStatus::Ready { info } = moved(&bench, DeviceChoice::Cpu) else { panic!("{:?}", bench.loaded()) };
    assert_eq!((info.kv, info.kv_wished, &info.fallback), (KvFormat::Bf16, KvFormat::Bf16, &None));
}

#[test]
fn the_card_has_the_cost_of_a_context_for_every_device_and_format() {
    let bench = Bench::with_model(512);
    let ModelStatus::Ready { info } = moved(&bench, DeviceChoice::Cpu) else { panic!("{:?}", bench.loaded()) };
    let listed: Vec<_> = info.context_costs.iter().map(|cost| (cost.device, cost.kv)).collect();
    let on_gpu = [KvFormat::Bf16, KvFormat::Q8_0, KvFormat::Fp8].map(|kv| (DeviceKind::Gpu, kv));
    assert_eq!(listed, [&[(DeviceKind::Cpu, KvFormat::Bf16)], &on_gpu[..]].concat());
    let [here, sixteen, blocks, floats] = &info.context_costs[..] else { panic!("{listed:?}") };
    assert!((here.token_bytes * 512.0 - info.kv_bytes).abs() < 0.5, "{here:?}");
    let whole = info.fixed_bytes + info.kv_bytes + here.scratch_bytes;
    let told = info.weights_bytes + info.ring_bytes + info.scratch_bytes + info.kv_bytes;
    assert!((whole - told).abs() < 0.5, "{info:?}");
    assert!(floats.token_bytes < blocks.token_bytes && blocks.token_bytes < 0.54 * sixteen.token_bytes);
    // One layer at a time is expanded to be read.
    let layer = sixteen.token_bytes / f64::from(info.layers);
    assert!((blocks.scratch_token_bytes - layer).abs() < 0.5 && sixteen.scratch_token_bytes == 0.0, "{blocks:?}");
}

#[test]
fn a_context_beyond_the_model_is_an_error_with_advice() {
    let bench = Bench::with_model(512);
    let wanted = Settings { context_tokens: Some(10_000_000), device: DeviceChoice::Cpu, ..bench.app.settings() };
    settings::set(&bench.app, wanted).unwrap();
    model::reload(&bench.app).unwrap();
    let ModelStatus::Failed { error } = bench.loaded() else { panic!("{:?}", bench.loaded()) };
    assert!(error.message.contains("10000000"), "{error:?}");
    assert!(!error.advice.is_empty());
}
