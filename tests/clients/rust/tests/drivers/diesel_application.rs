//! Diesel (with diesel-async): a small application migrates, queries and updates.

use bigdecimal::BigDecimal;
use chrono::NaiveDate;
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use diesel::upsert::excluded;
use diesel_async::{AsyncConnection, AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl};
use diesel_migrations::{FileBasedMigrations, MigrationHarness};
use springhead_client_tests::server::Server;

diesel::table! {
    author (id) {
        id -> Int4,
        name -> Text,
        born -> Nullable<Date>,
    }
}

diesel::table! {
    book (id) {
        id -> Int8,
        author_id -> Int4,
        title -> Text,
        price -> Numeric,
        tags -> Array<Text>,
        extra -> Jsonb,
    }
}

diesel::joinable!(book -> author (author_id));
diesel::allow_tables_to_appear_in_same_query!(author, book);

#[derive(Debug, PartialEq, Queryable, Selectable, Identifiable, AsChangeset)]
#[diesel(table_name = author, treat_none_as_null = true)]
struct Author {
    id: i32,
    name: String,
    born: Option<NaiveDate>,
}

#[derive(Insertable)]
#[diesel(table_name = book)]
struct NewBook<'a> {
    author_id: i32,
    title: &'a str,
    price: BigDecimal,
    tags: Vec<&'a str>,
    extra: serde_json::Value,
}

#[derive(Debug, PartialEq, Queryable, Selectable, Associations, Identifiable)]
#[diesel(table_name = book, belongs_to(Author))]
struct Book {
    id: i64,
    author_id: i32,
    title: String,
    price: BigDecimal,
    tags: Vec<String>,
    extra: serde_json::Value,
}

const MIGRATIONS: [(&str, &str, &str); 2] = [
    (
        "2024-01-01-000000_author",
        "CREATE TABLE author (id serial PRIMARY KEY, name text NOT NULL UNIQUE, born date);",
        "DROP TABLE author;",
    ),
    (
        "2024-01-02-000000_book",
        "CREATE TABLE book (id bigserial PRIMARY KEY, author_id int NOT NULL REFERENCES author ON DELETE \
         CASCADE, title text NOT NULL, price numeric(10,2) NOT NULL CHECK (price > 0), tags text[] NOT \
         NULL, extra jsonb NOT NULL DEFAULT '{}'); CREATE INDEX book_author ON book (author_id);",
        "DROP TABLE book;",
    ),
];

async fn connect(server: &Server) -> AsyncPgConnection {
    let connected = server.config().connect(server.connector()).await;
    let (client, connection) = connected.expect("the user may log in");
    AsyncPgConnection::try_from_client_and_connection(client, connection)
        .await
        .expect("Diesel's settings are taken")
}

/// Runs the application's migrations twice: the second time there is nothing to do.
fn migrate(connection: AsyncPgConnection) -> AsyncPgConnection {
    let place = tempfile::tempdir().expect("a temporary directory");
    for (name, up, down) in MIGRATIONS {
        let place = place.path().join(name);
        std::fs::create_dir(&place).expect("a directory");
        std::fs::write(place.join("up.sql"), up).expect("a file");
        std::fs::write(place.join("down.sql"), down).expect("a file");
    }
    let migrations = || FileBasedMigrations::from_path(place.path()).expect("two migrations");
    let mut harness = AsyncMigrationHarness::new(connection);
    assert_eq!(
        harness
            .run_pending_migrations(migrations())
            .expect("they are made")
            .len(),
        2
    );
    assert_eq!(
        harness
            .run_pending_migrations(migrations())
            .expect("they are there")
            .len(),
        0
    );
    harness
        .revert_last_migration(migrations())
        .expect("one is undone");
    assert_eq!(
        harness
            .run_pending_migrations(migrations())
            .expect("it is made again")
            .len(),
        1
    );
    harness.into_inner()
}

fn price(cents: i64) -> BigDecimal {
    BigDecimal::new(cents.into(), 2)
}

async fn fill(connection: &mut AsyncPgConnection) -> Author {
    let done = connection.transaction(async |connection| {
        let ada: Author = diesel::insert_into(author::table)
            .values((
                author::name.eq("Ada"),
                author::born.eq(NaiveDate::from_ymd_opt(1815, 12, 10)),
            ))
            .returning(Author::as_returning())
            .get_result(connection)
            .await?;
        let names = vec![author::name.eq("Grace"), author::name.eq("Mary")];
        diesel::insert_into(author::table)
            .values(names)
            .execute(connection)
            .await?;
        let books: Vec<NewBook> = ["Notes", "Letters", "Poems"]
            .iter()
            .zip(0..)
            .map(|(title, n)| NewBook {
                author_id: ada.id,
                title,
                price: price(950 + n * 100),
                tags: vec!["x", "y"],
                extra: serde_json::json!({ "n": n }),
            })
            .collect();
        let made = diesel::insert_into(book::table)
            .values(&books)
            .execute(connection)
            .await?;
        assert_eq!(made, 3);
        Ok::<_, Error>(ada)
    });
    done.await.expect("a commit")
}

async fn query(connection: &mut AsyncPgConnection, ada: &Author) {
    let found: Vec<(String, Option<BigDecimal>, i64)> = author::table
        .left_join(book::table)
        .group_by(author::id)
        .select((
            author::name,
            diesel::dsl::sum(book::price.nullable()),
            diesel::dsl::count(book::id.nullable()),
        ))
        .order(author::name)
        .load(connection)
        .await
        .expect("three authors");
    assert_eq!(found[0], ("Ada".to_owned(), Some(price(3150)), 3));
    assert_eq!(found[1], ("Grace".to_owned(), None, 0));
    let theirs: Vec<Book> = Book::belonging_to(ada)
        .filter(book::title.like("%t%s").and(book::price.gt(price(900))))
        .filter(book::tags.contains(vec!["x"]))
        .order(book::id.desc())
        .select(Book::as_select())
        .load(connection)
        .await
        .expect("two books");
    let titles: Vec<&str> = theirs.iter().map(|book| book.title.as_str()).collect();
    assert_eq!(titles, ["Letters", "Notes"]);
    assert_eq!(
        (&theirs[0].price, &theirs[0].extra),
        (&price(1050), &serde_json::json!({ "n": 1 }))
    );
    let exists = diesel::select(diesel::dsl::exists(
        book::table.filter(book::id.eq_any(vec![theirs[0].id, 99])),
    ));
    assert!(
        exists
            .get_result::<bool>(connection)
            .await
            .expect("an answer")
    );
    let page: Vec<String> = book::table
        .select(book::title)
        .distinct()
        .order(book::title)
        .limit(2)
        .offset(1)
        .load(connection)
        .await
        .expect("a page");
    assert_eq!(page, ["Notes", "Poems"]);
}

async fn update(connection: &mut AsyncPgConnection, mut ada: Author) {
    ada.born = None;
    let saved: Author = diesel::update(&ada)
        .set(&ada)
        .returning(Author::as_returning())
        .get_result(connection)
        .await
        .expect("it is saved");
    assert_eq!(saved, ada);
    let dearer = diesel::update(book::table.filter(book::price.lt(price(1100))))
        .set(book::price.eq(book::price * price(200)))
        .execute(connection)
        .await;
    assert_eq!(dearer.expect("they are dearer"), 2);
    let upserted: i32 = diesel::insert_into(author::table)
        .values((
            author::name.eq("Ada"),
            author::born.eq(NaiveDate::from_ymd_opt(1815, 12, 11)),
        ))
        .on_conflict(author::name)
        .do_update()
        .set(author::born.eq(excluded(author::born)))
        .returning(author::id)
        .get_result(connection)
        .await
        .expect("it is there");
    assert_eq!(upserted, ada.id);
    let failed = connection.transaction(async |connection| {
        diesel::delete(book::table).execute(connection).await?;
        diesel::insert_into(author::table)
            .values(author::name.eq("Ada"))
            .execute(connection)
            .await
    });
    match failed.await {
        Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, about)) => {
            assert_eq!(about.constraint_name(), Some("author_name_key"));
        }
        other => panic!("{other:?}"),
    }
    let count: i64 = book::table
        .count()
        .get_result(connection)
        .await
        .expect("a count");
    assert_eq!(count, 3, "the transaction was rolled back");
    let gone = diesel::delete(author::table.find(ada.id))
        .execute(connection)
        .await;
    assert_eq!(gone.expect("one author"), 1);
    let count: i64 = book::table
        .count()
        .get_result(connection)
        .await
        .expect("a count");
    assert_eq!(count, 0, "and the books with their author");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_migrates_queries_and_updates() {
    let server = Server::start().await;
    let mut connection = migrate(connect(&server).await);
    let ada = fill(&mut connection).await;
    query(&mut connection, &ada).await;
    update(&mut connection, ada).await;
    let mut levels = connection.build_transaction().serializable().read_only();
    let count =
        levels.run(async |connection| author::table.count().get_result::<i64>(connection).await);
    assert_eq!(count.await.expect("a count"), 2);
}
