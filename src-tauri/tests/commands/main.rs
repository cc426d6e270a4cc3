//! The shell without a display: commands through Tauri's own border on its mock runtime, documents through the real
//! reader process, replies from the real demo model.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what goes wrong here must fail the test")]

mod chats;
mod desk;
mod devices;
mod documents;
mod page;
mod replies;
#[cfg(target_os = "linux")]
mod start;
