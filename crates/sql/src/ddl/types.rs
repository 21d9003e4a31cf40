//! A column's type as DDL writes it.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::DataType;

use super::names::fold;
use crate::catalog::Catalog;
use crate::query::data_type::pg_type;
use crate::types::PgType;

/// A type that no column can have.
pub(super) fn pseudo_type(column: &str, pg_type: &PgType) -> SqlError {
    let name = pg_type.base_name();
    SqlError::new(
        ErrorCode::InvalidTableDefinition,
        format!("column \"{column}\" has pseudo-type {name}"),
    )
}

/// A column's type, and whether it was written as one of the serial types.
///
/// # Errors
/// As [`PgType::from_name`]; 42P16 for a type that no column can have.
pub(crate) fn column_type(
    catalog: &Catalog,
    column: &str,
    data_type: &DataType,
) -> Result<(PgType, bool), SqlError> {
    let pg_type = pg_type(catalog, data_type)?;
    if matches!(pg_type, PgType::Unknown | PgType::Void) {
        return Err(pseudo_type(column, &pg_type));
    }
    if matches!(
        pg_type,
        PgType::Reg(_) | PgType::Int2Vector | PgType::OidVector
    ) {
        return Err(SqlError::unsupported(format_args!(
            "a column of type {}",
            pg_type.base_name()
        )));
    }
    let serial = match data_type {
        DataType::Custom(name, _) => {
            name.0
                .last()
                .and_then(|part| part.as_ident())
                .is_some_and(|name| {
                    matches!(
                        fold(name).as_str(),
                        "serial" | "serial2" | "serial4" | "serial8" | "bigserial" | "smallserial"
                    )
                })
        }
        _ => false,
    };
    Ok((pg_type, serial))
}
