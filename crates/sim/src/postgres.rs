//! PostgreSQL 15 beside the server under test, for tests that ask both the same.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::client::pg::PgClient;
use crate::process::Ports;

/// A PostgreSQL server of our own, run by a user that is not root. Ended when dropped.
#[derive(Debug)]
pub struct Postgres {
    directory: tempfile::TempDir,
    pub ports: Ports,
    bin: PathBuf,
}

impl Postgres {
    /// A fresh server; `None`, with a word on standard output, where PostgreSQL 15 is not installed.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Option<Postgres> {
        let bin = PathBuf::from("/usr/lib/postgresql/15/bin");
        if !bin.join("initdb").is_file() {
            println!("skipped: PostgreSQL 15 is not installed; cargo xtask test does it");
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let ports = Ports::take().expect("a port");
        let postgres = Postgres {
            directory,
            ports,
            bin,
        };
        let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(postgres.directory.path(), everyone).expect("our directory");
        let data = postgres.data();
        postgres.run(
            "initdb",
            &[
                "-D",
                &data,
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--no-locale",
            ],
        );
        let options = format!("-h 127.0.0.1 -p {} -k {data}", postgres.ports.pg.port());
        let log = format!("{data}.log");
        postgres.run(
            "pg_ctl",
            &["-D", &data, "-o", &options, "-l", &log, "-w", "start"],
        );
        Some(postgres)
    }

    /// A connection to its first database.
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    pub fn pg(&self) -> PgClient {
        PgClient::connect_as(self.ports.pg, "postgres", "postgres")
            .unwrap_or_else(|error| panic!("PostgreSQL: {error}"))
    }

    fn data(&self) -> String {
        self.directory.path().join("data").display().to_string()
    }

    fn run(&self, program: &str, args: &[&str]) {
        // PostgreSQL refuses to run as root.
        let is_root = rustix::process::geteuid().is_root();
        let mut command = Command::new(if is_root { "setpriv" } else { "env" });
        if is_root {
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        }
        let output = self.directory.path().join(format!("{program}.out"));
        let file = std::fs::File::create(&output).expect("our directory");
        let errors = file.try_clone().expect("a second handle");
        // Files, not pipes: the server that pg_ctl leaves behind would keep a pipe open.
        command
            .arg(self.bin.join(program))
            .args(args)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors);
        let status = command
            .current_dir("/")
            .status()
            .expect("setpriv and PostgreSQL are installed");
        let said = std::fs::read_to_string(&output).unwrap_or_default();
        assert!(status.success(), "{program}: {status}: {said}");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.data();
        self.run("pg_ctl", &["-D", &data, "-m", "immediate", "-w", "stop"]);
    }
}
