//! PostgreSQL 15's own functions by name, so that those which Springhead lacks are refused as such and
//! not taken for mistakes.

use std::sync::LazyLock;

use rustc_hash::FxHashMap;

use super::catalog::signatures;

/// `name count count …` on each line: with how many arguments it can be called, `*` for any number.
/// From `pg_proc` of PostgreSQL 15, without functions that only its inside calls.
const KNOWN: &str = include_str!("postgresql.txt");

/// Whether PostgreSQL has a function of that name that takes so many arguments, where Springhead has none.
#[must_use]
pub(crate) fn is_lacking(name: &str, arguments: usize) -> bool {
    static BY_NAME: LazyLock<FxHashMap<&str, &str>> = LazyLock::new(|| {
        KNOWN
            .lines()
            .filter_map(|line| line.split_once(' '))
            .collect()
    });
    let takes = |count: &str| count == "*" || count.parse() == Ok(arguments);
    let is_known = (BY_NAME.get(name)).is_some_and(|counts| counts.split(' ').any(takes));
    is_known
        && !signatures(name).iter().any(|signature| {
            signature.args.len() == arguments
                || signature.variadic && signature.args.len() <= arguments
        })
}

#[cfg(test)]
mod tests {
    use super::is_lacking;

    #[test]
    fn what_postgresql_has_and_springhead_has_not_is_known() {
        for (name, arguments, lacking) in [
            ("jsonb_path_query", 2, true),
            ("date_trunc", 2, false),
            ("lower", 1, false),
            ("lower", 2, false),
            ("no_such_function", 1, false),
            ("concat", 9, false),
        ] {
            assert_eq!(is_lacking(name, arguments), lacking, "{name}");
        }
    }
}
