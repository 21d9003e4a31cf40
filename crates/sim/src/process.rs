//! The real server as a child process: started on ports of its own, killed, stopped, started again
//! on the same directory and ports.
//!
//! Waits for signals only: the child's end (a pidfd) and answers of its readiness endpoint.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::client::http;

/// How long a server may take until it is ready, recovery included.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a server did not get ready.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the server ended with {status} before it was ready:\n{output}")]
    Ended { status: ExitStatus, output: String },
    #[error("the server was not ready after {0:?}:\n{1}")]
    Slow(Duration, String),
    #[error("{what}: {error}")]
    Io { what: String, error: io::Error },
}

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The program.
    pub binary: PathBuf,
    /// Which of its commands: `serve`, or `witness`.
    pub command: &'static str,
    pub data_dir: PathBuf,
    pub pg: SocketAddr,
    pub http: SocketAddr,
    /// Further arguments.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// A command that runs the server, as `strace … --`; empty for none. It must end up with the
    /// server as our own child (`strace -D`).
    pub wrapper: Vec<String>,
    /// Its output goes to the end of this file.
    pub output: PathBuf,
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pub setup: Setup,
}

/// The binary to test: `SPRINGHEAD_BIN`, or what cargo built next to the running test or program.
///
/// # Panics
/// If there is none; says how to build it.
#[must_use]
pub fn default_binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("SPRINGHEAD_BIN") {
        return binary.into();
    }
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors()
        .skip(1)
        .map(|directory| directory.join("springhead"))
        .find(|candidate| candidate.is_file())
        .expect("build it: cargo build -p springhead-server --features failpoints")
}

/// Two loopback ports that no other test of this machine takes while this lives.
#[derive(Debug)]
pub struct Ports {
    pub pg: SocketAddr,
    pub http: SocketAddr,
    _locks: [File; 2],
}

impl Ports {
    /// Takes two. They lie below the range that the kernel gives to outgoing connections, so that
    /// nobody gets one while its server is down.
    ///
    /// # Errors
    /// If no port is free, or the lock files cannot be made.
    pub fn take() -> io::Result<Ports> {
        let directory = std::env::temp_dir().join("springhead-test-ports");
        std::fs::create_dir_all(&directory)?;
        let mut taken = Vec::new();
        for port in 21_000..32_000_u16 {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(directory.join(port.to_string()))?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if file.try_lock().is_ok() && TcpListener::bind(address).is_ok() {
                taken.push((address, file));
            }
            if taken.len() == 2 {
                break;
            }
        }
        let two: Result<[_; 2], _> = taken.try_into();
        let [(pg, first), (http, second)] = two.map_err(|_| io::Error::other("no free ports"))?;
        Ok(Ports {
            pg,
            http,
            _locks: [first, second],
        })
    }
}

impl Setup {
    /// A server on `ports` with its data in `directory`.
    #[must_use]
    pub fn new(binary: &Path, directory: &Path, ports: &Ports) -> Setup {
        Setup {
            binary: binary.to_path_buf(),
            command: "serve",
            data_dir: directory.join("data"),
            pg: ports.pg,
            http: ports.http,
            args: Vec::new(),
            env: Vec::new(),
            wrapper: Vec::new(),
            output: directory.join("server.log"),
        }
    }

    /// Kills the server at the `hit`-th pass of `failpoint`.
    #[must_use]
    pub fn with_failpoint(mut self, failpoint: &str, hit: u64) -> Setup {
        self.env.push((
            "SPRINGHEAD_FAILPOINT".to_owned(),
            format!("{failpoint}:{hit}"),
        ));
        self
    }

    /// With a further environment variable.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: &str) -> Setup {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What the server has printed so far.
    #[must_use]
    pub fn printed(&self) -> String {
        let bytes = std::fs::read(&self.output).unwrap_or_default();
        let all = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = all.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Server {
    /// Starts a server and waits until it is ready.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(setup: &Setup) -> Result<Server, StartError> {
        let mut server = Server::spawn(setup)?;
        server.wait_ready()?;
        Ok(server)
    }

    /// Starts a server and does not wait.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn spawn(setup: &Setup) -> Result<Server, StartError> {
        let in_what = |what: &Path| {
            let what = what.display().to_string();
            move |error| StartError::Io { what, error }
        };
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&setup.output)
            .map_err(in_what(&setup.output))?;
        let errors = output.try_clone().map_err(in_what(&setup.output))?;
        let mut words = setup.wrapper.iter().map(PathBuf::from).collect::<Vec<_>>();
        words.push(setup.binary.clone());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(setup.command);
        command.arg("--data-dir").arg(&setup.data_dir);
        command.args([
            "--pg",
            &setup.pg.to_string(),
            "--http",
            &setup.http.to_string(),
        ]);
        command.args(&setup.args).envs(setup.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().map_err(in_what(&words[0]))?;
        Ok(Server {
            child,
            setup: setup.clone(),
        })
    }

    /// Waits until the server says that it is ready.
    ///
    /// # Errors
    /// If it ends before, or takes too long.
    pub fn wait_ready(&mut self) -> Result<(), StartError> {
        let started = Instant::now();
        while started.elapsed() < READY_TIMEOUT {
            if http::get(self.setup.http, "/readyz").is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            // Refused or not ready: look again in a moment, or at once when it has ended.
            if let Some(status) = self.wait_end(Duration::from_millis(5)) {
                return Err(StartError::Ended {
                    status,
                    output: self.setup.printed(),
                });
            }
        }
        Err(StartError::Slow(READY_TIMEOUT, self.setup.printed()))
    }

    /// Waits for the server's end, at most `timeout`.
    pub fn wait_end(&mut self, timeout: Duration) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status);
        }
        if let Ok(pidfd) = pidfd_open(self.pid(), PidfdFlags::empty()) {
            let timeout = Timespec {
                tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: timeout.subsec_nanos().into(),
            };
            let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout));
            if ended.is_ok_and(|count| count > 0) {
                // It has; under strace its status comes to us a moment later.
                return self.child.wait().ok();
            }
        }
        self.child.try_wait().ok().flatten()
    }

    /// kill -9, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    /// SIGTERM, and waits for its end; `None` if it took over 30 s and had to be killed.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        let status = self.wait_end(Duration::from_secs(30));
        if status.is_none() {
            self.kill();
        }
        status
    }

    /// The server's process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
