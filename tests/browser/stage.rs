//! A standalone server, and a page of it in a browser.

use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;
use tests::{
    browser::{Browser, View},
    http,
    media::Publisher,
    receiver::Receiver,
    repository,
    service::{Launch, Service},
    wait,
};

/// Within this everything happens that is not waiting for a schedule; a busy machine is slow.
pub(crate) const SOON: Duration = Duration::from_secs(60);
const VIDEO: &str = "-f lavfi -i testsrc2=size=320x180:rate=25";
const AUDIO: &str = "-f lavfi -i sine=frequency=440:sample_rate=48000";
/// B-frames, which WebRTC cannot show, and a keyframe each second.
const REORDERED: [&str; 2] =
    ["-pix_fmt yuv420p -c:v libx264 -preset ultrafast -bf 2 -b_strategy 0 -g 25 -sc_threshold 0", "-c:a aac -b:a 64k"];
/// The same without.
const IN_ORDER: [&str; 2] =
    ["-pix_fmt yuv420p -c:v libx264 -preset ultrafast -tune zerolatency -g 25 -sc_threshold 0", "-c:a aac -b:a 64k"];

pub(crate) struct Stage {
    pub(crate) service: Service,
    pub(crate) folder: TempDir,
}

impl Stage {
    pub(crate) async fn new(name: &str) -> Result<Self> {
        Self::with(name, &[]).await
    }

    pub(crate) async fn with(name: &str, arguments: &[&str]) -> Result<Self> {
        let folder = repository::folder(name)?;
        let service = Launch::standalone(folder.path()).args(arguments.iter().copied()).start().await?;
        Ok(Self { service, folder })
    }

    /// A server whose one Broadcast, `show`, tells a receiver, and may have a key.
    pub(crate) async fn with_hooks(name: &str, receiver: &Receiver, key: Option<&str>) -> Result<Self> {
        let folder = repository::folder(name)?;
        let manifests = folder.path().join("manifests");
        std::fs::create_dir(&manifests)?;
        let publish = key.map_or("", |_key| ", publish: {streamKeySecretRef: {name: keys, key: show}}");
        let objects = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: keys}}\nstringData: {{show: \"{}\"}}\n---\n\
             apiVersion: tallylight.dev/v1alpha1\nkind: Broadcast\nmetadata: {{name: show}}\n\
             spec: {{pool: default, listenerHookURL: \"{}\"{publish}}}\n",
            key.unwrap_or("none"),
            receiver.url("hook"),
        );
        std::fs::write(manifests.join("show.yaml"), objects)?;
        let manifests = format!("--manifests={}", manifests.display());
        let service = Launch::standalone(folder.path()).args([manifests.as_str()]).start().await?;
        Ok(Self { service, folder })
    }

    /// Starts the server again, on its data and at the address that it had.
    pub(crate) async fn restart_at(&mut self, http: &str) -> Result<()> {
        self.service = Launch::standalone(self.folder.path()).http_at(http).start().await?;
        Ok(())
    }

    pub(crate) fn url(&self, path: &str) -> Result<String> {
        Ok(format!("http://{}{path}", self.service.address("http")?))
    }

    pub(crate) fn page(&self, query: &str) -> Result<String> {
        self.url(&format!("/LiveApp/play?{query}"))
    }

    pub(crate) fn publish(&self, stream: &str) -> Result<Publisher> {
        self.publish_for(stream, "")
    }

    /// Publishes for so long, as ffmpeg says it.
    pub(crate) fn publish_for(&self, stream: &str, length: &str) -> Result<Publisher> {
        self.encode(stream, &[length], REORDERED)
    }

    /// Publishes what WebRTC can show.
    pub(crate) fn publish_in_order(&self, stream: &str) -> Result<Publisher> {
        self.encode(stream, &[], IN_ORDER)
    }

    fn encode(&self, stream: &str, length: &[&str], encoders: [&str; 2]) -> Result<Publisher> {
        let arguments = [&[VIDEO, AUDIO][..], length, &encoders].concat();
        Publisher::encoding(self.folder.path(), "publisher", &self.service.rtmp("LiveApp", stream)?, &arguments)
    }

    /// Waits until a file is being recorded, which answers 404 with `Retry-After`.
    pub(crate) async fn until_growing(&self, file: &str) -> Result<()> {
        http::install_crypto();
        let (client, url) =
            (reqwest::Client::builder().no_proxy().build()?, self.url(&format!("/LiveApp/streams/{file}"))?);
        wait::until(format!("{file} to be recorded"), SOON, async || match client.head(&url).send().await {
            Ok(answer) if answer.status() == 404 && answer.headers().contains_key("retry-after") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Opens the page in a browser of its own.
    pub(crate) async fn view(&self, query: &str, view: View<'_>) -> Result<Browser> {
        self.view_at(&format!("play?{query}"), view).await
    }

    /// Opens another page of the application in a browser of its own.
    pub(crate) async fn view_at(&self, page: &str, view: View<'_>) -> Result<Browser> {
        let mut browser = Browser::start(view).await?;
        browser.open(&self.url(&format!("/LiveApp/{page}"))?).await?;
        Ok(browser)
    }
}

/// What the page says.
pub(crate) async fn message(browser: &mut Browser) -> Result<String> {
    browser.evaluate("document.getElementById('message').textContent").await
}

/// What the statistics say, which are shown.
pub(crate) async fn statistic(browser: &mut Browser, name: &str) -> Result<String> {
    browser.evaluate(&format!("document.querySelector('#stats [data-name={name}]').textContent")).await
}

/// Waits until the page says something with these words.
pub(crate) async fn until_message(browser: &mut Browser, words: &str) -> Result<()> {
    wait::until(format!("the page to say {words:?}"), SOON, async || {
        let said = message(browser).await.map_err(|error| format!("{error:#}"))?;
        if said.contains(words) { Ok(()) } else { Err(said) }
    })
    .await
}

/// Waits until the page is in this state.
pub(crate) async fn until_state(browser: &mut Browser, state: &str) -> Result<()> {
    const SEEN: &str =
        "({state: document.documentElement.dataset.state, message: document.getElementById('message').textContent})";
    wait::until(format!("the page to be {state}"), SOON, async || {
        let seen: serde_json::Value = browser.evaluate(SEEN).await.map_err(|error| format!("{error:#}"))?;
        if seen["state"] == state { Ok(()) } else { Err(seen.to_string()) }
    })
    .await
}

/// Waits until an expression is true in the page.
pub(crate) async fn until_true(browser: &mut Browser, code: &str) -> Result<()> {
    wait::until(format!("{code} in the page"), SOON, async || match browser.evaluate::<bool>(code).await {
        Ok(true) => Ok(()),
        other => {
            let video = "(({currentTime, duration, paused, muted, error}) => ({currentTime, duration, paused, muted, error: error?.message}))(video)";
            let seen = browser.evaluate::<serde_json::Value>(video).await;
            Err(format!("{other:?}; the video is {seen:?}"))
        }
    })
    .await
}

/// Waits until so many seconds more were played, with pictures.
pub(crate) async fn plays_on(browser: &mut Browser, seconds: f64) -> Result<()> {
    let begin: f64 = browser.evaluate("video.currentTime").await?;
    let frames: u64 = browser.evaluate("video.getVideoPlaybackQuality().totalVideoFrames").await?;
    until_true(
        browser,
        &format!(
            "video.currentTime >= {} && video.getVideoPlaybackQuality().totalVideoFrames > {}",
            begin + seconds,
            frames + 20
        ),
    )
    .await
}

/// Waits until so many pictures more were shown.
pub(crate) async fn shows_on(browser: &mut Browser, pictures: u64) -> Result<()> {
    let shown: u64 = browser.evaluate("video.getVideoPlaybackQuality().totalVideoFrames").await?;
    until_true(browser, &format!("video.getVideoPlaybackQuality().totalVideoFrames >= {}", shown + pictures)).await
}

/// Asserts that no script failed, and nothing was refused by the page's own policy.
pub(crate) async fn is_clean(browser: &mut Browser) -> Result<()> {
    let errors = browser.seen().await?.errors;
    anyhow::ensure!(errors.is_empty(), "the page complains: {errors:#?}");
    Ok(())
}
