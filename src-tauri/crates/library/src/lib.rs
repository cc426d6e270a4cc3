//! What surrounds a chat: documents as text with a source map, the prompt they make, models on disk, chats in `SQLite`.
//!
//! Headless, and knows no model arithmetic. Files are untrusted: a PDF is read in a child process ([`pdf`]), sizes are
//! bounded, and everything that could not be read is reported, never dropped in silence. Nothing here uses the network.

pub mod chats;
pub mod documents;
pub mod folder;
pub mod models;
pub mod pdf;
pub mod prompt;
