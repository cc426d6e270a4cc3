//! What a person at a terminal sees: a pseudo terminal in place of pipes.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use std::thread::JoinHandle;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

use crate::run::{demo_model, json_lines, reprise};

/// A terminal with somebody who reads along.
struct Terminal {
    keyboard: File,
    line: File,
    screen: JoinHandle<Vec<u8>>,
}

impl Terminal {
    fn new() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let line = File::options().read(true).write(true).open(name).unwrap();
        let keyboard = File::from(master);
        let mut output = keyboard.try_clone().unwrap();
        let screen = std::thread::spawn(move || {
            let mut seen = Vec::new();
            // Ends with an error when the last program has let go of the terminal.
            let _ = output.read_to_end(&mut seen);
            seen
        });
        Self { keyboard, line, screen }
    }

    fn side(&self) -> Stdio {
        self.line.try_clone().unwrap().into()
    }

    /// Everything that came, after all programs have ended.
    fn seen(self) -> String {
        let Self { keyboard, line, screen } = self;
        drop(line);
        let seen = screen.join().unwrap();
        drop(keyboard);
        String::from_utf8(seen).unwrap()
    }
}

#[test]
fn a_conversation_shows_what_failed_and_nothing_that_a_model_makes_the_terminal_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("named.gguf");
    let mut model = std::fs::read(demo_model()).unwrap();
    let name = b"Reprise demo model";
    let at = model.windows(name.len()).position(|window| window == name).unwrap();
    model[at..at + name.len()].copy_from_slice(b"A\x1b]0;new title\x07 mo");
    std::fs::write(&path, model).unwrap();

    let mut terminal = Terminal::new();
    let mut command = reprise(&["chat", "--json", "--context", "2K", "--model", path.to_str().unwrap()]);
    command.env("TERM", "xterm").stdin(terminal.side()).stderr(terminal.side()).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    drop(command);
    // The last one is the end of input.
    terminal.keyboard.write_all(b"/attach no/such/file\n\x04").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "a person has seen what was wrong");
    let lines = json_lines(&output);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["event"], "error");
    let seen = terminal.seen();
    assert!(seen.contains("reprise: cannot read no/such/file"), "{seen:?}");
    assert!(seen.contains("A\u{fffd}]0;new title\u{fffd} mo on CPU"), "{seen:?}");
    assert!(seen.ends_with("> \r\n"), "the shell's prompt begins on a line of its own: {seen:?}");
    // Wrapped, a status could not be taken away again.
    assert!(seen.contains("\r\x1b[K\x1b[?7lloading the model"), "{seen:?}");
    assert_eq!(seen.matches("\x1b[?7l").count(), seen.matches("\x1b[?7h").count());
}

#[test]
fn lines_of_json_stay_whole_on_a_terminal() {
    let terminal = Terminal::new();
    let mut command = reprise(&["chat", "--json", "--context", "2K", "--max-tokens", "4", "Hello"]);
    command.env("TERM", "xterm").stderr(terminal.side()).stdout(terminal.side());
    let mut child = command.spawn().unwrap();
    drop(command);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let seen = terminal.seen();
    let events = seen.lines().filter(|line| line.contains("\"event\""));
    let events: Vec<Value> = events
        .map(|line| {
            // What was shown before is gone from the screen.
            let left = line.rsplit("\x1b[K").next().unwrap();
            serde_json::from_str(left).unwrap_or_else(|e| panic!("{e} in {line:?}"))
        })
        .collect();
    assert_eq!(events.first().unwrap()["event"], "prefill");
    assert_eq!(events.last().unwrap()["event"], "done");
}

#[test]
fn a_terminal_that_knows_no_codes_gets_none() {
    let terminal = Terminal::new();
    let mut command = reprise(&["chat", "--context", "2K", "--max-tokens", "4", "Hello"]);
    command.env("TERM", "dumb").stderr(terminal.side()).stdout(terminal.side());
    let mut child = command.spawn().unwrap();
    drop(command);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let seen = terminal.seen();
    assert!(!seen.contains('\x1b') && seen.contains("tokens"), "{seen:?}");
}
