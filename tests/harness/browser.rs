//! A real browser: headless Chromium with one page, driven by a small Node.js program with playwright-core. It reaches nothing but
//! this machine's loopback, and has a camera and a microphone that are made up.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{repository, watchdog};

/// Chromium starts within a second or two on a quiet machine.
const START: Duration = Duration::from_secs(60);
/// A page of the tests loads, or runs a line of script, in well under a second.
const COMMAND: Duration = Duration::from_secs(40);
const STOP: Duration = Duration::from_secs(20);

/// How a page is looked at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub width: u32,
    pub height: u32,
    /// Runs in the page before any script of its own.
    pub script: &'a str,
    pub reduced_motion: bool,
}

impl Default for View<'_> {
    fn default() -> Self {
        Self { width: 1_280, height: 720, script: "", reduced_motion: false }
    }
}

/// What a page asked for, and what it complained about.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Seen {
    pub requests: Vec<String>,
    /// Methods and paths of those that were no GET.
    pub changes: Vec<String>,
    /// Errors of scripts, and violations of the page's own policy.
    pub errors: Vec<String>,
}

/// A browser with one page. Dropping it kills it.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    id: u32,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    // What Chromium writes; removed after it is gone.
    _folder: TempDir,
}

impl Browser {
    /// Starts a browser with an empty page.
    ///
    /// # Errors
    /// When Chromium, Node.js or playwright-core is missing, or it does not start in time.
    pub async fn start(view: View<'_>) -> Result<Self> {
        let folder = repository::folder("browser")?;
        let program = repository::root().join("tests/harness/browser/driver.mjs");
        let options = json!({
            "width": view.width,
            "height": view.height,
            "script": view.script,
            "reducedMotion": if view.reduced_motion { "reduce" } else { "no-preference" },
        });
        let mut driver = Command::new("node")
            .arg(program)
            .arg(repository::cached("playwright-core.mjs")?)
            .arg("/usr/bin/chromium")
            .arg(options.to_string())
            .env("TMPDIR", folder.path())
            .env("HOME", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("failed to start node; run: tests/setup.sh")?;
        let id = driver.id().context("the driver has ended at once")?;
        watchdog::watch(id)?;
        let commands = driver.stdin.take().context("the driver has no stdin")?;
        let answers = BufReader::new(driver.stdout.take().context("the driver has no stdout")?).lines();
        let mut browser = Self { driver, id, commands, answers, _folder: folder };
        let ready = timeout(START, browser.answer()).await.context("the browser does not start")??;
        ensure!(ready.get("ready").is_some(), "not a greeting: {ready}");
        Ok(browser)
    }

    /// Starts a browser and opens a page.
    ///
    /// # Errors
    /// As [`Self::start`] and [`Self::open`].
    pub async fn at(url: &str) -> Result<Self> {
        let mut browser = Self::start(View::default()).await?;
        browser.open(url).await?;
        Ok(browser)
    }

    /// Opens a page and waits until it is read.
    ///
    /// # Errors
    /// When there is none.
    pub async fn open(&mut self, url: &str) -> Result<()> {
        self.run(json!({ "do": "open", "url": url })).await.map(drop)
    }

    /// Evaluates an expression in the page.
    ///
    /// # Errors
    /// When it throws, or its value is not of this type.
    pub async fn evaluate<T: DeserializeOwned>(&mut self, code: &str) -> Result<T> {
        let value = self.run(json!({ "do": "evaluate", "code": code })).await?;
        serde_json::from_value(value.clone()).with_context(|| format!("{code} is {value}"))
    }

    /// Presses a key, by its name in the DOM.
    ///
    /// # Errors
    /// When there is no such key.
    pub async fn press(&mut self, key: &str) -> Result<()> {
        self.run(json!({ "do": "press", "key": key })).await.map(drop)
    }

    /// Writes a text where the focus is, key by key.
    ///
    /// # Errors
    /// When the browser is gone.
    pub async fn write(&mut self, text: &str) -> Result<()> {
        self.run(json!({ "do": "write", "text": text })).await.map(drop)
    }

    /// Writes a picture of the page as PNG.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn screenshot(&mut self, path: &Path) -> Result<()> {
        self.run(json!({ "do": "screenshot", "path": path })).await.map(drop)
    }

    /// Returns what the page has asked for, and complained about.
    ///
    /// # Errors
    /// When the browser is gone.
    pub async fn seen(&mut self) -> Result<Seen> {
        Ok(serde_json::from_value(self.run(json!({ "do": "seen" })).await?)?)
    }

    /// Closes the browser and waits until it is gone.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn close(mut self) -> Result<ExitStatus> {
        self.commands.shutdown().await?;
        // the pipe closes with the handle
        let Self { mut driver, id, commands, .. } = self;
        drop(commands);
        let status = timeout(STOP, driver.wait()).await.context("the browser does not end")??;
        watchdog::forget(id)?;
        Ok(status)
    }

    async fn run(&mut self, command: Value) -> Result<Value> {
        let done = async {
            self.commands.write_all(format!("{command}\n").as_bytes()).await.context("the browser is gone")?;
            self.answer().await
        };
        let answer = timeout(COMMAND, done).await.with_context(|| format!("no answer to {command}"))??;
        match (answer.get("value"), answer.get("error")) {
            (Some(value), None) => Ok(value.clone()),
            (_, Some(error)) => bail!("{command}: {error}"),
            (None, None) => bail!("not an answer: {answer}"),
        }
    }

    async fn answer(&mut self) -> Result<Value> {
        let line = self.answers.next_line().await?.ok_or_else(|| anyhow!("the driver of the browser has ended"))?;
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }
}
