//! OBS Studio, as people have it.

use anyhow::Result;
use tests::{
    http, media,
    obs::{Frames, Obs},
    wait, webrtc,
};

use crate::standalone::{SOON, Standalone};

async fn on_air(name: &str, frames: Frames) -> Result<(Standalone, Obs)> {
    let server = Standalone::new(name).await?;
    let rtmp = format!("rtmp://{}/LiveApp", server.service.address("rtmp")?);
    let obs = Obs::publish(server.folder.path(), &rtmp, "studio", frames).await?;
    let started = server.receiver.wait_for(1, SOON).await?;
    assert_eq!(started[0].field("id").as_deref(), Some("studio"));
    Ok((server, obs))
}

fn whep(server: &Standalone) -> Result<String> {
    Ok(format!("http://{}/LiveApp/whep/studio", server.service.address("http")?))
}

#[tokio::test]
async fn what_obs_publishes_is_played_over_rtmp_and_webrtc() -> Result<()> {
    let (server, obs) = on_air("obs", Frames::InOrder).await?;

    let played = media::play_with_ffmpeg(server.folder.path(), "player", &server.rtmp("studio")).await?;
    assert_eq!(played.codecs, ["aac", "h264"]);
    let mut viewer = webrtc::play(&whep(&server)?, &webrtc::Options::default()).await?;
    let seen = viewer.pictures(30).await?;
    assert!(seen.codecs.iter().any(|codec| codec == "video/h264") && seen.audio.packets > 0, "{seen:?}");
    viewer.close().await?;

    drop(obs);
    server.receiver.wait_for(2, SOON).await?;
    server.receiver.check_promises()
}

#[tokio::test]
async fn b_frames_of_obs_are_played_over_rtmp_and_players_of_webrtc_are_told_the_option_that_cures_it() -> Result<()> {
    let (server, _obs) = on_air("obs-b-frames", Frames::AsByDefault).await?;

    let played = media::play_with_ffmpeg(server.folder.path(), "player", &server.rtmp("studio")).await?;
    assert_eq!(played.codecs, ["aac", "h264"]);
    let url = whep(&server)?;
    let refused =
        wait::until("the refusal", SOON, async || match webrtc::play(&url, &webrtc::Options::default()).await {
            Ok(_) => Err("it is played".to_owned()),
            Err(error) => Ok(format!("{error:#}")),
        })
        .await?;
    assert!(refused.contains("406") && refused.contains("bframes=0"), "{refused}");
    let metrics = http::get(server.service.address("http")?, "/metrics").await?.body;
    let reordered = http::metric(&metrics, "tallylight_webrtc_refusals_total{reason=\"Reordered\"}");
    assert!(reordered.is_some_and(|count| count >= 1.0), "{metrics}");
    Ok(())
}
