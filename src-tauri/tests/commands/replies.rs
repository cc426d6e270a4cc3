//! Questions to the real demo model.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use reprise_app_lib::app::{App, Desktop};
use reprise_app_lib::ipc::{Advice, Ask, AttentionMode, MessageState, ReplyEvent, ReplyStats, Settings};
use reprise_app_lib::{chats, context, documents, reply, settings};
use reprise_library::chats::{self as stored, Author};
use serde_json::Value;

use crate::desk::{Bench, kind, page_channel, part, reader};

/// An answer of a few hundred tokens on a busy machine.
const ANSWERED_WITHIN: Duration = Duration::from_mins(1);

const FACTS: &str = "The blue pump moves 40 litres a minute. The red pump moves 75 litres a minute. \
                     Both pumps are serviced every 600 hours by the night shift.\n";

fn paste(bench: &Bench, chat: i32, text: &str) {
    let (channel, _messages) = page_channel();
    documents::attach_paste(&bench.app, chat, text, &channel).unwrap();
}

fn question(text: &str) -> Ask {
    Ask::Question { text: text.to_owned() }
}

fn start(bench: &Bench, chat: i32, ask: Ask) -> Receiver<Value> {
    let (channel, messages) = page_channel::<ReplyEvent>();
    reply::ask(&bench.app, chat, ask, channel).unwrap();
    messages
}

/// The next message of a kind; fails on `failed`.
fn next(messages: &Receiver<Value>, wanted: &str) -> Value {
    loop {
        let message = messages.recv_timeout(ANSWERED_WITHIN).unwrap_or_else(|_| panic!("no {wanted} in time"));
        match kind(&message) {
            found if found == wanted => return message,
            "failed" => panic!("{message}"),
            _ => {}
        }
    }
}

/// All messages of a reply to its end.
fn to_the_end(messages: &Receiver<Value>) -> Vec<Value> {
    let mut all = Vec::new();
    loop {
        let message = messages.recv_timeout(ANSWERED_WITHIN).expect("the reply ends in time");
        all.push(message);
        if matches!(all.last().map(kind), Some("done" | "failed")) {
            return all;
        }
    }
}

fn id(message: &Value) -> i32 {
    i32::try_from(message["id"].as_i64().unwrap()).unwrap()
}

fn limit_reply(bench: &Bench, tokens: u32) {
    settings::set(&bench.app, Settings { max_reply_tokens: tokens, ..bench.app.settings() }).unwrap();
}

/// From now on the model writes nonsense until it is stopped, for seconds even on a fast machine: at this temperature the
/// end of a turn is one token among thousands.
fn ramble(bench: &Bench) {
    let settings = Settings { temperature: 5.0, max_reply_tokens: 1500, ..bench.app.settings() };
    settings::set(&bench.app, settings).unwrap();
}

/// A chat with a document, and a reply in it that goes on until it is stopped.
fn rambling_reply(bench: &Bench) -> (i32, Receiver<Value>) {
    ramble(bench);
    let chat = bench.chat();
    paste(bench, chat, FACTS);
    let messages = start(bench, chat, question("Tell me everything about the pumps, one by one, at length."));
    (chat, messages)
}

#[test]
fn a_question_streams_its_answer_and_the_next_one_reads_nothing_again() {
    let bench = Bench::with_model(2048);
    limit_reply(&bench, 48);
    let chat = bench.chat();
    paste(&bench, chat, FACTS);
    chats::set_draft(&bench.app, chat, "How much does the red pump move?").unwrap();
    let before = context::measure(&bench.app, chat, "How much does the red pump move?").unwrap();
    assert!(before.prompt_tokens > before.documents[0].tokens && before.draft_tokens > 3, "{before:?}");

    let all = to_the_end(&start(&bench, chat, question("How much does the red pump move?")));
    assert_eq!(kind(&all[0]), "started");
    assert_eq!(all[0]["chat"]["messages"].as_array().unwrap().len(), 2);
    assert_eq!(
        (all[0]["chat"]["draft"].as_str(), all[0]["chat"]["documents"][0]["locked"].as_bool()),
        (Some(""), Some(true))
    );
    assert!(all.iter().any(|m| kind(m) == "prefill" && m["done"] == m["total"]), "{all:?}");
    let done = &all[all.len() - 1]["message"];
    let streamed: String = all.iter().filter(|m| kind(m) == "tokens").map(|m| m["text"].as_str().unwrap()).collect();
    let steps: Vec<&Value> =
        all.iter().filter(|m| kind(m) == "tokens").flat_map(|m| m["steps"].as_array().unwrap()).collect();
    assert!(!streamed.trim().is_empty());
    assert_eq!(done["text"].as_str(), Some(streamed.as_str()), "the page saw what is stored");
    assert_eq!(done["state"], "done");

    let stats: ReplyStats = part(done, "stats");
    assert_eq!(stats.prompt_tokens, before.prompt_tokens, "counted exactly before it was sent");
    assert_eq!(stats.decode_tokens as usize, steps.len());
    assert!(stats.decode_s > 0.0 && stats.prefill_s > 0.0 && stats.kv_bytes_exact > 0.0, "{stats:?}");
    assert_eq!(stats.sources, ["pasted-1.txt"]);
    assert!(
        steps[0]["step"]["heads"].as_str().unwrap().len() as u64 == steps[0]["step"]["headsTotal"].as_u64().unwrap()
    );

    let after = context::measure(&bench.app, chat, "And the blue one?").unwrap();
    assert!(after.cached_tokens >= stats.prompt_tokens, "{after:?}");
    assert!(after.predicted_read_s.is_some_and(|seconds| seconds < 10.0), "{after:?}");
    let all = to_the_end(&start(&bench, chat, question("And the blue one?")));
    let stats: ReplyStats = part(&all[all.len() - 1]["message"], "stats");
    assert_eq!(stats.cached_tokens, after.cached_tokens, "what was read stays read");
}

#[test]
fn stop_keeps_the_text_and_the_answer_can_go_on_and_have_versions() {
    let bench = Bench::with_model(2048);
    let (chat, messages) = rambling_reply(&bench);
    next(&messages, "tokens");
    let (other, _nothing) = page_channel();
    let busy = reply::ask(&bench.app, chat, question("Another?"), other).unwrap_err();
    assert!(busy.message.contains("still being written"), "{busy:?}");
    let asked = Instant::now();
    bench.app.stop_reply();
    let stopped = next(&messages, "done")["message"].clone();
    println!("stopped after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let first = stopped["text"].as_str().unwrap().to_owned();
    assert!(bench.app.reply().wait(ANSWERED_WITHIN));

    assert_eq!(stopped["state"], "stopped");
    limit_reply(&bench, 16);
    let all = to_the_end(&start(&bench, chat, Ask::Continue { message: id(&stopped) }));
    let whole = all[all.len() - 1]["message"].clone();
    assert_eq!(id(&whole), id(&stopped));
    assert!(whole["text"].as_str().unwrap().starts_with(&first), "{whole}");
    assert!(bench.app.reply().wait(ANSWERED_WITHIN));

    limit_reply(&bench, 8);
    let again = Ask::Again { message: id(&stopped), attention: Some(AttentionMode::Exact) };
    let all = to_the_end(&start(&bench, chat, again));
    let second = &all[all.len() - 1]["message"];
    assert_eq!((second["version"].as_i64(), second["siblings"].as_array().unwrap().len()), (Some(2), 2));
    assert_eq!(second["stats"]["attention"], "exact");
    assert!(bench.app.reply().wait(ANSWERED_WITHIN));

    let asked = chats::open(&bench.app, chat).unwrap().messages[0].id;
    let edit = Ask::Edit { message: asked, text: "Which shift services them?".to_owned() };
    to_the_end(&start(&bench, chat, edit));
    let view = chats::open(&bench.app, chat).unwrap();
    assert_eq!((view.messages.len(), view.messages[0].version), (2, 2));
    let back = chats::show_version(&bench.app, asked).unwrap();
    assert_eq!((back.messages[0].id, back.messages[1].siblings.len()), (asked, 2));
}

#[test]
fn stop_works_while_reading() {
    let bench = Bench::with_model(8192);
    let chat = bench.chat();
    paste(&bench, chat, &(1..110).map(|n| ["Item ", &n.to_string(), ". ", FACTS].concat()).collect::<String>());
    let messages = start(&bench, chat, question("What is item 7?"));
    next(&messages, "prefill");
    let asked = Instant::now();
    bench.app.stop_reply();
    let stopped = next(&messages, "done");
    println!("stopped reading after {:?}", asked.elapsed());
    assert_eq!(stopped["message"]["state"], "stopped");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_before_anything_is_stored() {
    let bench = Bench::with_model(512);
    let chat = bench.chat();
    paste(&bench, chat, &FACTS.repeat(40));
    chats::set_draft(&bench.app, chat, "What now?").unwrap();
    let counted = context::measure(&bench.app, chat, "What now?").unwrap();
    assert!(counted.prompt_tokens > counted.context_tokens, "{counted:?}");

    let (channel, messages) = page_channel();
    let error = reply::ask(&bench.app, chat, question("What now?"), channel).unwrap_err();
    let over = counted.prompt_tokens + 1 - counted.context_tokens;
    assert!(error.advice.contains(&Advice::Shorten { excess_tokens: over }), "{error:?}");
    assert!(error.advice.contains(&Advice::NewChat));
    let larger =
        error.advice.iter().find_map(|a| if let Advice::SetContext { tokens } = a { Some(*tokens) } else { None });
    assert!(larger.is_some_and(|tokens| tokens > counted.prompt_tokens), "{error:?}");
    let view = chats::open(&bench.app, chat).unwrap();
    assert_eq!((view.messages.len(), view.draft.as_str()), (0, "What now?"));
    assert!(messages.try_recv().is_err(), "nothing was told");
    assert!(bench.app.reply().wait(Duration::ZERO), "the next question may come");
}

#[test]
fn without_a_model_the_question_is_not_lost() {
    let bench = Bench::new();
    let chat = bench.chat();
    let (channel, _messages) = page_channel();
    let error = reply::ask(&bench.app, chat, question("Anyone?"), channel).unwrap_err();
    assert!(error.kept.contains("still in the box"), "{error:?}");
    assert!(chats::open(&bench.app, chat).unwrap().messages.is_empty());
}

/// The files as they are while the reply is being written are what a killed program leaves behind.
#[test]
fn a_killed_program_leaves_what_was_on_the_screen() {
    let bench = Bench::with_model(2048);
    let (chat, messages) = rambling_reply(&bench);
    let mut on_screen = String::new();
    while on_screen.len() < 20 {
        on_screen.push_str(next(&messages, "tokens")["text"].as_str().unwrap());
    }
    let left = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(bench.dir.path()).unwrap().flatten().filter(|f| f.path().is_file()) {
        std::fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
    }
    bench.app.close();

    let desk: std::sync::Arc<dyn Desktop> = bench.desk.clone();
    let again = App::new(desk, left.path(), reader()).unwrap();
    assert_eq!(again.storage_problem(), None);
    let view = chats::open(&again, chat).unwrap();
    assert_eq!(view.messages.len(), 2);
    assert_eq!(view.messages[1].state, MessageState::Stopped);
    assert!(view.messages[1].text.starts_with(&on_screen), "{:?} / {on_screen:?}", view.messages[1].text);
}

/// Text is saved with every token; that must not be what the writing waits for.
#[test]
fn saving_each_token_costs_little_of_it() {
    let bench = Bench::new();
    let (chats, chat) = (bench.app.chats(), i64::from(bench.chat()));
    let asked = chats.add(chat, None, Author::User, "Question?", stored::MessageState::Done).unwrap();
    let reply = chats.add(chat, Some(asked), Author::Assistant, "", stored::MessageState::Writing).unwrap();
    let tokens = 300;
    let began = Instant::now();
    for _ in 0..tokens {
        chats.append(reply, "a few words of text ").unwrap();
    }
    let each = began.elapsed() / tokens;
    println!("saving a token takes {each:?}");
    assert!(each < Duration::from_millis(1), "{each:?} a token, of which a second may hold hundreds");
}

/// Whatever keeps a text from being saved (a full disk, or here: its chat is gone), it stays on the screen and the
/// user hears how much of it is nowhere else.
#[test]
fn text_that_cannot_be_saved_is_told() {
    let bench = Bench::with_model(2048);
    ramble(&bench);
    // The usual seed happens to end this very answer after a few words.
    settings::set(&bench.app, Settings { seed: 2, ..bench.app.settings() }).unwrap();
    let chat = bench.chat();
    let messages = start(&bench, chat, question("Tell me something."));
    next(&messages, "tokens");
    bench.app.chats().delete(chat.into()).unwrap();
    bench.app.chats().purge(i64::MAX).unwrap();
    next(&messages, "tokens");
    next(&messages, "tokens");
    bench.app.stop_reply();
    let all = to_the_end(&messages);
    let failed = &all[all.len() - 1];
    assert_eq!(kind(failed), "failed", "{failed}");
    assert!(failed["error"]["kept"].as_str().unwrap().contains("copy them now"), "{failed}");
    assert!(bench.app.reply().wait(Duration::ZERO), "the next question may come");
}

#[test]
fn closing_stops_and_saves() {
    let bench = Bench::with_model(2048);
    let (chat, messages) = rambling_reply(&bench);
    next(&messages, "tokens");
    bench.app.close();
    let view = chats::open(&bench.app, chat).unwrap();
    assert_eq!(view.messages[1].state, MessageState::Stopped);
    assert!(view.messages[1].stats.is_some() && !view.messages[1].text.is_empty());
}

#[test]
fn a_question_beside_the_text_in_the_box_leaves_that_text_alone() {
    let bench = Bench::with_model(2048);
    limit_reply(&bench, 4);
    let chat = bench.chat();
    chats::set_draft(&bench.app, chat, "Half a question ab").unwrap();
    // A suggestion, then an earlier question asked in other words.
    let first = to_the_end(&start(&bench, chat, question("What is a pump?")));
    assert_eq!(chats::open(&bench.app, chat).unwrap().draft, "Half a question ab");
    let asked = id(&first[0]["chat"]["messages"][0]);
    to_the_end(&start(&bench, chat, Ask::Edit { message: asked, text: "What is a valve?".to_owned() }));
    assert_eq!(chats::open(&bench.app, chat).unwrap().draft, "Half a question ab");
}
