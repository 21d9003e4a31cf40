//! Bodies in the OpenAPI document, by name.

use serde_json::{Value, json};

use super::{merged, schema};

/// All of them.
pub(super) fn schemas() -> Value {
    let all = [feeds(), statements(), consumers(), sessions()];
    all.into_iter().fold(everywhere(), merged)
}

fn lsn() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn strings(names: &[&str]) -> Value {
    names.iter().copied().collect()
}

/// Of every exit.
fn everywhere() -> Value {
    let lsn = lsn();
    json!({
        "Error": {
            "type": "object", "required": ["error"],
            "properties": { "error": {
                "type": "object", "required": ["code", "message"],
                "properties": {
                    "code": { "type": "string" }, "message": { "type": "string" }, "hint": { "type": "string" },
                    "detail": { "type": "string" }, "sqlstate": { "type": "string" }, "table": { "type": "string" },
                    "column": { "type": "string" }, "constraint": { "type": "string" }, "position": { "type": "integer" },
                    "statement": { "type": "integer" }, "earliest_lsn": lsn, "fork_lsn": lsn,
                },
            } },
        },
        "Fields": { "type": "object", "additionalProperties": true },
        "Deleted": {
            "type": "object", "required": ["name", "lsn"],
            "properties": { "name": { "type": "string" }, "lsn": lsn },
        },
        "Health": {
            "type": "object", "required": ["status"],
            "properties": { "status": { "type": "string" }, "lsn": lsn },
        },
        "Status": {
            "type": "object", "required": ["epoch", "role", "lsn", "durable_lsn", "visible_lsn", "earliest_lsn", "subscribers"],
            "additionalProperties": true,
        },
    })
}

/// What feeds hand out.
fn feeds() -> Value {
    let row = json!({ "type": ["object", "null"], "additionalProperties": true });
    let lsn = lsn();
    json!({
        "ChangeEvent": {
            "type": "object",
            "required": strings(&["lsn", "cursor", "timestamp_ms", "tenant_id", "collection", "operation", "document_id", "before", "after", "tx", "schema_version"]),
            "properties": {
                "lsn": lsn, "cursor": { "type": "string" }, "timestamp_ms": lsn, "tenant_id": lsn,
                "collection": { "type": ["string", "null"] },
                "operation": { "type": "string", "enum": ["INSERT", "UPDATE", "DELETE", "TRUNCATE", "DEFINITION", "MESSAGE", "READ"] },
                "document_id": { "type": ["string", "null"] }, "before": row, "after": row,
                "tx": {
                    "type": ["object", "null"],
                    "properties": { "lsn": lsn, "index": lsn, "count": lsn },
                },
                "schema_version": lsn,
            },
        },
        "Transaction": {
            "type": "object", "required": ["tx", "changes"],
            "properties": {
                "tx": { "type": "object", "properties": { "lsn": lsn, "count": lsn } },
                "changes": { "type": "array", "items": schema("ChangeEvent") },
            },
        },
        "Page": {
            "type": "object", "required": ["next_cursor", "has_more", "count"],
            "properties": {
                "changes": { "type": "array", "items": schema("ChangeEvent") },
                "transactions": { "type": "array", "items": schema("Transaction") },
                "next_cursor": {
                    "type": "object", "required": ["since_lsn", "since_ms", "cursor"],
                    "properties": { "since_lsn": lsn, "since_ms": lsn, "cursor": { "type": "string" } },
                },
                "has_more": { "type": "boolean" }, "count": lsn,
            },
        },
    })
}

/// SQL, and documents.
fn statements() -> Value {
    let lsn = lsn();
    json!({
        "Statement": {
            "type": "object", "required": ["sql"], "additionalProperties": false,
            "properties": { "sql": { "type": "string" }, "params": { "type": "array" } },
        },
        "SqlRequest": {
            "type": "object", "additionalProperties": false,
            "properties": {
                "sql": { "type": "string" }, "params": { "type": "array" },
                "transaction": { "type": "array", "items": schema("Statement") }, "min_lsn": lsn,
            },
        },
        "Result": {
            "type": "object", "required": ["columns", "rows", "row_count", "command"],
            "properties": {
                "columns": { "type": "array", "items": {
                    "type": "object", "properties": { "name": { "type": "string" }, "type": { "type": "string" } },
                } },
                "rows": { "type": "array", "items": { "type": "array" } },
                "row_count": lsn, "command": { "type": "string" },
                "notices": { "type": "array", "items": { "type": "string" } },
            },
        },
        "SqlResult": {
            "type": "object", "required": ["lsn"],
            "anyOf": [
                schema("Result"),
                { "type": "object", "required": ["results"], "properties": { "results": { "type": "array", "items": schema("Result") } } },
            ],
            "properties": { "lsn": lsn },
        },
        "Document": {
            "type": "object", "required": ["collection", "document_id", "document", "lsn"],
            "properties": {
                "collection": { "type": "string" }, "document_id": { "type": "string" },
                "document": schema("Fields"), "lsn": lsn,
            },
        },
        "DocumentList": {
            "type": "object", "required": ["documents", "next_after", "lsn"],
            "properties": {
                "documents": { "type": "array", "items": {
                    "type": "object", "properties": { "document_id": { "type": "string" }, "document": schema("Fields") },
                } },
                "next_after": { "type": ["string", "null"] }, "lsn": lsn,
            },
        },
    })
}

/// Consumer groups.
fn consumers() -> Value {
    let lsn = lsn();
    json!({
        "NewConsumer": {
            "type": "object", "required": ["name"], "additionalProperties": false,
            "properties": {
                "name": { "type": "string" }, "collection": { "type": "string" }, "cursor": { "type": "string" },
                "since_lsn": lsn, "since_ms": lsn, "pin_bytes": lsn,
            },
        },
        "Consumer": {
            "type": "object", "required": ["name", "cursor", "state"],
            "properties": {
                "name": { "type": "string" }, "collection": { "type": ["string", "null"] }, "cursor": { "type": "string" },
                "pin_bytes": lsn, "state": { "type": "string", "enum": ["active", "expired"] },
                "created_at": { "type": "string" }, "updated_at": { "type": "string" }, "lsn": lsn,
            },
        },
        "ConsumerList": {
            "type": "object", "required": ["consumers", "lsn"],
            "properties": { "consumers": { "type": "array", "items": schema("Consumer") }, "lsn": lsn },
        },
        "ConsumerCommit": {
            "type": "object", "required": ["cursor"], "additionalProperties": false,
            "properties": { "cursor": { "type": "string" }, "rewind": { "type": "boolean", "default": false } },
        },
    })
}

/// Who is asking.
fn sessions() -> Value {
    json!({
        "Credentials": {
            "type": "object",
            "properties": { "user": { "type": "string" }, "password": { "type": "string" }, "token": { "type": "string" } },
        },
        "Session": {
            "type": "object", "required": ["user", "read_only"],
            "properties": { "user": { "type": "string" }, "read_only": { "type": "boolean" } },
        },
        "NewTicket": { "type": "object", "required": ["path"], "properties": { "path": { "type": "string" } } },
        "Ticket": {
            "type": "object", "required": ["ticket", "path", "expires_at_ms"],
            "properties": {
                "ticket": { "type": "string" }, "path": { "type": "string" }, "expires_at_ms": { "type": "integer" },
            },
        },
    })
}
