//! The environment variables the window looks at, all of them, and what must be settled before GTK starts.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folder for chats and settings in place of the desktop's own data folder.
pub const DATA_DIR: &str = "REPRISE_DATA_DIR";

/// `WebKitGTK`'s switch for passing frames through DMA-BUF.
const DMABUF_OFF: &str = "WEBKIT_DISABLE_DMABUF_RENDERER";

/// Where the X11 and the Wayland display are named.
const DISPLAYS: [&str; 2] = ["DISPLAY", "WAYLAND_DISPLAY"];

/// The user's own data folder, if they named one.
pub fn data_dir() -> Option<PathBuf> {
    std::env::var_os(DATA_DIR).filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// Why no window can open here, in words for the terminal; `None` where one can. Starts GTK, so what must be settled before
/// it must have been. Without this the window's library would panic.
pub fn why_no_window() -> Option<String> {
    display_cannot_be_opened().then(|| {
        let displays = named_displays();
        let why = if displays.is_empty() {
            "this terminal has none (DISPLAY and WAYLAND_DISPLAY are not set)".to_owned()
        } else {
            format!("the one that is named cannot be opened ({})", displays.join(", "))
        };
        format!(
            "Reprise needs a display to open its window, and {why}.\nThe same chat runs in a terminal:\n\n    reprise chat \
             --attach FILE \"your question\"\n"
        )
    })
}

/// `DISPLAY=:0` and the like, of those that are set.
fn named_displays() -> Vec<String> {
    let value = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    DISPLAYS.iter().filter_map(|name| Some(format!("{name}={}", value(name)?.to_string_lossy()))).collect()
}

#[cfg(target_os = "linux")]
fn display_cannot_be_opened() -> bool {
    gtk::init().is_err()
}

#[cfg(not(target_os = "linux"))]
fn display_cannot_be_opened() -> bool {
    false
}

/// Frames passed through DMA-BUF need a GPU and its driver: NVIDIA's leaves the window empty, and without any GPU the
/// processor draws them, through OpenGL in software, which takes the cores that the answer needs (a streaming answer
/// with the dashboard on two cores: 95 % of frames within 21 ms without, 87 ms with, and twice the tokens per second).
/// Starts this program again with that way turned off in either case, unless the user has set the switch. Starting again
/// instead of setting the variable here: changing the environment of a running process is unsound once threads exist.
pub fn settle_web_view() {
    let unfit = cfg!(target_os = "linux") && (nvidia_driver_present() || !gpu_present());
    if needs_other_renderer(std::env::var_os(DMABUF_OFF), unfit)
        && let Ok(program) = std::env::current_exe()
    {
        let mut again = Command::new(program);
        again.args(std::env::args_os().skip(1)).env(DMABUF_OFF, "1");
        replace_this_process(&mut again);
    }
}

fn needs_other_renderer(set_by_user: Option<OsString>, unfit: bool) -> bool {
    unfit && set_by_user.is_none()
}

fn nvidia_driver_present() -> bool {
    ["/proc/driver/nvidia/version", "/sys/module/nvidia"].iter().any(|path| Path::new(path).exists())
}

/// A render node is what a program draws on without owning the screen.
fn gpu_present() -> bool {
    let Ok(devices) = std::fs::read_dir("/dev/dri") else { return false };
    devices.flatten().any(|device| device.file_name().to_string_lossy().starts_with("renderD"))
}

/// Returns only if the start failed; the window then opens as it is, which is better than not at all.
#[cfg(target_os = "linux")]
fn replace_this_process(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let failure = command.exec();
    eprintln!("reprise: could not start again with {DMABUF_OFF}=1: {failure}");
}

#[cfg(not(target_os = "linux"))]
fn replace_this_process(_command: &mut Command) {}

#[cfg(test)]
mod tests {
    use super::needs_other_renderer;

    #[test]
    fn what_the_user_set_stands() {
        assert!(needs_other_renderer(None, true));
        assert!(!needs_other_renderer(Some("0".into()), true));
        assert!(!needs_other_renderer(Some("1".into()), true));
        assert!(!needs_other_renderer(None, false));
    }
}
