//! Chooses TCP ports for parts that cannot be told port 0, or must come back on the port that they had.
//!
//! They are taken from below the range from which the kernel gives ports to connections (32768 and up by default), so a
//! port stays free while its owner restarts. The UDP port of the same number is held for as long as this process lives, and
//! says so to every other that runs tests.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
};

use anyhow::{Result, bail};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Returns a loopback port that nobody listens on, and that this process was not given before.
///
/// # Errors
/// When every port of the range is taken.
pub fn free() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static HELD: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    // Processes that run side by side begin at different places.
    let begin = u16::try_from(std::process::id().wrapping_mul(61) % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let offset = (u32::from(begin) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(COUNT);
        let port = FIRST + u16::try_from(offset).unwrap_or(0);
        let address = (Ipv4Addr::LOCALHOST, port);
        let Ok(mark) = UdpSocket::bind(address) else { continue };
        if TcpListener::bind(address).is_ok() {
            HELD.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
            return Ok(port);
        }
    }
    bail!("no free port from {FIRST} to {}", FIRST + COUNT)
}
