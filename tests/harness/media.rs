//! Publishers and players that people use: ffmpeg and GStreamer, as child processes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{process::Process, receiver::Receiver, repository, wait};

/// Long enough that a loop of the clip is rare, short enough to make in a second.
const CLIP_SECONDS: u32 = 10;
/// A client connects, publishes and sends; the hook follows.
const STARTED: Duration = Duration::from_secs(60);
/// A player waits for a keyframe (one a second in the clip) and then reads for a moment.
const PLAY: Duration = Duration::from_secs(40);

/// A clip of colour bars and a tone: H.264 at 25 fps with a keyframe each second, and AAC. Made once a test binary.
///
/// # Errors
/// When ffmpeg is missing or fails.
pub async fn clip() -> Result<&'static Path> {
    static CLIP: OnceCell<(TempDir, PathBuf)> = OnceCell::const_new();
    let (_, path) = CLIP.get_or_try_init(async || make_clip()).await?;
    Ok(path)
}

/// What ffmpeg makes a flash and a beep of, both at the same instants: at every odd second, for a fifth of one.
pub const CLAPS: [&str; 2] = [
    "-f lavfi -i color=black:size=320x180:rate=25,drawbox=c=white:t=fill:enable='lt(mod(t+1,2),0.2)'",
    "-f lavfi -i aevalsrc='sin(2*PI*1000*t)*lt(mod(t+1,2),0.2)':s=48000",
];

fn make_clip() -> Result<(TempDir, PathBuf)> {
    let folder = repository::folder("clip")?;
    let path = folder.path().join("clip.flv");
    let status = ffmpeg()
        .args(["-loglevel", "error"])
        .args([
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=320x180:rate=25",
            "-f",
            "lavfi",
            "-i",
            "sine=frequency=440:sample_rate=48000",
        ])
        .args(["-t", &CLIP_SECONDS.to_string(), "-pix_fmt", "yuv420p"])
        .args(["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "25", "-b:v", "300k"])
        .args(["-c:a", "aac", "-b:a", "64k"])
        .arg(&path)
        .status()
        .context("failed to run ffmpeg; run: tests/setup.sh")?;
    ensure!(status.success(), "ffmpeg could not make the clip: {status}");
    Ok((folder, path))
}

const VIDEO: &str = "videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=25/1 ! \
                     x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 bitrate=300 ! \
                     video/x-h264,profile=baseline ! h264parse !";
const MUX: &str = "flvmux name=mux streamable=true ! rtmp2sink";
const AUDIO: &str = "audiotestsrc is-live=true wave=sine ! audio/x-raw,rate=48000,channels=1 ! \
                     avenc_aac ! aacparse ! mux.";

fn ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-nostats", "-nostdin", "-y"]).stdin(Stdio::null());
    command
}

fn enhanced_ffmpeg() -> Result<Command> {
    let mut command = Command::new(repository::cached("ffmpeg9")?);
    command.args(["-hide_banner", "-nostats", "-nostdin", "-y"]).stdin(Stdio::null());
    Ok(command)
}

/// Writes a file with ffmpeg. Arguments are split at blanks.
///
/// # Errors
/// When ffmpeg has anything to complain of.
pub fn write(arguments: &[&str], output: &Path) -> Result<()> {
    write_with(ffmpeg(), arguments, output)
}

/// As [`write()`], with FFmpeg 9: also in codecs that Debian's does not put into FLV.
///
/// # Errors
/// As [`write()`].
pub fn write_enhanced(arguments: &[&str], output: &Path) -> Result<()> {
    write_with(enhanced_ffmpeg()?, arguments, output)
}

fn write_with(mut ffmpeg: Command, arguments: &[&str], output: &Path) -> Result<()> {
    let output = ffmpeg
        .args(["-loglevel", "error"])
        .args(arguments.iter().flat_map(|words| words.split_whitespace()))
        .arg(output)
        .output()
        .context("failed to run ffmpeg; run: tests/setup.sh")?;
    ensure!(output.status.success(), "ffmpeg failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A publisher: streams the clip in real time until it is stopped or dropped.
#[derive(Debug)]
pub struct Publisher {
    pub process: Process,
}

impl Publisher {
    /// Publishes with ffmpeg.
    ///
    /// # Errors
    /// When ffmpeg cannot be started.
    pub async fn ffmpeg(folder: &Path, name: &str, url: &str) -> Result<Self> {
        let mut command = ffmpeg();
        command.args(["-re", "-stream_loop", "-1", "-i"]).arg(clip().await?).args(["-c", "copy", "-f", "flv", url]);
        Ok(Self { process: Process::spawn(name, folder, command)? })
    }

    /// Publishes what ffmpeg encodes in real time from `arguments`, which are split at blanks.
    ///
    /// # Errors
    /// When ffmpeg cannot be started.
    pub fn encoding(folder: &Path, name: &str, url: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = ffmpeg();
        command.arg("-re").args(arguments.iter().flat_map(|words| words.split_whitespace())).args(["-f", "flv", url]);
        Ok(Self { process: Process::spawn(name, folder, command)? })
    }

    /// As [`Publisher::encoding`], with FFmpeg 9: also in the codecs of Enhanced RTMP.
    ///
    /// # Errors
    /// When it is not there, or cannot be started.
    pub fn enhanced(folder: &Path, name: &str, url: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = enhanced_ffmpeg()?;
        command.arg("-re").args(arguments.iter().flat_map(|words| words.split_whitespace())).args(["-f", "flv", url]);
        Ok(Self { process: Process::spawn(name, folder, command)? })
    }

    /// Publishes over WHIP with FFmpeg 9, with a bearer token if there is one. It takes no B-frames, and Opus alone.
    ///
    /// # Errors
    /// When it is not there, or cannot be started.
    pub fn whip(folder: &Path, name: &str, url: &str, token: Option<&str>, arguments: &[&str]) -> Result<Self> {
        let mut command = enhanced_ffmpeg()?;
        command.arg("-re").args(arguments.iter().flat_map(|words| words.split_whitespace())).args(["-f", "whip"]);
        if let Some(token) = token {
            command.args(["-authorization", token]);
        }
        command.arg(url);
        Ok(Self { process: Process::spawn(name, folder, command)? })
    }

    /// Publishes with GStreamer.
    ///
    /// # Errors
    /// When GStreamer cannot be started.
    pub fn gstreamer(folder: &Path, name: &str, url: &str) -> Result<Self> {
        let mut command = Command::new("gst-launch-1.0");
        command.arg("-e").args(words(VIDEO)).args(words(MUX)).arg(format!("location={url}")).args(words(AUDIO));
        Ok(Self { process: Process::spawn(name, folder, command)? })
    }

    /// Stops as a user does (Ctrl-C): the client says that it unpublishes, and closes.
    ///
    /// # Errors
    /// When it has ended before, or does not end.
    pub async fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::INT)?;
        self.process.wait(Duration::from_secs(20)).await?;
        Ok(())
    }

    /// Stops once the receiver has accepted `count` hooks in all, this stream's start among them.
    ///
    /// # Errors
    /// When they do not come, or as [`Publisher::stop`].
    pub async fn stop_after(self, receiver: &Receiver, count: usize) -> Result<()> {
        receiver.wait_for(count, STARTED).await?;
        self.stop().await
    }

    /// Waits until the publisher has ended by itself, as after a refusal, and returns what it printed.
    ///
    /// # Errors
    /// When it goes on publishing.
    pub async fn refused(mut self, deadline: Duration) -> Result<String> {
        self.process.wait(deadline).await?;
        Ok(self.process.log())
    }
}

/// What a player saw of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Played {
    /// Codec names by ffprobe, sorted: `["aac", "h264"]`.
    pub codecs: Vec<String>,
    /// Video frames decoded without an error.
    pub frames: u64,
}

/// Plays two seconds with ffmpeg, decoding every frame.
///
/// # Errors
/// When nothing can be played, or a frame does not decode.
pub async fn play_with_ffmpeg(folder: &Path, name: &str, url: &str) -> Result<Played> {
    let file = folder.join(format!("{name}.played.flv"));
    let mut command = ffmpeg();
    command.args(["-i", url, "-t", "2", "-c", "copy"]).arg(&file);
    let mut player = Process::spawn(name, folder, command)?;
    let status = player.wait(PLAY).await?;
    ensure!(status.success(), "ffmpeg could not play {url}: {}", player.log());
    inspect(&file)
}

/// As [`play_with_ffmpeg`], with FFmpeg 9: also in the codecs of Enhanced RTMP.
///
/// # Errors
/// As [`play_with_ffmpeg`].
pub async fn play_with_ffmpeg9(folder: &Path, name: &str, url: &str) -> Result<Played> {
    let file = folder.join(format!("{name}.played.mkv"));
    let mut command = enhanced_ffmpeg()?;
    command.args(["-i", url, "-t", "2", "-c", "copy"]).arg(&file);
    let mut player = Process::spawn(name, folder, command)?;
    let status = player.wait(PLAY).await?;
    ensure!(status.success(), "ffmpeg could not play {url}: {}", player.log());
    inspect(&file)
}

/// Plays two seconds with GStreamer's `rtmp2src`, and decodes what it wrote.
///
/// # Errors
/// When nothing can be played, or a frame does not decode.
pub async fn play_with_gstreamer(folder: &Path, name: &str, url: &str) -> Result<Played> {
    let file = folder.join(format!("{name}.played.flv"));
    let mut command = Command::new("gst-launch-1.0");
    command
        .args(["rtmp2src", &format!("location={url}"), "!", "filesink", "buffer-mode=unbuffered"])
        .arg(format!("location={}", file.display()));
    let mut player = Process::spawn(name, folder, command)?;
    // Two seconds of the clip are about 90 kB.
    wait::until(format!("{name} to have written media"), PLAY, async || {
        if let Err(ended) = player.must_run() {
            return Ok(Err(ended));
        }
        let size = fs::metadata(&file).map_or(0, |metadata| metadata.len());
        if size > 90_000 { Ok(Ok(())) } else { Err(format!("{size} bytes; {}", player.log())) }
    })
    .await??;
    player.kill()?;
    inspect(&file)
}

/// Plays a live stream over HLS with ffmpeg for two seconds, decoding every frame; returns how many there were.
///
/// # Errors
/// When nothing can be played, or a frame does not decode.
pub async fn play_hls_with_ffmpeg(folder: &Path, name: &str, url: &str) -> Result<u64> {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-nostdin", "-loglevel", "warning", "-progress", "pipe:1", "-i", url, "-t", "2"]);
    command.args(["-f", "null", "-"]).stdin(Stdio::null());
    let mut player = Process::spawn(name, folder, command)?;
    let status = player.wait(PLAY).await?;
    let log = player.log();
    ensure!(status.success(), "ffmpeg could not play {url}: {log}");
    // it reads the init anew after a reload, and finds that remarkable
    let is_trouble =
        |line: &&str| (line.starts_with('[') || line.contains("rror")) && !line.contains("duplicated MOOV");
    let errors: Vec<_> = log.lines().filter(is_trouble).collect();
    ensure!(errors.is_empty(), "ffmpeg does not decode {url} clean: {errors:#?}");
    let mut frames = log.lines().filter_map(|line| line.strip_prefix("frame=")?.trim().parse().ok());
    Ok(frames.next_back().unwrap_or(0))
}

/// ffmpeg that plays a live stream over HLS, decoding every frame, for as long as its handle lives.
#[derive(Debug)]
pub struct HlsPlayer(Process);

impl HlsPlayer {
    /// Begins to play.
    ///
    /// # Errors
    /// When ffmpeg cannot be started.
    pub fn ffmpeg(folder: &Path, name: &str, url: &str) -> Result<Self> {
        let mut command = Command::new("ffmpeg");
        command.args(["-hide_banner", "-nostdin", "-loglevel", "warning", "-progress", "pipe:1", "-i", url]);
        command.args(["-fps_mode", "passthrough", "-f", "null", "-"]).stdin(Stdio::null());
        Process::spawn(name, folder, command).map(Self)
    }

    /// Waits until it has decoded two more seconds of pictures.
    ///
    /// # Errors
    /// When it does not, or has ended.
    pub async fn plays_on(&mut self) -> Result<()> {
        let begin = self.frames();
        wait::until("ffmpeg to play on", PLAY, async || {
            if let Err(ended) = self.0.must_run() {
                return Ok(Err(ended));
            }
            let frames = self.frames();
            if frames >= begin + 50 { Ok(Ok(())) } else { Err(format!("{frames} frames after {begin}")) }
        })
        .await?
    }

    fn frames(&self) -> u64 {
        let log = self.0.log();
        let mut frames = log.lines().filter_map(|line| line.strip_prefix("frame=")?.trim().parse().ok());
        frames.next_back().unwrap_or(0)
    }
}

/// Plays a live stream over HLS with GStreamer's `hlsdemux2` until two seconds of pictures have been decoded.
///
/// # Errors
/// When it cannot.
pub async fn play_hls_with_gstreamer(folder: &Path, name: &str, url: &str) -> Result<()> {
    let mut command = Command::new("gst-launch-1.0");
    command.args(["uridecodebin3", &format!("uri={url}"), "name=decode"]);
    command.args("decode. ! video/x-raw ! queue ! fakesink num-buffers=50 sync=false".split(' '));
    let mut player = Process::spawn(name, folder, command)?;
    let status = player.wait(PLAY).await?;
    ensure!(status.success(), "GStreamer could not play {url}: {}", player.log());
    Ok(())
}

/// Reads what a player wrote with ffprobe, and decodes it with ffmpeg.
fn inspect(file: &Path) -> Result<Played> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-show_entries", "stream=codec_name,nb_read_frames", "-of", "csv=p=0"])
        .arg(file)
        .output()
        .context("failed to run ffprobe; run: tests/setup.sh")?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "ffprobe failed: {errors}");
    let rows: Vec<(&str, u64)> = text
        .lines()
        .filter_map(|line| line.split_once(','))
        .map(|(codec, frames)| (codec, frames.trim_end_matches(',').parse().unwrap_or(0)))
        .collect();
    let mut codecs: Vec<String> = rows.iter().map(|(codec, _)| (*codec).to_owned()).collect();
    codecs.sort();
    let frames = rows.iter().find(|(codec, _)| !["aac", "opus"].contains(codec)).map_or(0, |(_, frames)| *frames);
    Ok(Played { codecs, frames })
}

fn words(pipeline: &str) -> impl Iterator<Item = &str> {
    pipeline.split_whitespace()
}
