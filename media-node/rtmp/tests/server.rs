//! The server against a client that is written out byte by byte.

use bytes::{Bytes, BytesMut};
use rtmp::amf0::{self, Value, object};
use rtmp::server::{Config, Event, Session};
use rtmp::status::Refusal;
use rtmp::{Error, Kind, Message};

#[test]
fn a_connect_is_answered_with_windows_chunk_size_and_enhanced_rtmp() {
    let mut peer = Peer::new();
    let event = peer.command(0, "connect", 1.0, &[connect_object("LiveApp")]);
    assert!(matches!(event, Ok(Some(Event::Connect(_)))), "{event:?}");
    peer.session.accept();

    let sent = peer.sent();

    assert_eq!(sent[0], (5, 0, 2_500_000_u32.to_be_bytes().to_vec()), "window acknowledgement size");
    assert_eq!(sent[1], (6, 0, [&2_500_000_u32.to_be_bytes()[..], &[2]].concat()), "peer bandwidth, dynamic");
    assert_eq!(sent[2], (1, 0, 65_536_u32.to_be_bytes().to_vec()), "chunk size");
    let result = command(&sent[3]);
    assert_eq!(result[..2], [Value::from("_result"), Value::from(1.0)]);
    assert_eq!(result[2].get("fourCcList"), Some(&Value::StrictArray(vec![Value::from("*")])));
    assert_eq!(result[2].get("videoFourCcInfoMap"), Some(&object([("*", Value::from(4.0))])));
    assert_eq!(result[2].get("audioFourCcInfoMap"), Some(&object([("*", Value::from(4.0))])));
    assert_eq!(result[2].get("capsEx"), Some(&Value::from(6.0)));
    assert_eq!(result[3].get("code"), Some(&Value::from("NetConnection.Connect.Success")));
    assert_eq!(result[3].get("objectEncoding"), Some(&Value::from(0.0)));
    assert_eq!(sent.len(), 4);
}

#[test]
fn statuses_of_a_publish_come_on_its_message_stream() {
    let mut peer = Peer::connected();
    peer.quiet(0, "releaseStream", 2.0, &[Value::Null, Value::from("s")]);
    peer.quiet(0, "FCPublish", 3.0, &[Value::Null, Value::from("s")]);
    peer.quiet(0, "createStream", 4.0, &[Value::Null]);
    let sent = peer.sent();
    assert_eq!(command(&sent[0]), [Value::from("_result"), Value::from(2.0), Value::Null, Value::Undefined]);
    assert_eq!(command(&sent[1]), [Value::from("_result"), Value::from(3.0), Value::Null, Value::Undefined]);
    assert_eq!(command(&sent[2]), [Value::from("_result"), Value::from(4.0), Value::Null, Value::from(1.0)]);

    let event = peer.command(1, "publish", 5.0, &[Value::Null, Value::from("s"), Value::from("live")]);
    assert!(matches!(event, Ok(Some(Event::Publish(_)))));
    peer.session.accept();

    assert_eq!(peer.statuses(), ["1 onFCPublish NetStream.Publish.Start", "1 onStatus NetStream.Publish.Start"]);
}

#[test]
fn a_play_begins_with_reset_and_start_and_ends_with_notify_and_stop() {
    let mut peer = Peer::connected();
    peer.quiet(0, "createStream", 2.0, &[Value::Null]);
    peer.sent();
    let event = peer.command(1, "play", 3.0, &[Value::Null, Value::from("s")]);
    assert!(matches!(event, Ok(Some(Event::Play(_)))));
    peer.session.accept();

    let sent = peer.sent();
    assert_eq!(sent[0], (4, 0, vec![0, 0, 0, 0, 0, 1]), "stream begin");
    assert_eq!((status(&sent[1]), status(&sent[2])), ("NetStream.Play.Reset".into(), "NetStream.Play.Start".into()));

    peer.session.end_play();
    let sent = peer.sent();
    assert_eq!(status(&sent[0]), "NetStream.Play.UnpublishNotify");
    assert_eq!(status(&sent[1]), "NetStream.Play.Stop");
    assert_eq!(sent[2], (4, 0, vec![0, 1, 0, 0, 0, 1]), "stream eof");

    peer.session.end_play();
    assert!(peer.sent().is_empty(), "a play ends once");
}

#[test]
fn each_way_to_end_a_publish_ends_it_once() {
    for (name, arguments) in [
        ("FCUnpublish", &[Value::Null, Value::from("s")][..]),
        ("deleteStream", &[Value::Null, Value::from(1.0)]),
        ("closeStream", &[Value::Null]),
    ] {
        let mut peer = Peer::publishing();
        assert_eq!(peer.command(1, name, 0.0, arguments), Ok(Some(Event::Unpublish)), "{name}");
        assert_eq!(peer.command(1, "deleteStream", 0.0, &[Value::Null, Value::from(1.0)]), Ok(None));
        assert_eq!(peer.media(8, 0, &[0xAF]), Ok(None), "media after the end is passed over");
        assert_eq!(peer.session.dropped_messages(), 1);
    }
}

#[test]
fn a_connection_may_publish_again_after_an_end() {
    let mut peer = Peer::publishing();
    peer.command(1, "closeStream", 0.0, &[Value::Null]).unwrap();

    let event = peer.command(1, "publish", 6.0, &[Value::Null, Value::from("t")]);

    assert!(matches!(event, Ok(Some(Event::Publish(request))) if request.id == "t"));
}

#[test]
fn a_second_publish_on_a_connection_and_one_without_a_name_are_refused() {
    let mut peer = Peer::publishing();
    peer.quiet(1, "publish", 6.0, &[Value::Null, Value::from("t")]);
    assert_eq!(peer.statuses(), ["1 onStatus NetStream.Publish.Failed"]);
    assert!(peer.media(8, 0, &[0xAF]).unwrap().is_some(), "the first goes on");

    let mut peer = Peer::connected();
    for name in [Value::from(""), Value::from("?key=k"), Value::Null, Value::String("x".repeat(3000))] {
        peer.quiet(1, "publish", 6.0, &[Value::Null, name]);
        assert_eq!(peer.statuses(), ["1 onStatus NetStream.Publish.Denied"]);
    }
}

#[test]
fn unknown_commands_are_answered_only_when_an_answer_is_awaited() {
    let mut peer = Peer::connected();
    peer.quiet(0, "somethingNew", 0.0, &[Value::Null]);
    peer.quiet(1, "pause", 9.0, &[Value::Null, Value::Boolean(true), Value::from(0.0)]);
    assert!(peer.sent().is_empty());

    peer.quiet(0, "somethingNew", 7.0, &[Value::Null]);
    let sent = peer.sent();
    assert_eq!(command(&sent[0])[..2], [Value::from("_error"), Value::from(7.0)]);
    assert_eq!(status(&sent[0]), "NetConnection.Call.Failed");

    peer.quiet(1, "play2", 8.0, &[Value::Null]);
    assert_eq!(peer.statuses(), ["1 onStatus NetStream.Play.Failed"]);
    peer.quiet(0, "getStreamLength", 9.0, &[Value::Null, Value::from("s")]);
    assert_eq!(command(&peer.sent()[0])[3], Value::from(0.0));
}

#[test]
fn commands_out_of_order_or_in_pieces_are_errors() {
    let mut peer = Peer::new();
    assert_eq!(peer.command(0, "createStream", 1.0, &[Value::Null]), Err(Error::NotConnected));

    let mut peer = Peer::connected();
    assert_eq!(peer.command(0, "connect", 1.0, &[connect_object("a")]), Err(Error::ConnectedTwice));

    let mut peer = Peer::connected();
    assert_eq!(peer.message(20, 0, 0, &[5]), Err(Error::UnnamedCommand));
    let cut_off = Error::Command { source: amf0::Error::CutOff };
    assert_eq!(Peer::connected().message(20, 0, 0, b"\x02\x00\x09play"), Err(cut_off));
}

#[test]
fn a_connect_without_an_application_is_refused_at_once() {
    let mut peer = Peer::new();
    peer.quiet(0, "connect", 1.0, &[object([])]);

    let sent = peer.sent();
    assert_eq!(status(&sent[3]), "NetConnection.Connect.Rejected");
}

#[test]
fn commands_in_amf3_messages_are_read_as_amf0() {
    let mut peer = Peer::connected();
    let payload = [&[0][..], &encode(&[Value::from("createStream"), Value::from(2.0), Value::Null])].concat();

    assert_eq!(peer.message(17, 0, 0, &payload), Ok(None));

    assert_eq!(command(&peer.sent()[0])[3], Value::from(1.0));
}

#[test]
fn data_in_amf3_messages_loses_its_marker() {
    let mut peer = Peer::publishing();
    let payload = encode(&[Value::from("onMetaData"), Value::Null]);

    let event = peer.message(15, 1, 7, &[&[0][..], &payload].concat());

    assert_eq!(event, Ok(Some(media(Kind::Data, 7, &payload))));
}

#[test]
fn an_aggregate_is_split_with_its_times_shifted() {
    let mut peer = Peer::publishing();
    let part = |message_type: u8, time: [u8; 4], payload: &[u8]| {
        let length = [0, 0, payload.len() as u8];
        [&[message_type][..], &length, &time, &[0, 0, 0], payload, &[0, 0, 0, 11]].concat()
    };
    // a time has its highest byte last
    let body = [
        part(8, [0, 0, 100, 0], &[0xAF, 1]),
        part(22, [0, 0, 100, 0], &[1]),
        part(9, [0, 0, 140, 0], &[0x27]),
        part(8, [0, 0, 99, 1], &[0xAE]),
    ];

    assert_eq!(peer.message(22, 1, 1000, &body.concat()), Ok(Some(media(Kind::Audio, 1000, &[0xAF, 1]))));
    assert_eq!(peer.next(), Ok(Some(media(Kind::Video, 1040, &[0x27]))));
    assert_eq!(peer.next(), Ok(Some(media(Kind::Audio, 999 + (1 << 24), &[0xAE]))));
    assert_eq!(peer.next(), Ok(None));
    assert_eq!(peer.message(22, 1, 0, &body.concat()[..12]), Err(Error::Aggregate));
}

#[test]
fn a_ping_is_answered_and_control_messages_that_are_too_short_are_errors() {
    let mut peer = Peer::connected();
    assert_eq!(peer.message(4, 0, 0, &[0, 6, 1, 2, 3, 4]), Ok(None));
    assert_eq!(peer.sent(), [(4, 0, vec![0, 7, 1, 2, 3, 4])]);

    for (message_type, payload) in [(1, &[0, 0][..]), (2, &[]), (4, &[0]), (4, &[0, 6, 1]), (5, &[1]), (6, &[1])] {
        assert_eq!(
            Peer::connected().message(message_type, 0, 0, payload),
            Err(Error::ControlTooShort { message_type, length: payload.len() })
        );
    }
}

#[test]
fn a_new_chunk_size_holds_from_the_next_message_on() {
    let mut peer = Peer::publishing();
    assert_eq!(peer.message(1, 0, 0, &[0, 0, 0, 2]), Ok(None));
    peer.input.extend_from_slice(&[4, 0, 0, 0, 0, 0, 3, 8, 1, 0, 0, 0, 0xAF, 1, 0xC4, 2]);

    assert_eq!(peer.next(), Ok(Some(media(Kind::Audio, 0, &[0xAF, 1, 2]))));
    assert_eq!(Peer::publishing().message(1, 0, 0, &[0; 4]), Err(Error::ChunkSize { size: 0 }));
}

#[test]
fn shared_objects_are_passed_over_and_counted() {
    let mut peer = Peer::publishing();
    assert_eq!(peer.message(19, 0, 0, &[1, 2, 3]), Ok(None));
    assert_eq!(peer.session.dropped_messages(), 1);
}

#[test]
fn a_message_of_a_player_or_an_undecided_client_is_small() {
    let mut peer = Peer::connected();
    peer.input.extend_from_slice(&[4, 0, 0, 0, 1, 0, 1, 8, 1, 0, 0, 0]);
    assert_eq!(peer.next(), Err(Error::MessageTooLong { length: 65_537, limit: 65_536 }));

    let mut peer = Peer::publishing();
    peer.input.extend_from_slice(&[4, 0, 0, 0, 1, 0, 1, 8, 1, 0, 0, 0]);
    assert_eq!(peer.next(), Ok(None), "a publisher's may be long");

    let mut peer = Peer::publishing();
    peer.session.reject(Refusal::Stopped);
    peer.input.extend_from_slice(&[4, 0, 0, 0, 1, 0, 1, 8, 1, 0, 0, 0]);
    assert_eq!(peer.next(), Err(Error::MessageTooLong { length: 65_537, limit: 65_536 }), "as long as it is one");
}

/// A client that has shaken hands.
struct Peer {
    session: Session,
    input: BytesMut,
}

impl Peer {
    fn new() -> Self {
        let mut session = Session::new(Config::default());
        let mut input = BytesMut::from(&[3; 1 + 1536 + 1536][..]);
        assert_eq!(session.receive(&mut input), Ok(None));
        assert!(session.handshake_done() && input.is_empty());
        assert_eq!(session.take_output().len(), 1 + 1536 + 1536);
        Self { session, input }
    }

    fn connected() -> Self {
        let mut peer = Self::new();
        let event = peer.command(0, "connect", 1.0, &[connect_object("LiveApp")]);
        assert!(matches!(event, Ok(Some(Event::Connect(_)))));
        peer.session.accept();
        peer.sent();
        peer
    }

    fn publishing() -> Self {
        let mut peer = Self::connected();
        let event = peer.command(1, "publish", 5.0, &[Value::Null, Value::from("s")]);
        assert!(matches!(event, Ok(Some(Event::Publish(_)))));
        peer.session.accept();
        peer.sent();
        peer
    }

    fn command(&mut self, stream: u8, name: &str, transaction: f64, values: &[Value]) -> Result<Option<Event>, Error> {
        let head = [Value::from(name), Value::from(transaction)];
        self.message(20, stream, 0, &encode(&[&head[..], values].concat()))
    }

    /// Sends a command from which no event comes.
    fn quiet(&mut self, stream: u8, name: &str, transaction: f64, values: &[Value]) {
        assert_eq!(self.command(stream, name, transaction, values), Ok(None), "{name}");
    }

    fn media(&mut self, message_type: u8, time: u16, payload: &[u8]) -> Result<Option<Event>, Error> {
        self.message(message_type, 1, time, payload)
    }

    /// Sends a message in chunks of 128 bytes on chunk stream 3.
    fn message(&mut self, message_type: u8, stream: u8, time: u16, payload: &[u8]) -> Result<Option<Event>, Error> {
        let [high, low] = time.to_be_bytes();
        let [.., a, b, c] = payload.len().to_be_bytes();
        self.input.extend_from_slice(&[3, 0, high, low, a, b, c, message_type, stream, 0, 0, 0]);
        for (index, chunk) in payload.chunks(128).enumerate() {
            if index > 0 {
                self.input.extend_from_slice(&[0xC3]);
            }
            self.input.extend_from_slice(chunk);
        }
        self.next()
    }

    fn next(&mut self) -> Result<Option<Event>, Error> {
        self.session.receive(&mut self.input)
    }

    /// The messages that the server sent: type, message stream, payload. Each is one chunk.
    fn sent(&mut self) -> Vec<(u8, u32, Vec<u8>)> {
        let output = self.session.take_output();
        let (mut rest, mut sent) = (&output[..], Vec::new());
        while let [_, _, _, _, a, b, c, message_type, s0, s1, s2, s3, after @ ..] = rest {
            let (payload, after) = after.split_at(u32::from_be_bytes([0, *a, *b, *c]) as usize);
            sent.push((*message_type, u32::from_le_bytes([*s0, *s1, *s2, *s3]), payload.to_vec()));
            rest = after;
        }
        assert!(rest.is_empty());
        sent
    }

    /// The statuses that the server sent: message stream, command, code.
    fn statuses(&mut self) -> Vec<String> {
        let line = |message: &(u8, u32, Vec<u8>)| {
            let name = command(message)[0].as_str().unwrap_or_default().to_owned();
            format!("{} {name} {}", message.1, status(message))
        };
        self.sent().iter().map(line).collect()
    }
}

fn connect_object(app: &str) -> Value {
    object([("app", Value::from(app)), ("tcUrl", Value::from("rtmp://localhost/LiveApp"))])
}

fn encode(values: &[Value]) -> Bytes {
    let mut output = BytesMut::new();
    values.iter().for_each(|value| value.encode(&mut output));
    output.freeze()
}

fn command((message_type, _, payload): &(u8, u32, Vec<u8>)) -> Vec<Value> {
    assert_eq!(*message_type, 20);
    amf0::decode(payload).expect("the server sends valid values")
}

fn status(message: &(u8, u32, Vec<u8>)) -> String {
    command(message)[3].get("code").and_then(Value::as_str).expect("a status has a code").to_owned()
}

fn media(kind: Kind, timestamp_ms: u32, payload: &[u8]) -> Event {
    Event::Media(Message { kind, timestamp_ms, payload: Bytes::copy_from_slice(payload) })
}
