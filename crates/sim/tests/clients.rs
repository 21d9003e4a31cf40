//! The tests' own clients, against answers made by hand: a client that misreads would hide a
//! server's mistake.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use springhead_sim::client::http::{self, SseOpened, SseStream};
use springhead_sim::client::pg::{PgClient, PgError};

/// Answers one connection with `pieces`, one write each, then closes. Returns its address.
fn answering(pieces: Vec<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.set_nodelay(true).expect("no delay");
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).expect("a request");
        for piece in pieces {
            stream.write_all(&piece).expect("the client reads");
        }
    });
    address
}

fn chunked(body: &str) -> Vec<u8> {
    format!("{:x}\r\n{body}\r\n", body.len()).into_bytes()
}

const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

fn open(address: SocketAddr) -> SseStream {
    match SseStream::open(address, "/", Some("0")).expect("an answer") {
        SseOpened::Stream(stream) => *stream,
        SseOpened::Other(answer) => panic!("{answer:?}"),
    }
}

#[test]
fn events_come_out_whole_however_they_are_cut_up() {
    let body = "retry: 250\n: hello\n\nid: 1@a\nevent: insert\ndata: {\"n\":1}\ndata: {}\n\n\
                id: 2@a\n\nevent: progress\r\nid: 3@a\r\ndata: x\r\n\r\n";
    for step in [1, 3, 7, 1000] {
        let mut pieces = vec![STREAM_HEAD.to_vec()];
        pieces.extend(
            body.as_bytes()
                .chunks(step)
                .map(|c| chunked(&String::from_utf8_lossy(c))),
        );
        pieces.push(b"0\r\n\r\n".to_vec());
        let mut stream = open(answering(pieces));
        let first = stream.next_event().expect("a stream").expect("an event");
        assert_eq!(
            (first.id.as_deref(), &*first.event),
            (Some("1@a"), "insert")
        );
        assert_eq!(first.data, "{\"n\":1}\n{}");
        assert_eq!(stream.retry_ms, Some(250));
        let second = stream.next_event().expect("a stream").expect("an event");
        // The event without data only moved the id.
        assert_eq!((&*second.event, &*second.data), ("progress", "x"));
        assert_eq!(stream.last_event_id.as_deref(), Some("3@a"));
        assert_eq!(stream.next_event().expect("a proper end"), None);
        assert_eq!(stream.comments, 1);
    }
}

#[test]
fn an_event_that_was_cut_has_not_been_seen() {
    let body = "id: 1@a\ndata: x\n\nid: 2@a\ndata: y\n";
    let mut stream = open(answering(vec![STREAM_HEAD.to_vec(), chunked(body)]));
    assert_eq!(
        stream
            .next_event()
            .expect("a stream")
            .expect("an event")
            .data,
        "x"
    );
    assert!(
        stream.next_event().is_err(),
        "a chunked body without an end is cut"
    );
    assert_eq!(stream.last_event_id.as_deref(), Some("1@a"));
}

#[test]
fn a_body_shorter_than_its_length_is_an_error() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}".to_vec();
    assert!(http::get(answering(vec![head]), "/").is_err());
    let whole =
        b"HTTP/1.1 410 Gone\r\nContent-Length: 29\r\n\r\n{\"error\":{\"code\":\"too_late\"}}"
            .to_vec();
    let answer = http::get(answering(vec![whole]), "/").expect("an answer");
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (410, "too_late")
    );
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("short");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

#[test]
fn a_refused_start_up_is_the_servers_error() {
    let refusal = message(
        b'E',
        b"SFATAL\0VFATAL\0C3D000\0Mdatabase \"x\" does not exist\0\0",
    );
    match PgClient::connect(answering(vec![refusal]), "x") {
        Err(PgError::Sql { code, message }) => {
            assert_eq!(
                (&*code, &*message),
                ("3D000", "database \"x\" does not exist")
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connection_that_ends_before_its_answer_is_no_answer() {
    let ready = [
        message(b'R', &[0; 4]),
        message(b'K', &[0, 0, 0, 7, 0, 0, 0, 9]),
        message(b'Z', b"I"),
    ];
    let mut client = PgClient::connect(answering(ready.to_vec()), "x").expect("ready");
    assert_eq!(client.key, Some((7, 9)));
    assert!(matches!(client.query("COMMIT"), Err(PgError::Io(_))));
}
