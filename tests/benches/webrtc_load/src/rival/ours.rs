//! Our own workers without a node around them: what a release build of them takes a minute for.

use std::{
    cell::Cell,
    net::TcpListener,
    sync::Arc,
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, anyhow};
use media_webrtc::{
    clock::Wallclock,
    demux::Limits,
    dtls::Identity,
    history::{Frame, Payload},
    ice::Credentials,
    path::Transport,
    pool::{NewSession, Options, Pool, SessionId, StreamId},
    sdp::{Answer, Candidate, Codec, Direction, H264Profile, Offer},
    source::Layer,
};

use crate::{
    ServeArguments,
    clip::Clip,
    http::{self, rest},
};

const STREAM: StreamId = StreamId(1);
/// The baseline of H264, which the clips have.
const VIDEO: Codec = Codec::H264(H264Profile { idc: 66, constraints: 0xe0 });

pub(crate) fn run(arguments: &ServeArguments) -> Result<()> {
    let clip = Clip::read(&arguments.clip)?;
    let listener = TcpListener::bind(arguments.http)?;
    let identity = Arc::new(Identity::generate()?);
    let options =
        Options { address: ([127, 0, 0, 1], 0).into(), workers: arguments.workers, limits: Limits::default() };
    let pool = Pool::start(&options, identity.clone(), Box::new(|_, _| {}))?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH)?;
    pool.open(STREAM, &[VIDEO.into()], Wallclock { at: Instant::now(), since_epoch });
    thread::scope(|scope| {
        let pool = &pool;
        scope.spawn(move || {
            let next = Cell::new(1);
            http::serve(&listener, |offer| answer(offer, pool, &identity, &next))
        });
        send(&clip, pool)
    })
}

fn send(clip: &Clip, pool: &Pool) -> Result<()> {
    let began = Instant::now();
    for number in 0.. {
        let frame = clip.due(number)?;
        while let Some(left) = (began + frame.at).checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            rest(left);
        }
        let count = frame.payloads.len();
        let packet =
            |(index, bytes): (usize, &bytes::Bytes)| Payload { bytes: bytes.clone(), marker: index + 1 == count };
        let packets = frame.payloads.iter().enumerate().map(packet).collect();
        let (timestamp, time, is_keyframe) = (frame.timestamp, frame.at, frame.keyframe);
        pool.push(STREAM, Layer::only(0), &Arc::new(Frame { timestamp, time, is_keyframe, packets }));
    }
    Ok(())
}

fn answer(offer: &str, pool: &Pool, identity: &Identity, next: &Cell<u64>) -> Result<String> {
    let number = next.replace(next.get() + 1);
    let offer = Offer::parse(offer)?;
    let mut ssrc = 1;
    let legs = offer.choose(&[VIDEO], || {
        ssrc += 1;
        ssrc
    })?;
    let mut random = [0; 40];
    // names must be unlike each other, and a letter of one holds six bits; nobody attacks a benchmark
    random.iter_mut().zip(0_u32..).for_each(|(byte, place)| *byte = (number >> (5 * place).min(63)) as u8 & 0x1f);
    let credentials = Credentials::new(random);
    let answer = Answer {
        offer: &offer,
        legs: &legs,
        direction: Direction::Send,
        session_id: number,
        credentials: &credentials,
        fingerprint: identity.fingerprint(),
        candidates: &[Candidate { address: pool.address(), transport: Transport::Udp }],
        cname: "clip",
    }
    .to_string();
    let session = NewSession {
        id: SessionId(number),
        stream: STREAM,
        offer,
        legs,
        credentials,
        cname: "clip".into(),
        seed: number,
    };
    pool.add(session, Instant::now()).map_err(|full| anyhow!("no room: {full:?}"))?;
    Ok(answer)
}
