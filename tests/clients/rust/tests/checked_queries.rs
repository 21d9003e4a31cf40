//! An application with sqlx's macros, over the schema of `drivers/sqlx_macros.rs`, which builds and runs
//! it against its server: each type here was found by asking that server.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgPool;
use uuid::Uuid;

#[derive(Debug, PartialEq, sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "lowercase")]
enum Mood {
    Glad,
    Sad,
}

#[derive(Debug, PartialEq)]
struct Kept {
    person: String,
    // NOT NULL in its table, and missing where a person has no pet.
    pet: Option<String>,
    fed: Option<DateTime<Utc>>,
}

#[tokio::test]
async fn checked_queries_read_and_write() {
    let url = std::env::var("DATABASE_URL").expect("the server that checked the queries");
    let pool = PgPool::connect(&url).await.expect("the user may log in");

    let born = NaiveDate::from_ymd_opt(1815, 12, 10);
    let tags = ["a".to_owned(), "b".to_owned()];
    let ada: i64 = sqlx::query_scalar!(
        "INSERT INTO person (name, born, mood, tags) VALUES ($1, $2, $3, $4) RETURNING id",
        "Ada",
        born,
        Mood::Sad as Mood,
        &tags
    )
    .fetch_one(&pool)
    .await
    .expect("a row");
    sqlx::query!("INSERT INTO person (name) VALUES ('Bob')")
        .execute(&pool)
        .await
        .expect("a row");
    let pet: Uuid = sqlx::query!(
        "INSERT INTO pet (owner, name) VALUES ($1, 'Rex') RETURNING id",
        ada
    )
    .fetch_one(&pool)
    .await
    .expect("a row")
    .id;

    let row = sqlx::query!(
        r#"SELECT id, name, born, mood AS "mood: Mood", tags, more, worth FROM person WHERE id = $1"#,
        ada
    )
    .fetch_one(&pool)
    .await
    .expect("a row");
    let (id, name): (i64, String) = (row.id, row.name);
    assert_eq!((id, name.as_str(), row.born), (ada, "Ada", born));
    assert_eq!((row.mood, row.tags), (Mood::Sad, tags.to_vec()));
    assert_eq!((row.more, row.worth), (None, None));

    let kept = sqlx::query_as!(
        Kept,
        "SELECT person.name AS person, pet.name AS pet, pet.fed
         FROM person LEFT JOIN pet ON pet.owner = person.id ORDER BY person.id"
    )
    .fetch_all(&pool)
    .await
    .expect("the rows");
    let expected = [("Ada", Some("Rex")), ("Bob", None)].map(|(person, pet)| Kept {
        person: person.to_owned(),
        pet: pet.map(str::to_owned),
        fed: None,
    });
    assert_eq!(kept, expected);

    let counts = sqlx::query!("SELECT name, pets FROM owners ORDER BY name")
        .fetch_all(&pool)
        .await
        .expect("the rows");
    let counts: Vec<(String, Option<i64>)> =
        counts.into_iter().map(|row| (row.name, row.pets)).collect();
    assert_eq!(
        counts,
        [("Ada".to_owned(), Some(1)), ("Bob".to_owned(), Some(0))]
    );

    let fed = sqlx::query!("UPDATE pet SET fed = now() WHERE id = $1", pet)
        .execute(&pool)
        .await
        .expect("a row");
    assert_eq!(fed.rows_affected(), 1);
    let names = sqlx::query_scalar!("SELECT name FROM person WHERE id = ANY($1)", &[ada])
        .fetch_all(&pool)
        .await
        .expect("the rows");
    assert_eq!(names, ["Ada"]);
    sqlx::query!("DELETE FROM pet")
        .execute(&pool)
        .await
        .expect("rows");
}
