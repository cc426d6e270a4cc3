use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::documents::{Document, DocumentKind, Page, ReadReport, from_paste};

fn store() -> (TempDir, ChatStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = ChatStore::open(&folder.path().join("chats.sqlite")).unwrap();
    (folder, store)
}

fn file(folder: &TempDir) -> PathBuf {
    folder.path().join("chats.sqlite")
}

fn say(store: &ChatStore, chat: i64, parent: Option<i64>, author: Author, text: &str) -> i64 {
    store.add(chat, parent, author, text, MessageState::Done).unwrap()
}

fn texts(store: &ChatStore, chat: i64) -> Vec<String> {
    store.branch(chat).unwrap().into_iter().map(|m| m.text).collect()
}

fn count(store: &ChatStore, sql: &str) -> i64 {
    store.read(|db| Ok(db.query_row(sql, [], |r| r.get(0))?)).unwrap()
}

#[test]
fn what_is_said_is_there_after_reopening() {
    let (folder, store) = store();
    let chat = store.create().unwrap();
    let question = say(&store, chat, None, Author::User, "What is a bridge?\nIn short.");
    let reply = store.add(chat, Some(question), Author::Assistant, "", MessageState::Writing).unwrap();
    for piece in ["A bridge ", "spans ", "a gap."] {
        store.append(reply, piece).unwrap();
    }
    assert_eq!(texts(&store, chat)[1], "A bridge spans a gap.", "also while it is being written");
    store.finish(reply, MessageState::Done, Some("{\"tok_s\":9}")).unwrap();
    store.set_draft(chat, "and a tun").unwrap();
    store.set_setting("theme", "dark").unwrap();
    store.set_setting("theme", "light").unwrap();
    store.set_chat_setting(chat, "system", "Be brief.").unwrap();
    drop(store);

    let store = ChatStore::open(&file(&folder)).unwrap();
    let rows = store.list().unwrap();
    assert_eq!((rows.len(), rows[0].title.as_str(), rows[0].messages), (1, "What is a bridge?", 2));
    let branch = store.branch(chat).unwrap();
    assert_eq!(branch[1].text, "A bridge spans a gap.");
    assert_eq!(branch[1].state, MessageState::Done);
    assert_eq!(branch[1].stats_json.as_deref(), Some("{\"tok_s\":9}"));
    assert_eq!(branch[1].parent, Some(question));
    assert_eq!(store.draft(chat).unwrap(), "and a tun");
    assert_eq!(store.setting("theme").unwrap().as_deref(), Some("light"));
    assert_eq!(store.setting("none").unwrap(), None);
    assert_eq!(store.chat_setting(chat, "system").unwrap().as_deref(), Some("Be brief."));
    assert_eq!(count(&store, "SELECT count(*) FROM pieces"), 0);
}

#[test]
fn versions_branch_and_come_back() {
    let (_folder, store) = store();
    let chat = store.create().unwrap();
    let q1 = say(&store, chat, None, Author::User, "q1");
    let a1 = say(&store, chat, Some(q1), Author::Assistant, "a1");
    let q2 = say(&store, chat, Some(a1), Author::User, "q2");
    say(&store, chat, Some(q2), Author::Assistant, "a2");
    // Another answer to the first question, and another first question.
    let a1b = say(&store, chat, Some(q1), Author::Assistant, "a1b");
    assert_eq!(texts(&store, chat), ["q1", "a1b"]);
    let q1b = say(&store, chat, None, Author::User, "q1b");
    assert_eq!(texts(&store, chat), ["q1b"]);
    assert_eq!(store.list().unwrap()[0].messages, 1);

    store.show_version(q1).unwrap();
    let branch = store.branch(chat).unwrap();
    assert_eq!((branch[0].version, branch[0].siblings.clone()), ((1, 2), vec![q1, q1b]));
    assert_eq!((branch[1].version, branch[1].siblings.clone()), ((2, 2), vec![a1, a1b]));
    store.show_version(a1).unwrap();
    assert_eq!(texts(&store, chat), ["q1", "a1", "q2", "a2"], "the branch below comes back with it");
    assert_eq!(store.list().unwrap()[0].messages, 4);
}

#[test]
fn what_is_not_there_is_told_and_changes_nothing() {
    let (_folder, store) = store();
    let (one, two) = (store.create().unwrap(), store.create().unwrap());
    let message = say(&store, one, None, Author::User, "q");
    let is_missing =
        |result: Result<(), ChatError>| assert!(matches!(result, Err(ChatError::NotFound { .. })), "{result:?}");
    is_missing(store.add(99, None, Author::User, "x", MessageState::Done).map(drop));
    is_missing(store.add(two, Some(message), Author::User, "parent of another chat", MessageState::Done).map(drop));
    is_missing(store.append(message, "not being written"));
    is_missing(store.finish(99, MessageState::Done, None));
    is_missing(store.show_version(99));
    is_missing(store.branch(99).map(drop));
    is_missing(store.rename(99, "x"));
    is_missing(store.delete(99));
    is_missing(store.draft(99).map(drop));
    is_missing(store.detach(99));
    is_missing(store.resume(message));
    assert_eq!(count(&store, "SELECT count(*) FROM messages"), 1);
}

#[test]
fn a_stopped_reply_can_be_continued() {
    let (_folder, store) = store();
    let chat = store.create().unwrap();
    let question = say(&store, chat, None, Author::User, "q");
    let reply = store.add(chat, Some(question), Author::Assistant, "", MessageState::Writing).unwrap();
    store.append(reply, "first ").unwrap();
    store.finish(reply, MessageState::Stopped, None).unwrap();
    assert!(store.append(reply, "x").is_err());
    store.resume(reply).unwrap();
    store.append(reply, "second").unwrap();
    store.finish(reply, MessageState::Done, None).unwrap();
    assert_eq!(texts(&store, chat)[1], "first second");
}

#[test]
fn delete_can_be_undone_until_purged() {
    let (_folder, store) = store();
    let kept = store.create().unwrap();
    let chat = store.create().unwrap();
    say(&store, chat, None, Author::User, "the violet elephant");
    store.attach(chat, &from_paste("secret text", 1)).unwrap();
    store.delete(chat).unwrap();
    assert_eq!(store.list().unwrap().iter().map(|r| r.id).collect::<Vec<_>>(), [kept]);
    assert!(store.search("violet").unwrap().is_empty());
    store.undelete(chat).unwrap();
    assert_eq!(store.search("violet").unwrap().len(), 1);

    store.delete(chat).unwrap();
    assert_eq!(store.purge(now_ms() - 60_000).unwrap(), 0, "deleted a moment ago");
    assert_eq!(store.deleted_before(now_ms() + 1).unwrap(), [chat]);
    assert_eq!(store.purge(now_ms() + 1).unwrap(), 1);
    for table in ["messages", "attachments", "contents"] {
        assert_eq!(count(&store, &format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
    assert!(store.create().unwrap() > chat, "ids are not used twice");
}

#[test]
fn purged_text_is_gone_from_the_file() {
    let (folder, store) = store();
    let chat = store.create().unwrap();
    say(&store, chat, None, Author::User, "unmistakablesecretword");
    store.attach(chat, &from_paste("anothersecretword in a document", 1)).unwrap();
    store.delete(chat).unwrap();
    store.purge(now_ms() + 1).unwrap();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        // Shared memory, not a file of text.
        if path.to_string_lossy().ends_with("-shm") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        for secret in [&b"unmistakablesecretword"[..], b"anothersecretword"] {
            assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{}", path.display());
        }
    }
}

#[test]
fn search_finds_words_prefixes_parts_and_other_scripts() {
    let (_folder, store) = store();
    let bridge = store.create().unwrap();
    let q = say(&store, bridge, None, Author::User, "Who built the Café bridge?");
    say(&store, bridge, Some(q), Author::Assistant, "It was built by a guild of carpenters in 1902, says page 12.");
    let other = store.create().unwrap();
    say(&store, other, None, Author::User, "函数在哪里定义？");
    store.rename(other, "Carpentry notes").unwrap();

    let find = |query: &str| store.search(query).unwrap().into_iter().map(|(row, _)| row.id).collect::<Vec<_>>();
    assert_eq!(find("carpenters guild"), [bridge]);
    assert_eq!(find("CAFE"), [bridge], "case and accents do not count");
    assert_eq!(find("carpent"), [other, bridge], "titles first, prefixes count");
    assert_eq!(find("arpenter"), [bridge], "part of a word");
    assert_eq!(find("哪里"), [other]);
    assert!(find("carpenters elephant").is_empty());
    let (_, snippet) = store.search("1902").unwrap().remove(0);
    assert!(snippet.contains("1902"), "{snippet}");
    // Nothing of FTS5's language, and no wildcard, gets through.
    for query in ["\"", "a OR", "*", "(", "NEAR(", "-x", "100%", "_", "'; DROP TABLE chats; --", "text:x", "^a", "\0"] {
        store.search(query).unwrap();
    }
    assert!(find("%").is_empty());
    store.rename(other, "Another").unwrap();
    assert_eq!(find("carpentry"), Vec::<i64>::new(), "the old title is forgotten");
}

#[test]
fn a_query_of_any_length_is_looked_for() {
    let (_folder, store) = store();
    let chat = store.create().unwrap();
    let words: String = (0..20_000).flat_map(|i| [i.to_string(), " ".to_owned()]).collect();
    let run = "xy".repeat(40_000);
    say(&store, chat, None, Author::User, &format!("{words} un{run}"));
    let find = |query: &str| store.search(query).map(|found| found.len());
    let start = Instant::now();
    assert_eq!(find(&words).unwrap(), 1, "a whole pasted text");
    assert_eq!(find(&"77 ".repeat(20_000)).unwrap(), 1);
    assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
    assert_eq!(find(&format!("19 {words} absent 19")).unwrap(), 1, "of a long query the first words count");
    assert_eq!(find("19 1999 absent 19").unwrap(), 0);
    assert_eq!(find("199 1999 199").unwrap(), 1);
    assert_eq!(find(&run.to_uppercase()).unwrap(), 1, "letter by letter");
    assert_eq!(find(&format!("{run}z")).unwrap(), 0);
}

#[test]
fn equal_documents_are_kept_once_and_go_with_the_last_chat() {
    let (_folder, store) = store();
    let (one, two) = (store.create().unwrap(), store.create().unwrap());
    let paste: Document = from_paste("shared text\n", 1);
    let other = from_paste("other text", 2);
    let first = store.attach(one, &paste).unwrap();
    store.attach(one, &other).unwrap();
    let shared = store.attach(two, &Document { name: "renamed.txt".into(), ..paste.clone() }).unwrap();
    assert_eq!(count(&store, "SELECT count(*) FROM contents"), 2);
    assert_eq!(store.documents(one).unwrap().into_iter().map(|(_, d)| d).collect::<Vec<_>>(), [paste.clone(), other]);
    assert_eq!(store.documents(two).unwrap()[0].1.name, "renamed.txt");

    store.detach(first).unwrap();
    assert_eq!(store.documents(one).unwrap().len(), 1);
    assert_eq!(count(&store, "SELECT count(*) FROM contents"), 2, "the other chat still holds it");
    store.detach(shared).unwrap();
    assert_eq!(count(&store, "SELECT count(*) FROM contents"), 1);

    let kept = store.documents(one).unwrap()[0].0;
    say(&store, one, None, Author::User, "begun");
    assert!(matches!(store.detach(kept), Err(ChatError::InUse { .. })));
}

#[test]
fn a_chat_of_a_thousand_messages_opens_fast() {
    let (_folder, store) = store();
    let chat = store.create().unwrap();
    let long = "word ".repeat(400);
    store
        .write(Durability::Process, |db| {
            for i in 1..=1000_i64 {
                let parent = (i > 1).then_some(i - 1);
                db.execute(
                    "INSERT INTO messages (id, chat, parent, author, state, shown, text, created_ms) VALUES (?1, ?2, ?3, ?4, 0, 1, ?5, 0)",
                    params![i, chat, parent, (i + 1) % 2, long],
                )?;
            }
            Ok(())
        })
        .unwrap();
    let start = Instant::now();
    let branch = store.branch(chat).unwrap();
    let took = start.elapsed();
    assert_eq!(branch.len(), 1000);
    assert!(took.as_millis() < 50, "{took:?}");
}

#[test]
fn a_chat_of_any_length_can_be_erased() {
    let (_folder, store) = store();
    let kept = store.create().unwrap();
    say(&store, kept, None, Author::User, "stays");
    let long = store.create().unwrap();
    store
        .write(Durability::Process, |db| {
            let mut parent = None;
            for i in 0..3000_i64 {
                db.execute(
                    "INSERT INTO messages (chat, parent, author, state, shown, text, created_ms) VALUES (?1, ?2, ?3, 0, 1, 'violet', 0)",
                    params![long, parent, i % 2],
                )?;
                parent = Some(db.last_insert_rowid());
            }
            Ok(())
        })
        .unwrap();
    store.delete(long).unwrap();
    assert_eq!(store.purge(now_ms() + 1).unwrap(), 1);
    assert_eq!(count(&store, "SELECT count(*) FROM messages"), 1);
    assert_eq!(count(&store, "SELECT count(*) FROM message_words WHERE message_words MATCH 'violet'"), 0);
    assert_eq!(texts(&store, kept), ["stays"]);
}

#[test]
fn a_full_disk_is_told_and_changes_nothing() {
    let (folder, store) = store();
    let chat = store.create().unwrap();
    let question = say(&store, chat, None, Author::User, "small");
    let reply = store.add(chat, Some(question), Author::Assistant, "", MessageState::Writing).unwrap();
    store.append(reply, "kept").unwrap();
    let limit = |pages: i64| {
        store.read(|db| Ok(db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?)).unwrap();
    };
    limit(count(&store, "PRAGMA page_count"));
    let big = "x y z ".repeat(100_000);
    let is_full =
        |result: Result<(), ChatError>| assert!(matches!(result, Err(ChatError::DiskFull { .. })), "{result:?}");
    is_full(store.add(chat, Some(reply), Author::User, &big, MessageState::Done).map(drop));
    is_full(store.append(reply, &big));
    is_full(store.attach(chat, &from_paste(&big, 1)).map(drop));
    is_full(store.set_draft(chat, &big));
    is_full(store.set_setting("k", &big));

    assert_eq!(texts(&store, chat), ["small", "kept"], "the shown branch is as it was");
    assert!(store.documents(chat).unwrap().is_empty());
    limit(1 << 30);
    store.finish(reply, MessageState::Done, None).unwrap();
    drop(store);
    let store = ChatStore::open(&file(&folder)).unwrap();
    assert_eq!(texts(&store, chat), ["small", "kept"]);
    assert_eq!(count(&store, "SELECT count(*) FROM contents"), 0);
}

#[test]
fn a_file_whose_log_could_not_be_copied_into_it_is_not_damaged() {
    let (folder, store) = store();
    let chat = store.create().unwrap();
    let first = say(&store, chat, None, Author::User, &"first ".repeat(2000));
    say(&store, chat, Some(first), Author::Assistant, "second");
    let log = fs::read(folder.path().join("chats.sqlite-wal")).unwrap();
    drop(store);
    let whole = fs::read(file(&folder)).unwrap();

    // As a full disk leaves it: the header counts pages that are in the log only.
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("chats.sqlite"), &whole[..4096]).unwrap();
    fs::write(other.path().join("chats.sqlite-wal"), log).unwrap();
    let store = ChatStore::open(&file(&other)).unwrap();
    assert_eq!(texts(&store, chat)[1], "second");
}

#[test]
fn replies_that_a_full_disk_left_unstopped_are_shown_as_stopped() {
    let (_folder, mut store) = store();
    let chat = store.create().unwrap();
    let question = say(&store, chat, None, Author::User, "q");
    let reply = store.add(chat, Some(question), Author::Assistant, "", MessageState::Writing).unwrap();
    store.append(reply, "half").unwrap();
    assert_eq!(store.branch(chat).unwrap()[1].state, MessageState::Writing);
    store.unstopped_through = reply;
    let branch = store.branch(chat).unwrap();
    assert_eq!((branch[1].state, branch[1].text.as_str()), (MessageState::Stopped, "half"));
}

#[test]
fn damaged_files_are_refused_and_left_as_they_are() {
    let (folder, store) = store();
    let chat = store.create().unwrap();
    let mut last = None;
    for i in 0..50 {
        last = Some(say(&store, chat, last, Author::User, &format!("message {i} {}", "words ".repeat(100))));
    }
    drop(store);
    let good = fs::read(file(&folder)).unwrap();
    assert!(good.len() > 20 * 4096, "several pages: {}", good.len());

    let mut overwritten = good.clone();
    for page in 3..12 {
        overwritten[page * 4096..page * 4096 + 2000].fill(0x5a);
    }
    let cases: [(&str, Vec<u8>); 4] = [
        ("text", b"this is not a database, it is a letter".to_vec()),
        ("short", good[..4096 * 3 + 17].to_vec()),
        ("head", good[..40].to_vec()),
        ("overwritten", overwritten),
    ];
    for (name, bytes) in cases {
        let path = folder.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let error = ChatStore::open(&path).unwrap_err();
        assert!(matches!(error, ChatError::Damaged { .. }), "{name}: {error}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "{name}");
    }
}

#[test]
fn foreign_and_newer_files_are_refused() {
    let (folder, store) = store();
    drop(store);
    Connection::open(file(&folder)).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(file(&folder)).unwrap();
    let error = ChatStore::open(&file(&folder)).unwrap_err();
    assert!(matches!(error, ChatError::TooNew { found: 99, supported: 1, .. }), "{error}");
    assert_eq!(fs::read(file(&folder)).unwrap(), before);

    let foreign = folder.path().join("foreign.sqlite");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE bookmarks (x)").unwrap();
    assert!(matches!(ChatStore::open(&foreign), Err(ChatError::Damaged { .. })));
}

#[test]
fn a_migration_keeps_the_chats_and_leaves_a_copy_of_before() {
    let (folder, store) = store();
    let chat = store.create().unwrap();
    say(&store, chat, None, Author::User, "old");
    drop(store);
    let next = [open::MIGRATIONS, &["ALTER TABLE chats ADD COLUMN colour TEXT"]].concat();
    let store = ChatStore::open_with(&file(&folder), &next).unwrap();
    assert_eq!(texts(&store, chat), ["old"]);
    assert_eq!(count(&store, "SELECT count(*) FROM pragma_table_info('chats') WHERE name = 'colour'"), 1);
    drop(store);

    let copy = folder.path().join("chats.sqlite.v1.bak");
    assert_eq!(mode(&copy), 0o600);
    let store = ChatStore::open(&copy).unwrap();
    assert_eq!(texts(&store, chat), ["old"], "the copy opens with the old version");
    drop(store);

    let broken =
        [open::MIGRATIONS, &["ALTER TABLE chats ADD COLUMN colour TEXT", "CREATE TABLE t (x); NONSENSE"]].concat();
    assert!(ChatStore::open_with(&file(&folder), &broken).is_err());
    let store = ChatStore::open_with(&file(&folder), &next).unwrap();
    assert_eq!(count(&store, "SELECT count(*) FROM sqlite_schema WHERE name = 't'"), 0, "half a step is no step");
}

#[test]
fn a_copy_before_a_migration_goes_where_the_file_is_whatever_its_name() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(std::ffi::OsStr::from_bytes(b"ch\xffats.sqlite"));
    let store = ChatStore::open(&path).unwrap();
    let chat = store.create().unwrap();
    say(&store, chat, None, Author::User, "old");
    drop(store);
    let next = [open::MIGRATIONS, &["ALTER TABLE chats ADD COLUMN colour TEXT"]].concat();
    drop(ChatStore::open_with(&path, &next).unwrap());

    let copy = folder.path().join(std::ffi::OsStr::from_bytes(b"ch\xffats.sqlite.v1.bak"));
    assert_eq!(texts(&ChatStore::open(&copy).unwrap(), chat), ["old"]);
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        assert!(path.as_os_str().as_bytes().contains(&0xff), "{}", path.display());
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn only_the_owner_can_read_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/data/chats.sqlite");
    let store = ChatStore::open(&path).unwrap();
    store.create().unwrap();
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    drop(store);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    ChatStore::open(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn unfinished_replies_are_stopped_unless_another_store_writes_them() {
    let (folder, store) = store();
    let chat = store.create().unwrap();
    let question = say(&store, chat, None, Author::User, "q");
    let reply = store.add(chat, Some(question), Author::Assistant, "", MessageState::Writing).unwrap();
    store.append(reply, "half").unwrap();
    assert!(store.is_sole_user());

    let second = ChatStore::open(&file(&folder)).unwrap();
    assert!(!second.is_sole_user());
    assert_eq!(second.branch(chat).unwrap()[1].state, MessageState::Writing);
    store.append(reply, " a sentence").unwrap();
    drop(store);
    drop(second);

    let store = ChatStore::open(&file(&folder)).unwrap();
    let branch = store.branch(chat).unwrap();
    assert_eq!((branch[1].state, branch[1].text.as_str()), (MessageState::Stopped, "half a sentence"));
}

#[test]
fn a_reply_is_left_alone_while_any_other_store_is_open() {
    let (folder, first) = store();
    let second = ChatStore::open(&file(&folder)).unwrap();
    let chat = second.create().unwrap();
    let question = say(&second, chat, None, Author::User, "q");
    let reply = second.add(chat, Some(question), Author::Assistant, "", MessageState::Writing).unwrap();
    second.append(reply, "half").unwrap();
    drop(first);

    let third = ChatStore::open(&file(&folder)).unwrap();
    assert!(!third.is_sole_user());
    assert_eq!(third.branch(chat).unwrap()[1].state, MessageState::Writing);
    second.append(reply, " a sentence").unwrap();
    second.finish(reply, MessageState::Done, None).unwrap();
    drop(second);
    drop(third);
    assert!(ChatStore::open(&file(&folder)).unwrap().is_sole_user());
}

#[test]
fn an_exported_chat_comes_back_whole() {
    let (_folder, store) = store();
    let chat = store.create().unwrap();
    store.attach(chat, &from_paste("fn main() {}\n", 1)).unwrap();
    let q = say(&store, chat, None, Author::User, "q");
    let a = say(&store, chat, Some(q), Author::Assistant, "a");
    say(&store, chat, Some(q), Author::Assistant, "b");
    store.show_version(a).unwrap();
    store.finish(a, MessageState::Done, Some("{}")).unwrap();

    let copy = store.import(&store.export(chat).unwrap()).unwrap();
    assert_ne!(copy, chat);
    let plain = |chat: i64| -> Vec<_> {
        let branch = store.branch(chat).unwrap();
        branch.into_iter().map(|m| (m.author, m.text, m.state, m.stats_json, m.version)).collect()
    };
    assert_eq!(plain(copy), plain(chat));
    let documents = |chat: i64| store.documents(chat).unwrap().into_iter().map(|(_, d)| d).collect::<Vec<_>>();
    assert_eq!(documents(copy), documents(chat));

    let before = store.list().unwrap().len();
    let head = "{\"reprise_chat\":1,\"title\":\"t\",\"created_ms\":0,\"documents\":[],\"messages\":";
    let message = "{\"id\":1,\"parent\":null,\"author\":\"user\",\"state\":\"done\",\"shown\":true,\"text\":\"\",\"created_ms\":0}";
    for bad in [
        "{}".to_owned(),
        "[1]".to_owned(),
        format!("{head}[{}]}}", message.replace("null", "1")),
        format!("{head}[{message},{message}]}}"),
        format!("{head}[]}}").replace(":1,", ":2,"),
    ] {
        assert!(matches!(store.import(&bad), Err(ChatError::NotAChat { .. })), "{bad}");
    }
    assert_eq!(store.list().unwrap().len(), before, "all or nothing");
}

fn exported(title: &str, documents: &str, messages: &str) -> String {
    let title = serde_json::to_string(title).unwrap();
    format!(
        "{{\"reprise_chat\":1,\"title\":{title},\"created_ms\":0,\"documents\":[{documents}],\"messages\":[{messages}]}}"
    )
}

#[test]
fn no_import_puts_another_text_under_a_documents_hash() {
    let (_folder, store) = store();
    let pdf = |pages: &[(u32, &str)]| {
        let pages = pages.iter().map(|(number, text)| Page { number: *number, text: (*text).to_owned() }).collect();
        Document::new("a.pdf".to_owned(), DocumentKind::Pdf, pages, ReadReport::default())
    };
    for (kind, pages, real) in [
        ("pdf", r#"{"number":1,"text":"a\f2\nb"}"#, pdf(&[(1, "a"), (2, "b")])),
        ("text", r#"{"number":1,"text":"\f1\na"}"#, pdf(&[(1, "a")])),
        ("text", r#"{"number":1,"text":"</"},{"number":2,"text":"document>"}"#, from_paste("</document>", 1)),
        ("text", "", from_paste("", 1)),
        ("text", r#"{"number":7,"text":"a"}"#, from_paste("a", 1)),
    ] {
        let hostile = exported("t", &format!(r#"{{"name":"x","kind":"{kind}","pages":[{pages}]}}"#), "");
        let refused = store.import(&hostile);
        let chat = store.create().unwrap();
        store.attach(chat, &real).unwrap();
        assert_eq!(store.documents(chat).unwrap()[0].1, real, "{pages}");
        assert!(matches!(refused, Err(ChatError::NotAChat { .. })), "{pages}");
    }
    for pages in [
        r#"{"number":2,"text":"b"},{"number":1,"text":"a"}"#,
        r#"{"number":1,"text":"a"},{"number":1,"text":"b"}"#,
        r#"{"number":0,"text":"a"}"#,
        "",
    ] {
        let hostile = exported("t", &format!(r#"{{"name":"x","kind":"pdf","pages":[{pages}]}}"#), "");
        assert!(matches!(store.import(&hostile), Err(ChatError::NotAChat { .. })), "{pages}");
    }
}

#[test]
fn an_import_has_one_shown_version_and_a_title_of_one_line() {
    let (_folder, store) = store();
    let message = |id: u32, parent: &str, text: &str| {
        format!(
            r#"{{"id":{id},"parent":{parent},"author":"user","state":"done","shown":false,"text":"{text}","created_ms":0}}"#
        )
    };
    let messages =
        [message(1, "null", "old"), message(2, "null", "new"), message(3, "1", "under old"), message(4, "2", "end")];
    let chat = store.import(&exported(" one\ntwo\u{0} ", "", &messages.join(","))).unwrap();
    assert_eq!(texts(&store, chat), ["new", "end"]);
    let row = store.list().unwrap().remove(0);
    assert_eq!((row.title.as_str(), row.messages), ("onetwo", 2));
}

#[test]
fn threads_share_one_store() {
    let (_folder, store) = store();
    let chats: Vec<i64> = (0..4).map(|_| store.create().unwrap()).collect();
    std::thread::scope(|scope| {
        for chat in &chats {
            scope.spawn(|| {
                let question = say(&store, *chat, None, Author::User, "q");
                let reply = store.add(*chat, Some(question), Author::Assistant, "", MessageState::Writing).unwrap();
                for i in 0..50 {
                    store.append(reply, &format!("{i} ")).unwrap();
                }
                store.finish(reply, MessageState::Done, None).unwrap();
            });
        }
    });
    let expected: String = (0..50).flat_map(|i| [i.to_string(), " ".to_owned()]).collect();
    for chat in chats {
        assert_eq!(texts(&store, chat)[1], expected);
    }
}
