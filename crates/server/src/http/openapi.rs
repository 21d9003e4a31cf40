//! `/openapi.json`: every path, parameter and error, as OpenAPI 3.1
//! (<https://spec.openapis.org/oas/v3.1.0>). Kept by hand beside the routes; a test holds it to them.

mod dead_letters;
mod parameters;
mod schemas;

use std::sync::OnceLock;

use serde_json::{Map, Value, json};
use springhead_proto::ErrorCode;

/// The document.
pub fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| document().to_string())
}

/// The document as a value.
pub fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Springhead",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "A real-time, local-first database: one durable log, and everything else a tail of it.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:6480" }],
        "paths": merged(paths(), dead_letters::paths()),
        "components": {
            "schemas": merged(schemas::schemas(), dead_letters::schemas()),
            "responses": responses(),
            "parameters": merged(parameters::parameters(), dead_letters::parameters()),
        },
    })
}

/// One object with the fields of both.
fn merged(mut all: Value, more: Value) -> Value {
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    all
}

fn paths() -> Value {
    json!({
        "/live": { "get": live() },
        "/ws": { "get": operation("websocket", "JSON-RPC 2.0 over a WebSocket; docs/live-queries.md has its methods.",
            &["ticket", "tenant_id"], None, "Fields", 101) },
        "/sync": { "get": operation("sync", "A device's session over a WebSocket; docs/sync-protocol.md has its frames.",
            &["ticket", "tenant_id"], None, "Fields", 101) },
        "/cdc": { "get": events(&[]) },
        "/cdc/{collection}": { "get": events(&["collection"]) },
        "/cdc/poll": { "get": poll(&[]) },
        "/cdc/{collection}/poll": { "get": poll(&["collection"]) },
        "/v1/sql": { "post": operation("runSql", "Run one statement, or several in one transaction.",
            &["tenant_id", "min_lsn"], Some("SqlRequest"), "SqlResult", 200) },
        "/v1/collections/{collection}": { "get": operation("listDocuments", "Documents of a collection, by key.",
            &["collection", "limit", "after", "tenant_id", "min_lsn"], None, "DocumentList", 200) },
        "/v1/collections/{collection}/{id}": {
            "get": document_operation("getDocument", "One document.", None),
            "put": document_operation("putDocument", "Make a document, or put it in the place of the one there is.", Some("Fields")),
            "patch": document_operation("patchDocument", "Change some fields of a document.", Some("Fields")),
            "delete": document_operation("deleteDocument", "Delete a document; the answer holds its last form.", None),
        },
        "/v1/consumers": {
            "get": operation("listConsumers", "All consumer groups.", &["tenant_id", "min_lsn"], None, "ConsumerList", 200),
            "post": operation("createConsumer", "Make a consumer group.", &["tenant_id", "min_lsn"], Some("NewConsumer"), "Consumer", 201),
        },
        "/v1/consumers/{name}": {
            "get": operation("getConsumer", "One consumer group.", &["name", "tenant_id", "min_lsn"], None, "Consumer", 200),
            "delete": operation("deleteConsumer", "Delete a consumer group and its hold on retention.",
                &["name", "tenant_id", "min_lsn"], None, "Deleted", 200),
        },
        "/v1/consumers/{name}/commit": {
            "post": operation("commitConsumer", "Move a consumer's cursor.", &["name", "tenant_id", "min_lsn"], Some("ConsumerCommit"), "Consumer", 200),
        },
        "/v1/session": {
            "get": operation("getSession", "Whose session it is.", &[], None, "Session", 200),
            "post": operation("beginSession", "Exchange credentials for a cookie.", &[], Some("Credentials"), "Session", 200),
            "delete": operation("endSession", "Forget the cookie.", &[], None, "Fields", 204),
        },
        "/v1/tickets": { "post": operation("createTicket", "A read-only ticket for the path of one feed.", &[], Some("NewTicket"), "Ticket", 200) },
        "/v1/status": { "get": operation("status", "Positions, role, readers, lag.", &["tenant_id", "min_lsn"], None, "Status", 200) },
        "/v1/promote": { "post": operation("promote", "Make this standby the primary of a new epoch.", &[], Some("Fields"), "Fields", 200) },
        "/v1/standbys": { "get": operation("listStandbys", "The standbys of this node.", &[], None, "Fields", 200) },
        "/v1/standbys/switchover": { "post": operation("switchOver", "Hand over to a standby, the one named by `to` if there are several.", &[], Some("Fields"), "Fields", 200) },
        "/v1/standbys/witness": { "post": operation("enrolWitness", "Have a witness that has forgotten everything, or is another one, serve this cluster.", &[], Some("Fields"), "Fields", 200) },
        "/v1/standbys/{name}": { "delete": operation("forgetStandby", "Forget a standby that is not connected, and the log kept for it.", &["name"], None, "Fields", 200) },
        "/v1/replication": { "get": operation("replication", "For other nodes: an upgrade to their own protocol (docs/replication.md).", &[], None, "Fields", 101) },
        "/v1/backup": { "get": {
            "operationId": "backup",
            "summary": "A backup of the whole node as a tar archive, for superusers; whole only with its manifest.json.",
            "responses": with_errors(json!({ "200": {
                "description": "The archive.", "content": { "application/x-tar": {} },
            } })),
        } },
        "/healthz": { "get": operation("health", "The process answers.", &[], None, "Health", 200) },
        "/readyz": { "get": operation("ready", "The node takes requests.", &[], None, "Health", 200) },
        "/metrics": { "get": {
            "operationId": "metrics",
            "summary": "Figures as Prometheus text.",
            "responses": with_errors(json!({ "200": {
                "description": "Figures.", "content": { "text/plain": { "schema": { "type": "string" } } },
            } })),
        } },
        "/openapi.json": { "get": operation("openapi", "This document.", &[], None, "Fields", 200) },
    })
}

const FEED: [&str; 9] = [
    "where",
    "columns",
    "operations",
    "envelope",
    "tx",
    "consumer",
    "tenant_id",
    "min_lsn",
    "ticket",
];

fn events(path: &[&str]) -> Value {
    let names: Vec<&str> = path
        .iter()
        .chain(&[
            "Last-Event-ID",
            "last_event_id",
            "since_lsn",
            "since_ms",
            "snapshot",
        ])
        .chain(&FEED)
        .copied()
        .collect();
    json!({
        "operationId": if path.is_empty() { "streamAll" } else { "streamCollection" },
        "summary": "The change feed as Server-Sent Events.",
        "parameters": references(&names),
        "responses": with_errors(json!({
            "200": {
                "description": "Frames: `id` is the cursor, `event` the operation in lower case (or snapshot, ready, transaction, progress, must-refetch, taken-over, error), `data` a ChangeEvent.",
                "content": { "text/event-stream": { "schema": { "type": "string" } } },
            },
            "204": { "description": "The last event id says that this stream has ended for good." },
        })),
    })
}

fn live() -> Value {
    json!({
        "operationId": "live",
        "summary": "A SELECT's result, then what each commit changes in it, as Server-Sent Events.",
        "parameters": references(&[
            "sql", "params", "Last-Event-ID", "last_event_id", "cursor", "snapshot", "before",
            "envelope", "squash_ms", "refetch", "recompute", "ticket", "tenant_id", "min_lsn",
        ]),
        "responses": with_errors(json!({
            "200": {
                "description": "Frames: snapshot, ready, change, progress, must-refetch, error; docs/live-queries.md has their data.",
                "content": { "text/event-stream": { "schema": { "type": "string" } } },
            },
            "204": { "description": "The last event id says that this stream has ended for good." },
        })),
    })
}

fn poll(path: &[&str]) -> Value {
    let names: Vec<&str> = path
        .iter()
        .chain(&["cursor", "since_lsn", "since_ms", "limit", "wait_ms"])
        .chain(&FEED)
        .copied()
        .collect();
    json!({
        "operationId": if path.is_empty() { "pollAll" } else { "pollCollection" },
        "summary": "The change feed in pages.",
        "parameters": references(&names),
        "responses": with_errors(json!({ "200": success("Page") })),
    })
}

fn document_operation(id: &str, summary: &str, body: Option<&str>) -> Value {
    operation(
        id,
        summary,
        &["collection", "id", "tenant_id", "min_lsn"],
        body,
        "Document",
        200,
    )
}

fn operation(
    id: &str,
    summary: &str,
    parameters: &[&str],
    body: Option<&str>,
    answer: &str,
    status: u16,
) -> Value {
    let mut operation = json!({
        "operationId": id,
        "summary": summary,
        "parameters": references(parameters),
        "responses": with_errors(json!({ status.to_string(): success(answer) })),
    });
    if let Some(body) = body {
        operation["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": schema(body) } } });
    }
    operation
}

fn success(name: &str) -> Value {
    json!({ "description": "Done.", "content": { "application/json": { "schema": schema(name) } } })
}

fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn references(names: &[&str]) -> Value {
    names
        .iter()
        .map(|name| json!({ "$ref": format!("#/components/parameters/{name}") }))
        .collect()
}

/// Every status that some error has, each with the codes that go with it.
fn responses() -> Value {
    let mut responses = Map::new();
    for status in error_statuses() {
        let codes: Vec<&str> = ErrorCode::ALL
            .iter()
            .filter(|code| code.http_status() == status)
            .map(|code| code.word())
            .collect();
        let described = json!({
            "description": format!("`error.code` is one of: {}.", codes.join(", ")),
            "content": { "application/json": { "schema": schema("Error") } },
        });
        responses.insert(format!("Error{status}"), described);
    }
    Value::Object(responses)
}

fn error_statuses() -> Vec<u16> {
    let mut statuses: Vec<u16> = ErrorCode::ALL
        .iter()
        .map(|code| code.http_status())
        .collect();
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

fn with_errors(mut responses: Value) -> Value {
    for status in error_statuses() {
        responses[status.to_string()] =
            json!({ "$ref": format!("#/components/responses/Error{status}") });
    }
    responses
}

#[cfg(test)]
mod tests {
    use super::super::live::LIVE_PARAMETERS;
    use super::super::routes::{EVENT_PARAMETERS, POLL_PARAMETERS, find};
    use super::*;

    fn operations() -> Vec<(String, String, Value)> {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let all = paths.iter().flat_map(|(path, methods)| {
            methods
                .as_object()
                .unwrap()
                .iter()
                .map(|(method, operation)| (path.clone(), method.clone(), operation.clone()))
        });
        all.collect()
    }

    #[test]
    fn every_operation_is_served_and_every_reference_leads_somewhere() {
        let document = document();
        for (path, method, _) in operations() {
            let concrete = path.replace(['{', '}'], "");
            let (route, _) = find(&concrete).unwrap_or_else(|| panic!("{path}"));
            assert!(
                route.methods().contains(&method.to_uppercase().as_str()),
                "{method} {path}"
            );
        }
        let mut pending = vec![&document];
        while let Some(value) = pending.pop() {
            match value {
                Value::Object(object) => {
                    if let Some(Value::String(reference)) = object.get("$ref") {
                        let pointer = reference.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                    }
                    pending.extend(object.values());
                }
                Value::Array(items) => pending.extend(items),
                _ => {}
            }
        }
    }

    #[test]
    fn every_method_and_parameter_of_the_feeds_is_described() {
        let all = operations();
        for (path, expected) in [
            ("/cdc/{collection}", &EVENT_PARAMETERS[..]),
            ("/cdc/{collection}/poll", &POLL_PARAMETERS),
            ("/live", &LIVE_PARAMETERS),
        ] {
            let (_, _, operation) = all.iter().find(|(known, _, _)| known == path).unwrap();
            let text = operation["parameters"].to_string();
            for name in expected {
                let name = name.split(' ').next().unwrap();
                assert!(
                    text.contains(&format!("/parameters/{name}\"")),
                    "{path} {name}"
                );
            }
        }
        for (path, methods) in [
            ("/v1/collections/c/i", 4),
            ("/v1/consumers", 2),
            ("/v1/consumers/n", 2),
            ("/v1/sql", 1),
            ("/v1/consumers/n/commit", 1),
            ("/v1/dead-letters", 1),
            ("/v1/dead-letters/i", 1),
            ("/v1/dead-letters/i/retry", 1),
            ("/v1/dead-letter-policies/c", 2),
        ] {
            let (route, _) = find(path).unwrap();
            let described = all.iter().filter(|(known, _, _)| {
                let concrete = known
                    .replace("{collection}", "c")
                    .replace("{id}", "i")
                    .replace("{name}", "n");
                concrete == path
            });
            assert_eq!(
                (route.methods().len(), described.count()),
                (methods, methods),
                "{path}"
            );
        }
    }

    #[test]
    fn every_error_code_is_named() {
        let responses = responses().to_string();
        for code in ErrorCode::ALL {
            assert!(responses.contains(code.word()), "{code}");
        }
    }
}
