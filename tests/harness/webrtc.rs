//! A WebRTC client: plays over WHEP and publishes over WHIP, on the `rtc` crate, which shares with ours the DTLS alone.
//!
//! It counts what came, whole frames and what was missing, asks for what is missing as browsers do, and can lose datagrams and
//! move to another port. `webrtc-client` is the same as a program, for where a test's process cannot be.

mod clip;
mod frames;
mod link;
mod peer;
mod signalling;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{sync::mpsc, task::JoinSet};

pub use self::{
    clip::Clip,
    frames::Track,
    link::Loss,
    peer::Srtp,
    signalling::{Answer, Refused},
};
use self::{
    link::Link,
    peer::{Command, Peer},
    signalling::Resource,
};
use crate::wait;

/// A debug build on a busy machine; on a quiet one each wait takes well under a second.
const DEADLINE: Duration = Duration::from_secs(60);
/// Commands are few, and each is done at once.
const COMMANDS: usize = 16;

/// How a client connects, and what its network does to it.
#[derive(Clone, Debug)]
pub struct Options {
    pub transport: Transport,
    pub bind: IpAddr,
    pub loss: Loss,
    pub srtp: Srtp,
    /// Sent as a bearer token.
    pub token: Option<String>,
    /// Whether what is missing is asked for.
    pub nack: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    #[default]
    Udp,
    Tcp,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            transport: Transport::Udp,
            bind: Ipv4Addr::LOCALHOST.into(),
            loss: Loss::default(),
            srtp: Srtp::Any,
            token: None,
            nack: true,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Connecting,
    Connected,
    /// Checks are not answered; they go on.
    Disconnected,
    Failed,
    /// By the server.
    Closed,
}

/// What a client has seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub state: State,
    /// Since the offer was sent.
    pub answered_after: Option<Duration>,
    pub connected_after: Option<Duration>,
    pub video: Track,
    pub audio: Track,
    /// MIME types, in lower case.
    pub codecs: Vec<String>,
    /// What a publisher sent, and what it was asked for.
    pub sent: Sent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub packets: u64,
    pub bytes: u64,
    pub frames: u64,
    /// PLI and NACK that came.
    pub keyframe_requests: u64,
    pub nacks: u64,
}

/// A session that was answered. Dropping it falls silent, as a peer does whose machine is gone.
#[derive(Debug)]
pub struct Client {
    /// Where it was answered, and what the answer was.
    pub answer: Answer,
    resource: Resource,
    began: Instant,
    seen: Arc<Mutex<Seen>>,
    commands: mpsc::Sender<Command>,
    task: JoinSet<Result<()>>,
}

/// Asks to play.
///
/// # Errors
/// [`Refused`] when the answer is another than 201.
pub async fn play(url: &str, options: &Options) -> Result<Client> {
    connect(url, None, options).await
}

/// Publishes a clip again and again, with silence for sound.
///
/// # Errors
/// As [`play`].
pub async fn publish(url: &str, clip: &Clip, options: &Options) -> Result<Client> {
    connect(url, Some(clip.clone()), options).await
}

async fn connect(url: &str, clip: Option<Clip>, options: &Options) -> Result<Client> {
    let udp = Link::udp(options.bind, options.loss).await?;
    let (mut peer, offer) = Peer::offer(options, &udp, clip)?;
    let began = now();
    let (answer, resource) = signalling::post(url, &offer, options.token.as_deref()).await?;
    let answered_after = Some(began.elapsed());
    let link = match options.transport {
        Transport::Udp => udp,
        Transport::Tcp => {
            let server = signalling::tcp_candidate(&answer.body).context("the answer has no candidate of TCP")?;
            Link::tcp(options.bind, server, options.loss).await?
        }
    };
    peer.answer(&answer.body)?;
    let seen = Arc::new(Mutex::new(Seen { answered_after, ..Seen::default() }));
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let mut task = JoinSet::new();
    task.spawn(peer.run(link, inbox, seen.clone(), began));
    Ok(Client { answer, resource, began, seen, commands, task })
}

impl Client {
    /// What it has seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until that is seen.
    ///
    /// # Errors
    /// At the deadline, or when the client has failed; with what was seen.
    pub async fn until(&mut self, what: &str, is_seen: impl Fn(&Seen) -> bool) -> Result<Seen> {
        wait::until(what, DEADLINE, async || {
            if let Some(ended) = self.task.try_join_next() {
                return Ok(Err(anyhow::anyhow!("the client ended with {ended:?}")));
            }
            let seen = self.seen();
            if is_seen(&seen) { Ok(Ok(seen)) } else { Err(format!("{seen:?}")) }
        })
        .await?
    }

    /// Waits until it is connected.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub async fn connected(&mut self) -> Result<Seen> {
        self.until("the session to be connected", |seen| seen.state == State::Connected).await
    }

    /// Waits for so many more whole pictures, and returns how many there were before and are now.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub async fn pictures(&mut self, more: u64) -> Result<Seen> {
        let before = self.seen().video.frames;
        self.until(&format!("{more} pictures after {before}"), |seen| seen.video.frames >= before + more).await
    }

    /// From the offer to the first picture.
    #[must_use]
    pub fn first_picture_after(&self) -> Option<Duration> {
        self.seen().video.first_frame.map(|at| at.duration_since(self.began))
    }

    /// Asks for a keyframe (PLI).
    ///
    /// # Errors
    /// When the client has ended.
    pub async fn ask_for_keyframe(&self) -> Result<()> {
        self.command(Command::Keyframe).await
    }

    /// Goes on from another port without telling anybody, as a NAT makes it.
    ///
    /// # Errors
    /// When the client has ended.
    pub async fn rebind(&self) -> Result<()> {
        self.command(Command::Rebind).await
    }

    /// Loses that from now on.
    ///
    /// # Errors
    /// When the client has ended.
    pub async fn lose(&self, loss: Loss) -> Result<()> {
        self.command(Command::Lose(loss)).await
    }

    /// Sends a PATCH with a fragment of SDP to the session's address.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn patch(&self, fragment: &str, if_match: Option<&str>) -> Result<Answer> {
        self.resource.patch(fragment, if_match).await
    }

    /// Ends the session by DELETE, and says how that was answered.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn delete(&self) -> Result<Answer> {
        self.resource.delete().await
    }

    /// Ends the session by DELETE and awaits that the client is over.
    ///
    /// # Errors
    /// When the DELETE is refused, or the client had failed before.
    pub async fn close(mut self) -> Result<Seen> {
        let answer = self.delete().await?;
        ensure!(matches!(answer.status, 200 | 204), "DELETE was answered {} {}", answer.status, answer.body);
        let seen = self.seen();
        drop(self.commands);
        while let Some(ended) = self.task.join_next().await {
            ended??;
        }
        Ok(seen)
    }

    async fn command(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.ok().context("the client has ended")
    }
}

fn now() -> Instant {
    Instant::now()
}
