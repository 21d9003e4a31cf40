//! DDL: from PostgreSQL's statements to the SQLite statements that mean the same, and the
//! definitions that they put and drop.

pub(crate) mod storage;
