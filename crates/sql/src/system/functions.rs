//! The functions that describe the catalog, as the planner resolves them. Each becomes a call of
//! `sh_sys(name, …)`, which is [`super::calls::call`].

use crate::functions::{ArgType as A, Class, Emit, ResultType as R, Signature, Volatility};

/// `"name"(arguments) -> result;`.
macro_rules! describers {
    ($($name:literal ( $($arg:ident),* ) -> $result:ident;)*) => {
        &[$(Signature {
            name: $name,
            args: &[$(A::$arg),*],
            variadic: false,
            result: R::Of(A::$result),
            emit: Emit::System($name),
            strict: true,
            volatility: Volatility::Stable,
            class: Class::Scalar,
        }),*]
    };
}

/// The signature table's part of them.
pub const SIGNATURES: &[Signature] = describers! {
    "pg_size_pretty"(Int8) -> Text;
    "pg_index_column_has_property"(Regclass, Int4, Text) -> Bool;
    "format_type"(Oid, Int4) -> Text;
    "pg_get_expr"(Text, Oid) -> Text;
    "pg_get_expr"(Text, Oid, Bool) -> Text;
    "pg_get_constraintdef"(Oid) -> Text;
    "pg_get_constraintdef"(Oid, Bool) -> Text;
    "pg_get_indexdef"(Oid) -> Text;
    "pg_get_indexdef"(Oid, Int4, Bool) -> Text;
    "pg_get_viewdef"(Oid) -> Text;
    "pg_get_viewdef"(Oid, Bool) -> Text;
    "pg_get_viewdef"(Oid, Int4) -> Text;
    "pg_get_viewdef"(Text) -> Text;
    "pg_get_viewdef"(Text, Bool) -> Text;
    "pg_get_ruledef"(Oid) -> Text;
    "pg_get_ruledef"(Oid, Bool) -> Text;
    "pg_get_triggerdef"(Oid) -> Text;
    "pg_get_triggerdef"(Oid, Bool) -> Text;
    "pg_get_functiondef"(Oid) -> Text;
    "pg_get_function_arguments"(Oid) -> Text;
    "pg_get_function_identity_arguments"(Oid) -> Text;
    "pg_get_function_result"(Oid) -> Text;
    "pg_get_function_sqlbody"(Oid) -> Text;
    "pg_get_function_arg_default"(Oid, Int4) -> Text;
    "pg_get_partkeydef"(Oid) -> Text;
    "pg_get_partition_constraintdef"(Oid) -> Text;
    "pg_get_statisticsobjdef"(Oid) -> Text;
    "pg_get_statisticsobjdef_columns"(Oid) -> Text;
    "pg_get_replica_identity_index"(Regclass) -> Regclass;
    "pg_relation_is_publishable"(Regclass) -> Bool;
    "acldefault"(Text, Oid) -> TextArray;
    "pg_get_userbyid"(Oid) -> Name;
    "obj_description"(Oid, Name) -> Text;
    "obj_description"(Oid) -> Text;
    "col_description"(Oid, Int4) -> Text;
    "shobj_description"(Oid, Name) -> Text;
    "pg_table_is_visible"(Oid) -> Bool;
    "pg_type_is_visible"(Oid) -> Bool;
    "pg_function_is_visible"(Oid) -> Bool;
    "pg_operator_is_visible"(Oid) -> Bool;
    "pg_opclass_is_visible"(Oid) -> Bool;
    "pg_opfamily_is_visible"(Oid) -> Bool;
    "pg_collation_is_visible"(Oid) -> Bool;
    "pg_conversion_is_visible"(Oid) -> Bool;
    "pg_statistics_obj_is_visible"(Oid) -> Bool;
    "pg_ts_config_is_visible"(Oid) -> Bool;
    "pg_ts_dict_is_visible"(Oid) -> Bool;
    "pg_ts_parser_is_visible"(Oid) -> Bool;
    "pg_ts_template_is_visible"(Oid) -> Bool;
    "has_table_privilege"(Regclass, Text) -> Bool;
    "has_table_privilege"(Name, Regclass, Text) -> Bool;
    "has_table_privilege"(Oid, Regclass, Text) -> Bool;
    "has_any_column_privilege"(Regclass, Text) -> Bool;
    "has_any_column_privilege"(Name, Regclass, Text) -> Bool;
    "has_column_privilege"(Regclass, Text, Text) -> Bool;
    "has_column_privilege"(Regclass, Int2, Text) -> Bool;
    "has_column_privilege"(Name, Regclass, Text, Text) -> Bool;
    "has_sequence_privilege"(Regclass, Text) -> Bool;
    "has_sequence_privilege"(Name, Regclass, Text) -> Bool;
    "has_schema_privilege"(Text, Text) -> Bool;
    "has_schema_privilege"(Oid, Text) -> Bool;
    "has_schema_privilege"(Name, Text, Text) -> Bool;
    "has_schema_privilege"(Name, Oid, Text) -> Bool;
    "has_database_privilege"(Text, Text) -> Bool;
    "has_database_privilege"(Oid, Text) -> Bool;
    "has_database_privilege"(Name, Text, Text) -> Bool;
    "has_database_privilege"(Name, Oid, Text) -> Bool;
    "has_function_privilege"(Text, Text) -> Bool;
    "has_function_privilege"(Name, Text, Text) -> Bool;
    "has_function_privilege"(Oid, Text) -> Bool;
    "has_function_privilege"(Name, Oid, Text) -> Bool;
    "has_type_privilege"(Oid, Text) -> Bool;
    "has_language_privilege"(Oid, Text) -> Bool;
    "has_tablespace_privilege"(Text, Text) -> Bool;
    "has_tablespace_privilege"(Oid, Text) -> Bool;
    "has_server_privilege"(Oid, Text) -> Bool;
    "has_foreign_data_wrapper_privilege"(Oid, Text) -> Bool;
    "pg_has_role"(Text, Text) -> Bool;
    "pg_has_role"(Oid, Text) -> Bool;
    "pg_has_role"(Name, Text, Text) -> Bool;
    "pg_has_role"(Name, Oid, Text) -> Bool;
    "row_security_active"(Regclass) -> Bool;
    "current_schemas"(Bool) -> NameArray;
    "pg_table_size"(Regclass) -> Int8;
    "pg_relation_size"(Regclass) -> Int8;
    "pg_relation_size"(Regclass, Text) -> Int8;
    "pg_total_relation_size"(Regclass) -> Int8;
    "pg_indexes_size"(Regclass) -> Int8;
    "pg_database_size"(Name) -> Int8;
    "pg_database_size"(Oid) -> Int8;
    "pg_tablespace_size"(Name) -> Int8;
    "pg_tablespace_size"(Oid) -> Int8;
    "pg_tablespace_location"(Oid) -> Text;
    "pg_relation_filenode"(Regclass) -> Oid;
    "pg_encoding_to_char"(Int4) -> Name;
    "pg_char_to_encoding"(Name) -> Int4;
    "pg_client_encoding"() -> Name;
    "getdatabaseencoding"() -> Name;
    "to_regclass"(Text) -> Regclass;
    "to_regtype"(Text) -> Regtype;
    "to_regproc"(Text) -> Regproc;
    "to_regnamespace"(Text) -> Regnamespace;
    "to_regrole"(Text) -> Regrole;
    "pg_get_serial_sequence"(Text, Text) -> Text;
    "pg_is_in_recovery"() -> Bool;
    "pg_is_other_temp_schema"(Oid) -> Bool;
    "pg_my_temp_schema"() -> Oid;
    "pg_postmaster_start_time"() -> Timestamptz;
    "pg_sequence_last_value"(Regclass) -> Int8;
};
