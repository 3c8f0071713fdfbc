//! An RTMP client that shows the server's status codes, which ffmpeg and GStreamer keep to themselves, and that can stop
//! half-way: connected and silent, published and without media.

use std::time::{Duration, Instant};

use ::rtmp::{
    Kind, Message,
    client::{Event, Session, Target},
};
use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{interval, timeout},
};

/// The server answers a publish within 5 s also when its store does not.
const ANSWER: Duration = Duration::from_secs(20);
/// How often it is looked what of a clip is due: four times a frame.
const TICK: Duration = Duration::from_millis(10);

/// How a publish or play was answered.
#[derive(Debug)]
pub enum Answer {
    Started(Box<Client>),
    /// The status code, such as `NetStream.Publish.BadName`.
    Refused(String),
    /// The connection was closed without an answer.
    Closed,
}

/// A connection whose publish or play has started. Dropping it closes the connection without a word.
#[derive(Debug)]
pub struct Client {
    session: Session,
    stream: TcpStream,
    input: BytesMut,
}

/// Asks to publish.
///
/// # Errors
/// When the server cannot be reached, breaks the protocol or does not answer.
pub async fn publish(url: &str) -> Result<Answer> {
    let target = Target::parse(url)?;
    let stream = TcpStream::connect((target.host(), target.port())).await?;
    ask(Session::publish(target), stream).await
}

/// Asks to play.
///
/// # Errors
/// As [`publish`].
pub async fn play(url: &str) -> Result<Answer> {
    let target = Target::parse(url)?;
    let stream = TcpStream::connect((target.host(), target.port())).await?;
    ask(Session::play(target), stream).await
}

async fn ask(session: Session, stream: TcpStream) -> Result<Answer> {
    let mut client = Client { session, stream, input: BytesMut::new() };
    match timeout(ANSWER, client.next()).await.context("the server does not answer")?? {
        Some(Event::Started) => Ok(Answer::Started(Box::new(client))),
        Some(Event::Refused { code, .. }) => Ok(Answer::Refused(code)),
        Some(other) => bail!("not an answer: {other:?}"),
        None => Ok(Answer::Closed),
    }
}

impl Answer {
    /// Returns the client of a request that was granted.
    ///
    /// # Errors
    /// When it was refused.
    pub fn started(self) -> Result<Client> {
        match self {
            Self::Started(client) => Ok(*client),
            other => bail!("it was not started: {other:?}"),
        }
    }

    /// Returns the status code of a request that was refused.
    ///
    /// # Errors
    /// When it was granted.
    pub fn refused(self) -> Result<String> {
        match self {
            Self::Refused(code) => Ok(code),
            other => bail!("it was not refused: {other:?}"),
        }
    }
}

impl Client {
    /// Returns what the server does next; `None` when it closes the connection.
    ///
    /// # Errors
    /// When the server breaks the protocol.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            let event = self.session.receive(&mut self.input)?;
            self.flush().await?;
            if event.is_some() {
                return Ok(event);
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    /// Sends a video tag of H.264: `keyframe` or not, of `size` bytes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send_video(&mut self, timestamp_ms: u32, size: usize) -> Result<()> {
        let mut payload = vec![0x17, 1, 0, 0, 0];
        payload.resize(size.max(payload.len()), 0);
        self.send(&Message { kind: Kind::Video, timestamp_ms, payload: Bytes::from(payload) }).await
    }

    /// Sends a message as it is.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, message: &Message) -> Result<()> {
        self.session.send(message);
        self.flush().await
    }

    /// Sends a clip in real time until then, or its end. Returns how much of it was sent.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send_clip(&mut self, clip: &[Message], until: Instant) -> Result<Duration> {
        let (start, mut ticks, mut sent) = (Instant::now(), interval(TICK), 0);
        let mut messages = clip.iter();
        while Instant::now() < until {
            ticks.tick().await;
            let now = u32::try_from(start.elapsed().as_millis())?;
            while let Some(message) = messages.as_slice().first().filter(|message| message.timestamp_ms <= now) {
                self.send(message).await?;
                sent = message.timestamp_ms;
                messages.next();
            }
        }
        Ok(Duration::from_millis(sent.into()))
    }

    /// Unpublishes in due form, and closes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn finish(mut self) -> Result<()> {
        self.session.finish();
        self.flush().await?;
        self.stream.shutdown().await?;
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let output = self.session.take_output();
        if !output.is_empty() {
            self.stream.write_all(&output).await?;
        }
        Ok(())
    }
}
