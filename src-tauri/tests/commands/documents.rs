//! Documents on their way into a chat.

use std::path::PathBuf;

use reprise_app_lib::{chats, documents, folders};
use serde_json::Value;

use crate::desk::{Bench, all, handbook, kind, page_channel};

fn pick(bench: &Bench, chat: i32, paths: Vec<PathBuf>) -> Vec<Value> {
    *bench.desk.documents.lock().unwrap() = Some(paths);
    let (channel, messages) = page_channel();
    documents::attach_picked(&bench.app, chat, &channel).unwrap();
    all(&messages)
}

fn outcome(messages: &[Value]) -> &Value {
    assert_eq!(messages.last().map(kind), Some("end"), "{messages:?}");
    &messages[messages.len() - 2]
}

#[test]
fn a_pdf_is_read_by_page_and_its_pages_can_be_opened() {
    let bench = Bench::new();
    let chat = bench.chat();
    let messages = pick(&bench, chat, vec![handbook()]);
    assert_eq!(kind(&messages[0]), "reading");
    let document = &outcome(&messages)["document"];
    assert_eq!((document["kind"].as_str(), document["locked"].as_bool()), (Some("pdf"), Some(false)));
    let (id, pages) = (document["id"].as_i64().unwrap(), document["pages"].as_u64().unwrap());
    assert!(pages > 5 && document["tokens"].is_null(), "{document}");

    let id = i32::try_from(id).unwrap();
    let page = documents::page(&bench.app, id, 2).unwrap();
    assert_eq!((page.page, u64::from(page.pages)), (2, pages));
    assert!(page.text.len() > 100, "{page:?}");
    assert!(documents::page(&bench.app, id, 10_000).unwrap_err().message.contains("no page 10000"));

    documents::remove(&bench.app, id).unwrap();
    assert!(chats::open(&bench.app, chat).unwrap().documents.is_empty());
}

#[test]
fn the_same_document_twice_is_refused_and_another_of_its_name_gets_its_own() {
    let bench = Bench::new();
    let chat = bench.chat();
    let (first, second) = (bench.write("a/notes.txt", b"first notes"), bench.write("b/notes.txt", b"second notes"));
    let messages = pick(&bench, chat, vec![first.clone(), first, second]);
    let ends: Vec<&Value> = messages.iter().filter(|m| kind(m) == "attached" || kind(m) == "refused").collect();
    assert_eq!(ends.iter().map(|m| kind(m)).collect::<Vec<_>>(), ["attached", "refused", "attached"]);
    assert!(ends[1]["error"]["message"].as_str().unwrap().contains("attached already"));
    assert_eq!(ends[2]["document"]["name"], "notes (2).txt");
}

#[test]
fn what_cannot_be_read_is_refused_with_words_and_the_rest_is_attached() {
    let bench = Bench::new();
    let chat = bench.chat();
    let cut = &std::fs::read(handbook()).unwrap()[..2000];
    let sources = vec![
        bench.write("broken.pdf", cut),
        bench.write("photo.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\0\0\0\0"),
        bench.dir.path().join("nowhere.txt"),
        bench.dir.path().to_owned(),
        bench.write("good.md", "# Größe\n\n42".as_bytes()),
    ];
    let messages = pick(&bench, chat, sources);
    let refused: Vec<&Value> = messages.iter().filter(|m| kind(m) == "refused").collect();
    assert_eq!(refused.len(), 4, "{messages:?}");
    for refusal in refused {
        assert!(!refusal["error"]["message"].as_str().unwrap().contains("/tmp"), "a path in {refusal}");
        assert!(!refusal["error"]["advice"].as_array().unwrap().is_empty(), "{refusal}");
    }
    assert_eq!(outcome(&messages)["document"]["name"], "good.md");
    assert_eq!(chats::open(&bench.app, chat).unwrap().documents.len(), 1);
}

#[test]
fn a_long_paste_becomes_a_document() {
    let bench = Bench::new();
    let chat = bench.chat();
    let paste = |text: &str| {
        let (channel, messages) = page_channel();
        documents::attach_paste(&bench.app, chat, text, &channel).unwrap();
        all(&messages)
    };
    let first = paste(&"fn answer() -> u32 {\n    42\n}\n".repeat(20_000));
    assert_eq!(outcome(&first)["document"]["kind"], "paste");
    let second = paste("just words");
    assert!(outcome(&second)["document"]["name"].as_str().unwrap().starts_with("pasted-2"), "{second:?}");
    let empty = paste(" \n");
    assert_eq!(kind(outcome(&empty)), "refused");
    // No scan, and nothing that text recognition would help.
    let told = outcome(&empty)["error"].to_string();
    assert!(told.contains("is empty") && !told.contains("OCR"), "{told}");
}

#[test]
fn a_drop_is_a_handle_that_works_once() {
    let bench = Bench::new();
    let chat = bench.chat();
    let dropped = bench.write("dropped.rs", b"fn main() {}\n");
    let event = tauri::WindowEvent::DragDrop(tauri::DragDropEvent::Drop {
        paths: vec![dropped],
        position: tauri::PhysicalPosition::new(0.0, 0.0),
    });
    reprise_app_lib::window::on_event(&bench.app, &event);
    let told = serde_json::to_value(&bench.desk.drops.lock().unwrap()[0]).unwrap();
    assert_eq!((told["kind"].as_str(), told["names"][0].as_str()), (Some("dropped"), Some("dropped.rs")));
    let handle = u32::try_from(told["handle"].as_u64().unwrap()).unwrap();

    let (channel, messages) = page_channel();
    documents::attach_dropped(&bench.app, chat, handle, &channel).unwrap();
    assert_eq!(outcome(&all(&messages))["document"]["kind"], "code");
    assert!(documents::attach_dropped(&bench.app, chat, handle, &channel).is_err());
}

#[test]
fn a_folder_is_listed_with_reasons_and_attached_in_its_own_order() {
    let bench = Bench::new();
    let chat = bench.chat();
    bench.write("project/src/main.rs", b"fn main() {}\n");
    bench.write("project/README.md", b"# Project\n");
    bench.write("project/build/out.o", b"\0\x01\x02");
    bench.write("project/.gitignore", b"ignored.txt\n");
    bench.write("project/ignored.txt", b"not wanted\n");
    bench.write("project/.env", b"API_KEY=abcdef0123456789abcdef0123456789\n");
    *bench.desk.folder.lock().unwrap() = Some(bench.dir.path().join("files/project"));

    let folder = folders::pick(&bench.app).unwrap().expect("picked");
    let names: Vec<&str> = folder.files.iter().map(|file| file.name.as_str()).collect();
    assert!(names.contains(&"README.md") && names.contains(&"src/main.rs"), "{names:?}");
    assert!(!names.contains(&"ignored.txt"), "{names:?}");
    assert!(folder.files.iter().filter(|file| file.name == ".env").all(|file| file.secret.is_some()), "{folder:?}");

    let (channel, messages) = page_channel();
    let wanted = ["src/main.rs".to_owned(), "README.md".to_owned(), "../../outside".to_owned()];
    folders::attach(&bench.app, chat, folder.handle, &wanted, &channel).unwrap();
    let messages = all(&messages);
    let attached: Vec<&str> =
        messages.iter().filter(|m| kind(m) == "attached").map(|m| m["document"]["name"].as_str().unwrap()).collect();
    assert_eq!(attached, ["README.md", "src/main.rs"]);
    assert!(folders::pick(&bench.app).unwrap().is_none(), "a dialog that was closed");
}

#[test]
fn cancelled_reading_is_told() {
    let bench = Bench::new();
    let chat = bench.chat();
    let (channel, messages) = page_channel();
    let reading = bench.app.reading();
    bench.app.cancel_reading();
    assert!(reading.load(std::sync::atomic::Ordering::Relaxed));
    assert!(!bench.app.reading().load(std::sync::atomic::Ordering::Relaxed), "the next reading is not cancelled");
    documents::attach_sample(&bench.app, chat, &channel).unwrap();
    assert_eq!(kind(outcome(&all(&messages))), "attached");
}

#[test]
fn what_was_not_begun_when_reading_is_cancelled_is_not_told_one_by_one() {
    let bench = Bench::new();
    let chat = bench.chat();
    let (channel, messages) = page_channel();
    let sources = (0..50).map(|number| documents::Source {
        path: bench.write(&format!("{number}.txt"), format!("text {number}").as_bytes()),
        name: None,
    });
    let stopping = sources.enumerate().map(|(at, source)| {
        if at == 3 {
            bench.app.cancel_reading();
        }
        source
    });
    documents::attach_all(&bench.app, chat, stopping, &channel);
    let messages = all(&messages);
    let count = |wanted: &str| messages.iter().filter(|message| kind(message) == wanted).count();
    assert_eq!((count("attached"), count("refused"), count("end")), (3, 0, 1), "{messages:?}");
}

#[test]
fn sources_that_are_read_at_once_get_names_of_their_own() {
    let bench = Bench::new();
    let chat = bench.chat();
    let each = 12;
    let together = std::sync::Barrier::new(2);
    std::thread::scope(|threads| {
        for half in 0..2 {
            let (bench, together) = (&bench, &together);
            threads.spawn(move || {
                for number in 0..each {
                    let path = bench.write(&format!("{half}/{number}.txt"), format!("{half} {number}").as_bytes());
                    let (channel, _messages) = page_channel();
                    together.wait();
                    let source = documents::Source { path, name: Some(format!("{number}.txt")) };
                    documents::attach_all(&bench.app, chat, std::iter::once(source), &channel);
                }
            });
        }
    });
    let attached = chats::open(&bench.app, chat).unwrap().documents;
    let names: std::collections::HashSet<&str> = attached.iter().map(|document| document.name.as_str()).collect();
    assert_eq!((attached.len(), names.len()), (2 * each, 2 * each), "{names:?}");
}

#[test]
fn documents_open_in_the_chat_on_the_screen_though_another_one_opened_later() {
    let bench = Bench::new();
    let (slow, shown) = (bench.chat(), bench.chat());
    let messages = pick(&bench, shown, vec![bench.write("notes.txt", b"notes")]);
    let id = i32::try_from(outcome(&messages)["document"]["id"].as_i64().unwrap()).unwrap();
    chats::open(&bench.app, shown).unwrap();
    // Clicked first and left again, but with more to count: the page has dropped its answer.
    chats::open(&bench.app, slow).unwrap();
    assert_eq!(documents::page(&bench.app, id, 1).unwrap().text, "notes");
    documents::remove(&bench.app, id).unwrap();
    assert!(chats::open(&bench.app, shown).unwrap().documents.is_empty());
}
