//! Folders as people have them.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail where it stands")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use reprise_library::documents::DocumentError;
use reprise_library::folder::{FolderListing, list};
use tempfile::TempDir;

fn tree(files: &[(&str, &[u8])]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        put(root.path(), name, bytes);
    }
    root
}

fn put(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn look(root: &TempDir) -> FolderListing {
    list(root.path(), &AtomicBool::new(false)).unwrap()
}

fn names(listing: &FolderListing) -> Vec<&str> {
    listing.files.iter().map(|f| f.name.as_str()).collect()
}

fn reason<'a>(listing: &'a FolderListing, name: &str) -> &'a str {
    let found = listing.skipped.iter().find(|s| s.name == name);
    &found.unwrap_or_else(|| panic!("{name} is not in {:?}", listing.skipped)).reason
}

#[test]
fn sources_are_listed_in_byte_order_and_the_rest_with_reasons() {
    let root = tree(&[
        ("src/main.rs", b"fn main() {}"),
        ("src/a/b.rs", b"x"),
        ("src/a-b.rs", b"x"),
        ("Zeta.md", b"z"),
        ("alpha.md", b"a"),
        (".github/workflows/ci.yml", b"on: push"),
        (".editorconfig", b"root = true"),
        ("Cargo.toml", b"[package]"),
        ("Cargo.lock", b"# lock"),
        ("target/debug/out.txt", b"x"),
        ("node_modules/left/index.js", b"x"),
        (".venv/lib/x.py", b"x"),
        ("logo.png", b"\x89PNG\r\n\x1a\n\0\0"),
        ("app.min.js", b"x"),
        ("empty.txt", b""),
    ]);
    put(root.path(), "big.txt", &vec![b'x'; (1 << 20) + 1]);
    symlink("src/main.rs", root.path().join("link.rs")).unwrap();
    let listing = look(&root);
    assert_eq!(
        names(&listing),
        [
            ".editorconfig",
            ".github/workflows/ci.yml",
            "Cargo.toml",
            "Zeta.md",
            "alpha.md",
            "src/a-b.rs",
            "src/a/b.rs",
            "src/main.rs"
        ]
    );
    for (name, why) in [
        ("target/", "build output"),
        ("node_modules/", "installed packages"),
        (".venv/", "hidden folder"),
        ("Cargo.lock", "a lock file"),
        ("logo.png", "binary"),
        ("app.min.js", "minified"),
        ("empty.txt", "empty"),
        ("big.txt", "larger than 1 MiB"),
        ("link.rs", "a symbolic link"),
    ] {
        assert_eq!(reason(&listing, name), why, "{name}");
    }
    assert_eq!(listing.skipped.len(), 9, "a folder once: {:?}", listing.skipped);
    assert!(listing.files.iter().all(|f| f.path.is_absolute() && f.bytes > 0));
    assert_eq!(look(&root), listing, "the same every time");
}

#[test]
fn ignore_files_count_without_a_repository_and_are_named_as_the_reason() {
    let root = tree(&[
        (".gitignore", b"*.log\n/generated/\n!keep.log\n"),
        ("a.log", b"x"),
        ("keep.log", b"x"),
        ("generated/one.rs", b"x"),
        ("generated/two.rs", b"x"),
        ("sub/.gitignore", b"private.txt\n"),
        ("sub/private.txt", b"x"),
        ("sub/public.txt", b"x"),
    ]);
    let listing = look(&root);
    assert_eq!(names(&listing), [".gitignore", "keep.log", "sub/.gitignore", "sub/public.txt"]);
    for name in ["a.log", "generated/", "sub/private.txt"] {
        assert_eq!(reason(&listing, name), "ignored by an ignore file");
    }
    assert_eq!(listing.skipped.len(), 3);
}

#[test]
fn build_folders_count_only_beside_what_builds_into_them() {
    let root = tree(&[
        ("scripts/build/make.sh", b"x"),
        ("web/package.json", b"{}"),
        ("web/build/app.js", b"x"),
        ("target/notes.md", b"x"),
    ]);
    let listing = look(&root);
    assert_eq!(names(&listing), ["scripts/build/make.sh", "target/notes.md", "web/package.json"]);
    assert_eq!(reason(&listing, "web/build/"), "build output");
}

#[test]
fn secrets_are_marked_not_hidden() {
    let token = format!("TOKEN={}{}\n", "ghp", "_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8");
    let root = tree(&[
        (".env", b"PASSWORD=x"),
        (".env.example", b"PASSWORD="),
        ("deploy/id_ed25519", b"key"),
        ("server.pem", b"cert"),
        ("config.yml", token.as_bytes()),
        ("main.rs", b"fn main() {}"),
    ]);
    let listing = look(&root);
    let marked: Vec<&str> = listing.files.iter().filter(|f| f.secret.is_some()).map(|f| f.name.as_str()).collect();
    assert_eq!(marked, [".env", "config.yml", "deploy/id_ed25519", "server.pem"]);
    assert_eq!(listing.files.len(), 6);
}

#[test]
fn a_pdf_may_be_larger_than_a_source_file() {
    let root = tree(&[]);
    let mut bytes = b"%PDF-1.7\n".to_vec();
    bytes.resize(3 << 20, b' ');
    put(root.path(), "paper.pdf", &bytes);
    assert_eq!(names(&look(&root)), ["paper.pdf"]);
}

#[test]
fn odd_names_are_cleaned_and_unreadable_files_told() {
    let root = tree(&[("we\"ird<name>.txt", b"x"), ("locked.txt", b"x")]);
    fs::set_permissions(root.path().join("locked.txt"), fs::Permissions::from_mode(0o000)).unwrap();
    let listing = look(&root);
    assert!(names(&listing).contains(&"we'ird‹name›.txt"));
    // The superuser reads everything.
    if fs::File::open(root.path().join("locked.txt")).is_err() {
        assert!(reason(&listing, "locked.txt").starts_with("cannot be read"));
    }
}

#[test]
fn cancel_stops_and_a_file_is_no_folder() {
    let root = tree(&[("a.txt", b"x")]);
    assert!(matches!(list(root.path(), &AtomicBool::new(true)), Err(DocumentError::Cancelled)));
    let error = list(&root.path().join("a.txt"), &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(error, DocumentError::Io { .. }), "{error}");
    assert!(matches!(list(&root.path().join("none"), &AtomicBool::new(false)), Err(DocumentError::Io { .. })));
}

#[test]
fn a_tree_too_large_to_mean_it_is_cut_short_and_says_so() {
    let root = tree(&[]);
    for folder in 0..21 {
        let path = root.path().join(format!("d{folder:02}"));
        fs::create_dir(&path).unwrap();
        for file in 0..1000 {
            fs::write(path.join(format!("f{file:03}.txt")), b"x").unwrap();
        }
    }
    let listing = look(&root);
    assert!(listing.cut_short);
    assert_eq!(listing.files.len(), 20_000);
    assert!(listing.skipped.last().unwrap().reason.contains("more than 20000 files"));
}

#[test]
fn what_is_left_out_beyond_the_list_is_counted() {
    let root = tree(&[(".ignore", b"*.log\n"), ("a.log", b"x"), ("b.log", b"x"), ("main.rs", b"fn main() {}")]);
    for folder in 0..20 {
        let path = root.path().join(format!("d{folder:02}"));
        fs::create_dir(&path).unwrap();
        for file in 0..1000 {
            fs::write(path.join(format!("f{file:03}.txt")), b"").unwrap();
        }
    }
    put(root.path(), "z/last.txt", b"");
    let listing = look(&root);
    assert!(!listing.cut_short);
    assert_eq!(listing.skipped.len(), 20_001);
    assert_eq!(listing.skipped.last().unwrap().reason, "3 more files and folders are left out");
}

#[test]
fn the_pointer_of_a_submodule_or_worktree_is_no_source() {
    let root = tree(&[("sub/.git", b"gitdir: ../.git/modules/sub\n"), ("sub/lib.rs", b"x")]);
    let listing = look(&root);
    assert_eq!(names(&listing), ["sub/lib.rs"]);
    assert_eq!(reason(&listing, "sub/.git"), "version control");
}

/// Looks at a folder that could hold the looker for ever.
fn look_in_time(folder: &Path) -> Result<FolderListing, DocumentError> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let folder = folder.to_owned();
    std::thread::spawn(move || sender.send(list(&folder, &AtomicBool::new(false))));
    receiver.recv_timeout(Duration::from_secs(10)).expect("an end")
}

#[test]
fn an_ignore_file_without_end_is_not_waited_for() {
    for name in [".gitignore", ".ignore", ".git/info/exclude", ".git"] {
        let root =
            tree(&[("sub/lib.rs", b"x"), ("main.rs", b"x"), ("shared-rules", b"*.log\n"), ("linked/a.log", b"x")]);
        // A link to a real file is as good as the file.
        symlink("../shared-rules", root.path().join("linked/.gitignore")).unwrap();
        let endless = root.path().join("sub").join(name);
        fs::create_dir_all(endless.parent().unwrap()).unwrap();
        assert!(Command::new("mkfifo").arg(&endless).status().unwrap().success());
        let listing = look_in_time(root.path()).unwrap();
        assert_eq!(names(&listing), ["main.rs", "shared-rules"], "{name}");
        assert_eq!(reason(&listing, "sub/"), "its ignore file is no file or too large", "{name}");
        assert_eq!(reason(&listing, "linked/a.log"), "ignored by an ignore file");
        for folder in ["sub", "sub/deeper"] {
            let folder = root.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            let error = look_in_time(&folder).unwrap_err();
            assert!(matches!(&error, DocumentError::Io { path, .. } if path.ends_with(name)), "{name}: {error}");
        }
    }
}
