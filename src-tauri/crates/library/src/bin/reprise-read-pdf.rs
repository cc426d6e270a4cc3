//! The PDF reader as a process of its own; the product's binaries carry the same entry.

fn main() -> std::process::ExitCode {
    reprise_library::pdf::serve_if_asked();
    eprintln!("reprise-read-pdf is started by Reprise and has no use of its own");
    std::process::ExitCode::from(2)
}
