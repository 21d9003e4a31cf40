//! `/v1/collections/{collection}/{id}`: rows as documents. Everything is said in SQL, so that types,
//! constraints, triggers and policies hold as they do there.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Map, Value};
use springhead_engine::cdc::{RowForm, collection_name, find_collection};
use springhead_engine::{Outcome, ParamValue, Session, Tenant};
use springhead_proto::{ErrorCode, Lsn, SqlError, ValueRef};
use springhead_sql::catalog::{Column, Table};
use springhead_sql::types::{input_json, output_json};

use super::body::{Response, response};
use super::error::HttpError;
use super::request::Request;
use super::sql::param;

/// Serves one document.
///
/// # Errors
/// 42P01, SH006 for a document that is not there, or what SQL says.
pub async fn document(mut request: Request) -> Result<Response, HttpError> {
    let target = Target::of(&mut request, &["tenant_id", "min_lsn"]).await?;
    let method = request.method.clone();
    let id = request.segments.pop().unwrap_or_default();
    if !target.table.has_declared_key() {
        return target.without_key(&method, &id).await;
    }
    let key = target.key(&id)?;
    let mut session = request.session(target.tenant.id(), target.min_lsn).await?;
    let outcome = if method == Method::PUT {
        target
            .put(&mut session, key, request.json_object().await?)
            .await?
    } else if method == Method::PATCH {
        target
            .patch(&mut session, key, request.json_object().await?)
            .await?
    } else {
        let verb = if method == Method::DELETE {
            "DELETE"
        } else {
            "SELECT *"
        };
        let returning = if method == Method::DELETE {
            " RETURNING *"
        } else {
            ""
        };
        let sql = format!(
            "{verb} FROM {} WHERE {}{returning}",
            target.name(),
            target.key_condition(1)
        );
        run(&mut session, &sql, &key).await?
    };
    target.answer(outcome, &id)
}

/// Lists documents by key.
///
/// # Errors
/// 42P01, 22023, or what SQL says.
pub async fn list(mut request: Request) -> Result<Response, HttpError> {
    let app = Arc::clone(&request.app);
    let limit = request
        .params
        .number("limit")?
        .unwrap_or(app.config.list_documents);
    if limit == 0 {
        return Err(HttpError::parameter("limit is at least 1"));
    }
    let limit = limit.min(app.config.max_list_documents);
    let after = request.params.take("after");
    let target = Target::of(&mut request, &["tenant_id", "min_lsn", "limit", "after"]).await?;
    if !target.table.has_declared_key() {
        return Err(target.needs_key("listing its documents"));
    }
    let key = after
        .as_deref()
        .map(|after| target.key(after))
        .transpose()?;
    let condition = if key.is_some() {
        format!(" WHERE {}", target.after_condition())
    } else {
        String::new()
    };
    let order: Vec<String> = target.table.key_columns().map(quoted).collect();
    let sql = format!(
        "SELECT * FROM {}{condition} ORDER BY {} LIMIT {limit}",
        target.name(),
        order.join(", ")
    );
    let mut session = request.session(target.tenant.id(), target.min_lsn).await?;
    let outcome = run(&mut session, &sql, &key.unwrap_or_default()).await?;
    target.list_answer(outcome, limit)
}

/// The collection that a path names.
struct Target {
    tenant: Arc<Tenant>,
    table: Arc<Table>,
    min_lsn: Option<Lsn>,
}

impl Target {
    async fn of(request: &mut Request, known: &[&str]) -> Result<Target, HttpError> {
        let min_lsn = request.params.min_lsn()?;
        let tenant = request.tenant_id()?;
        std::mem::take(&mut request.params).finish(known)?;
        let tenant = request.app.node.engine.tenant(tenant).await?;
        if let Some(lsn) = min_lsn {
            tenant.wait_visible(lsn).await?;
        }
        let name = if request.segments.is_empty() {
            String::new()
        } else {
            request.segments.remove(0)
        };
        let table = Arc::clone(find_collection(&tenant.catalog(), &name)?);
        if table.collection().is_system() && request.method != Method::GET {
            return Err(HttpError::new(
                ErrorCode::InsufficientPrivilege,
                format!("collection \"{name}\" is Springhead's own"),
            ));
        }
        Ok(Target {
            tenant,
            table,
            min_lsn,
        })
    }

    /// As SQL names it.
    fn name(&self) -> String {
        format!(
            "{}.{}",
            quote(&self.table.name.schema),
            quote(&self.table.name.name)
        )
    }

    /// The key's values that an id stands for.
    fn key(&self, id: &str) -> Result<Vec<Value>, HttpError> {
        // Says what is wrong with the id in the id's own terms.
        self.table.parse_document_id(id)?;
        if self.table.key.len() == 1 {
            return Ok(vec![Value::from(id)]);
        }
        serde_json::from_str(id)
            .map_err(|_| HttpError::parameter("the document id is no list of key values"))
    }

    fn key_condition(&self, first: usize) -> String {
        let parts: Vec<String> = (self.table.key_columns().enumerate())
            .map(|(index, column)| format!("{} = ${}", quoted(column), index + first))
            .collect();
        parts.join(" AND ")
    }

    /// Keys after that of `$1`, `$2`, ….
    fn after_condition(&self) -> String {
        let columns: Vec<String> = self.table.key_columns().map(quoted).collect();
        let alternatives: Vec<String> = (0..columns.len())
            .map(|at| {
                let mut parts: Vec<String> = (0..at)
                    .map(|index| format!("{} = ${}", columns[index], index + 1))
                    .collect();
                parts.push(format!("{} > ${}", columns[at], at + 1));
                format!("({})", parts.join(" AND "))
            })
            .collect();
        alternatives.join(" OR ")
    }

    /// The whole document, new or in place of the one there is.
    async fn put(
        &self,
        session: &mut Session,
        key: Vec<Value>,
        mut fields: Map<String, Value>,
    ) -> Result<Outcome, HttpError> {
        self.take_key(&mut fields, &key)?;
        self.check_fields(&fields)?;
        let mut names = Vec::new();
        let mut values = Vec::new();
        let mut params = key;
        let mut updates = Vec::new();
        let mut key_place = 0;
        for (place, column) in self.table.visible_columns() {
            let name = quoted(column);
            if self.table.key.contains(&place) {
                key_place += 1;
                let number = self
                    .table
                    .key
                    .iter()
                    .position(|&key| key == place)
                    .unwrap_or(key_place - 1)
                    + 1;
                values.push(format!("${number}"));
            } else if column.generated.is_some() {
                continue;
            } else if column.identity_always && !fields.contains_key(&column.name) {
                // A number that was given to it stays.
                continue;
            } else {
                match fields.remove(&column.name) {
                    Some(value) => {
                        params.push(value);
                        values.push(format!("${}", params.len()));
                    }
                    None => values.push("DEFAULT".to_owned()),
                }
                updates.push(format!("{name} = excluded.{name}"));
            }
            names.push(name);
        }
        let keys: Vec<String> = self.table.key_columns().map(quoted).collect();
        // The path says what the key is.
        let overriding = if self
            .table
            .key_columns()
            .any(|column| column.identity_always)
        {
            " OVERRIDING SYSTEM VALUE"
        } else {
            ""
        };
        let otherwise = if updates.is_empty() {
            // Nothing but a key: the row is the same, and is to be returned.
            format!("UPDATE SET {0} = excluded.{0}", keys[0])
        } else {
            format!("UPDATE SET {}", updates.join(", "))
        };
        let sql = format!(
            "INSERT INTO {} ({}){overriding} VALUES ({}) ON CONFLICT ({}) DO {otherwise} RETURNING *",
            self.name(),
            names.join(", "),
            values.join(", "),
            keys.join(", ")
        );
        Ok(run(session, &sql, &params).await?)
    }

    /// Some fields of a document that is there.
    async fn patch(
        &self,
        session: &mut Session,
        key: Vec<Value>,
        mut fields: Map<String, Value>,
    ) -> Result<Outcome, HttpError> {
        self.take_key(&mut fields, &key)?;
        self.check_fields(&fields)?;
        let mut params = key;
        let mut updates = Vec::new();
        for (name, value) in fields {
            params.push(value);
            updates.push(format!("{} = ${}", quote(&name), params.len()));
        }
        let sql = if updates.is_empty() {
            format!(
                "SELECT * FROM {} WHERE {}",
                self.name(),
                self.key_condition(1)
            )
        } else {
            format!(
                "UPDATE {} SET {} WHERE {} RETURNING *",
                self.name(),
                updates.join(", "),
                self.key_condition(1)
            )
        };
        Ok(run(session, &sql, &params).await?)
    }

    /// The body may repeat the key; it must then be the path's.
    fn take_key(&self, fields: &mut Map<String, Value>, key: &[Value]) -> Result<(), HttpError> {
        for (column, wanted) in self.table.key_columns().zip(key) {
            // One value has several texts: 1.5 and 1.50, or a time in an id and in a document.
            let is_same = |given: &Value| {
                let stored = |value| input_json(&column.pg_type, value).ok();
                stored(given).is_some_and(|given| stored(wanted) == Some(given))
            };
            if let Some(given) = fields.remove(&column.name)
                && !is_same(&given)
            {
                return Err(SqlError::new(
                    ErrorCode::InvalidParameterValue,
                    format!(
                        "the body's \"{}\" is {given}, and the path's is {wanted}",
                        column.name
                    ),
                )
                .with_hint(
                    "a document's key is in its path; to change it, delete one and make the other",
                )
                .into());
            }
        }
        Ok(())
    }

    fn check_fields(&self, fields: &Map<String, Value>) -> Result<(), HttpError> {
        for name in fields.keys() {
            self.table.expect_column(name)?;
        }
        Ok(())
    }

    fn answer(&self, outcome: Outcome, id: &str) -> Result<Response, HttpError> {
        let lsn = outcome.lsn;
        let Some((id, document)) = self.documents(outcome)?.pop() else {
            return Err(self.no_document(id));
        };
        Ok(one(&collection_name(&self.table.name), &id, &document, lsn))
    }

    fn no_document(&self, id: &str) -> HttpError {
        HttpError::new(
            ErrorCode::NotFound,
            format!(
                "collection \"{}\" has no document \"{}\"",
                collection_name(&self.table.name),
                super::params::shown(id)
            ),
        )
    }

    fn list_answer(&self, outcome: Outcome, limit: u64) -> Result<Response, HttpError> {
        let lsn = outcome.lsn;
        let documents = self.documents(outcome)?;
        let mut out = b"{\"documents\":[".to_vec();
        for (index, (id, document)) in documents.iter().enumerate() {
            out.extend_from_slice(if index > 0 {
                b",{\"document_id\":"
            } else {
                b"{\"document_id\":"
            });
            out.extend_from_slice(Value::from(id.as_str()).to_string().as_bytes());
            out.extend_from_slice(b",\"document\":");
            out.extend_from_slice(document);
            out.push(b'}');
        }
        let is_full = documents.len() as u64 == limit;
        let next = documents
            .last()
            .filter(|_| is_full)
            .map_or(Value::Null, |(id, _)| id.as_str().into());
        out.extend_from_slice(format!("],\"next_after\":{next},\"lsn\":{lsn}}}").as_bytes());
        Ok(response(StatusCode::OK, "application/json", out))
    }

    /// The rows of `SELECT *` or `RETURNING *`, as ids and JSON objects.
    fn documents(&self, outcome: Outcome) -> Result<Vec<(String, Vec<u8>)>, SqlError> {
        let mut documents = Vec::new();
        let Some(mut rows) = outcome.rows else {
            return Ok(documents);
        };
        let places: Vec<usize> = self
            .table
            .visible_columns()
            .map(|(place, _)| place)
            .collect();
        while let Some(chunk) = rows.next_chunk()? {
            for row in chunk.rows() {
                let mut image = vec![ValueRef::Null; self.table.columns.len()];
                let mut document = vec![b'{'];
                for (index, (value, column)) in row.values().zip(outcome.columns.iter()).enumerate()
                {
                    if index > 0 {
                        document.push(b',');
                    }
                    document.extend_from_slice(
                        Value::from(column.name.as_str()).to_string().as_bytes(),
                    );
                    document.push(b':');
                    output_json(&column.pg_type, value, &mut document);
                    if let Some(&place) = places.get(index) {
                        image[place] = value;
                    }
                }
                document.push(b'}');
                documents.push((self.table.document_id_of(&image), document));
            }
        }
        Ok(documents)
    }

    /// A table without a declared key: SQL has no name for its rows' ids, so they can be read by
    /// them and not written.
    async fn without_key(&self, method: &Method, id: &str) -> Result<Response, HttpError> {
        if *method != Method::GET {
            return Err(self.needs_key("writing documents by id"));
        }
        let key = self.table.parse_document_id(id)?;
        let columns: Vec<String> = self
            .table
            .columns
            .iter()
            .map(Column::storage_name)
            .collect();
        let conditions: Vec<String> = (self.table.key_columns().enumerate())
            .map(|(index, column)| format!("{} = ?{}", column.storage_name(), index + 1))
            .collect();
        let sql = format!(
            "SELECT {} FROM {} WHERE {}",
            columns.join(", "),
            self.table.storage_name(),
            conditions.join(" AND ")
        );
        let (mut rows, lsn) = self.tenant.read_snapshot(&sql, key).await?;
        let chunk = rows.next_chunk()?;
        let Some(row) = chunk.as_ref().and_then(|chunk| chunk.rows().next()) else {
            return Err(self.no_document(id));
        };
        let mut document = Vec::new();
        RowForm::new(Arc::clone(&self.table)).write_row(&mut document, row);
        Ok(one(&collection_name(&self.table.name), id, &document, lsn))
    }

    fn needs_key(&self, what: &str) -> HttpError {
        let name = collection_name(&self.table.name);
        SqlError::unsupported(format_args!(
            "{what} in collection \"{name}\", which has no primary key,"
        ))
        .with_hint(format!(
            "add one: ALTER TABLE {} ADD PRIMARY KEY (…)",
            self.name()
        ))
        .into()
    }
}

fn one(collection: &str, id: &str, document: &[u8], lsn: Lsn) -> Response {
    let mut out = b"{\"collection\":".to_vec();
    out.extend_from_slice(Value::from(collection).to_string().as_bytes());
    out.extend_from_slice(b",\"document_id\":");
    out.extend_from_slice(Value::from(id).to_string().as_bytes());
    out.extend_from_slice(b",\"document\":");
    out.extend_from_slice(document);
    out.extend_from_slice(format!(",\"lsn\":{lsn}}}").as_bytes());
    response(StatusCode::OK, "application/json", out)
}

async fn run(session: &mut Session, sql: &str, params: &[Value]) -> Result<Outcome, SqlError> {
    let statement = session.prepare(sql, &[])?;
    let params: Vec<ParamValue<'_>> = params.iter().map(param).collect();
    session.execute(&statement, &params).await
}

fn quoted(column: &Column) -> String {
    quote(&column.name)
}

/// A name as SQL takes it whatever is in it.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
