//! Rows as values: `ROW(1, 'a')`. A row is stored as PostgreSQL prints it, `(1,a)`, so that its text needs
//! no types; its fields' types are the expression's, for the binary form.

use springhead_proto::{SqlError, Value, ValueRef};

use super::{PgType, input, output_binary, output_text};

/// The stored form of a row of `values`, NULL fields among them.
pub(crate) fn store<'v>(fields: impl Iterator<Item = (PgType, ValueRef<'v>)>) -> Vec<u8> {
    let mut out = vec![b'('];
    let mut text = Vec::new();
    for (index, (ty, value)) in fields.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if value.is_null() {
            continue;
        }
        text.clear();
        output_text(&ty, value, &mut text);
        push_field(&text, &mut out);
    }
    out.push(b')');
    out
}

fn push_field(text: &[u8], out: &mut Vec<u8>) {
    let is_plain = !text.is_empty()
        && !text.iter().any(|byte| {
            byte.is_ascii_whitespace() || matches!(byte, b'(' | b')' | b',' | b'"' | b'\\' | 0x0b)
        });
    if is_plain {
        return out.extend_from_slice(text);
    }
    out.push(b'"');
    for &byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(byte);
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// The texts of a stored row's fields, `None` for NULL. What is not of the form gives no more fields.
fn fields(stored: &str) -> Vec<Option<String>> {
    let mut fields = Vec::new();
    let Some(inner) = stored
        .strip_prefix('(')
        .and_then(|inner| inner.strip_suffix(')'))
    else {
        return fields;
    };
    let mut chars = inner.chars().peekable();
    loop {
        let mut field = None::<String>;
        let mut is_quoted = false;
        let ended = loop {
            match chars.next() {
                None => break true,
                Some(',') if !is_quoted => break false,
                Some('"') if is_quoted && chars.peek() == Some(&'"') => {
                    chars.next();
                    field.get_or_insert_default().push('"');
                }
                Some('"') => {
                    is_quoted = !is_quoted;
                    field.get_or_insert_default();
                }
                Some('\\') if is_quoted => field.get_or_insert_default().extend(chars.next()),
                Some(c) => field.get_or_insert_default().push(c),
            }
        };
        fields.push(field);
        if ended {
            return fields;
        }
    }
}

/// Writes the binary form: how many fields there are, and of each its type, its length and its bytes.
pub(crate) fn write_binary(types: &[PgType], stored: &str, out: &mut Vec<u8>) {
    let count = i32::try_from(types.len()).expect("a row has fewer fields than 2^31");
    out.extend(count.to_be_bytes());
    let texts = fields(stored);
    for (index, ty) in types.iter().enumerate() {
        out.extend(ty.oid().to_be_bytes());
        let text = texts.get(index).and_then(Option::as_deref);
        match text.map(|text| read(ty, text)) {
            Some(Ok(value)) => {
                let mut bytes = Vec::new();
                output_binary(ty, value.as_ref(), &mut bytes);
                let length = i32::try_from(bytes.len()).expect("a value is below 2^31 bytes");
                out.extend(length.to_be_bytes());
                out.extend(bytes);
            }
            Some(Err(_)) | None => out.extend((-1_i32).to_be_bytes()),
        }
    }
}

/// A field's value. A row within a row and an object's name are stored as they are printed.
fn read(ty: &PgType, text: &str) -> Result<Value, SqlError> {
    match ty {
        PgType::Record(_) => Ok(Value::Text(text.to_owned())),
        ty => input(ty, text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use springhead_proto::ValueRef;

    use super::{PgType, fields, store, write_binary};

    fn text_of(values: &[Option<String>]) -> String {
        let fields = values.iter().map(|value| {
            let value = value.as_deref().map_or(ValueRef::Null, ValueRef::Text);
            (PgType::Text, value)
        });
        String::from_utf8(store(fields)).expect("texts make text")
    }

    #[test]
    fn a_row_is_printed_as_postgresql_prints_it() {
        let row = ["a b", "", "x", "say \"\\\"", ",", "(", "ü"].map(|text| Some(text.to_owned()));
        assert_eq!(text_of(&row), r#"("a b","",x,"say ""\\""",",","(",ü)"#);
        assert_eq!(text_of(&[None, Some("1".to_owned()), None]), "(,1,)");
        assert_eq!(text_of(&[None]), "()");
    }

    #[test]
    fn the_binary_form_has_the_fields_types() {
        let mut out = Vec::new();
        write_binary(&[PgType::Int2, PgType::Text], "(7,)", &mut out);
        let expected = [
            &2_i32.to_be_bytes()[..],
            &21_u32.to_be_bytes(),
            &2_i32.to_be_bytes(),
            &7_i16.to_be_bytes(),
            &25_u32.to_be_bytes(),
            &(-1_i32).to_be_bytes(),
        ];
        assert_eq!(out, expected.concat());
    }

    proptest! {
        #[test]
        fn fields_come_back_whatever_is_in_them(
            row in prop::collection::vec(prop::option::of("[a-c(),\"\\\\ \u{e9}\n]{0,6}"), 1..6),
        ) {
            prop_assert_eq!(fields(&text_of(&row)), row);
        }
    }
}
