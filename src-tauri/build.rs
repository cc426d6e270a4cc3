//! Generates the window's context: configuration, capabilities, icons and the built page.

fn main() {
    tauri_build::build();
}
