//! As much HTTP as load needs: a request a connection, and a server that answers every POST.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// Longer than any server here takes to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Posts a body to `http://host:port/path` and returns the answer's, when it is one of success.
pub(crate) fn post(url: &str, kind: &str, body: &str) -> Result<String> {
    send("POST", url, kind, body)
}

pub(crate) fn get(url: &str) -> Result<String> {
    send("GET", url, "text/plain", "")
}

fn send(method: &str, url: &str, kind: &str, body: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} does not begin with http://"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host).with_context(|| format!("failed to connect to {host}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    let head = format!(
        "{method} /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("no answer")?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer ends in its head")?;
    ensure!(head.starts_with("HTTP/1.1 2"), "{url} was answered {head}\n{body}");
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return chunks(body).context("a chunk is cut off");
    }
    Ok(body.to_owned())
}

fn chunks(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n")?;
        let length = usize::from_str_radix(length.split(';').next()?.trim(), 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.push_str(after.get(..length)?);
        rest = after.get(length..)?.strip_prefix("\r\n")?;
    }
}

/// Answers each POST on this thread with what `answer` makes of its body.
pub(crate) fn serve(listener: &TcpListener, answer: impl Fn(&str) -> Result<String>) -> Result<()> {
    for stream in listener.incoming() {
        let mut stream = stream?;
        let answered = request(&mut stream).and_then(|body| answer(&body));
        let (status, body) = match answered {
            Ok(body) => ("201 Created", body),
            Err(error) => ("500 Internal Server Error", format!("{error:#}")),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nLocation: /session\r\nContent-Type: application/sdp\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // a client that is gone is no reason to end
        let _gone = stream.write_all(&[head.as_bytes(), body.as_bytes()].concat());
    }
    bail!("the listener is closed")
}

fn request(stream: &mut TcpStream) -> Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let length = stream.read(&mut buffer)?;
        ensure!(length > 0, "the request is cut off");
        read.extend(buffer.iter().take(length));
        let text = String::from_utf8_lossy(&read);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let lower = head.to_ascii_lowercase();
        let expected = lower.lines().find_map(|line| line.strip_prefix("content-length:")).context("no length")?;
        if body.len() >= expected.trim().parse::<usize>()? {
            return Ok(body.to_owned());
        }
    }
}

/// Waits without a clock to look at.
pub(crate) fn rest(length: Duration) {
    thread::park_timeout(length);
}
