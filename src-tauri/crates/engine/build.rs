//! Tells the golden tests whether the demo model's whole-precision weights are at hand, so that their absence shows as
//! an ignored test and not as a pass.

use std::path::Path;

fn main() {
    let weights = Path::new("../../../../shared/demo-model/model.safetensors");
    println!("cargo::rustc-check-cfg=cfg(demo_safetensors)");
    println!("cargo::rerun-if-changed={}", weights.display());
    if weights.is_file() {
        println!("cargo::rustc-cfg=demo_safetensors");
    }
}
