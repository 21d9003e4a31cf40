//! The same statements on PostgreSQL 15 and, planned, on SQLite: the same rows, the same errors (G8).
//!
//! Each file in `tests/statements` is one database. Where no PostgreSQL is installed the tests say so
//! and pass. A statement that is refused here by design follows a line `-- refused`.

mod support;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use springhead_proto::ErrorCode;
use springhead_sql::split;
use support::Db;

const BIN: &str = "/usr/lib/postgresql/15/bin";
const MARK: &str = "\u{1}next\u{1}";

/// A PostgreSQL server in a directory of its own, reached by a socket in it.
struct Server {
    directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Option<Server> {
        if !Path::new(BIN).join("postgres").exists() {
            eprintln!("skipped: there is no PostgreSQL in {BIN}");
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory");
        if is_root() {
            let chown = Command::new("chown")
                .arg("postgres")
                .arg(directory.path())
                .status();
            if !chown.is_ok_and(|status| status.success()) {
                eprintln!(
                    "skipped: PostgreSQL does not run as root, and there is no other user for it"
                );
                return None;
            }
        }
        let server = Server { directory };
        let data = server.data();
        let arguments = [
            "-D",
            &data,
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ];
        assert!(quiet(&mut as_user("initdb", &arguments)), "initdb");
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}' -c fsync=off -c timezone=UTC",
            server.directory.path().display()
        );
        let log = server.directory.path().join("log");
        let log = log.to_str().expect("UTF-8");
        let arguments = ["-D", &data, "-l", log, "-w", "-o", &options, "start"];
        assert!(quiet(&mut as_user("pg_ctl", &arguments)), "pg_ctl start");
        Some(server)
    }

    fn data(&self) -> String {
        self.directory
            .path()
            .join("data")
            .to_str()
            .expect("UTF-8")
            .to_owned()
    }

    /// Each statement's rows, or its SQLSTATE.
    fn run(&self, statements: &[&str]) -> Vec<Result<Vec<String>, String>> {
        let mut script = String::from("\\set VERBOSITY sqlstate\n\\pset null '~'\n");
        for statement in statements {
            script.push_str(&format!("{statement};\n\\echo {MARK}\n\\warn {MARK}\n"));
        }
        let mut psql = Command::new("psql");
        psql.args([
            "-X", "-q", "-A", "-t", "-F", "|", "-R", "\u{2}", "-U", "postgres", "-d", "postgres",
            "-h",
        ])
        .arg(self.directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
        let mut child = psql.spawn().expect("psql");
        let mut stdin = child.stdin.take().expect("piped");
        let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
        let output = child.wait_with_output().expect("psql ends");
        writer.join().expect("no panic").expect("psql reads it all");
        let stdout = String::from_utf8(output.stdout).expect("UTF-8");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        let errors: Vec<&str> = stderr.split(MARK).collect();
        stdout
            .split(MARK)
            .zip(errors)
            .take(statements.len())
            .map(|(out, error)| match error.split("ERROR:").nth(1) {
                Some(error) => Err(error.trim().chars().take(5).collect()),
                None => {
                    let out = out.strip_prefix('\n').unwrap_or(out);
                    let out = out.strip_suffix('\n').unwrap_or(out);
                    Ok(if out.is_empty() {
                        Vec::new()
                    } else {
                        out.split('\u{2}').map(str::to_owned).collect()
                    })
                }
            })
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        quiet(&mut as_user(
            "pg_ctl",
            &["-D", &self.data(), "-m", "immediate", "-w", "stop"],
        ));
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id");
    id.stdout.starts_with(b"0\n")
}

/// One of PostgreSQL's programs, as a user that it agrees to run as.
fn as_user(program: &str, arguments: &[&str]) -> Command {
    let program = PathBuf::from(BIN).join(program);
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(arguments).current_dir("/");
    command
}

fn quiet(command: &mut Command) -> bool {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .status();
    output.is_ok_and(|status| status.success())
}

#[test]
fn g8_the_same_statements_mean_the_same_as_on_postgresql() {
    let Some(server) = Server::start() else {
        return;
    };
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/statements");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let (mut total, mut differences) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        let statements: Vec<&str> = split::statements(&text)
            .map(|s| s.expect("it splits"))
            .collect();
        server.run(&["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"]);
        let theirs = server.run(&statements);
        assert_eq!(
            theirs.len(),
            statements.len(),
            "psql answered every statement"
        );
        for lift in [false, true] {
            let mut db = Db::new();
            db.lift = lift;
            for (statement, expected) in statements.iter().zip(&theirs) {
                total += 1;
                if let Some(difference) = compare(&mut db, &text, statement, expected) {
                    let name = file
                        .file_name()
                        .expect("a file")
                        .to_string_lossy()
                        .into_owned();
                    differences.push(format!(
                        "{name} (lifted: {lift}): {statement}\n{difference}"
                    ));
                }
            }
        }
    }
    eprintln!("{total} statements compared");
    assert!(
        differences.is_empty(),
        "{} differences\n\n{}",
        differences.len(),
        differences.join("\n\n")
    );
    assert!(total > 400, "the files are there");
}

fn compare(
    db: &mut Db,
    text: &str,
    statement: &str,
    expected: &Result<Vec<String>, String>,
) -> Option<String> {
    let start = statement.as_ptr() as usize - text.as_ptr() as usize;
    let is_refused = text[..start].trim_end().ends_with("-- refused");
    let ours = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| db.run(statement)));
    let ours = match ours {
        Ok(ours) => ours,
        Err(panic) => {
            let message = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            return Some(format!("  panicked: {message}\n  theirs: {expected:?}"));
        }
    };
    match (&ours, expected) {
        (Err(error), _) if is_refused => (error.code != ErrorCode::FeatureNotSupported)
            .then(|| format!("  refused, but with {} {error}", error.code.sqlstate())),
        (Ok(answer), Ok(rows)) => {
            let mut ours: Vec<String> = answer
                .rows
                .iter()
                .map(|row| {
                    row.iter()
                        .map(|v| v.as_deref().unwrap_or("~"))
                        .collect::<Vec<_>>()
                        .join("|")
                })
                .collect();
            let mut rows = rows.clone();
            if !statement.to_ascii_lowercase().contains("order by") {
                ours.sort();
                rows.sort();
            }
            (ours != rows).then(|| format!("  ours:   {ours:?}\n  theirs: {rows:?}"))
        }
        (Err(error), Err(state)) => (error.code.sqlstate().0 != state).then(|| {
            format!(
                "  ours:   {} {error}\n  theirs: {state}",
                error.code.sqlstate()
            )
        }),
        (Err(error), Ok(rows)) => Some(format!(
            "  ours:   {} {error} ({:?})\n  theirs: {rows:?}",
            error.code.sqlstate(),
            error.detail
        )),
        (Ok(answer), Err(state)) => Some(format!("  ours:   {:?}\n  theirs: {state}", answer.rows)),
    }
}
