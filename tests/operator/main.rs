//! The operator, and what it relies on, against a real API server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends here, with the reason")]

mod chart;
mod chart_matrix;
mod compatibility;
mod crash;
mod definitions;
mod delivery;
mod idle;
mod leader;
mod ledger;
mod neighbour;
mod paused;
mod policy;
mod pool_addresses;
mod pool_keys;
mod pool_ready;
mod pools;
mod recordings;
mod release;
mod scale;
mod schema;
mod sessions;
mod stage;
mod upgrade;
