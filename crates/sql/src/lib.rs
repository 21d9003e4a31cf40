//! Springhead sql.
