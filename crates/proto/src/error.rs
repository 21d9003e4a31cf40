//! The error codes that users see: one SQLSTATE on the PostgreSQL protocol, one word on HTTP, one
//! HTTP status, kept together here and nowhere else.

use std::fmt;

/// A five-character SQLSTATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub &'static str);

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $sqlstate:literal, $word:literal, $status:literal;)*) => {
        /// What went wrong, as a closed list.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code there is.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The code on the PostgreSQL protocol.
            #[must_use]
            pub const fn sqlstate(self) -> SqlState {
                match self { $(ErrorCode::$name => SqlState($sqlstate),)* }
            }

            /// The code in an HTTP error body.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(ErrorCode::$name => $word,)* }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(ErrorCode::$name => $status,)* }
            }
        }
    };
}

error_codes! {
    /// A value that its type does not have.
    InvalidTextRepresentation = "22P02", "invalid_value", 400;
    NumericOutOfRange = "22003", "numeric_out_of_range", 400;
    StringTooLong = "22001", "string_too_long", 400;
    DivisionByZero = "22012", "division_by_zero", 400;
    InvalidDatetime = "22007", "invalid_datetime", 400;
    DatetimeOverflow = "22008", "datetime_overflow", 400;
    InvalidParameterValue = "22023", "invalid_parameter", 400;
    InvalidByteSequence = "22021", "invalid_utf8", 400;
    InvalidRegularExpression = "2201B", "invalid_regular_expression", 400;
    /// COPY data that is not of its form.
    BadCopyFormat = "22P04", "bad_copy_format", 400;
    InvalidBinaryRepresentation = "22P03", "invalid_binary_value", 400;
    UntranslatableCharacter = "22P05", "untranslatable_character", 400;
    InvalidPowerArgument = "2201F", "invalid_argument_for_power", 400;
    InvalidLogarithmArgument = "2201E", "invalid_argument_for_logarithm", 400;
    InvalidWidthBucketArgument = "2201G", "invalid_argument_for_width_bucket", 400;
    SubstringError = "22011", "substring_error", 400;
    InvalidEscapeSequence = "22025", "invalid_escape_sequence", 400;
    CardinalityViolation = "21000", "cardinality_violation", 400;
    NotNullViolation = "23502", "not_null_violation", 409;
    ForeignKeyViolation = "23503", "foreign_key_violation", 409;
    UniqueViolation = "23505", "unique_violation", 409;
    CheckViolation = "23514", "check_violation", 409;
    IntegrityViolation = "23000", "constraint_violation", 409;
    ActiveTransaction = "25001", "active_transaction", 400;
    NoActiveTransaction = "25P01", "no_active_transaction", 400;
    FailedTransaction = "25P02", "in_failed_transaction", 400;
    ReadOnlyTransaction = "25006", "read_only", 400;
    IdleInTransactionTimeout = "25P03", "idle_in_transaction_timeout", 408;
    InvalidPassword = "28P01", "invalid_password", 401;
    InvalidAuthorization = "28000", "unauthorized", 401;
    InvalidGrantOperation = "0LP01", "invalid_grant_operation", 400;
    DependentObjects = "2BP01", "dependent_objects_exist", 409;
    InvalidSavepoint = "3B001", "invalid_savepoint", 400;
    UnknownDatabase = "3D000", "unknown_tenant", 404;
    UnknownSchema = "3F000", "unknown_schema", 404;
    SerializationFailure = "40001", "serialization_failure", 409;
    DeadlockDetected = "40P01", "deadlock", 409;
    SyntaxError = "42601", "syntax_error", 400;
    ReservedName = "42939", "reserved_name", 400;
    InvalidGrant = "0LP01", "invalid_grant", 400;
    InsufficientPrivilege = "42501", "permission_denied", 403;
    CannotCoerce = "42846", "cannot_coerce", 400;
    GroupingError = "42803", "grouping_error", 400;
    WindowingError = "42P20", "windowing_error", 400;
    InvalidForeignKey = "42830", "invalid_foreign_key", 400;
    NameTooLong = "42622", "name_too_long", 400;
    DatatypeMismatch = "42804", "datatype_mismatch", 400;
    IndeterminateDatatype = "42P18", "indeterminate_datatype", 400;
    WrongObjectType = "42809", "wrong_object_type", 400;
    UndefinedColumn = "42703", "unknown_column", 400;
    UndefinedFunction = "42883", "unknown_function", 400;
    UndefinedTable = "42P01", "unknown_collection", 404;
    UndefinedParameter = "42P02", "unknown_parameter", 400;
    InvalidName = "42602", "invalid_name", 400;
    UndefinedObject = "42704", "unknown_object", 404;
    DuplicateColumn = "42701", "duplicate_column", 409;
    DuplicateDatabase = "42P04", "duplicate_tenant", 409;
    DuplicateTable = "42P07", "duplicate_collection", 409;
    DuplicateSchema = "42P06", "duplicate_schema", 409;
    DuplicateObject = "42710", "duplicate_object", 409;
    AmbiguousColumn = "42702", "ambiguous_column", 400;
    InvalidTableDefinition = "42P16", "invalid_table_definition", 400;
    InvalidColumnReference = "42P10", "invalid_column_reference", 400;
    DuplicateAlias = "42712", "duplicate_alias", 400;
    DuplicateStatement = "42P05", "duplicate_statement", 400;
    UndefinedStatement = "26000", "unknown_statement", 400;
    UndefinedCursor = "34000", "unknown_portal", 400;
    DuplicateCursor = "42P03", "duplicate_cursor", 409;
    /// A value for a column that makes its own.
    GeneratedAlways = "428C9", "generated_always", 400;
    /// RAISE without a code of its own.
    RaiseException = "P0001", "raised", 400;
    AssertFailure = "P0004", "assertion_failed", 400;
    CaseNotFound = "20000", "case_not_found", 400;
    NoDataFound = "P0002", "no_data_found", 400;
    TooManyRows = "P0003", "too_many_rows", 400;
    /// A notice's code.
    Success = "00000", "success", 200;
    /// A warning's code.
    Warning = "01000", "warning", 200;
    NoReturn = "2F005", "no_return", 400;
    NullNotAllowed = "22004", "null_not_allowed", 400;
    InvalidFunctionDefinition = "42P13", "invalid_function_definition", 400;
    DuplicateFunction = "42723", "duplicate_function", 409;
    AmbiguousFunction = "42725", "ambiguous_function", 400;
    InvalidFrameOffset = "22013", "invalid_frame_offset", 400;
    InvalidLimit = "2201W", "invalid_limit", 400;
    InvalidOffset = "2201X", "invalid_offset", 400;
    InvalidObjectDefinition = "42P17", "invalid_definition", 400;
    ObjectInUse = "55006", "object_in_use", 409;
    LockNotAvailable = "55P03", "lock_timeout", 409;
    SequenceLimit = "2200H", "sequence_limit", 409;
    ObjectNotInState = "55000", "wrong_state", 409;
    FeatureNotSupported = "0A000", "not_supported", 400;
    ProtocolViolation = "08P01", "protocol_violation", 400;
    /// The commit may or may not be there; ask before you repeat it.
    OutcomeUnknown = "08007", "outcome_unknown", 500;
    StatementTooLarge = "54000", "too_large", 413;
    TooComplex = "54001", "too_complex", 400;
    OutOfMemory = "53200", "out_of_memory", 503;
    DiskFull = "53100", "disk_full", 507;
    TooManyConnections = "53300", "too_many_connections", 503;
    TooManyRequests = "53400", "too_many_requests", 429;
    QueryCanceled = "57014", "query_canceled", 408;
    AdminShutdown = "57P01", "shutting_down", 503;
    IdleSessionTimeout = "57P05", "idle_session_timeout", 408;
    CannotConnectNow = "57P03", "not_ready", 503;
    TenantDropped = "57P04", "tenant_dropped", 410;
    SnapshotTooOld = "72000", "snapshot_too_old", 409;
    /// A cursor that cannot be resumed from: too old, past a fork, of an unknown epoch, or from the
    /// future. The answer names where to start again.
    CursorExpired = "SH001", "cursor_expired", 410;
    MalformedCursor = "SH002", "malformed_cursor", 400;
    UnknownConsumer = "SH003", "unknown_consumer", 404;
    ConsumerExpired = "SH004", "consumer_expired", 410;
    TakenOver = "SH005", "taken_over", 409;
    NotFound = "SH006", "not_found", 404;
    ForbiddenTenant = "SH007", "forbidden_tenant", 403;
    ForbiddenOrigin = "SH008", "forbidden_origin", 403;
    UnsupportedMediaType = "SH009", "unsupported_media_type", 415;
    MethodNotAllowed = "SH010", "method_not_allowed", 405;
    UriTooLong = "SH011", "uri_too_long", 414;
    Corrupted = "XX001", "data_corrupted", 500;
    Internal = "XX000", "internal_error", 500;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a user is told: a code and the fields of PostgreSQL's ErrorResponse. Lower-case message,
/// carries the values, names what to do in the hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError(Box<SqlErrorFields>);

/// The fields of a [`SqlError`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlErrorFields {
    pub code: ErrorCode,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
    /// Where in the statement, in characters from 1.
    pub position: Option<u32>,
    /// Where else, in words: the line of COPY's data.
    pub context: Option<String>,
    /// An SQLSTATE of somebody's own (RAISE … USING ERRCODE), in place of the code's.
    pub state: Option<String>,
    /// Of a notice: how loud it is, if that is not for its code to say.
    pub level: Option<NoticeLevel>,
}

/// How loud a notice is, from the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoticeLevel {
    Debug,
    Log,
    Notice,
    Warning,
    /// Told whatever the client wants to hear.
    Info,
}

impl SqlError {
    /// An error with a message alone.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> SqlError {
        SqlError(Box::new(SqlErrorFields {
            code,
            message: message.into(),
            detail: None,
            hint: None,
            table: None,
            column: None,
            constraint: None,
            position: None,
            context: None,
            state: None,
            level: None,
        }))
    }

    /// Its SQLSTATE: the code's, unless it has one of its own.
    #[must_use]
    pub fn sqlstate(&self) -> &str {
        self.state.as_deref().unwrap_or(self.code.sqlstate().0)
    }

    /// With an SQLSTATE that is none of this server's.
    #[must_use]
    pub fn with_state(mut self, state: impl Into<String>) -> SqlError {
        self.0.state = Some(state.into());
        self
    }

    /// Refuses what cannot be given its PostgreSQL meaning: 0A000, naming it.
    pub fn unsupported(what: impl fmt::Display) -> SqlError {
        SqlError::new(
            ErrorCode::FeatureNotSupported,
            format!("{what} is not supported"),
        )
    }

    /// With what exactly was wrong.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> SqlError {
        self.0.detail = Some(detail.into());
        self
    }

    /// Without its detail, which may hold what the reader is not to know.
    #[must_use]
    pub fn without_detail(mut self) -> SqlError {
        self.0.detail = None;
        self
    }

    /// With what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> SqlError {
        self.0.hint = Some(hint.into());
        self
    }

    /// With the table it is about.
    #[must_use]
    pub fn with_table(mut self, table: impl Into<String>) -> SqlError {
        self.0.table = Some(table.into());
        self
    }

    /// With the column it is about.
    #[must_use]
    pub fn with_column(mut self, column: impl Into<String>) -> SqlError {
        self.0.column = Some(column.into());
        self
    }

    /// With the constraint it is about.
    #[must_use]
    pub fn with_constraint(mut self, constraint: impl Into<String>) -> SqlError {
        self.0.constraint = Some(constraint.into());
        self
    }

    /// With where it happened, in words.
    #[must_use]
    pub fn with_context(mut self, context: impl Into<String>) -> SqlError {
        self.0.context = Some(context.into());
        self
    }

    /// With its place in the statement, in characters from 1.
    #[must_use]
    pub fn with_position(mut self, position: u32) -> SqlError {
        self.0.position = Some(position);
        self
    }
}

impl std::ops::Deref for SqlError {
    type Target = SqlErrorFields;

    fn deref(&self) -> &SqlErrorFields {
        &self.0
    }
}

impl std::ops::DerefMut for SqlError {
    fn deref_mut(&mut self) -> &mut SqlErrorFields {
        &mut self.0
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SqlError {}
