//! Compiles the CUDA kernels where nvcc is to be found (see the crate `cuda-fatbin`); else the crate has none.

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cuda_fatbin::embed("cuda")?;
    Ok(())
}
