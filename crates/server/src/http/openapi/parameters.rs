//! Parameters in the OpenAPI document, by name.

use serde_json::{Map, Value, json};

/// All of them.
pub(super) fn parameters() -> Value {
    let all = [of_path(), of_all(), of_feeds(), of_live_queries()];
    Value::Object(all.into_iter().flatten().collect())
}

/// A name, where it stands, its schema and what it means.
type Parameter = (&'static str, &'static str, Value, &'static str);

fn described(parameters: impl IntoIterator<Item = Parameter>) -> Map<String, Value> {
    let one = |(name, place, schema, description): Parameter| {
        let parameter = json!({
            "name": name, "in": place, "required": place == "path", "schema": schema, "description": description,
        });
        (name.to_owned(), parameter)
    };
    parameters.into_iter().map(one).collect()
}

fn integer() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn flag() -> Value {
    json!({ "type": "boolean", "default": false })
}

/// Places in the path.
fn of_path() -> Map<String, Value> {
    described([
        (
            "collection",
            "path",
            text(),
            "A collection: `orders`, `springhead.consumers`, or `public.poll` for a table named poll.",
        ),
        (
            "id",
            "path",
            text(),
            "The document's id: its key as text, a composite key as a JSON array.",
        ),
        ("name", "path", text(), "The consumer's name."),
    ])
}

/// Where a feed begins, and what it shows.
fn of_feeds() -> Map<String, Value> {
    described([
        (
            "Last-Event-ID",
            "header",
            text(),
            "The cursor that a browser's EventSource sends when it comes back.",
        ),
        (
            "last_event_id",
            "query",
            text(),
            "As the header, for clients that cannot set it.",
        ),
        (
            "cursor",
            "query",
            text(),
            "Everything up to it has been seen, e.g. `42@9c1e04d7`.",
        ),
        ("since_lsn", "query", integer(), "That LSN and later."),
        (
            "since_ms",
            "query",
            integer(),
            "That time (milliseconds since 1970) and later; past the end it means now.",
        ),
        (
            "snapshot",
            "query",
            flag(),
            "Current rows first, then `ready`, then changes.",
        ),
        ("where", "query", text(), "One SQL condition on the row."),
        (
            "columns",
            "query",
            text(),
            "Names of the columns to show, with commas between them.",
        ),
        (
            "operations",
            "query",
            text(),
            "Operations to show: insert, update, delete, truncate, definition, message.",
        ),
        (
            "envelope",
            "query",
            json!({ "type": "string", "enum": ["plain", "debezium", "diff", "upsert"] }),
            "The form of a feed's event, plain (the default) or debezium; of a live query's change, diff (the default) or upsert.",
        ),
        (
            "tx",
            "query",
            json!({ "type": "string", "enum": ["event", "group"], "default": "event" }),
            "A frame per change or per transaction.",
        ),
        (
            "consumer",
            "query",
            text(),
            "Read for this consumer group, from its committed cursor.",
        ),
        (
            "wait_ms",
            "query",
            json!({ "type": "integer", "minimum": 0, "maximum": 60000, "default": 0 }),
            "How long to wait for a first change.",
        ),
    ])
}

/// What a live query is asked for with.
fn of_live_queries() -> Map<String, Value> {
    described([
        (
            "sql",
            "query",
            text(),
            "A SELECT; `WITH (recompute)` after it has it evaluated again after each commit.",
        ),
        (
            "params",
            "query",
            text(),
            "The values of $1, $2, … as a JSON array.",
        ),
        (
            "before",
            "query",
            flag(),
            "Changed and removed rows come with what they were.",
        ),
        (
            "squash_ms",
            "query",
            integer(),
            "Changes at most every so many milliseconds, as their net difference.",
        ),
        (
            "refetch",
            "query",
            flag(),
            "Where the live query cannot go on, a new snapshot follows in the same stream.",
        ),
        (
            "recompute",
            "query",
            flag(),
            "The query is evaluated again after each commit, whatever it is.",
        ),
    ])
}

/// What most paths take.
fn of_all() -> Map<String, Value> {
    described([
        (
            "ticket",
            "query",
            text(),
            "A ticket of POST /v1/tickets for this path, where no header can be sent.",
        ),
        (
            "limit",
            "query",
            json!({ "type": "integer", "minimum": 1, "maximum": 10000, "default": 100 }),
            "How many, at most.",
        ),
        ("after", "query", text(), "Documents after this id."),
        (
            "tenant_id",
            "query",
            json!({ "type": "integer", "minimum": 1, "default": 1 }),
            "The tenant, in open mode.",
        ),
        (
            "min_lsn",
            "query",
            integer(),
            "Wait until this LSN is visible.",
        ),
    ])
}
