//! `pg_catalog` and `information_schema` in SQLite: one virtual table for each relation that
//! `springhead_sql::system` knows, and `sh_sys(name, …)` for the functions about the catalog.
//!
//! A statement that uses them has a [`System`] in its session's context: the catalog that it was
//! planned against and who asks. Without one (replay, feeds, Springhead's own reads) they fail.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_int};
use std::marker::PhantomData;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::vtab::{
    Context as VTabContext, Filters, IndexConstraintOp, IndexInfo, Module, VTab, VTabConnection,
    VTabCursor, sqlite3_vtab, sqlite3_vtab_cursor,
};
use springhead_proto::{ErrorCode, SqlError};
use springhead_sql::access::Identity;
use springhead_sql::catalog::Catalog;
use springhead_sql::system::{self, Cache, Relation, Surroundings, Table, View};

use crate::access::Roles;
use crate::functions::{Context, Output, SessionContext, from_sqlite, to_sqlite};
use crate::sequences::SequenceBook;
use crate::session::prepared::PreparedStatements;
use crate::settings;

/// The databases that a session may know of: id and name.
pub type Databases = Arc<dyn Fn() -> Vec<(u32, String)> + Send + Sync>;

/// What one statement sees of the catalog.
pub struct System {
    pub catalog: Arc<Catalog>,
    pub identity: Arc<Identity>,
    pub databases: Databases,
    /// The roles in force; `None` for sessions without an engine.
    pub roles: Option<Arc<Roles>>,
    pub database_id: u32,
    pub state_path: std::path::PathBuf,
    /// Where the sequences are, where numbers are handed out.
    pub sequences: Option<Arc<Mutex<SequenceBook>>>,
    /// Who knows of standbys, if anyone does.
    pub standbys: Option<Arc<StandbyRows>>,
    /// The session's prepared statements.
    pub prepared: Arc<PreparedStatements>,
    /// Rows of relations that depend on more than the catalog.
    pub live: Cache,
}

/// Makes the rows of `springhead.standbys`.
pub type StandbyRows = Box<dyn Fn() -> Vec<system::Row> + Send + Sync>;

/// The session around a statement.
struct Around<'a> {
    session: &'a SessionContext,
    system: &'a System,
}

impl Surroundings for Around<'_> {
    fn standbys(&self) -> Vec<system::Row> {
        let rows = self.system.standbys.as_ref();
        rows.map_or_else(Vec::new, |rows| rows())
    }

    fn sequence(&self, id: u32) -> Option<(i64, bool)> {
        self.system.sequences.as_ref()?.lock().at(id)
    }

    fn prepared(&self) -> Vec<system::PreparedRow> {
        self.system.prepared.rows()
    }

    fn setting(&self, name: &str) -> Option<String> {
        self.session.setting(name)
    }

    fn settings(&self) -> Vec<(String, String)> {
        settings::names()
            .map(|name| {
                (
                    name.to_owned(),
                    self.session.setting(name).unwrap_or_default(),
                )
            })
            .collect()
    }

    fn databases(&self) -> Vec<(u32, String)> {
        (self.system.databases)()
    }

    fn roles(&self) -> Vec<system::Role> {
        let mut all: Vec<_> = self
            .system
            .roles
            .iter()
            .flat_map(|roles| roles.all())
            // A role of one tenant alone is none of the others' business.
            .filter(|role| {
                role.tenant
                    .is_none_or(|tenant| tenant.0 == self.system.database_id)
            })
            .map(|role| system::Role {
                oid: u32::try_from(role.id).unwrap_or(0),
                name: role.name.to_string(),
                superuser: role.superuser,
                inherit: role.inherit,
                createrole: role.createrole,
                createdb: role.createdb,
                login: role.login,
                bypass_rls: role.bypass_rls,
                connection_limit: role.connection_limit,
                valid_until_us: role.valid_until_us,
            })
            .collect();
        all.sort_by_key(|role| role.oid);
        all
    }

    fn memberships(&self) -> Vec<(String, String, String, bool)> {
        let known = self.roles();
        let is_known = |name: &str| known.iter().any(|role| role.name == name);
        self.system
            .roles
            .iter()
            .flat_map(|roles| roles.memberships())
            .filter(|membership| is_known(&membership.role) && is_known(&membership.member))
            .map(|membership| {
                (
                    membership.role.to_string(),
                    membership.member.to_string(),
                    membership.grantor.to_string(),
                    membership.admin_option,
                )
            })
            .collect()
    }

    fn database_id(&self) -> u32 {
        self.system.database_id
    }

    fn database_bytes(&self) -> Option<i64> {
        let size = std::fs::metadata(&self.system.state_path).ok()?.len();
        i64::try_from(size).ok()
    }
}

/// Runs `ask` with the statement's view of the catalog.
fn with_view<T>(
    context: &Context,
    ask: impl FnOnce(&View<'_>, &System) -> Result<T, SqlError>,
) -> rusqlite::Result<T> {
    let session = context.session();
    let system = session.system.lock().clone();
    let Some(system) = system else {
        return Err(context.fail(SqlError::new(
            ErrorCode::Internal,
            "the catalog is not to be seen here",
        )));
    };
    let around = Around {
        session: &session,
        system: &system,
    };
    let view = View {
        catalog: &system.catalog,
        identity: &system.identity,
        session: &around,
    };
    ask(&view, &system).map_err(|error| context.fail(error))
}

/// Registers the relations and `sh_sys`.
///
/// # Errors
/// What SQLite says.
pub fn register(conn: &Connection, context: &Arc<Context>) -> rusqlite::Result<()> {
    const MODULE: &Module<'static, SystemTable> = &Module::eponymous_only_module();
    for relation in system::all() {
        let aux = Aux {
            relation,
            context: Arc::clone(context),
        };
        conn.create_module(relation.storage_name().as_str(), MODULE, Some(aux))?;
    }
    let at = Arc::clone(context);
    // The catalog does not change within a statement, and the planner keeps this out of everything
    // that is stored.
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    conn.create_scalar_function("sh_sys", -1, flags, move |arguments| {
        let mut values = Vec::with_capacity(arguments.len());
        for index in 0..arguments.len() {
            values.push(from_sqlite(arguments.get_raw(index)).map_err(|error| at.fail(error))?);
        }
        with_view(&at, |view, _| system::calls::call(view, &values)).map(Output)
    })
}

/// What a virtual table is made with.
struct Aux {
    relation: &'static Relation,
    context: Arc<Context>,
}

/// One relation on one connection.
#[repr(C)]
struct SystemTable {
    /// SQLite's part; must come first.
    base: sqlite3_vtab,
    relation: &'static Relation,
    context: Arc<Context>,
}

// SAFETY: `repr(C)` with SQLite's structure as its first field, as the trait asks.
unsafe impl<'vtab> VTab<'vtab> for SystemTable {
    type Aux = Aux;
    type Cursor = SystemCursor<'vtab>;

    fn connect(
        _: &mut VTabConnection,
        aux: Option<&Aux>,
        _module_name: &[u8],
        _database_name: &[u8],
        _table_name: &[u8],
        _args: &[&[u8]],
    ) -> rusqlite::Result<(Cow<'static, CStr>, SystemTable)> {
        let aux = aux.ok_or(rusqlite::Error::InvalidQuery)?;
        let columns: Vec<String> = aux
            .relation
            .columns
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        let schema = CString::new(format!("CREATE TABLE x({})", columns.join(",")))?;
        let table = SystemTable {
            base: sqlite3_vtab::default(),
            relation: aux.relation,
            context: Arc::clone(&aux.context),
        };
        Ok((Cow::Owned(schema), table))
    }

    /// Looks a value up where a column must equal one, and reads every row otherwise.
    fn best_index(&self, info: &mut IndexInfo) -> rusqlite::Result<bool> {
        let best = info
            .constraints()
            .enumerate()
            .filter(|(_, constraint)| {
                constraint.is_usable()
                    && constraint.operator() == IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ
            })
            .filter_map(|(place, constraint)| {
                let column = usize::try_from(constraint.column()).ok()?;
                let (_, kind) = self.relation.columns.get(column)?;
                kind.is_selective().then_some((column, place))
            })
            .min();
        match best {
            Some((column, place)) => {
                info.constraint_usage(place).set_argv_index(1);
                info.set_idx_num(c_int::try_from(column + 1).unwrap_or(0));
                info.set_estimated_cost(5.0);
                info.set_estimated_rows(4);
            }
            None => {
                info.set_idx_num(0);
                info.set_estimated_cost(2000.0);
                info.set_estimated_rows(1000);
            }
        }
        Ok(true)
    }

    fn open(&'vtab mut self) -> rusqlite::Result<SystemCursor<'vtab>> {
        Ok(SystemCursor {
            base: sqlite3_vtab_cursor::default(),
            relation: self.relation,
            context: Arc::clone(&self.context),
            table: None,
            places: Places::All { next: 0 },
            phantom: PhantomData,
        })
    }
}

/// Which rows a cursor visits.
enum Places {
    All { next: usize },
    These { places: Vec<u32>, next: usize },
}

/// A walk over rows.
#[repr(C)]
struct SystemCursor<'vtab> {
    /// SQLite's part; must come first.
    base: sqlite3_vtab_cursor,
    relation: &'static Relation,
    context: Arc<Context>,
    table: Option<Arc<Table>>,
    places: Places,
    phantom: PhantomData<&'vtab SystemTable>,
}

impl SystemCursor<'_> {
    fn row(&self) -> Option<&system::Row> {
        let rows = &self.table.as_ref()?.rows;
        match &self.places {
            Places::All { next } => rows.get(*next),
            Places::These { places, next } => {
                let place = usize::try_from(*places.get(*next)?).ok()?;
                rows.get(place)
            }
        }
    }
}

// SAFETY: `repr(C)` with SQLite's structure as its first field, as the trait asks.
unsafe impl VTabCursor for SystemCursor<'_> {
    fn filter(
        &mut self,
        idx_num: c_int,
        _idx_str: Option<&str>,
        args: &Filters<'_>,
    ) -> rusqlite::Result<()> {
        let table = with_view(&self.context, |view, system| {
            let cache = if self.relation.live {
                &system.live
            } else {
                &system.catalog.system
            };
            cache.rows(self.relation, view)
        })?;
        self.places = match usize::try_from(idx_num).ok().and_then(|n| n.checked_sub(1)) {
            Some(column) => {
                let wanted = args
                    .iter()
                    .next()
                    .unwrap_or(rusqlite::types::ValueRef::Null);
                let wanted = from_sqlite(wanted).map_err(|error| self.context.fail(error))?;
                Places::These {
                    places: table.matching(column, wanted).to_vec(),
                    next: 0,
                }
            }
            None => Places::All { next: 0 },
        };
        self.table = Some(table);
        Ok(())
    }

    fn next(&mut self) -> rusqlite::Result<()> {
        match &mut self.places {
            Places::All { next } | Places::These { next, .. } => *next += 1,
        }
        Ok(())
    }

    fn eof(&self) -> bool {
        self.row().is_none()
    }

    fn column(&self, ctx: &mut VTabContext, column: c_int) -> rusqlite::Result<()> {
        let value = usize::try_from(column)
            .ok()
            .and_then(|column| self.row()?.get(column))
            .map_or(springhead_proto::ValueRef::Null, |value| value.as_ref());
        ctx.set_result(rusqlite::types::ToSqlOutput::Borrowed(to_sqlite(value)))
    }

    fn rowid(&self) -> rusqlite::Result<i64> {
        let place = match &self.places {
            Places::All { next } => *next,
            Places::These { places, next } => places
                .get(*next)
                .map_or(0, |place| usize::try_from(*place).unwrap_or(0)),
        };
        i64::try_from(place).map_err(|_| rusqlite::Error::InvalidQuery)
    }
}
