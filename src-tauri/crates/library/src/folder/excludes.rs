//! What a folder of sources holds that is no source: build output, vendored trees, lock files.

use std::path::{Path, PathBuf};

/// Folders that are never anyone's own source.
const FOLDERS: &[(&str, &str)] = &[
    (".git", "version control"),
    (".hg", "version control"),
    (".jj", "version control"),
    (".svn", "version control"),
    ("node_modules", "installed packages"),
    ("bower_components", "installed packages"),
    ("jspm_packages", "installed packages"),
    ("site-packages", "installed packages"),
    ("Pods", "installed packages"),
    ("Carthage", "installed packages"),
    ("venv", "installed packages"),
    ("virtualenv", "installed packages"),
    ("vendor", "vendored code"),
    ("third_party", "vendored code"),
    ("third-party", "vendored code"),
    ("thirdparty", "vendored code"),
    ("__pycache__", "build output"),
    ("dist", "build output"),
    ("DerivedData", "build output"),
    ("CMakeFiles", "build output"),
    ("coverage", "build output"),
    ("htmlcov", "build output"),
    ("__snapshots__", "test snapshots"),
];

/// Folders that are build output only beside one of these files: elsewhere `build` may hold build scripts.
const FOLDERS_BESIDE: &[(&str, &[&str])] = &[
    ("target", &["Cargo.toml", "pom.xml", "build.sbt", "project.clj"]),
    (
        "build",
        &[
            "package.json",
            "CMakeLists.txt",
            "build.gradle",
            "build.gradle.kts",
            "setup.py",
            "pyproject.toml",
            "pubspec.yaml",
            "meson.build",
        ],
    ),
    ("out", &["package.json", "tsconfig.json", "foundry.toml", "build.gradle", "build.gradle.kts"]),
    ("_build", &["mix.exs", "dune-project", "conf.py", "Makefile"]),
    ("deps", &["mix.exs"]),
];

/// Endings of folder names that are build output or packages.
const FOLDER_ENDINGS: &[&str] = &[".egg-info", ".dist-info", ".xcodeproj", ".xcassets"];

/// Hidden folders that hold the project's own configuration.
const HIDDEN_KEPT: &[&str] =
    &[".cargo", ".ci", ".circleci", ".config", ".devcontainer", ".github", ".gitlab", ".storybook"];

/// Files that the walk opens and reads by itself in every folder that it enters.
const IGNORE_FILES: &[&str] = &[".gitignore", ".ignore", ".git/info/exclude", ".git"];

/// Largest ignore file that is read.
const MAX_IGNORE_BYTES: u64 = 1 << 20;

const LOCK_FILES: &[&str] = &[
    "Cargo.lock",
    "Gemfile.lock",
    "Package.resolved",
    "Pipfile.lock",
    "Podfile.lock",
    "bun.lock",
    "bun.lockb",
    "composer.lock",
    "deno.lock",
    "flake.lock",
    "go.sum",
    "gradle.lockfile",
    "mix.lock",
    "npm-shrinkwrap.json",
    "package-lock.json",
    "packages.lock.json",
    "pdm.lock",
    "pnpm-lock.yaml",
    "poetry.lock",
    "pubspec.lock",
    "uv.lock",
    "yarn.lock",
];

/// File name endings of generated or temporary files.
const GENERATED_ENDINGS: &[(&str, &str)] = &[
    (".min.js", "minified"),
    (".min.css", "minified"),
    (".map", "a source map"),
    (".swp", "an editor's temporary file"),
    ("~", "an editor's backup"),
];

/// In a submodule or worktree `.git` is a file that says where the repository is.
const REPOSITORY_POINTER: &str = ".git";

const CLUTTER: &[&str] = &[".DS_Store", "Thumbs.db", "desktop.ini"];

/// Why a folder is left out, if it is. `path` is its place on disk.
pub(super) fn folder(name: &str, path: &Path) -> Option<&'static str> {
    if let Some((_, reason)) = FOLDERS.iter().find(|(folder, _)| *folder == name) {
        return Some(reason);
    }
    if let Some((_, beside)) = FOLDERS_BESIDE.iter().find(|(folder, _)| *folder == name)
        && path.parent().is_some_and(|parent| beside.iter().any(|file| parent.join(file).is_file()))
    {
        return Some("build output");
    }
    if FOLDER_ENDINGS.iter().any(|ending| name.ends_with(ending)) {
        return Some("build output");
    }
    if name.starts_with('.') && !HIDDEN_KEPT.contains(&name) {
        return Some("hidden folder");
    }
    if path.join("CACHEDIR.TAG").is_file() || path.join("pyvenv.cfg").is_file() {
        return Some("marked as a cache or environment");
    }
    endless_ignore_file(path).map(|_| "its ignore file is no file or too large")
}

/// An ignore file of a folder that must not be read: a pipe would be waited for and a device read for ever.
pub(super) fn endless_ignore_file(folder: &Path) -> Option<PathBuf> {
    let is_endless = |file: &PathBuf| match file.metadata() {
        Ok(metadata) => !metadata.is_dir() && (!metadata.is_file() || metadata.len() > MAX_IGNORE_BYTES),
        Err(_) => false,
    };
    IGNORE_FILES.iter().map(|name| folder.join(name)).find(is_endless)
}

/// Why a file is left out by its name alone, if it is.
pub(super) fn file(name: &str) -> Option<&'static str> {
    if LOCK_FILES.contains(&name) {
        return Some("a lock file");
    }
    if name == REPOSITORY_POINTER {
        return Some("version control");
    }
    if CLUTTER.contains(&name) {
        return Some("the desktop's own file");
    }
    GENERATED_ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, reason)| *reason)
}
