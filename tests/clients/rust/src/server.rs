//! The real server as a child process: on free loopback ports, with a certificate for `localhost`, an
//! administrator and an application's user. Ended, by its own id, when the test is over.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::{Client, Config, NoTls};

use crate::tls::Connector;

/// Every driver has to normalise and to escape it.
pub const PASSWORD: &str = "pass word: é/@'%";

const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running server.
pub struct Server {
    pub port: u16,
    http: u16,
    child: Child,
    directory: tempfile::TempDir,
}

impl Server {
    /// Starts one, and shuts its door with users.
    pub async fn start() -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = directory.path();
        let clients = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("it lies beside the other clients");
        let made = Command::new("sh")
            .arg(clients.join("certificates.sh"))
            .arg(place)
            .status()
            .expect("there is a shell");
        assert!(made.success(), "openssl made no certificates");
        let binary = std::env::var_os("SPRINGHEAD_BIN")
            .expect("SPRINGHEAD_BIN must name the server; run `cargo xtask test`");
        let (port, http) = (free_port(), free_port());
        let child = Command::new(binary)
            .arg("serve")
            .arg("--data-dir")
            .arg(place.join("data"))
            .args(["--pg", &format!("127.0.0.1:{port}")])
            .args(["--http", &format!("127.0.0.1:{http}")])
            .arg("--tls-certificate")
            .arg(place.join("server.crt"))
            .arg("--tls-key")
            .arg(place.join("server.key"))
            .args(["--tls-required", "on"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("SPRINGHEAD_BIN is a program");
        let mut server = Server {
            port,
            http,
            child,
            directory,
        };
        server.wait();
        server.make_users().await;
        server
    }

    /// The authority that the server's certificate is of.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// A TLS connector that trusts this authority alone.
    pub fn connector(&self) -> Connector {
        Connector::trusting(&self.ca())
    }

    /// What an application gives to `tokio-postgres`; the login must be bound to the channel.
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .host("localhost")
            .port(self.port)
            .user("app")
            .password(PASSWORD)
            .dbname("default")
            .ssl_mode(SslMode::Require)
            .channel_binding(ChannelBinding::Require);
        config
    }

    /// A client whose connection runs by itself.
    pub async fn client(&self) -> Client {
        let connected = self.config().connect(self.connector()).await;
        let (client, connection) = connected.expect("the user may log in");
        tokio::spawn(connection);
        client
    }

    fn wait(&mut self) {
        let begun = Instant::now();
        while !self.is_ready() {
            let ended = self.child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "the server ended by itself: {ended:?}");
            assert!(
                begun.elapsed() < READY_WITHIN,
                "the server was not ready in time"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn is_ready(&self) -> bool {
        let asked = TcpStream::connect(("127.0.0.1", self.http)).and_then(|mut stream| {
            stream.write_all(b"GET /readyz HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.split(' ').nth(1) == Some("200"))
        });
        asked.unwrap_or(false)
    }

    /// One session, which began before there were users.
    async fn make_users(&self) {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user("postgres");
        let connected = config.dbname("default").connect(NoTls).await;
        let (client, connection) = connected.expect("without users everybody is let in");
        tokio::spawn(connection);
        let password = PASSWORD.replace('\'', "''");
        for sql in [
            "CREATE ROLE root SUPERUSER LOGIN PASSWORD 'rootpass'",
            &format!("CREATE USER app PASSWORD '{password}'"),
            "GRANT CREATE ON SCHEMA public TO app",
        ] {
            client
                .batch_execute(sql)
                .await
                .expect("an administrator may");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has seen then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let probe = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    probe.local_addr().expect("it is bound").port()
}
