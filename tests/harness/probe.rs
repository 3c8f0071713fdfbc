//! Files as ffmpeg and ffprobe see them.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// Decodes all of a file, or playlist, which may be at a URL.
///
/// # Errors
/// When ffmpeg has anything to say.
pub fn decodes(file: &Path) -> Result<()> {
    let output = Command::new("ffmpeg")
        .args("-hide_banner -nostats -nostdin -loglevel warning".split(' '))
        .args(connections(file))
        .arg("-i")
        .arg(file)
        .args("-map 0 -f null -".split(' '))
        .stdin(Stdio::null())
        .output()
        .context("failed to run ffmpeg; run: tests/setup.sh")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && errors.is_empty(), "{} does not decode clean: {errors}", file.display());
    Ok(())
}

/// One stream by ffprobe.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// By ffprobe's name.
    pub codec: String,
    /// How many there are.
    pub packets: usize,
    /// Of what is shown or heard first, in seconds.
    pub start: f64,
    /// From then to the end of the last one, in seconds.
    pub length: f64,
}

/// The streams of a file, in order: video first.
///
/// # Errors
/// When ffprobe has anything to complain of.
pub fn probe(file: &Path) -> Result<Vec<Stream>> {
    let mut streams = Vec::new();
    for (selector, kind) in [("v", "video"), ("a", "audio")] {
        let entries = "stream=codec_name:packet=pts_time,duration_time";
        let text = ffprobe(file, selector, entries).with_context(|| format!("failed to look at {kind}"))?;
        let Some(codec) = text.lines().find_map(|line| line.strip_prefix("stream,")) else { continue };
        let times: Vec<(f64, f64)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("packet,")?.split_once(','))
            .filter_map(|(time, lasts)| Some((time.parse().ok()?, lasts.trim_end_matches(',').parse().unwrap_or(0.0))))
            .collect();
        let start = times.iter().map(|(time, _)| *time).fold(f64::INFINITY, f64::min);
        let end = times.iter().map(|(time, lasts)| time + lasts).fold(0.0, f64::max);
        streams.push(Stream { codec: codec.to_owned(), packets: times.len(), start, length: end - start });
    }
    Ok(streams)
}

/// How far each beep is from the flash that was made with it, in seconds, in a file of what [`media::CLAPS`](crate::media::CLAPS)
/// makes: positive where sound is late.
///
/// # Errors
/// When ffmpeg cannot read it, or a flash has no beep within half a second.
pub fn claps(file: &Path) -> Result<Vec<f64>> {
    let output = Command::new("ffmpeg")
        .args("-hide_banner -nostats -nostdin -loglevel info".split(' '))
        .arg("-i")
        .arg(file)
        .args("-vf blackdetect=d=0.5 -af silencedetect=n=-20dB:d=0.5 -f null -".split(' '))
        .stdin(Stdio::null())
        .output()
        .context("failed to run ffmpeg; run: tests/setup.sh")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} cannot be read: {text}", file.display());
    let times = |word: &str| -> Vec<f64> {
        text.split(word).skip(1).filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
    };
    let (flashes, beeps) = (times("black_end:"), times("silence_end:"));
    // black and silence end with the file, too
    let mut apart = Vec::new();
    for flash in flashes.iter().take(flashes.len().saturating_sub(1)) {
        let beep = beeps.iter().copied().min_by(|one, two| (one - flash).abs().total_cmp(&(two - flash).abs()));
        let beep = beep.filter(|beep| (beep - flash).abs() < 0.5);
        apart.push(beep.with_context(|| format!("no beep near {flash} s: {beeps:?}"))? - flash);
    }
    Ok(apart)
}

/// How many packets of video a file has.
///
/// # Errors
/// As [`probe`].
pub fn frames(file: &Path) -> Result<usize> {
    let text = ffprobe(file, "v", "packet=flags")?;
    Ok(text.lines().count())
}

/// For a playlist at a URL: its segments may be at other hosts, and ffmpeg complains of connections that it cannot use again.
fn connections(file: &Path) -> &'static [&'static str] {
    let is_playlist = file.extension().is_some_and(|extension| extension == "m3u8");
    if is_playlist && file.starts_with("http:") { &["-http_persistent", "0"] } else { &[] }
}

fn ffprobe(file: &Path, selector: &str, entries: &str) -> Result<String> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", selector, "-show_entries", entries, "-of", "csv"])
        .args(connections(file))
        .arg(file)
        .output()
        .context("failed to run ffprobe; run: tests/setup.sh")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && errors.is_empty(), "ffprobe says of {}: {errors}", file.display());
    Ok(String::from_utf8(output.stdout)?)
}
