//! Keeps on disk the ends that the store has not taken yet: JSON lines, synced before [`EndsLog::append`] returns. It is
//! empty but for the time of an outage. It decides nothing: replaying an end twice has no further effect.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use ledger::{Key, Owner};
use serde::{Deserialize, Serialize};
use tallylight_crds::Reason;

/// A session's end, to be written by its owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct End {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) owner: Owner,
    pub(crate) reason: Reason,
    pub(crate) time: Timestamp,
    /// Until when the publisher is awaited: before that the session is not ended, but left to whoever has it next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    End(End),
    /// The store has this end.
    Settled {
        uid: String,
        ordinal: i64,
    },
}

/// The file. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct EndsLog(Arc<Mutex<Log>>);

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    /// Ends that are in the file and not settled.
    open: Vec<(String, i64)>,
}

impl EndsLog {
    /// Opens or makes `ends.log` in the folder, and reads the ends of an earlier life.
    ///
    /// # Errors
    /// When the file cannot be read or written. A line that is torn or unknown is left out with a warning.
    pub(crate) fn open(folder: &Path) -> io::Result<(Self, Vec<End>)> {
        let path = folder.join("ends.log");
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        if !text.is_empty() && !text.ends_with(b"\n") {
            // what a crash tore off must not swallow the next line
            file.write_all(b"\n")?;
        }
        let ends = unsettled(&String::from_utf8_lossy(&text), &path);
        let open = ends.iter().map(|end| (end.uid.clone(), end.owner.ordinal)).collect();
        Ok((Self(Arc::new(Mutex::new(Log { path, file, open }))), ends))
    }

    /// Adds an end; it is on disk when this returns.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) async fn append(&self, end: &End) -> io::Result<()> {
        let end = end.clone();
        self.blocking(move |log| log.append(end)).await
    }

    /// Notes that the store has an end. When the file has no other it is emptied.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) async fn settle(&self, end: &End) -> io::Result<()> {
        let (uid, ordinal) = (end.uid.clone(), end.owner.ordinal);
        self.blocking(move |log| log.settle(uid, ordinal)).await
    }

    async fn blocking(&self, work: impl FnOnce(&mut Log) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let log = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let path = log.path.clone();
            work(&mut log).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        });
        done.await.unwrap_or_else(|gone| Err(io::Error::other(gone)))
    }
}

impl Log {
    fn append(&mut self, end: End) -> io::Result<()> {
        self.open.push((end.uid.clone(), end.owner.ordinal));
        self.write(&Line::End(end))?;
        self.file.sync_data()
    }

    fn settle(&mut self, uid: String, ordinal: i64) -> io::Result<()> {
        self.open.retain(|open| *open != (uid.clone(), ordinal));
        if self.open.is_empty() {
            self.file.set_len(0)?;
            return self.file.rewind();
        }
        // not synced: replaying a settled end has no effect
        self.write(&Line::Settled { uid, ordinal })
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text)
    }
}

fn unsettled(text: &str, path: &Path) -> Vec<End> {
    let mut ends: Vec<End> = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(Line::End(end)) => ends.push(end),
            Ok(Line::Settled { uid, ordinal }) => ends.retain(|end| (&end.uid, end.owner.ordinal) != (&uid, ordinal)),
            Err(error) => {
                tracing::warn!(file = %path.display(), line = number + 1, %error, "line of the ends log left out")
            }
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(uid: &str, ordinal: i64) -> End {
        End {
            key: Key { namespace: "n".to_owned(), name: "b".to_owned() },
            uid: uid.to_owned(),
            owner: Owner { ordinal, epoch: 3 },
            reason: Reason::PublisherLost,
            time: "2026-01-02T03:04:05Z".parse().unwrap(),
            until: (uid == "a").then(|| "2026-01-02T03:05:05Z".parse().unwrap()),
        }
    }

    #[tokio::test]
    async fn ends_survive_a_restart_until_they_are_settled() {
        let folder = tempfile::tempdir().unwrap();
        let (log, ends) = EndsLog::open(folder.path()).unwrap();
        assert_eq!(ends, []);
        log.append(&end("a", 1)).await.unwrap();
        log.append(&end("b", 1)).await.unwrap();
        log.settle(&end("a", 1)).await.unwrap();

        let (log, ends) = EndsLog::open(folder.path()).unwrap();
        assert_eq!(ends, [end("b", 1)]);

        log.settle(&end("b", 1)).await.unwrap();
        assert_eq!(std::fs::read(folder.path().join("ends.log")).unwrap(), b"");
    }

    #[tokio::test]
    async fn a_torn_line_costs_itself_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ends.log");
        let whole = serde_json::to_string(&Line::End(end("a", 1))).unwrap();
        std::fs::write(&path, format!("{whole}\n{{\"end\":{{\"key\":")).unwrap();

        let (log, ends) = EndsLog::open(folder.path()).unwrap();
        assert_eq!(ends, [end("a", 1)]);
        log.append(&end("b", 1)).await.unwrap();

        let (_, ends) = EndsLog::open(folder.path()).unwrap();
        assert_eq!(ends, [end("a", 1), end("b", 1)]);
    }
}
