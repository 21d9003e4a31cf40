//! G8: what is printed is read back as the same value, stored forms order as their values do, and
//! exact arithmetic is exact.

use proptest::prelude::*;
use springhead_proto::{Value, ValueRef};
use springhead_sql::functions;
use springhead_sql::types::datetime::{
    DAY, INFINITY, MINUS_INFINITY, civil_from_days, days_from_civil,
};
use springhead_sql::types::interval::Interval;
use springhead_sql::types::numeric::{Decimal, Int, Numeric, key};
use springhead_sql::types::{self, PgType};

/// 4714-11-24 BC and 294276-12-31, in days since 1970.
const DAYS: std::ops::RangeInclusive<i64> = -2_440_588..=106_751_990;

/// Prints and reads back, as text, as JSON and in binary.
fn round_trips(ty: &PgType, value: &Value) {
    let mut text = Vec::new();
    types::output_text(ty, value.as_ref(), &mut text);
    let text = String::from_utf8(text).expect("UTF-8");
    assert_eq!(
        &types::input(ty, &text).expect("its own text"),
        value,
        "{} as text {text}",
        ty.sql_name()
    );
    let mut binary = Vec::new();
    types::output_binary(ty, value.as_ref(), &mut binary);
    assert_eq!(
        &types::input_binary(ty, &binary).expect("its own bytes"),
        value,
        "{} in binary",
        ty.sql_name()
    );
    let mut json = Vec::new();
    types::output_json(ty, value.as_ref(), &mut json);
    let parsed: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    // Numbers of JSON are doubles to serde_json, and json within JSON is a value.
    if !matches!(
        ty,
        PgType::Numeric(_) | PgType::Json | PgType::Jsonb | PgType::Array(_)
    ) {
        assert_eq!(
            &types::input_json(ty, &parsed).expect("its own JSON"),
            value,
            "{} as JSON",
            ty.sql_name()
        );
    }
}

fn decimals() -> impl Strategy<Value = (i128, u32)> {
    let magnitude = prop_oneof![
        any::<i64>().prop_map(i128::from),
        -1000i128..1000,
        any::<i128>()
    ];
    (magnitude, 0u32..30)
}

fn encoded(unscaled: i128, scale: u32) -> Vec<u8> {
    Numeric::Finite(Decimal::new(unscaled, scale))
        .encode()
        .expect("few digits")
}

/// Calls a registered function.
fn call(name: &str, args: &[ValueRef<'_>]) -> Result<Value, springhead_proto::SqlError> {
    let scalar = functions::scalars()
        .into_iter()
        .find(|scalar| scalar.name == name)
        .expect("registered");
    (scalar.call)(args)
}

fn json_values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[^\u{0}]{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::vec(("[a-c\"\\\\é]{0,3}", inner), 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn g8_integers_round_trip(value: i64) {
        round_trips(&PgType::Int8, &Value::Integer(value));
        round_trips(&PgType::Int4, &Value::Integer(value >> 32));
        round_trips(&PgType::Int2, &Value::Integer(value >> 48));
        round_trips(&PgType::Oid, &Value::Integer(value.rem_euclid(1 << 32)));
        round_trips(&PgType::Bool, &Value::Integer(value & 1));
    }

    #[test]
    fn g8_floats_round_trip(bits: u64) {
        let double = f64::from_bits(bits);
        if !double.is_nan() {
            round_trips(&PgType::Float8, &Value::Real(double));
        }
        let single = f32::from_bits(u32::try_from(bits >> 32).expect("32 bits"));
        if !single.is_nan() {
            round_trips(&PgType::Float4, &Value::Real(single.into()));
        }
    }

    #[test]
    fn g8_texts_bytes_and_uuids_round_trip(text in "[^\u{0}]{0,20}", bytes: Vec<u8>, id: u128) {
        for ty in [PgType::Text, PgType::Varchar(None), PgType::Varchar(Some(20))] {
            round_trips(&ty, &Value::Text(text.clone()));
        }
        round_trips(&PgType::Bytea, &Value::Blob(bytes));
        let id = types::input(&PgType::Uuid, &format!("{id:032x}")).expect("32 digits");
        round_trips(&PgType::Uuid, &id);
    }

    #[test]
    fn g8_dates_and_times_round_trip(days in DAYS, micros in 0..DAY) {
        let date = days * DAY;
        round_trips(&PgType::Date, &Value::Integer(date));
        round_trips(&PgType::Time, &Value::Integer(micros));
        // The last representable day ends before its midnight.
        if let Some(moment) = date.checked_add(micros).filter(|moment| *moment < INFINITY) {
            round_trips(&PgType::Timestamp, &Value::Integer(moment));
            round_trips(&PgType::Timestamptz, &Value::Integer(moment));
        }
        for infinite in [INFINITY, MINUS_INFINITY] {
            for ty in [PgType::Date, PgType::Timestamp, PgType::Timestamptz] {
                round_trips(&ty, &Value::Integer(infinite));
            }
        }
    }

    #[test]
    fn g8_the_calendar_and_its_inverse_agree_and_step_by_one(days in DAYS) {
        let date = civil_from_days(days);
        prop_assert_eq!(days_from_civil(date.year, date.month, date.day), days);
        let next = civil_from_days(days + 1);
        let stepped = if next.day == 1 {
            (date.year * 12 + i64::from(date.month) + 1, 1)
        } else {
            (date.year * 12 + i64::from(date.month), date.day + 1)
        };
        prop_assert_eq!((next.year * 12 + i64::from(next.month), next.day), stepped);
    }

    #[test]
    fn g8_intervals_round_trip_and_their_keys_order_as_spans(
        a in (any::<i32>(), any::<i32>(), any::<i64>()),
        b in (-20i32..20, -600i32..600, -100 * DAY..100 * DAY),
        c in (-20i32..20, -600i32..600, -100 * DAY..100 * DAY),
    ) {
        let interval = |(months, days, micros)| Interval { months, days, micros };
        // `-9223372036854775808` microseconds have no positive text.
        if a.2 != i64::MIN {
            round_trips(&PgType::Interval, &Value::Blob(interval(a).encode()));
        }
        for (x, y) in [(a, b), (b, c)] {
            let (x, y) = (interval(x), interval(y));
            prop_assert_eq!(x.encode()[..16].cmp(&y.encode()[..16]), x.span().cmp(&y.span()));
        }
    }

    #[test]
    fn g8_numerics_round_trip((unscaled, scale) in decimals()) {
        round_trips(&PgType::Numeric(None), &Value::Blob(encoded(unscaled, scale)));
        round_trips(&PgType::Numeric(Some((60, 30))), &Value::Blob(encoded(unscaled % 10i128.pow(30), 30)));
        round_trips(&PgType::Numeric(Some((18, 4))), &Value::Integer(i64::try_from(unscaled % 10i128.pow(18)).expect("18 digits")));
    }

    /// Including numbers that are equal with other scales: then the keys are equal.
    #[test]
    fn g8_numeric_blobs_order_as_numbers((a, s) in decimals(), (b, t) in decimals(), zeros in 0u32..5) {
        let (x, y) = (Decimal::new(a, s), Decimal::new(b, t));
        prop_assert_eq!(key(&encoded(a, s)).cmp(key(&encoded(b, t))), x.compare(&y));
        if !x.compare(&y).is_eq() {
            prop_assert_eq!(encoded(a, s).cmp(&encoded(b, t)), x.compare(&y));
        }
        let longer = Numeric::Finite(Decimal { unscaled: x.unscaled.mul(&Int::pow10(zeros)), scale: s + zeros });
        let longer = longer.encode().expect("few digits");
        prop_assert!(key(&longer) == key(&encoded(a, s)));
        for (special, order) in [(Numeric::MinusInfinity, std::cmp::Ordering::Less), (Numeric::Infinity, std::cmp::Ordering::Greater), (Numeric::NaN, std::cmp::Ordering::Greater)] {
            prop_assert_eq!(special.encode().expect("short").cmp(&encoded(a, s)), order);
        }
    }

    /// Against 128-bit arithmetic at a scale that both fit.
    #[test]
    fn g8_numeric_arithmetic_is_exact(a in -10i128.pow(15)..10i128.pow(15), b in -10i128.pow(15)..10i128.pow(15), s in 0u32..6, t in 0u32..6) {
        let (x, y) = (encoded(a, s), encoded(b, t));
        let args = [ValueRef::Blob(&x), ValueRef::Blob(&y)];
        let scale = s.max(t);
        let (p, q) = (a * 10i128.pow(scale - s), b * 10i128.pow(scale - t));
        prop_assert_eq!(call("sh_num_add", &args).expect("exact"), Value::Blob(encoded(p + q, scale)));
        prop_assert_eq!(call("sh_num_sub", &args).expect("exact"), Value::Blob(encoded(p - q, scale)));
        prop_assert_eq!(call("sh_num_mul", &args).expect("exact"), Value::Blob(encoded(a * b, s + t)));
        if q != 0 {
            prop_assert_eq!(call("sh_num_mod", &args).expect("exact"), Value::Blob(encoded(p % q, scale)));
            prop_assert_eq!(call("sh_num_idiv", &args).expect("exact"), Value::Blob(encoded(p / q, 0)));
        }
    }

    /// SQLite would turn an overflow into a float.
    #[test]
    fn g8_bigint_arithmetic_is_exact_or_refused(a: i64, b: i64) {
        let args = [ValueRef::Integer(a), ValueRef::Integer(b)];
        for (name, exact) in [("sh_int8_add", a.checked_add(b)), ("sh_int8_sub", a.checked_sub(b)), ("sh_int8_mul", a.checked_mul(b))] {
            match (call(name, &args), exact) {
                (Ok(value), Some(exact)) => prop_assert_eq!(value, Value::Integer(exact)),
                (Err(error), None) => prop_assert_eq!(error.code.sqlstate().0, "22003"),
                (got, exact) => prop_assert!(false, "{name}: {got:?}, not {exact:?}"),
            }
        }
    }

    #[test]
    fn g8_json_round_trips_and_jsonb_is_normal(json in json_values()) {
        let text = json.to_string();
        round_trips(&PgType::Json, &Value::Text(text.clone()));
        let normal = types::input(&PgType::Jsonb, &text).expect("JSON");
        round_trips(&PgType::Jsonb, &normal);
        let Value::Text(normal) = normal else { panic!("a text") };
        prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&normal).expect("JSON"), json);
    }

    #[test]
    fn g8_arrays_round_trip(texts in proptest::collection::vec(proptest::option::of("[^\u{0}]{0,6}"), 0..5), numbers: Vec<i32>) {
        let texts = types::array::store(&PgType::Text, texts.iter().map(|text| text.as_deref().map_or(ValueRef::Null, ValueRef::Text)));
        round_trips(&PgType::Text.array(), &Value::Text(texts));
        let numbers = types::array::store(&PgType::Int4, numbers.iter().map(|number| ValueRef::Integer((*number).into())));
        round_trips(&PgType::Int4.array(), &Value::Text(numbers));
    }

    /// No text makes an input function panic, and what it accepts it can print and read again.
    #[test]
    fn g8_any_text_is_read_or_refused(text in "\\PC{0,24}", shaped in "[-+0-9:./TZPYMDHS eEinfa,{}\"\\\\\\[\\]]{0,24}") {
        let all = [
            PgType::Bool, PgType::Int4, PgType::Oid, PgType::Float4, PgType::Float8, PgType::Numeric(None),
            PgType::Numeric(Some((10, 2))), PgType::Char(3), PgType::Name, PgType::Bytea, PgType::Date, PgType::Time,
            PgType::Timestamp, PgType::Timestamptz, PgType::Interval, PgType::Uuid, PgType::Json, PgType::Jsonb,
            PgType::Int4.array(), PgType::Text.array(), PgType::Interval.array(),
        ];
        for ty in &all {
            for text in [&text, &shaped] {
                if let Ok(value) = types::input(ty, text) {
                    let mut printed = Vec::new();
                    types::output_text(ty, value.as_ref(), &mut printed);
                    let printed = String::from_utf8(printed).expect("UTF-8");
                    prop_assert_eq!(&types::input(ty, &printed).expect("its own text"), &value, "{} {:?}", ty.sql_name(), text);
                }
                // Nor do bytes.
                let _ = types::input_binary(ty, text.as_bytes());
            }
        }
    }
}
