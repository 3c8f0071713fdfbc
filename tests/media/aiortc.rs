//! aiortc both ways.

use anyhow::Result;
use tests::aiortc;

use crate::standalone::{SOON, Standalone};

#[tokio::test]
async fn aiortc_watches_what_is_published_over_rtmp() -> Result<()> {
    let standalone = Standalone::new("aiortc").await?;
    let publisher = standalone.ffmpeg("show").await?;
    standalone.until_status("show", "broadcasting").await?;

    let url = format!("http://{}/LiveApp/whep/show", standalone.service.address("http")?);
    let seen = aiortc::play(standalone.folder.path(), "player", &url, 50).await?;
    assert!(seen["width"].as_u64() > Some(0) && seen["sounds"].as_u64() > Some(0), "{seen}");
    assert_eq!((seen["pictures"].as_u64(), seen["ended"].as_u64()), (Some(50), Some(200)), "{seen}");
    publisher.stop().await
}

#[tokio::test]
async fn aiortc_watches_what_aiortc_publishes_in_h264_and_vp8() -> Result<()> {
    let standalone = Standalone::new("aiortc-both-ways").await?;
    let (folder, address) = (standalone.folder.path(), standalone.service.address("http")?);

    for (codec, hooks) in [("H264", 0), ("VP8", 2)] {
        let url = |protocol: &str| format!("http://{address}/LiveApp/{protocol}/{codec}");
        let publisher = aiortc::Publisher::start(folder, &format!("publisher-{codec}"), &url("whip"), codec)?;
        standalone.receiver.wait_for(hooks + 1, SOON).await?;
        standalone.until_status(codec, "broadcasting").await?;

        let seen = aiortc::play(folder, &format!("player-{codec}"), &url("whep"), 30).await?;
        assert_eq!((seen["width"].as_u64(), seen["height"].as_u64()), (Some(320), Some(240)), "{seen}");
        let sent = publisher.stop().await?;
        assert_eq!(sent["ended"].as_u64(), Some(200), "{sent}");
        let ended = standalone.receiver.wait_for(hooks + 2, SOON).await?;
        assert_eq!(ended[hooks + 1].field("reason").as_deref(), Some("PublisherClosed"));
    }
    standalone.receiver.check_promises()
}
