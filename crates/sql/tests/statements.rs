//! The same statements on PostgreSQL 15 and, planned, on SQLite: the same rows, the same errors (G8).
//!
//! Each file in `tests/statements` is one database. Where no PostgreSQL is installed the tests say so
//! and pass. A statement that is refused here by design follows a line `-- refused`.

mod support;

use std::path::{Path, PathBuf};

use springhead_proto::ErrorCode;
use springhead_sql::split;
use support::Db;
use support::server::Server;

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
