//! The table: one row a Broadcast, its JSON as a cluster would show it.

use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rusqlite::{Connection, OptionalExtension, params};
use tallylight_crds::{Broadcast, BroadcastStatus};
use uuid::Uuid;

use super::{closed, unavailable};
use crate::{Error, Key};

/// `PRAGMA user_version` of files that this version writes.
const VERSION: i64 = 1;

pub(super) struct Table {
    connection: Connection,
}

impl Table {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let connection = Connection::open(path).map_err(unavailable)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(unavailable)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(unavailable)?;
        connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(unavailable)?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(unavailable)?;
        if found > VERSION {
            let message = format!("the database has version {found}, this program knows up to {VERSION}; upgrade it");
            return Err(Error::Invalid { message });
        }
        connection
            .execute_batch(
                "CREATE TABLE IF NOT EXISTS broadcasts (
                   namespace TEXT NOT NULL, name TEXT NOT NULL, object TEXT NOT NULL,
                   PRIMARY KEY (namespace, name)) STRICT, WITHOUT ROWID",
            )
            .map_err(unavailable)?;
        connection.pragma_update(None, "user_version", VERSION).map_err(unavailable)?;
        Ok(Self { connection })
    }

    pub(super) fn begin(&mut self) -> Result<(), rusqlite::Error> {
        self.connection.execute_batch("BEGIN IMMEDIATE")
    }

    pub(super) fn commit(&mut self) -> Result<(), rusqlite::Error> {
        let committed = self.connection.execute_batch("COMMIT");
        if committed.is_err() && !self.connection.is_autocommit() {
            // What failed to commit must not leak into the next batch; if this fails too, BEGIN will say so.
            let _rolled_back = self.connection.execute_batch("ROLLBACK");
        }
        committed
    }

    #[allow(clippy::disallowed_methods, reason = "the store stamps creation and deletion, as an API server does")]
    #[allow(clippy::unused_self, reason = "the table is the one that has a clock")]
    pub(super) fn now(&self) -> Time {
        Time(Timestamp::now())
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Broadcast>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT object FROM broadcasts WHERE namespace = ?1 AND name = ?2")
            .map_err(unavailable)?;
        let text: Option<String> =
            statement.query_row(params![key.namespace, key.name], |row| row.get(0)).optional().map_err(unavailable)?;
        text.map(|text| decode(&text)).transpose()
    }

    pub(super) fn list(&self) -> Result<Vec<Broadcast>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT object FROM broadcasts ORDER BY namespace, name")
            .map_err(unavailable)?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(unavailable)?;
        rows.map(|text| decode(&text.map_err(unavailable)?)).collect()
    }

    pub(super) fn create(&self, broadcast: &Broadcast) -> Result<Broadcast, Error> {
        let key = Key::of(broadcast);
        if self.get(&key)?.is_some() {
            return Err(Error::AlreadyExists);
        }
        let mut row = broadcast.clone();
        row.metadata.uid = Some(Uuid::new_v4().to_string());
        row.metadata.creation_timestamp = Some(self.now());
        row.metadata.generation = Some(1);
        row.metadata.deletion_timestamp = None;
        row.metadata.resource_version = Some("0".into());
        row.status = Some(BroadcastStatus::default());
        self.update(row)
    }

    /// Writes a row, and gives it the next resource version.
    pub(super) fn update(&self, mut row: Broadcast) -> Result<Broadcast, Error> {
        let version = row.metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
        row.metadata.resource_version = Some((version + 1).to_string());
        let key = Key::of(&row);
        let text = serde_json::to_string(&row).map_err(unavailable)?;
        let mut statement = self
            .connection
            .prepare_cached("INSERT OR REPLACE INTO broadcasts (namespace, name, object) VALUES (?1, ?2, ?3)")
            .map_err(unavailable)?;
        statement.execute(params![key.namespace, key.name, text]).map_err(unavailable)?;
        Ok(row)
    }

    pub(super) fn remove(&self, key: &Key) -> Result<(), Error> {
        let mut statement = self
            .connection
            .prepare_cached("DELETE FROM broadcasts WHERE namespace = ?1 AND name = ?2")
            .map_err(unavailable)?;
        let removed = statement.execute(params![key.namespace, key.name]).map_err(unavailable)?;
        if removed == 0 { Err(closed()) } else { Ok(()) }
    }
}

fn decode(text: &str) -> Result<Broadcast, Error> {
    serde_json::from_str(text).map_err(unavailable)
}
