//! SeaORM: a small application makes its tables from its entities, queries and updates them.

use sea_orm::ActiveValue::Set;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    DatabaseConnection, DbBackend, DbErr, PaginatorTrait, QueryOrder, QuerySelect, Schema, SqlErr,
    SqlxPostgresConnector, TransactionTrait,
};
use serde_json::json;
use springhead_client_tests::server::{PASSWORD, Server};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};

mod author {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "author")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i32,
        #[sea_orm(unique)]
        pub name: String,
        pub born: Option<Date>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {
        #[sea_orm(has_many = "super::book::Entity")]
        Book,
    }

    impl Related<super::book::Entity> for Entity {
        fn to() -> RelationDef {
            Relation::Book.def()
        }
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod book {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "book")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub author_id: i32,
        pub title: String,
        pub pages: Option<i32>,
        pub extra: Json,
        pub key: Uuid,
        pub seen: DateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {
        #[sea_orm(
            belongs_to = "super::author::Entity",
            from = "Column::AuthorId",
            to = "super::author::Column::Id",
            on_delete = "Cascade"
        )]
        Author,
    }

    impl Related<super::author::Entity> for Entity {
        fn to() -> RelationDef {
            Relation::Author.def()
        }
    }

    impl ActiveModelBehavior for ActiveModel {}
}

async fn connect(server: &Server) -> DatabaseConnection {
    let options = PgConnectOptions::new_without_pgpass()
        .host("localhost")
        .port(server.port)
        .username("app")
        .password(PASSWORD)
        .database("default")
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_root_cert(server.ca());
    let pool = PgPoolOptions::new().max_connections(3);
    let pool = pool.connect_with(options).await;
    SqlxPostgresConnector::from_sqlx_postgres_pool(pool.expect("the user may log in"))
}

fn new_book(author: &author::Model, title: &str, pages: Option<i32>) -> book::ActiveModel {
    book::ActiveModel {
        author_id: Set(author.id),
        title: Set(title.to_owned()),
        pages: Set(pages),
        extra: Set(json!({ "of": title, "n": [1, null] })),
        key: Set(Uuid::from_u128(7)),
        seen: Set(chrono::DateTime::UNIX_EPOCH),
        ..Default::default()
    }
}

/// Makes the tables, with their keys, as the entities say.
async fn migrate(db: &DatabaseConnection) {
    let schema = Schema::new(DbBackend::Postgres);
    for table in [
        schema.create_table_from_entity(author::Entity),
        schema.create_table_from_entity(book::Entity),
    ] {
        db.execute(&table).await.expect("a table is made");
    }
}

async fn fill(db: &DatabaseConnection) -> (author::Model, author::Model) {
    let ada = author::ActiveModel {
        name: Set("Ada".to_owned()),
        born: Set(Date::from_ymd_opt(1815, 12, 10)),
        ..Default::default()
    };
    let ada = ada.insert(db).await.expect("an author");
    let bob = author::ActiveModel {
        name: Set("Bob".to_owned()),
        born: Set(None),
        ..Default::default()
    };
    let bob = bob.insert(db).await.expect("another");
    assert_eq!((ada.id, bob.id, bob.born), (1, 2, None));
    let books = [
        new_book(&ada, "Notes", Some(66)),
        new_book(&ada, "Ä%_'\"", None),
        new_book(&bob, "Bob's", Some(7)),
    ];
    let inserted = book::Entity::insert_many(books).exec(db).await;
    inserted.expect("three books");
    (ada, bob)
}

#[tokio::test]
async fn sea_orm_runs_a_small_application() {
    let server = Server::start().await;
    let db = connect(&server).await;
    migrate(&db).await;
    let (ada, bob) = fill(&db).await;

    // Queries: by column, ordered, joined, counted, by page.
    let notes = book::Entity::find()
        .filter(book::Column::Title.starts_with("No"))
        .one(&db)
        .await
        .expect("a query")
        .expect("a book");
    assert_eq!(notes.extra, json!({ "of": "Notes", "n": [1, null] }));
    assert_eq!((notes.key, notes.pages), (Uuid::from_u128(7), Some(66)));
    assert_eq!(notes.seen, chrono::DateTime::UNIX_EPOCH);
    let with_books = author::Entity::find()
        .find_with_related(book::Entity)
        .order_by_asc(author::Column::Name)
        .order_by_asc(book::Column::Id)
        .all(&db)
        .await
        .expect("a join");
    let titles: Vec<Vec<&str>> = with_books
        .iter()
        .map(|(_, books)| books.iter().map(|book| book.title.as_str()).collect())
        .collect();
    assert_eq!(titles, [vec!["Notes", "Ä%_'\""], vec!["Bob's"]]);
    let sums: Vec<(i32, i64)> = book::Entity::find()
        .select_only()
        .column(book::Column::AuthorId)
        .column_as(book::Column::Id.count(), "n")
        .group_by(book::Column::AuthorId)
        .order_by_asc(book::Column::AuthorId)
        .into_tuple()
        .all(&db)
        .await
        .expect("groups");
    assert_eq!(sums, [(1, 2), (2, 1)]);
    let pages = book::Entity::find()
        .order_by_desc(book::Column::Id)
        .paginate(&db, 2);
    assert_eq!(pages.num_pages().await.expect("a count"), 2);
    let last = pages.fetch_page(1).await.expect("a page");
    assert_eq!(last, [notes.clone()]);

    // Changes: one row, many rows, upserts.
    let mut change: book::ActiveModel = notes.into();
    change.pages = Set(None);
    assert_eq!(change.update(&db).await.expect("an update").pages, None);
    let many = book::Entity::update_many()
        .col_expr(book::Column::Pages, Expr::value(1))
        .filter(book::Column::Pages.is_null())
        .exec(&db)
        .await
        .expect("many");
    assert_eq!(many.rows_affected, 2);
    let again = author::ActiveModel {
        name: Set("Bob".to_owned()),
        born: Set(Date::from_ymd_opt(2000, 2, 29)),
        ..Default::default()
    };
    let mut clash = OnConflict::column(author::Column::Name);
    let upsert = author::Entity::insert(again.clone())
        .on_conflict(clash.update_column(author::Column::Born).to_owned())
        .exec_with_returning(&db)
        .await
        .expect("an upsert");
    assert_eq!(
        (upsert.id, upsert.born),
        (bob.id, Date::from_ymd_opt(2000, 2, 29))
    );

    // Errors have their kinds, and a transaction that fails leaves nothing.
    let failed = db
        .transaction::<_, (), DbErr>(|tx| {
            Box::pin(async move {
                book::Entity::delete_many().exec(tx).await?;
                again.insert(tx).await.map(drop)
            })
        })
        .await
        .expect_err("the name is taken");
    let failed = match failed {
        sea_orm::TransactionError::Transaction(error)
        | sea_orm::TransactionError::Connection(error) => error,
    };
    assert!(
        matches!(failed.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))),
        "{failed}"
    );
    assert_eq!(book::Entity::find().count(&db).await.expect("a count"), 3);
    let orphan = new_book(
        &author::Model {
            id: 99,
            ..ada.clone()
        },
        "x",
        None,
    )
    .insert(&db)
    .await;
    let orphan = orphan.expect_err("there is no such author");
    assert!(
        matches!(
            orphan.sql_err(),
            Some(SqlErr::ForeignKeyConstraintViolation(_))
        ),
        "{orphan}"
    );
    ada.delete(&db).await.expect("a deletion");
    assert_eq!(book::Entity::find().count(&db).await.expect("a count"), 1);
}
