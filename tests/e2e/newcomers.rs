//! How soon a new media pod takes publishers, its image being there.

use std::time::Instant;

use anyhow::Result;
use kube::ResourceExt;
use tests::{encoder::Encoder, wait};

use crate::release::{Release, SOON, expect, report, url};

/// Lets new pods come, and reports the time from the first sight of each until a publisher that tries five times a second is on
/// air there.
pub(crate) async fn new_pods_take_publishers(release: &Release, rounds: usize) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let hooks = release.receiver.accepted().len();
        let before = release.media_nodes(2).await?;
        // All but one: there may be more than the pool asks for.
        for name in before.keys().skip(1) {
            release.delete_by_force(name).await?;
        }
        let (name, begin) = wait::until("a new pod", SOON, async || {
            let pods = release.all_media_nodes().await.map_err(|error| format!("{error:#}"))?;
            let mut names = pods.iter().map(ResourceExt::name_any);
            let new = names.find(|name| !before.contains_key(name)).map(|name| (name, Instant::now()));
            new.ok_or_else(|| format!("{} pods", pods.len()))
        })
        .await?;
        let url = wait::until("its address", SOON, async || {
            let pod = release.pods().get(&name).await.map_err(|error| error.to_string())?;
            url(&pod, "show").map_err(|error| error.to_string())
        })
        .await?;
        let encoder = Encoder::start(&url);
        let (start, after) = release.hook(hooks + 1, begin, SOON).await?;
        expect(&start, "liveStreamStarted", None)?;
        times.push(after);
        encoder.stop().await;
        release.hook(hooks + 2, begin, SOON).await?;
    }
    release.media_nodes(2).await?;
    report("new media pod seen to the Start of its first publisher received", &times);
    Ok(())
}
