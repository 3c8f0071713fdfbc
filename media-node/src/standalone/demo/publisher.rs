//! Publishes the clip in a loop, as an encoder would: over TCP, through RTMP, in real time.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use bytes::BytesMut;
use rtmp::{
    Kind, Message,
    client::{Event, Session, Target},
    tag::{AudioTag, Part, VideoTag},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

use super::clip;

/// Longest wait for the server's answers.
const ANSWER: Duration = Duration::from_secs(10);
/// From one loop's last frame to the next one's first: one frame.
const FRAME_MS: u32 = 40;

/// Publishes for `length`, then ends in due form.
pub(crate) async fn publish(server: SocketAddr, app: &str, stream: &str, length: Duration) -> anyhow::Result<()> {
    let host = if server.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], server.port())) } else { server };
    let target =
        Target::parse(&format!("rtmp://{host}/{app}/{stream}")).context("the address cannot be published to")?;
    let socket = TcpStream::connect(host).await.context("failed to connect")?;
    let mut publisher = Publisher { socket, session: Session::publish(target), input: BytesMut::new() };
    timeout(ANSWER, publisher.start()).await.context("no answer to the publish")??;
    publisher.play(length).await?;
    publisher.session.finish();
    publisher.flush().await
}

struct Publisher {
    socket: TcpStream,
    session: Session,
    input: BytesMut,
}

impl Publisher {
    async fn start(&mut self) -> anyhow::Result<()> {
        while !self.session.is_started() {
            self.flush().await?;
            self.read().await?;
        }
        Ok(())
    }

    async fn play(&mut self, length: Duration) -> anyhow::Result<()> {
        let messages = clip::messages();
        let loop_ms = messages.last().map_or(FRAME_MS, |last| last.timestamp_ms + FRAME_MS);
        let start = Instant::now();
        for turn in 0_u32.. {
            for message in messages.iter().filter(|message| turn == 0 || is_frame(message)) {
                let timestamp_ms = turn * loop_ms + message.timestamp_ms;
                let due = Duration::from_millis(timestamp_ms.into());
                if due >= length {
                    return Ok(());
                }
                self.wait_until(start + due).await?;
                self.session.send(&Message { timestamp_ms, ..message.clone() });
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn wait_until(&mut self, due: Instant) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = sleep_until(due) => return Ok(()),
                read = self.read() => read?,
            }
        }
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        self.input.reserve(4 << 10);
        if self.socket.read_buf(&mut self.input).await.context("the connection broke")? == 0 {
            bail!("the server closed the connection");
        }
        while let Some(event) = self.session.receive(&mut self.input)? {
            match event {
                Event::Started | Event::Media(_) => {}
                Event::Refused { code, description } => bail!("refused with {code}: {description}"),
                Event::Ended { code } => bail!("ended by the server with {code}"),
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let output = self.session.take_output();
        self.socket.write_all(&output).await.context("the connection broke")
    }
}

/// Headers and metadata are sent once, not with each loop.
fn is_frame(message: &Message) -> bool {
    match message.kind {
        Kind::Data => false,
        Kind::Audio => AudioTag::parse(&message.payload).is_ok_and(|tag| tag.part == Part::Coded),
        Kind::Video => VideoTag::parse(&message.payload).is_ok_and(|tag| tag.part == Part::Coded),
    }
}
