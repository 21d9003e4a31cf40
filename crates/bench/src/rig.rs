//! Owns what a run leaves on the machine while it lasts: one temporary directory and the processes
//! started in it. Everything is ended by its own process id and removed, on success, on failure and
//! on SIGINT or SIGTERM.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::error::{BenchError, Doing, Result};

/// How long a server may take to end after it was asked to.
const STOP_SECONDS: u64 = 120;

/// The run's place on disk and its table of processes.
#[derive(Debug, Clone)]
pub struct Rig {
    root: PathBuf,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Processes that run now, and the signal that ends each at once.
    running: Vec<(Pid, Signal)>,
    /// Set when a signal has come: nothing more may be started.
    ending: bool,
}

/// Removes the directory when the run ends by itself.
#[derive(Debug)]
pub struct RigGuard {
    rig: Rig,
}

impl Drop for RigGuard {
    fn drop(&mut self) {
        self.rig.clean_up();
    }
}

impl Rig {
    /// Makes the run's directory inside `parent` and starts to watch for signals.
    ///
    /// # Errors
    /// When the directory cannot be made, or lies in memory, where a flush means nothing.
    pub fn new(parent: &Path) -> Result<(Self, RigGuard)> {
        const TMPFS_MAGIC: i64 = 0x0102_1994;
        let kind = rustix::fs::statfs(parent).doing(format!("looking at {}", parent.display()))?;
        if i128::from(kind.f_type) == i128::from(TMPFS_MAGIC) {
            return Err(BenchError::Usage(format!(
                "{} is in memory, where a flush costs nothing; give a directory on a disk with --dir",
                parent.display()
            )));
        }
        let directory = tempfile::Builder::new()
            .prefix("springhead-bench-")
            .tempdir_in(parent)
            .doing("making a temporary directory")?;
        let root = directory.keep();
        open_to_all(&root)?;
        let rig = Self {
            root,
            shared: Arc::default(),
        };
        let guard = RigGuard { rig: rig.clone() };
        rig.watch_signals()?;
        Ok((rig, guard))
    }

    /// The run's directory; every user may enter it.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Starts `command` with its output in `log_file`, in the table of processes until it ends.
    /// `abort` is the signal that ends it at once when the run is given up.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, command: &mut Command, log_file: &Path, abort: Signal) -> Result<Process> {
        let program = command.get_program().to_string_lossy().into_owned();
        let log = File::options()
            .create(true)
            .append(true)
            .open(log_file)
            .doing(format!("opening {}", log_file.display()))?;
        let other = log.try_clone().doing("sharing a log file")?;
        command.stdin(Stdio::null()).stdout(log).stderr(other);
        // A group of its own, so that a Ctrl-C at the terminal reaches it through us alone.
        command.process_group(0);
        let mut shared = self.lock();
        if shared.ending {
            return Err(BenchError::Invalid("interrupted".to_owned()));
        }
        let child = command.spawn().doing(format!("starting {program}"))?;
        let pid = Pid::from_child(&child);
        shared.running.push((pid, abort));
        drop(shared);
        Ok(Process {
            child,
            pid,
            program,
            log_file: log_file.to_path_buf(),
            rig: self.clone(),
            ended: false,
        })
    }

    /// Runs `command` to its end and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started or fails; the error carries its output.
    pub fn output(&self, command: &mut Command) -> Result<String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let out = tempfile::NamedTempFile::new_in(&self.root).doing("making a file for output")?;
        let mut process = self.start(command, out.path(), Signal::KILL)?;
        let status = process
            .child
            .wait()
            .doing(format!("waiting for {program}"))?;
        process.forget();
        let output = std::fs::read_to_string(out.path()).doing("reading output")?;
        if status.success() {
            Ok(output)
        } else {
            Err(BenchError::Program {
                program,
                status: status.to_string(),
                output,
            })
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch_signals(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .doing("watching for signals")?;
        let rig = self.clone();
        // Held by its thread for the length of the process; nothing waits for it.
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let code = runtime.block_on(next_signal());
                eprintln!(
                    "\ninterrupted: ending the servers and removing {}",
                    rig.root.display()
                );
                rig.clean_up();
                std::process::exit(code);
            })
            .doing("starting the signal thread")?;
        Ok(())
    }

    fn clean_up(&self) {
        let mut shared = self.lock();
        shared.ending = true;
        for (pid, abort) in std::mem::take(&mut shared.running) {
            // A process that has ended already is what was wanted.
            let _ = kill_process(pid, abort);
            let _ = wait_gone(pid, Duration::from_secs(10));
        }
        if let Err(error) = std::fs::remove_dir_all(&self.root)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("could not remove {}: {error}", self.root.display());
        }
    }
}

async fn next_signal() -> i32 {
    use tokio::signal::unix::{SignalKind, signal};
    match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        }
        _ => std::future::pending().await,
    }
}

/// A server that was started, ended when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Pid,
    program: String,
    log_file: PathBuf,
    rig: Rig,
    ended: bool,
}

impl Process {
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Asks `ready` until it says yes.
    ///
    /// # Errors
    /// When the process ends first, or after `seconds`; with the end of its log.
    pub fn wait_until(
        &mut self,
        what: &str,
        seconds: u64,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(seconds);
        loop {
            if ready() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().doing("looking after a server")? {
                return Err(BenchError::Program {
                    program: self.program.clone(),
                    status: status.to_string(),
                    output: self.log_end(),
                });
            }
            if Instant::now() > until {
                return Err(BenchError::TimedOut {
                    what: format!("{what} ({})", self.log_end()),
                    seconds,
                });
            }
            pause(Duration::from_millis(2));
        }
    }

    /// Sends `signal` and waits for the end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(mut self, signal: Signal) -> Result<()> {
        kill_process(self.pid, signal).doing(format!("ending {}", self.program))?;
        wait_gone(self.pid, Duration::from_secs(STOP_SECONDS))
            .doing(format!("waiting for the end of {}", self.program))?;
        self.child.wait().doing("reaping a server")?;
        self.forget();
        Ok(())
    }

    fn forget(&mut self) {
        self.ended = true;
        self.rig.lock().running.retain(|(pid, _)| *pid != self.pid);
    }

    fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log_file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let abort = self
            .rig
            .lock()
            .running
            .iter()
            .find(|(pid, _)| *pid == self.pid)
            .map(|(_, abort)| *abort);
        if let Some(abort) = abort {
            let _ = kill_process(self.pid, abort);
            let _ = wait_gone(self.pid, Duration::from_secs(10));
            let _ = self.child.wait();
        }
        self.forget();
    }
}

/// Waits until the child has ended, leaving it to be reaped.
fn wait_gone(pid: Pid, at_most: Duration) -> std::io::Result<()> {
    let until = Instant::now() + at_most;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    loop {
        match waitid(WaitId::Pid(pid), options) {
            Ok(Some(_)) | Err(rustix::io::Errno::CHILD) => return Ok(()),
            Ok(None) if Instant::now() > until => {
                kill_process(pid, Signal::KILL)?;
                return Err(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    "it had to be killed",
                ));
            }
            Ok(None) => pause(Duration::from_millis(2)),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Lets other processes run for about `length`, for things that cannot announce themselves: another
/// process's start, its memory settling.
pub fn pause(length: Duration) {
    let until = Instant::now() + length;
    while let Some(left) = until
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        std::thread::park_timeout(left);
    }
}

/// A loopback port that was free just now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).doing("looking for a free port")?;
    Ok(listener
        .local_addr()
        .doing("looking for a free port")?
        .port())
}

fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .doing(format!("opening {}", path.display()))
}

/// Allows this process and those it starts as many open files as the system lets it have.
///
/// # Errors
/// When fewer than `needed` are allowed.
pub fn raise_open_files(needed: u64) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit
        .maximum
        .map_or(needed, |hard| hard.max(needed))
        .min(1 << 20);
    let asked = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum.map(|hard| hard.max(wanted)),
    };
    if setrlimit(Resource::Nofile, asked).is_err() {
        let most = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, most).doing("raising the number of open files")?;
    }
    match getrlimit(Resource::Nofile).current {
        Some(now) if now < needed => Err(BenchError::Invalid(format!(
            "only {now} open files are allowed, {needed} are needed (ulimit -n)"
        ))),
        _ => Ok(()),
    }
}
