//! sqlx's macros: an application whose queries are checked by a running server while it is compiled,
//! and which then runs.

use std::path::Path;
use std::process::Command;

use springhead_client_tests::server::Server;
use sqlx::ConnectOptions;

use super::sqlx_driver::{options, pool};

const SCHEMA: &str = "
    CREATE TYPE mood AS ENUM ('glad', 'sad');
    CREATE TABLE person (
        id bigserial PRIMARY KEY,
        name text NOT NULL,
        born date,
        mood mood NOT NULL DEFAULT 'glad',
        tags text[] NOT NULL DEFAULT '{}',
        more jsonb,
        worth numeric(12, 2)
    );
    CREATE TABLE pet (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        owner bigint NOT NULL REFERENCES person,
        name text NOT NULL,
        fed timestamptz
    );
    CREATE VIEW owners AS SELECT person.name, count(pet.id) AS pets
        FROM person LEFT JOIN pet ON pet.owner = person.id GROUP BY person.id;
";

#[tokio::test]
async fn queries_are_checked_by_the_server_while_they_are_compiled() {
    let server = Server::start().await;
    let pool = pool(&server).await;
    sqlx::raw_sql(SCHEMA)
        .execute(&pool)
        .await
        .expect("the schema is made");
    let mut url = options(&server).to_url_lossy();
    // What is lost of a URL made so is the path of the authority; the last one given counts.
    url.query_pairs_mut()
        .append_pair("sslrootcert", &server.ca().to_string_lossy());
    let binary = std::env::current_exe().expect("this test's own file");
    let target = binary
        .ancestors()
        .nth(3)
        .expect("it lies in target/debug/deps");
    let built = Command::new(std::env::var_os("CARGO").expect("Cargo runs the tests"))
        .args([
            "test",
            "--features",
            "checked_queries",
            "--test",
            "checked_queries",
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .env("DATABASE_URL", url.as_str())
        .output()
        .expect("Cargo starts");
    let said = String::from_utf8_lossy(&built.stdout);
    let warned = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}\n{warned}");
    assert!(
        said.contains("test result: ok. 1 passed"),
        "{said}\n{warned}"
    );
}
