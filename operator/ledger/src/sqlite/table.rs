//! The tables: one a kind, one row an object, its JSON as a cluster would show it.

use std::{path::Path, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Serialize, de::DeserializeOwned};
use tallylight_crds::{Broadcast, BroadcastStatus, Recording, RecordingStatus};
use uuid::Uuid;

use super::{Change, closed, unavailable};
use crate::{Error, Key};

/// `PRAGMA user_version` of files that this version writes: 2 has recordings. What it finds older, it brings up to date.
const VERSION: i64 = 2;

/// A kind of object that has a table.
pub(super) trait Row: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    const TABLE: &'static str;
    fn metadata(&self) -> &ObjectMeta;
    fn metadata_mut(&mut self) -> &mut ObjectMeta;
    /// As a new object is: with the default status.
    fn idle(self) -> Self;
    fn with_status_of(self, other: Self) -> Self;
    fn applied(row: Arc<Self>) -> Change;
    fn deleted(row: &Self) -> Change;

    fn key(&self) -> Key {
        let metadata = self.metadata();
        Key {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl Row for Broadcast {
    const TABLE: &'static str = "broadcasts";

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }

    fn idle(self) -> Self {
        Self { status: Some(BroadcastStatus::default()), ..self }
    }

    fn with_status_of(self, other: Self) -> Self {
        Self { status: other.status, ..self }
    }

    fn applied(row: Arc<Self>) -> Change {
        Change::Applied(row)
    }

    fn deleted(row: &Self) -> Change {
        Change::Deleted { key: row.key(), uid: row.metadata.uid.clone().unwrap_or_default() }
    }
}

impl Row for Recording {
    const TABLE: &'static str = "recordings";

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }

    fn idle(self) -> Self {
        Self { status: Some(RecordingStatus::default()), ..self }
    }

    fn with_status_of(self, other: Self) -> Self {
        Self { status: other.status, ..self }
    }

    fn applied(row: Arc<Self>) -> Change {
        Change::Recorded(row)
    }

    fn deleted(row: &Self) -> Change {
        Change::RecordingDeleted(Arc::new(row.clone()))
    }
}

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
        for table in [Broadcast::TABLE, Recording::TABLE] {
            let columns = "namespace TEXT NOT NULL, name TEXT NOT NULL, object TEXT NOT NULL";
            let make = format!(
                "CREATE TABLE IF NOT EXISTS {table} ({columns}, PRIMARY KEY (namespace, name)) STRICT, WITHOUT ROWID"
            );
            connection.execute_batch(&make).map_err(unavailable)?;
        }
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

    pub(super) fn get<R: Row>(&self, key: &Key) -> Result<Option<R>, Error> {
        let query = format!("SELECT object FROM {} WHERE namespace = ?1 AND name = ?2", R::TABLE);
        let mut statement = self.connection.prepare_cached(&query).map_err(unavailable)?;
        let text: Option<String> =
            statement.query_row(params![key.namespace, key.name], |row| row.get(0)).optional().map_err(unavailable)?;
        text.map(|text| decode(&text)).transpose()
    }

    pub(super) fn list<R: Row>(&self) -> Result<Vec<R>, Error> {
        let query = format!("SELECT object FROM {} ORDER BY namespace, name", R::TABLE);
        let mut statement = self.connection.prepare_cached(&query).map_err(unavailable)?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(unavailable)?;
        rows.map(|text| decode(&text.map_err(unavailable)?)).collect()
    }

    pub(super) fn create<R: Row>(&self, row: R) -> Result<R, Error> {
        if self.get::<R>(&row.key())?.is_some() {
            return Err(Error::AlreadyExists);
        }
        let mut row = row.idle();
        let metadata = row.metadata_mut();
        metadata.uid = Some(Uuid::new_v4().to_string());
        metadata.creation_timestamp = Some(self.now());
        metadata.generation = Some(1);
        metadata.deletion_timestamp = None;
        metadata.resource_version = Some("0".into());
        self.update(row)
    }

    /// Writes a row, and gives it the next resource version.
    pub(super) fn update<R: Row>(&self, mut row: R) -> Result<R, Error> {
        let key = row.key();
        let metadata = row.metadata_mut();
        let version = metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
        metadata.resource_version = Some((version + 1).to_string());
        let text = serde_json::to_string(&row).map_err(unavailable)?;
        let query = format!("INSERT OR REPLACE INTO {} (namespace, name, object) VALUES (?1, ?2, ?3)", R::TABLE);
        let mut statement = self.connection.prepare_cached(&query).map_err(unavailable)?;
        statement.execute(params![key.namespace, key.name, text]).map_err(unavailable)?;
        Ok(row)
    }

    pub(super) fn remove<R: Row>(&self, key: &Key) -> Result<(), Error> {
        let query = format!("DELETE FROM {} WHERE namespace = ?1 AND name = ?2", R::TABLE);
        let mut statement = self.connection.prepare_cached(&query).map_err(unavailable)?;
        let removed = statement.execute(params![key.namespace, key.name]).map_err(unavailable)?;
        if removed == 0 { Err(closed()) } else { Ok(()) }
    }
}

fn decode<R: Row>(text: &str) -> Result<R, Error> {
    serde_json::from_str(text).map_err(unavailable)
}
