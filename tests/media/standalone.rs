//! A standalone server with a receiver; who may publish, and how a publisher's end is named.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tempfile::TempDir;
use tests::{
    http,
    media::Publisher,
    pki::{Authority, Leaf},
    receiver::Receiver,
    repository,
    rtmp::{self, Answer, Client},
    service::{Launch, Service},
    wait,
};

/// Within this everything happens that is not waiting for a schedule; a busy machine is slow.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) struct Standalone {
    // Dropped in this order: the server before what it talks to.
    pub(crate) service: Service,
    pub(crate) receiver: Receiver,
    pub(crate) launch: Launch,
    pub(crate) folder: TempDir,
}

impl Standalone {
    pub(crate) async fn new(name: &str) -> Result<Self> {
        Self::with(name, &[]).await
    }

    pub(crate) async fn with(name: &str, arguments: &[&str]) -> Result<Self> {
        let folder = repository::folder(name)?;
        let receiver = Receiver::start().await?;
        let hook = format!("--listener-hook-url={}", receiver.url("default"));
        let launch = Launch::standalone(folder.path()).args([hook.as_str()]).args(arguments.iter().copied());
        let service = launch.start().await?;
        Ok(Self { service, receiver, launch, folder })
    }

    pub(crate) fn rtmp(&self, stream: &str) -> String {
        self.service.rtmp("LiveApp", stream).unwrap()
    }

    pub(crate) async fn ffmpeg(&self, stream: &str) -> Result<Publisher> {
        Publisher::ffmpeg(self.folder.path(), &format!("publisher-{stream}"), &self.rtmp(stream)).await
    }

    /// Publishes with a client that does only what it is told.
    pub(crate) async fn publish(&self, stream: &str) -> Result<Client> {
        rtmp::publish(&self.rtmp(stream)).await?.started()
    }

    /// Waits until REST shows this status.
    pub(crate) async fn until_status(&self, stream: &str, status: &str) -> Result<()> {
        let path = format!("/LiveApp/rest/v2/broadcasts/{stream}");
        let address = self.service.address("http")?;
        wait::until(format!("{stream} to be {status}"), SOON, async || {
            let answer = http::get(address, &path).await.map_err(|error| error.to_string())?;
            let found = answer.json().map_err(|error| error.to_string())?["status"].clone();
            if found == status { Ok(()) } else { Err(answer.body) }
        })
        .await
    }

    async fn metrics(&self) -> Result<String> {
        Ok(http::get(self.service.address("http")?, "/metrics").await?.body)
    }

    /// Starts the server again on its data.
    async fn restart(&mut self) -> Result<()> {
        self.service = self.launch.start().await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_second_publisher_is_refused_while_the_first_is_live_without_an_event() -> Result<()> {
    let server = Standalone::new("second").await?;
    let first = server.ffmpeg("show").await?;
    server.receiver.wait_for(1, SOON).await?;

    let code = rtmp::publish(&server.rtmp("show")).await?.refused()?;
    let second = Publisher::ffmpeg(server.folder.path(), "second", &server.rtmp("show")).await?;
    second.refused(SOON).await?;
    first.stop().await?;

    assert_eq!(code, "NetStream.Publish.BadName");
    assert_eq!(server.receiver.wait_for(2, SOON).await?.len(), 2, "the first's start and end alone");
    assert!(http::metric(&server.metrics().await?, "tallylight_node_refusals_total") >= Some(2.0));
    server.receiver.check_promises()
}

#[tokio::test]
async fn who_may_not_publish_is_told_so_before_any_event() -> Result<()> {
    let server = Standalone::with("refusals", &["--admission=RegisteredOnly"]).await?;
    let address = server.service.address("rtmp")?.to_owned();

    let unknown = rtmp::publish(&server.rtmp("nobody")).await?.refused()?;
    let application = rtmp::publish(&format!("rtmp://{address}/OtherApp/show")).await?.refused()?;
    let player = rtmp::play(&server.rtmp("nobody")).await?.refused()?;

    assert_eq!(unknown, "NetStream.Publish.Denied");
    assert_eq!(application, "NetConnection.Connect.Rejected");
    assert_eq!(player, "NetStream.Play.StreamNotFound");
    assert!(server.receiver.requests().is_empty());
    assert!(server.service.process.log().contains("nobody"), "the log says who was refused");
    Ok(())
}

#[tokio::test]
async fn a_publisher_that_sends_no_media_makes_no_event() -> Result<()> {
    let server = Standalone::new("no-media").await?;

    let silent = server.publish("show").await?;
    silent.finish().await?;
    let mut loud = server.publish("other").await?;
    loud.send_video(0, 1_000).await?;

    let requests = server.receiver.wait_for(1, SOON).await?;
    assert_eq!(requests[0].field("id").as_deref(), Some("other"));
    assert_eq!(server.receiver.requests().len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_end_says_how_the_publisher_left() -> Result<()> {
    let server = Standalone::with("reasons", &["--publisher-timeout-seconds=2"]).await?;
    let reason = async |count: usize| -> Result<Option<String>> {
        Ok(server.receiver.wait_for(count, SOON).await?[count - 1].field("reason"))
    };

    server.ffmpeg("closed").await?.stop_after(&server.receiver, 1).await?;
    assert_eq!(reason(2).await?.as_deref(), Some("PublisherClosed"));

    let mut lost = server.ffmpeg("lost").await?;
    server.receiver.wait_for(3, SOON).await?;
    lost.process.kill()?;
    assert_eq!(reason(4).await?.as_deref(), Some("PublisherLost"));

    let mut silent = server.ffmpeg("silent").await?;
    server.receiver.wait_for(5, SOON).await?;
    silent.process.signal(Signal::STOP)?;
    assert_eq!(reason(6).await?.as_deref(), Some("PublisherTimeout"));
    server.receiver.check_promises()
}

/// Publishes as an encoder does that was cut off: again and again while the server has not seen that it left. No other
/// refusal is right.
pub(crate) async fn come_back(url: &str) -> Result<Client> {
    wait::until("the publisher to be taken again", SOON, async || match rtmp::publish(url).await {
        Ok(Answer::Started(client)) => Ok(Ok(*client)),
        Ok(Answer::Refused(code)) if code == "NetStream.Publish.BadName" => Err(code),
        other => Ok(Err(anyhow::anyhow!("{other:?}"))),
    })
    .await?
}

#[tokio::test]
async fn a_publisher_that_comes_back_at_once_is_taken() -> Result<()> {
    let server = Standalone::new("again").await?;
    // The Broadcast of an unregistered id goes when its end is delivered: a publisher meets it before, while and after it goes.
    for round in 1..=50 {
        let mut client = come_back(&server.rtmp("show")).await?;
        client.send_video(0, 1_000).await?;
        server.receiver.wait_for(2 * round - 1, SOON).await?;
        client.finish().await?;
    }
    server.receiver.wait_for(100, SOON).await?;
    server.receiver.check_promises()
}

#[tokio::test]
async fn sigterm_ends_every_session_and_exits_with_0() -> Result<()> {
    let mut server = Standalone::new("sigterm").await?;
    let _one = server.ffmpeg("one").await?;
    let _two = server.ffmpeg("two").await?;
    server.receiver.wait_for(2, SOON).await?;

    let status = server.service.process.stop(SOON).await?;
    assert!(status.success(), "{status}");
    server.restart().await?;

    // Delivered before the exit, or durable and delivered after it.
    let requests = server.receiver.wait_for(4, SOON).await?;
    let ends: Vec<_> = requests.iter().filter(|request| request.action() == "liveStreamEnded").collect();
    assert_eq!(ends.len(), 2);
    assert!(ends.iter().all(|end| end.field("reason").as_deref() == Some("NodeShutdown")), "{ends:?}");
    server.receiver.check_promises()
}

#[tokio::test]
async fn a_killed_server_ends_its_sessions_once_when_it_starts_again() -> Result<()> {
    let mut server = Standalone::new("killed").await?;
    for round in 0..10_usize {
        let mut one = server.publish("one").await?;
        let mut two = server.publish("two").await?;
        one.send_video(0, 1_000).await?;
        two.send_video(0, 1_000).await?;
        server.until_status("one", "broadcasting").await?;
        server.until_status("two", "broadcasting").await?;
        server.service.process.kill()?;
        server.restart().await?;
        let requests = server.receiver.wait_for(4 * (round + 1), SOON).await?;
        let reasons: Vec<_> = requests.iter().filter_map(|request| request.field("reason")).collect();
        assert_eq!(reasons, vec!["NodeLost"; 2 * (round + 1)]);
    }
    assert_eq!(server.receiver.accepted().len(), 40);
    server.receiver.check_promises()
}

#[tokio::test]
async fn rtmps_takes_a_publisher_and_a_renewed_certificate() -> Result<()> {
    let folder = repository::folder("rtmps")?;
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let write = |certificate_of: &Leaf, key_of: &Leaf| -> Result<()> {
        std::fs::write(&certificate, &certificate_of.certificate)?;
        Ok(std::fs::write(&key, &key_of.key)?)
    };
    let (old, new) = (Authority::new()?, Authority::new()?);
    let (old_leaf, new_leaf) = (old.server(&["localhost", "127.0.0.1"])?, new.server(&["localhost", "127.0.0.1"])?);
    write(&old_leaf, &old_leaf)?;
    let receiver = Receiver::start().await?;
    let service = Launch::standalone(folder.path())
        .args(["--rtmps-address=127.0.0.1:0", &format!("--listener-hook-url={}", receiver.url("hook"))])
        .args([&*format!("--tls-cert={}", certificate.display()), &format!("--tls-key={}", key.display())])
        .start()
        .await?;
    let address = service.address("rtmps")?;
    let url = format!("rtmps://{address}/LiveApp/show");

    let publisher = Publisher::ffmpeg(folder.path(), "publisher", &url).await?;
    receiver.wait_for(1, SOON).await?;
    assert!(old.vouches_for(address).await? && !new.vouches_for(address).await?);

    write(&new_leaf, &old_leaf)?;
    until_read(&service, "Failed").await?;
    assert!(old.vouches_for(address).await?, "what cannot be used changes nothing");
    write(&new_leaf, &new_leaf)?;
    until_read(&service, "Ok").await?;
    assert!(new.vouches_for(address).await? && !old.vouches_for(address).await?);
    assert_eq!(receiver.accepted().len(), 1, "the publisher goes on");

    publisher.stop().await?;
    receiver.wait_for(2, SOON).await?;
    receiver.check_promises()
}

/// Waits until a changed certificate was looked at.
async fn until_read(service: &Service, outcome: &str) -> Result<()> {
    let name = format!("tallylight_node_certificates_read_total{{outcome=\"{outcome}\"}}");
    let address = service.address("http")?;
    wait::until(&name, SOON, async || {
        let text = http::get(address, "/metrics").await?.body;
        http::metric(&text, &name).context("no certificate was read")
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_stream_key_is_asked_for_as_query_or_in_the_name() -> Result<()> {
    let folder = repository::folder("keys")?;
    let manifests = folder.path().join("manifests");
    std::fs::create_dir(&manifests)?;
    let receiver = Receiver::start().await?;
    let objects = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: keys}}\nstringData: {{show: s3cr3t}}\n---\n\
         apiVersion: tallylight.dev/v1alpha1\nkind: Broadcast\nmetadata: {{name: show}}\n\
         spec: {{pool: default, listenerHookURL: \"{}\", publish: {{streamKeySecretRef: {{name: keys, key: show}}}}}}\n",
        receiver.url("hook"),
    );
    std::fs::write(manifests.join("show.yaml"), objects)?;
    let manifests = format!("--manifests={}", manifests.display());
    let service = Launch::standalone(folder.path()).args([manifests.as_str()]).start().await?;
    let url = service.rtmp("LiveApp", "show")?;

    assert_eq!(rtmp::publish(&url).await?.refused()?, "NetStream.Publish.Denied");
    assert_eq!(rtmp::publish(&format!("{url}?key=wrong")).await?.refused()?, "NetStream.Publish.Denied");
    let publisher = Publisher::ffmpeg(folder.path(), "publisher", &format!("{url}?key=s3cr3t")).await?;
    receiver.wait_for(1, SOON).await?;
    publisher.stop().await?;

    receiver.wait_for(2, SOON).await?;
    assert!(!service.process.log().contains("s3cr3t"), "the log shows the key");
    receiver.check_promises()
}

#[tokio::test]
async fn rest_may_have_an_address_of_its_own_without_health_and_metrics() -> Result<()> {
    let server = Standalone::with("public-http", &["--public-http-address=127.0.0.1:0"]).await?;
    let (public, own) = (server.service.address("publicHttp")?, server.service.address("http")?);

    assert_eq!(http::post(public, "/LiveApp/rest/v2/broadcasts/create", "{}").await?.status, 200);
    assert_eq!(http::get(own, "/metrics").await?.status, 200);
    assert_eq!(http::get(public, "/metrics").await?.status, 404);
    assert_eq!(http::post(own, "/LiveApp/rest/v2/broadcasts/create", "{}").await?.status, 404);
    Ok(())
}
