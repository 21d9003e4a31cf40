//! G8: values, texts and errors are those of a real PostgreSQL, where one is installed. Each case is
//! run twice: by PostgreSQL 15, and through the signatures and casts that the planner uses, in SQLite.
//! Without PostgreSQL on the machine the test says so and passes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::functions::{Aggregate, Context, FunctionFlags};
use rusqlite::types::{Value as SqliteValue, ValueRef as SqliteRef};
use springhead_proto::{SqlError, Value, ValueRef};
use springhead_sql::functions::{self, AggregateState, ArgType, Class, Signature};
use springhead_sql::types::{self, PgType};

const BIN: &str = "/usr/lib/postgresql/15/bin";

#[test]
fn g8_expressions_give_what_postgresql_gives() {
    let Some(postgres) = Postgres::start() else {
        println!("skipped: PostgreSQL 15 is not installed at {BIN}");
        return;
    };
    let cases: Vec<&str> = include_str!("oracle/expressions.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let queries: Vec<String> = cases
        .iter()
        .map(|case| Case::parse(case).postgres())
        .collect();
    let expected = postgres.run(&queries);
    let sqlite = connection();
    let mut wrong = String::new();
    for (case, expected) in cases.iter().zip(&expected) {
        let got = Case::parse(case).springhead(&sqlite).replace('\n', "\\n");
        if got != *expected {
            writeln!(
                wrong,
                "{case}\n  PostgreSQL: {expected}\n  Springhead: {got}"
            )
            .expect("a String");
        }
    }
    let count = wrong.lines().count() / 3;
    assert!(
        wrong.is_empty(),
        "{count} of {} cases differ:\n{wrong}",
        cases.len()
    );
    println!("{} cases agree", cases.len());
}

#[test]
fn g8_texts_and_json_are_those_of_postgresql() {
    let Some(postgres) = Postgres::start() else {
        println!("skipped: PostgreSQL 15 is not installed at {BIN}");
        return;
    };
    let cases: Vec<(&str, &str)> = include_str!("oracle/values.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("##"))
        .map(|line| line.split_once(" | ").expect("type | text"))
        .collect();
    let quoted = |text: &str| text.replace('\'', "''");
    let queries: Vec<String> = cases
        .iter()
        .map(|(ty, text)| format!("SELECT v::text || ' ' || coalesce(row_to_json(r)::text, '') FROM (SELECT '{}'::{ty} AS v) r", quoted(text)))
        .collect();
    let expected = postgres.run(&queries);
    let mut wrong = String::new();
    for ((ty, text), expected) in cases.iter().zip(&expected) {
        let pg_type = pg_type(ty);
        let got = match types::input_explicit(&pg_type, text) {
            Err(error) => shown(&error),
            Ok(value) => {
                let mut out = Vec::new();
                types::output_text(&pg_type, value.as_ref(), &mut out);
                if let (PgType::Bool, Value::Integer(value)) = (&pg_type, &value) {
                    out = if *value == 0 {
                        b"false".to_vec()
                    } else {
                        b"true".to_vec()
                    };
                }
                // A char(n) loses its padding when PostgreSQL casts it to text.
                if matches!(pg_type, PgType::Char(_)) {
                    out.truncate(
                        out.iter()
                            .rposition(|&byte| byte != b' ')
                            .map_or(0, |at| at + 1),
                    );
                }
                out.extend_from_slice(b" {\"v\":");
                types::output_json(&pg_type, value.as_ref(), &mut out);
                out.push(b'}');
                String::from_utf8(out).expect("UTF-8")
            }
        }
        .replace('\n', "\\n");
        if got != *expected {
            writeln!(
                wrong,
                "{ty} | {text}\n  PostgreSQL: {expected}\n  Springhead: {got}"
            )
            .expect("a String");
        }
    }
    let count = wrong.lines().count() / 3;
    assert!(
        wrong.is_empty(),
        "{count} of {} values differ:\n{wrong}",
        cases.len()
    );
    println!("{} values agree", cases.len());
}

/// `name | value::type | …`: a call, an operator, an aggregate over an array's elements, or
/// `cast | value::type | type`. The value NULL is SQL's.
struct Case<'c> {
    name: &'c str,
    args: Vec<(&'c str, &'c str)>,
    target: Option<&'c str>,
}

impl<'c> Case<'c> {
    fn parse(line: &'c str) -> Case<'c> {
        let mut parts = line.split(" | ");
        let name = parts.next().expect("a name");
        let mut parts: Vec<&str> = parts.collect();
        let target = if name == "cast" { parts.pop() } else { None };
        let args = parts
            .into_iter()
            .map(|part| part.rsplit_once("::").expect("value::type"))
            .collect();
        Case { name, args, target }
    }

    fn is_operator(&self) -> bool {
        !self.name.starts_with(|c: char| c.is_ascii_alphabetic())
    }

    fn is_aggregate(&self) -> bool {
        functions::signatures(self.name)
            .iter()
            .any(|signature| signature.class == Class::Aggregate)
    }

    fn postgres(&self) -> String {
        let literal = |(value, ty): &(&str, &str)| match *value {
            "NULL" => format!("NULL::{ty}"),
            value => format!("'{}'::{ty}", value.replace('\'', "''")),
        };
        let args: Vec<String> = self.args.iter().map(literal).collect();
        if let Some(target) = self.target {
            return format!("SELECT ({}::{target})::text", args[0]);
        }
        if self.is_aggregate() {
            let rest: String = args[1..].iter().map(|arg| format!(",{arg}")).collect();
            return format!(
                "SELECT {}(x{rest})::text FROM unnest({}) AS x",
                self.name, args[0]
            );
        }
        match (self.is_operator(), args.as_slice()) {
            (true, [operand]) => format!("SELECT ({} {operand})::text", self.name),
            (true, [left, right]) => format!("SELECT ({left} {} {right})::text", self.name),
            _ if self.name == "extract" => {
                format!("SELECT extract({} from {})::text", self.args[0].0, args[1])
            }
            _ if self.name == "position" => {
                format!("SELECT position({} in {})::text", args[0], args[1])
            }
            _ => format!("SELECT {}({})::text", self.name, args.join(",")),
        }
    }

    /// What the planner would make of it, run.
    fn springhead(&self, sqlite: &rusqlite::Connection) -> String {
        self.evaluate(sqlite).unwrap_or_else(|error| shown(&error))
    }

    fn evaluate(&self, sqlite: &rusqlite::Connection) -> Result<String, SqlError> {
        let mut values = Vec::new();
        let mut arg_types = Vec::new();
        for (value, ty) in &self.args {
            let ty = pg_type(ty);
            values.push(if *value == "NULL" {
                Value::Null
            } else {
                types::input_explicit(&ty, value)?
            });
            arg_types.push(ty);
        }
        if let Some(target) = self.target {
            let target = pg_type(target);
            let cast = functions::cast(&arg_types[0], &target)
                .unwrap_or_else(|| panic!("no cast to {target:?}"));
            return text_of(
                sqlite,
                &format!("SELECT {}", cast.render("?1")),
                &values,
                &target,
            );
        }
        if self.is_aggregate() {
            let element = arg_types[0].element().expect("an array of rows").clone();
            let Value::Text(stored) = &values[0] else {
                panic!("an array")
            };
            let rows = types::array::elements(&element, stored)?;
            sqlite
                .execute_batch("DROP TABLE IF EXISTS r; CREATE TABLE r (x)")
                .expect("a table");
            for row in rows {
                sqlite
                    .execute("INSERT INTO r VALUES (?1)", [bound(&row)])
                    .expect("a row");
            }
            arg_types[0] = element;
            let mut operands = vec![String::from("x")];
            operands.extend((1..values.len()).map(|at| format!("?{at}")));
            let (sql, result) = self.rendered(&operands, &arg_types);
            return text_of(
                sqlite,
                &format!("SELECT {sql} FROM r"),
                &values[1..],
                &result,
            );
        }
        let operands: Vec<String> = (1..=values.len()).map(|at| format!("?{at}")).collect();
        let (sql, result) = self.rendered(&operands, &arg_types);
        text_of(sqlite, &format!("SELECT {sql}"), &values, &result)
    }

    fn rendered(&self, operands: &[String], arg_types: &[PgType]) -> (String, PgType) {
        let found = if self.is_operator() {
            functions::operators(self.name)
        } else {
            functions::signatures(self.name)
        };
        // Exactly, then with implicit casts.
        let signature = found
            .iter()
            .find(|signature| accepts(signature, arg_types, true))
            .or_else(|| {
                let exact = |signature: &&Signature| {
                    let same = |(at, ty): (usize, &PgType)| {
                        wanted(signature, at)
                            .pg_type()
                            .is_some_and(|to| to.same_base(ty))
                    };
                    arg_types
                        .iter()
                        .enumerate()
                        .filter(|arg| same((arg.0, arg.1)))
                        .count()
                };
                // Of those with as many exact arguments the first: they are listed as PostgreSQL prefers.
                found
                    .iter()
                    .filter(|signature| accepts(signature, arg_types, false))
                    .rev()
                    .max_by_key(exact)
            })
            .unwrap_or_else(|| panic!("no overload of {} takes {arg_types:?}", self.name));
        let args: Vec<(String, PgType)> = operands
            .iter()
            .zip(arg_types)
            .enumerate()
            .map(
                |(at, (operand, ty))| match wanted(signature, at).pg_type() {
                    Some(to) => (
                        functions::cast(ty, &to).expect("accepted").render(operand),
                        to,
                    ),
                    None => (operand.clone(), ty.clone()),
                },
            )
            .collect();
        let types: Vec<PgType> = args.iter().map(|(_, ty)| ty.clone()).collect();
        (
            signature.render(&args).expect("not the planner's"),
            signature.result.resolve(&types).expect("a type"),
        )
    }
}

fn wanted(signature: &Signature, at: usize) -> ArgType {
    signature.args[at.min(signature.args.len() - 1)]
}

fn accepts(signature: &Signature, types: &[PgType], exactly: bool) -> bool {
    let count_fits = if signature.variadic {
        types.len() >= signature.args.len()
    } else {
        types.len() == signature.args.len()
    };
    count_fits
        && types
            .iter()
            .enumerate()
            .all(|(at, ty)| match wanted(signature, at) {
                ArgType::AnyArray => ty.element().is_some(),
                other => other.pg_type().is_none_or(|to| {
                    to.same_base(ty)
                        || (!exactly
                            && functions::cast(ty, &to).is_some_and(|cast| {
                                cast.context == functions::CastContext::Implicit
                            }))
                }),
            })
}

fn pg_type(name: &str) -> PgType {
    let (name, array) = name
        .strip_suffix("[]")
        .map_or((name, false), |element| (element, true));
    let (base, modifiers) = name.split_once('(').unwrap_or((name, ")"));
    let modifiers: Vec<i64> = modifiers
        .trim_end_matches(')')
        .split(',')
        .filter_map(|text| text.parse().ok())
        .collect();
    let ty = PgType::from_name(base, &modifiers).expect("a type");
    if array { ty.array() } else { ty }
}

fn shown(error: &SqlError) -> String {
    format!("ERROR {}", error.code.sqlstate())
}

fn bound(value: &Value) -> SqliteValue {
    match value {
        Value::Null => SqliteValue::Null,
        Value::Integer(value) => SqliteValue::Integer(*value),
        Value::Real(value) => SqliteValue::Real(*value),
        Value::Text(value) => SqliteValue::Text(value.clone()),
        Value::Blob(value) => SqliteValue::Blob(value.clone()),
    }
}

thread_local! {
    static LAST_ERROR: std::cell::RefCell<Option<SqlError>> = const { std::cell::RefCell::new(None) };
}

fn failed(error: SqlError) -> rusqlite::Error {
    let text = error.to_string();
    LAST_ERROR.set(Some(error));
    rusqlite::Error::UserFunctionError(text.into())
}

fn text_of(
    sqlite: &rusqlite::Connection,
    sql: &str,
    values: &[Value],
    ty: &PgType,
) -> Result<String, SqlError> {
    let mut statement = sqlite
        .prepare(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let result: Result<SqliteValue, rusqlite::Error> = statement.query_row(
        rusqlite::params_from_iter(values.iter().map(bound)),
        |row| row.get(0),
    );
    let value = match result {
        Ok(value) => value,
        Err(error) => {
            return Err(LAST_ERROR
                .take()
                .unwrap_or_else(|| panic!("{sql}: {error}")));
        }
    };
    if value == SqliteValue::Null {
        return Ok("NULL".to_owned());
    }
    // PostgreSQL's own text cast, which prints booleans in full.
    if let (PgType::Bool, SqliteValue::Integer(value)) = (ty, &value) {
        return Ok(if *value == 0 { "false" } else { "true" }.to_owned());
    }
    let mut out = Vec::new();
    types::output_text(ty, borrowed((&value).into()), &mut out);
    if matches!(ty, PgType::Char(_)) {
        out.truncate(
            out.iter()
                .rposition(|&byte| byte != b' ')
                .map_or(0, |at| at + 1),
        );
    }
    Ok(String::from_utf8(out).expect("UTF-8"))
}

fn borrowed(value: SqliteRef<'_>) -> ValueRef<'_> {
    match value {
        SqliteRef::Null => ValueRef::Null,
        SqliteRef::Integer(value) => ValueRef::Integer(value),
        SqliteRef::Real(value) => ValueRef::Real(value),
        SqliteRef::Text(value) => ValueRef::Text(std::str::from_utf8(value).expect("UTF-8")),
        SqliteRef::Blob(value) => ValueRef::Blob(value),
    }
}

fn arguments<'c>(context: &'c Context<'_>) -> Vec<ValueRef<'c>> {
    (0..context.len())
        .map(|at| borrowed(context.get_raw(at)))
        .collect()
}

/// An SQLite with every function registered, as the engine does it.
fn connection() -> rusqlite::Connection {
    let sqlite = rusqlite::Connection::open_in_memory().expect("memory");
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    for scalar in functions::scalars() {
        sqlite
            .create_scalar_function(scalar.name, scalar.args, flags, move |context| {
                (scalar.call)(&arguments(context))
                    .map(|value| bound(&value))
                    .map_err(failed)
            })
            .expect("registered");
    }
    for aggregate in functions::aggregates() {
        sqlite
            .create_aggregate_function(
                aggregate.name,
                aggregate.args,
                flags,
                Adapter(aggregate.start),
            )
            .expect("registered");
    }
    sqlite
}

struct Adapter(fn() -> Box<dyn AggregateState>);

impl std::panic::UnwindSafe for Adapter {}
impl std::panic::RefUnwindSafe for Adapter {}

struct State(Box<dyn AggregateState>);

impl std::panic::UnwindSafe for State {}
impl std::panic::RefUnwindSafe for State {}

impl Aggregate<State, SqliteValue> for Adapter {
    fn init(&self, _: &mut Context<'_>) -> rusqlite::Result<State> {
        Ok(State((self.0)()))
    }

    fn step(&self, context: &mut Context<'_>, state: &mut State) -> rusqlite::Result<()> {
        state.0.step(&arguments(context)).map_err(failed)
    }

    fn finalize(&self, _: &mut Context<'_>, state: Option<State>) -> rusqlite::Result<SqliteValue> {
        state
            .unwrap_or_else(|| State((self.0)()))
            .0
            .finish()
            .map(|value| bound(&value))
            .map_err(failed)
    }
}

/// A PostgreSQL of its own in a temporary directory, on a socket there, ended when dropped.
struct Postgres {
    directory: tempfile::TempDir,
}

impl Postgres {
    fn start() -> Option<Postgres> {
        if !Path::new(BIN).join("postgres").exists() {
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let server = Postgres { directory };
        let data = server.path("data");
        let owned = Command::new("chown")
            .arg("postgres")
            .arg(server.directory.path())
            .status();
        assert!(
            owned.is_ok_and(|status| status.success()) || !is_root(),
            "the directory must be postgres's"
        );
        server
            .tool("initdb")
            .args([
                "-A",
                "trust",
                "-U",
                "postgres",
                "--locale=C.UTF-8",
                "-E",
                "UTF8",
                "-D",
            ])
            .arg(&data)
            .checked();
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off -c timezone=UTC",
            server.directory.path().display()
        );
        server
            .tool("pg_ctl")
            .args(["-w", "-s", "-o", &options, "-l"])
            .arg(server.path("log"))
            .arg("-D")
            .arg(&data)
            .arg("start")
            .checked();
        Some(server)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A program of PostgreSQL's, not as root, which it refuses.
    fn tool(&self, name: &str) -> Command {
        let program = Path::new(BIN).join(name);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.directory.path());
        command
    }

    /// Each query's one text; `ERROR` and the SQLSTATE if it fails, `NULL` for NULL.
    fn run(&self, queries: &[String]) -> Vec<String> {
        let mut script = String::from(
            "CREATE FUNCTION try(query text) RETURNS text LANGUAGE plpgsql AS $f$ DECLARE result text; BEGIN \
             EXECUTE query INTO result; RETURN coalesce(replace(result, E'\\n', '\\n'), 'NULL'); \
             EXCEPTION WHEN OTHERS THEN RETURN 'ERROR ' || SQLSTATE; END $f$;\n",
        );
        for query in queries {
            writeln!(script, "SELECT try($query${query}$query$);").expect("a String");
        }
        let file = self.path("script.sql");
        std::fs::write(&file, script).expect("written");
        let output = self
            .tool("psql")
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "postgres",
                "-h",
            ])
            .arg(self.directory.path())
            .arg("-f")
            .arg(&file)
            .arg("postgres")
            .output()
            .expect("psql runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let lines: Vec<String> = String::from_utf8(output.stdout)
            .expect("UTF-8")
            .lines()
            .map(str::to_owned)
            .collect();
        assert_eq!(lines.len(), queries.len());
        lines
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A server that cannot be ended here ends with its directory.
        let _ = self
            .tool("pg_ctl")
            .args(["-s", "-m", "immediate", "-D"])
            .arg(self.path("data"))
            .arg("stop")
            .status();
    }
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout == b"0\n")
}

trait Checked {
    fn checked(&mut self);
}

impl Checked for Command {
    fn checked(&mut self) {
        // No pipes: the server would inherit them and keep them open.
        let status = self
            .stdout(std::process::Stdio::null())
            .status()
            .expect("it runs");
        assert!(status.success(), "{self:?} failed");
    }
}
