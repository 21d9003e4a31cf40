//! What must hold of the planner whatever it is given.

mod support;

use proptest::prelude::*;
use springhead_proto::ErrorCode;
use springhead_sql::lift::{self, Lifted};
use springhead_sql::planner::{self, PlanContext};
use springhead_sql::{Catalog, filter, split};
use support::Db;

fn database() -> Db {
    let mut db = Db::new();
    db.script(
        "CREATE TABLE t (a INT PRIMARY KEY, b TEXT, c NUMERIC(8,2), d BOOLEAN, e BIGINT);
         INSERT INTO t VALUES (1, 'one', 1.50, true, 5000000000), (2, 'it''s', NULL, false, NULL),
                              (3, NULL, -3, NULL, -7), (4, '', 0, true, 0)",
    );
    db
}

/// Constants as people write them.
fn constant() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i32>().prop_map(|n| n.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        (-1000i32..1000, 0u32..100).prop_map(|(n, f)| format!("{n}.{f:02}")),
        "[a-z' %_]{0,6}".prop_map(|text| format!("'{}'", text.replace('\'', "''"))),
        (-50i32..50).prop_map(|n| format!("'{n}'")),
        Just("NULL".to_owned()),
        Just("true".to_owned()),
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        constant(),
        prop::sample::select(vec!["a", "b", "c", "d", "e"]).prop_map(str::to_owned)
    ]
}

fn expression() -> impl Strategy<Value = String> {
    value().prop_recursive(3, 24, 3, |inner| {
        let binary = prop::sample::select(vec![
            "+",
            "-",
            "*",
            "/",
            "=",
            "<",
            ">=",
            "<>",
            "||",
            "AND",
            "OR",
            "LIKE",
            "IS DISTINCT FROM",
        ]);
        prop_oneof![
            (inner.clone(), binary, inner.clone()).prop_map(|(l, op, r)| format!("({l} {op} {r})")),
            inner.clone().prop_map(|x| format!("(-{x})")),
            inner.clone().prop_map(|x| format!("({x} IS NULL)")),
            (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("coalesce({x}, {y})")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(x, y, z)| format!("CASE WHEN {x} THEN {y} ELSE {z} END")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(x, y, z)| format!("({x} IN ({y}, {z}))")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(x, y, z)| format!("({x} BETWEEN {y} AND {z})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn g8_a_statement_means_the_same_with_its_literals_lifted_out(
        output in expression(), condition in expression(), order in any::<bool>(),
    ) {
        let mut db = database();
        let order = if order { " ORDER BY 1, a LIMIT 3" } else { " ORDER BY a" };
        let sql = format!("SELECT {output}, a FROM t WHERE ({condition}) IS NOT NULL{order}");
        db.lift = false;
        let plain = db.run(&sql);
        db.lift = true;
        let lifted = db.run(&sql);
        match (plain, lifted) {
            (Ok(plain), Ok(lifted)) => prop_assert_eq!(plain, lifted, "{}", sql),
            (Err(plain), Err(lifted)) => prop_assert_eq!(plain.code, lifted.code, "{}", sql),
            (plain, lifted) => prop_assert!(false, "{}\n{:?}\n{:?}", sql, plain, lifted),
        }
    }

    #[test]
    fn g8_inserted_values_are_the_same_with_literals_lifted_out(a in constant(), b in constant(), c in constant()) {
        let sql = format!("INSERT INTO t (a, b, c) VALUES ({a}, {b}, {c}) RETURNING a, b, c");
        let mut answers = Vec::new();
        for lift in [false, true] {
            let mut db = database();
            db.lift = lift;
            answers.push(db.run(&sql).map_err(|error| error.code));
        }
        prop_assert_eq!(&answers[0], &answers[1], "{}", sql);
    }

    #[test]
    fn nothing_that_is_no_sql_makes_the_planner_panic(text in any::<String>()) {
        let catalog = std::sync::Arc::new(Catalog::bootstrap());
        let mut lifted = Lifted::default();
        for statement in split::statements(&text).flatten().chain([text.as_str()]) {
            if lift::lift(statement, &mut lifted) {
                let _ = planner::plan_template(&catalog, &lifted, &[], &PlanContext::default());
            }
            let _ = planner::plan(&catalog, statement, &[], &PlanContext::default());
        }
    }

    #[test]
    fn nothing_that_looks_like_sql_makes_the_planner_panic(
        words in prop::collection::vec(prop::sample::select(vec![
            "select", "from", "t", "where", "a", "(", ")", ",", "1", "'x'", "=", "and", "group by", "order by",
            "insert into", "values", "update", "set", "delete", "with", "as", "union", "$1", "case", "when", "then",
            "end", "null", "::", "int", "array", "[", "]", "over", "distinct", "limit", "join", "on", "using", "*",
            "between", "symmetric", "overriding", "system", "value", "-", "returning", "default", "||", "in", "like",
            "unnest", "generate_series", "count", "row", ";", ".", "interval", "date", "extract", "exists",
        ]), 1..24),
    ) {
        let db = database();
        let text = words.join(" ");
        let mut lifted = Lifted::default();
        if lift::lift(&text, &mut lifted) {
            let _ = planner::plan_template(&db.catalog, &lifted, &[], &db.context);
        }
        let _ = planner::plan(&db.catalog, &text, &[], &db.context);
        let table = db.catalog.tables_by_id().last().copied().cloned().expect("a table");
        let _ = filter::plan_filter(&table, &text);
    }

    #[test]
    fn nulls_are_the_greatest_values(mut values in prop::collection::vec(prop::option::of(-5i32..5), 1..12)) {
        let list: Vec<String> =
            values.iter().map(|v| v.map_or("(NULL::int)".to_owned(), |v| format!("({v})"))).collect();
        let mut db = Db::new();
        let rows = db.rows(&format!("SELECT x FROM (VALUES {}) AS v(x) ORDER BY x", list.join(",")));
        values.sort_by_key(|v| (v.is_none(), *v));
        let expected: Vec<String> = values.iter().map(|v| v.map_or("~".to_owned(), |v| v.to_string())).collect();
        prop_assert_eq!(&rows, &expected);
        let mut rows = db.rows(&format!("SELECT x FROM (VALUES {}) AS v(x) ORDER BY x DESC", list.join(",")));
        rows.reverse();
        prop_assert_eq!(rows, expected);
    }
}

#[test]
fn what_is_too_large_or_too_deep_is_refused_by_its_own_code() {
    let catalog = std::sync::Arc::new(Catalog::bootstrap());
    let context = PlanContext {
        max_statement_bytes: 100_000,
        ..PlanContext::default()
    };
    let plan = |sql: &str| {
        planner::plan(&catalog, sql, &[], &context)
            .map(|_| ())
            .map_err(|error| error.code)
    };
    assert_eq!(
        plan(&format!("SELECT '{}'", "x".repeat(100_000))),
        Err(ErrorCode::StatementTooLarge)
    );
    let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    assert_eq!(plan(&deep), Err(ErrorCode::TooComplex));
    let long = format!("SELECT {}", vec!["1=1"; 5000].join(" AND "));
    assert!(matches!(plan(&long), Ok(()) | Err(ErrorCode::TooComplex)));
}

#[test]
fn errors_have_postgresql_s_words_and_places() {
    let mut db = database();
    let mut check = |sql: &str, code: &str, message: &str, position: Option<u32>| {
        let error = db.error(sql);
        assert_eq!(
            (
                error.code.sqlstate().0,
                error.message.as_str(),
                error.position
            ),
            (code, message, position),
            "{sql}"
        );
    };
    check(
        "SELECT x FROM t",
        "42703",
        "column \"x\" does not exist",
        Some(8),
    );
    check(
        "SELECT t.x FROM t",
        "42703",
        "column t.x does not exist",
        Some(8),
    );
    check(
        "SELECT u.a FROM t",
        "42P01",
        "missing FROM-clause entry for table \"u\"",
        Some(8),
    );
    check(
        "SELECT 1 FROM\n nothing",
        "42P01",
        "relation \"nothing\" does not exist",
        Some(16),
    );
    check(
        "SELECT a FROM t, t u",
        "42702",
        "column reference \"a\" is ambiguous",
        Some(8),
    );
    check(
        "SELECT b, count(*) FROM t",
        "42803",
        "column \"t.b\" must appear in the GROUP BY clause or be used in an aggregate function",
        Some(8),
    );
    check(
        "SELECT foo(a) FROM t",
        "42883",
        "function foo(integer) does not exist",
        Some(8),
    );
    check(
        "SELECT a + b FROM t",
        "42883",
        "operator does not exist: integer + text",
        Some(8),
    );
    check(
        "SELEC 1",
        "42601",
        "syntax error at or near \"SELEC\"",
        Some(1),
    );
    check(
        "SELECT 1 FROM",
        "42601",
        "syntax error at end of input",
        Some(14),
    );
    check(
        "INSERT INTO t (x) VALUES (1)",
        "42703",
        "column \"x\" of relation \"t\" does not exist",
        Some(16),
    );
    check(
        "INSERT INTO t (a) VALUES (true)",
        "42804",
        "column \"a\" is of type integer but expression is of type boolean",
        Some(27),
    );
    check(
        "INSERT INTO springhead.definitions VALUES (1)",
        "42501",
        "permission denied for table definitions",
        Some(13),
    );
}

#[test]
fn an_index_serves_what_it_can() {
    let mut db = database();
    db.script("CREATE INDEX ON t (b); CREATE INDEX ON t (c)");
    for (sql, wanted) in [
        ("SELECT * FROM t WHERE a = 1", "SEARCH"),
        ("SELECT * FROM t WHERE b = 'one'", "SEARCH"),
        ("SELECT * FROM t WHERE b LIKE 'on%'", "SEARCH"),
        ("SELECT * FROM t WHERE c = 1.5", "SEARCH"),
        ("SELECT * FROM t WHERE a IN (1, 2)", "SEARCH"),
        ("UPDATE t SET e = e + 1 WHERE a = 3", "SEARCH"),
        ("DELETE FROM t WHERE a = 3", "SEARCH"),
        (
            "SELECT * FROM t x JOIN t y ON x.a = y.a WHERE x.b = 'one'",
            "SEARCH",
        ),
    ] {
        let plan = db.rows(&format!("EXPLAIN {sql}")).join("\n");
        assert!(plan.contains(wanted), "{sql}\n{plan}");
    }
}

#[test]
fn a_filter_sees_the_row_and_nothing_else() {
    let db = database();
    let table = db
        .catalog
        .tables_by_id()
        .last()
        .copied()
        .cloned()
        .expect("a table");
    let planned = filter::plan_filter(&table, "c > 1 AND b LIKE 'o%'").expect("it plans");
    assert_eq!(planned.columns, [1, 2]);
    let value: i64 = db
        .conn
        .query_row(&planned.sql, rusqlite::params![1, "one", 150], |row| {
            row.get(0)
        })
        .expect("it runs");
    assert_eq!(value, 1);
    let code = |text: &str| filter::plan_filter(&table, text).expect_err(text).code;
    assert_eq!(code("x = 1"), ErrorCode::UndefinedColumn);
    assert_eq!(code("a IN (SELECT 1)"), ErrorCode::FeatureNotSupported);
    assert_eq!(code("a = $1"), ErrorCode::UndefinedParameter);
    assert_eq!(code("c < random()"), ErrorCode::InvalidObjectDefinition);
    assert_eq!(code("count(*) > 1"), ErrorCode::GroupingError);
    assert_eq!(code("b"), ErrorCode::DatatypeMismatch);
    assert_eq!(code("a = "), ErrorCode::SyntaxError);
    assert_eq!(
        code(&format!("b = '{}'", "x".repeat(9000))),
        ErrorCode::StatementTooLarge
    );
    assert_eq!(
        code(&format!("{}a = 1{}", "(".repeat(200), ")".repeat(200))),
        ErrorCode::TooComplex
    );
}

#[test]
fn documents_are_put_patched_read_and_deleted() {
    let mut db = database();
    let table = db
        .catalog
        .tables_by_id()
        .last()
        .copied()
        .cloned()
        .expect("a table");
    let values = |texts: &[&str], plan: &springhead_sql::Plan| {
        let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(*text)).collect();
        support::bind(&plan.parameters, &texts).expect("they bind")
    };
    let put = planner::put_document(&db.catalog, &table, &[1]).expect("it plans");
    let row = db
        .execute(&put, &values(&["9", "nine"], &put))
        .expect("it runs")
        .rows;
    assert_eq!(row[0][1].as_deref(), Some("nine"));
    let patch = planner::patch_document(&db.catalog, &table, &[2]).expect("it plans");
    let row = db
        .execute(&patch, &values(&["9", "4.5"], &patch))
        .expect("it runs")
        .rows;
    assert_eq!(
        (row[0][1].as_deref(), row[0][2].as_deref()),
        (Some("nine"), Some("4.50"))
    );
    // Put replaces the whole document.
    let row = db
        .execute(&put, &values(&["9", "new"], &put))
        .expect("it runs")
        .rows;
    assert_eq!(
        (row[0][1].as_deref(), row[0][2].as_deref()),
        (Some("new"), None)
    );
    let get = planner::get_document(&db.catalog, &table);
    assert_eq!(
        db.execute(&get, &values(&["9"], &get))
            .expect("it runs")
            .rows
            .len(),
        1
    );
    let delete = planner::delete_document(&db.catalog, &table);
    assert_eq!(
        db.execute(&delete, &values(&["9"], &delete))
            .expect("it runs")
            .rows
            .len(),
        1
    );
    assert_eq!(
        db.execute(&get, &values(&["9"], &get))
            .expect("it runs")
            .rows
            .len(),
        0
    );
}

#[test]
fn parameters_take_their_types_from_where_they_stand() {
    let mut db = database();
    let answer = db
        .run_with(
            "SELECT b FROM t WHERE a = $1 AND c > $2",
            &[Some("1"), Some("1.2")],
        )
        .expect("it runs");
    assert_eq!(answer.rows, [[Some("one".to_owned())]]);
    let answer = db.run_with(
        "INSERT INTO t (a, c) VALUES ($1, $2) RETURNING c",
        &[Some("7"), Some("2.345")],
    );
    assert_eq!(answer.expect("it runs").rows, [[Some("2.35".to_owned())]]);
    let error = db
        .run_with("INSERT INTO t (a) VALUES ($1)", &[None])
        .expect_err("a key is never NULL");
    assert_eq!(error.code, ErrorCode::NotNullViolation);
    let answer = db
        .run_with("SELECT $1::int + 1, $2", &[Some("4"), Some("x")])
        .expect("it runs");
    assert_eq!(answer.rows, [[Some("5".to_owned()), Some("x".to_owned())]]);
    assert_eq!(
        db.run_with("SELECT $2::int", &[None, Some("1")])
            .expect_err("$1 is nowhere")
            .code,
        ErrorCode::IndeterminateDatatype
    );
}
