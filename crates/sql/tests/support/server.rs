//! A PostgreSQL 15 of its own, for tests that run the same on both.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BIN: &str = "/usr/lib/postgresql/15/bin";
const MARK: &str = "\u{1}next\u{1}";

/// A PostgreSQL server in a directory of its own, reached by a socket in it.
pub struct Server {
    directory: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Option<Server> {
        if !Path::new(BIN).join("postgres").exists() {
            eprintln!("skipped: there is no PostgreSQL in {BIN}");
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory");
        if is_root() {
            let chown = Command::new("chown")
                .arg("postgres")
                .arg(directory.path())
                .status();
            if !chown.is_ok_and(|status| status.success()) {
                eprintln!(
                    "skipped: PostgreSQL does not run as root, and there is no other user for it"
                );
                return None;
            }
        }
        let server = Server { directory };
        let data = server.data();
        let arguments = [
            "-D",
            &data,
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ];
        assert!(quiet(&mut as_user("initdb", &arguments)), "initdb");
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}' -c fsync=off -c timezone=UTC",
            server.directory.path().display()
        );
        let log = server.directory.path().join("log");
        let log = log.to_str().expect("UTF-8");
        let arguments = ["-D", &data, "-l", log, "-w", "-o", &options, "start"];
        assert!(quiet(&mut as_user("pg_ctl", &arguments)), "pg_ctl start");
        Some(server)
    }

    fn data(&self) -> String {
        self.directory
            .path()
            .join("data")
            .to_str()
            .expect("UTF-8")
            .to_owned()
    }

    /// Each statement's rows, or its SQLSTATE.
    pub fn run(&self, statements: &[&str]) -> Vec<Result<Vec<String>, String>> {
        self.run_verbosely(statements)
            .into_iter()
            .map(|result| result.map_err(|error| error.chars().take(5).collect()))
            .collect()
    }

    /// Each statement's rows, or its SQLSTATE and message: `42501: permission denied for table t`.
    pub fn run_verbosely(&self, statements: &[&str]) -> Vec<Result<Vec<String>, String>> {
        let mut script = String::from("\\set VERBOSITY verbose\n\\pset null '~'\n");
        for statement in statements {
            script.push_str(&format!("{statement};\n\\echo {MARK}\n\\warn {MARK}\n"));
        }
        let mut psql = Command::new("psql");
        psql.args([
            "-X", "-q", "-A", "-t", "-F", "|", "-R", "\u{2}", "-U", "postgres", "-d", "postgres",
            "-h",
        ])
        .arg(self.directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
        let mut child = psql.spawn().expect("psql");
        let mut stdin = child.stdin.take().expect("piped");
        let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
        let output = child.wait_with_output().expect("psql ends");
        writer.join().expect("no panic").expect("psql reads it all");
        let stdout = String::from_utf8(output.stdout).expect("UTF-8");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        let errors: Vec<&str> = stderr.split(MARK).collect();
        stdout
            .split(MARK)
            .zip(errors)
            .take(statements.len())
            .map(|(out, error)| match error.split("ERROR:").nth(1) {
                Some(error) => Err(error.trim().lines().next().unwrap_or_default().to_owned()),
                None => {
                    let out = out.strip_prefix('\n').unwrap_or(out);
                    let out = out.strip_suffix('\n').unwrap_or(out);
                    Ok(if out.is_empty() {
                        Vec::new()
                    } else {
                        out.split('\u{2}').map(str::to_owned).collect()
                    })
                }
            })
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        quiet(&mut as_user(
            "pg_ctl",
            &["-D", &self.data(), "-m", "immediate", "-w", "stop"],
        ));
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id");
    id.stdout.starts_with(b"0\n")
}

/// One of PostgreSQL's programs, as a user that it agrees to run as.
fn as_user(program: &str, arguments: &[&str]) -> Command {
    let program = PathBuf::from(BIN).join(program);
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(arguments).current_dir("/");
    command
}

fn quiet(command: &mut Command) -> bool {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .status();
    output.is_ok_and(|status| status.success())
}
