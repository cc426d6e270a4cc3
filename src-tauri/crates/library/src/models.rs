//! Models and the sample document on disk: what `--model` and the picker can name. No network.
//!
//! Assets that ship with the program are found from where the program stands, never from where it was built:
//! 1. the file named by [`DEMO_MODEL_VARIABLE`] (the model only);
//! 2. beside the executable, in its `resources` folder, and in the `lib` and `share` folders of the same prefix, where
//!    a package puts them;
//! 3. in `assets/` of any folder above the executable, which finds a checkout from its own build output.

use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo};

/// Environment variable with the path of a model to take for the demo model.
pub const DEMO_MODEL_VARIABLE: &str = "REPRISE_DEMO_MODEL";

const DEMO_MODEL: Asset = Asset { folder: "demo-model", file: "demo-q8_0.gguf" };
const SAMPLE_DOCUMENT: Asset = Asset { folder: "sample", file: "reprise-handbook.pdf" };

/// Names of the product's folder under `lib` and `share`: the package, its product name and its binaries.
const PRODUCT_FOLDERS: &[&str] = &["reprise", "Reprise", "reprise-app"];

/// Why a model name led nowhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Nothing of that name here.
    #[error("no model named {name}; looked in {looked:?}")]
    NotFound {
        /// As asked.
        name: String,
        /// Where it was looked for.
        looked: Vec<String>,
    },
    /// Several files fit and the name does not say which.
    #[error("{name} has several models; name one of {choices:?}")]
    Ambiguous {
        /// As asked.
        name: String,
        /// What can be asked for instead.
        choices: Vec<String>,
    },
    /// A file or folder that no model can be read from.
    #[error("{path} is not a model: {why}")]
    NotAModel {
        /// Which.
        path: PathBuf,
        /// What it lacks.
        why: String,
    },
}

/// Resolves `None` (the demo model), a path to a `.gguf` or a model folder, or `owner/name[:file]` in the local Hugging Face cache (no network).
///
/// A folder is a model when it holds `config.json` and safetensors, or exactly one `.gguf`; the latter resolves to the file.
pub fn resolve(name: Option<&str>) -> Result<PathBuf, ModelError> {
    let Some(name) = name else { return demo_model() };
    let path = Path::new(name);
    if path.is_file() {
        return gguf_file(path);
    }
    if path.is_dir() {
        return model_folder(path, name, |file| path.join(file).display().to_string());
    }
    let mut looked = vec![path.display().to_string()];
    if let Some(hub_name) = HubName::parse(name) {
        let cache = hub_cache();
        if let Some(found) = hub_name.find(&cache, &mut looked) {
            return found;
        }
    }
    Err(ModelError::NotFound { name: name.to_owned(), looked })
}

/// The document that comes with the program for a first try.
pub fn sample_document() -> Option<PathBuf> {
    let executable = std::env::current_exe().ok()?;
    SAMPLE_DOCUMENT.find_from(&executable, &mut Vec::new())
}

/// The folder where hub downloads lie: `HF_HUB_CACHE`, else `HF_HOME/hub`, else the default one.
pub fn hub_cache() -> Cache {
    hub_cache_from(std::env::var_os("HF_HUB_CACHE"), std::env::var_os("HF_HOME"), dirs::home_dir())
}

fn hub_cache_from(
    hub_cache: Option<std::ffi::OsString>,
    hf_home: Option<std::ffi::OsString>,
    home: Option<PathBuf>,
) -> Cache {
    let set = |value: Option<std::ffi::OsString>| value.filter(|v| !v.is_empty()).map(PathBuf::from);
    let path = set(hub_cache)
        .or_else(|| set(hf_home).map(|p| p.join("hub")))
        // Without a home nothing is cached, and a relative folder that does not exist says so.
        .unwrap_or_else(|| home.unwrap_or_default().join(".cache/huggingface/hub"));
    Cache::new(path)
}

fn demo_model() -> Result<PathBuf, ModelError> {
    let mut looked = Vec::new();
    if let Some(path) = std::env::var_os(DEMO_MODEL_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from) {
        if path.is_file() {
            return gguf_file(&path);
        }
        looked.push(format!("{DEMO_MODEL_VARIABLE}={}", path.display()));
    }
    // Both as started and as linked to: a link in a bin folder may point into the installation.
    if let Ok(executable) = std::env::current_exe() {
        if let Some(found) = DEMO_MODEL.find_from(&executable, &mut looked) {
            return Ok(found);
        }
        let real = executable.canonicalize().ok().filter(|real| *real != executable);
        if let Some(found) = real.and_then(|real| DEMO_MODEL.find_from(&real, &mut looked)) {
            return Ok(found);
        }
    }
    Err(ModelError::NotFound { name: "demo".to_owned(), looked })
}

/// A file that ships with the program.
struct Asset {
    /// Its folder under `assets/`.
    folder: &'static str,
    file: &'static str,
}

impl Asset {
    fn find_from(&self, executable: &Path, looked: &mut Vec<String>) -> Option<PathBuf> {
        let beside = executable.parent()?;
        let mut places = vec![beside.to_owned(), beside.join("resources")];
        if let Some(prefix) = beside.parent() {
            for shared in ["lib", "share"] {
                places.extend(PRODUCT_FOLDERS.iter().map(|product| prefix.join(shared).join(product)));
            }
            places.push(prefix.join("Resources"));
        }
        let placed = places.iter().flat_map(|place| {
            let assets = place.join("assets").join(self.folder);
            // A packager keeps the folders as they are, flattens them, or rewrites the step up from the manifest.
            [
                place.join(self.file),
                place.join(self.folder).join(self.file),
                assets.join(self.file),
                place.join("_up_/assets").join(self.folder).join(self.file),
            ]
        });
        let above = beside.ancestors().map(|folder| folder.join("assets").join(self.folder).join(self.file));
        let found = placed.chain(above).find(|path| path.is_file());
        if found.is_none() {
            looked.extend(places.iter().map(|p| p.display().to_string()));
            looked.push(format!("assets/{}/{} above {}", self.folder, self.file, beside.display()));
        }
        found
    }
}

/// `owner/name` or `owner/name:file`.
struct HubName<'a> {
    repository: &'a str,
    file: Option<&'a str>,
}

impl<'a> HubName<'a> {
    /// Only names the hub itself allows: what is built from them becomes a path in the cache.
    fn parse(name: &'a str) -> Option<Self> {
        let (repository, file) = match name.split_once(':') {
            Some((repository, file)) => (repository, Some(file)),
            None => (name, None),
        };
        let (owner, model) = repository.split_once('/')?;
        let allowed = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && !part.contains("..")
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        let file_allowed = file.is_none_or(|f| !f.is_empty() && f.split('/').all(allowed));
        (allowed(owner) && allowed(model) && file_allowed).then_some(Self { repository, file })
    }

    fn find(&self, cache: &Cache, looked: &mut Vec<String>) -> Option<Result<PathBuf, ModelError>> {
        let repository = cache.repo(Repo::model(self.repository.to_owned()));
        looked.push(format!("{} in {}", self.repository, cache.path().display()));
        if let Some(file) = self.file {
            return repository.get(file).map(|path| gguf_file(&path));
        }
        let folder = cache.path().join(Repo::model(self.repository.to_owned()).folder_name());
        let commit = std::fs::read_to_string(folder.join("refs/main")).ok()?;
        let commit = commit.trim();
        // The commit becomes a folder name.
        if commit.is_empty() || !commit.chars().all(|c| c.is_ascii_alphanumeric()) {
            return None;
        }
        let snapshot = repository.pointer_path(commit);
        snapshot
            .is_dir()
            .then(|| model_folder(&snapshot, self.repository, |file| format!("{}:{file}", self.repository)))
    }
}

fn gguf_file(path: &Path) -> Result<PathBuf, ModelError> {
    let refuse = |why: &str| ModelError::NotAModel { path: path.to_owned(), why: why.to_owned() };
    match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("gguf") => Ok(path.to_owned()),
        // A model needs its configuration and tokenizer, so the folder is the model.
        Some("safetensors") => match path.parent() {
            Some(folder) if folder.join("config.json").is_file() => Ok(folder.to_owned()),
            _ => Err(refuse("no config.json stands beside it")),
        },
        Some("bin" | "pt" | "pth" | "ckpt" | "pkl") => Err(refuse("pickled weights can run code and are never loaded")),
        _ => Err(refuse("only .gguf files and folders with safetensors are read")),
    }
}

fn model_folder(folder: &Path, name: &str, choice: impl Fn(&str) -> String) -> Result<PathBuf, ModelError> {
    let not_a_model = |why: String| ModelError::NotAModel { path: folder.to_owned(), why };
    let mut ggufs = Vec::new();
    let mut has_safetensors = false;
    for entry in std::fs::read_dir(folder).map_err(|e| not_a_model(e.to_string()))? {
        let file = entry.map_err(|e| not_a_model(e.to_string()))?.file_name().to_string_lossy().into_owned();
        let lower = file.to_ascii_lowercase();
        match lower.rsplit_once('.') {
            Some((_, "safetensors")) => has_safetensors = true,
            // Image encoders lie beside the models they belong to.
            Some((_, "gguf")) if !lower.starts_with("mmproj") => ggufs.push(file),
            _ => {}
        }
    }
    if has_safetensors && folder.join("config.json").is_file() {
        return Ok(folder.to_owned());
    }
    ggufs.sort_unstable();
    match ggufs.as_slice() {
        [] if has_safetensors => Err(not_a_model("config.json is missing".to_owned())),
        [] => Err(not_a_model("it holds neither .gguf nor .safetensors".to_owned())),
        [only] => Ok(folder.join(only)),
        several => {
            Err(ModelError::Ambiguous { name: name.to_owned(), choices: several.iter().map(|f| choice(f)).collect() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"GGUF").unwrap();
    }

    #[test]
    fn assets_are_found_in_every_layout() {
        for (executable, asset) in [
            ("bin/reprise", "bin/demo-q8_0.gguf"),
            ("bin/reprise", "bin/resources/demo-model/demo-q8_0.gguf"),
            ("usr/bin/reprise-app", "usr/lib/Reprise/assets/demo-model/demo-q8_0.gguf"),
            ("usr/bin/reprise-app", "usr/lib/reprise/_up_/assets/demo-model/demo-q8_0.gguf"),
            ("usr/bin/reprise", "usr/share/reprise/demo-q8_0.gguf"),
            ("checkout/target/debug/reprise", "checkout/assets/demo-model/demo-q8_0.gguf"),
            ("checkout/target/debug/deps/test-1", "checkout/assets/demo-model/demo-q8_0.gguf"),
        ] {
            let root = tempfile::tempdir().unwrap();
            touch(&root.path().join(executable));
            touch(&root.path().join(asset));
            let found = DEMO_MODEL.find_from(&root.path().join(executable), &mut Vec::new());
            assert_eq!(found, Some(root.path().join(asset)), "{executable}");
        }
        let root = tempfile::tempdir().unwrap();
        touch(&root.path().join("bin/reprise"));
        let mut looked = Vec::new();
        assert_eq!(DEMO_MODEL.find_from(&root.path().join("bin/reprise"), &mut looked), None);
        assert!(looked.len() > 4);
    }

    #[test]
    fn files_and_folders_are_models_or_say_why_not() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let ask = |name: &str| resolve(Some(at(name).to_str().unwrap()));
        touch(&at("one/a.gguf"));
        touch(&at("two/a.gguf"));
        touch(&at("two/b.gguf"));
        touch(&at("st/model.safetensors"));
        touch(&at("st/config.json"));
        touch(&at("bare/model.safetensors"));
        touch(&at("pickle.bin"));
        fs::create_dir(at("empty")).unwrap();

        assert_eq!(ask("one/a.gguf").unwrap(), at("one/a.gguf"));
        assert_eq!(ask("one").unwrap(), at("one/a.gguf"));
        assert_eq!(ask("st").unwrap(), at("st"));
        assert_eq!(ask("st/model.safetensors").unwrap(), at("st"));
        assert!(matches!(ask("two"), Err(ModelError::Ambiguous { choices, .. }) if choices.len() == 2));
        for name in ["bare", "empty", "pickle.bin", "bare/model.safetensors"] {
            assert!(matches!(ask(name), Err(ModelError::NotAModel { .. })), "{name}");
        }
        assert!(matches!(ask("none.gguf"), Err(ModelError::NotFound { .. })));
    }

    #[test]
    fn hub_names_lead_into_the_local_cache_only() {
        let root = tempfile::tempdir().unwrap();
        let cache = hub_cache_from(Some(root.path().into()), Some("elsewhere".into()), None);
        assert_eq!(cache.path(), root.path());
        let repository = root.path().join("models--owner--name");
        let snapshot = repository.join("snapshots/abc123");
        touch(&snapshot.join("q4.gguf"));
        touch(&snapshot.join("q8.gguf"));
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::write(repository.join("refs/main"), "abc123").unwrap();

        let find = |name: &str| HubName::parse(name).and_then(|n| n.find(&cache, &mut Vec::new()));
        assert_eq!(find("owner/name:q8.gguf").unwrap().unwrap(), snapshot.join("q8.gguf"));
        assert!(find("owner/name:q2.gguf").is_none());
        assert!(find("owner/other").is_none());
        let Some(Err(ModelError::Ambiguous { choices, .. })) = find("owner/name") else { panic!("two files fit") };
        assert_eq!(choices, ["owner/name:q4.gguf", "owner/name:q8.gguf"]);

        for name in ["../x", "a/../b", "/etc/passwd", "a/b/c", "owner/name:../../x", "a b/c", ".a/b", "owner/", "x"] {
            assert!(HubName::parse(name).is_none(), "{name}");
        }
    }

    #[test]
    fn the_cache_folder_follows_the_usual_variables() {
        let home = Some(PathBuf::from("/home/u"));
        assert_eq!(hub_cache_from(None, Some("/hf".into()), home.clone()).path(), Path::new("/hf/hub"));
        assert_eq!(hub_cache_from(None, Some("".into()), home).path(), Path::new("/home/u/.cache/huggingface/hub"));
    }
}
