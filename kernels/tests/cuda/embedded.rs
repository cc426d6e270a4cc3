//! What the build embedded, without a device.

use mac_attention::cuda::FATBINS;

/// Sources of `kernels/cuda` with kernels that every decode step may run.
const DECODE: [&str; 8] =
    ["attend_d64", "attend_d96", "attend_d128", "attend_d256", "reuse_d64", "reuse_d96", "reuse_d128", "reuse_d256"];

/// Sources with prefill kernels; those of one architecture's own instructions are empty elsewhere.
const PREFILL: [&str; 8] = [
    "prefill_d64",
    "prefill_d96",
    "prefill_d128",
    "prefill_d256",
    "prefill_wgmma_d64",
    "prefill_wgmma_d96",
    "prefill_wgmma_d128",
    "prefill_wgmma_d256",
];

/// Whether there is anything to look at.
fn embedded() -> bool {
    let required = std::env::var("REPRISE_REQUIRE_CUDA_KERNELS").is_ok_and(|value| value == "1");
    assert!(!(required && FATBINS.is_empty()), "REPRISE_REQUIRE_CUDA_KERNELS is set, but no kernels are embedded");
    if FATBINS.is_empty() {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "no CUDA kernels are embedded: skipped");
    }
    !FATBINS.is_empty()
}

/// Architectures that the report of a source speaks of, in order.
fn architectures(report: &str) -> Vec<String> {
    let mut names: Vec<String> = report
        .split("for '")
        .skip(1)
        .filter_map(|rest| rest.split('\'').next())
        .filter(|name| name.starts_with("sm_"))
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn every_source_is_there_for_every_architecture() {
    if !embedded() {
        return;
    }
    let wanted = match option_env!("REPRISE_CUDA_ARCHS") {
        Some(list) => list.split([',', ' ']).filter(|arch| !arch.is_empty()).map(|arch| format!("sm_{arch}")).collect(),
        None => ["80", "86", "89", "90a", "100", "120"].map(|arch| format!("sm_{arch}")).to_vec(),
    };
    let mut wanted: Vec<String> = wanted;
    wanted.sort();
    for source in DECODE.iter().chain(&PREFILL).chain(&["prefill_combine", "ring_ops", "plain_sum", "expand_kv"]) {
        let fatbin = FATBINS.iter().find(|(name, ..)| name == source);
        let (_, code, report) = fatbin.unwrap_or_else(|| panic!("{source} is not embedded"));
        assert!(!code.is_empty(), "{source} is empty");
        assert_eq!(architectures(report), wanted, "{source}");
    }
}

#[test]
fn no_decode_kernel_spills_or_has_a_stack_frame() {
    if !embedded() {
        return;
    }
    for (name, _, report) in FATBINS.iter().filter(|(name, ..)| DECODE.contains(name)) {
        let frames: Vec<&str> = report.lines().filter(|line| line.contains("bytes stack frame")).collect();
        // Four element types × two group sizes on every architecture, and functions that were not inlined.
        assert!(frames.len() >= 8 * architectures(report).len(), "{name}: at least a line per kernel and architecture");
        for frame in frames {
            let line = frame.trim();
            assert!(
                line.starts_with("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"),
                "{name}: {line}"
            );
        }
    }
}
