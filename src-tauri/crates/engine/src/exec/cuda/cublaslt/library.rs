//! Finding and loading cuBLASLt. Nothing links to it, and its absence is no fault.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libloading::Library;

/// Names the library's file, or is `off`.
pub const CUBLASLT_VARIABLE: &str = "REPRISE_CUBLASLT";

/// Newest first. What is used of them (`cublasLt.h`) is the same in both.
#[cfg(windows)]
const NAMES: [&str; 2] = ["cublasLt64_13.dll", "cublasLt64_12.dll"];
#[cfg(not(windows))]
const NAMES: [&str; 2] = ["libcublasLt.so.13", "libcublasLt.so.12"];
const MAJOR_VERSIONS: std::ops::RangeInclusive<usize> = 12..=13;

/// A library that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CublasLtInfo {
    /// As `cublasLtGetVersion` tells it: 10000·major + 100·minor + patch.
    pub version: usize,
    /// The file, or the name that the system's loader knows.
    pub path: PathBuf,
}

/// `cuBLASLt 13.1`
impl fmt::Display for CublasLtInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuBLASLt {}.{}", self.version / 10_000, self.version % 10_000 / 100)
    }
}

/// Why a file does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CublasLtRefusal {
    /// The folder has no such file.
    #[error("not there")]
    Absent,
    /// The system's loader does not load it.
    #[error("{0}")]
    Unloadable(String),
    /// It is not cuBLASLt, or too old.
    #[error("it has no {0}")]
    Lacks(&'static str),
    /// A major version whose functions may differ.
    #[error("its version is {0}, known are 12 and 13")]
    Version(usize),
}

/// One place and what was the matter there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CublasLtAttempt {
    /// A folder, a file, or a name that the system's loader was asked for.
    pub place: PathBuf,
    /// What was the matter.
    pub why: CublasLtRefusal,
}

impl fmt::Display for CublasLtAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place.display(), self.why)
    }
}

/// No cuBLASLt. Own kernels do the same work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CublasLtError {
    /// By the user's wish.
    #[error("cuBLASLt is switched off by {CUBLASLT_VARIABLE}")]
    Off,
    /// Nowhere.
    #[error("cuBLASLt was not found; looked in {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NotFound(Vec<CublasLtAttempt>),
    /// A call that the library refused.
    #[error("{call}: status {status}")]
    Call {
        /// Its function.
        call: &'static str,
        /// `cublasStatus_t`
        status: c_int,
    },
}

macro_rules! functions {
    ($($(#[$doc:meta])* $field:ident = $symbol:literal($($argument:ty),*) -> $returned:ty;)*) => {
        /// The library's functions. Opaque types are pointers, statuses are 0 or an error.
        #[derive(Debug, Clone, Copy)]
        pub(super) struct Functions {
            $($(#[$doc])* pub(super) $field: unsafe extern "C" fn($($argument),*) -> $returned,)*
        }

        impl Functions {
            fn of(library: &Library) -> Result<Self, CublasLtRefusal> {
                Ok(Self {
                    $(
                        // SAFETY: the types are those of `cublasLt.h` of every version that is let through.
                        $field: *unsafe { library.get(concat!($symbol, "\0")) }
                            .map_err(|_| CublasLtRefusal::Lacks($symbol))?,
                    )*
                })
            }
        }
    };
}

/// `cublasLtMatmulAlgo_t`
pub(super) type Algorithm = [u64; 8];

/// `cublasLtMatmulHeuristicResult_t`
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Suggestion {
    pub(super) algorithm: Algorithm,
    pub(super) workspace_bytes: usize,
    pub(super) status: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

/// A descriptor's setter: which attribute, its value, the value's bytes.
pub(super) type Set = unsafe extern "C" fn(*mut c_void, c_int, *const c_void, usize) -> c_int;
/// Ends what a `Create` made.
pub(super) type Destroy = unsafe extern "C" fn(*mut c_void) -> c_int;

functions! {
    version = "cublasLtGetVersion"() -> usize;
    create = "cublasLtCreate"(*mut *mut c_void) -> c_int;
    destroy = "cublasLtDestroy"(*mut c_void) -> c_int;
    /// Type of sums, type of scales.
    desc_create = "cublasLtMatmulDescCreate"(*mut *mut c_void, c_int, c_int) -> c_int;
    desc_set = "cublasLtMatmulDescSetAttribute"(*mut c_void, c_int, *const c_void, usize) -> c_int;
    desc_destroy = "cublasLtMatmulDescDestroy"(*mut c_void) -> c_int;
    /// Element type, rows, columns, elements from one column to the next.
    layout_create = "cublasLtMatrixLayoutCreate"(*mut *mut c_void, c_int, u64, u64, i64) -> c_int;
    layout_destroy = "cublasLtMatrixLayoutDestroy"(*mut c_void) -> c_int;
    preference_create = "cublasLtMatmulPreferenceCreate"(*mut *mut c_void) -> c_int;
    preference_set = "cublasLtMatmulPreferenceSetAttribute"(*mut c_void, c_int, *const c_void, usize) -> c_int;
    preference_destroy = "cublasLtMatmulPreferenceDestroy"(*mut c_void) -> c_int;
    /// Handle, descriptor, layouts of A, B, C, D, preference, most suggestions, suggestions, how many they are.
    suggest = "cublasLtMatmulAlgoGetHeuristic"(
        *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void, c_int,
        *mut Suggestion, *mut c_int
    ) -> c_int;
    /// Handle, descriptor, alpha, A and layout, B and layout, beta, C and layout, D and layout, algorithm, workspace and its
    /// bytes, stream.
    matmul = "cublasLtMatmul"(
        *mut c_void, *mut c_void, *const f32, *const c_void, *mut c_void, *const c_void, *mut c_void, *const f32,
        *const c_void, *mut c_void, *mut c_void, *mut c_void, *const Algorithm, *mut c_void, usize, *mut c_void
    ) -> c_int;
}

/// A library that stays for as long as the process.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) functions: Functions,
    pub(super) info: CublasLtInfo,
}

/// Looks for cuBLASLt; never panics. A library once found stays loaded.
///
/// # Errors
/// [`CublasLtError`], with every place that was looked at.
pub fn probe_cublaslt() -> Result<CublasLtInfo, CublasLtError> {
    load().map(|loaded| loaded.info)
}

pub(super) fn load() -> Result<Loaded, CublasLtError> {
    static FOUND: Mutex<Option<Loaded>> = Mutex::new(None);
    let named = std::env::var_os(CUBLASLT_VARIABLE).filter(|named| !named.is_empty());
    if named.as_deref().is_some_and(|named| named == "off") {
        return Err(CublasLtError::Off);
    }
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = found.as_ref() {
        return Ok(loaded.clone());
    }
    let loaded = match named {
        Some(file) => first_of(&[Candidate::Name(file.into())])?,
        None => first_of(&usual_places())?,
    };
    Ok(found.insert(loaded).clone())
}

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Candidate {
    /// A file, or a name for the system's loader.
    Name(PathBuf),
    /// Any of [`NAMES`] in it.
    Folder(PathBuf),
}

#[cfg(not(windows))]
fn usual_places() -> Vec<Candidate> {
    let mut places: Vec<_> = NAMES.into_iter().map(|name| Candidate::Name(name.into())).collect();
    let toolkits = ["CUDA_PATH", "CUDA_HOME"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let installed = newest_first("/usr/local".as_ref(), "cuda");
    places.extend(toolkits.chain(installed).map(|toolkit| Candidate::Folder(toolkit.join("lib64"))));
    places
}

/// Absolute paths only: a bare name would also be looked for in the current folder.
#[cfg(windows)]
fn usual_places() -> Vec<Candidate> {
    let toolkits = ["CUDA_PATH", "CUDA_HOME"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let of_toolkits = toolkits.flat_map(|toolkit| [toolkit.join("bin").join("x64"), toolkit.join("bin")]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let of_path: Vec<_> = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
    of_toolkits.chain(of_path).map(Candidate::Folder).collect()
}

/// Folders in `parent` that begin like that.
#[cfg(not(windows))]
fn newest_first(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path()).collect();
    // `cuda`, the system's choice, then by version; 12.9 before 12.10 does no harm: both do.
    found.sort_by(|a, b| a.as_os_str().len().cmp(&b.as_os_str().len()).then(b.cmp(a)));
    found
}

fn first_of(candidates: &[Candidate]) -> Result<Loaded, CublasLtError> {
    let mut attempts = Vec::new();
    for candidate in candidates {
        let files = match candidate {
            Candidate::Name(name) => vec![name.clone()],
            Candidate::Folder(folder) => NAMES.iter().map(|name| folder.join(name)).filter(|f| f.is_file()).collect(),
        };
        if let (true, Candidate::Folder(folder)) = (files.is_empty(), candidate) {
            attempts.push(CublasLtAttempt { place: folder.clone(), why: CublasLtRefusal::Absent });
        }
        for file in files {
            match open(&file) {
                Ok(loaded) => return Ok(loaded),
                Err(why) => attempts.push(CublasLtAttempt { place: file, why }),
            }
        }
    }
    Err(CublasLtError::NotFound(attempts))
}

fn open(file: &Path) -> Result<Loaded, CublasLtRefusal> {
    // SAFETY: NVIDIA's library has no load-time side effect on this process; of another of its name the user who put it
    // there must be sure.
    let library = unsafe { Library::new(file) }.map_err(|error| CublasLtRefusal::Unloadable(error.to_string()))?;
    let functions = Functions::of(&library)?;
    // SAFETY: takes nothing and returns a number in every version.
    let version = unsafe { (functions.version)() };
    if !MAJOR_VERSIONS.contains(&(version / 10_000)) {
        return Err(CublasLtRefusal::Version(version));
    }
    // Its kernels stay with the driver until the end, so its code must too.
    std::mem::forget(library);
    Ok(Loaded { functions, info: CublasLtInfo { version, path: file.to_owned() } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(candidate: Candidate) -> CublasLtRefusal {
        match first_of(&[candidate]).unwrap_err() {
            CublasLtError::NotFound(attempts) => attempts[0].why.clone(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_empty_folder_has_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(refusal(Candidate::Folder(folder.path().into())), CublasLtRefusal::Absent);
        assert!(matches!(refusal(Candidate::Name(folder.path().join(NAMES[0]))), CublasLtRefusal::Unloadable(_)));
    }

    #[test]
    fn a_text_of_that_name_is_told_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(NAMES[0]);
        std::fs::write(&file, "not a library\n").unwrap();
        let error = first_of(&[Candidate::Folder(folder.path().into())]).unwrap_err();
        assert!(error.to_string().contains(&file.display().to_string()), "{error}");
        assert!(matches!(refusal(Candidate::Folder(folder.path().into())), CublasLtRefusal::Unloadable(_)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn another_library_is_not_taken_for_it() {
        assert_eq!(refusal(Candidate::Name("libc.so.6".into())), CublasLtRefusal::Lacks("cublasLtGetVersion"));
    }

    #[test]
    fn versions_are_told_as_people_write_them() {
        let told = |version| CublasLtInfo { version, path: PathBuf::new() }.to_string();
        assert_eq!(told(130_102), "cuBLASLt 13.1");
        assert_eq!(told(120_803), "cuBLASLt 12.8");
    }

    #[cfg(not(windows))]
    #[test]
    fn toolkits_come_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cuda-12.8", "cuda", "cuda-13.0", "other"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let found = newest_first(folder.path(), "cuda");
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["cuda", "cuda-13.0", "cuda-12.8"]);
    }

    #[test]
    fn a_suggestion_is_laid_out_as_in_the_header() {
        assert_eq!(size_of::<Suggestion>(), 96);
        assert_eq!(std::mem::offset_of!(Suggestion, status), 72);
    }
}
