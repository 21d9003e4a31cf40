//! Dead letters in the OpenAPI document.

use serde_json::{Value, json};

use super::{operation, schema};

/// Paths to add to the document's.
pub(super) fn paths() -> Value {
    json!({
        "/v1/dead-letters": {
            "get": operation("listDeadLetters", "Rejected mutations that the reader may see, by number.",
                &["dead_letter_collection", "resolved", "limit", "after", "tenant_id", "min_lsn"], None, "DeadLetterList", 200),
        },
        "/v1/dead-letters/{id}": {
            "get": operation("getDeadLetter", "One rejected mutation.", &["id", "tenant_id", "min_lsn"], None, "DeadLetter", 200),
        },
        "/v1/dead-letters/{id}/retry": {
            "post": operation("retryDeadLetter", "Try it again with its author's rights, or other operations in its place.",
                &["id", "tenant_id"], Some("DeadLetterRetry"), "DeadLetterOutcome", 200),
        },
        "/v1/dead-letters/{id}/resolve": {
            "post": operation("resolveDeadLetter", "Say that it has been dealt with.",
                &["id", "tenant_id"], Some("DeadLetterResolve"), "DeadLetterOutcome", 200),
        },
        "/v1/dead-letters/redrive": {
            "post": operation("redriveDeadLetters", "Try all unresolved ones of a collection again; 202 while it goes on.",
                &["tenant_id"], Some("DeadLetterRedrive"), "DeadLetterRedriven", 200),
        },
        "/v1/dead-letter-policies/{collection}": {
            "get": operation("getDeadLetterPolicy", "What happens to a collection's dead letters.",
                &["collection", "violation", "tenant_id", "min_lsn"], None, "DeadLetterPolicy", 200),
            "put": operation("putDeadLetterPolicy", "Set what happens to a collection's dead letters.",
                &["collection", "tenant_id"], Some("NewDeadLetterPolicy"), "DeadLetterPolicy", 200),
        },
    })
}

/// Parameters to add to the document's.
pub(super) fn parameters() -> Value {
    let query = |name: &str, schema: Value, description: &str| json!({ "name": name, "in": "query", "required": false, "schema": schema, "description": description });
    json!({
        "dead_letter_collection": query("collection", json!({ "type": "string" }), "Those of this collection."),
        "resolved": query("resolved", json!({ "type": "boolean" }), "Those that are resolved, or that are not; without it all."),
        "violation": query("violation", json!({ "type": "string", "default": "*" }), "The violation that the policy is for."),
    })
}

/// Schemas to add to the document's.
pub(super) fn schemas() -> Value {
    let number = json!({ "type": "integer", "minimum": 0 });
    let text = json!({ "type": "string" });
    let maybe_text = json!({ "type": ["string", "null"] });
    let operations = json!({ "type": ["array", "null"], "items": schema("Fields") });
    let action = json!({ "type": "string", "enum": ["drop", "escalate", "force_apply_lww"] });
    let on_full = json!({ "type": "string", "enum": ["escalate", "reject_push"] });
    json!({
        "DeadLetter": {
            "type": "object", "required": ["id", "collection", "violation_type", "resolved", "attempts"],
            "properties": {
                "id": number, "tenant_id": number, "session_id": maybe_text, "username": text,
                "collection": text, "document_id": maybe_text, "mutation_id": number, "peer_id": text,
                "delta": text, "operations": operations, "violation_type": text, "violation": text,
                "compensation": { "type": ["object", "null"] }, "created_at": text,
                "device_metadata": { "type": "object" }, "retry_count": number,
                "resolved": { "type": "boolean" }, "resolved_by": maybe_text, "resolved_at": maybe_text,
                "base_lsn": number, "schema_version": number, "policy_or_constraint": maybe_text,
                "attempts": { "type": "array", "items": { "type": "object" } }, "expires_at": text,
            },
        },
        "DeadLetterList": {
            "type": "object", "required": ["entries", "next"],
            "properties": {
                "entries": { "type": "array", "items": schema("DeadLetter") },
                "next": { "type": ["integer", "null"] }, "lsn": number,
            },
        },
        "DeadLetterRetry": {
            "type": "object", "additionalProperties": false, "properties": { "operations": operations },
        },
        "DeadLetterResolve": {
            "type": "object", "additionalProperties": false, "properties": { "note": text },
        },
        "DeadLetterOutcome": {
            "type": "object", "required": ["id", "resolved", "entry", "lsn"],
            "properties": {
                "id": number, "resolved": { "type": "boolean" }, "outcome": text,
                "entry": schema("DeadLetter"), "lsn": number,
            },
        },
        "DeadLetterRedrive": {
            "type": "object", "required": ["collection"], "additionalProperties": false,
            "properties": { "collection": text, "rate_per_s": { "type": "integer", "minimum": 1, "maximum": 10000, "default": 50 } },
        },
        "DeadLetterRedriven": {
            "type": "object", "required": ["collection", "rate_per_s", "state"],
            "properties": {
                "collection": text, "rate_per_s": number, "state": { "type": "string", "enum": ["running", "done"] },
                "found": number, "applied": number, "rejected": number, "lsn": number,
            },
        },
        "NewDeadLetterPolicy": {
            "type": "object", "additionalProperties": false,
            "properties": { "ttl_s": number, "action": action, "max_entries": number, "on_full": on_full, "violation": text },
        },
        "DeadLetterPolicy": {
            "type": "object", "required": ["collection", "violation", "ttl_s", "action", "max_entries", "on_full"],
            "properties": {
                "collection": text, "violation": text, "ttl_s": number, "action": action,
                "max_entries": number, "on_full": on_full, "lsn": number,
            },
        },
    })
}
