//! Our client and server in conversation, over memory.

use bytes::{Bytes, BytesMut};
use rtmp::client::{self, Target};
use rtmp::name::Key;
use rtmp::server::{self, Config};
use rtmp::status::{Refusal, code};
use rtmp::{Error, Kind, Message, chunk};

#[test]
fn a_publisher_is_asked_for_started_heard_and_ended() {
    let mut pair = Pair::publish("rtmp://localhost/LiveApp/stream1?key=hunter2");

    let connect = pair.next_request();
    let server::Event::Connect(connect) = connect else { panic!("{connect:?}") };
    assert_eq!(connect.app, "LiveApp");
    assert!(connect.flash_version.starts_with("FMLE"));
    pair.server.accept();

    let publish = pair.next_request();
    let server::Event::Publish(request) = publish else { panic!("{publish:?}") };
    assert_eq!((request.app.as_str(), request.id.as_str()), ("LiveApp", "stream1"));
    assert_eq!(request.key, Some(Key::new("hunter2")));
    assert!(!format!("{request:?}").contains("hunter2"));
    pair.server.accept();
    assert_eq!(pair.run(), (vec![], vec![client::Event::Started]));

    let messages = [
        message(Kind::Video, 0, &[0x17, 0, 0, 0, 0]),
        message(Kind::Audio, u32::MAX, &[0xAF; 3000]),
        message(Kind::Video, 3, &[0x27; 200_000]),
    ];
    messages.iter().for_each(|message| pair.client.send(message));
    assert_eq!(pair.run().0, messages.map(server::Event::Media));

    pair.client.finish();
    assert_eq!(pair.run(), (vec![server::Event::Unpublish], vec![]));
    assert_eq!(pair.server.dropped_messages(), 0);
}

#[test]
fn set_data_frame_is_taken_off_metadata() {
    let mut pair = Pair::publishing();
    let metadata = b"\x02\x00\x0aonMetaData\x08\0\0\0\0\0\0\x09";

    pair.client.send(&message(Kind::Data, 0, &[b"\x02\x00\x0d@setDataFrame", &metadata[..]].concat()));
    pair.client.send(&message(Kind::Data, 0, metadata));

    let expected = server::Event::Media(message(Kind::Data, 0, metadata));
    assert_eq!(pair.run().0, [expected.clone(), expected]);
}

#[test]
fn the_key_may_come_with_the_application_and_that_of_the_stream_wins() {
    for (url, key) in [
        ("rtmp://h/LiveApp?key=app/s", Some("app")),
        ("rtmp://h/LiveApp?key=app/s?key=own", Some("own")),
        ("rtmp://h/LiveApp/s?key=a%2Bb", Some("a+b")),
        ("rtmp://h/LiveApp/s", None),
    ] {
        let mut pair = Pair::publish(url);
        let server::Event::Connect(connect) = pair.next_request() else { panic!() };
        assert_eq!(connect.app, "LiveApp");
        pair.server.accept();
        let server::Event::Publish(request) = pair.next_request() else { panic!() };
        assert_eq!((request.id.as_str(), request.key), ("s", key.map(Key::new)), "{url}");
    }
}

#[test]
fn a_refused_connect_ends_the_conversation() {
    let mut pair = Pair::publish("rtmp://h/Wrong/s");
    pair.next_request();
    pair.server.reject(Refusal::UnknownApp);

    assert_eq!(
        pair.run(),
        (vec![], vec![refused(code::CONNECT_REJECTED, "no such application; check the path of the server URL")])
    );
    pair.to_server.extend_from_slice(&[0xFF; 100]);
    assert_eq!(pair.run(), (vec![], vec![]), "nothing more is read");
}

#[test]
fn refused_publishers_learn_why() {
    for (refusal, expected) in [
        (Refusal::AlreadyPublishing, code::PUBLISH_BAD_NAME),
        (Refusal::Denied, code::PUBLISH_DENIED),
        (Refusal::UnknownStream, code::PUBLISH_DENIED),
        (Refusal::Unavailable, code::PUBLISH_FAILED),
    ] {
        let mut pair = Pair::publish("rtmp://h/LiveApp/s");
        pair.next_request();
        pair.server.accept();
        pair.next_request();
        pair.server.reject(refusal);

        let (_, events) = pair.run();
        assert!(matches!(&events[..], [client::Event::Refused { code, .. }] if code == expected), "{events:?}");
        pair.client.send(&message(Kind::Audio, 0, &[0]));
        assert_eq!(pair.run(), (vec![], vec![]), "a refused publisher sends nothing");
    }
}

#[test]
fn a_started_publisher_can_be_ended_by_the_server() {
    let mut pair = Pair::publishing();
    pair.server.reject(Refusal::AlreadyPublishing);

    assert_eq!(pair.run().1, [client::Event::Ended { code: code::PUBLISH_BAD_NAME.to_owned() }]);
    pair.server.reject(Refusal::Stopped);
    assert!(!pair.server.has_output(), "there is nothing left to refuse");
}

#[test]
fn a_player_gets_the_bytes_that_all_players_get() {
    let mut pair = Pair::playing();
    let sent = [message(Kind::Video, 0x0123_4567, &[0x17; 100_000]), message(Kind::Audio, 40, &[0xAF; 7])];

    for message in &sent {
        pair.to_client.extend_from_slice(&chunk::write_message(message, chunk::PLAYER_STREAM));
    }
    assert_eq!(pair.run().1, sent.map(client::Event::Media));

    pair.server.end_play();
    assert_eq!(pair.run().1, [client::Event::Ended { code: code::PLAY_UNPUBLISH_NOTIFY.to_owned() }]);
}

#[test]
fn a_player_that_leaves_is_noticed_and_one_without_a_stream_refused() {
    let mut pair = Pair::playing();
    pair.client.finish();
    assert_eq!(pair.run(), (vec![server::Event::StopPlay], vec![]));

    let mut pair = Pair::new(client::Session::play(Target::parse("rtmp://h/LiveApp/s").unwrap()));
    pair.next_request();
    pair.server.accept();
    pair.next_request();
    pair.server.reject(Refusal::UnknownStream);
    let (_, events) = pair.run();
    assert!(matches!(&events[..], [client::Event::Refused { code, .. }] if code == code::PLAY_STREAM_NOT_FOUND));
}

#[test]
fn nothing_is_read_while_a_request_is_undecided() {
    let mut pair = Pair::publish("rtmp://h/LiveApp/s");
    pair.next_request();
    pair.to_server.extend_from_slice(&[0xC3; 9]);
    let before = pair.to_server.clone();

    assert_eq!(pair.server.receive(&mut pair.to_server), Ok(None));
    assert_eq!(pair.to_server, before);
}

#[test]
fn acknowledgements_follow_the_window() {
    let mut pair = Pair::publishing();
    let payload = vec![0; 1 << 20];
    for index in 0..6 {
        pair.client.send(&message(Kind::Video, index, &payload));
        pair.exchange_to_server();
        assert!(pair.server.receive(&mut pair.to_server).unwrap().is_some());
        let acknowledged = !pair.server.take_output().is_empty();
        assert_eq!(acknowledged, index == 2 || index == 5, "window of 2.5 MB, message {index}");
    }
}

#[test]
fn a_flood_before_a_stream_is_accepted_is_cut_off() {
    let mut pair = Pair::publish("rtmp://h/LiveApp/s");
    pair.next_request();
    pair.server.accept();
    pair.next_request();
    pair.server.reject(Refusal::Denied);
    let audio = chunk::write_message(&message(Kind::Audio, 0, &[0; 20_000]), 1);

    let mut result = Ok(None);
    for _ in 0..4 {
        pair.to_server.extend_from_slice(&audio);
        result = pair.server.receive(&mut pair.to_server);
    }
    assert_eq!(result, Err(Error::TooMuchBeforeAccept { limit: 65_536 }));
    assert!(pair.server.dropped_messages() > 0);
}

#[test]
fn a_peer_that_asks_and_never_reads_is_cut_off() {
    let mut pair = Pair::publishing();
    let ping = [2, 0, 0, 0, 0, 0, 6, 4, 0, 0, 0, 0, 0, 6, 0, 0, 0, 1];

    let mut result = Ok(None);
    for _ in 0..20 {
        pair.to_server.extend_from_slice(&ping.repeat(1000));
        result = result.and_then(|_| pair.server.receive(&mut pair.to_server));
    }
    assert_eq!(result, Err(Error::TooMuchOutput { limit: 256 << 10 }));
}

struct Pair {
    client: client::Session,
    server: server::Session,
    to_server: BytesMut,
    to_client: BytesMut,
}

impl Pair {
    fn new(client: client::Session) -> Self {
        let server = server::Session::new(Config::default());
        Self { client, server, to_server: BytesMut::new(), to_client: BytesMut::new() }
    }

    fn publish(url: &str) -> Self {
        Self::new(client::Session::publish(Target::parse(url).expect("the test's URL is valid")))
    }

    fn publishing() -> Self {
        Self::publish("rtmp://h/LiveApp/s").started()
    }

    fn playing() -> Self {
        Self::new(client::Session::play(Target::parse("rtmp://h/LiveApp/s").expect("it is valid"))).started()
    }

    fn started(mut self) -> Self {
        self.next_request();
        self.server.accept();
        self.next_request();
        self.server.accept();
        assert_eq!(self.run(), (vec![], vec![client::Event::Started]));
        self
    }

    /// Runs until the server asks something.
    fn next_request(&mut self) -> server::Event {
        let (mut server, client) = self.run();
        assert_eq!((server.len(), client.len()), (1, 0), "{server:?} {client:?}");
        server.remove(0)
    }

    /// Carries bytes to and fro, in small pieces, until all is quiet.
    fn run(&mut self) -> (Vec<server::Event>, Vec<client::Event>) {
        let (mut server_events, mut client_events) = (Vec::new(), Vec::new());
        loop {
            self.exchange_to_server();
            self.to_client.extend_from_slice(&self.server.take_output());
            let before = (self.to_server.len(), self.to_client.len());
            while let Some(event) = self.server.receive(&mut self.to_server).expect("the client is polite") {
                server_events.push(event);
            }
            while let Some(event) = self.client.receive(&mut self.to_client).expect("the server is polite") {
                client_events.push(event);
            }
            let quiet = before == (self.to_server.len(), self.to_client.len());
            if quiet && !self.client.has_output() && !self.server.has_output() {
                return (server_events, client_events);
            }
        }
    }

    fn exchange_to_server(&mut self) {
        self.to_server.extend_from_slice(&self.client.take_output());
    }
}

fn message(kind: Kind, timestamp_ms: u32, payload: &[u8]) -> Message {
    Message { kind, timestamp_ms, payload: Bytes::copy_from_slice(payload) }
}

fn refused(code: &str, description: &str) -> client::Event {
    client::Event::Refused { code: code.to_owned(), description: description.to_owned() }
}
