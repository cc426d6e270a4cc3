//! The program where no window can open.

use std::process::Command;

/// Exit code and what was said.
fn start(display: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_reprise-app"))
        .env("DISPLAY", display)
        .env_remove("WAYLAND_DISPLAY")
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_display_that_is_missing_or_gone_is_told_in_words() {
    for (display, why) in [("", "this terminal has none"), (":9876", "cannot be opened (DISPLAY=:9876)")] {
        let (code, said) = start(display);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(why) && said.contains("reprise chat --attach FILE"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}
