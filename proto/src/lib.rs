//! Messages, catalogue, reader and writer of checkpoint image files.
//!
//! - [`messages`]: the types generated from `messages/*.proto`, and their descriptors.
//! - [`catalogue`]: every type of image file: its name, magic, messages and extra bytes.
//! - [`container`]: typed [`Reader`] and [`Writer`] of image files, the interface of the engine.
//! - [`json`]: images as JSON for people and programs, and back.
//!
//! Images are untrusted: everything that reads them answers nonsense with an [`Error`], and allocates no more than the
//! bytes that are really there.

pub mod catalogue;
pub mod container;
mod error;
pub mod json;
pub mod messages;

pub use catalogue::ImageType;
pub use container::{Reader, Writer};
pub use error::Error;
