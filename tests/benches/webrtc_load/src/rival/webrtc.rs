//! The high-level crate: a connection a viewer, each with a task and a socket; a task a viewer writes what one source sends.

use std::{net::TcpListener, sync::Arc, thread};

use ::rtc::{
    interceptor::Registry,
    peer_connection::{
        configuration::{interceptor_registry::register_default_interceptors, setting_engine::SettingEngineBuilder},
        sdp::RTCSessionDescription,
        state::RTCIceGatheringState,
    },
    rtp,
};
use ::webrtc::{
    media_stream::track_local::{TrackLocal, static_rtp::TrackLocalStaticRTP},
    peer_connection::{PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler},
};
use anyhow::{Context, Result};
use tokio::{
    runtime,
    sync::{Notify, broadcast},
    time::{Instant, sleep_until},
};

use super::{Format, SSRC};
use crate::{ServeArguments, clip::Clip, http};

/// A second of 4 Mbit/s; a viewer that is further behind loses frames.
const BEHIND: usize = 32;

type Frame = Arc<Vec<rtp::Packet>>;

pub(crate) fn run(arguments: &ServeArguments) -> Result<()> {
    let clip = Clip::read(&arguments.clip)?;
    let listener = TcpListener::bind(arguments.http)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (frames, _) = broadcast::channel(BEHIND);
    let (handle, source) = (runtime.handle().clone(), frames.clone());
    thread::scope(|scope| {
        scope.spawn(move || http::serve(&listener, |offer| handle.block_on(answer(offer, source.subscribe()))));
        runtime.block_on(send(&clip, &frames))
    })
}

async fn send(clip: &Clip, frames: &broadcast::Sender<Frame>) -> Result<()> {
    let (began, mut sequence) = (Instant::now(), 0_u16);
    for number in 0.. {
        let frame = clip.due(number)?;
        sleep_until(began + frame.at).await;
        let mut packets = Vec::with_capacity(frame.payloads.len());
        for (index, payload) in frame.payloads.iter().enumerate() {
            let header = rtp::Header {
                version: 2,
                ssrc: SSRC,
                sequence_number: sequence,
                timestamp: frame.timestamp,
                marker: index + 1 == frame.payloads.len(),
                ..rtp::Header::default()
            };
            packets.push(rtp::Packet { header, payload: payload.clone() });
            sequence = sequence.wrapping_add(1);
        }
        // nobody may be there yet
        drop(frames.send(Arc::new(packets)));
    }
    Ok(())
}

/// Tells when all of a connection's own addresses are known.
struct Gathered(Arc<Notify>);

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Gathered {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.0.notify_one();
        }
    }
}

async fn answer(offer: &str, frames: broadcast::Receiver<Frame>) -> Result<String> {
    let format = Format::of_offer(offer)?;
    let mut engine = format.engine()?;
    let registry = register_default_interceptors(Registry::new(), &mut engine)?;
    let settings = SettingEngineBuilder::new().with_lite(true).with_include_loopback_candidate(true).build();
    let gathered = Arc::new(Notify::new());
    // the builder's future is large
    let connection = Box::pin(
        PeerConnectionBuilder::new()
            .with_media_engine(engine)
            .with_interceptor_registry(registry)
            .with_setting_engine(settings)
            .with_handler(Arc::new(Gathered(gathered.clone())))
            .with_udp_addrs(vec!["127.0.0.1:0"])
            .build(),
    )
    .await?;
    let track = Arc::new(TrackLocalStaticRTP::new(format.track()));
    connection.add_track(track.clone() as Arc<dyn TrackLocal>).await?;
    connection.set_remote_description(RTCSessionDescription::offer(offer.to_owned())?).await?;
    let answer = connection.create_answer(None).await?;
    connection.set_local_description(answer).await?;
    gathered.notified().await;
    let answer = connection.local_description().await.context("no answer was made")?.sdp;
    // as long as this program, which ends by a signal
    #[expect(clippy::disallowed_methods, reason = "it lives as long as the process")]
    tokio::spawn(write(connection, track, format.payload_type, frames));
    Ok(answer)
}

async fn write(
    connection: impl PeerConnection,
    track: Arc<TrackLocalStaticRTP>,
    payload_type: u8,
    mut frames: broadcast::Receiver<Frame>,
) {
    loop {
        let frame = match frames.recv().await {
            Ok(frame) => frame,
            Err(broadcast::error::RecvError::Lagged(_)) => continue,
            Err(broadcast::error::RecvError::Closed) => break,
        };
        for packet in frame.iter() {
            let mut packet = packet.clone();
            packet.header.payload_type = payload_type;
            // it is not connected yet
            drop(track.write_rtp(packet).await);
        }
    }
    drop(connection);
}
