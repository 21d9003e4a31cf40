//! PostgreSQL's functions and operators by name.

use std::sync::LazyLock;

use rustc_hash::FxHashMap;

use super::signature::{ArgType as A, Class, Emit, ResultType as R, Signature, Volatility};

macro_rules! overloads {
    ($($name:literal ( $($arg:ident),* ) -> $result:expr, $emit:expr;)*) => {
        &[$(Signature {
            name: $name, args: &[$(A::$arg),*], variadic: false, result: $result, emit: $emit,
            strict: true, volatility: Volatility::Immutable, class: Class::Scalar,
        }),*]
    };
}

const FUNCTIONS: &[Signature] = overloads! {
    "lower"(Text) -> R::Of(A::Text), Emit::Call("sh_lower");
    "length"(Text) -> R::Of(A::Int4), Emit::Call("length");
};

const OPERATORS: &[Signature] = overloads! {
    "+"(Int4, Int4) -> R::Of(A::Int4), Emit::Call("sh_int4_add");
};

/// Every overload of a function, by its lower-case name; empty if there is none.
#[must_use]
pub fn signatures(name: &str) -> &'static [Signature] {
    static BY_NAME: LazyLock<Index> = LazyLock::new(|| index(&[FUNCTIONS]));
    BY_NAME.get(name).map_or(&[], Vec::as_slice)
}

/// Every overload of an operator: two arguments for infix, one for prefix.
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
