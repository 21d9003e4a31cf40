//! CREATE, ALTER and DROP of triggers.

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::tokenizer::Token;

use super::change::Change;
use super::names::check_schema;
use super::permit;
use super::text::Reader;
use crate::access::{Object, Use, decide};
use crate::catalog::{
    Catalog, Definition, Event, Privilege, QualifiedName, ReferentialAction, Relation, Returns,
    Table, Timing, Trigger,
};
use crate::plan::{PlanKind, display_name};
use crate::program;

impl Reader<'_> {
    /// After CREATE [OR REPLACE] TRIGGER.
    pub(super) fn create_trigger(&mut self, replace: bool) -> Result<PlanKind, SqlError> {
        let name = self.ident()?;
        let timing = if self.word("BEFORE") {
            Timing::Before
        } else if self.word("AFTER") {
            Timing::After
        } else if self.words(&["INSTEAD", "OF"]) {
            Timing::InsteadOf
        } else {
            return Err(self.unexpected());
        };
        let (mut events, mut columns) = (Vec::new(), Vec::new());
        loop {
            let event = if self.word("INSERT") {
                Event::Insert
            } else if self.word("DELETE") {
                Event::Delete
            } else if self.word("UPDATE") {
                if self.word("OF") {
                    columns.push(self.ident()?);
                    while self.parser.consume_token(&Token::Comma) {
                        columns.push(self.ident()?);
                    }
                }
                Event::Update
            } else if self.word("TRUNCATE") {
                return Err(SqlError::unsupported("triggers on TRUNCATE"));
            } else {
                return Err(self.unexpected());
            };
            events.push(event);
            if !self.word("OR") {
                break;
            }
        }
        if !self.word("ON") {
            return Err(self.unexpected());
        }
        let on = self.name()?;
        if self.word("REFERENCING") {
            return Err(SqlError::unsupported("transition tables of triggers"));
        }
        if self.words(&["NOT", "DEFERRABLE"]) {
        } else if self.word("DEFERRABLE") || self.word("INITIALLY") || self.word("FROM") {
            return Err(SqlError::unsupported("constraint triggers"));
        }
        let mut each_row = false;
        if self.word("FOR") {
            self.word("EACH");
            each_row = self.word("ROW");
            if !each_row && !self.word("STATEMENT") {
                return Err(self.unexpected());
            }
        }
        let condition = if self.word("WHEN") {
            Some(self.in_parentheses()?)
        } else {
            None
        };
        if !self.words(&["EXECUTE", "FUNCTION"]) && !self.words(&["EXECUTE", "PROCEDURE"]) {
            return Err(self.unexpected());
        }
        let function = self.name()?;
        let arguments = self.constants()?;
        self.end()?;
        let trigger = Trigger {
            id: 0,
            name: QualifiedName::new(on.schema.clone(), name),
            relation: 0,
            timing,
            events,
            update_of: Vec::new(),
            each_row,
            condition,
            function: 0,
            arguments,
            disabled: false,
        };
        self.put_trigger(trigger, &on, &columns, &function, replace)
    }

    fn put_trigger(
        &mut self,
        mut trigger: Trigger,
        on: &QualifiedName,
        columns: &[String],
        function: &QualifiedName,
        replace: bool,
    ) -> Result<PlanKind, SqlError> {
        check_schema(on)?;
        match self.catalog.relation(on) {
            Some(Relation::Table(id)) => {
                let table = self.catalog.expect_table(on)?;
                super::names::check_owner(table)?;
                check_table(&trigger, table)?;
                trigger.relation = id.0;
                for column in columns {
                    trigger.update_of.push(table.expect_column(column)?.1.id);
                }
            }
            Some(Relation::View(id)) => {
                check_view(&trigger, &on.name)?;
                trigger.relation = id;
            }
            Some(_) => {
                return Err(SqlError::new(
                    ErrorCode::WrongObjectType,
                    format!("relation \"{}\" cannot have triggers", on.name),
                ));
            }
            None => {
                return Err(SqlError::new(
                    ErrorCode::UndefinedTable,
                    format!("relation \"{}\" does not exist", display_name(on)),
                ));
            }
        }
        let found = self
            .catalog
            .routines_named(&function.schema, &function.name);
        let routine = found
            .into_iter()
            .find(|routine| routine.arguments.is_empty() && !routine.procedure)
            .ok_or_else(|| {
                SqlError::new(
                    ErrorCode::UndefinedFunction,
                    format!("function {}() does not exist", display_name(function)),
                )
            })?;
        if routine.returns != Returns::Trigger {
            return Err(SqlError::new(
                ErrorCode::InvalidObjectDefinition,
                format!("function {} must return type trigger", function.name),
            ));
        }
        let identity = &self.context.identity;
        let needs = |privilege| Use {
            privilege,
            columns: &[],
        };
        let relation = match self.catalog.table(CollectionId(trigger.relation)) {
            Some(table) => Some(Object::Table(table)),
            None => (self.catalog.view(trigger.relation)).map(|view| Object::View(view)),
        };
        if let Some(relation) = relation {
            decide(identity, relation, needs(Privilege::Trigger))?;
        }
        decide(
            identity,
            Object::Routine(routine),
            needs(Privilege::Execute),
        )?;
        trigger.function = routine.id;
        let mut change = self.change("CREATE TRIGGER");
        let old = self
            .catalog
            .triggers_of(trigger.relation)
            .find(|old| old.name.name == trigger.name.name)
            .map(|old| old.id);
        trigger.id = match old {
            Some(_) if !replace => {
                return Err(SqlError::new(
                    ErrorCode::DuplicateObject,
                    format!(
                        "trigger \"{}\" for relation \"{}\" already exists",
                        trigger.name.name, on.name
                    ),
                ));
            }
            Some(old) => old,
            None => change.next_id()?,
        };
        program::check_condition(self.catalog, self.context, &trigger)?;
        change.put(Definition::Trigger(trigger));
        Ok(change.finish())
    }

    /// `(…)`: the text within.
    fn in_parentheses(&mut self) -> Result<String, SqlError> {
        if !self.parser.consume_token(&Token::LParen) {
            return Err(self.unexpected());
        }
        let from = self.offset();
        let mut depth = 1_usize;
        loop {
            let at = self.offset();
            match self.parser.next_token().token {
                Token::EOF => return Err(self.unexpected()),
                Token::LParen => depth += 1,
                Token::RParen => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(self.source[from..at].trim().to_owned());
                    }
                }
                _ => {}
            }
        }
    }

    /// The arguments of a trigger's function: constants, as texts.
    fn constants(&mut self) -> Result<Vec<String>, SqlError> {
        if !self.parser.consume_token(&Token::LParen) {
            return Err(self.unexpected());
        }
        let mut constants = Vec::new();
        while !self.parser.consume_token(&Token::RParen) {
            if !constants.is_empty() && !self.parser.consume_token(&Token::Comma) {
                return Err(self.unexpected());
            }
            constants.push(match self.parser.next_token().token {
                Token::SingleQuotedString(text) => text,
                Token::Number(text, _) => text,
                Token::Word(word) => word.value,
                other => return Err(self.syntax_error(&other.to_string())),
            });
        }
        Ok(constants)
    }

    /// After DROP TRIGGER.
    pub(super) fn drop_trigger(&mut self) -> Result<PlanKind, SqlError> {
        let if_exists = self.words(&["IF", "EXISTS"]);
        let name = self.ident()?;
        if !self.word("ON") {
            return Err(self.unexpected());
        }
        let on = self.name()?;
        permit::own_part(self.catalog, &on, self.context)?;
        if !self.word("CASCADE") {
            self.word("RESTRICT");
        }
        self.end()?;
        let mut change = Change::new(self.catalog, "DROP TRIGGER", self.source);
        match self.trigger_named(&name, &on) {
            Ok(trigger) => change.drop(Definition::Trigger(trigger)),
            Err(error) if if_exists => change.notices.push(format!("{}, skipping", error.message)),
            Err(error) => return Err(error),
        }
        Ok(change.finish())
    }

    /// After ALTER TRIGGER.
    pub(super) fn alter_trigger(&mut self) -> Result<PlanKind, SqlError> {
        let name = self.ident()?;
        if !self.word("ON") {
            return Err(self.unexpected());
        }
        let on = self.name()?;
        permit::own(self.catalog, &on, self.context)?;
        if !self.words(&["RENAME", "TO"]) {
            return Err(SqlError::unsupported("ALTER TRIGGER of this form"));
        }
        let to = self.ident()?;
        self.end()?;
        let mut trigger = self.trigger_named(&name, &on)?;
        if self.trigger_named(&to, &on).is_ok() {
            return Err(SqlError::new(
                ErrorCode::DuplicateObject,
                format!(
                    "trigger \"{to}\" for relation \"{}\" already exists",
                    on.name
                ),
            ));
        }
        trigger.name.name = to;
        let mut change = Change::new(self.catalog, "ALTER TRIGGER", self.source);
        change.put(Definition::Trigger(trigger));
        Ok(change.finish())
    }

    /// After ALTER TABLE t ENABLE or DISABLE TRIGGER.
    pub(super) fn switch_trigger(
        &mut self,
        on: &QualifiedName,
        disabled: bool,
    ) -> Result<PlanKind, SqlError> {
        let mut change = Change::new(self.catalog, "ALTER TABLE", self.source);
        let table = self.catalog.expect_table(on)?.id;
        let all = self.word("ALL") || self.word("USER");
        let name = if all { None } else { Some(self.ident()?) };
        self.end()?;
        if let Some(name) = &name {
            self.trigger_named(name, on)?;
        }
        let triggers: Vec<Trigger> = self
            .catalog
            .triggers_of(table)
            .filter(|trigger| name.as_ref().is_none_or(|name| trigger.name.name == *name))
            .cloned()
            .collect();
        for trigger in triggers {
            change.put(Definition::Trigger(Trigger {
                disabled,
                ..trigger
            }));
        }
        Ok(change.finish())
    }

    pub(super) fn trigger_named(
        &self,
        name: &str,
        on: &QualifiedName,
    ) -> Result<Trigger, SqlError> {
        let relation = match self.catalog.relation(on) {
            Some(Relation::Table(id)) => id.0,
            Some(Relation::View(id)) => id,
            _ => {
                return Err(SqlError::new(
                    ErrorCode::UndefinedTable,
                    format!("relation \"{}\" does not exist", display_name(on)),
                ));
            }
        };
        self.catalog
            .triggers_of(relation)
            .find(|trigger| trigger.name.name == name)
            .cloned()
            .ok_or_else(|| {
                SqlError::new(
                    ErrorCode::UndefinedObject,
                    format!(
                        "trigger \"{name}\" for table \"{}\" does not exist",
                        on.name
                    ),
                )
            })
    }
}

fn check_table(trigger: &Trigger, table: &Table) -> Result<(), SqlError> {
    if trigger.timing == Timing::InsteadOf {
        return Err(SqlError::new(
            ErrorCode::WrongObjectType,
            format!("\"{}\" is a table", table.name.name),
        )
        .with_detail("Tables cannot have INSTEAD OF triggers."));
    }
    if trigger.timing == Timing::Before && trigger.each_row && cascades(table, &trigger.events) {
        return Err(SqlError::unsupported(
            "a BEFORE ROW trigger for what a foreign key's ON DELETE or ON UPDATE does to the table",
        ));
    }
    Ok(())
}

/// Whether a foreign key's action makes such an event of the table's rows.
pub(super) fn cascades(table: &Table, events: &[Event]) -> bool {
    use ReferentialAction::{Cascade, SetDefault, SetNull};
    table.foreign_keys.iter().any(|key| {
        let deletes = key.on_delete == Cascade;
        let updates = matches!(key.on_delete, SetNull | SetDefault)
            || matches!(key.on_update, Cascade | SetNull | SetDefault);
        deletes && events.contains(&Event::Delete) || updates && events.contains(&Event::Update)
    })
}

fn check_view(trigger: &Trigger, name: &str) -> Result<(), SqlError> {
    let wrong = |detail: &str| {
        Err(
            SqlError::new(ErrorCode::WrongObjectType, format!("\"{name}\" is a view"))
                .with_detail(detail),
        )
    };
    if trigger.timing != Timing::InsteadOf && trigger.each_row {
        return wrong("Views cannot have row-level BEFORE or AFTER triggers.");
    }
    let refuse = |message: &str| Err(SqlError::new(ErrorCode::FeatureNotSupported, message));
    if trigger.timing == Timing::InsteadOf {
        if !trigger.each_row {
            return refuse("INSTEAD OF triggers must be FOR EACH ROW");
        }
        if trigger.condition.is_some() {
            return refuse("INSTEAD OF triggers cannot have WHEN conditions");
        }
        return Ok(());
    }
    Err(SqlError::unsupported("statement triggers on views"))
}

/// Drops the triggers of a table or view that goes.
pub(super) fn drop_triggers_of(change: &mut Change<'_>, relation: u32) {
    let triggers: Vec<Trigger> = change.catalog.triggers_of(relation).cloned().collect();
    for trigger in triggers {
        change.drop(Definition::Trigger(trigger));
    }
}

/// The name of the table or view that a trigger is on, for messages.
pub(super) fn relation_of(catalog: &Catalog, trigger: u32) -> Option<(String, String)> {
    let trigger = catalog.triggers.get(&trigger)?;
    let relation = catalog
        .table(CollectionId(trigger.relation))
        .map(|table| format!("table {}", table.name.name))
        .or_else(|| {
            let view = catalog.view(trigger.relation)?;
            Some(format!("view {}", view.name.name))
        })?;
    Some((trigger.name.name.clone(), relation))
}
