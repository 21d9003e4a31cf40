//! What a live query's planning learns of a SELECT while it is analyzed, and the variants of the SELECT
//! that are made there: with the keys of its rows, for one key alone, for one group alone.

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::{self, Expr, SetExpr};

use super::simple::is_rows_of_tables;
use crate::query::Analyzer;
use crate::query::body::{OrderKey, OrderTerm};
use crate::query::from::FromItem;
use crate::query::reference::push_down;
use crate::query::scope::{Relation, ScopeColumn};
use crate::query::select::Select;
use crate::query::typed::{Typed, key_of};
use crate::types::PgType;

/// What is asked of the outermost SELECT, and what was found there. The analyzer hands it over at
/// its end ([`Analyzer::probe_live`]).
pub(crate) struct Probe {
    /// The SELECT that is meant, by where it is in memory; only compared, never followed.
    target: usize,
    want: Want,
    /// What ORDER BY orders by is put out after the key, and the rows come in no order.
    puts_order_out: bool,
    /// The tables that rows of FROM are made of, in its order: plain ones, and those of views and
    /// derived tables that are no more than rows of tables.
    pub(crate) tables: Vec<Source>,
    /// Whether all of FROM is such.
    pub(crate) all_plain: bool,
    /// Grouped by: type, and the text compared.
    pub(crate) groups: Vec<(PgType, String)>,
    pub(crate) is_aggregate: bool,
    /// The text of a variant that is no SELECT of the query's own outputs.
    pub(crate) made: Option<String>,
    /// How many values the key of a row of the first FROM item has.
    pub(crate) anchor_keys: usize,
    /// Of each term that was put out: how it orders.
    pub(crate) directions: Vec<&'static str>,
    /// Of each of `tables`: what it is called, its columns, and which of the table's they are. Empty for
    /// one that is seen with others through one FROM item.
    pub(crate) names: Vec<(String, Vec<(String, u32)>)>,
    /// Conditions inside of views and derived tables over one table, with their names for its columns.
    pub(crate) inner_conditions: Vec<(Vec<(String, u32)>, Expr)>,
    /// Derived tables of the statement's own text that were seen through.
    pub(crate) seen_through: usize,
    /// SELECTs whose rows' keys are wanted outside, innermost last.
    exposing: Vec<usize>,
    /// What the last of them handed out.
    exposed: Option<Vec<CollectionId>>,
    /// FROM items that were seen through, by their aliases in the SQLite text.
    derived: Vec<(String, Vec<Source>)>,
}

/// A table that rows of FROM are made of.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) collection: CollectionId,
    /// SQLite texts of its key.
    key: Vec<String>,
}

/// Which variant of the query is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Nothing,
    Keys,
    OfKey {
        index: usize,
        first: usize,
    },
    /// What belongs to one row of the first FROM item.
    OfAnchor {
        first: usize,
    },
    GroupsOfKey {
        index: usize,
        first: usize,
    },
    OfGroup {
        first: usize,
    },
    /// The keys of the first FROM item's rows that a row of one table is joined to, whatever WHERE says.
    AnchorsOfKey {
        index: usize,
        first: usize,
    },
    /// The keys of the first FROM item's rows that meet WHERE.
    Anchors,
    /// The same, of all or of one, with the groups that they count in.
    AnchorGroups {
        of: Option<usize>,
    },
}

impl Probe {
    pub(super) fn new(query: &ast::Query, want: Want, puts_order_out: bool) -> Probe {
        Probe {
            target: address_of_select(query),
            want,
            puts_order_out: puts_order_out && want != Want::Nothing,
            tables: Vec::new(),
            all_plain: false,
            groups: Vec::new(),
            is_aggregate: false,
            made: None,
            anchor_keys: 0,
            directions: Vec::new(),
            names: Vec::new(),
            inner_conditions: Vec::new(),
            seen_through: 0,
            exposing: Vec::new(),
            exposed: None,
            derived: Vec::new(),
        }
    }

    pub(crate) fn note_group(&mut self, ty: &PgType, compared: &str) {
        self.groups.push((ty.clone(), compared.to_owned()));
    }
}

fn address_of_select(query: &ast::Query) -> usize {
    match &*query.body {
        SetExpr::Select(select) => address(select),
        _ => 0,
    }
}

fn address(select: &ast::Select) -> usize {
    std::ptr::from_ref(select).addr()
}

/// The condition that a key is what the parameters from `first` on are.
fn of_key(key: &[String], first: usize) -> String {
    let terms: Vec<String> = (key.iter().enumerate())
        .map(|(place, text)| format!("{text} IS ?{}", first + place))
        .collect();
    terms.join(" AND ")
}

fn names_of(columns: &[ScopeColumn], of: CollectionId) -> Vec<(String, u32)> {
    let known = columns.iter().filter_map(|column| {
        let (collection, id) = column.origin?;
        (collection == of).then(|| (column.name.clone(), id))
    });
    known.collect()
}

impl Analyzer<'_> {
    /// At the end of a SELECT's analysis: tells a live query's probe what it is made of, and makes
    /// the variant that it wants.
    pub(crate) fn probe_live(
        &mut self,
        select: &ast::Select,
        result: &mut Select,
        names: &mut Vec<String>,
        terms: &mut Vec<OrderTerm>,
    ) -> Result<(), SqlError> {
        let Some(probe) = &mut self.live else {
            return Ok(());
        };
        if probe.target == address(select) {
            let mut probe = self.live.take().expect("looked at above");
            let probed = self.probe_target(&mut probe, result, names, terms);
            self.live = Some(probe);
            return probed;
        }
        // A nested SELECT's groups are its own.
        probe.groups.clear();
        if probe.exposing.last() == Some(&address(select)) {
            self.expose_keys(select, result, names)?;
        }
        Ok(())
    }

    fn probe_target(
        &mut self,
        probe: &mut Probe,
        result: &mut Select,
        names: &mut Vec<String>,
        terms: &mut Vec<OrderTerm>,
    ) -> Result<(), SqlError> {
        let relations = self.scope().relations.clone();
        let sources: Vec<Vec<Source>> = (relations.iter())
            .map(|relation| self.sources_of(probe, relation))
            .collect();
        probe.all_plain =
            sources.iter().all(|sources| !sources.is_empty()) && self.scope().sets.is_empty();
        for (relation, sources) in relations.iter().zip(&sources) {
            let columns = match &sources[..] {
                [source] => names_of(&relation.columns, source.collection),
                _ => Vec::new(),
            };
            let named = std::iter::repeat_n((relation.alias.clone(), columns), sources.len());
            probe.names.extend(named);
        }
        probe.tables = sources.into_iter().flatten().collect();
        probe.is_aggregate =
            self.scope().has_aggregates || !result.group.is_empty() || result.having.is_some();
        probe.anchor_keys = relations.first().map_or(0, |relation| relation.key.len());
        self.narrow(probe, &relations, result);
        probe.made = made(probe, &relations, result);
        if probe.want != Want::Nothing {
            let keys = self.key_outputs(probe)?;
            names.extend(keys.iter().map(|_| "key".to_owned()));
            result.items.extend(keys);
        }
        if probe.puts_order_out {
            for term in std::mem::take(terms) {
                probe.directions.push(term.direction);
                let text = self.order_text(&term, result)?;
                names.push("order".to_owned());
                // As it is compared: of any type that is shown as it is stored.
                result.items.push(Typed::new(text, PgType::Bytea));
            }
        }
        Ok(())
    }

    /// Adds the condition of the variant to WHERE.
    fn narrow(&self, probe: &Probe, relations: &[Relation], result: &mut Select) {
        let first_key = || relations.first().map_or(&[][..], |first| &first.key[..]);
        let compared: Vec<String> = probe.groups.iter().map(|group| group.1.clone()).collect();
        let extra = match probe.want {
            Want::OfKey { index, first } | Want::GroupsOfKey { index, first } => {
                of_key(&probe.tables[index].key, first)
            }
            Want::OfGroup { first } => of_key(&compared, first),
            Want::AnchorsOfKey { index, first } => {
                result.condition = None;
                of_key(&probe.tables[index].key, first)
            }
            Want::OfAnchor { first } | Want::AnchorGroups { of: Some(first) } => {
                of_key(first_key(), first)
            }
            Want::Nothing | Want::Keys | Want::Anchors | Want::AnchorGroups { of: None } => return,
        };
        if let Some(from) = &mut result.from {
            // Through policies too, so that one row is found without a look at all.
            push_down(from, &extra);
        }
        result.condition = Some(match result.condition.take() {
            Some(condition) => format!("({condition}) AND {extra}"),
            None => extra,
        });
    }

    fn order_text(&mut self, term: &OrderTerm, result: &Select) -> Result<String, SqlError> {
        match &term.key {
            OrderKey::Expression(text) => Ok(text.clone()),
            OrderKey::Output(index) => {
                let item = &result.items[*index];
                let ty = Self::settled(item);
                Ok(key_of(&ty, &self.text(item)?))
            }
        }
    }

    /// The tables that a FROM item's rows are made of; none if it is more than that.
    fn sources_of(&self, probe: &Probe, relation: &Relation) -> Vec<Source> {
        if relation.key.is_empty() {
            return Vec::new();
        }
        let named = (self.named_tables.iter()).find(|(alias, _)| *alias == relation.id);
        if let Some((_, collection)) = named {
            return vec![Source {
                collection: *collection,
                key: relation.key.clone(),
            }];
        }
        let derived = probe.derived.iter().find(|(id, _)| *id == relation.id);
        derived.map_or_else(Vec::new, |(_, sources)| sources.clone())
    }

    fn key_outputs(&self, probe: &Probe) -> Result<Vec<Typed>, SqlError> {
        if probe.is_aggregate {
            return Ok((probe.groups.iter())
                .map(|(ty, compared)| {
                    // Of equal values with several forms the form compared is shown.
                    let ty = match ty.key_function() {
                        Some(_) => PgType::Bytea,
                        None => ty.clone(),
                    };
                    Typed::new(compared.clone(), ty)
                })
                .collect());
        }
        self.keys_of(&probe.tables)
    }

    fn keys_of(&self, sources: &[Source]) -> Result<Vec<Typed>, SqlError> {
        let mut keys = Vec::new();
        for source in sources {
            let table = self.catalog.table(source.collection).ok_or_else(|| {
                SqlError::new(ErrorCode::UndefinedTable, "a table has gone meanwhile")
            })?;
            for (text, column) in source.key.iter().zip(table.key_columns()) {
                keys.push(Typed::new(text.clone(), column.pg_type.clone()));
            }
        }
        Ok(keys)
    }

    // ---- seeing through views and derived tables ----

    /// Says that the keys of a view's or derived table's rows are wanted outside, if it is no more than
    /// rows of tables. To be ended by [`Analyzer::end_exposing`].
    pub(crate) fn begin_exposing(&mut self, query: &ast::Query) -> bool {
        let Some(probe) = &mut self.live else {
            return false;
        };
        let exposes = is_rows_of_tables(query);
        if exposes {
            probe.exposing.push(address_of_select(query));
        }
        exposes
    }

    /// How many of the last outputs are keys, and of which tables.
    pub(crate) fn end_exposing(&mut self, exposes: bool) -> Option<Vec<CollectionId>> {
        let probe = self.live.as_mut().filter(|_| exposes)?;
        probe.exposing.pop();
        probe.exposed.take()
    }

    fn expose_keys(
        &mut self,
        select: &ast::Select,
        result: &mut Select,
        names: &mut Vec<String>,
    ) -> Result<(), SqlError> {
        let relations = self.scope().relations.clone();
        let is_more = self.scope().has_aggregates
            || self.scope().has_windows
            || !self.scope().sets.is_empty()
            || !result.group.is_empty();
        let probe = self.live.take().expect("the caller has looked");
        let sources: Vec<Vec<Source>> = (relations.iter())
            .map(|relation| self.sources_of(&probe, relation))
            .collect();
        self.live = Some(probe);
        if is_more || sources.iter().any(Vec::is_empty) {
            return Ok(());
        }
        let sources: Vec<Source> = sources.into_iter().flatten().collect();
        let keys = self.keys_of(&sources)?;
        names.extend(keys.iter().map(|_| "key".to_owned()));
        result.items.extend(keys);
        let probe = self.live.as_mut().expect("put back above");
        if let ([relation], [source], Some(condition)) =
            (&relations[..], &sources[..], &select.selection)
        {
            let columns = names_of(&relation.columns, source.collection);
            probe.inner_conditions.push((columns, condition.clone()));
        }
        probe.exposed = Some(sources.iter().map(|source| source.collection).collect());
        Ok(())
    }

    /// Takes the keys off the columns of what was seen through.
    pub(crate) fn take_keys(
        &self,
        columns: &mut Vec<ScopeColumn>,
        exposed: Option<&Vec<CollectionId>>,
    ) -> Vec<ScopeColumn> {
        let lengths = exposed.into_iter().flatten().map(|collection| {
            let table = self.catalog.table(*collection);
            table.map_or(0, |table| table.key.len())
        });
        columns.split_off(columns.len() - lengths.sum::<usize>())
    }

    /// Gives a FROM item that was seen through its key. `is_in_text`: its query stands in the statement.
    pub(crate) fn with_keys(
        &mut self,
        mut item: FromItem,
        keys: &[ScopeColumn],
        exposed: Option<Vec<CollectionId>>,
        is_in_text: bool,
    ) -> FromItem {
        let ([relation], Some(exposed)) = (&mut item.relations[..], exposed) else {
            return item;
        };
        let mut keys = keys.iter().map(|column| column.sql.clone());
        let sources: Vec<Source> = (exposed.into_iter())
            .map(|collection| {
                let table = self.catalog.table(collection);
                let length = table.map_or(0, |table| table.key.len());
                Source {
                    collection,
                    key: keys.by_ref().take(length).collect(),
                }
            })
            .collect();
        relation.key = sources
            .iter()
            .flat_map(|source| source.key.clone())
            .collect();
        if let Some(probe) = &mut self.live {
            probe.derived.push((relation.id.clone(), sources));
            probe.seen_through += usize::from(is_in_text);
        }
        item
    }
}

/// The text of a variant whose outputs are not the query's own.
fn made(probe: &Probe, relations: &[Relation], result: &Select) -> Option<String> {
    let compared = || probe.groups.iter().map(|group| group.1.clone());
    let first_key = relations.first().map_or(&[][..], |first| &first.key[..]);
    let outputs: Vec<String> = match probe.want {
        Want::GroupsOfKey { .. } if probe.groups.is_empty() => vec!["1".to_owned()],
        Want::GroupsOfKey { .. } => compared().collect(),
        Want::AnchorsOfKey { .. } | Want::Anchors => first_key.to_vec(),
        Want::AnchorGroups { .. } => first_key.iter().cloned().chain(compared()).collect(),
        _ => return None,
    };
    Some(format!(
        "SELECT DISTINCT {} FROM {} WHERE {}",
        outputs.join(","),
        result.from.as_deref().unwrap_or_default(),
        result.condition.as_deref().unwrap_or("1")
    ))
}
