//! Where the CUDA compiler is.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `.ci/nvcc.sh` unpacks the compiler, below the build folder.
const FETCHED: &str = "nvcc/nvidia/cu13/bin/nvcc";

/// Older compilers know neither the newest architectures nor all instructions of the kernels.
const MINIMUM_RELEASE: u32 = 13;

/// `NVCC`, whatever it is; else the compiler fetched into a folder above `out` (the target folder); else the first in
/// `PATH`; else the toolkit's usual place, those only if they are of release 13 or newer. An empty `NVCC` means: build without.
pub fn find_nvcc(out: &Path) -> Option<PathBuf> {
    if let Some(named) = env::var_os("NVCC") {
        return (!named.is_empty()).then(|| PathBuf::from(named));
    }
    let fetched = out.ancestors().map(|folder| folder.join(FETCHED));
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    let usual = PathBuf::from("/usr/local/cuda/bin/nvcc");
    let installed = in_path.chain([usual]).filter(|candidate| candidate.is_file());
    fetched.filter(|candidate| candidate.is_file()).chain(installed.filter(|nvcc| is_new_enough(nvcc))).next()
}

fn is_new_enough(nvcc: &Path) -> bool {
    let said = Command::new(nvcc).arg("--version").output();
    said.is_ok_and(|said| release(&String::from_utf8_lossy(&said.stdout)).is_some_and(|n| n >= MINIMUM_RELEASE))
}

/// 13 of `Cuda compilation tools, release 13.0, V13.0.88`.
fn release(version: &str) -> Option<u32> {
    version.split_once("release ")?.1.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read_from_what_nvcc_says() {
        let says =
            |release: &str| format!("nvcc: NVIDIA (R)\nCuda compilation tools, release {release}, V{release}.88\n");
        assert_eq!(release(&says("13.0")), Some(13));
        assert_eq!(release(&says("9.2")), Some(9));
        assert_eq!(release("sh: nvcc: not found"), None);
    }

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
