//! A conversation, line by line: questions and a few commands.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use super::session::Session;
use super::summary;
use crate::args::AttentionMode;
use crate::attach;
use crate::failure::Failure;
use crate::figures::grouped;
use crate::output::remark;

const HELP: &str = "\
/attach PATH            add a PDF, text file or folder to the next question
/detach                 drop the documents that were not sent yet
/attention mac|exact    reuse earlier attention results, or read everything at every step
/stats                  figures of the last answer
/help                   this list
/quit                   end (so does end of input)
Ctrl-C stops an answer and keeps what was written; a second one quits.";

/// A line that begins with `/`.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Help,
    Attach(PathBuf),
    Detach,
    Attention(AttentionMode),
    Stats,
    Quit,
}

/// Reads questions until the end of input. A question that fails is reported and the conversation goes on; if input is
/// not from a person, the failure decides the exit code.
pub(crate) fn run(session: &mut Session) -> Result<(), Failure> {
    let person = std::io::stdin().is_terminal();
    if person {
        let info = session.engine().info();
        remark(&format!(
            "{} on {}, context {} tokens. /help lists the commands.",
            info.name,
            info.device,
            grouped(info.context_tokens as u64)
        ));
    }
    let mut first_failure = None;
    let mut input = std::io::stdin().lock();
    loop {
        session.interrupt.wait();
        if person {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "> ");
            let _ = stderr.flush();
        }
        let mut bytes = Vec::new();
        match input.read_until(b'\n', &mut bytes) {
            Ok(0) => {
                if person {
                    remark("");
                }
                break;
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::Usage(format!("cannot read the question: {error}"))),
        }
        session.interrupt.work();
        let text = String::from_utf8_lossy(&bytes);
        let done = match parse(text.trim()) {
            Ok(None) => Ok(true),
            Ok(Some(Line::Question(question))) => session.ask(question).map(|()| true),
            Ok(Some(Line::Command(command))) => obey(session, command),
            Err(wrong) => Err(Failure::Usage(wrong)),
        };
        match done {
            Ok(true) => {}
            Ok(false) => break,
            Err(failure @ (Failure::PipeClosed | Failure::Output(_))) => return Err(failure),
            Err(Failure::Interrupted) => remark("stopped"),
            Err(failure) => {
                failure.report(session.json());
                if !person {
                    first_failure.get_or_insert(failure.exit_code());
                }
            }
        }
    }
    match first_failure {
        None => Ok(()),
        Some(code) => Err(Failure::Reported(code)),
    }
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Question(&'a str),
    Command(Command),
}

fn parse(line: &str) -> Result<Option<Line<'_>>, String> {
    if line.is_empty() {
        return Ok(None);
    }
    let Some(command) = line.strip_prefix('/') else {
        return Ok(Some(Line::Question(line)));
    };
    let (word, rest) =
        command.split_once(char::is_whitespace).map_or((command, ""), |(word, rest)| (word, rest.trim()));
    let command = match (word, rest) {
        ("help", "") => Command::Help,
        ("detach", "") => Command::Detach,
        ("stats", "") => Command::Stats,
        ("quit" | "exit", "") => Command::Quit,
        ("attach", path) if !path.is_empty() => Command::Attach(unquoted(path).into()),
        ("attach", _) => return Err("/attach needs a path".to_owned()),
        ("attention", "mac") => Command::Attention(AttentionMode::Mac),
        ("attention", "exact") => Command::Attention(AttentionMode::Exact),
        ("attention", _) => return Err("/attention takes mac or exact".to_owned()),
        _ => return Err(format!("unknown command /{command}; /help lists them")),
    };
    Ok(Some(Line::Command(command)))
}

/// A path as a terminal drops it: possibly in quotes.
fn unquoted(path: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = path.strip_prefix(quote).and_then(|p| p.strip_suffix(quote)) {
            return inner;
        }
    }
    path
}

/// Returns whether the conversation goes on.
fn obey(session: &mut Session, command: Command) -> Result<bool, Failure> {
    match command {
        Command::Help => remark(HELP),
        Command::Attach(path) => {
            for document in attach::read(&path, session.interrupt.flag())? {
                let tokens = session.document_tokens(&document)?;
                remark(&format!("attached {}: {} tokens", document.name, grouped(tokens as u64)));
                session.waiting.push(document);
            }
        }
        Command::Detach => {
            remark(&format!("{} documents dropped", session.waiting.len()));
            session.waiting.clear();
        }
        Command::Attention(mode) => {
            session.reuse.mode = mode;
            remark(match mode {
                AttentionMode::Mac => "attention: reuse where a past query was close enough",
                AttentionMode::Exact => "attention: exact",
            });
        }
        Command::Stats => match &session.last {
            Some(figures) => remark(&summary::table(figures, session.reuse.min_context())),
            None => remark("no answer yet"),
        },
        Command::Quit => return Ok(false),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_questions_unless_they_begin_with_a_slash() {
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse("why / how?"), Ok(Some(Line::Question("why / how?"))));
        assert_eq!(parse("/quit"), Ok(Some(Line::Command(Command::Quit))));
        assert_eq!(parse("/attention exact"), Ok(Some(Line::Command(Command::Attention(AttentionMode::Exact)))));
    }

    #[test]
    fn paths_keep_their_blanks_and_lose_their_quotes() {
        for line in ["/attach a b.pdf", "/attach 'a b.pdf'", "/attach   \"a b.pdf\""] {
            assert_eq!(parse(line), Ok(Some(Line::Command(Command::Attach("a b.pdf".into())))), "{line}");
        }
    }

    #[test]
    fn wrong_commands_are_told_and_never_sent_as_questions() {
        for line in ["/", "/atach x", "/attach", "/attention fast", "/quit now"] {
            assert!(parse(line).is_err(), "{line:?} must be refused");
        }
    }
}
