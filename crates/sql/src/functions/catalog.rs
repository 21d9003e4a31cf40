//! PostgreSQL's functions and operators by name: what each overload takes, gives and becomes.
//!
//! Comparisons (`=`, `<`, …), AND/OR/NOT, IS, IN, BETWEEN, CASE, COALESCE, NULLIF, GREATEST, LEAST,
//! casts and subscripts are grammar and not in these tables: the planner writes them, with
//! [`crate::types::PgType::key_function`] where equality needs it.

use std::sync::LazyLock;

use rustc_hash::FxHashMap;

use super::signature::{ArgType as A, Class, Emit, ResultType as R, Signature, Volatility};

/// `name(arguments) -> result, emit;`, with `...` after the last argument if it repeats.
macro_rules! overloads {
    ($class:ident, $strict:literal; $($name:literal ( $($arg:ident),* $(; $dots:ident)? ) -> $result:expr, $emit:expr;)*) => {
        &[$(Signature {
            name: $name,
            args: &[$(A::$arg),*],
            variadic: false $(|| stringify!($dots).len() > 0)?,
            result: $result,
            emit: $emit,
            strict: $strict,
            volatility: Volatility::Immutable,
            class: Class::$class,
        }),*]
    };
}

const fn call(name: &'static str) -> Emit {
    Emit::Call(name)
}

const fn like(template: &'static str) -> Emit {
    Emit::Template(template)
}

const BOOL: R = R::Of(A::Bool);
const INT2: R = R::Of(A::Int2);
const INT4: R = R::Of(A::Int4);
const INT8: R = R::Of(A::Int8);
const FLOAT4: R = R::Of(A::Float4);
const FLOAT8: R = R::Of(A::Float8);
const NUMERIC: R = R::Of(A::Numeric);
const TEXT: R = R::Of(A::Text);
const BYTEA: R = R::Of(A::Bytea);
const DATE: R = R::Of(A::Date);
const TIME: R = R::Of(A::Time);
const TIMESTAMP: R = R::Of(A::Timestamp);
const TIMESTAMPTZ: R = R::Of(A::Timestamptz);
const INTERVAL: R = R::Of(A::Interval);
const JSON: R = R::Of(A::Json);
const JSONB: R = R::Of(A::Jsonb);
const TEXTS: R = R::Of(A::TextArray);

const OPERATORS: &[Signature] = overloads! { Scalar, true;
    // Integers; of two sizes the greater, as PostgreSQL's cross-type operators have it.
    "+"(Int2, Int2) -> INT2, call("sh_int2_add");
    "+"(Int4, Int4) -> INT4, call("sh_int4_add");
    "+"(Int8, Int8) -> INT8, call("sh_int8_add");
    "+"(Int2, Int4) -> INT4, call("sh_int4_add");
    "+"(Int4, Int2) -> INT4, call("sh_int4_add");
    "+"(Int2, Int8) -> INT8, call("sh_int8_add");
    "+"(Int8, Int2) -> INT8, call("sh_int8_add");
    "+"(Int4, Int8) -> INT8, call("sh_int8_add");
    "+"(Int8, Int4) -> INT8, call("sh_int8_add");
    "+"(Float4, Float4) -> FLOAT4, like("sh_to_float4(sh_float_add($1,$2))");
    "+"(Float8, Float8) -> FLOAT8, call("sh_float_add");
    "+"(Float4, Float8) -> FLOAT8, call("sh_float_add");
    "+"(Float8, Float4) -> FLOAT8, call("sh_float_add");
    "+"(Numeric, Numeric) -> NUMERIC, call("sh_num_add");
    "+"(Date, Int4) -> DATE, call("sh_date_add");
    "+"(Int4, Date) -> DATE, like("sh_date_add($2,$1)");
    "+"(Date, Interval) -> TIMESTAMP, call("sh_timestamp_add");
    "+"(Interval, Date) -> TIMESTAMP, like("sh_timestamp_add($2,$1)");
    "+"(Date, Time) -> TIMESTAMP, call("sh_date_time");
    "+"(Time, Date) -> TIMESTAMP, like("sh_date_time($2,$1)");
    "+"(Timestamp, Interval) -> TIMESTAMP, call("sh_timestamp_add");
    "+"(Interval, Timestamp) -> TIMESTAMP, like("sh_timestamp_add($2,$1)");
    "+"(Timestamptz, Interval) -> TIMESTAMPTZ, call("sh_timestamp_add");
    "+"(Interval, Timestamptz) -> TIMESTAMPTZ, like("sh_timestamp_add($2,$1)");
    "+"(Time, Interval) -> TIME, call("sh_time_add");
    "+"(Interval, Time) -> TIME, like("sh_time_add($2,$1)");
    "+"(Interval, Interval) -> INTERVAL, call("sh_interval_add");
    "+"(Int2) -> INT2, like("$1");
    "+"(Int4) -> INT4, like("$1");
    "+"(Int8) -> INT8, like("$1");
    "+"(Float4) -> FLOAT4, like("$1");
    "+"(Float8) -> FLOAT8, like("$1");
    "+"(Numeric) -> NUMERIC, like("$1");
    "-"(Int2, Int2) -> INT2, call("sh_int2_sub");
    "-"(Int4, Int4) -> INT4, call("sh_int4_sub");
    "-"(Int8, Int8) -> INT8, call("sh_int8_sub");
    "-"(Int2, Int4) -> INT4, call("sh_int4_sub");
    "-"(Int4, Int2) -> INT4, call("sh_int4_sub");
    "-"(Int2, Int8) -> INT8, call("sh_int8_sub");
    "-"(Int8, Int2) -> INT8, call("sh_int8_sub");
    "-"(Int4, Int8) -> INT8, call("sh_int8_sub");
    "-"(Int8, Int4) -> INT8, call("sh_int8_sub");
    "-"(Float4, Float4) -> FLOAT4, like("sh_to_float4(sh_float_sub($1,$2))");
    "-"(Float8, Float8) -> FLOAT8, call("sh_float_sub");
    "-"(Float4, Float8) -> FLOAT8, call("sh_float_sub");
    "-"(Float8, Float4) -> FLOAT8, call("sh_float_sub");
    "-"(Numeric, Numeric) -> NUMERIC, call("sh_num_sub");
    "-"(Date, Int4) -> DATE, call("sh_date_sub");
    "-"(Date, Date) -> INT4, call("sh_date_diff");
    "-"(Date, Interval) -> TIMESTAMP, call("sh_timestamp_sub");
    "-"(Timestamp, Interval) -> TIMESTAMP, call("sh_timestamp_sub");
    "-"(Timestamptz, Interval) -> TIMESTAMPTZ, call("sh_timestamp_sub");
    "-"(Timestamp, Timestamp) -> INTERVAL, call("sh_timestamp_diff");
    "-"(Timestamptz, Timestamptz) -> INTERVAL, call("sh_timestamp_diff");
    "-"(Time, Interval) -> TIME, call("sh_time_sub");
    "-"(Time, Time) -> INTERVAL, call("sh_time_diff");
    "-"(Interval, Interval) -> INTERVAL, call("sh_interval_sub");
    "-"(Jsonb, Text) -> JSONB, call("sh_jsonb_delete");
    "-"(Jsonb, Int4) -> JSONB, call("sh_jsonb_delete");
    "-"(Jsonb, TextArray) -> JSONB, call("sh_jsonb_delete_keys");
    "-"(Int2) -> INT2, call("sh_int2_neg");
    "-"(Int4) -> INT4, call("sh_int4_neg");
    "-"(Int8) -> INT8, call("sh_int8_neg");
    "-"(Float4) -> FLOAT4, like("(-$1)");
    "-"(Float8) -> FLOAT8, like("(-$1)");
    "-"(Numeric) -> NUMERIC, call("sh_num_neg");
    "-"(Interval) -> INTERVAL, call("sh_interval_neg");
    "*"(Int2, Int2) -> INT2, call("sh_int2_mul");
    "*"(Int4, Int4) -> INT4, call("sh_int4_mul");
    "*"(Int8, Int8) -> INT8, call("sh_int8_mul");
    "*"(Int2, Int4) -> INT4, call("sh_int4_mul");
    "*"(Int4, Int2) -> INT4, call("sh_int4_mul");
    "*"(Int2, Int8) -> INT8, call("sh_int8_mul");
    "*"(Int8, Int2) -> INT8, call("sh_int8_mul");
    "*"(Int4, Int8) -> INT8, call("sh_int8_mul");
    "*"(Int8, Int4) -> INT8, call("sh_int8_mul");
    "*"(Float4, Float4) -> FLOAT4, like("sh_to_float4(sh_float_mul($1,$2))");
    "*"(Float8, Float8) -> FLOAT8, call("sh_float_mul");
    "*"(Float4, Float8) -> FLOAT8, call("sh_float_mul");
    "*"(Float8, Float4) -> FLOAT8, call("sh_float_mul");
    "*"(Numeric, Numeric) -> NUMERIC, call("sh_num_mul");
    "*"(Interval, Float8) -> INTERVAL, call("sh_interval_mul");
    "*"(Float8, Interval) -> INTERVAL, like("sh_interval_mul($2,$1)");
    "/"(Int2, Int2) -> INT2, call("sh_int2_div");
    "/"(Int4, Int4) -> INT4, call("sh_int4_div");
    "/"(Int8, Int8) -> INT8, call("sh_int8_div");
    "/"(Int2, Int4) -> INT4, call("sh_int4_div");
    "/"(Int4, Int2) -> INT4, call("sh_int4_div");
    "/"(Int2, Int8) -> INT8, call("sh_int8_div");
    "/"(Int8, Int2) -> INT8, call("sh_int8_div");
    "/"(Int4, Int8) -> INT8, call("sh_int8_div");
    "/"(Int8, Int4) -> INT8, call("sh_int8_div");
    "/"(Float4, Float4) -> FLOAT4, like("sh_to_float4(sh_float_div($1,$2))");
    "/"(Float8, Float8) -> FLOAT8, call("sh_float_div");
    "/"(Float4, Float8) -> FLOAT8, call("sh_float_div");
    "/"(Float8, Float4) -> FLOAT8, call("sh_float_div");
    "/"(Numeric, Numeric) -> NUMERIC, call("sh_num_div");
    "/"(Interval, Float8) -> INTERVAL, call("sh_interval_div");
    "%"(Int2, Int2) -> INT2, call("sh_int2_mod");
    "%"(Int4, Int4) -> INT4, call("sh_int4_mod");
    "%"(Int8, Int8) -> INT8, call("sh_int8_mod");
    "%"(Numeric, Numeric) -> NUMERIC, call("sh_num_mod");
    "^"(Float8, Float8) -> FLOAT8, call("sh_float_power");
    "^"(Numeric, Numeric) -> NUMERIC, call("sh_num_power");
    "|/"(Float8) -> FLOAT8, call("sh_float_sqrt");
    "||/"(Float8) -> FLOAT8, call("sh_float_cbrt");
    "@"(Int4) -> INT4, call("sh_int4_abs");
    "@"(Int8) -> INT8, call("sh_int8_abs");
    "@"(Float8) -> FLOAT8, call("sh_float_abs");
    "@"(Numeric) -> NUMERIC, call("sh_num_abs");
    "&"(Int2, Int2) -> INT2, like("($1 & $2)");
    "|"(Int2, Int2) -> INT2, like("($1 | $2)");
    "#"(Int2, Int2) -> INT2, call("sh_xor");
    "~"(Int2) -> INT2, like("(~$1)");
    "&"(Int4, Int4) -> INT4, like("($1 & $2)");
    "&"(Int8, Int8) -> INT8, like("($1 & $2)");
    "|"(Int4, Int4) -> INT4, like("($1 | $2)");
    "|"(Int8, Int8) -> INT8, like("($1 | $2)");
    "#"(Int4, Int4) -> INT4, call("sh_xor");
    "#"(Int8, Int8) -> INT8, call("sh_xor");
    "~"(Int4) -> INT4, like("(~$1)");
    "~"(Int8) -> INT8, like("(~$1)");
    "<<"(Int4, Int4) -> INT4, call("sh_int4_shl");
    "<<"(Int8, Int4) -> INT8, call("sh_int8_shl");
    ">>"(Int4, Int4) -> INT4, call("sh_int4_shr");
    ">>"(Int8, Int4) -> INT8, call("sh_int8_shr");
    // Texts.
    "||"(Text, Text) -> TEXT, like("($1 || $2)");
    "||"(Text, Any) -> TEXT, like("($1 || sh_text($2,%2))");
    "||"(Any, Text) -> TEXT, like("(sh_text($1,%1) || $2)");
    "||"(Bytea, Bytea) -> BYTEA, like("CAST($1 || $2 AS BLOB)");
    "||"(Jsonb, Jsonb) -> JSONB, call("sh_jsonb_concat");
    "||"(AnyArray, AnyArray) -> R::Argument(0), call("sh_array_cat");
    "||"(AnyArray, AnyElement) -> R::Argument(0), like("sh_array_append($1,$2,%2)");
    "||"(AnyElement, AnyArray) -> R::Argument(1), like("sh_array_prepend($2,$1,%1)");
    "~"(Text, Text) -> BOOL, like("sh_regexp($1,$2,'')");
    "~*"(Text, Text) -> BOOL, like("sh_regexp($1,$2,'i')");
    "!~"(Text, Text) -> BOOL, like("(NOT sh_regexp($1,$2,''))");
    "!~*"(Text, Text) -> BOOL, like("(NOT sh_regexp($1,$2,'i'))");
    "~~"(Text, Text) -> BOOL, like("sh_like($1,$2,'\\')");
    "~~*"(Text, Text) -> BOOL, like("sh_ilike($1,$2,'\\')");
    "!~~"(Text, Text) -> BOOL, like("(NOT sh_like($1,$2,'\\'))");
    "!~~*"(Text, Text) -> BOOL, like("(NOT sh_ilike($1,$2,'\\'))");
    "^@"(Text, Text) -> BOOL, call("sh_starts_with");
    // JSON.
    "->"(Json, Text) -> JSON, call("sh_json_get");
    "->"(Json, Int4) -> JSON, call("sh_json_get");
    "->"(Jsonb, Text) -> JSONB, call("sh_jsonb_get");
    "->"(Jsonb, Int4) -> JSONB, call("sh_jsonb_get");
    "->>"(Json, Text) -> TEXT, call("sh_json_get_text");
    "->>"(Json, Int4) -> TEXT, call("sh_json_get_text");
    "->>"(Jsonb, Text) -> TEXT, call("sh_jsonb_get_text");
    "->>"(Jsonb, Int4) -> TEXT, call("sh_jsonb_get_text");
    "#>"(Json, TextArray) -> JSON, call("sh_json_path");
    "#>"(Jsonb, TextArray) -> JSONB, call("sh_jsonb_path");
    "#>>"(Json, TextArray) -> TEXT, call("sh_json_path_text");
    "#>>"(Jsonb, TextArray) -> TEXT, call("sh_jsonb_path_text");
    "#-"(Jsonb, TextArray) -> JSONB, call("sh_jsonb_delete_path");
    "@>"(Jsonb, Jsonb) -> BOOL, call("sh_jsonb_contains");
    "<@"(Jsonb, Jsonb) -> BOOL, like("sh_jsonb_contains($2,$1)");
    "@>"(AnyArray, AnyArray) -> BOOL, call("sh_array_contains");
    "<@"(AnyArray, AnyArray) -> BOOL, like("sh_array_contains($2,$1)");
    "&&"(AnyArray, AnyArray) -> BOOL, call("sh_array_overlaps");
    "?"(Jsonb, Text) -> BOOL, call("sh_jsonb_has");
    "?|"(Jsonb, TextArray) -> BOOL, call("sh_jsonb_has_any");
    "?&"(Jsonb, TextArray) -> BOOL, call("sh_jsonb_has_all");
};

const STRINGS: &[Signature] = overloads! { Scalar, true;
    "lower"(Text) -> TEXT, call("sh_lower");
    "upper"(Text) -> TEXT, call("sh_upper");
    "initcap"(Text) -> TEXT, call("sh_initcap");
    "length"(Text) -> INT4, call("length");
    "length"(Bytea) -> INT4, call("length");
    "char_length"(Text) -> INT4, call("length");
    "character_length"(Text) -> INT4, call("length");
    "octet_length"(Text) -> INT4, call("sh_octet_length");
    "octet_length"(Bytea) -> INT4, call("sh_octet_length");
    "bit_length"(Text) -> INT4, like("(8 * sh_octet_length($1))");
    "substr"(Text, Int4) -> TEXT, call("sh_substr");
    "substr"(Text, Int4, Int4) -> TEXT, call("sh_substr");
    "substr"(Bytea, Int4) -> BYTEA, call("sh_substr_bytes");
    "substr"(Bytea, Int4, Int4) -> BYTEA, call("sh_substr_bytes");
    "substring"(Text, Int4) -> TEXT, call("sh_substr");
    "substring"(Text, Int4, Int4) -> TEXT, call("sh_substr");
    "substring"(Text, Text) -> TEXT, call("sh_regexp_substring");
    "substring"(Bytea, Int4) -> BYTEA, call("sh_substr_bytes");
    "substring"(Bytea, Int4, Int4) -> BYTEA, call("sh_substr_bytes");
    "position"(Text, Text) -> INT4, like("sh_strpos($2,$1)");
    "strpos"(Text, Text) -> INT4, call("sh_strpos");
    "left"(Text, Int4) -> TEXT, call("sh_left");
    "right"(Text, Int4) -> TEXT, call("sh_right");
    "lpad"(Text, Int4) -> TEXT, like("sh_lpad($1,$2,' ')");
    "lpad"(Text, Int4, Text) -> TEXT, call("sh_lpad");
    "rpad"(Text, Int4) -> TEXT, like("sh_rpad($1,$2,' ')");
    "rpad"(Text, Int4, Text) -> TEXT, call("sh_rpad");
    "repeat"(Text, Int4) -> TEXT, call("sh_repeat");
    "replace"(Text, Text, Text) -> TEXT, call("sh_replace");
    "reverse"(Text) -> TEXT, call("sh_reverse");
    "split_part"(Text, Text, Int4) -> TEXT, call("sh_split_part");
    "translate"(Text, Text, Text) -> TEXT, call("sh_translate");
    "btrim"(Text) -> TEXT, like("sh_btrim($1,' ')");
    "btrim"(Text, Text) -> TEXT, call("sh_btrim");
    "ltrim"(Text) -> TEXT, like("sh_ltrim($1,' ')");
    "ltrim"(Text, Text) -> TEXT, call("sh_ltrim");
    "rtrim"(Text) -> TEXT, like("sh_rtrim($1,' ')");
    "rtrim"(Text, Text) -> TEXT, call("sh_rtrim");
    "overlay"(Text, Text, Int4) -> TEXT, call("sh_overlay");
    "overlay"(Text, Text, Int4, Int4) -> TEXT, call("sh_overlay");
    "ascii"(Text) -> INT4, call("sh_ascii");
    "chr"(Int4) -> TEXT, call("sh_chr");
    "starts_with"(Text, Text) -> BOOL, call("sh_starts_with");
    "to_hex"(Int4) -> TEXT, call("sh_to_hex");
    "to_hex"(Int8) -> TEXT, like("printf('%x',$1)");
    "md5"(Text) -> TEXT, call("sh_md5");
    "md5"(Bytea) -> TEXT, call("sh_md5");
    "sha256"(Bytea) -> BYTEA, call("sh_sha256");
    "encode"(Bytea, Text) -> TEXT, call("sh_encode");
    "decode"(Text, Text) -> BYTEA, call("sh_decode");
    "convert_from"(Bytea, Text) -> TEXT, call("sh_convert_from");
    "convert_to"(Text, Text) -> BYTEA, call("sh_convert_to");
    "get_byte"(Bytea, Int4) -> INT4, call("sh_get_byte");
    "quote_ident"(Text) -> TEXT, call("sh_quote_ident");
    "quote_literal"(Text) -> TEXT, call("sh_quote_literal");
    "quote_literal"(Any) -> TEXT, like("sh_quote_literal(sh_text($1,%1))");
    "like"(Text, Text) -> BOOL, like("sh_like($1,$2,'\\')");
    "regexp_replace"(Text, Text, Text) -> TEXT, call("sh_regexp_replace");
    "regexp_replace"(Text, Text, Text, Text) -> TEXT, call("sh_regexp_replace");
    "regexp_match"(Text, Text) -> TEXTS, call("sh_regexp_match");
    "regexp_match"(Text, Text, Text) -> TEXTS, call("sh_regexp_match");
    "regexp_like"(Text, Text) -> BOOL, call("sh_regexp_like");
    "regexp_like"(Text, Text, Text) -> BOOL, call("sh_regexp_like");
    "regexp_count"(Text, Text) -> INT4, call("sh_regexp_count");
    "regexp_count"(Text, Text, Int4) -> INT4, call("sh_regexp_count");
    "regexp_count"(Text, Text, Int4, Text) -> INT4, call("sh_regexp_count");
    "regexp_split_to_array"(Text, Text) -> TEXTS, call("sh_regexp_split");
    "regexp_split_to_array"(Text, Text, Text) -> TEXTS, call("sh_regexp_split");
};

/// These look at NULLs themselves.
const LENIENT: &[Signature] = overloads! { Scalar, false;
    "concat"(Any; more) -> TEXT, like("sh_concat($~)");
    "concat_ws"(Text, Any; more) -> TEXT, like("sh_concat_ws($1,$2~)");
    "format"(Text) -> TEXT, call("sh_format");
    "format"(Text, Any; more) -> TEXT, like("sh_format($1,$2~)");
    "quote_nullable"(Text) -> TEXT, call("sh_quote_nullable");
    "quote_nullable"(Any) -> TEXT, like("sh_quote_nullable(sh_text($1,%1))");
    "string_to_array"(Text, Text) -> TEXTS, like("sh_string_to_array($1,$2,NULL)");
    "string_to_array"(Text, Text, Text) -> TEXTS, call("sh_string_to_array");
    "array_to_string"(AnyArray, Text) -> TEXT, like("sh_array_to_string($1,$2,NULL,%1)");
    "array_to_string"(AnyArray, Text, Text) -> TEXT, like("sh_array_to_string($1,$2,$3,%1)");
    "array_append"(AnyArray, Any) -> R::Argument(0), like("sh_array_append($1,$2,%2)");
    "array_prepend"(Any, AnyArray) -> R::Argument(1), like("sh_array_prepend($2,$1,%1)");
    "array_cat"(AnyArray, AnyArray) -> R::Argument(0), call("sh_array_cat");
    "array_position"(AnyArray, Any) -> INT4, like("sh_array_position($1,$2,%2)");
    "array_remove"(AnyArray, Any) -> R::Argument(0), like("sh_array_remove($1,$2,%2)");
    "json_build_array"(Any; more) -> JSON, like("sh_json_build_array($~)");
    "jsonb_build_array"(Any; more) -> JSONB, like("sh_jsonb_build_array($~)");
    "json_build_object"(Any; more) -> JSON, like("sh_json_build_object($~)");
    "jsonb_build_object"(Any; more) -> JSONB, like("sh_jsonb_build_object($~)");
    "num_nulls"(Any; more) -> INT4, Emit::Planner;
    "num_nonnulls"(Any; more) -> INT4, Emit::Planner;
};

const NUMBERS: &[Signature] = overloads! { Scalar, true;
    "abs"(Int2) -> INT2, call("sh_int2_abs");
    "abs"(Int4) -> INT4, call("sh_int4_abs");
    "abs"(Int8) -> INT8, call("sh_int8_abs");
    "abs"(Float4) -> FLOAT4, call("sh_float_abs");
    "abs"(Float8) -> FLOAT8, call("sh_float_abs");
    "abs"(Numeric) -> NUMERIC, call("sh_num_abs");
    "sign"(Float8) -> FLOAT8, call("sh_float_sign");
    "sign"(Numeric) -> NUMERIC, call("sh_num_sign");
    "round"(Float8) -> FLOAT8, call("sh_float_round");
    "round"(Numeric) -> NUMERIC, like("sh_num_round($1,0)");
    "round"(Numeric, Int4) -> NUMERIC, call("sh_num_round");
    "trunc"(Float8) -> FLOAT8, call("sh_float_trunc");
    "trunc"(Numeric) -> NUMERIC, like("sh_num_trunc($1,0)");
    "trunc"(Numeric, Int4) -> NUMERIC, call("sh_num_trunc");
    "ceil"(Float8) -> FLOAT8, call("sh_float_ceil");
    "ceil"(Numeric) -> NUMERIC, call("sh_num_ceil");
    "ceiling"(Float8) -> FLOAT8, call("sh_float_ceil");
    "ceiling"(Numeric) -> NUMERIC, call("sh_num_ceil");
    "floor"(Float8) -> FLOAT8, call("sh_float_floor");
    "floor"(Numeric) -> NUMERIC, call("sh_num_floor");
    "power"(Float8, Float8) -> FLOAT8, call("sh_float_power");
    "power"(Numeric, Numeric) -> NUMERIC, call("sh_num_power");
    "pow"(Float8, Float8) -> FLOAT8, call("sh_float_power");
    "pow"(Numeric, Numeric) -> NUMERIC, call("sh_num_power");
    "sqrt"(Float8) -> FLOAT8, call("sh_float_sqrt");
    "sqrt"(Numeric) -> NUMERIC, call("sh_num_sqrt");
    "cbrt"(Float8) -> FLOAT8, call("sh_float_cbrt");
    "exp"(Float8) -> FLOAT8, call("sh_float_exp");
    "exp"(Numeric) -> NUMERIC, call("sh_num_exp");
    "ln"(Float8) -> FLOAT8, call("sh_float_ln");
    "ln"(Numeric) -> NUMERIC, call("sh_num_ln");
    "log"(Float8) -> FLOAT8, call("sh_float_log10");
    "log10"(Float8) -> FLOAT8, call("sh_float_log10");
    "log"(Numeric) -> NUMERIC, like("sh_num_log(sh_num_from_int(10),$1)");
    "log10"(Numeric) -> NUMERIC, like("sh_num_log(sh_num_from_int(10),$1)");
    "log"(Numeric, Numeric) -> NUMERIC, call("sh_num_log");
    "mod"(Int2, Int2) -> INT2, call("sh_int2_mod");
    "mod"(Int4, Int4) -> INT4, call("sh_int4_mod");
    "mod"(Int8, Int8) -> INT8, call("sh_int8_mod");
    "mod"(Numeric, Numeric) -> NUMERIC, call("sh_num_mod");
    "div"(Numeric, Numeric) -> NUMERIC, call("sh_num_idiv");
    "gcd"(Int4, Int4) -> INT4, call("sh_int4_gcd");
    "gcd"(Int8, Int8) -> INT8, call("sh_int8_gcd");
    "gcd"(Numeric, Numeric) -> NUMERIC, call("sh_num_gcd");
    "lcm"(Int4, Int4) -> INT4, call("sh_int4_lcm");
    "lcm"(Int8, Int8) -> INT8, call("sh_int8_lcm");
    "factorial"(Int8) -> NUMERIC, call("sh_factorial");
    "scale"(Numeric) -> INT4, call("sh_num_scale");
    "min_scale"(Numeric) -> INT4, call("sh_num_min_scale");
    "trim_scale"(Numeric) -> NUMERIC, call("sh_num_trim_scale");
    "width_bucket"(Float8, Float8, Float8, Int4) -> INT4, call("sh_width_bucket");
    "width_bucket"(Numeric, Numeric, Numeric, Int4) -> INT4, call("sh_num_width_bucket");
    "sin"(Float8) -> FLOAT8, call("sh_float_sin");
    "cos"(Float8) -> FLOAT8, call("sh_float_cos");
    "tan"(Float8) -> FLOAT8, call("sh_float_tan");
    "asin"(Float8) -> FLOAT8, call("sh_float_asin");
    "acos"(Float8) -> FLOAT8, call("sh_float_acos");
    "atan"(Float8) -> FLOAT8, call("sh_float_atan");
    "atan2"(Float8, Float8) -> FLOAT8, call("sh_float_atan2");
    "degrees"(Float8) -> FLOAT8, call("sh_float_degrees");
    "radians"(Float8) -> FLOAT8, call("sh_float_radians");
    "pi"() -> FLOAT8, like("3.141592653589793");
};

const TIMES: &[Signature] = overloads! { Scalar, true;
    "date_trunc"(Text, Timestamp) -> TIMESTAMP, call("sh_date_trunc");
    "date_trunc"(Text, Timestamptz) -> TIMESTAMPTZ, call("sh_date_trunc");
    "date_trunc"(Text, Interval) -> INTERVAL, call("sh_interval_trunc");
    "date_bin"(Interval, Timestamp, Timestamp) -> TIMESTAMP, call("sh_date_bin");
    "date_bin"(Interval, Timestamptz, Timestamptz) -> TIMESTAMPTZ, call("sh_date_bin");
    "extract"(Text, Date) -> NUMERIC, call("sh_extract_date");
    "extract"(Text, Time) -> NUMERIC, call("sh_extract_time");
    "extract"(Text, Timestamp) -> NUMERIC, call("sh_extract");
    "extract"(Text, Timestamptz) -> NUMERIC, call("sh_extract");
    "extract"(Text, Interval) -> NUMERIC, call("sh_extract_interval");
    "date_part"(Text, Date) -> FLOAT8, like("sh_num_to_float8(sh_extract($1,$2))");
    "date_part"(Text, Time) -> FLOAT8, like("sh_num_to_float8(sh_extract_time($1,$2))");
    "date_part"(Text, Timestamp) -> FLOAT8, like("sh_num_to_float8(sh_extract($1,$2))");
    "date_part"(Text, Timestamptz) -> FLOAT8, like("sh_num_to_float8(sh_extract($1,$2))");
    "date_part"(Text, Interval) -> FLOAT8, like("sh_num_to_float8(sh_extract_interval($1,$2))");
    "age"(Timestamp, Timestamp) -> INTERVAL, call("sh_age");
    "age"(Timestamptz, Timestamptz) -> INTERVAL, call("sh_age");
    "justify_hours"(Interval) -> INTERVAL, call("sh_justify_hours");
    "justify_days"(Interval) -> INTERVAL, call("sh_justify_days");
    "justify_interval"(Interval) -> INTERVAL, call("sh_justify_interval");
    "make_date"(Int4, Int4, Int4) -> DATE, call("sh_make_date");
    "make_time"(Int4, Int4, Float8) -> TIME, call("sh_make_time");
    "make_timestamp"(Int4, Int4, Int4, Int4, Int4, Float8) -> TIMESTAMP, call("sh_make_timestamp");
    "make_timestamptz"(Int4, Int4, Int4, Int4, Int4, Float8) -> TIMESTAMPTZ, call("sh_make_timestamp");
    "make_interval"() -> INTERVAL, call("sh_make_interval");
    "make_interval"(Int4) -> INTERVAL, call("sh_make_interval");
    "make_interval"(Int4, Int4) -> INTERVAL, call("sh_make_interval");
    "make_interval"(Int4, Int4, Int4) -> INTERVAL, call("sh_make_interval");
    "make_interval"(Int4, Int4, Int4, Int4) -> INTERVAL, call("sh_make_interval");
    "make_interval"(Int4, Int4, Int4, Int4, Int4) -> INTERVAL, call("sh_make_interval");
    "make_interval"(Int4, Int4, Int4, Int4, Int4, Int4) -> INTERVAL, call("sh_make_interval");
    "make_interval"(Int4, Int4, Int4, Int4, Int4, Int4, Float8) -> INTERVAL, call("sh_make_interval");
    "to_timestamp"(Float8) -> TIMESTAMPTZ, call("sh_to_timestamp");
    "to_timestamp"(Text, Text) -> TIMESTAMPTZ, call("sh_parse_timestamp");
    "to_date"(Text, Text) -> DATE, call("sh_parse_date");
    "to_number"(Text, Text) -> NUMERIC, call("sh_to_number");
    "to_char"(Timestamp, Text) -> TEXT, call("sh_to_char_timestamp");
    "to_char"(Timestamptz, Text) -> TEXT, call("sh_to_char_timestamp");
    "to_char"(Interval, Text) -> TEXT, call("sh_to_char_interval");
    "to_char"(Int4, Text) -> TEXT, like("sh_to_char_numeric(sh_num_from_int($1),$2)");
    "to_char"(Int8, Text) -> TEXT, like("sh_to_char_numeric(sh_num_from_int($1),$2)");
    "to_char"(Float8, Text) -> TEXT, like("sh_to_char_numeric(sh_num_from_float8($1),$2)");
    "to_char"(Numeric, Text) -> TEXT, call("sh_to_char_numeric");
    // AT TIME ZONE: zone first.
    "timezone"(Text, Timestamp) -> TIMESTAMPTZ, call("sh_from_zone");
    "timezone"(Text, Timestamptz) -> TIMESTAMP, call("sh_to_zone");
    "isfinite"(Date) -> BOOL, call("sh_isfinite");
    "isfinite"(Timestamp) -> BOOL, call("sh_isfinite");
    "isfinite"(Timestamptz) -> BOOL, call("sh_isfinite");
    "isfinite"(Interval) -> BOOL, call("sh_isfinite");
    "date"(Timestamp) -> DATE, call("sh_timestamp_to_date");
};

const DOCUMENTS: &[Signature] = overloads! { Scalar, true;
    "to_json"(Any) -> JSON, like("sh_to_json($1,%1)");
    "to_jsonb"(Any) -> JSONB, like("sh_to_jsonb($1,%1)");
    "json_typeof"(Json) -> TEXT, call("sh_json_typeof");
    "jsonb_typeof"(Jsonb) -> TEXT, call("sh_json_typeof");
    "json_array_length"(Json) -> INT4, call("sh_json_array_length");
    "jsonb_array_length"(Jsonb) -> INT4, call("sh_json_array_length");
    "json_strip_nulls"(Json) -> JSON, call("sh_json_strip_nulls");
    "jsonb_strip_nulls"(Jsonb) -> JSONB, call("sh_jsonb_strip_nulls");
    "jsonb_pretty"(Jsonb) -> TEXT, call("sh_jsonb_pretty");
    "jsonb_set"(Jsonb, TextArray, Jsonb) -> JSONB, call("sh_jsonb_set");
    "jsonb_set"(Jsonb, TextArray, Jsonb, Bool) -> JSONB, call("sh_jsonb_set");
    "jsonb_insert"(Jsonb, TextArray, Jsonb) -> JSONB, call("sh_jsonb_insert");
    "jsonb_insert"(Jsonb, TextArray, Jsonb, Bool) -> JSONB, call("sh_jsonb_insert");
    "json_build_array"() -> JSON, like("'[]'");
    "jsonb_build_array"() -> JSONB, like("'[]'");
    "json_build_object"() -> JSON, like("'{}'");
    "jsonb_build_object"() -> JSONB, like("'{}'");
    "json_extract_path"(Json, TextArray) -> JSON, call("sh_json_path");
    "jsonb_extract_path"(Jsonb, TextArray) -> JSONB, call("sh_jsonb_path");
    "array_length"(AnyArray, Int4) -> INT4, call("sh_array_length");
    "array_upper"(AnyArray, Int4) -> INT4, call("sh_array_length");
    "array_lower"(AnyArray, Int4) -> INT4, like("(CASE WHEN sh_array_length($1,$2) IS NOT NULL THEN 1 END)");
    "cardinality"(AnyArray) -> INT4, call("sh_cardinality");
};

/// Rows, one value each: `value` of SQLite's json_each over the emitted array.
const SETS: &[Signature] = overloads! { SetReturning, true;
    "unnest"(AnyArray) -> R::ElementOf(0), like("$1");
    "json_array_elements"(Json) -> JSON, call("sh_json_elements");
    "jsonb_array_elements"(Jsonb) -> JSONB, call("sh_jsonb_elements");
    "json_array_elements_text"(Json) -> TEXT, call("sh_json_elements_text");
    "jsonb_array_elements_text"(Jsonb) -> TEXT, call("sh_json_elements_text");
    "json_each"(Json) -> JSON, Emit::Planner;
    "jsonb_each"(Jsonb) -> JSONB, Emit::Planner;
    "json_each_text"(Json) -> TEXT, Emit::Planner;
    "jsonb_each_text"(Jsonb) -> TEXT, Emit::Planner;
    "json_object_keys"(Json) -> TEXT, call("sh_json_object_keys");
    "jsonb_object_keys"(Jsonb) -> TEXT, call("sh_json_object_keys");
    "regexp_matches"(Text, Text) -> TEXTS, call("sh_regexp_matches");
    "regexp_matches"(Text, Text, Text) -> TEXTS, call("sh_regexp_matches");
    "regexp_split_to_table"(Text, Text) -> TEXT, call("sh_regexp_split");
    "string_to_table"(Text, Text) -> TEXT, like("sh_string_to_array($1,$2,NULL)");
    "pg_listening_channels"() -> TEXT, like("sh_setting('listening_channels')");
    "generate_subscripts"(AnyArray, Int4) -> INT4, Emit::Planner;
    "_pg_expandarray"(AnyArray) -> R::Argument(0), Emit::Planner;
    // Nothing is partitioned.
    "pg_partition_ancestors"(Regclass) -> R::Argument(0), like("iif($1,'[]',NULL)");
    "generate_series"(Int4, Int4) -> INT4, Emit::Planner;
    "generate_series"(Int8, Int8) -> INT8, Emit::Planner;
    "generate_series"(Int4, Int4, Int4) -> INT4, Emit::Planner;
    "generate_series"(Int8, Int8, Int8) -> INT8, Emit::Planner;
    "generate_series"(Timestamp, Timestamp, Interval) -> TIMESTAMP, Emit::Planner;
    "generate_series"(Timestamptz, Timestamptz, Interval) -> TIMESTAMPTZ, Emit::Planner;
};

const AGGREGATES: &[Signature] = overloads! { Aggregate, false;
    "count"() -> INT8, like("count(*)");
    "count"(Any) -> INT8, call("count");
    "sum"(Int2) -> INT8, call("sh_sum_int");
    "sum"(Int4) -> INT8, call("sh_sum_int");
    "sum"(Int8) -> NUMERIC, call("sh_sum_int8");
    "sum"(Float4) -> FLOAT4, call("sh_sum_float4");
    "sum"(Float8) -> FLOAT8, call("sh_sum_float");
    "sum"(Numeric) -> NUMERIC, call("sh_sum_num");
    "sum"(Interval) -> INTERVAL, call("sh_sum_interval");
    "avg"(Int2) -> NUMERIC, call("sh_avg_int");
    "avg"(Int4) -> NUMERIC, call("sh_avg_int");
    "avg"(Int8) -> NUMERIC, call("sh_avg_int");
    "avg"(Float4) -> FLOAT8, call("sh_avg_float");
    "avg"(Float8) -> FLOAT8, call("sh_avg_float");
    "avg"(Numeric) -> NUMERIC, call("sh_avg_num");
    "avg"(Interval) -> INTERVAL, call("sh_avg_interval");
    "min"(AnyElement) -> R::Argument(0), call("min");
    "max"(AnyElement) -> R::Argument(0), call("max");
    "bool_and"(Bool) -> BOOL, call("sh_bool_and");
    "every"(Bool) -> BOOL, call("sh_bool_and");
    "bool_or"(Bool) -> BOOL, call("sh_bool_or");
    "bit_and"(Int4) -> INT4, call("sh_bit_and");
    "bit_and"(Int8) -> INT8, call("sh_bit_and");
    "bit_or"(Int4) -> INT4, call("sh_bit_or");
    "bit_or"(Int8) -> INT8, call("sh_bit_or");
    "string_agg"(Text, Text) -> TEXT, call("sh_string_agg");
    "string_agg"(Bytea, Bytea) -> BYTEA, call("sh_string_agg");
    "array_agg"(AnyArray) -> R::Argument(0), like("sh_array_agg($1,%1)");
    "array_agg"(Any) -> R::ArrayOf(0), like("sh_array_agg($1,%1)");
    "json_agg"(Any) -> JSON, like("sh_json_agg($1,%1)");
    "jsonb_agg"(Any) -> JSONB, like("sh_jsonb_agg($1,%1)");
    "json_object_agg"(Any, Any) -> JSON, like("sh_json_object_agg($~)");
    "jsonb_object_agg"(Any, Any) -> JSONB, like("sh_jsonb_object_agg($~)");
    "variance"(Float8) -> FLOAT8, call("sh_var_samp_float");
    "variance"(Numeric) -> NUMERIC, call("sh_var_samp_num");
    "variance"(Int2) -> NUMERIC, like("sh_var_samp_num(sh_num_from_int($1))");
    "variance"(Int4) -> NUMERIC, like("sh_var_samp_num(sh_num_from_int($1))");
    "variance"(Int8) -> NUMERIC, like("sh_var_samp_num(sh_num_from_int($1))");
    "var_samp"(Float8) -> FLOAT8, call("sh_var_samp_float");
    "var_samp"(Numeric) -> NUMERIC, call("sh_var_samp_num");
    "var_samp"(Int2) -> NUMERIC, like("sh_var_samp_num(sh_num_from_int($1))");
    "var_samp"(Int4) -> NUMERIC, like("sh_var_samp_num(sh_num_from_int($1))");
    "var_samp"(Int8) -> NUMERIC, like("sh_var_samp_num(sh_num_from_int($1))");
    "var_pop"(Float8) -> FLOAT8, call("sh_var_pop_float");
    "var_pop"(Numeric) -> NUMERIC, call("sh_var_pop_num");
    "var_pop"(Int2) -> NUMERIC, like("sh_var_pop_num(sh_num_from_int($1))");
    "var_pop"(Int4) -> NUMERIC, like("sh_var_pop_num(sh_num_from_int($1))");
    "var_pop"(Int8) -> NUMERIC, like("sh_var_pop_num(sh_num_from_int($1))");
    "stddev"(Float8) -> FLOAT8, call("sh_stddev_samp_float");
    "stddev"(Numeric) -> NUMERIC, call("sh_stddev_samp_num");
    "stddev"(Int2) -> NUMERIC, like("sh_stddev_samp_num(sh_num_from_int($1))");
    "stddev"(Int4) -> NUMERIC, like("sh_stddev_samp_num(sh_num_from_int($1))");
    "stddev"(Int8) -> NUMERIC, like("sh_stddev_samp_num(sh_num_from_int($1))");
    "stddev_samp"(Float8) -> FLOAT8, call("sh_stddev_samp_float");
    "stddev_samp"(Numeric) -> NUMERIC, call("sh_stddev_samp_num");
    "stddev_samp"(Int2) -> NUMERIC, like("sh_stddev_samp_num(sh_num_from_int($1))");
    "stddev_samp"(Int4) -> NUMERIC, like("sh_stddev_samp_num(sh_num_from_int($1))");
    "stddev_samp"(Int8) -> NUMERIC, like("sh_stddev_samp_num(sh_num_from_int($1))");
    "stddev_pop"(Float8) -> FLOAT8, call("sh_stddev_pop_float");
    "stddev_pop"(Numeric) -> NUMERIC, call("sh_stddev_pop_num");
    "stddev_pop"(Int2) -> NUMERIC, like("sh_stddev_pop_num(sh_num_from_int($1))");
    "stddev_pop"(Int4) -> NUMERIC, like("sh_stddev_pop_num(sh_num_from_int($1))");
    "stddev_pop"(Int8) -> NUMERIC, like("sh_stddev_pop_num(sh_num_from_int($1))");
    "corr"(Float8, Float8) -> FLOAT8, call("sh_corr");
    "covar_samp"(Float8, Float8) -> FLOAT8, call("sh_covar_samp");
    "covar_pop"(Float8, Float8) -> FLOAT8, call("sh_covar_pop");
    "regr_slope"(Float8, Float8) -> FLOAT8, call("sh_regr_slope");
    "regr_intercept"(Float8, Float8) -> FLOAT8, call("sh_regr_intercept");
    "regr_r2"(Float8, Float8) -> FLOAT8, call("sh_regr_r2");
    // WITHIN GROUP: the planner puts the ordered value first.
    "percentile_cont"(Float8, Float8) -> FLOAT8, call("sh_percentile_cont");
    "percentile_disc"(AnyElement, Float8) -> R::Argument(0), call("sh_percentile_disc");
    "mode"(AnyElement) -> R::Argument(0), call("sh_mode");
};

const WINDOWS: &[Signature] = overloads! { Window, false;
    "row_number"() -> INT8, call("row_number");
    "rank"() -> INT8, call("rank");
    "dense_rank"() -> INT8, call("dense_rank");
    "percent_rank"() -> FLOAT8, call("percent_rank");
    "cume_dist"() -> FLOAT8, call("cume_dist");
    "ntile"(Int4) -> INT4, call("ntile");
    "lag"(AnyElement) -> R::Argument(0), call("lag");
    "lag"(AnyElement, Int4) -> R::Argument(0), call("lag");
    "lag"(AnyElement, Int4, AnyElement) -> R::Argument(0), call("lag");
    "lead"(AnyElement) -> R::Argument(0), call("lead");
    "lead"(AnyElement, Int4) -> R::Argument(0), call("lead");
    "lead"(AnyElement, Int4, AnyElement) -> R::Argument(0), call("lead");
    "first_value"(AnyElement) -> R::Argument(0), call("first_value");
    "last_value"(AnyElement) -> R::Argument(0), call("last_value");
    "nth_value"(AnyElement, Int4) -> R::Argument(0), call("nth_value");
};

const FUNCTIONS: &[&[Signature]] = &[
    STRINGS,
    LENIENT,
    NUMBERS,
    TIMES,
    super::overlaps::SIGNATURES,
    DOCUMENTS,
    SETS,
    AGGREGATES,
    WINDOWS,
    crate::system::SIGNATURES,
];

/// Every function of the table.
pub fn all_signatures() -> impl Iterator<Item = &'static Signature> {
    FUNCTIONS.iter().copied().flatten()
}

/// Every operator of the table.
pub fn all_operators() -> impl Iterator<Item = &'static Signature> {
    OPERATORS.iter()
}

/// Every overload of a function, by its lower-case name; empty if there is none.
/// Functions of the session, the clock and the catalog (`now`, `nextval`, `current_setting`,
/// `pg_notify`, `version`, …) are not here: the planner and the engine own them.
#[must_use]
pub fn signatures(name: &str) -> &'static [Signature] {
    static BY_NAME: LazyLock<Index> = LazyLock::new(|| index(FUNCTIONS));
    BY_NAME.get(name).map_or(&[], Vec::as_slice)
}

/// Every overload of an operator: two arguments for infix, one for prefix. PostgreSQL's own
/// overload that is an exact match comes before those that take [`A::Any`].
#[must_use]
pub fn operators(symbol: &str) -> &'static [Signature] {
    static BY_SYMBOL: LazyLock<Index> = LazyLock::new(|| index(&[OPERATORS]));
    BY_SYMBOL.get(symbol).map_or(&[], Vec::as_slice)
}

type Index = FxHashMap<&'static str, Vec<Signature>>;

fn index(tables: &[&'static [Signature]]) -> Index {
    let mut index = Index::default();
    for signature in tables.iter().copied().flatten() {
        index.entry(signature.name).or_default().push(*signature);
    }
    index
}

#[cfg(test)]
mod tests {
    use super::super::{aggregates, scalars};
    use super::*;

    /// A template that calls a function which is not registered would fail only when it is run.
    #[test]
    fn every_sh_function_named_by_a_signature_is_registered_once() {
        let mut names: Vec<&str> = scalars().iter().map(|scalar| scalar.name).collect();
        names.extend(aggregates().iter().map(|aggregate| aggregate.name));
        // Those that read the session are the engine's to register.
        names.push("sh_setting");
        names.sort_unstable();
        assert!(
            names.windows(2).all(|pair| pair[0] != pair[1]),
            "a name is registered twice"
        );
        let tables = [
            OPERATORS, STRINGS, LENIENT, NUMBERS, TIMES, DOCUMENTS, SETS, AGGREGATES, WINDOWS,
        ];
        for signature in tables.into_iter().flatten() {
            let (Emit::Call(text) | Emit::Template(text)) = signature.emit else {
                continue;
            };
            for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                if word.starts_with("sh_") {
                    assert!(
                        names.binary_search(&word).is_ok(),
                        "{word} of {} is unknown",
                        signature.name
                    );
                }
            }
        }
    }
}
