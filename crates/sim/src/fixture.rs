//! A server in a directory of its own, for tests: started, asked, harmed, started again. Panics with
//! what the server printed when something fails that a test has not asked to fail.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::http::{self, Response, SseOpened, SseStream};
use crate::client::pg::PgClient;
use crate::process::{Ports, Server, Setup, StartError, default_binary};

/// A server and its directory; both go when it is dropped.
#[derive(Debug)]
pub struct Fixture {
    pub setup: Setup,
    pub directory: TempDir,
    server: Option<Server>,
    _ports: Ports,
}

impl Fixture {
    /// A fixture whose server has not been started.
    ///
    /// # Panics
    /// If there are no ports or no temporary directory.
    #[must_use]
    pub fn new() -> Fixture {
        let ports = Ports::take().expect("two free ports");
        let directory = tempfile::Builder::new()
            .prefix("springhead-test-")
            .tempdir();
        let directory = directory.expect("a temporary directory");
        let setup = Setup::new(&default_binary(), directory.path(), &ports);
        Fixture {
            setup,
            directory,
            server: None,
            _ports: ports,
        }
    }

    /// A fixture whose server is ready.
    ///
    /// # Panics
    /// If it does not get ready.
    #[must_use]
    pub fn started() -> Fixture {
        let mut fixture = Fixture::new();
        fixture.start();
        fixture
    }

    /// Starts the server.
    ///
    /// # Panics
    /// If it does not get ready.
    pub fn start(&mut self) {
        if let Err(error) = self.try_start() {
            panic!("{error}");
        }
    }

    /// Starts the server, which may be refused.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn try_start(&mut self) -> Result<(), StartError> {
        let setup = self.setup.clone();
        self.start_as(&setup)
    }

    /// Starts the server with another setup this time.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_as(&mut self, setup: &Setup) -> Result<(), StartError> {
        self.server = Some(Server::start(setup)?);
        Ok(())
    }

    /// The running server.
    ///
    /// # Panics
    /// If it has not been started.
    pub fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("the server has been started")
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.server().kill();
        self.server = None;
    }

    /// SIGTERM; it must exit 0.
    ///
    /// # Panics
    /// If it does not.
    pub fn stop(&mut self) {
        let status = self.server().stop();
        let printed = self.setup.printed();
        assert!(
            status.is_some_and(|s| s.success()),
            "SIGTERM gave {status:?}:\n{printed}"
        );
        self.server = None;
    }

    /// A connection to the default tenant.
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    pub fn pg(&self) -> PgClient {
        self.pg_to("postgres")
    }

    /// A connection to a tenant by name.
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    pub fn pg_to(&self, database: &str) -> PgClient {
        PgClient::connect(self.setup.pg, database)
            .unwrap_or_else(|error| panic!("{database}: {error}\n{}", self.setup.printed()))
    }

    /// Runs statements over the PostgreSQL protocol; they must succeed. Returns the rows.
    ///
    /// # Panics
    /// If they fail.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        match self.pg().query(sql) {
            Ok(result) => result.rows,
            Err(error) => panic!("{sql:.200}: {error}"),
        }
    }

    /// A GET.
    ///
    /// # Panics
    /// If there is no answer.
    #[track_caller]
    #[must_use]
    pub fn get(&self, target: &str) -> Response {
        http::get(self.setup.http, target).unwrap_or_else(|error| panic!("{target:.200}: {error}"))
    }

    /// A POST of JSON.
    ///
    /// # Panics
    /// If there is no answer.
    #[track_caller]
    #[must_use]
    pub fn post(&self, target: &str, body: &Value) -> Response {
        let answer = http::post(self.setup.http, target, body);
        answer.unwrap_or_else(|error| panic!("{target:.200}: {error}"))
    }

    /// A statement over HTTP; the whole answer.
    ///
    /// # Panics
    /// If there is no answer.
    #[track_caller]
    #[must_use]
    pub fn http_sql(&self, sql: &str) -> Response {
        self.post("/v1/sql", &json!({"sql": sql}))
    }

    /// An event stream; it must open.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    #[must_use]
    pub fn stream(&self, target: &str, last_event_id: Option<&str>) -> SseStream {
        match SseStream::open(self.setup.http, target, last_event_id) {
            Ok(SseOpened::Stream(stream)) => *stream,
            Ok(SseOpened::Other(answer)) => panic!("{target}: {} {}", answer.status, answer.text()),
            Err(error) => panic!("{target}: {error}"),
        }
    }

    /// Runs the program with other arguments, as an operator would; its output.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(&self.setup.binary);
        command.args(args).stdin(Stdio::null());
        command.envs(self.setup.env.iter().cloned());
        command.output().expect("the program starts")
    }

    /// Where the data is.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.setup.data_dir
    }
}

impl Default for Fixture {
    fn default() -> Fixture {
        Fixture::new()
    }
}

/// Copies a directory tree, its holes too.
///
/// # Panics
/// If that fails.
pub fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .arg("--sparse=always")
        .arg(from)
        .arg(to)
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "cp {} {}",
        from.display(),
        to.display()
    );
}
