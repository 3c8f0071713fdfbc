//! aiortc both ways.

use anyhow::Result;
use tests::aiortc;

use crate::standalone::Standalone;

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
