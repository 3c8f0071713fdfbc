//! A player of LL-HLS as the RFC wants it: it asks for the next part before it is there, and holds every answer to the rules.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use reqwest::{Client, Response, StatusCode, Url};

use super::{Part, Playlist};
use crate::{http, wait};

/// Longer than any answer may wait.
const TIMEOUT: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Player {
    client: Client,
    media: Url,
    pub playlist: Playlist,
    reloads: usize,
    /// Delta updates among them.
    pub deltas: usize,
}

impl Player {
    /// Reads the multivariant playlist, and the media playlist that it names.
    ///
    /// # Errors
    /// When there is none, or a rule is broken.
    pub async fn tune_in(url: &str) -> Result<Self> {
        http::install_crypto();
        let client = Client::builder().timeout(TIMEOUT).no_proxy().build()?;
        Self::with(client, url).await
    }

    /// As [`Self::tune_in`], with a client of one's own.
    ///
    /// # Errors
    /// As [`Self::tune_in`].
    pub async fn with(client: Client, url: &str) -> Result<Self> {
        let url = Url::parse(url)?;
        let text = text(&client, url.clone()).await?;
        let media =
            text.lines().find(|line| !line.starts_with('#')).with_context(|| format!("no variant in {text}"))?;
        let media = url.join(media)?;
        let playlist = Playlist::parse(&self::text(&client, media.clone()).await?)?;
        Ok(Self { client, media, playlist, reloads: 0, deltas: 0 })
    }

    /// Goes on with the playlist at another address, as when a Service chooses another pod.
    ///
    /// # Errors
    /// When the address is none.
    pub fn change_to(&mut self, address: &str) -> Result<()> {
        let path = self.media.path().to_owned();
        self.media = Url::parse(&format!("http://{address}{path}"))?;
        Ok(())
    }

    /// The number of the segment that comes next.
    #[must_use]
    pub fn next_segment(&self) -> u64 {
        self.playlist.media_sequence + self.playlist.segments.len() as u64
    }

    /// Asks for the playlist with the next part and, at the same time, for the part itself; every second time for a delta.
    ///
    /// # Errors
    /// When a rule is broken.
    pub async fn reload(&mut self) -> Result<()> {
        let (segment, part) = (self.next_segment(), self.playlist.open.len());
        let skip = if self.reloads % 2 == 1 { "&_HLS_skip=YES" } else { "" };
        self.reloads += 1;
        let mut url = self.media.clone();
        url.set_query(Some(&format!("_HLS_msn={segment}&_HLS_part={part}{skip}")));
        let hinted = async {
            match &self.playlist.preload_hint {
                Some(hint) => self.ask(hint).await.map(Some),
                None => Ok(None),
            }
        };
        let (text, hinted) = tokio::try_join!(patiently(&self.client, url), hinted)?;
        let next = Playlist::parse(&text)?;
        self.deltas += usize::from(next.skipped > 0);
        let next = self.playlist.followed_by(next)?;
        let has_more =
            next.ended || next.media_sequence + next.segments.len() as u64 > segment || next.open.len() > part;
        ensure!(has_more, "part {part} of segment {segment} was awaited, and is not in\n{text}");
        if let Some(hinted) = hinted.filter(|_| !next.ended) {
            // a part that was hinted at and did not come is no error (§4.4.5.3)
            ensure!(matches!(hinted.status().as_u16(), 200 | 404 | 503), "{:?}", hinted.status());
            if hinted.status() == 200 {
                check(&hinted.bytes().await?)?;
            }
        }
        self.playlist = next;
        Ok(())
    }

    /// Asks for the end of the next segment, which is some parts away: others who do so wait for the same.
    ///
    /// # Errors
    /// When the answer has less.
    pub async fn reload_at_once(&mut self) -> Result<()> {
        let segment = self.next_segment();
        let mut url = self.media.clone();
        url.set_query(Some(&format!("_HLS_msn={segment}")));
        self.playlist = self.playlist.followed_by(Playlist::parse(&text(&self.client, url).await?)?)?;
        ensure!(self.next_segment() > segment, "segment {segment} was awaited, and is not there");
        Ok(())
    }

    /// Reloads until there were so many more segments, and reads each with its parts.
    ///
    /// # Errors
    /// When a rule is broken, or the bytes of a segment are not those of its parts.
    pub async fn watch(&mut self, segments: u64) -> Result<()> {
        let mut read = 0;
        while read < segments && !self.playlist.ended {
            let before = self.next_segment();
            self.reload().await?;
            let new: Vec<_> =
                self.playlist.segments.iter().filter(|segment| segment.number >= before).cloned().collect();
            for segment in new {
                let whole = self.bytes(&segment.uri).await?;
                let mut parts = Vec::new();
                for Part { uri, .. } in &segment.parts {
                    parts.extend_from_slice(&self.bytes(uri).await?);
                }
                // after a jump there are some whose parts have left the playlist
                ensure!(parts.is_empty() || whole == parts, "{} is not the sum of its parts", segment.uri);
                self.bytes(&segment.map.context("a map")?).await?;
                read += 1;
            }
        }
        Ok(())
    }

    /// Asks for a file beside the playlist.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn ask(&self, uri: &str) -> Result<Response> {
        Ok(self.client.get(self.media.join(uri)?).send().await?)
    }

    async fn bytes(&self, uri: &str) -> Result<Bytes> {
        let bytes = self.ask(uri).await?.error_for_status()?.bytes().await?;
        check(&bytes)?;
        Ok(bytes)
    }
}

fn check(file: &[u8]) -> Result<()> {
    let kind = file.get(4..8).unwrap_or_default();
    ensure!(kind == b"moof" || kind == b"ftyp", "no fragment: {kind:?}");
    Ok(())
}

/// Asks again for as long as the server says that it has nothing yet, as when a publisher is away (§6.2.5.2).
async fn patiently(client: &Client, url: Url) -> Result<String> {
    let answered = wait::until(format!("an answer to {url}"), TIMEOUT, async || {
        let answer = client.get(url.clone()).send().await.map_err(|error| format!("{error:?}"))?;
        let may_come =
            answer.status() == StatusCode::SERVICE_UNAVAILABLE && answer.headers().contains_key("retry-after");
        if may_come { Err("nothing yet".to_owned()) } else { Ok(answer) }
    });
    read(answered.await?).await
}

async fn text(client: &Client, url: Url) -> Result<String> {
    read(client.get(url).send().await?).await
}

async fn read(answer: Response) -> Result<String> {
    let (status, url) = (answer.status(), answer.url().clone());
    let text = answer.text().await?;
    ensure!(status.is_success(), "{status} for {url}: {text}");
    Ok(text)
}
