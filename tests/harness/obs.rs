//! OBS Studio as a publisher: the real program, on a screen in memory.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{process::Process, wait};

/// An X server in memory is there at once; the machine may be busy.
const SCREEN: Duration = Duration::from_secs(30);

/// What OBS is to encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frames {
    /// As OBS does by itself: with B-frames.
    AsByDefault,
    /// With `bframes=0` among the x264 options.
    InOrder,
}

/// A running OBS, which streams a coloured picture and silence. Dropping it is as if it were killed: OBS 29 knows no signal that
/// ends it as its window does.
#[derive(Debug)]
pub struct Obs {
    pub process: Process,
    _screen: Process,
}

impl Obs {
    /// Starts it with settings of its own in `folder`; it connects to `server`, such as `rtmp://127.0.0.1/LiveApp`, at once.
    ///
    /// # Errors
    /// When OBS or Xvfb is missing, or there is no screen.
    pub async fn publish(folder: &Path, server: &str, key: &str, frames: Frames) -> Result<Self> {
        let mut xvfb = Command::new("Xvfb");
        xvfb.args(["-displayfd", "1", "-nolisten", "tcp", "-screen", "0", "640x480x24"]);
        let screen = Process::spawn("xvfb", folder, xvfb).context("run: tests/setup.sh")?.quiet();
        let display = wait::until("a screen", SCREEN, async || {
            let log = screen.log();
            let is_number = |line: &&str| !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit());
            log.lines().find(is_number).map(str::to_owned).ok_or(log)
        })
        .await?;
        let home = folder.join("obs");
        settings(&home.join("obs-studio"), server, key, frames).context("failed to write the settings of OBS")?;
        let mut obs = Command::new("obs");
        obs.args(["--startstreaming", "--multi", "--minimize-to-tray"])
            .env("DISPLAY", format!(":{display}"))
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", &home)
            .env("XDG_RUNTIME_DIR", &home)
            .env("LIBGL_ALWAYS_SOFTWARE", "1");
        let process = Process::spawn("obs", folder, obs).context("run: tests/setup.sh")?;
        Ok(Self { process, _screen: screen })
    }
}

/// The settings of somebody who has run OBS before, so that it asks nothing.
fn settings(folder: &Path, server: &str, key: &str, frames: Frames) -> Result<()> {
    const GENERAL: &str = "[General]\nFirstRun=true\nLastVersion=486539266\nInfoIncrement=-1\nEnableAutoUpdates=false\n\
                           [Basic]\nProfile=T\nProfileDir=T\nSceneCollection=T\nSceneCollectionFile=T\n";
    const PROFILE: &str = "[General]\nName=T\n[Video]\nBaseCX=640\nBaseCY=360\nOutputCX=640\nOutputCY=360\nFPSCommon=30\n\
                           [Output]\nMode=Advanced\n[AdvOut]\nEncoder=obs_x264\nTrackIndex=1\nTrack1Bitrate=64\n";
    let (profile, scenes) = (folder.join("basic/profiles/T"), folder.join("basic/scenes"));
    fs::create_dir_all(&profile)?;
    fs::create_dir_all(&scenes)?;
    fs::write(folder.join("global.ini"), GENERAL)?;
    fs::write(profile.join("basic.ini"), PROFILE)?;
    let options = match frames {
        Frames::AsByDefault => "",
        Frames::InOrder => "bframes=0",
    };
    // a preset that makes B-frames unless it is told otherwise
    let encoder =
        json!({"bitrate": 500, "keyint_sec": 1, "preset": "superfast", "rate_control": "CBR", "x264opts": options});
    fs::write(profile.join("streamEncoder.json"), encoder.to_string())?;
    let service = json!({"type": "rtmp_custom", "settings": {"server": server, "key": key, "use_auth": false}});
    fs::write(profile.join("service.json"), service.to_string())?;
    let item = json!({"name": "colour", "id": 1, "visible": true, "pos": {"x": 0, "y": 0}, "scale": {"x": 1, "y": 1}});
    let sources = json!([
        {"id": "scene", "name": "scene", "settings": {"items": [item], "id_counter": 1}},
        {"id": "color_source_v3", "name": "colour", "settings": {"color": 4_278_255_360_u32, "width": 640, "height": 360}},
    ]);
    let scene = json!({"name": "T", "current_scene": "scene", "current_program_scene": "scene",
        "scene_order": [{"name": "scene"}], "sources": sources});
    fs::write(scenes.join("T.json"), scene.to_string())?;
    Ok(())
}
