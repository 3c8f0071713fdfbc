//! One publisher over WebRTC, once it is answered: its packets become the broadcast's, and readers' wishes for keyframes reach it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ledger::Store;
use media_core::{Kind, Packet, Role, Track, broadcast};
use media_rtp::depacketize::{Event, Receiver, Rtp, SenderReport};
use media_webrtc::{
    pool::{Inlet, SessionId, Taken},
    publisher::{Layer, Received},
    sdp::{Codec, Leg, MAX_LAYERS, MediaKind, Offer},
    transport::Cause,
};
use tokio::{
    sync::mpsc,
    time::{Sleep, sleep_until},
};
use tracing::debug;

use crate::{
    ingest::publisher::{Publisher, Turn},
    webrtc::WebRtc,
};

/// Packets of a publisher that wait for its task: about 6 MiB, or over a second of 30 Mbit/s. With more, what comes is dropped and
/// counted, and the picture goes on at a keyframe.
const MAX_WAITING: usize = 4_096;

/// The other end of an [`Inlet`].
pub(super) struct Outlet {
    batches: mpsc::Receiver<Vec<Received>>,
    waiting: Arc<AtomicUsize>,
}

/// What a worker gives packets to, and where they come out.
pub(super) fn channel() -> (Inlet, Outlet) {
    let (sender, batches) = mpsc::channel(MAX_WAITING);
    let waiting = Arc::new(AtomicUsize::new(0));
    let outlet = Outlet { batches, waiting: Arc::clone(&waiting) };
    let inlet = move |received: Vec<Received>| {
        let count = received.len();
        if waiting.load(Ordering::Acquire) + count > MAX_WAITING {
            return Taken::Dropped;
        }
        waiting.fetch_add(count, Ordering::AcqRel);
        // there is room, unless the task has ended
        if sender.try_send(received).is_ok() { Taken::Yes } else { Taken::Dropped }
    };
    (Box::new(inlet), outlet)
}

impl Outlet {
    /// The next batch; `None` when the session is over. Dropping it loses nothing.
    async fn next(&mut self) -> Option<Vec<Received>> {
        let batch = self.batches.recv().await?;
        self.waiting.fetch_sub(batch.len(), Ordering::AcqRel);
        Some(batch)
    }
}

/// Which of the broadcast's tracks what a publisher sends is of: of several encodings the first that the offer names is the first
/// track, which readers take that know but one.
pub(super) struct Tracks(Vec<(Layer, Track, media_rtp::Codec)>);

impl Tracks {
    pub(super) fn new(offer: &Offer, legs: &[Leg]) -> Self {
        let of_leg = |(track, leg): (usize, &Leg)| {
            let layers = offer.sections.get(leg.section).map_or(1, |section| section.layers()).min(MAX_LAYERS);
            let (kind, codec) = (kind(leg.format.codec.kind()), codec(leg.format.codec));
            (0_u8..).take(layers).map(move |index| (Layer { track, layer: index.into() }, Track { kind, index }, codec))
        };
        Self(legs.iter().enumerate().flat_map(of_leg).collect())
    }

    fn of(&self, layer: Layer) -> Option<Track> {
        self.0.iter().find(|(known, _, _)| *known == layer).map(|(_, track, _)| *track)
    }

    fn leg(&self, track: Track) -> Option<usize> {
        self.0.iter().find(|(_, known, _)| *known == track).map(|(layer, _, _)| layer.track)
    }

    /// Those of pictures.
    fn pictures(&self) -> impl Iterator<Item = usize> {
        self.0
            .iter()
            .filter(|(layer, track, _)| track.kind == Kind::Video && layer.layer == 0)
            .map(|(layer, _, _)| layer.track)
    }

    fn receiver(&self, now: Instant) -> Receiver {
        let tracks: Vec<_> = self.0.iter().map(|(_, track, codec)| (*track, *codec)).collect();
        Receiver::new(&tracks, now)
    }
}

fn kind(kind: MediaKind) -> Kind {
    match kind {
        MediaKind::Audio => Kind::Audio,
        MediaKind::Video => Kind::Video,
    }
}

fn codec(codec: Codec) -> media_rtp::Codec {
    match codec {
        Codec::H264(_) => media_rtp::Codec::H264,
        Codec::H265 => media_rtp::Codec::H265,
        Codec::Vp8 => media_rtp::Codec::Vp8,
        Codec::Vp9 => media_rtp::Codec::Vp9,
        Codec::Av1 => media_rtp::Codec::Av1,
        Codec::Opus => media_rtp::Codec::Opus,
    }
}

/// What a session brings.
pub(super) struct Session {
    pub(super) webrtc: WebRtc,
    pub(super) id: SessionId,
    pub(super) tracks: Tracks,
    pub(super) outlet: Outlet,
    pub(super) ended: mpsc::Receiver<Cause>,
    /// How long a group of pictures may be: browsers send keyframes only when they are asked, and readers begin with one.
    pub(super) group: Duration,
}

impl Session {
    /// Asks the peer for a keyframe of a track; how often at most, its worker decides.
    fn ask(&self, leg: usize) {
        if let Some(ufrag) = self.webrtc.sessions().ufrag(self.id) {
            self.webrtc.pool().want_keyframe(&ufrag, leg);
        }
    }
}

/// One publisher's session.
pub(super) struct Publishing<S> {
    publisher: Publisher<S>,
    session: Session,
    receiver: Receiver,
    events: Vec<Event>,
    /// The last keyframe of the first picture track.
    keyframe: Option<Instant>,
    is_open: bool,
    timer: Pin<Box<Sleep>>,
}

/// What the publisher's task was woken for.
enum Woken {
    Media(Vec<Received>),
    Ended(Cause),
    /// A reader cannot decode before a keyframe.
    KeyframeWanted,
    Timer,
    Turn(Turn),
}

impl<S: Store> Publishing<S> {
    pub(super) fn new(publisher: Publisher<S>, session: Session, now: Instant) -> Self {
        let receiver = session.tracks.receiver(now);
        let timer = Box::pin(sleep_until(now.into()));
        Self { publisher, session, receiver, events: Vec::new(), keyframe: None, is_open: true, timer }
    }

    pub(super) async fn run(mut self) {
        while !self.publisher.is_over() {
            match self.wait().await {
                Woken::Media(batch) => self.media(batch),
                Woken::Ended(cause) => self.ended(&cause),
                Woken::KeyframeWanted => self.want_keyframe(),
                Woken::Timer => self.due(Instant::now()),
                // what the peer is to be told is said by closing its session
                Woken::Turn(turn) => self.publisher.take(turn),
            }
        }
        let Self { publisher, session, .. } = self;
        publisher.finish().await;
        if let Some(ufrag) = session.webrtc.sessions().ufrag(session.id) {
            session.webrtc.pool().end(&ufrag);
        }
    }

    async fn wait(&mut self) -> Woken {
        if let Some(deadline) = self.deadline().map(tokio::time::Instant::from)
            // one that is too early costs a tick; most move away with each packet
            && (self.timer.is_elapsed() || deadline < self.timer.deadline())
        {
            self.timer.as_mut().reset(deadline);
        }
        let has_deadline = !self.timer.is_elapsed();
        let stream = Arc::clone(self.publisher.stream());
        tokio::select! {
            biased;
            turn = self.publisher.next() => Woken::Turn(turn),
            Some(batch) = self.session.outlet.next() => Woken::Media(batch),
            ended = self.session.ended.recv(), if self.is_open => Woken::Ended(ended.unwrap_or(Cause::Closed)),
            () = stream.keyframe_wanted().notified() => Woken::KeyframeWanted,
            () = self.timer.as_mut(), if has_deadline => Woken::Timer,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let given_up = self.receiver.poll_timeout().map(|(due, _)| due);
        let group = self.keyframe.map(|keyframe| keyframe + self.session.group);
        [given_up, group].into_iter().flatten().min()
    }

    fn media(&mut self, batch: Vec<Received>) {
        for received in batch {
            match received {
                Received::Packet(packet) => {
                    let Some(track) = self.session.tracks.of(packet.layer) else { continue };
                    let rtp = Rtp {
                        sequence: packet.sequence,
                        timestamp: packet.timestamp,
                        marker: packet.marker,
                        payload: packet.payload,
                    };
                    self.receiver.push(track, rtp, packet.came, &mut self.events);
                }
                Received::Report(report) => {
                    let Some(track) = self.session.tracks.of(report.layer) else { continue };
                    let report = SenderReport { ntp: report.ntp, timestamp: report.timestamp };
                    self.receiver.sender_report(track, report);
                }
            }
        }
        self.take_events();
    }

    fn due(&mut self, now: Instant) {
        self.receiver.handle_timeout(now, &mut self.events);
        self.take_events();
        if self.keyframe.is_some_and(|keyframe| keyframe + self.session.group <= now) {
            // should it not come, it is asked for again as long after
            self.keyframe = Some(now);
            self.want_keyframe();
        }
    }

    fn take_events(&mut self) {
        for event in std::mem::take(&mut self.events) {
            match event {
                Event::Packet(packet) => self.packet(packet),
                // the worker asks for it, and knows the path better
                Event::Missing { .. } => {}
                Event::KeyframeNeeded(track) => {
                    if let Some(leg) = self.session.tracks.leg(track) {
                        self.session.ask(leg);
                    }
                }
            }
        }
    }

    fn packet(&mut self, packet: Packet) {
        let is_frame = match packet.role {
            Role::Header | Role::Annotation => false,
            Role::Key | Role::Dependent => true,
        };
        if packet.role == Role::Key && packet.track == Track::first(Kind::Video) {
            self.keyframe = Some(Instant::now());
        }
        self.publisher.push(packet, is_frame);
    }

    fn want_keyframe(&self) {
        self.session.tracks.pictures().for_each(|leg| self.session.ask(leg));
    }

    fn ended(&mut self, cause: &Cause) {
        self.is_open = false;
        debug!(%cause, "the publisher's session is over");
        self.publisher.left(match cause {
            Cause::PeerClosed | Cause::Closed => broadcast::Cause::Closed,
            Cause::NeverConnected | Cause::ConsentExpired | Cause::Dtls(_) => broadcast::Cause::Lost,
        });
    }
}
