//! Where the CUDA compiler is.

use std::env;
use std::path::{Path, PathBuf};

/// Where `.ci/nvcc.sh` unpacks the compiler, below the build folder.
const FETCHED: &str = "nvcc/nvidia/cu13/bin/nvcc";

/// `NVCC`; else the compiler fetched into a folder above `out` (the target folder); else the first in `PATH`; else the
/// toolkit's usual place. An empty `NVCC` means: build without.
pub fn find_nvcc(out: &Path) -> Option<PathBuf> {
    if let Some(named) = env::var_os("NVCC") {
        return (!named.is_empty()).then(|| PathBuf::from(named));
    }
    let fetched = out.ancestors().map(|folder| folder.join(FETCHED));
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    let usual = PathBuf::from("/usr/local/cuda/bin/nvcc");
    fetched.chain(in_path).chain([usual]).find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_fetched_into_the_target_folder_is_found_from_a_build_folder_below() {
        if env::var_os("NVCC").is_some() {
            return; // A named compiler wins over every place, so there is nothing to see here.
        }
        let target = env::temp_dir().join(format!("cuda-fatbin-{}", std::process::id()));
        let nvcc = target.join(FETCHED);
        std::fs::create_dir_all(nvcc.parent().unwrap()).unwrap();
        std::fs::write(&nvcc, "").unwrap();
        let found = find_nvcc(&target.join("debug/build/some-crate/out"));
        std::fs::remove_dir_all(&target).unwrap();
        assert_eq!(found, Some(nvcc));
    }
}
