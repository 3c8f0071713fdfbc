//! A publisher as light as can be, that comes back whenever it is cut off, and a viewer that stays for as long as it is let.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ::rtmp::client::Event;
use anyhow::{Result, ensure};
use tokio::{task::JoinSet, time::interval};
use tokio_util::sync::CancellationToken;

use crate::{
    rtmp::{self, Answer, Client},
    wait,
};

/// Between two frames, and before a publisher that was refused or cut off comes back.
const FRAME: Duration = Duration::from_millis(200);
const FRAME_BYTES: usize = 200;

/// Publishes until it is stopped. Dropping it closes its connection without a word.
#[derive(Debug)]
pub struct Encoder {
    seen: Arc<Mutex<Published>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// What became of an encoder's connections.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// Those that were taken.
    pub connections: usize,
    /// Status codes of refusals, in order.
    pub refusals: Vec<String>,
    /// Connections that were neither taken nor refused nor closed.
    pub failures: Vec<String>,
    /// Longest time between the last frame of a connection and the first of the next.
    pub longest_gap: Duration,
    last: Option<Instant>,
}

impl Encoder {
    /// Begins to publish to `url`.
    #[must_use]
    pub fn start(url: &str) -> Self {
        let (seen, stop) = (Arc::default(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(publish(url.to_owned(), Arc::clone(&seen), stop.clone()));
        Self { seen, stop, tasks }
    }

    /// What became of its connections so far.
    #[must_use]
    pub fn seen(&self) -> Published {
        lock(&self.seen).clone()
    }

    /// Unpublishes in due form.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await;
    }
}

async fn publish(url: String, seen: Arc<Mutex<Published>>, stop: CancellationToken) {
    let mut pause = interval(FRAME);
    while !stop.is_cancelled() {
        pause.tick().await;
        match rtmp::publish(&url).await {
            Ok(Answer::Started(client)) => feed(*client, &seen, &stop).await,
            Ok(Answer::Refused(code)) => lock(&seen).refusals.push(code),
            Ok(Answer::Closed) => {}
            Err(error) => lock(&seen).failures.push(format!("{error:#}")),
        }
    }
}

async fn feed(mut client: Client, seen: &Mutex<Published>, stop: &CancellationToken) {
    let mut frames = interval(FRAME);
    let start = Instant::now();
    lock(seen).connections += 1;
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                // Whoever has closed the connection needs no farewell.
                drop(client.finish().await);
                return;
            }
            _ = frames.tick() => {
                let time = u32::try_from(start.elapsed().as_millis()).unwrap_or(u32::MAX);
                if client.send_video(time, FRAME_BYTES).await.is_err() {
                    return;
                }
                let mut seen = lock(seen);
                let now = Instant::now();
                let gap = seen.last.replace(now).map_or(Duration::ZERO, |last| now - last);
                seen.longest_gap = seen.longest_gap.max(gap);
            }
            event = client.next() => match event {
                Ok(Some(Event::Refused { code, .. })) => lock(seen).refusals.push(code),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            },
        }
    }
}

/// Plays until the stream ends. Dropping it closes its connection.
#[derive(Debug)]
pub struct Viewer {
    seen: Arc<Mutex<Played>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Clone, Default)]
struct Played {
    packets: usize,
    newest: u32,
    /// A packet whose time was before the one before it.
    ran_back: Option<(u32, u32)>,
    over: bool,
}

impl Viewer {
    /// Begins to play `url`.
    ///
    /// # Errors
    /// When the stream is refused.
    pub async fn start(url: &str) -> Result<Self> {
        let client = rtmp::play(url).await?.started()?;
        let seen = Arc::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(watch(client, Arc::clone(&seen)));
        Ok(Self { seen, _tasks: tasks })
    }

    /// Waits until some more of the stream has come.
    ///
    /// # Errors
    /// When it does not, the stream ended for this viewer, or time has run back in it.
    pub async fn sees_more(&self, deadline: Duration) -> Result<()> {
        let before = lock(&self.seen).packets;
        wait::until("the viewer to see more", deadline, async || {
            let seen = lock(&self.seen).clone();
            if seen.over || seen.packets >= before + 5 { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await?;
        let seen = lock(&self.seen).clone();
        ensure!(!seen.over && seen.ran_back.is_none(), "{seen:?}");
        Ok(())
    }
}

impl Viewer {
    /// Waits until the stream ends for this viewer.
    ///
    /// # Errors
    /// When it does not, or time has run back in it.
    pub async fn ends(&self, deadline: Duration) -> Result<()> {
        wait::until("the stream to end", deadline, async || {
            let seen = lock(&self.seen).clone();
            if seen.over { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await?;
        let ran_back = lock(&self.seen).ran_back;
        ensure!(ran_back.is_none(), "time ran back: {ran_back:?}");
        Ok(())
    }
}

async fn watch(mut client: Client, seen: Arc<Mutex<Played>>) {
    while let Ok(Some(event)) = client.next().await {
        match event {
            Event::Media(message) => {
                let mut seen = lock(&seen);
                if message.timestamp_ms < seen.newest {
                    seen.ran_back = Some((seen.newest, message.timestamp_ms));
                }
                seen.newest = message.timestamp_ms;
                seen.packets += 1;
            }
            Event::Ended { .. } | Event::Refused { .. } => break,
            Event::Started => {}
        }
    }
    lock(&seen).over = true;
}

fn lock<T>(seen: &Mutex<T>) -> MutexGuard<'_, T> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
