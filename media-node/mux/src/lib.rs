//! Turns the packets of a broadcast into fragmented MP4, once for all who want it: a recorder writes the fragments to a
//! file, LL-HLS serves them from memory. No files, no sockets, no clock.
//!
//! A [`Muxer`] takes [`media_core::Packet`]s and gives [`Event`]s: an [`Init`] that says what the tracks are, then
//! [`Part`]s in segments. A part's [`Fragment`] is a header and the packets' own payloads, which nobody copies.
//! [`file::Writer`] makes of them a file that is playable at every instant, and [`playlist::Window`] what HLS lists.
//!
//! ```
//! # use std::io::{self, Write};
//! use mux::{Event, Muxer, Policy, file::Writer};
//!
//! /// Writes one file, up to where the tracks change.
//! fn record(packets: &[media_core::Packet], file: &mut impl Write) -> io::Result<Option<Writer>> {
//!     let (mut muxer, mut events, mut writer) = (Muxer::new(Policy::default()), Vec::new(), None);
//!     for packet in packets {
//!         muxer.push(packet, &mut events);
//!         for event in events.drain(..) {
//!             match (event, &mut writer) {
//!                 (Event::Init(init), None) => {
//!                     let (begun, head) = Writer::new(&init);
//!                     file.write_all(&head)?;
//!                     writer = Some(begun);
//!                 }
//!                 (Event::Init(_), Some(_)) => return Ok(writer),
//!                 (Event::Part(part), Some(writer)) => {
//!                     part.fragment.chunks().try_for_each(|chunk| file.write_all(chunk))?;
//!                     writer.append(&part.fragment);
//!                 }
//!                 (Event::Part(_) | Event::SegmentEnd(_) | Event::Discontinuity(_) | Event::Unsupported(_), _) => {}
//!             }
//!         }
//!     }
//!     Ok(writer)
//! }
//! ```
//!
//! Audio and video go into the same fragments, as in a file. So the output is fragmented MP4 with one playlist a
//! broadcast, and does not call itself CMAF, whose tracks are files of their own.

#![warn(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

pub mod codec;
pub mod file;
mod fragment;
mod init;
mod muxer;
pub mod playlist;
mod run;
mod sample;
mod timeline;

pub use fragment::Fragment;
pub use init::{Init, Track};
pub use muxer::{Discontinuity, Event, InvalidPolicy, Muxer, Part, Policy, Segment, Skipped};
