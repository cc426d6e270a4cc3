//! Compiles the CUDA kernels where nvcc is to be found (see the crate `cuda-fatbin`); else the crate has none. And tells
//! the golden tests whether the demo model's whole-precision weights are at hand, so that their absence shows as an ignored
//! test and not as a pass.

use std::path::Path;

#[cfg_attr(not(feature = "cuda"), expect(clippy::unnecessary_wraps, reason = "only compiling kernels can fail"))]
fn main() -> Result<(), String> {
    let weights = Path::new("../../../../shared/demo-model/model.safetensors");
    println!("cargo::rustc-check-cfg=cfg(demo_safetensors)");
    println!("cargo::rerun-if-changed={}", weights.display());
    if weights.is_file() {
        println!("cargo::rustc-cfg=demo_safetensors");
    }
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cuda_fatbin::embed_with("cuda", &["../../../kernels/cuda/copy.cuh", "../../../kernels/cuda/kv_pack.cuh"])?;
    Ok(())
}
