//! What must hold of the RTMP parsers for any bytes. The fuzz targets explore it, and the test `corpus` holds it for the
//! committed corpus with a stable compiler.

use bytes::BytesMut;
use rtmp::server::{Config, Event};
use rtmp::status::Refusal;
use rtmp::tag::{AudioTag, Part, VideoTag};
use rtmp::{Error, Kind, amf0, client, server};

/// The length of the version and the two parts that a client sends.
const CLIENT_HANDSHAKE: usize = 1 + 2 * 1536;

/// Chunks and messages, after the handshake. The first byte says in which pieces they come.
pub(crate) fn rtmp_chunk(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let handshake = [3; CLIENT_HANDSHAKE];
    assert_eq!(
        serve(&[&handshake, bytes]),
        serve_in_pieces(&[&handshake, bytes].concat(), usize::from(piece)),
        "how the bytes are cut must not matter"
    );
}

/// A connection from its first byte on, as a server and as a client get it. The first byte says in which pieces.
pub(crate) fn rtmp_handshake(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let piece = usize::from(piece);
    assert_eq!(serve(&[bytes]), serve_in_pieces(bytes, piece), "a server must not care how bytes are cut");
    for start in [client::Session::publish, client::Session::play] {
        let target = client::Target::parse("rtmp://localhost/app/stream?key=k").expect("it is valid");
        let whole = call(start(target.clone()), [bytes].into_iter());
        let pieces = call(start(target), bytes.chunks(piece.max(1)));
        assert_eq!(whole, pieces, "a client must not care how bytes are cut");
    }
}

/// AMF 0 values.
pub(crate) fn rtmp_amf0(input: &[u8]) {
    let Ok(values) = amf0::decode(input) else { return };
    assert!(values.len() <= amf0::MAX_VALUES);
    let bytes = encode(&values);
    // compared as bytes, as NaN is no equal of itself
    let again = amf0::decode(&bytes).expect("what was encoded can be decoded");
    assert_eq!(encode(&again), bytes, "what was encoded stays the same");
}

/// Audio and video tags.
pub(crate) fn flv_tag(input: &[u8]) {
    if let Ok(tag) = VideoTag::parse(input) {
        assert!(tag.data_offset <= input.len());
        assert!(!tag.is_random_access_point() || tag.part == Part::Coded);
    }
    if let Ok(tag) = AudioTag::parse(input) {
        assert!(tag.data_offset <= input.len());
    }
}

fn encode(values: &[amf0::Value]) -> BytesMut {
    let mut output = BytesMut::new();
    values.iter().for_each(|value| value.encode(&mut output));
    output
}

/// What came of a connection: its events, and how it ended.
type Outcome<Event> = (Vec<Event>, Result<(), Error>);

fn serve(inputs: &[&[u8]]) -> Outcome<Event> {
    let mut events = Vec::new();
    let result = feed(inputs.iter().copied(), &mut events);
    (events, result)
}

fn serve_in_pieces(bytes: &[u8], piece: usize) -> Outcome<Event> {
    let mut events = Vec::new();
    let result = feed(bytes.chunks(piece.max(1)), &mut events);
    (events, result)
}

/// A driver that grants what is asked for, but streams whose id ends with `-`.
fn feed<'a>(pieces: impl Iterator<Item = &'a [u8]>, events: &mut Vec<Event>) -> Result<(), Error> {
    let mut session = server::Session::new(Config::default());
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        while let Some(event) = session.receive(&mut input)? {
            match &event {
                Event::Publish(request) | Event::Play(request) if request.id.ends_with('-') => {
                    session.reject(Refusal::Denied);
                }
                Event::Connect(_) | Event::Publish(_) | Event::Play(_) => session.accept(),
                Event::Media(message) if message.kind != Kind::Data => flv_tag(&message.payload),
                Event::Media(_) | Event::Unpublish | Event::StopPlay => {}
            }
            events.push(event);
            session.take_output();
        }
        session.take_output();
    }
    Ok(())
}

fn call<'a>(mut session: client::Session, pieces: impl Iterator<Item = &'a [u8]>) -> Outcome<client::Event> {
    let (mut input, mut events) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match session.receive(&mut input) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Err(error)),
            }
            session.take_output();
        }
        session.take_output();
    }
    (events, Ok(()))
}
