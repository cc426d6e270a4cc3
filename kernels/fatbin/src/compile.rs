//! Running nvcc, several sources at a time, and only for what changed.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::{env, fs, thread};

/// Machine code is built for these compute capabilities: Ampere (data centre and desktop), Ada, Hopper, Blackwell (data
/// centre and desktop). `a` marks Hopper's own instructions.
pub const ARCHITECTURES: [&str; 6] = ["80", "86", "89", "90a", "100", "120"];

/// Newer devices compile this intermediate form at load.
pub const PTX_ARCHITECTURE: &str = "80";

/// One compiled source.
pub(crate) struct Fatbin {
    pub(crate) name: String,
    pub(crate) file: String,
    /// What `ptxas -v` said: registers, shared memory and spills of every kernel.
    pub(crate) report: String,
}

pub(crate) struct Compiler {
    nvcc: PathBuf,
    out: PathBuf,
    flags: Vec<String>,
    /// Of everything that is not the source itself: headers, flags, compiler.
    environment: u64,
}

impl Compiler {
    pub(crate) fn new(
        nvcc: PathBuf,
        out: &Path,
        architectures: Option<&str>,
        include: &[&Path],
        headers: &[&PathBuf],
    ) -> Result<Self, String> {
        let mut flags: Vec<String> =
            ["-std=c++17", "-O3", "--fatbin", "-Xfatbin", "-compress-all", "-Xptxas", "-v"].map(str::to_owned).into();
        if let Some(list) = architectures {
            flags.extend(list.split([',', ' ']).filter(|arch| !arch.is_empty()).map(machine_code));
        } else {
            flags.extend(ARCHITECTURES.map(machine_code));
            flags.push(format!("-gencode=arch=compute_{PTX_ARCHITECTURE},code=compute_{PTX_ARCHITECTURE}"));
        }
        for folder in include {
            let folder = folder.to_str().ok_or("the name of an include folder is not UTF-8")?;
            flags.push(format!("-I{folder}"));
        }
        let version = run(Command::new(&nvcc).arg("--version"))?;
        let mut hasher = DefaultHasher::new();
        (&version, &flags).hash(&mut hasher);
        for header in headers {
            read(header)?.hash(&mut hasher);
        }
        Ok(Self { nvcc, out: out.to_owned(), flags, environment: hasher.finish() })
    }

    /// In the order of `sources`, with as many compilers at a time as Cargo allows.
    pub(crate) fn compile_all(&self, sources: &[&PathBuf]) -> Result<Vec<Fatbin>, String> {
        let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize).max(1);
        let waiting = Mutex::new((0..sources.len()).collect::<VecDeque<_>>());
        let take = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let mut done: Vec<(usize, Result<Fatbin, String>)> = thread::scope(|scope| {
            let work = || {
                let mut mine = Vec::new();
                while let Some(i) = take() {
                    mine.push((i, self.compile(sources[i])));
                }
                mine
            };
            let workers: Vec<_> = (0..jobs.min(sources.len())).map(|_| scope.spawn(work)).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
        });
        done.sort_by_key(|(i, _)| *i);
        if done.len() != sources.len() {
            return Err("a compiling thread broke down".into());
        }
        done.into_iter().map(|(_, fatbin)| fatbin).collect()
    }

    fn compile(&self, source: &Path) -> Result<Fatbin, String> {
        let name = source.file_stem().and_then(|stem| stem.to_str()).ok_or("a source's name is not UTF-8")?;
        let mut hasher = DefaultHasher::new();
        (self.environment, read(source)?).hash(&mut hasher);
        let stem = self.out.join(format!("{name}-{:016x}", hasher.finish()));
        let (file, report) = (stem.with_extension("fatbin"), stem.with_extension("txt"));
        if !(file.is_file() && report.is_file()) {
            // Under another name first, so that an interrupted build leaves no half file that looks whole.
            let unfinished = stem.with_extension("part");
            let said = run(Command::new(&self.nvcc).args(&self.flags).arg(source).arg("-o").arg(&unfinished))?;
            fs::write(&report, said).map_err(|error| format!("cannot write {}: {error}", report.display()))?;
            fs::rename(&unfinished, &file).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        }
        let text =
            |path: PathBuf| path.into_os_string().into_string().map_err(|_| "the build folder's name is not UTF-8");
        Ok(Fatbin { name: name.to_owned(), file: text(file)?, report: text(report)? })
    }
}

fn machine_code(architecture: &str) -> String {
    format!("-gencode=arch=compute_{architecture},code=sm_{architecture}")
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Both outputs of a command that must succeed.
fn run(command: &mut Command) -> Result<String, String> {
    let output =
        command.output().map_err(|error| format!("cannot run {}: {error}", command.get_program().display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() { Ok(text) } else { Err(format!("{command:?} failed, {}:\n{text}", output.status)) }
}
