//! Users at the doors: psql with a password and TLS, HTTP with every kind of credentials, what is
//! refused and in which words, and how fast what is revoked ends.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use springhead_sim::client::http::{self, Response, SseOpened, SseStream};
use springhead_sim::client::pg::PgClient;
use springhead_sim::fixture::Fixture;

/// How long a revocation may take to reach an open connection.
const REVOKED_WITHIN: Duration = Duration::from_secs(1);

const USERS: [&str; 5] = [
    "CREATE ROLE root SUPERUSER LOGIN PASSWORD 'rootpass'",
    "CREATE USER ann PASSWORD 'annpass'",
    "CREATE TABLE t (id int PRIMARY KEY)",
    "CREATE DATABASE shop",
    "INSERT INTO t VALUES (1)",
];

/// A node with users; the session that made them is over.
fn with_users(setup: impl FnOnce(&mut Fixture)) -> Fixture {
    let mut fixture = Fixture::new();
    setup(&mut fixture);
    fixture.start();
    let mut admin = fixture.pg();
    for sql in USERS {
        admin
            .query(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    fixture
}

fn psql(fixture: &Fixture, url: &str, password: &str, sql: &str) -> Output {
    let port = fixture.setup.pg.port();
    Command::new("psql")
        .arg(url.replace("PORT", &port.to_string()))
        .args(["-X", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-c", sql])
        .env("PGPASSWORD", password)
        .env("PGCONNECT_TIMEOUT", "10")
        .output()
        .expect("psql is installed: cargo xtask test does it")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
        + String::from_utf8_lossy(&output.stderr).trim()
}

/// A certificate for `localhost` that signs itself, made for this test alone.
fn certificate(directory: &Path, name: &str) -> (String, String) {
    let path = |end: &str| {
        directory
            .join(format!("{name}.{end}"))
            .display()
            .to_string()
    };
    let (certificate, key) = (path("crt"), path("key"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-keyout", &key, "-out", &certificate])
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{}", told(&made));
    (certificate, key)
}

fn get(fixture: &Fixture, target: &str, headers: &[(&str, &str)]) -> Response {
    http::request(fixture.setup.http, "GET", target, headers, b"").unwrap()
}

fn post(fixture: &Fixture, target: &str, headers: &[(&str, &str)], body: &Value) -> Response {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    let body = body.to_string();
    http::request(fixture.setup.http, "POST", target, &all, body.as_bytes()).unwrap()
}

const ROOT: (&str, &str) = ("authorization", "Basic cm9vdDpyb290cGFzcw==");
const ANN: (&str, &str) = ("authorization", "Basic YW5uOmFubnBhc3M=");

/// Runs SQL as root over HTTP.
fn as_root(fixture: &Fixture, sql: &str) -> Value {
    let answer = post(fixture, "/v1/sql", &[ROOT], &json!({ "sql": sql }));
    assert_eq!(answer.status, 200, "{sql}: {}", answer.text());
    answer.json()
}

fn new_token(fixture: &Fixture, sql: &str) -> (String, String) {
    let row = &as_root(fixture, sql)["rows"][0];
    let text = |place: usize| row[place].as_str().unwrap().to_owned();
    (text(0), text(1))
}

#[test]
fn g7_statements_about_access_after_a_write_never_hang_on_any_exit() {
    let fixture = with_users(|_| {});
    // From here on users log in; this is who they are for.
    let root = "postgres://root@127.0.0.1:PORT/default";
    for statement in [
        "CREATE ROLE name",
        "CREATE TOKEN k FOR ann",
        "GRANT SELECT ON t TO ann",
    ] {
        let sql = format!("UPDATE t SET id = id; {statement}").replace("name", "x");
        let output = psql(&fixture, root, "rootpass", &sql);
        assert!(output.status.success(), "{}", told(&output));
        let statement = statement.replace("name", "y");
        let body = json!({"transaction": [{"sql": "UPDATE t SET id = id"}, {"sql": statement}]});
        let answer = post(&fixture, "/v1/sql", &[ROOT], &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let roles = "SELECT count(*) AS n FROM pg_roles WHERE rolname IN ('x', 'y')";
    assert_eq!(as_root(&fixture, roles)["rows"][0][0], 2);
    assert_eq!(
        as_root(&fixture, "SELECT count(*) AS n FROM t")["rows"][0][0],
        1
    );
}

#[test]
fn g6_psql_logs_in_with_a_password_and_nothing_else() {
    let mut fixture = with_users(|_| {});
    let ann = "postgres://ann@127.0.0.1:PORT/default";
    let out = psql(
        &fixture,
        ann,
        "annpass",
        "SELECT current_user, session_user",
    );
    assert_eq!(told(&out), "ann|ann");
    let mut refusals = Vec::new();
    for (url, password) in [
        (ann, "wrong"),
        ("postgres://nobody@127.0.0.1:PORT/default", "annpass"),
        ("postgres://postgres@127.0.0.1:PORT/default", "annpass"),
        ("postgres://nobody@127.0.0.1:PORT/no_such_tenant", "x"),
    ] {
        let out = psql(&fixture, url, password, "SELECT 1");
        assert!(!out.status.success());
        let text = told(&out);
        assert!(
            text.contains("password authentication failed for user"),
            "{text}"
        );
        refusals.push(
            text.split("FATAL")
                .nth(1)
                .unwrap()
                .replace("nobody", "ann")
                .replace("postgres", "ann"),
        );
    }
    assert!(
        refusals.windows(2).all(|pair| pair[0] == pair[1]),
        "{refusals:?}"
    );
    // A client that shows no password, and one that would talk first.
    assert!(PgClient::connect(fixture.setup.pg, "default").is_err());
    let out = psql(
        &fixture,
        "postgres://ann@127.0.0.1:PORT/no_such_tenant",
        "annpass",
        "SELECT 1",
    );
    assert!(told(&out).contains("does not exist"), "{}", told(&out));
    // Across a restart.
    fixture.stop();
    fixture.start();
    let root = "postgres://root@127.0.0.1:PORT/default";
    let out = psql(
        &fixture,
        root,
        "rootpass",
        "SELECT count(*) FROM springhead.roles",
    );
    assert_eq!(told(&out), "2");
    // A role that is bound to a tenant.
    psql(
        &fixture,
        root,
        "rootpass",
        "CREATE USER keeper PASSWORD 'k' TENANT shop",
    );
    let keeper = |tenant: &str| {
        let url = format!("postgres://keeper@127.0.0.1:PORT/{tenant}");
        told(&psql(&fixture, &url, "k", "SELECT current_database()"))
    };
    assert_eq!(keeper("shop"), "shop");
    assert!(keeper("default").contains("permission denied for database"));
    let audit = as_root(
        &fixture,
        "SELECT actor, action, outcome FROM springhead.audit",
    );
    let rows = audit["rows"].to_string();
    assert!(rows.contains(r#"["ann","login","ok"]"#), "{rows}");
    assert!(rows.contains(r#"["nobody","login","28P01"]"#), "{rows}");
}

#[test]
fn g6_tls_on_both_ports_with_channel_binding() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate_file, key) = certificate(directory.path(), "one");
    let mut fixture = with_users(|fixture| {
        let setup = fixture.setup.clone();
        fixture.setup = setup
            .with_env("SPRINGHEAD_TLS_CERTIFICATE", &certificate_file)
            .with_env("SPRINGHEAD_TLS_KEY", &key)
            .with_env("SPRINGHEAD_TLS_REQUIRED", "on");
    });
    let url =
        |more: &str| format!("postgres://ann@localhost:PORT/default?hostaddr=127.0.0.1&{more}");
    let ca = format!("sslmode=verify-full&sslrootcert={certificate_file}");
    for more in [
        ca.clone(),
        format!("{ca}&channel_binding=require"),
        format!("{ca}&channel_binding=disable"),
    ] {
        let out = psql(
            &fixture,
            &url(&more),
            "annpass",
            "SELECT count(*) FROM generate_series(1, 100000)",
        );
        assert_eq!(told(&out), "100000", "{more}");
    }
    let out = psql(&fixture, &url("sslmode=disable"), "annpass", "SELECT 1");
    assert!(
        told(&out).contains("without TLS are not accepted"),
        "{}",
        told(&out)
    );
    let wrong = psql(&fixture, &url(&ca), "wrong", "SELECT 1");
    assert!(told(&wrong).contains("password authentication failed"));

    let https = format!("https://localhost:{}", fixture.setup.http.port());
    for version in ["--http1.1", "--http2"] {
        let out = Command::new("curl")
            .args([
                "-sS",
                version,
                "--cacert",
                &certificate_file,
                "-u",
                "ann:annpass",
            ])
            .args([
                "-w",
                "%{http_code} %{http_version}",
                &format!("{https}/v1/session"),
            ])
            .output()
            .expect("curl is installed");
        let text = told(&out);
        assert!(
            text.starts_with(r#"{"user":"ann""#) && text.contains("200 "),
            "{text}"
        );
    }
    let plain = get(&fixture, "/v1/session", &[ANN]);
    assert_eq!(plain.status, 401, "{}", plain.text());

    // Another certificate in the same place is taken up, and connections go on.
    let (other, other_key) = certificate(directory.path(), "two");
    std::fs::copy(&other_key, &key).unwrap();
    std::fs::copy(&other, &certificate_file).unwrap();
    let old = directory.path().join("two.crt").display().to_string();
    fixture.server().signal(rustix::process::Signal::HUP);
    let begun = Instant::now();
    loop {
        let more = format!("sslmode=verify-full&sslrootcert={old}");
        let out = psql(&fixture, &url(&more), "annpass", "SELECT 1");
        if told(&out) == "1" {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", told(&out));
    }
}

#[test]
fn g6_http_takes_credentials_and_says_nothing_of_why_not() {
    let fixture = with_users(|_| {});
    let anyone = get(&fixture, "/v1/collections/t", &[]);
    assert_eq!(anyone.status, 401);
    let challenge = anyone.headers["www-authenticate"].clone();
    assert!(
        challenge.contains("Bearer") && challenge.contains("Basic"),
        "{challenge}"
    );
    for public in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(get(&fixture, public, &[]).status, 200, "{public}");
    }
    for closed in [
        "/metrics",
        "/v1/status",
        "/cdc",
        "/cdc/poll",
        "/v1/consumers",
        "/cdc/t/poll",
    ] {
        assert_eq!(get(&fixture, closed, &[]).status, 401, "{closed}");
    }
    assert_eq!(get(&fixture, "/v1/session", &[ANN]).json()["user"], "ann");
    let (id, token) = new_token(
        &fixture,
        "CREATE TOKEN reader FOR root READ ONLY TENANT default",
    );
    let bearer = format!("Bearer {token}");
    let bearer = ("authorization", bearer.as_str());
    assert_eq!(get(&fixture, "/cdc/t/poll", &[bearer]).status, 200);
    assert_eq!(
        get(&fixture, "/cdc/t/poll?tenant_id=1", &[bearer]).status,
        200
    );
    let elsewhere = get(&fixture, "/cdc/t/poll?tenant_id=2", &[bearer]);
    assert_eq!(
        (elsewhere.status, elsewhere.error_code()),
        (403, "forbidden_tenant".to_owned())
    );
    let insert = json!({ "sql": "INSERT INTO t VALUES (9)" });
    assert_eq!(post(&fixture, "/v1/sql", &[bearer], &insert).status, 403);
    let consumer = json!({ "name": "c" });
    assert_eq!(
        post(&fixture, "/v1/consumers", &[bearer], &consumer).status,
        403
    );
    let mut texts = Vec::new();
    for bad in [
        "Bearer sh_0000000000000000_AAAA".to_owned(),
        format!("Bearer {}", &token[..token.len() - 1]),
        format!("Bearer sh_{id}_wrong"),
        "Bearer eyJhbGciOiJub25lIn0.eyJyb2xlIjoicm9vdCJ9.".to_owned(),
        "Bearer".to_owned(),
    ] {
        let answer = get(&fixture, "/cdc/t/poll", &[("authorization", &bad)]);
        assert_eq!(answer.status, 401, "{bad}");
        texts.push(answer.text());
    }
    assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "{texts:?}");
    for name in ["token", "access_token", "api_key", "jwt", "password"] {
        let answer = get(&fixture, &format!("/cdc/t/poll?{name}={token}"), &[]);
        assert_eq!(answer.status, 400, "{name}");
        assert!(!answer.text().contains(&token), "{}", answer.text());
    }
}

#[test]
fn g6_cookies_and_tickets_stand_in_for_a_login() {
    let fixture = with_users(|_| {});
    let wrong = post(
        &fixture,
        "/v1/session",
        &[],
        &json!({"user": "root", "password": "x"}),
    );
    assert_eq!(wrong.status, 401);
    assert_eq!(post(&fixture, "/v1/session", &[], &json!({})).status, 401);
    let login = json!({"user": "root", "password": "rootpass"});
    let begun = post(&fixture, "/v1/session", &[], &login);
    assert_eq!(begun.status, 200, "{}", begun.text());
    let cookie = begun.headers["set-cookie"].clone();
    for wanted in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(wanted), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(
        get(&fixture, "/cdc/t/poll", &[("cookie", cookie)]).status,
        200
    );
    let foreign = [("cookie", cookie), ("origin", "https://evil.example")];
    assert_eq!(get(&fixture, "/cdc/t/poll", &foreign).status, 403);
    let tampered = cookie.replace("springhead_session=ey", "springhead_session=eX");
    assert_eq!(
        get(&fixture, "/cdc/t/poll", &[("cookie", &tampered)]).status,
        401
    );

    let ticket = post(
        &fixture,
        "/v1/tickets",
        &[("cookie", cookie)],
        &json!({"path": "/cdc/t"}),
    );
    let ticket = ticket.json()["ticket"].as_str().unwrap().to_owned();
    let target = format!("/cdc/t?since_lsn=1&ticket={ticket}");
    for _ in 0..2 {
        let mut stream = fixture.stream(&target, None);
        let event = stream.next_event().unwrap().unwrap();
        assert_eq!(event.event, "definition");
    }
    for other in ["/cdc", "/cdc/t/poll", "/cdc/T", "/v1/collections/t"] {
        let answer = get(&fixture, &format!("{other}?ticket={ticket}"), &[]);
        assert_eq!(answer.status, 401, "{other}");
    }
    let as_cookie = format!("springhead_session={ticket}");
    assert_eq!(
        get(&fixture, "/cdc/t/poll", &[("cookie", &as_cookie)]).status,
        401
    );
    // Another password ends what the first was exchanged for.
    as_root(&fixture, "ALTER ROLE root PASSWORD 'other'");
    assert_eq!(
        get(&fixture, "/cdc/t/poll", &[("cookie", cookie)]).status,
        401
    );
    assert_eq!(
        get(&fixture, &format!("/cdc/t?ticket={ticket}"), &[]).status,
        401
    );
    assert!(
        !fixture.setup.printed().contains(&ticket),
        "a ticket is in the log"
    );
}

#[test]
fn g6_what_is_revoked_ends_on_open_connections_within_a_second() {
    let fixture = with_users(|_| {});
    let (id, token) = new_token(&fixture, "CREATE TOKEN stream FOR root");
    let header = format!("Bearer {token}");
    let headers = [("authorization", header.as_str())];
    let open = SseStream::open_with(fixture.setup.http, "/cdc/t?since_lsn=1", &headers);
    let SseOpened::Stream(mut stream) = open.expect("it is open") else {
        panic!("no stream")
    };
    stream.next_event().unwrap().unwrap();
    let poll = std::thread::spawn({
        let (address, header) = (fixture.setup.http, header.clone());
        move || {
            let headers = [("authorization", header.as_str())];
            http::request(
                address,
                "GET",
                "/cdc/t/poll?since_ms=99999999999999&wait_ms=60000",
                &headers,
                b"",
            )
        }
    });
    let ann = psql_child(&fixture);
    as_root(&fixture, &format!("DROP TOKEN '{id}'"));
    let revoked = Instant::now();
    while let Ok(Some(_)) = stream.next_event() {}
    assert!(
        revoked.elapsed() < REVOKED_WITHIN,
        "{:?}",
        revoked.elapsed()
    );
    let polled = poll.join().unwrap().expect("it is told");
    assert_eq!(polled.status, 401, "{}", polled.text());
    assert!(
        revoked.elapsed() < REVOKED_WITHIN,
        "{:?}",
        revoked.elapsed()
    );
    assert_eq!(get(&fixture, "/cdc/t/poll", &headers).status, 401);
    as_root(&fixture, "DROP ROLE ann");
    let dropped = Instant::now();
    let out = ann.wait_with_output().unwrap();
    assert!(
        dropped.elapsed() < REVOKED_WITHIN,
        "{:?}",
        dropped.elapsed()
    );
    assert!(!out.status.success(), "{}", told(&out));
}

fn psql_child(fixture: &Fixture) -> std::process::Child {
    use std::io::{BufRead, BufReader, Write};
    let url = format!(
        "postgres://ann@127.0.0.1:{}/default",
        fixture.setup.pg.port()
    );
    let mut child = Command::new("psql")
        .args([&url, "-X", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1"])
        .env("PGPASSWORD", "annpass")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"SELECT 'ready';\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line.trim(), "ready");
    // A statement that runs while its user is dropped.
    input
        .write_all(
            b"SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b;\n",
        )
        .unwrap();
    drop(input);
    child
}

#[test]
fn g6_guessing_is_slowed_down() {
    let mut fixture = with_users(|fixture| {
        let setup = fixture.setup.clone();
        fixture.setup = setup
            .with_env("SPRINGHEAD_LOGIN_FREE_FAILURES", "2")
            .with_env("SPRINGHEAD_LOGIN_DELAY", "2s");
    });
    for user in ["ann", "nobody"] {
        let basic = |password: &str| {
            post(
                &fixture,
                "/v1/session",
                &[],
                &json!({"user": user, "password": password}),
            )
        };
        for _ in 0..3 {
            assert_eq!(basic("wrong").status, 401, "{user}");
        }
        let slowed = basic("annpass");
        assert_eq!(
            (slowed.status, slowed.error_code()),
            (429, "too_many_requests".to_owned()),
            "{user}"
        );
        let url = format!("postgres://{user}@127.0.0.1:PORT/default");
        let out = psql(&fixture, &url, "annpass", "SELECT 1");
        assert!(
            told(&out).contains("too many failed logins"),
            "{}",
            told(&out)
        );
    }
    // The delay ends; a refusal that says "later" costs nothing.
    let asked = Instant::now();
    loop {
        let again = post(
            &fixture,
            "/v1/session",
            &[],
            &json!({"user": "ann", "password": "annpass"}),
        );
        if again.status == 200 {
            break;
        }
        assert_eq!(again.status, 429);
        assert!(
            asked.elapsed() < Duration::from_secs(20),
            "refused for ever"
        );
        fixture.server().wait_end(Duration::from_millis(50));
    }
}

#[test]
fn limits_of_connections_and_requests_are_told() {
    let fixture = with_users(|fixture| {
        let setup = fixture.setup.clone();
        fixture.setup = setup.with_env("SPRINGHEAD_RATE_LIMIT_PER_USER", "20");
    });
    as_root(&fixture, "ALTER ROLE ann CONNECTION LIMIT 0");
    let out = psql(
        &fixture,
        "postgres://ann@127.0.0.1:PORT/default",
        "annpass",
        "SELECT 1",
    );
    assert!(
        told(&out).contains("too many connections for role \"ann\""),
        "{}",
        told(&out)
    );
    let statuses: Vec<u16> = (0..60)
        .map(|_| get(&fixture, "/v1/session", &[ANN]).status)
        .collect();
    assert!(
        statuses.contains(&200) && statuses.contains(&429),
        "{statuses:?}"
    );
}

/// A token signed with `secret`.
fn jwt(secret: &[u8], claims: &Value) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let covered = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let tag = ring::hmac::sign(&key, covered.as_bytes());
    format!("{covered}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[test]
fn g6_a_jwt_says_role_and_tenant_and_never_more_than_its_role_may() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let fixture = with_users(|fixture| {
        let setup = fixture.setup.clone();
        fixture.setup = setup
            .with_env("SPRINGHEAD_JWT_SECRET_FILE", &file.display().to_string())
            .with_env("SPRINGHEAD_LOGIN_FREE_FAILURES", "100")
            .with_env("SPRINGHEAD_JWT_ISSUER", "issuer");
    });
    as_root(&fixture, "CREATE ROLE app");
    as_root(&fixture, "CREATE ROLE clerk TENANT shop");
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let claims = json!({"iss": "issuer", "exp": now + 3600, "role": "app", "sub": "u1"});
    let ask = |claims: &Value, secret: &str, target: &str| {
        let header = format!("Bearer {}", jwt(secret.as_bytes(), claims));
        get(&fixture, target, &[("authorization", &header)])
    };
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        claims
    };
    let good = ask(&claims, SECRET, "/v1/session");
    assert_eq!(
        (good.status, &good.json()["user"]),
        (200, &json!("app")),
        "{}",
        good.text()
    );
    assert_eq!(ask(&claims, SECRET, "/v1/status?tenant_id=2").status, 403);
    let in_shop = with("tenant", json!("shop"));
    assert_eq!(
        ask(&in_shop, SECRET, "/v1/status").json()["tenant"]["name"],
        "shop"
    );
    assert_eq!(ask(&in_shop, SECRET, "/v1/status?tenant_id=1").status, 403);
    let clerk = with("role", json!("clerk"));
    assert_eq!(
        ask(&clerk, SECRET, "/v1/status").json()["tenant"]["name"],
        "shop"
    );
    for (what, claims, secret) in [
        (
            "another secret",
            claims.clone(),
            "x123456789abcdef0123456789abcdef",
        ),
        ("another issuer", with("iss", json!("evil")), SECRET),
        ("expired", with("exp", json!(now - 60)), SECRET),
        ("a superuser", with("role", json!("root")), SECRET),
        ("the superuser", with("role", json!("postgres")), SECRET),
        ("nobody", with("role", json!("nobody")), SECRET),
        ("no such tenant", with("tenant", json!("nowhere")), SECRET),
        (
            "a tenant that is not the role's",
            {
                let mut both = clerk.clone();
                both["tenant"] = json!("default");
                both
            },
            SECRET,
        ),
    ] {
        let answer = ask(&claims, secret, "/v1/session");
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
    }
}

/// Runs the program's own command against the server.
fn springhead(fixture: &Fixture, args: &[&str], password: Option<&str>, input: &str) -> Output {
    use std::io::Write;
    let url = format!("postgres://127.0.0.1:{}", fixture.setup.pg.port());
    let mut command = Command::new(&fixture.setup.binary);
    command
        .args(args)
        .args(["--url", &url])
        .env("PGUSER", "root")
        .env_remove("PGPASSWORD")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn users_and_tokens_are_made_from_the_command_line() {
    let mut fixture = Fixture::new();
    fixture.start();
    let made = springhead(
        &fixture,
        &["user", "create", "root", "--superuser"],
        None,
        "rootpass\n",
    );
    assert!(made.status.success(), "{}", told(&made));
    let refused = springhead(&fixture, &["user", "list"], None, "");
    assert!(told(&refused).contains("PGPASSWORD"), "{}", told(&refused));
    let wrong = springhead(&fixture, &["user", "list"], Some("wrong"), "");
    assert!(
        told(&wrong).contains("password authentication failed"),
        "{}",
        told(&wrong)
    );
    let root = Some("rootpass");
    let made = springhead(&fixture, &["user", "create", "Ann"], root, "annpass\n");
    assert!(made.status.success(), "{}", told(&made));
    let list = springhead(&fixture, &["user", "list", "--json"], root, "");
    assert!(told(&list).contains(r#""name":"Ann""#), "{}", told(&list));
    let args = [
        "token",
        "create",
        "laptop",
        "--role",
        "Ann",
        "--read-only",
        "--expires",
        "30d",
        "--json",
    ];
    let made = springhead(&fixture, &args, root, "");
    let token: Value =
        serde_json::from_str(&told(&made)).unwrap_or_else(|_| panic!("{}", told(&made)));
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    let whose = get(&fixture, "/v1/session", &[("authorization", &bearer)]);
    assert_eq!(whose.json(), json!({"user": "Ann", "read_only": true}));
    let id = token["id"].as_str().unwrap();
    let revoked = springhead(&fixture, &["token", "revoke", id], root, "");
    assert!(revoked.status.success(), "{}", told(&revoked));
    assert_eq!(
        get(&fixture, "/v1/session", &[("authorization", &bearer)]).status,
        401
    );
    let changed = springhead(&fixture, &["user", "password", "Ann"], root, "another\n");
    assert!(changed.status.success(), "{}", told(&changed));
    let ann = "postgres://Ann@127.0.0.1:PORT/default";
    assert_eq!(
        told(&psql(&fixture, ann, "another", "SELECT current_user")),
        "Ann"
    );
    let roles = psql(&fixture, ann, "another", "\\du");
    assert!(told(&roles).contains("root|Superuser"), "{}", told(&roles));
}
