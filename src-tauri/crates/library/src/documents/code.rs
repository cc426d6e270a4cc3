//! Which names are source code.

/// Endings of source and configuration files. Prose formats (txt, md, rst, org, tex, csv, log) are missing on purpose.
const CODE_ENDINGS: &[&str] = &[
    "ada", "adb", "ads", "asm", "awk", "bash", "bat", "bzl", "c", "cc", "cfg", "clj", "cljs", "cmake", "conf", "cpp",
    "cs", "css", "cts", "cu", "cuh", "cxx", "d", "dart", "diff", "el", "elm", "erl", "ex", "exs", "f", "f90", "fish",
    "fs", "fsx", "gleam", "glsl", "go", "gql", "gradle", "graphql", "groovy", "h", "hcl", "hh", "hpp", "hs", "htm",
    "html", "hxx", "inc", "ini", "ipynb", "java", "jl", "js", "json", "json5", "jsonc", "jsx", "kt", "kts", "less",
    "lisp", "lua", "m", "mjs", "mk", "ml", "mli", "mm", "mts", "nim", "nix", "pas", "patch", "php", "pl", "pm",
    "proto", "ps1", "py", "pyi", "pyx", "r", "rb", "rkt", "rs", "s", "sass", "scala", "scm", "scss", "sh", "sol",
    "sql", "sv", "svelte", "swift", "tcl", "tf", "toml", "ts", "tsx", "v", "vala", "vb", "vhd", "vhdl", "vim", "vue",
    "wgsl", "xml", "xsd", "xsl", "yaml", "yml", "zig", "zsh",
];

/// Whole file names that are code without saying so by an ending.
const CODE_NAMES: &[&str] = &[
    "BUILD",
    "CMakeLists.txt",
    "Containerfile",
    "Dockerfile",
    "GNUmakefile",
    "Gemfile",
    "Jenkinsfile",
    "Justfile",
    "Makefile",
    "Rakefile",
    "Vagrantfile",
    "WORKSPACE",
    "justfile",
    "makefile",
];

/// Whether a file name or path names source code or configuration.
pub fn is_code(name: &str) -> bool {
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
    if CODE_NAMES.contains(&file) {
        return true;
    }
    match file.rsplit_once('.') {
        // Dot files (`.gitignore`, `.editorconfig`) are configuration.
        Some(("", _)) => true,
        Some((_, ending)) => CODE_ENDINGS.iter().any(|e| e.eq_ignore_ascii_case(ending)),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_names_and_dot_files_are_known() {
        for name in ["a/b/main.rs", "X.PY", "Dockerfile", "deep/CMakeLists.txt", ".gitignore", "lib.d.ts"] {
            assert!(is_code(name), "{name}");
        }
        for name in ["notes.txt", "README.md", "README", "thesis.tex", "c", "data.csv"] {
            assert!(!is_code(name), "{name}");
        }
    }
}
