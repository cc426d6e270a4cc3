-- Ids are never used twice: snapshots of a model's memory are filed under a chat's id.
CREATE TABLE chats (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    title TEXT NOT NULL DEFAULT '',
    -- Given by the user; the first line of the chat no longer changes it.
    renamed INTEGER NOT NULL DEFAULT 0 CHECK (renamed IN (0, 1)),
    draft TEXT NOT NULL DEFAULT '',
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    deleted_ms INTEGER
) STRICT;

CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    chat INTEGER NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    parent INTEGER REFERENCES messages (id) ON DELETE CASCADE,
    author INTEGER NOT NULL CHECK (author IN (0, 1)),
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3),
    -- The version among its siblings that is on the screen.
    shown INTEGER NOT NULL CHECK (shown IN (0, 1)),
    text TEXT NOT NULL,
    stats TEXT,
    created_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX messages_of_chat ON messages (chat, id);
CREATE INDEX messages_of_parent ON messages (parent);
CREATE UNIQUE INDEX one_shown_version ON messages (chat, ifnull(parent, 0)) WHERE shown = 1;

-- Streamed text of a reply that is being written. Appending here costs the same for every token; the reply's row is
-- written, and its words are indexed, once at its end.
CREATE TABLE pieces (
    id INTEGER PRIMARY KEY,
    message INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    text TEXT NOT NULL
) STRICT;

CREATE INDEX pieces_of_message ON pieces (message, id);

-- The pages of a document, shared by all chats that hold the same.
CREATE TABLE contents (
    sha256 TEXT PRIMARY KEY,
    pages TEXT NOT NULL
) STRICT;

CREATE TABLE attachments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    chat INTEGER NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    report TEXT NOT NULL,
    sha256 TEXT NOT NULL REFERENCES contents (sha256)
) STRICT;

CREATE INDEX attachments_of_chat ON attachments (chat, id);
CREATE INDEX attachments_of_content ON attachments (sha256);

CREATE TRIGGER contents_without_chat AFTER DELETE ON attachments
WHEN NOT EXISTS (SELECT 1 FROM attachments WHERE sha256 = old.sha256)
BEGIN
    DELETE FROM contents WHERE sha256 = old.sha256;
END;

CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE chat_settings (
    chat INTEGER NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (chat, key)
) STRICT, WITHOUT ROWID;

CREATE VIRTUAL TABLE title_words USING fts5 (
    title, content = 'chats', content_rowid = 'id', tokenize = "unicode61 remove_diacritics 2"
);
CREATE VIRTUAL TABLE message_words USING fts5 (
    text, content = 'messages', content_rowid = 'id', tokenize = "unicode61 remove_diacritics 2"
);
-- Erased chats leave no words behind.
INSERT INTO title_words (title_words, rank) VALUES ('secure-delete', 1);
INSERT INTO message_words (message_words, rank) VALUES ('secure-delete', 1);

CREATE TRIGGER title_added AFTER INSERT ON chats BEGIN
    INSERT INTO title_words (rowid, title) VALUES (new.id, new.title);
END;
CREATE TRIGGER title_changed AFTER UPDATE OF title ON chats BEGIN
    INSERT INTO title_words (title_words, rowid, title) VALUES ('delete', old.id, old.title);
    INSERT INTO title_words (rowid, title) VALUES (new.id, new.title);
END;
CREATE TRIGGER title_removed AFTER DELETE ON chats BEGIN
    INSERT INTO title_words (title_words, rowid, title) VALUES ('delete', old.id, old.title);
END;
CREATE TRIGGER text_added AFTER INSERT ON messages BEGIN
    INSERT INTO message_words (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER text_changed AFTER UPDATE OF text ON messages BEGIN
    INSERT INTO message_words (message_words, rowid, text) VALUES ('delete', old.id, old.text);
    INSERT INTO message_words (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER text_removed AFTER DELETE ON messages BEGIN
    INSERT INTO message_words (message_words, rowid, text) VALUES ('delete', old.id, old.text);
END;
