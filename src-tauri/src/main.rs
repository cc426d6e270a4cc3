//! Starts the window, unless this process was started to read a PDF.
#![cfg_attr(not(debug_assertions), windows_subsystem = "windows")]
#![forbid(unsafe_code)]

use std::process::ExitCode;

use reprise_app_lib::{environment, run};

fn main() -> ExitCode {
    reprise_library::pdf::serve_if_asked();
    environment::settle_web_view();
    if let Some(why) = environment::why_no_window() {
        eprintln!("{why}");
        return ExitCode::FAILURE;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Reprise could not open its window: {error}");
            ExitCode::FAILURE
        }
    }
}
