//! PostgreSQL's drivers for Rust, each its ordinary use, with a password and TLS: one test binary, since
//! linking is what takes the time.

mod diesel_application;
mod sea_orm_application;
mod sqlx_driver;
mod sqlx_macros;
mod tokio_postgres_driver;
