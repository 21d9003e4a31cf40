//! Runs a command, shows its output as it comes and keeps the lines that summaries are made of.
//!
//! Called by every runner and check. Never interprets the output itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

/// What a command did.
pub struct Finished {
    /// Whether it ran and exited 0.
    pub success: bool,
    /// Every line of its stdout and stderr, in the order they came, without the newline.
    pub lines: Vec<String>,
}

/// Runs `command` with no stdin. What it prints goes to our stdout while it runs.
pub fn run(command: &mut Command) -> Finished {
    println!("xtask: $ {}", shown(command));
    follow(command, true)
}

/// Runs `command` and keeps its output to ourselves.
pub fn quiet(command: &mut Command) -> Finished {
    follow(command, false)
}

fn follow(command: &mut Command, show: bool) -> Finished {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let line = format!("xtask: cannot start {}: {error}", shown(command));
            if show {
                println!("{line}");
            }
            return Finished {
                success: false,
                lines: vec![line],
            };
        }
    };
    let (sender, receiver) = mpsc::channel();
    let stdout = child.stdout.take().expect("piped above");
    let stderr = child.stderr.take().expect("piped above");
    let readers = [pump(stdout, sender.clone()), pump(stderr, sender)];
    let mut lines = Vec::new();
    for line in receiver {
        if show {
            // A closed stdout is no reason to leave the children alone.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
        lines.push(line);
    }
    for reader in readers {
        let _ = reader.join();
    }
    let success = child.wait().is_ok_and(|status| status.success());
    Finished { success, lines }
}

fn pump(from: impl Read + Send + 'static, to: mpsc::Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line)
                .trim_end_matches('\r')
                .to_owned();
            if to.send(line).is_err() {
                return;
            }
        }
    })
}

fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}
