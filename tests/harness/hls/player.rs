//! A player of LL-HLS as the RFC wants it: it asks for the next part before it is there, and holds every answer to the rules.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use reqwest::{Client, Response, Url};

use super::{Part, Playlist};
use crate::http;

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
        let (text, hinted) = tokio::try_join!(text(&self.client, url), hinted)?;
        let next = Playlist::parse(&text)?;
        self.deltas += usize::from(next.skipped > 0);
        let next = self.playlist.followed_by(next)?;
        let has_more =
            next.ended || next.media_sequence + next.segments.len() as u64 > segment || next.open.len() > part;
        ensure!(has_more, "part {part} of segment {segment} was awaited, and is not in\n{text}");
        if let Some(hinted) = hinted.filter(|_| !next.ended) {
            // a part that was hinted at and did not come is no error (§4.4.5.3)
            ensure!(matches!(hinted.status().as_u16(), 200 | 404), "{:?}", hinted.status());
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

    /// Reloads until so many more segments are complete, and reads each with its parts.
    ///
    /// # Errors
    /// When a rule is broken, or the bytes of a segment are not those of its parts.
    pub async fn watch(&mut self, segments: u64) -> Result<()> {
        let until = self.next_segment() + segments;
        while self.next_segment() < until && !self.playlist.ended {
            let before = self.next_segment();
            self.reload().await?;
            for number in before..self.next_segment() {
                let segment = self.playlist.segments.iter().find(|segment| segment.number == number);
                let segment = segment.with_context(|| format!("segment {number} is there"))?.clone();
                let whole = self.bytes(&segment.uri).await?;
                let mut parts = Vec::new();
                for Part { uri, .. } in &segment.parts {
                    parts.extend_from_slice(&self.bytes(uri).await?);
                }
                ensure!(whole == parts, "{} is not the sum of its parts", segment.uri);
                self.bytes(&segment.map.context("a map")?).await?;
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

async fn text(client: &Client, url: Url) -> Result<String> {
    let answer = client.get(url.clone()).send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status.is_success(), "{status} for {url}: {text}");
    Ok(text)
}
