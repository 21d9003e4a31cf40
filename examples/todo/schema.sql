-- The tables of the example. Run it once: springhead sql < schema.sql, psql -f schema.sql, or POST /v1/sql.
CREATE TABLE todos (
  id    TEXT PRIMARY KEY,
  title TEXT NOT NULL UNIQUE CHECK (title <> ''),
  done  BOOLEAN NOT NULL DEFAULT false,
  votes INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE notes (
  id   TEXT PRIMARY KEY,
  body TEXT CRDT NOT NULL DEFAULT ''
);
INSERT INTO notes (id) VALUES ('shared');
